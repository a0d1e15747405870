"""Random weights with which all experts are used, in pure torch and in vLLM on the CPU."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu import even_experts
from sut.synthetic import write_checkpoint
from tests import fleet

NUM_EXPERTS, NUM_ACTIVE, HIDDEN, NUM_TOKENS = 128, 4, 256, 960
LOAD = """
import sys
from vllm import LLM
if __name__ == "__main__":
    LLM(sys.argv[1], load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64)
"""


def test_each_role_of_a_parameter_has_its_values() -> None:
    """Norms 1, routers of variance 1 / hidden without bias, bytes random, scales 119 to 121."""
    torch = pytest.importorskip("torch")

    def parameter(*shape: int, dtype: object = torch.float32) -> object:
        return torch.nn.Parameter(torch.full(shape, 7, dtype=dtype), requires_grad=False)

    parameters = {
        "embed.weight": parameter(512, HIDDEN),
        "layers.0.norm.weight": parameter(HIDDEN),
        "layers.0.mlp.router.weight": parameter(NUM_EXPERTS, HIDDEN),
        "layers.0.mlp.router.bias": parameter(NUM_EXPERTS),
        "layers.0.mlp.experts.w2_weight": parameter(64, 64, dtype=torch.uint8),
        "layers.0.mlp.experts.w2_weight_scale": parameter(64, 64, dtype=torch.uint8),
        "layers.0.attn.qkv.weight": parameter(4, HIDDEN),
    }
    counts = even_experts.spread(parameters)
    roles = ("embedding", "norm", "router", "router bias", "packed", "scales", "other")
    assert dict.fromkeys(roles, 1) == counts
    assert [1.0] * HIDDEN == parameters["layers.0.norm.weight"].tolist()
    assert [0.0] * NUM_EXPERTS == parameters["layers.0.mlp.router.bias"].tolist()
    assert {7.0} == set(parameters["layers.0.attn.qkv.weight"].flatten().tolist())
    assert {119, 120, 121} == set(parameters["layers.0.mlp.experts.w2_weight_scale"].flatten().tolist())
    assert len(set(parameters["layers.0.mlp.experts.w2_weight"].flatten().tolist())) == 256
    # Tokens of the residual stream have a norm of about the square root of its width after a norm of 1.
    tokens = torch.randn(NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    chosen = (tokens @ parameters["layers.0.mlp.router.weight"].T).topk(NUM_ACTIVE).indices
    uses = torch.bincount(chosen.flatten(), minlength=NUM_EXPERTS)
    # 30 uses each if all were equal.
    assert uses.min() > 0 and uses.max() < 4 * NUM_TOKENS * NUM_ACTIVE / NUM_EXPERTS


def test_vllm_finds_the_plugin_in_the_environment(tmp_path: Path) -> None:
    """Its entry point, in the group that vLLM reads, names a function that can be imported."""
    environment = even_experts.install(tmp_path / "plugin")
    path = environment["PYTHONPATH"].split(os.pathsep)[0]
    (found,) = importlib.metadata.distributions(path=[path])
    (entry,) = found.entry_points
    assert ("vllm.general_plugins", even_experts.register) == (entry.group, entry.load())


@pytest.mark.long
@pytest.mark.vllm
def test_vllm_loads_the_weights_of_the_plugin(tmp_path: Path) -> None:
    """Its engine's process logs how many parameters it has set, among them each layer's router."""
    model = tmp_path / "model"
    write_checkpoint(model)
    environment = {**os.environ, **fleet.VLLM_CPU_ENV, **even_experts.install(tmp_path / "plugin")}
    program = tmp_path / "load.py"
    program.write_text(LOAD)
    environment["PYTHONPATH"] += f"{os.pathsep}{fleet.ROOT}"
    done = subprocess.run(
        [sys.executable, str(program), str(model)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-2000:]
    assert "random weights that use all experts: {" in done.stdout + done.stderr, done.stdout + done.stderr
    assert "'router': " in done.stdout + done.stderr
