"""Level gradients: fine-tuning starts off in the same direction.

The loss is the head's. An encoder without a head gets a seeded random projection of its outputs.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import VerificationError
from ..models.reference import Reference
from ..text import joined
from ..transforms import to_tensorflow
from . import torch_model
from .batches import Batch, Original
from .distance import Sketch, distance, sketch
from .original import LAST_LAYER, POOLED, last_layer
from .samples import at_rows
from .verdict import SAME_GRADIENT, ZERO, Check, Gradient, Match

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_LOSS_ULPS = 4  # of rounding


class Trained(Struct, frozen=True):
    """What PyTorch computes of one batch."""

    outputs: "dict[str, Array]"  # at the positions that are compared
    loss: float
    rounding: float  # how much the loss may be rounded, relative to it
    gradients: dict[str, Sketch]  # by the variables' original names


def train(
    model: Any, reference: Reference, settings: Any, batch: Batch, parameters: Mapping[str, Match]
) -> Trained:
    """Compute outputs, loss and gradients of a batch.

    Args:
        model: in float64.
        reference: what the proof knows of the family.
        settings: of the reference.
        batch: the sequences and the labels.
        parameters: by name: which variable each is, and how it is transformed.

    Raises:
        VerificationError: the model does not run.
    """
    import torch

    model.zero_grad()
    given = {name: torch.from_numpy(array) for name, array in batch.labels.items()}
    projects = LAST_LAYER in given
    outputs, loss = torch_model.forward(
        model, reference, batch.samples, **({} if projects else given)
    )
    if projects:
        last = outputs[last_layer(outputs)].flatten(0, 1)[torch.from_numpy(batch.samples.rows)]
        projected = {LAST_LAYER: last}
        projected |= {POOLED: outputs["pooled"]} if "pooled" in outputs else {}
        shapes, due = ({n: t.shape for n, t in side.items()} for side in (projected, given))
        if shapes != due:
            raise VerificationError(
                f"the {type(model).__name__} gives outputs of other shapes than the original"
            )
        loss = sum((tensor * given[name]).sum() for name, tensor in projected.items())
    if loss is None:
        name = type(model).__name__
        raise VerificationError(f"the {name} gives no loss for {joined([*batch.labels])}")
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and name in parameters:
            match = parameters[name]
            array = to_tensorflow(parameter.grad.numpy(), match.op)
            gradients[match.name] = sketch(match.name, array)
        parameter.grad = None
    found = {name: tensor.detach() for name, tensor in outputs.items()}
    return Trained(
        at_rows(found, reference.by_position(settings), batch.samples),
        float(loss.detach()),
        _LOSS_ULPS * torch.finfo(loss.dtype).eps,
        gradients,
    )


def prove_gradients(
    original: Original, trained: list[Trained], matches: list[Match]
) -> tuple[list[Check], list[Gradient]]:
    """Compare the loss, and its gradient for every parameter, in float64.

    Of a gradient, its norm is known and its products with seeded vectors, from which the norm of a
    difference is estimated. It is relative to the gradient's norm. Some gradients are zero by
    mathematics and hold nothing but rounding: those of a bias that adds the same number to all
    inputs of a softmax, which cancels it. Where both sides are below `ZERO` of the model's largest
    gradient, both count as zero. Others are nearly zero, such as those of a relu before a
    normalization, which takes out how large its input is. Their rounding is as large. So a
    difference below `ZERO` of the model's largest gradient is none.

    Looking up the padding token does not train its embedding: transformers gives
    torch.nn.Embedding a `padding_idx`, and TensorFlow's side leaves the same row out. It matters
    where a loss uses padded positions, as that of question answering does.

    Args:
        original: TensorFlow's side.
        trained: PyTorch's side of the same batches.
        matches: the tensors, whose parameters are compared.
    """
    pairs = list(zip(original.batches, trained, strict=True))
    found = []
    for match in matches:
        of_batches = [
            _gradient(match, batch.gradients, ours.gradients)
            for batch, ours in pairs
            if match.name in batch.gradients or match.name in ours.gradients
        ]
        if of_batches:
            worst = max(of_batches, key=lambda gradient: gradient.relative)
            is_zero = all(gradient.zero_by_mathematics for gradient in of_batches)
            passed = all(gradient.passed for gradient in of_batches)
            found.append(replace(worst, zero_by_mathematics=is_zero, passed=passed))
    # transformers takes some labels as float32, and the loss with them, but not its gradients.
    same_loss = all(
        abs(ours.loss - batch.loss) <= max(SAME_GRADIENT, ours.rounding) * abs(batch.loss)
        for batch, ours in pairs
    )
    theirs, ours = (sum(side.loss for side in sides) for sides in zip(*pairs, strict=True))
    return [
        Check("gradients", "loss", same_loss, f"{theirs:.6f} in TensorFlow, {ours:.6f} in PyTorch"),
        _check(found),
    ], found


def _gradient(match: Match, theirs: Mapping[str, Sketch], ours: Mapping[str, Sketch]) -> Gradient:
    """Compare the gradient of one batch."""
    one, other = theirs.get(match.name), ours.get(match.name)
    if one is None or other is None:
        scale, zero, difference = 0.0, False, math.inf  # a parameter that one side does not train
    else:
        largest_of_all = max(found.norm for found in theirs.values())
        zero = max(one.norm, other.norm) <= ZERO * largest_of_all
        least = ZERO / SAME_GRADIENT * largest_of_all
        scale = largest_of_all if zero else max(one.norm, least)
        difference = distance(one, other)
    return Gradient(
        tensor=match.tensor,
        variable=match.variable,
        group=match.group,
        scale=scale,
        difference=difference,
        zero_by_mathematics=zero,
        passed=difference <= SAME_GRADIENT * scale,
    )


def _check(gradients: list[Gradient]) -> Check:
    differ = [gradient.tensor for gradient in gradients if not gradient.passed]
    worst = max(gradients, key=lambda gradient: gradient.relative)
    found = f"by at most {worst.relative:.1e}, in {worst.tensor} (bound {SAME_GRADIENT:.0e})"
    many = f"{len(gradients):,} parameters"
    if differ:
        detail = f"{len(differ):,} of {many} differ, the first {differ[0]}; {found}"
    else:
        detail = f"those of {many} differ {found}"
    return Check("gradients", "parameters", not differ, detail)
