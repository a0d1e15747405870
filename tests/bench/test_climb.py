"""bench.gpu climb over a worker with the counting engine, whose steps take longer than the limit of TPOT."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.gpu.__main__ import main
from bench.gpu.answers import Answered
from bench.gpu.coordinate import GivenUpError, Setting, coordinate
from bench.gpu.load import Plan, Work
from bench.gpu.sides import SIDES, Ours
from bench.processes import CpuCurve, Ended
from sut.early_stopping import allowed_over_latency
from sut.settings import Scenario

# Each answer has at least two tokens, one per step of 20 ms: over Interactive's 15 ms.
STEP_MS = "20"
PLAN = ["--scenario", "interactive", "--queries", "460", "--warm-rounds", "0", "--requests", "4"]
LENGTHS = ["--mean-prompt-len", "6", "--max-prompt-len", "12"]
LENGTHS += ["--mean-answer-len", "5", "--max-answer-len", "12"]


class Slow(Ours):
    """The product with the counting engine."""

    kept: ClassVar[list[dict[str, Any]]] = []
    """The output file at the begin of each round."""

    def _argv(self) -> list[str]:
        argv = super()._argv()
        port = argv[argv.index("--port") + 1]
        return ["worker", "--engine", "counting", "--port", port, "--step-ms", STEP_MS]

    def run(self, plan: Plan, number: int) -> Answered:
        """Keep the output file, as if the machine were lost now."""
        self.kept.append(json.loads((self.setting.directory.parent / "climb.json").read_text()))
        return super().run(plan, number)


@pytest.fixture
def record(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> dict[str, Any]:
    """Run a climb with the flags of the test; return the output file, the printed text and a log."""
    monkeypatch.setitem(SIDES, "ours", Slow)
    monkeypatch.setattr(Slow, "kept", [])
    output, logs = tmp_path / "climb.json", tmp_path / "logs"
    own = ["--model", str(checkpoint), "--output", str(output), "--keep-logs", str(logs)]
    assert 0 == main(["climb", *PLAN, *LENGTHS, *own, *request.param])
    found: dict[str, Any] = json.loads(output.read_text())
    return found | {"printed": capsys.readouterr().out, "worker_log": (logs / "1-ours.log").read_text()}


@pytest.mark.parametrize("record", [["--rates", "100,200", "--give-up"]], indirect=True)
def test_a_rate_that_cannot_be_valid_is_given_up(record: dict[str, Any]) -> None:
    """Of 460 queries none may be over: each rate ends soon after the first, and the engine stays loaded."""
    assert 0 == allowed_over_latency(460, 0.99)
    assert [] == record["rounds"]
    assert ["interactive-200", "interactive-100"] == [one["plan"] for one in record["given_up"]]
    for one in record["given_up"]:
        assert (460, 0, 15.0, 2000.0) == (
            one["planned_requests"],
            one["most_over"],
            one["tpot_limit_ms"],
            one["ttft_limit_ms"],
        )
        assert 0 < one["over_tpot"] <= one["requests"] < 460
        counted = f"not VALID with {one['over_tpot']} of 460 queries over 15 ms TPOT, at most 0 may be"
        assert one["reason"].endswith(counted)
        assert one["reason"].startswith("no complete LoadGen run, given up after ")
    assert (None, 100.0) == (record["valid_qps"], record["not_valid_qps"])
    assert 2 == record["worker_log"].count(" begins")
    assert 1 == record["worker_log"].count("worker.server: loading")
    assert "no complete LoadGen run, given up after" in record["printed"]
    # 460 queries at 100/s.
    # The load is in the file before the first round, the first rate before the second round.
    assert [["ours"]] * 2 == [[start["side"] for start in kept["starts"]] for kept in Slow.kept]
    assert [None, 200.0] == [kept.get("not_valid_qps") for kept in Slow.kept]
    last = "highest VALID rate: none, not VALID: 100/s, arrivals for 4.6 s"
    assert last in record["printed"].splitlines()


@pytest.mark.parametrize("record", [["--rates", "200"]], indirect=True)
def test_without_the_flag_a_rate_is_run_to_its_end(record: dict[str, Any]) -> None:
    """LoadGen itself calls it INVALID."""
    assert [] == record["given_up"]
    (only,) = record["rounds"]
    assert (460, "INVALID") == (only["requests"], only["verdict"].partition(" ")[0])


class EndedCoordinator:
    """In place of Processes: a coordinator that has counted an over-latency query and ends with 1."""

    def __init__(self, run_dir: Path, losses: list[dict[str, str]]) -> None:
        self._run_dir = run_dir
        self._record = {
            "run_id": "ended",
            "verdict": {"outcome": "FAILED", "reason": "as told"},
            "over_latency": {"num_ttft": 0, "num_tpot": 1, "bound": 0},
            "summary": {"losses": losses},
        }

    def run(self, argv: list[str], log: Path, timeout_s: float) -> Ended:
        """Write the record."""
        assert ["--max-over-latency", "0"] == argv[argv.index("--max-over-latency") :][:2]
        self._run_dir.mkdir(parents=True)
        (self._run_dir / "run.json").write_text(json.dumps(self._record))
        log.write_text(f"{timeout_s}")
        return Ended(1, 0.0, 0.0, CpuCurve([], []))


@pytest.mark.parametrize(
    ("losses", "error"),
    [([], GivenUpError), ([{"address": "127.0.0.1:1", "reason": "engine died"}], RuntimeError)],
    ids=["rate", "loss"],
)
def test_a_rate_at_which_the_worker_was_lost_is_a_failure(
    tmp_path: Path, losses: list[dict[str, str]], error: type[Exception]
) -> None:
    """The latencies around a loss are not those of the rate."""
    processes: Any = EndedCoordinator(tmp_path / "a" / "interactive" / "performance", losses)
    work = Work(tmp_path, tmp_path, np.array([2]), 1.0, is_exact=True)
    setting = Setting(processes, work, [], tmp_path, 60.0)
    plan = Plan("a", Scenario.INTERACTIVE, np.array([0]), np.array([0]), 1.0, max_over_latency=0)
    with pytest.raises(error, match="as told"):
        coordinate(setting, 1, plan, "a")
