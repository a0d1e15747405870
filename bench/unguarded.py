"""`python -m bench.unguarded coordinator|worker GUARD[,GUARD...] FLAGS`: the product without some guards.

The product has no switch that turns its safety off. This replaces guards in the memory of a process of its
own and then runs the product's own main; the flags are the product's. For measuring, never for a result.
A guard whose code has moved, is gone, or takes other arguments ends the process: exit code 1 and the name.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos import frames
from protos import worker_pb2 as pb

ROLES = ("coordinator", "worker")
ALL = "all"
FOREVER_S = 1e6


class GuardGone(RuntimeError):
    """What a patch would replace is not there, or is another kind of thing; the message names it."""


class Patch(NamedTuple):
    """One name that is replaced."""

    target: str
    """module:name or module:Class.name; the module's room decides which process it is for."""
    replacement: object

    def applies_to(self, role: str) -> bool:
        """Say whether a process of this role has it: its own room's names, and the wire's."""
        return self.target.partition(".")[0] in (role, "protos")


class Guard(NamedTuple):
    """One thing that the product does so that a run can neither hang nor lie."""

    what: str
    patches: tuple[Patch, ...]
    in_all: bool = True
    """False: no fault tolerance but memory safety, which no harness could leave out; measured alone."""


def _no_tokens_digest(frame: object) -> int:  # noqa: ARG001 - the guard's arguments
    return 0


def _no_submit_digest(submit: object) -> int:  # noqa: ARG001
    return 0


def _view_tokens(frame: pb.Tokens, sequence: int) -> frames.TokenColumns:
    """Take a frame's columns as they are; sequence and digest are another guard's."""
    if frame.sequence != sequence:
        raise frames.FrameError(f"tokens: frame {frame.sequence} where {sequence} belongs")
    if frame.digest != frames._tokens_digest(frame):
        raise frames.FrameError("tokens: the digest is not that of the columns")
    return frames.TokenColumns(
        np.frombuffer(frame.requests, "<u8"),
        np.frombuffer(frame.counts, "<u4") if frame.counts else None,
        np.frombuffer(frame.tokens, "<i4"),
        np.frombuffer(frame.finished_rows, "<u4"),
        np.frombuffer(frame.finish_reasons, "<u1"),
        frame.produced_ns,
    )


def _no_rows_check(self: object, worker: int, requests: object, slots: object) -> None:
    """Believe that a worker holds what it sends tokens of."""


def _no_answers(self: object, slots: object) -> tuple[NDArray[np.int64], NDArray[np.int32]]:  # noqa: ARG001
    return np.zeros(0, np.int64), np.zeros(0, np.int32)


def _no_keep(self: object, samples: object, counts: object, tokens: object) -> None:
    """Keep no finished answer."""


def _no_flush(self: object) -> None:
    """Write nothing to the disk."""


def _no_pulse(self: object, loop: object) -> None:
    """Measure no pause and no clock."""


async def _no_look(self: object, flush: Callable[[], None]) -> None:
    """Look for nothing."""


# What stays on every side: the comparison of a frame's sequence number, and a flag set per message.
GUARDS = {
    "digest": Guard(
        "XXH3-64 of every frame, at both ends",
        (
            Patch("protos.frames:_tokens_digest", _no_tokens_digest),
            Patch("protos.frames:_submit_digest", _no_submit_digest),
        ),
    ),
    "bounds": Guard(
        "columns checked against each other, rows against what the worker holds",
        (
            Patch("coordinator.stream:unpack_tokens", _view_tokens),
            Patch("coordinator.ledger:Ledger._check_rows", _no_rows_check),
        ),
        in_all=False,
    ),
    "pings": Guard(
        "a ping a second to each worker, and whether it is silent or stalled",
        (Patch("coordinator.stream:PING_INTERVAL_S", FOREVER_S),),
    ),
    "overdue": Guard(
        "once a second: queries past their deadline, a fleet without workers",
        (Patch("coordinator.dispatcher:Dispatcher._look", _no_look),),
    ),
    "outputs": Guard(
        "every finished answer copied, and written to the disk",
        (
            Patch("coordinator.ledger:Ledger.answers", _no_answers),
            Patch("coordinator.outputs:Outputs.keep", _no_keep),
            Patch("coordinator.outputs:Outputs.flush", _no_flush),
        ),
    ),
    "pulse": Guard(
        "garbage collections, lateness of the event loop and steps of the clock",
        (Patch("coordinator.pulse:Pulse.start", _no_pulse),),
    ),
}


def main(argv: list[str]) -> int:
    """Switch guards off and run the product's main; 2: no such role or guard, 1: it has moved."""
    try:
        role, names, flags = argv[0], argv[1], argv[2:]
        for patch in patches_of(role, names):
            replace(patch)
    except IndexError:
        return _refuse("give a role, guards and the product's flags", 2)
    except ValueError as error:
        return _refuse(str(error), 2)
    except GuardGone as error:
        return _refuse(str(error), 1)
    print(f"bench.unguarded: {role} without {names}", file=sys.stderr)  # noqa: T201 - no result
    exit_code: int = importlib.import_module(f"{role}.__main__").main(flags)
    return exit_code


def patches_of(role: str, names: str) -> list[Patch]:
    """List what a process of a role replaces to be without guards, named with commas, or `all`.

    Raises:
        ValueError: Names the role or the guard that does not exist.
    """
    if role not in ROLES:
        raise ValueError(f"{role!r} is none of {', '.join(ROLES)}")
    chosen = [name for name, guard in GUARDS.items() if guard.in_all]
    if names != ALL:
        chosen = names.split(",")
    for name in chosen:
        if name not in GUARDS:
            raise ValueError(f"{name!r} is none of {', '.join((ALL, *GUARDS))}")
    return [patch for name in chosen for patch in GUARDS[name].patches if patch.applies_to(role)]


def replace(patch: Patch) -> None:
    """Put the replacement where the name is.

    Raises:
        GuardGone: See `find`.
    """
    owner, name = find(patch)
    setattr(owner, name, patch.replacement)


def find(patch: Patch) -> tuple[object, str]:
    """Find whose name would be replaced.

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
    return owner, name


def _shape(thing: object) -> str:
    """Say how a thing is called, or of what type it is."""
    if not callable(thing):
        return type(thing).__name__
    kind = "async function" if inspect.iscoroutinefunction(thing) else "function"
    return f"{kind} of {', '.join(inspect.signature(thing).parameters)}"


def _refuse(reason: str, exit_code: int) -> int:
    print(f"bench.unguarded: {reason}", file=sys.stderr)  # noqa: T201 - no result
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
