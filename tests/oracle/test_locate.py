"""The same path means the same checkpoint to TensorFlow's readers."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.state_file import latest_path

# Prefixes that look like other things.
PREFIXES = [
    "m",
    "m.ckpt-343",
    "checkpoint",
    "m.data-00000-of-00001",
    "m.meta",
    "m.index",
    "m.index (1)",
    "m(1)(2)",
    "m - Copy",
    "m-00001-of-00003",
    "m.txt",
    "m.json",
    "m.pb",
    "m.zip",
    "m.tar.gz",
    "m.md",
    "m.py",
    "m.h5",
    "größe",
]


Save = Callable[[Path, float], None]


@pytest.fixture(scope="module")
def v2() -> Save:
    def save(prefix: Path, number: float) -> None:
        prefix.parent.mkdir(exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=str(prefix), tensor_names=["a"], shape_and_slices=[""], tensors=[[number]]
        )

    return save


@pytest.fixture(scope="module")
def v1() -> Save:
    def save(prefix: Path, number: float) -> None:
        prefix.parent.mkdir(exist_ok=True)
        tf.raw_ops.Save(filename=str(prefix), tensor_names=["a"], data=[[number]])

    return save


def number(path: object) -> float:
    return float(open_checkpoint(path)["a"][0])  # type: ignore[arg-type]


def number_by_tensorflow(prefix: Path) -> float:
    return float(tf.compat.v1.train.NewCheckpointReader(str(prefix)).get_tensor("a")[0])


LAYOUTS = {
    "a V2 set": lambda v1, v2, p: v2(p, 2),
    "a V1 file": lambda v1, v2, p: v1(p, 1),
    "both": lambda v1, v2, p: (v1(p, 1), v2(p, 2)),
    "a V2 set and a text": lambda v1, v2, p: (v2(p, 2), p.write_text("no checkpoint")),
    "a V2 set and a folder": lambda v1, v2, p: (v2(p, 2), v2(p / "x", 3)),
    "a V2 set and an empty folder": lambda v1, v2, p: (v2(p, 2), p.mkdir()),
}
NEIGHBOURS = {
    "nothing": lambda v1, v2, folder: None,
    "other sets": lambda v1, v2, folder: [
        v2(folder / name, 9) for name in ("m", "other", "m (1)", "m(1)", "m-5")
    ],
    "a V1 file": lambda v1, v2, folder: v1(folder / "other", 9),
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix(
    v1: Save, v2: Save, tmp_path: Path, prefix: str, layout: str, neighbour: str
) -> None:
    NEIGHBOURS[neighbour](v1, v2, tmp_path)
    if "folder" in layout and (tmp_path / prefix).is_file():
        pytest.skip("a neighbour's file has the folder's name")
    LAYOUTS[layout](v1, v2, tmp_path / prefix)
    if neighbour != "nothing" and prefix != "checkpoint":
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "other"')
    expected = number_by_tensorflow(tmp_path / prefix)
    assert number(tmp_path / prefix) == expected
    if layout != "a V1 file":  # an index, too, means its own set
        assert number(tmp_path / f"{prefix}.index") == expected


STATES = [
    'model_checkpoint_path: "b"',
    "model_checkpoint_path: 'b'",
    'model_checkpoint_path: "b" all_model_checkpoint_paths: "a" all_model_checkpoint_paths: "b"',
    '# one\n\nall_model_checkpoint_paths: "a"\nmodel_checkpoint_path:\n  "b" # two',
    'model_checkpoint_path: ""\n"b"',
    "model_checkpoint_path: '' \"b\" ''",
    r'model_checkpoint_path: "\x62"',
    r'model_checkpoint_path: "\142"',
    r'model_checkpoint_path: "\u0062"',
    'model_checkpoint_path: "a"\nmodel_checkpoint_path: "b"',
    'model_checkpoint_path: "b"; all_model_checkpoint_timestamps: 1.5e9',
    'model_checkpoint_path: "b", last_preserved_timestamp: -3',
    'all_model_checkpoint_paths: ["a", "b"] model_checkpoint_path: "b"',
    'model_checkpoint_path: "sub/b"',
    'model_checkpoint_path: "./b"',
    'model_checkpoint_path: "../b"',
    'model_checkpoint_path: "sub/../b"',
    'model_checkpoint_path: "old"',  # a V1 file
]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("text", STATES)
def test_a_folder_with_a_state_file(
    v1: Save, v2: Save, tmp_path: Path, text: str, at_once: bool
) -> None:
    folder = tmp_path / "run"
    for value, prefix in enumerate(("run/a", "run/b", "run/sub/b", "b")):
        (tmp_path / prefix).parent.mkdir(exist_ok=True)
        v2(tmp_path / prefix, value)
    v1(folder / "old", 9)
    if at_once:  # then nothing but the file can tell which of them is meant
        os.remove(folder / "a.index")
    (folder / "checkpoint").write_text(text)
    latest = tf.train.latest_checkpoint(str(folder))
    assert number(folder) == number_by_tensorflow(latest)


def _piece(text: str, quote: str, form: str) -> str:
    data = text.encode()
    forms = {
        "octal": lambda byte: f"\\{byte:03o}",
        "hexadecimal": lambda byte: f"\\x{byte:02x}",
        "letters": lambda byte: {10: r"\n", 9: r"\t", 13: r"\r", 11: r"\v"}.get(
            byte, f"\\{byte:03o}"
        ),
    }
    plain = {ord(char) for char in "abcxyz/.-_ 0123456789:#,"}
    return (
        quote + "".join(chr(byte) if byte in plain else forms[form](byte) for byte in data) + quote
    )


pieces = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from("\"'"),
        st.sampled_from(["octal", "hexadecimal", "letters"]),
    ),
    min_size=1,
    max_size=3,
)


@given(pieces, st.sampled_from(["", " ", "\n", " # a comment\n"]))
def test_every_spelling_of_a_string_is_read_as_protobuf_reads_it(
    parts: list[tuple[str, str, str]], space: str
) -> None:
    from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

    value = space.join(_piece(*part) for part in parts)
    text = f"model_checkpoint_path{space}:{space}{value}\nall_model_checkpoint_paths: 'x'"
    expected = text_format.Merge(text, CheckpointState()).model_checkpoint_path
    assert latest_path(text.encode()) == expected == "".join(part[0] for part in parts)


def test_a_set_that_tensorflow_can_not_find_is_refused_or_noted(v2: Save, tmp_path: Path) -> None:
    v2(tmp_path / "m-7", 7)
    with pytest.raises(tf.errors.NotFoundError):
        tf.compat.v1.train.NewCheckpointReader(str(tmp_path / "m"))
    assert "m-7" in open_checkpoint(tmp_path / "m").note
    v2(tmp_path / "m-8", 8)
    with pytest.raises(CheckpointError, match="--step"):
        open_checkpoint(tmp_path / "m")
