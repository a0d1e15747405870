"""What is said while workers are waited for at the start."""

import asyncio
import logging

import pytest

from coordinator.transport import fleet
from coordinator.transport.access import Access
from coordinator.transport.agreement import FleetError
from coordinator.transport.stream import Limits

NOBODY = "127.0.0.1:9"  # the discard port has no listener


def test_the_wait_says_once_how_long_it_may_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first line about a worker that is not there names the limit and its flag, later ones do not."""
    monkeypatch.setattr(fleet, "REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(fleet, "PROBE_INTERVAL_S", 0.05)
    caplog.set_level(logging.INFO, "coordinator.transport.fleet")

    async def wait() -> None:
        patience = fleet.Patience(Limits(5, 60), 60.0, True)
        waiting = fleet.Fleet((NOBODY,), Access(), patience)
        try:
            await waiting.wait_ready(2.5)
        finally:
            await waiting.close()

    with pytest.raises(FleetError, match=r"^--workers: not SERVING after 2\.5 s \(--ready-timeout-s\): "):
        asyncio.run(wait())
    first, second, *_ = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"waiting for up to 2.5 s (--ready-timeout-s) for {NOBODY} ")
    assert second.startswith(f"waiting for {NOBODY} ")
