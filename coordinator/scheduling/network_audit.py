"""Audit of the messages between LoadGen's node and a Network SUT.

The rules of the Network division forbid the LoadGen node to batch, pad, cache or process samples. This record
proves it: one line for each message, with its direction, its number of samples and its size. A message from
the SUT with tokens of more than one sample ends the run.
"""

import time
from array import array
from pathlib import Path

from protos.columns import FrameError, TokenColumns

AUDIT_NAME = "network_audit.csv"
_HEAD = "monotonic_ns,direction,samples,tokens"
_SENT, _RECEIVED = 0, 1
_DIRECTIONS = ("sent", "received")


class NetworkAudit:
    """Messages of one run, in order; used on the event loop, written after the run."""

    def __init__(self) -> None:
        """Start without messages."""
        # Time, direction and tokens of each message.
        self._rows = array("q")

    def add_sent(self, num_tokens: int) -> None:
        """Record a message with one prompt.

        Args:
            num_tokens: Length of the prompt.
        """
        self._rows.extend((time.monotonic_ns(), _SENT, num_tokens))

    def add_received(self, columns: TokenColumns) -> None:
        """Record a message with tokens of one sample.

        Raises:
            FrameError: It has more than one sample.
        """
        if len(columns.requests) != 1:
            raise FrameError(f"a message with {len(columns.requests)} samples; a Network SUT sends one")
        self._rows.extend((time.monotonic_ns(), _RECEIVED, len(columns.tokens)))

    def write(self, path: Path) -> None:
        """Write the record as CSV.

        Raises:
            OSError: The file cannot be written.
        """
        values = iter(self._rows)
        with path.open("w", encoding="ascii") as file:
            file.write(f"{_HEAD}\n")
            for at_ns, direction, num_tokens in zip(values, values, values, strict=True):
                file.write(f"{at_ns},{_DIRECTIONS[direction]},1,{num_tokens}\n")
