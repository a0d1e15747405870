"""The journal of a race: every run, the standing, and the next run. A later call continues from it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu.race.race_file import FLAG, Configuration
from common.atomic_files import replace_files
from common.flags import FlagError

FILE = "journal.json"
Run = dict[str, Any]
"""One run of one configuration, as in the file."""
MAX_KV_USE = 0.97
"""Without shared prefixes an engine above this use of its KV cache would preempt requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finals:
    """Runs after each configuration has been tried once."""

    num_finalists: int
    """Configurations that are run again: those with the best figures."""
    num_runs: int
    """Further runs of each."""


class Journal:
    """The runs of a race, in a file that is complete at any time."""

    def __init__(self, directory: Path, plan: dict[str, Any]) -> None:
        """Read the journal in a directory, or begin one.

        Raises:
            FlagError: It was written with another plan, or cannot be read.
        """
        self._path = directory / FILE
        self.plan = plan
        self.runs: list[Run] = []
        if not self._path.exists():
            return
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            before, self.runs = document["plan"], document["runs"]
        except (OSError, ValueError, KeyError) as error:
            raise FlagError("--journal", f"not a journal: {error!r}", self._path) from error
        for name, value in plan.items():
            if before.get(name) != value:
                reason = f"was written with {name} {before.get(name)}, not {value}: use another directory"
                raise FlagError("--journal", reason, self._path)

    def check(self, configurations: Sequence[Configuration]) -> None:
        """Check that configurations are the same as those of their runs.

        Raises:
            FlagError: Names the configuration that has changed.
        """
        for one in configurations:
            for run in self.runs_of(one.name):
                if run["definition"] != one.definition():
                    reason = f"{one.name} has a run with other values in the journal: give it another name"
                    raise FlagError(FLAG, reason)

    def check_machine(self, machine: Mapping[str, str]) -> None:
        """Check that the runs are of the same GPU model and vLLM, whose figures can be compared.

        Raises:
            FlagError: Names what differs.
        """
        for run in self.runs:
            for name, of in (("GPU", gpu_models), ("vLLM", _vllm_version)):
                before, now = of(run["machine"]), of(machine)
                if before != now:
                    reason = f"has runs with {name} {before}, not {now}: use another directory"
                    raise FlagError("--journal", reason, self._path)

    def runs_of(self, name: str) -> list[Run]:
        """Return the runs of one configuration."""
        return [run for run in self.runs if run["name"] == name]

    def next(self, configurations: Sequence[Configuration], finals: Finals) -> list[str]:
        """Return the names of the runs that are still to be made, in order."""
        return coming(self.runs, [one.name for one in configurations], finals)

    def add(self, run: Run, configurations: Sequence[Configuration], finals: Finals) -> None:
        """Append a run and write the file; a reader sees the old or the new one."""
        self.runs.append(run)
        self._write(self.runs, configurations, finals)

    def keep(self, run: Run, configurations: Sequence[Configuration], finals: Finals) -> None:
        """Write a run that goes on as an interrupted one: if the machine is lost, its windows are not."""
        lost = run | {"failure": "the command was lost", "interrupted_with": None}
        self._write([*self.runs, lost], configurations, finals)

    def _write(self, runs: list[Run], configurations: Sequence[Configuration], finals: Finals) -> None:
        document = {
            "plan": self.plan,
            "standing": standing(runs),
            "next": coming(runs, [one.name for one in configurations], finals),
            "runs": runs,
        }
        replace_files(self._path.parent, {self._path.name: json.dumps(document, indent=1) + "\n"})


def gpu_models(machine: Mapping[str, str]) -> str:
    """Return the models in a description of GPUs: lines of index, model and driver."""
    lines = [line.split(", ") for line in machine["GPUs"].split("; ")]
    return ", ".join(sorted({words[1] for words in lines if len(words) == 3})) or "unknown"


def _vllm_version(machine: Mapping[str, str]) -> str:
    return machine["vllm"]


def is_interrupted(run: Run) -> bool:
    """Return whether a signal ended a run; the windows that it has are complete."""
    return "interrupted_with" in run


def best_tokens_per_s(runs: Sequence[Run]) -> tuple[float, int] | None:
    """Return the best figure of one configuration's runs, and its number of requests.

    For each number of requests: the median over the runs, of a run the last window, of windows whose requests
    would fit into the KV cache without shared prefixes.
    """
    by_rows: dict[int, list[float]] = {}
    for run in runs:
        last = {window["rows"]: window for window in run["windows"]}
        for rows, window in last.items():
            if window["kv_use_unshared"] <= MAX_KV_USE:
                by_rows.setdefault(rows, []).append(window["steady_tokens_per_s"])
    return max(((median(values), rows) for rows, values in by_rows.items()), default=None)


def standing(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rank the configurations; each but the first has the reason why it is behind."""
    names = dict.fromkeys(run["name"] for run in runs)
    found = [(name, [run for run in runs if run["name"] == name]) for name in names]
    best = {name: best_tokens_per_s(mine) or (0.0, 0) for name, mine in found}
    ranked = sorted(found, key=lambda one: -best[one[0]][0])
    leader = ranked[0][0] if ranked else ""
    return [
        {
            "name": name,
            "runs": len(mine),
            "steady_tokens_per_s": best[name][0],
            "rows": best[name][1],
            "behind": "" if name == leader else _behind(mine, best[name][0], leader, best[leader][0]),
        }
        for name, mine in ranked
    ]


def _behind(runs: Sequence[Run], figure: float, leader: str, best: float) -> str:
    if not figure:
        reasons = [str(run["failure"]) for run in runs if run["failure"]]
        return reasons[0] if reasons else "no window fits into the KV cache"
    return f"{100 * (1 - figure / best):.1f} % below {leader}"


def coming(runs: Sequence[Run], names: Sequence[str], finals: Finals) -> list[str]:
    """Return the names of the runs that are still to be made, in order.

    First each configuration that has no run. Then the finalists A B B A ...: the order of the names turns
    around from one round to the next. A run that failed counts as a run, one that was interrupted does not.
    """
    runs = [run for run in runs if not is_interrupted(run)]
    num_runs = {name: sum(run["name"] == name for run in runs) for name in names}
    if untried := [name for name in names if not num_runs[name]]:
        return untried
    first = {run["name"]: run for run in reversed(runs)}
    best = {name: best_tokens_per_s([first[name]]) for name in names}
    able = [name for name in names if best[name] is not None]
    finalists = sorted(able, key=lambda name: best[name] or (0.0, 0), reverse=True)[: finals.num_finalists]
    order = []
    for number in range(finals.num_runs):
        turn = finalists[::-1] if number % 2 else finalists
        order += [name for name in turn if num_runs[name] <= number + 1]
    return order
