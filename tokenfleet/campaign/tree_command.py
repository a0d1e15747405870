"""The command that lays out the tree of a campaign."""

from tokenfleet.campaign.plan_file import CampaignPlan


def tree_argv(plan: CampaignPlan) -> list[str]:
    """Return the `tokenfleet` command that lays out the tree."""
    settings = plan.submission
    assert settings is not None
    argv = [
        "submission",
        f"--results={plan.campaign.output_dir}",
        f"--output={settings.tree}",
        f"--division={settings.division}",
        f"--submitter={settings.submitter}",
        f"--system={settings.system}",
        *(f"--set={key}={value}" for key, value in plan.system.items()),
    ]
    if settings.official_checker is not None:
        argv.append(f"--official-checker={settings.official_checker}")
    return [*argv, *(["--draft"] if settings.draft else [])]
