"""Random weights with which a token's router chooses the experts, so that all experts are about equally used.

The dummy loaders of vLLM (0.25.1 and 0.32.0) and SGLang (0.5.15) fill all floating-point parameters from one
seed with values within 0.001 of 0 and leave the experts' MXFP4 tensors 0. The bias of a router then decides
alone, and 4 or 5 of 128 experts get all tokens: a step reads a few percent of the experts' weights.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EVEN_EXPERTS = "even-experts"
"""Name of these weights in reports; runs with other random weights have other rates."""
_FIRST_SEED = 1000
# Scales are exponents with bias 127: 2^-8 to 2^-6, with which the weights have a magnitude of about 0.02.
_SCALES = range(119, 122)
_BYTES = range(256)
# Input matrix of an EAGLE3 head: it combines hidden states of the target model.
_HEAD_INPUT = "fc.weight"
_DRAFT_MLP_GAIN = 100.0


def spread(parameters: "Mapping[str, torch.nn.Parameter]") -> dict[str, int]:
    """Set the parameters of a model that has routers, by their role.

    Norms become 1, embeddings N(0, 1), routers N(0, 1 / hidden size) with a bias of 0, MXFP4 tensors random
    bytes; all others keep the loader's values.

    In an EAGLE3 head norms become 1 and matrices N(0, 1 / input size), the last one of the MLP 100 times as
    large. With the loader's values its layer would add almost nothing to its input: all draft tokens of a
    step would be equal, and the target model would use fewer experts to verify them.

    Args:
        parameters: By name, before the engine packs them for its kernels.

    Returns:
        How many parameters have each role; empty for a model that is neither, which is not changed.
    """
    is_head = any(name.endswith(_HEAD_INPUT) for name in parameters)
    if not is_head and not any(map(_is_router, parameters)):
        return {}
    import torch

    role_of = _head_role if is_head else _role
    counts: dict[str, int] = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        role = role_of(name, is_packed=parameter.dtype == torch.uint8, num_dims=parameter.dim())
        # Equal on each rank, so that all ranks have the same router.
        generator = torch.Generator(device=parameter.device)
        generator.manual_seed(_FIRST_SEED + number)
        _fill(parameter.data, role, generator)
        counts[role] = counts.get(role, 0) + 1
    return counts


def describe_spread(counts: Mapping[str, int]) -> str:
    """Return the log line for the result of `spread`."""
    if not counts:
        return "random weights: the model has no router, and keeps the values of the dummy loader"
    if "head matrix" in counts:
        return f"random weights of a draft model whose tokens differ: {counts}"
    return f"random weights that use all experts: {counts}"


def _is_router(name: str) -> bool:
    return name.rpartition(".")[0].endswith("router")


def _role(name: str, *, is_packed: bool, num_dims: int) -> str:
    if is_packed:
        return "scales" if "scale" in name else "packed"
    if _is_router(name):
        return "router bias" if name.endswith("bias") else "router"
    if "norm" in name and num_dims == 1:
        return "norm"
    return "embedding" if "embed" in name and num_dims == 2 else "other"


def _head_role(name: str, *, is_packed: bool, num_dims: int) -> str:
    role = _role(name, is_packed=is_packed, num_dims=num_dims)
    if role == "other" and num_dims == 2:
        return "head MLP" if "down_proj" in name else "head matrix"
    return role


def _fill(data: "torch.Tensor", role: str, generator: "torch.Generator") -> None:
    match role:
        case "packed" | "scales":
            values = _BYTES if role == "packed" else _SCALES
            data.random_(values.start, values.stop, generator=generator)
        case "router" | "head matrix":
            data.normal_(0, data.shape[-1] ** -0.5, generator=generator)
        case "head MLP":
            data.normal_(0, _DRAFT_MLP_GAIN * data.shape[-1] ** -0.5, generator=generator)
        case "router bias":
            data.zero_()
        case "norm":
            data.fill_(1)
        case "embedding":
            data.normal_(0, 1, generator=generator)
