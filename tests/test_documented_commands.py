"""Every command of a page is one that exists, with flags that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import completed, main_of_command
from tests.help_programs import programs
from tests.sources import ROOMS, tracked

ROOT = Path(__file__).resolve().parent.parent
# Files of results have the commands of their day.
PAGES = sorted(path for path in tracked(".md") if path.parent.parent.name != "results")
PAGES.remove(ROOT / "bench" / "results" / "README.md")
# vLLM's flags that the pages use; a worker's --help does not list them.
VLLM_FLAGS = {
    *("--distributed-executor-backend", "--max-num-seqs", "--pipeline-parallel-size"),
    *("--tensor-parallel-size", "--moe-backend", "--dtype", "--enforce-eager", "--max-model-len"),
    *("--nnodes", "--node-rank", "--master-addr"),
}
# Each program: how a test starts it from the checkout.
PROGRAMS = {
    "worker": ("-m", "worker"),
    "run": ("-m", "coordinator"),
    "doctor": ("-m", "coordinator", "doctor"),
    "local": ("run_mlperf.py",),
    "probe": ("-m", "worker.probe"),
    "find-qps": ("-m", "tokenfleet", "find-qps"),
    "network-sut": ("-m", "tokenfleet", "network-sut"),
    "qualify": ("-m", "tokenfleet", "qualify"),
    "qualify reference": ("-m", "tokenfleet", "qualify", "reference"),
    "checkpoint-hash": ("-m", "worker.checkpoint_hash"),
    "accuracy": ("-m", "sut.results.accuracy"),
    "campaign": ("-m", "tokenfleet", "campaign"),
    "compliance": ("-m", "sut.results.compliance"),
    "plan": ("-m", "tokenfleet", "plan"),
    "report compare": ("-m", "tokenfleet", "report", "compare"),
    "report": ("-m", "sut.results.report"),
    "spans": ("-m", "tokenfleet", "spans"),
    "submission": ("-m", "tokenfleet", "submission"),
    "synthetic dataset": ("-m", "sut.synthetic", "dataset"),
    "convert": ("-m", "sut.results.code_grading.convert"),
    "synthetic answers": ("-m", "sut.synthetic", "answers"),
    "synthetic benchmark": ("-m", "sut.synthetic", "benchmark"),
    "synthetic checkpoint": ("-m", "sut.synthetic", "checkpoint"),
} | {" ".join(words[1:]): words for words in programs() if words[1:] and words[1].startswith("bench.")}
# These take arguments that are no flags.
WITH_ARGUMENTS = (
    *("campaign", "compliance", "convert", "probe", "report", "report compare", "spans"),
    *("bench.visibility.pooled", "bench.gpu.draft_model"),
)
# These take the flags of other programs, too.
TAKING_FLAGS_OF = {"bench.fleet pair": "bench.fleet server", "bench.fleet.simulated": "worker"}
# These pass flags on to vLLM.
WITH_VLLM_FLAGS = ("worker", "local", "qualify reference")
# How a command line begins, and the program that it starts.
STARTS = {f"tokenfleet {name}": name for name in PROGRAMS} | {
    f"python {' '.join(start)}": name for name, start in PROGRAMS.items()
}


def commands() -> Iterator[tuple[str, str]]:
    """List the commands of the pages that start a program of this project, with their page."""
    for page in PAGES:
        for line in command_lines(page.read_text(encoding="utf-8")):
            command = re.sub(r"^(ExecStart=)?[\w./]*bin/", "", line.split("#")[0].strip())
            if command.startswith(("tokenfleet ", *STARTS)):
                yield str(page.relative_to(ROOT)), " ".join(command.split())


def command_lines(page: str) -> Iterator[str]:
    """List the lines of a page's code blocks, and its inline code of a subcommand or a command."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
    for block in fence.findall(page):
        yield from block.replace("\\\n", " ").splitlines()
    for code in re.findall(r"`([^`]+)`", fence.sub("", page)):
        words = code.split()
        # A name such as `tokenfleet synthetic` stands for all of its programs.
        if " ".join(words).startswith(tuple(STARTS)):
            yield " ".join(words)


def program_of(command: str) -> str:
    """Give the program that a command line starts."""
    start = max((start for start in STARTS if command.startswith(start)), key=len, default=None)
    assert start is not None, f"no program of this project: {command}"
    return STARTS[start]


@pytest.fixture(scope="module")
def help_texts() -> dict[str, str]:
    """What each program's --help prints."""
    names = sorted({program_of(command) for _, command in commands()})
    ended = {name: completed(main_of_command(PROGRAMS[name]), ["--help"]) for name in names}
    texts = {name: done.stdout for name, done in ended.items()}
    assert dict.fromkeys(names, (0, "")) == {
        name: (done.returncode, done.stderr) for name, done in ended.items()
    }
    return texts


def test_a_documented_command_has_only_flags_that_exist(help_texts: dict[str, str]) -> None:
    """Each command of a page starts a program of this project with flags of its --help, or of vLLM."""
    bad = []
    for page, command in commands():
        name = program_of(command)
        known = set(re.findall(r"--[a-z][\w-]*", help_texts[name]))
        known |= set(re.findall(r"--[a-z][\w-]*", help_texts.get(TAKING_FLAGS_OF.get(name, ""), "")))
        known |= VLLM_FLAGS if name in WITH_VLLM_FLAGS else set()
        # A benchmark passes what follows a bare "--" on to vLLM.
        own = command.partition(" -- ")[0]
        flags = {word.partition("=")[0] for word in shlex.split(own) if word.startswith("--")}
        bad += [f"{page}: {command}: {flag}" for flag in sorted(flags - known)]
    assert [] == bad


def test_a_documented_command_has_no_argument_that_its_program_does_not_take() -> None:
    """A word directly behind the program is a flag, except where the program takes arguments."""
    bad = []
    for page, command in commands():
        start = max((start for start in STARTS if command.startswith(start)), key=len)
        rest = command.removeprefix(start).lstrip()
        if rest and not rest.startswith(("-", ">")) and STARTS[start] not in WITH_ARGUMENTS:
            bad.append(f"{page}: {command}")
    assert [] == bad


def test_the_usage_line_begins_with_the_command(help_texts: dict[str, str]) -> None:
    """The text of --help names the command by which it was asked for."""
    asked = {name: text for name, text in help_texts.items() if "tokenfleet" in PROGRAMS[name]}
    assert [] == [name for name, text in asked.items() if not text.startswith(f"usage: tokenfleet {name} ")]


def test_each_program_says_what_it_does(help_texts: dict[str, str]) -> None:
    """A sentence precedes the list of flags of --help."""
    assert [] == [name for name, text in help_texts.items() if text.split("\n\n")[1].startswith("options:")]


def test_each_flag_of_a_program_has_a_help_text(help_texts: dict[str, str]) -> None:
    """A flag of --help is followed by what it means, in its line or in the next one."""
    bad = []
    for name, text in help_texts.items():
        options = re.findall(r"^  (-[^\n]*)\n( *\S[^\n]*)?", text.partition("\noptions:")[2], re.M)
        bad += [
            f"{name}: {option}"
            for option, following in options
            if not re.search(r" {2,}\S", option) and not following.startswith(" " * 10)
        ]
    assert [] == bad


@pytest.mark.parametrize(
    ("name", "page"),
    [("report compare", "compare.md"), ("plan", "plan.md"), ("submission", "submission.md")],
)
def test_a_table_of_all_flags_of_a_program_is_whole(name: str, page: str) -> None:
    """A page with the flags of one program in a table has each flag of its --help."""
    shown = completed(main_of_command(PROGRAMS[name]), ["--help"]).stdout.partition("\noptions:")[2]
    known = set(re.findall(r"^  (--[a-z][\w-]*)", shown, re.MULTILINE))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = text.partition("| flag | meaning |\n")[2].partition("\n\n")[0].splitlines()
    assert known == {flag for row in rows for flag in re.findall(r"`(--[a-z][\w-]*)", row.split("|")[1])}


def test_pip_installs_no_foreign_package_of_our_name() -> None:
    """The package is on no registry: pages and messages install the checkout, never a package tokenfleet."""
    texts = [*PAGES, *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    named = re.compile(r"pip install (?:-\S+ )*['\"]?tokenfleet\b")
    assert [] == [str(path) for path in texts if named.search(path.read_text(encoding="utf-8"))]
