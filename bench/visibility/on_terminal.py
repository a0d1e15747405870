"""`python -m bench.visibility.on_terminal LOG FLAGS`: `python -m coordinator FLAGS` on a terminal.

Standard error is a pseudo-terminal of 120 columns and 40 lines, which a forked process reads into LOG: the
coordinator's process pays for drawing and not for reading. Exit code: the coordinator's.
"""

import fcntl
import importlib
import os
import struct
import sys
import termios

from bench.flag_help import prints_usage

LINES, COLUMNS = 40, 120


def main(argv: list[str]) -> int:
    """Run the coordinator."""
    if prints_usage(argv, __doc__):
        return 0
    reading, writing = os.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    if os.fork() == 0:
        os.close(writing)
        _copy(reading, argv[0])
    os.close(reading)
    os.dup2(writing, sys.stderr.fileno())
    os.environ["TERM"] = "xterm-256color"
    coordinator = importlib.import_module("coordinator.__main__")
    exit_code: int = coordinator.main(argv[1:])
    return exit_code


def _copy(reading: int, path: str) -> None:
    """Copy what is drawn to a file until the coordinator ends, and exit."""
    with open(path, "wb") as log:
        try:
            while drawn := os.read(reading, 1 << 16):
                log.write(drawn)
        except OSError:
            # The last process has closed the terminal.
            log.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
