"""Network namespaces as hosts for workers; their links can be cut in either direction.

Each host has one cable, a veth pair, to the namespace of the test, where the coordinator runs. A cut end
drops whatever leaves through it: a queue of length 0. Needs root.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import fleet


@dataclass(frozen=True)
class Host:
    """One namespace and the two ends of its veth pair."""

    name: str
    outside: str
    """Interface in the namespace of the test."""
    inside: str
    """Interface in the host."""
    ip: str

    @property
    def enter(self) -> tuple[str, ...]:
        """Command prefix that runs a program in the namespace."""
        return ("ip", "netns", "exec", self.name)

    def address(self) -> str:
        """Compose host:port for a worker in it."""
        return f"{self.ip}:{fleet.free_port()}"

    def cut(self, *, to_host: bool = False, from_host: bool = False) -> None:
        """Drop packets of one direction or both."""
        for really, end in ((to_host, self.outside), (from_host, self.inside)):
            if really:
                self._tc(end, "replace", "pfifo", "limit", "0")

    def heal(self) -> None:
        """Let all packets through; only an end that was cut has a queue to remove."""
        for end in (self.outside, self.inside):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._tc(end, "del")

    def _tc(self, end: str, verb: str, *kind: str) -> None:
        where = ("-n", self.name) if end == self.inside else ()
        sh("tc", *where, "qdisc", verb, "dev", end, "root", *kind)


def sh(*words: str) -> None:
    """Run a command to its end.

    Raises:
        subprocess.CalledProcessError: It failed; its words are in `stderr`.
    """
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=20)


@contextlib.contextmanager
def hosts(num: int) -> Iterator[list[Host]]:
    """Set up hosts for a block; the test is skipped if the kernel does not permit namespaces."""
    stem = f"tf{os.getpid() % 100_000}"
    # 198.18.0.0/15 is for tests of networks; a /24 for each process that tests here.
    subnet = f"198.{18 + os.getpid() % 2}.{os.getpid() // 2 % 256}"
    made = [Host(f"{stem}-{i}", f"{stem}o{i}", f"{stem}i{i}", f"{subnet}.{4 * i + 2}") for i in range(num)]
    try:
        for index, host in enumerate(made):
            _set_up(host, f"{subnet}.{4 * index + 1}")
        yield made
    finally:
        for host in made:
            for words in (("ip", "link", "del", host.outside), ("ip", "netns", "del", host.name)):
                with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
                    sh(*words)


def wire(first: Host, second: Host) -> tuple[str, str]:
    """Connect two hosts by a cable of their own, which ends with them; returns the address of each."""
    subnet = first.ip.rpartition(".")[0]
    # The last /30 of the subnet; `hosts` gives the first ones.
    ends = [(first, f"{first.inside}w", f"{subnet}.253"), (second, f"{second.inside}w", f"{subnet}.254")]
    (_, here, _), (_, there, _) = ends
    sh(
        *("ip", "-n", first.name, "link", "add", here, "type", "veth"),
        *("peer", "name", there, "netns", second.name),
    )
    for host, end, address in ends:
        sh("ip", "-n", host.name, "addr", "add", f"{address}/30", "dev", end)
        sh("ip", "-n", host.name, "link", "set", end, "up")
    return ends[0][2], ends[1][2]


def _set_up(host: Host, gateway: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        sh("ip", "netns", "add", host.name)
        sh(
            *("ip", "link", "add", host.outside, "type", "veth"),
            *("peer", "name", host.inside, "netns", host.name),
        )
        sh("ip", "addr", "add", f"{gateway}/30", "dev", host.outside)
        sh("ip", "link", "set", host.outside, "up")
        sh("ip", "-n", host.name, "addr", "add", f"{host.ip}/30", "dev", host.inside)
        sh("ip", "-n", host.name, "link", "set", host.inside, "up")
        sh("ip", "-n", host.name, "link", "set", "lo", "up")
        # Where this cannot be had a cut cannot be made.
        host.cut(to_host=True, from_host=True)
        host.heal()
    except FileNotFoundError as error:
        pytest.skip(f"network namespaces need {error.filename}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not to be had here: {error.cmd}: {error.stderr.strip()}")
