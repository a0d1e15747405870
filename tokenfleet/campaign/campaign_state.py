"""The directory of a campaign: its lock, and campaign.json with what happened so far.

What a run achieved is in the run's own run.json; campaign.json is for people, and names the workers that a
killed campaign left behind.
"""

import contextlib
import dataclasses
import fcntl
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from common.atomic_files import replace_files
from common.bounded_file import read_bounded
from common.flags import FlagError
from common.json_document import parse_json
from tokenfleet.campaign.plan_file import CampaignPlan

STATE_NAME = "campaign.json"
LOCK_NAME = "campaign.lock"
CHILDREN_LOCK_NAME = "children.lock"
# A program that is told to stop ends within its own bounds, which are shorter.
CHILDREN_TIMEOUT_S = 180.0
POLL_S = 0.2
LOG_FOLDER = "logs"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProcess:
    """A worker daemon on this machine; survives the campaign that started it."""

    pid: int
    start_ticks: int
    """When it started, in ticks since boot: tells it from a later process with the same number."""
    boot_id: str
    port: int
    argv: tuple[str, ...]
    """Flags of the worker, without host and port."""
    commit: str
    """Of the source tree that it was started from."""


@dataclass(frozen=True, slots=True)
class CampaignState:
    """Content of campaign.json; every change is written before the method returns."""

    path: Path
    head: Mapping[str, object]
    runs: dict[str, dict[str, object]] = field(default_factory=dict)
    """Facts of each run by its name."""
    served: dict[str, str] = field(default_factory=dict)
    """Group for which each node was last restarted, by address."""
    flags: dict[str, list[str]] = field(default_factory=dict)
    """Flags of the local worker that served a run that counts, or was compared with it, by the run's name."""
    local: list[LocalProcess] = field(default_factory=list)
    """The local worker, if one was started."""

    @classmethod
    def open(cls, plan: CampaignPlan, commit: str) -> "CampaignState":
        """Take over what an earlier start of the campaign left."""
        path = plan.campaign.output_dir / STATE_NAME
        head = {
            "format": FORMAT,
            "plan": str(plan.path.absolute()),
            "plan_sha256": plan.sha256,
            "commit": commit,
        }
        state = cls(path, head)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            known: Any = parse_json(read_bounded(path))
            state.served.update({str(key): str(value) for key, value in known["nodes"].items()})
            flags = known["worker_flags"].items()
            state.flags.update({str(key): [str(flag) for flag in value] for key, value in flags})
            state.local.extend(
                LocalProcess(**{**found, "argv": tuple(found["argv"])}) for found in known["local_workers"]
            )
        return state

    def note_run(self, name: str, **facts: object) -> None:
        """Record facts about a run."""
        self.runs.setdefault(name, {}).update(facts)
        self.write()

    def note_local(self, process: LocalProcess | None) -> None:
        """Record the local worker, or that there is none."""
        self.local[:] = [] if process is None else [process]
        self.write()

    def note_flags(self, name: str, flags: tuple[str, ...] | None) -> None:
        """Record the flags of the local worker of a run; None for nodes, whose flags nobody knows."""
        self.flags[name] = list(flags or ())
        self.write()

    def note_served(self, addresses: tuple[str, ...], group: str | None) -> None:
        """Record the group whose flags nodes have; None while that is not known."""
        for address in addresses:
            self.served.pop(address, None)
            if group is not None:
                self.served[address] = group
        self.write()

    def write(self) -> None:
        """Write the file whole or not at all."""
        content = {
            **self.head,
            "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": self.runs,
            "nodes": self.served,
            "worker_flags": self.flags,
            "local_workers": [dataclasses.asdict(process) for process in self.local],
        }
        replace_files(self.path.parent, {self.path.name: json.dumps(content, indent=1) + "\n"})


class CampaignDir:
    """The output directory, locked; a context manager. Two campaigns never share one."""

    def __init__(self, path: Path) -> None:
        """Create the directory and lock it.

        Raises:
            FlagError: It cannot be written, or another campaign uses it.
        """
        self.path = path
        try:
            (path / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / LOCK_NAME).open("a")
            self._children_lock: IO[str] = (path / CHILDREN_LOCK_NAME).open("a")
            is_free = _lock(self._lock)
        except OSError as error:
            raise FlagError("--output-dir", f"{path}: {error.strerror}") from error
        if not is_free:
            raise FlagError("--output-dir", f"{path} belongs to a campaign that has not ended")
        self._is_kept = (path / STATE_NAME).exists()

    def wait_children(self, timeout_s: float = CHILDREN_TIMEOUT_S) -> int:
        """Wait for the programs that a killed campaign has started; returns a file that children inherit.

        The kernel tells them to stop when the campaign dies. Until they have ended, they may still write.

        Raises:
            TimeoutError: They have not ended in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not _lock(self._children_lock):
            if time.monotonic() > deadline_s:
                reason = f"a program of an earlier campaign has not ended in {timeout_s:g} s"
                raise TimeoutError(f"{self.path}: {reason}")
            time.sleep(POLL_S)
        return self._children_lock.fileno()

    def __enter__(self) -> Self:
        return self

    def keep(self) -> None:
        """Leave the directory as it is at the end of the block."""
        self._is_kept = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock the directory; one that holds nothing is removed if the campaign was refused."""
        self._lock.close()
        self._children_lock.close()
        if self._is_kept:
            return
        with contextlib.suppress(OSError):
            for name in (path.name for path in self.path.glob("rehearsal-*.conf")):
                (self.path / name).unlink()
            (self.path / LOG_FOLDER).rmdir()
            (self.path / CHILDREN_LOCK_NAME).unlink()
            (self.path / LOCK_NAME).unlink()
            self.path.rmdir()


def _lock(file: IO[str]) -> bool:
    """Lock a file if no other process has locked it; returns whether it is locked now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
