"""The `tokenfleet` command: which programs it starts, what each of them imports, and how it names them."""

import sys
from pathlib import Path

import pytest

from tests import fleet
from tests.forked import completed_command, end_of
from tokenfleet.cli import SUBCOMMANDS, main

NAMES = (
    "worker, run, doctor, probe, checkpoint-hash, local, "
    "accuracy, compliance, submission, campaign, qualify, report, spans, find-qps, plan, "
    "network-sut, synthetic"
)


def run(*argv: str, cwd: Path = fleet.ROOT) -> tuple[int, str, str]:
    """Run `python -m tokenfleet` to its end; returns exit code, stdout and stderr."""
    done = completed_command([sys.executable, "-m", "tokenfleet", *argv], cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["worcer"], "'worcer' is not a subcommand"),
        (["--port", "5"], "'--port' is not a subcommand"),
        ([], "the subcommand is missing"),
    ],
)
def test_an_unknown_subcommand_is_one_line(tmp_path: Path, argv: list[str], line: str) -> None:
    """What is no subcommand: exit code 2 and one line that lists the subcommands."""
    expected = f"tokenfleet: {line}; subcommands: {NAMES} (see tokenfleet --help)\n"
    assert (2, "", expected) == end_of(main, argv, tmp_path)


def test_help_and_version(tmp_path: Path) -> None:
    """--help lists every subcommand, --version prints the version; both end with 0."""
    code, output, errors = end_of(main, ["--help"], tmp_path)
    assert (0, "") == (code, errors)
    assert list(SUBCOMMANDS) == [line.split()[0] for line in output.splitlines()[2:-3]]
    code, output, errors = end_of(main, ["--version"], tmp_path)
    assert (0, "tokenfleet", "") == (code, output.split()[0], errors)


@pytest.mark.parametrize(
    ("argv", "usage"),
    [
        (["worker", "--help"], "usage: tokenfleet worker ["),
        (["run", "--help"], "usage: tokenfleet run ["),
        (["doctor", "--help"], "usage: tokenfleet doctor ["),
        (["local", "--help"], "usage: tokenfleet local ["),
        (["synthetic", "--help"], "usage: tokenfleet synthetic ["),
        (["checkpoint-hash", "--help"], "usage: tokenfleet checkpoint-hash ["),
        (["synthetic", "dataset", "--help"], "usage: tokenfleet synthetic dataset ["),
        (["probe", "--help"], "usage: tokenfleet probe [HOST:PORT] [SERVICE | --info | --load | --host]\n"),
    ],
)
def test_usage_names_the_subcommand(tmp_path: Path, argv: list[str], usage: str) -> None:
    """The usage line of a program that was started by `tokenfleet` is the command that starts it."""
    code, output, errors = end_of(main, argv, tmp_path)
    assert (0, "") == (code, errors)
    assert output.startswith(usage), output


@pytest.mark.parametrize(
    ("module", "usage"),
    [
        ("worker", "usage: python -m worker ["),
        ("coordinator", "usage: python -m coordinator ["),
        ("sut.synthetic", "usage: python -m sut.synthetic ["),
        ("worker.checkpoint_hash", "usage: python -m worker.checkpoint_hash ["),
    ],
)
def test_usage_names_the_module(module: str, usage: str) -> None:
    """The usage line of a program that was started as a module says so."""
    command = [sys.executable, "-m", module, "--help"]
    done = completed_command(command)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(usage), done.stdout


# Registers what an interpreter shutdown would run.
WITH_EXIT_FUNCTION = """
import atexit, sys
from tokenfleet.cli import main
atexit.register(print, "shutdown", flush=True)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["worker", "--print-config", "--engine", "counting"], 0),
        (["worker", "--engine", "counting", "--port", "0"], 2),
        (["run", "--port", "0"], 2),
        (["doctor", "--port", "0"], 2),
        (["probe", "127.0.0.1:1", "--timeout-s", "0"], 2),
        (["qualify", "--workers", "127.0.0.1:1", "--num-graded", "0"], 2),
        (["find-qps", "--port", "0"], 2),
        (["campaign", "/none"], 2),
        (["network-sut", "--workers", "127.0.0.1:1", "--port", "0"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_a_program_with_threads_of_libraries_ends_without_shutdown(argv: list[str], code: int) -> None:
    """Threads of gRPC and LoadGen can abort the process in it, and libraries of vLLM print reports."""
    done = completed_command([sys.executable, "-c", WITH_EXIT_FUNCTION, *argv])
    assert code == done.returncode, done.stderr
    assert "shutdown" not in done.stdout


# Prints the rooms of the product, and the packages of one side only, that a subcommand has imported.
IMPORTED = """
import sys
from tokenfleet.cli import SUBCOMMANDS
packages = ("worker", "coordinator", "sut", "protos", "mlperf_loadgen", "vllm", "torch", "pandas")
try:
    SUBCOMMANDS[sys.argv[1]].run(sys.argv[2:])
finally:
    print(*[name for name in packages if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("worker", ["worker", "protos"]),
        ("run", ["coordinator", "sut", "protos", "mlperf_loadgen"]),
        ("probe", ["worker", "protos"]),
        ("checkpoint-hash", ["worker", "protos"]),
        ("synthetic", ["sut", "pandas"]),
    ],
)
def test_a_subcommand_imports_its_own_program_only(name: str, imported: list[str]) -> None:
    """A worker node needs no LoadGen, and a coordinator no vLLM and nothing of the worker."""
    done = completed_command([sys.executable, "-c", IMPORTED, name, "--help"])
    assert imported == done.stderr.split()
