"""What a user sees where vLLM is not installed, or is and cannot be imported: one line, exit code 2."""

import sys
from pathlib import Path

import pytest

from tests.forked import completed_command

# Python runs it before all else: the packages named are not to be found.
HIDE = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def hide(cls, name, path=None, target=None):
    return None if name in {names} else find(name, path, target)
PathFinder.find_spec = classmethod(hide)
"""
NOT_INSTALLED = (
    "engine vllm: vLLM is not installed: pip install '.[gpu]' or ./setup.sh; "
    "the engine counting works without it"
)


def run(directory: Path, *argv: str) -> tuple[int, str, str]:
    """Run a program that finds a module `sitecustomize` and others in a directory before its own."""
    done = completed_command([sys.executable, *argv], PYTHONPATH=str(directory))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        ("-m worker --model openai/gpt-oss-120b", "worker"),
        ("-m worker --model openai/gpt-oss-120b --replicas 2", "worker"),
        ("-m worker --preset latency --print-config", "worker"),
        ("run_mlperf.py --scenario offline --input-file data.parquet", "run_mlperf.py"),
    ],
    ids=["worker", "node", "print-config", "run_mlperf"],
)
@pytest.mark.parametrize("names", [("vllm",), ("vllm", "huggingface_hub", "torch", "transformers")])
def test_vllm_that_is_not_installed_is_one_line(
    tmp_path: Path, argv: str, program: str, names: tuple[str, ...]
) -> None:
    """Without vLLM, with what it brings or not, every command that needs it says how to install it."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=names))

    assert (2, "", f"{program}: {NOT_INSTALLED}\n") == run(tmp_path, *argv.split())


def test_counting_needs_no_vllm(tmp_path: Path) -> None:
    """Where vLLM is not installed the counting engine shows its flags."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=("vllm", "huggingface_hub")))
    code, flags, errors = run(tmp_path, *["-m", "worker", "--engine", "counting", "--print-config"])

    assert (0, "") == (code, errors)
    assert 'engine = "counting"' in flags


def test_vllm_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """A vLLM that is there and lacks something is not called missing: the line names what it lacks."""
    package = tmp_path / "vllm" / "engine"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "arg_utils.py").write_text("import no_such_part_of_vllm\n")
    line = "the engine cannot be imported: ModuleNotFoundError: No module named 'no_such_part_of_vllm'"

    expected = (2, "", f"worker: {line}\n")
    assert expected == run(tmp_path, *["-m", "worker", "--preset", "latency", "--print-config"])
