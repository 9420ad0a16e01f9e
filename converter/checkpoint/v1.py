"""TensorFlow's V1 checkpoint: tables of SavedTensorSlices, with the data inside.

Format: tensorflow/core/util/saved_tensor_slice.proto, tensor_slice_writer.cc and
tensorflow/core/framework/tensor.proto. One table, or several shards, each of which lists the
variables that it has slices of. Tensors have no checksum of their own; the tables' blocks have.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from ..errors import CheckpointError
from ..storage.files import File
from . import protos
from .protos import LENGTH, VARINT, Malformed, fields
from .slices import Box, decode_slice, resolve, slice_key, whole
from .sstable import Table
from .variable import Variable, describe

VERSION = 1  # TF_CHECKPOINT_VERSION, the newest that this reader knows
# A TensorProto may leave out values at the end that repeat the last one, so that a few bytes stand
# for any number of values. More than this, and than so many times the file, is refused.
REPEATED_BYTES, REPEATED_GROWTH = 64 << 20, 4

# The fields of a TensorProto that hold values: as they are, by numpy's name of them, or as varints.
_CONTENT, _STRINGS, _FLOAT8 = 4, 8, 18
_FIXED = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
_VARINTS = {"int64": 10, "bool": 11, "float16": 13, "bfloat16": 13, "uint32": 16, "uint64": 17}
_INTS = 7  # of every other integer
_VARINTS_AT_ONCE = 1 << 16  # bytes


class Part(Struct, frozen=True):
    """A variable, or a slice of it, in a block of a table."""

    variable: Variable
    box: Box
    table: Table
    raw_name: bytes
    stored: Box  # as the table has it
    position: tuple[int, int]  # which table; in it, slices are sorted by name
    checksum: None = None  # V1 has checksums of blocks only

    def check(self) -> None:
        """Make sure that its values are there.

        Raises:
            CheckpointError: the block is damaged, or holds something else.
        """
        self._values()

    def stream(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield its bytes (little-endian, row-major), piece by piece, in `buffer`.

        Raises:
            CheckpointError: the block is damaged, or holds something else.
        """
        data, _ = self._values()
        values = memoryview(data)
        for start in range(0, len(values), len(buffer) or 1):
            piece = buffer[: min(len(buffer), len(values) - start)]
            piece[:] = values[start : start + len(piece)]
            yield piece

    def strings(self) -> list[bytes]:
        """The elements of a string tensor, in row-major order.

        Raises:
            CheckpointError: the block is damaged, or holds something else.
        """
        return self._values()[1]

    def _values(self) -> tuple[bytes | bytearray, list[bytes]]:
        file = self.table.file
        try:
            saved = self.table.get(slice_key(self.raw_name, self.stored))
            if saved is None:
                raise Malformed("a slice is missing")
            count = math.prod(length for _, length in self.box)
            may_repeat = _room(self.variable) <= REPEATED_BYTES + REPEATED_GROWTH * file.size
            return _tensor_values(_saved_tensor(saved), self.variable, count, may_repeat)
        except Malformed as error:
            raise CheckpointError(
                f"{file.name}: the bytes of {self.variable.name} are damaged ({error}). Download or"
                " copy the file again."
            ) from error


class SavedTensorSlices:
    """The tensors of a V1 checkpoint; the block that holds a slice is read when it is asked for.

    Args:
        files: the tables.

    Raises:
        CheckpointError: a table is damaged, or of a version that can't be read.
    """

    format = "TensorFlow V1 (SavedTensorSlices)"

    def __init__(self, files: list[File]) -> None:
        self.index = files[0]
        self.files = files
        self.num_shards = len(files)
        self.variables: dict[str, Variable] = {}
        self._raw_names: dict[str, bytes] = {}
        self._slices: dict[str, list[tuple[int, bytes]]] = {}  # tables, and what they say of slices
        self._tables: list[Table] = []
        for file in files:
            try:
                self._add(Table(file))
            except Malformed as error:
                raise CheckpointError(
                    f"{file.name} is damaged or is not a V1 checkpoint that TensorFlow wrote:"
                    f" {error}. Download or copy it again."
                ) from error

    def _add(self, table: Table) -> None:
        meta = table.get(b"")
        if meta is None:
            raise Malformed("the list of variables is missing")
        for saved in _saved_slice_metas(meta, table.file):
            raw_name, shape, dtype = _described(saved)
            variable = describe(raw_name, dtype, shape, 0)
            name = variable.name
            if self._raw_names.setdefault(name, raw_name) != raw_name:
                raise Malformed(f"two variables are shown as {name}")
            if self.variables.setdefault(name, variable) != variable:
                raise Malformed(f"{name} is described in two ways")
            self._slices.setdefault(name, []).append((len(self._tables), saved))
        self._tables.append(table)

    def shard(self, shard: int) -> File:
        """A table file."""
        return self.files[shard]

    def parts(self, name: str) -> list[Part]:
        """The slices of a variable, in the order of the tables, so that no block is read twice.

        Raises:
            Malformed: one is not within the variable, or is stored twice.
        """
        variable, raw_name = self.variables[name], self._raw_names[name]
        parts: dict[Box, Part] = {}
        for number, saved in self._slices[name]:
            boxes = list(_boxes(saved)) or [whole(variable.shape)]
            for stored in boxes:
                box = resolve(stored, variable.shape)
                if box in parts:
                    raise Malformed(f"the slice {list(stored)} is stored twice")
                table = self._tables[number]
                parts[box] = Part(variable, box, table, raw_name, stored, (number, 0))
        return sorted(parts.values(), key=lambda part: (part.position, part.stored))

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The bytes of the blocks that variables are in, by their tables.

        Raises:
            Malformed: a slice is none of its variable.
        """
        found: dict[File, list[tuple[int, int]]] = {}
        for name in names:
            for part in self.parts(name):
                span = part.table.span(slice_key(part.raw_name, part.stored))
                found.setdefault(part.table.file, []).append(span)
        return found

    def check(self, name: str, parts: Sequence[Any]) -> None:
        """Make sure that a variable much larger than the files has the values of all its `parts`.

        Raises:
            CheckpointError: a block is damaged, or values are missing.
        """
        largest = max(file.size for file in self.files)
        if _room(self.variables[name]) > REPEATED_BYTES + REPEATED_GROWTH * largest:
            for part in parts:
                part.check()


def _room(variable: Variable) -> int:
    """The bytes of memory that a variable takes; of a string, those of the reference to it."""
    return variable.size * (variable.nbytes // variable.size if variable.nbytes else 8)


def _saved_slice_metas(meta: bytes, file: File) -> Iterator[bytes]:
    """Yield what SavedTensorSlices.meta says of each variable."""
    for tag, _, payload in fields(meta):
        if tag != 1 << 3 | LENGTH:
            continue
        for subtag, _, inner in fields(payload):
            if subtag == 1 << 3 | LENGTH:
                yield inner
            elif subtag == 2 << 3 | LENGTH and not protos.versions(inner).admits(VERSION):
                raise CheckpointError(
                    f"{file.name} needs a reader of another format version; this bertconvert reads"
                    f" version {VERSION}. A later bertconvert may read it."
                )


def _described(saved: bytes) -> tuple[bytes, tuple[int, ...], int]:
    """Name, shape and dtype from a SavedSliceMeta."""
    name, dtype = b"", 0
    shape: list[int] = []
    for tag, number, payload in fields(saved):
        if tag == 1 << 3 | LENGTH:
            name = payload
        elif tag == 2 << 3 | LENGTH:
            shape += protos.tensor_shape(payload)
        elif tag == 3 << 3 | VARINT:
            dtype = number
    return name, protos.checked_shape(shape), dtype


def _boxes(saved: bytes) -> Iterator[Box]:
    """The slices in a SavedSliceMeta."""
    return (decode_slice(part) for tag, _, part in fields(saved) if tag == 4 << 3 | LENGTH)


def _saved_tensor(data: bytes) -> bytes:
    """The TensorProto in SavedTensorSlices.data."""
    tensor = b""
    for tag, _, payload in fields(data):
        if tag == 2 << 3 | LENGTH:
            for subtag, _, inner in fields(payload):
                if subtag == 3 << 3 | LENGTH:
                    tensor = inner
    return tensor


def _tensor_values(
    proto: bytes, variable: Variable, count: int, may_repeat: bool
) -> tuple[bytes | bytearray, list[bytes]]:
    """The bytes of `count` values of a TensorProto, or its strings."""
    tf_dtype = variable.tf_dtype
    if tf_dtype == "string":
        strings = [payload for tag, _, payload in fields(proto) if tag == _STRINGS << 3 | LENGTH]
        missing = _missing(len(strings), count, may_repeat)
        return b"", strings + (strings[-1:] or [b""]) * missing
    itemsize = variable.dtype.itemsize
    content = b""
    values = bytearray()
    fixed = _FIXED.get(tf_dtype, 0)
    varints = 0 if fixed else _VARINTS.get(tf_dtype, _INTS)
    for tag, number, payload in fields(proto):
        field, kind = tag >> 3, tag & 7
        if field == _CONTENT and kind == LENGTH:
            content = payload
        elif field == fixed and kind == LENGTH:
            values += payload
        elif field == fixed and kind in (protos.FIXED32, protos.FIXED64):
            values += number.to_bytes(4 if kind == protos.FIXED32 else 8, "little")
        elif field == _FLOAT8 and kind == LENGTH and tf_dtype.startswith("float8"):
            values += payload
        elif field == varints and kind == LENGTH:
            values += _unpack(payload, itemsize)
        elif field == varints and kind == VARINT:
            values += number.to_bytes(8, "little")[:itemsize]
    data = content or values
    there, rest = divmod(len(data), itemsize)
    if rest:
        raise Malformed(f"{len(data):,} bytes of values of {itemsize}")
    missing = _missing(there, count, may_repeat)
    return (data + (data[-itemsize:] or bytes(itemsize)) * missing if missing else data), []


def _missing(values: int, count: int, may_repeat: bool) -> int:
    """How often the last value is to be repeated."""
    if values > count or (values < count and not may_repeat):
        raise Malformed(f"{values:,} values for {count:,}")
    return count - values


def _unpack(varints: bytes, itemsize: int) -> bytearray:
    """Packed varints as little-endian integers, of which the bytes above `itemsize` are cut."""
    import numpy as np

    if varints and varints[-1] >= 0x80:
        raise Malformed("a varint is cut off")
    unpacked = bytearray()
    at = 0
    while at < len(varints):
        end = at + _VARINTS_AT_ONCE
        end = len(varints) if end >= len(varints) else end - _unfinished(varints[end - 10 : end])
        data = np.frombuffer(varints[at:end], np.uint8)
        ends = np.flatnonzero(data < 0x80)
        starts = np.concatenate(([0], ends[:-1] + 1))
        sizes = ends - starts + 1
        if sizes.max(initial=0) > 10:
            raise Malformed("a varint is longer than 10 bytes")
        values = np.zeros(len(ends), "<u8")
        for place in range(sizes.max(initial=0)):
            (longer,) = np.nonzero(sizes > place)
            bits = (data[starts[longer] + place] & 0x7F).astype("<u8")
            values[longer] |= bits << np.uint64(7 * place)
        unpacked += values.view(np.uint8).reshape(-1, 8)[:, :itemsize].tobytes()
        at = end
    return unpacked


def _unfinished(tail: bytes) -> int:
    """The bytes of a varint at the end that goes on."""
    finished = len(tail.rstrip(bytes(range(0x80, 0x100))))
    if not finished:
        raise Malformed("a varint is longer than 10 bytes")
    return len(tail) - finished
