"""Lines that the race prints: one per window, and the standing."""

from collections.abc import Sequence
from typing import Any

from bench.gpu.race.journal import Run, standing

HEAD = (
    f"{'rows':>7}{'group':>6}{'tokens/s':>10}{'steady':>8}{'prefill/s':>10}{'step p50':>10}"
    f"{'p99':>7}{'max ms':>8}{'TPOT p99':>9}{'GPU %':>6}{'W':>5}{'MHz':>6}"
    f"{'KV %':>6}{'unshared':>9}{'preempt':>8}{'kernels':>8}"
)


def window_line(window: dict[str, Any]) -> str:
    """Format the figures of a window."""
    gpu, compiled, kv_use = window["gpu"], window["compiled"], window["kv_use"]
    use = f"{gpu['busy_percent']:>6.0f}{gpu['power_w']:>5.0f}{gpu['sm_mhz']:>6.0f}" if gpu else f"{'-':>17}"
    num_kernels = "-" if compiled is None else compiled["num"]
    step_ms = window["step_ms"]
    return (
        f"{window['rows']:>7}{window['prefill_group_tokens']:>6}"
        f"{window['tokens_per_s']:>10.0f}{window['steady_tokens_per_s']:>8.0f}"
        f"{window['prompt_tokens_per_s']:>10.0f}{step_ms['p50']:>10.1f}{step_ms['p99']:>7.0f}"
        f"{step_ms['max']:>8.0f}{window['tpot_ms']['p99']:>9.1f}{use}"
        f"{'-' if kv_use is None else f'{100 * kv_use:.0f}':>6}{100 * window['kv_use_unshared']:>9.0f}"
        f"{window['preemptions']:>8}{num_kernels:>8}"
    )


def standing_lines(runs: Sequence[Run]) -> list[str]:
    """Format the standing."""
    head = f"{'configuration':<34}{'runs':>5}{'rows':>6}{'steady tokens/s':>17}  behind"
    return ["", head, *map(_standing_line, standing(runs))]


def _standing_line(one: dict[str, Any]) -> str:
    figures = f"{one['runs']:>5}{one['rows']:>6}{one['steady_tokens_per_s']:>17.0f}"
    return f"{one['name']:<34}{figures}  {one['behind']}".rstrip()
