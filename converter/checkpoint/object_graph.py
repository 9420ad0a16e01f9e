"""The object graph of a TF2 checkpoint, which knows the names that a program gave its variables.

Format: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from collections.abc import Iterator

from ..errors import CheckpointError
from .protos import LENGTH, Malformed, fields

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def full_names(source: str, graph: bytes) -> Iterator[tuple[str, str]]:
    """Yield checkpoint key and the variable's own name, where the graph has one.

    Args:
        source: names the checkpoint in errors.
        graph: a serialized TrackableObjectGraph.

    Raises:
        CheckpointError: the graph is damaged.
    """
    try:
        for tag, _, node in fields(graph):
            if tag != 1 << 3 | LENGTH:
                continue
            for subtag, _, attribute in fields(node):
                if subtag != 2 << 3 | LENGTH:
                    continue
                full_name = key = b""
                for field, _, text in fields(attribute):
                    if field == 2 << 3 | LENGTH:
                        full_name = text
                    elif field == 3 << 3 | LENGTH:
                        key = text
                if full_name:
                    yield (
                        key.decode("utf-8", "backslashreplace"),
                        full_name.decode("utf-8", "backslashreplace"),
                    )
    except Malformed as error:
        raise CheckpointError(f"{source}: the object graph is damaged: {error}") from error
