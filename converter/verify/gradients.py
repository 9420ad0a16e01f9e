"""Level gradients: fine-tuning starts off in the same direction.

The loss is the head's. An encoder without a head gets a seeded random projection of its outputs.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..models.backend import tensorflow
from ..models.reference import Samples
from ..transforms import TRANSFORMS
from . import torch_model
from .outputs import Sides, as_tensors, largest
from .verdict import SAME_GRADIENT, ZERO, Check, Gradient, Match

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Labels = dict[str, Array]

_LOSS_ULPS = 4  # of rounding

# Labels that project an encoder's outputs to a number, where there is no head. The second is used
# if the model has a pooled output.
_LAST_LAYER, _POOLED = "project", "project_pooled"


def prove_gradients(
    sides: Sides, matches: list[Match], names: Mapping[str, str], pad_id: int | None, seed: int
) -> tuple[list[Check], list[Gradient]]:
    """Compare the loss, and its gradient for every parameter, in float64.

    A gradient's difference is relative to its largest element. Some gradients are zero by
    mathematics and hold nothing but rounding: those of a bias that adds the same number to all
    inputs of a softmax, which cancels it. Where both sides are below `ZERO` of the model's largest
    gradient, both count as zero. Others are nearly zero, such as those of a relu before a
    normalization, which takes out how large its input is. Their rounding is as large. So a
    difference below `ZERO` of the model's largest gradient is none.

    Looking up the padding token does not train its embedding: transformers gives
    torch.nn.Embedding a `padding_idx`, and TensorFlow's side leaves the same row out. It matters
    where a loss uses padded positions, as that of question answering does.

    Args:
        sides: the two sides, loaded.
        matches: which tensor is which variable, and how it is transformed.
        names: a tensor in the folder -> the model's parameter.
        pad_id: the id of the padding token; None if there is none.
        seed: of the labels.
    """
    labels = [_labels(sides, samples, [seed, n]) for n, samples in enumerate(sides.samples)]
    original, theirs = _tensorflow(sides, labels, pad_id)
    found, ours, rounding = _pytorch(sides, labels)
    largest_of_all = max(float(abs(gradient).max(initial=0)) for gradient in original.values())
    gradients = []
    for match in matches:
        one = original.get(match.name)
        other = found.get(names[match.tensor])
        if one is not None:
            one = TRANSFORMS[match.op].apply(one.reshape(match.merged))
        if one is not None or other is not None:
            gradients.append(_gradient(match, one, other, largest_of_all))
    # transformers takes some labels as float32, and the loss with them, but not its gradients.
    same_loss = abs(ours - theirs) <= max(SAME_GRADIENT, rounding) * abs(theirs)
    return [
        Check("gradients", "loss", same_loss, f"{theirs:.6f} in TensorFlow, {ours:.6f} in PyTorch"),
        _check(gradients),
    ], gradients


def _gradient(
    match: Match, one: "Array | None", other: "Array | None", largest_of_all: float
) -> Gradient:
    if one is None or other is None or one.shape != other.shape:
        scale, zero, difference = 0.0, False, math.inf  # a parameter that one side does not train
    else:
        scale, ours = (float(abs(gradient).max(initial=0)) for gradient in (one, other))
        zero = max(scale, ours) <= ZERO * largest_of_all
        least = ZERO / SAME_GRADIENT * largest_of_all
        scale = largest_of_all if zero else max(scale, least)
        difference = largest(one, other)
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


def _labels(sides: Sides, samples: Samples, seed: list[int]) -> "Labels":
    """Random labels, by transformers' names of them."""
    import numpy as np

    rng = np.random.default_rng(seed)
    labels = sides.reference.labels(sides.variables, sides.settings, samples, rng)
    if labels:
        return labels
    batch, tokens = samples.input_ids.shape
    hidden = sides.torch_float64.config.hidden_size
    last_layer = rng.standard_normal((batch, tokens, hidden))
    last_layer *= (samples.input_mask > 0)[..., np.newaxis]
    return {_LAST_LAYER: last_layer, _POOLED: rng.standard_normal((batch, hidden))}


def _last_layer(outputs: dict[str, Any]) -> str:
    *_, last = (name for name in outputs if name.startswith("layer_"))
    return last


def _tensorflow(
    sides: Sides, labels: "list[Labels]", pad_id: int | None
) -> "tuple[dict[str, Array], float]":
    """Gradients by the original names, and the loss; both summed over the samples."""
    tf = tensorflow()
    variables = as_tensors(sides.variables, "float64")
    settings = sides.settings
    if pad_id is not None:
        settings = sides.reference.without_training(settings, pad_id)
    gradients: dict[str, Array] = {}
    total = 0.0
    for samples, wanted in zip(sides.samples, labels, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(variables)
            outputs = sides.reference.forward(variables, settings, samples)
            if _LAST_LAYER in wanted:
                loss = tf.reduce_sum(outputs[_last_layer(outputs)] * wanted[_LAST_LAYER])
                if "pooled" in outputs:
                    loss += tf.reduce_sum(outputs["pooled"] * wanted[_POOLED])
            else:
                loss = sides.reference.loss(outputs, sides.settings, wanted)
        for name, gradient in tape.gradient(loss, variables).items():
            if gradient is not None:
                dense = tf.convert_to_tensor(gradient).numpy()
                gradients[name] = gradients[name] + dense if name in gradients else dense
        total += float(loss)
    return gradients, total


def _pytorch(sides: Sides, labels: "list[Labels]") -> "tuple[dict[str, Array], float, float]":
    """Gradients by the parameters' names, and the loss; both summed over the samples.

    The last is how much the loss may be rounded, relative to it.
    """
    import torch

    model = sides.torch_float64
    model.zero_grad()
    total, rounding = 0.0, 0.0
    for samples, wanted in zip(sides.samples, labels, strict=True):
        given = {name: torch.from_numpy(array) for name, array in wanted.items()}
        projected = _LAST_LAYER in given
        outputs, loss = torch_model.forward(
            model, sides.reference, samples, **({} if projected else given)
        )
        if projected:
            loss = (outputs[_last_layer(outputs)] * given[_LAST_LAYER]).sum()
            if "pooled" in outputs:
                loss = loss + (outputs["pooled"] * given[_POOLED]).sum()
        loss.backward()
        total += float(loss.detach())
        rounding = max(rounding, _LOSS_ULPS * torch.finfo(loss.dtype).eps)
    return dict(_gradients(model)), total, rounding


def _gradients(model: Any) -> "Iterator[tuple[str, Array]]":
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.numpy()
