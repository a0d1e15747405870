"""Plans: what they say, and that a bad one is refused in one line that names file and entry."""

import re
from pathlib import Path

import pytest

from common.flags import Flags, names
from sut.settings import Scenario
from tests import fleet
from tests.tokenfleet.campaign.plans import STRICT, write_plan
from tokenfleet.campaign.plan_file import NodeFlags, read_plan
from tokenfleet.campaign.plan_reader import PlanError
from tokenfleet.campaign.plan_settings import (
    CampaignSettings,
    DataSettings,
    NodeSettings,
    RehearsalSettings,
    ScenarioSettings,
    SubmissionSettings,
)
from tokenfleet.campaign.planned_runs import plan_runs

OFFLINE = ("[offline]\ntarget-qps = 12\n", "")
SERVER = ("[server]\ntarget-qps = 10.5\n", "")
WORKER = ('[worker]\nmodel = "m"\n', "")
NODES = ('[worker]\nmodel = "m"\n', '[nodes]\naddresses = ["n1:50051", "n2:50051"]\n')
GROUPS = ('[[groups]]\nname = "both"\nscenarios = ["offline", "server"]\n', "")
SUBMISSION = ('[submission]\nsubmitter = "Org"\nsystem = "one"\ntree = "tree"\n', "")


def test_a_plan_lists_the_runs_of_a_submission_in_order(tmp_path: Path) -> None:
    """Each scenario has performance, accuracy, TEST07 and TEST09, in the order of the groups."""
    plan = read_plan(write_plan(tmp_path, STRICT), NodeFlags())
    kinds = ["performance", "accuracy", "TEST07", "TEST09"]
    names = [f"{scenario} {kind}" for scenario in ("offline", "server") for kind in kinds]
    runs = plan_runs(plan)
    assert names == [run.name for run in runs]
    assert [Path("out/offline/TEST07"), Path("out/server/accuracy")] == [runs[2].run_dir, runs[5].run_dir]
    # Each run has its data set, its rate and its mode.
    assert {"--scenario=offline", "--input-file=gpqa.parquet", "--compliance=TEST07"} <= set(runs[2].flags)
    assert {"--scenario=server", "--input-file=acc.parquet", "--accuracy", "--target-qps=10.5"} <= {
        *runs[5].flags
    }
    assert plan.is_strict


def test_groups_have_the_flags_of_all_workers_and_their_own(tmp_path: Path) -> None:
    """A flag of a group takes precedence over the one of [worker]."""
    own = """
[[groups]]
scenarios = ["offline"]
worker = { preset = "throughput" }
[[groups]]
scenarios = ["server"]
worker = { model = "other", enforce_eager = true }
"""
    plan = read_plan(write_plan(tmp_path, STRICT, GROUPS, (SUBMISSION[0], own + SUBMISSION[0])), NodeFlags())
    assert [("--model=m", "--preset=throughput"), ("--model=other", "--enforce-eager")] == [
        group.worker_flags for group in plan.groups
    ]
    assert [(Scenario.OFFLINE,), (Scenario.SERVER,)] == [group.scenarios for group in plan.groups]


def test_fields_of_the_system_keep_their_names(tmp_path: Path) -> None:
    """Unlike keys of other tables, a field is named as in systems/*.json, and any value is text there."""
    system = "\n[system]\nhost_memory_capacity = \"1 TB\"\n'accelerator_on-chip_memories' = 5\n"
    plan = read_plan(write_plan(tmp_path, STRICT + system), NodeFlags())
    assert {"host_memory_capacity": "1 TB", "accelerator_on-chip_memories": "5"} == plan.system


def test_addresses_of_the_command_line_replace_those_of_the_plan(tmp_path: Path) -> None:
    """In a batch job the addresses and the run token are known only when it runs."""
    given = NodeFlags(("a:1", "b:2"), Path("token"))
    plan = read_plan(write_plan(tmp_path, STRICT, NODES), given)
    assert ("a:1", "b:2") == plan.groups[0].addresses
    assert ("--run-token-file=token",) == plan.coordinator_flags


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        ([OFFLINE], "[offline]: missing; every submission has Offline"),
        (
            [SERVER, ('["offline", "server"]', '["offline"]')],
            "[server]: missing, and [interactive] too; division closed needs one of them",
        ),
        ([("target-qps = 12", "target-qps = 0")], "[offline] target-qps: 0.0 is not above 0 and finite"),
        ([("target-qps = 12", 'target-qps = "12"')], "[offline] target-qps: is a string, expected a number"),
        ([("target-qps = 12", "target-pqs = 12")], "[offline] target-pqs: unknown key; nearest: target-qps"),
        ([("target-qps = 12", "")], "[offline] target-qps: missing"),
        ([("[offline]", "[offlin]")], "[offlin]: unknown table; nearest: offline"),
        ([('tokenizer = "tokenizer"', "")], "[data] tokenizer: missing"),
        ([("[data]", "data = 3\n[nothing]")], "[nothing]: unknown table; nearest: offline"),
        ([WORKER], "[worker]: missing, and [nodes] too; a plan has one of them"),
        ([(WORKER[0], WORKER[0] + NODES[1])], "[worker]: and [nodes] exclude each other"),
        ([('model = "m"', "port = 50051")], "[worker] port: cannot be set in a plan"),
        (
            [('["offline", "server"]', '["offline"]')],
            "[[groups]] scenarios: server is named 0 times, not once",
        ),
        (
            [('["offline", "server"]', '["offline", "server", "offline"]')],
            "[[groups]] scenarios: offline is named 2 times, not once",
        ),
        (
            [('["offline", "server"]', '["offline", "server", "interactive"]')],
            "[interactive]: missing; a group has this scenario",
        ),
        (
            [('["offline", "server"]', '["ofline"]')],
            "[[groups]] 1, scenarios: 'ofline' is not one of offline, server, interactive",
        ),
        (
            [('name = "both"', 'name = "both"\naddresses = ["a:1"]')],
            "[[groups]] 1, addresses: needs the table [nodes]",
        ),
        ([('name = "both"', "size = 1")], "[[groups]] 1, size: unknown key; nearest: scenarios"),
        ([SUBMISSION], "[submission]: missing; only a plan with [rehearsal] may do without"),
        (
            [('system = "one"', 'system = "one"\ndivision = "shut"')],
            "[submission] division: 'shut' is not one of closed, open, network",
        ),
        (
            [("[submission]", "[rehearsal]\nmax-samples = 5\n[submission]")],
            "[rehearsal]: max-samples and runs exclude the table [submission]",
        ),
        (
            [("[submission]", '[rehearsal]\nruns = ["TEST01"]\n[submission]')],
            "[rehearsal] runs: 'TEST01' is not one of performance, accuracy, TEST07, TEST09",
        ),
        (
            [("[submission]", '[coordinator]\noutput-dir = "x"\n[submission]')],
            "[coordinator] output-dir: cannot be set in a plan",
        ),
        (
            [("[submission]", "[coordinator]\nredy-timeout-s = 3\n[submission]")],
            "[coordinator] redy-timeout-s: unknown key; nearest: ready-timeout-s",
        ),
    ],
)
def test_a_bad_plan_is_refused(tmp_path: Path, edits: list[tuple[str, str]], line: str) -> None:
    """A missing scenario, an unknown key, a bad value, wrong groups: one line with file and entry."""
    path = write_plan(tmp_path, STRICT, *edits)
    with pytest.raises(PlanError) as error:
        read_plan(path, NodeFlags())
    assert f"{path}: {line}" == str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"[", "is not TOML"), (b"\xff", "is not TOML"), (None, "No such")]
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """Missing, not text, not TOML: one line with the file."""
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match=reason) as error:
        read_plan(path, NodeFlags())
    assert str(error.value).startswith(f"{path}: ")


PAGE = fleet.ROOT / "docs" / "campaign.md"


def test_the_documented_plan_can_be_read(tmp_path: Path) -> None:
    """The plan of docs/campaign.md has the tables of a closed submission; its nodes replace its worker."""
    plan_text, nodes_text = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    plan = read_plan(write_plan(tmp_path, plan_text), NodeFlags())
    assert ["throughput", "latency"] == [group.name for group in plan.groups]
    local = plan_text[plan_text.index("[worker]") : plan_text.index("[[groups]]")]
    edits = [(local, nodes_text)] + [
        (f'worker = {{ preset = "h200_tp1_{name}" }}\n', "") for name in ("offline", "interactive")
    ]
    nodes = read_plan(write_plan(tmp_path, plan_text, *edits), NodeFlags())
    assert {("node1:50051", "node2:50051")} == {group.addresses for group in nodes.groups}


def test_the_plan_of_a_real_submission_can_be_read(tmp_path: Path) -> None:
    """The plan of docs/submission.md has two groups with their presets, and is no rehearsal."""
    text = (fleet.ROOT / "docs" / "submission.md").read_text()
    (plan_text,) = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    plan = read_plan(write_plan(tmp_path, plan_text), NodeFlags())
    presets = [("--preset=h200_tp1_offline",), ("--preset=h200_tp1_server",)]
    assert presets == [group.worker_flags[-1:] for group in plan.groups if group.worker_flags]
    assert 8 == len(plan_runs(plan))
    assert plan.is_strict


def test_the_plan_of_the_rehearsal_can_be_read() -> None:
    """docs/rehearsal.toml replays the answers of `tokenfleet synthetic benchmark` and ends in a tree."""
    plan = read_plan(fleet.ROOT / "docs" / "rehearsal.toml", NodeFlags())
    assert ("--engine=replay", 8) == (
        plan.groups[0].worker_flags and plan.groups[0].worker_flags[0],
        len(plan_runs(plan)),
    )


@pytest.mark.parametrize(
    "settings",
    [CampaignSettings, DataSettings, ScenarioSettings, NodeSettings, SubmissionSettings, RehearsalSettings],
)
def test_every_key_is_documented(settings: type[Flags]) -> None:
    """docs/campaign.md names each key of each table."""
    page = PAGE.read_text()
    assert [] == [name for name in names(settings) if not re.search(rf"(?<![\w-]){name}(?![\w-])", page)]
