"""Figures of recorded steps: time per kernel and role, and what the GEMMs of the experts achieve."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.gpu.race.expert_sizes import ExpertSizes
from bench.gpu.race.kernel_roles import MOE_GEMM, ROLES, role_of
from bench.gpu.race.step_log import WITH_PREFILL, WITHOUT_PREFILL
from bench.gpu.race.step_trace import TraceStep

Figures = dict[str, Any]


class _Sum(NamedTuple):
    """Calls in all steps of one kind."""

    num_calls: int
    us: float


def profile_figures(steps: Sequence[TraceStep], sizes: ExpertSizes | None) -> dict[str, Figures | None]:
    """Compute the figures of each kind of step; None for a kind that was not recorded."""
    kinds = {
        WITHOUT_PREFILL: [step for step in steps if not step.prompt_tokens],
        WITH_PREFILL: [step for step in steps if step.prompt_tokens],
    }
    return {kind: _figures(found, sizes) if found else None for kind, found in kinds.items()}


def _figures(steps: Sequence[TraceStep], sizes: ExpertSizes | None) -> Figures:
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for step in steps:
        for name, us in step.calls:
            sums[name][0] += 1
            sums[name][1] += us
    by_name = {name: _Sum(int(num), us) for name, (num, us) in sums.items()}
    total_us = sum(one.us for one in by_name.values())
    kernels = [
        {"role": role_of(name), "name": name, **_per_step(one, len(steps), total_us)}
        for name, one in sorted(by_name.items(), key=lambda item: -item[1].us)
    ]
    roles = {role: _sum_of(role, by_name) for role in ROLES}
    periods_us = np.array([step.period_us for step in steps])
    return {
        "steps": len(steps),
        "prompt_tokens": float(np.mean([step.prompt_tokens for step in steps])),
        "output_tokens": float(np.mean([step.output_tokens for step in steps])),
        "step_us": float(periods_us.mean()),
        "step_us_p50": float(np.median(periods_us)),
        "kernels_us": total_us / len(steps),
        "idle_share": float(1 - sum(step.busy_us for step in steps) / periods_us.sum()),
        "roles": {role: _per_step(one, len(steps), total_us) for role, one in roles.items() if one.num_calls},
        "kernels": kernels,
        "experts": _experts(steps, roles[MOE_GEMM].us, sizes) if sizes and roles[MOE_GEMM].us else None,
    }


def _sum_of(role: str, by_name: dict[str, _Sum]) -> _Sum:
    found = [one for name, one in by_name.items() if role_of(name) == role]
    return _Sum(sum(one.num_calls for one in found), sum(one.us for one in found))


def _per_step(one: _Sum, num_steps: int, total_us: float) -> Figures:
    return {
        "calls_per_step": one.num_calls / num_steps,
        "us_per_step": one.us / num_steps,
        "share": one.us / total_us if total_us else 0.0,
    }


def _experts(steps: Sequence[TraceStep], gemm_us: float, sizes: ExpertSizes) -> Figures:
    """Return what the GEMMs of the experts achieve; `gemm_us` is their time in all steps."""
    nums_tokens = [step.prompt_tokens + step.output_tokens for step in steps]
    total_bytes = sum(map(sizes.read_bytes, nums_tokens))
    return {
        "num_used": sum(map(sizes.num_used, nums_tokens)) / len(steps),
        "num_experts": sizes.num_experts,
        "bytes_per_expert": sizes.bytes_per_expert,
        "num_layers": sizes.num_layers,
        "bytes_per_step": total_bytes / len(steps),
        "gb_per_s": total_bytes / gemm_us / 1e3,
        "tflop_per_s": sum(map(sizes.flops, nums_tokens)) / gemm_us / 1e6,
    }
