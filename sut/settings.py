"""Settings of a run: scenario, mode and sampling."""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from common.flags import FlagError
from common.json_document import read_object
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
    loaded = read_object(path, "--generation-config")
    values = {key: value for key, value in loaded.items() if not key.startswith("_")}
    known = {f.name for f in fields(GenerationConfig)}
    # The reference's file also has keys for streaming and detokenizing, which do not apply to token ids.
    ignored = {"stream", "skip_special_tokens", "do_sample", "eos_token_id", "pad_token_id", "bos_token_id"}
    ignored |= {"transformers_version"}
    unknown = sorted(set(values) - known - ignored)
    if unknown:
        reason = f"unknown key {unknown[0]!r}; known keys: {sorted(known)}"
        raise FlagError("--generation-config", reason, path)
    _check_do_sample(values, path)
    return {key: value for key, value in values.items() if key in known}


def _check_do_sample(values: dict[str, object], path: Path) -> None:
    """Refuse a do_sample that contradicts the temperature, which alone decides whether a run samples.

    Raises:
        FlagError: Names the file and both values.
    """
    do_sample, temperature = values.get("do_sample"), values.get("temperature", BENCHMARK.temperature)
    if do_sample is not None and do_sample is not (temperature != 0):
        reason = (
            f"do_sample: {do_sample!r} contradicts temperature {temperature!r}: only temperature 0 is greedy"
        )
        raise FlagError("--generation-config", reason, path)
