"""Time of this process's cores that the host of a virtual machine gave to others."""

import os
import time
from pathlib import Path

_STEAL = 8
"""Field of a line of /proc/stat, in ticks: proc_stat(5)."""


class StolenTime:
    """Measures from its creation on."""

    def __init__(self) -> None:
        """Begin, on the cores that this process may use."""
        self._names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self._began_s = time.monotonic()
        self._before_ticks = self._ticks()

    def share(self) -> float:
        """Return the stolen share of the cores' time, 0 to 1."""
        stolen_s = (self._ticks() - self._before_ticks) / os.sysconf("SC_CLK_TCK")
        return stolen_s / len(self._names) / (time.monotonic() - self._began_s)

    def _ticks(self) -> int:
        lines = (line.split() for line in Path("/proc/stat").read_text("ascii").splitlines())
        return sum(int(fields[_STEAL]) for fields in lines if fields[0] in self._names)
