"""Writes tables and TensorBundles as TensorFlow may, and, where asked, as nobody should.

Independent of the package under test, whose `write_bundle` writes ordinary checkpoints;
tests/oracle/test_checkpoint.py shows that TensorFlow reads what this writes.
"""

import os
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cramjam import snappy
from crc32c import crc32c

from bertconvert.converter.storage.files import Descriptor, File

MAGIC = bytes.fromhex("57fb808b247547db")
NONE, SNAPPY = 0, 1

FLOAT32, FLOAT64, INT32, STRING, INT64 = 1, 2, 3, 7, 9  # numbers of types.proto

Pairs = Iterable[tuple[bytes, bytes]]


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field: a varint, or length-delimited bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value & (1 << 64) - 1)


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<I", value)


def masked(data: bytes) -> int:
    """The masked crc32c of some bytes."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(pairs: Pairs, restart_interval: int = 16) -> bytes:
    """A block's contents: entries that share a prefix with the one before, and the restarts."""
    data = bytearray()
    restarts = [0]
    previous = b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % restart_interval == 0:
            restarts[number // restart_interval :] = [len(data)]
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        data += key[shared:] + value
        previous = key
    return bytes(data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def stored(contents: bytes, compression: int = NONE) -> bytes:
    """A block as it is in the file: perhaps compressed, with its trailer."""
    if compression == SNAPPY:
        contents = bytes(snappy.compress_raw(contents))
    data = contents + bytes([compression])
    return data + struct.pack("<I", masked(data))


def footer(metaindex: bytes, index: bytes) -> bytes:
    return (metaindex + index).ljust(40, b"\0") + MAGIC


def table_of(blocks: Iterable[tuple[bytes, bytes]], compression: int = NONE) -> bytes:
    """A table of ready blocks: (a key not below any of the block's, contents)."""
    data = b""
    handles = []

    def add(contents: bytes) -> bytes:
        nonlocal data
        start = len(data)
        data += stored(contents, compression)
        return handle(start, len(data) - start - 5)

    for key, contents in blocks:
        handles.append((key, add(contents)))
    metaindex = add(block([]))
    index = add(block(handles, 1))
    return data + footer(metaindex, index)


def table(
    pairs: Pairs,
    block_bytes: int = 1 << 18,
    restart_interval: int = 16,
    compression: int = NONE,
) -> bytes:
    """A table of sorted (key, value) pairs."""
    blocks: list[list[tuple[bytes, bytes]]] = []
    size = block_bytes
    for key, value in pairs:
        if size >= block_bytes:
            blocks.append([])
            size = 0
        blocks[-1].append((key, value))
        size += len(key) + len(value)
    return table_of(((part[-1][0], block(part, restart_interval)) for part in blocks), compression)


def header(
    num_shards: int = 1,
    big_endian: bool = False,
    min_consumer: int = 0,
    bad_consumers: Sequence[int] = (),
) -> bytes:
    """A BundleHeaderProto."""
    version = field(1, 1) + (field(2, min_consumer) if min_consumer else b"")
    version += b"".join(field(3, number) for number in bad_consumers)
    return field(1, num_shards) + (field(2, 1) if big_endian else b"") + field(3, version)


def shape(*sizes: int) -> bytes:
    """A TensorShapeProto; a size of 0 is left out, as protobuf does."""
    return b"".join(field(2, field(1, size) if size else b"") for size in sizes)


def entry(
    dtype: int,
    sizes: Sequence[int],
    size: int,
    offset: int = 0,
    crc: int = 0,
    shard: int = 0,
    slices: Sequence[bytes] = (),
) -> bytes:
    """A BundleEntryProto; `crc` is masked."""
    data = field(1, dtype) + field(2, shape(*sizes))
    data += field(3, shard) if shard else b""
    data += field(4, offset) if offset else b""
    data += field(5, size) if size else b""
    return data + fixed32(6, crc) + b"".join(field(7, part) for part in slices)


def index(entries: Mapping[str | bytes, bytes], head: bytes | None = None, **options: Any) -> bytes:
    """An index file: a header and one BundleEntryProto per name."""
    keys = {name if isinstance(name, bytes) else name.encode(): entries[name] for name in entries}
    return table([(b"", header() if head is None else head), *sorted(keys.items())], **options)


def extents(*box: tuple[int, int] | None) -> bytes:
    """A TensorSliceProto: (start, length), or None for a dimension that is there in full."""
    return b"".join(
        field(1, b"" if extent is None else (field(1, extent[0]) if extent[0] else b"")
              + field(2, extent[1]))
        for extent in box
    )  # fmt: skip


def ordered_number(value: int) -> bytes:
    """OrderedCode's signed integer: n ones, a zero, and 7n - 1 bits; complemented if negative."""
    digits = value if value >= 0 else ~value
    size = 1
    while digits >= 1 << (7 * size - 1):
        size += 1
    number = int("1" * size + "0" + format(digits, f"0{7 * size - 1}b"), 2)
    if value < 0:
        number ^= (1 << 8 * size) - 1
    return number.to_bytes(size, "big")


def slice_key(name: bytes, *box: tuple[int, int] | None) -> bytes:
    """The key under which a slice is stored."""
    escapes = {0x00: b"\0\xff", 0xFF: b"\xff\0"}
    escaped = b"".join(escapes.get(byte, bytes([byte])) for byte in name)
    numbers = b"".join(ordered_number(n) for extent in box for n in extent or (0, -1))
    rank = b"\x01" + bytes([len(box)]) if box else b"\0"
    return b"\0" + escaped + b"\0\1" + rank + numbers


class Strings(NamedTuple):
    """A string tensor as a shard holds it, and its masked checksum."""

    data: bytes
    crc: int


def strings(texts: Sequence[bytes], big_endian: bool = False) -> Strings:
    """The lengths, a checksum of them, and the bytes."""
    order = ">" if big_endian else "<"
    lengths = b"".join(struct.pack(f"{order}I", len(text)) for text in texts)
    rest = struct.pack(f"{order}I", masked(lengths)) + b"".join(texts)
    return Strings(b"".join(varint(len(t)) for t in texts) + rest, masked(lengths + rest))


class V1Variable(NamedTuple):
    """A variable of a V1 table: its slices, and a TensorProto's values for each."""

    name: bytes
    dtype: int
    sizes: Sequence[int]
    boxes: Sequence[Sequence[tuple[int, int] | None]]
    values: Sequence[bytes]


def v1_pairs(
    variables: Iterable[V1Variable], version: bytes = b"\x08\1"
) -> list[tuple[bytes, bytes]]:
    """Keys and values of a V1 table."""
    metas = b""
    pairs = []
    for name, dtype, sizes, boxes, values in variables:
        meta = field(1, name) + field(2, shape(*sizes)) + field(3, dtype)
        metas += field(1, meta + b"".join(field(4, extents(*box)) for box in boxes))
        for box, data in zip(boxes, values, strict=True):
            lengths = [size if e is None else e[1] for e, size in zip(box, sizes, strict=True)]
            proto = field(1, dtype) + field(2, shape(*lengths)) + data
            saved = field(1, name) + field(2, extents(*box)) + field(3, proto)
            pairs.append((slice_key(name, *box), field(2, saved)))
    return [(b"", field(1, metas + field(2, version))), *sorted(pairs)]


def packed_floats(*numbers: float) -> bytes:
    """float_val of a TensorProto."""
    return field(5, struct.pack(f"<{len(numbers)}f", *numbers))


def write_index(
    prefix: Path, entries: Mapping[str | bytes, bytes], head: bytes | None = None, **options: Any
) -> Path:
    """Write `prefix`.index alone."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    path = Path(f"{prefix}.index")
    path.write_bytes(index(entries, head, **options))
    return path


def shard_path(prefix: Path, shard: int = 0, num_shards: int = 1) -> Path:
    return Path(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}")


def swapped(array: "np.ndarray[Any, Any]") -> bytes:
    """An array's bytes with every number the other way round, the parts of a complex one too."""
    number = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    return np.frombuffer(array.tobytes(), np.uint8).reshape(-1, number)[:, ::-1].tobytes()


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, tuple[int, "np.ndarray[Any, Any]"]],
    num_shards: int = 1,
    big_endian: bool = False,
    gap: int = 0,
    **options: Any,
) -> Path:
    """Write a checkpoint of name -> (number of the dtype, array); gives the prefix.

    The tensors go to the shards in turn, the last name first, with `gap` bytes before each.
    """
    shards = [bytearray() for _ in range(num_shards)]
    entries: dict[str | bytes, bytes] = {}
    for number, name in enumerate(sorted(tensors, reverse=True)):
        dtype, array = tensors[name]
        data = swapped(array) if big_endian else array.tobytes()
        shard = number % num_shards
        shards[shard] += b"\xee" * gap
        place = len(shards[shard])
        entries[name] = entry(dtype, array.shape, len(data), place, masked(data), shard)
        shards[shard] += data
    write_index(prefix, entries, header(num_shards, big_endian), **options)
    for shard, content in enumerate(shards):
        shard_path(prefix, shard, num_shards).write_bytes(content)
    return prefix


def write_mixture(folder: Path, big_endian: bool = False, **options: Any) -> Path:
    """Write a small checkpoint of numbers, strings, slices and nothing; gives the prefix."""
    order = ">" if big_endian else "<"
    shards = [bytearray(b"\xee"), bytearray()]
    entries: dict[str | bytes, bytes] = {}

    def add(name: bytes, dtype: int, sizes: Sequence[int], data: bytes, crc: int = 0) -> None:
        number = len(entries) % 2
        place = len(shards[number])
        entries[name] = entry(dtype, sizes, len(data), place, crc or masked(data), number)
        shards[number] += data

    add(b"a/kernel", FLOAT32, (2, 2), struct.pack(f"{order}4f", 1, 2, 3, 4))
    add(b"a/none", INT64, (0, 3), b"")
    add(b"b\xff", INT32, (), struct.pack(f"{order}i", -5))
    texts = strings([b"", b"one", b"two" * 3], big_endian)
    add(b"names", STRING, (3,), texts.data, texts.crc)
    columns = (None, (0, 1)), (None, (1, 2))
    entries["parts"] = entry(INT32, (2, 3), 0, slices=[extents(*box) for box in columns])
    add(slice_key(b"parts", *columns[0]), INT32, (2, 1), struct.pack(f"{order}2i", 1, 4))
    add(slice_key(b"parts", *columns[1]), INT32, (2, 2), struct.pack(f"{order}4i", 2, 3, 5, 6))
    prefix = folder / "m.ckpt"
    write_index(prefix, entries, header(2, big_endian), **options)
    for number, data in enumerate(shards):
        shard_path(prefix, number, 2).write_bytes(data)
    return prefix


def write_v1_mixture(folder: Path, num_shards: int = 1, **options: Any) -> Path:
    """The same for V1, which keeps values in many ways."""
    variables = [
        V1Variable(b"a/kernel", FLOAT32, (2, 2), [(None, None)], [packed_floats(1, 2, 3, 4)]),
        V1Variable(b"b\xff", INT64, (), [()], [field(10, -5)]),
        V1Variable(b"content", INT32, (3,), [(None,)], [field(4, struct.pack("<3i", 7, 8, 9))]),
        V1Variable(
            b"names", STRING, (3,), [(None,)], [b"".join(field(8, b"x" * n) for n in (0, 3, 9))]
        ),
        V1Variable(
            b"parts", INT32, (2, 3), [(None, (0, 1)), (None, (1, 2))],
            [field(7, varint(1) + varint(4)), field(7, varint(2) + varint(300))],
        ),
    ]  # fmt: skip
    prefix = folder / "m.ckpt"
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        ending = f"-{shard:05d}-of-{num_shards:05d}" if num_shards > 1 else ""
        content = table(v1_pairs(variables[shard::num_shards]), **options)
        Path(f"{prefix}{ending}").write_bytes(content)
    return prefix


def floats(*numbers: float) -> tuple[int, "np.ndarray[Any, Any]"]:
    """A vector of float32, for `write_bundle`."""
    return FLOAT32, np.array(numbers, np.float32)


def in_file(data: bytes) -> File:
    """The bytes as a file of the reader's."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return File("some.index", Descriptor(os.dup(file.fileno())), 0, len(data))
