"""Results of a coordinator run, and the order of the sides in a round."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.processes import Ended, tail
from sut.log_files import DETAIL, find_log
from sut.results.logs import DetailLog, read_detail

RUN_JSON = "run.json"
# The drivers of the peers in bench.peers judge nothing: each of their answers is compared.
_NO_VERDICT: dict[str, Any] = {"checks": [], "reason": ""}


def read_run(name: str, ended: Ended, log: Path, run_dir: Path) -> tuple[dict[str, Any], DetailLog]:
    """Read the files of a coordinator run: run.json and LoadGen's detail log.

    Args:
        name: Name of the run in error messages.
        ended: The ended coordinator process.
        log: Log of that process.
        run_dir: Output directory of the run.

    Raises:
        RuntimeError: The coordinator failed, or its verdict rejects the run.
    """
    # 3: complete, but not VALID by LoadGen's limits, which do not matter here.
    if ended.exit_code not in (0, 3):
        raise RuntimeError(f"{name}: exit code {ended.exit_code}: {_reason(run_dir) or tail(log)}")
    record = json.loads((run_dir / RUN_JSON).read_text(encoding="utf-8"))
    verdict = record.get("verdict", _NO_VERDICT)
    failed = {check["name"] for check in verdict["checks"] if not check["passed"]}
    if failed - {"loadgen_result"}:
        raise RuntimeError(f"{name}: the run was rejected: {verdict['reason']}")
    return record, read_detail(find_log(run_dir, DETAIL))


def _reason(run_dir: Path) -> str:
    """Return why a run failed by its run.json; empty without one, or if it did not come to its end."""
    path = run_dir / RUN_JSON
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    reason: str = record.get("verdict", _NO_VERDICT)["reason"]
    return reason


def loadgen_window_s(detail: DetailLog) -> tuple[float, float]:
    """Return begin and end of LoadGen's test in seconds of the system clock; LoadGen ran with TZ=UTC."""
    begin_s, end_s = (
        datetime.strptime(str(detail.values[key]), "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
        for key in ("power_begin", "power_end")
    )
    return begin_s, end_s


def order_of(number: int, num_sides: int) -> list[int]:
    """Return the order of the sides in a round: first place and neighbors change from round to round."""
    turn = number % num_sides
    order = [*range(turn, num_sides), *range(turn)]
    return order[::-1] if number % 2 else order
