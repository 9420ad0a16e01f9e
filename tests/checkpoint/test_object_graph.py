"""The names that TF2 programs gave their variables."""

import tracemalloc
from pathlib import Path

import pytest

from bertconvert import open_checkpoint
from bertconvert.converter.checkpoint import reader
from bertconvert.converter.checkpoint.object_graph import LARGEST_GRAPH, OBJECT_GRAPH, name_in_key

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


def test_the_output_number_of_a_full_name_is_cut(tmp_path: Path) -> None:
    key = "a/.ATTRIBUTES/VARIABLE_VALUE"
    prefix = save(tmp_path, write.field(1, attribute(key, "dense/kernel:0")), key)
    assert open_checkpoint(prefix).variables[key].full_name == "dense/kernel"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (
            "layer_with_weights-0/transformer.Slayer_0.Squery.Skernel:0/.ATTRIBUTES/VARIABLE_VALUE",
            "transformer/layer_0/query/kernel",
        ),
        ("Variable:0/.ATTRIBUTES/VARIABLE_VALUE", "Variable"),
        ("a/b..c...Sd..S:0/.ATTRIBUTES/VARIABLE_VALUE", "b.c./d.S"),
        ("a/b.Sc/.ATTRIBUTES/VARIABLE_VALUE", ""),
        ("a/b:0/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE", ""),
        ("a/b:0", ""),
        (":0", ""),
    ],
)
def test_a_key_that_ends_in_a_variables_name_gives_it(key: str, name: str) -> None:
    assert name_in_key(key) == name


def test_the_graphs_name_goes_over_that_of_the_key(tmp_path: Path) -> None:
    keys = [f"layer/{name}:0/.ATTRIBUTES/VARIABLE_VALUE" for name in ("a", "b")]
    prefix = save(tmp_path, write.field(1, attribute(keys[0], "other")), *keys)
    variables = open_checkpoint(prefix).variables
    assert [variables[key].full_name for key in keys] == ["other", "b"]


@pytest.mark.parametrize("damage", ["no message", "a missing shard", "too large"])
def test_without_the_graph_names_in_the_keys_remain(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"layer/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("a.Sb:0", "c")]
    graph = b"".join(write.field(1, attribute(key, "by/graph")) for key in keys)
    prefix = save(tmp_path, graph + b"\xff" * (damage == "no message"), *keys)
    if damage == "a missing shard":
        write.shard_path(prefix).unlink()
    if damage == "too large":
        monkeypatch.setattr(reader, "LARGEST_GRAPH", len(graph))
    checkpoint = open_checkpoint(prefix)
    assert [checkpoint.variables[key].full_name for key in keys] == ["a/b", ""]
    assert "object graph" in checkpoint.note


def test_a_graph_of_any_content_is_read_in_bounded_memory(tmp_path: Path) -> None:
    small = write.field(2, write.field(2, b"x") + write.field(3, b"a"))
    graph = write.field(1, small * (LARGEST_GRAPH // 20 // len(small)))
    prefix = save(tmp_path, graph, "a")
    tracemalloc.start()
    try:
        variables = open_checkpoint(prefix).variables
        assert tracemalloc.get_traced_memory()[1] < 8 * len(graph)
    finally:
        tracemalloc.stop()
    assert variables["a"].full_name == "x"


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


def test_the_index_of_a_wrapped_hub_module_has_its_names(families: Path) -> None:
    folder = families / "index" / "tfhub-small_bert_L-2_H-256-finetuned-savedmodel"
    variables = open_checkpoint(folder).variables
    names = sorted(variable.full_name for variable in variables.values() if variable.full_name)
    assert len(names) == len(set(names)) == 40
    assert "transformer/layer_1/self_attention/attention_output/kernel" in names
    assert "Variable" in names
