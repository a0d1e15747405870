"""Read the file of noted.py, and check every answer against its prompt."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from bench.fleet.schedule import issue_delays_ns, scheduled_ns
from bench.workload import counting_answer

Ints = NDArray[np.int64]


class Checked(NamedTuple):
    """What became of the requests that LoadGen issued."""

    requests: int
    tokens: int
    """Of all answers, as LoadGen was given them."""
    missing: int
    """Requests without an answer."""
    repeated: int
    """Answers beyond one a request, and those to no request."""
    wrong: int
    """Answers of another length or digest than the prompt asks for."""

    @property
    def right(self) -> bool:
        """Each request has one answer, and it is the one asked for."""
        return not (self.missing or self.repeated or self.wrong)


class Window(NamedTuple):
    """A stretch of a run."""

    begin_ns: int
    """Monotonic clock."""
    end_ns: int

    @property
    def length_s(self) -> float:
        """Seconds."""
        return (self.end_ns - self.begin_ns) / 1e9


class RunNotes(NamedTuple):
    """The columns of the file; times in ns of the monotonic clock."""

    calls: Ints
    """(C, 3) per call of IssueQuery: when it came, when it returned, its samples."""
    issued_ids: NDArray[np.uint64]
    """(R,) in the order of issue."""
    issued_samples: Ints
    """(R,)"""
    answers: NDArray[np.uint64]
    """(A, 3) per answer: LoadGen's id, tokens, XXH3-64 of the tokens."""
    samples: Ints
    """(S, 5) twice a second: when, tokens received, requests at workers, requests waiting, RSS in bytes."""
    noting_s: float
    """CPU that the digests and lists cost, in the coordinator's process."""
    stages: dict[str, int]
    """RSS in bytes when each part of the start was done."""
    memory: dict[str, int]
    """See noted.Notes."""
    to_system_ns: int
    """The system clock minus the monotonic one."""

    @classmethod
    def read(cls, path: Path) -> "RunNotes":
        """Read the file."""
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
        """Compare every answer with what its prompt, prompts[sample], asks for."""
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
        """Compute how late each Server query came, (C,): see schedule.py.

        Raises:
            RuntimeError: LoadGen computes its schedule in another way.
        """
        return issue_delays_ns(self.calls[:, 0], scheduled_ns(seed, target_qps, len(self.calls)))

    def system_s(self, window: Window) -> tuple[float, float]:
        """Give begin and end of a window in seconds of the system clock."""
        return (window.begin_ns + self.to_system_ns) / 1e9, (window.end_ns + self.to_system_ns) / 1e9

    def within(self, window: Window) -> Ints:
        """Take the samples of a window, (S, 5)."""
        times = self.samples[:, 0]
        return self.samples[(times >= window.begin_ns) & (times <= window.end_ns)]

    def tokens_per_s(self, window: Window) -> float:
        """Compute the rate at which tokens came, interpolated between samples."""
        at = np.interp(window[:2], self.samples[:, 0], self.samples[:, 1])
        return float(at[1] - at[0]) / window.length_s
