"""A machine whose locale is not UTF-8: texts of the user are read and written as UTF-8 all the same."""

import os
import subprocess
import sys
from pathlib import Path

from tests import fleet
from tests.sut.submission.test_laid_out_tree import flags

TEXT = "Calibr\u00e9 \u2192 nothing"
ASCII_ONLY = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_a_tree_holds_the_text_of_the_calibration(results: Path, repository: Path) -> None:
    """Letters that the locale does not have are in the tree as they are in the file."""
    words = flags(results, repository)
    (results.parent / "calibration.txt").write_text(TEXT, encoding="utf-8")
    assert 0 == end_of("submission", *words)
    page = results.parent / "tree" / "closed" / "Org" / "documentation" / "calibration.md"
    assert TEXT in page.read_text(encoding="utf-8")


def test_a_user_conf_may_have_comments_in_any_language(tmp_path: Path) -> None:
    """LoadGen reads such a conf: the doctor, which knows no worker, finds no fault with the file."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    conf = tmp_path / "user.conf"
    conf.write_text(f"# {TEXT}\n*.Offline.target_qps = 1\n", encoding="utf-8")
    words = ["--scenario=offline", f"--input-file={data}", f"--user-conf={conf}", "--workers=127.0.0.1:1"]
    # 1: the worker does not answer; bad input would be 2.
    assert 1 == end_of("doctor", *words, f"--output-dir={tmp_path / 'out'}")


def end_of(*words: str) -> int:
    """Run a command in the locale; returns its exit code."""
    command = [sys.executable, "-m", "tokenfleet", *words]
    environment = os.environ | ASCII_ONLY
    done = subprocess.run(
        command, env=environment, cwd=fleet.ROOT, capture_output=True, timeout=240, check=False
    )
    return done.returncode
