"""Rounds of bench.gpu: sides are loaded, measured and stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.gpu_coordinate import Setting
from bench.gpu_found import Clock, Found, Placement, Round, Visit
from bench.gpu_load import Plan
from bench.gpu_sides import Side
from bench.gpu_watch import use_between
from bench.interleaved import order_of
from bench.processes import read_cpu_s
from worker.machine.nvml import family

START_TIMEOUT_S = 600.0
POLL_S = 0.1
Make = Callable[[Setting, Sequence[int], str], Side]


class Rounds:
    """Sides that come and go."""

    def __init__(
        self,
        setting: Setting,
        watch_log: Path,
        clock: Clock,
        on_found: Callable[[Found], None],
        makes: Mapping[str, Make],
    ) -> None:
        """Load nothing yet.

        Args:
            setting: What all sides do.
            watch_log: Of bench.gpu_watch.
            clock: When to begin nothing more.
            on_found: Called after each round.
            makes: Starts a side, by its name.
        """
        self.found = Found()
        self._setting = setting
        self._watch_log = watch_log
        self._clock = clock
        self._on_found = on_found
        self._makes = makes
        self._loaded: dict[str, Side] = {}
        self._num_loads = 0
        self._failed: set[str] = set()

    def run(self, visits: Sequence[Visit], plan: Plan, warm_up: Plan, num_warm_ups: int) -> None:
        """Make all visits; a side that fails is left out from then on, and named in `found.failures`."""
        for visit in visits:
            placement = tuple(place for place in visit.placement if place[0] not in self._failed)
            if self._clock.over:
                self.found.not_run.append(f"rounds {visit.numbers} of {', '.join(n for n, _ in placement)}")
                continue
            fresh = self._place(placement)
            for side in fresh:
                for _ in range(num_warm_ups):
                    self._measure(side, warm_up, -1)
            for number in visit.numbers:
                sides = [self._loaded[name] for name, _ in placement if name not in self._failed]
                for index in order_of(number, len(sides)) if sides else []:
                    self._measure(sides[index], plan, number)
        self._place(())

    def hold(self, name: str, gpus: tuple[int, ...]) -> Side | None:
        """Have one side loaded and no other, until the next `run`; None if it fails."""
        self._place(((name, gpus),))
        return None if name in self._failed else self._loaded[name]

    def visit(
        self,
        name: str,
        gpus: tuple[int, ...],
        warm_ups: Sequence[Plan],
        jobs: Sequence[tuple[Plan, int]],
    ) -> None:
        """Have one side loaded and no other, warm it up if it was not, and do rounds, by plan and number."""
        if self._clock.over or name in self._failed:
            self.found.not_run += [f"{plan.name}, round {number} of {name}" for plan, number in jobs]
            return
        for side in self._place(((name, gpus),)):
            for warm_up in warm_ups:
                self._measure(side, warm_up, -1)
        for plan, number in jobs:
            if name in self._loaded:
                self._measure(self._loaded[name], plan, number)

    def release(self) -> None:
        """Have nothing loaded."""
        self._place(())

    def _place(self, placement: Placement) -> list[Side]:
        """Have these sides loaded and no others; returns those that were not."""
        for name, side in list(self._loaded.items()):
            if (name, side.gpus) not in placement:
                self._clock.say(f"stop {side.label}")
                del self._loaded[name]
                try:
                    side.stop()
                except RuntimeError as error:
                    self._fail(side, error)
        loading = []
        for name, gpus in placement:
            if name not in self._loaded:
                self._num_loads += 1
                label = f"{self._num_loads}-{name}"
                self._clock.say(f"load {label} on {_place_name(gpus)}")
                self._loaded[name] = self._makes[name](self._setting, gpus, label)
                loading.append(self._loaded[name])
        deadline_s = time.monotonic() + START_TIMEOUT_S
        return [side for side in self._wait(loading, deadline_s) if side.name not in self._failed]

    def _wait(self, loading: list[Side], deadline_s: float) -> list[Side]:
        """Wait until all are loaded."""
        waiting = list(loading)
        while waiting:
            for side in list(waiting):
                try:
                    if side.poll():
                        waiting.remove(side)
                        self._note_start(side)
                    elif time.monotonic() > deadline_s:
                        raise RuntimeError(f"{side.label} is not loaded after {START_TIMEOUT_S:g} s")
                except RuntimeError as error:
                    waiting.remove(side)
                    self._fail(side, error)
            time.sleep(POLL_S)
        return loading

    def _note_start(self, side: Side) -> None:
        assert side.start is not None
        self._clock.say(
            f"{side.label}: engine after {side.start.engine_s:.1f} s, serving {side.start.serving_s:.1f} s"
        )
        self.found.starts.append(
            {"side": side.name, "gpus": side.gpus, **side.start._asdict(), "effective": side.effective}
        )

    def _measure(self, side: Side, plan: Plan, number: int) -> None:
        """Do one round; number -1 is a warm-up."""
        what = "warm-up" if number < 0 else f"{plan.name}, round {number}"
        if self._clock.over:
            self.found.not_run.append(f"{what} of {side.name}")
            return
        if side.name in self._failed:
            return
        try:
            found = self._round(side, plan, number)
        except (RuntimeError, OSError) as error:
            self._fail(side, error)
            return
        self.found.rounds.append(found)
        self._clock.say(f"{what} {_line(found)}")
        self._on_found(self.found)

    def _round(self, side: Side, plan: Plan, number: int) -> Round:
        front_pid = side.process.pid
        engine = family(front_pid) - {front_pid}
        before = read_cpu_s(front_pid), sum(map(read_cpu_s, engine))
        answered = side.run(plan, len(self.found.rounds))
        after = read_cpu_s(front_pid), sum(map(read_cpu_s, engine))
        return Round(
            side=side.name,
            plan=plan.name,
            gpus=side.gpus,
            number=number,
            warm_up=number < 0,
            at_s=self._clock.now_s,
            seconds=answered.end_s - answered.begin_s,
            requests=answered.requests,
            tokens=answered.tokens,
            expected_tokens=self._setting.work.num_tokens(plan),
            verdict=answered.verdict,
            front_cpu_s=after[0] - before[0],
            client_cpu_s=answered.client_cpu_s,
            engine_cpu_s=after[1] - before[1],
            gpu=[use_between(self._watch_log, gpu, answered.begin_s, answered.end_s) for gpu in side.gpus],
            ttft_ms=answered.ttft_ms,
            tpot_ms=answered.tpot_ms,
        )

    def _fail(self, side: Side, error: BaseException) -> None:
        self._failed.add(side.name)
        self.found.failures.append(f"{side.label}: {error}")
        self._clock.say(f"FAILED {side.label}: {error}")
        self._on_found(self.found)


def _line(found: Round) -> str:
    busy = ", ".join(f"GPU busy {use.busy_percent:.0f} %" for use in found.gpu if use is not None)
    exact = "" if found.tokens == found.expected_tokens else f" of {found.expected_tokens}"
    return (
        f"{found.side} on {_place_name(found.gpus)}: {found.requests} requests, "
        f"{found.tokens}{exact} tokens in "
        f"{found.seconds:.2f} s, {found.tokens_per_s:.0f}/s {busy} {found.verdict}"
    )


def _place_name(gpus: Sequence[int]) -> str:
    return "the CPU" if not gpus else "GPU " + ",".join(map(str, gpus))
