"""Read the file that noted.py writes, and check every answer against its prompt."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from bench.fleet.schedule import issue_delays_ns, scheduled_ns
from bench.workload import counting_answer

Ints = NDArray[np.int64]


class Checked(NamedTuple):
    """Result of checking the requests that LoadGen issued."""

    requests: int
    tokens: int
    """Tokens of all answers that LoadGen received."""
    missing: int
    """Requests without an answer."""
    repeated: int
    """Answers beyond one per request, and answers to unknown requests."""
    wrong: int
    """Answers whose length or digest differs from the expected one."""

    @property
    def right(self) -> bool:
        """Return whether each request has exactly one answer, the expected one."""
        return not (self.missing or self.repeated or self.wrong)


class Window(NamedTuple):
    """A time window of a run."""

    begin_ns: int
    """On the monotonic clock."""
    end_ns: int

    @property
    def length_s(self) -> float:
        """Seconds."""
        return (self.end_ns - self.begin_ns) / 1e9


class RunNotes(NamedTuple):
    """The columns of the file; times in ns of the monotonic clock."""

    calls: Ints
    """(C, 3) per call of IssueQuery: begin, end, samples."""
    issued_ids: NDArray[np.uint64]
    """(R,) LoadGen's ids in the order of issue."""
    issued_samples: Ints
    """(R,)"""
    answers: NDArray[np.uint64]
    """(A, 3) per answer: LoadGen's id, tokens, XXH3-64 of the tokens."""
    samples: Ints
    """(S, 5) twice a second: time, tokens received, requests at workers, requests waiting, RSS in bytes."""
    noting_s: float
    """CPU time of digests and lists, in the coordinator's process."""
    stages: dict[str, int]
    """RSS in bytes at the end of each start-up stage."""
    memory: dict[str, int]
    """See noted.Notes."""
    to_system_ns: int
    """System clock minus monotonic clock."""

    @classmethod
    def read(cls, path: Path) -> "RunNotes":
        """Read a file that noted.py wrote."""
        with np.load(path) as file:
            monotonic_ns, system_ns = file["clocks_ns"].tolist()
            kinds = {"stage": dict[str, int](), "memory": dict[str, int]()}
            for name in file:
                kind, _, what = name.partition(":")
                if what:
                    kinds[kind][what] = int(file[name])
            return cls(
                calls=file["calls"],
                issued_ids=file["issued_ids"],
                issued_samples=file["issued_samples"],
                answers=file["answers"],
                samples=file["samples"],
                noting_s=float(file["noting_ns"]) / 1e9,
                stages=kinds["stage"],
                memory=kinds["memory"],
                to_system_ns=system_ns - monotonic_ns,
            )

    def check(self, prompts: NDArray[np.int32]) -> Checked:
        """Compare every answer with the one expected for its prompt, prompts[sample]."""
        expected = [counting_answer(prompt) for prompt in prompts]
        lens = np.array([len(answer) for answer in expected], np.uint64)
        digests = np.array([xxhash.xxh3_64_intdigest(answer.tobytes()) for answer in expected], np.uint64)
        order = np.argsort(self.issued_ids)
        ids = self.issued_ids[order]
        places = np.minimum(np.searchsorted(ids, self.answers[:, 0]), len(ids) - 1)
        known = ids[places] == self.answers[:, 0]
        rows = order[places[known]]
        times = np.bincount(rows, minlength=len(ids))
        asked, got = self.issued_samples[rows], self.answers[known]
        wrong = (got[:, 1] != lens[asked]) | (got[:, 2] != digests[asked])
        return Checked(
            requests=len(ids),
            tokens=int(self.answers[:, 1].sum()),
            missing=int((times == 0).sum()),
            repeated=int((times - 1).clip(0).sum() + (~known).sum()),
            wrong=int(wrong.sum()),
        )

    def issue_delays_ns(self, seed: int, target_qps: float) -> Ints:
        """Compute the issue delay of each Server query, (C,): see schedule.py.

        Raises:
            RuntimeError: The computed schedule does not match LoadGen's calls.
        """
        return issue_delays_ns(self.calls[:, 0], scheduled_ns(seed, target_qps, len(self.calls)))

    def system_s(self, window: Window) -> tuple[float, float]:
        """Return begin and end of a window in seconds of the system clock."""
        return (window.begin_ns + self.to_system_ns) / 1e9, (window.end_ns + self.to_system_ns) / 1e9

    def within(self, window: Window) -> Ints:
        """Return the samples within a window, (S, 5)."""
        times = self.samples[:, 0]
        return self.samples[(times >= window.begin_ns) & (times <= window.end_ns)]

    def tokens_per_s(self, window: Window) -> float:
        """Compute the rate of received tokens in a window, interpolated between samples."""
        at = np.interp(window[:2], self.samples[:, 0], self.samples[:, 1])
        return float(at[1] - at[0]) / window.length_s
