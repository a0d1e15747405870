"""`python -m bench.soak`: memory and descriptors of a coordinator while workers are killed and restarted.

See bench/README.md for what is measured and how to read the output.
"""

import argparse
import dataclasses
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.command import check_output, describe_machine, run_command, say, write_record
from bench.flag_help import FlagFormatter, add_fields
from bench.process_usage import Growth
from bench.processes import Processes
from bench.soak.soak_run import Leftover, Plan, Soak
from bench.soak.verdict import Check, judge, returns, steady


def main(argv: list[str]) -> int:
    """Run the soak, print and write its figures. Return 0: passed, 1: not passed, 2: bad input."""
    try:
        args = _parse(argv)
        plan = Plan(**{field.name: _value(args, field.name) for field in dataclasses.fields(Plan)})
        check_output(args.output)
    except ValueError as error:
        say(f"bench.soak: {error}")
        return 2
    machine = describe_machine()
    say(f"soak          {plan}")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-soak-") as name, Processes() as processes:
            left = Soak(plan, processes, Path(name)).run()
    except RuntimeError as error:
        say(f"bench.soak: {error}")
        return 1
    checks = judge(left)
    say(table(left, checks))
    write_record(args.output, compose_record(machine, plan, left, checks))
    return 0 if all(check.passed for check in checks) else 1


def table(left: Leftover, checks: list[Check]) -> str:
    """Format the figures and the checks."""
    lines = [""]
    if not all(check.passed for check in checks):
        lines += ["end of the coordinator's log:", left.log, ""]
    lines += [f"{name:<20}{seen}" for name, seen in describe(left).items()]
    lines += ["", *(f"{'ok  ' if c.passed else 'FAIL'} {c.name:<15}{c.seen}" for c in checks)]
    return "\n".join(lines)


def describe(left: Leftover) -> dict[str, str]:
    """Summarize the soak, one line per name."""
    summary, found = left.record["summary"], returns(left)
    kept = steady(left)
    seen = {
        "queries": f"{summary['latency_ns']['count']}, {left.num_answers} answers compared",
        "kills": f"{len(left.kills)}, {len(summary['losses'])} losses, {found.num_unexplained} unexplained",
        "time to detect": _spread_ms(found.detect_ms),
        "taken back": f"{found.num_back} times, {found.num_late} kills too late for a return before the end",
        "continuations": f"{len(summary['continuations'])} times a request continued on another worker",
        "tokens kept": str(sum(loss["kept_tokens"] for loss in summary["losses"])),
        "tokens resent": str(sum(loss["resent_tokens"] for loss in summary["losses"])),
    }
    if len(kept) >= 2:
        times_s = [sample.at_s for sample in kept]
        span_s = times_s[-1] - times_s[0]
        cpu_s = kept[-1].usage.cpu_s - kept[0].usage.cpu_s
        pss_kib = [s.usage.pss_kib for s in kept if s.usage.pss_kib is not None]
        if len(pss_kib) == len(kept):
            pss = Growth.of(times_s, pss_kib)
            seen["PSS"] = (
                f"{pss.first / 1024:.1f} -> {pss.last / 1024:.1f} MiB, {pss.per_minute:+.1f} KiB/min"
            )
        threads = Growth.of(times_s, [s.usage.threads for s in kept])
        seen["threads"] = f"{threads.first:.0f} first, {threads.last:.0f} last, {threads.highest:.0f} highest"
        seen["CPU"] = f"{100 * cpu_s / span_s:.1f} % of a core over {span_s / 60:.1f} min"
    return seen


def compose_record(
    machine: dict[str, str], plan: Plan, left: Leftover, checks: list[Check]
) -> dict[str, object]:
    """Build the --output record: checks, figures, every sample, kill and loss."""
    summary = left.record["summary"]
    begun_s = left.samples[0].at_s if left.samples else 0.0
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "plan": dataclasses.asdict(plan),
        "exit_code": left.exit_code,
        "checks": [check._asdict() for check in checks],
        "seen": describe(left),
        "verdict": left.record["verdict"],
        "loadgen": left.record["loadgen"],
        "wrong_answers": left.wrong,
        "samples": [
            {"s": round(sample.at_s - begun_s, 2), "serving": sample.serving, "kills": sample.kills}
            | sample.usage._asdict()
            for sample in left.samples
        ],
        "kills": [kill._asdict() for kill in left.kills],
        "losses": summary["losses"],
        "num_continuations": len(summary["continuations"]),
    }


def _spread_ms(values: list[float]) -> str:
    if not values:
        return "no loss"
    return f"median {np.median(values):.0f} ms, highest {max(values):.0f} ms"


def _value(args: argparse.Namespace, name: str) -> Any:
    value = getattr(args, name)
    return tuple(value) if isinstance(value, list) else value


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter,
        prog="python -m bench.soak",
        allow_abbrev=False,
        description="Kill workers during a long run.",
    )
    add_fields(parser, Plan, {"step_ms": 2, "answer_tokens": 2})
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for all figures and samples")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
