"""Helpers of all benchmark commands: flags and bounds, signals, printing, and the JSON file of figures."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.processes import ROOT
from common.atomic_files import replace_files
from common.flags import FlagError
from common.signals import CLEAN_UP_S, Interrupted, Interrupts

GIT_TIMEOUT_S = 10.0
_LIST_OF_NUMBERS = re.compile(r"\[\n[\s\d.,eE+-]+\]")


def run_command(main: Callable[[list[str]], int]) -> None:
    """Run `main` and exit with its code; a signal raises an exception, so that context managers clean up.

    A later signal within CLEAN_UP_S would cut off the clean-up and the figures that are printed in it.
    `timeout -s INT` sends two, a person may press Ctrl-C again.
    """
    interrupts = Interrupts(patience_s=CLEAN_UP_S)
    started_s = time.monotonic()
    try:
        exit_code = main(sys.argv[1:])
    except OutputNotWritten as error:
        say(f"\n{error}")
        exit_code = 1
    except Interrupted as interruption:
        say("\ninterrupted")
        sys.exit(interruption.exit_code)
    interrupts.hold()
    say(f"\n{time.monotonic() - started_s:.0f} s in total")
    sys.exit(exit_code)


def say(text: str) -> None:
    """Print a part of the result."""
    print(text, flush=True)  # noqa: T201 - prints the result


def parse_comparison(
    parser: argparse.ArgumentParser, argv: list[str], rounds: int, quick: dict[str, object]
) -> argparse.Namespace:
    """Parse a comparison's flags and the flags that all comparisons share: --rounds, --quick, --output.

    Args:
        parser: Parser that already has the flags of this comparison.
        argv: Command-line arguments.
        rounds: Default value of --rounds.
        quick: Default values that --quick sets instead.

    Raises:
        FlagError: Names flag, value and bound.
    """
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds, 1 or more")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for all figures")
    if "--quick" in argv:
        parser.set_defaults(**quick)
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise FlagError("--rounds", f"{args.rounds} is below 1")
    check_output(args.output)
    return args


def check_output(path: Path | None) -> None:
    """Check --output before the first measurement.

    A file that exists is refused: its figures would be lost, or taken for those of a command that failed.

    Raises:
        FlagError: The file exists, or its directory does not exist or cannot be written.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise FlagError("--output", f"{path.parent} is not a directory")
    if path.exists():
        raise FlagError("--output", f"{path} exists")
    if not os.access(path.parent, os.W_OK):
        raise FlagError("--output", f"{path.parent} cannot be written")


def new_directory(name: str, path: Path) -> Path:
    """Create a flag's directory, with its parents; an empty one is used as it is.

    Returns:
        The absolute path: processes of a benchmark run in another directory.

    Raises:
        FlagError: It has files, or cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_empty = not any(path.iterdir())
    except OSError as error:
        raise FlagError(name, f"{path}: {error.strerror}") from error
    if not is_empty:
        raise FlagError(name, f"{path} is not an empty directory")
    return path.absolute()


class OutputNotWritten(RuntimeError):
    """The --output file cannot be written; an earlier state of it is kept."""


def write_record(path: Path | None, record: dict[str, object]) -> None:
    """Write the figures to the --output file as JSON, with each list of numbers on one line.

    Raises:
        OutputNotWritten: For example, the disk is full.
    """
    if path is not None:
        text = json.dumps(record, indent=1)
        text = _LIST_OF_NUMBERS.sub(lambda found: " ".join(found.group().split()), text)
        try:
            replace_files(path.parent, {path.name: text + "\n"})
        except OSError as error:
            raise OutputNotWritten(f"--output: {path} is not written: {error.strerror}") from error


def describe_machine() -> dict[str, str]:
    """Describe the machine and print the description."""
    model = platform.processor()
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    names = ("grpcio", "aiohttp", "pyzmq", "msgspec", "numpy")
    packages = {"LoadGen": "mlcommons-loadgen"} | {name: name for name in names}
    machine = {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "load average": f"{os.getloadavg()[0]:.2f} before the start",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{shown: installed(package) for shown, package in packages.items()},
    }
    say("\n".join(f"{key:<14}{value}" for key, value in machine.items()))
    return machine


def installed(package: str) -> str:
    """Return the installed version of a package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_commit() -> str:
    """Return the commit of the checkout and whether the working tree has changes."""
    git = ["git", "-C", str(ROOT)]
    try:
        head, changes = (
            subprocess.run(
                [*git, *words], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return head + (" with changes" if changes else "")


INFINITY = float("inf")
MAX_WORKERS = 1000
"""Upper bound of the workers in one process: each has a port, a server and an engine."""


def check_at_least(plan: Any, **bounds: float) -> None:
    """Check that fields are finite and at or above their lower bounds.

    Raises:
        FlagError: Names flag, value and bound.
    """
    for name, bound in bounds.items():
        if not bound <= getattr(plan, name) < INFINITY:
            raise FlagError(flag(name), f"{getattr(plan, name)} is below {bound} or not finite")


def check_workers(name: str, *nums: int) -> None:
    """Check worker counts.

    Raises:
        FlagError: Names flag, value and bound.
    """
    for num in nums:
        if num < 1:
            raise FlagError(flag(name), f"{num} is below 1")
        if num > MAX_WORKERS:
            raise FlagError(flag(name), f"{num} is above {MAX_WORKERS}")


def check_above(plan: Any, *names: str) -> None:
    """Check that fields are above 0 and finite.

    Raises:
        FlagError: Names flag, value and bound.
    """
    for name in names:
        if not 0 < getattr(plan, name) < INFINITY:
            raise FlagError(flag(name), f"{getattr(plan, name)} is not above 0 and finite")


def check_ascending(plan: Any, name: str, highest: int) -> None:
    """Check the two bounds of the answer lengths.

    Raises:
        ValueError: They do not ascend within 2..`highest`; LoadGen rejects answers below 2 tokens.
    """
    first, last = getattr(plan, name)
    if not 2 <= first <= last <= highest:
        raise FlagError(
            flag(name), f"{first} {last} does not ascend from 2 to at most --max-new-tokens {highest}"
        )


def flag(name: str) -> str:
    """Return a field's name as a command-line flag."""
    return f"--{name.replace('_', '-')}"
