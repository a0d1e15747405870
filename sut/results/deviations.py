"""Deviations of a run from one that may be submitted.

Source: tools/submission/submission_checker (v6.1) for LoadGen's settings; inference_rules.adoc for engines.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from sut.benchmark import BENCHMARK, Seeds, find_round, unknown_round
from sut.results.logs import DetailLog
from sut.settings import GenerationConfig, Mode, Scenario

LoggedSettings = Mapping[str, object]
"""LoadGen's settings, by key of its detail log."""

# Each of these vLLM arguments enables speculative decoding.
_SPECULATIVE = ("speculative_config", "spec_method", "spec_model")


class EngineReport(NamedTuple):
    """Engine of one worker, as reported by GetInfo."""

    address: str
    name: str
    args: Mapping[str, str]
    """Effective engine arguments, values as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Flags, files, workers and LoadGen seeds of a run."""

    scenario: Scenario
    mode: Mode
    num_samples: int
    """Rows of the data set."""
    generation: GenerationConfig
    audit_config: str | None
    """Text of a compliance test's audit.config; None in any other run."""
    engines: tuple[EngineReport, ...]
    """One per worker, and one more for each time that a worker came back."""
    seeds: Seeds
    """LoadGen's seeds."""

    @property
    def accuracy(self) -> bool:
        """Whether it is an accuracy run; a compliance test is a performance run."""
        return self.mode is Mode.ACCURACY

    @property
    def official_rows(self) -> int:
        """Rows of the data set that a submission must use."""
        return BENCHMARK.accuracy_sample_count if self.accuracy else self.performance_sample_count

    @property
    def performance_sample_count(self) -> int:
        """LoadGen's performance sample count in a submission; accuracy runs set it without using it."""
        test = None if self.audit_config is None else BENCHMARK.compliance_test(self.audit_config)
        return BENCHMARK.performance_sample_count if test is None else test.num_samples


class Requirement(NamedTuple):
    """Value of a LoadGen setting that a submission requires."""

    key: str
    value: object
    is_minimum: bool = False
    """Larger values also pass."""
    unit: str = ""

    def violation(self, settings: LoggedSettings) -> list[str]:
        """Return the violation as a list of one line; empty if the setting passes."""
        value = settings.get(self.key)
        if self.is_minimum and isinstance(value, int) and isinstance(self.value, int):
            passed = value >= self.value
        else:
            passed = value == self.value
        relation = "below" if self.is_minimum else "not"
        return [] if passed else [f"{self.key} is {value}{self.unit}, {relation} {self.value}"]


def deviations(detail: DetailLog, setup: Setup) -> list[str]:
    """List the deviations of a completed run."""
    found = _violations(_common_requirements(setup), detail.values)
    if setup.audit_config is not None and not detail.logs_every_answer:
        found.append("the audit.config does not make LoadGen log every answer")
    return [*found, *_violations(_performance_requirements(setup), detail.values), *_setup_deviations(setup)]


def deviations_before_run(settings: LoggedSettings, setup: Setup) -> list[str]:
    """List the deviations that are known before a run; `deviations` lists them again after it.

    Args:
        settings: LoadGen's settings that are known so far. Those of a compliance test are ignored, because
            LoadGen reads the audit.config only when the test starts.
        setup: Flags, files and workers.
    """
    if setup.audit_config is not None:
        return _setup_deviations(setup)
    requirements = [*_common_requirements(setup), *_performance_requirements(setup)]
    known = [requirement for requirement in requirements if requirement.key in settings]
    return [*_violations(known, settings), *_setup_deviations(setup)]


def _violations(requirements: Iterable[Requirement], settings: LoggedSettings) -> list[str]:
    return [line for requirement in requirements for line in requirement.violation(settings)]


def _common_requirements(setup: Setup) -> list[Requirement]:
    """List the settings that a submission fixes; an audit.config disables one of them."""
    required = [
        Requirement("effective_performance_sample_count", setup.performance_sample_count),
        Requirement("requested_use_token_latencies", True),
    ]
    if setup.accuracy:
        return [
            *required,
            Requirement("effective_accuracy_sample_count", BENCHMARK.accuracy_sample_count),
        ]
    if setup.audit_config is None:
        required.append(Requirement("effective_sample_concatenate_permutation", True))
    if setup.scenario is not Scenario.OFFLINE:
        required.append(Requirement("effective_target_latency_percentile", BENCHMARK.latency_percentile))
    return required


def _performance_requirements(setup: Setup) -> list[Requirement]:
    """List the required duration, sample count and latency limits of a performance run."""
    required: list[Requirement] = []
    if setup.accuracy:
        return required
    if setup.audit_config is None:
        required.append(Requirement("effective_min_duration_ms", BENCHMARK.min_duration_ms, is_minimum=True))
    if setup.scenario is Scenario.OFFLINE:
        count = setup.performance_sample_count
        return [*required, Requirement("effective_samples_per_query", count, is_minimum=True)]
    limits = setup.scenario.limits
    return [
        *required,
        Requirement("requested_server_ttft_latency", limits.ttft_ns.value, unit=" ns"),
        Requirement("requested_server_tpot_latency", limits.tpot_ns.value, unit=" ns"),
    ]


def _setup_deviations(setup: Setup) -> list[str]:
    """List deviations in seeds, data set rows, sampling and engines."""
    found = [] if find_round(setup.seeds) else [unknown_round(setup.seeds)]
    if setup.num_samples != setup.official_rows:
        found.append(f"the data set has {setup.num_samples} rows, not {setup.official_rows}")
    return [*found, *_sampling_deviations(setup), *_engine_deviations(setup)]


def _sampling_deviations(setup: Setup) -> list[str]:
    """Compare sampling with the reference's, which sets no seed."""
    official = {
        "max_new_tokens": setup.mode.max_new_tokens.value,
        "temperature": BENCHMARK.temperature,
        "top_p": BENCHMARK.top_p,
        "top_k": BENCHMARK.top_k,
    }
    return _violations(itertools.starmap(Requirement, official.items()), asdict(setup.generation))


def _engine_deviations(setup: Setup) -> list[str]:
    """List engine settings that the rules forbid, one line per deviation for all workers together.

    Source: inference_rules.adoc: the KV cache must not apply across queries; speculative decoding is allowed
    only in Interactive.
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
    found = [] if engine.name == "vllm" else [f"engine is {engine.name}, not vllm"]
    if engine.args.get("enable_prefix_caching", "false") != "false":
        found.append(f"enable_prefix_caching is {engine.args['enable_prefix_caching']}, not false")
    if scenario is not Scenario.INTERACTIVE:
        drafting = [name for name in _SPECULATIVE if name in engine.args]
        found += [f"{name} is set in {scenario}, only Interactive allows it" for name in drafting]
    return found
