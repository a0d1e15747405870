"""Text of a profile: one part for each number of requests and kind of step."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.gpu.race.step_log import WITH_PREFILL, WITHOUT_PREFILL

Figures = dict[str, Any]
_TITLES = {WITHOUT_PREFILL: "steps without prefill", WITH_PREFILL: "steps with prefill"}
_MAX_NAME_LEN = 120


def profile_text(name: str, profiles: Sequence[Figures], min_share: float = 0.0) -> str:
    """Format the profiles of one configuration; kernels below a share of the time are one line."""
    return "\n".join(line for profile in profiles for line in _lines(name, profile, min_share))


def _lines(name: str, profile: Figures, min_share: float) -> Iterator[str]:
    for kind, title in _TITLES.items():
        figures = profile[kind]
        yield ""
        yield f"{name}, {profile['rows']} requests, {title}"
        yield from _step_log_lines(profile, kind)
        if figures is None:
            yield "  none recorded"
            continue
        yield from _trace_lines(figures)
        yield from _role_lines(figures["roles"])
        yield from _kernel_lines(figures["kernels"], min_share)


def _step_log_lines(profile: Figures, kind: str) -> Iterator[str]:
    for when, of_log in (("before", profile["step_ms_before"]), ("recording", profile["step_ms_recording"])):
        spread = of_log[kind]
        text = "-" if spread is None else f"mean {spread['mean']:.2f} ms, p50 {spread['p50']:.2f} ms"
        yield f"  step log, {when:<10}{text}"


def _trace_lines(figures: Figures) -> Iterator[str]:
    tokens = f"{figures['prompt_tokens']:.0f} prompt and {figures['output_tokens']:.0f} output tokens"
    yield f"  trace of {figures['steps']} steps with {tokens} each (mean)"
    yield (
        f"  step {figures['step_us'] / 1e3:.2f} ms (p50 {figures['step_us_p50'] / 1e3:.2f}),"
        f" sum of kernels {figures['kernels_us'] / 1e3:.2f} ms,"
        f" no kernel in {100 * figures['idle_share']:.1f} % of the time"
    )
    if experts := figures["experts"]:
        yield (
            f"  MoE GEMM: {experts['num_used']:.1f} of {experts['num_experts']} experts x"
            f" {experts['bytes_per_expert'] / 1e6:.2f} MB x {experts['num_layers']} layers ="
            f" {experts['bytes_per_step'] / 1e9:.1f} GB a step:"
            f" {experts['gb_per_s']:.0f} GB/s, {experts['tflop_per_s']:.1f} TFLOP/s without padding"
        )


def _role_lines(roles: dict[str, Figures]) -> Iterator[str]:
    yield f"  {'role':<12}{'calls/step':>11}{'us/step':>11}{'share':>8}"
    for role, figures in sorted(roles.items(), key=lambda item: -item[1]["us_per_step"]):
        yield f"  {role:<12}{_columns(figures)}"


def _kernel_lines(kernels: Sequence[Figures], min_share: float) -> Iterator[str]:
    yield f"  {'role':<12}{'calls/step':>11}{'us/step':>11}{'share':>8}  kernel"
    shown = [one for one in kernels if one["share"] >= min_share]
    for one in shown:
        yield f"  {one['role']:<12}{_columns(one)}  {_shortened_name(one['name'])}"
    if rest := kernels[len(shown) :]:
        total = {key: sum(one[key] for one in rest) for key in ("calls_per_step", "us_per_step", "share")}
        yield f"  {'':<12}{_columns(total)}  {len(rest)} others"


def _columns(figures: Figures) -> str:
    return f"{figures['calls_per_step']:>11.1f}{figures['us_per_step']:>11.1f}{100 * figures['share']:>7.1f}%"


def _shortened_name(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LEN else f"{name[: _MAX_NAME_LEN - 4]} ..."
