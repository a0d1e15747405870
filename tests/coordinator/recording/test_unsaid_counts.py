"""What an engine produced must be said, not only received."""

from pathlib import Path

from tests import fleet
from tests.forked import main_of

# Its engine's count is never told.
WITHOUT_PONGS = """
import sys
from worker.__main__ import main
from worker.session import Session
Session._queue_pong = lambda self, nonce: None
sys.exit(main(sys.argv[1:]))
"""


def test_a_worker_that_does_not_say_what_it_produced_makes_no_valid_run(tmp_path: Path) -> None:
    """All answers are whole, and yet nothing shows that no token was lost on the way."""
    worker = fleet.start_worker(tmp_path / "worker.log", program=main_of(WITHOUT_PONGS))
    try:
        fleet.wait_serving(worker)
        data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
        flags = ("--accuracy", "--max-new-tokens", "8", "--worker-timeout-s", "2")
        ended = fleet.coordinate([worker], data, tmp_path / "out", *flags)
    finally:
        worker.stop()
    assert 3 == ended.returncode, ended.stderr
    verdict = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["verdict"]
    assert "1 workers did not report how many tokens their engines produced" in verdict["reason"]
