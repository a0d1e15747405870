"""The quantization page of a system: data types of weights, activations and KV cache, and the calibration.

The data types are what the engines of the runs reported, from their run.json. What calibration was used is
known to the submitter alone. Source: inference_rules.adoc, "Quantization": arbitrary quantization methods,
described in the submission, calibrated with nothing but the calibration data set.
"""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from common.json_document import JsonObject, as_mapping, value_or_text
from common.text import printable
from sut.results.recorded_workers import engine_infos_of

MAX_CELL_LEN = 600
MAX_CALIBRATION_LEN = 100_000


class _ReportedType(NamedTuple):
    """A row of the table that comes from one engine fact."""

    label: str
    fact: str
    required: bool = False
    """Whether vLLM reports it for every model."""


_REPORTED_TYPES = (
    _ReportedType("weights: quantization method", "quantization", required=True),
    _ReportedType("weights that the method leaves alone, and activations", "dtype", required=True),
    _ReportedType("KV cache", "kv_cache_dtype", required=True),
    _ReportedType("weights: load format", "load_format", required=True),
    _ReportedType("changed quantization configuration", "quantization_config"),
    _ReportedType("changed model configuration", "hf_overrides"),
    _ReportedType("KV cache scales computed at run time", "calculate_kv_scales"),
    _ReportedType("layers without a quantized KV cache", "kv_cache_dtype_skip_layers"),
    _ReportedType("speculative decoding", "speculative_config"),
)
# Backends that dequantize the experts' weights and multiply them with activations of the model's dtype.
# Source: vLLM 0.32, model_executor/layers/fused_moe/oracle/mxfp4.py.
_WEIGHT_ONLY_BACKENDS = frozenset(("marlin", "triton", "triton_unfused"))
# Environment variables by which vLLM chooses kernels of other data types.
_DATA_TYPES = ("MXFP", "FP8", "FP4", "QUANT")


class QuantizationError(ValueError):
    """The page cannot be complete; one line for each thing that is missing."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__("; ".join(missing))
        self.missing = missing


def quantization_page(system: str, records: Mapping[str, JsonObject], calibration: str) -> str:
    """Compose the page as Markdown.

    Args:
        system: Name of the system.
        records: Content of run.json by the scenario's name; one run of each scenario.
        calibration: The submitter's description of the calibration.

    Raises:
        QuantizationError: A run has no description of an engine, or the description of the calibration is
            missing.
    """
    engines = {scenario: tuple(engine_infos_of(record)) for scenario, record in records.items()}
    if missing := (*_missing_facts(engines), *_calibration_faults(calibration)):
        raise QuantizationError(missing)
    columns = {scenario: _column(found) for scenario, found in engines.items()}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    rows = [[label, *(column.get(label, "-") for column in columns.values())] for label in labels]
    lines = [
        f"# Quantization of {_cell(system)}",
        "",
        "Data types as the engines reported them in the runs of this submission.",
        "",
        *_table(["", *columns], rows),
        "",
        "## Calibration",
        "",
        calibration.strip(),
        "",
    ]
    return "\n".join(lines)


def _missing_facts(engines: Mapping[str, tuple[JsonObject, ...]]) -> Iterator[str]:
    for scenario, found in engines.items():
        if not found:
            yield f"run.json of {scenario}: no worker describes its engine"
        for kind in _REPORTED_TYPES if any(map(has_weights, found)) else ():
            if kind.required and any(kind.fact not in as_mapping(one.get("engine_facts")) for one in found):
                yield f"run.json of {scenario}: an engine does not report {kind.fact}"


def _calibration_faults(calibration: str) -> Iterator[str]:
    if not calibration.strip():
        yield "calibration: no description; say what was used, or that nothing was"
    elif len(calibration) > MAX_CALIBRATION_LEN:
        yield f"calibration: {len(calibration)} characters, at most {MAX_CALIBRATION_LEN}"


def _column(engines: tuple[JsonObject, ...]) -> dict[str, str]:
    """Describe the engines of one scenario, by row of the table."""
    found: dict[str, dict[str, None]] = {}
    for engine in engines:
        for label, text in _cells(engine):
            # Different values are listed beside each other.
            found.setdefault(label, {})[text] = None
    return {label: " / ".join(texts) for label, texts in found.items()}


def _cells(engine: JsonObject) -> Iterator[tuple[str, str]]:
    yield "engine", _cell(f"{engine.get('engine')} {engine.get('engine_version', '')}".strip())
    yield "model", _cell(engine.get("model"))
    yield "hash of the model's files", _cell(engine.get("model_hash"))
    if not has_weights(engine):
        yield _REPORTED_TYPES[0].label, f"none: the engine {_cell(engine.get('engine'))} has no weights"
        return
    if engine.get("weights_sha256"):
        yield "SHA-256 of all weight files", _cell(engine["weights_sha256"])
    facts, execution = (as_mapping(engine.get(name)) for name in ("engine_facts", "execution_facts"))
    for kind in _REPORTED_TYPES:
        if kind.fact in facts:
            yield kind.label, _described(kind.fact, _value(facts, kind.fact))
    yield "experts: kernels", _cell(_value(execution, "moe_backend"))
    yield "experts: activations", _expert_activations(facts, execution)
    for name in execution:
        if name.startswith("VLLM_") and any(word in name for word in _DATA_TYPES):
            yield _cell(name), _cell(_value(execution, name))


def _described(fact: str, value: object) -> str:
    if fact == "quantization" and value is None:
        return "none"
    if fact == "kv_cache_dtype" and value == "auto":
        return "auto: data type of the model"
    return _cell(value)


def _expert_activations(facts: JsonObject, execution: JsonObject) -> str:
    """Return the data type of the activations in the experts' matrix products, as far as it was reported."""
    if _value(facts, "quantization") is None or _value(execution, "moe_backend") in _WEIGHT_ONLY_BACKENDS:
        return _cell(_value(facts, "dtype"))
    return "not reported: vLLM chooses it with the kernels"


def has_weights(engine: JsonObject) -> bool:
    """Return whether an engine has weights; scripted engines have no data types."""
    return engine.get("engine") in ("vllm", "sglang")


def _value(facts: JsonObject, name: str) -> object:
    """Decode a fact: a value as JSON."""
    text = facts.get(name)
    return value_or_text(text) if isinstance(text, str) else text


def _cell(value: object) -> str:
    """Format a value for a cell of a Markdown table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return printable(text, MAX_CELL_LEN).replace("|", r"\|").replace("<", r"\<")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
