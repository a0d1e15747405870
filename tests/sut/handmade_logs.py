"""LoadGen logs written by hand for tests: a good run over three samples, which tests then modify."""

import json
from pathlib import Path
from typing import Any

from sut.benchmark import BENCHMARK, V6_1
from sut.loadgen_conf import AUDIT_FLAG, parse_conf
from sut.results.checks import Counts
from sut.results.deviations import EngineReport, Setup
from sut.results.telemetry import ClockFigures, CoreFigures, Pauses, Telemetry
from sut.results.verdict import Verdict, judge
from sut.settings import GenerationConfig, Mode, Scenario

OFFLINE, SERVER, INTERACTIVE = Scenario.OFFLINE, Scenario.SERVER, Scenario.INTERACTIVE
PERFORMANCE, ACCURACY = Mode.PERFORMANCE, Mode.ACCURACY
S = 10**9
# <|return|>, <|endoftext|> and <|call|>, in the order of the official generation_config.json.
STOP_IDS = (200_002, 199_999, 200_012)
# Three answers: 18 19 200002, 21 200002 and 200002, as LoadGen writes them.
ANSWERS = ["1200000013000000420D0300", "15000000420D0300", "420D0300"]
# The coordinator's counts over the three: 6 tokens, one answer of a single token.
COUNTS: dict[str, Any] = {
    "num_issued": 3,
    "num_done": 3,
    "num_distinct": 3,
    "num_short": 1,
    "received_tokens": 6,
    "reported_tokens": 6,
    "produced_tokens": 6,
    "lost_tokens": 0,
    "dropped_tokens": 0,
    "spec_hashes": ("a" * 64, "a" * 64),
    "num_losses": 0,
    "num_continued": 0,
    "num_repeated_answers": 0,
    "num_equal_answers": 0,
    "num_silent": 0,
    "execution_differences": (),
}
GOOD = {
    "result_validity": "VALID",
    "result_invalid_reason": "",
    "power_end": "",
    "num_errors": 0,
    "effective_performance_sample_count": 6396,
}
# 3 samples and 5 tokens in 0.1 s: LoadGen leaves the token of the one-token answer out.
RATES = {
    "result_query_count": 1,
    "generated_samples_per_query": 3,
    "result_tokens_per_second": 50,
    "result_samples_per_second": 30,
}
# LoadGen's settings in a compliance test with the official audit.config: it logs every answer.
AUDITED = {
    "effective_accuracy_log_sampling_target": 10_000,
    "effective_target_qps": 21.5,
    "effective_min_duration_ms": 0,
    "effective_min_sample_count": 100,
}
STEADY_CLOCK = ClockFigures(num_looks=11, elapsed_ns=10 * S, worst_step_ns=20_000, drift_ns=-300_000)
STEADY = Telemetry(
    gc=Pauses(num=4, total_ns=8_000_000, worst_ns=5_000_000),
    loop=Pauses(num=100, total_ns=50_000_000, worst_ns=100_000_000),
    issue=Pauses(num=103, total_ns=60_000_000, worst_ns=20_000_000),
    cores=CoreFigures(elapsed_ns=10 * S, waited_ns=S // 2, num_periods=100, num_throttled=1),
    clock=STEADY_CLOCK,
)


def detail_line(key: str, value: object, is_error: bool = False) -> str:
    """Write one line of mlperf_log_detail.txt."""
    metadata = {
        "is_error": is_error,
        "is_warning": False,
        "file": "logging.cc",
        "line_no": 1,
        "pid": 2,
        "tid": 3,
    }
    entry = {"key": key, "value": value, "time_ms": 0.5, "namespace": "mlperf::logging", "metadata": metadata}
    return f":::MLLOG {json.dumps(entry)}\n"


def accuracy_line(sample: int, data: str, token_count: int) -> str:
    """Write one entry of mlperf_log_accuracy.json, with LoadGen's spaces."""
    return f'{{ "seq_id" : 0, "qsl_idx" : {sample}, "data" : "{data}", "token_count" : {token_count} }}'


def entries(*samples: int) -> list[str]:
    """Write an entry for each of the samples, with its own answer."""
    return [accuracy_line(sample, ANSWERS[sample % 3], 3 - sample % 3) for sample in samples]


def write_logs(directory: Path, values: dict[str, object], errors: list[str], accuracy: list[str]) -> None:
    """Write the two logs that a verdict reads."""
    lines = [detail_line(key, value) for key, value in values.items()]
    lines += [detail_line("error_runtime", text, is_error=True) for text in errors]
    (directory / "mlperf_log_detail.txt").write_text("".join(lines))
    body = ",\n".join(accuracy) + "\n" if accuracy else ""
    (directory / "mlperf_log_accuracy.json").write_text(f"[\n{body}]\n")


def setup_of(
    scenario: Scenario = OFFLINE, mode: Mode = PERFORMANCE, num_samples: int = 6396, **changed: Any
) -> Setup:
    """Set up a submission run on one worker, with changes; an audit.config may be given as its text."""
    budget = 32_768 if mode is ACCURACY else 10_240
    official: dict[str, Any] = {
        "column_names": ("tok_input", "dataset", "ground_truth"),
        "rows_by_dataset": BENCHMARK.accuracy_rows if mode is ACCURACY else {},
        "generation": GenerationConfig(max_new_tokens=budget),
        "audit_config": None,
        "engines": (EngineReport("a:1", "vllm", {"enable_prefix_caching": "false"}, STOP_IDS),),
        "seeds": V6_1.seeds,
        "random_weights": False,
    }
    values = official | changed
    if isinstance(values["audit_config"], str):
        values["audit_config"] = parse_conf(AUDIT_FLAG, values["audit_config"]).values
    return Setup(scenario=scenario, mode=mode, num_samples=num_samples, **values)


def verdict_of(
    directory: Path,
    mode: Mode,
    *,
    values: dict[str, object] | None = None,
    errors: list[str] | None = None,
    accuracy: list[str] | None = None,
    counts: dict[str, Any] | None = None,
    telemetry: Telemetry = STEADY,
    drop: str = "",
    **setup: Any,
) -> Verdict:
    """Judge a good run over three samples, with changes and without the key `drop` in the detail log."""
    logged = (entries(1, 0, 2) if mode is ACCURACY else []) if accuracy is None else accuracy
    found = GOOD | (RATES if mode is PERFORMANCE else {}) | (values or {})
    found.pop(drop, None)
    write_logs(directory, found, errors or [], logged)
    changed = setup_of(OFFLINE, mode, 3, **setup)
    return judge(directory, changed, Counts(**(COUNTS | (counts or {}))), telemetry)[0]
