"""The names that TF2 programs gave their variables."""

from pathlib import Path

import pytest

from bertconvert import open_checkpoint
from bertconvert.converter.checkpoint.object_graph import OBJECT_GRAPH

from . import table_writer as write


def attribute(key: str, full_name: str) -> bytes:
    """A TrackableObject with one SerializedTensor."""
    tensor = write.field(1, b"VARIABLE_VALUE") + write.field(2, full_name.encode())
    return write.field(2, tensor + write.field(3, key.encode()))


def save(folder: Path, graph: bytes, *names: str) -> Path:
    """A checkpoint with an object graph and variables of one element."""
    text = write.strings([graph])
    entries = {OBJECT_GRAPH: write.entry(write.STRING, (), len(text.data), crc=text.crc)}
    at = len(text.data)
    for number, name in enumerate(names):
        entries[name] = write.entry(write.INT32, (1,), 4, at + 4 * number)
    prefix = folder / "model.ckpt"
    write.write_index(prefix, entries)
    write.shard_path(prefix).write_bytes(text.data + bytes(4 * len(names)))
    return prefix


def test_gives_full_names(tmp_path: Path) -> None:
    nodes = [
        attribute("a/.ATTRIBUTES/VARIABLE_VALUE", "dense/kernel"),
        attribute("b/.ATTRIBUTES/VARIABLE_VALUE", ""),
        attribute("gone/.ATTRIBUTES/VARIABLE_VALUE", "dense/gone"),
        write.field(1, b""),
    ]
    graph = b"".join(write.field(1, node) for node in nodes)
    names = [f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in "abc"]
    variables = open_checkpoint(save(tmp_path, graph, *names)).variables
    assert [variables[name].full_name for name in names] == ["dense/kernel", "", ""]
    assert set(variables) == {OBJECT_GRAPH, *names}


@pytest.mark.parametrize("damage", ["no message", "a wrong checksum"])
def test_damage_costs_the_full_names_only(tmp_path: Path, damage: str) -> None:
    good = write.field(1, attribute("a", "dense/kernel"))
    prefix = save(tmp_path, good + write.field(1, b"\xff") * (damage == "no message"), "a")
    if damage == "a wrong checksum":
        data = bytearray(write.shard_path(prefix).read_bytes())
        data[-10] ^= 1
        write.shard_path(prefix).write_bytes(data)
    checkpoint = open_checkpoint(prefix)
    assert checkpoint.variables["a"].full_name == ""
    assert "object graph" in checkpoint.note
    assert set(checkpoint) == {OBJECT_GRAPH, "a"}


def test_lists_variables_without_data(tmp_path: Path) -> None:
    prefix = save(tmp_path, write.field(1, attribute("a", "dense/kernel")), "a")
    write.shard_path(prefix).unlink()
    assert open_checkpoint(prefix).variables["a"].full_name == ""


@pytest.mark.parametrize(
    ("name", "count", "key", "full_name"),
    [
        (
            "tf2-encoder",
            40,
            "encoder/layer_with_weights-0/embeddings",
            "word_embeddings/embeddings",
        ),
        ("tf2-pre", 47, "encoder/layer_with_weights-3/beta", "embeddings/layer_norm/beta"),
        ("tf2-hub", 45, "mlm/variables/39", "bert/cls/predictions/output_bias/bias"),
    ],
)
def test_reads_graphs_of_tensorflow(
    families: Path, name: str, count: int, key: str, full_name: str
) -> None:
    variables = open_checkpoint(families / "checkpoints" / name).variables
    assert sum(bool(variable.full_name) for variable in variables.values()) == count
    assert variables[f"{key}/.ATTRIBUTES/VARIABLE_VALUE"].full_name == full_name
