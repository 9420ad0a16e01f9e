from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertconvert.converter.checkpoint import protos
from bertconvert.converter.checkpoint.protos import Malformed

from . import table_writer as write

UINT64 = st.integers(0, 2**64 - 1)


class TestVarint:
    @given(UINT64, st.binary(max_size=3), st.binary(max_size=3))
    def test_gives_the_number_and_the_place_after_it(
        self, number: int, before: bytes, after: bytes
    ) -> None:
        data = before + write.varint(number)
        assert protos.varint(data + after, len(before)) == (number, len(data))

    @pytest.mark.parametrize(
        ("data", "number"),
        [
            (b"\x00", 0),
            (b"\x7f", 127),
            (b"\x80\x01", 128),
            (b"\x80\x00", 0),  # longer than it need be
            (b"\xff" * 9 + b"\x01", 2**64 - 1),
            (b"\x80" * 9 + b"\x00", 0),
            (b"\xff" * 9 + b"\x7f", 2**64 - 1),  # bits above the 64th fall away, as in protobuf
        ],
    )
    def test_knows_the_edges(self, data: bytes, number: int) -> None:
        assert protos.varint(data, 0) == (number, len(data))

    @pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9])
    def test_refuses_one_that_is_cut_off(self, data: bytes) -> None:
        with pytest.raises(Malformed, match="cut off"):
            protos.varint(data, 0)

    @pytest.mark.parametrize("data", [b"\x80" * 10 + b"\x00", b"\xff" * 1000])
    def test_refuses_one_of_more_than_ten_bytes(self, data: bytes) -> None:
        with pytest.raises(Malformed, match="longer than 10 bytes"):
            protos.varint(data, 0)

    @given(st.integers(-(2**63), 2**63 - 1))
    def test_holds_a_negative_number_as_int64(self, number: int) -> None:
        assert protos.signed(protos.varint(write.varint(number & 2**64 - 1), 0)[0]) == number

    @given(st.lists(UINT64))
    def test_comes_packed_one_after_another(self, numbers: list[int]) -> None:
        assert protos.varints(b"".join(map(write.varint, numbers))) == numbers


class TestFields:
    def test_of_every_wire_type_are_given_with_their_tag(self) -> None:
        data = (
            write.field(1, 300)
            + write.field(2, b"abc")
            + write.fixed32(3, 7)
            + bytes([4 << 3 | 1])
            + (8).to_bytes(8, "little")
            + write.field(2**28, 9)
        )
        assert list(protos.fields(data)) == [
            (1 << 3 | protos.VARINT, 300, b""),
            (2 << 3 | protos.LENGTH, 0, b"abc"),
            (3 << 3 | protos.FIXED32, 7, b""),
            (4 << 3 | protos.FIXED64, 8, b""),
            (2**28 << 3 | protos.VARINT, 9, b""),
        ]

    @pytest.mark.parametrize("kind", [3, 4, 6, 7])
    def test_of_a_wire_type_that_tensorflow_does_not_write_are_refused(self, kind: int) -> None:
        with pytest.raises(Malformed, match=f"wire type {kind}"):
            list(protos.fields(bytes([1 << 3 | kind, 0])))

    @pytest.mark.parametrize(
        "data",
        [
            b"\x0a\x05abcd",  # 5 bytes are promised
            b"\x0a" + write.varint(2**64 - 1) + b"abc",
            b"\x0d\x00\x00\x00",
            b"\x09" + b"\x00" * 7,
            b"\x08",
            b"\x80",
        ],
    )
    def test_that_are_cut_off_are_refused(self, data: bytes) -> None:
        with pytest.raises(Malformed):
            list(protos.fields(data))


class TestBundleHeader:
    def test_is_decoded(self) -> None:
        header = protos.bundle_header(write.header(7, True, 1, (3, 5)))
        assert header == protos.BundleHeader(7, True, protos.Versions(1, (3, 5)))

    def test_of_no_bytes_is_all_zero(self) -> None:
        assert protos.bundle_header(b"") == protos.BundleHeader()

    def test_takes_packed_bad_consumers(self) -> None:
        packed = write.field(3, write.field(3, b"\x03\x85\x01"))
        assert protos.bundle_header(packed).versions.bad_consumers == (3, 133)

    def test_of_an_unknown_endianness_is_refused(self) -> None:
        with pytest.raises(Malformed, match="endianness 2"):
            protos.bundle_header(write.field(2, 2))


class TestBundleEntry:
    def test_is_decoded(self) -> None:
        data = write.entry(14, (2, 0, 3), 10, offset=2**40, crc=2**32 - 1, shard=5, slices=[b"ab"])
        assert protos.bundle_entry(data) == protos.BundleEntry(
            14, (2, 0, 3), 5, 2**40, 10, 2**32 - 1, (b"ab",)
        )

    def test_of_no_bytes_is_all_zero(self) -> None:
        assert protos.bundle_entry(b"") == protos.BundleEntry()

    def test_may_have_its_fields_in_any_order_and_the_last_one_counts(self) -> None:
        data = write.field(5, 1) + write.field(2, write.shape(3)) + write.field(1, 9)
        assert protos.bundle_entry(data + write.field(5, 24)) == protos.BundleEntry(
            dtype=9, shape=(3,), size=24
        )

    @given(
        st.integers(8, 2**20),
        st.one_of(UINT64, st.binary(max_size=9)),
        st.sampled_from(["before", "after"]),
    )
    def test_passes_over_unknown_fields(self, number: int, value: int | bytes, place: str) -> None:
        known, unknown = write.entry(1, (2, 3), 24, 5, 6, 1), write.field(number, value)
        data = unknown + known if place == "before" else known + unknown
        assert protos.bundle_entry(data) == protos.bundle_entry(known)

    @pytest.mark.parametrize(
        "wrong",
        [
            write.field(1, b"\x01"),
            write.field(2, 1),
            write.fixed32(3, 1),
            write.field(4, b"\x01"),
            write.fixed32(5, 1),
            write.field(6, 1),
            write.field(7, 1),
        ],
    )
    def test_passes_over_a_field_of_the_wrong_wire_type(self, wrong: bytes) -> None:
        known = write.entry(1, (2, 3), 24, 5, 6, 1)
        assert protos.bundle_entry(known + wrong) == protos.bundle_entry(known)
        assert protos.bundle_entry(wrong) == protos.BundleEntry()

    def test_of_unknown_rank_is_refused(self) -> None:
        with pytest.raises(Malformed, match="unknown rank"):
            protos.bundle_entry(write.field(2, write.field(3, 1)))

    def test_with_a_negative_dimension_is_refused(self) -> None:
        with pytest.raises(Malformed, match="dimension is -1"):
            protos.bundle_entry(write.entry(1, (2, -1), 0))

    def test_has_at_most_the_dimensions_that_tensorflow_allows(self) -> None:
        assert len(protos.bundle_entry(write.entry(1, [1] * 254, 4)).shape) == 254
        with pytest.raises(Malformed, match="rank 255"):
            protos.bundle_entry(write.entry(1, [1] * 255, 4))

    @given(st.binary(max_size=60))
    def test_of_any_bytes_is_decoded_or_refused(self, data: bytes) -> None:
        for decode in (protos.bundle_entry, protos.bundle_header):
            with suppress(Malformed):
                decode(data)
