"""The worker's flags in a TOML file: its own and its engine's, under the command line's, over a preset's."""

import dataclasses
import hashlib
import json
import os
import sys
import tomllib
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from common.config_file import ConfigFile, to_table, to_toml
from common.flags import names
from coordinator import config as coordinator_config
from tests import fleet
from tests.forked import completed_command
from tests.worker.engines.greedy import environment_kept
from worker.__main__ import main, show
from worker.config import BadInput, EngineKind, ModelConfig, WorkerConfig, parse
from worker.engines.model import preset
from worker.engines.model.preset import preset_names

PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(Path)
OF_TYPE = {
    bool: st.booleans(),
    int: st.integers(1, 64),
    # No port of 64 replicas.
    int | None: st.none() | st.integers(1000, 65535),
    str: st.sampled_from(["localhost", "::1", "0.0.0.0"]),
    str | None: st.none() | st.sampled_from(preset_names("vllm")),
    float: st.floats(2, 1000),
    Path | None: st.none() | PATHS,
    EngineKind: st.sampled_from(EngineKind),
}
TYPES = typing.get_type_hints(WorkerConfig)
FLAGS = [field.name for field in dataclasses.fields(WorkerConfig) if field.name != "config_file"]
CORES = {"cores": st.sampled_from(["", "0", "0-3,8"])}
VALUES = st.fixed_dictionaries({name: OF_TYPE[TYPES[name]] for name in FLAGS} | CORES)
THROUGHPUT = ["--max-num-seqs=128", "--gpu-memory-utilization=0.95"]
LATENCY = ["--max-num-seqs=32", "--enforce-eager", "--enable-chunked-prefill"]


def write(folder: Path, text: str) -> Path:
    """Write a file."""
    path = folder / "worker.toml"
    path.write_text(text, encoding="utf-8")
    return path


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(VALUES)
def test_every_flag_can_stand_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    """Any of the daemon's configurations, written as a file, is read as the same."""
    try:
        made = WorkerConfig(**values)  # type: ignore[arg-type]
    except ValueError:
        reject()
    path = write(tmp_path_factory.mktemp("worker"), to_toml("worker", to_table(made)))
    file = ConfigFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert dataclasses.replace(made, config_file=file) == parse(["--config", str(path)])[0]


@pytest.mark.parametrize(
    "text, argv, engine_argv",
    [
        ("", ["--preset", "throughput"], THROUGHPUT),
        ("preset = 'latency'", [], LATENCY),
        ("preset = 'latency'", ["--preset=throughput"], THROUGHPUT),
        ("max_num_seqs = 9", ["--preset=throughput"], [THROUGHPUT[1], "--max-num-seqs=9"]),
        ("max-num-seqs = 9", ["--max_num_seqs", "5"], ["--max_num_seqs", "5"]),
        (
            "preset = 'latency'\nenforce-eager = false",
            ["--max-num-seqs=5"],
            [LATENCY[2], "--no-enforce-eager", "--max-num-seqs=5"],
        ),
        ('"compilation-config.mode" = 0', ["-cc={}"], ["-cc={}"]),
        ('"compilation-config.mode" = 0', ["-cc", "{}"], ["-cc", "{}"]),
    ],
)
def test_command_line_over_file_over_preset(
    tmp_path: Path, text: str, argv: list[str], engine_argv: list[str]
) -> None:
    """The engine gets each flag once: the command line's, else the file's, else the preset's."""
    path = write(tmp_path, f"[worker]\n{text}\n")
    assert engine_argv == parse(["--config", str(path), *argv])[2]


def test_a_whole_flag_takes_the_place_of_a_presets_fields(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the file gives it or the command line: vLLM would let the preset's field win."""
    monkeypatch.setattr(preset, "FOLDERS", {"vllm": tmp_path})
    (tmp_path / "fields.toml").write_text('[worker]\n"compilation-config.mode" = 0\n')
    assert ["--compilation-config.mode=0"] == parse(["--preset=fields"])[2]
    path = write(tmp_path, "[worker]\npreset = 'fields'\ncompilation-config = {mode = 3}\n")
    assert ['--compilation-config={"mode": 3}'] == parse(["--config", str(path)])[2]
    assert ["-cc={}"] == parse(["--preset=fields", "-cc={}"])[2]


def print_config(*argv: str) -> str:
    """Let a real worker print its configuration."""
    command = [sys.executable, "-m", "worker", *argv, "--print-config"]
    done = completed_command(command)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    """What the real worker prints is the daemon's flags in full and those given of the engine's."""
    path = write(
        tmp_path,
        '[worker]\nengine = "counting"\nport = 50060\nframe-hold-ms = 5\nstep-ms = 0.5\nmax-num-seqs = 9\n'
        '[coordinator]\nno-flag-of = "this side"\n',
    )
    printed = print_config("--config", str(path), "--port", "50070", "--max-num-seqs", "8")
    expected = {
        "engine": "counting",
        "host": "127.0.0.1",
        "port": 50070,
        "frame-hold-ms": 5.0,
        "step-ms": 0.5,
        "max-num-seqs": 8,
    }
    table = tomllib.loads(printed)["worker"]
    assert expected == {name: table[name] for name in expected}
    assert "prefill-ms" not in table
    again = write(tmp_path, printed)
    assert printed == print_config("--config", str(again))


def test_every_flag_is_printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the daemon's flags is a key or a comment; what a library prints meanwhile goes to stderr."""

    def print_and_show(argv: list[str]) -> str:
        sys.stdout.write("a library's greeting\n")
        os.write(1, b"written by C\n")
        return show(argv)

    monkeypatch.setattr("worker.__main__.show", print_and_show)
    assert 0 == main(["--engine", "counting", "--tls-cert", "c", "--tls-key", "k", "--print-config"])
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert "[worker]" == lines[0]
    unset = [
        "tls-ca = FILE",
        "run-token-file = FILE",
        "metrics-port = PORT",
        f"preset = {'|'.join(preset_names())}",
        "model = MODEL",
    ]
    assert [f"# {line}" for line in unset] == [line for line in lines if line.startswith("#")]
    keys = [*tomllib.loads(printed.out)["worker"], *(line.partition(" = ")[0] for line in unset)]
    assert sorted([*names(WorkerConfig), *names(ModelConfig)]) == sorted(keys)
    assert all(text in printed.err for text in ("a library's greeting", "written by C"))


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_vllms_flags_are_resolved_by_vllms_parser(tmp_path: Path) -> None:
    """Preset, file and command line in any spelling come to one value a flag; no token is shown."""
    path = write(
        tmp_path,
        '[worker]\npreset = "latency"\nmax_num_seqs = 48\nenforce-eager = false\nhf-token = "secret"\n'
        "tensor-parallel-size = 8\ncudagraph-capture-sizes = [1, 2, 4]\ncompilation-config.mode = 0\n"
        'speculative-config = {method = "ngram", num_speculative_tokens = 3}\nmoe-backend = "marlin"\n',
    )
    argv = ["-tp", "2", "--max-model-len", "1k", "--device_memory_utilization=0.5"]
    printed = print_config("--config", str(path), *argv)
    own = to_table(WorkerConfig(preset="latency"))
    expected = own | {
        "enable-chunked-prefill": True,  # only the preset has it
        "max-num-seqs": 48,  # file over preset
        "enforce-eager": False,  # file over preset
        "tensor-parallel-size": 2,  # command line over file, under another name
        "cudagraph-capture-sizes": [1, 2, 4],
        "compilation-config": {"mode": 0},
        "speculative-config": {"method": "ngram", "num_speculative_tokens": 3},
        "moe-backend": "marlin",
        "max-model-len": "1k",
        "gpu-memory-utilization": 0.5,
    }
    assert expected == tomllib.loads(printed)["worker"]
    with environment_kept():
        again = show(["--config", str(write(tmp_path, printed))])
    assert "# from the preset: enable-chunked-prefill" == printed.splitlines()[1]
    assert printed.splitlines()[2:] == again.splitlines()[1:]


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", preset_names("vllm"))
def test_presets_hold_vllms_flags_and_say_where_they_come_from(name: str) -> None:
    """Each preset is taken by vLLM's parser, and its file says its source and whether it was measured."""
    with environment_kept():
        table = tomllib.loads(show(["--preset", name]))["worker"]
    path = preset.FOLDERS["vllm"] / f"{name}.toml"
    assert tomllib.loads(path.read_text())["worker"].items() <= table.items()
    assert [] == [word for word in ("# Source: ", "# Measured: ") if word not in path.read_text()]


@pytest.mark.parametrize(
    ("run", "flags_without"),
    [
        pytest.param("2026-12-01-h200-groups/grouped", set(), id="with groups"),
        pytest.param("2026-11-30-h200-offline/ours-3600", {"prefill_group_tokens"}, id="the long run"),
    ],
)
def test_the_preset_for_offline_has_the_flags_of_the_measured_runs(run: str, flags_without: set[str]) -> None:
    """Every flag of the preset has the value that the worker of an Offline run reported."""
    record = json.loads((fleet.ROOT / "bench" / "results" / run / "run.json").read_text())
    (worker,) = record["summary"]["workers"]
    info = worker["stream_infos"][0]
    reported = {
        name: json.loads(value) for name, value in (info["execution_facts"] | info["engine_args"]).items()
    }
    flags = {name.replace("-", "_"): value for name, value in preset.read_preset("h200_tp1_offline").items()}
    assert 8 == len(flags)
    assert flags_without == flags.keys() - reported.keys()
    assert {name: reported[name] for name in flags if name in reported} == {
        name: value for name, value in flags.items() if name in reported
    }


def test_the_seeds_tunings_are_there() -> None:
    """The two presets are the tuning advice of docs/seed.md, without prefix caching."""
    assert THROUGHPUT == parse(["--preset", "throughput"])[2]
    assert LATENCY == parse(["--preset", "latency"])[2]


def test_recorded_are_preset_and_file(tmp_path: Path) -> None:
    """What a worker reports of its flags' sources is the preset's name, and path and hash of the file."""
    path = write(tmp_path, "[worker]\npreset = 'latency'\n")
    reported = parse(["--config", str(path)])[0].reported
    digest = hashlib.sha256(b"[worker]\npreset = 'latency'\n").hexdigest()
    expected = {"preset": "latency", "config_file": {"path": str(path), "sha256": digest}}
    assert expected == {name: json.loads(value) for name, value in reported.items()}


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_the_example_is_taken_by_both_ends() -> None:
    """The file that the documents show is read by the coordinator and by the worker with vLLM's parser."""
    example = str(fleet.ROOT / "docs" / "example.toml")
    assert ("node1:50051", "node2:50051") == coordinator_config.parse(["--config", example]).workers
    with environment_kept():
        table = tomllib.loads(show(["--config", example]))["worker"]
    assert ("h200_tp1_server", 8, 576, "triton") == tuple(
        table[name] for name in ("preset", "replicas", "max-num-seqs", "moe-backend")
    )
    assert 8192 == max(table["cudagraph-capture-sizes"])


BAD = {
    "own value": ("engine = 'counting'\nport = 0", "--port: 0|1..65535"),
    "own type": ("engine = 'counting'\nport = 'http'", "[worker] port: is a string, expected a whole number"),
    "own number as text": (
        "engine = 'counting'\nport = '50051'",
        "[worker] port: is a string, expected a whole number",
    ),
    "own number as a switch": (
        "engine = 'counting'\nport = true",
        "[worker] port: is a boolean, expected a whole",
    ),
    "own fraction": (
        "engine = 'counting'\nport = 1.0",
        "[worker] port: is a number, expected a whole number",
    ),
    "own text as a number": (
        "engine = 'counting'\nhost = 1",
        "[worker] host: is a whole number, expected a string",
    ),
    "own date": (
        "engine = 'counting'\ntls-ca = 2026-01-01",
        "[worker] tls-ca: is a date or time, expected a string",
    ),
    "own list": ("engine = 'counting'\nport = [1, 2]", "[worker] port: is a list"),
    "own switch": (
        "engine = 'counting'\ninsecure = 'yes'",
        "[worker] insecure: is a string, expected true or false",
    ),
    "unknown": ("engine = 'counting'\nstep_mss = 3", "unrecognized arguments: --step-mss=3"),
    "engine type": (
        "engine = 'counting'\nstep-ms = 'fast'",
        "[worker] step-ms: is a string, expected a number",
    ),
    "engine number as text": ("engine = 'counting'\nstep-ms = '1'", "[worker] step-ms: is a string"),
    "engine bound": ("engine = 'counting'\nstep-ms = -1", "--step-ms: -1.0 is below 0"),
    "engine list": (
        "engine = 'counting'\nstep-ms = [1, 2]",
        "[worker] step-ms: is a list, expected a number",
    ),
    "other engine": ("engine = 'simulated'\nstep-ms = 1", "--step-ms=1"),
    "unknown engine": ("engine = 'triton'", "--engine|'triton'"),
    "unknown preset": ("preset = 'speed'", f"--preset: 'speed' is not one of {', '.join(preset_names())}"),
    "preset of no vLLM": ("engine = 'counting'\npreset = 'latency'", "--preset: latency|vLLM|counting"),
    "absent file": ("engine = 'counting'\nrun-token-file = '/nowhere'", "--run-token-file: /nowhere"),
    "file in a file": ("config = 'other.toml'", "[worker] config"),
    "absent model": ("model = '/nowhere'", "--model|/nowhere"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=[name.replace(" ", "-") for name in BAD])
def test_a_bad_line_is_named_with_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    """A key or value that cannot be had is one line with file and key, exit code 2; nothing starts."""
    path = write(tmp_path, f"[worker]\n{text}\n")
    assert 2 == main(["--config", str(path)])
    output, error = capfd.readouterr()
    assert ("", 1) == (output, len(error.splitlines())), error
    assert [] == [word for word in ("worker: ", str(path), *says.split("|")) if word not in error], error


@pytest.mark.parametrize("flag", ["--print-config", "--config", "--preset"])
def test_flags_of_configuration_take_no_abbreviation(flag: str) -> None:
    """A shortened flag is the engine's, which does not know it."""
    with pytest.raises(BadInput, match=f"unrecognized arguments: {flag[:-1]}"):
        show(["--engine", "counting", flag[:-1]])


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_a_flag_that_vllm_does_not_know_is_named_with_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file's unknown flags and bad values are refused by vLLM's own parser, with file and flag."""
    for line, says in [("max-num-sqs = 3", "--max-num-sqs=3"), ("dtype = 'float33'", "--dtype|'float33'")]:
        path = write(tmp_path, f"[worker]\n{line}\n")
        with environment_kept():
            assert 2 == main(["--config", str(path), "--print-config"])
        error = capfd.readouterr().err.splitlines()[-1]
        assert [] == [word for word in (f"worker: {path}: ", *says.split("|")) if word not in error], error
