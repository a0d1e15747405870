"""`tokenfleet spans RUN_DIR`: a sample of a run's requests as OpenTelemetry spans, after the run.

Exit codes: 0 done, 1 the endpoint has not accepted them, 2 bad input or a file that cannot be written.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from common.command_exit import end_command, run_command
from common.flags import Flag, FlagError, Flags, Parser, add_flags, build
from common.named_refusals import naming_output
from common.text import print_table
from sut.results.report.run_json import RunJson
from tokenfleet.spans.sampled_requests import read_sample

NOT_ACCEPTED = 1
"""Exit code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpansConfig(Flags):
    """Which requests become spans, and where these go."""

    output: Annotated[Path | None, Flag("file for the spans, as lines of OTLP/JSON")] = None
    endpoint: Annotated[
        str | None,
        Flag("OTLP/HTTP endpoint, for example http://localhost:4318/v1/traces", metavar="URL"),
    ] = None
    sample: Annotated[int, Flag("number of requests, evenly spaced in order of issue", ge=1)] = 1000
    slowest: Annotated[
        int, Flag("number of requests with the largest TTFT that are exported in any case", ge=0)
    ] = 20

    def _check_together(self) -> None:
        if (self.output is None) == (self.endpoint is None):
            raise FlagError("--output", "give either --output or --endpoint")
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise FlagError("--endpoint", f"{self.endpoint!r} does not begin with http:// or https://")
        if self.output is not None and self.output.exists():
            raise FlagError("--output", "exists", self.output)


def main(argv: list[str]) -> int:
    """Export the spans and return the exit code."""
    return run_command("spans", _export, argv)


def _export(argv: list[str]) -> int:
    parser = Parser(allow_abbrev=False, description="Export requests of a run as OpenTelemetry spans.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of the run")
    add_flags(parser, SpansConfig)
    values = parser.parse_args(argv)
    config = build(SpansConfig, values)
    record = RunJson.read(values.run_dir)
    rows = read_sample(values.run_dir, record.text("run_id"), config.sample, config.slowest)
    try:
        from tokenfleet.spans.span_export import build_spans, send_spans, write_spans
    except ImportError as error:
        raise ValueError(f"install the extra otel (pip install '.[otel]'): {error}") from error

    run = {f"tokenfleet.{name}": record.text(name) for name in ("run_id", "scenario", "mode")}
    addresses = [str(worker.get("address", "")) for _, worker in record.entries("summary", "workers")]
    spans = build_spans(rows, run, addresses, _origin_ns(record))
    if config.endpoint is not None and not send_spans(config.endpoint, spans):
        reason = f"--endpoint {config.endpoint}: did not accept the spans of {len(rows)} requests"
        return end_command("spans", reason, NOT_ACCEPTED)
    if config.output is not None:
        with naming_output("--output", config.output):
            write_spans(config.output, spans)
    print_table(f"{len(rows)} requests, {len(spans)} spans: {config.output or config.endpoint}")
    return 0


def _origin_ns(record: RunJson) -> int:
    """Return the system time at which the test began, to a second.

    Raises:
        ValueError: run.json does not tell it.
    """
    started, ready_s = record.text("started_utc"), record.get("ready_s")
    if not isinstance(ready_s, int | float):
        raise ValueError("run.json has no ready_s")
    return int(datetime.fromisoformat(started).timestamp() * 1e9 + ready_s * 1e9)
