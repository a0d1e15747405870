"""The product's part of a round in bench.gpu: one coordinator run with LoadGen, over a worker or node."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu.answers import Answered
from bench.gpu.load import Plan, Work
from bench.gpu.loadgen import spreads_of, user_conf_of
from bench.processes import Processes, argv_of
from bench.runs import loadgen_window_s, read_run
from sut.results.comparison.request_rates import read_columns, read_rate_before_tail
from sut.settings import Scenario
from tokenfleet.find_qps.search_results import is_lost, read_ended_record

# Time beyond the end of the round for a client and its answer, and for the start of the interpreter.
SPARE_S = 30.0


class Setting(NamedTuple):
    """Settings that all sides share."""

    processes: Processes
    work: Work
    flags: Sequence[str]
    """vLLM's flags."""
    directory: Path
    """Directory for all files."""
    round_timeout_s: float
    """Bound of a round's time beyond that of the arrivals."""
    sglang_flags: Sequence[str] = ()

    def timeout_s(self, plan: Plan) -> float:
        """Return how long to wait for the answer of a round."""
        return plan.arrivals_s + self.round_timeout_s + SPARE_S


class GivenUpError(Exception):
    """More queries of a run than a VALID one may have are over a latency limit, and it was ended."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        """Take the content of run.json."""
        super().__init__(record["verdict"]["reason"])
        self.record = record


def coordinate(setting: Setting, port: int, plan: Plan, label: str) -> Answered:
    """Run a coordinator over a worker or node of this machine, and read its results.

    Raises:
        GivenUpError: The plan bounds the queries over a limit, and the run could not be VALID any more.
        RuntimeError: The coordinator failed.
    """
    argv, log = coordinator_argv(setting, port, plan, label)
    ended = setting.processes.run(argv, log, setting.timeout_s(plan))
    run_dir = setting.directory / label / plan.scenario / "performance"
    if ended.exit_code == 1 and (known := read_ended_record(run_dir)) and _is_given_up(known):
        raise GivenUpError(known)
    record, detail = read_run(label, ended, log, run_dir)
    if detail.errors:
        raise RuntimeError(f"{label}: LoadGen counts {len(detail.errors)} errors")
    begin_s, end_s = loadgen_window_s(detail)
    workers = record["summary"]["workers"]
    is_offline = plan.scenario is Scenario.OFFLINE
    ttft_ms, tpot_ms = ({}, {}) if is_offline else spreads_of(detail)
    verdict = record["verdict"]
    rate = read_rate_before_tail(run_dir, record["run_id"]) if is_offline else None
    return Answered(
        begin_s=begin_s,
        end_s=end_s,
        requests=sum(worker["requests"] for worker in workers),
        tokens=sum(worker["tokens"] for worker in workers),
        client_cpu_s=ended.curve.between(begin_s, end_s),
        verdict=f"{verdict['outcome']} {verdict['reason']}".strip(),
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        tokens_per_s_before_tail=rate,
        compiled_kernels=_num_compiled(workers),
        request_ttft_ms=[] if is_offline else _request_ttft_ms(run_dir, record["run_id"], len(plan.samples)),
    )


def _is_given_up(record: Mapping[str, Any]) -> bool:
    """Return whether a run was ended for its rate, and not because its worker was lost."""
    return is_lost(record) and not record["summary"]["losses"]


def _request_ttft_ms(run_dir: Path, run_id: str, num_requests: int) -> list[float]:
    """Return each request's TTFT in the order of issue; empty if it is not known of all."""
    columns = read_columns(run_dir, run_id, ("query", "scheduled_ns", "first_reported_ns"))
    if columns is None or len(columns[0]) < num_requests:
        return []
    query, scheduled_ns, first_ns = columns
    ttft_ms: list[float] = ((first_ns - scheduled_ns)[query.argsort()] / 1e6).tolist()
    return ttft_ms


def _num_compiled(workers: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the kernels that the workers' engines compiled in the run; None if an engine does not tell."""
    nums = [one["compiled_kernels"] and one["compiled_kernels"]["num"] for one in workers]
    return None if None in nums else sum(nums)


def coordinator_argv(setting: Setting, port: int, plan: Plan, label: str) -> tuple[list[str], Path]:
    """Return a coordinator's command line and the path of its log."""
    user_conf = setting.directory / f"{label}.conf"
    user_conf.write_text(user_conf_of(plan), encoding="utf-8")
    generation = setting.directory / f"{label}.generation.json"
    generation.write_text(json.dumps({"temperature": setting.work.temperature}), encoding="utf-8")
    flags = {
        "--scenario": str(plan.scenario),
        "--input-file": setting.work.data,
        "--user-conf": user_conf,
        "--generation-config": generation,
        "--max-samples": plan.num_rows,
        "--workers": f"127.0.0.1:{port}",
        "--output-dir": setting.directory / label,
        "--max-new-tokens": setting.work.longest_answer,
    }
    if plan.max_over_latency is not None:
        flags["--max-over-latency"] = plan.max_over_latency
    # The only worker does not come back, and a page per round costs seconds of the GPU's time.
    switches = ["--on-worker-loss", "fail", "--no-report"]
    return ["bench.gpu.budgeted", *argv_of(flags), *switches], setting.directory / f"{label}.log"
