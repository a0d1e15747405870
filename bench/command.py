"""What the benchmarks' commands do alike: flags that they share, signals, words and the file of figures."""

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench.processes import SIGNALS


def run_command(main: Callable[[list[str]], int]) -> None:
    """Run a command to its end and leave with its exit code; a signal leaves through its open blocks."""
    for signum in SIGNALS:
        signal.signal(signum, _interrupt)
    started_s = time.monotonic()
    exit_code = main(sys.argv[1:])
    say(f"\n{time.monotonic() - started_s:.0f} s in all")
    sys.exit(exit_code)


def say(text: str) -> None:
    """Print a part of the result."""
    print(text, flush=True)  # noqa: T201 - the result


def check_output(path: Path | None) -> None:
    """Check --output before anything is measured.

    Raises:
        ValueError: Its directory does not exist.
    """
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--output: {path.parent} is no directory")


def write_record(path: Path | None, record: dict[str, object]) -> None:
    """Write the figures where --output asks for them."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def describe_machine() -> dict[str, str]:
    """Say what the figures are taken on, and print it."""
    model = platform.processor()
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    packages = {"grpcio": "grpcio", "aiohttp": "aiohttp", "LoadGen": "mlcommons-loadgen", "numpy": "numpy"}
    machine = {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "load average": f"{os.getloadavg()[0]:.2f} before the start",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{shown: version(package) for shown, package in packages.items()},
    }
    say("\n".join(f"{key:<14}{value}" for key, value in machine.items()))
    return machine


def _interrupt(signum: int, _: object) -> None:
    """Leave through the block that kills what was started."""
    sys.exit(128 + signum)
