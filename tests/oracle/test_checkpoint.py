"""Our reader against TensorFlow's own: any checkpoint that it reads, we read to the same bytes.

TensorFlow reads the same files through tf.train.load_checkpoint, and writes checkpoints of dtypes,
shards and sizes that no fixture has.
"""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.dtypes import DTYPES, numpy_dtype

from ..checkpoint import table_writer as write
from ..helpers import has_data

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
PREFIXES = sorted(path.relative_to(FIXTURES) for path in FIXTURES.rglob("*.index"))
NUMBERS = [number for number, (_, itemsize) in DTYPES.items() if itemsize]
# From float8_e5m2 on, TensorFlow reads no big-endian bundle: all have one byte, and are the same.
FIRST_NOT_SWAPPED = 24

Array = np.ndarray[Any, Any]


def reader(prefix: Path) -> Any:
    return tf.train.load_checkpoint(os.fspath(prefix))


def agree(prefix: Path, *, data: bool = True) -> int:
    """Whether both readers have the same of a checkpoint; gives the number of its variables."""
    theirs, ours = reader(prefix), open_checkpoint(prefix)
    dtypes = theirs.get_variable_to_dtype_map()
    shapes = theirs.get_variable_to_shape_map()
    assert {v.name: (v.tf_dtype, list(v.shape)) for v in ours.variables.values()} == {
        name: (dtypes[name].name, shapes[name]) for name in shapes
    }
    for name, variable in ours.variables.items():
        if data and variable.tf_dtype != "string":
            expected = np.asarray(theirs.get_tensor(name))
            array = ours[name]
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape), name
            assert array.tobytes() == expected.tobytes(), name
    return len(ours)


def numbers(dtype: int, *shape: int) -> Array:
    held = np.dtype(numpy_dtype(DTYPES[dtype][0]))
    rng = np.random.default_rng(dtype)
    high = 256 if held.itemsize > 1 else 2
    data = rng.integers(0, high, int(np.prod(shape)) * held.itemsize, np.uint8)
    return data.view(held).reshape(shape)


def save(prefix: Path, tensors: dict[str, Any]) -> None:
    tf.raw_ops.SaveV2(
        prefix=os.fspath(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


@pytest.mark.parametrize("index", PREFIXES, ids=str)
def test_a_fixture_is_read_as_tensorflow_reads_it(index: Path) -> None:
    assert agree((FIXTURES / index).with_suffix("")) > 20  # ALBERT has few variables


def test_all_fixtures_are_tried() -> None:
    folders = {path.name for path in FIXTURES.iterdir() if any(path.rglob("*.data-*"))}
    assert {index.parts[0] for index in PREFIXES} == folders
    assert len(folders) > 15


def test_checkpoints_from_the_wild_are_read_as_tensorflow_reads_them(real: Path) -> None:
    """Of those that are an index alone: names, dtypes and shapes."""
    sizes = {}
    for index in sorted(real.rglob("*.index")):
        prefix = index.with_suffix("")
        data = has_data(prefix)
        sizes[index.parent.name, data] = agree(prefix, data=data)
    assert sizes["google-uncased_L-12_H-768_A-12-index", False] == 206
    assert sizes["finetuned-classifier-adam-base-index", False] == 604
    assert sizes["keras-bert-tiny-pretrain", True] == 139
    assert sizes["variables", True] > 0


class TestDtypes:
    def test_have_the_numbers_names_and_sizes_of_tensorflow(self) -> None:
        theirs = {
            number: tf.dtypes.as_dtype(number)
            for number in types_pb2.DataType.values()
            if 0 < number < 100  # the others are references to these
        }
        assert {n: (dtype.name, dtype.size) for n, dtype in theirs.items()} == DTYPES

    @pytest.mark.parametrize("number", NUMBERS, ids=lambda number: DTYPES[number][0])
    def test_that_tensorflow_writes_are_read_to_the_same_bytes(
        self, tmp_path: Path, number: int
    ) -> None:
        dtype = tf.dtypes.as_dtype(number)
        arrays = {
            "matrix": numbers(number, 5, 7),
            "scalar": numbers(number),
            "empty": numbers(number, 3, 0),
        }
        tensors = {name: tf.constant(array, dtype) for name, array in arrays.items()}
        save(tmp_path / "model.ckpt", tensors)
        checkpoint = open_checkpoint(tmp_path)
        for name, array in arrays.items():
            assert checkpoint.variables[name].tf_dtype == dtype.name
            assert checkpoint[name].dtype == array.dtype
            assert checkpoint[name].shape == array.shape
            assert checkpoint[name].tobytes() == array.tobytes()
        assert agree(tmp_path / "model.ckpt") == 3


class TestWhatTensorFlowWrites:
    def test_in_several_shards_is_read(self, tmp_path: Path) -> None:
        parts = [tmp_path / "temp" / f"part-{shard}" for shard in range(3)]
        for shard, part in enumerate(parts):
            save(
                part,
                {
                    f"v{shard + 3 * n:02d}": tf.constant(numbers(dtype, 3, 5))
                    for n, dtype in enumerate((1, 6, 14, 3))
                },
            )
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=[os.fspath(part) for part in parts],
            destination_prefix=os.fspath(tmp_path / "model.ckpt"),
        )
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.num_shards == 3
        assert {checkpoint.position(name)[0] for name in checkpoint} == {0, 1, 2}
        assert agree(tmp_path / "model.ckpt") == 12

    def test_with_twenty_thousand_variables_is_read(self, tmp_path: Path) -> None:
        """Their index has many blocks of 256 KiB."""
        values = np.arange(20_000, dtype=np.int64)
        names = [f"bert/encoder/layer_{n}/attention/self/query/kernel/adam_m" for n in values]
        save(
            tmp_path / "model.ckpt", dict(zip(names, tf.unstack(tf.constant(values)), strict=True))
        )
        assert (tmp_path / "model.ckpt.index").stat().st_size > 4 << 18
        checkpoint = open_checkpoint(tmp_path)
        assert list(checkpoint) == sorted(names)
        assert [int(checkpoint[name]) for name in names[::97]] == values[::97].tolist()
        assert agree(tmp_path / "model.ckpt", data=False) == 20_000

    def test_as_tf1_saver_does_is_read_and_found(self, tmp_path: Path) -> None:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            weights = tf.compat.v1.get_variable("layer/kernel", [3, 4])
            tf.compat.v1.get_variable("scalar", [], tf.int32)
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver(sharded=True)
            saver.save(session, os.fspath(tmp_path / "model.ckpt"), global_step=1)
            expected = session.run(weights.assign_add(tf.ones([3, 4])))
            saver.save(session, os.fspath(tmp_path / "model.ckpt"), global_step=2)
        for step in (1, 2):
            assert agree(tmp_path / f"model.ckpt-{step}") == 2
        assert open_checkpoint(tmp_path)["layer/kernel"].tolist() == expected.tolist()

    def test_as_tf2_checkpoints_are_is_read(self, tmp_path: Path) -> None:
        tracked = tf.train.Checkpoint(a=tf.Variable([1.0, 2.0]), b=tf.Variable(3, dtype=tf.int64))
        prefix = tracked.save(os.fspath(tmp_path / "ckpt"))
        assert agree(Path(prefix)) == 4
        name = "a/.ATTRIBUTES/VARIABLE_VALUE"
        assert open_checkpoint(tmp_path)[name].tolist() == [1, 2]
        graph = open_checkpoint(tmp_path)["_CHECKPOINTABLE_OBJECT_GRAPH"]
        reader = tf.train.load_checkpoint(prefix)
        assert graph.item() == reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")

    def test_as_a_partitioned_variable_is_put_together(self, tmp_path: Path) -> None:
        tf.raw_ops.SaveV2(
            prefix=os.fspath(tmp_path / "model.ckpt"),
            tensor_names=["table", "table", "bias"],
            shape_and_slices=["6 4 0,2:-", "6 4 2,4:-", ""],
            tensors=[tf.ones([2, 4]), tf.ones([4, 4]), tf.ones([3])],
        )
        assert agree(tmp_path / "model.ckpt") == 2
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint["bias"].tolist() == [1, 1, 1]
        assert checkpoint["table"].tolist() == [[1] * 4] * 6

    @pytest.mark.parametrize("name", ["model.ckpt", "größe", "模型", 'a "quoted" one', "it's"])
    def test_in_the_file_checkpoint_names_the_one_that_tensorflow_finds(
        self, tmp_path: Path, name: str
    ) -> None:
        for number, each in enumerate((name, "another")):
            write_bundle(tmp_path / each, {"a": np.float32([number])})
        for absolute in (False, True):
            tf.compat.v1.train.update_checkpoint_state(
                os.fspath(tmp_path), os.fspath(tmp_path / name) if absolute else name
            )
            assert tf.train.latest_checkpoint(os.fspath(tmp_path)) == os.fspath(tmp_path / name)
            assert open_checkpoint(tmp_path)["a"].tolist() == [0]


class TestWhatTheTestsWrite:
    """The tests of the reader write checkpoints of their own; TensorFlow says they are such."""

    @pytest.mark.parametrize("compression", [write.NONE, write.SNAPPY], ids=["plain", "snappy"])
    @pytest.mark.parametrize("big_endian", [False, True], ids=["little", "big"])
    @pytest.mark.parametrize("restart_interval", [1, 16, 1000])
    def test_is_read_by_tensorflow(
        self, tmp_path: Path, compression: int, big_endian: bool, restart_interval: int
    ) -> None:
        tensors = {
            f"{part}/{DTYPES[number][0]}": (number, numbers(number, *shape))
            for number in NUMBERS
            if not (big_endian and number >= FIRST_NOT_SWAPPED)
            for part, shape in (("matrix", (4, 3)), ("scalar", ()), ("empty", (0, 2)))
        }
        prefix = write.write_bundle(
            tmp_path / "model.ckpt",
            tensors,
            num_shards=3,
            big_endian=big_endian,
            gap=1,
            block_bytes=500,
            restart_interval=restart_interval,
            compression=compression,
        )
        assert agree(prefix) == len(tensors)
        theirs = reader(prefix)
        for name, (_, array) in tensors.items():
            assert theirs.get_tensor(name).tobytes() == array.tobytes()

    def test_may_have_unknown_fields_and_any_order(self, tmp_path: Path) -> None:
        data = np.arange(6, dtype=np.float32).tobytes()
        entry = (
            write.field(5, 24)
            + write.fixed32(6, write.masked(data))
            + write.field(99, b"unknown")
            + write.field(98, 2**64 - 1)
            + write.field(2, write.shape(2) + write.field(9, 1))
            + write.field(2, write.shape(3))
            + write.field(1, 2)
            + b"\x08\x81\x80\x00"  # dtype again, 1 in more bytes than it needs
        )
        prefix = tmp_path / "model.ckpt"
        write.write_index(prefix, {"a": entry}, write.header() + write.field(77, b"unknown"))
        write.shard_path(prefix).write_bytes(data)
        assert agree(prefix) == 1
        assert open_checkpoint(prefix)["a"].shape == (2, 3)


def test_a_damaged_index_is_never_read_otherwise_than_tensorflow_reads_it(
    fixtures: Path, tmp_path: Path
) -> None:
    source = fixtures / "encoder" / "bert_model.ckpt.index"
    prefix = tmp_path / "model.ckpt"
    write.shard_path(prefix).symlink_to(write.shard_path(source.with_suffix("")))
    content = source.read_bytes()
    rng = random.Random(0)
    places = [rng.randrange(len(content)) for _ in range(150)]
    places += [len(content) - 1 - rng.randrange(60) for _ in range(150)]  # the footer, unchecked
    read = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        Path(f"{prefix}.index").write_bytes(damaged)
        try:
            reader(prefix)
        except Exception:  # of many kinds
            with pytest.raises(CheckpointError):
                open_checkpoint(prefix)
        else:
            assert agree(prefix) > 30
            read += 1
    assert 0 < read < len(places)


def test_large_v1_variables_are_read_into_memory_of_their_own(tmp_path: Path) -> None:
    """Their blocks are not copied: the array takes over the memory that a block was read into."""
    rng = np.random.default_rng(0)
    arrays = {
        "float": rng.normal(size=(1501, 1001)).astype("f4"),
        "double": rng.normal(size=(1001, 801)),
        "small": rng.normal(size=7).astype("f4"),
        "int": rng.integers(-5, 5, (1201, 1003)).astype("i4"),
        "half": rng.normal(size=(2003, 1501)).astype("f2"),
    }
    path = tmp_path / "model"
    tf.raw_ops.Save(filename=str(path), tensor_names=[*arrays], data=[*arrays.values()])
    checkpoint = open_checkpoint(path)
    for _ in range(2):
        for name, array in arrays.items():
            read = checkpoint[name]
            assert np.array_equal(read, array)
            assert read.flags.writeable and read.flags.aligned
            read[:] = 0  # which no other read sees
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(lambda name: np.array_equal(checkpoint[name], arrays[name]), [*arrays] * 4)
        )
    assert all(found)
    into = np.empty_like(arrays["float"])
    checkpoint.read_into("float", into)
    assert np.array_equal(into, arrays["float"])
