"""What the rules and LoadGen's configuration files fix for gpt-oss-120b.

Source of the figures: mlcommons/inference loadgen/mlperf.conf (embedded in mlcommons-loadgen 6.0.17),
language/gpt-oss-120b/README.md, and tools/submission/submission_checker/constants.py (v6.1).
"""

import json
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

PERFORMANCE_SAMPLE_COUNT = 6396
ACCURACY_SAMPLE_COUNT = 4395
MIN_DURATION_MS = 600_000
# language/gpt-oss-120b/README.md; the rules text says 10,000, the data owner's README and TEST09 10,240.
PERFORMANCE_MAX_NEW_TOKENS = 10_240
ACCURACY_MAX_NEW_TOKENS = 32_768


class Scenario(StrEnum):
    """A scenario as the user names it."""

    OFFLINE = "offline"
    SERVER = "server"
    INTERACTIVE = "interactive"

    @property
    def loadgen_name(self) -> str:
        """LoadGen's own scenario: Interactive is Server under another model name."""
        return "Offline" if self is Scenario.OFFLINE else "Server"

    @property
    def model_name(self) -> str:
        """The benchmark whose limits LoadGen applies."""
        return "gpt-oss-120b-interactive" if self is Scenario.INTERACTIVE else "gpt-oss-120b"


class Mode(StrEnum):
    """What a run measures."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """Sampling of every request of a run; the defaults are the reference's generation_config.json."""

    temperature: float = 1.0
    """Softmax temperature, in [0, 2], vLLM's bounds; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus probability mass, in (0, 1]."""
    top_k: int = -1
    """Number of candidates; -1 is all."""
    max_new_tokens: int = PERFORMANCE_MAX_NEW_TOKENS
    """Longest answer, in tokens."""
    seed: int | None = None
    """Seed of each request's sampler; None leaves it to the engine, as the reference does."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names the key, the value and the bound.
        """
        self._check_types()
        self._check_bounds()

    def _check_types(self) -> None:
        for key in ("temperature", "top_p", "top_k", "max_new_tokens", "seed"):
            value = getattr(self, key)
            kinds = (int, float) if key in ("temperature", "top_p") else (int,)
            if (value is None and key != "seed") or isinstance(value, bool):
                raise ValueError(f"{key}: {value!r} is not a number")
            if value is not None and not isinstance(value, kinds):
                raise ValueError(f"{key}: {value!r} is not a number of type {kinds[-1].__name__}")

    def _check_bounds(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature: {self.temperature} is not in [0, 2]")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} is not in (0, 1]")
        # The upper bounds are those of the wire's int32, uint32 and int64.
        if self.top_k != -1 and not 1 <= self.top_k < 2**31:
            raise ValueError(f"top_k: {self.top_k} is neither -1 nor in 1..2147483647")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} is below 1")
        if self.max_new_tokens >= 2**32:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} is above 4294967295")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed: {self.seed} is not in 64 bits")


def load_generation_config(path: Path | None, mode: Mode, max_new_tokens: int | None) -> GenerationConfig:
    """Read a generation config in the reference's format; keys that begin with `_` are comments.

    Args:
        path: JSON file; None: the defaults.
        mode: Decides the default budget.
        max_new_tokens: Overrides the file; at least 1.

    Raises:
        ValueError: Names the file and key, or the flag, the value and the bound.
    """
    default = ACCURACY_MAX_NEW_TOKENS if mode is Mode.ACCURACY else PERFORMANCE_MAX_NEW_TOKENS
    values: dict[str, object] = {"max_new_tokens": default}
    if path is not None:
        values |= _read_generation_json(path)
    if max_new_tokens is not None:
        values["max_new_tokens"] = max_new_tokens
    try:
        return GenerationConfig(**values)  # type: ignore[arg-type]  # __post_init__ checks each type
    except ValueError as error:
        key, _, what = str(error).partition(": ")
        if key == "max_new_tokens" and max_new_tokens is not None:
            raise ValueError(f"--max-new-tokens: {what}") from error
        raise ValueError(f"--generation-config {path}: {error}") from error


def _read_generation_json(path: Path) -> dict[str, object]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--generation-config {path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"--generation-config {path}: is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"--generation-config {path}: holds a {type(loaded).__name__}, not an object")
    values = {key: value for key, value in loaded.items() if not key.startswith("_")}
    known = {f.name for f in fields(GenerationConfig)}
    # The reference's file also says how to stream and detokenize, which token ids have no use for.
    ignored = {"stream", "skip_special_tokens", "do_sample", "eos_token_id", "pad_token_id", "bos_token_id"}
    ignored |= {"transformers_version"}
    unknown = sorted(set(values) - known - ignored)
    if unknown:
        raise ValueError(f"--generation-config {path}: unknown key {unknown[0]!r}, known are {sorted(known)}")
    return {key: value for key, value in values.items() if key in known}


# Keys that LoadGen's TestSettings::FromConfig reads (loadgen/test_settings_internal.cc).
# It skips a key that it does not know, and a line without spaces around "=", without a word.
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
# The first four: settings with a fraction. The others are read by the compliance scripts, from the same file.
_DECIMAL_KEYS = frozenset(
    [
        "accuracy_log_probability",
        "target_latency_percentile",
        "target_qps",
        "token_latency_scaling_factor",
        "test07_accuracy_threshold",
        "test09_max_output_tokens",
        "test09_min_output_tokens",
    ]
)
# LoadGen reads 6e5 as 6 and 0600000 as octal.
_WHOLE = re.compile(r"0|[1-9][0-9]*")
_DECIMAL = re.compile(r"(0|[1-9][0-9]*)([.][0-9]+)?")
_CONF_LINE = re.compile(r"(?P<model>[^\s.]+)\.(?P<scenario>[^\s.]+)\.(?P<key>[^\s.]+) += +(?P<value>\S+)\s*")
_CONF_SCENARIOS = ("*", "Server", "Offline", "SingleStream", "MultiStream")


def read_conf(flag: str, path: Path) -> str:
    """Read a user.conf or audit.config and check every line: LoadGen skips in silence what it does not know.

    Raises:
        ValueError: Names the file, the line and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{flag} {path}: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        # LoadGen takes a "#" without a space after it for a key.
        if line.strip() and line.split()[0] != "#":
            _check_conf_line(f"{flag} {path}: line {number}: {line.strip()!r}", line.strip())
    return text


def _check_conf_line(where: str, line: str) -> None:
    match = _CONF_LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"{where} is not 'model.Scenario.key = number' with spaces around '='")
    if match["scenario"] not in _CONF_SCENARIOS:
        raise ValueError(f"{where}: scenario {match['scenario']!r} is none of {', '.join(_CONF_SCENARIOS)}")
    if match["key"] not in _CONF_KEYS | _DECIMAL_KEYS:
        raise ValueError(f"{where}: LoadGen knows no key {match['key']!r}")
    number = _DECIMAL if match["key"] in _DECIMAL_KEYS else _WHOLE
    if not number.fullmatch(match["value"]):
        raise ValueError(f"{where}: {match['value']!r} is not a number of 0 or more in plain digits")
    if match["key"] == "target_qps" and not float(match["value"]):
        raise ValueError(f"{where}: target_qps is not above 0")


def compose_user_conf(
    user_text: str, *, scenario: Scenario, mode: Mode, num_samples: int, target_qps: float | None
) -> str:
    """Compose the user.conf of one run: the user's lines, what they leave open, and what flags override.

    Offline needs min_query_count: mlperf.conf gives gpt-oss-120b none, and the submission checker wants
    6,396. Where the data set is smaller than the mode's count of mlperf.conf, the count follows it:
    unique issue (TEST07) over more samples than there are crashes LoadGen.

    Args:
        user_text: Contents of --user-conf, checked; may be empty.
        scenario: The run's scenario.
        mode: The run's mode.
        num_samples: Rows of the data set.
        target_qps: Value of --target-qps, or None.
    """
    prefix = f"{scenario.model_name}.{scenario.loadgen_name}"
    needed = {}
    if scenario is Scenario.OFFLINE:
        needed["min_query_count"] = min(num_samples, PERFORMANCE_SAMPLE_COUNT)
    if num_samples < PERFORMANCE_SAMPLE_COUNT and mode is Mode.PERFORMANCE:
        needed["performance_sample_count_override"] = num_samples
    if num_samples < ACCURACY_SAMPLE_COUNT and mode is Mode.ACCURACY:
        needed["accuracy_sample_count_override"] = num_samples
    chosen = _values_for(user_text, scenario)
    lines = ["# Written for this run."]
    lines += [f"{prefix}.{key} = {value}" for key, value in needed.items() if key not in chosen]
    if user_text.strip():
        lines += ["# From --user-conf:", user_text.rstrip()]
    if target_qps is not None:
        # LoadGen takes the last of two lines of one name, and an exact name before a `*`.
        lines += ["# From --target-qps:", f"{prefix}.target_qps = {target_qps!r}"]
    return "\n".join(lines) + "\n"


def check_rate(user_text: str, scenario: Scenario, target_qps: float | None) -> None:
    """Want to be told a rate where LoadGen issues by one: else it would ask for one query a second.

    Raises:
        ValueError: Neither flag nor user.conf says it.
    """
    if (
        scenario is Scenario.OFFLINE
        or target_qps is not None
        or "target_qps" in _values_for(user_text, scenario)
    ):
        return
    key = f"{scenario.model_name}.{scenario.loadgen_name}.target_qps"
    raise ValueError(f"--target-qps: not given, and --user-conf has no {key} either")


def check_count(flag: str, text: str, scenario: Scenario, mode: Mode, num_samples: int) -> None:
    """Want a checked conf to ask for no more samples than there are: LoadGen would crash.

    Raises:
        ValueError: Names flag, key, value and bound.
    """
    key = f"{mode}_sample_count_override"
    value = _values_for(text, scenario).get(key)
    if value is not None and not 1 <= int(value) <= num_samples:
        raise ValueError(f"{flag}: {key} is {value}, not in 1..{num_samples}, the data set's rows")


def _values_for(text: str, scenario: Scenario) -> dict[str, str]:
    """Collect what a checked conf sets for a scenario, by key."""
    matches = [_CONF_LINE.fullmatch(line.strip()) for line in text.splitlines()]
    return {
        match["key"]: match["value"]
        for match in matches
        if match
        and match["model"] in ("*", scenario.model_name)
        and match["scenario"] in ("*", scenario.loadgen_name)
    }
