"""The filter of system calls is whole; what it refuses is tested with programs."""

import struct

import pytest

from sut.results.code_grading import sandbox
from sut.results.code_grading.process_filter import process_filter
from sut.results.code_grading.program import SandboxUnavailableError
from tests.sut.code_grading.graded import LIMITS


@pytest.mark.parametrize("machine, architecture", [("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)])
def test_a_filter_is_whole_and_jumps_inside_itself(machine: str, architecture: int) -> None:
    """It checks the architecture first, every jump has a target, and its last instruction returns."""
    composed = process_filter(machine)
    assert composed is not None
    instructions = list(struct.iter_unpack("HBBI", composed))
    assert (0x20, 0, 0, 4) == instructions[0]
    assert (0x15, 1, 0, architecture) == instructions[1]
    for position, (code, if_true, if_false, _) in enumerate(instructions):
        if code != 0x06:
            assert position + 1 + max(if_true, if_false) < len(instructions)
    assert 0x06 == instructions[-1][0]


def test_a_machine_without_a_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program runs where processes could not be refused to it."""
    assert process_filter("riscv64") is None
    monkeypatch.setattr(sandbox, "process_filter", lambda: None)
    with pytest.raises(SandboxUnavailableError, match="there is no filter of system calls for "):
        sandbox.Sandbox(LIMITS, sandboxed=True)
