"""TensorFlow's V1 checkpoint: tables of SavedTensorSlices, which include the data.

Format: tensorflow/core/util/saved_tensor_slice.proto, tensor_slice_writer.cc and
tensorflow/core/framework/tensor.proto. There is one table, or several, each of which lists the
variables that it has slices of. Tensors have no checksum; the blocks of the tables have.
"""

import math
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ..errors import CheckpointError
from ..storage.files import File, is_private
from ..storage.mistaken import mistaken
from . import protos
from .protos import LENGTH, VARINT, Box, Malformed, field, fields, tensor_slice, unsupported
from .slices import resolve, slice_key, whole
from .sstable import Table
from .variable import Variable, describe

VERSION = 1  # TF_CHECKPOINT_VERSION, the newest that this reader supports
# A TensorProto may leave out final values that repeat the last one, so that a few bytes stand for
# any number of values. A variable with more bytes than REPEATED_BYTES and REPEATED_GROWTH times the
# file must have all its values.
REPEATED_BYTES, REPEATED_GROWTH = 64 << 20, 4

_METAS, _DATA = field(1, LENGTH), field(2, LENGTH)  # of SavedTensorSlices
_TENSORS, _VERSIONS = field(1, LENGTH), field(2, LENGTH)  # of SavedTensorSliceMeta
_NAME, _SHAPE, _DTYPE = field(1, LENGTH), field(2, LENGTH), field(3, VARINT)  # of SavedSliceMeta
_SLICES = field(4, LENGTH)
_TENSOR = field(3, LENGTH)  # of SavedSlice

# The numbers of the fields of TensorProto that have values: raw bytes, strings, or by dtype.
_CONTENT, _STRINGS, _FLOAT8 = 4, 8, 18
_FIXED = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
_VARINTS = {"int64": 10, "bool": 11, "float16": 13, "bfloat16": 13, "uint32": 16, "uint64": 17}
_INTS = 7  # for all other integers
_VARINTS_AT_ONCE = 1 << 16  # bytes


Values = bytes | bytearray | memoryview


class Part(Struct, frozen=True):
    """A variable, or a slice of it, in a block of a table."""

    variable: Variable
    box: Box
    table: Table
    raw_name: bytes
    stored: Box  # with `FULL` as the table has it
    position: tuple[int, int]  # the table's number, and 0: in a table, slices are sorted by name
    place: None = None  # a block has the values in a protobuf message
    checksum: None = None  # only blocks have checksums

    def check(self) -> None:
        """Check that its values exist.

        Raises:
            CheckpointError: the block is damaged, or has other values.
        """
        self._values()

    def stream(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield its bytes (little-endian, row-major) piece by piece in `buffer`.

        Raises:
            CheckpointError: the block is damaged, or has other values.
        """
        data, _ = self._values()
        values = memoryview(data)
        for start in range(0, len(values), len(buffer) or 1):
            piece = buffer[: min(len(buffer), len(values) - start)]
            piece[:] = values[start : start + len(piece)]
            yield piece

    def owned(self) -> memoryview | None:
        """All its bytes, moved to the start of the memory that its block was read into.

        None if the block is small or compressed, or if it has the values in another form.

        Raises:
            CheckpointError: the block is damaged, or has other values.
        """
        data, _ = self._values()
        if not isinstance(data, memoryview) or not is_private(data):
            return None
        memory = memoryview(data.obj)
        memory[: len(data)] = data  # the start is aligned, as numpy and others expect
        return memory[: len(data)]

    def strings(self) -> list[bytes]:
        """The elements of a string tensor in row-major order.

        Raises:
            CheckpointError: the block is damaged, or has other values.
        """
        return self._values()[1]

    def _values(self) -> tuple[Values, list[bytes]]:
        file = self.table.file
        try:
            saved = self.table.get(slice_key(self.raw_name, self.stored))
            if saved is None:
                raise Malformed("a slice is missing")
            count = math.prod(length for _, length in self.box)
            may_repeat = _memory(self.variable) <= REPEATED_BYTES + REPEATED_GROWTH * file.size
            return _tensor_values(_saved_tensor(saved), self.variable, count, may_repeat)
        except Malformed as error:
            raise CheckpointError(
                f"{file.name} is damaged at {self.variable.name} ({error}). Download or copy it"
                " again."
            ) from error


class SavedTensorSlices:
    """The tensors of a V1 checkpoint; a block is read only when its data is needed.

    Args:
        files: the tables.

    Raises:
        CheckpointError: a table is damaged, or its version is not supported.
    """

    format = "TensorFlow V1 (SavedTensorSlices)"

    def __init__(self, files: list[File]) -> None:
        self.index = files[0]
        self.files = files
        self.num_shards = len(files)
        self.variables: dict[str, Variable] = {}
        self._raw_names: dict[str, bytes] = {}
        self._slices: dict[str, list[tuple[int, bytes]]] = {}  # number of the table, SavedSliceMeta
        self._tables: list[Table] = []
        for file in files:
            try:
                self._add(Table(file))
            except Malformed as error:
                raise CheckpointError(
                    mistaken(file)
                    or f"{file.name} is damaged, or not a V1 checkpoint that TensorFlow wrote:"
                    f" {error}. Download or copy it again."
                ) from error

    def _add(self, table: Table) -> None:
        meta = table.get(b"")
        if meta is None:
            raise Malformed("the list of variables is missing")
        for saved in _saved_slice_metas(bytes(meta), table.file):
            raw_name, shape, dtype = _described(saved)
            variable = describe(raw_name, dtype, shape, 0)
            name = variable.name
            if self._raw_names.setdefault(name, raw_name) != raw_name:
                raise Malformed(f"two variables have the name {name}")
            if self.variables.setdefault(name, variable) != variable:
                raise Malformed(f"{name} has two different descriptions")
            self._slices.setdefault(name, []).append((len(self._tables), saved))
        self._tables.append(table)

    def shard(self, shard: int) -> File:
        """A table file."""
        return self.files[shard]

    def parts(self, name: str) -> list[Part]:
        """The slices of a variable in the order of the tables, so that no block is read twice.

        Raises:
            Malformed: one does not fit the variable, or exists twice.
        """
        variable, raw_name = self.variables[name], self._raw_names[name]
        parts: dict[Box, Part] = {}
        for number, saved in self._slices[name]:
            boxes = list(_boxes(saved)) or [whole(variable.shape)]
            for stored in boxes:
                box = resolve(stored, variable.shape)
                if box in parts:
                    raise Malformed(f"the slice {list(stored)} exists twice")
                table = self._tables[number]
                parts[box] = Part(variable, box, table, raw_name, stored, (number, 0))
        return sorted(parts.values(), key=lambda part: (part.position, part.stored))

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The ranges (start, end) of the blocks of variables, by their tables.

        Raises:
            Malformed: a slice does not fit its variable.
        """
        found: dict[File, list[tuple[int, int]]] = {}
        for name in names:
            for part in self.parts(name):
                span = part.table.span(slice_key(part.raw_name, part.stored))
                found.setdefault(part.table.file, []).append(span)
        return found

    def check(self, name: str) -> None:
        """Check that a variable that is much larger than the files has all its values.

        Raises:
            CheckpointError: a block is damaged, or values are missing.
        """
        largest = max(file.size for file in self.files)
        if _memory(self.variables[name]) > REPEATED_BYTES + REPEATED_GROWTH * largest:
            for part in self.parts(name):
                part.check()


def _memory(variable: Variable) -> int:
    """The bytes of memory of a variable; for strings, of the references to them."""
    return variable.size * (variable.nbytes // variable.size if variable.nbytes else 8)


def _saved_slice_metas(meta: bytes, file: File) -> Iterator[bytes]:
    """Yield the SavedSliceMeta of each variable."""
    for tag, _, payload in fields(meta):
        if tag != _METAS:
            continue
        for subtag, _, inner in fields(payload):
            if subtag == _TENSORS:
                yield inner
            elif subtag == _VERSIONS:
                versions = protos.versions(inner)
                if not versions.admits(VERSION):
                    raise CheckpointError(unsupported(file.name, versions, VERSION))


def _described(saved: bytes) -> tuple[bytes, tuple[int, ...], int]:
    """Name, shape and dtype of a SavedSliceMeta."""
    name, dtype = b"", 0
    shape: list[int] = []
    for tag, number, payload in fields(saved):
        if tag == _NAME:
            name = payload
        elif tag == _SHAPE:
            shape += protos.tensor_shape(payload)
        elif tag == _DTYPE:
            dtype = number
    return name, protos.checked_shape(shape), dtype


def _boxes(saved: bytes) -> Iterator[Box]:
    """The slices in a SavedSliceMeta."""
    return (tensor_slice(part) for tag, _, part in fields(saved) if tag == _SLICES)


def _saved_tensor(data: memoryview) -> memoryview:
    """The TensorProto of SavedTensorSlices.data."""
    tensor = data[:0]
    for tag, _, payload in fields(data):
        if tag == _DATA:
            for subtag, _, inner in fields(payload):
                if subtag == _TENSOR:
                    tensor = inner
    return tensor


def _tensor_values(
    proto: memoryview, variable: Variable, count: int, may_repeat: bool
) -> tuple[Values, list[bytes]]:
    """The bytes of `count` values of a TensorProto, or its strings."""
    tf_dtype = variable.tf_dtype
    if tf_dtype == "string":
        strings = [bytes(text) for tag, _, text in fields(proto) if tag == field(_STRINGS, LENGTH)]
        missing = _missing(len(strings), count, may_repeat)
        return b"", strings + (strings[-1:] or [b""]) * missing
    itemsize = variable.dtype.itemsize
    content = proto[:0]
    values: Values = proto[:0]
    fixed = _FIXED.get(tf_dtype, 0)
    varints = 0 if fixed else _VARINTS.get(tf_dtype, _INTS)
    for tag, number, payload in fields(proto):
        number_of_field, kind = tag >> 3, tag & 7
        if number_of_field == _CONTENT and kind == LENGTH:
            content = payload
        elif number_of_field == fixed and kind == LENGTH:
            values = _joined(values, payload)
        elif number_of_field == fixed and kind in (protos.FIXED32, protos.FIXED64):
            values = _joined(values, number.to_bytes(4 if kind == protos.FIXED32 else 8, "little"))
        elif number_of_field == _FLOAT8 and kind == LENGTH and tf_dtype.startswith("float8"):
            values = _joined(values, payload)
        elif number_of_field == varints and kind == LENGTH:
            values = _joined(values, _unpack(payload, itemsize))
        elif number_of_field == varints and kind == VARINT:
            values = _joined(values, number.to_bytes(8, "little")[:itemsize])
    data = content or values
    present, rest = divmod(len(data), itemsize)
    if rest:
        raise Malformed(f"{len(data):,} bytes of values that have {itemsize} each")
    missing = _missing(present, count, may_repeat)
    if missing:
        data = b"".join([data, (bytes(data[-itemsize:]) or bytes(itemsize)) * missing])
    return data, []


def _joined(values: Values, more: Values) -> Values:
    """Values with more after them. TensorFlow writes all at once, so the first are not copied."""
    if not values:
        return more
    if not isinstance(values, bytearray):
        values = bytearray(values)
    values += more
    return values


def _missing(values: int, count: int, may_repeat: bool) -> int:
    """The number of values to add, which repeat the last one."""
    if values > count or (values < count and not may_repeat):
        raise Malformed(f"it has {values:,} values in place of {count:,}")
    return count - values


def _unpack(varints: memoryview, itemsize: int) -> bytearray:
    """Packed varints as little-endian integers of `itemsize` bytes; higher bytes are cut off."""
    import numpy as np

    if varints and varints[-1] >= 0x80:
        raise Malformed("a varint is cut off")
    unpacked = bytearray()
    at = 0
    while at < len(varints):
        end = at + _VARINTS_AT_ONCE
        end = (
            len(varints)
            if end >= len(varints)
            else end - _unfinished(bytes(varints[end - 10 : end]))
        )
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
    """The number of bytes at the end that belong to a varint that continues."""
    finished = len(tail.rstrip(bytes(range(0x80, 0x100))))
    if not finished:
        raise Malformed("a varint is longer than 10 bytes")
    return len(tail) - finished
