"""Lists of CPU cores in the notation of `taskset -c`."""

from collections.abc import Iterable

from common.flags import FlagError

Cores = tuple[int, ...]


def format_cores(cores: Iterable[int]) -> str:
    """Format cores as taskset -c accepts them: 0, 1, 2, 5 are "0-2,5"."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def parse_cores(text: str) -> Cores:
    """Parse a list of cores; the result is ascending.

    Raises:
        FlagError: The text is not a list of cores.
    """
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise FlagError("--cores", f"{text!r} is not a list of cores like 0-3,8")
        cores.update(range(int(first), int(last) + 1))
    return tuple(sorted(cores))
