import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.dtypes import DTYPES

from . import table_writer as write

# Numbers of types.proto, and what holds them.
HELD: dict[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    8: np.complex64,
    9: np.int64,
    10: np.bool_,
    11: np.int8,
    12: np.uint8,
    13: np.int32,
    14: ml_dtypes.bfloat16,
    15: np.int16,
    16: np.uint16,
    17: np.uint16,
    18: np.complex128,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
    24: ml_dtypes.float8_e5m2,
    25: ml_dtypes.float8_e4m3fn,
    26: ml_dtypes.float8_e4m3fnuz,
    27: ml_dtypes.float8_e4m3b11fnuz,
    28: ml_dtypes.float8_e5m2fnuz,
    29: ml_dtypes.int4,
    30: ml_dtypes.uint4,
    31: ml_dtypes.int2,
    32: ml_dtypes.uint2,
    33: ml_dtypes.float4_e2m1fn,
}
NOT_NUMBERS = {7: "string", 20: "resource", 21: "variant"}

Array = np.ndarray[Any, Any]


def some(dtype: int, *shape: int) -> tuple[int, Array]:
    """An array of one of TensorFlow's dtypes, of bytes that differ."""
    held = np.dtype(HELD[dtype])
    rng = np.random.default_rng(dtype)
    data = rng.integers(0, 2, int(np.prod(shape)) * held.itemsize, np.uint8)
    if held.itemsize > 1:
        data = rng.integers(0, 256, len(data), np.uint8)
    return dtype, data.view(held).reshape(shape)


def same(array: Array, other: Array) -> bool:
    return (array.dtype, array.shape, array.tobytes()) == (
        other.dtype,
        other.shape,
        other.tobytes(),
    )


def one(folder: Path, entry: bytes, data: bytes = b"", head: bytes | None = None) -> Path:
    """A checkpoint of one variable, `a`, whose index entry is given."""
    prefix = folder / "model.ckpt"
    write.write_index(prefix, {"a": entry}, head)
    write.shard_path(prefix).write_bytes(data)
    return prefix


class TestReading:
    def test_knows_every_dtype_that_numpy_can_hold(self) -> None:
        assert set(HELD) | set(NOT_NUMBERS) == set(DTYPES)

    @pytest.mark.parametrize("big_endian", [False, True], ids=["little", "big"])
    @pytest.mark.parametrize("dtype", HELD, ids=lambda dtype: DTYPES[dtype][0])
    def test_gives_the_bytes_of_every_dtype(
        self, tmp_path: Path, dtype: int, big_endian: bool
    ) -> None:
        tensors = {"matrix": some(dtype, 5, 7), "scalar": some(dtype), "empty": some(dtype, 3, 0)}
        checkpoint = open_checkpoint(
            write.write_bundle(tmp_path / "m", tensors, big_endian=big_endian, gap=1)
        )
        for name, (_, array) in tensors.items():
            assert same(checkpoint[name], array)
            assert checkpoint.variables[name].dtype == array.dtype
            assert checkpoint.variables[name].nbytes == array.nbytes

    @settings(max_examples=60, deadline=None)
    @given(
        shapes=st.lists(
            st.tuples(st.sampled_from(sorted(HELD)), st.lists(st.integers(0, 5), max_size=4)),
            max_size=12,
        ),
        num_shards=st.integers(1, 4),
        gap=st.integers(0, 5),
        big_endian=st.booleans(),
        compression=st.sampled_from([write.NONE, write.SNAPPY]),
        room=st.integers(1, 20),
    )
    def test_gives_back_what_was_written(
        self,
        shapes: list[tuple[int, list[int]]],
        num_shards: int,
        gap: int,
        big_endian: bool,
        compression: int,
        room: int,
    ) -> None:
        """Over several shards, in any order, at any offset, with any buffer."""
        tensors = {f"v{n:02d}": some(dtype, *shape) for n, (dtype, shape) in enumerate(shapes)}
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder) / "model.ckpt-1"
            write.write_bundle(
                prefix, tensors, num_shards, big_endian, gap, block_bytes=64,
                compression=compression,
            )  # fmt: skip
            checkpoint = open_checkpoint(folder)
            assert list(checkpoint) == list(tensors)
            assert checkpoint.num_shards == num_shards
            for name, (_, array) in tensors.items():
                assert same(checkpoint[name], array)
                buffer = memoryview(bytearray(16 * room))
                pieces = [bytes(piece) for piece in checkpoint.stream(name, buffer)]
                assert b"".join(pieces) == array.tobytes()
                assert all(len(piece) == 16 * room for piece in pieces[:-1])

    def test_finds_variables_that_interleave_over_the_shards(self, tmp_path: Path) -> None:
        tensors = {name: write.floats(ord(name)) for name in "abcdefg"}
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", tensors, 3, gap=1))
        assert {name: array.tolist() for name, array in checkpoint.items()} == {
            name: [ord(name)] for name in "abcdefg"
        }
        assert {name: checkpoint.position(name) for name in checkpoint} == {
            "g": (0, 1), "f": (1, 1), "e": (2, 1), "d": (0, 6), "c": (1, 6), "b": (2, 6),
            "a": (0, 11),
        }  # fmt: skip
        assert [Path(file.name).name for file in checkpoint.data_files()] == [
            f"m.data-{shard:05d}-of-00003" for shard in range(3)
        ]

    def test_in_several_threads_at_once_gives_each_its_own(self, tmp_path: Path) -> None:
        tensors = {f"v{n}": write.floats(*[n] * 5000) for n in range(50)}
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", tensors, 5))
        with ThreadPoolExecutor(8) as pool:
            for name, array in zip(
                checkpoint, pool.map(checkpoint.__getitem__, checkpoint), strict=True
            ):
                assert same(array, tensors[name][1])

    def test_gives_an_array_that_can_be_written_to_and_is_read_anew(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {"a": write.floats(1)}))
        checkpoint["a"][:] = 5
        assert checkpoint["a"].tolist() == [1]

    def test_does_not_need_the_shards_to_list_the_variables(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"b": write.floats(1, 2), "a": some(14, 3, 4)})
        write.shard_path(prefix).unlink()
        checkpoint = open_checkpoint(prefix)
        assert [(v.name, v.tf_dtype, v.shape, v.nbytes) for v in checkpoint.variables.values()] == [
            ("a", "bfloat16", (3, 4), 24),
            ("b", "float32", (2,), 8),
        ]

    def test_touches_no_byte_of_another_variable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two thirds of a training checkpoint are slots of the optimizer, which nobody wants."""
        tensors = {
            name: write.floats(*range(100))
            for name in ("w", "w/adam_m", "w/adam_v", "z", "z/adam_m")
        }
        prefix = write.write_bundle(tmp_path / "m", tensors)
        read: list[tuple[int, int]] = []
        preadv = os.preadv

        def recorded(fd: int, buffers: list[memoryview], offset: int, *more: int) -> int:
            read.append((offset, offset + sum(map(len, buffers))))
            return preadv(fd, buffers, offset, *more)

        monkeypatch.setattr(os, "preadv", recorded)
        checkpoint = open_checkpoint(prefix)
        index_size = Path(f"{prefix}.index").stat().st_size
        assert sum(end - start for start, end in read) <= 2 * index_size
        read.clear()
        for name in ("w", "z"):
            assert same(checkpoint[name], tensors[name][1])
        assert read == [(offset, offset + 400) for offset in (1600, 400)]

    def test_does_not_mind_slots_beyond_the_end_of_a_shard(self, tmp_path: Path) -> None:
        tensors = {"a/adam_m": write.floats(3, 4), "b": write.floats(1, 2)}
        prefix = write.write_bundle(tmp_path / "m", tensors)
        os.truncate(write.shard_path(prefix), 8)
        checkpoint = open_checkpoint(prefix)
        assert checkpoint["b"].tolist() == [1, 2]
        with pytest.raises(CheckpointError, match="cut off"):
            checkpoint["a/adam_m"]

    def test_of_a_real_training_checkpoint_reads_its_weights_alone(
        self, fixtures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = open_checkpoint(fixtures / "pretraining-adam")
        slots = [name for name in checkpoint if name.endswith(("adam_m", "adam_v"))]
        weights = [name for name in checkpoint if name not in {*slots, "global_step"}]
        assert (len(weights), len(slots)) == (46, 92)
        read = 0
        preadv = os.preadv

        def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
            nonlocal read
            count = preadv(fd, buffers, offset)
            read += count
            return count

        monkeypatch.setattr(os, "preadv", counted)
        for name in weights:
            checkpoint[name]
        assert read == sum(checkpoint.variables[name].nbytes for name in weights)


class TestCheckpoint:
    def test_is_a_mapping(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(
            write.write_bundle(tmp_path / "m", {"b": write.floats(2), "a": write.floats(1)})
        )
        assert isinstance(checkpoint, Mapping)
        assert len(checkpoint) == 2
        assert list(checkpoint) == list(checkpoint.keys()) == ["a", "b"]
        assert [array.tolist() for array in checkpoint.values()] == [[1], [2]]
        assert "a" in checkpoint
        assert "c" not in checkpoint
        assert 1 not in checkpoint
        assert checkpoint.get("c") is None

    def test_raises_key_error_for_a_name_that_is_not_there(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {"a": write.floats(1)}))
        for ask in (
            lambda: checkpoint["b"],
            lambda: checkpoint.position("b"),
            lambda: checkpoint.checksum("b"),
            lambda: checkpoint.read_into("b", memoryview(b"")),
            lambda: list(checkpoint.stream("b", memoryview(bytearray(16)))),
        ):
            with pytest.raises(KeyError, match="b"):
                ask()

    def test_says_what_it_is(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"a": write.floats(1)})
        checkpoint = open_checkpoint(prefix)
        assert repr(checkpoint) == (
            f"<Checkpoint {prefix}: 1 variables, TensorFlow V2 (TensorBundle)>"
        )
        assert checkpoint.name == str(prefix)
        assert checkpoint.note == ""
        assert checkpoint.index.name == f"{prefix}.index"

    def test_lists_variables_that_nobody_can_change(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {"a": write.floats(1)}))
        with pytest.raises(TypeError):
            checkpoint.variables["b"] = checkpoint.variables["a"]  # type: ignore[index]
        with pytest.raises(AttributeError):
            checkpoint.variables["a"].name = "b"  # type: ignore[misc]

    def test_knows_the_checksum_of_the_stored_bytes(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(
            one(tmp_path, write.entry(6, (9,), 9, crc=write.masked(b"123456789")), b"123456789")
        )
        assert checkpoint.checksum("a") == 0xE3069283  # the check value of CRC-32C

    def test_of_no_variables_is_empty(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {}))
        assert dict(checkpoint) == {}
        assert len(checkpoint.data_files()) == 1


class TestReadInto:
    def test_fills_the_buffer(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {"a": write.floats(1, 2)}))
        array = np.zeros(2, np.float32)
        checkpoint.read_into("a", memoryview(array).cast("B"))
        assert array.tolist() == [1, 2]

    @pytest.mark.parametrize("size", [0, 7, 9, 16])
    def test_refuses_a_buffer_of_another_size(self, tmp_path: Path, size: int) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {"a": write.floats(1, 2)}))
        with pytest.raises(ValueError, match="a has 8 bytes"):
            checkpoint.read_into("a", memoryview(bytearray(size)))

    def test_has_nothing_to_do_for_a_variable_without_elements(self, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", {"a": some(1, 0, 4)}))
        checkpoint.read_into("a", memoryview(b""))


class TestStream:
    def test_gives_the_pieces_in_the_buffer_itself(self, tmp_path: Path) -> None:
        tensors = {"a": write.floats(*range(9))}
        checkpoint = open_checkpoint(write.write_bundle(tmp_path / "m", tensors))
        buffer = np.zeros(16, np.uint8)
        sizes = []
        for piece in checkpoint.stream("a", memoryview(buffer)):
            assert np.shares_memory(np.frombuffer(piece, np.uint8), buffer)
            sizes.append(len(piece))
        assert sizes == [16, 16, 4]

    def test_knows_of_a_wrong_checksum_only_after_the_last_piece(self, tmp_path: Path) -> None:
        tensors = {"a": write.floats(*range(8))}
        prefix = write.write_bundle(tmp_path / "m", tensors)
        damage(write.shard_path(prefix), 1)
        pieces = open_checkpoint(prefix).stream("a", memoryview(bytearray(16)))
        assert [len(next(pieces)), len(next(pieces))] == [16, 16]
        with pytest.raises(CheckpointError, match="damaged"):
            next(pieces)

    def test_of_a_shard_that_is_cut_off_gives_nothing(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"a": write.floats(*range(8))})
        os.truncate(write.shard_path(prefix), 31)
        with pytest.raises(CheckpointError, match="cut off"):
            next(open_checkpoint(prefix).stream("a", memoryview(bytearray(16))))


def damage(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


class TestDamagedData:
    @pytest.mark.parametrize("big_endian", [False, True])
    @pytest.mark.parametrize("place", [0, 5, 39])
    def test_is_named_with_variable_and_file(
        self, tmp_path: Path, place: int, big_endian: bool
    ) -> None:
        tensors = {"encoder/kernel": write.floats(*range(10)), "z": write.floats(5)}
        prefix = write.write_bundle(tmp_path / "m", tensors, 2, big_endian)
        shard = write.shard_path(prefix, 1, 2)
        damage(shard, place)
        checkpoint = open_checkpoint(prefix)
        with pytest.raises(CheckpointError) as caught:
            checkpoint["encoder/kernel"]
        assert str(shard) in str(caught.value)
        assert "encoder/kernel" in str(caught.value)
        assert checkpoint["z"].tolist() == [5]

    def test_is_read_where_nobody_wants_it_checked(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"a": some(6, 3)})
        write.shard_path(prefix).write_bytes(b"\1\2\3")
        checkpoint = open_checkpoint(prefix, verify_checksums=False)
        assert checkpoint["a"].tolist() == [1, 2, 3]

    @pytest.mark.parametrize("verify", [False, True])
    @pytest.mark.parametrize("size", [0, 1, 7])
    def test_that_is_cut_off_is_refused(self, tmp_path: Path, size: int, verify: bool) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"a": write.floats(1, 2)})
        os.truncate(write.shard_path(prefix), size)
        facts = rf" {size} bytes, .* 0 to 8 " if size else r"is empty \(0 bytes\)"
        with pytest.raises(CheckpointError, match=facts):
            open_checkpoint(prefix, verify_checksums=verify)["a"]

    def test_that_becomes_shorter_while_it_is_read_is_refused(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"a": write.floats(1, 2, 3, 4, 5)})
        pieces = open_checkpoint(prefix).stream("a", memoryview(bytearray(16)))
        next(pieces)
        os.truncate(write.shard_path(prefix), 0)
        with pytest.raises(CheckpointError, match="became shorter"):
            next(pieces)

    def test_that_the_disk_does_not_give_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefix = write.write_bundle(tmp_path / "m", {"a": write.floats(1, 2)})
        checkpoint = open_checkpoint(prefix)

        def fail(*_: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(CheckpointError, match=r"data-00000-of-00001 can't be read: Input"):
            checkpoint["a"]


class TestMissingShard:
    def test_is_named_with_what_lies_there_instead(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m.ckpt", {n: write.floats(1) for n in "ab"}, 2)
        missing = write.shard_path(prefix, 1, 2)
        missing.unlink()
        (tmp_path / "vocab.txt").touch()
        checkpoint = open_checkpoint(prefix)
        assert checkpoint["b"].tolist() == [1]
        for ask in (lambda: checkpoint["a"], checkpoint.data_files):
            with pytest.raises(CheckpointError) as caught:
                ask()
            assert f"{missing} is missing" in str(caught.value)
            assert "m.ckpt.data-00000-of-00002, m.ckpt.index, vocab.txt" in str(caught.value)

    def test_may_be_a_download_that_is_not_finished(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m.ckpt", {"a": write.floats(1)})
        shard = write.shard_path(prefix)
        shard.rename(f"{shard}.crdownload")
        with pytest.raises(CheckpointError, match="crdownload looks like"):
            open_checkpoint(prefix)["a"]

    def test_is_no_matter_for_the_variables_of_the_others(self, tmp_path: Path) -> None:
        prefix = write.write_bundle(tmp_path / "m", {n: write.floats(1) for n in "abc"}, 3)
        write.shard_path(prefix, 0, 3).unlink()
        checkpoint = open_checkpoint(prefix)
        assert checkpoint["a"].tolist() == checkpoint["b"].tolist() == [1]


class TestIndex:
    def refused(self, prefix: Path, why: str) -> None:
        with pytest.raises(CheckpointError, match=why) as caught:
            open_checkpoint(prefix)
        assert f"{prefix}.index" in str(caught.value)

    @pytest.mark.parametrize("size", [0, 1, 7, 9, 2**63 - 1])
    def test_whose_size_of_a_variable_does_not_fit_its_shape_is_refused(
        self, tmp_path: Path, size: int
    ) -> None:
        prefix = one(tmp_path, write.entry(write.FLOAT32, (2,), size), bytes(8))
        self.refused(prefix, rf"a has {size:,} bytes, .* float32 \[2\] .* 8")

    @pytest.mark.parametrize(
        "shape", [(2**62, 2), (2**32, 2**31), [2**62] * 254, (2**63 - 1, 2**63 - 1, 2**63 - 1)]
    )
    @pytest.mark.parametrize("dtype", [write.FLOAT32, write.STRING, 99])
    def test_with_more_elements_than_can_be_counted_is_refused(
        self, tmp_path: Path, dtype: int, shape: tuple[int, ...]
    ) -> None:
        prefix = one(tmp_path, write.entry(dtype, shape, 12))
        self.refused(prefix, "more bytes than 64 bits can count")
        prefix = one(tmp_path, write.entry(write.FLOAT32, (2**61,), 2**63))
        self.refused(prefix, "more bytes than 64 bits can count")

    def test_with_dimensions_without_end_is_refused(self, tmp_path: Path) -> None:
        """Their product alone would take minutes."""
        self.refused(one(tmp_path, write.entry(1, [2**62] * 100_000, 4)), "rank 100,000")

    @pytest.mark.parametrize(("shard", "num_shards"), [(1, 1), (2, 2), (2**64 - 1, 1), (0, 0)])
    def test_that_puts_a_variable_in_a_shard_too_many_is_refused(
        self, tmp_path: Path, shard: int, num_shards: int
    ) -> None:
        entry = write.entry(write.FLOAT32, (2,), 8, shard=shard)
        prefix = one(tmp_path, entry, bytes(8), write.header(num_shards))
        self.refused(prefix, f"a is in shard {shard:,} of {num_shards}")

    @pytest.mark.parametrize(
        ("options", "version"),
        [
            ({"min_consumer": 2}, "format version 2;"),
            ({"bad_consumers": (1,)}, "another format version;"),
        ],
    )
    def test_refuses_other_format_version(
        self, tmp_path: Path, options: dict[str, Any], version: str
    ) -> None:
        head = write.header(**options)
        prefix = one(tmp_path, write.entry(write.FLOAT32, (2,), 8), bytes(8), head)
        self.refused(prefix, rf"reader of {version} .* reads version 1\.")
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(prefix)
        assert "damaged" not in str(caught.value)

    def test_for_an_older_reader_is_read(self, tmp_path: Path) -> None:
        head = write.header(min_consumer=1, bad_consumers=(0, 2))
        entry = write.entry(write.INT32, (1,), 4, crc=write.masked(b"\7\0\0\0"))
        assert open_checkpoint(one(tmp_path, entry, b"\7\0\0\0", head))["a"].tolist() == [7]

    def test_without_a_header_is_refused(self, tmp_path: Path) -> None:
        prefix = tmp_path / "m.ckpt"
        Path(f"{prefix}.index").write_bytes(write.table([(b"a", write.entry(1, (1,), 4))]))
        self.refused(prefix, "it has no header")

    def test_without_anything_is_refused(self, tmp_path: Path) -> None:
        prefix = tmp_path / "m.ckpt"
        Path(f"{prefix}.index").write_bytes(write.table([]))
        self.refused(prefix, "it is empty")

    @pytest.mark.parametrize("content", [b"", b"404: Not Found", b"version https://git-lfs" * 5])
    def test_that_is_no_table_is_refused(self, tmp_path: Path, content: bytes) -> None:
        prefix = tmp_path / "m.ckpt"
        Path(f"{prefix}.index").write_bytes(content)
        self.refused(prefix, "is damaged.*cut off" if content else "m.ckpt.index is empty")

    def test_that_is_cut_off_or_damaged_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        data = (fixtures / "encoder" / "bert_model.ckpt.index").read_bytes()
        prefix = tmp_path / "m.ckpt"
        for size in range(97, len(data), 97):
            Path(f"{prefix}.index").write_bytes(data[:size])
            self.refused(prefix, "m.ckpt.index is damaged")
        Path(f"{prefix}.index").write_bytes(data[:100] + b"?" + data[101:])
        self.refused(prefix, "wrong checksum")

    @pytest.mark.parametrize("dtype", [0, 34, 99, 101, 2**31])
    def test_lists_a_variable_of_an_unknown_dtype_and_does_not_read_it(
        self, tmp_path: Path, dtype: int
    ) -> None:
        checkpoint = open_checkpoint(one(tmp_path, write.entry(dtype, (2, 3), 6), bytes(6)))
        variable = checkpoint.variables["a"]
        assert (variable.tf_dtype, variable.shape, variable.nbytes) == (f"dtype {dtype}", (2, 3), 6)
        self.reads_nothing(checkpoint, f"numpy can't represent dtype {dtype}")

    def reads_nothing(self, checkpoint: Any, why: str) -> None:
        with pytest.raises(CheckpointError, match=why):
            checkpoint["a"]
        with pytest.raises(CheckpointError, match=why):
            checkpoint.read_into("a", memoryview(bytearray(checkpoint.variables["a"].nbytes)))
        with pytest.raises(CheckpointError, match=why):
            next(checkpoint.stream("a", memoryview(bytearray(16))))

    @pytest.mark.parametrize("dtype", [20, 21])
    def test_lists_handles_and_does_not_read_them(self, tmp_path: Path, dtype: int) -> None:
        checkpoint = open_checkpoint(one(tmp_path, write.entry(dtype, (), 6), bytes(6)))
        assert checkpoint.variables["a"].tf_dtype == NOT_NUMBERS[dtype]
        self.reads_nothing(checkpoint, f"numpy can't represent {NOT_NUMBERS[dtype]}")

    @pytest.mark.parametrize("shape", [(), (2,), (2**40,)])
    def test_lists_a_string_tensor_and_refuses_bytes_that_are_none(
        self, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        checkpoint = open_checkpoint(one(tmp_path, write.entry(7, shape, 12), bytes(12)))
        variable = checkpoint.variables["a"]
        assert (variable.tf_dtype, variable.shape, variable.nbytes) == ("string", shape, 12)
        with pytest.raises(CheckpointError, match="damaged at a "):
            checkpoint["a"]

    def test_lists_a_partitioned_variable_once_and_refuses_slices_that_are_none(
        self, tmp_path: Path
    ) -> None:
        entries: dict[str | bytes, bytes] = {
            "a": write.entry(write.FLOAT32, (4, 2), 0, slices=[b"", b""]),
            b"\0\x01a\0\x01\x01\x02\x80\x80": write.entry(write.FLOAT32, (2, 2), 16),
        }
        prefix = tmp_path / "m.ckpt"
        write.write_index(prefix, entries)
        write.shard_path(prefix).write_bytes(bytes(32))
        checkpoint = open_checkpoint(prefix)
        assert [(v.name, v.shape, v.nbytes) for v in checkpoint.variables.values()] == [
            ("a", (4, 2), 32)
        ]
        self.reads_nothing(checkpoint, "a slice has 0 dimensions in place of 2")

    def test_may_have_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        entries: dict[str | bytes, bytes] = {
            "größe": write.entry(write.INT32, (1,), 4, crc=write.masked(bytes(4))),
            b"gr\xf6\xdfe": write.entry(write.INT32, (1,), 4, crc=write.masked(bytes(4))),
        }
        prefix = tmp_path / "m.ckpt"
        write.write_index(prefix, entries)
        write.shard_path(prefix).write_bytes(bytes(4))
        checkpoint = open_checkpoint(prefix)
        assert list(checkpoint) == ["größe", r"gr\xf6\xdfe"]
        assert [array.tolist() for array in checkpoint.values()] == [[0], [0]]

    def test_with_two_names_that_look_the_same_is_refused(self, tmp_path: Path) -> None:
        entry = write.entry(write.INT32, (1,), 4)
        prefix = tmp_path / "m.ckpt"
        write.write_index(prefix, {b"\xff": entry, rb"\xff": entry})
        self.refused(prefix, "two variables have the name")

    @pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (1, 2**40)])
    def test_that_promises_more_than_the_shard_holds_takes_no_memory_for_it(
        self, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        checkpoint = open_checkpoint(one(tmp_path, write.entry(1, shape, 2**42), bytes(64)))
        with pytest.raises(CheckpointError, match="cut off"):
            checkpoint["a"]

    @pytest.mark.parametrize("shape", [[1] * 65, (0, 2**62, 2**62)])
    def test_with_a_shape_that_numpy_can_not_hold_says_so(
        self, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        entry = write.entry(write.FLOAT32, shape, 0 if 0 in shape else 4)
        checkpoint = open_checkpoint(one(tmp_path, entry, bytes(4)))
        with pytest.raises(CheckpointError, match="numpy can't hold a"):
            checkpoint["a"]

    def test_with_an_offset_beyond_all_files_is_refused_when_read(self, tmp_path: Path) -> None:
        for offset in (2**63, 2**64 - 8, 2**64 - 1):
            entry = write.entry(write.FLOAT32, (2,), 8, offset)
            with pytest.raises(CheckpointError, match="cut off"):
                open_checkpoint(one(tmp_path, entry, bytes(8)))["a"]


NUMBERS = st.one_of(
    st.integers(0, 9), st.sampled_from([2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
)


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """A BundleEntryProto: mostly near the truth, and now and then far from it."""
    dtype = draw(st.one_of(st.sampled_from(sorted(DTYPES)), NUMBERS))
    shape = draw(st.lists(NUMBERS, max_size=4))
    size = draw(NUMBERS)
    if draw(st.integers(0, 3)):
        size = int(np.prod(shape, dtype=object)) * DTYPES.get(dtype, ("", 0))[1]
    slices = draw(st.lists(st.binary(max_size=4), max_size=1))
    entry = write.entry(dtype, shape, size, draw(NUMBERS), draw(st.integers(0, 2**32 - 1)))
    entry += write.field(3, draw(st.sampled_from([0, 0, 0, 1, 2**64 - 1])))
    entry += b"".join(write.field(7, part) for part in slices)
    return entry + draw(st.sampled_from([b"", b"", b"", b"\x08", b"\x12\x01\x18", b"\xff"]))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=3), entries(), max_size=3),
    st.one_of(
        st.builds(write.header, NUMBERS, st.booleans(), st.integers(0, 1)), st.binary(max_size=5)
    ),
    st.booleans(),
)
def test_whatever_an_index_says_it_is_read_or_refused(
    named: dict[bytes, bytes], head: bytes, verify: bool
) -> None:
    """With right checksums all the way, as somebody who means harm would have them."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "m"
        write.write_index(prefix, named, head)  # type: ignore[arg-type]
        write.shard_path(prefix).write_bytes(bytes(64))
        with suppress(CheckpointError):
            checkpoint = open_checkpoint(prefix, verify_checksums=verify)
            for name, variable in checkpoint.variables.items():
                assert f"{variable.size:,} {variable.nbytes:,}"
                with suppress(CheckpointError):
                    assert checkpoint[name].nbytes <= 64
