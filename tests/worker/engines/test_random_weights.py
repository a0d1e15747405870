"""Random weights with which all experts are used, in pure torch and in vLLM on the CPU."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.flags import FlagError
from tests.worker.engines.greedy import bounded, environment_kept, open_engine
from worker.engine_protocol import EngineDead
from worker.engines.model.random_weights import spread
from worker.engines.vllm.engine_core import CoreClient
from worker.engines.vllm.worker_extension import EXTENSION, LOADS, choose_extension

# In the process of vLLM's tests, which has imported torch.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

NUM_EXPERTS, NUM_ACTIVE, HIDDEN, NUM_TOKENS = 128, 4, 256, 960
ROUTER = "layers.0.mlp.router.weight"
SHAPES = {
    "embed.weight": (512, HIDDEN),
    "layers.0.norm.weight": (HIDDEN,),
    ROUTER: (NUM_EXPERTS, HIDDEN),
    "layers.0.mlp.router.bias": (NUM_EXPERTS,),
    "layers.0.mlp.experts.w2_weight": (64, 64),
    "layers.0.mlp.experts.w2_weight_scale": (64, 64),
    "layers.0.attn.qkv.weight": (4, HIDDEN),
}


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment variables that parsing and vLLM change."""
    with environment_kept():
        yield


def parameters() -> dict[str, Any]:
    """Make one parameter of each role, filled with 7."""
    torch = pytest.importorskip("torch")
    dtypes = {name: torch.uint8 if "experts" in name else torch.float32 for name in SHAPES}
    return {
        name: torch.nn.Parameter(torch.full(shape, 7, dtype=dtypes[name]), requires_grad=False)
        for name, shape in SHAPES.items()
    }


def test_each_role_of_a_parameter_has_its_values() -> None:
    """Norms 1, routers of variance 1 / hidden without bias, bytes random, scales 119 to 121."""
    torch = pytest.importorskip("torch")
    found = parameters()
    counts = spread(found)
    roles = ("embedding", "norm", "router", "router bias", "packed", "scales", "other")
    assert dict.fromkeys(roles, 1) == counts
    assert [1.0] * HIDDEN == found["layers.0.norm.weight"].tolist()
    assert [0.0] * NUM_EXPERTS == found["layers.0.mlp.router.bias"].tolist()
    assert {7.0} == set(found["layers.0.attn.qkv.weight"].flatten().tolist())
    assert {119, 120, 121} == set(found["layers.0.mlp.experts.w2_weight_scale"].flatten().tolist())
    assert len(set(found["layers.0.mlp.experts.w2_weight"].flatten().tolist())) == 256
    # Tokens of the residual stream have a norm of about the square root of its width after a norm of 1.
    tokens = torch.randn(NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    chosen = (tokens @ found[ROUTER].T).topk(NUM_ACTIVE).indices
    uses = torch.bincount(chosen.flatten(), minlength=NUM_EXPERTS)
    # 30 uses each if all were equal.
    assert uses.min() > 0 and uses.max() < 4 * NUM_TOKENS * NUM_ACTIVE / NUM_EXPERTS


def test_a_model_without_routers_keeps_its_values() -> None:
    """There is nothing to make even: no parameter is set."""
    found = {name: value for name, value in parameters().items() if "router" not in name}
    assert {} == spread(found)
    assert {7} == {number for value in found.values() for number in value.flatten().tolist()}


def head_parameters() -> dict[str, Any]:
    """Make the parameters of an EAGLE3 head's input and MLP, with the tiny values of a dummy loader."""
    torch = pytest.importorskip("torch")
    shapes = {
        "model.fc.weight": (HIDDEN, 3 * HIDDEN),
        "model.layers.36.mlp.gate_up_proj.weight": (12 * HIDDEN, HIDDEN),
        "model.layers.36.mlp.down_proj.weight": (HIDDEN, 6 * HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (4096, HIDDEN),
    }
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.nn.Parameter(2e-3 * torch.rand(shape, generator=generator) - 1e-3, requires_grad=False)
        for name, shape in shapes.items()
    }


def drafted(found: dict[str, Any], num_steps: int) -> list[Any]:
    """Return the draft tokens of each step, (32,); attention adds little and is left out."""
    torch = pytest.importorskip("torch")
    fc, gate_up, down, norm, head = found.values()
    hidden = torch.randn(32, 3 * HIDDEN, generator=torch.Generator().manual_seed(3)) @ fc.T
    tokens = []
    for _ in range(num_steps):
        gate, up = (torch.nn.functional.rms_norm(hidden, (HIDDEN,), norm) @ gate_up.T).chunk(2, dim=-1)
        hidden = hidden + (torch.nn.functional.silu(gate) * up) @ down.T
        tokens.append((torch.nn.functional.rms_norm(hidden, (HIDDEN,), norm) @ head.T).argmax(dim=-1))
    return tokens


def test_the_draft_tokens_of_a_step_differ() -> None:
    """3 steps of an EAGLE3 head draft 3 tokens for each of 32 requests; with the loader's values one each.

    A sixth of the pairs may be equal: with the model's vocabulary, 50 times as large, fewer are.
    """
    found = head_parameters()
    first, second, third = drafted(found, 3)
    assert (first == second).all() and (second == third).all()
    counts = spread(found)
    assert {"head matrix": 3, "head MLP": 1, "norm": 1} == counts
    first, second, third = drafted(found, 3)
    num_equal = sum(int(equal.sum()) for equal in (first == second, second == third, first == third))
    assert num_equal <= 16
    assert len({*first.tolist(), *second.tolist(), *third.tolist()}) >= 80


def test_random_weights_and_no_others_need_the_extension() -> None:
    """Another extension is kept with a checkpoint's weights and refused with random ones."""
    assert ["", "a.B", EXTENSION, EXTENSION] == [
        choose_extension(load_format, given)
        for load_format, given in (("auto", ""), ("auto", "a.B"), ("Dummy", ""), ("dummy", EXTENSION))
    ]
    with pytest.raises(FlagError, match=r"^--worker-extension-cls .*: must be worker\.engines\.vllm\."):
        choose_extension("dummy", "a.B")


@pytest.mark.parametrize(
    ("loads", "is_refused"), [([], True), ([[]], True), ([[{}], []], True), ([[{}], [{}]], False)]
)
def test_an_engine_whose_extension_did_not_act_is_refused(loads: list[Any], is_refused: bool) -> None:
    """Each rank must have loaded at least one model by the changed loader, routers or not."""
    asked = []

    async def answer(method: str = "tasks") -> list[Any]:
        asked.append(method)
        return loads

    parallel = SimpleNamespace(worker_extension_cls=EXTENSION)
    llm: Any = SimpleNamespace(
        **{"engine_core": None, "input_processor": None, "output_handler": None},
        **{"get_supported_tasks": answer, "collective_rpc": answer},
        vllm_config=SimpleNamespace(parallel_config=parallel),
    )
    preparing = CoreClient(llm).prepare()
    if is_refused:
        with pytest.raises(EngineDead, match=r"^random weights were not loaded by vLLM's"):
            asyncio.run(preparing)
    else:
        asyncio.run(preparing)
    assert ["tasks", LOADS] == asked


@pytest.mark.long
def test_a_worker_loads_random_weights_that_use_all_experts(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its engine's process logs how many parameters it has set, among them each layer's router."""
    from worker.engines.vllm.vllm_engine import VllmEngine, parse_engine_flags

    config = json.loads((checkpoint / "config.json").read_text())
    flags = ["--load-format", "dummy", "--max-model-len", "512", "--max-num-seqs", "4"]

    async def start() -> str:
        async with open_engine(VllmEngine(parse_engine_flags(flags, str(checkpoint)))) as engine:
            return (await bounded(engine.start(), 300)).engine_facts["random_weights"]

    made = asyncio.run(start())
    assert "even-experts" == json.loads(made)["method"]
    log = capfd.readouterr().err
    assert "random weights that use all experts: {" in log, log
    assert f"'router': {config['num_hidden_layers']}" in log, log
