"""The readers against logs that LoadGen itself has written, over a SUT that answers at once."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sut.results.logs import read_accuracy, read_detail
from sut.results.verdict import Counts, Outcome, deviations, headline, judge
from sut.settings import Mode, Scenario

ROOT = Path(__file__).resolve().parents[2]
CONF = """\
*.*.min_duration = 100
*.*.performance_sample_count_override = 4
*.*.accuracy_sample_count_override = 4
*.Offline.min_query_count = 4
*.*.target_qps = 1000
"""
# argv: conf, scenario, mode, output directory.
RUN = """
import array, sys, threading
from pathlib import Path
from sut import loadgen
from sut.settings import Mode, Scenario
tokens = array.array("i", [18, 19, 200002])
address = tokens.buffer_info()[0]
def issue(ids, samples):
    if sys.argv[2] != "offline":
        loadgen.first_token_complete(ids, [address] * len(ids), [1] * len(ids))
    loadgen.query_samples_complete(ids, [address] * len(ids), [3] * len(ids))
test = loadgen.LoadGenTest(sys.argv[1], Scenario(sys.argv[2]), Mode(sys.argv[3]))
thread = threading.Thread(target=test.run, args=(4, issue, Path(sys.argv[4]), None))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("scenario", list(Scenario))
def test_loadgens_own_logs_are_understood(tmp_path: Path, scenario: Scenario, mode: Mode) -> None:
    """Each key that deviations, headline and checks look for is one that LoadGen writes in such a run."""
    subprocess.run(
        [sys.executable, "-c", RUN, CONF, scenario, mode, str(tmp_path)], cwd=ROOT, timeout=60, check=True
    )
    detail = read_detail(tmp_path / "mlperf_log_detail.txt")
    assert detail.errors == []
    accuracy = read_accuracy(tmp_path / "mlperf_log_accuracy.json")
    logged = mode is Mode.ACCURACY
    # 4 answers of 3 tokens of 4 bytes.
    assert accuracy == ((Counter(range(4)), 12, 48) if logged else (Counter(), 0, 0))
    found = deviations(detail, scenario, mode)
    assert found[0] == "effective_performance_sample_count is 4, not 6396"
    assert not [text for text in found if "None" in text]
    keys = {text.split()[0] for text in found}
    expected = {"effective_performance_sample_count"}
    if logged:
        expected |= {"effective_accuracy_sample_count"}
    else:
        expected |= {"effective_min_duration_ms"}
        expected |= {"effective_samples_per_query"} if scenario is Scenario.OFFLINE else set()
    assert expected == keys
    if not logged:
        assert len(headline(scenario, detail)) == (3 if scenario is Scenario.OFFLINE else 5)
    counts = Counts(
        num_issued=4,
        num_done=4,
        num_distinct=4,
        num_short=0,
        received_tokens=12,
        reported_tokens=12,
        produced_tokens=12,
    )
    verdict, _ = judge(tmp_path, scenario, mode, 4, counts)
    failed = [check.name for check in verdict.checks if not check.passed]
    # Far too few queries for LoadGen, and nothing else is wrong; an accuracy run has no such result.
    assert failed == ([] if logged else ["loadgen_result"])
    assert verdict.outcome is (Outcome.VALID if logged else Outcome.INVALID)
