"""Flags and addresses; defaults as in SGLang."""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self


@dataclasses.dataclass
class ServerArgs:
    """Those that the worker or a test sets or reads."""

    model_path: str
    skip_tokenizer_init: bool = False
    load_format: str = "auto"
    context_length: int | None = None
    is_embedding: bool = False
    revision: str | None = None
    model_impl: str = "auto"
    json_model_override_args: str = "{}"
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    mem_fraction_static: float | None = None
    max_running_requests: int | None = None
    page_size: int | None = None
    schedule_policy: str = "fcfs"
    chunked_prefill_size: int | None = None
    cuda_graph_max_bs_decode: int | None = None
    disable_radix_cache: bool = False
    tp_size: int = 1
    pp_size: int = 1
    dp_size: int = 1
    ep_size: int = 1
    device: str | None = None
    random_seed: int | None = None
    custom_sigquit_handler: Callable[..., None] | None = None
    api_key: str | None = None
    allow_auto_truncate: bool = False
    log_level: str = "info"
    attention_backend: str | None = None
    cpu_offload_gb: int = 0
    download_dir: str | None = None
    speculative_draft_model_path: str | None = None
    speculative_draft_model_revision: str | None = None
    disaggregation_mode: str = "null"
    enable_deterministic_inference: bool = False

    def __post_init__(self) -> None:
        """Resolve the flags."""
        self.device = self.device or "cuda"
        self.page_size = self.page_size or 1
        self.mem_fraction_static = self.mem_fraction_static or 0.85
        self.max_running_requests = self.max_running_requests or 64
        if self.schedule_policy not in ("fcfs", "lpm"):
            raise ValueError(f"schedule_policy is {self.schedule_policy}")

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        """Add a flag for each field."""
        for item in dataclasses.fields(ServerArgs):
            names = ["--" + item.name.replace("_", "-")]
            default = None if item.default is dataclasses.MISSING else item.default
            if item.name == "model_path":
                parser.add_argument(*names, "--model", required=True)
            elif item.name == "tp_size":
                parser.add_argument(*names, "--tensor-parallel-size", type=int, default=1)
            elif isinstance(default, bool):
                parser.add_argument(*names, action="store_true")
            elif item.name != "custom_sigquit_handler":
                number = int if "int" in str(item.type) else float
                kind: Any = number if "int" in str(item.type) or "float" in str(item.type) else str
                parser.add_argument(*names, type=kind, default=default)

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """Create from parsed flags."""
        given = {item.name for item in dataclasses.fields(cls)} & vars(args).keys()
        return cls(**{name: getattr(args, name) for name in given})

    def check_server_args(self) -> None:
        """Check what the fields mean together."""
        assert self.tp_size >= 1, "tp_size must be positive"

    def get_model_config(self) -> SimpleNamespace:
        """Read the model's configuration."""
        config = json.loads((Path(self.model_path) / "config.json").read_text())
        eos = config["eos_token_id"]
        return SimpleNamespace(dtype="bfloat16", quantization=None, hf_eos_token_id={eos})


@dataclasses.dataclass
class PortArgs:
    """Addresses."""

    tokenizer_ipc_name: str
    scheduler_input_ipc_name: str
    detokenizer_ipc_name: str
    nccl_port: int
    rpc_ipc_name: str
    metrics_ipc_name: str
    tokenizer_worker_ipc_name: str | None = None

    @staticmethod
    def init_new(server_args: ServerArgs) -> "PortArgs":
        """Choose the addresses."""
        assert server_args.tp_size

        def address() -> str:
            with tempfile.NamedTemporaryFile(delete=False) as file:
                return f"ipc://{file.name}"

        return PortArgs(address(), address(), address(), 1234, address(), address())
