"""Raises this process's limit on open files (RLIMIT_NOFILE); the processes it starts inherit the limit."""

import resource

WANTED_OPEN_FILES = 65_535
"""The soft limit that vLLM's own server sets.

Source: vllm 0.32.0, utils/system_utils.py, set_ulimit.
"""


def raise_open_file_limit() -> int:
    """Raise the soft limit to WANTED_OPEN_FILES, as far as the hard limit permits; returns the soft limit."""
    soft, hard = (_as_number(limit) for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    wanted = max(soft, min(hard, WANTED_OPEN_FILES))
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return wanted


def open_file_limit() -> int:
    """Return the soft limit; 2^64 - 1 means unlimited."""
    return _as_number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _as_number(limit: int) -> int:
    # RLIM_INFINITY is -1 in Python.
    return limit % 2**64
