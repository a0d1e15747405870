"""Ports that are chosen for workers: none that a connection takes, on machines with any range of those."""

import random
from pathlib import Path

import pytest

from worker.node import ports
from worker.node.ports import steady_port


@pytest.mark.parametrize(
    ("ephemeral", "first", "last"),
    [
        ("32768\t60999\n", 10_000, 32_767),
        ("15000\t65000\n", 10_000, 14_999),
        # It leaves no other port, or hardly any.
        ("1024\t65535\n", 10_000, 65_535),
        ("10004\t65535\n", 10_000, 65_535),
    ],
)
def test_a_workers_port_is_no_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ephemeral: str, first: int, last: int
) -> None:
    """All of 16 ports are below the range of ephemeral ports, if that leaves any from 10,000 on."""
    path = tmp_path / "ip_local_port_range"
    path.write_text(ephemeral)
    monkeypatch.setattr(ports, "EPHEMERAL_RANGE", path)
    chosen = [steady_port(random.Random(seed), 16) for seed in range(50)]
    assert first <= min(chosen) < max(chosen) <= last - 15
