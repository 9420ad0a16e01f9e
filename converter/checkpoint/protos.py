"""The few protobuf messages of a checkpoint, decoded from their wire format.

Field numbers are those of tensorflow/core/protobuf/tensor_bundle.proto and
tensorflow/core/framework/{tensor_shape,tensor_slice,versions}.proto. Like protobuf, the decoders
skip an unknown field, and a known one of another wire type.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

from msgspec import Struct

Data = TypeVar("Data", bytes, memoryview)


class Malformed(ValueError):
    """The format does not allow the bytes; the reader adds the file's name."""


VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_RANK = 254  # TensorShape::MaxDimensions()

Box = tuple[tuple[int, int], ...]
"""A slice of a tensor: (start, length) for every dimension."""

FULL = -1  # the length of a slice that spans its whole dimension


def field(number: int, wire_type: int) -> int:
    """The tag of a field."""
    return number << 3 | wire_type


def varint(data: Data, at: int) -> tuple[int, int]:
    """The unsigned varint (at most 64 bits) at byte `at`, and the byte after it."""
    if at < len(data) and data[at] < 0x80:  # most are one byte
        return data[at], at + 1
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise Malformed("a varint is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise Malformed("a varint is longer than 10 bytes")


def signed(value: int) -> int:
    """A varint read as int64, as protobuf stores negative numbers."""
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(data: Data) -> Iterator[tuple[int, int, Data]]:
    """Yield (tag, number, payload) for each field; `field` makes the tags.

    `number` is the value of a varint or fixed field, `payload` the bytes of a length-delimited one:
    a view of `data` if that is a view.
    """
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = varint(data, at - 1)
        kind = tag & 7
        if kind == VARINT:
            number, at = varint(data, at)
            yield tag, number, data[:0]
            continue
        if kind == LENGTH:
            size, at = varint(data, at)
        elif kind == FIXED32:
            size = 4
        elif kind == FIXED64:
            size = 8
        else:
            raise Malformed(f"wire type {kind} does not exist")
        if size > end - at:
            raise Malformed(f"a field of {size:,} bytes, with {end - at:,} left")
        payload = data[at : at + size]
        at += size
        if kind == LENGTH:
            yield tag, 0, payload
        else:
            yield tag, int.from_bytes(payload, "little"), data[:0]


class Versions(Struct, frozen=True):
    """VersionDef: the readers that may read a file."""

    min_consumer: int = 0
    bad_consumers: tuple[int, ...] = ()

    def admits(self, version: int) -> bool:
        """Whether a reader of that version may read the file."""
        return self.min_consumer <= version and version not in self.bad_consumers


def unsupported(name: str, versions: Versions, supported: int) -> str:
    """The message for a file that a reader of version `supported` may not read."""
    needed = versions.min_consumer
    version = f"format version {needed}" if needed > supported else "another format version"
    return (
        f"{name} needs a reader of {version}; this bertconvert reads version {supported}."
        " Try a newer bertconvert."
    )


class BundleHeader(Struct, frozen=True):
    """BundleHeaderProto: the header of an index."""

    num_shards: int = 0
    big_endian: bool = False
    versions: Versions = Versions()


class BundleEntry(Struct, frozen=True, gc=False):
    """BundleEntryProto: an index's entry for one tensor."""

    dtype: int = 0  # number in types.proto
    shape: tuple[int, ...] = ()
    shard_id: int = 0
    offset: int = 0  # bytes, in the shard
    size: int = 0  # bytes
    crc32c: int = 0  # masked
    slices: tuple[bytes, ...] = ()  # serialized TensorSliceProtos


_NUM_SHARDS, _ENDIANNESS, _VERSION = field(1, VARINT), field(2, VARINT), field(3, LENGTH)


def bundle_header(data: bytes) -> BundleHeader:
    """Decode a BundleHeaderProto.

    Raises:
        Malformed: the bytes are not such a message.
    """
    num_shards = endianness = 0
    checked = Versions()
    for tag, number, payload in fields(data):
        if tag == _NUM_SHARDS:
            num_shards = number
        elif tag == _ENDIANNESS:
            endianness = number
        elif tag == _VERSION:
            checked = versions(payload)
    if endianness > 1:
        raise Malformed(f"endianness {endianness} (0 is little, 1 is big)")
    return BundleHeader(num_shards, endianness == 1, checked)


_MIN_CONSUMER, _BAD_CONSUMER = field(2, VARINT), field(3, VARINT)
_BAD_CONSUMERS = field(3, LENGTH)  # packed


def versions(data: bytes) -> Versions:
    """Decode a VersionDef."""
    min_consumer = 0
    bad: list[int] = []
    for tag, number, payload in fields(data):
        if tag == _MIN_CONSUMER:
            min_consumer = signed(number)
        elif tag == _BAD_CONSUMER:
            bad.append(number)
        elif tag == _BAD_CONSUMERS:
            bad += varints(payload)
    return Versions(min_consumer, tuple(bad))


_DTYPE, _SHAPE, _SHARD_ID = field(1, VARINT), field(2, LENGTH), field(3, VARINT)
_OFFSET, _SIZE, _CRC32C = field(4, VARINT), field(5, VARINT), field(6, FIXED32)
_SLICES = field(7, LENGTH)


def bundle_entry(data: bytes) -> BundleEntry:
    """Decode a BundleEntryProto.

    Raises:
        Malformed: the bytes are no such message, or the rank is unknown or too high.
    """
    dtype = shard_id = offset = size = crc32c = 0
    dimensions: list[int] = []
    slices: list[bytes] = []
    for tag, number, payload in fields(data):
        if tag == _DTYPE:
            dtype = number
        elif tag == _SHAPE:
            dimensions += tensor_shape(payload) if len(payload) > 32 else _short_shape(payload)
        elif tag == _SHARD_ID:
            shard_id = number
        elif tag == _OFFSET:
            offset = number
        elif tag == _SIZE:
            size = number
        elif tag == _CRC32C:
            crc32c = number
        elif tag == _SLICES:
            slices.append(payload)
    shape = checked_shape(dimensions)
    return BundleEntry(dtype, shape, shard_id, offset, size, crc32c, tuple(slices))


def checked_shape(shape: list[int]) -> tuple[int, ...]:
    """A shape of a rank that TensorFlow supports.

    Raises:
        Malformed: it has more dimensions.
    """
    if len(shape) > MAX_RANK:
        raise Malformed(f"a tensor has rank {len(shape):,}")
    return tuple(shape)


@lru_cache(1024)
def _short_shape(data: bytes) -> tuple[int, ...]:
    """Cached, as a model has many variables and few shapes."""
    return tuple(tensor_shape(data))


_DIMENSION, _UNKNOWN_RANK = field(2, LENGTH), field(3, VARINT)
_DIMENSION_SIZE = field(1, VARINT)


def tensor_shape(data: bytes) -> list[int]:
    """Decode a TensorShapeProto.

    Raises:
        Malformed: the rank or a dimension is unknown.
    """
    shape = []
    for tag, number, payload in fields(data):
        if tag == _DIMENSION:
            size = 0
            for subtag, value, _ in fields(payload):
                if subtag == _DIMENSION_SIZE:
                    size = signed(value)
            if size < 0:
                raise Malformed(f"a dimension is {size}")
            shape.append(size)
        elif tag == _UNKNOWN_RANK and number:
            raise Malformed("a tensor has an unknown rank")
    return shape


_EXTENT = field(1, LENGTH)
_EXTENT_START, _EXTENT_LENGTH = field(1, VARINT), field(2, VARINT)


def tensor_slice(data: bytes) -> Box:
    """Decode a TensorSliceProto; an extent without a length has `FULL`."""
    box = []
    for tag, _, payload in fields(data):
        if tag == _EXTENT:
            start, length = 0, FULL
            for subtag, number, _ in fields(payload):
                if subtag == _EXTENT_START:
                    start = signed(number)
                elif subtag == _EXTENT_LENGTH:
                    length = signed(number)
            box.append((start, length))
    return tuple(box)


def varints(data: bytes) -> list[int]:
    """Decode a packed repeated varint field."""
    values = []
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values
