"""Parses ``tf.train.Example`` messages with NumPy, without TensorFlow or a protobuf runtime.

In protobuf's notation, the message is ``Example {Features features = 1}``, ``Features {map<string,
Feature> feature = 1}``, ``Feature {oneof: BytesList 1, FloatList 2, Int64List 3}``, where each list
is a repeated field 1 of ``bytes``, ``float`` or ``int64``.

Multi-Object Datasets stores an image as one string per byte, that is, 230,400 strings for a 240x320
RGB image. Each string takes exactly three bytes on the wire, ``0a 01 XX``, so a whole list becomes
one strided view once all the ``0a 01`` are checked. Nothing here needs torch or Detectron2.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rmonet_d2.utils.errors import UserError

KINDS = ("bytes", "float", "int64")
# Wire types of protobuf.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Tag (field 1, length-delimited) and length of a one-byte string.
_ONE_BYTE_STRING = np.array([0x0A, 0x01], np.uint8)
# Number of strings that are checked together: 3 kB of 64-bit words, which fit into the cache.
_STRINGS, _WORDS = 1024, 384


class ExampleError(UserError, ValueError):
    """A message is not an Example, or does not match its schema."""


@dataclass(frozen=True)
class Feature:
    """Description of a feature in a schema.

    Attributes:
        shape: shape of the array; its product is the number of stored values.
        kind: "bytes" (read as uint8; stored as one string per byte, or as one string of all bytes),
            "float" (float32) or "int64".

    Raises:
        ValueError: the kind is none of these.
    """

    shape: tuple[int, ...]
    kind: str = "bytes"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: it must be one of {', '.join(KINDS)}")


Schema = Mapping[str, Feature]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at a position, and the position after it."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ExampleError("it is not a protobuf message (a number takes more than 10 bytes)")


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of the message in ``data[start:stop]``: number, wire type, start, stop."""
    while start < stop:
        tag, at = _varint(data, start)
        wire = tag & 7
        if wire == _LENGTH:
            length, at = _varint(data, at)
            end = at + length
        elif wire == _VARINT:
            _, end = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            end = at + (4 if wire == _FIXED32 else 8)
        else:
            raise ExampleError(f"it is not a protobuf message (wire type {wire})")
        if end > stop:
            raise ExampleError("it is not a protobuf message (a field extends beyond its end)")
        yield tag >> 3, wire, at, end
        start = end


def _find_features(data: bytes) -> dict[str, tuple[int, int]]:
    """Return {name: (start, stop) of the ``Feature`` message} for an Example."""
    found = {}
    for number, wire, start, stop in _fields(data, 0, len(data)):
        if (number, wire) != (1, _LENGTH):
            continue
        for number, wire, first, last in _fields(data, start, stop):
            if (number, wire) != (1, _LENGTH):
                continue
            name, place = b"", (last, last)
            for number, wire, a, b in _fields(data, first, last):
                if (number, wire) == (1, _LENGTH):
                    name = data[a:b]
                elif (number, wire) == (2, _LENGTH):
                    place = (a, b)
            found[name.decode("utf-8", "replace")] = place
    return found


def _find_list(data: bytes, place: tuple[int, int]) -> tuple[str | None, int, int]:
    """Return kind, start and stop of the list in a ``Feature``, which is its last list."""
    kind, start, stop = None, 0, 0
    for number, wire, a, b in _fields(data, *place):
        if wire == _LENGTH and 1 <= number <= len(KINDS):
            kind, start, stop = KINDS[number - 1], a, b
    return kind, start, stop


def _are_one_byte_strings(data: bytes, start: int, count: int) -> bool:
    """Return whether there are ``count`` one-byte strings at ``start``."""
    blocks = count // _STRINGS
    rest = np.frombuffer(data, np.uint8, 3 * (count % _STRINGS), start + 3 * _STRINGS * blocks)
    if (rest.reshape(-1, 3)[:, :2] != _ONE_BYTE_STRING).any():
        return False
    words = np.frombuffer(data, np.uint64, _WORDS * blocks, start).reshape(blocks, _WORDS)
    # A byte is the same in all blocks if both their AND and their OR equal it.
    return blocks == 0 or all(
        (how.reduce(words, axis=0).view(np.uint8).reshape(-1, 3)[:, :2] == _ONE_BYTE_STRING).all()
        for how in (np.bitwise_and, np.bitwise_or)
    )


def _bytes_values(data: bytes, start: int, stop: int, count: int) -> np.ndarray:
    if stop - start == 3 * count and _are_one_byte_strings(data, start, count):
        return np.frombuffer(data, np.uint8, 3 * count, start)[2::3]
    lengths: list[int] = []
    for _, wire, a, b in _fields(data, start, stop):
        if not lengths and b == stop and b - a == count and wire == _LENGTH:
            return np.frombuffer(data, np.uint8, count, a)
        lengths.append(b - a)
    if lengths and max(lengths) != 1 and len(lengths) == count:
        raise ExampleError(f"holds strings of up to {max(lengths):,} bytes instead of 1 byte")
    total = sum(lengths)
    raise ExampleError(
        f"holds {total:,} bytes in {len(lengths):,} strings instead of {count:,} strings of 1 byte"
    )


def _float_values(data: bytes, start: int, stop: int) -> np.ndarray:
    pieces = []
    for _, wire, a, b in _fields(data, start, stop):
        if wire not in (_LENGTH, _FIXED32) or (b - a) % 4:
            raise ExampleError("holds numbers that are not 32-bit floats")
        pieces.append(data[a:b])
    return np.frombuffer(b"".join(pieces), "<f4").astype(np.float32)


def _int64_values(data: bytes, start: int, stop: int) -> np.ndarray:
    # Packed numbers are consecutive varints, and an unpacked number is a single varint.
    packed = b"".join(data[a:b] for _, _, a, b in _fields(data, start, stop))
    digits = np.frombuffer(packed, np.uint8)
    last = np.flatnonzero(digits < 0x80)
    if not len(digits):
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    if not len(last) or last[-1] != len(digits) - 1 or (last - first).max() > 9:
        raise ExampleError("holds numbers that are not varints")
    position = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    parts = (digits & 0x7F).astype(np.uint64) << (7 * position).astype(np.uint64)
    return np.add.reduceat(parts, first).view(np.int64)


def _values(data: bytes, place: tuple[int, int], feature: Feature) -> np.ndarray:
    kind, start, stop = _find_list(data, place)
    if kind not in (None, feature.kind):
        raise ExampleError(f"holds {kind} values instead of {feature.kind}")
    count = math.prod(feature.shape)
    if feature.kind == "bytes":
        values = _bytes_values(data, start, stop, count)
    else:
        values = (_float_values if feature.kind == "float" else _int64_values)(data, start, stop)
    if len(values) != count:
        raise ExampleError(f"holds {len(values):,} values instead of {count:,}")
    return values.reshape(feature.shape)


def _printable(name: str) -> str:
    """Return a name of a damaged message in one short line."""
    return name[:50] if name.isprintable() else repr(name[:50])


def parse_example(data: bytes, schema: Schema) -> dict[str, np.ndarray]:
    """Read the features of a schema from a serialized Example, and skip all others.

    Args:
        data: the message.
        schema: {name: ``Feature``}.

    Returns:
        {name: array of the feature's shape}, of uint8, float32 or int64. Arrays of kind "bytes" are
        read-only views of ``data`` (with a stride of 3 bytes): copy them before modifying them, or
        to release the message.

    Raises:
        ExampleError: the data are not an Example, or a feature is missing, has another kind or
            another number of values. The message names the feature.
    """
    try:
        places = _find_features(data)
        for name in schema:
            if name not in places:
                found = ", ".join(map(_printable, sorted(places)[:20])) or "nothing"
                raise ExampleError(f"there is no feature {name!r}; it holds {found}")
        values = {}
        for name, feature in schema.items():
            try:
                values[name] = _values(data, places[name], feature)
            except ExampleError as error:
                raise ExampleError(f"feature {name!r} {error}") from None
    except IndexError:
        raise ExampleError("it is not a protobuf message (it ends within a number)") from None
    return values
