"""SGLang's flags with this worker's defaults, and what they describe."""

import argparse
import dataclasses
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.flags import FlagError, Parser
from worker.engine_protocol import EngineInfo
from worker.engines.model.checkpoint import (
    MODEL_SIZES,
    ModelLimits,
    check_download,
    find_checkpoint,
    find_weights,
    read_limits,
    read_sizes,
    stop_token_ids,
)
from worker.engines.model.fact_encoding import encode, installed_version
from worker.engines.model.gpu_fit import (
    MemoryShare,
    check_gpu_memory,
    default_tensor_parallel_size,
    warn_of_idle,
)
from worker.engines.model.interface_check import EngineUnavailable
from worker.engines.model.model_hash import DUMMY, ModelHash, hash_model
from worker.engines.model.redaction import redact
from worker.engines.model.weights_sha256 import read_weights_sha256
from worker.engines.sglang.scheduler_link import check_sglang_interface
from worker.engines.sglang.server_facts import engine_facts, execution_facts
from worker.engines.sglang.sglang_processes import report_failure
from worker.machine.gpus import visible_devices

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GetLoadsReqOutput
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

# As for vLLM: the longest prompt and the longest answer of the data sets are 48,098 tokens. SGLang keeps a
# few tokens of the context for itself.
CONTEXT_LENGTH = 48_128
# This worker starts one scheduler on one machine, and gives and takes token ids.
FIXED: dict[str, object] = {
    "dp_size": 1,
    "nnodes": 1,
    "tokenizer_worker_num": 1,
    "detokenizer_worker_num": 1,
    "disaggregation_mode": "null",
    "decoupled_spec_role": "null",
    "use_ray": False,
    "is_embedding": False,
    "encoder_only": False,
    "language_only": False,
    "allow_auto_truncate": False,
}
# Secrets, and the worker's own flag.
_NOT_REPORTED = ("api_key", "admin_api_key", "ssl_keyfile_password", "model_path")


class Given(NamedTuple):
    """Flags as they were given."""

    args: argparse.Namespace
    """All flags, with the worker's defaults, before SGLang resolves them."""
    changed: dict[str, object]
    """Those that differ from the worker's defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFlags:
    """SGLang's parsed flags."""

    model: str
    """Value of --model."""
    server_args: "ServerArgs"
    """All flags, resolved by SGLang."""
    given: dict[str, object]
    """All flags, with the worker's defaults, before SGLang resolves them."""
    changed: dict[str, object]
    """Those that differ from the worker's defaults, as they were given."""

    def find_checkpoint(self) -> Path | None:
        """Return the directory of the model's JSON files, or None before SGLang has downloaded it."""
        return find_checkpoint(self.model, self.server_args.revision, self.server_args.download_dir)

    def find_weights(self) -> Path | None:
        """Return the directory of the model's weights, or None before SGLang has downloaded them."""
        return find_weights(self.model, self.server_args.revision, self.server_args.download_dir)

    @property
    def load_format(self) -> str:
        """Value of --load-format; its values are named as vLLM's."""
        return str(self.server_args.load_format).lower()

    def hash_model(self, stop: threading.Event) -> ModelHash:
        """Hash the model's files, which must be in a local directory or cache; takes seconds.

        Raises:
            FlagError: A file is missing, cannot be read or is malformed.
            Stopped: `stop` was set.
        """
        checkpoint, weights = self.find_checkpoint(), self.find_weights()
        if checkpoint is None or weights is None:
            raise FlagError("--model", f"{self.model} is not in the local Hugging Face cache")
        found = hash_model(checkpoint, weights, self.load_format, stop)
        draft = self.server_args.speculative_draft_model_path
        if not draft:
            return found
        folder = find_weights(draft, self.server_args.speculative_draft_model_revision)
        if folder is None:
            raise FlagError("--speculative-draft-model-path", f"{draft} is not in the local cache")
        draft_hash = hash_model(folder, folder, self.load_format, stop).model_hash
        return dataclasses.replace(found, draft_model=draft_hash)


def parse_server_flags(argv: list[str], model: str) -> ServerFlags:
    """Parse SGLang's flags, fill in the defaults and check the machine.

    Args:
        argv: The engine's part of the command line.
        model: Directory or Hugging Face name.

    Raises:
        ValueError: An unknown flag, a bad value, or a resource that this machine lacks; one line.
    """
    check_sglang_interface()
    _check_place(model)
    args, changed = parse_args(argv, model)
    for name, value in FIXED.items():
        if getattr(args, name, value) != value:
            flag = "--" + name.replace("_", "-")
            raise FlagError(flag, f"{getattr(args, name)}, but this worker needs {value}")
    place = model, args.revision, args.download_dir
    checkpoint, weights = find_checkpoint(*place), find_weights(*place)
    if checkpoint is None or weights is None:
        # SGLang resolves its flags by the model's configuration.
        check_download(model, args.download_dir)
        raise FlagError("--model", f"{model} is not in the local Hugging Face cache: download it first")
    stop_token_ids(checkpoint)
    given = vars(args) | _sizes(args, read_limits(checkpoint))
    server_args = _resolve(given)
    if server_args.device != "cpu":
        # With these flags the weights are smaller in memory than in the files.
        is_smaller = args.quantization or args.cpu_offload_gb or args.load_format == DUMMY
        share = MemoryShare("--mem-fraction-static", server_args.mem_fraction_static)
        num_ranks = server_args.tp_size * server_args.pp_size
        check_gpu_memory(share, num_ranks, None if is_smaller else weights)
    read_weights_sha256(weights, str(args.load_format).lower())
    return ServerFlags(model=model, server_args=server_args, given=given, changed=changed)


def build_parser() -> Parser:
    """Build the parser of SGLang's flags."""
    from sglang.srt.server_args import ServerArgs

    parser = Parser(add_help=False, allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    return parser


def parse_args(argv: list[str], model: str) -> Given:
    """Parse SGLang's flags without checking the model.

    Raises:
        ValueError: An unknown flag or a bad value; one line.
    """
    parser = build_parser()
    # skip_tokenizer_init: prompts and answers are token ids. Source of disable_radix_cache:
    # inference_rules.adoc, "KV cache must not apply across queries". random_seed: SGLang would draw one.
    # None: computed from the model and the machine.
    parser.set_defaults(
        skip_tokenizer_init=True, disable_radix_cache=True, random_seed=0, context_length=None, tp_size=None
    )
    path = ["--model-path", model]
    defaults, args = vars(parser.parse_args(path)), parser.parse_args([*path, *argv])
    if args.model_path != model:
        raise FlagError("--model-path", f"{args.model_path}, but it is --model at this worker")
    changed = {name: value for name, value in vars(args).items() if encode(value) != encode(defaults[name])}
    return Given(args, changed)


def _check_place(model: str) -> None:
    """Refuse a variable with which SGLang would load other files than those of --model, which are hashed.

    Raises:
        FlagError: Names the environment variable.
    """
    if os.environ.get("SGLANG_USE_MODELSCOPE", "").lower() in ("true", "1") and not Path(model).is_dir():
        raise FlagError("--model", "SGLANG_USE_MODELSCOPE is set: download the model and give its directory")


def _sizes(args: argparse.Namespace, limits: ModelLimits) -> dict[str, int]:
    """Return the context length and the tensor parallel size, given or chosen.

    Raises:
        FlagError: No accelerator is visible.
    """
    num_accelerators = 0 if args.device == "cpu" else len(visible_devices())
    if not num_accelerators and args.device != "cpu":
        reason = "SGLang needs an accelerator, but none is visible: see nvidia-smi, CUDA_VISIBLE_DEVICES"
        raise EngineUnavailable("sglang", reason)
    context_length, tp_size = args.context_length, args.tp_size
    if context_length is None:
        context_length = min(CONTEXT_LENGTH, limits.max_position_embeddings)
    if tp_size is None:
        tp_size = default_tensor_parallel_size(limits, num_accelerators // args.pp_size)
    return {"context_length": context_length, "tp_size": tp_size}


def _resolve(values: dict[str, object]) -> "ServerArgs":
    """Let SGLang resolve its flags.

    Raises:
        ValueError: SGLang refuses them; one line.
    """
    from sglang.srt.server_args import ServerArgs

    values = values | {"custom_sigquit_handler": report_failure}
    try:
        server_args: ServerArgs = ServerArgs.from_cli_args(argparse.Namespace(**values))
        server_args.check_server_args()
    except (ValueError, AssertionError, NotImplementedError, OSError, RuntimeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return server_args


def idle_accelerators(args: "ServerArgs") -> tuple[str, ...]:
    """Return a warning if accelerators that are visible have no rank; none with a base_gpu_id of its user."""
    if args.device == "cpu" or args.base_gpu_id:
        return ()
    # With attention in data parallel the ranks of all its parts are those of tensor parallelism.
    num_copies = 1 if args.enable_dp_attention else args.dp_size
    num_ranks = args.tp_size * args.pp_size * num_copies // args.nnodes
    return warn_of_idle(num_ranks, len(visible_devices()))


def describe(
    flags: ServerFlags, model: ModelHash, info: dict[str, Any], load: "GetLoadsReqOutput"
) -> EngineInfo:
    """Describe the loaded engine.

    Args:
        flags: The worker's engine flags.
        model: Hash of the model's files.
        info: What the scheduler reported when it was loaded.
        load: Its load and limits.

    Raises:
        FlagError: The model is not in the local cache, or SGLang would stop at other ids.
    """
    from sglang.version import __version__

    checkpoint = flags.find_checkpoint()
    assert checkpoint is not None
    args = flags.server_args
    stop_ids = stop_token_ids(checkpoint)
    added = set(args.get_model_config().hf_eos_token_id or ()) - set(stop_ids)
    if added:
        raise FlagError("--model", f"SGLang also stops at {sorted(added)}, which {checkpoint} does not name")
    sizes = {MODEL_SIZES: encode(read_sizes(checkpoint))}
    return EngineInfo(
        engine="sglang",
        engine_version=installed_version("sglang") or __version__,
        model=flags.model,
        model_hash=model.model_hash,
        vocab_size=read_limits(checkpoint).vocab_size,
        max_model_len=longest_request(info, args.page_size),
        max_num_seqs=load.max_running_requests,
        tensor_parallel_size=args.tp_size,
        stop_token_ids=stop_ids,
        engine_args=_reported_args(flags),
        engine_facts=engine_facts(flags.changed, args) | model.facts | sizes,
        execution_facts=execution_facts(flags.changed, args, load.max_running_requests),
        weights_sha256=read_weights_sha256(flags.find_weights() or checkpoint, flags.load_format),
        warnings=idle_accelerators(args),
    )


def longest_request(info: dict[str, Any], page_size: int) -> int:
    """Return how long a prompt and its answer can be together, in tokens, without SGLang cutting the answer.

    SGLang refuses prompts of max_req_input_len tokens or more. It cuts a budget so that prompt, in whole
    pages, budget and one more page are below max_total_num_tokens. Source: sglang 0.5.15,
    managers/scheduler.py, init_req_max_new_tokens.
    """
    return min(int(info["max_req_input_len"]), int(info["max_total_num_tokens"]) - 2 * page_size)


def _reported_args(flags: ServerFlags) -> dict[str, str]:
    """Return the flags that differ from SGLang's defaults, given or chosen, as JSON without secrets."""
    found = {
        field.name: flags.given[field.name]
        for field in dataclasses.fields(flags.server_args)
        if field.name not in _NOT_REPORTED and flags.given.get(field.name, field.default) != field.default
    }
    return {name: json.dumps(redact(name, json.loads(encode(value)))) for name, value in found.items()}
