"""The command that lays out the tree of a campaign, and what it needs from the plan before the first run.

The tree is made in a scratch directory beside its place and then moved, so that a campaign that is killed
meanwhile leaves nothing in the way of the next one.
"""

import contextlib
import os
import shutil
from pathlib import Path

from sut.results.submission.official_checker import check_clone
from sut.results.submission.source_snapshot import DIRTY_SUFFIX, check_source
from sut.results.submission.submission_flags import SubmissionFlags, parse
from sut.results.submission.system_description import FIELDS_OF_RUNS, read_sysinfo, required_fields
from sut.results.submission.tree import check_apart, check_free
from sut.settings import Scenario
from tokenfleet.campaign.plan_entries import SUBMISSION, naming_entries
from tokenfleet.campaign.plan_file import CampaignPlan

TREE = "tree"
"""Name of the tree in the scratch directory."""
NOT_APPLICABLE_WITHOUT_ACCELERATOR = frozenset(
    ["accelerator_host_interconnect", "accelerator_memory_configuration", "accelerator_interconnect"]
)
"""Fields that only the runs of machines without accelerators fill."""


def tree_argv(plan: CampaignPlan) -> list[str]:
    """Return the `tokenfleet` command that lays out the tree in the scratch directory."""
    return ["submission", *_flags(plan, _scratch(plan) / TREE)]


def _flags(plan: CampaignPlan, output: Path) -> list[str]:
    settings = plan.submission
    assert settings is not None
    paths = {
        "official-checker": settings.official_checker,
        "calibration": settings.calibration,
        "sysinfo": settings.sysinfo,
        "commit": settings.commit,
        "source": settings.source,
    }
    return [
        f"--results={plan.campaign.output_dir}",
        f"--output={output}",
        f"--division={settings.division}",
        f"--submitter={settings.submitter}",
        f"--system={settings.system}",
        *(f"--set={key}={value}" for key, value in plan.system.items()),
        *(f"--{name}={path}" for name, path in paths.items() if path is not None),
        *(["--draft"] if settings.draft else []),
        *([] if plan.rehearsal is None else ["--rehearsal"]),
    ]


def prepare_scratch(plan: CampaignPlan) -> None:
    """Create an empty scratch directory."""
    shutil.rmtree(_scratch(plan), ignore_errors=True)
    _scratch(plan).mkdir()


def has_tree(plan: CampaignPlan) -> bool:
    """Return whether the scratch directory has a tree."""
    return (_scratch(plan) / TREE).is_dir()


def drop_scratch(plan: CampaignPlan) -> None:
    """Remove the scratch directory of a tree that was refused before anything was written."""
    with contextlib.suppress(OSError):
        _scratch(plan).rmdir()


def is_half_moved(plan: CampaignPlan) -> bool:
    """Return whether a campaign was killed between the moves of the accuracy logs and of the tree."""
    assert plan.submission is not None
    scratch, tree = _scratch(plan), plan.submission.tree
    moved = _originals(tree).is_dir() and not _originals(scratch / TREE).exists()
    return moved and (scratch / TREE).is_dir() and not os.path.lexists(tree)


def move_tree(plan: CampaignPlan) -> None:
    """Move accuracy logs and tree from the scratch directory to their places.

    Raises:
        OSError: A place is taken.
    """
    assert plan.submission is not None
    scratch, tree = _scratch(plan), plan.submission.tree
    if _originals(scratch / TREE).exists():
        os.rename(_originals(scratch / TREE), _originals(tree))
    os.rename(scratch / TREE, tree)
    scratch.rmdir()


def in_place(plan: CampaignPlan, line: str) -> str:
    """Return a line about the tree in the scratch directory with the place to which the tree is moved."""
    assert plan.submission is not None
    return line.replace(str(_scratch(plan) / TREE), str(plan.submission.tree))


def _scratch(plan: CampaignPlan) -> Path:
    assert plan.submission is not None
    tree = plan.submission.tree
    return tree.with_name(f".{tree.name}.campaign")


def _originals(tree: Path) -> Path:
    """Return where `tokenfleet submission` puts the whole accuracy logs of a tree."""
    return tree.with_name(f"{tree.name}-originals")


def check_submission(plan: CampaignPlan) -> None:
    """Check what the tree needs beside the runs.

    Raises:
        PlanError: Names the entry of the plan: a tree that exists, an unknown or missing field.
    """
    if plan.submission is None:
        return
    with naming_entries(plan, SUBMISSION):
        flags = parse(_flags(plan, plan.submission.tree))
        check_apart(flags.output, flags.originals, flags.results)
        _check_no_other_scenario(plan)
        if not is_half_moved(plan):
            check_free(flags.output, flags.originals)
        if flags.official_checker is not None:
            check_clone(flags.official_checker)
        missing = _missing_fields(flags)
    if missing and not flags.draft:
        raise plan.error(f"[system] {missing[0]}", f"missing; all that are missing: {', '.join(missing)}")
    if plan.submission.calibration is None and not flags.draft:
        raise plan.error("[submission] calibration", "missing; no program can know the calibration")
    if plan.submission.calibration is not None and not plan.submission.calibration.is_file():
        raise plan.error("[submission] calibration", f"{plan.submission.calibration} is no file")


def _check_no_other_scenario(plan: CampaignPlan) -> None:
    for scenario in Scenario:
        left = plan.campaign.output_dir / scenario
        if scenario not in plan.scenarios and left.exists():
            reason = f"{left} has runs of a scenario that the plan does not have: move them away"
            raise plan.error("[campaign] output-dir", reason)


def check_code(plan: CampaignPlan, commit: str) -> None:
    """Require a commit whose files the tree can hold, before hours of runs record another one.

    Args:
        plan: The plan.
        commit: The code revision of this program, which the runs will record.

    Raises:
        PlanError: There is none, it has changes, or the repository does not have it.
    """
    if plan.submission is None:
        return
    flags = parse(_flags(plan, plan.submission.tree))
    if commit.endswith(DIRTY_SUFFIX):
        raise plan.error("[submission] source", f"differs from its commit {commit}: commit the changes")
    with naming_entries(plan, SUBMISSION):
        check_source(flags.source, [commit], flags.commit)


def _missing_fields(flags: SubmissionFlags) -> list[str]:
    """List the fields that no run fills and nobody has given."""
    captured = {} if flags.sysinfo is None else read_sysinfo(flags.sysinfo)
    known = {*flags.given, *captured, *FIELDS_OF_RUNS, *NOT_APPLICABLE_WITHOUT_ACCELERATOR}
    return [name for name in required_fields(flags.division) if name not in known]
