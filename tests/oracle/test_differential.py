"""Checkpoints of every variety that TensorFlow writes, read by it and by us to the same bytes.

The values that were written are compared too: TensorFlow's Python reader takes neither names that
are not UTF-8 nor V1's partitioned variables, so its restore ops are asked.
"""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertconvert import open_checkpoint
from bertconvert.converter.checkpoint.dtypes import DTYPES, numpy_dtype

from ..helpers import has_data

ORDINARY, SLOW = 100, 1000  # checkpoints that differ

STRING = 7
V2_DTYPES = [number for number, (_, itemsize) in DTYPES.items() if itemsize or number == STRING]
# float32, float64, int32, uint8, int16, int8, string, int64, bool: TensorFlow 2.21 saves no others.
V1_DTYPES = [1, 2, 3, 4, 5, 6, 7, 9, 10]

Array = np.ndarray[Any, Any]
Box = tuple[tuple[int, int], ...]


class Written(NamedTuple):
    """A variable as it was given to TensorFlow."""

    name: bytes
    dtype: int
    array: Array
    boxes: list[Box]  # empty: saved as a whole
    shards: list[int]  # of the whole, or of every box

    @property
    def shown(self) -> str:
        return self.name.decode("utf-8", "backslashreplace")

    def pieces(self) -> Iterator[tuple[int, str, Array]]:
        """Shard, shape_and_slice and values of all that is saved."""
        if not self.boxes:
            yield self.shards[0], "", self.array
        for shard, box in zip(self.shards, self.boxes, strict=bool(self.boxes)):
            place = tuple(slice(start, start + length) for start, length in box)
            shape = " ".join(str(size) for size in self.array.shape)
            extents = ":".join(
                "-" if length == size and number % 2 else f"{start},{length}"
                for number, ((start, length), size) in enumerate(
                    zip(box, self.array.shape, strict=True)
                )
            )
            yield shard, f"{shape} {extents}", self.array[place]


class Case(NamedTuple):
    """A checkpoint to be written."""

    v1: bool
    num_shards: int
    variables: list[Written]


NAMES = st.one_of(
    st.text(st.sampled_from("abc/_0"), min_size=1, max_size=12).map(str.encode),
    st.text(min_size=1, max_size=8).map(lambda name: name.encode("utf-8", "replace")),
    st.binary(min_size=1, max_size=6),
    st.text(st.sampled_from("\0\1a\xff\xfe\\/"), min_size=1, max_size=8).map(
        lambda name: name.encode("latin-1")
    ),
    st.integers(1, 3).map(lambda n: b"bert/encoder/" * 100 * n),
    st.integers(0, 25).map(lambda n: f"bert/encoder/layer_{n}/output/dense/kernel".encode()),
    st.sampled_from([b" ", b"\0", b"\xff", b"\\", b"a\0b", b".", b"..", b"/", b'"', b"\n", b"~"]),
)
SHAPES = st.one_of(
    st.lists(st.integers(0, 4), max_size=5),
    st.lists(st.sampled_from([1, 2, 3, 7, 33]), min_size=1, max_size=3),
    st.sampled_from([[], [0], [300, 40], [1], [1, 1, 1, 1, 1], [0, 3], [5000]]),
).map(tuple)
TEXTS = st.one_of(
    st.just(b""), st.binary(max_size=6), st.integers(100, 70_000).map(lambda n: b"\xfe" * n)
)


@st.composite
def arrays(draw: st.DrawFn, dtype: int) -> Array:
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    if dtype == STRING:
        texts = [draw(TEXTS) for _ in range(min(count, 6))]
        array = np.empty(count, object)
        array[:] = [texts[n % len(texts)] for n in range(count)]
        return array.reshape(shape)
    held = np.dtype(numpy_dtype(DTYPES[dtype][0]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    high = 256 if held.itemsize > 1 or held.kind in "iu" else 2
    # What has fewer than eight bits, and has a byte of its own, is not to have more.
    high = 2 if DTYPES[dtype][0].startswith(("int4", "uint4", "int2", "uint2", "float4")) else high
    if draw(st.booleans()):
        return np.zeros(shape, held)
    return rng.integers(0, high, count * held.itemsize, np.uint8).view(held).reshape(shape)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """A grid of slices; most often, none."""
    if not shape or 0 in shape or draw(st.integers(0, 2)):
        return []
    axes = []
    for size in shape:
        cuts = draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=2))
        ends = [0, *sorted(cut for cut in cuts if cut < size), size]
        axes.append([(start, end - start) for start, end in itertools.pairwise(ends)])
    return list(draw(st.permutations(list(itertools.product(*axes)))))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    v1 = draw(st.booleans())
    num_shards = draw(st.sampled_from([1, 1, 2, 3]))
    variables: list[Written] = []
    # Two names that are shown as the same are refused, which other tests are for.
    for name in draw(
        st.lists(
            NAMES,
            min_size=num_shards,
            max_size=7,
            unique_by=lambda name: name.decode("utf-8", "backslashreplace"),
        )
    ):
        dtype = draw(st.sampled_from(V1_DTYPES if v1 else V2_DTYPES))
        array = draw(arrays(dtype))
        sliced = draw(boxes(array.shape))
        # Every shard gets something: TensorFlow takes no empty one.
        first = len(variables) % num_shards
        shards = [first, *(draw(st.integers(0, num_shards - 1)) for _ in sliced[1:])]
        variables.append(Written(name, dtype, array, sliced, shards))
    return Case(v1, num_shards, variables)


def tensor(array: Array, dtype: int) -> Any:
    return tf.constant(array.tolist() if dtype == STRING else array, tf.dtypes.as_dtype(dtype),
                       shape=array.shape)  # fmt: skip


def write(folder: Path, case: Case) -> Path:
    """Have TensorFlow write a checkpoint; gives its prefix."""
    prefix = folder / "model.ckpt"
    parts = []
    for shard in range(case.num_shards):
        saved = [
            (written, spec, array)
            for written in case.variables
            for number, spec, array in written.pieces()
            if number == shard
        ]
        names = [written.name for written, _, _ in saved]
        specs = [spec for _, spec, _ in saved]
        data = [tensor(array, written.dtype) for written, _, array in saved]
        several = case.num_shards > 1
        if case.v1:
            ending = f"-{shard:05d}-of-{case.num_shards:05d}" if several else ""
            tf.raw_ops.SaveSlices(
                filename=f"{prefix}{ending}",
                tensor_names=names,
                shapes_and_slices=specs,
                data=data,
            )
            continue
        parts.append(f"{folder}/temp/part-{shard}" if several else os.fspath(prefix))
        tf.raw_ops.SaveV2(
            prefix=parts[-1], tensor_names=names, shape_and_slices=specs, tensors=data
        )
    if len(parts) > 1:
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=parts, destination_prefix=os.fspath(prefix)
        )
    return prefix


def is_utf8(name: bytes) -> bool:
    return name.decode("utf-8", "replace").encode() == name


def restored(prefix: Path, case: Case) -> list[Array | None]:
    """What TensorFlow's restore ops give, in the order of the variables."""
    pattern = f"{prefix}-?????-of-{case.num_shards:05d}" if case.num_shards > 1 else f"{prefix}"
    found: list[Array | None] = []
    for written in case.variables:
        dtype = tf.dtypes.as_dtype(written.dtype)
        try:
            value = (
                tf.raw_ops.RestoreSlice(
                    file_pattern=pattern,
                    tensor_name=written.name,
                    shape_and_slice="",
                    dt=dtype,
                )
                if case.v1
                else tf.raw_ops.RestoreV2(
                    prefix=os.fspath(prefix),
                    tensor_names=[written.name],
                    shape_and_slices=[""],
                    dtypes=[dtype],
                )[0]
            )
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            # Of some dtypes it writes slices that it does not put together.
            assert written.boxes, written
            found.append(None)
        except tf.errors.InternalError:
            # A V1 list of variables is text to protobuf, which then refuses other names.
            assert case.v1 and not all(is_utf8(written.name) for written in case.variables)
            found.append(None)
        else:
            found.append(value.numpy())
    return found


def as_bytes(array: Any) -> object:
    """What has to be the same: of strings the elements, of numbers the bytes."""
    array = np.asarray(array, object) if isinstance(array, bytes) else np.asarray(array)
    return array.tolist() if array.dtype == object else array.tobytes()


def agree(prefix: Path, case: Case) -> None:
    """Both readers have the same of a checkpoint, and it is what was written."""
    checkpoint = open_checkpoint(prefix)
    assert set(checkpoint) == {written.shown for written in case.variables}
    assert checkpoint.num_shards == case.num_shards
    for written, theirs in zip(case.variables, restored(prefix, case), strict=True):
        name, expected = written.shown, written.array
        if theirs is not None:
            assert as_bytes(theirs) == as_bytes(expected), "the test itself is wrong"
        variable = checkpoint.variables[name]
        assert variable.tf_dtype == tf.dtypes.as_dtype(written.dtype).name
        assert variable.shape == expected.shape
        array = checkpoint[name]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape), name
        assert as_bytes(array) == as_bytes(expected), name
        if written.dtype == STRING:
            continue
        for room in (1, 3, 7, 1 << 12):
            if room == 1 and expected.size > 2000:
                continue
            buffer = memoryview(bytearray(room * expected.itemsize))
            pieces = b"".join(bytes(piece) for piece in checkpoint.stream(name, buffer))
            assert pieces == expected.tobytes(), name
        whole = bytearray(expected.nbytes)
        checkpoint.read_into(name, memoryview(whole))
        assert whole == expected.tobytes(), name
    if all(is_utf8(written.name) for written in case.variables) and not case.v1:
        reader = tf.train.load_checkpoint(os.fspath(prefix))
        assert reader.get_variable_to_shape_map() == {
            name: list(variable.shape) for name, variable in checkpoint.variables.items()
        }
        assert {n: d.name for n, d in reader.get_variable_to_dtype_map().items()} == {
            name: variable.tf_dtype for name, variable in checkpoint.variables.items()
        }


def digest(folder: Path) -> bytes:
    """Of the bytes of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


def compare(count: int, *, derandomize: bool) -> None:
    """Compare the readers on `count` checkpoints that differ."""
    seen = set()

    @settings(
        max_examples=count + count // 5,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def compare_one(case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            agree(write(Path(folder), case), case)
            seen.add(digest(Path(folder)))

    compare_one()
    assert len(seen) >= count


def test_a_hundred_checkpoints_of_all_varieties_are_read_as_tensorflow_reads_them() -> None:
    compare(ORDINARY, derandomize=True)


@pytest.mark.slow
def test_a_thousand_checkpoints_of_all_varieties_are_read_as_tensorflow_reads_them() -> None:
    compare(SLOW, derandomize=False)


def saved_by_saver(
    folder: Path, shape: Sequence[int], parts: int, axis: int, dtype: Any, v1: bool, sharded: bool
) -> tuple[Path, Array]:
    """A partitioned variable of TF1 and a plain one, as Saver writes them."""
    version = tf.compat.v1.train.SaverDef.V1 if v1 else tf.compat.v1.train.SaverDef.V2
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        table = tf.compat.v1.get_variable(
            "scope/table",
            shape,
            dtype,
            initializer=tf.compat.v1.random_uniform_initializer(-100, 100),
            partitioner=tf.compat.v1.fixed_size_partitioner(parts, axis),
            use_resource=False,
        )
        tf.compat.v1.get_variable("step", [], tf.int64)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(sharded=sharded, write_version=version)
        saver.save(session, os.fspath(folder / "model.ckpt"))
        return folder / "model.ckpt", session.run(tf.convert_to_tensor(table))


@pytest.mark.parametrize("v1", [False, True], ids=["V2", "V1"])
@pytest.mark.parametrize("sharded", [False, True], ids=["together", "sharded"])
@pytest.mark.parametrize(
    ("shape", "parts", "axis"),
    [((7,), 3, 0), ((5, 4), 2, 0), ((5, 4), 4, 1), ((3, 4, 5), 5, 2), ((2, 9, 2, 3), 4, 1)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [tf.float32, tf.int64], ids=lambda dtype: dtype.name)
def test_what_saver_writes_of_partitioned_variables_is_put_together(
    tmp_path: Path,
    shape: tuple[int, ...],
    parts: int,
    axis: int,
    dtype: Any,
    v1: bool,
    sharded: bool,
) -> None:
    prefix, expected = saved_by_saver(tmp_path, shape, parts, axis, dtype, v1, sharded)
    for path in (prefix, tmp_path):
        checkpoint = open_checkpoint(path)
        assert sorted(checkpoint) == ["scope/table", "step"]
        table = checkpoint["scope/table"]
        assert (table.dtype, table.shape) == (expected.dtype, expected.shape)
        assert table.tobytes() == expected.tobytes()
        assert checkpoint["step"].tolist() == 0


def test_slices_that_no_straight_cut_separates_are_put_together(tmp_path: Path) -> None:
    """As the vanes of a windmill; TensorFlow takes any slices that do not overlap."""
    array = np.arange(9, dtype=np.float32).reshape(3, 3)
    vanes = [((0, 1), (0, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 2), (0, 1)), ((1, 1),) * 2]
    case = Case(False, 1, [Written(b"a", 1, array, vanes, [0] * 5)])
    agree(write(tmp_path, case), case)


@pytest.mark.parametrize("v1", [False, True], ids=["V2", "V1"])
def test_twenty_thousand_variables_are_read_as_tensorflow_wrote_them(
    tmp_path: Path, v1: bool
) -> None:
    """They take many blocks of the table; the 20,001st is too large for one."""
    names = [f"bert/encoder/layer_{n}/attention/self/query/kernel/adam_m" for n in range(20_000)]
    values = {name: np.int64(number * 7919) for number, name in enumerate(names)}
    values["z/large"] = np.arange(50_000)
    variables = [Written(n.encode(), 9, np.asarray(v), [], [0]) for n, v in values.items()]
    prefix = write(tmp_path, Case(v1, 1, variables))
    assert sum(path.stat().st_size for path in tmp_path.glob("model.ckpt*")) > 4 << 18
    checkpoint = open_checkpoint(prefix)
    assert sorted(checkpoint) == sorted(values)
    for name in sorted(values):  # of V1, block by block
        assert checkpoint[name].tolist() == values[name].tolist()


def test_all_checkpoints_from_the_wild_are_read_as_tensorflow_reads_them(real: Path) -> None:
    """Those with data, V1 and SavedModels among them, to the last byte."""
    found = []
    for path in sorted(real.rglob("*")):
        is_bundle = path.suffix == ".index" and has_data(path.with_suffix(""))
        if not is_bundle and not path.name.startswith("export"):
            continue
        if path.suffix == ".meta":
            continue
        prefix = path.with_suffix("") if is_bundle else path
        theirs = tf.train.load_checkpoint(os.fspath(prefix))
        ours = open_checkpoint(prefix)
        assert {n: list(v.shape) for n, v in ours.variables.items()} == (
            theirs.get_variable_to_shape_map()
        )
        for name in ours:
            assert as_bytes(ours[name]) == as_bytes(theirs.get_tensor(name)), name
        found.append(f"{path.parent.name}/{path.name}: {ours.format}")
    assert sum("V1" in line for line in found) == 2
    assert sum("V2" in line for line in found) >= 5, found
