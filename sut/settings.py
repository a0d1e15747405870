"""Settings of a run: scenario, mode, sampling, and the user.conf that LoadGen reads."""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from common.bounded_file import parse_json, read_bounded
from common.flags import FlagError
from sut.benchmark import BENCHMARK, Figure, LatencyLimits


class Scenario(StrEnum):
    """A scenario, by its name on the command line."""

    OFFLINE = "offline"
    SERVER = "server"
    INTERACTIVE = "interactive"

    @property
    def loadgen_name(self) -> str:
        """Name of LoadGen's scenario; Interactive is Server with another model name."""
        return "Offline" if self is Scenario.OFFLINE else "Server"

    @property
    def limits(self) -> LatencyLimits:
        """Model name and latency limits in LoadGen; Offline has no limits."""
        return BENCHMARK.interactive if self is Scenario.INTERACTIVE else BENCHMARK.standard

    @property
    def model_name(self) -> str:
        """LoadGen's model name, which selects the latency limits."""
        return self.limits.model_name


class Mode(StrEnum):
    """What a run measures."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"

    @property
    def max_new_tokens(self) -> Figure:
        """Longest answer in a submission, in tokens."""
        return (
            BENCHMARK.accuracy_max_new_tokens
            if self is Mode.ACCURACY
            else BENCHMARK.performance_max_new_tokens
        )


class KeyValueError(ValueError):
    """A key of a generation config has a bad value."""

    def __init__(self, key: str, reason: str) -> None:
        """Compose the line.

        Args:
            key: Field of GenerationConfig.
            reason: Names the value and the bound.
        """
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """Sampling parameters of all requests of a run; the defaults are the reference's."""

    temperature: float = BENCHMARK.temperature
    """Softmax temperature, in [0, 2] (vLLM's bounds); 0 is greedy."""
    top_p: float = BENCHMARK.top_p
    """Nucleus probability mass, in (0, 1]."""
    top_k: int = BENCHMARK.top_k
    """Number of candidate tokens; -1 means all."""
    max_new_tokens: int = BENCHMARK.performance_max_new_tokens.value
    """Longest answer, in tokens."""
    seed: int | None = None
    """Seed of each request's sampler; None, as in the reference: chosen by the engine."""

    def __post_init__(self) -> None:
        """Check types and bounds.

        Raises:
            KeyValueError: Names the key, the value and the bound.
        """
        self._check_types()
        self._check_bounds()

    def _check_types(self) -> None:
        for key in ("temperature", "top_p", "top_k", "max_new_tokens", "seed"):
            value = getattr(self, key)
            kinds = (int, float) if key in ("temperature", "top_p") else (int,)
            if (value is None and key != "seed") or isinstance(value, bool):
                raise KeyValueError(key, f"{value!r} is not a number")
            if value is not None and not isinstance(value, kinds):
                raise KeyValueError(key, f"{value!r} is not a number of type {kinds[-1].__name__}")

    def _check_bounds(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise KeyValueError("temperature", f"{self.temperature} is not in [0, 2]")
        if not 0 < self.top_p <= 1:
            raise KeyValueError("top_p", f"{self.top_p} is not in (0, 1]")
        # The upper bounds are those of the proto fields: int32, uint32 and int64.
        if self.top_k != -1 and not 1 <= self.top_k < 2**31:
            raise KeyValueError("top_k", f"{self.top_k} is neither -1 nor in 1..2147483647")
        if self.max_new_tokens < 1:
            raise KeyValueError("max_new_tokens", f"{self.max_new_tokens} is below 1")
        if self.max_new_tokens >= 2**32:
            raise KeyValueError("max_new_tokens", f"{self.max_new_tokens} is above 4294967295")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise KeyValueError("seed", f"{self.seed} does not fit in 64 bits")


def load_generation_config(path: Path | None, mode: Mode, max_new_tokens: int | None) -> GenerationConfig:
    """Read a generation config in the reference's format; keys that start with `_` are comments.

    Args:
        path: JSON file; None: use the defaults.
        mode: Determines the default of max_new_tokens.
        max_new_tokens: Overrides the file; at least 1. None: use the file's value.

    Raises:
        FlagError: Names the file and key, or the flag, the value and the bound.
    """
    values: dict[str, object] = {"max_new_tokens": mode.max_new_tokens.value}
    if path is not None:
        values |= _read_generation_json(path)
    if max_new_tokens is not None:
        values["max_new_tokens"] = max_new_tokens
    try:
        return GenerationConfig(**values)  # type: ignore[arg-type]  # __post_init__ checks each type
    except KeyValueError as error:
        if error.key == "max_new_tokens" and max_new_tokens is not None:
            raise FlagError("--max-new-tokens", error.reason) from error
        raise FlagError("--generation-config", str(error), path) from error


def _read_generation_json(path: Path) -> dict[str, object]:
    try:
        loaded = parse_json(read_bounded(path))
    except OSError as error:
        raise FlagError("--generation-config", str(error.strerror or error), path) from error
    except ValueError as error:
        raise FlagError("--generation-config", f"is not JSON: {error}", path) from error
    if not isinstance(loaded, dict):
        raise FlagError("--generation-config", f"holds a {type(loaded).__name__}, not an object", path)
    values = {key: value for key, value in loaded.items() if not key.startswith("_")}
    known = {f.name for f in fields(GenerationConfig)}
    # The reference's file also has keys for streaming and detokenizing, which do not apply to token ids.
    ignored = {"stream", "skip_special_tokens", "do_sample", "eos_token_id", "pad_token_id", "bos_token_id"}
    ignored |= {"transformers_version"}
    unknown = sorted(set(values) - known - ignored)
    if unknown:
        reason = f"unknown key {unknown[0]!r}; known keys: {sorted(known)}"
        raise FlagError("--generation-config", reason, path)
    return {key: value for key, value in values.items() if key in known}


# Keys that LoadGen's TestSettings::FromConfig reads (loadgen/test_settings_internal.cc).
# LoadGen silently skips unknown keys and lines without spaces around "=".
_CONF_KEYS = frozenset(
    [
        "accuracy_log_probability",
        "accuracy_log_rng_seed",
        "accuracy_log_sampling_target",
        "accuracy_sample_count_override",
        "coalesce_queries",
        "infer_token_latencies",
        "max_async_queries",
        "max_duration",
        "max_query_count",
        "min_duration",
        "min_query_count",
        "mode",
        "performance_issue_same",
        "performance_issue_same_index",
        "performance_issue_unique",
        "performance_sample_count_override",
        "print_timestamps",
        "sample_concatenate_permutation",
        "samples_per_query",
        "target_latency",
        "target_latency_percentile",
        "target_qps",
        "test05",
        "token_latency_scaling_factor",
        "tpot_latency",
        "ttft_latency",
        "use_token_latencies",
    ]
)
# Keys with decimal values, and keys that the compliance tests' scripts read from the same file.
_DECIMAL_KEYS = frozenset(
    [
        "accuracy_log_probability",
        "target_latency_percentile",
        "target_qps",
        "token_latency_scaling_factor",
        *(key for test in BENCHMARK.compliance_tests for key in test.keys),
    ]
)
# Stricter than LoadGen, which reads 6e5 as 6 and 0600000 as octal.
_WHOLE = re.compile(r"0|[1-9][0-9]*")
_DECIMAL = re.compile(r"(0|[1-9][0-9]*)([.][0-9]+)?")
_CONF_LINE = re.compile(r"(?P<model>[^\s.]+)\.(?P<scenario>[^\s.]+)\.(?P<key>[^\s.]+) += +(?P<value>\S+)\s*")
_CONF_SCENARIOS = ("*", "Server", "Offline", "SingleStream", "MultiStream")


def read_conf(flag: str, path: Path) -> str:
    """Read a user.conf or audit.config and check every line: LoadGen silently skips unknown ones.

    Raises:
        FlagError: Names the file, the line and the mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(flag, str(error), path) from error
    for number, line in enumerate(text.splitlines(), start=1):
        # LoadGen reads a "#" without a following space as part of a key.
        if line.strip() and line.split()[0] != "#" and (mistake := _conf_mistake(line.strip())):
            raise FlagError(flag, f"line {number}: {line.strip()!r}{mistake}", path)
    return text


def _conf_mistake(line: str) -> str | None:
    """Return the mistake in a line; None if there is none."""
    match = _CONF_LINE.fullmatch(line)
    if match is None:
        return " is not 'model.Scenario.key = number' with spaces around '='"
    if match["scenario"] not in _CONF_SCENARIOS:
        return f": scenario {match['scenario']!r} is not one of {', '.join(_CONF_SCENARIOS)}"
    if match["key"] not in _CONF_KEYS | _DECIMAL_KEYS:
        return f": LoadGen has no key {match['key']!r}"
    number = _DECIMAL if match["key"] in _DECIMAL_KEYS else _WHOLE
    if not number.fullmatch(match["value"]):
        return f": {match['value']!r} is not a number of 0 or more, written in plain digits"
    if match["key"] == "target_qps" and not float(match["value"]):
        return ": target_qps is not above 0"
    return None


def compose_user_conf(
    user_text: str, *, scenario: Scenario, mode: Mode, num_samples: int, target_qps: float | None
) -> str:
    """Compose the user.conf of a run: defaults for missing settings, the user's lines, values of flags.

    Offline needs min_query_count: mlperf.conf does not set it for this benchmark, and the submission checker
    requires a query with the whole data set. If the data set has fewer rows than mlperf.conf's sample count,
    the count is set to the number of rows: LoadGen crashes if it issues more unique samples than there are
    rows (TEST07).

    Args:
        user_text: Checked contents of --user-conf; may be empty.
        scenario: The run's scenario.
        mode: The run's mode.
        num_samples: Rows of the data set.
        target_qps: Value of --target-qps, or None.
    """
    prefix = f"{scenario.model_name}.{scenario.loadgen_name}"
    needed = {}
    if scenario is Scenario.OFFLINE:
        needed["min_query_count"] = min(num_samples, BENCHMARK.performance_sample_count)
    if num_samples < BENCHMARK.performance_sample_count and mode is Mode.PERFORMANCE:
        needed["performance_sample_count_override"] = num_samples
    if num_samples < BENCHMARK.accuracy_sample_count and mode is Mode.ACCURACY:
        needed["accuracy_sample_count_override"] = num_samples
    chosen = _values_for(user_text, scenario)
    lines = ["# Written for this run."]
    lines += [f"{prefix}.{key} = {value}" for key, value in needed.items() if key not in chosen]
    if user_text.strip():
        lines += ["# From --user-conf:", user_text.rstrip()]
    if target_qps is not None:
        # Of two lines with the same name LoadGen uses the last; an exact name takes precedence over `*`.
        lines += ["# From --target-qps:", f"{prefix}.target_qps = {target_qps!r}"]
    return "\n".join(lines) + "\n"


def check_rate(user_text: str, scenario: Scenario, target_qps: float | None) -> None:
    """Require target_qps in Server and Interactive; LoadGen would otherwise default to 1 query/s.

    Raises:
        FlagError: Neither --target-qps nor --user-conf sets it.
    """
    if (
        scenario is Scenario.OFFLINE
        or target_qps is not None
        or "target_qps" in _values_for(user_text, scenario)
    ):
        return
    key = f"{scenario.model_name}.{scenario.loadgen_name}.target_qps"
    raise FlagError("--target-qps", f"missing, and --user-conf has no {key} either")


def check_count(flag: str, text: str, scenario: Scenario, mode: Mode, num_samples: int) -> None:
    """Refuse a sample count above the data set's number of rows, which would crash LoadGen.

    Args:
        flag: Flag that names the conf.
        text: Checked contents of the conf.
        scenario: The run's scenario.
        mode: The run's mode.
        num_samples: Rows of the data set.

    Raises:
        FlagError: Names key, value and bound.
    """
    key = f"{mode}_sample_count_override"
    value = _values_for(text, scenario).get(key)
    if value is not None and not 1 <= int(value) <= num_samples:
        raise FlagError(flag, f"{key} is {value}, not in 1..{num_samples}, the data set's rows")


def _values_for(text: str, scenario: Scenario) -> dict[str, str]:
    """Return the values that a checked conf sets for a scenario, by key."""
    matches = [_CONF_LINE.fullmatch(line.strip()) for line in text.splitlines()]
    return {
        match["key"]: match["value"]
        for match in matches
        if match
        and match["model"] in ("*", scenario.model_name)
        and match["scenario"] in ("*", scenario.loadgen_name)
    }
