"""Program that does for a plain process what bubblewrap does for a sandboxed one, then becomes the runner.

The process ends with the grader, and the filter of system calls is installed. Arguments: the filter in
hexadecimal digits, the grader's process id, and the command line of the runner.
"""

import ctypes
import os
import signal
import sys

# From linux/prctl.h and linux/seccomp.h.
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_INSTRUCTION_BYTES = 8


class _FilterProgram(ctypes.Structure):
    _fields_ = (("num_instructions", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _main() -> None:
    process_filter, grader_pid, command = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    program = _FilterProgram(len(process_filter) // _INSTRUCTION_BYTES, process_filter)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, None)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, None)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))
    if os.getppid() == grader_pid:  # otherwise the grader ended before this process asked to end with it
        os.execv(command[0], command)


def _prctl(option: int, value: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_ulong(0) if argument is None else argument
    if libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


if __name__ == "__main__":
    _main()
