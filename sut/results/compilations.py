"""Kernels that engines compiled inside a run, as the verdict names them."""

from collections.abc import Sequence
from typing import NamedTuple

MAX_NAMED_KERNELS = 10


class WorkerCompilations(NamedTuple):
    """Kernels that the engine of one worker compiled during the run."""

    address: str
    num: int
    num_untimed: int
    """Compilations without a duration."""
    ms: int
    """Duration in the process that compiled longest."""
    names: tuple[str, ...]


def describe(workers: Sequence[WorkerCompilations], num_workers: int) -> str:
    """Say in one line how many kernels were compiled, how long that took, and which.

    Args:
        workers: Those whose engines tell.
        num_workers: All of the run.
    """
    unknown = num_workers - len(workers)
    parts = [_describe_known(workers)] if workers else []
    if unknown or not parts:
        parts.append(f"not known of {unknown} of {num_workers} workers: their engines do not tell")
    return "; ".join(parts)


def _describe_known(workers: Sequence[WorkerCompilations]) -> str:
    compiling = [worker for worker in workers if worker.num]
    if not compiling:
        return "no kernel was compiled inside the run"
    names = list(dict.fromkeys(name for worker in compiling for name in worker.names))
    longest = max(compiling, key=lambda worker: worker.ms)
    least = "at least " if longest.num_untimed else ""
    more = ", ..." if len(names) > MAX_NAMED_KERNELS else ""
    num = sum(worker.num for worker in compiling)
    return (
        f"{num} kernels were compiled inside the run on {len(compiling)} of {len(workers)} workers, "
        f"for {least}{longest.ms} ms on {longest.address}: "
        f"{', '.join(names[:MAX_NAMED_KERNELS])}{more}"
    )
