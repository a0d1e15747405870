"""Parsing vLLM's flags and filling in this worker's defaults (worker.engines.vllm.engine_args)."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.flags import FlagError
from tests.forked import completed_command
from tests.worker.engines.greedy import environment_kept
from worker.engine_protocol import EngineDead
from worker.engines.vllm.causes import one_line
from worker.engines.vllm.engine_args import MAX_MODEL_LEN, EngineFlags, parse_engine_flags
from worker.engines.vllm.engine_core import CoreClient

# vLLM's and torch's imports warn.
vllm_import = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment variables that parsing and vLLM change."""
    with environment_kept():
        yield


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a config.json: all that parsing reads of a checkpoint."""
    config = {
        "eos_token_id": 7,
        "vocab_size": 64,
        "max_position_embeddings": 131072,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_message_becomes_one_line() -> None:
    """A pydantic message keeps the error and loses the echo of the input."""
    message = (
        "1 validation error for CompilationConfig\nfoo\n"
        "  Unexpected keyword argument [type=unexpected_keyword_argument, input_value=1, input_type=int]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/unexpected_keyword_argument"
    )
    assert one_line(ValueError(message)) == "foo Unexpected keyword argument"
    assert one_line(TimeoutError()) == "TimeoutError"


def test_counting_engine_needs_no_vllm() -> None:
    """The flags' module imports neither vLLM nor torch by itself."""
    code = (
        "import sys, worker.engines.vllm.engine_args, worker.engines.vllm.vllm_engine; "
        "print({'vllm', 'torch'} & set(sys.modules))"
    )
    done = completed_command([sys.executable, "-c", code], 60)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


@pytest.mark.parametrize("variable", ["VLLM_MODEL_REDIRECT_PATH", "VLLM_USE_MODELSCOPE"])
def test_a_variable_that_makes_vllm_load_other_files_than_the_hashed_ones_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model hash covers the files of --model in the Hugging Face cache, whatever vLLM would load."""
    monkeypatch.setenv(variable, "true")
    monkeypatch.setattr("worker.engines.vllm.engine_args.find_checkpoint", lambda *_: None)
    with pytest.raises(FlagError, match=f"^--model: {variable} is set"):
        parse_engine_flags([], "openai/gpt-oss-120b")


def test_missing_model_is_refused_before_vllm_is_imported(tmp_path: Path) -> None:
    """A wrong path costs no import."""
    with pytest.raises(ValueError, match=r"^--model: no directory "):
        parse_engine_flags([], str(tmp_path / "none"))


@pytest.mark.vllm
@vllm_import
def test_defaults(checkpoint: Path) -> None:
    """Flags that were not given have this worker's values; the rest are vLLM's."""
    args = parse_engine_flags([], str(checkpoint)).engine_args
    assert args.model == str(checkpoint)
    # 15,330 prompt tokens and 32,768 answer tokens are 48,098.
    assert args.max_model_len == MAX_MODEL_LEN == 48128 >= 15330 + 32768
    assert (args.enable_prefix_caching, args.enable_chunked_prefill) == (False, True)
    assert (args.skip_tokenizer_init, args.disable_log_stats) == (True, False)
    assert (args.gpu_memory_utilization, args.dtype, args.trust_remote_code) == (0.9, "auto", False)
    assert (args.stream_interval, args.async_scheduling, args.max_num_seqs) == (1, None, None)


@pytest.mark.vllm
@vllm_import
def test_flags_are_read_offline(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE with a model directory: no other model, such as vLLM's default, is looked for."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert str(checkpoint) == parse_engine_flags([], str(checkpoint)).engine_args.model


@pytest.mark.vllm
@vllm_import
def test_short_model_bounds_the_default_length(checkpoint: Path) -> None:
    """A model of 4,096 positions is served with 4,096."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    assert parse_engine_flags([], str(checkpoint)).engine_args.max_model_len == 4096


@pytest.mark.vllm
@vllm_import
def test_given_flags_win(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag of vLLM passes through in each of vLLM's spellings."""
    # Each of two ranks needs a CPU.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    argv = ["--max_num_seqs", "3", "--max-model-len", "1k", "--moe-backend=marlin", "-tp", "2"]
    argv += ["--no-enforce-eager", "--compilation-config.mode", "0", "--gpu-memory-utilization", "0.5"]
    args = parse_engine_flags(argv, str(checkpoint)).engine_args
    assert (args.max_num_seqs, args.max_model_len, args.moe_backend) == (3, 1000, "marlin")
    assert (args.tensor_parallel_size, args.enforce_eager) == (2, False)
    assert (int(args.compilation_config.mode), args.gpu_memory_utilization) == (0, 0.5)


@pytest.mark.vllm
@vllm_import
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bogus", "1"], "unrecognized arguments: --bogus 1"),
        # An abbreviation would change its meaning with vLLM's version.
        (["--tensor-parallel", "2"], "unrecognized arguments: --tensor-parallel 2"),
        (["--max-num-seqs", "many"], "--max-num-seqs: invalid .*many"),
        (["--max-num-seqs"], "--max-num-seqs: expected one argument"),
        (["--dtype", "float33"], "--dtype: invalid choice: 'float33'"),
        (
            ["--compilation-config", '{"foo": 1}'],
            "--compilation-config/-cc: foo Unexpected keyword argument$",
        ),
        (["--compilation-config.mode"], "--compilation-config.mode: expected a value"),
        (["--generation-config", "/none"], "--model /none/generation_config.json: No such file"),
        (["--node-rank", "1"], "^--node-rank: 1 is not in 0..0: --nnodes is 1$"),
        (["--nnodes", "2", "-r", "2", "-tp", "2"], "^--node-rank: 2 is not in 0..1: --nnodes is 2$"),
        (["--nnodes", "2", "-tp", "3"], "^--nnodes: 2 does not divide the 3 ranks of the engine$"),
        (["--nnodes", "2", "-tp", "4"], "^--nnodes: vLLM's CPU build runs one rank on each node, not 2$"),
        (["--nnodes", "2", "-pp", "2"], "^--nnodes: needs --tensor-parallel-size: GPUs of other nodes"),
        (["--nnodes", "2", "-tp", "2", "-dp", "2"], "^--nnodes: needs --data-parallel-size 1, not 2: "),
        (
            ["--nnodes", "2", "-tp", "2", "--distributed-executor-backend", "ray"],
            "^--nnodes: needs --distributed-executor-backend mp, not ray$",
        ),
        (
            ["--nnodes", "2", "-tp", "2", "--master-port", "65535"],
            "^--master-port: 65535 is not in 1..65534: the next port is used too$",
        ),
    ],
)
def test_bad_flag_is_one_line(argv: list[str], message: str, checkpoint: Path) -> None:
    """A flag that vLLM does not take is named in one line, without the usage."""
    with pytest.raises(ValueError, match=message) as caught:
        parse_engine_flags(argv, str(checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.vllm
@vllm_import
def test_prefix_caching_warns(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """--enable-prefix-caching logs one warning that the closed division forbids it."""
    flags = parse_engine_flags(["--enable-prefix-caching"], str(checkpoint))
    assert flags.engine_args.enable_prefix_caching is True
    warnings = [
        record.getMessage() for record in caplog.records if record.name == "worker.engines.vllm.engine_args"
    ]
    assert len(warnings) == 1
    assert "closed division" in warnings[0]


@pytest.mark.vllm
@vllm_import
def test_model_without_stop_ids_is_refused(checkpoint: Path) -> None:
    """A model without stop ids is refused before it is loaded."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    with pytest.raises(ValueError, match=r"^--model: no stop ids"):
        parse_engine_flags([], str(checkpoint))


@pytest.mark.vllm
@vllm_import
def test_stop_id_beyond_the_vocabulary_is_refused_before_loading(checkpoint: Path, tmp_path: Path) -> None:
    """This checkpoint has 64 ids; the flags are refused, so nothing loads."""
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 64}')
    with pytest.raises(ValueError, match=r"^--model: .*: eos_token_id is 64, not .* vocab_size 64$"):
        parse_engine_flags(["--generation-config", str(tmp_path)], str(checkpoint))


@pytest.mark.vllm
@vllm_import
def test_vllm_whose_inside_has_changed_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM that lacks an internal interface is refused before a model loads; one line names it."""
    from vllm.v1.engine.input_processor import InputProcessor

    monkeypatch.delattr(InputProcessor, "process_inputs")
    with pytest.raises(
        ValueError, match=r"^engine vllm: vllm [\d.]+\S* has no vllm\.v1\.\S+process_inputs: "
    ) as caught:
        parse_engine_flags([], str(checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.vllm
@vllm_import
def test_engine_that_is_built_in_another_way_is_refused() -> None:
    """A loaded engine that lacks an attribute, or whose outputs are already read, is refused."""
    parts = {"engine_core": None, "input_processor": None, "output_handler": None}
    CoreClient(SimpleNamespace(**parts))
    for changed, says in (
        (parts | {"output_handler": object()}, "already reads its engine core"),
        ({"engine_core": None, "output_handler": None}, "has no AsyncLLM.input_processor"),
    ):
        with pytest.raises(EngineDead, match=rf"^vllm \S+ {says}: "):
            CoreClient(SimpleNamespace(**changed))


@pytest.mark.vllm
@vllm_import
def test_users_environment_wins(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the user has set is left alone, others are set."""
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "ext://sys.stdout")
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    parse_engine_flags([], str(checkpoint))
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stdout"
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.vllm
@vllm_import
def test_folder_of_the_generation_config_decides_the_stop_ids(checkpoint: Path, tmp_path: Path) -> None:
    """--generation-config names the folder whose stop ids join those of config.json."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "generation_config.json").write_text('{"eos_token_id": [9, 8]}')
    flags = parse_engine_flags(["--generation-config", str(tmp_path / "other")], str(checkpoint))
    assert isinstance(flags, EngineFlags)
    assert flags.read_stop_token_ids(checkpoint) == (7, 8, 9)
