"""Results of a coordinator's run, and the order of the sides in a round."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.processes import Ended, tail
from sut.results.logs import DetailLog, read_detail


def read_run(name: str, ended: Ended, log: Path, run_dir: Path) -> tuple[dict[str, Any], DetailLog]:
    """Read what a coordinator left: run.json, and LoadGen's detail log.

    Args:
        name: For the error.
        ended: Its process.
        log: What that printed.
        run_dir: Of the run's files.

    Raises:
        RuntimeError: It failed, or its verdict rejected the run.
    """
    # 3: complete, but not VALID by LoadGen's limits, which are no matter here.
    if ended.exit_code not in (0, 3):
        raise RuntimeError(f"{name}: exit code {ended.exit_code}: {tail(log)}")
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    detail_log = run_dir / "mlperf_log_detail.txt"
    if not detail_log.exists():  # set aside under another name
        raise RuntimeError(f"{name}: the run was rejected: {record['verdict']['reason']}")
    return record, read_detail(detail_log)


def loadgen_window_s(detail: DetailLog) -> tuple[float, float]:
    """Read begin and end of LoadGen's test, in seconds of the system clock; it ran with TZ=UTC."""
    begin_s, end_s = (
        datetime.strptime(str(detail.values[key]), "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
        for key in ("power_begin", "power_end")
    )
    return begin_s, end_s


def order_of(number: int, num_sides: int) -> list[int]:
    """Give the order of a round: none always comes first, or after the same one."""
    turn = number % num_sides
    order = [*range(turn, num_sides), *range(turn)]
    return order[::-1] if number % 2 else order
