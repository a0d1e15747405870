"""docs/architecture.md lists every module of the product, and every path that a page names exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import tracked

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = ("protos", "common", "sut", "coordinator", "worker", "tokenfleet")
PAGES = sorted(tracked(".md"))
FOLDER = re.compile(r"### `(?:\./|([\w/]+/))`$")
ENTRY = re.compile(r"\| `(\w+\.\w+)` \| (.*) \|$")
# `sut/loadgen.py`, `worker/engines/vllm/`: a room, then folders and a file.
NAMED = re.compile(rf"`((?:{'|'.join(ROOMS)}|bench|tests|docs|deploy|docker)/[\w./-]*)`")
# A file of raw figures, as `2026-11-26-h200/whole.txt`.
RESULT = re.compile(r"`(\d{4}-\d\d-\d\d[\w-]*/[\w.-]+)`")


def listed() -> Iterator[tuple[str, str]]:
    """Read the page's tables: the path of each module and its sentence."""
    folder = None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            found = FOLDER.match(line)
            folder = (found[1] or "") if found else None
        elif folder is not None and (entry := ENTRY.match(line)):
            yield folder + entry[1], entry[2]


def test_the_architecture_page_lists_every_module_of_the_product() -> None:
    """A new module without a sentence fails, and so does an entry whose module is gone or stands twice."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".proto")]
    modules = {str(path.relative_to(ROOT)) for path in files if "_pb2" not in path.name}
    expected = {path for path in modules if not path.endswith("__init__.py")} | {"run_mlperf.py"}
    assert sorted(expected) == sorted(path for path, _ in listed())


def test_a_module_is_described_in_one_sentence() -> None:
    """Each entry begins with a capital letter, ends with a full stop, and has no other sentence."""
    bad = {
        path for path, sentence in listed() if not re.fullmatch(r"[A-Z].*\.", sentence) or ". " in sentence
    }
    assert set() == bad


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    """README, CONTRIBUTING and docs/ name no file or folder that the repository does not have."""
    text = page.read_text(encoding="utf-8")
    named = NAMED.findall(text) + [f"bench/results/{file}" for file in RESULT.findall(text)]
    assert [] == [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    """Each relative link of a page has its file and, where it names a heading, that heading."""
    bad = []
    for target, _, anchor in (
        link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    ):
        if "://" in target:
            continue
        file = page if not target else page.parent / target
        if not file.exists() or (anchor and anchor not in headings(file)):
            bad.append(f"{target}#{anchor}")
    assert [] == bad


def headings(file: Path) -> set[str]:
    """List the anchors of a page as GitHub makes them of its headings."""
    # A comment in a block of code is no heading.
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, int] = {}
    for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        # A link in a heading counts with its text alone.
        shown = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", line)
        anchor = re.sub(r"[^\w -]", "", shown).lower().replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {
        anchor + f"-{number}" * bool(number) for anchor, last in found.items() for number in range(last + 1)
    }
