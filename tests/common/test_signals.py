"""Signals of a program: which are handled, and what a process inherits."""

import signal
from collections.abc import Iterator

import pytest

from common.signals import SIGNALS, Interrupted, Interrupts, handled_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore this process's handlers."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    yield
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
