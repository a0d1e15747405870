"""Which runs count, and which may stand together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sut.results.submission.recorded_runs import RunKind
from sut.results.submission.set_faults import kernel_choices
from sut.settings import Scenario
from tokenfleet.campaign.consistency import CodeVersions, kernel_difference, mixed, rate_advice, rerun_reason
from tokenfleet.campaign.execution import describe
from tokenfleet.campaign.plan_groups import Group
from tokenfleet.campaign.planned_runs import PlannedRun, RunIdentity
from tokenfleet.campaign.run_results import RunResult

IDENTITY = RunIdentity("data", {"max_new_tokens": 10_240}, "conf", None)
PRESENT = CodeVersions("c1", "6.0.17")
ACCURACY = RunIdentity("other data", {"max_new_tokens": 32_768}, "conf", None)
FACTS: Mapping[str, Any] = {
    "run_id": "first",
    "outcome": "VALID",
    "reason": "",
    "warnings": (),
    "deviations": (),
    "files_sha256": {},
    "identity": IDENTITY,
    "engine_hashes": frozenset(["e1"]),
    "model_hashes": frozenset(["m1"]),
    "kernels": frozenset(["device: H200", "moe_backend: auto"]),
    "shared": {"engine": "vllm 0.25.1"},
    "loadgen_version": "6.0.17",
    "commits": frozenset(["c1", ""]),
    "spec_hash": "s1",
    "wall_s": 600.0,
    "tokens_per_s": 1.0,
    "samples_per_s": 99.9,
}


def result(**facts: object) -> RunResult:
    """Compose what a run left."""
    return RunResult(**{**FACTS, **facts})


def run(scenario: Scenario, kind: RunKind) -> PlannedRun:
    """Compose a planned run."""
    return PlannedRun(scenario, kind, Group("g", (scenario,), None, ()), (), Path(f"out/{scenario}/{kind}"))


def test_the_table_names_the_checks_that_warn() -> None:
    """A run that lost a worker counts with the rate that it had: the table says so behind the rate."""
    assert "VALID, 1.0 tokens/s" == describe(result())
    lost = result(warnings=("continuation", "pauses"), tokens_per_s=None)
    assert "VALID; warn continuation, pauses" == describe(lost)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"outcome": "NOT_GRADED"}, None),
        ({"outcome": "INVALID", "reason": "too short"}, "INVALID: too short"),
        ({"outcome": "UNFINISHED"}, "UNFINISHED"),
        ({"outcome": "FAILED", "reason": "no worker"}, "FAILED: no worker"),
        ({"identity": ACCURACY}, "data set, sampling of the plan changed"),
        ({"commits": frozenset(["c2"])}, "code revision c2, here c1"),
        (
            {"commits": frozenset(["0123456789abcdef01-dirty"])},
            "code revision 0123456789abcdef-dirty, here c1",
        ),
        ({"loadgen_version": "6.0.16"}, "LoadGen 6.0.16, here 6.0.17"),
        ({"deviations": ("engine is counting",)}, "engine is counting"),
    ],
)
def test_only_an_accepted_run_of_the_same_plan_and_code_counts(
    facts: dict[str, object], reason: str | None
) -> None:
    """Anything else is run anew, with the reason."""
    found = rerun_reason(result(**facts), IDENTITY, PRESENT, is_strict=True, takes_invalid=False)
    assert reason == found


def test_a_rehearsal_keeps_deviations_and_invalid_runs() -> None:
    """Short runs are INVALID by LoadGen's rules; a run without an end never counts."""
    for outcome, counts in (("INVALID", True), ("FAILED", False), ("UNFINISHED", False)):
        deviating = result(outcome=outcome, deviations=("engine is counting",))
        reason = rerun_reason(deviating, IDENTITY, PRESENT, is_strict=False, takes_invalid=True)
        assert counts == (reason is None)


OFFLINE = run(Scenario.OFFLINE, RunKind.PERFORMANCE)
OFFLINE_TEST = run(Scenario.OFFLINE, RunKind.TEST09)
OFFLINE_ACCURACY = run(Scenario.OFFLINE, RunKind.ACCURACY)
SERVER = run(Scenario.SERVER, RunKind.PERFORMANCE)


NO_KERNELS = "kernels of no choice, not device: H200, moe_backend: auto"


@pytest.mark.parametrize(
    ("other", "facts", "reason"),
    [
        (OFFLINE_TEST, {}, None),
        (OFFLINE_TEST, {"engine_hashes": frozenset(["e2"])}, "engine hash e2, not e1"),
        (
            OFFLINE_TEST,
            {"engine_hashes": frozenset(["e1", "e2"])},
            "engine hash e1 and e2, not e1",
        ),
        (OFFLINE_TEST, {"spec_hash": "s2"}, "run hash s2, not s1"),
        # Accuracy has its own budget, and another scenario its own engine flags.
        (OFFLINE_ACCURACY, {"identity": ACCURACY, "spec_hash": "s2"}, None),
        (SERVER, {"engine_hashes": frozenset(["e2"]), "spec_hash": "s2"}, None),
        (
            OFFLINE_TEST,
            {"kernels": frozenset(["device: H200", "moe_backend: marlin"])},
            "kernels of moe_backend: marlin, not moe_backend: auto",
        ),
        (OFFLINE_ACCURACY, {"identity": ACCURACY, "kernels": frozenset()}, NO_KERNELS),
        (SERVER, {"kernels": frozenset()}, None),
        (SERVER, {"model_hashes": frozenset(["m2"])}, "model hash m2, not m1"),
        (SERVER, {"commits": frozenset(["c2"])}, "code revision c2, not c1"),
    ],
)
def test_runs_are_never_mixed(other: PlannedRun, facts: dict[str, object], reason: str | None) -> None:
    """Engine hash and kernels within a scenario, run hash by sampling, weights and code over all runs."""
    expected = [] if reason is None else [(other, f"{reason} as in first")]
    assert expected == mixed({OFFLINE: result(), other: result(run_id="second", **facts)})


@pytest.mark.parametrize(
    ("which", "outcome", "target_qps", "advice"),
    [
        # 99.9 queries/s are more than 1.1 * 90: 1.1 * 600 s * 90 samples last 594.6 s.
        (
            OFFLINE,
            "INVALID",
            90.0,
            "the workers reach 99.9 queries/s: set target-qps of [offline] in the plan",
        ),
        (OFFLINE, "INVALID", 91.0, ""),
        (OFFLINE, "VALID", 90.0, ""),
        (OFFLINE_TEST, "INVALID", 90.0, ""),
        (SERVER, "INVALID", 90.0, ""),
    ],
)
def test_the_rate_of_an_offline_run_that_was_too_short_is_named(
    which: PlannedRun, outcome: str, target_qps: float, advice: str
) -> None:
    """The measured rate is what the plan needs; no other run is too short for its rate."""
    found = rate_advice(which, result(outcome=outcome), target_qps)
    assert (bool(advice), True) == (bool(found), advice in found)


def test_what_chooses_kernels_is_compared_over_the_engines_of_a_run() -> None:
    """Backends and variables of the engine count, batch limits do not; an engine that differs is seen."""
    triton = {"moe_backend": "triton", "max_num_seqs": "512", "VLLM_USE_X": "1"}
    other = {"moe_backend": "triton", "max_num_seqs": "64"}
    known = kernel_choices([triton, triton])
    assert known == kernel_choices([triton | {"max_num_seqs": "64"}])
    expected = "kernels of VLLM_USE_X: 1, the default, not VLLM_USE_X: 1"
    assert expected == kernel_difference(known, kernel_choices([triton, other]))
    assert kernel_difference(known, known) is None
