"""Files that a user names: whatever they are, a command ends with one line and exit code 2."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.__main__ import main
from tests import fleet
from tests.forked import end_of

# Text files of a run; LoadGen's confs have tests of their own.
FLAGS = ["--config", "--generation-config", "--tls-ca", "--run-token-file"]
# An address space in which a file without end cannot be read.
MAX_ADDRESS_SPACE_BYTES = 8 << 30
TIMEOUT_S = 60.0


def bounded_main(argv: list[str]) -> int:
    """Run the coordinator in a bounded address space."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE_BYTES, MAX_ADDRESS_SPACE_BYTES))
    return main(argv)


def refusal(directory: Path, *flags: str) -> str:
    """Return the line with which a coordinator refuses its flags."""
    data = fleet.write_prompts(directory / "data.parquet", [[3, 7]])
    argv = fleet.coordinator_flags([], data, directory / "out", "--workers", "127.0.0.1:1", *flags)
    ended = end_of(bounded_main, argv, directory, TIMEOUT_S)
    assert (2, "") == (ended.code, ended.stdout), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert not (directory / "out").exists()
    return line


def endless(path: Path) -> None:
    """Make a file that never ends."""
    path.symlink_to("/dev/zero")


def long(path: Path) -> None:
    """Make a file of 1 GiB that takes no disk space."""
    with path.open("wb") as file:
        file.truncate(1 << 30)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(
    ("make", "reason"),
    [(endless, "is not a regular file"), (os.mkfifo, "is not a regular file"), (long, "is longer than ")],
    ids=["device", "fifo", "1GiB"],
)
def test_file_that_is_no_text_file_is_one_line(
    tmp_path: Path, flag: str, make: Callable[[Path], None], reason: str
) -> None:
    """A device, a FIFO without a writer and a file of 1 GiB: flag, file and reason."""
    path = tmp_path / "named"
    make(path)
    line = refusal(tmp_path, flag, str(path))
    assert line.startswith(f"coordinator: {flag}"), line
    assert str(path) in line
    assert reason in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[coordinator]\nscenario = " + "[\n" * 20_000, "nested too deeply"),
        ("[coordinator]\n" + "a." * 20_000 + "a = 1", "line 2 has 40,005 characters, more than 4,096"),
        ("#" * 70_000, "is longer than 65,536 bytes"),
    ],
    ids=["nested", "dotted", "long"],
)
def test_configuration_file_is_bounded(tmp_path: Path, content: str, reason: str) -> None:
    """Deep nesting, a dotted key of 20,000 parts and 70 kB are refused, each in the time of a start."""
    path = tmp_path / "run.toml"
    path.write_text(content)
    line = refusal(tmp_path, "--config", str(path))
    assert line.startswith(f"coordinator: --config: {path}")
    assert line.endswith(reason)


def test_generation_config_nested_deeply_is_one_line(tmp_path: Path) -> None:
    """JSON of 100,000 nested lists is not JSON for us."""
    path = tmp_path / "generation_config.json"
    path.write_text("[" * 100_000)
    line = refusal(tmp_path, "--generation-config", str(path))
    assert f"coordinator: --generation-config {path}: is not JSON: nested too deeply" == line


def test_output_directory_that_is_not_utf8_is_refused_before_any_worker(tmp_path: Path) -> None:
    """LoadGen takes UTF-8 only: one line that shows the name, and no wait for the worker."""
    line = refusal(tmp_path, "--output-dir", os.fsdecode(b"caf\xe9"))
    assert "coordinator: --output-dir: 'caf\\udce9' is not UTF-8" == line


def test_path_with_nul_is_refused(tmp_path: Path) -> None:
    """A configuration file can hold what a command line cannot."""
    path = tmp_path / "run.toml"
    path.write_text('[coordinator]\nuser-conf = "a\\u0000b"\n')
    line = refusal(tmp_path, "--config", str(path))
    assert f"coordinator: {path}: --user-conf: 'a\\x00b' contains a NUL character" == line
