"""Where a run's settings differ from those of a submission."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sut.results.logs import DetailLog
from sut.settings import (
    ACCURACY_MAX_NEW_TOKENS,
    ACCURACY_SAMPLE_COUNT,
    MIN_DURATION_MS,
    PERFORMANCE_MAX_NEW_TOKENS,
    PERFORMANCE_SAMPLE_COUNT,
    GenerationConfig,
    Mode,
    Scenario,
)

# language/gpt-oss-120b/README.md: rows of acc_eval_compliance_gpqa.parquet. TEST09 has the performance rows.
_TEST07_SAMPLE_COUNT = 990
# Only TEST07's audit.config has it.
_TEST07_KEY = "test07_accuracy_threshold"
# vLLM's arguments that turn speculative decoding on, each by itself.
_SPECULATIVE = ("speculative_config", "spec_method", "spec_model")


class Engine(NamedTuple):
    """What one worker says that it runs."""

    address: str
    name: str
    args: Mapping[str, str]
    """Effective engine arguments, values as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What was run, as the coordinator knows it."""

    scenario: Scenario
    mode: Mode
    num_samples: int
    """Rows of the data set."""
    generation: GenerationConfig
    audit_config: str | None
    """Text of a compliance test's audit.config; None: the run is no compliance test."""
    engines: tuple[Engine, ...]
    """One per worker."""

    @property
    def accuracy(self) -> bool:
        """Whether it is an accuracy run; a compliance test is none."""
        return self.mode is Mode.ACCURACY

    @property
    def official_rows(self) -> int:
        """Rows of the data set in a submission."""
        return ACCURACY_SAMPLE_COUNT if self.accuracy else self.performance_samples

    @property
    def performance_samples(self) -> int:
        """LoadGen's performance sample count in a submission; an accuracy run has it too, unused."""
        test07 = self.audit_config is not None and _TEST07_KEY in self.audit_config
        return _TEST07_SAMPLE_COUNT if test07 else PERFORMANCE_SAMPLE_COUNT


def deviations(detail: DetailLog, setup: Setup) -> list[str]:
    """List what a submission would not allow: LoadGen's settings as it says them, data, sampling, engines.

    Source: tools/submission/submission_checker (v6.1): sample counts, 600 s, 6,396 samples, latency limits.
    """
    found = _others(_official_settings(setup), detail.values)
    if not setup.accuracy:
        found += _other_lengths(detail, setup)
    if setup.num_samples != setup.official_rows:
        found.append(f"the data set has {setup.num_samples} rows, not {setup.official_rows}")
    return found + _other_sampling(setup) + _other_engines(setup)


def _others(official: Mapping[str, object], seen: Mapping[str, object], unit: str = "") -> list[str]:
    return [
        f"{key} is {seen.get(key)}{unit}, not {value}"
        for key, value in official.items()
        if seen.get(key) != value
    ]


def _official_settings(setup: Setup) -> dict[str, object]:
    """Give LoadGen's settings that have one value in a submission; an audit.config turns one of them off."""
    official: dict[str, object] = {
        "effective_performance_sample_count": setup.performance_samples,
        "requested_use_token_latencies": True,
    }
    if setup.accuracy:
        return official | {"effective_accuracy_sample_count": ACCURACY_SAMPLE_COUNT}
    if setup.audit_config is None:
        official["effective_sample_concatenate_permutation"] = True
    if setup.scenario is not Scenario.OFFLINE:
        official["effective_target_latency_percentile"] = 0.99
    return official


def _other_lengths(detail: DetailLog, setup: Setup) -> list[str]:
    """List what is too short in a run that measures, and other latency limits."""
    found = []
    if setup.audit_config is None:
        found += _below(detail, "effective_min_duration_ms", MIN_DURATION_MS)
    elif not detail.logs_every_answer:
        found.append("the audit.config does not make LoadGen log every answer")
    if setup.scenario is Scenario.OFFLINE:
        return found + _below(detail, "effective_samples_per_query", setup.performance_samples)
    return found + _other_latencies(detail, setup.scenario)


def _below(detail: DetailLog, key: str, bound: int) -> list[str]:
    value = detail.values.get(key)
    return [] if isinstance(value, int) and value >= bound else [f"{key} is {value}, below {bound}"]


def _other_latencies(detail: DetailLog, scenario: Scenario) -> list[str]:
    # mlperf.conf: Server 3000 and 80 ms, Interactive 2000 and 15 ms.
    ttft_ns, tpot_ns = (
        (2_000_000_000, 15_000_000) if scenario is Scenario.INTERACTIVE else (3_000_000_000, 80_000_000)
    )
    official = {"requested_server_ttft_latency": ttft_ns, "requested_server_tpot_latency": tpot_ns}
    return _others(official, detail.values, " ns")


def _other_sampling(setup: Setup) -> list[str]:
    # language/gpt-oss-120b/generation_config.json; the seed is free.
    official = {
        "max_new_tokens": ACCURACY_MAX_NEW_TOKENS if setup.accuracy else PERFORMANCE_MAX_NEW_TOKENS,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
    }
    return _others(official, {key: getattr(setup.generation, key) for key in official})


def _other_engines(setup: Setup) -> list[str]:
    """List what the workers run, each thing once.

    Source: inference_rules.adoc, the KV cache must not apply across queries; speculative decoding is for
    Interactive alone.
    """
    where: dict[str, list[str]] = {}
    for engine in setup.engines:
        for text in _engine_texts(engine, setup.scenario):
            where.setdefault(text, []).append(engine.address)
    return [
        f"{text}: {len(addresses)} of {len(setup.engines)} workers, first {addresses[0]}"
        for text, addresses in where.items()
    ]


def _engine_texts(engine: Engine, scenario: Scenario) -> list[str]:
    found = [] if engine.name == "vllm" else [f"engine is {engine.name}, not vllm"]
    if engine.args.get("enable_prefix_caching", "false") != "false":
        found.append(f"enable_prefix_caching is {engine.args['enable_prefix_caching']}, not false")
    if scenario is not Scenario.INTERACTIVE:
        drafting = [name for name in _SPECULATIVE if name in engine.args]
        found += [f"{name} is set in {scenario}, only Interactive allows it" for name in drafting]
    return found
