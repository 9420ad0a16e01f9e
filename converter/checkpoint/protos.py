"""The few protobuf messages of a checkpoint, decoded from their wire format.

Field numbers are those of tensorflow/core/protobuf/tensor_bundle.proto and
tensorflow/core/framework/{tensor_shape,tensor_slice,versions}.proto. As protobuf itself does, an
unknown field, or a known one of another wire type, is passed over.
"""

from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct


class Malformed(ValueError):
    """The bytes are not what the format allows; the reader adds the file's name."""


VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_RANK = 254  # TensorShape::MaxDimensions()


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned varint (at most 64 bits) at byte `at`, and the byte after it."""
    if at < len(data) and data[at] < 0x80:  # as most are
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


def fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (tag, number, payload) per field; a tag is field number << 3 | wire type.

    `number` holds a varint's or fixed value, `payload` a length-delimited field's bytes.
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
            yield tag, number, b""
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
            raise Malformed(f"a field of {size:,} bytes in {end - at:,} bytes")
        payload = data[at : at + size]
        at += size
        if kind == LENGTH:
            yield tag, 0, payload
        else:
            yield tag, int.from_bytes(payload, "little"), b""


class Versions(Struct, frozen=True):
    """VersionDef: which readers a file is for."""

    min_consumer: int = 0
    bad_consumers: tuple[int, ...] = ()

    def admits(self, version: int) -> bool:
        """Whether a reader of that version may read the file."""
        return self.min_consumer <= version and version not in self.bad_consumers


class BundleHeader(Struct, frozen=True):
    """BundleHeaderProto: what an index says of itself."""

    num_shards: int = 0
    big_endian: bool = False
    versions: Versions = Versions()


class BundleEntry(Struct, frozen=True, gc=False):
    """BundleEntryProto: one tensor, as an index describes it."""

    dtype: int = 0  # number in types.proto
    shape: tuple[int, ...] = ()
    shard_id: int = 0
    offset: int = 0  # bytes, in the shard
    size: int = 0  # bytes
    crc32c: int = 0  # masked
    slices: tuple[bytes, ...] = ()  # serialized TensorSliceProtos


def bundle_header(data: bytes) -> BundleHeader:
    """Decode a BundleHeaderProto.

    Raises:
        Malformed: the bytes are no such message.
    """
    num_shards = endianness = 0
    checked = Versions()
    for tag, number, payload in fields(data):
        if tag == 1 << 3 | VARINT:
            num_shards = number
        elif tag == 2 << 3 | VARINT:
            endianness = number
        elif tag == 3 << 3 | LENGTH:
            checked = versions(payload)
    if endianness > 1:
        raise Malformed(f"endianness {endianness} (0 is little, 1 is big)")
    return BundleHeader(num_shards, endianness == 1, checked)


def versions(data: bytes) -> Versions:
    """Decode a VersionDef."""
    min_consumer = 0
    bad: list[int] = []
    for tag, number, payload in fields(data):
        if tag == 2 << 3 | VARINT:
            min_consumer = signed(number)
        elif tag == 3 << 3 | VARINT:
            bad.append(number)
        elif tag == 3 << 3 | LENGTH:
            bad += varints(payload)
    return Versions(min_consumer, tuple(bad))


def bundle_entry(data: bytes) -> BundleEntry:
    """Decode a BundleEntryProto.

    Raises:
        Malformed: the bytes are no such message, or the rank is unknown or too high.
    """
    dtype = shard_id = offset = size = crc32c = 0
    dimensions: list[int] = []
    slices: list[bytes] = []
    for tag, number, payload in fields(data):
        if tag == 1 << 3 | VARINT:
            dtype = number
        elif tag == 2 << 3 | LENGTH:
            dimensions += tensor_shape(payload) if len(payload) > 32 else _short_shape(payload)
        elif tag == 3 << 3 | VARINT:
            shard_id = number
        elif tag == 4 << 3 | VARINT:
            offset = number
        elif tag == 5 << 3 | VARINT:
            size = number
        elif tag == 6 << 3 | FIXED32:
            crc32c = number
        elif tag == 7 << 3 | LENGTH:
            slices.append(payload)
    shape = checked_shape(dimensions)
    return BundleEntry(dtype, shape, shard_id, offset, size, crc32c, tuple(slices))


def checked_shape(shape: list[int]) -> tuple[int, ...]:
    """A shape whose rank is one that TensorFlow takes, too."""
    if len(shape) > MAX_RANK:
        raise Malformed(f"a tensor of rank {len(shape):,}")
    return tuple(shape)


@lru_cache(1024)
def _short_shape(data: bytes) -> tuple[int, ...]:
    """The variables of a model share a few shapes, and there are many variables."""
    return tuple(tensor_shape(data))


def tensor_shape(data: bytes) -> list[int]:
    """Decode a TensorShapeProto whose every dimension is known."""
    shape = []
    for tag, number, payload in fields(data):
        if tag == 2 << 3 | LENGTH:
            size = 0
            for subtag, value, _ in fields(payload):
                if subtag == 1 << 3 | VARINT:
                    size = signed(value)
            if size < 0:
                raise Malformed(f"a dimension of {size}")
            shape.append(size)
        elif tag == 3 << 3 | VARINT and number:
            raise Malformed("a tensor of unknown rank")
    return shape


def varints(data: bytes) -> list[int]:
    """Decode a packed repeated varint field."""
    values = []
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values
