"""LoadGen in bench.gpu: its settings, its percentiles, and the order of the samples that it will issue.

`python -m bench.gpu.loadgen SCENARIO CONF NUM_SAMPLES DIR FILE.json` runs LoadGen over a SUT that answers
immediately, and writes the order of the samples and the seed of the schedule. A run of the product with the
same seeds has the same order and schedule.
"""

import json
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from bench.flag_help import prints_usage
from bench.gpu.load import Plan, arriving, offline
from bench.processes import Processes, tail
from bench.workload import compose_user_conf
from sut.loadgen import LoadGenTest
from sut.log_files import DETAIL, find_log
from sut.results.logs import DetailLog, read_detail
from sut.settings import Mode, Scenario
from sut.sut import SUT, Reports

# The order of the samples does not depend on the rate, so a dry run may use this rate.
DRY_QPS = 10_000.0
DRY_TIMEOUT_S = 120.0
_TTFT = "result_first_token_{:.2f}_percentile_latency_ns"
_TPOT = "result_time_per_output_token_{:.2f}_percentile_ns"
_PERCENTILES = (50, 90, 99)


def user_conf_of(plan: Plan) -> str:
    """Return the user.conf with which LoadGen issues a plan's requests, in LoadGen's order."""
    values = {
        "target_qps": plan.target_qps,
        "min_duration": 1,
        "min_query_count": len(plan.samples),
        # Without this LoadGen would draw from the model's official number of samples.
        "performance_sample_count_override": plan.num_rows,
    }
    return compose_user_conf([plan.scenario], values)


def spreads_of(detail: DetailLog) -> tuple[dict[str, float], dict[str, float]]:
    """Read LoadGen's percentiles of TTFT and TPOT, in ms, by name."""
    ttft_ms, tpot_ms = (
        {f"p{q}": float(str(detail.values[key.format(q)])) / 1e6 for q in _PERCENTILES}
        for key in (_TTFT, _TPOT)
    )
    return ttft_ms, tpot_ms


def draw_arrivals(processes: Processes, num_samples: int, target_qps: float, directory: Path) -> Plan:
    """Plan a Server run with LoadGen's order of the samples, each once, and its arrival times.

    Raises:
        RuntimeError: LoadGen failed.
    """
    dry = arriving(range(num_samples), 0, DRY_QPS)
    order = _dry_run(processes, dry, directory)
    return arriving(order["samples"], order["seed"], target_qps)


def draw_offline(processes: Processes, num_samples: int, directory: Path) -> Plan:
    """Plan an Offline run with LoadGen's order of the samples, each once.

    The order decides which answers are the last ones, and thereby the length of the tail.

    Raises:
        RuntimeError: LoadGen failed.
    """
    plan = offline(num_samples)
    order = _dry_run(processes, plan, directory)
    return plan._replace(samples=np.array(order["samples"], np.int64))


def _dry_run(processes: Processes, plan: Plan, directory: Path) -> dict[str, Any]:
    """Return the order of a plan's samples and the seed of the schedule."""
    num_samples = len(plan.samples)
    logs, found, log = (directory / f"{plan.name}-dry{end}" for end in ("", ".json", ".log"))
    logs.mkdir()
    conf = directory / f"{plan.name}-dry.conf"
    conf.write_text(user_conf_of(plan), encoding="utf-8")
    argv = ["bench.gpu.loadgen", str(plan.scenario), str(conf), str(num_samples), str(logs), str(found)]
    if processes.run(argv, log, DRY_TIMEOUT_S + num_samples / DRY_QPS).exit_code:
        raise RuntimeError(f"LoadGen's dry run failed: {tail(log)}")
    order: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return order


def main(argv: list[str]) -> int:
    """Run LoadGen over a SUT that answers immediately."""
    if prints_usage(argv, __doc__):
        return 0
    scenario = Scenario(argv[0])
    conf, num_samples, directory, output = argv[1:]
    issued: list[int] = []
    token = array("i", [0, 0])
    address = token.buffer_info()[0]

    def answer(ids: list[int], samples: list[int]) -> None:
        issued.extend(samples)
        if reports.reports_first_tokens:
            reports.first_tokens(ids, [address] * len(ids))
        reports.complete(ids, [address] * len(ids), [len(token)] * len(ids))

    sut, reports = SUT(answer, _die), Reports(scenario)
    test = LoadGenTest(Path(conf).read_text(encoding="utf-8"), scenario, Mode.PERFORMANCE)
    test.run(int(num_samples), sut.issue_queries, Path(directory), None)
    seed = read_detail(find_log(Path(directory), DETAIL)).values["effective_schedule_rng_seed"]
    Path(output).write_text(json.dumps({"samples": issued, "seed": seed}), encoding="utf-8")
    return 0


def _die(error: BaseException) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
