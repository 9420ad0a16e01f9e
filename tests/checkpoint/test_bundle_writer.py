"""Writing a bundle, as far as no TensorFlow is needed to tell whether it is right."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bertconvert import OutputError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import (
    Place,
    index_file,
    layout,
    write_bundle,
)
from bertconvert.converter.checkpoint.checksum import mask, unmask
from bertconvert.converter.checkpoint.variable import Variable

FIXTURES = Path(__file__).parents[2] / "fixtures"
# Checkpoints of TF2's objects, which the program's object graph orders, are tf2-*.
BY_SAVER = sorted(p for p in FIXTURES.glob("*/*.index") if not p.parent.name.startswith("tf2-"))
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def rebuilt(path: Path) -> bytes:
    """An index, made again from what is read of it."""
    checkpoint = open_checkpoint(path)
    assert checkpoint.num_shards == 1
    checksums = {name: checkpoint.checksum(name) for name in checkpoint}
    places = [Place(v, checkpoint.position(name)[1]) for name, v in checkpoint.variables.items()]
    assert places == layout(checkpoint.variables.values())
    return index_file(places, {name: crc for name, crc in checksums.items() if crc is not None})


@pytest.mark.parametrize("path", BY_SAVER, ids=lambda path: path.parent.name)
def test_the_index_that_saver_wrote_is_made_again_from_its_entries(path: Path) -> None:
    assert rebuilt(path) == path.read_bytes()


def test_indexes_from_the_wild_are_made_again_from_their_entries(real: Path) -> None:
    differ = set()
    for path in real.rglob("*.index"):
        # A string, with the graph of objects that decides the order of the data.
        if OBJECT_GRAPH not in open_checkpoint(path) and rebuilt(path) != path.read_bytes():
            differ.add(path.relative_to(real).parts[0])
    assert differ == {"bleurt-tiny"}  # compressed with Snappy


def test_indexes_of_other_families_are_made_again_from_their_entries(families: Path) -> None:
    paths = [
        path for path in families.rglob("*.index") if OBJECT_GRAPH not in open_checkpoint(path)
    ]
    assert paths
    for path in paths:
        assert rebuilt(path) == path.read_bytes(), path


def test_what_was_written_is_read_to_the_same_bytes(tmp_path: Path) -> None:
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/none": np.zeros((0, 3), np.complex128),
        "a": np.array(7, ml_dtypes.bfloat16),
        "\0\U0001f600": np.array([1, 2], ml_dtypes.float8_e4m3fn),
        "z" * 600_000: np.array([True, False]),
    }
    write_bundle(tmp_path / "new" / "m", arrays)
    checkpoint = open_checkpoint(tmp_path / "new" / "m")
    assert set(checkpoint) == set(arrays)
    for name, array in arrays.items():
        read = checkpoint[name]
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert read.tobytes() == array.tobytes()


def test_a_checkpoint_that_exists_is_replaced(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.zeros(9), "b": np.zeros(1)})
    write_bundle(tmp_path / "m", {"a": np.ones(1)})
    assert {name: array.tolist() for name, array in open_checkpoint(tmp_path / "m").items()} == {
        "a": [1]
    }
    assert (tmp_path / "m.data-00000-of-00001").stat().st_size == 8


def float32(name: str, *shape: int) -> Variable:
    return Variable(name, "float32", shape, 4 * int(np.prod(shape)))


def test_variables_are_laid_out_by_the_bytes_of_their_names() -> None:
    names = ["é", "a/b", "a", "a0", "\uffff", "\U00010000", "Z"]
    places = layout(float32(name, 3) for name in names)
    assert [place.variable.name for place in places] == sorted(names, key=str.encode)
    assert [place.offset for place in places] == [12 * number for number in range(7)]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([Variable("words", "string", (2,), 9)], "words can't be written: .* string"),
        ([Variable("a", "resource", (), 4)], "a can't be written: .* resource"),
        ([Variable("a", "dtype 99", (), 4)], "a can't be written: .* dtype 99"),
        ([float32("")], "without a name"),
        ([float32("a\ud800")], r"'a\\ud800' can't be written: .*surrogates"),
        ([float32("a", 1), float32("b"), float32("a", 2)], "two variables have the name a"),
        ([Variable("a", "float32", (2, 3), 12)], r"float32 \[2, 3\] takes 24 bytes, and it has 12"),
        ([Variable("a", "int8", (1 << 40, 1 << 40, 0), 0)], "more bytes than 64 bits"),
        ([Variable(n, "int8", (1 << 62,), 1 << 62) for n in "ab"], "can't have 9,223,372,036"),
        ([float32("a", *[1] * 255)], "255 dimensions"),
    ],
)
def test_what_tensorflow_would_not_take_is_refused(variables: list[Variable], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        layout(variables)


def test_the_longest_shape_and_the_largest_variable_are_taken() -> None:
    largest = Variable("a", "int8", ((1 << 63) - 1,), (1 << 63) - 1)
    assert layout([largest]) == [Place(largest, 0)]
    layout([float32("a", *[1] * 254)])


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([b"text"]),
        np.array(["text", None], object),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(2, [("x", "f4")]),
        np.zeros(2, ml_dtypes.float8_e3m4),  # TensorFlow has no such dtype
    ],
    ids=lambda array: array.dtype.name,
)
def test_arrays_of_anything_but_tensorflows_numbers_are_refused(
    array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=f"a can't be written: .*{array.dtype.name[:6]}"):
        write_bundle(tmp_path / "m", {"b": np.zeros(1), "a": array})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("checksum", [0, 1, 0x1FE7A345, 0xFFFFFFFF])
def test_unmask_undoes_mask(checksum: int) -> None:
    assert unmask(mask(checksum)) == checksum
    assert 0 <= mask(checksum) < 1 << 32


def test_writing_an_index_imports_nothing_heavy() -> None:
    program = """
import sys
from bertconvert.converter.checkpoint.bundle_writer import index_file, layout
from bertconvert.converter.checkpoint.variable import Variable
index_file(layout([Variable("a", "float32", (2,), 8)]), {"a": 0})
print({"numpy", "cramjam", "ml_dtypes"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
