"""A real Slurm of two nodes on this machine, for tests: its daemons, its jobs, and what jobs leave behind.

Both nodes are slurmd processes of this host; each daemon's files stand in one directory and its port was free
a moment ago. Needs root, Debian's slurm-wlm and munge. Every wait is bounded.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests import fleet

SCRIPT = fleet.ROOT / "deploy/slurm/tokenfleet.sbatch"
NODES = ("tf0", "tf1")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "srun")
# Debian keeps daemons where a user's PATH does not look.
PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
START_TIMEOUT_S = 30.0
JOB_TIMEOUT_S = 120.0
POLL_S = 0.1
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
CONF = """\
ClusterName=tokenfleet
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""


class Cluster:
    """The daemons and a client's view of them."""

    def __init__(self, home: Path) -> None:
        """Take a directory that everybody may enter: munge refuses a socket in any other."""
        self.home = home
        self.env = os.environ | {"SLURM_CONF": str(home / "slurm.conf"), "PATH": PATH}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start everything and wait until both nodes are idle."""
        (self.home / "state").mkdir()
        key = self.home / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={fleet.free_port()} CPUs=1"
            for name in NODES
        )
        text = CONF.format(host=host, home=self.home, control_port=fleet.free_port(), nodes=nodes)
        (self.home / "slurm.conf").write_text(text)
        files = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self._spawn(
            "munged", "--foreground", *(f"--{flag}={self.home}/munge.{end}" for flag, end in files.items())
        )
        wait_until((self.home / "munge.socket").exists, START_TIMEOUT_S, self.logs)
        self._spawn("slurmctld", "-D")
        for name in NODES:
            self._spawn("slurmd", "-D", "-N", name)
        wait_until(lambda: self._states() == ["idle", "idle"], START_TIMEOUT_S, self.logs)

    def _spawn(self, *command: str) -> None:
        log = self.home / f"{command[0]}{len(self._daemons)}.out"
        with log.open("wb") as out:
            self._daemons.append(
                subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def _states(self) -> list[str]:
        return self.ask("sinfo", "--Node", "--noheader", "--format=%T").split()

    def logs(self) -> str:
        """Give the end of each daemon's log."""
        return "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in sorted(self.home.glob("*.out")))

    def stop(self) -> None:
        """End the daemons, the last one first; each gets 20 s."""
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait(20)

    def ask(self, *command: str) -> str:
        """Run one of Slurm's commands and give its output; an error is an empty answer."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=240, check=False, cwd=fleet.ROOT
        )
        return done.stdout if done.returncode == 0 else ""

    def submit(self, output: Path, arguments: Sequence[str], **settings: str) -> "Job":
        """Submit the script over both nodes.

        Args:
            output: Gets the job's own output.
            arguments: Of the script.
            settings: TOKENFLEET_ settings by the rest of their names; ports and Python are set.
        """
        # The two nodes share one machine, so that their workers need ports apart.
        low, high = sorted((fleet.free_port(), fleet.free_port()))
        defaults = {"PYTHON": sys.executable, "PORT": str(low), "PORT_STEP": str(high - low)}
        env = self.env | {f"TOKENFLEET_{name}": value for name, value in (defaults | settings).items()}
        flags = ("--parsable", "--nodes=2", "--time=5", f"--output={output}")
        done = subprocess.run(
            ["sbatch", *flags, str(SCRIPT), *arguments],
            env=env,
            cwd=fleet.ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (0, "") == (done.returncode, done.stderr)
        return Job(self, int(done.stdout), output, (low, high))


class Job:
    """One job of the script."""

    def __init__(self, cluster: Cluster, number: int, log: Path, ports: tuple[int, int]) -> None:
        self.number, self.ports = number, ports
        self._cluster, self._log = cluster, log

    @property
    def text(self) -> str:
        """What the job itself has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def state(self) -> tuple[str, str]:
        """Give Slurm's word on the job: state, and exit code as code:signal."""
        line = self._cluster.ask("scontrol", "--oneliner", "show", "job", str(self.number))
        found = {key: re.search(rf"\b{key}=(\S+)", line) for key in ("JobState", "ExitCode")}
        return tuple(match[1] if match else "" for match in found.values())  # type: ignore[return-value]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; the job's end before it, or the deadline, fails the test with its output."""

        def met_or_over() -> bool:
            return condition() or self.state()[0] in ENDED

        wait_until(met_or_over, JOB_TIMEOUT_S, self.describe)
        assert condition(), self.describe()

    def end(self) -> tuple[str, str]:
        """Wait for the end of the job and of all that it started; returns `state()`."""
        wait_until(lambda: self.state()[0] in ENDED, JOB_TIMEOUT_S, self.describe)
        # Slurm's own processes leave a job in state COMPLETING for a moment.
        listed = ("squeue", "--noheader", f"--jobs={self.number}", "--states=COMPLETING")
        wait_until(lambda: not self._cluster.ask(*listed), START_TIMEOUT_S, self.describe)
        return self.state()

    def describe(self) -> str:
        """Say all there is to a failed test."""
        return f"{self.state()}\n{self.text}\n{self._cluster.logs()}"

    def signal_script(self, signum: str) -> None:
        """Signal the batch script alone, as --signal=B: does before the time limit."""
        self._cluster.ask("scancel", "--batch", f"--signal={signum}", str(self.number))

    def cancel(self) -> None:
        """Cancel the job as its user does."""
        self._cluster.ask("scancel", str(self.number))

    def processes(self) -> dict[int, str]:
        """List what runs in the job now: command line by process id."""
        marks = {f"SLURM_JOB_ID={self.number}", f"SLURM_CONF={self._cluster.env['SLURM_CONF']}"}
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = folder.joinpath("environ").read_text(errors="replace").split("\0")
                if marks <= set(environ):
                    found[int(folder.name)] = folder.joinpath("cmdline").read_text().replace("\0", " ")
        return found

    def worker_pid(self, index: int) -> int:
        """Find the worker of a node."""
        (pid,) = (
            pid
            for pid, command in self.processes().items()
            if f"-m tokenfleet worker --host 0.0.0.0 --port {self.ports[index]}" in command
            and "srun" not in command
        )
        return pid


def wait_until(condition: Callable[[], bool], timeout_s: float, describe: Callable[[], str]) -> None:
    """Wait for a condition; the deadline fails the test."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, describe()
        time.sleep(POLL_S)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Run a cluster for the length of a block; skips the test where there is no Slurm to be had."""
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    for name in PROGRAMS:
        if shutil.which(name, path=PATH) is None:
            pytest.skip(f"{name} is not installed: apt-get install slurm-wlm munge")
    with tempfile.TemporaryDirectory(prefix="tf-slurm-") as name:
        home = Path(name)
        home.chmod(0o755)
        cluster = Cluster(home)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
