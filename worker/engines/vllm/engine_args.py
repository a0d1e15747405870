"""vLLM's engine flags with this worker's defaults, and the environment that vLLM starts in."""

import argparse
import logging
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.flags import FlagError, Parser, UnknownFlagsError
from worker.engine_protocol import EngineDead, EngineInfo
from worker.engines.model.checkpoint import (
    MODEL_SIZES,
    ModelLimits,
    Source,
    check_download,
    find_checkpoint,
    find_weights,
    read_limits,
    read_sizes,
    stop_token_ids,
)
from worker.engines.model.fact_encoding import encode
from worker.engines.model.interface_check import EngineUnavailable
from worker.engines.model.model_hash import ModelHash, hash_model
from worker.engines.model.weights_sha256 import read_weights_sha256
from worker.engines.vllm.causes import one_line, with_type
from worker.engines.vllm.core_process import ending_with_worker
from worker.engines.vllm.engine_core import check_interface
from worker.engines.vllm.engine_facts import (
    draft_model,
    effective_args,
    engine_facts,
    execution_facts,
    given_args,
    vllm_version,
)
from worker.engines.vllm.multi_node import NodePlace, node_place
from worker.engines.vllm.ranks import (
    bind_cpu_ranks,
    check_accelerators,
    check_memory,
    check_ranks_per_node,
    choose_tensor_parallel_size,
    idle_accelerators,
    num_local_ranks,
)
from worker.engines.vllm.worker_extension import choose_extension

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

# Longest prompt (inference_rules.adoc, appendix: 15,330) and accuracy budget (the reference's README:
# 32,768) are 48,098 tokens; rounded up to a multiple of every KV cache block size.
MAX_MODEL_LEN = 48_128
# vLLM's default on a CPU is a share of the machine's total memory, and fails if other processes use it.
CPU_KV_CACHE_BYTES = 1 << 30
# Assumed for a model that vLLM has yet to download: the sizes of gpt-oss-120b's config.json.
_GPT_OSS_120B = ModelLimits(
    vocab_size=201_088, max_position_embeddings=131_072, num_attention_heads=64, num_key_value_heads=8
)
# Set before vLLM is imported, unless the user has set them.
_ENVIRONMENT = {
    # A fork would not copy gRPC's threads, and their locks would stay held.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # A worker writes its whole log to stderr.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # Do not send usage statistics during a benchmark.
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlags:
    """vLLM's parsed flags."""

    model: str
    """Value of --model."""
    engine_args: "AsyncEngineArgs"
    """All engine flags, given or default."""
    given: dict[str, str]
    """Those that differ from the worker's defaults, values as JSON, before vLLM resolves them."""
    place: NodePlace
    """This node's place among those of the engine."""

    @property
    def is_local(self) -> bool:
        """Whether this worker's vLLM starts processes on this machine only; with Ray it does on others."""
        args = self.engine_args
        return "ray" not in (args.distributed_executor_backend, args.data_parallel_backend)

    def find_checkpoint(self) -> Path | None:
        """Return the model's directory, or None before vLLM has downloaded it.

        Raises:
            FlagError: Neither a directory nor a Hugging Face name.
        """
        return find_checkpoint(self.model, self.engine_args.revision, self.engine_args.download_dir)

    def find_weights(self) -> Path | None:
        """Return the directory of the model's weights, or None before vLLM has downloaded them."""
        return find_weights(self.model, self.engine_args.revision, self.engine_args.download_dir)

    def hash_model(self, stop: threading.Event) -> ModelHash:
        """Hash the model's files, which must be in a local directory or cache; takes seconds.

        Raises:
            FlagError: A file is missing, cannot be read or is malformed.
            Stopped: `stop` was set.
        """
        found = []
        for source in self.sources:
            folders = source.find()
            if folders is None:
                raise FlagError("--model", f"{source.model} is not in the local Hugging Face cache")
            found.append(hash_model(*folders, self.load_format, stop))
        return replace(found[0], draft_model=found[1].model_hash if found[1:] else "")

    @property
    def is_downloaded(self) -> bool:
        """Whether the files of the model and of its draft model are on this machine."""
        return all(source.find() is not None for source in self.sources)

    @property
    def sources(self) -> list[Source]:
        """The model, and the draft model of speculative decoding if there is one."""
        args = self.engine_args
        draft = draft_model(args)
        return [Source(self.model, args.revision, args.download_dir), *([draft] if draft else [])]

    @property
    def load_format(self) -> str:
        """Value of --load-format; vLLM ignores its case."""
        return str(self.engine_args.load_format).lower()

    def read_stop_token_ids(self, checkpoint: Path) -> tuple[int, ...]:
        """Read the stop ids, from the file in the --generation-config folder if that is given.

        Raises:
            FlagError: No file has a stop id, or a file cannot be read.
        """
        folder = self.engine_args.generation_config
        path = None if folder in ("auto", "vllm") else Path(folder) / "generation_config.json"
        return stop_token_ids(checkpoint, path)


def parse_engine_flags(argv: list[str], model: str) -> EngineFlags:
    """Parse vLLM's flags, fill in the defaults and check the machine; sets the environment for vLLM.

    Args:
        argv: The engine's part of the command line.
        model: Directory or Hugging Face name.

    Raises:
        ValueError: An unknown flag, a bad value, or a model that does not exist; one line.
    """
    # Checked first because importing vLLM takes seconds.
    find_checkpoint(model)
    _check_place(model)
    _set_environment()
    check_accelerators()
    check_interface()
    parsed = parse_args(argv)
    node = node_place(parsed)
    if parsed.enable_prefix_caching:
        # Source: inference_rules.adoc, "KV cache must not apply across queries".
        logger.warning("--enable-prefix-caching: a closed division submission may not cache across queries")
    place = model, parsed.revision, parsed.download_dir
    checkpoint, weights = find_checkpoint(*place), find_weights(*place)
    if checkpoint is None or weights is None:
        check_download(model, parsed.download_dir)
    limits = _GPT_OSS_120B if checkpoint is None else read_limits(checkpoint)
    parsed = _with_defaults(parsed, model, limits)
    check_ranks_per_node(parsed)
    bind_cpu_ranks(num_local_ranks(parsed))
    check_memory(parsed, weights)
    args = _engine_args(parsed)
    given = given_args(args, _default_args(args))
    flags = EngineFlags(model=model, engine_args=args, given=given, place=node)
    if checkpoint is not None:
        flags.read_stop_token_ids(checkpoint)
    if weights is not None:
        read_weights_sha256(weights, flags.load_format)
    return flags


def _with_defaults(parsed: argparse.Namespace, model: str, limits: ModelLimits) -> argparse.Namespace:
    """Choose what the user has not given: model length, tensor parallel size, and how weights are made."""
    values: dict[str, object] = {"model": model}
    if parsed.max_model_len is None:
        values["max_model_len"] = min(MAX_MODEL_LEN, limits.max_position_embeddings)
    values["tensor_parallel_size"] = choose_tensor_parallel_size(parsed, limits)
    values["worker_extension_cls"] = choose_extension(parsed.load_format, parsed.worker_extension_cls)
    return argparse.Namespace(**vars(parsed) | values)


def _check_place(model: str) -> None:
    """Refuse variables with which vLLM would load other files than those of --model, which are hashed.

    Raises:
        FlagError: Names the environment variable.
    """
    if os.environ.get("VLLM_MODEL_REDIRECT_PATH"):
        reason = "VLLM_MODEL_REDIRECT_PATH is set, with which vLLM may load another model than the hashed one"
        raise FlagError("--model", reason)
    if os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("true", "1") and not Path(model).is_dir():
        raise FlagError("--model", "VLLM_USE_MODELSCOPE is set: download the model and give its directory")


def create_config(flags: EngineFlags, *, headless: bool = False) -> "VllmConfig":
    """Have vLLM resolve its configuration; may read the model's files.

    Args:
        flags: The worker's engine flags.
        headless: Of a node that does not serve.

    Raises:
        ValueError: vLLM refuses the configuration, or a package that it needs does not fit it.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.usage.usage_lib import UsageContext

    args = flags.engine_args
    try:
        # Selects the defaults of vLLM's server: 1,024 running requests on an H200, where LLMEngine has 128.
        return args.create_engine_config(UsageContext.OPENAI_API_SERVER, headless)
    except OSError as error:
        # From Hugging Face's libraries, which may not name the model: no network, no access, a missing file.
        raise FlagError("--model", one_line(error), args.model) from error
    except (ValueError, NotImplementedError, VLLMValidationError) as error:
        raise ValueError(one_line(error)) from error
    except (ImportError, AttributeError) as error:
        # vLLM imports its kernels here; one of their packages is missing or of another version.
        raise EngineUnavailable("vllm", f"vllm {vllm_version()} fails: {with_type(error)}") from error


def build_engine(flags: EngineFlags) -> "AsyncLLM":
    """Construct the engine; blocks until the model is loaded.

    Raises:
        ValueError: vLLM refuses the configuration.
        EngineDead: The engine's processes failed.
    """
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    args = flags.engine_args
    config = create_config(flags)
    try:
        with ending_with_worker():
            return AsyncLLM.from_vllm_config(
                config,
                usage_context=UsageContext.OPENAI_API_SERVER,
                enable_log_requests=args.enable_log_requests,
                disable_log_stats=args.disable_log_stats,
            )
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise EngineDead(one_line(error)) from error


def describe(flags: EngineFlags, config: "VllmConfig", model: ModelHash) -> EngineInfo:
    """Describe the engine of this configuration.

    Args:
        flags: The worker's engine flags.
        config: vLLM's configuration, resolved from them.
        model: Hash of the model's files.

    Raises:
        FlagError: The model is not in the local cache, or has no stop ids.
    """
    checkpoint = flags.find_checkpoint()
    if checkpoint is None:
        raise FlagError("--model", f"{flags.model} is not in the local Hugging Face cache")
    parallel = config.parallel_config
    # Engines behind this front end: with external load balancing each other rank has its own front end.
    num_engines = (
        parallel.data_parallel_size_local if parallel.local_engines_only else parallel.data_parallel_size
    )
    sizes = {MODEL_SIZES: encode(read_sizes(checkpoint))}
    return EngineInfo(
        engine="vllm",
        engine_version=vllm_version(),
        model=flags.model,
        model_hash=model.model_hash,
        vocab_size=read_limits(checkpoint).vocab_size,
        max_model_len=config.model_config.max_model_len,
        max_num_seqs=config.scheduler_config.max_num_seqs * num_engines,
        tensor_parallel_size=parallel.tensor_parallel_size,
        stop_token_ids=flags.read_stop_token_ids(checkpoint),
        engine_args=effective_args(flags.engine_args, config),
        engine_facts=engine_facts(flags.given, config) | model.facts | sizes,
        execution_facts=execution_facts(flags.given, config),
        weights_sha256=read_weights_sha256(flags.find_weights() or checkpoint, flags.load_format),
        warnings=idle_accelerators(flags.engine_args, parallel) if flags.is_local else (),
    )


def build_parser() -> Parser:
    """Build the parser of vLLM's flags; sets the environment before it imports vLLM."""
    _set_environment()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # vLLM's parser supports --a.b and --a_b, but its error() would print the usage and exit.
    flexible = type("EngineParser", (Parser, FlexibleArgumentParser), {})(add_help=False, allow_abbrev=False)
    AsyncEngineArgs.add_cli_args(flexible)
    parser: Parser = flexible
    return parser


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Parse vLLM's flags without checking the model.

    Raises:
        ValueError: An unknown flag or a bad value; one line.
    """
    parser = build_parser()
    parser.set_defaults(**_defaults())
    try:
        return parser.parse_args(argv)
    except IndexError as error:
        raise FlagError(argv[-1], "expected a value") from error
    except FlagError as error:
        raise FlagError(error.flag, one_line(ValueError(error.reason)), names=list(error.names)) from error
    except UnknownFlagsError:
        raise
    except ValueError as error:
        raise ValueError(one_line(error)) from error


def _set_environment() -> None:
    """Set the variables that vLLM reads when it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _defaults() -> dict[str, object]:
    """Return the defaults that differ from vLLM's; None: computed from the other flags."""
    from vllm.platforms import current_platform

    defaults: dict[str, object] = {
        # Prompts and answers are token ids: no tokenizer is needed.
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": True,
        "gpu_memory_utilization": 0.90,
        # The engine core then reports its use of the KV cache, once a step, and when it admits a request.
        # vLLM's front end, whose statistics take time per token, never reads a step.
        "disable_log_stats": False,
        "max_model_len": None,
        "tensor_parallel_size": None,
    }
    if current_platform.is_cpu():
        # Compilation for a CPU takes longer than the runs on it.
        defaults |= {"kv_cache_memory_bytes": CPU_KV_CACHE_BYTES, "enforce_eager": True}
    return defaults


def _engine_args(parsed: argparse.Namespace) -> "AsyncEngineArgs":
    from vllm.engine.arg_utils import AsyncEngineArgs

    try:
        engine_args: AsyncEngineArgs = AsyncEngineArgs.from_cli_args(parsed)
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    return engine_args


def _default_args(args: "AsyncEngineArgs") -> "AsyncEngineArgs":
    """Return the worker's defaults for the same model and load format.

    Offline, vLLM looks for the model as it reads the flags.
    """
    place = {"model": args.model, "revision": args.revision}
    place["worker_extension_cls"] = choose_extension(args.load_format, "")
    return _engine_args(argparse.Namespace(**vars(parse_args([])) | place))
