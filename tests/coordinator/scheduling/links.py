"""Links without a socket, which keep what was sent for a test to read; data sets and frames."""

from pathlib import Path
from typing import Any

import numpy as np

from coordinator.transport.access import Access
from coordinator.transport.stream import StreamCounts
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PromptColumns, TokenColumns
from sut.dataset import Dataset

STOP_ID = 200_002
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


class SentRequests:
    """A stream without a socket: it keeps what was sent."""

    def __init__(self) -> None:
        self.counts = StreamCounts()
        self.names: list[int] = []
        """Of all requests sent, in order."""
        self.prompts: list[list[int]] = []
        """Of the same requests."""
        self.budgets: list[int] = []
        self.produced: list[int] = []
        self.cancelled: list[int] = []
        """Names."""

    def send(self, prompts: PromptColumns) -> None:
        """Keep what a worker would get."""
        self.names += prompts.requests.tolist()
        ends = np.cumsum(prompts.prompt_lens).tolist()
        assert len(prompts.prompt_tokens) == (ends[-1] if ends else 0)
        starts = [0, *ends[:-1]]
        self.prompts += [prompts.prompt_tokens[s:e].tolist() for s, e in zip(starts, ends, strict=False)]
        self.budgets += prompts.max_new_tokens.tolist()
        self.produced += prompts.produced.tolist()

    def cancel_requests(self, names: Any) -> None:
        """Keep the names of requests to stop."""
        self.cancelled += names.tolist()


class FakeLink(WorkerLink):
    """A link with an open stream that sends nothing."""

    def __init__(self, index: int, max_num_seqs: int = 8) -> None:
        """Create a link to nowhere."""
        super().__init__(index, f"worker-{index}:1", Access())
        self.info.max_num_seqs = max_num_seqs
        self.info.vocab_size = 201_088
        self.info.stop_token_ids.append(STOP_ID)
        self.sent = self.open_stream()

    def open_stream(self) -> SentRequests:
        """Open a new stream, as at the start or after a reconnection."""
        self.sent = SentRequests()
        self._stream = self.sent  # type: ignore[assignment]
        return self.sent

    def _connect(self) -> Any:
        return None


def dataset(*prompts: list[int]) -> Dataset:
    """Make a data set of a few prompts."""
    return Dataset(
        path=Path("none"),
        sha256="",
        tokens=np.array([token for prompt in prompts for token in prompt], np.int32),
        offsets=np.cumsum([0, *map(len, prompts)]),
    )


def frame(rows: list[tuple[int, list[int]]], ends: dict[int, int] | None = None) -> TokenColumns:
    """Make a frame of (name, new tokens) rows; `ends` maps a row to its reason."""
    ends = ends or {}
    return TokenColumns(
        requests=np.array([name for name, _ in rows], np.uint64),
        counts=np.array([len(new) for _, new in rows], np.uint32),
        tokens=np.array([token for _, new in rows for token in new], np.int32),
        finished_rows=np.array(sorted(ends), np.uint32),
        finish_reasons=np.array([ends[row] for row in sorted(ends)], np.uint8),
        produced_ns=0,
    )
