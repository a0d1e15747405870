"""Placement of vLLM's ranks, and the check of accelerator memory."""

import contextlib
import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.engines.model import gpu_fit
from worker.engines.model.checkpoint import ModelLimits
from worker.engines.model.gpu_fit import default_tensor_parallel_size
from worker.engines.vllm import ranks
from worker.engines.vllm.ranks import check_accelerators, omp_threads_bind
from worker.machine.gpus import Memory


def limits(num_attention_heads: int, num_key_value_heads: int) -> ModelLimits:
    """Build limits of which only the heads matter."""
    return ModelLimits(
        vocab_size=1,
        max_position_embeddings=1,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
    )


@pytest.mark.parametrize(
    ("num_accelerators", "heads", "key_value_heads", "size"),
    [
        (8, 64, 8, 8),  # gpt-oss-120b on a full node
        (16, 64, 8, 8),  # more than eight accelerators are for more replicas
        (7, 64, 8, 4),  # 7, 6 and 5 divide neither 64 nor 8
        (4, 64, 8, 4),
        (3, 64, 8, 2),
        (1, 64, 8, 1),
        (0, 64, 8, 1),
        (8, 6, 2, 2),  # 6 and 3 divide the heads but not the key-value heads
        (8, 12, 12, 6),
    ],
)
def test_default_size_fits_and_divides(
    num_accelerators: int, heads: int, key_value_heads: int, size: int
) -> None:
    """The default tensor parallel size is the largest that fits and divides both kinds of heads."""
    assert default_tensor_parallel_size(limits(heads, key_value_heads), num_accelerators) == size


def test_ranks_share_the_cpus_out() -> None:
    """Each rank has its own CPUs, in vLLM's notation."""
    assert omp_threads_bind(2, [0, 1]) == "0|1"
    assert omp_threads_bind(2, [0, 2, 4, 6, 8]) == "0,2,4|6,8"
    assert omp_threads_bind(1, [3, 5]) == "3,5"


def test_rank_without_cpu_is_refused() -> None:
    """Three ranks on two CPUs cannot each have one."""
    with pytest.raises(ValueError, match=r"^--tensor-parallel-size: 3 ranks need 3 CPUs, 2 are available$"):
        omp_threads_bind(3, [0, 1])


@pytest.mark.parametrize(
    ("free_gib", "flags", "says"),
    [
        ([79, 79], {}, None),
        (
            [79, 40],
            {},
            "--gpu-memory-utilization: 0.9 of accelerator 1 is 72.0 GiB, but it has 40.0 GiB free",
        ),
        ([79, 40], {"tensor_parallel_size": 1}, None),
        (
            [79, 79],
            {"gpu_memory_utilization": 0.25},
            "--gpu-memory-utilization: 0.25 of accelerator 0 is 20.0 GiB, "
            "but its part of the weights is 30.0 GiB",
        ),
        ([79, 79], {"gpu_memory_utilization": 0.25, "load_format": "dummy"}, None),
        # Two nodes with one rank each: the second accelerator is not used, each node holds 30 GiB.
        ([79, 40], {"nnodes": 2}, None),
        (
            [79, 40],
            {"nnodes": 2, "gpu_memory_utilization": 0.25},
            "--gpu-memory-utilization: 0.25 of accelerator 0 is 20.0 GiB, "
            "but its part of the weights is 30.0 GiB",
        ),
    ],
)
def test_too_little_memory_is_refused_before_loading(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free_gib: list[int],
    flags: dict[str, Any],
    says: str | None,
) -> None:
    """Two accelerators of 80 GiB, two ranks, 60 GiB of weights; as vLLM itself would only find out later."""
    memory = [Memory(str(index), free << 30, 80 << 30) for index, free in enumerate(free_gib)]
    monkeypatch.setattr(gpu_fit, "visible_memory", lambda: memory)
    monkeypatch.setattr(gpu_fit, "FREED_TIMEOUT_S", 0)
    monkeypatch.setattr(gpu_fit, "FREED_POLL_S", 0)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(60 << 30)
    parsed = Namespace(
        **{
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 1,
            "data_parallel_size": 1,
            "nnodes": 1,
            "gpu_memory_utilization": 0.9,
            "quantization": None,
            "cpu_offload_gb": 0,
            "load_format": "auto",
        }
        | flags
    )
    refused = pytest.raises(ValueError, match=f"^{re.escape(says)}$") if says else contextlib.nullcontext()
    with refused:
        ranks.check_memory(parsed, tmp_path)


@pytest.mark.parametrize(
    ("num_visible", "flags", "says"),
    [
        (4, {}, None),
        (8, {}, "--nnodes: 4 ranks on each node need as many visible accelerators, 8 are visible"),
        (2, {}, "--nnodes: 4 ranks on each node need as many visible accelerators, 2 are visible"),
        # These are the visible ones.
        (8, {"device_ids": [0, 1, 2, 3]}, None),
        (8, {"nnodes": 1}, None),
    ],
)
def test_an_engine_over_nodes_uses_every_visible_accelerator(
    monkeypatch: pytest.MonkeyPatch, num_visible: int, flags: dict[str, Any], says: str | None
) -> None:
    """Two nodes of four ranks each; vLLM would fail once the model is loaded."""
    from vllm import platforms

    platform = SimpleNamespace(device_count=lambda: num_visible, is_cpu=lambda: False)
    monkeypatch.setattr(platforms, "current_platform", platform, raising=False)
    sizes = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "nnodes": 2}
    refused = pytest.raises(ValueError, match=f"^{re.escape(says)}$") if says else contextlib.nullcontext()
    with refused:
        ranks.check_ranks_per_node(Namespace(**sizes | flags))


def test_a_build_without_its_accelerator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU build is refused without a driver (no platform) and without a device; a CPU build is not."""
    from vllm import platforms

    check_accelerators()
    no_driver = platforms.interface.UnspecifiedPlatform()
    no_device = SimpleNamespace(is_unspecified=lambda: False, is_cpu=lambda: False, device_count=lambda: 0)
    for platform in (no_driver, no_device):
        monkeypatch.setattr(platforms, "current_platform", platform, raising=False)
        with pytest.raises(ValueError, match="none is visible"):
            check_accelerators()


@pytest.mark.parametrize(
    ("num_visible", "flags", "num_used"),
    [
        (8, {}, 4),
        (4, {}, None),
        (8, {"data_parallel_size": 2, "data_parallel_size_local": 2}, None),
        (16, {"data_parallel_size": 2, "data_parallel_size_local": 2}, 8),
        # Another front end may use the others.
        (8, {"data_parallel_size": 2, "local_engines_only": True}, None),
        (8, {"device_ids": [0, 1, 2, 3]}, None),
    ],
)
def test_idle_accelerators_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, num_visible: int, flags: dict[str, Any], num_used: int | None
) -> None:
    """An engine of 2 times 2 ranks; a warning names the accelerators in use and those that are visible."""
    from vllm import platforms

    platform = SimpleNamespace(device_count=lambda: num_visible, is_cpu=lambda: False)
    monkeypatch.setattr(platforms, "current_platform", platform, raising=False)
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 1}
    sizes |= {"data_parallel_size_local": 1, "local_engines_only": False, "nnodes": 1, "device_ids": None}
    values: Any = SimpleNamespace(**sizes | flags)
    warnings = [line.split(":")[0] for line in ranks.idle_accelerators(values, values)]
    expected = [f"the engine uses {num_used} of {num_visible} visible accelerators"] if num_used else []
    assert expected == warnings
