"""TensorFlow's V2 checkpoint, the TensorBundle: an index table and data shards.

Format: tensorflow/core/util/tensor_bundle/tensor_bundle.{h,cc}.
"""

import math
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from ..errors import CheckpointError
from ..storage.files import File
from . import protos
from .checksum import crc32c, unmask
from .locate import Located
from .slices import Box, decode_slice, resolve, slice_key, whole
from .sstable import Table
from .variable import Variable, describe

VERSION = 1  # kTensorBundleVersion, the newest that this reader knows
SLICE_KEY = b"\x00"  # the first byte of a key that names a slice, not a tensor
# What an entry takes in memory beside its name. TensorFlow's have 16 bytes and more in the index,
# so the bound is met by any that it wrote, and keeps crafted ones, compressed ones above all, from
# filling the memory.
ENTRY_BYTES, MEMORY_GROWTH, MEMORY_ALWAYS = 400, 32, 128 << 20
_INDEX_BYTES = 64 << 20  # a larger one may be none


class Bundle:
    """The tensors of a TensorBundle; nothing of a shard is read before it is asked for.

    Args:
        located: where the checkpoint lies.
        verify_checksums: whether each tensor's crc32c is checked when it is read.

    Raises:
        CheckpointError: the index is damaged, or of a version or form that can't be read.
    """

    format = "TensorFlow V2 (TensorBundle)"

    def __init__(self, located: Located, verify_checksums: bool) -> None:
        self._located = located
        self.verify_checksums = verify_checksums
        self._shards: dict[int, File] = {}
        self._copies: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self.index = located.index()
        if self.index.size <= _INDEX_BYTES:  # all of it is read, in many small pieces
            self.index.fetch([(0, self.index.size)])
        try:
            self._read_index()
        except protos.Malformed as error:
            raise CheckpointError(
                f"{self.index.name} is damaged or is not an index that TensorFlow wrote: {error}."
                " Download or copy it again."
            ) from error

    def _read_index(self) -> None:
        table = iter(Table(self.index))
        key, value = next(table, (None, b""))
        if key != b"":
            raise protos.Malformed("it is empty" if key is None else "it has no header")
        header = protos.bundle_header(value)
        if not header.versions.admits(VERSION):
            raise CheckpointError(
                f"{self.index.name} needs a reader of format version"
                f" {header.versions.min_consumer}; this bertconvert reads version {VERSION}."
                " A later bertconvert may read it."
            )
        self.num_shards = header.num_shards
        self.swaps_bytes = header.big_endian != (sys.byteorder == "big")
        self.variables: dict[str, Variable] = {}
        self._entries: dict[str, protos.BundleEntry] = {}
        self._raw_names: dict[str, bytes] = {}  # of partitioned variables
        self._slices: dict[bytes, protos.BundleEntry] = {}
        room = MEMORY_ALWAYS + MEMORY_GROWTH * self.index.size
        for key, value in table:
            room -= ENTRY_BYTES + len(key) * (1 if key.isascii() else 4) + 2 * len(value)
            if room < 0:
                raise protos.Malformed(
                    "its entries would take far more memory than its size allows"
                )
            entry = protos.bundle_entry(value)
            if entry.shard_id >= self.num_shards:
                name = key.decode("utf-8", "backslashreplace")
                raise protos.Malformed(
                    f"{name} is in shard {entry.shard_id:,} of {self.num_shards:,}"
                )
            if key.startswith(SLICE_KEY) and not entry.slices:
                self._slices[key] = entry
            else:
                self._add(key, entry)
        if self._slices:
            self._add_names_like_slices()

    def _add(self, key: bytes, entry: protos.BundleEntry) -> None:
        variable = describe(key, entry.dtype, entry.shape, entry.size)
        name = variable.name
        if name in self._entries:
            raise protos.Malformed(f"two variables are shown as {name}")
        self.variables[name] = variable
        self._entries[name] = entry
        if entry.slices:
            self._raw_names[name] = key
        else:
            _check_size(variable, entry)

    def _add_names_like_slices(self) -> None:
        """A name may begin with a zero byte, too: only what a variable lists is a slice."""
        others = dict(self._slices)
        for name, raw_name in self._raw_names.items():
            for data in self._entries[name].slices:
                # One that is not there, or is listed twice, is an error when the variable is read.
                # Until then, going on would take a time that the file's size does not bound.
                if others.pop(slice_key(raw_name, decode_slice(data)), None) is None:
                    return
        for key, entry in others.items():
            self._add(key, entry)

    def shard(self, shard: int) -> File:
        """A data file, opened at its first use.

        Raises:
            CheckpointError: it is missing.
        """
        with self._lock:
            if shard not in self._shards:
                # One look at the folder for all shards, of which there may be thousands.
                self._copies = self._copies or self._located.copies()
                self._shards[shard] = self._located.shard(shard, self.num_shards, self._copies)
            return self._shards[shard]

    def parts(self, name: str) -> "list[Part]":
        """The slices of a variable; one that is all of it, where it is not partitioned.

        Raises:
            Malformed: a slice is missing, or is not of the variable's dtype and its own shape.
        """
        variable, entry = self.variables[name], self._entries[name]
        if not entry.slices:
            return [Part(self, variable, whole(variable.shape), entry)]
        parts: dict[Box, Part] = {}
        for data in entry.slices:
            stored = decode_slice(data)
            box = resolve(stored, variable.shape)
            if box in parts:
                raise protos.Malformed(f"the slice {list(stored)} of {name} is stored twice")
            part = self._slices.get(slice_key(self._raw_names[name], stored))
            if part is None:
                raise protos.Malformed(f"the slice {list(stored)} of {name} is missing")
            described = describe(name.encode(), part.dtype, part.shape, part.size)
            if (part.dtype, part.shape) != (entry.dtype, tuple(length for _, length in box)):
                raise protos.Malformed(
                    f"the slice {list(stored)} of {name} is {described.tf_dtype} {part.shape}"
                )
            _check_size(described, part)
            parts[box] = Part(self, variable, box, part)
        return list(parts.values())

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The bytes that variables lie in, by their shards.

        Raises:
            CheckpointError: a shard is missing.
            Malformed: a slice is missing, or is none of its variable.
        """
        found: dict[File, list[tuple[int, int]]] = {}
        for name in names:
            for part in self.parts(name):
                start, end = part.entry.offset, part.entry.offset + part.entry.size
                found.setdefault(self.shard(part.entry.shard_id), []).append((start, end))
        return found

    def check(self, _name: str, parts: Sequence[Any]) -> None:
        """Make sure that the shards have the bytes of a variable's `parts`, each its own.

        Raises:
            CheckpointError: a shard is missing or cut off.
            Malformed: slices share bytes, so that a few stand for a large variable.
        """
        sizes: dict[int, int] = {}
        for part in parts:
            part.check()
            shard = part.entry.shard_id
            sizes[shard] = sizes.get(shard, 0) + part.entry.size
            if sizes[shard] > self.shard(shard).size:
                raise protos.Malformed("its slices share bytes")


class Part(Struct, frozen=True):
    """A variable, or a slice of it, as a shard holds it."""

    bundle: Bundle
    variable: Variable
    box: Box
    entry: protos.BundleEntry

    @property
    def position(self) -> tuple[int, int]:
        """The shard and the byte at which it begins: the order in which reading is cheap."""
        return self.entry.shard_id, self.entry.offset

    @property
    def checksum(self) -> int | None:
        """The crc32c of its bytes as they are stored, from the index."""
        return unmask(self.entry.crc32c)

    def check(self) -> None:
        """Make sure that the shard has all its bytes.

        Raises:
            CheckpointError: the shard is missing or cut off.
        """
        self._shard().check(self.entry.offset, self.entry.size)

    def stream(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield its bytes (little-endian, row-major), piece by piece, in `buffer`.

        A wrong checksum is known only after the last piece: who uses the pieces before must be
        able to throw them away.

        Args:
            buffer: writable bytes, a multiple of 16; every piece is a part of it.

        Raises:
            CheckpointError: the shard is missing or cut off, or the checksum is wrong.
        """
        entry, dtype = self.entry, self.variable.dtype
        self.check()
        shard = self._shard()
        shard.fetch([(entry.offset, entry.offset + entry.size)])
        checksum = 0
        for start in range(0, entry.size, len(buffer) or 1):
            piece = buffer[: min(len(buffer), entry.size - start)]
            shard.read_into(entry.offset + start, piece)
            if self.bundle.verify_checksums:  # of the bytes as they are stored, so before any swap
                checksum = crc32c(piece, checksum)
            if self.bundle.swaps_bytes:
                import numpy as np

                np.frombuffer(piece, dtype).byteswap(inplace=True)
            yield piece
        self._compare(checksum)

    def strings(self) -> list[bytes]:
        """The elements of a string tensor, in row-major order.

        They are stored as the varints of all lengths, a checksum of the lengths, and all bytes
        (tensor_bundle.cc, ReadStringTensor).

        Raises:
            CheckpointError: the shard is missing or cut off, or a checksum is wrong.
        """
        count = math.prod(length for _, length in self.box)
        data = self._shard().read(self.entry.offset, self.entry.size)
        try:
            if count > len(data):
                raise protos.Malformed(f"{count:,} lengths do not fit {len(data):,} bytes")
            at, lengths = 0, []
            for _ in range(count):
                length, at = protos.varint(data, at)
                lengths.append(length)
            start = at + 4
            if start + sum(lengths) != len(data):
                raise protos.Malformed(f"its {count:,} lengths do not add up to its size")
        except protos.Malformed as error:
            raise self._damaged(str(error)) from error
        # The checksums are of the lengths as fixed integers, in the byte order of the writer.
        order: Literal["big", "little"]
        order = "big" if self.bundle.swaps_bytes == (sys.byteorder == "little") else "little"
        if self.bundle.verify_checksums:
            fixed = bytearray()
            for length in lengths:
                fixed += length.to_bytes(4 if length < 1 << 32 else 8, order)
            checksum = crc32c(fixed)
            if unmask(int.from_bytes(data[at:start], order)) != checksum:
                raise self._damaged("the checksum of its lengths is wrong")
            self._compare(crc32c(data[at:], checksum))
        strings = []
        for length in lengths:
            strings.append(data[start : start + length])
            start += length
        return strings

    def _shard(self) -> File:
        return self.bundle.shard(self.entry.shard_id)

    def _compare(self, checksum: int) -> None:
        if self.bundle.verify_checksums and checksum != self.checksum:
            raise self._damaged(f"crc32c {checksum:08x} instead of the index's {self.checksum:08x}")

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self._shard().name}: the bytes of {self.variable.name} are"
            f" damaged ({reason}). Download or copy the file again."
        )


def _check_size(variable: Variable, entry: protos.BundleEntry) -> None:
    if variable.nbytes != entry.size:
        raise protos.Malformed(
            f"{variable.name} has {entry.size:,} bytes, and {variable.tf_dtype}"
            f" {list(variable.shape)} makes {variable.nbytes:,}"
        )
