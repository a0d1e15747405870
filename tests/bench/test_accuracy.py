"""bench.accuracy: a small log has the expected score."""

from pathlib import Path

from bench.accuracy.__main__ import measure


def test_a_small_log_is_measured(tmp_path: Path) -> None:
    """Six answers of 40 tokens are made and scored; the figures count their tokens."""
    figures = measure(tmp_path, num_samples=6, answer_len=40)
    assert figures["million_tokens"] == 240 / 1e6
    assert figures["peak_mib"] > 0
