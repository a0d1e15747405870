"""What a campaign refuses before the first run: exit code 2, one line, and no directory is left."""

import re
from pathlib import Path

import pytest

from common.flags import FlagError
from common.source_commit import read_commit
from tests import fleet
from tests.forked import end_of
from tests.tokenfleet.campaign.plans import STRICT, write_plan
from tokenfleet.campaign import preflight
from tokenfleet.campaign.campaign import main
from tokenfleet.campaign.plan_file import NodeFlags, read_plan
from tokenfleet.campaign.tree_command import check_code

NODES = ('[worker]\nmodel = "m"\n', '[nodes]\naddresses = ["127.0.0.1:1"]\n')
FIELDS = """
[system]
status = "available"
cooling = "air"
host_processor_model_name = "x"
host_processors_per_node = 2
host_processor_core_count = 64
host_memory_configuration = "x"
host_storage_capacity = "x"
host_storage_type = "x"
host_networking = "x"
host_network_card_count = 1
host_networking_topology = "x"
operating_system = "x"
"""
DRAFT = ('tree = "tree"', 'tree = "tree"\ndraft = true')


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make the files of a plan; the data sets have 40 rows."""
    for name in ("perf", "acc", "gpqa"):
        fleet.write_prompts(tmp_path / f"{name}.parquet", fleet.counting_prompts(40))
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "lcb.jsonl").write_text("")
    return tmp_path


def test_a_worker_that_does_not_tell_its_flags_is_not_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker ends within 0 s; the plan is refused with group and bound."""
    monkeypatch.setattr(preflight, "FLAGS_TIMEOUT_S", 0.0)
    plan = read_plan(write_plan(directory, STRICT), NodeFlags())
    reason = r"\[worker\], group \w+: `worker --print-config` has not ended within 0 s$"
    with pytest.raises(ValueError, match=reason):
        preflight._resolve_flags(plan, plan.groups[0])


def refusal(directory: Path, *edits: tuple[str, str]) -> list[str]:
    """Start a campaign that is refused; returns its lines without the plan's path."""
    names = ("out", "perf.parquet", "acc.parquet", "gpqa.parquet", "tokenizer", "lcb.jsonl", "tree")
    text = STRICT.replace(*NODES)
    for old, new in edits:
        assert 1 == text.count(old), old
        text = text.replace(old, new)
    for name in names:
        text = text.replace(f'= "{name}"', f'= "{directory / name}"')
    plan = write_plan(directory, text)
    before = sorted([*directory.glob("out"), *directory.glob("out/**/*")])
    ended = end_of(main, [str(plan)], directory)
    assert (2, "") == ended[:2], ended
    assert before == sorted([*directory.glob("out"), *directory.glob("out/**/*")])
    start = f"campaign: {plan}: "
    return [line.removeprefix(start).replace(f"{directory}/", "") for line in ended.stderr.splitlines()]


@pytest.mark.parametrize(
    ("edits", "name", "line"),
    [
        ([DRAFT], "tokenizer/tokenizer.json", "[data] tokenizer: tokenizer holds no tokenizer.json"),
        ([DRAFT], "lcb.jsonl", "[data] lcb-tests: lcb.jsonl does not exist"),
        (
            [DRAFT, ('lcb-tests = "lcb.jsonl"\n', "")],
            "",
            "[data] lcb-tests: missing; the programs of the accuracy runs need it",
        ),
        (
            [("[submission]", FIELDS.replace('cooling = "air"\n', "") + "[submission]")],
            "",
            "[system] cooling: missing; all that are missing: cooling",
        ),
        (
            [("[submission]", FIELDS + "[submission]")],
            "",
            "[submission] calibration: missing; no program can know the calibration",
        ),
    ],
)
def test_what_the_end_of_the_campaign_needs_is_asked_for_at_its_start(
    directory: Path, edits: list[tuple[str, str]], name: str, line: str
) -> None:
    """Tokenizer, tests of programs, fields of the system, calibration: each is named before any run."""
    if name:
        (directory / name).unlink()
    assert [line] == refusal(directory, *edits)


def test_a_tree_that_exists_is_refused(directory: Path) -> None:
    """The tree of another campaign is never changed."""
    (directory / "tree").mkdir()
    assert ["[submission] tree: tree: exists: move it away, or name another"] == refusal(directory, DRAFT)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (
            ('accuracy = "acc.parquet"', 'accuracy = "no.parquet"'),
            "[data] accuracy: no.parquet: cannot be read: No such",
        ),
        (("target-qps = 12", 'user-conf = "no"\ntarget-qps = 12'), "[offline] user-conf: no: cannot be read"),
        (
            ("[nodes]", '[coordinator]\nrun-token-file = "no"\n[nodes]'),
            "[coordinator] run-token-file: no: ",
        ),
        (('system = "one"', 'system = "a b"'), "[submission] system: 'a b' is no folder name"),
        (("[submission]", '[system]\nno = "1"\n[submission]'), "[system]: 'no' is "),
        (
            ('output-dir = "out"', 'output-dir = "/proc/out"'),
            "[campaign] output-dir: /proc/out: No such",
        ),
    ],
)
def test_a_refusal_names_the_entry_of_the_plan(directory: Path, edit: tuple[str, str], line: str) -> None:
    """Nobody is told of a flag that the campaign has made of an entry of his plan."""
    (found,) = refusal(directory, DRAFT, edit)
    assert found.startswith(line)


def test_runs_of_a_scenario_that_the_plan_lost_are_refused(directory: Path) -> None:
    """They would be faults of the tree after hours: the plan once had Interactive."""
    (directory / "out" / "interactive").mkdir(parents=True)
    (line,) = refusal(directory, DRAFT)
    reason = "out/interactive has runs of a scenario that the plan does not have: move them away"
    assert f"[campaign] output-dir: {reason}" == line


def test_deviations_of_the_files_are_refused(directory: Path) -> None:
    """A data set of another size is named, and nothing is run."""
    lines = refusal(directory, DRAFT)
    compliance = "[data] compliance: gpqa.parquet: 40 rows are not the data set of TEST07, which has 990"
    assert [compliance] == lines


@pytest.mark.parametrize(
    ("commit", "line"),
    [
        ("", "commit: missing: a run from an installed package or a container has no commit"),
        ("a" * 40 + "-dirty", f"source: differs from its commit {'a' * 40}-dirty: commit the changes"),
        ("a" * 40, f"source: {fleet.ROOT}: git cat-file {'a' * 40}^{{commit}}: fatal: "),
    ],
)
def test_code_whose_source_no_tree_can_hold_is_refused(directory: Path, commit: str, line: str) -> None:
    """An installed package, a changed checkout and an unknown commit are named before any run."""
    plan = read_plan(write_plan(directory, STRICT, DRAFT), NodeFlags())
    with pytest.raises(FlagError, match=re.escape(f"plan.toml: [submission] {line}")):
        check_code(plan, commit)


def test_the_code_of_an_installed_package_can_be_named(directory: Path) -> None:
    """`commit` and `source` of the plan name what an installed package does not know."""
    head = read_commit().removesuffix("-dirty")
    named = ('tree = "tree"', f'tree = "tree"\ncommit = "{head}"\nsource = "{fleet.ROOT}"')
    check_code(read_plan(write_plan(directory, STRICT, named), NodeFlags()), "")
