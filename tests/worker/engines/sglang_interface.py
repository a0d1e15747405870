"""The interface of SGLang that the worker uses, read from its source: its import needs a GPU's packages.

    python -m tests.worker.engines.sglang_interface FOLDER

reads an unpacked wheel and rewrites sglang_interface.json.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
SRT = "sglang/srt"
FUNCTIONS = (
    ("entrypoints/engine.py", "Engine._launch_subprocesses"),
    ("server_args.py", "ServerArgs.add_cli_args"),
    ("server_args.py", "ServerArgs.from_cli_args"),
    ("server_args.py", "ServerArgs.check_server_args"),
    ("server_args.py", "ServerArgs.get_model_config"),
    ("server_args.py", "PortArgs.init_new"),
    ("sampling/sampling_params.py", "SamplingParams.normalize"),
    ("sampling/sampling_params.py", "SamplingParams.verify"),
    ("managers/io_struct.py", "async_sock_send"),
    ("managers/io_struct.py", "async_sock_recv"),
    ("model_loader/weight_utils.py", "initialize_dummy_weights"),
    ("utils/network.py", "get_zmq_socket"),
    ("utils/watchdog.py", "SubprocessWatchdog.stop"),
)
CLASSES = (
    ("server_args.py", "ServerArgs"),
    ("server_args.py", "PortArgs"),
    ("sampling/sampling_params.py", "SamplingParams"),
    ("managers/io_struct.py", "TokenizedGenerateReqInput"),
    ("managers/io_struct.py", "BatchTokenIDOutput"),
    ("managers/io_struct.py", "AbortReq"),
    ("managers/io_struct.py", "FlushCacheReqInput"),
    ("managers/io_struct.py", "FlushCacheReqOutput"),
    ("managers/io_struct.py", "GetLoadsReqInput"),
    ("managers/io_struct.py", "GetLoadsReqOutput"),
)
NOT_FIELDS = {"VALID_SECTIONS"}


def read_interface(folder: Path) -> dict[str, Any]:
    """Read the parameters of the functions, and the fields of the classes, by whether they have a default."""
    version = ast.parse((folder / "sglang/version.py").read_text())
    return {
        "version": _version(folder, version),
        "functions": {name: _parameters(_find(folder, path, name)) for path, name in FUNCTIONS},
        "classes": {name: _fields(folder, path, name) for path, name in CLASSES},
    }


def _version(folder: Path, module: ast.Module) -> str:
    """Return the version, which the real package has in its metadata only."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    (metadata,) = folder.glob("sglang-*.dist-info")
    return metadata.name.removeprefix("sglang-").removesuffix(".dist-info")


def _find(folder: Path, path: str, name: str) -> ast.AST:
    """Find a function or class; a class may be absent from the file that SGLang has it in."""
    found: ast.AST = ast.parse((folder / SRT / path).read_text())
    for part in name.split("."):
        found = next(
            node
            for node in ast.walk(found)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == part
        )
    return found


def _parameters(function: ast.AST) -> list[str]:
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    return [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]


def _fields(folder: Path, path: str, name: str) -> dict[str, list[str]]:
    """Return the fields of a class and of its bases in the same file."""
    node = _find(folder, path, name)
    assert isinstance(node, ast.ClassDef)
    found: dict[str, set[str]] = {"required": set(), "optional": set()}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id.startswith("Base"):
            for kind, names in _fields(folder, path, base.id).items():
                found[kind].update(names)
    for item in node.body:
        name = getattr(item.target, "id", "") if isinstance(item, ast.AnnAssign) else ""
        if isinstance(item, ast.AnnAssign) and name and name not in NOT_FIELDS:
            found["required" if item.value is None else "optional"].add(name)
    return {kind: sorted(names) for kind, names in found.items()}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(read_interface(Path(sys.argv[1])), indent=1) + "\n")
