"""What a campaign does with the tree that `tokenfleet submission` made, or refused to make."""

from pathlib import Path
from typing import cast

import pytest

from tests.tokenfleet.campaign.plans import STRICT, write_plan
from tokenfleet.campaign.campaign_state import CampaignState
from tokenfleet.campaign.execution import Campaign
from tokenfleet.campaign.group_workers import GroupWorkers
from tokenfleet.campaign.phase_table import PhaseTable
from tokenfleet.campaign.plan_file import NodeFlags, read_plan
from tokenfleet.campaign.tree_command import TREE
from tokenfleet.resumable_program import ProgramStopped

REHEARSAL = ("[submission]", "[rehearsal]\nmin-duration-s = 10\n\n[submission]")
LINES = [
    "tokenfleet submission: missing: --set cooling=...",
    ".tree.campaign/tree-originals: whole accuracy logs",
    "ERROR] /here/.tree.campaign/tree/closed/Org",
]


def lay_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch, code: int, *edits: tuple[str, str], makes_tree: bool
) -> int:
    """Lay out the tree of a campaign without runs, with a command that ends with this exit code."""
    monkeypatch.chdir(directory)
    (directory / "out" / "logs").mkdir(parents=True)
    (directory / "out" / "logs" / "submission.log").write_text("a line of an earlier attempt\n")
    plan = read_plan(write_plan(directory, STRICT, *edits), NodeFlags())

    def execute(_self: Campaign, _argv: list[str], log: Path) -> int:
        log.write_text("\n".join(LINES) + "\n")
        if makes_tree:
            (directory / ".tree.campaign" / TREE).mkdir()
        return code

    monkeypatch.setattr(Campaign, "_execute", execute)
    state = CampaignState.open(plan, "")
    return Campaign(plan, {}, state, PhaseTable([]), cast(GroupWorkers, None), -1)._lay_out()


def test_a_rehearsal_keeps_a_tree_that_the_official_checker_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It refuses the short duration: the tree is in its place, which its words name; exit code 1 is said."""
    assert 1 == lay_out(tmp_path, monkeypatch, 1, REHEARSAL, makes_tree=True)
    assert (tmp_path / "tree").is_dir()
    assert [
        LINES[0],
        "tree-originals: whole accuracy logs",
        "ERROR] /here/tree/closed/Org",
        f"tree: {tmp_path / 'tree'}; exit code 1, because the official checker refuses it",
    ] == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("edits", "code"), [([], 1), ([], 2), ([REHEARSAL], 1), ([REHEARSAL], 2)])
def test_a_refused_tree_is_none_and_its_reasons_are_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    edits: list[tuple[str, str]],
    code: int,
) -> None:
    """Nothing is in the tree's place, and an empty scratch directory is removed."""
    with pytest.raises(ProgramStopped, match=f"no tree, exit code {code}: out/logs/submission.log"):
        lay_out(tmp_path, monkeypatch, code, *edits, makes_tree=False)
    assert LINES == capsys.readouterr().out.splitlines()
    assert {"out", "plan.toml"} == {path.name for path in tmp_path.iterdir()}
