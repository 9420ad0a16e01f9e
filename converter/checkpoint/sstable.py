"""The table file of an index: a sorted string table in LevelDB's layout.

Format: tensorflow/core/lib/io/format.cc, block.cc and table_builder.cc. The bytes are not trusted:
each size and offset is checked against the file before it is used to read or to allocate.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator

from ..storage.files import File, is_private
from .checksum import crc32c, unmask
from .protos import Data, Malformed, varint

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # compression type, masked crc32c
NO_COMPRESSION, SNAPPY = 0, 1
# Snappy's longest copy turns 3 bytes into 64, so no valid block grows more.
SNAPPY_GROWTH = 22
# TensorFlow writes each 16th key in full, so the keys of a block have at most 16 times its bytes.
# Without a bound, a few bytes that repeat a long key would fill the memory.
KEYS_GROWTH, KEYS_ALWAYS = 16, 1 << 19


def is_table(file: File) -> bool:
    """Whether the file ends like a table."""
    return file.size >= FOOTER_BYTES and file.read(file.size - 8, 8) == MAGIC.to_bytes(8, "little")


class Table:
    """A table file: its pairs of key and value in order, or one value by its key.

    Only the list of the blocks and one block are in memory at a time.

    Raises:
        Malformed: the file is not a table, or (when a block is read) a checksum is wrong or the
            keys are not sorted.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        if not is_table(file):
            raise Malformed(
                "it has no footer of a TensorFlow table, so it is cut off or has another format"
            )
        footer = file.read(file.size - FOOTER_BYTES, FOOTER_BYTES)
        _, at = _handle(footer, 0)  # the metaindex, which is empty in TensorFlow
        index_handle, _ = _handle(footer, at)
        self._separators: list[bytes] = []  # each is at least as large as every key of its block
        self._handles: list[tuple[int, int]] = []
        self._last: tuple[int, dict[bytes, memoryview]] = -1, {}  # the block that `get` read last
        end = 0
        for separator, value in _entries(bytes(_block(file, index_handle))):
            (offset, size), _ = _handle(value, 0)
            # Blocks are written one after another. Requiring that bounds the work: no byte of the
            # file is read twice.
            if offset < end:
                raise Malformed(f"the block at byte {offset:,} overlaps the one before it")
            end = offset + size + TRAILER_BYTES
            _check_inside(file, offset, size)
            self._separators.append(separator)
            self._handles.append((offset, size))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        previous: bytes | None = None
        for handle in self._handles:
            for key, value in _entries(bytes(_block(self.file, handle))):
                if previous is not None and key <= previous:
                    raise Malformed(
                        f"key {key!r} follows {previous!r}: the keys are repeated or not sorted"
                    )
                previous = key
                yield key, value

    def get(self, key: bytes) -> memoryview | None:
        """The value of a key, or None; reads one block, unless it is the last one that was read.

        The value is a view of the block, as a block of a V1 checkpoint may be a whole variable.
        """
        number = bisect_left(self._separators, key)
        if number == len(self._handles):
            return None
        last, values = self._last  # read once, as another thread may replace it
        if last != number:
            block = _block(self.file, self._handles[number])
            values = dict(_entries(block))
            if not is_private(block):  # the caller may use the memory of a large one
                self._last = number, values
        return values.get(key)

    def span(self, key: bytes) -> tuple[int, int]:
        """The range of the block that may have a key; an empty one if no block can have it."""
        number = bisect_left(self._separators, key)
        if number == len(self._handles):
            return 0, 0
        offset, size = self._handles[number]
        return offset, offset + size + TRAILER_BYTES


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _check_inside(file: File, offset: int, size: int) -> None:
    if offset + size + TRAILER_BYTES > file.size - FOOTER_BYTES:
        raise Malformed(f"a block of {size:,} bytes at byte {offset:,} ends after the file")


def _block(file: File, handle: tuple[int, int]) -> memoryview:
    offset, size = handle
    _check_inside(file, offset, size)
    stored = file.view(offset, size + TRAILER_BYTES)
    kind, checksum = struct.unpack("<BI", stored[size:])
    if crc32c(stored[: size + 1]) != unmask(checksum):
        raise Malformed(f"the block at byte {offset:,} has a wrong checksum")
    contents = stored[:size]
    if kind == NO_COMPRESSION:
        return contents
    if kind == SNAPPY:
        return _uncompress(contents)
    raise Malformed(f"the block at byte {offset:,} has an unknown compression ({kind})")


def _uncompress(contents: memoryview) -> memoryview:
    size, _ = varint(contents, 0)
    if size > len(contents) * SNAPPY_GROWTH:
        raise Malformed(f"a Snappy block of {len(contents):,} bytes claims to hold {size:,}")
    from cramjam import DecompressionError, snappy

    try:
        return memoryview(snappy.decompress_raw(contents))
    except DecompressionError as error:
        raise Malformed(f"a Snappy block can't be unpacked ({error})") from error


def _entries(block: Data) -> Iterator[tuple[bytes, Data]]:
    """Yield a block's (key, value) pairs; a key shares its first bytes with the one before it."""
    if len(block) < 4:
        raise Malformed("a block is too short for the number of its restarts")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise Malformed(f"a block of {len(block):,} bytes claims {restarts:,} restarts")
    at = 0
    key = b""
    allowed = KEYS_ALWAYS + KEYS_GROWTH * len(block)
    while at < end:
        shared, fresh, length = block[at : at + 3]  # the restarts after `end` have 4 bytes or more
        if shared | fresh | length < 0x80:
            at += 3
        else:
            shared, at = varint(block, at)
            fresh, at = varint(block, at)
            length, at = varint(block, at)
        if shared > len(key) or fresh + length > end - at:
            raise Malformed("an entry ends after its block")
        allowed -= shared + fresh
        if allowed < 0:
            raise Malformed(f"the keys of a block of {len(block):,} bytes take too much memory")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length
