"""Deviations of a run from one that may be submitted.

Source: tools/submission/submission_checker (v6.1) for LoadGen's settings; inference_rules.adoc for engines.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import NamedTuple

from sut.benchmark import BENCHMARK, ComplianceTest, Seeds, find_round, unknown_round
from sut.results.logs import DetailLog
from sut.results.model_arguments import model_deviations, simulation_deviations, size_deviations
from sut.results.required_settings import (
    LoggedSettings,
    Requirement,
    required_settings,
    sample_count,
    violations,
)
from sut.results.speculation import enabling_args, speculation_deviations
from sut.settings import GenerationConfig, Mode, Scenario

# Engines that serve a model, and the argument that keeps each from caching prompts across queries.
_PREFIX_CACHING_OFF = {"vllm": ("enable_prefix_caching", "false"), "sglang": ("disable_radix_cache", "true")}


class EngineReport(NamedTuple):
    """Engine of one worker, as reported by GetInfo."""

    address: str
    name: str
    args: Mapping[str, str]
    """Effective engine arguments, values as JSON."""
    stop_ids: tuple[int, ...]
    """Token ids that end an answer."""
    execution: Mapping[str, str] = MappingProxyType({})
    """How the engine executes, by name, set environment variables among it; values as JSON."""
    facts: Mapping[str, str] = MappingProxyType({})
    """What decides the engine's answers, by name; values as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Flags, files, workers and LoadGen seeds of a run."""

    scenario: Scenario
    mode: Mode
    num_samples: int
    """Rows of the data set."""
    column_names: tuple[str, ...]
    """Columns of the data set."""
    rows_by_dataset: Mapping[str, int]
    """Rows by the text in the column `dataset`."""
    generation: GenerationConfig
    audit_config: Mapping[str, str] | None
    """Values of a compliance test's audit.config, by key; None in any other run."""
    engines: tuple[EngineReport, ...]
    """One per worker, and one more for each time that a worker came back."""
    seeds: Seeds
    """LoadGen's seeds."""
    random_weights: bool
    """Whether the user says that the model's weights are random."""

    @property
    def accuracy(self) -> bool:
        """Whether it is an accuracy run; a compliance test is a performance run."""
        return self.mode is Mode.ACCURACY

    @property
    def compliance_test(self) -> ComplianceTest | None:
        """The compliance test; None in any other run."""
        return None if self.audit_config is None else BENCHMARK.compliance_test(self.audit_config)

    @property
    def grader(self) -> str | None:
        """Script of the reference that grades the answers of this run; None if no answer is graded."""
        if self.accuracy:
            return "eval_mlperf_accuracy.py"
        test = self.compliance_test
        return None if test is None or test.mean_answer_len else f"run_verification.py of {test.name}"

    @property
    def official_rows(self) -> int:
        """Rows of the data set that a submission must use."""
        return BENCHMARK.accuracy_sample_count if self.accuracy else sample_count(self.compliance_test)

    @property
    def requirements(self) -> list[Requirement]:
        """LoadGen's settings in a submission; an audit.config sets some of them."""
        is_audited = self.audit_config is not None
        return required_settings(self.scenario, self.mode, self.compliance_test, is_audited=is_audited)


# Unknown settings count as the required ones; with this one LoadGen logs every answer.
_ANSWER_LOGGING = {"effective_accuracy_log_sampling_target": 1}


def deviations(detail: DetailLog, setup: Setup) -> list[str]:
    """List the deviations of a completed run; `deviations_before_run` lists what is known before it."""
    found = violations(setup.requirements, detail.values)
    if any(key.startswith("result_inferred_") for key in detail.values):
        found.append("infer_token_latencies is set: LoadGen's summary has rates that were not measured")
    if setup.audit_config is not None and not detail.logs_every_answer:
        found.append("the audit.config does not make LoadGen log every answer")
    return [*found, *_setup_deviations(setup)]


def deviations_before_run(settings: LoggedSettings, setup: Setup) -> list[str]:
    """List the deviations that are known before a run; `deviations` lists them again after it.

    Args:
        settings: LoadGen's settings that are known so far, by key of the detail log.
        setup: Flags, files and workers.
    """
    required = {requirement.key: requirement.value for requirement in setup.requirements}
    return deviations(DetailLog({**required, **_ANSWER_LOGGING, **settings}, []), setup)


def _setup_deviations(setup: Setup) -> list[str]:
    """List deviations in seeds, data set rows, sampling and engines."""
    found = [] if find_round(setup.seeds) else [unknown_round(setup.seeds)]
    if setup.num_samples != setup.official_rows:
        found.append(f"the data set has {setup.num_samples} rows, not {setup.official_rows}")
    if setup.random_weights:
        found.append("--random-weights: the answers are those of no trained model")
    found += [*_grading_deviations(setup), *_audit_deviations(setup)]
    return [*found, *_sampling_deviations(setup), *engine_deviations(setup)]


def _grading_deviations(setup: Setup) -> list[str]:
    """List what the script that grades the answers does not find in the data set."""
    missing = [name for name in BENCHMARK.grading_columns if name not in setup.column_names]
    if setup.grader is not None and missing:
        return [f"{setup.grader} cannot grade the answers: the data set has no column {missing[0]}"]
    if not setup.accuracy or setup.num_samples != setup.official_rows:
        return []
    rows = Counter[str]()
    for name, num_rows in setup.rows_by_dataset.items():
        rows[name.lower()] += num_rows
    return [
        f"the data set has {rows[name]} rows of {name}, not {official}"
        for name, official in BENCHMARK.accuracy_rows.items()
        if rows[name] != official
    ]


def _audit_deviations(setup: Setup) -> list[str]:
    """Compare the thresholds in the audit.config with the official ones."""
    if setup.audit_config is None or setup.compliance_test is None:
        return []
    official = setup.compliance_test.thresholds
    return violations(itertools.starmap(Requirement, official.items()), setup.audit_config)


def _sampling_deviations(setup: Setup) -> list[str]:
    """Compare sampling with the reference's, which sets no seed."""
    official = {
        "max_new_tokens": setup.mode.max_new_tokens.value,
        "temperature": BENCHMARK.temperature,
        "top_p": BENCHMARK.top_p,
        "top_k": BENCHMARK.top_k,
    }
    return violations(itertools.starmap(Requirement, official.items()), asdict(setup.generation))


def engine_deviations(setup: Setup) -> list[str]:
    """List engine settings that the rules forbid, one line per deviation for all workers together.

    Source: inference_rules.adoc: the KV cache must not apply across queries; speculative decoding is allowed
    only in Interactive, and there only as in speculation.py.
    """
    # Keys of the inner dictionaries are the addresses, in order; a worker that came back counts once.
    addresses: dict[str, dict[str, None]] = {}
    for engine in setup.engines:
        for text in _engine_texts(engine, setup.scenario):
            addresses.setdefault(text, {})[engine.address] = None
    num_workers = len({engine.address for engine in setup.engines})
    return [
        f"{text}: {len(found)} of {num_workers} workers, first {next(iter(found))}"
        for text, found in addresses.items()
    ]


def _engine_texts(engine: EngineReport, scenario: Scenario) -> list[str]:
    is_scripted = engine.name not in _PREFIX_CACHING_OFF
    found = [f"engine is {engine.name}, not vllm"] if is_scripted else _model_texts(engine)
    if scenario is Scenario.INTERACTIVE:
        return found + speculation_deviations(engine.args)
    drafting = enabling_args(engine.args)
    return found + [f"{name} is set in {scenario}, only Interactive allows it" for name in drafting]


def _model_texts(engine: EngineReport) -> list[str]:
    """List what a scripted engine does not have: the benchmark's stop ids, a model and a prefix cache."""
    found = []
    stop_ids, official = sorted(engine.stop_ids), sorted(stop.token_id for stop in BENCHMARK.stop_ids)
    if stop_ids != official:
        found.append(f"stop ids are {_listed(stop_ids)}, not {_listed(official)}")
    found += size_deviations(engine.facts)
    found += [*model_deviations(engine.name, engine.args), *simulation_deviations(engine.execution)]
    if "kv_transfer_config" in engine.args:
        found.append("kv_transfer_config is set: a KV connector may reuse the KV cache across queries")
    name, off = _PREFIX_CACHING_OFF[engine.name]
    if (value := engine.args.get(name, "not reported")) != off:
        found.append(f"{name} is {value}, not {off}")
    return found


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids)) or "none"
