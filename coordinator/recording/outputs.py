"""Every finished answer that the coordinator received, kept until the verdict.

A run that fails loses nothing that was received: its answers are in `partial_outputs.parquet` or, where
that could not be written, in `outputs.arrows`. A complete run leaves neither: LoadGen has it all.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coordinator.recording.outputs_file import (
    Answers,
    DeadlinePassed,
    StreamFile,
    record_batch,
    write_partial,
)

logger = logging.getLogger(__name__)

STREAM_NAME = "outputs.arrows"
PARTIAL_NAME = "partial_outputs.parquet"
BATCH_TOKENS = 256 * 1024
"""A batch goes to the disk when it holds this many tokens, or at `flush`."""
MAX_WAITING_BYTES = 256 * 1024 * 1024
"""What may wait for the disk in memory: about a minute of a million tokens a second."""
DISCARD_TIMEOUT_S = 5.0
RESERVED_NAME = ".reserved"
RESERVED_BYTES = 1024 * 1024

Parts = list[Answers]


class Outputs:
    """A file of answers, and the thread that writes it; no other thread waits for the disk."""

    def __init__(
        self,
        run_dir: Path,
        on_error: Callable[[str], None],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """Create the file and start the writer.

        Args:
            run_dir: The run's directory, without such a file.
            on_error: Takes, once, one line that names the file and what is wrong; ends the run. From the
                writer's thread, or from that of `keep`.
            max_waiting_bytes: When the disk is given up.

        Raises:
            OSError: The file cannot be created.
        """
        self._run_dir = run_dir
        self._on_error = on_error
        self._max_waiting_bytes = max_waiting_bytes
        self._file = StreamFile(run_dir / STREAM_NAME)
        # Guards what follows, between the dispatcher's thread, the writer's and the one that ends the run.
        self._lock = threading.Lock()
        self._pending: Parts = []
        self._pending_tokens = 0
        self._waiting_bytes = 0
        self._closed = False
        self._failure: str | None = None
        self._num_kept = 0
        self._num_dropped = 0
        self._queue: queue.SimpleQueue[Parts | None] = queue.SimpleQueue()
        # The writer's own until it has ended.
        self._unwritten: list[Parts] = []
        self._discarded = False
        self._thread = threading.Thread(target=self._write, name="outputs", daemon=True)
        self._thread.start()

    def keep(self, samples: NDArray[np.int64], counts: NDArray[np.int64], tokens: NDArray[np.int32]) -> None:
        """Keep finished answers; the arrays must not change any more.

        Args:
            samples: (R,) sample indices.
            counts: (R,) tokens of each answer.
            tokens: (T,) the answers, end to end.

        Thread: dispatcher; does not wait for the disk.
        """
        answers = Answers(samples, counts, tokens)
        with self._lock:
            too_many = self._waiting_bytes + answers.num_bytes > self._max_waiting_bytes
            if too_many or self._closed:
                self._num_dropped += len(samples)
            else:
                self._num_kept += len(samples)
                self._waiting_bytes += answers.num_bytes
                self._pending.append(answers)
                self._pending_tokens += len(tokens)
                if self._pending_tokens >= BATCH_TOKENS:
                    self._hand_over()
        if too_many:
            self._fail(f"more than {self._max_waiting_bytes} bytes of answers wait for the disk")

    def flush(self) -> None:
        """Hand what is pending to the writer; each few seconds.

        Thread: dispatcher; does not wait for the disk.
        """
        with self._lock:
            self._hand_over()

    def discard(self) -> None:
        """End a complete run: stop the writer and delete the file. Bounded; a disk that hangs keeps the file.

        Thread: any, after the last `keep`.
        """
        self._discarded = True
        self._close()
        self._thread.join(DISCARD_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning("%s: not deleted within %g s", self._run_dir / STREAM_NAME, DISCARD_TIMEOUT_S)

    def salvage(
        self,
        samples: NDArray[np.int64],
        counts: NDArray[np.int64],
        tokens: NDArray[np.int32],
        states: Sequence[str],
        deadline_s: float,
    ) -> str:
        """End a failed run: put all that was received into partial_outputs.parquet.

        Args:
            samples: (R,) samples of the requests in flight.
            counts: (R,) tokens of each.
            tokens: (T,) their tokens, end to end.
            states: (R,) "partial" or "waiting"; "complete" for an answer that was never given to `keep`.
            deadline_s: How long this may take, from now; it returns by then, whatever the disk does.

        Returns:
            One line: what lies where, and what is missing.

        Thread: any, after the last `keep`.
        """
        # A tenth is left for what follows a conversion that was too slow.
        deadline_ns = time.monotonic_ns() + int(deadline_s * 0.9e9)
        self._close()
        rest = (Answers(samples, counts, tokens), list(states))
        told: list[str] = []
        thread = threading.Thread(
            target=lambda: told.append(self._convert(rest, deadline_ns)), name="salvage", daemon=True
        )
        thread.start()
        thread.join(max(0.0, deadline_s))
        line = told[0] if told else self._left(f"the disk did not answer within {deadline_s:g} s", states)
        dropped = f"; {self._num_dropped} answers found no room in memory" if self._num_dropped else ""
        return line + dropped

    def _hand_over(self) -> None:
        """Needs the lock."""
        if self._pending:
            self._queue.put(self._pending)
            self._pending, self._pending_tokens = [], 0

    def _close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._hand_over()
                self._queue.put(None)

    def _fail(self, reason: str) -> None:
        """Report the first failure.

        Thread: any.
        """
        with self._lock:
            first = self._failure is None
            self._failure = self._failure or reason
        if first:
            self._on_error(f"{self._run_dir / STREAM_NAME}: {reason}")

    def _write(self) -> None:
        """Thread: the writer's, its whole life."""
        try:
            for parts in iter(self._queue.get, None):
                if self._discarded:
                    continue
                self._unwritten.append(parts)
                if self._failure is None:
                    self._write_waiting()
            if self._discarded:
                self._file.close()
                (self._run_dir / STREAM_NAME).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: %s", self._run_dir / STREAM_NAME, _told(error))
        except Exception as error:
            # The thread's top: an end without a word would lose answers in silence.
            logger.exception("the writer of answers failed")
            self._fail(repr(error))

    def _write_waiting(self) -> None:
        """Write what is unwritten; what does not fit stays, and what comes after it may fit."""
        left = []
        for parts in self._unwritten:
            try:
                self._file.write(record_batch(parts))
            except OSError as error:
                left.append(parts)
                self._fail(_told(error))
            else:
                with self._lock:
                    self._waiting_bytes -= sum(part.num_bytes for part in parts)
        self._unwritten = left

    def _convert(self, rest: tuple[Answers, list[str]], deadline_ns: int) -> str:
        """Thread: its own; may hang with the disk."""
        answers, states = rest
        self._thread.join(max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9))
        if self._thread.is_alive():
            return self._left("the disk does not take what is written", states)
        stream, path = self._run_dir / STREAM_NAME, self._run_dir / PARTIAL_NAME
        batches = self._take_unwritten()
        if states:
            batches.append(record_batch([answers], states))
        try:
            counts = write_partial(path, stream, batches, deadline_ns)
        except DeadlinePassed:
            return self._left(f"{PARTIAL_NAME} was not written in time", states)
        except OSError as error:
            # Its space is free again: what the stream lacks may fit now.
            self._write_waiting()
            return self._left(f"{PARTIAL_NAME}: {_told(error)}", states)
        found = ", ".join(f"{num} {state}" for state, num in sorted(counts.items())) or "no answers"
        if sum(counts.values()) != self._num_kept + len(states):
            return f"{path} holds {found} of {self._num_kept + len(states)}: both it and {stream} are kept"
        self._file.close()
        stream.unlink(missing_ok=True)
        return f"{path} holds {found}"

    def _take_unwritten(self) -> list[pa.RecordBatch]:
        """Make batches of what the writer, which has ended, has left."""
        while not self._queue.empty():
            parts = self._queue.get()
            if parts is not None:
                self._unwritten.append(parts)
        return [
            record_batch(parts, ["complete"] * sum(len(part.samples) for part in parts))
            for parts in self._unwritten
        ]

    def _left(self, why: str, states: Sequence[str]) -> str:
        num_lost = self._num_kept - self._file.num_rows
        lost = f"{num_lost} complete answers and {len(states)} in flight could not be written"
        return f"{self._run_dir / STREAM_NAME} keeps {self._file.num_rows} complete answers: {why}" + (
            f"; {lost}" if num_lost or states else ""
        )


def _told(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def reserve(run_dir: Path) -> Path:
    """Set 1 MiB of the disk aside, for run.json on a disk that has filled up meanwhile.

    Returns:
        The file that holds the space, for `release`.

    Raises:
        OSError: There is no such space.
    """
    path = run_dir / RESERVED_NAME
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, RESERVED_BYTES)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
    return path


def release(reserved: Path) -> None:
    """Give the space back, right before run.json is written: after `salvage`, which would take it."""
    reserved.unlink(missing_ok=True)
