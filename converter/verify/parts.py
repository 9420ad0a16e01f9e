"""Which parts of a model are faulty: each is fed what the original's parts before it give.

In an ordinary forward pass, everything after the first fault differs.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import VerificationError
from ..models.reference import Reference, Samples
from . import torch_model
from .batches import Batch
from .distance import largest
from .samples import at_rows, is_by_position
from .verdict import SAME_FUNCTION, Faulty, relative

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def faulty_parts(
    model: Any,
    reference: Reference,
    settings: Any,
    batches: list[Batch],
) -> list[Faulty]:
    """The parts that differ although they are fed the original's outputs.

    A layer needs its input at all positions of a sequence. So a layer is compared in sequences all
    of whose tokens are among `rows`, and nothing is found out about layers if there are none. Heads
    need the first token, or the position itself.

    Args:
        model: of the folder, in float64.
        reference: what the proof knows of the family.
        settings: of the reference.
        batches: the sequences, and what the original computes of them.

    Returns:
        The embeddings, layers, the pooled output and heads that differ, in the order of the forward
        pass. A layer that only one side has differs by infinity.
    """
    import torch

    by_position = reference.by_position(settings)
    scales: dict[str, float] = {}
    differences: dict[str, float] = {}
    for batch in batches:
        samples, original = batch.samples, batch.outputs
        states = _states(samples, original)
        if "embeddings" not in states:  # as in a record that someone edited
            return []
        given = {name: torch.from_numpy(array) for name, array in states.items()}
        try:
            with torch.no_grad():
                tensors = torch_model.forward_apart(model, reference, samples, given)
        except VerificationError:  # of another width than the original, which the outputs show
            return []
        found, whole = at_rows(tensors, by_position, samples), _whole(samples)
        for name in dict.fromkeys([*max(original, found, key=len), *original]):
            if name in original and name in found:
                pair = [side[name] for side in (original, found)]
                if name.startswith("layer_"):
                    pair = [array[whole] for array in pair]
                scale, difference = _scale(pair[0]), largest(*pair)
            else:
                scale, difference = 0.0, math.inf
            scales[name] = max(scales.get(name, 0.0), scale)
            differences[name] = max(differences.get(name, 0.0), difference)
    shares = {name: relative(value, scales[name]) for name, value in differences.items()}
    return [Faulty(name, share) for name, share in shares.items() if not share <= SAME_FUNCTION]


def _states(samples: Samples, original: "Mapping[str, Array]") -> "dict[str, Array]":
    """Embeddings and layers as [B, T, H], with zeros where they are not known, and `pooled`."""
    import numpy as np

    found = {}
    for name, array in original.items():
        if is_by_position(name) and array.ndim == 2:
            found[name] = np.zeros((*samples.input_ids.shape, array.shape[-1]))
            found[name].reshape(-1, array.shape[-1])[samples.rows] = array
        elif name == "pooled":
            found[name] = array
    return found


def _scale(array: "Array") -> float:
    import numpy as np

    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


def _whole(samples: Samples) -> "Array":
    """Which of `rows` are in a sequence all of whose tokens are: bool [R]."""
    import numpy as np

    count, width = samples.input_ids.shape
    sequence = samples.rows // width
    whole = np.bincount(sequence, minlength=count) == samples.input_mask.sum(axis=1)
    found: Array = whole[sequence]
    return found
