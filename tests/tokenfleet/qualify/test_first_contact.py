"""`tokenfleet qualify` over a real worker with known answers."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToDict

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.forked import Ended, end_of
from tests.sut.accuracy_files import write_tokenizer
from tests.tokenfleet.qualify.greedy_files import PROMPTS, counting_reference
from tokenfleet.qualify.first_contact import main

# The counting engine's answer to [2, x, 64] is token 65 and <|return|>: the letter A.
LETTER_A = 64
NUM_RIGHT, NUM_WRONG = 12, 10


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Serve the counting engine."""
    with fleet.workers(tmp_path_factory.mktemp("worker"), 1, "--step-ms", "1") as (one,):
        yield one


@pytest.fixture(scope="module")
def files(worker: fleet.WorkerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a reference, accuracy data of GPQA with the answer A, a tokenizer and a table."""
    directory = tmp_path_factory.mktemp("files")
    with grpc.insecure_channel(worker.address) as channel:
        info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60)
    engine = MessageToDict(info, preserving_proto_field_name=True)
    counting_reference(engine).write(directory / "greedy.json")
    prompts = [[2, 1000 + row, LETTER_A] for row in range(NUM_RIGHT + NUM_WRONG)]
    columns = {
        "tok_input": pa.array(prompts, pa.list_(pa.int32())),
        "dataset": ["gpqa_diamond"] * len(prompts),
        "ground_truth": ["A"] * NUM_RIGHT + ["B"] * NUM_WRONG,
    }
    pq.write_table(pa.table(columns), directory / "acc.parquet")
    write_tokenizer(directory / "tokenizer")
    sha = hashlib.sha256((directory / "acc.parquet").read_bytes()).hexdigest()
    (directory / "sums.toml").write_text(f'stop_ids = [{fleet.STOP}]\n[files]\n"acc.parquet" = "{sha}"\n')
    return directory


def qualify(worker: fleet.WorkerProcess, directory: Path, output: Path, *flags: str) -> Ended:
    """Run the command to its end."""
    directory.mkdir(exist_ok=True)
    argv = ["--workers", worker.address, "--output-dir", str(output), *flags]
    return end_of(main, argv, directory)


def checks_of(output: Path) -> dict[str, tuple[str, str]]:
    """Read assessment and observation of each check."""
    checks = json.loads((output / "qualify.json").read_text())["checks"]
    return {row["check"]: (row["assessment"], row["seen"]) for row in checks}


def all_flags(files: Path) -> list[str]:
    """Name every file."""
    return [
        *("--expected", str(files / "sums.toml"), "--data-files", str(files / "acc.parquet")),
        *("--reference", str(files / "greedy.json"), "--accuracy-file", str(files / "acc.parquet")),
        *("--tokenizer", str(files / "tokenizer"), "--num-graded", "22", "--max-new-tokens", "64"),
    ]


@pytest.fixture(scope="module")
def result(worker: fleet.WorkerProcess, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qualify once with every flag but --baseline."""
    directory = tmp_path_factory.mktemp("result")
    done = qualify(worker, directory / "output", directory / "one", *all_flags(files))
    assert 0 == done.code, done.stderr + done.stdout
    assert "pass     greedy answers" in done.stdout
    return directory / "one"


def test_every_check_is_made(result: Path) -> None:
    """Right answers pass, 12 of 22 letters are right, and what the flags do not give is unknown."""
    checks = checks_of(result)
    assert {
        "workers": "pass",
        "weights": "unknown",
        "data file acc.parquet": "pass",
        "stop ids": "pass",
        "engine of the reference": "pass",
        "greedy answers": "pass",
        "projected score": "unknown",
    } == {name: assessment for name, (assessment, _) in checks.items()}
    assert f"{len(PROMPTS)} of {len(PROMPTS)} equal to LLM.generate's" == checks["greedy answers"][1]
    assert checks["projected score"][1].startswith("gpqa_diamond 12 of 22; ")


@pytest.mark.long
def test_a_second_qualification_is_compared_with_the_first(
    worker: fleet.WorkerProcess, files: Path, result: Path, tmp_path: Path
) -> None:
    """The same engine gives the same answers and verdicts."""
    done = qualify(worker, tmp_path / "output", tmp_path / "two", *all_flags(files), f"--baseline={result}")
    assert 0 == done.code, done.stderr + done.stdout
    checks = checks_of(tmp_path / "two")
    assert ("pass", "equal engines: 12 of 12 equal") == checks["greedy answers, effect"]
    assert "pass" == checks["graded rows, effect"][0]


def test_a_wrong_token_fails_and_is_named(worker: fleet.WorkerProcess, files: Path, tmp_path: Path) -> None:
    """One token of the reference differs from the harness's: exit code 1, prompt and token are named."""
    reference = json.loads((files / "greedy.json").read_text())
    reference["answers"][5][3] += 7
    (tmp_path / "greedy.json").write_text(json.dumps(reference))
    done = qualify(worker, tmp_path / "1", tmp_path / "out", "--reference", str(tmp_path / "greedy.json"))
    assert 1 == done.code, done.stderr
    seen = "11 of 12 equal to LLM.generate's, 0 differ first at a near tie, 1 differ otherwise, the earliest"
    assert ("FAIL", f"{seen} at token 3 of prompt 5") == checks_of(tmp_path / "out")["greedy answers"]


def test_a_directory_that_cannot_be_made_is_one_line(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """It is made when the workers are ready, before any run: exit code 2, the flag and the directory."""
    output = tmp_path / "file" / "out"
    (tmp_path / "file").touch()
    ended = qualify(worker, tmp_path / "run", output)
    assert (2, f"qualify: --output-dir {output}: Not a directory\n") == (ended.code, ended.stderr)


def test_a_worker_that_is_not_there_fails_before_any_run(tmp_path: Path) -> None:
    """Only the workers are checked, and no run is made."""
    argv = ["--workers", f"127.0.0.1:{fleet.free_port()}", "--output-dir", str(tmp_path / "out")]
    done = end_of(main, argv, tmp_path, 60)
    assert 1 == done.code, done.stderr
    assert {"workers"} == checks_of(tmp_path / "out").keys()
    assert "1 of 1 not ready, 127.0.0.1:" in done.stdout


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--output-dir={tmp}"], "--output-dir {tmp}: is not empty"),
        (["--expected={tmp}/x"], "--expected {tmp}/x: No such file or directory"),
        (["--reference={tmp}/x"], "--reference {tmp}/x: No such file or directory"),
        (["--baseline={tmp}"], "--baseline {tmp}/qualify.json: No such file or directory"),
        (["--accuracy-file={tmp}/x"], "--tokenizer: missing: --accuracy-file needs it"),
        (["--tokenizer={tmp}"], "--accuracy-file: missing: --tokenizer needs it"),
        (["--num-graded=19"], "--num-graded: 19 is below 20"),
        (["--workers=a:b"], "--workers: 'a:b' is not host:port with a port in 1..65535"),
        (["--workers=a:1,a:1"], "--workers: a:1 is named 2 times"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, flags: list[str], line: str) -> None:
    """Flag, file and reason are named, exit code 2, and nothing is written."""
    (tmp_path / "stdout").touch()
    argv = ["--workers=127.0.0.1:1", f"--output-dir={tmp_path}/out"]
    done = end_of(main, [*argv, *(flag.format(tmp=tmp_path) for flag in flags)], tmp_path)
    assert (2, f"qualify: {line.format(tmp=tmp_path)}\n") == (done.code, done.stderr)
    assert not (tmp_path / "out").exists()
