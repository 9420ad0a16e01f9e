"""The names that a TF2 program gave its variables, in the object graph and in the keys.

A TF2 checkpoint calls a variable by the path of attributes that leads to it, its key. Its full
name, such as `layer_0/output/bias`, is the same whatever object it was saved with.

Format: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from collections.abc import Container

from .protos import LENGTH, field, fields

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
LARGEST_GRAPH = 8 << 20  # bytes; that of 24 layers with their optimizer takes a tenth
_NODES = field(1, LENGTH)  # of TrackableObjectGraph
_ATTRIBUTES = field(2, LENGTH)  # of TrackableObject
_FULL_NAME, _CHECKPOINT_KEY = field(2, LENGTH), field(3, LENGTH)  # of SerializedTensor
_IN_KEY = "/.ATTRIBUTES/"  # between the path and the attribute, which is mostly VARIABLE_VALUE
_OUTPUT = ":0"  # what TensorFlow adds to the name of a variable


def full_names(graph: bytes, keys: Container[str]) -> dict[str, str]:
    """The full names of those variables that have one, by their keys.

    The nodes are read one after the other. Their edges are not followed, so a cycle or any depth
    of them does not matter.

    Args:
        graph: a serialized TrackableObjectGraph.
        keys: the variables of the checkpoint; the graph may have others.

    Raises:
        Malformed: the graph is damaged.
    """
    names = {}
    for tag, _, node in fields(graph):
        if tag != _NODES:
            continue
        for subtag, _, attribute in fields(node):
            if subtag != _ATTRIBUTES:
                continue
            full_name = key = b""
            for name, _, text in fields(attribute):
                if name == _FULL_NAME:
                    full_name = text
                elif name == _CHECKPOINT_KEY:
                    key = text
            found = key.decode("utf-8", "backslashreplace")
            if full_name and found in keys:
                names[found] = _variable_name(full_name.decode("utf-8", "backslashreplace"))
    return names


def name_in_key(key: str) -> str:
    """The full name that a key ends in, as those of a `hub.KerasLayer` do; "" if it ends in none.

    Such a layer tracks variables of a SavedModel by their names, which end in `:0`. In a path, `.`
    is written `..`, and `/` is written `.S` (escape_local_name in
    tensorflow/python/trackable/trackable_utils.py).
    """
    path, _, _ = key.rpartition(_IN_KEY)
    local = path.rpartition("/")[2]
    if not local.endswith(_OUTPUT):
        return ""
    return _variable_name(".".join(part.replace(".S", "/") for part in local.split("..")))


def _variable_name(name: str) -> str:
    return name.removesuffix(_OUTPUT)
