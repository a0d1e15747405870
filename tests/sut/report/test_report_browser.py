"""The page in headless Chromium: no error on its console, no request, and what its script shows."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sut.results.report.__main__ import main
from tests.sut.report import run_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Runs after the page's own script, which the policy must admit: points at the middle of each chart.
POINTING = """
<script>
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const box = figure.querySelector("svg").getBoundingClientRect();
  const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true};
  figure.dispatchEvent(new PointerEvent("pointermove", at));
}
document.getElementById("theme").click();
</script>
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]


def browse(page: Path, directory: Path, *flags: str) -> tuple[str, str]:
    """Load a page; returns its elements after its scripts have run, and the browser's log."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-component-update",
        f"--user-data-dir={directory}",
    ]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", *flags, "--dump-dom"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=240, check=True, cwd=directory
    )
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report."""
    run_dir = run_files.write_run(tmp_path_factory.mktemp("run"))
    assert 0 == main([str(run_dir)])
    return run_dir / "report.html"


def addresses(page: Path, directory: Path) -> tuple[set[str], str, str]:
    """Load a page; returns the addresses in the network log, the page's elements and the browser's log."""
    directory.mkdir()
    log = directory / "net.json"
    elements, said = browse(page, directory, f"--log-net-log={log}")
    return set(re.findall(r'"url":"([^"]+)"', log.read_text())), elements, said


def test_the_page_renders_without_errors_or_requests(page: Path, tmp_path: Path) -> None:
    """The console is empty; the network log has the address of the page, and those of the browser itself."""
    empty = tmp_path / "empty.html"
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    # The browser itself asks for the time, its dictionary and updates.
    own, _, _ = addresses(empty, tmp_path / "empty")
    found, elements, said = addresses(page, tmp_path / "report")
    assert "CONSOLE" not in said
    assert elements.count("<figure") == elements.count("<svg") > 10
    browsers = re.compile(r"https?://([a-z0-9.-]+\.)?(google\.com|googleapis\.com|gvt1\.com)/")
    assert set() == {name for name in found - own if not browsers.match(name)} - {page.as_uri()}


def test_the_script_shows_values_and_changes_the_theme(page: Path, tmp_path: Path) -> None:
    """Pointing at a chart shows the values of its series; the button changes the theme."""
    text = page.read_text(encoding="utf-8")
    # The added script is no part of the page, so the policy has to go.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    pointed = tmp_path / "pointed.html"
    pointed.write_text(text.replace("</body>", f"{POINTING}</body>"), encoding="utf-8")
    elements, said = browse(pointed, tmp_path)
    assert "CONSOLE" not in said
    assert 'data-theme="light"' in elements
    readouts = re.findall(r'<div class="readout"[^>]*>(.*?)</div></div>', elements, re.DOTALL)
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert len(charts) == len(readouts)
    # The coordinator's counter grows by 100 tokens a second.
    assert any("received: 100 tokens/s" in readout for readout in readouts)


def test_the_policy_stops_a_foreign_script(page: Path, tmp_path: Path) -> None:
    """A script and an image that somebody adds to the page do not run or load."""
    added = '<script>document.title = "changed"</script><img src="http://127.0.0.1:9/x.png"></body>'
    foreign = tmp_path / "foreign.html"
    foreign.write_text(page.read_text(encoding="utf-8").replace("</body>", added), encoding="utf-8")
    elements, said = browse(foreign, tmp_path)
    assert "<title>changed" not in elements
    assert 2 == said.count("violates the following Content Security Policy directive")
