"""Digests of messages made by hand: the layout is worker.proto's, written a second time."""

import struct

import xxhash

from protos import worker_pb2 as pb


def seal_submit(submit: pb.Submit) -> pb.Submit:
    """Give a Submit the digest of its columns, whatever they hold."""
    columns = (
        submit.requests,
        submit.prompt_lens,
        submit.prompt_tokens,
        submit.max_new_tokens,
        submit.produced,
    )
    submit.digest = _digest(columns, 0, 0)
    return submit


def seal_tokens(frame: pb.Tokens) -> pb.Tokens:
    """Give a frame the digest of its columns and numbers, whatever they hold."""
    columns = (frame.requests, frame.counts, frame.tokens, frame.finished_rows, frame.finish_reasons)
    frame.digest = _digest(columns, frame.produced_ns, frame.sequence)
    return frame


def _digest(columns: tuple[bytes, ...], *numbers: int) -> int:
    hashed = b"".join(struct.pack("<Q", number) for number in (*map(len, columns), *numbers))
    digest: int = xxhash.xxh3_64_intdigest(hashed + b"".join(columns))
    return digest
