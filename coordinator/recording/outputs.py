"""Every complete answer that the coordinator received, stored until the verdict.

A failed run loses nothing that was received: its answers are in `partial_outputs.parquet` or, if that file
could not be written, in `outputs.arrows`. A complete run leaves neither file: LoadGen has all answers.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coordinator.recording.arrow_files import (
    PARTIAL_NAME,
    STREAM_NAME,
    DeadlinePassed,
    OutputBatch,
    StreamFile,
    record_batch,
    write_partial,
)

logger = logging.getLogger(__name__)

BATCH_TOKENS = 256 * 1024
"""A batch is written when it holds this many tokens, or at `flush`."""
MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Memory for answers that wait for the disk: about a minute at a million tokens a second."""
DISCARD_TIMEOUT_S = 5.0


class Outputs:
    """A file of answers, and the thread that writes it; no other thread waits for the disk."""

    def __init__(
        self,
        stream: StreamFile,
        run_dir: Path,
        on_error: Callable[[str], None],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """Start the writer thread.

        Args:
            stream: The empty file, created for these outputs; closed by them.
            run_dir: The run's directory, in which the file is called outputs.arrows once the run has begun.
            on_error: Ends the run. Called once, with one line that names the file and the error, on the
                writer thread or the thread that calls `keep`.
            max_waiting_bytes: The run ends if more bytes than this wait for the disk.
        """
        self._run_dir = run_dir
        self._on_error = on_error
        self._max_waiting_bytes = max_waiting_bytes
        self._file = stream
        # Guards the attributes below: the event loop thread, the writer and the main thread use them.
        self._lock = threading.Lock()
        self._pending: list[OutputBatch] = []
        self._pending_tokens = 0
        self._waiting_bytes = 0
        self._closed = False
        self._failure: str | None = None
        self._num_kept = 0
        self._num_dropped = 0
        self._queue: queue.SimpleQueue[list[OutputBatch] | None] = queue.SimpleQueue()
        # Used by the writer alone until it has ended.
        self._unwritten: list[list[OutputBatch]] = []
        self._discarded = False
        self._thread = threading.Thread(target=self._write, name="outputs", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Discard the outputs: a run that failed after it had begun ends with the process instead."""
        self.discard()

    def keep(self, samples: NDArray[np.int64], counts: NDArray[np.int64], tokens: NDArray[np.int32]) -> None:
        """Store complete answers; the arrays must not be modified afterwards.

        Args:
            samples: (R,) sample indices.
            counts: (R,) tokens of each answer.
            tokens: (T,) the answers, concatenated.

        Thread: event loop; does not wait for the disk.
        """
        batch = OutputBatch(samples, counts, tokens)
        with self._lock:
            too_many = self._waiting_bytes + batch.num_bytes > self._max_waiting_bytes
            if too_many or self._closed:
                self._num_dropped += len(samples)
            else:
                self._num_kept += len(samples)
                self._waiting_bytes += batch.num_bytes
                self._pending.append(batch)
                self._pending_tokens += len(tokens)
                if self._pending_tokens >= BATCH_TOKENS:
                    self._hand_over()
        if too_many:
            self._fail(f"more than {self._max_waiting_bytes} bytes of answers wait for the disk")

    def flush(self) -> None:
        """Hand pending answers to the writer; called every few seconds.

        Thread: event loop; does not wait for the disk.
        """
        with self._lock:
            self._hand_over()

    def discard(self) -> None:
        """Stop the writer and delete the file. Bounded: on a disk that hangs the file stays.

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
        """Write everything that was received to partial_outputs.parquet; for a failed run.

        Args:
            samples: (R,) samples of the requests in flight.
            counts: (R,) tokens of each.
            tokens: (T,) their tokens, concatenated.
            states: (R,) "partial" or "waiting"; "complete" for an answer that was never passed to `keep`.
            deadline_s: Time limit in seconds; the call returns by then, whatever the disk does.

        Returns:
            One line: which file holds how many answers, and how many are missing.

        Thread: any, after the last `keep`.
        """
        # A tenth of the time is reserved for the steps after a conversion that was too slow.
        deadline_ns = time.monotonic_ns() + int(deadline_s * 0.9e9)
        self._close()
        rest = (OutputBatch(samples, counts, tokens), list(states))
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        thread = threading.Thread(
            target=self._convert, args=(rest, deadline_ns, lines.put), name="salvage", daemon=True
        )
        thread.start()
        thread.join(max(0.0, deadline_s))
        try:
            line = lines.get_nowait()
        except queue.Empty:
            line = self._stream_line(f"the disk did not answer within {deadline_s:g} s", states)
        dropped = f"; {self._num_dropped} answers found no room in memory" if self._num_dropped else ""
        return line + dropped

    def _hand_over(self) -> None:
        """Pass pending answers to the writer; the caller holds the lock."""
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

        Thread: writer, or the thread that calls `keep`.
        """
        with self._lock:
            first = self._failure is None
            self._failure = self._failure or reason
        if first:
            self._on_error(f"{self._run_dir / STREAM_NAME}: {reason}")

    def _write(self) -> None:
        """Thread: writer."""
        try:
            for batches in iter(self._queue.get, None):
                if self._discarded:
                    continue
                self._unwritten.append(batches)
                if self._failure is None:
                    self._write_waiting()
            if self._discarded:
                self._file.delete(self._run_dir / STREAM_NAME)
        except OSError as error:
            logger.warning("%s: %s", self._run_dir / STREAM_NAME, _error_text(error))
        except Exception as error:
            # Top of the thread: without a report, answers would be lost unnoticed.
            logger.exception("the writer of answers failed")
            self._fail(repr(error))

    def _write_waiting(self) -> None:
        """Write what is unwritten. What does not fit stays; a later, smaller batch may still fit."""
        unwritten = []
        for batches in self._unwritten:
            try:
                self._file.write(record_batch(batches))
            except OSError as error:
                unwritten.append(batches)
                self._fail(_error_text(error))
            else:
                with self._lock:
                    self._waiting_bytes -= sum(batch.num_bytes for batch in batches)
        self._unwritten = unwritten

    def _convert(
        self, rest: tuple[OutputBatch, list[str]], deadline_ns: int, report: Callable[[str], None]
    ) -> None:
        """Thread: salvage; may hang with the disk."""
        _, states = rest
        self._thread.join(max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9))
        if self._thread.is_alive():
            report(self._stream_line("the disk does not take what is written", states))
            return
        try:
            counts = write_partial(
                self._run_dir / PARTIAL_NAME,
                self._run_dir / STREAM_NAME,
                self._take_unwritten(rest),
                deadline_ns,
            )
        except DeadlinePassed:
            report(self._stream_line(f"{PARTIAL_NAME} was not written in time", states))
        except OSError as error:
            # The space of the partial file is free again: what the stream lacks may fit now.
            self._write_waiting()
            report(self._stream_line(f"{PARTIAL_NAME}: {_error_text(error)}", states))
        except Exception as error:
            # Top of the thread: the line names this error, not the disk.
            logger.exception("%s was not written", PARTIAL_NAME)
            report(self._stream_line(f"{PARTIAL_NAME}: {error!r}", states))
        else:
            report(self._partial_line(counts, len(states)))

    def _take_unwritten(self, rest: tuple[OutputBatch, list[str]]) -> list[pa.RecordBatch]:
        """Convert what the writer, which has ended, did not write, and the requests in flight."""
        while not self._queue.empty():
            batches = self._queue.get()
            if batches is not None:
                self._unwritten.append(batches)
        records = [
            record_batch(batches, ["complete"] * sum(len(batch.samples) for batch in batches))
            for batches in self._unwritten
        ]
        in_flight, states = rest
        return [*records, record_batch([in_flight], states)] if states else records

    def _partial_line(self, counts: dict[str, int], num_in_flight: int) -> str:
        """Compare the rows of the parquet file with what was kept; if none is missing, delete the stream."""
        stream, path = self._run_dir / STREAM_NAME, self._run_dir / PARTIAL_NAME
        found = ", ".join(f"{num} {state}" for state, num in sorted(counts.items())) or "no answers"
        num_expected = self._num_kept + num_in_flight
        if sum(counts.values()) != num_expected:
            return f"{path} holds {found} of {num_expected}: both it and {stream} are kept"
        self._file.delete(stream)
        return f"{path} holds {found}"

    def _stream_line(self, why: str, states: Sequence[str]) -> str:
        """Report what outputs.arrows holds, and how much could not be written."""
        num_lost = self._num_kept - self._file.num_rows
        lost = f"{num_lost} complete answers and {len(states)} in flight could not be written"
        return f"{self._run_dir / STREAM_NAME} keeps {self._file.num_rows} complete answers: {why}" + (
            f"; {lost}" if num_lost or states else ""
        )


def _error_text(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
