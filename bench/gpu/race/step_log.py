"""Steps of an engine, and the figures of a window of them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WITHOUT_PREFILL, WITH_PREFILL = "without_prefill", "with_prefill"
"""Kinds of steps."""
_NUM_LIVES = 2048
# Source: config.json of openai/gpt-oss-120b.
_SLIDING_WINDOW = 128


class StepRecord(NamedTuple):
    """One step of the engine."""

    at_ns: int
    """Time at which the outputs arrived, monotonic clock."""
    rows: int
    """Requests with an output."""
    output_tokens: int
    prompt_tokens: int
    """Computed prompt tokens of the requests whose first token came with this step."""
    cached_tokens: int
    """Prompt tokens of these requests that came from the prefix cache."""
    preemptions: int
    kv_use: float
    """Share of the KV cache's blocks in use; NaN without vLLM's statistics."""
    context_tokens: int
    """Prompt and produced tokens of all running requests."""


@dataclass(slots=True)
class StepLog:
    """All steps so far."""

    steps: list[StepRecord] = field(default_factory=list)

    def between(self, begin_ns: int, end_ns: int) -> list[StepRecord]:
        """Return the steps of a window and the one before it, from whose end the window is measured."""
        inside = [index for index, step in enumerate(self.steps) if begin_ns <= step.at_ns < end_ns]
        return self.steps[max(inside[0] - 1, 0) : inside[-1] + 1] if inside else []


class WindowSetting(NamedTuple):
    """What the figures of a window need besides its steps."""

    prompt_tokens_per_output_token: float
    """Ratio of the endless steady state; a window's own ratio differs by chance."""
    answer_lens: Ints
    """(A,) answer lengths, for the time per output token."""
    num_blocks: int
    """Blocks of the KV cache."""
    block_size: int
    """Tokens of a block."""


def window_figures(steps: list[StepRecord], setting: WindowSetting) -> dict[str, Any]:
    """Compute the figures of a window.

    Args:
        steps: At least three; the first one only begins the measured time.
        setting: Values of the load and the engine.
    """
    columns = np.array(steps, np.float64)
    step_ms = np.diff(columns[:, 0]) / 1e6
    named = dict(zip(StepRecord._fields, columns[1:].T, strict=True))
    seconds, tokens = step_ms.sum() / 1e3, named["output_tokens"].sum()
    base_ms, us_per_prompt_token = fit_step_ms(step_ms, named["prompt_tokens"])
    by_kind = spread_by_kind(steps)
    tokens_per_step = tokens / len(step_ms)
    prefill_ms = us_per_prompt_token * setting.prompt_tokens_per_output_token * tokens_per_step / 1e3
    return {
        "seconds": float(seconds),
        "steps": len(step_ms),
        "rows_mean": float(named["rows"].mean()),
        "output_tokens": int(tokens),
        "tokens_per_s": float(tokens / seconds),
        "steady_tokens_per_s": float(tokens_per_step / (base_ms + prefill_ms) * 1e3),
        "prompt_tokens": int(named["prompt_tokens"].sum()),
        "prompt_tokens_per_s": float(named["prompt_tokens"].sum() / seconds),
        "prompt_tokens_per_output_token": float(named["prompt_tokens"].sum() / tokens),
        "cached_tokens": int(named["cached_tokens"].sum()),
        "step_ms": _spread(step_ms),
        "step_ms_without_prefill": by_kind[WITHOUT_PREFILL],
        "step_ms_with_prefill": by_kind[WITH_PREFILL],
        "fit_base_ms": base_ms,
        "fit_us_per_prompt_token": us_per_prompt_token,
        "tpot_ms": _spread(life_tpot_ms(step_ms, setting.answer_lens)),
        "preemptions": int(named["preemptions"].sum()),
        "kv_use": _mean_or_none(named["kv_use"]),
        "kv_use_unshared": _kv_use_unshared(named["context_tokens"], named["rows"], setting),
        "context_len_mean": float(named["context_tokens"].sum() / named["rows"].sum()),
    }


def spread_by_kind(steps: list[StepRecord]) -> dict[str, dict[str, float] | None]:
    """Return the step times in ms of each kind of step; None for a kind that has no step.

    A step with prefill is one with which a request began. The first step only begins the measured time.
    """
    step_ms = np.diff([step.at_ns for step in steps]) / 1e6
    has_prefill = np.array([step.prompt_tokens > 0 for step in steps[1:]], bool)
    kinds = {WITHOUT_PREFILL: step_ms[~has_prefill], WITH_PREFILL: step_ms[has_prefill]}
    return {kind: _spread(found) if len(found) else None for kind, found in kinds.items()}


def fit_step_ms(step_ms: Floats, prompt_tokens: Floats) -> tuple[float, float]:
    """Fit step time = base + cost x prompt tokens by least squares.

    Returns:
        The base in ms and the cost of a prompt token in us; the mean and 0 if all steps prefill alike.
    """
    spread = prompt_tokens - prompt_tokens.mean()
    squares = float((spread**2).sum())
    # Noise may make the slope negative, which would turn prefill into a gain.
    ms_per_token = max(float((spread * step_ms).sum()) / squares, 0.0) if squares else 0.0
    return float(step_ms.mean() - ms_per_token * prompt_tokens.mean()), ms_per_token * 1e3


def life_tpot_ms(step_ms: Floats, answer_lens: Ints) -> Floats:
    """Return the time per output token of requests that live through parts of the window, (L,).

    A request of n tokens spans n - 1 steps, from a start that is uniform over the window; one that is longer
    than the window spans all of it.
    """
    spans = answer_lens[np.linspace(0, len(answer_lens) - 1, _NUM_LIVES).astype(np.int64)] - 1
    spans = np.clip(spans, 1, len(step_ms))
    ends_ms = np.concatenate([[0.0], step_ms.cumsum()])
    # The fractions are multiples of the golden ratio: even over the window for each range of lengths.
    starts = (np.arange(_NUM_LIVES) * 0.618034 % 1.0 * (len(step_ms) - spans + 1)).astype(np.int64)
    tpot_ms: Floats = (ends_ms[starts + spans] - ends_ms[starts]) / spans
    return tpot_ms


def _kv_use_unshared(context_tokens: Floats, rows: Floats, setting: WindowSetting) -> float:
    """Return the largest share of the KV cache that the requests would hold if they shared no prefix.

    A request holds the blocks of its context, the last one half full on average, and those of its window.
    """
    blocks = context_tokens / setting.block_size
    blocks += rows * (0.5 + _SLIDING_WINDOW / setting.block_size + 1)
    return float(blocks.max() / setting.num_blocks)


def _spread(values: Floats) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return {"mean": float(values.mean()), "p50": p50, "p90": p90, "p99": p99, "max": float(values.max())}


def _mean_or_none(values: Floats) -> float | None:
    return None if np.isnan(values).any() else float(values.mean())
