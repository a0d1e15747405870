"""--help of every program of the repository: exit code 0, a usage line, and the facts of each flag.

A program is a module with a `__main__` guard, or a subcommand of one of them. The tests find them, so that a
new one is tested as well.
"""

import re

import pytest

from bench.fleet.__main__ import SHOWS as FLEET_PARTS
from bench.gpu.__main__ import SHOWS as GPU_PARTS
from sut.synthetic import _COMMANDS as SYNTHETIC
from tests.forked import completed, main_of_command
from tests.sources import ROOT, name_of, path_of, tracked
from tokenfleet.cli import SUBCOMMANDS

# Another program starts these and passes what they need; a person has no use for them.
CHILDREN = {
    "bench.replay.replayer",
    "coordinator.recording.metrics_process",
    "sut.dataset_file",
    "sut.results.code_grading.plain_launcher",
    "sut.results.code_grading.program_runner",
}
# The flags of these are those of vLLM's server.
FOREIGN = {"bench.gpu.http_server"}
GUARD = re.compile(r'^if __name__ == "__main__":$', re.MULTILINE)


def modules() -> list[str]:
    """List the programs that are modules, by the name behind `python -m`."""
    guarded = [path for path in tracked(".py") if GUARD.search(path.read_text(encoding="utf-8"))]
    paths = [path for path in guarded if not path_of(path).startswith("tests/")]
    return [name_of(path).removesuffix(".__main__") for path in paths if path != ROOT / "run_mlperf.py"]


def programs() -> list[tuple[str, ...]]:
    """List every program by its words behind `python`, without --help."""
    found: list[tuple[str, ...]] = [("-m", name) for name in modules() if name not in CHILDREN | FOREIGN]
    found += [("-m", "tokenfleet", name) for name in SUBCOMMANDS]
    found += [("-m", "tokenfleet", "qualify", "reference"), ("-m", "tokenfleet", "report", "compare")]
    found += [("-m", "sut.synthetic", name) for name in SYNTHETIC]
    found += [("-m", "bench.fleet", name) for name in (*FLEET_PARTS, "pair")]
    found += [("-m", "bench.gpu", name) for name in (*GPU_PARTS, "race")]
    return [*found, ("run_mlperf.py",)]


def test_the_programs_that_no_person_starts_exist() -> None:
    """Their names are those of modules with a guard."""
    assert modules() and (CHILDREN | FOREIGN) - set(modules()) == set()


@pytest.mark.parametrize("words", programs(), ids=" ".join)
def test_help_of_a_program(words: tuple[str, ...]) -> None:
    """Exit code 0 and no line on stderr; each flag has a sentence, and a required one says so."""
    ended = completed(main_of_command(words), ["--help"], COLUMNS="1000")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert ended.stdout.startswith("usage: "), ended.stdout[:200]
    usage, _, rest = ended.stdout.partition("\n\n")
    options = re.findall(r"^  (-.+?)(?:  +(\S.*))?$(?:\n {10,}(\S.*))?", rest, re.MULTILINE)
    texts = {names: text or following for names, text, following in options}
    assert [] == [names for names, text in texts.items() if not text]
    required = set(re.findall(r"(?<!\[)(?<!\| )(--[a-z][\w-]*)", usage)) - {"--help"}
    for names, text in texts.items():
        assert ("(required" in text) == bool(required & set(names.split())), names
        assert "None" not in text, names
