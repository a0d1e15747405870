"""`python -m bench.fleet.noted FILE.npz FLAGS`: the coordinator, each of its exchanges with LoadGen noted.

Runs `python -m coordinator FLAGS`. Meanwhile it notes when LoadGen issued each query and how long the call
took, a digest (XXH3-64) and the length of each answer at the address that LoadGen is given, and twice a
second how much the coordinator holds. FILE gets what notes.py reads, unless the run ends by leaving the
process. All this runs in the coordinator's process and counts as its CPU; `noting_ns` in FILE is how much of
it the digests and lists were. Exit code 1 names a function that has moved, 2 bad input; else the
coordinator's.
"""

import ctypes
import importlib
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from bench.unguarded import Function, GuardGone, Patch, find
from coordinator.scheduling.event_loop import EventLoop
from sut.loadgen import TOKEN_BYTES
from sut.sut import SUT

SAMPLE_INTERVAL_S = 0.5
JOIN_TIMEOUT_S = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Notes:
    """Everything noted, as columns; each is written by one thread alone."""

    def __init__(self) -> None:
        # LoadGen's thread.
        self.calls = array("q")
        """Per call of IssueQuery: when it came, when it returned, its samples; ns of the monotonic clock."""
        self.issued_ids, self.issued_samples = array("Q"), array("q")
        """Per request, in the order of issue: LoadGen's id, and the sample."""
        # The dispatcher's thread.
        self.answers = array("Q")
        """Per answer: LoadGen's id, number of tokens, digest."""
        # The sampling thread.
        self.samples = array("q")
        """Per sample: ns, tokens received, requests at workers, requests that wait, RSS in bytes."""
        self.issuing_ns = self.completing_ns = 0
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None
        self.stages: dict[str, int] = {}
        """RSS in bytes when each part of the start was done, in order."""
        self.memory: dict[str, int] = {}
        """When LoadGen's test had ended: the arena, reserved and resident, and the highest RSS; in bytes."""

    def issue(self, issue_queries: Function, sut: SUT, ids: list[int], samples: list[int]) -> None:
        """Note one call of IssueQuery.

        Thread: LoadGen's.
        """
        began_ns = time.monotonic_ns()
        if not self.calls:
            self.reach("LoadGen's queries")
        issue_queries(sut, ids, samples)
        ended_ns, noting_ns = time.monotonic_ns(), time.thread_time_ns()
        self.calls.extend((began_ns, ended_ns, len(ids)))
        self.issued_ids.extend(ids)
        self.issued_samples.extend(samples)
        self.issuing_ns += time.thread_time_ns() - noting_ns

    def complete(
        self, complete: Function, sut: SUT, ids: list[int], addresses: list[int], counts: list[int]
    ) -> None:
        """Note answers as LoadGen finds them.

        Thread: dispatcher.
        """
        noting_ns = time.thread_time_ns()
        for id_, address, count in zip(ids, addresses, counts, strict=True):
            answer = (ctypes.c_char * (count * TOKEN_BYTES)).from_address(address)
            self.answers.extend((id_, count, xxhash.xxh3_64_intdigest(answer)))
        self.completing_ns += time.thread_time_ns() - noting_ns
        complete(sut, ids, addresses, counts)

    def start(self, dispatcher: EventLoop) -> None:
        """Begin to sample, until LoadGen's test has ended."""
        self._sampler = threading.Thread(target=self._sample, args=(dispatcher,), name="notes", daemon=True)
        self._sampler.start()

    def _sample(self, dispatcher: EventLoop) -> None:
        """Thread: its own."""
        self._look(dispatcher)
        while not self._ended.wait(SAMPLE_INTERVAL_S):
            self._look(dispatcher)
        self._look(dispatcher)
        self._weigh(dispatcher)

    def _look(self, dispatcher: EventLoop) -> None:
        """Note what the coordinator holds now."""
        ledger, backlog = dispatcher.ledger, dispatcher.flow.backlog
        self.samples.extend(
            (time.monotonic_ns(), ledger.num_tokens, ledger.num_running, len(backlog), read_rss_bytes())
        )

    def reach(self, stage: str) -> None:
        """Note the resident memory once a part of the start is done."""
        self.stages[stage] = read_rss_bytes()

    def end(self) -> None:
        """Take the last sample: LoadGen's test has ended.

        Thread: LoadGen's; does not block.
        """
        self._ended.set()

    def _weigh(self, dispatcher: EventLoop) -> None:
        (arena,) = dispatcher.ledger.addresses(np.zeros(1, np.int64))
        reserved, resident = mapping_at(arena)
        status = Path("/proc/self/status").read_text()
        peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.memory = {
            "arena_reserved": reserved,
            "arena_resident": resident,
            "peak_rss": peak_kib * 1024,
        }

    def write(self, path: Path) -> None:
        """Write everything, with one moment on both clocks, once the last sample is taken."""
        if self._sampler is not None:
            self._sampler.join(JOIN_TIMEOUT_S)
        named = {
            "clocks_ns": np.array([time.monotonic_ns(), time.time_ns()]),
            "calls": np.array(self.calls).reshape(-1, 3),
            "issued_ids": np.array(self.issued_ids),
            "issued_samples": np.array(self.issued_samples),
            "answers": np.array(self.answers).reshape(-1, 3),
            "samples": np.array(self.samples).reshape(-1, 5),
            "noting_ns": np.array(self.issuing_ns + self.completing_ns),
        }
        for kind, figures in (("stage", self.stages), ("memory", self.memory)):
            named |= {f"{kind}:{name}": np.array(value) for name, value in figures.items()}
        with path.open("wb") as file:
            np.savez(file, **named)  # type: ignore[arg-type]  # none of the names is allow_pickle


def read_rss_bytes() -> int:
    """Read this process's resident memory.

    Source: proc(5), statm; cheap, unlike smaps, which walks every page.
    """
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def mapping_at(address: int) -> tuple[int, int]:
    """Find the mapping of this process's memory that holds an address.

    Returns:
        Its size and what of it is resident, in bytes; 0 where nothing is mapped.

    Source: proc(5), smaps.
    """
    found, size = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *words = line.split()
        if not name.endswith(":"):
            first, _, last = name.partition("-")
            found = int(first, 16) <= address < int(last, 16)
        elif found and name == "Size:":
            size = int(words[0]) * 1024
        elif found and name == "Rss:":
            return size, int(words[0]) * 1024
    return 0, 0


def wrap(target: str, like: Function, around: Callable[[Function], Function]) -> None:
    """Put something around a function of the product.

    Args:
        target: module:Class.name.
        like: Takes the same arguments.
        around: Makes what is called instead.

    Raises:
        GuardGone: There is no such function, or it takes other arguments.
    """
    owner, name, original = find(Patch(target, like))
    setattr(owner, name, around(original))


def note(notes: Notes) -> None:
    """Have this process's coordinator noted.

    Raises:
        GuardGone: See `wrap`.
    """

    def ended(close: Function) -> Function:
        def call(sut: SUT) -> None:
            notes.end()
            close(sut)

        return call

    def reached(wait_ready: Function) -> Function:
        def call(dispatcher: EventLoop, timeout_s: float) -> None:
            notes.reach("data set")
            wait_ready(dispatcher, timeout_s)

        return call

    def sampled(open_run: Function) -> Function:
        def call(dispatcher: EventLoop, *args: Any) -> str:
            spec_hash: str = open_run(dispatcher, *args)
            notes.reach("streams")
            notes.start(dispatcher)
            return spec_hash

        return call

    wrap("sut.sut:SUT.issue_queries", _issue_queries, lambda f: lambda *args: notes.issue(f, *args))
    wrap("sut.sut:SUT.complete", _complete, lambda f: lambda *args: notes.complete(f, *args))
    wrap("sut.sut:SUT.close", _close, ended)
    wrap("coordinator.scheduling.event_loop:EventLoop.wait_ready", _wait_ready, reached)
    wrap("coordinator.scheduling.event_loop:EventLoop.open", _open, sampled)


def _issue_queries(self: object, ids: object, samples: object) -> None:
    """Stand for how the function is called, as those that follow."""


def _complete(self: object, ids: object, addresses: object, counts: object) -> None: ...


def _close(self: object) -> None: ...


def _wait_ready(self: object, timeout_s: object) -> None: ...


def _open(self: object, run_id: object, spec: object, task: object, flush: object) -> None: ...


def main(argv: list[str]) -> int:
    """Run the coordinator, then write the file."""
    notes = Notes()
    coordinator = importlib.import_module("coordinator.__main__")
    try:
        note(notes)
    except GuardGone as error:
        return _refuse(str(error), 1)
    if len(argv) < 2:
        return _refuse("give FILE.npz and the coordinator's flags", 2)
    notes.reach("interpreter")
    exit_code: int = coordinator.main(argv[1:])
    if notes.calls:
        notes.write(Path(argv[0]))
    return exit_code


def _refuse(reason: str, exit_code: int) -> int:
    print(f"bench.fleet.noted: {reason}", file=sys.stderr)  # noqa: T201 - no result
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
