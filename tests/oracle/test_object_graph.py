"""The names that we find in object-based checkpoints against those that TensorFlow wrote."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from bertconvert import open_checkpoint
from bertconvert.converter.checkpoint.object_graph import OBJECT_GRAPH, name_in_key

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def tensorflows_names(prefix: str) -> dict[str, str]:
    """The full names by key, as TensorFlow's own protobuf classes read the object graph."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(tf.train.load_checkpoint(prefix).get_tensor(OBJECT_GRAPH))
    return {
        tensor.checkpoint_key: tensor.full_name
        for node in graph.nodes
        for tensor in node.attributes
    }


def our_names(prefix: str | Path) -> dict[str, str]:
    variables = dict(open_checkpoint(prefix).variables)
    del variables[OBJECT_GRAPH]
    return {key: variable.full_name for key, variable in variables.items()}


def variable(name: str, value: Any = 0.0) -> tf.Variable:
    return tf.Variable(value, name=name)


class Node(tf.Module):
    """An object with a variable, and with edges to others."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kernel = variable(name)


def test_every_kind_of_object_gives_tensorflows_names(tmp_path: Path) -> None:
    node = Node("plain")
    node.listed = [Node("in/a/list"), variable("of.dots")]
    node.by_name = {"a/b": variable("slash"), "c.d": variable("dot")}
    node.twice = node.listed[0]
    with tf.name_scope("scope"):
        node.scoped = variable("inner")
    node.unnamed = tf.Variable(1)
    saved = tf.train.Checkpoint(model=node, step=variable("step", 3)).save(tmp_path / "m")
    names = our_names(saved)
    assert names == tensorflows_names(saved)
    assert names[f"model/by_name/a.Sb{VALUE}"] == "slash"
    assert names[f"model/scoped{VALUE}"] == "scope/inner"
    assert names[f"model/unnamed{VALUE}"] == "Variable"


def test_slots_have_names_and_are_told_by_their_keys(tmp_path: Path) -> None:
    from tf_keras.optimizers import legacy

    node, optimizer = Node("dense/kernel"), legacy.Adam()
    optimizer.apply_gradients([(tf.constant(1.0), node.kernel)])
    saved = tf.train.Checkpoint(model=node, optimizer=optimizer).save(tmp_path / "m")
    names = our_names(saved)
    assert names == tensorflows_names(saved)
    slots = {key for key in names if "/.OPTIMIZER_SLOT/optimizer/" in key}
    assert {key.split("/")[-3] for key in slots} == {"m", "v"}
    assert all(names[key].startswith("Adam/dense/kernel/") for key in slots)


@pytest.mark.parametrize("shape", ["a chain of 300 objects", "a cycle"])
def test_depth_and_cycles_do_not_matter(tmp_path: Path, shape: str) -> None:
    first = last = Node("v0")
    for number in range(1, 300 if "chain" in shape else 3):
        last.next = Node(f"v{number}")
        last = last.next
    if shape == "a cycle":
        last.next, first.itself = first, first
    saved = tf.train.Checkpoint(first=first).save(tmp_path / "m")
    names = our_names(saved)
    assert names == tensorflows_names(saved)
    assert len(names) == (301 if "chain" in shape else 4)


def test_names_of_a_saved_models_variables_are_in_the_keys_too(tmp_path: Path) -> None:
    """As hub.KerasLayer tracks them: add_weight(name=variable.name)."""
    inner = tf.Module()
    inner.variables_by_name = [
        variable("transformer/layer_0/self_attention/query/kernel", [1.0]),
        variable("a.b/.S/c..d", [2.0]),
        variable("do_lower_case", True),
    ]
    tf.saved_model.save(inner, tmp_path / "hub")
    loaded = tf.saved_model.load(tmp_path / "hub")
    layer = tf.Module()
    for found in loaded.variables_by_name:
        layer._track_trackable(found, name=found.name)
    saved = tf.train.Checkpoint(model=layer).save(tmp_path / "m")
    names = our_names(saved)
    assert names == tensorflows_names(saved)
    expected = {"transformer/layer_0/self_attention/query/kernel", "a.b/.S/c..d", "do_lower_case"}
    assert {name_in_key(key) for key in names} - {""} == expected

    Path(f"{saved}.data-00000-of-00001").unlink()
    without_data = our_names(saved)
    assert {name for name in without_data.values() if name} == expected
    assert all(names[key] == name for key, name in without_data.items() if name)
