"""`tokenfleet report`: what it refuses, what it replaces, and its plots."""

import json
import os
from pathlib import Path

import pytest

from sut.results.report.__main__ import main
from tests.sut.report import run_files


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """Write a run of run.json alone: its report has no charts to draw."""
    (tmp_path / "run.json").write_text(json.dumps(run_files.run_json()))
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line of a command that ends with 2."""
    assert 2 == main([*argv])
    shown = capsys.readouterr()
    assert "" == shown.out
    (line,) = shown.err.splitlines()
    return line


def test_a_foreign_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run.json, one of another program, or no JSON: one line, and nothing is written."""
    line = refusal(capsys, str(tmp_path))
    assert f"report: {tmp_path}: not the directory of a run: run.json: No such file or directory" == line
    for text, reason in (("{}", "was not written by a run"), ("[1]", "holds a list"), ("{", "is not JSON")):
        (tmp_path / "run.json").write_text(text)
        assert reason in refusal(capsys, str(tmp_path))
    assert ["run.json"] == [path.name for path in tmp_path.iterdir()]


def test_times_that_no_float_holds_are_not_drawn(small_run: Path) -> None:
    """A pause or a loss with such a time, in a run.json that was edited, does not keep the report away."""
    huge = 10**400
    pause = {"kind": "gc", "began_ns": huge, "duration_ns": huge}
    content = run_files.run_json() | {"origin_ns": huge, "pauses": [pause]}
    (small_run / "run.json").write_text(json.dumps(content))
    assert 0 == main([str(small_run)])


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict UNFINISHED gives one line, and nothing is written."""
    verdict = {"outcome": "UNFINISHED", "reason": "the coordinator has not ended this run"}
    (tmp_path / "run.json").write_text(json.dumps(run_files.run_json(verdict=verdict)))
    line = refusal(capsys, str(tmp_path))
    assert line.endswith("run.json: the run has not ended: its verdict is UNFINISHED")
    assert ["run.json"] == [path.name for path in tmp_path.iterdir()]


def test_an_existing_file_needs_overwrite(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page or a directory of plots that exists is replaced with --overwrite only."""
    (small_run / "report.html").write_text("mine")
    line = f"report: --output {small_run / 'report.html'}: exists; --overwrite replaces it"
    assert line == refusal(capsys, str(small_run))
    (small_run / "plots").mkdir()
    (small_run / "plots" / "mine").write_text("")
    page, plots = small_run / "other.html", small_run / "plots"
    line = refusal(capsys, str(small_run), f"--output={page}", f"--plots={plots}")
    assert f"report: --plots {plots}: is not empty; --overwrite replaces plots in it" == line
    assert "mine" == (small_run / "report.html").read_text()
    assert not page.exists()
    assert 0 == main([str(small_run), "--overwrite"])
    assert (small_run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_file_that_cannot_be_written_is_named(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page in a directory that does not exist: one line, exit code 2."""
    assert "absent" in refusal(capsys, str(small_run), f"--output={small_run / 'absent' / 'page.html'}")


def test_a_file_that_is_no_regular_file_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A FIFO does not stop the command, and a device of endless size does not fill the memory."""
    record = tmp_path / "run.json"
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        make(record)
        assert refusal(capsys, str(tmp_path)).endswith("run.json: is not a regular file")
        record.unlink()
    record.write_text(json.dumps(run_files.run_json()))
    os.mkfifo(tmp_path / "requests.parquet")
    (tmp_path / "timeline.parquet").symlink_to("/dev/zero")
    assert 0 == main([str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert "requests.parquet cannot be read: " in page
    assert "timeline.parquet cannot be read: " in page


def test_the_files_of_the_run_are_not_replaced(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--output with the name of run.json is refused, also with --overwrite."""
    record = small_run / "run.json"
    text = record.read_text()
    line = refusal(capsys, str(small_run), f"--output={record}", "--overwrite")
    assert f"report: --output {record}: must end with .html in the run's own directory" == line
    assert text == record.read_text()


def test_an_integer_that_no_float_holds_is_not_known(tmp_path: Path) -> None:
    """run.json may hold any integer; one beyond the floats is shown as a missing value."""
    record = run_files.run_json(wall_s=10**400)
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert 0 == main([str(tmp_path)])
    assert "0" * 50 not in (tmp_path / "report.html").read_text()


def test_a_link_under_the_name_of_the_partial_file_is_not_followed(small_run: Path) -> None:
    """The file that the link names stays as it was; a FIFO there does not stop the command."""
    other, partial = small_run / "other", small_run / "report.html.partial"
    other.write_text("mine")
    for make in (lambda path: os.symlink(other, path), os.mkfifo):
        make(partial)
        assert 0 == main([str(small_run), "--overwrite"])
        assert not partial.exists()
    assert "mine" == other.read_text()


def test_plots_are_written_as_svg_and_png(tmp_path: Path) -> None:
    """--plots writes each chart of a run as SVG and as PNG."""
    run_files.write_run(tmp_path)
    (tmp_path / "timeline.parquet").unlink()
    assert 0 == main([str(tmp_path), f"--plots={tmp_path / 'plots'}"])
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    charts = ("ttft", "tpot", "latency", "answer_tokens", "prompt_tokens", "token_rate", "request_rate")
    charts += ("ttft_over_time", "unfinished", "ttft_parts", "busy_workers", "events")
    assert {f"{chart}.{kind}" for chart in charts for kind in ("svg", "png")} == names
    assert (tmp_path / "plots" / "ttft.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plots" / "ttft.svg").read_text()


def test_a_page_that_cannot_be_written_keeps_the_plots_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files are written or none; the line names the directory that is missing."""
    run_files.write_run(tmp_path / "run")
    plots, page = tmp_path / "plots", tmp_path / "none" / "page.html"
    line = refusal(capsys, str(tmp_path / "run"), f"--plots={plots}", f"--output={page}")
    assert f"report: [Errno 2] No such file or directory: '{page.parent}'" == line
    assert [] == [*plots.iterdir()]
