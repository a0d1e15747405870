"""Converts requests to OpenTelemetry spans, and sends them to a collector or writes them to a file.

Only `tokenfleet spans` imports this module: the packages are those of the extra `otel`.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_span_in_context

from common.atomic_files import whole_file
from tokenfleet.spans.sampled_requests import parts

BATCH = 512
"""Spans in one message."""
TIMEOUT_S = 10
# OTLP/JSON has these as hexadecimal, where protobuf's JSON has base64.
_IDS = ("traceId", "spanId", "parentSpanId")


def build_spans(
    rows: Sequence[dict[str, object]], run: dict[str, str], addresses: Sequence[str], origin_ns: int
) -> list[ReadableSpan]:
    """Make one trace per request: a root span, and a child for each of its parts.

    Args:
        rows: Rows of requests.parquet.
        run: Attributes of the run.
        addresses: The run's workers, in the order of their indices.
        origin_ns: System time, ns since 1970, at which the run's first query was issued.
    """
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "tokenfleet", **run}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tokenfleet.spans")
    for row in rows:
        found = list(parts(row))
        root = tracer.start_span(
            "request", start_time=origin_ns + found[0].begin_ns, attributes=_attributes(row, addresses)
        )
        for part in found:
            child = tracer.start_span(
                part.name, context=set_span_in_context(root), start_time=origin_ns + part.begin_ns
            )
            child.end(origin_ns + part.end_ns)
        root.end(origin_ns + found[-1].end_ns)
    return list(memory.get_finished_spans())


def _attributes(row: dict[str, object], addresses: Sequence[str]) -> dict[str, str | int | bool]:
    worker, error_ns = row["worker"], row["clock_error_ns"]
    assert isinstance(worker, int)
    values = {
        "gen_ai.usage.input_tokens": row["prompt_tokens"],
        "gen_ai.usage.output_tokens": row["answer_tokens"],
        "gen_ai.response.finish_reasons": row["finish_reason"],
        "server.address": addresses[worker] if 0 <= worker < len(addresses) else None,
        "tokenfleet.query": row["query"],
        "tokenfleet.sample": row["sample"],
        "tokenfleet.losses": row["losses"],
        "tokenfleet.clock_error_ns": error_ns,
    }
    return {name: value for name, value in values.items() if isinstance(value, str | int | bool)}


def write_spans(path: Path, spans: Sequence[ReadableSpan]) -> None:
    """Write spans as lines of OTLP/JSON, as a collector's file exporter does; whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for batch in _batches(spans):
            content = MessageToDict(encode_spans(batch))
            for resource in content["resourceSpans"]:
                for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                    span.update({key: base64.b64decode(span[key]).hex() for key in _IDS if key in span})
            file.write(json.dumps(content) + "\n")


def send_spans(endpoint: str, spans: Sequence[ReadableSpan]) -> bool:
    """Send spans to an OTLP/HTTP endpoint; returns whether it has taken all."""
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)
    try:
        return all(exporter.export(batch) is SpanExportResult.SUCCESS for batch in _batches(spans))
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _batches(spans: Sequence[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
    for first in range(0, len(spans), BATCH):
        yield spans[first : first + BATCH]
