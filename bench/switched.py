"""`python -m bench.switched GUARDS WINDOW_S FILE FLAGS`: the coordinator, its guards switched on and off.

Runs `python -m coordinator FLAGS` and meanwhile, window by window, switches the GUARDS (names with commas,
`all` or `none`) off and on again. FILE gets what each window cost: a JSON list of windows.Window. For
measuring, never for a result. Exit code 1 names a guard that has moved, 2 bad input; else the coordinator's.
"""

import importlib
import json
import random
import sys
import threading
import time
from pathlib import Path

from bench.unguarded import GUARDS, Function, GuardGone, Patch, find, guards_of
from bench.windows import Window
from protos import worker_pb2 as pb
from protos.columns import TokenColumns

FRAMES_COME_IN = "coordinator.transport.stream:unpack_tokens"


class Switch:
    """Which way each guarded function goes, for all threads at once.

    Both ways take the same detour, decided at each call: the product keeps bound methods (a timer's, a
    callback's), which a name that is replaced later would not reach.
    """

    def __init__(self, names: list[str]) -> None:
        """Put the detour into every guard; those that are not named go on as they are on both ways.

        Raises:
            GuardGone: See `find`.
        """
        self.guarded = True
        for guard_name, guard in GUARDS.items():
            for patch in guard.patches:
                owner, name, original = find(patch)
                other = patch.replacement if guard_name in names else original
                setattr(owner, name, self._either(original, other))

    def _either(self, original: Function, other: Function) -> Function:
        def call(*args: object) -> object:
            return original(*args) if self.guarded else other(*args)

        return call


class Tally:
    """Counts the frames of tokens that come in, with the guards on and off alike."""

    def __init__(self) -> None:
        """Begin to count.

        Raises:
            GuardGone: See `find`.
        """
        self.num_frames = 0
        self.num_tokens = 0
        owner, name, self._unpack = find(Patch(FRAMES_COME_IN, _unpack_tokens))
        setattr(owner, name, self._count)

    def _count(self, frame: pb.Tokens, sequence: int) -> TokenColumns:
        columns: TokenColumns = self._unpack(frame, sequence)
        self.num_frames += 1
        self.num_tokens += len(columns.tokens)
        return columns


def _unpack_tokens(frame: object, sequence: int) -> None:
    """Stand for how the function is called."""


class Switcher:
    """A thread that throws the switch and notes what each window cost."""

    def __init__(self, switch: Switch, tally: Tally, window_s: float, seed: str) -> None:
        """Prepare.

        Args:
            switch: Thrown once a window.
            tally: Read once a window.
            window_s: Length of a window.
            seed: Draws which window of a pair comes first: no period of the product then favours a side.
        """
        self.windows: list[Window] = []
        """Those that are over."""
        self._switch, self._tally, self._window_s = switch, tally, window_s
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, in the middle of a window, with the guards on; bounded by what a reading takes."""
        self._stopping.set()
        self._thread.join()
        self._switch.guarded = True

    def _run(self) -> None:
        before = self._read()
        while True:
            for guarded in self._random.sample((True, False), 2):
                self._switch.guarded = guarded
                if self._stopping.wait(self._window_s):
                    return
                after = self._read()
                cpu_ns, frames, tokens, wall_ns = (b - a for a, b in zip(before, after, strict=True))
                self.windows.append(Window(int(guarded), cpu_ns, frames, tokens, wall_ns))
                before = after

    def _read(self) -> tuple[int, int, int, int]:
        tally = self._tally
        return time.process_time_ns(), tally.num_frames, tally.num_tokens, time.monotonic_ns()


def main(argv: list[str]) -> int:
    """Run the coordinator and write the file whatever happens to it."""
    try:
        names, window_s, file = guards_of(argv[0]), float(argv[1]), Path(argv[2])
        if not window_s > 0:
            raise ValueError(f"WINDOW_S: {window_s:g} is not above 0")
        switcher = Switcher(Switch(names), Tally(), window_s, file.name)
    except IndexError:
        return _refuse("give GUARDS, WINDOW_S, FILE and the coordinator's flags", 2)
    except ValueError as error:
        return _refuse(str(error), 2)
    except GuardGone as error:
        return _refuse(str(error), 1)
    switcher.start()
    try:
        exit_code: int = importlib.import_module("coordinator.__main__").main(argv[3:])
        return exit_code
    finally:
        switcher.stop()
        file.write_text(json.dumps(switcher.windows), encoding="utf-8")


def _refuse(reason: str, exit_code: int) -> int:
    print(f"bench.switched: {reason}", file=sys.stderr)  # noqa: T201 - no result
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
