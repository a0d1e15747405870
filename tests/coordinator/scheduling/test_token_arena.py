"""The arena keeps its rows when it grows, and when it cannot."""

import resource
import sys

import numpy as np
import pytest

from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.token_arena import TokenArena
from tests.forked import completed_command

# A row of 1,000,000 tokens takes 4 MB: 16 rows take 64 MB, of which only written pages exist.
ROW_TOKENS, NUM_ROWS = 1_000_000, 16
SLOTS, COUNTS = np.array([3, 15]), np.array([4, 2])
TOKENS = np.array([1, 2, 3, 4, 9, 8], np.int32)
HEADROOM_BYTES = 32 << 20


def limit_address_space() -> None:
    """Leave this process 32 MB, for its whole life."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        num_bytes = int(statm.read().split()[0]) * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def check_arena_keeps_its_rows() -> None:
    """Runs in a process of its own."""
    arena = TokenArena(ROW_TOKENS, NUM_ROWS)
    arena.append(SLOTS, np.zeros(2, np.int64), COUNTS, TOKENS)
    arena.grow(NUM_ROWS + 1)
    limit_address_space()
    with pytest.raises(MemoryError, match="no memory for 64 answers, 256"):
        arena.grow(4 * NUM_ROWS)
    assert TOKENS.tolist() == arena.copy(SLOTS, COUNTS).tolist()
    arena.append_row(0, 0, TOKENS)
    assert TOKENS.tolist() == arena.copy(np.array([0]), np.array([6])).tolist()


def check_table_stays_whole() -> None:
    """Runs in a process of its own."""
    table = RequestTable(ROW_TOKENS, num_slots=NUM_ROWS)
    columns = np.arange(NUM_ROWS)
    requests = NewRequests(columns.astype(np.uint64), columns, columns + 1, 0 * columns, 5, columns)
    names = table.assign(requests, 0)
    limit_address_space()
    with pytest.raises(MemoryError):
        table.assign_one((99, 99, 0, 99), 0, 1, 0)
    with pytest.raises(MemoryError):
        table.assign(requests, 0)
    assert (NUM_ROWS, list(range(NUM_ROWS))) == (table.num_in_flight, sorted(table.in_flight().tolist()))
    assert names.tolist() == table.names(names.astype(np.int64) % 2**32).tolist()
    assert columns.tolist() == table.rows(names.astype(np.int64) % 2**32)["sample"].tolist()


@pytest.mark.parametrize("check", ["check_arena_keeps_its_rows", "check_table_stays_whole"])
def test_growth_without_memory_keeps_what_is_there(check: str) -> None:
    """Under RLIMIT_AS growth fails with the sizes; rows, names and requests stay as they were."""
    done = completed_command([sys.executable, "-c", f"from {__name__} import {check}; {check}()"])
    assert 0 == done.returncode, done.stderr
