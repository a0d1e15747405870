"""bench.gpu replicas: one node in several layouts, and one of two replicas killed while it works."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import grpc

from bench.bounds import check_above, check_at_least
from bench.gpu_coordinate import Setting, coordinator_argv
from bench.gpu_figures import start_lines, table
from bench.gpu_found import Found
from bench.gpu_load import Lengths, Plan, offline
from bench.gpu_offline import Keep, Place
from bench.gpu_rounds import Rounds
from bench.gpu_sides import Ours, Side, Start
from bench.processes import CpuCurve, Ended, argv_of, tail, wait_says
from bench.rounds import loadgen_window_s, read_run
from bench.startup import serves_grpc
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from worker.node.ports import steady_port

BEGUN_WORDS = " workers, specification "
BEGIN_TIMEOUT_S = 120.0
NOTICE_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 10.0
POLL_S = 0.1


class Layout(NamedTuple):
    """How a node divides its GPUs."""

    replicas: int
    tensor: int
    pipeline: int

    @property
    def num_gpus(self) -> int:
        """All of them."""
        return self.replicas * self.tensor * self.pipeline


LAYOUTS = {
    "R1": Layout(1, 1, 1),
    "R2": Layout(2, 1, 1),
    "T2": Layout(1, 2, 1),
    "P2": Layout(1, 1, 2),
}
SINGLE, DOUBLE = "R1", "R2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas(Lengths):
    """A layout of two GPUs asks for every request twice, so that each GPU has the same work to do."""

    layouts: str = ",".join(LAYOUTS)
    """Replicas, tensor and pipeline parallel size."""
    rounds: int = 2
    """Of each layout in each of its two turns."""
    warm_rounds: int = 1
    """After each load; not counted."""
    kill_at: float = 0.4
    """Share of the time that R2 takes after which one of its replicas is killed; 0: none is."""
    back_timeout_s: float = 300.0
    """How long the killed replica may take to serve again."""
    round_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        Lengths.__post_init__(self)
        check_at_least(self, rounds=1, warm_rounds=0, kill_at=0)
        check_above(self, "round_timeout_s", "back_timeout_s")
        if self.kill_at >= 1:
            raise ValueError(f"--kill-at: {self.kill_at} is not below 1")
        for name in self.names:
            if name not in LAYOUTS:
                raise ValueError(f"--layouts: {name!r} is none of {', '.join(LAYOUTS)}")
        if self.kill_at and DOUBLE not in self.names:
            raise ValueError(f"--kill-at: {self.kill_at} kills one of {DOUBLE}, which --layouts leaves out")

    @property
    def names(self) -> list[str]:
        """The layouts."""
        return self.layouts.split(",")


class Node(Ours):
    """A node in one layout."""

    def __init__(self, setting: Setting, gpus: Sequence[int], label: str, *, name: str) -> None:
        self.name = name
        super().__init__(setting, gpus, label)

    def _argv(self) -> list[str]:
        layout = LAYOUTS[self.name]
        self._port = steady_port(random.Random(), layout.replicas + 1)
        own = {"--port": self._port, "--model": self.setting.work.model, "--replicas": layout.replicas}
        sizes = {"--tensor-parallel-size": layout.tensor, "--pipeline-parallel-size": layout.pipeline}
        return ["worker", *argv_of(own), *self.setting.flags, *argv_of(sizes)]

    def _look(self) -> Start | None:
        if not serves_grpc(self._port):
            return None
        serving_s = self._since(time.time())
        return Start(serving_s, serving_s)

    @property
    def port(self) -> int:
        """Where the node answers."""
        return self._port

    def replica_pids(self) -> list[int]:
        """Ask the node for its replicas' processes."""
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=CALL_TIMEOUT_S)
        return [replica.pid for replica in info.replicas]


def show_replicas(plan: Replicas, place: Place, keep: Keep) -> Found:
    """Measure every layout, then kill a replica, and print what was seen."""
    makes = {name: partial(Node, name=name) for name in LAYOUTS}
    rounds = Rounds(place.setting, place.watch_log, place.clock, keep, makes)
    names = _possible(plan, place, rounds.found)
    for turn, in_order in enumerate((names, names[::-1])):
        for name in in_order:
            _visit(plan, place, rounds, name, turn)
            if turn and name == DOUBLE and plan.kill_at and rounds.found.counted(DOUBLE):
                _show_kill(plan, place, rounds)
                keep(rounds.found)
    rounds.release()
    found = rounds.found
    place.clock.say(
        "\n".join([table(found, plan.names), "", *_ratio_lines(found, plan), *start_lines(found)])
    )
    return found


def _possible(plan: Replicas, place: Place, found: Found) -> list[str]:
    """Leave out, aloud, the layouts that cannot be had here."""
    names = []
    for name in plan.names:
        if reason := _obstacle(name, place.gpus):
            place.clock.say(f"{name}: left out: {reason}")
            found.more[f"{name} left out"] = reason
        else:
            names.append(name)
    return names


def _visit(plan: Replicas, place: Place, rounds: Rounds, name: str, turn: int) -> None:
    """Do one of a layout's two turns; one GPU's second is on the other GPU, if there is one."""
    num_gpus = LAYOUTS[name].num_gpus
    gpus = (place.gpus[::-1] if turn and num_gpus == 1 else place.gpus)[:num_gpus]
    requests = _requests(plan, name)
    jobs = [(requests, turn * plan.rounds + number) for number in range(plan.rounds)]
    rounds.visit(name, gpus, [requests] * plan.warm_rounds, jobs)


def _requests(plan: Replicas, name: str) -> Plan:
    return offline(plan.requests, copies=LAYOUTS[name].num_gpus)


def _obstacle(name: str, gpus: tuple[int, ...]) -> str:
    """Say why a layout cannot be had here; empty if it can."""
    layout = LAYOUTS[name]
    if not gpus:
        return "vLLM's CPU build fails with pipeline parallelism" if layout.pipeline > 1 else ""
    return f"needs {layout.num_gpus} GPUs, --gpus names {len(gpus)}" if layout.num_gpus > len(gpus) else ""


def _ratio_lines(found: Found, plan: Replicas) -> list[str]:
    """Divide each layout's median rate by that of one replica on one GPU."""
    if not found.counted(SINGLE):
        return []
    rates = {
        name: median(one.tokens_per_s for one in found.counted(name))
        for name in plan.names
        if found.counted(name)
    }
    return [f"tokens/s {name} / {SINGLE}: {rate / rates[SINGLE]:.4f}" for name, rate in rates.items()]


def _show_kill(plan: Replicas, place: Place, rounds: Rounds) -> None:
    """Run R2 once more with one replica killed; what is wrong goes to `found.failures`."""
    found = rounds.found
    if place.clock.over:
        found.not_run.append("the kill")
        return
    side = rounds.hold(DOUBLE, place.gpus[: LAYOUTS[DOUBLE].num_gpus])
    if side is None:
        return
    took_s = median(one.seconds for one in found.counted(DOUBLE))
    requests = _requests(plan, DOUBLE)
    try:
        killed = kill_one(side, requests, plan.kill_at * took_s, plan.back_timeout_s)
    except (RuntimeError, OSError, grpc.RpcError) as error:
        found.failures.append(f"the kill: {error}")
    else:
        found.more["kill"] = killed | {"undisturbed_s": took_s}
        place.clock.say("a replica killed: " + ", ".join(f"{name} {value}" for name, value in killed.items()))
        expected = place.setting.work.num_tokens(requests)
        if killed["outcome"] != "VALID" or (killed["tokens"] != expected and plan.stop_token_id < 0):
            found.failures.append(f"the kill: {killed['outcome']}, {killed['tokens']} tokens, not {expected}")


def kill_one(side: Side, requests: Plan, after_s: float, back_timeout_s: float) -> dict[str, Any]:
    """Run the coordinator, kill the node's last replica meanwhile, and wait until it serves again.

    Args:
        side: A Node of two replicas.
        requests: What the coordinator asks for.
        after_s: From the run's begin to the kill.
        back_timeout_s: Bound of the wait for the replica.

    Raises:
        RuntimeError: The run failed, or ended before the kill.
    """
    assert isinstance(side, Node)
    label = f"{side.label}-killed"
    argv, log = coordinator_argv(side.setting, side.port, requests, label)
    process = side.setting.processes.start(argv, log)
    wait_says(process, log, BEGUN_WORDS, BEGIN_TIMEOUT_S, f"{label}: no run")
    pid = side.replica_pids()[-1]
    time.sleep(after_s)
    if process.poll() is not None:
        raise RuntimeError(f"{label}: the run ended before the kill: {tail(log)}")
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    _wait_gone(side)
    times = _wait_back(side, process, killed_s, back_timeout_s)
    if process.poll() is None:
        raise RuntimeError(f"{label}: not done {back_timeout_s:g} s after the kill: {tail(log)}")
    return _read_killed(side, label, log, process.returncode, requests) | times


def _wait_gone(side: Node) -> None:
    """Wait until the node has noticed.

    Raises:
        RuntimeError: It does not.
    """
    deadline_s = time.monotonic() + NOTICE_TIMEOUT_S
    while serves_grpc(side.port):
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{side.label}: a killed replica still serves after {NOTICE_TIMEOUT_S:g} s")
        time.sleep(POLL_S)


def _wait_back(
    side: Node, process: "subprocess.Popen[bytes]", killed_s: float, timeout_s: float
) -> dict[str, float | None]:
    """Wait until both replicas serve and the run has ended; returns when, in seconds since the kill."""
    times: dict[str, float | None] = {"serves_again_s": None, "run_ended_s": None}
    while time.monotonic() < killed_s + timeout_s and None in times.values():
        now_s = time.monotonic() - killed_s
        if times["run_ended_s"] is None and process.poll() is not None:
            times["run_ended_s"] = now_s
        if times["serves_again_s"] is None and serves_grpc(side.port):
            times["serves_again_s"] = now_s
        time.sleep(POLL_S)
    return times


def _read_killed(side: Node, label: str, log: Path, exit_code: int, requests: Plan) -> dict[str, Any]:
    run_dir = side.setting.directory / label / requests.scenario / "performance"
    record, detail = read_run(label, Ended(exit_code, 0.0, CpuCurve([], [])), log, run_dir)
    begin_s, end_s = loadgen_window_s(detail)
    summary = record["summary"]
    reported = int(summary["answer_tokens"]["count"] * summary["answer_tokens"]["mean"] + 0.5)
    return {
        "outcome": record["verdict"]["outcome"],
        "seconds": end_s - begin_s,
        "tokens": reported,
        "checks": {check["name"]: check["seen"] for check in record["verdict"]["checks"]},
        "losses": summary["losses"],
        "continued": len(summary["continuations"]),
        "streams": [worker["streams"] for worker in summary["workers"]],
    }
