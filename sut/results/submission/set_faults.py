"""Faults of all runs together: what is missing, and what must be equal and is not."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations

from common.json_document import as_mapping, as_mappings
from sut.results.submission.grading_faults import lcb_tests_of, tokenizers_of
from sut.results.submission.log_comparison import log_comparison_faults
from sut.results.submission.recorded_runs import (
    Division,
    Fault,
    RecordedRun,
    RunKind,
    Runs,
    all_runs,
)
from sut.results.submission.run_faults import times_of_test
from sut.settings import Scenario

# Two runs of one worker follow each other; the record's start has whole seconds.
_MAX_OVERLAP_S = 2.0
_REQUIRED_KINDS = {
    Division.OPEN: (RunKind.PERFORMANCE, RunKind.ACCURACY),
    Division.CLOSED: tuple(RunKind),
    Division.NETWORK: tuple(RunKind),
}
# Beside the backends, versions and environment variables.
_KERNEL_FACTS = ("device", "kernel_config", "ir_op_priority", "enable_expert_parallel", "ep_size")
DEFAULT_KERNELS = "the default"
"""Stands for a fact that an engine does not have."""
_TIMED = (RunKind.PERFORMANCE, RunKind.TEST09)


def set_faults(runs: Runs, division: Division) -> list[Fault]:
    """Check the runs of a submission against each other."""
    return [
        *_missing(runs, division),
        *_unequal_within_scenarios(runs),
        *_unequal_over_all(runs),
        *_unequal_data(runs),
        *log_comparison_faults(runs),
        *_overlapping(all_runs(runs)),
    ]


def _missing(runs: Runs, division: Division) -> list[Fault]:
    """List the scenarios and runs that the division requires."""
    found = []
    if division is not Division.OPEN:
        if Scenario.OFFLINE not in runs:
            found.append(Fault("offline", "no run of this scenario, which is required"))
        if not {Scenario.SERVER, Scenario.INTERACTIVE} & runs.keys():
            found.append(Fault("server or interactive", "no run of either scenario, one is required"))
    return found + [
        Fault(f"{scenario}/{kind}", "the run is missing")
        for scenario in runs
        for kind in _REQUIRED_KINDS[division]
        if kind not in runs[scenario]
    ]


def _unequal_within_scenarios(runs: Runs) -> list[Fault]:
    """Require one engine configuration, the same kernels and one sampling within each scenario."""
    found = []
    for scenario, by_kind in runs.items():
        own = list(by_kind.values())
        timed = [run for run in own if run.kind is not RunKind.ACCURACY]
        found += _unequal(f"{scenario}", "engine hash", own, _from_infos("engine_hash"))
        found += _unequal(f"{scenario}", "sampling", timed, lambda run: [_canonical(run.value("generation"))])
        for name in sorted({name for run in own for facts in _execution_facts(run) for name in facts}):
            if _chooses_kernels(name):
                found += _unequal(f"{scenario}", name, own, partial(_execution_values, name=name))
    return found


def _execution_facts(run: RecordedRun) -> list[Mapping[str, object]]:
    """Return how each engine of a run executes, by name."""
    return [as_mapping(info.get("execution_facts")) for info in run.engine_infos]


def kernel_choices(engines: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """List the facts by which engines choose their kernels, as `name: values`.

    Args:
        engines: How each engine executes, by name.
    """
    told = list(engines)
    names = {name for facts in told for name in facts if _chooses_kernels(name)}
    return frozenset(
        f"{name}: {', '.join(sorted({str(facts.get(name, DEFAULT_KERNELS)) for facts in told}))}"
        for name in names
    )


def _chooses_kernels(name: str) -> bool:
    """Whether a fact decides by which kernels, and so in which data types, an engine computes.

    With other kernels the score of the accuracy run is not that of the answers that were timed. Batch limits
    and the like may differ: they change the order in which numbers are added.
    """
    is_variable = name.startswith(("VLLM_", "SGLANG_"))
    return is_variable or name in _KERNEL_FACTS or name.endswith(("_backend", "_version"))


def _execution_values(run: RecordedRun, name: str) -> list[str]:
    """Join the values that a fact has at the engines of a run, as one text; none without engines."""
    values = sorted({str(facts.get(name, DEFAULT_KERNELS)) for facts in _execution_facts(run)})
    return [", ".join(values)] if values else []


def _unequal_over_all(runs: Runs) -> list[Fault]:
    """Require the same weights, code, LoadGen and machines in all runs."""
    every = all_runs(runs)
    rules: dict[str, Callable[[RecordedRun], list[str]]] = {
        "model hash": _from_infos("model_hash"),
        "SHA-256 of the weights": _from_infos("weights_sha256"),
        "engine": _from_infos("engine"),
        "engine version": _from_infos("engine_version"),
        "LoadGen version": lambda run: [run.text("versions", "mlcommons_loadgen")],
        "code revision": commits_of,
        "set of machines": set_of_machines,
    }
    found = [fault for name, read in rules.items() for fault in _unequal("all runs", name, every, read)]
    found += _unequal("graded runs", "tokenizer", every, tokenizers_of)
    found += _unequal("graded runs", "SHA-256 of the tests of programs", every, lcb_tests_of)
    accuracy = [run for run in every if run.kind is RunKind.ACCURACY]
    return found + _unequal(
        "accuracy runs", "sampling", accuracy, lambda run: [_canonical(run.value("generation"))]
    )


def _unequal_data(runs: Runs) -> list[Fault]:
    """Require one performance, one accuracy and one TEST07 data set."""
    every = all_runs(runs)
    groups = {
        "performance and TEST09 runs": _TIMED,
        "accuracy runs": (RunKind.ACCURACY,),
        "TEST07 runs": (RunKind.TEST07,),
    }
    return [
        fault
        for name, kinds in groups.items()
        for fault in _unequal(
            name,
            "SHA-256 of the data set",
            [run for run in every if run.kind in kinds],
            lambda run: [run.text("dataset", "sha256")],
        )
    ]


def commits_of(run: RecordedRun) -> list[str]:
    """List the revisions of the coordinator and of the workers; an installed package has none."""
    workers = [str(host.get("commit")) for host in run.worker_hosts if host.get("commit")]
    return list(dict.fromkeys([run.text("versions", "commit"), *workers]))


def set_of_machines(run: RecordedRun) -> list[str]:
    """Describe the machines of a run in one text; none if a worker did not answer or could not tell all.

    The workers of a machine are taken together: each has a part of its accelerators, which is another one if
    the workers of another scenario are divided in another way.
    """
    is_unknown = any(host.get("not_told") and not host.get("accelerators") for host in run.worker_hosts)
    if is_unknown or not run.workers or len(run.host_answers) < len(run.workers):
        return []
    return [", ".join(sorted(_machine_text(hosts) for hosts in run.machines))]


def _machine_text(hosts: Sequence[Mapping[str, object]]) -> str:
    """Describe cores and accelerators of one machine by what each of its workers said."""
    cores = sorted({str(host.get("num_cores")) for host in hosts})
    devices = Counter[str]()
    for device in (part for host in hosts for part in as_mappings(host.get("accelerators"))):
        kind = {name: value for name, value in device.items() if name != "num_devices"}
        num = device.get("num_devices")
        devices[_canonical(kind)] += num if isinstance(num, int) else 0
    return f"{'/'.join(cores)} cores{''.join(f', {num} x {kind}' for kind, num in sorted(devices.items()))}"


def _from_infos(key: str) -> Callable[[RecordedRun], list[str]]:
    """Return a function that lists the values of an entry of GetInfo, without missing ones."""
    return lambda run: list(dict.fromkeys(str(info[key]) for info in run.engine_infos if info.get(key)))


def _unequal(
    where: str, name: str, runs: Iterable[RecordedRun], read: Callable[[RecordedRun], list[str]]
) -> list[Fault]:
    """Name the first run whose value differs from that of the first one; runs without a value are skipped."""
    first: tuple[RecordedRun, str] | None = None
    for run in runs:
        values = read(run)
        if len(values) > 1:
            return [Fault(run.name, f"the {name} is not one: {_short(values[0])} and {_short(values[1])}")]
        if first is not None and values and values[0] != first[1]:
            pair = f"{_short(first[1])} in {first[0].name}, {_short(values[0])} in {run.name}"
            return [Fault(where, f"the {name} differs: {pair}")]
        first = first or ((run, values[0]) if values else None)
    return []


def _short(value: str) -> str:
    return value if len(value) <= 80 else f"{value[:77]}..."


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _overlapping(runs: Iterable[RecordedRun]) -> list[Fault]:
    """Require that runs on the same worker did not overlap: one worker serves one run at a time."""
    found = []
    for first, second in combinations(runs, 2):
        if not _addresses(first) & _addresses(second):
            continue
        try:
            (begin, end), (other_begin, other_end) = times_of_test(first), times_of_test(second)
        except (ValueError, OverflowError):
            continue
        overlap_s = min(end, other_end) - max(begin, other_begin)
        if overlap_s > _MAX_OVERLAP_S:
            reason = f"overlaps {second.name} by {overlap_s:.0f} s on the same worker: a clock is wrong"
            found.append(Fault(first.name, reason))
    return found


def _addresses(run: RecordedRun) -> set[str]:
    return {str(worker.get("address")) for worker in run.workers}
