"""vLLM plugin: random weights with which all experts are used about equally often.

With `--load-format dummy` vLLM (0.25.1 and 0.32.0) fills all floating parameters from one seed and leaves the
experts' MXFP4 tensors 0. The bias of a router then decides alone, and 4 or 5 of 128 experts get all tokens: a
step reads a few percent of the experts' weights. With this plugin a router's result depends on the token.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("vllm.even_experts")

NAME = "even-experts"
_FIRST_SEED = 1000
# Scales are exponents with bias 127: 2^-8 to 2^-6, with which the weights have a magnitude of about 0.02.
_SCALES = range(119, 122)
_BYTES = range(256)


def install(directory: Path) -> dict[str, str]:
    """Write the plugin's metadata into a directory; returns the environment in which vLLM finds it.

    Raises:
        OSError: The directory cannot be written.
    """
    metadata = directory / f"{NAME.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{NAME} = {__name__}:register\n")
    paths = [str(directory), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def register() -> None:
    """Change how vLLM makes dummy weights; vLLM calls this in each of its processes, possibly twice."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    load = DummyModelLoader.load_weights
    if load.__module__ == __name__:
        return

    def load_weights(loader: DummyModelLoader, model: "torch.nn.Module", model_config: Any) -> None:
        load(loader, model, model_config)
        logger.info("random weights that use all experts: %s", spread(dict(model.named_parameters())))

    setattr(DummyModelLoader, "load_weights", load_weights)  # noqa: B010 - mypy forbids the assignment


def spread(parameters: "Mapping[str, torch.nn.Parameter]") -> dict[str, int]:
    """Set parameters by their role and return how many have each.

    Norms become 1, embeddings N(0, 1), routers N(0, 1 / hidden size) with a bias of 0, MXFP4 tensors random
    bytes; all others keep vLLM's values.
    """
    import torch

    counts: dict[str, int] = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        role = _role(name, is_packed=parameter.dtype == torch.uint8, num_dims=parameter.dim())
        generator = torch.Generator(device=parameter.device)
        generator.manual_seed(_FIRST_SEED + number)
        _fill(parameter.data, role, generator)
        counts[role] = counts.get(role, 0) + 1
    return counts


def _role(name: str, *, is_packed: bool, num_dims: int) -> str:
    owner = name.rpartition(".")[0]
    if is_packed:
        return "scales" if "scale" in name else "packed"
    if owner.endswith("router"):
        return "router bias" if name.endswith("bias") else "router"
    if "norm" in name and num_dims == 1:
        return "norm"
    return "embedding" if "embed" in name and num_dims == 2 else "other"


def _fill(data: "torch.Tensor", role: str, generator: "torch.Generator") -> None:
    match role:
        case "packed" | "scales":
            values = _BYTES if role == "packed" else _SCALES
            data.random_(values.start, values.stop, generator=generator)
        case "router":
            data.normal_(0, data.shape[-1] ** -0.5, generator=generator)
        case "router bias":
            data.zero_()
        case "norm":
            data.fill_(1)
        case "embedding":
            data.normal_(0, 1, generator=generator)
