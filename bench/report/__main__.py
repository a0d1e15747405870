"""`python -m bench.report`: the report of a run of 541,200 requests over 72 workers, from invented files."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.command import check_output, describe_machine, run_command, say, write_record
from bench.flag_help import FlagFormatter
from bench.processes import Processes, tail
from common.flags import FlagError
from sut.results.timing.requests_file import write_parquet

MAX_S, MAX_RSS_GIB, MAX_PAGE_BYTES = 60.0, 1.0, 1_500_000
"""Goals."""
TIMEOUT_S = 1800.0
_RUN_ID = "server-performance-0"
_MS = 1_000_000
_SECOND = 1000 * _MS


def main(argv: list[str]) -> int:
    """Make the report and print the figures; return 1 if a goal is missed, 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        if args.requests < 1 or args.workers < 1 or args.hours <= 0:
            raise FlagError("--requests, --workers, --hours", "have to be above 0")
        check_output(args.output)
    except ValueError as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 2
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        _write_run(run_dir, args.requests, args.workers, int(args.hours * 3600))
        figures = _measure(run_dir)
    say(", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
    met = figures["wall_s"] <= MAX_S and figures["rss_gib"] <= MAX_RSS_GIB
    met = met and figures["page_bytes"] <= MAX_PAGE_BYTES
    flags = {name: str(value) for name, value in vars(args).items()}
    write_record(args.output, {"machine": machine, "flags": flags, "figures": figures, "goals_met": met})
    return 0 if met else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.report", description=__doc__
    )
    parser.add_argument("--requests", type=int, default=541_200, help="rows of requests.parquet")
    parser.add_argument("--workers", type=int, default=72, help="workers of the run")
    parser.add_argument(
        "--hours", type=float, default=1.0, help="length of the run: one row a worker and second"
    )
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    return parser


def _measure(run_dir: Path) -> dict[str, float]:
    """Make the report in a process of its own."""
    output = run_dir / "output.txt"
    began_s = time.monotonic()
    with Processes() as processes:
        ended = processes.run(["sut.results.report", str(run_dir)], output, TIMEOUT_S)
    wall_s = time.monotonic() - began_s
    if ended.exit_code:
        raise RuntimeError(f"the report ended with {ended.exit_code}: {tail(output)}")
    return {
        "wall_s": wall_s,
        "cpu_s": ended.cpu_s,
        "rss_gib": ended.peak_mib / 1024,
        "page_bytes": (run_dir / "report.html").stat().st_size,
        "requests_bytes": (run_dir / "requests.parquet").stat().st_size,
    }


def _write_run(run_dir: Path, num: int, num_workers: int, num_s: int) -> None:
    verdict = {"outcome": "VALID", "reason": "", "checks": [], "deviations": []}
    workers = [
        {"address": f"worker-{index}:50051", "requests": num // num_workers} for index in range(num_workers)
    ]
    record = {
        "run_id": _RUN_ID,
        "scenario": "server",
        "mode": "performance",
        "verdict": verdict,
    }
    (run_dir / "run.json").write_text(
        json.dumps(record | {"summary": {"workers": workers}}), encoding="utf-8"
    )
    owner = {"run_id": _RUN_ID}
    write_parquet(run_dir / "requests.parquet", pa.table(_requests(num, num_workers, num_s)), owner)
    write_parquet(run_dir / "timeline.parquet", pa.table(_timeline(num_workers, num_s)), owner)


def _requests(
    num: int, num_workers: int, num_s: int
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Draw requests: issue at random, TTFT around 0.3 s, 11 ms a token, answers of about 1,300 tokens."""
    random = np.random.default_rng(0)
    issued = np.sort(random.integers(0, num_s * _SECOND, num))
    first = issued + (random.lognormal(np.log(300), 0.5, num) * _MS).astype(np.int64)
    tokens = np.clip(random.lognormal(6.7, 0.9, num).astype(np.int64), 2, 10_240)
    done = first + (tokens - 1) * random.normal(11 * _MS, _MS, num).astype(np.int64)
    found = {"worker": np.arange(num) % num_workers, "prompt_tokens": random.integers(20, 15_000, num)}
    found |= {"answer_tokens": tokens, "losses": np.zeros(num, np.int64), "scheduled_ns": issued - _MS}
    found |= {"issued_ns": issued, "sent_ns": issued + _MS, "clock_error_ns": np.full(num, _MS)}
    found |= {"first_arrival_ns": first, "first_reported_ns": first + _MS}
    return found | {"done_arrival_ns": done, "done_reported_ns": done + _MS}


def _timeline(num_workers: int, num_s: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Make one row a worker and second, and one of the coordinator."""
    second = np.repeat(np.arange(num_s, dtype=np.float64), num_workers + 1)
    worker = np.tile(np.arange(-1, num_workers), num_s).astype(np.float64)
    load = 100 + 50 * np.sin(second / 100) + worker
    found = {"time_ns": second * _SECOND, "worker": worker, "running": load, "waiting": load / 10}
    found |= {
        "kv_use": load / 1000,
        "tokens": second * 1000,
        "gpu_power_w": load * 5,
        "gpu_clock_mhz": load * 10,
    }
    return found | {"gpu_memory_bytes": load * 2**30, "gpu_temperature_c": load / 2}


if __name__ == "__main__":
    run_command(main)
