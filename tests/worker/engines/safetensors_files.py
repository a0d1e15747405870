"""Hand-written safetensors files: a header of eight bytes and JSON, then the tensors end to end."""

import json
import math
import os
from pathlib import Path

ITEM_BYTES = {"U8": 1, "BF16": 2, "F32": 4}
Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Data type and shape of each tensor, by name."""


def header_of(shapes: Shapes) -> tuple[bytes, int]:
    """Return the header of a file with these tensors in this order, and the bytes of their data."""
    entries, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + ITEM_BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    return len(text).to_bytes(8, "little") + text, end


def write_sparse(path: Path, shapes: Shapes) -> None:
    """Write a file whose tensors are all zeros and take no space."""
    header, num_bytes = header_of(shapes)
    path.write_bytes(header)
    os.truncate(path, len(header) + num_bytes)


def write_byte(path: Path, shapes: Shapes, name: str, index: int, value: int) -> None:
    """Change one byte of one tensor, given by its index in the tensor's data."""
    header, _ = header_of(shapes)
    entry = json.loads(header[8:])[name]
    with path.open("r+b") as file:
        file.seek(len(header) + entry["data_offsets"][0] + index)
        file.write(bytes([value]))


def gpt_oss_120b(layers: range, first: bool, last: bool) -> Shapes:
    """Return the tensors of some of gpt-oss-120b's 36 layers; `first` and `last` add those outside layers."""
    found: Shapes = {"model.embed_tokens.weight": ("BF16", (201_088, 2880))} if first else {}
    for layer in layers:
        prefix = f"model.layers.{layer}."
        experts = {
            "mlp.experts.gate_up_proj_blocks": ("U8", (128, 5760, 90, 16)),
            "mlp.experts.gate_up_proj_scales": ("U8", (128, 5760, 90)),
            "mlp.experts.gate_up_proj_bias": ("BF16", (128, 5760)),
            "mlp.experts.down_proj_blocks": ("U8", (128, 2880, 90, 16)),
            "mlp.experts.down_proj_scales": ("U8", (128, 2880, 90)),
            "mlp.experts.down_proj_bias": ("BF16", (128, 2880)),
            "mlp.router.weight": ("BF16", (128, 2880)),
            "mlp.router.bias": ("BF16", (128,)),
        }
        attention = {
            "self_attn.q_proj.weight": ("BF16", (4096, 2880)),
            "self_attn.q_proj.bias": ("BF16", (4096,)),
            "self_attn.k_proj.weight": ("BF16", (512, 2880)),
            "self_attn.k_proj.bias": ("BF16", (512,)),
            "self_attn.v_proj.weight": ("BF16", (512, 2880)),
            "self_attn.v_proj.bias": ("BF16", (512,)),
            "self_attn.o_proj.weight": ("BF16", (2880, 4096)),
            "self_attn.o_proj.bias": ("BF16", (2880,)),
            "self_attn.sinks": ("BF16", (64,)),
            "input_layernorm.weight": ("BF16", (2880,)),
            "post_attention_layernorm.weight": ("BF16", (2880,)),
        }
        found |= {prefix + name: entry for name, entry in (experts | attention).items()}
    if last:
        found |= {"model.norm.weight": ("BF16", (2880,)), "lm_head.weight": ("BF16", (201_088, 2880))}
    return found
