"""Wait for the moments of a run at which a test injects a fault, by polling the workers."""

from typing import Any

from tests.faults.crew import Member, wait_until


def seats(mode: str, num: int = 16) -> str:
    """Choose --max-num-seqs: in Server all requests run at once, in Offline some wait."""
    return "256" if mode == "server" else str(num)


def at_start(members: list[Member]) -> Member:
    """Wait until the run holds the first worker; its slow first step has not ended by then."""
    wait_until(lambda: bool(members[0].load().run_id), "the run opened")  # type: ignore[union-attr]
    return members[0]


def in_prefill(members: list[Member]) -> Member:
    """Wait until the first worker has requests running and no token of any."""
    wait_until(lambda: bool(members[0].load().running), "prefill")  # type: ignore[union-attr]
    return members[0]


def in_decode(members: list[Member]) -> Member:
    """Wait until the first worker has produced tokens of requests that still run."""

    def decodes() -> bool:
        return members[0].used and members[0].load().produced_tokens > 200  # type: ignore[union-attr]

    wait_until(decodes, "decode")
    return members[0]


def at_last(members: list[Member]) -> Member:
    """Wait until three polls in a row find one request left in the run; returns its worker."""
    seen = []

    def one_left() -> bool:
        loads: list[Any] = [member.load() for member in members]
        begun = sum(load.produced_tokens for load in loads) > 1000
        left = [load.running + load.waiting for load in loads]
        seen.append(left.index(1) if begun and sum(left) == 1 else None)
        return seen[-3:] == [seen[-1]] * 3 and seen[-1] is not None

    wait_until(one_left, "one request left", 40)
    return members[seen[-1] or 0]
