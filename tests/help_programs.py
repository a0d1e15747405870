"""The programs of the repository: modules with a `__main__` guard, and the subcommands of some of them."""

import re

from bench.fleet.__main__ import SHOWS as FLEET_PARTS
from bench.gpu.__main__ import SHOWS as GPU_PARTS
from sut.synthetic import _COMMANDS as SYNTHETIC
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
