"""Standard streams that the caller has closed (`>&-`) are replaced by the null device."""

import os
import sys

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
_LAST_DESCRIPTOR = 2


def open_standard_streams() -> None:
    """Open closed standard streams on the null device; call this before other files are opened.

    The next file or socket would otherwise get a standard descriptor, and a library that writes to
    descriptor 2 would write into it. Python sets a stream that is closed at its start to None.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_DESCRIPTOR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in _MODES.items():
        if getattr(sys, name) is None:
            # Open for the whole process.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
