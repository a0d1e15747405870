"""Names the entries of a plan where a refusal names the flags that a campaign makes of them."""

import contextlib
from collections.abc import Iterator, Mapping

from common.flags import FlagError, names
from coordinator.config import RunConfig
from sut.results.submission.recorded_runs import RunKind
from sut.settings import Scenario
from tokenfleet.campaign.plan_file import CAMPAIGN_SETS, CampaignPlan

OUTPUT_DIR = {"--output-dir": "[campaign] output-dir"}
SUBMISSION = {
    "--results": "[campaign] output-dir",
    "--output": "[submission] tree",
    "--originals": "[submission] tree",
    "--set": "[system]",
    **{
        f"--{name}": f"[submission] {name}"
        for name in (
            *("submitter", "system", "division", "calibration", "sysinfo", "commit", "source"),
            "official-checker",
        )
    },
}
"""Entries of the flags of `tokenfleet submission`."""
_DATA = {RunKind.ACCURACY: "accuracy", RunKind.TEST07: "compliance"}


@contextlib.contextmanager
def naming_entries(plan: CampaignPlan, entries: Mapping[str, str]) -> Iterator[None]:
    """Name plan and entry in the refusals of a `with` block.

    Args:
        plan: The plan.
        entries: Entries of the plan by the flags that are made of them.

    Raises:
        FlagError: That of the block: with the entry, or unchanged if no entry has become the flag.
    """
    try:
        yield
    except FlagError as error:
        if error.flag not in entries:
            raise
        raise plan.error(entries[error.flag], error.value_and_reason) from error


def entries_of_run(plan: CampaignPlan, scenario: Scenario, kind: RunKind) -> dict[str, str]:
    """Return the entries that the flags of a run are made of."""
    found = {f"--{name}": f"[coordinator] {name}" for name in names(RunConfig) if name not in CAMPAIGN_SETS}
    if plan.command_line.run_token_file is not None:
        del found["--run-token-file"]
    return {
        **found,
        **OUTPUT_DIR,
        "--input-file": f"[data] {_DATA.get(kind, 'performance')}",
        "--target-qps": f"[{scenario}] target-qps",
        "--user-conf": f"[{scenario}] user-conf",
        "--max-new-tokens": "[rehearsal] max-new-tokens",
        "--max-samples": "[rehearsal] max-samples",
    }
