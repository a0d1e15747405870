"""The file of flags: what it may hold, and how it stands before a command line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config_file import Table, name_source, read, read_table, to_argv, to_toml
from common.flags import FlagError, UnknownFlagsError

SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z_]{1,5})?", fullmatch=True)
TABLES = st.dictionaries(NAMES, SCALARS | st.lists(st.text()) | st.dictionaries(st.text(), st.booleans()))


def write(folder: Path, text: str) -> Path:
    """Write a file."""
    path = folder / "flags.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_take_dashes_or_underscores(tmp_path: Path) -> None:
    """A name is a flag's in either spelling; what stands behind a dot is a field's own name and stays."""
    path = write(tmp_path, '[worker]\nmax_num_seqs = 1\nmax-model-len = 2\n"speculative_config.num_x" = 3\n')
    expected = {"max-num-seqs": 1, "max-model-len": 2, "speculative-config.num_x": 3}
    assert expected == read_table(path, "worker")[1]


def test_each_side_reads_its_own_table(tmp_path: Path) -> None:
    """A side sees nothing of the other's table, and nothing where it has none itself."""
    path = write(tmp_path, "[worker]\nport = 1\n")
    assert {"port": 1} == read(["--config", str(path)], "worker")[1]
    assert {} == read([f"--config={path}"], "coordinator")[1]
    assert (None, {}) == read(["--port", "1"], "worker")


@pytest.mark.parametrize(
    "table, flags",
    [
        ({"insecure": True, "accuracy": False}, ["--insecure", "--no-accuracy"]),
        ({"port": -1, "frame-hold-ms": 1e-07}, ["--port=-1", "--frame-hold-ms=1e-07"]),
        ({"model": "--odd", "host": "a b=c"}, ["--model=--odd", "--host=a b=c"]),
        ({"cudagraph-capture-sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ({"compilation-config": {"mode": 0, "x": [1.5]}}, ['--compilation-config={"mode": 0, "x": [1.5]}']),
    ],
)
def test_values_become_flags(table: Table, flags: list[str]) -> None:
    """Switches, numbers, text, lists and tables stand in a file as TOML has them."""
    assert flags == to_argv(table)


@pytest.mark.parametrize(
    "argv, left",
    [
        ([], ["--enforce-eager", "--worker-timeout-s=3"]),
        (["--no-enforce-eager"], ["--worker-timeout-s=3"]),
        (["--enforce_eager", "--worker-timeout-s=5"], []),
        # Another flag, whose name only looks like a switch turned off.
        (["--no-worker-timeout-s", "5"], ["--enforce-eager", "--worker-timeout-s=3"]),
    ],
)
def test_the_command_line_takes_the_files_place(argv: list[str], left: list[str]) -> None:
    """A flag of the command line, in any spelling, leaves nothing of the same flag of the file."""
    assert left == to_argv({"enforce-eager": True, "worker-timeout-s": 3}, argv)


@pytest.mark.parametrize(
    "argv, left",
    [
        ([], ["--compilation-config.cudagraph_mode=NONE"]),
        (["--compilation_config={}"], []),
        (["--compilation-config.cudagraph_mode", "FULL"], []),
        (["--compilation-config.mode", "0"], ["--compilation-config.cudagraph_mode=NONE"]),
    ],
)
def test_a_whole_flag_takes_the_place_of_the_files_fields(argv: list[str], left: list[str]) -> None:
    """A field is left where the command line gives neither it nor the flag that it is a field of."""
    assert left == to_argv({"compilation-config.cudagraph_mode": "NONE"}, argv)


@given(TABLES)
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    """Any names and values that TOML holds, written as a file, read as they were."""
    path = write(tmp_path_factory.mktemp("written"), to_toml("worker", table))
    assert table == read_table(path, "worker")[1]


@pytest.mark.parametrize(
    "text, says",
    [
        ("port = 1", "'port'|[coordinator]|[worker]"),
        ("[wroker]\nport = 1", "'wroker'|[worker]"),
        ("[[worker]]\nport = 1", "'worker'|not one of the tables"),
        ("worker = 1", "'worker'|not one of the tables"),
        ("[worker]\nport = \nhost = 1", "not TOML|line 2"),
        ("[worker]\nport = 1\nport = 2\nhost = 1", "not TOML|line 3"),
        ("[worker]\nmax-num-seqs = 1\nmax_num_seqs = 2", "[worker] max_num_seqs: given twice"),
        ('[worker]\nconfig = "other.toml"', "[worker] config"),
        ("[worker]\nhelp = true", "[worker] help"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """What cannot stand in the file is refused in one line with the file and the place."""
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        read(["--config", str(path)], "worker")
    message = str(caught.value)
    assert [] == [word for word in (f"--config: {path}", *says.split("|")) if word not in message], message
    assert "\n" not in message


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A file that is missing, a folder, or no text, and a flag without its file, are each one line."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[worker]\nmodel = "\xe9"\n')
    for path, says in [
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (latin, "not TOML"),
    ]:
        with pytest.raises(ValueError, match=f"^--config: {path}.*{says}"):
            read(["--config", str(path)], "worker")
    with pytest.raises(ValueError, match="--config: expected one argument"):
        read(["--config"], "worker")


SWITCH = ("--insecure", "--no-insecure")


@pytest.mark.parametrize(
    "error, argv, named",
    [
        (FlagError("--port", "0 is not in 1..65535"), [], True),
        (FlagError("--port", "0 is not in 1..65535"), ["--port=0"], False),
        (FlagError("--tcp-port/--port", "0", names=("--tcp-port", "--port")), [], True),
        (FlagError("--insecure/--no-insecure", "ignored 'x'", names=SWITCH), [], True),
        (FlagError("--insecure/--no-insecure", "ignored 'x'", names=SWITCH), ["--insecure=x"], False),
        (UnknownFlagsError(["--no-insecure"]), [], True),
        (UnknownFlagsError(["2"]), [], False),
        (FlagError("--host", "'x' is not a loopback address"), [], False),
        # The text of an error decides nothing.
        (FlagError("--host", "'x' needs --port"), [], False),
        (ValueError("--port: 0 is not in 1..65535"), [], False),
    ],
)
def test_a_line_names_the_file_of_its_flag(
    tmp_path: Path, error: Exception, argv: list[str], named: bool
) -> None:
    """An error about a flag that the file gives starts with the file; one of the command line's does not."""
    path = write(tmp_path, '[worker]\nport = 0\ninsecure = "x"\n[coordinator]\nhost = "x"\n')
    expected = f"{path}: {error}" if named else str(error)
    assert expected == name_source(error, [*argv, "--config", str(path)], "worker")
    assert str(error) == name_source(error, argv, "worker")


def test_a_list_for_a_flag_of_one_value_is_named(tmp_path: Path) -> None:
    """Values of the file's list that the flag does not take are reported with that flag."""
    path = write(tmp_path, "[worker]\nstep-ms = [1, 2, 3]\n")
    error = UnknownFlagsError(["2", "3"])
    message = "unrecognized arguments: 2 3"
    assert f"{path}: --step-ms: {message}" == name_source(error, ["--config", str(path)], "worker")
    assert message == name_source(error, ["2", "--config", str(path)], "worker")
