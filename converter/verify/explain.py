"""Which known mistake computes what a model folder does, tried in TensorFlow.

It is asked by a `Question`, which is plain data, so that it may run in a process of its own
(`tensorflow_process.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..models import load_reference
from ..models.backend import in_float64
from ..models.reference import Architecture, Reference
from ..transforms import to_tensorflow
from .batches import Batch
from .distance import largest
from .model_folder import open_folder
from .samples import at_rows
from .verdict import SAME_FUNCTION, Cause, relative


class Held(Struct, frozen=True):
    """The tensor that a folder has of a variable."""

    tensor: str
    op: str
    shape: tuple[int, ...]  # of the variable
    merged: tuple[int, ...]  # the same, with dimensions that the op takes as one


class Question(Struct, frozen=True, tag=True):
    """What to explain: a folder's tensors, and what the folder computes with them."""

    folder: str
    held: dict[str, Held]  # by the variables' original names
    same: bool  # whether all tensors are their variables
    reference: str  # a module of converter/models/
    architecture: Architecture
    config: dict[str, Any]  # the folder's
    first: str  # the first output that differs


def explain(question: Question, batch: Batch) -> list[Cause]:
    """The mistake by which the original model computes the same as a folder.

    Args:
        question: on which folder.
        batch: sequences, and what the folder computes of them.

    Returns:
        The cause; none if no known mistake fits, or if the tensors are the whole difference.
    """
    reference = load_reference(question.reference)
    settings = reference.settings(question.architecture)
    tensors = open_folder(Path(question.folder)).tensors
    variables = {}
    for name, held in question.held.items():
        tensor = to_tensorflow(tensors[held.tensor], held.op)
        if tensor.shape != held.merged:
            return []
        variables[name] = in_float64(tensor.reshape(held.shape))
    if not question.same and _computes(reference, settings, variables, batch):
        return []
    for mistake in reference.mistakes(variables, settings, question.config):
        if _computes(reference, mistake.settings, mistake.variables, batch):
            return [Cause(mistake.kind, (question.first,), mistake.text)]
    return []


def _computes(
    reference: Reference, settings: Any, variables: Mapping[str, Any], batch: Batch
) -> bool:
    """Whether a model computes the outputs of a batch."""
    samples, outputs = batch.samples, batch.outputs
    computed = reference.forward(variables, settings, samples)
    if computed.keys() != outputs.keys():
        return False
    for name, array in at_rows(computed, reference.by_position(settings), samples).items():
        scale = float(abs(array).max(initial=0))
        if not relative(largest(array, outputs[name]), scale) <= SAME_FUNCTION:
            return False
    return True
