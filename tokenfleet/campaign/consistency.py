"""Which runs may stand together: equal engines within a scenario, equal weights and code over all."""

from collections.abc import Mapping
from typing import NamedTuple

from sut.loadgen import OFFLINE_SLACK
from sut.results.submission.recorded_runs import RunKind
from sut.settings import Scenario
from tokenfleet.campaign.planned_runs import PlannedRun, RunIdentity
from tokenfleet.campaign.run_results import RunResult

Results = Mapping[PlannedRun, RunResult]
MAX_HASH_LEN = 16
MAX_KERNEL_LEN = 100


class CodeVersions(NamedTuple):
    """Of this program."""

    commit: str
    """Of its source tree; empty for an installed package."""
    loadgen: str


def rerun_reason(
    result: RunResult, identity: RunIdentity, present: CodeVersions, *, is_strict: bool, takes_invalid: bool
) -> str | None:
    """Return why a run that exists does not count; None if it does.

    Args:
        result: What the run left.
        identity: What the plan would run now.
        present: The code that would run now.
        is_strict: Whether a deviation from a submission counts.
        takes_invalid: Whether INVALID runs count, as in a rehearsal.
    """
    if not result.is_accepted and not (takes_invalid and result.is_complete):
        return f"{result.outcome}: {result.reason}" if result.reason else result.outcome
    if changed := result.identity.differences(identity):
        return f"{', '.join(changed)} of the plan changed"
    if difference := _code_difference(result, present):
        return difference
    if is_strict and result.deviations:
        return result.deviations[0]
    return None


def _code_difference(result: RunResult, present: CodeVersions) -> str | None:
    """Name the code that another version of ran."""
    if others := result.commits - {"", present.commit}:
        return f"code revision {_listed(others)}, here {_shortened(present.commit) or 'unknown'}"
    if result.loadgen_version != present.loadgen:
        return f"LoadGen {result.loadgen_version[:MAX_HASH_LEN]}, here {present.loadgen}"
    return None


def rate_advice(run: PlannedRun, result: RunResult, target_qps: float) -> str:
    """Return which rate the plan needs if an Offline run was too short for its rate; empty otherwise."""
    rate = result.samples_per_s
    is_offline = run.scenario is Scenario.OFFLINE and run.kind is RunKind.PERFORMANCE
    if not is_offline or result.is_accepted or rate is None or rate <= OFFLINE_SLACK * target_qps:
        return ""
    return f"; the workers reach {rate:.1f} queries/s: set target-qps of [offline] in the plan to that"


def mixed(results: Results) -> list[tuple[PlannedRun, str]]:
    """List the runs that may not stand together with the first one, and why.

    Engine hashes and kernels must be equal within a scenario. Run hashes must be equal where sampling and
    budget are. Weights and code must be equal over all runs.
    """
    found = []
    first_of: dict[object, RunResult] = {}
    for run, result in results.items():
        facts = (
            ("engine hash", run.scenario, result.engine_hashes),
            ("run hash", (run.scenario, *map(str, result.identity.generation.items())), {result.spec_hash}),
            ("model hash", "all", result.model_hashes),
            ("code revision", "all", result.commits - {""}),
        )
        for name, scope, values in facts:
            first = first_of.setdefault((name, scope), result)
            known = _values_of(name, first)
            if len(values) > 1 or values != known:
                found.append((run, f"{name} {_listed(values)}, not {_listed(known)} as in {first.run_id}"))
                break
        else:
            first = first_of.setdefault(("kernels", run.scenario), result)
            if difference := kernel_difference(first.kernels, result.kernels):
                found.append((run, f"{difference} as in {first.run_id}"))
    return found


def kernel_difference(known: frozenset[str], other: frozenset[str]) -> str | None:
    """Name what chooses other kernels, the other's value first; None if nothing does."""
    texts = [", ".join(sorted(facts)) or "no choice" for facts in (other - known, known - other)]
    if known == other:
        return None
    return "kernels of {}, not {}".format(*(text[:MAX_KERNEL_LEN] for text in texts))


def _values_of(name: str, result: RunResult) -> frozenset[str]:
    return {
        "engine hash": result.engine_hashes,
        "run hash": frozenset([result.spec_hash]),
        "model hash": result.model_hashes,
        "code revision": result.commits - {""},
    }[name]


def _listed(values: frozenset[str] | set[str]) -> str:
    return " and ".join(sorted(map(_shortened, values))) or "unknown"


def _shortened(value: str) -> str:
    """Shorten a hash; `-dirty` behind that of a commit stays."""
    digits, mark, state = value.partition("-")
    return f"{digits[:MAX_HASH_LEN]}{mark}{state}"
