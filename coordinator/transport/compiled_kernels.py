"""Bounds what a worker reports of the kernels that its engine compiled during the run."""

from collections.abc import Iterable
from dataclasses import dataclass

from common.text import printable
from protos import worker_pb2 as pb

MAX_NUM = 1 << 30
MAX_MS = 1 << 40
MAX_NAMES = 20
MAX_NAME_LEN = 100


@dataclass(frozen=True, slots=True)
class KernelCompilations:
    """Compilations during a run; fields as in pb.CompiledKernels."""

    num: int
    num_untimed: int
    ms: int
    names: tuple[str, ...]
    """The first ones, each once."""

    @classmethod
    def of(cls, load: pb.EngineLoad) -> "KernelCompilations | None":
        """Clean the values of another process; None if it does not tell, or values out of bounds."""
        compiled = load.compiled
        if not load.HasField("compiled") or max(compiled.num, compiled.num_untimed) > MAX_NUM:
            return None
        if compiled.ms > MAX_MS:
            return None
        names = tuple(printable(name, MAX_NAME_LEN) for name in compiled.names[:MAX_NAMES])
        return cls(compiled.num, compiled.num_untimed, compiled.ms, names)

    @classmethod
    def total(cls, streams: "Iterable[KernelCompilations | None]") -> "KernelCompilations | None":
        """Add up the streams of one worker; None if none of them is known."""
        known = [one for one in streams if one is not None]
        if not known:
            return None
        names = dict.fromkeys(name for one in known for name in one.names)
        return cls(
            sum(one.num for one in known),
            sum(one.num_untimed for one in known),
            sum(one.ms for one in known),
            tuple(names)[:MAX_NAMES],
        )
