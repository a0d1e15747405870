"""Hostile programs: none leaves its sandbox, none decides its own verdict, and each verdict is as derived."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sut.results.code_grading.program import GradingOptions
from tests.sut.code_grading.graded import LIMITS, SHORT_LIMITS, question, verdicts

# Two tests, so that a program which spoils the first cannot be helped by the end of the process.
ECHO = question("echo", None, ("7\n", "7\n"), ("8\n", "8\n"))
ADD = question("add", "add", ("1\n2", "3"))

FORGED = """
import gc
runner = [item for item in gc.get_objects() if type(item).__name__ == "Connection"][0]
"""
HASHABLE_LIST = """
from collections import UserList
class List(UserList):
    def __hash__(self): return 1
"""
# Of each program: source and the outcome that follows from the rules. `failed` is the program's own doing,
# `ungraded` a limit of ours. Those that are late use up their time.
LATE = {
    "loops": ("while True: pass", "failed"),
    "sleeps": ("import time\ntime.sleep(100)", "failed"),
    "prints forever, up to its own timeout": ("while True: print('x' * 1000)", "failed"),
    "stops itself": ("import signal\nsignal.raise_signal(signal.SIGSTOP)", "failed"),
}
PROGRAMS = {
    "prints more than the limit": ("print('x' * (2 << 20))", "ungraded"),
    "prints wide characters past the limit": ("print('\\U0001f600' * (1 << 19))", "ungraded"),
    "eats memory": ("kept = []\nwhile True: kept.append(bytearray(1 << 20))", "ungraded"),
    "asks for a terabyte": ("kept = bytearray(1 << 40)", "ungraded"),
    "starts threads without end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        "ungraded",
    ),
    "forks without end": ("import posix\nwhile True: posix.fork()", "failed"),
    "forks by the removed function": ("import os\nos.fork()", "failed"),
    "forks a daemon twice": (
        "import posix\nif not posix.fork():\n    posix.setsid()\n    posix.fork()\nprint(input())",
        "failed",
    ),
    "forks past Python": (
        "import ctypes\nprint(input() if ctypes.CDLL(None).fork() == -1 else 'forked')",
        "passed",
    ),
    "starts a program": (
        "import _posixsubprocess, os\n"
        "print(input()) if not hasattr(os, 'posix_spawn') else os.posix_spawn('/bin/sh', ['sh'], {})",
        "failed",
    ),
    "writes 10 GB": (
        "import os\nfile = os.open('big', os.O_CREAT | os.O_WRONLY)\n"
        "for _ in range(10 << 10): os.write(file, bytes(1 << 20))",
        "ungraded",
    ),
    "writes 10 GB in small files": (
        "import os\nfor number in range(10 << 10):\n"
        "    file = os.open(str(number), os.O_CREAT | os.O_WRONLY)\n"
        "    os.write(file, bytes(1 << 20))\n    os.close(file)",
        "ungraded",
    ),
    "opens files without end": ("import os\nwhile True: os.open('/dev/null', os.O_RDONLY)", "ungraded"),
    "reads /etc/passwd": ("import io\nio.open('/etc/passwd')\nprint(input())", "failed"),
    "reads the host's processes": ("import os\nos.listdir('/proc/1')\nprint(input())", "failed"),
    "writes outside its folder": ("import os\nos.mkdir('/new')\nprint(input())", "failed"),
    "writes into the runner": ("open('/runner.py', 'a')\nprint(input())", "failed"),
    "kills its parent": ("import posix\nposix.kill(posix.getppid(), 9)\nprint(input())", "failed"),
    "ends its parent": ("import posix\nposix.kill(posix.getppid(), 15)\nprint(input())", "passed"),
    "signals every process": ("import posix\nposix.kill(-1, 15)\nprint(input())", "failed"),
    "kills itself": ("import signal\nsignal.raise_signal(signal.SIGKILL)", "failed"),
    "ends with the exit code of a killed process": ("import os\nos._exit(137)", "failed"),
    "ends with an exit code whose last byte is that": ("import os\nos._exit(256 + 137)", "failed"),
    "sends itself the signal of a CPU limit": (
        "import signal\nsignal.raise_signal(signal.SIGXCPU)",
        "failed",
    ),
    "takes memory in files without a name": ("import os\nos.memfd_create('x')\nprint(input())", "failed"),
    "takes memory in shared segments": (
        "import ctypes\nprint(input() if ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0 else 0)",
        "failed",
    ),
    "takes memory in message queues": (
        "import ctypes\nprint(input() if ctypes.CDLL(None).msgget(0, 0o1600) >= 0 else 0)",
        "failed",
    ),
    "crashes": ("import ctypes\nctypes.string_at(0)", "failed"),
    "ends at once": ("import os\nprint(input())\nos._exit(0)", "failed"),
    "closes stdout": ("import os\nos.closerange(1, 3)\nprint(input())", "passed"),
    "closes every file": ("import os\nos.closerange(0, 999)\nprint(input())", "failed"),
    "removes its folder": ("import posix\nposix.rmdir('/tmp')\nprint(input())", "failed"),
    "catches SystemExit": (
        "import sys\ntry:\n    sys.exit()\nexcept SystemExit:\n    print(input())",
        "passed",
    ),
    "recurses past the stack": ("def f(n): return sorted([1], key=lambda _: f(n + 1))\nf(0)", "failed"),
    "unmounts": ("import ctypes\nprint(input() if ctypes.CDLL(None).umount(b'/tmp') else 0)", "passed"),
    "takes a new user namespace": (
        "import ctypes\nprint(input() if ctypes.CDLL(None).unshare(0x10000000) else 0)",
        "passed",
    ),
    "looks for secrets": (
        "import os\nprint(input() if not [name for name in os.environ if 'SECRET' in name] else 0)",
        "passed",
    ),
    "claims to have passed": (FORGED + "runner.send(b'P')", "ungraded"),
    "forges an output": (FORGED + "runner.send(b'O', b'9')", "failed"),
    "forges an endless output": (
        FORGED + "import os\nos.write(runner._fd, b'O' + b'\\xff' * 4)",
        "ungraded",
    ),
    "replaces the runner's functions": (
        "import __main__\n__main__._report = __main__._run_on_stdin = lambda *_: b'passed'",
        "failed",
    ),
    "replaces the text of its output": (
        "import sys\nclass Equal(str):\n    def __eq__(self, other): return True\n"
        "sys.stdout.getvalue = lambda: Equal()",
        "failed",
    ),
}


def test_hostile_programs_get_the_verdicts_that_the_rules_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's own doing is wrong, a limit of the sandbox is ungraded, and what changes nothing passes."""
    monkeypatch.setenv("SECRET_OF_THE_HOST", "7")
    given = {}
    for programs, limits in ((LATE, SHORT_LIMITS), (PROGRAMS, LIMITS)):
        folder = tmp_path / f"{limits.test_timeout_s}"
        folder.mkdir()
        answers = [("echo", source) for source, _ in programs.values()]
        found = verdicts(folder, answers, ECHO, GradingOptions(4, limits=limits))
        given.update(zip(programs, found, strict=True))
    expected = {name: outcome for name, (_, outcome) in (LATE | PROGRAMS).items()}
    assert expected == {name: verdict.outcome.value for name, verdict in given.items()}
    assert all(verdict.reason.isprintable() for verdict in given.values())
    assert [name for name, outcome in expected.items() if outcome == "passed"] == [
        name for name, verdict in given.items() if not verdict.reason
    ]


@pytest.fixture
def listening_port() -> Iterator[int]:
    """A port of this machine that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_program_finds_neither_network_nor_the_file_of_tests(tmp_path: Path, listening_port: int) -> None:
    """A listening port of the host refuses, and the files of the grader are not there."""
    connects = f"import socket\nsocket.create_connection(('127.0.0.1', {listening_port}), 1)\nprint(input())"
    reads = "import io\nio.open({!r})\nprint(input())"
    paths = [
        str(tmp_path / "tests.jsonl"),
        str(tmp_path / "grading.jsonl"),
        __file__,
        os.path.expanduser("~/.ssh"),
    ]
    given = verdicts(tmp_path, [("echo", source) for source in (connects, *map(reads.format, paths))], ECHO)
    assert ["ConnectionRefusedError in test 1 of 2"] + 4 * ["FileNotFoundError in test 1 of 2"] == [
        verdict.reason for verdict in given
    ]


def test_an_object_that_claims_to_be_equal_is_wrong(tmp_path: Path) -> None:
    """The comparison takes place outside: a class of the program has no part in it."""
    programs = [
        ("add", "class Equal:\n    def __eq__(self, other): return True\ndef add(a, b): return Equal()"),
        (
            "add",
            "class Equal(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Equal(5)",
        ),
        ("add", 'import json\njson.dumps = lambda *_: \'["i", "0x4"]\'\ndef add(a, b): return a + b'),
        ("add", "import json\njson.dumps = lambda *_: '[' * 999\ndef add(a, b): return a + b"),
        ("add", "import json\njson.dumps = lambda *_: '[\"x\"]'\ndef add(a, b): return a + b"),
        ("add", "def add(a, b): return [0] * 100_000"),
        ("add", HASHABLE_LIST + "def add(a, b): return {List(): 3}"),
        ("add", "import os\nos.write(3, b'D' + b'\\xff' * 4)\ndef add(a, b): return a + b"),
    ]
    expected = ["failed", "failed", "failed", "failed", "ungraded", "failed", "failed", "ungraded"]
    assert expected == [verdict.outcome for verdict in verdicts(tmp_path, programs, ADD)]


def test_a_result_that_is_nested_too_deeply_to_be_compared_is_not_wrong(tmp_path: Path) -> None:
    """It may be the expected one; a shallow expected result is not equal to any such result."""
    deep = "[" * 900 + "]" * 900
    tests = question("deep", "f", (deep, deep)) + question("flat", "f", (deep, "[]"))
    programs = [(name, "def f(value): return value") for name in ("deep", "flat")]
    assert ["ungraded", "failed"] == [verdict.outcome for verdict in verdicts(tmp_path, programs, tests)]


def test_limits_and_the_process_filter_hold_without_a_sandbox(tmp_path: Path) -> None:
    """A plain process reaches the host's files, but memory, processes and time stay limited."""
    programs = [
        ("echo", source)
        for source in (
            "import io\nio.open('/etc/passwd')\nprint(input())",
            "kept = bytearray(1 << 40)",
            "import posix\nposix.fork()",
            "import signal\nsignal.raise_signal(signal.SIGKILL)",
        )
    ]
    options = GradingOptions(4, sandboxed=False, limits=LIMITS)
    given = verdicts(tmp_path, programs, ECHO, options)
    assert ["passed", "ungraded", "failed", "failed"] == [verdict.outcome for verdict in given]
    (tmp_path / "late").mkdir()
    short = GradingOptions(1, sandboxed=False, limits=SHORT_LIMITS)
    (late,) = verdicts(tmp_path / "late", [("echo", "while True: pass")], ECHO, short)
    assert late.outcome == "failed"
