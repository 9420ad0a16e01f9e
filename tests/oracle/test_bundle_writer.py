"""What is written of variables is byte for byte what TensorFlow writes of them."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertconvert.converter.checkpoint.bundle_writer import index_file, layout, write_bundle
from bertconvert.converter.checkpoint.dtypes import NUMBERS, numpy_dtype
from bertconvert.converter.checkpoint.variable import Variable

ORDINARY, SLOW = 50, 1000  # sets of variables that differ

DATA = ".data-00000-of-00001"

Array = np.ndarray[Any, Any]


class Numbers(NamedTuple):
    """An array, and TensorFlow's dtype of it: numpy has none for quantized numbers."""

    tf_dtype: str
    array: Array


Variables = dict[str, Numbers]

# Any text but surrogates, which UTF-8 has not; zero bytes and what is more than 16 bits included.
ANY_TEXT = st.characters(exclude_categories=["Cs"])
NAMES = st.one_of(
    st.text(ANY_TEXT, min_size=1, max_size=8),
    st.text(st.sampled_from("abc/_0"), min_size=1, max_size=12),
    st.text(st.sampled_from("\0\1\x7f\x80\xff\uffff\U0010ffffa"), min_size=1, max_size=6),
    st.integers(0, 25).map("bert/encoder/layer_{}/output/dense/kernel".format),
    # As long as a few restarts, a block, and two.
    st.builds(
        lambda text, size, end: (text * size)[:size] + end,
        st.sampled_from(["bert/", "z", "\xff\0"]),
        st.sampled_from([1000, 60_000, 140_000, 270_000, 600_000]),
        st.text("ab", max_size=2),
    ),
)
SHAPES = st.one_of(
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from([[], [0], [300, 40], [1], [0, 3], [5000], [1] * 60]),
).map(tuple)


@st.composite
def numbers(draw: st.DrawFn) -> Numbers:
    tf_dtype = draw(st.sampled_from(sorted(NUMBERS)))
    shape = draw(SHAPES)
    held = numpy_dtype(tf_dtype)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    # A truth value is 0 or 1, and so is what has fewer than eight bits in a byte of its own.
    small = tf_dtype in ("bool", "int4", "uint4", "int2", "uint2", "float4_e2m1fn")
    count = int(np.prod(shape)) * held.itemsize
    return Numbers(
        tf_dtype, rng.integers(0, 2 if small else 256, count, np.uint8).view(held).reshape(shape)
    )


@st.composite
def many(draw: st.DrawFn) -> Variables:
    """So many that they take several blocks."""
    stem = draw(st.text(ANY_TEXT, min_size=1, max_size=50)) * draw(st.sampled_from([1, 10, 100]))
    number = draw(numbers())
    return {f"{stem}/layer_{n}/kernel": number for n in range(draw(st.integers(1000, 9000)))}


@st.composite
def sets(draw: st.DrawFn) -> Variables:
    few = draw(st.dictionaries(NAMES, numbers(), min_size=1, max_size=40))
    return few | (draw(many()) if not draw(st.integers(0, 7)) else {})


def save(prefix: Path, variables: Mapping[str, Any]) -> None:
    """Have TensorFlow write them; like Saver, in the order of their names."""
    names = sorted(variables)
    tf.raw_ops.SaveV2(
        prefix=os.fspath(prefix),
        tensor_names=[name.encode() for name in names],
        shape_and_slices=[""] * len(names),
        tensors=[variables[name] for name in names],
    )


def files(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.index").read_bytes(), Path(f"{prefix}{DATA}").read_bytes()


def compare_one(folder: Path, variables: Variables) -> bytes:
    """The index, if it and the data are what TensorFlow writes."""
    made = {id(a): tf.constant(a, tf.as_dtype(t)) for t, a in variables.values()}
    save(folder / "theirs", {name: made[id(array)] for name, (_, array) in variables.items()})
    index, data = files(folder / "theirs")
    places = layout(Variable(n, t, a.shape, a.nbytes) for n, (t, a) in variables.items())
    stored = {name: array.tobytes() for name, (_, array) in variables.items()}
    assert index_file(places, {name: crc32c(content) for name, content in stored.items()}) == index
    assert b"".join(stored[place.variable.name] for place in places) == data
    if not any(tf_dtype.startswith(("qint", "quint")) for tf_dtype, _ in variables.values()):
        write_bundle(folder / "ours", {name: array for name, (_, array) in variables.items()})
        assert files(folder / "ours") == (index, data)
    return index


def compare(count: int, *, derandomize: bool) -> None:
    """Compare `count` sets of variables that differ."""
    seen = set()

    @settings(
        max_examples=count + count // 5,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(sets())
    def compare_any(variables: Variables) -> None:
        with tempfile.TemporaryDirectory() as folder:
            seen.add(compare_one(Path(folder), variables))

    compare_any()
    assert len(seen) >= count


def test_fifty_sets_of_variables_are_written_as_tensorflow_writes_them() -> None:
    compare(ORDINARY, derandomize=True)


@pytest.mark.slow
def test_a_thousand_sets_of_variables_are_written_as_tensorflow_writes_them() -> None:
    compare(SLOW, derandomize=False)


@pytest.mark.parametrize("tf_dtype", NUMBERS)
def test_each_dtype_is_written_as_tensorflow_writes_it(tf_dtype: str, tmp_path: Path) -> None:
    array = np.array([[0, 1, 1], [1, 1, 0]], np.uint8).astype(numpy_dtype(tf_dtype))
    compare_one(tmp_path, {"a": Numbers(tf_dtype, array), "b": Numbers(tf_dtype, array[0, 0])})


@pytest.mark.parametrize(
    "lengths",
    # The header, the key's three lengths, the value and the restart take the rest of 262,144 bytes.
    [
        *([n] for n in range(262_095, 262_125)),
        *([20, n, 20] for n in range(262_065, 262_090)),
        *([20, n, 20] for n in range(524_265, 524_285)),
    ],
    ids=str,
)
def test_blocks_end_where_those_of_tensorflow_end(lengths: list[int], tmp_path: Path) -> None:
    one = Numbers("float32", np.ones(1, np.float32))
    compare_one(tmp_path, {f"{n}".ljust(size, "k"): one for n, size in enumerate(lengths)})


@pytest.mark.parametrize(
    ("last", "following"),
    [
        ("kernel/a", "kernel/b"),
        ("kernel/a", "kernel/c"),
        ("kernel/a/b", "kernel/c"),
        ("a", "b" * 3),
        ("a", "aa"),
        ("a\x7f", "a\x80"),
        ("\U0010ffff", "\U0010ffffa"),
        ("\0", "\0\0"),
        ("\xff", "\u0800"),
    ],
)
def test_the_keys_of_blocks_are_as_short_as_those_of_tensorflow(
    last: str, following: str, tmp_path: Path
) -> None:
    one = Numbers("float32", np.ones(1, np.float32))
    # The next key is so long that a block ends before it.
    compare_one(tmp_path, {last: one, following + "z" * 600_000: one})
    compare_one(tmp_path, {last: one})


def test_a_checksum_that_is_stored_as_zero_is_left_out_as_tensorflow_does(tmp_path: Path) -> None:
    array = np.frombuffer(bytes.fromhex("45 a3 e7 1f"), np.uint8)
    index = compare_one(tmp_path, {"a": Numbers("uint8", array)})
    assert b"\x28\x04\x00\x00\x00\x00\x01" in index  # size 4, and the entry ends


@pytest.mark.parametrize("array", [np.ones((3, 4), ">f4")[:, ::2], np.arange(6.0).reshape(2, 3).T])
def test_arrays_of_any_layout_are_written_in_rows_and_little_endian(
    array: Array, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "ours", {"a": array})
    save(tmp_path / "theirs", {"a": np.array(array, array.dtype.newbyteorder("="), order="C")})
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


@pytest.mark.parametrize("sharded", [False, True], ids=["together", "sharded"])
def test_what_saver_writes_of_a_graph_is_what_we_write_of_its_variables(
    sharded: bool, tmp_path: Path
) -> None:
    """Saver sorts the names; if sharded, as Estimator asks for, it merges what it wrote."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        "output_weights": rng.standard_normal((3, 8)).astype(np.float32),
        "bert/pooler/dense/kernel": rng.standard_normal((8, 8)).astype(np.float32),
        "bert/pooler/dense/kernel/adam_v": rng.standard_normal((8, 8)).astype(np.float32),
        "bert/pooler/dense/bias": rng.standard_normal(8).astype(np.float16),
        "bert/embeddings/none": np.zeros((0, 4), np.float32),
        "global_step": np.array(1_000_000, np.int64),
        "Done": np.array(True),
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=array)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(sharded=sharded).save(session, os.fspath(tmp_path / "theirs"))
    write_bundle(tmp_path / "ours", arrays)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
