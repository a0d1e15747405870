"""Program that runs a graded program inside the sandbox; imports the standard library alone.

It gets the source, then one test's input after another, never an expected output: the comparison is made
outside, so nothing that a program changes in this process gives it a verdict. A program finds here what
LiveCodeBench's own evaluator (release_v6) gives it: names imported beforehand, a function around a program
that reads stdin, replaced stdin and stdout, and no functions of `os` that change files or processes.
Messages both ways are frames: one byte of kind, four of length, then the content.
"""

import json
import os
import re
import resource
import signal
import struct
import sys
import threading
from collections import UserDict, UserList, UserString
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, EMFILE, ENFILE, ENOMEM, ENOSPC
from functools import partial
from io import StringIO
from types import MappingProxyType, ModuleType, TracebackType
from typing import Any, NoReturn

HEADER = struct.Struct("<cI")
# Kinds of frames from this program.
READY, LOADED, OUTPUT, VALUE, FAILED, LIMITED = b"R", b"D", b"O", b"V", b"F", b"L"

_STAR_IMPORTS = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
_PRELUDE = "".join(
    [
        *(f"from {name} import *\n" for name in _STAR_IMPORTS),
        *(f"import {name}\n" for name in _STAR_IMPORTS if name not in ("builtins", "typing")),
        "sys.setrecursionlimit(50000)\n",
    ]
)
# Functions that the official evaluator replaces by None, and modules that it makes unimportable.
_REMOVED = {
    "os": (
        *("kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork", "forkpty"),
        *("killpg", "rename", "renames", "truncate", "replace", "unlink", "fchmod", "fchown", "chmod"),
        *("chown", "chroot", "lchflags", "lchmod", "lchown", "getcwd", "chdir"),
    ),
    "shutil": ("rmtree", "move", "chown"),
    "subprocess": ("Popen",),
    "builtins": ("quit", "help"),
}
_UNIMPORTABLE = ("ipdb", "joblib", "resource", "psutil", "tkinter")
_MAX_INT_DIGITS = 50_000
_RESERVED_BYTES = 4 << 20
"""Kept for the report of a program that has used all its memory."""
_LIMIT_ERRNOS = (EDQUOT, EFBIG, EMFILE, ENFILE, ENOMEM, ENOSPC)


class TimeLimitException(Exception):
    """The time of a test is over; programs may catch it, as with the official evaluator."""


class LimitError(Exception):
    """The program reached a limit of the sandbox."""


class CapturedOutput(StringIO):
    """Replaces stdout during a test; drops what exceeds the limit."""

    def __init__(self, max_chars: int) -> None:
        super().__init__()
        self._left = max_chars
        self.exceeded = False

    def close(self, _: object) -> None:  # type: ignore[override]
        """Require an argument, as the official replacement of stdout does."""

    def write(self, text: str, /) -> int:
        """Keep text while there is room."""
        size = len(text)
        if size > self._left:
            self.exceeded = True
            return size
        self._left -= size
        return super().write(text)


class InputBuffer:
    """The bytes of a test's input, as `sys.stdin.buffer` of the official evaluator gives them."""

    def __init__(self, text: str) -> None:
        self._content = text.encode()

    def read(self, *_: object) -> bytes:
        """Return everything, each time."""
        return self._content

    def readline(self, *_: object) -> bytes:
        """Return the first line, each time."""
        return self._content.split(b"\n")[0] + b"\n"


class ProgramInput:
    """Replaces stdin during a test: `read` and `readlines` return everything, `readline` advances."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._stream = StringIO(text)
        self.buffer = InputBuffer(text)

    def read(self, *_: object) -> str:
        """Return everything, each time."""
        return self._text

    def readline(self, *args: int) -> str:
        """Return the next line."""
        return self._stream.readline(*args)

    def readlines(self, *_: object) -> list[str]:
        """Return every line without its end."""
        return self._text.split("\n")

    def __getattr__(self, name: str) -> Any:
        """Answer everything else as a text stream does."""
        return getattr(self._stream, name)


class Connection:
    """Frames to and from the grader, over one socket."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Send one frame."""
        left = memoryview(HEADER.pack(kind, len(content)) + content)
        while left:
            left = left[os.write(self._fd, left) :]

    def receive(self) -> bytes:
        """Wait for the content of the next frame; the process ends if there will be none."""
        _, size = HEADER.unpack(self._read(HEADER.size))
        return self._read(size)

    def _read(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            part = os.read(self._fd, min(left, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def _main() -> None:
    connection = Connection(os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    connection.send(READY)
    setup = json.loads(connection.receive())
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for kind, bound in setup["rlimits"]:
        resource.setrlimit(kind, (bound, bound))
    sys.path.extend(setup["package_dirs"])
    sys.set_int_max_str_digits(_MAX_INT_DIGITS)
    _import_beforehand(setup["source"])
    _remove_functions()
    signal.signal(signal.SIGALRM, _raise_timeout)
    reserve = bytearray(_RESERVED_BYTES)
    try:
        _run_tests(connection, setup)
    except BaseException as error:  # noqa: BLE001 - whatever the program raises is its verdict
        del reserve
        _report(connection, error)
    os._exit(0)


def _run_tests(connection: Connection, setup: dict[str, Any]) -> None:
    timeout_s, max_bytes = setup["test_timeout_s"], setup["output_bytes"]
    is_call = setup["fn_name"] is not None
    source = f"{_PRELUDE}\n\n{setup['source']}" if is_call else wrap_in_function(setup["source"])
    with _time_limit(timeout_s):
        solution = _load(source)
    method = getattr(solution, setup["fn_name"] if is_call else "wrapped_function")
    connection.send(LOADED)
    while True:
        test_input = connection.receive().decode("utf-8", "surrogatepass")
        if is_call:
            connection.send(VALUE, _call(method, test_input, timeout_s))
        else:
            connection.send(OUTPUT, _run_on_stdin(method, test_input, timeout_s, max_bytes))


def _report(connection: Connection, error: BaseException) -> None:
    """Send the error that ended the program."""
    kind = LIMITED if _is_limit(error) else FAILED
    text = str(error) if isinstance(error, LimitError) else type(error).__name__
    connection.send(kind, text.encode("utf-8", "replace")[:200])


def _is_limit(error: BaseException) -> bool:
    """Return whether a limit of the sandbox caused an exception."""
    if isinstance(error, OSError):
        return error.errno in _LIMIT_ERRNOS
    # Python 3.11 raises SystemError where it finds no memory for a frame.
    is_memory = isinstance(error, MemoryError | SystemError)
    return is_memory or isinstance(error, LimitError) or _is_refused_thread(error.__traceback__)


def _is_refused_thread(traceback: TracebackType | None) -> bool:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or traceback.tb_frame.f_code is not threading.Thread.start.__code__:
        return False
    return not traceback.tb_frame.f_locals["self"].is_alive()


def _import_beforehand(source: str) -> None:
    """Import modules whose import fails once functions of `os` are removed.

    The official evaluator has always imported them; here only programs that may need them pay some 0.1 s. No
    other module of the standard library is concerned.
    """
    statements = re.findall(r"(?:^|;)[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([^;#\n]+))", source, re.MULTILINE)
    imported = re.findall(r"(?:^|,)[ \t]*(\w+)", "\n".join(map("".join, statements)), re.MULTILINE)
    if "numpy" in source or any(name not in sys.stdlib_module_names for name in imported):
        with suppress(ImportError):
            import numpy  # noqa: F401
    if "multiprocessing" in source or "concurrent" in source:
        import multiprocessing.managers  # noqa: F401


def _remove_functions() -> None:
    """Take away what the official evaluator takes away."""
    import _sitebuiltins
    import builtins
    import shutil
    import subprocess

    builtins.exit = _sitebuiltins.Quitter("exit", "end of file")
    for module in (os, shutil, subprocess, builtins):
        for name in _REMOVED[module.__name__]:
            setattr(module, name, None)
    for name in _UNIMPORTABLE:
        sys.modules[name] = None  # type: ignore[assignment]


def _raise_timeout(*_: object) -> NoReturn:
    # The official evaluator prints a line here too: a program on stdin that catches the exception is wrong.
    print("the time of the test is over")  # noqa: T201
    raise TimeLimitException


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _load(source: str) -> object:
    """Execute a program's definitions; one that has a class Solution is an instance of it."""
    try:
        code = compile(source, "<string>", "exec")
    except MemoryError:
        raise SyntaxError("nested too deep for the compiler") from None
    module = ModuleType("program")
    exec(code, module.__dict__)
    return module.Solution() if "class Solution" in source else module


def wrap_in_function(source: str) -> str:
    """Make a function of a program that reads stdin: imports stay above it, the rest is its body.

    Source that the parser refuses, or that cannot be written again from its tree, stays as it is.
    """
    import ast

    with suppress(Exception):
        source = _without_main_guard(source)
    with suppress(Exception):
        body = ast.parse(source).body
        imports: list[ast.stmt] = [part for part in body if isinstance(part, ast.Import | ast.ImportFrom)]
        others = [part for part in body if not isinstance(part, ast.Import | ast.ImportFrom)]
        function = ast.parse("def wrapped_function(): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.body = others
        return f"{_PRELUDE}\n{ast.unparse(ast.Module(imports, []))}\n{ast.unparse(function)}"
    return source


def _without_main_guard(source: str) -> str:
    """Replace a closing `if __name__ == "__main__"` by its body."""
    import ast

    body = ast.parse(source).body
    guard = body[-1]
    if not isinstance(guard, ast.If) or ast.unparse(guard.test) != "__name__ == '__main__'":
        return source
    return "\n".join(ast.unparse(ast.Module(part, [])) for part in (body[:-1], guard.body))


def _call(method: Callable[..., object], test_input: str, timeout_s: float) -> bytes:
    """Call a function with one argument a line, each JSON."""
    args = [json.loads(line) for line in test_input.split("\n")]
    with _time_limit(timeout_s):
        value = method(*args)
    # The official comparison takes a tuple for a list, but not a tuple inside.
    return json.dumps(encoded(list(value) if isinstance(value, tuple) else value)).encode()


def _run_on_stdin(method: Callable[[], object], test_input: str, timeout_s: float, max_chars: int) -> bytes:
    """Run a program on a test's input and return what it printed."""
    output = CapturedOutput(max_chars)
    stdout, sys.stdout = sys.stdout, output
    try:
        with _time_limit(timeout_s), _replaced_input(test_input), suppress(SystemExit):
            method()
    finally:
        sys.stdout = stdout
    if output.exceeded:
        raise LimitError(f"more than {max_chars} bytes of output")
    return output.getvalue().encode("utf-8", "surrogatepass")


@contextmanager
def _replaced_input(text: str) -> Iterator[None]:
    """Replace stdin and `builtins.open`; the process's own stdin, which a program may keep, reads too."""
    import builtins

    lines = iter(text.split("\n"))
    own_stdin, own_open = sys.stdin, builtins.open
    replaced = {
        "read": lambda *_: text,
        "readlines": lambda *_: text.split("\n"),
        "readline": lambda *_: next(lines),
    }
    vars(own_stdin).update(replaced)
    sys.stdin = ProgramInput(text)
    builtins.open = partial(_open_input, text)
    try:
        yield
    finally:
        builtins.open, sys.stdin = own_open, own_stdin
        for name in replaced:
            vars(own_stdin).pop(name, None)


def _open_input(text: str, *args: object, **kwargs: object) -> Any:
    from unittest.mock import mock_open  # takes 60 ms, and few programs get here

    return mock_open(read_data=text)(*args, **kwargs)


def encoded(value: object) -> Any:
    """Encode a result for JSON so that the grader can compare it as Python would.

    Expected results are JSON, so a type that equals no such value is only named. A class that a program
    defines does not take part in the comparison: an object that merely claims to be equal is not.
    """
    if isinstance(value, UserDict | UserList | UserString):
        value = value.data
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return ["l", *map(encoded, list.__iter__(value))]
    if isinstance(value, dict | MappingProxyType):
        items = dict.items(value) if isinstance(value, dict) else value.items()
        return ["d", *([encoded(key), encoded(item)] for key, item in items)]
    return _encoded_number(value)


def _encoded_number(value: object) -> Any:
    """Encode a number, also one of numpy, and an array of one number."""
    kind = type(value)
    if isinstance(value, complex) and not value.imag:
        value = value.real
    if isinstance(value, int):
        return ["i", hex(int.__index__(value))]
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if kind.__module__ in ("fractions", "decimal") and hasattr(value, "as_integer_ratio"):
        with suppress(ValueError, OverflowError):  # no ratio of infinity
            return ["r", *map(hex, value.as_integer_ratio())]
    if kind.__module__ == "numpy" and getattr(value, "size", 0) == 1:
        item = encoded(value.item())  # type: ignore[attr-defined]  # checked above
        return ["a", item] if getattr(value, "ndim", 0) else item
    return ["o", kind.__name__]


if __name__ == "__main__":
    _main()
