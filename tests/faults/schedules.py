"""Random fault schedules, each drawn from a seed, and the worker fleets that they run on."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import fleet
from tests.faults import runs
from tests.faults.crew import Member, check_free, crew, wait_until
from tests.faults.proxy import Proxy, proxied

MAX_WORKERS = 5
FLAGS = ("--step-ms", "5", "--max-num-seqs", "32")
KINDS = ("kill and restart", "kill", "short stop", "long stop", "reset", "hole one way", "hole")
WORKER_TIMEOUT_S = 2


@dataclass(frozen=True)
class Fault:
    """A fault of one worker."""

    at_s: float
    """When it happens, after the first token of the run."""
    kind: str
    worker: int
    for_s: float
    """How long it lasts, if it ends by itself."""
    num_bytes: int
    """For a reset: the number of bytes before it."""

    def __str__(self) -> str:
        return f"{self.at_s:.2f} s: {self.kind} of {self.worker} for {self.for_s:.2f} s"


@dataclass(frozen=True)
class Schedule:
    """One run and its faults."""

    seed: int
    num_workers: int
    mode: str
    max_losses: int
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.mode}, {self.num_workers} workers, {self.max_losses} losses"
        return "; ".join([head, *map(str, self.faults)])

    @property
    def prompts(self) -> list[list[int]]:
        """The run's data set: about 3 s of work without a fault."""
        if self.mode.startswith("server"):
            return runs.make_prompts(100, longest=80)
        return runs.make_prompts(min(60 * self.num_workers, 190), longest=350)


def draw(seed: int) -> Schedule:
    """Draw a schedule; at least one worker is never killed for good."""
    rng = random.Random(seed)
    num_workers = rng.randint(2, MAX_WORKERS)
    survivor = rng.randrange(num_workers)
    faults = []
    for _ in range(rng.randint(1, 6)):
        kind, worker = rng.choice(KINDS), rng.randrange(num_workers)
        if kind == "kill" and worker == survivor:
            kind = "kill and restart"
        long = kind in ("long stop", "hole", "hole one way")
        for_s = rng.uniform(2.0, 4.0) if long else rng.uniform(0.1, 0.8)
        faults.append(Fault(rng.uniform(0, 2.5), kind, worker, for_s, rng.randrange(3000)))
    mode = rng.choice([*runs.MODES, "server-accuracy"])
    faults.sort(key=lambda fault: fault.at_s)
    return Schedule(seed, num_workers, mode, rng.choice((3, 100)), tuple(faults))


class Lane:
    """Workers behind proxies, shared by successive schedules."""

    def __init__(self, directory: Path, members: list[Member], proxies: list[Proxy]) -> None:
        self._directory, self._members, self._proxies = directory, members, proxies
        self._gone: set[int] = set()

    def play(self, schedule: Schedule) -> Any:
        """Run a schedule to its end, check the invariant and return run.json."""
        directory = self._directory / f"seed{schedule.seed}"
        directory.mkdir()
        addresses = [proxy.address for proxy in self._proxies[: schedule.num_workers]]
        flags = ("--worker-timeout-s", str(WORKER_TIMEOUT_S), "--no-worker-timeout-s", "30")
        flags += ("--max-worker-losses", str(schedule.max_losses))
        with runs.started(directory, schedule.mode, addresses, schedule.prompts, *flags) as run:
            try:
                wait_until(lambda: any(m.used for m in self._members) or not running(run), "tokens", 30)
                self._act(run, timeline(schedule))
                check(run)
                return run.json
            finally:
                self._mend()

    def _act(self, run: runs.Run, deeds: list[tuple[float, str, Fault]]) -> None:
        begun_s = time.monotonic()
        for at_s, deed, fault in deeds:
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not running(run), "", max(begun_s + at_s - time.monotonic(), 0))
            if not running(run):
                return
            self._do(deed, fault)

    def _do(self, deed: str, fault: Fault) -> None:
        """Inject one fault into a worker that is in the right state for it."""
        member, proxy = self._members[fault.worker], self._proxies[fault.worker]
        if fault.worker in self._gone:
            return
        deeds: dict[str, Callable[[], Any]] = {
            "kill and restart": member.restart,
            "kill": member.kill,
            "short stop": member.freeze,
            "long stop": member.freeze,
            "end of stop": member.thaw,
            "reset": lambda: proxy.reset_after(fault.num_bytes),
            "hole one way": lambda: proxy.swallow(to_worker=False),
            "hole": proxy.swallow,
            "end of hole": proxy.heal,
        }
        deeds[deed]()
        if deed == "kill":
            self._gone.add(fault.worker)

    def _mend(self) -> None:
        """Restore all workers to their first state."""
        for index, (member, proxy) in enumerate(zip(self._members, self._proxies, strict=True)):
            proxy.heal()
            if index in self._gone:
                member.restart()
            else:
                member.thaw()
        self._gone.clear()
        for member in self._members:
            fleet.wait_serving(member.worker)
        check_free(self._members, 40)


def running(run: runs.Run) -> bool:
    """Whether a coordinator still runs."""
    return run.process.poll() is None


def timeline(schedule: Schedule) -> list[tuple[float, str, Fault]]:
    """List the times and actions of a schedule, ends of faults included."""
    deeds = [(fault.at_s, fault.kind, fault) for fault in schedule.faults]
    ends = {"short stop": "end of stop", "long stop": "end of stop"}
    ends |= {"hole": "end of hole", "hole one way": "end of hole"}
    deeds += [(f.at_s + f.for_s, ends[f.kind], f) for f in schedule.faults if f.kind in ends]
    return sorted(deeds, key=lambda deed: deed[0])


def check(run: runs.Run) -> None:
    """Check the invariant: exact tokens, or a failure with a reason and without a summary."""
    code = run.end()
    if code == 0:
        runs.check_valid(run)
    elif code == 3:
        failed = [check["name"] for check in run.json["verdict"]["checks"] if not check["passed"]]
        assert ["loadgen_result"] == failed
        runs.check_answers(run)
    else:
        found = runs.check_failed(run, "")
        assert found["verdict"]["reason"]


@contextlib.contextmanager
def lane(directory: Path) -> Iterator[Lane]:
    """Set up a lane for a block."""
    directory.mkdir()
    with (
        crew(directory, MAX_WORKERS, *FLAGS) as members,
        proxied([member.address for member in members]) as proxies,
    ):
        yield Lane(directory, members, proxies)
