"""Run the process that reads a data set's file, within its limits, and take over what it read."""

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from common.child_process import child_process
from common.text import printable
from sut.dataset_file import MAX_LINE_LEN, READ_TIMEOUT_S, REFUSED
from sut.prompt_columns import UnreadableError

_MODULE = "sut.dataset_file"
# Time to start the interpreter, beside the time that the process gives itself.
_START_S = 30
# Time to end after the last word.
_END_S = 30
# Arrow's other allocators reserve address space that no limit could tell from use.
_VARIABLES = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
_CHUNK_BYTES = 1 << 12


def read_in_process(path: Path, max_samples: int | None, timeout_s: float = READ_TIMEOUT_S) -> pa.RecordBatch:
    """Read a file in a separate process.

    Returns:
        One batch: column `prompt`, a list of int32 a row; its schema's metadata has the facts.

    Raises:
        UnreadableError: The file is no data set, or reading it ended the process or took too long.
    """
    argv = [os.fspath(path), *([] if max_samples is None else [str(max_samples)])]
    # A file in memory: the process never waits for this one to take its output.
    with open(os.memfd_create("prompts"), "w+b") as prompts:
        with child_process(
            _MODULE, argv, _VARIABLES, stdout=prompts.fileno(), stderr=subprocess.PIPE
        ) as process:
            line, code = _wait(process, timeout_s)
        if code == REFUSED and line:
            raise UnreadableError(line)
        if code != 0:
            raise UnreadableError(f"is damaged or hostile: reading it ended the process with {_name(code)}")
        prompts.seek(0)
        batch = pa.ipc.open_stream(pa.py_buffer(prompts.read())).read_next_batch()
    # Arrow itself does not check offsets.
    batch.validate(full=True)
    return batch


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[str, int]:
    """Return the last line that the process says, and its exit code.

    A library may have spoken before: Python itself reports some objects of a damaged pickle.
    """
    assert process.stderr is not None
    deadline_s = time.monotonic() + timeout_s + _START_S
    content, chunk = b"", b"more"
    with suppress(subprocess.TimeoutExpired):
        while select.select([process.stderr], [], [], max(deadline_s - time.monotonic(), 0))[0] and chunk:
            chunk = os.read(process.stderr.fileno(), _CHUNK_BYTES)
            content = (content + chunk)[-_CHUNK_BYTES:]
        code = process.wait(_END_S if not chunk else 0)
        lines = content.decode(errors="replace").splitlines() or [""]
        return printable(lines[-1], MAX_LINE_LEN), code
    raise UnreadableError(f"cannot be read within {timeout_s:.0f} s")


def _name(code: int) -> str:
    """Name an exit code."""
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"
