"""Rounds of bench.gpu: load, measure and stop one side after another."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu.coordinate import GivenUpError, Setting
from bench.gpu.found import Clock, Found, GivenUpRound, Round
from bench.gpu.load import Plan
from bench.gpu.sides import SIDES, Side
from bench.gpu.watch import use_between
from bench.processes import read_tree_cpu

START_TIMEOUT_S = 600.0
POLL_S = 0.1
REASON_LEN = 150


class Place(NamedTuple):
    """Work, GPUs and time limit of the parts of the command."""

    setting: Setting
    gpus: tuple[int, ...]
    """GPUs of each engine; empty: run on the CPU."""
    watch_log: Path
    """Log of bench.gpu.watch."""
    clock: Clock


class Rounds:
    """Loads and measures one side after another."""

    def __init__(self, place: Place, on_found: Callable[[Found], None]) -> None:
        """Store the parameters; nothing is loaded yet.

        Args:
            place: Work, GPUs and time limit.
            on_found: Called after each load and each round.
        """
        self.found = Found()
        self._setting, self._gpus, self._watch_log, self._clock = place
        self._on_found = on_found
        self._loaded: Side | None = None
        self._num_loads = 0
        self._failed: set[str] = set()

    def visit(self, name: str, warm_ups: Sequence[Plan], jobs: Sequence[tuple[Plan, int]]) -> None:
        """Load a side and warm it up unless it is loaded already, then run rounds, given as plan and number.

        A side that fails is skipped from then on and listed in `found.failures`.
        """
        work = list(jobs)
        if self._loaded is None or self._loaded.name != name:
            self.release()
            if not self._clock.over and name not in self._failed:
                self._load(name)
                work = [*((warm_up, -1) for warm_up in warm_ups), *jobs]
        for plan, number in work:
            self._measure(name, plan, number)

    def keep(self) -> None:
        """Write all figures so far."""
        self._on_found(self.found)

    def release(self) -> None:
        """Stop the loaded side."""
        side, self._loaded = self._loaded, None
        if side is not None:
            self._clock.say(f"stop {side.label}")
            try:
                side.stop()
            except RuntimeError as error:
                self._fail(side, error)

    def _load(self, name: str) -> None:
        """Load a side; at the deadline, or if it fails, none is loaded."""
        self._num_loads += 1
        label = f"{self._num_loads}-{name}"
        self._clock.say(f"load {label} on {_place_name(self._gpus)}")
        side = self._loaded = SIDES[name](self._setting, self._gpus, label)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        try:
            while not side.poll():
                if self._clock.over:
                    self._clock.say(f"{label} is not loaded at the deadline")
                    self.release()
                    return
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"{label} is not loaded after {START_TIMEOUT_S:g} s")
                time.sleep(POLL_S)
        except (RuntimeError, OSError) as error:
            self._fail(side, error)
        else:
            self._note_start(side)

    def _note_start(self, side: Side) -> None:
        assert side.start is not None
        self._clock.say(
            f"{side.label}: engine after {side.start.engine_s:.1f} s, serving {side.start.serving_s:.1f} s"
        )
        self.found.starts.append(
            {"side": side.name, "gpus": side.gpus, **side.start._asdict(), "effective": side.effective}
        )
        self.keep()

    def _measure(self, name: str, plan: Plan, number: int) -> None:
        """Run one round; number -1 is a warm-up."""
        side = self._loaded
        what = "warm-up" if number < 0 else f"{plan.name}, round {number}"
        if side is None or self._clock.over:
            self.found.not_run.append(f"{what} of {name}")
            return
        try:
            found = self._round(side, plan, number)
        except GivenUpError as error:
            self._give_up(plan, error.record)
            return
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            # The last two: a file of the run is incomplete, for example because the disk is full.
            self._fail(side, error)
            return
        self.found.rounds.append(found)
        self._clock.say(f"{what} {_line(found)}")
        self.keep()

    def _give_up(self, plan: Plan, record: Mapping[str, Any]) -> None:
        """List a round that was ended early; its engine stays loaded."""
        over = record["over_latency"]
        given_up = GivenUpRound(
            plan=plan.name,
            at_s=self._clock.now_s,
            seconds=record["wall_s"],
            planned_requests=len(plan.samples),
            requests=sum(worker["requests"] for worker in record["summary"]["workers"]),
            over_ttft=over["num_ttft"],
            over_tpot=over["num_tpot"],
            ttft_limit_ms=over["ttft_limit_ns"] / 1e6,
            tpot_limit_ms=over["tpot_limit_ns"] / 1e6,
            most_over=over["bound"],
        )
        self.found.given_up.append(given_up)
        self._clock.say(f"{plan.name}: {given_up.reason}")
        self.keep()

    def _round(self, side: Side, plan: Plan, number: int) -> Round:
        work = self._setting.work
        side.check_runs()
        before = read_tree_cpu(side.process.pid)
        # Names the files of the round.
        answered = side.run(plan, len(self.found.rounds) + len(self.found.given_up))
        side.check_runs()
        after = read_tree_cpu(side.process.pid)
        num_tokens = work.num_tokens(plan)
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
            expected_tokens=num_tokens,
            verdict=answered.verdict,
            front_cpu_s=after.front_s - before.front_s,
            client_cpu_s=answered.client_cpu_s,
            engine_cpu_s=after.below_s - before.below_s,
            gpu=[use_between(self._watch_log, gpu, answered.begin_s, answered.end_s) for gpu in side.gpus],
            ttft_ms=answered.ttft_ms,
            tpot_ms=answered.tpot_ms,
            tokens_per_s_before_tail=answered.tokens_per_s_before_tail,
            compiled_kernels=answered.compiled_kernels,
            request_ttft_ms=answered.request_ttft_ms,
            is_unequal=answered.requests != len(plan.samples)
            or (work.is_exact and answered.tokens != num_tokens),
        )

    def _fail(self, side: Side, error: BaseException) -> None:
        """List a failure, and end what the side has left running."""
        self._failed.add(side.name)
        reason = shortened(str(error))
        self.found.failures.append(f"{side.label}: {reason}")
        self._clock.say(f"FAILED {side.label}: {reason}")
        self.keep()
        self.release()


def _line(found: Round) -> str:
    busy = ", ".join(f"GPU busy {use.busy_percent:.0f} %" for use in found.gpu if use is not None)
    exact = "" if found.tokens == found.expected_tokens else f" of {found.expected_tokens}"
    steady = found.tokens_per_s_before_tail
    before_tail = "" if steady is None else f" ({steady:.0f}/s before the tail)"
    return (
        f"{found.side} on {_place_name(found.gpus)}: {found.requests} requests, "
        f"{found.tokens}{exact} tokens in "
        f"{found.seconds:.2f} s, {found.tokens_per_s:.0f}/s{before_tail} {busy} {found.verdict}"
    ).rstrip()


def shortened(reason: str) -> str:
    """Return begin and end of a reason on one line."""
    line = " ".join(reason.split())
    is_short = len(line) <= 2 * REASON_LEN
    return line if is_short else f"{line[:REASON_LEN]} ... {line[-REASON_LEN:]}"


def _place_name(gpus: Sequence[int]) -> str:
    return "the CPU" if not gpus else "GPU " + ",".join(map(str, gpus))
