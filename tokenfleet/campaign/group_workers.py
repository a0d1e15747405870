"""The workers of a campaign: local ones that it starts, or nodes that are restarted by command or by hand."""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from grpc_health.v1 import health_pb2

from common.child_process import child_environment
from common.signals import run_until_signal
from common.source_commit import read_commit
from common.text import printable
from coordinator.doctor.visits import VISIT_TIMEOUT_S, Visit, visit_all
from coordinator.transport.access import Access
from protos import worker_pb2 as pb
from tokenfleet.campaign.campaign_state import LOG_FOLDER, CampaignState
from tokenfleet.campaign.detached_worker import DetachedWorker
from tokenfleet.campaign.plan_file import CampaignPlan
from tokenfleet.campaign.plan_groups import Group
from tokenfleet.child import ChildProcess

POLL_S = 1.0
RESTART_PAUSE_S = 10.0
"""Shortest time between two starts of a worker that ends during a run."""
SERVING = health_pb2.HealthCheckResponse.SERVING


class WorkersError(Exception):
    """Workers cannot be had; the message is one line."""


class WorkerTimeouts(NamedTuple):
    """Bounds of the waits for workers, in seconds."""

    ready_s: float
    restart_s: float


class GroupWorkers(Protocol):
    """Workers that serve one group after the other."""

    @property
    def have_ended(self) -> bool:
        """Whether workers that this program started have ended."""

    def load(self, group: Group) -> list[Visit]:
        """Make the workers those of a group, wait until they serve, and return their answers.

        Raises:
            WorkersError: They do not serve in time.
        """

    def tend(self) -> None:
        """Start again what has ended during a run."""

    def close(self) -> None:
        """Stop the workers that this program started."""


def visit_workers(addresses: tuple[str, ...], access: Access) -> list[Visit]:
    """Ask all workers for their state."""
    return run_until_signal(visit_all(addresses, access, VISIT_TIMEOUT_S))


def trouble_of(visits: list[Visit]) -> str | None:
    """Return why the workers cannot serve a run yet; None if they can."""
    for visit in visits:
        if visit.trouble is not None:
            return f"{visit.address}: {visit.trouble.seen}"
        if visit.health != SERVING or visit.info.state != pb.WORKER_STATE_READY:
            return f"{visit.address}: not ready"
        if visit.load is not None and visit.load.run_id:
            return f"{visit.address}: run {printable(visit.load.run_id, 100)} holds it"
    return None


class LocalWorkers:
    """A worker or node on this machine, started by this program or by an earlier campaign."""

    def __init__(
        self, plan: CampaignPlan, state: CampaignState, access: Access, patience: WorkerTimeouts
    ) -> None:
        """Describe them; nothing is started yet."""
        self._plan = plan
        self._state = state
        self._access = access
        self._ready_s = patience.ready_s
        self._worker: DetachedWorker | None = None
        self._argv: tuple[str, ...] = ()
        self._ended_since_load = False
        self._next_start_s = 0.0

    @property
    def have_ended(self) -> bool:
        """See GroupWorkers; a worker that was started again during a run has ended before."""
        return self._ended_since_load or self._worker is None or self._worker.has_ended

    def load(self, group: Group) -> list[Visit]:
        """See GroupWorkers."""
        assert group.worker_flags is not None
        self._argv = (*group.worker_flags, *self._token_flags())
        self._adopt()
        if self._worker is not None and not self._fits(self._worker):
            self.close()
        if self._worker is None:
            self._start(None)
        visits = self._wait_ready()
        self._ended_since_load = False
        return visits

    def _fits(self, worker: DetachedWorker) -> bool:
        known = worker.process
        return (known.argv, known.commit) == (self._argv, read_commit()) and not worker.has_ended

    def tend(self) -> None:
        """See GroupWorkers; on the same port, where the run takes it back."""
        if self._worker is None or not self._worker.has_ended:
            return
        self._ended_since_load = True
        if time.monotonic() >= self._next_start_s:
            port = self._worker.process.port
            self.close()
            self._start(port)

    def _adopt(self) -> None:
        """Take over the worker of an earlier start that was killed, if it still runs."""
        if self._worker is None and self._state.local:
            self._worker = DetachedWorker.adopt(self._state.local[0], self._log)

    def close(self) -> None:
        """See GroupWorkers; a worker that an earlier start left behind is stopped too."""
        self._adopt()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            self._state.note_local(None)

    def _start(self, port: int | None) -> None:
        self._next_start_s = time.monotonic() + RESTART_PAUSE_S
        self._worker = DetachedWorker.start(self._argv, read_commit(), self._log, port)
        self._state.note_local(self._worker.process)

    @property
    def _log(self) -> Path:
        return self._plan.campaign.output_dir / LOG_FOLDER / "worker.log"

    def _token_flags(self) -> list[str]:
        """Return the run token of the runs: loopback is open to every user of the machine."""
        return [word for word in self._plan.coordinator_flags if word.startswith("--run-token-file=")]

    def _wait_ready(self) -> list[Visit]:
        deadline_s = time.monotonic() + self._ready_s
        assert self._worker is not None
        while True:
            if self._worker.has_ended:
                raise WorkersError(f"the worker ended: {self._worker.last_line()} ({self._log})")
            visits = visit_workers((self._worker.address,), self._access)
            trouble = trouble_of(visits)
            if trouble is None:
                return visits
            if time.monotonic() > deadline_s:
                raise WorkersError(f"not ready after {self._ready_s:g} s: {trouble}")
            time.sleep(POLL_S)


class NodeWorkers:
    """Nodes that somebody else starts."""

    def __init__(
        self, plan: CampaignPlan, state: CampaignState, access: Access, patience: WorkerTimeouts
    ) -> None:
        """Describe them."""
        self._plan = plan
        self._state = state
        self._access = access
        self._patience = patience

    @property
    def have_ended(self) -> bool:
        """See GroupWorkers."""
        return False

    def load(self, group: Group) -> list[Visit]:
        """See GroupWorkers."""
        if not self._serves(group):
            before = self._instances(group)
            self._state.note_served(group.addresses, None)
            self._restart(group)
            visits = self._wait_ready(group, before)
        else:
            visits = self._wait_ready(group, frozenset())
        self._state.note_served(group.addresses, group.name)
        return visits

    def tend(self) -> None:
        """See GroupWorkers; who started the nodes restarts them."""

    def close(self) -> None:
        """See GroupWorkers; the nodes keep running."""

    def _serves(self, group: Group) -> bool:
        """Return whether the nodes have the group's flags; at first they have those of their first group."""
        first = next(other for other in self._plan.groups if set(other.addresses) & set(group.addresses))
        known = {self._state.served.get(address) for address in group.addresses}
        return known == {group.name} or (known == {None} and first.name == group.name)

    def _instances(self, group: Group) -> frozenset[str]:
        return _instance_ids(visit_workers(group.addresses, self._access))

    def _restart(self, group: Group) -> None:
        command = self._plan.nodes.restart_command if self._plan.nodes else ()
        if command:
            self._run_command(group, command)
            return
        sys.stderr.write(
            f"campaign: restart the workers at {', '.join(group.addresses)} with the flags of group "
            f"{group.name}, then press Enter: "
        )
        sys.stderr.flush()
        if not sys.stdin.readline():
            raise WorkersError(f"nobody restarted the workers for group {group.name}: end of input")

    def _run_command(self, group: Group, command: tuple[str, ...]) -> None:
        log = self._plan.campaign.output_dir / LOG_FOLDER / "restart.log"
        environment = child_environment(os.environ) | {"TOKENFLEET_GROUP": group.name}
        deadline_s = time.monotonic() + self._patience.restart_s
        with log.open("ab") as output:
            try:
                child = ChildProcess(command, environment, output)
            except OSError as error:
                raise WorkersError(f"restart-command {command[0]}: {error.strerror}") from error
            with child:
                while (code := child.poll()) is None:
                    if time.monotonic() > deadline_s:
                        raise WorkersError(
                            f"restart-command takes longer than {self._patience.restart_s:g} s"
                        )
                    time.sleep(POLL_S / 10)
        if code:
            raise WorkersError(f"restart-command for group {group.name} ended with {code} ({log})")

    def _wait_ready(self, group: Group, before: frozenset[str]) -> list[Visit]:
        """Wait until the workers serve and none of them is one of those before the restart."""
        deadline_s = time.monotonic() + self._patience.ready_s
        while True:
            visits = visit_workers(group.addresses, self._access)
            trouble = trouble_of(visits)
            if trouble is None and (same := _instance_ids(visits) & before):
                trouble = f"{len(same)} of the processes are those from before the restart"
            if trouble is None:
                return visits
            if time.monotonic() > deadline_s:
                raise WorkersError(f"not ready after {self._patience.ready_s:g} s: {trouble}")
            time.sleep(POLL_S)


def _instance_ids(visits: list[Visit]) -> frozenset[str]:
    return frozenset(visit.info.instance_id for visit in visits if visit.trouble is None)
