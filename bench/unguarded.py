"""The guards of the product, by name: what each does, and the code that it is.

The product has no switch that turns its safety off; `bench.switched` puts one into the memory of its own
process. A guard whose code has moved, is gone, or takes other arguments ends the benchmark with its name.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.recording.jitter import Pulse
from coordinator.scheduling.request_table import RequestTable
from protos.columns import digest_of

ALL, NONE = "all", "none"
Function = Callable[..., Any]


class GuardGone(RuntimeError):
    """What a patch would replace is not there, or is another kind of thing; the message names it."""


class Patch(NamedTuple):
    """One function that is replaced."""

    target: str
    """module:name or module:Class.name."""
    replacement: Function


class Guard(NamedTuple):
    """One thing that the product does so that a run can neither hang nor lie."""

    what: str
    patches: tuple[Patch, ...]


class AnyDigest(int):
    """A digest that is taken for the digest of anything."""

    def __ne__(self, other: object) -> bool:
        """Differ from nothing; Python asks a subclass first, on whichever side it stands."""
        return False


_NO_DIGEST = AnyDigest(0)


def _no_digest(packed: bytes) -> int:  # noqa: ARG001
    return _NO_DIGEST


def _true_digest_unchecked(packed: bytes) -> int:
    return AnyDigest(digest_of(packed))


def _no_look(self: object) -> None:
    """Look at no worker."""


def _no_beat(self: object, limits: object) -> None:
    """Neither ping a worker nor count its silence."""


def _no_overdue(self: object) -> None:
    """Look for no query that is too old."""


def _no_answers(self: RequestTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Free the slots, whatever is in them."""
    self._free += self._ended
    self._ended = []
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)


def _no_keep(self: object, samples: object, counts: object, tokens: object) -> None:
    """Keep no finished answer."""


def _no_flush(self: object) -> None:
    """Write nothing to the disk."""


def _no_tick(self: Pulse, loop: Any) -> None:
    """Measure nothing, and come again."""
    with self._lock:
        if self._running:
            self._schedule(loop)


def _no_collection(self: Pulse, phase: str, _: dict[str, int]) -> None:  # noqa: ARG001
    # A collection that began while it was measured has no end.
    self._collection_began_ns = 0


GUARDS = {
    "digest": Guard(
        "XXH3-64 of every frame, made and checked",
        (Patch("protos.columns:digest_of", _no_digest),),
    ),
    "pings": Guard(
        "each second: a ping to each worker, whether one is silent or stalled, whether there is any",
        (
            Patch("coordinator.transport.fleet:Fleet.look", _no_look),
            Patch("coordinator.transport.stream:Stream.beat", _no_beat),
        ),
    ),
    "overdue": Guard(
        "each second: queries past their deadline",
        (Patch("coordinator.scheduling.event_loop:EventLoop._look_for_overdue", _no_overdue),),
    ),
    "outputs": Guard(
        "every finished answer copied, and written to the disk",
        (
            Patch("coordinator.scheduling.request_table:RequestTable.take_answers", _no_answers),
            Patch("coordinator.recording.outputs:Outputs.keep", _no_keep),
            Patch("coordinator.recording.outputs:Outputs.flush", _no_flush),
        ),
    ),
    "pulse": Guard(
        "garbage collections, lateness of the event loop and steps of the clock",
        (
            Patch("coordinator.recording.jitter:Pulse._tick", _no_tick),
            Patch("coordinator.recording.jitter:Pulse._on_collection", _no_collection),
        ),
    ),
}
WORKERS_PATCH = Patch("protos.columns:digest_of", _true_digest_unchecked)
"""For a worker whose coordinator sends some digests and not others: true digests made, none checked."""


def guards_of(names: str) -> list[str]:
    """List the guards that are named with commas, `all` or `none`.

    Raises:
        ValueError: Names the guard that does not exist.
    """
    if names == NONE:
        return []
    chosen = list(GUARDS) if names == ALL else names.split(",")
    for name in chosen:
        if name not in GUARDS:
            raise ValueError(f"{name!r} is none of {', '.join((ALL, NONE, *GUARDS))}")
    return chosen


def find(patch: Patch) -> tuple[object, str, Function]:
    """Find whose name would be replaced.

    Returns:
        The module or class, the name in it, and what it names.

    Raises:
        GuardGone: There is no such name, or what it names cannot be replaced by this.
    """
    module, _, path = patch.target.partition(":")
    *parents, name = path.split(".")
    try:
        owner: object = importlib.import_module(module)
        for parent in parents:
            owner = vars(owner)[parent]
        original = vars(owner)[name]
    except (ModuleNotFoundError, KeyError) as error:
        raise GuardGone(f"{patch.target} does not exist: mend bench/unguarded.py") from error
    if _shape(original) != _shape(patch.replacement):
        raise GuardGone(
            f"{patch.target} is {_shape(original)}, its replacement {_shape(patch.replacement)}: "
            "mend bench/unguarded.py"
        )
    return owner, name, original


def _shape(thing: object) -> str:
    """Say how a thing is called, or of what type it is."""
    if not callable(thing):
        return type(thing).__name__
    kind = "async function" if inspect.iscoroutinefunction(thing) else "function"
    return f"{kind} of {', '.join(inspect.signature(thing).parameters)}"
