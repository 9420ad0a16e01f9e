import random
import struct
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertconvert.converter.checkpoint.protos import Malformed
from bertconvert.converter.checkpoint.sstable import Table, is_table
from bertconvert.converter.errors import CheckpointError

from . import table_writer as write

# Few letters, so that keys share prefixes and meet the edges of bytes.
KEYS = st.text(st.sampled_from("\0a/\x7f\xff"), max_size=9).map(lambda key: key.encode("latin-1"))
PAIRS = st.dictionaries(KEYS, st.binary(max_size=20), max_size=80).map(lambda d: sorted(d.items()))
SOME = [(b"", b"head"), *((f"layer_{n:02d}/kernel".encode(), bytes(9)) for n in range(40))]


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    return list(Table(write.in_file(data)))


def one_block(contents: bytes, compression: int = write.NONE) -> bytes:
    """A table whose only block holds just these bytes, with a right checksum."""
    return write.table_of([(b"\xff", contents)], compression)


def claimed_to_be_snappy(contents: bytes) -> bytes:
    """A table whose only block says that these bytes are what Snappy made."""
    data = contents + bytes([write.SNAPPY])
    data += struct.pack("<I", write.masked(data))
    index = write.block([(b"a", write.handle(0, len(contents)))])
    handle = write.handle(len(data), len(index))
    return data + write.stored(index) + write.footer(write.handle(0, 0), handle)


class TestReadTable:
    @given(
        PAIRS,
        st.sampled_from([1, 30, 200, 1 << 18]),
        st.integers(1, 20),
        st.sampled_from([write.NONE, write.SNAPPY]),
    )
    def test_gives_what_was_written(
        self,
        pairs: list[tuple[bytes, bytes]],
        block_bytes: int,
        restart_interval: int,
        compression: int,
    ) -> None:
        assert read(write.table(pairs, block_bytes, restart_interval, compression)) == pairs

    @pytest.mark.parametrize("compression", [write.NONE, write.SNAPPY])
    def test_reads_large_values_over_many_blocks(self, compression: int) -> None:
        pairs = [(f"{n:05d}".encode(), random.Random(n).randbytes(n)) for n in range(0, 3000, 7)]
        assert read(write.table(pairs, 4096, compression=compression)) == pairs

    def test_of_an_empty_table_gives_nothing(self) -> None:
        assert read(write.table([])) == []

    def test_passes_over_a_block_without_entries(self) -> None:
        blocks = [(b"a", write.block([])), (b"b", write.block([(b"b", b"1")]))]
        assert read(write.table_of(blocks)) == [(b"b", b"1")]

    def test_ignores_the_keys_of_the_index_block(self) -> None:
        """A writer shortens them, so they are no names."""
        blocks = [(b"n", write.block([(b"kernel", b"1")])), (b"z", write.block([(b"o", b"2")]))]
        assert read(write.table_of(blocks)) == [(b"kernel", b"1"), (b"o", b"2")]

    @given(st.integers(0, 10**6), st.integers(1, 255))
    def test_of_a_table_with_one_wrong_byte_is_refused_or_the_same(
        self, place: int, difference: int
    ) -> None:
        """Checksums cover every byte but the footer, whose padding nobody reads."""
        data = bytearray(write.table(SOME, 100))
        data[place % len(data)] ^= difference
        with suppress(Malformed, CheckpointError):
            assert read(bytes(data)) == SOME

    @pytest.mark.parametrize("compression", [write.NONE, write.SNAPPY])
    def test_refuses_a_wrong_byte_anywhere_in_a_data_block(self, compression: int) -> None:
        data = write.table(SOME, compression=compression)
        stored = write.stored(write.block(SOME), compression)
        assert data.startswith(stored)
        for place in range(len(stored)):
            damaged = bytearray(data)
            damaged[place] ^= 0x40
            with pytest.raises(Malformed, match="wrong checksum"):
                read(bytes(damaged))

    def test_refuses_a_table_that_is_cut_off_anywhere(self) -> None:
        data = write.table(SOME, 100)
        for size in range(len(data)):
            with pytest.raises((Malformed, CheckpointError)):
                read(data[:size])

    def test_refuses_a_table_with_bytes_after_it(self) -> None:
        with pytest.raises(Malformed, match="no footer of a TensorFlow table"):
            read(write.table(SOME) + b"\n")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\0" * 47,
            write.MAGIC,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n",
            b"<!DOCTYPE html>" + b" " * 100,
        ],
    )
    def test_refuses_what_is_no_table(self, data: bytes) -> None:
        assert not is_table(write.in_file(data))
        with pytest.raises(Malformed, match="cut off"):
            read(data)

    @pytest.mark.parametrize(
        ("offset", "size"),
        [
            (0, 2**63),
            (2**63, 0),
            (2**64 - 1, 2**64 - 1),
            (0, 1000),
            (1000, 0),
        ],
    )
    def test_refuses_a_block_beyond_the_end(self, offset: int, size: int) -> None:
        far = write.handle(offset, size)
        data = write.stored(write.block([(b"a", far)]))
        with pytest.raises(Malformed, match="ends after the file"):
            read(data + write.footer(write.handle(0, 0), far))
        with pytest.raises(Malformed, match="ends after the file"):
            read(data + write.footer(write.handle(0, 0), write.handle(0, len(data) - 5)))

    @given(st.binary(max_size=40))
    def test_refuses_any_other_footer(self, handles: bytes) -> None:
        with pytest.raises((Malformed, CheckpointError)):
            read(b"\1" * 60 + handles.ljust(40, b"\xff") + write.MAGIC)

    @pytest.mark.parametrize("value", [b"", b"\x00", b"\x80", b"\xff" * 30])
    def test_refuses_an_index_block_without_handles(self, value: bytes) -> None:
        contents = write.block([(b"a", value)])
        data = write.stored(contents)
        with pytest.raises(Malformed):
            read(data + write.footer(write.handle(0, 0), write.handle(0, len(contents))))

    def test_refuses_to_read_one_block_again_and_again(self) -> None:
        """Otherwise a small file could keep the reader busy forever."""
        contents = write.block([(b"a", b"1")])
        data = write.stored(contents)
        index = write.block([(bytes([n]), write.handle(0, len(contents))) for n in range(9)])
        start = len(data)
        data += write.stored(index)
        with pytest.raises(Malformed, match="overlaps the one before"):
            read(data + write.footer(write.handle(0, 0), write.handle(start, len(index))))

    @pytest.mark.parametrize(
        "keys", [[b"a", b"a"], [b"b", b"a"], [b"", b""], [b"ab", b"a"], [b"\xff", b"\x7f"]]
    )
    def test_refuses_keys_that_do_not_ascend(self, keys: list[bytes]) -> None:
        pairs = [(key, b"") for key in keys]
        with pytest.raises(Malformed, match="repeated or not sorted"):
            read(write.table(pairs))
        with pytest.raises(Malformed, match="repeated or not sorted"):
            read(write.table(pairs, block_bytes=0))

    @pytest.mark.parametrize("compression", [2, 3, 255])
    def test_refuses_an_unknown_compression(self, compression: int) -> None:
        with pytest.raises(Malformed, match=rf"unknown compression \({compression}\)"):
            read(write.table(SOME, compression=compression))


class TestBlock:
    @pytest.mark.parametrize(
        "contents",
        [
            b"",
            b"\0\0\0",
            struct.pack("<I", 1),
            struct.pack("<I", 2**32 - 1),
            struct.pack("<II", 0, 2),
        ],
    )
    def test_that_is_too_short_for_its_restarts_is_refused(self, contents: bytes) -> None:
        with pytest.raises(Malformed, match="restarts"):
            read(one_block(contents))

    @pytest.mark.parametrize(
        "entry",
        [
            b"\1\1\0a",  # shares a byte with a key that is not there
            b"\0\5\0a",
            b"\0\0\5a",
            b"\0\1\0",
            write.varint(2**64 - 1) * 3,
            b"\0" + write.varint(2**64 - 1) + b"\0a",
            b"\0\1" + write.varint(2**32) + b"a",
            b"\0\0\xff",
        ],
    )
    def test_whose_entry_reaches_past_it_is_refused(self, entry: bytes) -> None:
        with pytest.raises(Malformed):
            read(one_block(entry + struct.pack("<II", 0, 1)))

    @given(st.binary(max_size=80))
    @example(b"\0\0\0" * 20)
    def test_of_any_bytes_with_a_right_checksum_is_read_or_refused(self, contents: bytes) -> None:
        for data in (contents, contents + struct.pack("<I", 0)):
            for compression in (write.NONE, write.SNAPPY):
                with suppress(Malformed):
                    read(one_block(data, compression))

    @settings(max_examples=300)
    @given(st.binary(max_size=60))
    @example(write.varint(2**32 - 1))
    @example(b"\x05\x00a")
    @example(b"\x04\x00a\xfe\xff\xff")
    def test_of_any_bytes_that_claim_to_be_snappy_is_read_or_refused(self, contents: bytes) -> None:
        with suppress(Malformed):
            read(claimed_to_be_snappy(contents))

    @pytest.mark.parametrize("size", [2**20, 2**31, 2**32 - 1, 2**63])
    def test_of_few_bytes_that_claims_to_unpack_to_many_is_refused(self, size: int) -> None:
        with pytest.raises(Malformed, match="claims to hold"):
            read(claimed_to_be_snappy(write.varint(size) + b"\0a"))

    def test_of_snappy_at_its_best_is_read(self) -> None:
        """Zeros are as small as Snappy makes anything: some 21 bytes to one."""
        pairs = [(b"a", bytes(10**6))]
        data = write.table(pairs, compression=write.SNAPPY)
        assert len(data) < 50_000
        assert read(data) == pairs

    def test_that_repeats_a_long_key_without_end_is_refused(self) -> None:
        """420 kB would else become keys of 6 GB."""
        size = 300_000
        contents = b"\0" + write.varint(size) + b"\0" + b"a" * size
        for more in range(20_000):
            contents += write.varint(size + more) + b"\1\0b"
        with pytest.raises(Malformed, match="too much memory"):
            read(one_block(contents + struct.pack("<II", 0, 1)))

    def test_may_share_long_keys_as_writers_do(self) -> None:
        pairs = [(b"a" * 5000 + f"{n:04d}".encode(), b"") for n in range(64)]
        assert read(write.table(pairs)) == pairs
        assert read(write.table(pairs, restart_interval=64)) == pairs
