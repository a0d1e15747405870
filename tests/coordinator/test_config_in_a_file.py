"""The coordinator's flags in a TOML file: all of them, under the command line's, and by their names."""

import dataclasses
import hashlib
import tomllib
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config_file import ConfigFile, to_table, to_toml
from common.flags import names
from coordinator.__main__ import main
from coordinator.config import LossPolicy, OverduePolicy, RunConfig, parse, to_argv
from sut.settings import Scenario
from tests import fleet
from tests.forked import completed

PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path)
COUNTS = st.integers(1, 2**40)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
OF_TYPE = {
    bool: st.booleans(),
    Path: PATHS,
    Path | None: st.none() | PATHS,
    int: COUNTS,
    int | None: st.none() | COUNTS,
    float: POSITIVE,
    float | None: st.none() | POSITIVE,
    str: st.sampled_from(("127.0.0.1", "::1", "localhost")),
    # The names of the compliance tests.
    str | None: st.none() | st.sampled_from(("TEST07", "TEST09")),
    Scenario: st.sampled_from(Scenario),
    LossPolicy: st.sampled_from(LossPolicy),
    OverduePolicy | None: st.none() | st.sampled_from(OverduePolicy),
    tuple[str, ...]: st.lists(st.integers(1, 65535), min_size=1, unique=True).map(
        lambda ports: tuple(f"node:{port}" for port in ports)
    ),
}
TYPES = typing.get_type_hints(RunConfig)
FLAGS = [field.name for field in dataclasses.fields(RunConfig) if field.name != "config_file"]


def together(values: dict[str, typing.Any]) -> RunConfig:
    """Make a run of drawn values; of flags that exclude each other only one is kept."""
    if values["compliance"] is not None:
        values |= {"accuracy": False, "audit_config": None}
    if values["accuracy"] or values["scenario"] is Scenario.OFFLINE:
        values |= {"max_over_latency": None}
    if values["network_sut"]:
        values |= {"workers": values["workers"][:1], "on_overdue_query": None}
    return RunConfig(**values)


BOUNDED = {
    "metrics_port": st.none() | st.integers(1, 65535),
}
# They are counted once a second.
BOUNDED |= dict.fromkeys(
    ("worker_timeout_s", "stall_timeout_s", "no_worker_timeout_s"), st.floats(2, allow_infinity=False)
)
CONFIGS = st.fixed_dictionaries({name: OF_TYPE[TYPES[name]] for name in FLAGS} | BOUNDED).map(together)


def write(folder: Path, text: str) -> Path:
    """Write a file."""
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@given(CONFIGS)
def test_every_flag_can_stand_in_the_file(tmp_path_factory: pytest.TempPathFactory, made: RunConfig) -> None:
    """Any run, written as a file, is read as the same run; so is what to_argv makes of it again."""
    path = write(tmp_path_factory.mktemp("run"), to_toml("coordinator", to_table(made)))
    read = parse(["--config", str(path)])
    file = ConfigFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert dataclasses.replace(made, config_file=file) == read
    assert read == parse(to_argv(read))


def print_config(*argv: str) -> str:
    """Let a coordinator print its configuration."""
    done = completed(main, [*argv, "--print-config"])
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    """A flag counts before the file's line, that before the default; what is printed reads as the same."""
    path = write(
        tmp_path,
        '[coordinator]\ninput_file = "d.parquet"\nworkers = ["a:1", "b:2"]\naccuracy = true\n'
        'overwrite = true\ntarget-qps = 3\nmax-samples = 7\n[worker]\nport = "whatever"\n',
    )
    printed = print_config("--config", str(path), "--max-samples", "5", "--no-overwrite")
    expected = RunConfig(
        input_file=Path("d.parquet"),
        workers=("a:1", "b:2"),
        accuracy=True,
        overwrite=False,
        target_qps=3.0,
        max_samples=5,
    )
    again = write(tmp_path, printed)
    assert expected == dataclasses.replace(parse(["--config", str(again)]), config_file=None)
    assert printed == print_config("--config", str(again))


def test_every_flag_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Each flag is a key, or a comment if it has no value."""
    assert 0 == main(["--input-file", "d.parquet", "--workers", "a:1", "--print-config"])
    printed = capfd.readouterr().out
    comments = [line.removeprefix("# ") for line in printed.splitlines() if line.startswith("#")]
    assert "user-conf = FILE" in comments
    keys = [*tomllib.loads(printed)["coordinator"], *(line.partition(" = ")[0] for line in comments)]
    assert sorted(names(RunConfig)) == sorted(keys)


BAD = {
    "unknown": ("max_smaples = 3", "[coordinator] max-smaples|nearest: max-samples"),
    "of the worker": ("preset = 'latency'", "[coordinator] preset"),
    "file in a file": ("config = 'o.toml'", "[coordinator] config"),
    "text for a switch": ("accuracy = 'yes'", "[coordinator] accuracy: is a string, expected true or false"),
    "number for a switch": (
        "overwrite = 1",
        "[coordinator] overwrite: is a whole number, expected true or false",
    ),
    "switch for a number": (
        "max-samples = true",
        "[coordinator] max-samples: is a boolean, expected a whole number",
    ),
    "switch off for a number": (
        "target-qps = false",
        "[coordinator] target-qps: is a boolean, expected a number",
    ),
    "text for a number": ("target-qps = 'fast'", "[coordinator] target-qps: is a string, expected a number"),
    "number as text": (
        "max-new-tokens = '16'",
        "[coordinator] max-new-tokens: is a string, expected a whole number",
    ),
    "fraction for a count": ("max-samples = 1.5", "[coordinator] max-samples: is a number, expected a whole"),
    "date for a number": ("target-qps = 2026-01-01", "[coordinator] target-qps: is a date or time"),
    "number for a path": ("output-dir = 5", "[coordinator] output-dir: is a whole number, expected a string"),
    "list for one value": ("output-dir = ['a', 'b']", "[coordinator] output-dir: is a list"),
    "table for a number": (
        "max-samples = {a = 1}",
        "[coordinator] max-samples: is a table, expected a whole number",
    ),
    "unknown choice": ("scenario = 'stream'", "--scenario|'stream'|offline, server, interactive"),
    "out of bounds": ("worker-timeout-s = 0", "--worker-timeout-s: 0.0"),
    "no number": ("stall-timeout-s = nan", "--stall-timeout-s: nan"),
    "not TOML": ("max-samples", "not TOML|line 5"),
}


@pytest.mark.parametrize(("line", "says"), BAD.values(), ids=[name.replace(" ", "-") for name in BAD])
def test_a_bad_line_is_named_with_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    """A key or value that cannot be had is one line with file and key, exit code 2; no worker is called."""
    data = fleet.write_prompts(tmp_path / "d.parquet", [[3, 7, 1]])
    text = f"[coordinator]\ninput-file = '{data}'\nworkers = ['127.0.0.1:9']\noutput-dir = '{tmp_path}/o'\n"
    if line.startswith("output-dir"):
        text = text.replace(f"output-dir = '{tmp_path}/o'\n", "")
    path = write(tmp_path, text + line + "\n\n")
    assert 2 == main(["--config", str(path)])
    _, error = capfd.readouterr()
    assert 1 == len(error.splitlines()), error
    assert [] == [word for word in ("coordinator: ", str(path), *says.split("|")) if word not in error], error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("line", "argv", "says"),
    [
        ("max-samples = 3", ["--max-samples=0"], "coordinator: --max-samples: 0 is below 1\n"),
        ("max-samples = 0", [], "coordinator: {path}: --max-samples: 0 is below 1\n"),
        (
            "user-conf = 'none'",
            [],
            "coordinator: {path}: --user-conf none: cannot be read: No such file or directory\n",
        ),
    ],
)
def test_the_file_is_blamed_for_its_own_flags_alone(
    tmp_path: Path, line: str, argv: list[str], says: str
) -> None:
    """Through the program, a mistake in the file names the file, one of the command line does not."""
    data = fleet.write_prompts(tmp_path / "d.parquet", [[3, 7, 1]])
    path = write(tmp_path, f"[coordinator]\ninput-file = '{data}'\nworkers = ['127.0.0.1:9']\n{line}\n")
    done = completed(main, ["--config", str(path), *argv])
    assert (2, says.format(path=path), "") == (done.returncode, done.stderr, done.stdout)
