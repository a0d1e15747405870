"""run_mlperf.py: its documented commands on one machine, and no process left behind, however it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from sut.log_files import LOADGEN_PREFIX
from tests import fleet
from tests.forked import ForkedProcess, completed_command, end_of
from tokenfleet.local_run import main

SLOW = ["--no-report", "--backend", "counting", "--replicas", "2", "--step-ms", "50"]


def start(marker: str, *flags: str) -> subprocess.Popen[str]:
    """Start run_mlperf.py with a marker in the environment of all that it starts."""
    return subprocess.Popen(
        [sys.executable, "run_mlperf.py", *flags],
        cwd=fleet.ROOT,
        env=os.environ | {"TOKENFLEET_TEST": marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fork(marker: str, log: Path, *flags: str) -> ForkedProcess:
    """Fork the same program; all that it starts has the marker."""
    return ForkedProcess(main, flags, log, environment=os.environ | {"TOKENFLEET_TEST": marker})


def marked_processes(marker: str) -> list[str]:
    """List the command lines of living processes that carry the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"TOKENFLEET_TEST={marker}" in (entry / "environ").read_text():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def wait_gone(marker: str, timeout_s: float = 60.0) -> None:
    """Wait until no marked process lives."""
    deadline_s = time.monotonic() + timeout_s
    while left := marked_processes(marker):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.1)


def wait_for(path: Path, timeout_s: float = 60.0) -> None:
    """Wait until a file is there."""
    deadline_s = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline_s, path
        time.sleep(0.05)


def test_seed_commands_run_one_after_another(tmp_path: Path) -> None:
    """Scenarios and modes of docs/seed.md end VALID with the counting backend, and leave no process."""
    data = tmp_path / "data"
    data.mkdir()
    prompts = fleet.write_prompts(data / "accuracy_eval_tokenized.parquet", fleet.counting_prompts(40))
    conf = fleet.write_conf(tmp_path / "user.conf")
    files = ["--input-file", str(prompts), "--output-dir", str(tmp_path / "out")]
    common = ["--backend", "counting", "--no-report", *files]
    common += ["--user-conf", str(conf), "--max-new-tokens", "64"]
    marker = uuid.uuid4().hex
    process = start(marker, *common, "--scenario", "offline", "server", "--accuracy")
    _, errors = process.communicate(timeout=240)
    assert 0 == process.returncode, errors
    process = start(marker, *common, "--scenario", "offline", "server", "--replicas", "2")
    output, errors = process.communicate(timeout=240)
    assert "== offline performance: " in output, errors
    assert "== server performance: " in output
    # The closing table: a line for each run, in order.
    rows = [line.split() for line in output.partition("== 2 runs ==\n")[2].splitlines()]
    assert ["scenario", "mode", "outcome", "tokens/s", "exit", "code", "results"] == rows[0]
    places = [str(tmp_path / "out" / scenario / "performance") for scenario in ("offline", "server")]
    assert [["offline", "performance"], ["server", "performance"]] == [row[:2] for row in rows[1:]]
    assert places == [row[-1] for row in rows[1:]]
    wait_gone(marker)


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGHUP, 129),
        (signal.SIGINT, 130),
        (signal.SIGQUIT, 131),
        (signal.SIGTERM, 143),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_process_outlives_a_signal(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    """Each signal, and SIGKILL, in mid-run ends the node, its replicas and the coordinator too."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[1000, 7, 9]] * 30)
    marker = uuid.uuid4().hex
    output_dir = tmp_path / "out"
    files = ("--input-file", str(data), "--output-dir", str(output_dir))
    process = fork(marker, tmp_path / "log", *SLOW, *files)
    wait_for(output_dir / "offline" / "performance" / f"{LOADGEN_PREFIX}detail.txt")
    assert 4 == len(marked_processes(marker))
    process.send_signal(signum)
    assert code == process.wait(240)
    wait_gone(marker)


def workers_of(marker: str) -> dict[bool, list[int]]:
    """Find the processes of a node: under True its replicas, under False itself."""
    found: dict[bool, list[int]] = {True: [], False: []}
    for entry in Path("/proc").iterdir():
        # A process may end while it is looked at.
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if entry.name.isdecimal() and "\0worker\0" in (entry / "cmdline").read_text():
                environment = (entry / "environ").read_text()
                if f"TOKENFLEET_TEST={marker}" in environment:
                    found["TOKENFLEET_NODE_PID=" in environment].append(int(entry.name))
    return found


@pytest.mark.parametrize(("kills_replicas", "timeout_s", "code"), [(True, 200, 0), (False, 2, 1)])
def test_a_run_survives_all_replicas_but_not_the_node(
    tmp_path: Path, kills_replicas: bool, timeout_s: int, code: int
) -> None:
    """Both replicas killed in mid-run are started again: VALID; the node killed: exit 1, with the reason."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[60, 7, 1000 * i] for i in range(30)])
    marker = uuid.uuid4().hex
    output_dir = tmp_path / "out"
    flags = ["--accuracy", "--input-file", str(data), "--output-dir", str(output_dir)]
    log = tmp_path / "log"
    process = fork(marker, log, *SLOW, *flags, "--no-worker-timeout-s", str(timeout_s))
    wait_for(output_dir / "offline" / "accuracy" / f"{LOADGEN_PREFIX}detail.txt")
    processes = workers_of(marker)
    assert [2, 1] == [len(processes[True]), len(processes[False])]
    for victim in processes[kills_replicas]:
        os.kill(victim, signal.SIGKILL)
    assert code == process.wait(240), log.read_text()
    verdict = fleet.run_json(output_dir / "offline" / "accuracy")["verdict"]
    assert (f"no worker for {timeout_s} s" in verdict["reason"]) == (not kills_replicas)
    wait_gone(marker)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--backend", "triton"], ["--backend", "triton"]),
        (["--backend", "sglang"], ["engine sglang: SGLang is not installed"]),
        (["--backend", "counting", "--scenario", "multistream"], ["--scenario", "multistream"]),
        (["--backend", "counting", "--replicas", "0"], ["--replicas", "0"]),
        (["--backend", "counting", "--replicas", "65"], ["--replicas", "65"]),
        (["--backend", "counting", "--replicas", "30000"], ["--replicas", "30000"]),
        (["--backend", "counting", "--input-file", "/nowhere.pkl"], ["--input-file", "/nowhere.pkl"]),
        (["--backend", "counting", "--workers", "node77:50051"], ["--workers", "node77:50051", "local"]),
        (["--backend", "counting", "--workers=127.0.0.1:50051"], ["--workers", "127.0.0.1:50051", "local"]),
        (["--backend", "counting", "--host", "0.0.0.0"], ["--host", "0.0.0.0", "local"]),
        (["--backend", "counting", "--port", "50051"], ["--port", "50051", "local"]),
        (["--backend", "vllm", "--model", "/nowhere"], ["--model", "/nowhere"]),
        (["--backend", "vllm", "--model", "nobody/nothing"], ["--model", "nobody/nothing"]),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, flags: list[str], named: list[str]) -> None:
    """Bad input: exit 2 and one line on stderr that names flag and value; no worker's log, no directory."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    base = ["--input-file", str(data), "--output-dir", str(tmp_path / "out")]
    code, _, errors = end_of(main, [*base, *flags], tmp_path)
    assert 2 == code, errors
    assert 1 == len(errors.strip().splitlines()), errors
    assert all(word in errors for word in named), errors
    assert not (tmp_path / "out").exists()


def test_a_bad_value_of_the_file_is_named_with_the_file(tmp_path: Path) -> None:
    """Also a key of the table [worker], whose flag nobody has typed."""
    (tmp_path / "flags.toml").write_text('[worker]\nengine = "counting"\nreplicas = 65\n')
    code, _, errors = end_of(main, ["--config", str(tmp_path / "flags.toml")], tmp_path)
    line = f"{tmp_path}/flags.toml: --replicas: 65 is not in 1..64\n"
    assert (2, line) == (code, errors.partition(": ")[2])


@pytest.mark.parametrize(
    ("flags", "variable", "source"),
    [
        (["--backend", "a"], "b", "--backend: 'a'"),
        ([], "b", "MLPERF_BACKEND: 'b'"),
        ([], "", "--config: {d}/flags.toml: [worker] engine: 'c'"),
    ],
)
def test_an_unknown_backend_is_named_by_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], variable: str, source: str
) -> None:
    """Nobody is told of a flag that he has not typed: the line names flag, variable or key of the file."""
    (tmp_path / "flags.toml").write_text('[worker]\nengine = "c"\n')
    monkeypatch.setenv("MLPERF_BACKEND", variable)
    code, _, errors = end_of(main, [*flags, "--config", str(tmp_path / "flags.toml")], tmp_path)
    line = f"{source.format(d=tmp_path)} is neither vllm nor sglang nor counting nor replay\n"
    assert (2, line) == (code, errors.partition(": ")[2])


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("{d}/data.parquet", "cannot write {d}/data.parquet/workers/worker.log: Not a directory"),
        ("/proc/nowhere", "cannot write /proc/nowhere/workers/worker.log: No such file or directory"),
        ("{d}/taken", "cannot write {d}/taken/workers/worker.log: Is a directory"),
        (f"{{d}}/{'n' * 256}", f"cannot look at {{d}}/{'n' * 256}/offline/performance: File name too long"),
    ],
    ids=["a-file", "below-what-cannot-be-written", "a-log-that-is-a-directory", "a-name-too-long"],
)
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, place: str, says: str) -> None:
    """An --output-dir without a place for the worker's log: exit 2, one line with the reason, no process."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    (tmp_path / "taken" / "workers" / "worker.log").mkdir(parents=True)
    marker = uuid.uuid4().hex
    flags = ["--input-file", str(data), "--output-dir", place.format(d=tmp_path)]
    process = start(marker, "--backend", "counting", *flags)
    output, errors = process.communicate(timeout=240)
    line = f"run_mlperf.py: --output-dir: {says.format(d=tmp_path)}\n"
    assert (2, "", line) == (process.returncode, output, errors)
    assert [] == marked_processes(marker)


def reasons(stderr: str) -> list[str]:
    """Leave out the lines of the coordinator, which is stopped and may have announced its run by then."""
    own = re.compile(r"coordinator: interrupted by SIGTERM|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} .*")
    return [line for line in stderr.splitlines() if not own.fullmatch(line)]


def test_flag_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    """What the worker refuses: exit 2 and one line that names the flag; no run directory, no process."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    marker = uuid.uuid4().hex
    base = ["--input-file", str(data), "--output-dir", str(tmp_path / "out")]
    process = start(marker, *base, "--backend", "counting", "--no-such-flag")
    _, errors = process.communicate(timeout=240)
    assert 2 == process.returncode, errors
    (line,) = reasons(errors)
    assert "--no-such-flag" in line
    assert not (tmp_path / "out" / "offline").exists()
    wait_gone(marker)


def test_token_is_shared_with_the_local_workers(tmp_path: Path) -> None:
    """A run token file goes to workers and coordinator alike; TLS files are refused in one line."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    token = tmp_path / "token"
    token.write_text("a-secret-of-24-letters-0")
    base = ["--backend", "counting", "--accuracy", "--no-report", "--max-new-tokens", "64"]
    base += ["--input-file", str(data), "--output-dir", str(tmp_path / "out"), "--run-token-file", str(token)]
    process = start(uuid.uuid4().hex, *base)
    _, errors = process.communicate(timeout=240)
    assert 0 == process.returncode, errors
    refused = start(uuid.uuid4().hex, *base, "--overwrite", "--tls-ca", "ca.pem")
    _, errors = refused.communicate(timeout=240)
    line = "run_mlperf.py: --tls-ca: ca.pem: local workers listen on loopback, in plaintext\n"
    assert (2, line) == (refused.returncode, errors)


# A sitecustomize for the worker alone, which is the only child with a notification socket.
IN_WORKER = "import os\nif 'NOTIFY_SOCKET' in os.environ:\n    "
NOISE_AT_EXIT = "end = os._exit; os._exit = lambda code: print('leaked types', flush=True) or end(code)\n"


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        (NOISE_AT_EXIT, 2, "2: --step-ms: -1.0 is below 0 or not finite"),
        ("print('no such kernel\\n \\n', flush=True); os._exit(7)\n", 1, "7: no such kernel"),
        ("os._exit(7)\n", 1, "7: no output"),
    ],
    ids=["noise-after-the-reason", "no-reason-reported", "no-output"],
)
def test_the_reason_of_a_worker_is_what_it_reported(
    tmp_path: Path, program: str, code: int, says: str
) -> None:
    """A worker that ends is reported with the reason that it sent, else with the last line of its log."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    (tmp_path / "sitecustomize.py").write_text(IN_WORKER + program)
    flags = ["--backend", "counting", "--step-ms", "-1", "--input-file", str(data)]
    done = completed_command(
        [sys.executable, "run_mlperf.py", *flags, "--output-dir", str(tmp_path / "out")],
        PYTHONPATH=str(tmp_path),
    )
    log = tmp_path / "out" / "workers" / "worker.log"
    line = f"run_mlperf.py: worker exited with {says} ({log})\n"
    assert (code, [line.strip()]) == (done.returncode, reasons(done.stderr))
