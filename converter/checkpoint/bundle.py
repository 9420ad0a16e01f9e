"""TensorFlow's V2 checkpoint, the TensorBundle: an index table and data shards.

Format: tensorflow/core/util/tensor_bundle/tensor_bundle.{h,cc}.
"""

import math
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from ..errors import CheckpointError
from ..storage.files import File
from ..storage.mistaken import mistaken
from . import protos
from .checksum import crc32c, unmask
from .locate import Located
from .protos import Box, tensor_slice, unsupported
from .slices import resolve, slice_key, whole
from .sstable import Table
from .variable import Variable, describe

VERSION = 1  # kTensorBundleVersion, the newest that this reader supports
SLICE_KEY = b"\x00"  # the first byte of a slice's key
# An entry takes ENTRY_BYTES of memory in addition to its name; an index may take MEMORY_ALWAYS, and
# MEMORY_GROWTH times its size. TensorFlow's entries have 16 bytes or more in the index, so that any
# index that it wrote is within the bound, and a crafted, compressed one can't fill the memory.
ENTRY_BYTES, MEMORY_GROWTH, MEMORY_ALWAYS = 400, 32, 128 << 20
_MOST_OTHERS, _MOST_OTHER_BYTES = 8, 1 << 20  # tensors to look at after one with a wrong checksum
_MOST_FETCHED = 64 << 20  # bytes of a remote index to download before it is known to be one


class Bundle:
    """The tensors of a TensorBundle; a shard is read only when its data is needed.

    Args:
        located: the checkpoint's files.
        verify_checksums: whether each tensor's crc32c is checked when it is read.

    Raises:
        CheckpointError: the index is damaged, or its version is not supported.
    """

    format = "TensorFlow V2 (TensorBundle)"

    def __init__(self, located: Located, verify_checksums: bool) -> None:
        self._located = located
        self.verify_checksums = verify_checksums
        self._shards: dict[int, File] = {}
        self._copies: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self.index = located.index()
        if self.index.size <= _MOST_FETCHED:  # all of it is read, in many small pieces
            self.index.fetch([(0, self.index.size)])
        try:
            self._read_index()
        except protos.Malformed as error:
            damage = (
                f"{self.index.name} is damaged or is not an index that TensorFlow wrote: {error}"
            )
            raise CheckpointError(
                mistaken(self.index, located.folder) or f"{damage}. Download or copy it again."
            ) from error

    def _read_index(self) -> None:
        table = iter(Table(self.index))
        key, value = next(table, (None, b""))
        if key != b"":
            raise protos.Malformed("it is empty" if key is None else "it has no header")
        header = protos.bundle_header(value)
        if not header.versions.admits(VERSION):
            raise CheckpointError(unsupported(self.index.name, header.versions, VERSION))
        self.num_shards = header.num_shards
        self.swaps_bytes = header.big_endian != (sys.byteorder == "big")
        self.variables: dict[str, Variable] = {}
        self._entries: dict[str, protos.BundleEntry] = {}
        self._raw_names: dict[str, bytes] = {}  # of partitioned variables
        self._slices: dict[bytes, protos.BundleEntry] = {}
        allowed = MEMORY_ALWAYS + MEMORY_GROWTH * self.index.size
        for key, value in table:
            allowed -= ENTRY_BYTES + len(key) * (1 if key.isascii() else 4) + 2 * len(value)
            if allowed < 0:
                raise protos.Malformed("its entries take too much memory for its size")
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
            raise protos.Malformed(f"two variables have the name {name}")
        self.variables[name] = variable
        self._entries[name] = entry
        if entry.slices:
            self._raw_names[name] = key
        else:
            _check_size(variable, entry)

    def _add_names_like_slices(self) -> None:
        """Add variables whose names start with a zero byte: they are no variable's slices."""
        others = dict(self._slices)
        for name, raw_name in self._raw_names.items():
            for data in self._entries[name].slices:
                # A slice that is missing or listed twice is an error when the variable is read.
                # Continuing here would take a time that the file's size does not bound.
                if others.pop(slice_key(raw_name, tensor_slice(data)), None) is None:
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
                # The folder is listed once for all shards, of which there may be thousands.
                self._copies = self._copies or self._located.copies()
                self._shards[shard] = self._located.shard(shard, self.num_shards, self._copies)
            return self._shards[shard]

    def parts(self, name: str) -> "list[Part]":
        """The slices of a variable; a single one if it is not partitioned.

        Raises:
            Malformed: a slice is missing, or has another dtype or shape.
        """
        variable, entry = self.variables[name], self._entries[name]
        if not entry.slices:
            return [Part(self, variable, whole(variable.shape), entry)]
        parts: dict[Box, Part] = {}
        for data in entry.slices:
            stored = tensor_slice(data)
            box = resolve(stored, variable.shape)
            if box in parts:
                raise protos.Malformed(f"the slice {list(stored)} of {name} exists twice")
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
        """The ranges of bytes (start, end) of variables, by their shards.

        Raises:
            CheckpointError: a shard is missing.
            Malformed: a slice is missing, or does not fit its variable.
        """
        found: dict[File, list[tuple[int, int]]] = {}
        for name in names:
            for part in self.parts(name):
                start, end = part.entry.offset, part.entry.offset + part.entry.size
                found.setdefault(self.shard(part.entry.shard_id), []).append((start, end))
        return found

    def check(self, name: str) -> None:
        """Check that the shards have the bytes of all slices of a variable.

        Raises:
            CheckpointError: a shard is missing or cut off.
            Malformed: slices share bytes, so that little data stands for a large variable.
        """
        sizes: dict[int, int] = {}
        for part in self.parts(name):
            part.check()
            shard = part.entry.shard_id
            sizes[shard] = sizes.get(shard, 0) + part.entry.size
            if sizes[shard] > self.shard(shard).size:
                raise protos.Malformed("its slices share bytes")

    def wrong_checksums(self, entry: protos.BundleEntry) -> tuple[int, int]:
        """How many of a few other tensors in an entry's shard have a wrong checksum, and how many.

        Tensors of zeros do not count: a download that was cut may leave zeros at the end.
        """
        shard = self.shard(entry.shard_id)
        others = [
            other
            for name, other in self._entries.items()
            if other.shard_id == entry.shard_id
            and other.offset != entry.offset
            and other.offset + other.size <= shard.size
            and 0 < other.size <= _MOST_OTHER_BYTES
            and self.variables[name].tf_dtype != "string"
        ]
        wrong = read = 0
        for other in others[:: max(1, len(others) // _MOST_OTHERS)]:
            data = shard.read(other.offset, other.size)
            if any(data):
                read += 1
                wrong += crc32c(data) != unmask(other.crc32c)
        return wrong, read


class Part(Struct, frozen=True):
    """A variable, or a slice of it, in a shard."""

    bundle: Bundle
    variable: Variable
    box: Box
    entry: protos.BundleEntry

    @property
    def position(self) -> tuple[int, int]:
        """Shard and byte of its start: the order in which reading is cheap."""
        return self.entry.shard_id, self.entry.offset

    @property
    def place(self) -> tuple[File, int] | None:
        """Its shard and first byte there; None if the bytes of each number must be swapped."""
        return None if self.bundle.swaps_bytes else (self._shard(), self.entry.offset)

    @property
    def checksum(self) -> int | None:
        """The crc32c of its stored bytes, from the index."""
        return unmask(self.entry.crc32c)

    def check(self) -> None:
        """Check that the shard has all its bytes.

        Raises:
            CheckpointError: the shard is missing or cut off.
        """
        shard = self._shard()
        if self.entry.offset + self.entry.size > shard.size and (what := mistaken(shard)):
            raise CheckpointError(what)
        shard.check(self.entry.offset, self.entry.size)

    def stream(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield its bytes (little-endian, row-major) piece by piece in `buffer`.

        A wrong checksum is found after the last piece, so the caller must be able to discard all.

        Args:
            buffer: writable bytes, a multiple of 16.

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
            if self.bundle.verify_checksums:  # of the stored bytes, so before they are swapped
                checksum = crc32c(piece, checksum)
            if self.bundle.swaps_bytes:
                import numpy as np

                np.frombuffer(piece, dtype).byteswap(inplace=True)
            yield piece
        self._compare(checksum)

    def owned(self) -> None:
        """No memory: the bytes are read to where they are wanted."""

    def strings(self) -> list[bytes]:
        """The elements of a string tensor in row-major order.

        The stored bytes are the lengths as varints, the checksum of the lengths, and the elements
        (tensor_bundle.cc, ReadStringTensor).

        Raises:
            CheckpointError: the shard is missing or cut off, or a checksum is wrong.
        """
        self.check()
        count = math.prod(length for _, length in self.box)
        data = self._shard().read(self.entry.offset, self.entry.size)
        try:
            if count > len(data):
                raise protos.Malformed(f"{count:,} elements do not fit into {len(data):,} bytes")
            at, lengths = 0, []
            for _ in range(count):
                length, at = protos.varint(data, at)
                lengths.append(length)
            start = at + 4
            if start + sum(lengths) != len(data):
                raise protos.Malformed(f"the {count:,} lengths do not add up to its size")
        except protos.Malformed as error:
            raise self._damaged(str(error)) from error
        # The checksum is that of the lengths as fixed integers in the writer's byte order.
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
        if not self.bundle.verify_checksums or checksum == self.checksum:
            return
        wrong, read = self.bundle.wrong_checksums(self.entry)
        if read > 1 and wrong > read / 2:
            raise CheckpointError(
                f"{self.bundle.index.name} and {self._shard().name} are of different checkpoints:"
                f" {self.variable.name} has a wrong checksum, and so have {wrong} of {read} other"
                " tensors. Copy both files from one step."
            )
        raise self._damaged(f"crc32c {checksum:08x}, in the index {self.checksum:08x}")

    def _damaged(self, reason: str) -> CheckpointError:
        shard = self._shard()
        damage = f"{shard.name} is damaged at {self.variable.name} ({reason})"
        return CheckpointError(mistaken(shard) or f"{damage}. Download or copy it again.")


def _check_size(variable: Variable, entry: protos.BundleEntry) -> None:
    if variable.nbytes != entry.size:
        raise protos.Malformed(
            f"{variable.name} has {entry.size:,} bytes, but {variable.tf_dtype}"
            f" {list(variable.shape)} takes {variable.nbytes:,}"
        )
