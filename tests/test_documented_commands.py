"""Every command of README and docs/ is one that exists, with flags that exist."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "docker" / "README.md"])
# vLLM's flags that the pages use; a worker's --help does not list them.
VLLM_FLAGS = {
    *("--distributed-executor-backend", "--max-num-seqs", "--pipeline-parallel-size"),
    *("--tensor-parallel-size", "--moe-backend", "--dtype", "--enforce-eager", "--max-model-len"),
}
# Each program: how a test starts it from the checkout.
PROGRAMS = {
    "worker": ("-m", "worker"),
    "run": ("-m", "coordinator"),
    "doctor": ("-m", "coordinator", "doctor"),
    "local": ("run_mlperf.py",),
    "probe": ("-m", "worker.probe"),
    "network-sut": ("-m", "tokenfleet", "network-sut"),
    "qualify": ("-m", "tokenfleet", "qualify"),
    "qualify reference": ("-m", "tokenfleet", "qualify", "reference"),
    "checkpoint-hash": ("-m", "worker.checkpoint_hash"),
    "accuracy": ("-m", "sut.results.accuracy"),
    "campaign": ("-m", "tokenfleet", "campaign"),
    "compliance": ("-m", "sut.results.compliance"),
    "submission": ("-m", "tokenfleet", "submission"),
    "synthetic dataset": ("-m", "sut.synthetic", "dataset"),
    "convert": ("-m", "sut.results.code_grading.convert"),
    "synthetic answers": ("-m", "sut.synthetic", "answers"),
    "synthetic benchmark": ("-m", "sut.synthetic", "benchmark"),
    "synthetic checkpoint": ("-m", "sut.synthetic", "checkpoint"),
}
# These pass flags on to vLLM.
WITH_VLLM_FLAGS = ("worker", "local", "qualify reference")
# How a command line begins, and the program that it starts.
STARTS = {f"tokenfleet {name}": name for name in PROGRAMS} | {
    f"python {' '.join(start)}": name for name, start in PROGRAMS.items()
}


def commands() -> Iterator[tuple[str, str]]:
    """List the lines of the pages' code blocks that start a program of this project, with their page."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"^(ExecStart=)?[\w./]*bin/", "", line.split("#")[0].strip())
                if command.startswith(("tokenfleet ", *STARTS)):
                    yield str(page.relative_to(ROOT)), " ".join(command.split())


def program_of(command: str) -> str:
    """Give the program that a command line starts."""
    start = max((start for start in STARTS if command.startswith(start)), key=len, default=None)
    assert start is not None, f"no program of this project: {command}"
    return STARTS[start]


@pytest.fixture(scope="module")
def help_flags() -> dict[str, set[str]]:
    """The flags that each program's --help lists."""
    names = sorted({program_of(command) for _, command in commands()})
    running = {
        name: subprocess.Popen(
            [sys.executable, *PROGRAMS[name], "--help"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    }
    texts = {name: child.communicate(timeout=60)[0] for name, child in running.items()}
    assert dict.fromkeys(names, 0) == {name: child.returncode for name, child in running.items()}, texts
    return {name: set(re.findall(r"--[a-z][\w-]*", text)) for name, text in texts.items()}


def test_a_documented_command_has_only_flags_that_exist(help_flags: dict[str, set[str]]) -> None:
    """Each command of a page starts a program of this project with flags of its --help, or of vLLM."""
    bad = []
    for page, command in commands():
        name = program_of(command)
        known = help_flags[name] | (VLLM_FLAGS if name in WITH_VLLM_FLAGS else set())
        flags = {word.partition("=")[0] for word in shlex.split(command) if word.startswith("--")}
        bad += [f"{page}: {command}: {flag}" for flag in sorted(flags - known)]
    assert [] == bad
