"""Mutated messages, as a broken or hostile peer might send them.

Half of them are changed as bytes, half as messages: a column or number is changed and the digest, more often
than not, made to fit again, so that the checks behind the digest are reached too.
"""

import random
from collections.abc import Callable, Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from protos import worker_pb2 as pb
from tests.protos.by_hand import Frame, read_submit, read_tokens, seal, submit_of, tokens_of

Kind = type[pb.ToWorker] | type[pb.FromWorker]
_INTEGERS = {
    FieldDescriptor.TYPE_UINT32: 32,
    FieldDescriptor.TYPE_INT32: 31,
    FieldDescriptor.TYPE_INT64: 63,
    FieldDescriptor.TYPE_UINT64: 64,
    FieldDescriptor.TYPE_FIXED64: 64,
}
# Varints at the edges of what a length may be: 0, 127, 2**31 - 1, 2**32 - 1, 2**63 - 1, and one without end.
_VARINTS = (
    b"\x00",
    b"\x7f",
    b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 8 + b"\x7f",
    b"\xff" * 11,
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))


def mutations(seed: int, valid: list[bytes], kind: Kind = pb.ToWorker) -> Iterator[bytes]:
    """Yield mutated messages without end; one in twenty is unchanged but sent at a wrong time.

    Args:
        seed: The same seed gives the same mutations of the same messages.
        valid: Serialized messages to start from, at least one.
        kind: What they are; decides which digest is made to fit.
    """
    rng = random.Random(seed)
    while True:
        message = rng.choice(valid)
        if rng.random() < 0.05:
            yield message
        elif rng.random() < 0.5:
            yield _mutate_bytes(rng, message, valid)
        else:
            yield _mutate_message(rng, message, kind)


def _mutate_bytes(rng: random.Random, message: bytes, valid: list[bytes]) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        message = rng.choice(_BYTE_MUTATORS)(rng, message, rng.choice(valid))
    return message


def _flip(rng: random.Random, message: bytes, _: bytes) -> bytes:
    changed = bytearray(message or b"\0")
    for _n in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, message: bytes, _: bytes) -> bytes:
    return message[: rng.randrange(len(message) + 1)]


def _extend(rng: random.Random, message: bytes, _: bytes) -> bytes:
    return message + rng.randbytes(rng.choice((1, 3, 4, 8, 200)))


def _splice(rng: random.Random, message: bytes, other: bytes) -> bytes:
    return message[: rng.randrange(len(message) + 1)] + other[rng.randrange(len(other) + 1) :]


def _join(_: random.Random, message: bytes, other: bytes) -> bytes:
    return message + other


def _cut_out(rng: random.Random, message: bytes, _: bytes) -> bytes:
    first, last = sorted(rng.randrange(len(message) + 1) for _n in range(2))
    return message[:first] + message[last:]


def _repeat(rng: random.Random, message: bytes, _: bytes) -> bytes:
    first, last = sorted(rng.randrange(len(message) + 1) for _n in range(2))
    return message[:last] + message[first:last] * rng.choice((1, 2, 30)) + message[last:]


def _lie_about_length(rng: random.Random, message: bytes, _: bytes) -> bytes:
    # Tag and length of the message or of its first field stand at its beginning.
    at = rng.choice((0, 1, 2, 3, 4, rng.randrange(len(message) + 1)))
    return message[:at] + rng.choice(_VARINTS) + message[at + 1 :]


_BYTE_MUTATORS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip,
    _truncate,
    _extend,
    _splice,
    _join,
    _cut_out,
    _repeat,
    _lie_about_length,
)


def _mutate_message(rng: random.Random, serialized: bytes, kind: Kind) -> bytes:
    try:
        message = kind.FromString(serialized)
    except DecodeError:
        return serialized
    name = message.WhichOneof("message")
    if name is None:
        return serialized
    inner: Message = getattr(message, name)
    for _ in range(rng.choice((1, 1, 2))):
        if isinstance(inner, pb.Submit | pb.Tokens) and rng.random() < 0.8:
            _mutate_packed(rng, inner)
        else:
            _mutate_field(rng, inner)
    if rng.random() < 0.7 and isinstance(inner, pb.Submit | pb.Tokens):
        seal(inner)
    return message.SerializeToString()


def _mutate_packed(rng: random.Random, message: pb.Submit | pb.Tokens) -> None:
    """Change a column or a number but keep the header consistent with the payload."""
    try:
        frame = read_tokens(message) if isinstance(message, pb.Tokens) else Frame(0, 0, read_submit(message))
    except ValueError:
        return
    columns = dict(frame.columns)
    name = rng.choice([*columns, "produced_ns", "sequence"])
    if name in columns:
        columns[name] = _mutate_column(rng, columns[name], [*columns.values(), b""])
    else:
        frame = frame._replace(**{name: _integer(rng, 64)})
    if isinstance(message, pb.Tokens):
        message.packed = tokens_of(frame.produced_ns, frame.sequence, **columns).packed
    else:
        message.packed = submit_of(**columns).packed


def _mutate_field(rng: random.Random, message: Message) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _mutate_field(rng, getattr(message, field.name))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        others = [value for f, value in message.ListFields() if f.type == FieldDescriptor.TYPE_BYTES]
        setattr(message, field.name, _mutate_column(rng, getattr(message, field.name), [*others, b""]))
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field.name, "".join(map(chr, rng.choices(range(0xD800), k=rng.choice((0, 9, 300))))))
    elif field.type == FieldDescriptor.TYPE_FLOAT:
        setattr(message, field.name, rng.choice(_FLOATS))
    elif field.type in _INTEGERS:
        setattr(message, field.name, _integer(rng, _INTEGERS[field.type]))


def _integer(rng: random.Random, num_bits: int) -> int:
    """Draw a power of two, or one less."""
    return max((1 << rng.randrange(num_bits + 1)) - rng.choice((0, 1)), 0) % (1 << num_bits)


def _mutate_column(rng: random.Random, column: bytes, others: list[bytes]) -> bytes:
    """Change a column: swap in another column, change its bytes, or change one entry."""
    itemsize = rng.choice((1, 4, 8))
    entry = rng.choice((b"\0", b"\1", b"\xff", b"\x7f")) * itemsize
    at = rng.randrange(len(column) // itemsize + 1) * itemsize
    return rng.choice(
        (
            rng.choice(others),
            rng.randbytes(len(column)),
            column[:at] + entry + column[at + itemsize :],
            column[:at] + entry + column[at:],
            column[:at],
            column + column,
            entry[:1] * len(column),
            _flip(rng, column, b"") if column else entry,
        )
    )
