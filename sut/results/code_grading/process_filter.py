"""Seccomp filter of a graded program: threads may be started, processes not.

The official evaluator removes os.fork and subprocess.Popen, so a program that passes needs no process. The
kernel's limit on processes alone would not do: it does not count those of root.
"""

import platform
import struct
from typing import NamedTuple

_INSTRUCTION = struct.Struct("HBBI")
# From linux/bpf_common.h and linux/seccomp.h.
_LOAD_WORD, _AND, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER_OR_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
# Offsets in struct seccomp_data; of an argument the low half, on a little-endian machine.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_CLONE_THREAD = 0x00010000
_SIGKILL = 9
_KILLED_STATUS = 128 + _SIGKILL
"""Exit code by which bubblewrap tells that SIGKILL ended the program."""
_X32_BIT = 0x40000000


class _SystemCalls(NamedTuple):
    architecture: int
    """AUDIT_ARCH of linux/audit.h."""
    clone: int
    kill: int
    tkill: int
    tgkill: int
    exits: tuple[int, int]
    """exit and exit_group."""
    refused: tuple[int, ...]


# clone3 hides its flags from a filter; glibc uses clone where it is missing.
_CLONE3, _PIDFD_SEND_SIGNAL = 435, 424
_IO_URING = (425, 426, 427)
# Memory that no limit counts: shmget, msgget, add_key, request_key, keyctl, memfd_create, memfd_secret.
_MEMORY = {
    "x86_64": (29, 68, 248, 249, 250, 319, 447),
    "aarch64": (194, 186, 217, 218, 219, 279, 447),
}
_MACHINES = {
    "x86_64": _SystemCalls(
        *(0xC000003E, 56, 62, 200, 234, (60, 231)),
        # fork, vfork, ptrace, rt_sigqueueinfo, unshare, rt_tgsigqueueinfo, setns, bpf, userfaultfd
        (*(57, 58, 101, 129, 272, 297, 308, 321, 323), *_MEMORY["x86_64"]),
    ),
    "aarch64": _SystemCalls(
        *(0xC00000B7, 220, 129, 130, 131, (93, 94)),
        # ptrace, rt_sigqueueinfo, unshare, rt_tgsigqueueinfo, setns, bpf, userfaultfd
        (*(117, 138, 97, 240, 268, 280, 282), *_MEMORY["aarch64"]),
    ),
}


def process_filter(machine: str | None = None) -> bytes | None:
    """Compose the filter.

    It also refuses SIGKILL and the exit code that tells of SIGKILL, so that a program which is killed was
    killed from outside; memory that the limits do not count; and system calls that serve to break out of a
    sandbox.

    Args:
        machine: As platform.machine() names it; default: this machine.

    Returns:
        A classic BPF program; None for a machine whose system calls are not in the table.
    """
    calls = _MACHINES.get(platform.machine() if machine is None else machine)
    if calls is None:
        return None
    return b"".join(
        [
            _instruction(_LOAD_WORD, _ARCHITECTURE),
            _instruction(_JUMP_EQUAL, calls.architecture, 1, 0),
            _instruction(_RETURN, _KILL_PROCESS),
            _instruction(_LOAD_WORD, _NUMBER),
            _refuse(_JUMP_GREATER_OR_EQUAL, _X32_BIT, _ENOSYS),
            _refuse(_JUMP_EQUAL, _CLONE3, _ENOSYS),
            *(_refuse(_JUMP_EQUAL, number, _EPERM) for number in _refused(calls)),
            _check_argument(calls.clone, 0, _JUMP_SET, _CLONE_THREAD, refuse_match=False),
            _check_argument(calls.kill, 1, _JUMP_EQUAL, _SIGKILL, refuse_match=True),
            _check_argument(calls.tkill, 1, _JUMP_EQUAL, _SIGKILL, refuse_match=True),
            _check_argument(calls.tgkill, 2, _JUMP_EQUAL, _SIGKILL, refuse_match=True),
            *(_kill_on_exit_code(number) for number in calls.exits),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _kill_on_exit_code(number: int) -> bytes:
    """End the process by SIGSYS instead of with the exit code that tells of SIGKILL."""
    return b"".join(
        [
            _instruction(_JUMP_EQUAL, number, 0, 5),
            _instruction(_LOAD_WORD, _ARGUMENTS),
            _instruction(_AND, 0xFF),
            _instruction(_JUMP_EQUAL, _KILLED_STATUS, 0, 1),
            _instruction(_RETURN, _KILL_PROCESS),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _refused(calls: _SystemCalls) -> tuple[int, ...]:
    return (*calls.refused, _PIDFD_SEND_SIGNAL, *_IO_URING)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _refuse(comparison: int, number: int, errno: int) -> bytes:
    return _instruction(comparison, number, 0, 1) + _instruction(_RETURN, _ERRNO | errno)


def _check_argument(number: int, position: int, comparison: int, value: int, *, refuse_match: bool) -> bytes:
    """Decide one system call by one argument."""
    allow, refuse = _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _ERRNO | _EPERM)
    return b"".join(
        [
            _instruction(_JUMP_EQUAL, number, 0, 4),
            _instruction(_LOAD_WORD, _ARGUMENTS + 8 * position),
            _instruction(comparison, value, 0, 1),
            *((refuse, allow) if refuse_match else (allow, refuse)),
        ]
    )
