"""The object graph of a TF2 checkpoint, which has the names that the program gave its variables.

Format: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from collections.abc import Iterator

from .protos import LENGTH, field, fields

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_NODES = field(1, LENGTH)  # of TrackableObjectGraph
_ATTRIBUTES = field(2, LENGTH)  # of TrackableObject
_FULL_NAME, _CHECKPOINT_KEY = field(2, LENGTH), field(3, LENGTH)  # of SerializedTensor


def full_names(graph: bytes) -> Iterator[tuple[str, str]]:
    """Yield (checkpoint key, full name) for each variable that has a full name.

    Args:
        graph: a serialized TrackableObjectGraph.

    Raises:
        Malformed: the graph is damaged.
    """
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
            if full_name:
                yield (
                    key.decode("utf-8", "backslashreplace"),
                    full_name.decode("utf-8", "backslashreplace"),
                )
