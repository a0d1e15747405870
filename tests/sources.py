"""The source files of the repository, for tests that read code."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("protos", "common", "worker", "coordinator", "sut", "tokenfleet")


def modules() -> list[Path]:
    """List the hand-written modules of the product."""
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [*(path for path in paths if "_pb2" not in path.name), ROOT / "run_mlperf.py"]


def tracked(*suffixes: str) -> list[Path]:
    """List the hand-written files that git tracks and that end in one of the suffixes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name.endswith(suffixes)]
    return [path for path in paths if path.is_file() and "_pb2" not in path.name]


def path_of(path: Path) -> str:
    """Give a file's path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def name_of(path: Path) -> str:
    """Give a module's dotted name; a package has the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """List every dotted name that a module imports, also in functions; `from a import b` gives a and a.b."""
    return frozenset(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def own_imports() -> dict[str, set[str]]:
    """Map each module of the product to the modules of the product that it imports."""
    imports = {name_of(path): imports_of(path) for path in modules()}
    return {name: set(others & set(imports)) - {name} for name, others in imports.items()}
