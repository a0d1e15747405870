"""`python -m bench.fleet.noted FILE.npz FLAGS`: `python -m coordinator FLAGS`, with notes of its work.

The notes are: when LoadGen issued each query and how long the call took; the length and digest (XXH3-64) of
each answer at the address that LoadGen gets; and, twice a second, the tokens and requests that the
coordinator holds. FILE has the format that notes.py reads; it is not written if the run exits the process.
The notes are taken in the coordinator's process and count as its CPU time; `noting_ns` in FILE is the part
spent on digests and lists. Exit code 2: bad input; otherwise the coordinator's.
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

from bench.flag_help import prints_usage
from coordinator.scheduling.event_loop import ActiveRun, EventLoop
from sut.loadgen import TOKEN_BYTES, CallTimes
from sut.sut import SUT, Reports

Function = Callable[..., Any]
SAMPLE_INTERVAL_S = 0.5
JOIN_TIMEOUT_S = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Notes:
    """All notes, as columns; each column is written by one thread only."""

    def __init__(self) -> None:
        # Written by LoadGen's thread.
        self.calls = array("q")
        """Per call of IssueQuery: begin, end, samples; times in ns of the monotonic clock."""
        self.issued_ids, self.issued_samples = array("Q"), array("q")
        """Per request, in the order of issue: LoadGen's id, and the sample index."""
        # Written by the dispatcher's thread.
        self._answer_address = 0
        """Address of the last answer in the token arena."""
        self.answers = array("Q")
        """Per answer: LoadGen's id, number of tokens, digest."""
        # Written by the sampling thread.
        self.samples = array("q")
        """Per sample: time in ns, tokens received, requests at workers, requests waiting, RSS in bytes."""
        self.issuing_ns = self.completing_ns = 0
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None
        self.stages: dict[str, int] = {}
        """RSS in bytes at the end of each start-up stage, in order."""
        self.memory: dict[str, int] = {}
        """Bytes at the end of LoadGen's test: arena reserved, arena resident, highest RSS."""

    def issue(self, issue_queries: Function, sut: SUT, ids: list[int], samples: list[int]) -> None:
        """Record one call of IssueQuery.

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
        self,
        complete: Callable[..., CallTimes],
        reports: Reports,
        ids: list[int],
        addresses: list[int],
        counts: list[int],
    ) -> CallTimes:
        """Record answers at the addresses that LoadGen gets; returns what `complete` returns.

        Thread: dispatcher.
        """
        noting_ns = time.thread_time_ns()
        for id_, address, count in zip(ids, addresses, counts, strict=True):
            answer = (ctypes.c_char * (count * TOKEN_BYTES)).from_address(address)
            self.answers.extend((id_, count, xxhash.xxh3_64_intdigest(answer)))
            self._answer_address = address
        self.completing_ns += time.thread_time_ns() - noting_ns
        return complete(reports, ids, addresses, counts)

    def start(self, run: ActiveRun) -> None:
        """Start the sampling thread; it runs until LoadGen's test has ended."""
        self._sampler = threading.Thread(target=self._sample, args=(run,), name="notes", daemon=True)
        self._sampler.start()

    def _sample(self, run: ActiveRun) -> None:
        """Take samples until LoadGen's test has ended.

        Thread: the sampling thread.
        """
        while not self._ended.wait(SAMPLE_INTERVAL_S):
            self._take_sample(run)
        self._take_sample(run)
        self._measure_memory()

    def _take_sample(self, run: ActiveRun) -> None:
        """Record what the coordinator holds now. Only this function reads the product's counters."""
        table, backlog = run.scheduler.table, run.scheduler.backlog
        self.samples.extend(
            (time.monotonic_ns(), table.num_tokens, table.num_in_flight, len(backlog), read_rss_bytes())
        )

    def reach(self, stage: str) -> None:
        """Record the resident memory at the end of a start-up stage."""
        self.stages[stage] = read_rss_bytes()

    def end(self) -> None:
        """Stop the sampling thread after one last sample: LoadGen's test has ended.

        Thread: LoadGen's; does not block.
        """
        self._ended.set()

    def _measure_memory(self) -> None:
        reserved, resident = mapping_at(self._answer_address)
        status = Path("/proc/self/status").read_text()
        peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.memory = {
            "arena_reserved": reserved,
            "arena_resident": resident,
            "peak_rss": peak_kib * 1024,
        }

    def write(self, path: Path) -> None:
        """Write all notes once the last sample is taken, with one time on both clocks."""
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
    """Return this process's resident memory.

    Source: proc(5), statm; cheap, unlike smaps, which walks all pages.
    """
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def mapping_at(address: int) -> tuple[int, int]:
    """Find the memory mapping of this process that contains an address.

    Returns:
        Size and resident size of the mapping in bytes; 0 and 0 if the address is not mapped.

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


def wrap(owner: type, name: str, around: Callable[[Function], Function]) -> None:
    """Replace a product method with the function that `around` returns for it.

    Raises:
        AttributeError: The class does not have the method.
    """
    setattr(owner, name, around(getattr(owner, name)))


def note(notes: Notes) -> None:
    """Record the work of this process's coordinator.

    Raises:
        AttributeError: A product method named here does not exist.
    """

    def ended(close: Function) -> Function:
        def call(reports: Reports) -> None:
            notes.end()
            close(reports)

        return call

    def reached(wait_ready: Function) -> Function:
        def call(event_loop: EventLoop, *args: Any) -> None:
            notes.reach("data set")
            wait_ready(event_loop, *args)

        return call

    def sampled(open_run: Function) -> Function:
        def call(event_loop: EventLoop, *args: Any) -> ActiveRun:
            run: ActiveRun = open_run(event_loop, *args)
            notes.reach("streams")
            notes.start(run)
            return run

        return call

    wrap(SUT, "issue_queries", lambda f: lambda *args: notes.issue(f, *args))
    wrap(Reports, "complete", lambda f: lambda *args: notes.complete(f, *args))
    wrap(Reports, "close", ended)
    wrap(EventLoop, "wait_ready", reached)
    wrap(EventLoop, "open", sampled)


def main(argv: list[str]) -> int:
    """Run the coordinator, then write the notes to the file."""
    if prints_usage(argv, __doc__):
        return 0
    if len(argv) < 2:
        print("bench.fleet.noted: usage: FILE.npz COORDINATOR_FLAGS", file=sys.stderr)  # noqa: T201
        return 2
    notes = Notes()
    coordinator = importlib.import_module("coordinator.__main__")
    note(notes)
    notes.reach("interpreter")
    exit_code: int = coordinator.main(argv[1:])
    if notes.calls:
        notes.write(Path(argv[0]))
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
