"""A preset holds flags of its engine and those of the worker that no deployment owns."""

import asyncio
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from coordinator.transport.agreement import execution_differences
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.forked import main_of
from tests.worker.raw_client import Stream
from tests.worker.test_held_prompts import hold
from tests.worker.test_server import walk
from worker.__main__ import main, show
from worker.config import WorkerConfig, parse
from worker.engines.model import preset

GROUPED = "max-num-seqs = 64\nprefill-group-tokens = 100\nprefill_hold_ms = 10000\n"
# A worker that finds the presets of its engine in a folder of the test.
WORKER = """
import sys
from pathlib import Path
from worker.__main__ import main
from worker.engines.model import preset
preset.FOLDERS[{engine!r}] = Path({folder!r})
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for presets of the counting engine."""
    monkeypatch.setattr(preset, "FOLDERS", {"counting": tmp_path})
    return tmp_path


def write(folder: Path, text: str) -> None:
    """Write the preset `grouped`."""
    (folder / "grouped.toml").write_text(f"[worker]\n{text}", encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "argv", "expected"),
    [
        ("", "", (100, 10_000.0)),
        ("", "--prefill-group-tokens 0", (0, 10_000.0)),
        ("prefill-hold-ms = 5", "", (100, 5.0)),
        ("prefill-group-tokens = 50\nprefill-hold-ms = 5", "--prefill-group-tokens=7", (7, 5.0)),
    ],
)
def test_command_line_over_file_over_preset(
    folder: Path, file: str, argv: str, expected: tuple[int, float]
) -> None:
    """Also for the worker's own flags, which do not reach the engine."""
    write(folder, GROUPED)
    path = folder / "worker" / "flags.toml"
    path.parent.mkdir()
    path.write_text(f"[worker]\nengine = 'counting'\npreset = 'grouped'\n{file}\n")
    config, _, engine_argv = parse(["--config", str(path), *argv.split()])
    assert expected == (config.prefill_group_tokens, config.prefill_hold_ms)
    assert ["--max-num-seqs=64"] == engine_argv


REFUSED = {
    "address": ("port = 50052", "--preset: grouped: sets --port, which no preset may set"),
    "file": ("run-token-file = 't'", "--preset: grouped: sets --run-token-file, which no preset may set"),
    "model": ("model = 'm'", "--preset: grouped: sets --model, which no preset may set"),
    "unknown": ("step-mss = 3", "--preset grouped: unrecognized arguments: --step-mss=3"),
    "bound": ("step-ms = -1", "--preset grouped: --step-ms: -1.0 is below 0"),
    "own bound": (
        "prefill-group-tokens = -1",
        "--preset grouped: --prefill-group-tokens: -1 is not in 0..1048576",
    ),
    "own type": (
        "prefill-group-tokens = 'all'",
        "--preset grouped: --prefill-group-tokens: invalid int value: 'all'",
    ),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=[name.replace(" ", "-") for name in REFUSED])
def test_a_bad_line_is_named_with_its_preset(
    folder: Path, capfd: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    """A flag that no preset may set, one that the engine has not, a bad value: one line, exit code 2."""
    write(folder, text)
    assert 2 == main(["--engine", "counting", "--preset", "grouped"])
    output, error = capfd.readouterr()
    assert ("", 1) == (output, len(error.splitlines())), error
    assert error.startswith(f"worker: {says}"), error


def test_what_the_command_line_gives_is_not_blamed_on_the_preset(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The preset sets the flag too, but the bad value is the command line's."""
    write(folder, GROUPED)
    assert 2 == main(["--engine", "counting", "--preset", "grouped", "--max-num-seqs", "0"])
    assert capfd.readouterr().err.startswith("worker: --max-num-seqs: 0 ")


def test_the_printed_file_names_what_comes_from_the_preset(folder: Path) -> None:
    """One comment; without the flags that the command line gives."""
    write(folder, GROUPED)
    printed = show(["--engine", "counting", "--preset", "grouped", "--prefill-hold-ms", "5"])
    assert "# from the preset: prefill-group-tokens, max-num-seqs" == printed.splitlines()[1]
    table = tomllib.loads(printed)["worker"]
    assert (100, 5.0, 64) == tuple(
        table[name] for name in ("prefill-group-tokens", "prefill-hold-ms", "max-num-seqs")
    )
    assert "from the preset" not in show(["--engine", "counting"])


def test_recorded_is_what_differs_from_the_defaults() -> None:
    """The worker's own flags that a preset may set, by the names of the engine's arguments."""
    assert {} == WorkerConfig().reported
    config = WorkerConfig(frame_hold_ms=5.0, prefill_group_tokens=7, port=50052)
    assert {"frame_hold_ms": "5.0", "prefill_group_tokens": "7"} == config.reported


def start(tmp_path: Path, engine: str, text: str, *flags: str) -> fleet.WorkerProcess:
    """Start a worker with the preset `grouped`; it serves when this returns."""
    presets = tmp_path / f"presets-{engine}"
    presets.mkdir(exist_ok=True)
    write(presets, text)
    program = main_of(WORKER.format(engine=engine, folder=str(presets)))
    log = tmp_path / f"worker{len(list(tmp_path.glob('worker*')))}.log"
    worker = fleet.start_worker(log, *flags, engine=engine, program=program)
    try:
        fleet.wait_serving(worker)
    except AssertionError:
        worker.stop()
        raise
    return worker


def info_of(worker: fleet.WorkerProcess) -> pb.WorkerInfo:
    """Ask a worker what it is."""
    with grpc.insecure_channel(worker.address) as channel:
        return rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60)


def test_a_worker_serves_and_records_what_its_preset_says(tmp_path: Path) -> None:
    """A prompt is held for its group; the run's record has preset, size and hold; the hash is no other."""

    async def steps(channel: grpc.aio.Channel) -> None:
        stream = Stream(channel)
        await stream.open("grouped")
        await hold(stream, num_running_tokens=300)
        async with asyncio.timeout(30):
            await stream.take_until_ended(1, 2)
        await stream.end()

    text = f"{GROUPED}step-ms = 1\n"
    workers = [
        start(tmp_path, "counting", text, "--preset", "grouped"),
        start(tmp_path, "counting", text, "--preset", "grouped", "--prefill-group-tokens", "0"),
    ]
    try:
        grouped, single = (info_of(worker) for worker in workers)
        walk(workers[0], steps)
    finally:
        for worker in workers:
            worker.stop()
    args: Mapping[str, str] = grouped.engine_args
    assert ("grouped", 100, 10_000.0) == tuple(
        json.loads(args[name]) for name in ("preset", "prefill_group_tokens", "prefill_hold_ms")
    )
    assert grouped.engine_hash == single.engine_hash
    served = [(worker.address, info) for worker, info in zip(workers, (grouped, single), strict=True)]
    first, second = (worker.address for worker in workers)
    assert execution_differences(served) == [
        f"prefill_group_tokens: 100 at {first}, the default at {second}",
        f"prefill_hold_ms: 10000.0 at {first}, the default at {second}",
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--max-num-seqs 63", "no effect: with 63 sequences each prompt is a group"),
        (
            "--max-num-seqs 1152 --max-num-batched-tokens 8191",
            "such a group takes several steps: a step has 8191 tokens (max_num_batched_tokens), "
            "of which 1152 may decode (max_num_seqs)",
        ),
        ("--max-num-seqs 1152 --max-num-batched-tokens 8192", ""),
    ],
)
def test_a_worker_warns_of_groups_that_save_no_steps(tmp_path: Path, flags: str, says: str) -> None:
    """Of 8,192 tokens 1,152 may decode, which leaves room for the preset's 7,040; it serves anyway."""
    text = "prefill-group-tokens = 7040\n"
    worker = start(tmp_path, "simulated", text, "--preset", "grouped", *flags.split())
    worker.stop()
    lines = [line for line in worker.log.read_text().splitlines() if "--prefill-group-tokens" in line]
    assert ([f"--prefill-group-tokens 7040: {says}"] if says else []) == [
        line[line.index("--prefill-group-tokens") :] for line in lines
    ]
