"""Workers on vLLM that would answer differently are refused by name; others may execute differently.

Each engine is configured by vLLM itself, up to the load of its weights.
"""

import asyncio
import importlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from common.flags import FlagError
from coordinator.transport.agreement import FleetError, check_same_engine, execution_differences
from protos import worker_pb2 as pb
from sut.results.model_arguments import model_deviations, size_deviations
from sut.synthetic import write_checkpoint
from tests.worker.engines.greedy import environment_kept
from worker.engines.model.fact_encoding import MAX_VALUE_LEN, encode
from worker.engines.model.weights_sha256 import write_sums
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.engines.vllm.engine_args import describe, parse_engine_flags
from worker.engines.vllm.engine_facts import loaded_plugins, node_settings
from worker.servicer import WorkerServicer

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # vLLM's and torch's imports warn


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the environment variables that parsing and vLLM change; each of two ranks has a CPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with environment_kept():
        yield


def told_by(folder: Path, *argv: str) -> pb.WorkerInfo:
    """Return what a worker with these flags on this checkpoint would answer to GetInfo."""
    from vllm.usage.usage_lib import UsageContext

    flags = parse_engine_flags(list(argv), str(folder))
    config = flags.engine_args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    engine_info = describe(flags, config, flags.hash_model(threading.Event()))

    async def ask() -> pb.WorkerInfo:
        servicer = WorkerServicer(CountingEngine(CountingConfig()), 0, 60)
        servicer.admit_runs(engine_info)
        try:
            return await servicer.GetInfo(pb.GetInfoRequest(), None)  # type: ignore[arg-type]  # unused
        finally:
            await servicer.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def usual(checkpoint: Path) -> pb.WorkerInfo:
    """A worker with the default flags."""
    with environment_kept():
        return told_by(checkpoint)


def refusal(first: pb.WorkerInfo, other: pb.WorkerInfo) -> str:
    """Return the line with which a run refuses the two workers."""
    with pytest.raises(FleetError) as caught:
        check_same_engine([("a:1", first), ("b:2", other)])
    line = str(caught.value)
    assert "\n" not in line
    return line


NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--quantization fp8", 'quantization differs: a:1 has null, b:2 has "fp8"'),
        ("--kv-cache-dtype fp8_e5m2", 'kv_cache_dtype differs: a:1 has "auto", b:2 has "fp8_e5m2"'),
        ("--dtype float32", 'dtype differs: a:1 has "torch.bfloat16", b:2 has "torch.float32"'),
        ("--load-format safetensors", 'load_format differs: a:1 has "auto", b:2 has "safetensors"'),
        (
            "--load-format dummy",
            'load_format differs: a:1 has "auto", b:2 has "dummy" '
            "(also different: random_weights, model_hash",
        ),
        ("--enable-prefix-caching", "enable_prefix_caching differs: a:1 has false, b:2 has true"),
        (
            "--load-format DUMMY",
            'load_format differs: a:1 has "auto", b:2 has "dummy" (also different: random_',
        ),
        ("--seed 1", "seed differs: a:1 has 0, b:2 has 1"),
        ("--enable-lora", "enable_lora differs: a:1 has the default, b:2 has true"),
        ("--logits-processors a.b:C", 'logits_processors differs: a:1 has the default, b:2 has ["a.b:C"]'),
        (
            '--hf-overrides {"sliding_window":64}',
            'hf_overrides differs: a:1 has the default, b:2 has {"sliding_wi',
        ),
        (
            '--hf-overrides {"rope_parameters":{"rope_theta":9,"rope_type":"default"}}',
            "hf_overrides differs: a:1 has ",
        ),
        (
            f"--speculative-config {encode(NGRAM).replace(' ', '')}",
            "speculative_config differs: a:1 has the default",
        ),
        ("--kv-offloading-size 1", "kv_offloading_size differs: a:1 has the default, b:2 has 1.0"),
        ("--max-model-len 4096", "max_model_len differs: a:1 has 48128, b:2 has 4096"),
    ],
)
def test_an_argument_that_decides_answers_is_refused_by_name(
    argv: str, says: str, checkpoint: Path, usual: pb.WorkerInfo
) -> None:
    """A worker with another value of it does not serve in the same run; both values are named."""
    other = told_by(checkpoint, *argv.split())
    assert refusal(usual, other).startswith(f"--workers: {says}")
    assert usual.engine_hash != other.engine_hash


def test_the_same_override_is_seen_in_what_vllm_makes_of_it(checkpoint: Path, usual: pb.WorkerInfo) -> None:
    """An override that changes nothing leaves the hash of the effective configuration as it is."""
    rope = told_by(checkpoint, "--hf-overrides", '{"rope_parameters":{"rope_theta":9,"rope_type":"default"}}')
    line = refusal(usual, rope)
    assert line.endswith("(also different: rope_parameters, hf_config_hash)")
    same = told_by(checkpoint, "--hf-overrides", encode({"sliding_window": sliding_window(checkpoint)}))
    assert usual.engine_facts["hf_config_hash"] == same.engine_facts["hf_config_hash"]


def sliding_window(checkpoint: Path) -> int:
    """Return the checkpoint's own value."""
    found: int = json.loads((checkpoint / "config.json").read_text())["sliding_window"]
    return found


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--tensor-parallel-size 2", "tensor_parallel_size: 1 at a:1, 2 at b:2"),
        ("--data-parallel-size 2", "data_parallel_size: 1 at a:1, 2 at b:2"),
        ("--enable-expert-parallel", "enable_expert_parallel: false at a:1, true at b:2"),
        ("--max-num-seqs 3", "max_num_seqs: 128 at a:1, 3 at b:2"),
        ("--max-num-batched-tokens 4096", "max_num_batched_tokens: 2048 at a:1, 4096 at b:2"),
        ("--block-size 32", "block_size: 128 at a:1, 32 at b:2"),
        ("--attention-backend CPU_ATTN", 'attention_backend: "auto" at a:1, "CPU_ATTN" at b:2'),
        ("--moe-backend triton", 'moe_backend: "auto" at a:1, "triton" at b:2'),
        ("--no-enforce-eager", "enforce_eager: true at a:1, false at b:2"),
        ("--gpu-memory-utilization 0.8", "gpu_memory_utilization: the default at a:1, 0.8 at b:2"),
    ],
)
def test_an_argument_of_the_execution_may_differ_and_is_listed(
    argv: str, says: str, checkpoint: Path, usual: pb.WorkerInfo
) -> None:
    """Such workers serve one run; the difference is listed with both values."""
    other = told_by(checkpoint, *argv.split())
    check_same_engine([("a:1", usual), ("b:2", other)])
    assert usual.engine_hash == other.engine_hash
    assert says in execution_differences([("a:1", usual), ("b:2", other)])


@pytest.mark.parametrize(
    "argv", ["--served-model-name x", "--distributed-timeout-seconds 60", "--download-dir /tmp"]
)
def test_places_and_logs_are_no_difference(argv: str, checkpoint: Path, usual: pb.WorkerInfo) -> None:
    """What decides nothing about the computation is in no hash and no list."""
    other = told_by(checkpoint, *argv.split())
    assert (usual.engine_hash, []) == (
        other.engine_hash,
        execution_differences([("a:1", usual), ("b:2", other)]),
    )


def test_the_nodes_of_one_engine_need_the_same_flags(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank and place of the model may differ between nodes; flags and variables that shape it may not."""
    shutil.copytree(checkpoint, tmp_path / "copy")

    def settings(model: Path, *argv: str) -> dict[str, str]:
        words = ["--nnodes", "2", "--tensor-parallel-size", "2", "--max-model-len", "64", *argv]
        return node_settings(parse_engine_flags(words, str(model)).given)

    head = settings(checkpoint)
    assert ("2", "2", "64") == (head["nnodes"], head["tensor_parallel_size"], head["max_model_len"])
    assert head == settings(tmp_path / "copy", "--node-rank", "1", "--master-addr", "10.0.0.1")
    other = settings(checkpoint, "--node-rank", "1", "--max-num-seqs", "3")
    assert {("max_num_seqs", "3")} == set(other.items()) - set(head.items())
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "0")
    other = settings(checkpoint, "--node-rank", "1")
    assert {("VLLM_USE_FLASHINFER_SAMPLER", '"0"')} == set(other.items()) - set(head.items())


def test_another_checkpoint_of_the_same_shape_is_refused(
    checkpoint: Path, usual: pb.WorkerInfo, tmp_path: Path
) -> None:
    """Weights drawn with another seed have the same names and sizes; the content tells them apart."""
    write_checkpoint(tmp_path / "other", seed=1)
    other = told_by(tmp_path / "other")
    line = refusal(usual, other)
    expected = f"model_hash differs: a:1 has {usual.model_hash}, b:2 has {other.model_hash}"
    assert f"--workers: {expected} (also different: weight_content_hash)" == line
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert usual.engine_hash == told_by(copy).engine_hash


def test_one_experts_tensor_is_refused(checkpoint: Path, usual: pb.WorkerInfo, tmp_path: Path) -> None:
    """One expert of one layer is replaced: the workers are refused."""
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (path,) = copy.glob("*.safetensors")
    tensors = load_file(path)
    tensors["model.layers.1.mlp.experts.down_proj"][2] = 0
    save_file(tensors, path, metadata={"format": "pt"})
    assert refusal(usual, told_by(copy)).endswith("(also different: weight_content_hash)")


def test_random_weights_of_another_seed_are_refused(checkpoint: Path) -> None:
    """With load format dummy the weights follow from configuration and seed: equal seeds agree."""
    flags = ("--load-format", "dummy", "--seed")
    first, same, other = (told_by(checkpoint, *flags, seed) for seed in "778")
    check_same_engine([("a:1", first), ("b:2", same)])
    assert "--workers: seed differs: a:1 has 7, b:2 has 8" == refusal(first, other)


def test_random_weights_that_are_cut_into_other_parts_are_refused(checkpoint: Path) -> None:
    """Each rank draws its part of a tensor from the same seed, so that two halves are not the whole."""
    flags = ("--load-format", "dummy")
    whole, wide = told_by(checkpoint, *flags), told_by(checkpoint, *flags, "--data-parallel-size", "2")
    check_same_engine([("a:1", whole), ("b:2", wide)])
    halves = told_by(checkpoint, *flags, "--tensor-parallel-size", "2")
    assert refusal(whole, halves).startswith("--workers: random_weights differs: a:1 has ")
    experts = told_by(checkpoint, *flags, "--enable-expert-parallel", "--data-parallel-size", "2")
    assert refusal(whole, experts).startswith("--workers: random_weights differs: a:1 has ")


def test_a_changed_model_is_no_submission_run(checkpoint: Path, usual: pb.WorkerInfo) -> None:
    """What a worker reports of its arguments shows that its model is not that of the checkpoint."""
    assert [] == model_deviations("vllm", usual.engine_args)
    (small,) = size_deviations(usual.engine_facts)
    assert small.startswith("the model is not openai/gpt-oss-120b: num_hidden_layers 2, not 36, ")
    words = ["--hf-overrides", '{"num_experts_per_tok": 1}', "--logits-processors", "a.b:C"]
    loader = ["--model-loader-extra-config", '{"enable_weights_track": false}']
    changed = model_deviations("vllm", told_by(checkpoint, *words, *loader).engine_args)
    names = ["hf_overrides", "logits_processors", "model_loader_extra_config"]
    assert names == [line.partition(" ")[0] for line in changed]


def test_facts_are_bounded(checkpoint: Path) -> None:
    """A fact longer than the bound is replaced by its hash, and still differs."""
    overrides = [encode({"note": str(number) * 1000}) for number in (1, 2)]
    one, other = (told_by(checkpoint, "--hf-overrides", text) for text in overrides)
    assert all(len(value) <= MAX_VALUE_LEN for value in one.engine_facts.values())
    assert refusal(one, other).startswith('--workers: hf_overrides differs: a:1 has "sha256:')


def connector(password: str) -> list[str]:
    """Return flags that reuse KV caches through a server."""
    extra = {"redis": {"password": password}, "url": f"redis://:{password}@node"}
    config = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": extra,
    }
    loader = {"s3_secret_access_key": password, "concurrency": 4}
    return ["--kv-transfer-config", encode(config), "--model-loader-extra-config", encode(loader)]


def test_workers_with_the_same_kv_connector_agree_and_report_no_secret(checkpoint: Path) -> None:
    """VLLM gives each process a random engine_id; neither it nor a password is in any answer of GetInfo."""
    first, second = (told_by(checkpoint, *connector("hunter2")) for _ in range(2))
    check_same_engine([("a:1", first), ("b:2", second)])
    assert "hunter2" not in str(first)
    assert '"kv_connector": "ExampleConnector"' in first.engine_args["kv_transfer_config"]
    other = connector("hunter2")
    other[1] = other[1].replace("@node", "@elsewhere")
    assert "kv_transfer_config differs" in refusal(first, told_by(checkpoint, *other))


@pytest.mark.parametrize(
    ("package", "selected", "listed"),
    [
        ("vllm-sampler", None, True),
        ("sampler", None, True),
        ("vllm-sampler", "other,sampler", True),
        ("sampler", "other", False),
        ("vllm-sampler", "other", False),
        ("vllm-sampler", "", False),
    ],
)
def test_a_plugin_counts_if_vllm_loads_it_whatever_its_package_is_called(
    package: str, selected: str | None, listed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """VLLM_PLUGINS selects general plugins by name; only modules of vLLM itself are left out."""
    info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nsampler = sampler:load\nown = vllm.plugins.own:load\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    if selected is not None:
        monkeypatch.setenv("VLLM_PLUGINS", selected)
    found = loaded_plugins()
    assert listed == (f"sampler = sampler:load ({package} 1.0)" in found)
    assert not any("own = " in line for line in found)


def test_objects_are_encoded_without_addresses() -> None:
    """Sets in any order, types and objects of any kind have one encoding in every process."""
    assert encode({"b", "a"}) == encode({"a", "b"})
    assert '"builtins.int"' == encode(int)
    assert '"object"' == encode(object())


def test_a_draft_model_counts_by_content(checkpoint: Path, tmp_path: Path) -> None:
    """The draft model of speculative decoding is hashed like the model, without its directory's name."""
    draft = tmp_path / "draft"
    write_checkpoint(draft, seed=2)
    speculation = encode({"method": "draft_model", "model": str(draft), "num_speculative_tokens": 2})
    flags = parse_engine_flags(["--speculative-config", speculation], str(checkpoint))
    assert [str(checkpoint), str(draft)] == [source.model for source in flags.sources]
    before = flags.hash_model(threading.Event())
    shutil.rmtree(draft)
    write_checkpoint(draft, seed=3)
    after = flags.hash_model(threading.Event())
    assert {"draft_model_hash"} == dict(before.facts.items() - after.facts.items()).keys()
    assert before.model_hash == after.model_hash


def test_a_stale_hash_of_the_weights_is_refused_before_vllm_loads(checkpoint: Path, tmp_path: Path) -> None:
    """Weights that changed after `checkpoint-hash` are bad input: the worker does not start."""
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    write_sums(copy, "auto")
    assert 64 == len(told_by(copy).weights_sha256)
    (path,) = copy.glob("*.safetensors")
    path.touch()
    with pytest.raises(
        FlagError, match=r"^--model: .*weights.sha256.json is stale: model.safetensors was mod"
    ):
        parse_engine_flags([], str(copy))
