"""Processes."""

import contextlib
from typing import Any

import psutil


def kill_process_tree(parent_pid: int, include_parent: bool = True, **_: Any) -> None:
    """Kill the processes that a process has started, and itself."""
    parent = psutil.Process(parent_pid)
    for process in [*parent.children(recursive=True), *([parent] if include_parent else [])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
