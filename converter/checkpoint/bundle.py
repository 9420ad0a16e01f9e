"""TensorFlow's V2 checkpoint, the TensorBundle: an index table and data shards.

Format: tensorflow/core/util/tensor_bundle/tensor_bundle.{h,cc}.
"""

import math
import sys
import threading
from collections.abc import Iterator

from ..errors import CheckpointError
from . import wire
from .checksum import crc32c, unmask
from .dtypes import DTYPES
from .files import File
from .locate import Located
from .sstable import read_table
from .variable import Variable

VERSION = 1  # kTensorBundleVersion, the newest that this reader knows
SLICE_KEY = b"\x00"  # the first byte of a key that names a slice, not a tensor


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
        self._verify_checksums = verify_checksums
        self._shards: dict[int, File] = {}
        self._lock = threading.Lock()
        self.index = located.index()
        try:
            self._header, self._entries = _read_index(self.index)
            self.variables = {name: _variable(name, entry) for name, entry in self._entries.items()}
        except wire.Malformed as error:
            raise CheckpointError(
                f"{self.index.name} is no index that TensorFlow wrote, or is damaged: {error}."
                " Download or copy it again."
            ) from error
        self._swaps_bytes = self._header.big_endian != (sys.byteorder == "big")

    @property
    def num_shards(self) -> int:
        return self._header.num_shards

    def shard(self, shard: int) -> File:
        """A data file, opened at its first use.

        Raises:
            CheckpointError: it is missing.
        """
        with self._lock:
            if shard not in self._shards:
                self._shards[shard] = self._located.shard(shard, self._header.num_shards)
            return self._shards[shard]

    def position(self, name: str) -> tuple[int, int]:
        """The shard and the byte at which a tensor begins: the order in which reading is cheap."""
        entry = self._entries[name]
        return entry.shard_id, entry.offset

    def checksum(self, name: str) -> int:
        """The crc32c of a tensor's bytes as they are stored, from the index."""
        return unmask(self._entries[name].crc32c)

    def source(self, name: str) -> File:
        """The shard of a tensor, once it is sure to hold all the tensor's bytes.

        Raises:
            CheckpointError: the shard is missing or cut off, or the tensor is of a kind that can't
                be read.
        """
        entry = self._entries[name]
        if entry.slices:
            raise CheckpointError(f"{name} is a partitioned variable, which can't be read yet")
        if self.variables[name].tf_dtype == "string":
            raise CheckpointError(f"{name} is a string tensor, which can't be read yet")
        shard = self.shard(entry.shard_id)
        shard.check(entry.offset, entry.size)
        return shard

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        """Yield a tensor's bytes (little-endian, row-major), piece by piece, in `buffer`.

        A wrong checksum is known only after the last piece: who uses the pieces before must be
        able to throw them away.

        Args:
            name: the variable.
            buffer: writable bytes, a multiple of 16; every piece is a part of it.

        Raises:
            CheckpointError: the shard is missing or cut off, or the checksum is wrong.
        """
        entry, dtype = self._entries[name], self.variables[name].dtype
        shard = self.source(name)
        checksum = 0
        for start in range(0, entry.size, len(buffer) or 1):
            piece = buffer[: min(len(buffer), entry.size - start)]
            shard.read_into(entry.offset + start, piece)
            if self._verify_checksums:  # of the bytes as they are stored, so before any swap
                checksum = crc32c(piece, checksum)
            if self._swaps_bytes:
                import numpy as np

                np.frombuffer(piece, dtype).byteswap(inplace=True)
            yield piece
        if self._verify_checksums and checksum != self.checksum(name):
            raise CheckpointError(
                f"{shard.name}: the bytes of {name} are damaged (crc32c {checksum:08x}, and the"
                f" index says {self.checksum(name):08x}). Download or copy the file again."
            )


def _read_index(file: File) -> tuple[wire.BundleHeader, dict[str, wire.BundleEntry]]:
    header: wire.BundleHeader | None = None
    entries: dict[str, wire.BundleEntry] = {}
    for key, value in read_table(file):
        if header is None:
            if key != b"":
                raise wire.Malformed("it has no header")
            header = wire.bundle_header(value)
            if header.min_consumer > VERSION or VERSION in header.bad_consumers:
                raise CheckpointError(
                    f"{file.name} is for readers of version {header.min_consumer}, and not for"
                    f" {VERSION}, which this one is. A later bertconvert may read it."
                )
        elif not key.startswith(SLICE_KEY):
            name = key.decode("utf-8", "backslashreplace")
            if name in entries:
                raise wire.Malformed(f"two variables are shown as {name}")
            entry = entries[name] = wire.bundle_entry(value)
            if entry.shard_id >= header.num_shards:
                raise wire.Malformed(
                    f"{name} lies in shard {entry.shard_id:,} of {header.num_shards:,}"
                )
    if header is None:
        raise wire.Malformed("it is empty")
    return header, entries


def _variable(name: str, entry: wire.BundleEntry) -> Variable:
    tf_dtype, itemsize = DTYPES.get(entry.dtype, (f"dtype {entry.dtype}", 0))
    size = math.prod(entry.shape)
    nbytes = size * itemsize if itemsize else entry.size
    if max(size, nbytes) >= 1 << 63:
        raise wire.Malformed(f"{name} has more bytes than 64 bits can count")
    if nbytes != entry.size and not entry.slices:
        raise wire.Malformed(
            f"{name} has {entry.size:,} bytes, and {tf_dtype} {list(entry.shape)} makes {nbytes:,}"
        )
    return Variable(name, tf_dtype, entry.shape, nbytes)
