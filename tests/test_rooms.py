"""The house: who imports whom, how large files are, and that generated code is fresh."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protos", "common", "worker", "coordinator", "sut", "tokenfleet")
# design.md, "The whole": what a room never imports.
BANNED = {
    "protos": {"common", "worker", "coordinator", "sut", "tokenfleet", "vllm", "torch", "mlperf_loadgen"},
    "common": {"protos", "worker", "coordinator", "sut", "tokenfleet", "vllm", "torch", "mlperf_loadgen"},
    "worker": {"coordinator", "sut", "tokenfleet", "mlperf_loadgen"},
    "sut": {"grpc", "grpc_health", "grpc_reflection", "vllm", "torch", "protos", "worker", "coordinator"},
    "coordinator": {"vllm", "torch", "mlperf_loadgen", "worker", "tokenfleet"},
    "tokenfleet": {"vllm", "torch", "mlperf_loadgen"},
}
MAX_FILE_LINES = 400
MAX_LINE_LEN = 110


def modules() -> list[Path]:
    """List the hand-written modules of the rooms."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if "_pb2" not in path.name]


def tracked(*suffixes: str) -> list[Path]:
    """List the hand-written files that git tracks and that end in one of the suffixes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name.endswith(suffixes)]
    return [path for path in paths if path.is_file() and "_pb2" not in path.name]


def name_of(path: Path) -> str:
    """Give a module's dotted name; a package's is its folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """List every dotted name that a module imports, wherever; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers_of(*packages: str) -> set[str]:
    """List the modules of the rooms, as paths, that import one of the packages."""
    return {
        str(path.relative_to(ROOT))
        for path in modules()
        if {name.split(".")[0] for name in imports_of(path)} & set(packages)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_door_allows(room: str) -> None:
    """No module of a room imports, even inside a function, what design.md's table forbids the room."""
    found = importers_of(*BANNED[room])
    assert set() == {path for path in found if path.startswith(f"{room}/")}


def test_one_file_knows_loadgen_and_vllm_stays_in_its_corner() -> None:
    """mlperf_loadgen is imported by sut/loadgen.py alone, vLLM and torch by worker/engines/vllm alone."""
    assert {"sut/loadgen.py"} == importers_of("mlperf_loadgen")
    assert all(path.startswith("worker/engines/vllm/") for path in importers_of("vllm", "torch"))


def test_no_module_imports_by_a_computed_name() -> None:
    """Only sut/dataset.py, which unpickles admitted names, imports by a name that the tests above miss."""
    computed = {
        str(path.relative_to(ROOT))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute)
        and getattr(node, "id", getattr(node, "attr", "")) in ("__import__", "import_module")
    }
    assert computed <= {"sut/dataset.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_modules_of_a_room_form_no_cycle(room: str) -> None:
    """Imports inside a room run downward only, those of type checking and of functions included."""
    edges = {
        name_of(path): set(imports_of(path)) for path in modules() if name_of(path).split(".")[0] == room
    }
    left = {
        name: {other for other in edges if other in imports} - {name, room} for name, imports in edges.items()
    }
    while free := {name for name, others in left.items() if not others}:
        left = {name: others - free for name, others in left.items() if name not in free}
    assert left == {}


def test_files_are_short() -> None:
    """A hand-written module or test has at most 400 lines."""
    lens = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in tracked(".py", ".pyi")
    }
    assert {name: num_lines for name, num_lines in lens.items() if num_lines > MAX_FILE_LINES} == {}


def test_lines_are_short_and_ascii() -> None:
    """Python, Markdown, proto, shell and YAML files hold ASCII only, in lines of at most 110 characters."""
    bad = [
        f"{path.relative_to(ROOT)}:{number}"
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
        timeout=60,
        check=True,
    )
    fresh = {path.name: path.read_text() for path in (tmp_path / "protos").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "protos").glob("*_pb2*")}
    assert {"worker_pb2.py", "worker_pb2.pyi", "worker_pb2_grpc.py", "worker_pb2_grpc.pyi"} == set(fresh)
    assert fresh == committed


# Raises for the packages named in argv[2:], as on a machine that lacks them, then imports argv[1].
WITHOUT = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}: blocked by the test")
sys.meta_path.insert(0, Blocker())
importlib.import_module(sys.argv[1])
print("imported")
"""


@pytest.mark.parametrize(
    "module, absent",
    [
        ("coordinator.__main__", ["vllm", "torch", "worker", "transformers"]),
        (
            "worker.__main__",
            ["vllm", "torch", "coordinator", "sut", "mlperf_loadgen", "pandas", "pyarrow", "transformers"],
        ),
        ("worker.engines.scripted.counting", ["vllm", "torch", "coordinator", "sut", "mlperf_loadgen"]),
        ("worker.engines.scripted.simulated", ["vllm", "torch", "coordinator", "sut", "mlperf_loadgen"]),
        ("sut.sut", ["grpc", "google", "vllm", "torch", "protos", "worker", "coordinator"]),
        (
            "sut.results.verdict",
            ["grpc", "vllm", "torch", "protos", "worker", "coordinator", "mlperf_loadgen"],
        ),
        ("protos.columns", ["grpc", "vllm", "torch", "worker", "coordinator", "sut", "mlperf_loadgen"]),
    ],
)
def test_a_process_starts_without_what_it_does_not_need(module: str, absent: list[str]) -> None:
    """Each process imports on a machine where the other side's packages are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, module, *absent],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_the_blocker_blocks() -> None:
    """The import blocker of the test above fails a module that does need what is absent."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "sut.loadgen", "mlperf_loadgen"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "blocked by the test" in done.stderr
