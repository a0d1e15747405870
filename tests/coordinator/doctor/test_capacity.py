"""The doctor's estimate of a planned rate."""

from coordinator.doctor.capacity import REFERENCE_FRAME_US, Plan, diagnose_rate, frame_us
from coordinator.doctor.findings import Level


def test_planned_rate_is_an_estimate_from_published_costs() -> None:
    """One core of the published kind carries a small fleet; more workers, queries or a slower core do not."""
    # 0.017 + 55e-6 x (50 x 2 + 2 x 100) + 18e-9 x 127,820 + 380e-6 x 100 = 0.017 + 0.0165 + 0.0023 + 0.038.
    (row,) = diagnose_rate(Plan(100, "--target-qps", 2, REFERENCE_FRAME_US))
    assert (Level.OK, "planned rate") == (row.level, row.check)
    assert row.seen.startswith(
        "estimate: at most 0.07 core for 100 queries/s, 300 frames/s, 127,820 tokens/s"
    )
    # 0.017 + 55e-6 x 7,600 + 18e-9 x 2,556,400 + 380e-6 x 2,000 = 0.017 + 0.418 + 0.046 + 0.76 = 1.241.
    (row,) = diagnose_rate(Plan(2_000, "--target-qps", 72, REFERENCE_FRAME_US))
    assert (Level.WARN, True) == (row.level, "at most 1.24 core" in row.seen)
    (row,) = diagnose_rate(Plan(2_000, "--target-qps", 72, 2 * REFERENCE_FRAME_US))
    assert (Level.FAIL, True) == (row.level, "at most 2.48 core" in row.seen)
    assert "2.00 times as long" in row.seen


def test_core_is_timed() -> None:
    """A frame of 64 tokens takes this machine some time, and no millisecond."""
    assert 0 < frame_us() < 1_000
