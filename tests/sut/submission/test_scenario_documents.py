"""measurements.json and README.md of a scenario, from the record of a run."""

from pathlib import Path
from typing import Any

import pytest

from sut.results.submission.recorded_runs import RecordedRun, RunKind
from sut.results.submission.scenario_documents import measure, scenario_readme
from sut.settings import Scenario


def run_with(kind: RunKind, *infos: dict[str, Any], **config: str) -> RecordedRun:
    """Describe a run over workers that said this about their engines."""
    record = {
        "summary": {"workers": [{"stream_infos": [info]} for info in infos]},
        "config": config,
        "dataset": {"path": "acc.parquet", "num_samples": 4395, "sha256": "f"},
        "directory": "results/offline/accuracy",
    }
    return RecordedRun(Path("runs"), Scenario.OFFLINE, kind, record)


@pytest.mark.parametrize(
    ("engine", "facts", "data_type"),
    [
        ("vllm", {"quantization": '"mxfp4"', "dtype": '"torch.bfloat16"'}, "mxfp4"),
        ("vllm", {"quantization": "null", "dtype": '"torch.bfloat16"'}, "torch.bfloat16"),
        ("vllm", {}, ""),
        ("replay", {}, "none"),
    ],
)
def test_the_data_type_of_the_weights_is_that_of_the_engine(
    engine: str, facts: dict[str, str], data_type: str
) -> None:
    """A real engine that does not say it is asked for; an engine without weights has none."""
    info = {"engine": engine, "model": "m", "model_hash": "h", "engine_facts": facts}
    found = measure(run_with(RunKind.PERFORMANCE, info), {})
    assert data_type == found.values["weight_data_types"]
    assert ("weight_data_types" in found.missing) == (data_type == "")


def test_equal_workers_have_one_command() -> None:
    """The order in which a worker reports its arguments is no difference between workers."""
    pairs = [("step_ms", "5.0"), ("answers", '"a.parquet"')]
    infos = [{"engine": "replay", "engine_args": dict(order)} for order in (pairs, pairs[::-1])]
    lines = scenario_readme(
        "Offline", {RunKind.ACCURACY: run_with(RunKind.ACCURACY, *infos)}, []
    ).splitlines()
    workers = [line for line in lines if line.startswith("tokenfleet worker")]
    assert ["tokenfleet worker --engine replay --answers a.parquet --step-ms 5.0"] == workers


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, "--tokenizer TOKENIZER --lcb-tests LCB_TESTS"),
        ({"tokenizer": "m", "lcb_tests": "t.jsonl"}, "--tokenizer m --lcb-tests t.jsonl"),
    ],
)
def test_the_grading_command_has_each_flag_that_it_needs(config: dict[str, str], files: str) -> None:
    """The files are those of the run; words in capitals stand for those that it did not know."""
    text = scenario_readme("Offline", {RunKind.ACCURACY: run_with(RunKind.ACCURACY, **config)}, [])
    log = "results/offline/accuracy/mlperf_log_accuracy.json"
    assert f"tokenfleet accuracy --mlperf-log {log} --reference-data acc.parquet {files}\n" in text
