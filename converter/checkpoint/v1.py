"""TensorFlow's V1 checkpoint: tables of SavedTensorSlices, with the data inside.

Format: tensorflow/core/util/saved_tensor_slice.proto, tensor_slice_writer.cc and
tensorflow/core/framework/tensor.proto. One table, or several shards, each of which lists the
variables that it has slices of. Tensors have no checksum of their own; the tables' blocks have.
"""

import math
from collections.abc import Iterator

from msgspec import Struct

from ..errors import CheckpointError
from . import wire
from .files import File
from .slices import Box, decode_slice, resolve, slice_key, whole
from .sstable import Table
from .variable import Variable, describe
from .wire import LENGTH, VARINT, Malformed, fields

VERSION = 1  # TF_CHECKPOINT_VERSION, the newest that this reader knows
# A TensorProto may leave out values at the end that repeat the last one, so that a few bytes stand
# for any number of values. More than this, and than so many times the file, is refused.
REPEATED_BYTES, REPEATED_GROWTH = 64 << 20, 4

# The fields of a TensorProto that hold values: as they are, by numpy's name of them, or as varints.
_CONTENT, _STRINGS, _FLOAT8 = 4, 8, 18
_FIXED = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
_VARINTS = {"int64": 10, "bool": 11, "float16": 13, "bfloat16": 13, "uint32": 16, "uint64": 17}
_INTS = 7  # of every other integer


class Part(Struct, frozen=True):
    """A variable, or a slice of it, in a block of a table."""

    variable: Variable
    box: Box
    table: Table
    key: bytes
    position: tuple[int, int]  # which table; in it, slices are sorted by name
    checksum: None = None  # V1 has checksums of blocks only

    def check(self) -> None:
        """Nothing: the data is in the block that is read for it."""

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

    def _values(self) -> tuple[bytes, list[bytes]]:
        file = self.table.file
        try:
            saved = self.table.get(self.key)
            if saved is None:
                raise Malformed("a slice is not there")
            count = math.prod(length for _, length in self.box)
            most = REPEATED_BYTES + REPEATED_GROWTH * file.size
            return _tensor_values(_saved_tensor(saved), self.variable, count, most)
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
        self._parts: dict[str, list[Part]] = {}
        self._raw_names: dict[str, bytes] = {}
        for number, file in enumerate(files):
            try:
                self._add(Table(file), number)
            except Malformed as error:
                raise CheckpointError(
                    f"{file.name} is no V1 checkpoint that TensorFlow wrote, or is damaged:"
                    f" {error}. Download or copy it again."
                ) from error

    def _add(self, table: Table, number: int) -> None:
        meta = table.get(b"")
        if meta is None:
            raise Malformed("it has no list of variables")
        for raw_name, shape, dtype, boxes in _variables(meta, table.file):
            variable = describe(raw_name, dtype, shape, 0)
            name = variable.name
            if self._raw_names.setdefault(name, raw_name) != raw_name:
                raise Malformed(f"two variables are shown as {name}")
            if self.variables.setdefault(name, variable) != variable:
                raise Malformed(f"{name} is described in two ways")
            self._parts.setdefault(name, []).extend(
                Part(variable, resolve(box, shape), table, slice_key(raw_name, box), (number, 0))
                for box in boxes or [whole(shape)]
            )

    def shard(self, shard: int) -> File:
        """A table file."""
        return self.files[shard]

    def parts(self, name: str) -> list[Part]:
        """The slices of a variable."""
        return self._parts[name]


def _variables(meta: bytes, file: File) -> Iterator[tuple[bytes, tuple[int, ...], int, list[Box]]]:
    """Yield name, shape, dtype and slices from SavedTensorSlices.meta."""
    for tag, _, payload in fields(meta):
        if tag != 1 << 3 | LENGTH:
            continue
        for subtag, _, inner in fields(payload):
            if subtag == 1 << 3 | LENGTH:
                yield _saved_slice_meta(inner)
            elif subtag == 2 << 3 | LENGTH and not wire.versions(inner).admits(VERSION):
                raise CheckpointError(
                    f"{file.name} is for other readers than those of version {VERSION}, which"
                    " this one is. A later bertconvert may read it."
                )


def _saved_slice_meta(data: bytes) -> tuple[bytes, tuple[int, ...], int, list[Box]]:
    name, dtype = b"", 0
    shape: list[int] = []
    boxes: list[Box] = []
    for tag, number, payload in fields(data):
        if tag == 1 << 3 | LENGTH:
            name = payload
        elif tag == 2 << 3 | LENGTH:
            shape += wire.tensor_shape(payload)
        elif tag == 3 << 3 | VARINT:
            dtype = number
        elif tag == 4 << 3 | LENGTH:
            boxes.append(decode_slice(payload))
    return name, wire.checked_shape(shape), dtype, boxes


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
    proto: bytes, variable: Variable, count: int, most: int
) -> tuple[bytes, list[bytes]]:
    """The bytes of `count` values of a TensorProto, or its strings."""
    tf_dtype = variable.tf_dtype
    if tf_dtype == "string":
        strings = [payload for tag, _, payload in fields(proto) if tag == _STRINGS << 3 | LENGTH]
        return b"", _repeat(strings, count, most // 8)
    itemsize = variable.dtype.itemsize
    content, packed = [], []
    numbers: list[int] = []
    fixed = _FIXED.get(tf_dtype, 0)
    varints = 0 if fixed else _VARINTS.get(tf_dtype, _INTS)
    for tag, number, payload in fields(proto):
        field, kind = tag >> 3, tag & 7
        if field == _CONTENT and kind == LENGTH:
            content = [payload]
        elif field == fixed and kind == LENGTH:
            packed.append(payload)
        elif field == fixed and kind in (wire.FIXED32, wire.FIXED64):
            packed.append(number.to_bytes(4 if kind == wire.FIXED32 else 8, "little"))
        elif field == _FLOAT8 and kind == LENGTH and tf_dtype.startswith("float8"):
            packed.append(payload)
        elif field == varints and kind == LENGTH:
            numbers += wire.varints(payload)
        elif field == varints and kind == VARINT:
            numbers.append(number)
    mask = (1 << 8 * itemsize) - 1  # a negative int32 is a varint of 64 bits
    packed += [b"".join((n & mask).to_bytes(itemsize, "little") for n in numbers)]
    data = b"".join(content) or b"".join(packed)
    values, rest = divmod(len(data), itemsize)
    if rest or values > count:
        raise Malformed(f"{len(data):,} bytes for {count:,} values")
    if values == count:
        return data, []
    if count * itemsize > most:
        raise Malformed(f"{values:,} values for {count:,}")
    last = data[-itemsize:] or bytes(itemsize)
    return data + last * (count - values), []


def _repeat(strings: list[bytes], count: int, most: int) -> list[bytes]:
    if len(strings) > count or (len(strings) < count and count > most):
        raise Malformed(f"{len(strings):,} strings for {count:,}")
    return strings + (strings[-1:] or [b""]) * (count - len(strings))
