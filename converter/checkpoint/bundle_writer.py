"""Writes a TensorBundle, byte for byte as TensorFlow's Saver writes the same variables.

Format: tensorflow/core/util/tensor_bundle/tensor_bundle.cc for the messages and the order of the
data; tensorflow/core/lib/io/table_builder.cc and block_builder.cc for the table.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import OutputError
from .checksum import crc32c, mask
from .dtypes import NUMBERS
from .names import INDEX, shard_of
from .protos import FIXED32, LENGTH, MAX_RANK, VARINT, field
from .sstable import FOOTER_BYTES, MAGIC, NO_COMPRESSION
from .variable import Variable, describe

if TYPE_CHECKING:
    import numpy as np

# num_shards 1; version { producer 1 }. Little-endian is 0, which protobuf leaves out.
_HEADER = bytes.fromhex("08 01 1a 02 08 01")
_DTYPE, _SHAPE, _OFFSET, _SIZE, _CRC32C = (
    bytes([field(1, VARINT)]),
    bytes([field(2, LENGTH)]),
    bytes([field(4, VARINT)]),
    bytes([field(5, VARINT)]),
    bytes([field(6, FIXED32)]),
)
_DIM, _DIM_SIZE = bytes([field(2, LENGTH)]), bytes([field(1, VARINT)])
_BLOCK_BYTES, _RESTART_INTERVAL = 1 << 18, 16  # table_options.h
_LARGE = 2 * _BLOCK_BYTES  # an entry of that size begins a block


class Place(Struct, frozen=True, gc=False):
    """A variable, and the first byte of its data in the data file."""

    variable: Variable
    offset: int


def layout(variables: Iterable[Variable]) -> list[Place]:
    """Where Saver puts variables: one after another, by the UTF-8 bytes of their names.

    Raises:
        OutputError: TensorFlow can't store numbers of a variable's dtype, which may be string; its
            size is not that of its dtype and shape; its name is empty or not Unicode; two variables
            have the same name; or all of them have more bytes than 64 bits can count.
    """
    places: list[Place] = []
    offset, last = 0, ""
    for variable in sorted(variables, key=lambda variable: variable.name):  # UTF-8 keeps the order
        _check(variable)
        if variable.name == last:
            raise OutputError(f"two variables have the name {last}")
        places.append(Place(variable, offset))
        offset, last = offset + variable.nbytes, variable.name
    if offset >= 1 << 63:
        raise OutputError(f"a data file can't have {offset:,} bytes")
    return places


def index_file(places: Sequence[Place], checksums: Mapping[str, int]) -> bytes:
    """The content of the index of a checkpoint with one data file.

    Args:
        places: the variables by their names, as `layout` sorts them.
        checksums: the crc32c (not masked) of each variable's data, by its name.
    """
    return _table(_pairs(places, checksums))


def write_bundle(prefix: Path, arrays: Mapping[str, "np.ndarray[Any, Any]"]) -> None:
    """Write arrays that are in memory to PREFIX.data-00000-of-00001 and PREFIX.index.

    Args:
        prefix: the checkpoint's name; its folder is created.
        arrays: name -> array of a dtype that TensorFlow has, such as float32 or ml_dtypes.bfloat16.

    Raises:
        OutputError: as for `layout`.
    """
    import numpy as np

    places = layout(
        Variable(name, array.dtype.name, array.shape, array.nbytes)
        for name, array in arrays.items()
    )
    prefix.parent.mkdir(parents=True, exist_ok=True)
    index = f"{prefix}{INDEX}"
    checksums: dict[str, int] = {}
    with open(shard_of(index, 0, 1), "wb") as data:
        for place in places:
            array = arrays[place.variable.name]
            little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            content = little.reshape(-1).view(np.uint8).data
            checksums[place.variable.name] = crc32c(content)
            data.write(content)
    Path(index).write_bytes(index_file(places, checksums))


def _check(variable: Variable) -> None:
    name, tf_dtype, shape = variable.name, variable.tf_dtype, variable.shape
    if not name:  # the key of the header
        raise OutputError("a variable without a name can't be written")
    if tf_dtype not in NUMBERS:
        raise OutputError(
            f"{name} can't be written: its dtype is {tf_dtype}, not one of TensorFlow's numbers"
        )
    if len(shape) > MAX_RANK:
        raise OutputError(f"{name} can't be written: it has {len(shape)} dimensions")
    try:
        expected = describe(name.encode(), NUMBERS[tf_dtype], shape, 0).nbytes
    except ValueError as error:  # not Unicode, or too large
        raise OutputError(f"{name!a} can't be written: {error}") from error
    if variable.nbytes != expected:
        raise OutputError(
            f"{name} can't be written: {tf_dtype} {list(shape)} takes {expected:,} bytes, and it"
            f" has {variable.nbytes:,}"
        )


def _pairs(places: Sequence[Place], checksums: Mapping[str, int]) -> Iterator[tuple[bytes, bytes]]:
    yield b"", _HEADER
    for place in places:
        yield place.variable.name.encode(), _entry(place, checksums[place.variable.name])


def _entry(place: Place, checksum: int) -> bytes:
    """BundleEntryProto. protobuf leaves out what is zero, but not an empty shape."""
    variable = place.variable
    entry = _DTYPE + _varint(NUMBERS[variable.tf_dtype]) + _shape(variable.shape)
    if place.offset:
        entry += _OFFSET + _varint(place.offset)
    if variable.nbytes:
        entry += _SIZE + _varint(variable.nbytes)
    if masked := mask(checksum):
        entry += _CRC32C + struct.pack("<I", masked)
    return entry


@lru_cache
def _shape(shape: tuple[int, ...]) -> bytes:
    content = b""
    for size in shape:
        dim = _DIM_SIZE + _varint(size) if size else b""
        content += _DIM + _varint(len(dim)) + dim
    return _SHAPE + _varint(len(content)) + content


def _table(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A table of pairs that are sorted by key, of which there is at least one."""
    table = bytearray()

    def append(block: _Block) -> bytes:
        """Add a block to the table; gives its handle."""
        content = block.content() + bytes([NO_COMPRESSION])
        handle = _varint(len(table)) + _varint(len(content) - 1)
        table.extend(content + struct.pack("<I", mask(crc32c(content))))
        return handle

    index, block, last = _Block(1), _Block(_RESTART_INTERVAL), b""
    handle = b""  # of the last block, until the index has it: its key depends on the next one
    for key, value in pairs:
        if block.data and len(key) + len(value) >= _LARGE:
            handle, block = append(block), _Block(_RESTART_INTERVAL)
        if handle:
            index.add(_separator(last, key), handle)
            handle = b""
        block.add(key, value)
        last = key
        if block.size >= _BLOCK_BYTES:
            handle, block = append(block), _Block(_RESTART_INTERVAL)
    if block.data:
        handle = append(block)
    footer = append(_Block(1))  # the metaindex
    index.add(_successor(last), handle)
    footer += append(index)
    return bytes(table) + footer.ljust(FOOTER_BYTES - 8, b"\0") + MAGIC.to_bytes(8, "little")


class _Block:
    """A block that entries are added to, sorted by key."""

    def __init__(self, restart_interval: int) -> None:
        self.data = bytearray()
        self._restarts = [0]
        self._interval = self._left = restart_interval
        self._last = b""

    def add(self, key: bytes, value: bytes) -> None:
        """Add an entry; at a restart its key is stored in full."""
        if self._left:
            shared = _shared(self._last, key)
        else:
            shared = 0
            self._restarts.append(len(self.data))
            self._left = self._interval
        self._left -= 1
        self.data += _varint(shared) + _varint(len(key) - shared) + _varint(len(value))
        self.data += key[shared:] + value
        self._last = key

    @property
    def size(self) -> int:
        """The bytes of the content."""
        return len(self.data) + 4 * len(self._restarts) + 4

    def content(self) -> bytes:
        """The entries, the offsets of the restarts, and their number."""
        restarts = self._restarts
        return bytes(self.data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def _shared(last: bytes, key: bytes) -> int:
    """How many bytes two keys have in common at their start."""
    length = min(len(last), len(key))
    difference = int.from_bytes(last[:length], "big") ^ int.from_bytes(key[:length], "big")
    return length - (difference.bit_length() + 7) // 8


def _separator(last: bytes, key: bytes) -> bytes:
    """FindShortestSeparator: a short key that is not below `last`, but below `key`."""
    shared = _shared(last, key)
    if shared < len(last) and last[shared] + 1 < key[shared]:
        return last[:shared] + bytes([last[shared] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """FindShortSuccessor: a short key that is not below `last`; UTF-8 has no byte ff."""
    return bytes(byte + 1 for byte in last[:1])


@lru_cache
def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
