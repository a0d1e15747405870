"""Signals of a program: which are handled, and what a process inherits."""

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.signals import SIGNALS, Interrupted, Interrupts, handled_signals, run_until_signal
from tests.forked import end_of, main_of


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore this process's handlers."""
    hook = sys.unraisablehook
    before = {signum: signal.getsignal(signum) for signum in (*SIGNALS, signal.SIGALRM)}
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    yield
    sys.unraisablehook = hook
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("name", "code"), [("SIGHUP", 129), ("SIGINT", 130), ("SIGQUIT", 131), ("SIGTERM", 143)]
)
def test_each_signal_interrupts_with_its_exit_code(name: str, code: int) -> None:
    """The first signal raises an exception that names it, with exit code 128 plus its number."""
    Interrupts()
    with pytest.raises(Interrupted, match=f"^{name}$") as interruption:
        signal.raise_signal(signal.Signals[name])
    assert code == interruption.value.exit_code


@pytest.mark.parametrize("ignored", SIGNALS)
def test_ignored_signal_stays_ignored(ignored: signal.Signals) -> None:
    """A signal that is ignored when the program starts gets no handler; the others do."""
    signal.signal(ignored, signal.SIG_IGN)
    Interrupts()
    signal.raise_signal(ignored)
    assert signal.SIG_IGN is signal.getsignal(ignored)
    assert set(SIGNALS) - {ignored} == set(handled_signals())
    others = [signal.getsignal(signum) for signum in handled_signals()]
    assert signal.SIG_DFL not in others


class SignalledWhileFinalized:
    """An object during whose end SIGTERM arrives, as during a garbage collection."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_finalizer_is_not_lost() -> None:
    """Python drops the exception that the handler raises there; it is raised again outside."""
    Interrupts()
    with pytest.raises(Interrupted, match=r"^SIGTERM$"):
        wait_after(SignalledWhileFinalized())


def wait_after(_: object) -> None:
    """Let go of an object, and wait: an exception ends the wait."""
    del _
    threading.Event().wait(60)


def test_held_signals_are_found_by_a_look() -> None:
    """A loop that must not be interrupted anywhere holds the exception, and raises it where it looks."""
    interrupts = Interrupts()
    interrupts.hold()
    interrupts.check()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"^SIGINT$"):
        interrupts.check()
    with pytest.raises(Interrupted, match=r"^SIGINT$"):
        interrupts.resume()


def test_a_signal_in_a_callback_of_an_event_loop_is_not_lost() -> None:
    """Asyncio drops an exception of a callback: the work is cancelled, and the signal raised outside."""

    async def work() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGHUP)
        await asyncio.sleep(60)

    Interrupts()
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(Interrupted, match=r"^SIGHUP$"):
        run_until_signal(work())
    assert before == signal.getsignal(signal.SIGHUP)


def test_work_without_a_signal_returns_its_result() -> None:
    """The result comes back, and the handlers are those of before."""

    async def work() -> int:
        return 5

    Interrupts()
    before = [signal.getsignal(signum) for signum in SIGNALS]
    assert 5 == run_until_signal(work())
    assert before == [signal.getsignal(signum) for signum in SIGNALS]


LATER = """
import signal, sys, time
from common.signals import Interrupted, Interrupts

Interrupts(patience_s=float(sys.argv[1]))
try:
    signal.raise_signal(signal.SIGINT)
except Interrupted:
    time.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    print("cleaned up", flush=True)
"""


@pytest.mark.parametrize(("patience_s", "code", "out"), [("60", 0, "cleaned up\n"), ("0", -15, "")])
def test_a_later_signal_waits_for_the_clean_up(tmp_path: Path, patience_s: str, code: int, out: str) -> None:
    """Within the patience it does nothing; after it the program ends at once, by that signal."""
    ended = end_of(main_of(LATER), [patience_s], tmp_path)
    assert (code, out) == (ended.code, ended.stdout), ended.stderr


LATER_AT_WORK = """
import signal, time
from common.signals import Interrupts, run_until_signal

async def work():
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    print("survived", flush=True)

Interrupts(patience_s=0)
run_until_signal(work())
"""


def test_a_later_signal_ends_work_that_does_not_end(tmp_path: Path) -> None:
    """A coroutine that does not react to its cancellation does not keep the program: SIGTERM, number 15."""
    ended = end_of(main_of(LATER_AT_WORK), [], tmp_path)
    assert (-15, "") == (ended.code, ended.stdout), ended.stderr
