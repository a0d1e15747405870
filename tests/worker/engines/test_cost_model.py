"""The cost model: its defaults from the measured rates, its arithmetic, and what it refuses."""

import pytest

from worker.engines.scripted.cost_model import CostModel

MACHINE = {"prefill_tokens_per_s": 1000.0, "step_base_ms": 10.0, "step_per_seq_us": 500.0}


def test_the_defaults_are_the_line_through_the_measured_rates() -> None:
    """Least squares through 128, 512 and 1,024 sequences at 3,872, 8,946 and 13,427 tokens/s."""
    seqs = [128, 512, 1024]
    step_ms = [128 / 3.872, 512 / 8.946, 1024 / 13.427]
    mean_seqs, mean_ms = sum(seqs) / 3, sum(step_ms) / 3
    covariance = sum((x - mean_seqs) * (y - mean_ms) for x, y in zip(seqs, step_ms, strict=True))
    slope = covariance / sum((x - mean_seqs) ** 2 for x in seqs)
    costs = CostModel()
    assert round(slope * 1e3, 1) == costs.step_per_seq_us == 47.6
    assert round(mean_ms - slope * mean_seqs, 1) == costs.step_base_ms == 29.1
    assert costs.prefill_tokens_per_s == 58_600


def test_a_step_costs_its_base_its_requests_and_its_prefill() -> None:
    """10 ms, 4 requests of 0.5 ms and 30 tokens at 1,000 a second: 10 + 2 + 30 = 42 ms."""
    assert CostModel(**MACHINE).step_s(4, 30) == pytest.approx(0.042)
    assert CostModel(**MACHINE).step_s(0, 0) == pytest.approx(0.010)


def test_costs_of_one_machine_are_whole() -> None:
    """All three costs or none may be given; two without the third are refused."""
    assert CostModel.of(dict(MACHINE)) == CostModel(**MACHINE)
    assert CostModel.of(dict.fromkeys(MACHINE)) == CostModel()
    for name in MACHINE:
        with pytest.raises(ValueError, match=rf"^--{name.replace('_', '-')}: missing"):
            CostModel.of(MACHINE | {name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("prefill_tokens_per_s", value) for value in (0.0, -1.0, float("nan"), float("inf"))],
        *[("step_base_ms", value) for value in (-0.5, float("nan"), float("inf"))],
        *[("step_per_seq_us", value) for value in (-0.5, float("nan"), float("inf"))],
    ],
)
def test_a_cost_out_of_bounds_is_named(name: str, value: float) -> None:
    """A rate not above 0, a time below 0 and NaN are refused with flag and value."""
    with pytest.raises(ValueError, match=rf"^--{name.replace('_', '-')}: {value} is "):
        CostModel(**(MACHINE | {name: value}))
