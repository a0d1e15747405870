"""The documents beside a scenario's logs: measurements.json and README.md."""

import json
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from common.json_document import as_mapping, as_text, entry, value_or_text
from common.text import printable
from sut.log_files import ACCURACY
from sut.results.submission.quantization import has_weights
from sut.results.submission.recorded_runs import RecordedRun, RunKind

MAX_TEXT_LEN = 4096
# Source: tools/submission/submission_checker/constants.py of v6.1.
MEASUREMENT_FIELDS = (
    "input_data_types",
    "retraining",
    "starting_weights_filename",
    "weight_data_types",
    "weight_transformations",
)
_ENGINE_FLAGS = ("model", "preset", "config_file")


class Measurements(NamedTuple):
    """The content of measurements.json."""

    values: Mapping[str, str]
    missing: tuple[str, ...]


def measure(run: RecordedRun, given: Mapping[str, str]) -> Measurements:
    """Fill the fields: from `given`, else from what the engines of a run said."""
    info = next(iter(run.engine_infos), {})
    weights = str(info.get("weights_sha256") or info.get("model_hash") or "")
    own = {
        "input_data_types": "int32",
        "retraining": "no",
        "starting_weights_filename": f"{info.get('model', '')} {weights}".strip(),
        "weight_data_types": _weight_type(info),
        "weight_transformations": "none",
    }
    values = {name: given.get(name) or own[name] for name in MEASUREMENT_FIELDS}
    return Measurements(values, tuple(name for name, value in values.items() if not value))


def _weight_type(info: Mapping[str, object]) -> str:
    """Return the quantization of the weights, else their data type; empty if the engine did not say."""
    if info and not has_weights(info):
        return "none"
    for name in ("quantization", "dtype"):
        value = value_or_text(as_text(entry(info, "engine_facts", name)))
        if value:
            return str(value)
    return ""


def run_command(run: RecordedRun) -> str:
    """Compose the command of a run from its resolved flags."""
    words = ["tokenfleet", "run"]
    for field, value in as_mapping(run.value("config")).items():
        # A configuration file's flags are among the resolved ones.
        if field != "config_file":
            words += _flag(f"--{str(field).replace('_', '-')}", value)
    return shlex.join(words)


def _flag(flag: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [flag, ",".join(map(str, value))] if value else []
    return [flag, str(value)]


def worker_commands(run: RecordedRun) -> list[str]:
    """Compose the command of each worker from the engine arguments that it reported."""
    return list(dict.fromkeys(shlex.join(_worker_words(info)) for info in run.engine_infos))


def _worker_words(info: Mapping[str, object]) -> list[str]:
    words = ["tokenfleet", "worker", "--engine", str(info.get("engine"))]
    if has_weights(info):
        words += ["--model", str(info.get("model"))]
    # The arguments arrive as a map, in another order from each worker.
    for name, text in sorted(as_mapping(info.get("engine_args")).items()):
        if name not in _ENGINE_FLAGS:
            words += _engine_flag(f"--{name.replace('_', '-')}", value_or_text(str(text)))
    return words


def _engine_flag(flag: str, value: object) -> list[str]:
    if isinstance(value, dict | list):
        return [flag, json.dumps(value)]
    return _flag(flag, value)


def scenario_readme(scenario: str, runs: Mapping[RunKind, RecordedRun], notes: list[str]) -> str:
    """Compose README.md of a scenario: what ran, and the exact commands.

    Args:
        scenario: By the name of its folder.
        runs: The scenario's runs.
        notes: Sentences that stand before everything else.
    """
    first = next(iter(runs.values()))
    info = next(iter(first.engine_infos), {})
    version, commit, loadgen = (
        first.text("versions", name) for name in ("tokenfleet", "commit", "mlcommons_loadgen")
    )
    facts = {
        "code": f"tokenfleet {version}, commit {commit}",
        "LoadGen": loadgen,
        "engine": f"{info.get('engine')} {info.get('engine_version')}",
        "model": f"{info.get('model')}, hash {info.get('model_hash')}",
        "engine hash": str(info.get("engine_hash")),
    }
    lines = [f"# gpt-oss-120b, {scenario}", "", *notes]
    lines += ["", "## System under test", ""] if notes else []
    lines += [f"- {name}: {printable(text, MAX_TEXT_LEN)}" for name, text in facts.items()]
    lines += ["", "## Workers", "", "Each worker was started with these engine arguments:", ""]
    lines += _block(list(dict.fromkeys(text for run in runs.values() for text in worker_commands(run))))
    lines += ["## Runs", "", "`user.conf` beside this file is that of the performance run.", ""]
    for kind, run in runs.items():
        commands = [run_command(run), *_grading_commands(run)]
        lines += [f"### {kind}", "", _data_line(run), "", *_block(commands)]
    return "\n".join(lines)


def _grading_commands(run: RecordedRun) -> list[str]:
    """Compose the commands that decide a run after its end; their files may have been unknown to the run."""
    directory, data = run.text("directory"), ["--reference-data", run.text("dataset", "path")]
    tokenizer = ["--tokenizer", str(run.value("config", "tokenizer") or "TOKENIZER")]
    tests = ["--lcb-tests", str(run.value("config", "lcb_tests") or "LCB_TESTS")]
    words = {
        RunKind.ACCURACY: ["accuracy", "--mlperf-log", f"{directory}/{ACCURACY}", *data, *tokenizer, *tests],
        RunKind.TEST07: ["compliance", directory, *data, *tokenizer],
        RunKind.TEST09: ["compliance", directory],
    }
    return [shlex.join(["tokenfleet", *words[run.kind]])] if run.kind in words else []


def _data_line(run: RecordedRun) -> str:
    data = {key: run.value("dataset", key) for key in ("path", "num_samples", "sha256")}
    text = f"Data set {data['path']}: {data['num_samples']} samples, SHA-256 {data['sha256']}."
    return printable(text, MAX_TEXT_LEN)


def _block(commands: list[str]) -> list[str]:
    return ["```", *(printable(command, MAX_TEXT_LEN) for command in commands), "```", ""]
