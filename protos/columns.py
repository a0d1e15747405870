"""Pack and unpack the wire's columns: numpy arrays in memory, little-endian bytes in messages.

Unpacking checks every column against its bounds before any other code uses it.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from operator import ge
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from protos import worker_pb2 as pb

PROTOCOL_VERSION = 4
SERVICE = "tokenfleet.v1.Worker"

# Largest number of prompt tokens in one Submit (4 MiB); an Offline window fits a few messages.
MAX_SUBMIT_TOKENS = 1 << 20
# Monotonic times, and differences of two, fit in 63 bits.
MAX_NS = (1 << 63) - 1
# A step of 16,384 first tokens takes 0.3 MB; the merged backlog of a slow reader takes more.
MAX_MESSAGE_BYTES = 64 << 20
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    # Reconnect to a restarted worker within seconds: own connection for each channel, short backoff.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Ignore http_proxy, grpc_proxy and https_proxy: a proxy would add to the measured latency.
    ("grpc.enable_http_proxy", 0),
    # Without this option a second server could silently share the port of the first.
    ("grpc.so_reuseport", 0),
]

RequestNames = NDArray[np.uint64]
TokenIds = NDArray[np.int32]
Lens = NDArray[np.uint32]
_SUBMIT_HEAD = struct.Struct("<5I4x")
_TOKENS_HEAD = struct.Struct("<QQ6I")
_U8, _U4, _I4, _U1 = np.dtype("<u8"), np.dtype("<u4"), np.dtype("<i4"), np.dtype("u1")
_I8 = np.dtype("<i8")
_Layout = tuple[tuple[str, np.dtype[Any], int, NDArray[Any]], ...]
"""Columns of a message: name, type, bytes of an entry, and the column without entries."""


def _layout(**columns: np.dtype[Any]) -> _Layout:
    return tuple((name, dtype, dtype.itemsize, np.zeros(0, dtype)) for name, dtype in columns.items())


_PROMPT_COLUMNS = _layout(requests=_U8, prompt_lens=_U4, prompt_tokens=_I4, max_new_tokens=_U4, produced=_U4)
_TOKEN_COLUMNS = _layout(requests=_U8, counts=_U4, tokens=_I4, finished_rows=_U4, finish_reasons=_U1)
_NUM_FIRST_COLUMNS = 4
_FEW_ROWS = 64
"""Up to about so many numbers Python's sum costs less than numpy's."""
# Most frames begin or end one request: its times are unpacked faster without numpy.
_FEW_TIMES = [struct.Struct(f"<{num}q") for num in range(16)]
SLOT_MASK = 0xFFFFFFFF
# Plain integers: a protobuf enum value costs a lookup on each use.
_STOP, _LENGTH = int(pb.FINISH_REASON_STOP), int(pb.FINISH_REASON_LENGTH)
_REASONS = frozenset((_STOP, _LENGTH))
_NO_LENS: Lens = np.zeros(0, np.uint32)


class FrameError(ValueError):
    """A message whose columns contradict each other or their bounds."""


class PromptColumns(NamedTuple):
    """R requests for an engine, with T prompt tokens in total."""

    requests: RequestNames
    """(R,) slot | generation << 32."""
    prompt_lens: Lens
    """(R,) length of each prompt in tokens, at least 1."""
    prompt_tokens: TokenIds
    """(T,) prompts end to end."""
    max_new_tokens: Lens
    """(R,) tokens that may still be generated, at least 1."""
    produced: Lens
    """(R,) answer tokens at the end of each prompt that another worker produced."""


class TokenTimes(NamedTuple):
    """When K requests began and F requests ended, in ns of the worker's monotonic clock; 0: unknown.

    Nothing relates the times to each other or to the truth: a worker may send any.
    """

    sent_ns: int
    """When the frame was given to gRPC."""
    first_rows: list[int]
    """(K,) rows with the first token that this worker gave to their request, ascending."""
    received_ns: list[int]
    """(K,) when the worker took these requests from the stream."""
    admitted_ns: list[int]
    """(K,) when the engine began their prefill."""
    first_ns: list[int]
    """(K,) when the engine returned their first token."""
    last_ns: list[int]
    """(F,) when the engine returned the last token of the requests that finish."""


class TokenColumns(NamedTuple):
    """New tokens of R requests, T tokens in total; a request has at most one row."""

    requests: RequestNames
    """(R,) slot | generation << 32."""
    counts: Lens | None
    """(R,) new tokens of each row; None: each row has one."""
    tokens: TokenIds
    """(T,) rows end to end."""
    finished_rows: Lens
    """(F,) rows of the requests that finish, ascending."""
    finish_reasons: NDArray[np.uint8]
    """(F,) values of pb.FinishReason."""
    produced_ns: int
    """When the engine returned the tokens, worker's monotonic clock; for merged steps see worker.proto."""
    times: TokenTimes | None = None
    """None: no request begins or ends, or its times are unknown."""


class AnswerRules:
    """Checks which token ids answers hold and how they end: a stop id is the last token and nothing else is.

    Each answer is checked as a whole when it ends, before LoadGen gets it; a check of every frame costs more.
    """

    def __init__(self, vocab_size: int, stop_token_ids: Sequence[int]) -> None:
        """Create the rules of a run.

        Args:
            vocab_size: Token ids are below it.
            stop_token_ids: Ids that end an answer, each below `vocab_size`.
        """
        self._is_stop_id = np.zeros(vocab_size, np.uint8)
        self._is_stop_id[list(stop_token_ids)] = 1

    def check_first(self, token: int) -> None:
        """Check the first token, without a sign, of an answer that goes on: LoadGen is told it at once.

        Raises:
            FrameError: It is a stop id, or outside the vocabulary.
        """
        if token >= len(self._is_stop_id):
            raise self._outside()
        if self._is_stop_id.item(token):
            raise FrameError("an answer begins with a stop id and does not end")

    def check_end(self, answer: NDArray[np.uint32], reason: int, budget: int) -> None:
        """Check an answer that ends.

        An answer may also end without any token, which LoadGen counts as an error.

        Args:
            answer: (N,) all its tokens; without a sign, so that negative ids are outside the vocabulary.
            reason: A value of pb.FinishReason.
            budget: Longest answer, in tokens.

        Raises:
            FrameError: LENGTH below the budget, STOP without a stop id at the end, a stop id that is not the
                last token, or an id outside the vocabulary.
        """
        num = len(answer)
        if reason == _LENGTH and num < budget:
            raise FrameError(f"an answer ends with LENGTH at {num} of {budget} tokens")
        if not num:
            return
        try:
            first_stop = self._is_stop_id.take(answer).tobytes().find(1)
        except IndexError:
            raise self._outside() from None
        if reason == _STOP and first_stop < 0:
            raise FrameError("an answer ends with STOP, but its last token is no stop id")
        if 0 <= first_stop < num - 1:
            raise FrameError("an answer has tokens after a stop id")

    def valid_lens(self, counts: NDArray[np.int64], tokens: TokenIds) -> NDArray[np.int64]:
        """Return how many tokens, (R,), each answer has before a stop id or an id outside the vocabulary.

        Args:
            counts: (R,) tokens of each answer, none of which has ended.
            tokens: (T,) the answers, concatenated.
        """
        ids = tokens.view(np.uint32)
        marked = np.flatnonzero(self._is_stop_id.take(ids, mode="clip") | (ids >= len(self._is_stop_id)))
        ends = counts.cumsum()
        rows, firsts = np.unique(np.searchsorted(ends, marked, side="right"), return_index=True)
        lens = counts.copy()
        lens[rows] = marked[firsts] - (ends - counts)[rows]
        return lens

    def _outside(self) -> FrameError:
        return FrameError(f"a token id outside the vocabulary of {len(self._is_stop_id)}")


def slots_of(requests: RequestNames) -> NDArray[np.int64]:
    """Return the slots, (R,), of request names."""
    # Two casts cost less than a mask with a numpy scalar.
    return requests.astype(np.uint32).astype(np.int64)


def digest_of(packed: bytes) -> int:
    """Hash the packed columns of a message with XXH3-64."""
    digest: int = xxhash.xxh3_64_intdigest(packed)
    return digest


def pack_submit(prompts: PromptColumns) -> pb.Submit:
    """Pack prompts for the wire."""
    requests, lens, tokens, budgets, produced = prompts
    if not np.count_nonzero(produced):
        produced = produced[:0]
    sizes = requests.nbytes, lens.nbytes, tokens.nbytes, budgets.nbytes, produced.nbytes
    head = _SUBMIT_HEAD.pack(*sizes)
    packed = b"".join((head, requests.data, lens.data, tokens.data, budgets.data, produced.data))
    return pb.Submit(packed=packed, digest=digest_of(packed))


def unpack_submit(submit: pb.Submit) -> PromptColumns:
    """Check and unpack a Submit; the arrays are views of its bytes.

    Raises:
        FrameError: A wrong digest, columns of wrong length, an empty prompt, a budget of 0, or a request
            with two rows.
    """
    # Read the field once: each read copies it.
    packed = submit.packed
    if submit.digest != digest_of(packed):
        raise FrameError("submit: the digest is not that of the columns")
    sizes = _unpack_head("submit", _SUBMIT_HEAD, packed)
    requests, lens, tokens, budgets, produced = _columns(_PROMPT_COLUMNS, packed, _SUBMIT_HEAD.size, sizes)
    rows = len(requests)
    lengths = {"prompt_lens": rows, "prompt_tokens": _sum(lens), "max_new_tokens": rows}
    if len(produced):
        lengths["produced"] = rows
    else:
        produced = np.zeros(rows, np.uint32)
    columns = (lens, tokens, budgets, produced)
    for (name, length), column in zip(lengths.items(), columns, strict=False):
        if len(column) != length:
            raise _wrong_length(name, column, length)
    if rows and (lens.min() < 1 or budgets.min() < 1):
        raise FrameError("submit: an empty prompt or a budget of 0 tokens")
    if len(np.unique(requests)) < rows:
        raise FrameError("submit: two rows of one request")
    if (produced >= lens).any():
        raise FrameError("submit: more tokens produced than the prompt holds")
    return PromptColumns(requests, lens, tokens, budgets, produced)


def _check_ends(finished: Lens, reasons: NDArray[np.uint8], rows: int) -> None:
    if finished[-1] >= rows or (len(finished) > 1 and (finished[1:] <= finished[:-1]).any()):
        raise FrameError(f"tokens: finished_rows not ascending below {rows}")
    # A frame finishes few requests; for these a set is faster than two numpy reductions.
    if not _REASONS.issuperset(reasons.tolist()):
        raise FrameError("tokens: unknown finish reason")


def pack_tokens(columns: TokenColumns, sequence: int) -> pb.Tokens:
    """Pack new tokens for the wire.

    Args:
        columns: Output of the engine.
        sequence: Frames of tokens before this one on the stream.
    """
    requests, counts, tokens, finished, reasons, produced_ns, token_times = columns
    if counts is None:
        counts = _NO_LENS
    times = b"" if token_times is None else _pack_times(token_times)
    sizes = requests.nbytes, counts.nbytes, tokens.nbytes, finished.nbytes, reasons.nbytes, len(times)
    head = _TOKENS_HEAD.pack(produced_ns, sequence, *sizes)
    packed = b"".join((head, requests.data, counts.data, tokens.data, finished.data, reasons.data, times))
    return pb.Tokens(packed=packed, digest=digest_of(packed))


def _pack_times(times: TokenTimes) -> bytes:
    sent_ns, *columns = times
    return np.array([sent_ns, *chain.from_iterable(columns)], _I8).tobytes()


def unpack_tokens(frame: pb.Tokens, sequence: int) -> TokenColumns:
    """Check and unpack a Tokens frame; the arrays are views of its bytes.

    Args:
        frame: The message as received.
        sequence: Frames of tokens before this one on the stream.

    Raises:
        FrameError: A wrong digest, a frame out of sequence, a time beyond MAX_NS, columns of wrong length,
            rows out of range or out of order, or an unknown finish reason.
    """
    # Read the field once: each read copies it.
    packed = frame.packed
    if frame.digest != digest_of(packed):
        raise FrameError("tokens: the digest is not that of the columns")
    produced_ns, number, *sizes, times_size = _unpack_head("tokens", _TOKENS_HEAD, packed, 2)
    if number != sequence:
        raise FrameError(f"tokens: frame {number}, expected {sequence}")
    if produced_ns > MAX_NS:
        raise FrameError(f"tokens: produced_ns {produced_ns} exceeds {MAX_NS}, the largest monotonic time")
    requests, counts, tokens, finished, reasons = _columns(_TOKEN_COLUMNS, packed, _TOKENS_HEAD.size, sizes)
    rows = len(requests)
    if len(counts) not in (0, rows):
        raise _wrong_length("counts", counts, rows)
    num_tokens = _sum(counts) if len(counts) else rows
    if len(tokens) != num_tokens:
        raise _wrong_length("tokens", tokens, num_tokens)
    if len(reasons) != len(finished):
        raise _wrong_length("finish_reasons", reasons, len(finished))
    if len(finished):
        _check_ends(finished, reasons, rows)
    times = _unpack_times(packed, times_size, rows, len(finished)) if times_size else None
    return TokenColumns(
        requests, counts if len(counts) else None, tokens, finished, reasons, produced_ns, times
    )


def _unpack_times(packed: bytes, num_bytes: int, num_rows: int, num_finished: int) -> TokenTimes:
    """Check and unpack the last column: the time of sending, K rows with their times, F times of ends."""
    num, torn = divmod(num_bytes, _U8.itemsize)
    num_firsts, odd = divmod(num - 1 - num_finished, _NUM_FIRST_COLUMNS)
    if torn or odd or num_firsts < 0:
        raise FrameError(f"tokens: times of {num_bytes} bytes for {num_finished} finished rows")
    start = len(packed) - num_bytes
    if num < len(_FEW_TIMES):
        times = list(_FEW_TIMES[num].unpack_from(packed, start))
    else:
        times = np.frombuffer(packed, _I8, num, start).tolist()
    if min(times) < 0:
        raise FrameError(f"tokens: a time exceeds {MAX_NS} ns, the largest monotonic time")
    if not num_firsts:
        return TokenTimes(times[0], [], [], [], [], times[1:])
    first_rows = times[1 : (received := 1 + num_firsts)]
    if first_rows[-1] >= num_rows or (num_firsts > 1 and any(map(ge, first_rows, first_rows[1:]))):
        raise FrameError(f"tokens: first rows not ascending below {num_rows}")
    admitted, first, last = received + num_firsts, received + 2 * num_firsts, num - num_finished
    return TokenTimes(
        times[0], first_rows, times[received:admitted], times[admitted:first], times[first:last], times[last:]
    )


def unpack_requests(column: bytes) -> RequestNames:
    """Check and unpack a column of request names, (R,).

    Raises:
        FrameError: Its size is not a multiple of 8 bytes.
    """
    return _columns(_PROMPT_COLUMNS[:1], column, 0, [len(column)])[0]


def _sum(lens: Lens) -> int:
    return sum(lens.tolist()) if len(lens) <= _FEW_ROWS else int(np.add.reduce(lens, dtype=np.uint64))


def _unpack_head(name: str, head: struct.Struct, packed: bytes, num_before: int = 0) -> tuple[int, ...]:
    """Read the header, whose numbers after the first `num_before` are the sizes of the columns behind it."""
    if len(packed) < head.size:
        raise FrameError(f"{name}: {len(packed)} bytes, shorter than the header of {head.size}")
    numbers = head.unpack_from(packed)
    expected = head.size + sum(numbers[num_before:])
    if expected != len(packed):
        raise FrameError(f"{name}: {len(packed)} bytes, expected {expected}")
    return numbers


def _columns(layout: _Layout, packed: bytes, offset: int, sizes: Sequence[int]) -> list[NDArray[Any]]:
    """View consecutive columns from `offset` on as arrays; sizes: bytes of each column."""
    columns = []
    for (name, dtype, width, empty), num_bytes in zip(layout, sizes, strict=True):
        if not num_bytes:
            columns.append(empty)
            continue
        if num_bytes % width:
            raise FrameError(f"{name}: {num_bytes} bytes is not a multiple of {width}")
        columns.append(np.frombuffer(packed, dtype, num_bytes // width, offset))
        offset += num_bytes
    return columns


def _wrong_length(name: str, column: NDArray[Any], length: int) -> FrameError:
    return FrameError(f"{name}: {len(column)} entries, expected {length}")
