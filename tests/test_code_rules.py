"""Rules for the code itself: sizes, unique names, who writes an attribute, what is caught, fresh stubs."""

import ast
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.sources import ROOT, modules, path_of, tracked, tree_of

MAX_FILE_LINES = 400
MAX_LINE_LEN = 110
# Names that several rooms may use for a file.
COMMON_FILE_NAMES = {"__init__.py", "__main__.py", "config.py"}
# Attributes written from outside their class, by file and object; each belongs to a foreign class.
FOREIGN_OBJECTS = {
    ("common/tls.py", "context"): "ssl",
    ("common/tls.py", "client"): "ssl",
    ("common/tls.py", "verifying"): "ssl",
    ("common/connect_errors.py", "context"): "ssl",
    ("common/metrics_port.py", "context"): "ssl",
    ("coordinator/doctor/command.py", "parser"): "argparse",
    ("common/forced_end.py", "timer"): "threading",
    ("sut/loadgen.py", "output"): "LoadGen",
    ("sut/loadgen.py", "settings"): "LoadGen",
    ("sut/loadgen.py", "self._settings"): "LoadGen",
    ("worker/engines/sglang/scheduler_link.py", "params"): "SGLang",
    ("worker/engines/vllm/compile_monitor.py", "jit_monitor"): "vLLM",
    ("worker/engines/vllm/compile_monitor.py", "knobs.runtime"): "Triton",
    ("worker/engines/vllm/core_process.py", "EngineCoreProc"): "vLLM",
    ("worker/engines/vllm/engine_args.py", "parsed"): "argparse",
    ("worker/engines/vllm/ranks.py", "parsed"): "argparse",
    ("worker/engines/vllm/vllm_engine.py", "params"): "vLLM",
    ("worker/machine/host_info.py", "host"): "protobuf",
    ("worker/print_config.py", "action"): "argparse",
    ("common/signals.py", "sys"): "sys",
    ("common/standard_streams.py", "sys"): "sys",
    ("sut/results/code_grading/program_runner.py", "builtins"): "builtins",
    ("sut/results/code_grading/program_runner.py", "function"): "ast",
    ("sut/results/code_grading/program_runner.py", "sys"): "sys",
    ("tokenfleet/cli.py", "sys"): "sys",
    ("worker/servicer.py", "self._info"): "protobuf",
}
# Records without methods, written by the one class that fills them.
OWN_RECORDS = {
    ("coordinator/doctor/visits.py", "found"),
    ("coordinator/transport/stream.py", "counts"),
    ("coordinator/transport/stream.py", "self.counts"),
}
# Broad excepts that do not raise again, by file: number and reason.
BROAD_EXCEPTS = {
    "coordinator/recording/file_thread.py": 1,  # the top of its thread; the error is set on its future
    "coordinator/recording/live_view.py": 1,  # the top of its thread; the run goes on without it
    "coordinator/recording/outputs.py": 2,  # the tops of the writer's and the salvage thread
    "coordinator/recording/request_writer.py": 1,  # the verdict does not depend on these files
    "coordinator/run.py": 3,  # the top of the run, LoadGen's thread, and each step of the fatal exit
    "coordinator/scheduling/event_loop.py": 1,  # the top of the periodic task
    "coordinator/transport/fleet.py": 2,  # the top of each worker's task, and a lost worker's answers
    "sut/results/accuracy/detokenizer.py": 1,  # tokenizers raises plain Exception for a bad file
    "sut/results/code_grading/program_runner.py": 1,  # the top over a graded program
    "sut/sut.py": 1,  # a callback of LoadGen: an exception there aborts the process
    "worker/engines/vllm/headless_engine.py": 1,  # vLLM raises a plain Exception for a failed rank
    "worker/machine/host_info.py": 1,  # the top of a thread; the error is set on its future
}


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches every error and ends otherwise than with a bare raise."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(kind is None or getattr(kind, "id", "") in ("Exception", "BaseException") for kind in kinds)
    last = handler.body[-1]
    return broad and not (isinstance(last, ast.Raise) and last.exc is None)


def written_objects(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """List line and object of every attribute assigned or deleted, except those of self and cls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls"):
                yield node.lineno, owner


def test_file_names_are_unique() -> None:
    """No two modules of the product share a file name."""
    counts = Counter(path.name for path in modules() if path.name not in COMMON_FILE_NAMES)
    assert {} == {name: num for name, num in counts.items() if num > 1}


def test_class_names_are_unique() -> None:
    """No two classes of the product share a name."""
    found = defaultdict(list)
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path_of(path))
    assert {} == {name: paths for name, paths in found.items() if len(paths) > 1}


def test_attributes_are_written_by_their_own_class() -> None:
    """Only methods assign an object's attributes; the exceptions are objects of foreign classes."""
    found = [
        (path_of(path), line, owner) for path in modules() for line, owner in written_objects(tree_of(path))
    ]
    assert [] == [where for where in found if (where[0], where[2]) not in {*FOREIGN_OBJECTS, *OWN_RECORDS}]


def test_broad_excepts_are_at_the_edges() -> None:
    """Every error is caught only where a thread, a task or a callback ends."""
    found = Counter(
        path_of(path)
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    )
    assert found == BROAD_EXCEPTS


def test_files_are_short() -> None:
    """A hand-written module or test has at most 400 lines."""
    lens = {path_of(path): len(path.read_text().splitlines()) for path in tracked(".py", ".pyi")}
    assert {name: num_lines for name, num_lines in lens.items() if num_lines > MAX_FILE_LINES} == {}


def test_lines_are_short_and_ascii() -> None:
    """Python, Markdown, proto, shell and YAML files hold ASCII only, in lines of at most 110 characters."""
    bad = [
        f"{path_of(path)}:{number}"
        for path in tracked(".py", ".md", ".proto", ".sh", ".sbatch", ".yaml")
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if not line.isascii() or len(line) > MAX_LINE_LEN
    ]
    assert bad == []


def test_stubs_are_fresh(tmp_path: Path) -> None:
    """The committed stubs are, byte for byte, what the pinned generators make of worker.proto."""
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, "protos/worker.proto"],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        timeout=240,
        check=True,
    )
    fresh = {path.name: path.read_text() for path in (tmp_path / "protos").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "protos").glob("*_pb2*")}
    assert {"worker_pb2.py", "worker_pb2.pyi", "worker_pb2_grpc.py", "worker_pb2_grpc.pyi"} == set(fresh)
    assert fresh == committed
