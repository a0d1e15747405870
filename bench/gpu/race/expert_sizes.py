"""Sizes of a model's experts, and what a step with a number of tokens reads and computes of them."""

import json
from pathlib import Path
from typing import NamedTuple

# MXFP4: 4 bits a weight, and a scale of 8 bits for each 32 weights of a row.
_BYTES_PER_WEIGHT = (4 + 8 / 32) / 8


class ExpertSizes(NamedTuple):
    """Experts in MXFP4."""

    num_experts: int
    num_experts_per_token: int
    num_layers: int
    weights_per_expert: int
    """Weights of both matrices of one expert in one layer."""

    @property
    def bytes_per_expert(self) -> float:
        """Return the bytes of one expert in one layer, without its biases."""
        return self.weights_per_expert * _BYTES_PER_WEIGHT

    def num_used(self, num_tokens: int) -> float:
        """Return the expected number of experts of a layer that tokens use, all experts equally likely."""
        unused = (1 - self.num_experts_per_token / self.num_experts) ** num_tokens
        return self.num_experts * (1 - unused)

    def read_bytes(self, num_tokens: int) -> float:
        """Return the bytes of the experts in use in all layers, each read once."""
        return self.num_used(num_tokens) * self.bytes_per_expert * self.num_layers

    def flops(self, num_tokens: int) -> float:
        """Return the operations of the experts for these tokens, two per weight, without padding."""
        return 2.0 * num_tokens * self.num_experts_per_token * self.weights_per_expert * self.num_layers


def read_expert_sizes(checkpoint: Path) -> ExpertSizes | None:
    """Read the sizes from config.json; None if the experts are not in MXFP4.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON or lacks a size.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if config.get("quantization_config", {}).get("quant_method") != "mxfp4":
        return None
    try:
        # The first matrix has the gate and the up projection, the second one the down projection.
        weights = 3 * config["hidden_size"] * config["intermediate_size"]
        return ExpertSizes(
            config["num_local_experts"], config["num_experts_per_tok"], config["num_hidden_layers"], weights
        )
    except KeyError as error:
        raise ValueError(f"config.json of {checkpoint} has no {error}") from error
