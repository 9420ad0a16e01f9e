"""Level gradients: fine-tuning starts off in the same direction.

The loss is the head's own: for pre-training, cross entropy of the masked tokens plus that of the
next sentence. `run_pretraining.py` divides the former by the number of masked tokens plus 1e-5;
transformers, and so this proof, by the number itself. An encoder without a head gets a seeded
random projection of its outputs.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..models import bert
from ..transforms import TRANSFORMS
from . import torch_model
from .outputs import Sides, as_tensors, largest
from .samples import Batch
from .verdict import SAME_GRADIENT, ZERO, Check, Gradient, Match

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Labels = dict[str, Array]

_PAD = 0  # the id of [PAD] in every vocabulary of Google's
_IGNORED = -100  # as torch.nn.CrossEntropyLoss has it
_MASKED = 0.15  # of the tokens, as create_pretraining_data.py has it


def prove_gradients(
    sides: Sides, matches: list[Match], seed: int
) -> tuple[list[Check], list[Gradient]]:
    """Compare the loss, and its gradient for every parameter, in float64.

    A gradient's difference is relative to its own largest element. Some gradients are zero by
    mathematics and hold nothing but rounding: that of a key's bias, which adds the same to all the
    scores of a query, so that softmax takes it out again; for question answering those of the last
    bias and the last beta, for the same reason. Where both sides are below `ZERO` of the model's
    largest gradient, both are taken for zero.

    The embedding of [PAD] is not trained by looking it up: transformers gives torch.nn.Embedding a
    `padding_idx`, and TensorFlow's side leaves the same row out. It matters where a loss looks at
    padded positions, as that of question answering does.

    Args:
        sides: the two sides, loaded.
        matches: which tensor is which variable, and what happens to it on the way.
        seed: of the labels.
    """
    labels = [_labels(sides, batch, [seed, n]) for n, batch in enumerate(sides.batches)]
    google, theirs = _tensorflow(sides, labels)
    found, ours = _pytorch(sides, labels)
    names = {own: name for name, own in sides.names.items()}
    largest_of_all = max(float(abs(gradient).max(initial=0)) for gradient in google.values())
    gradients = []
    for match in matches:
        one, other = google.get(names.get(match.variable, "")), found.get(match.tensor)
        if one is not None:
            one = TRANSFORMS[match.op].apply(one)
        if one is not None or other is not None:
            gradients.append(_gradient(match, one, other, largest_of_all))
    same_loss = abs(ours - theirs) <= SAME_GRADIENT * abs(theirs)
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
        scale = largest_of_all if zero else scale
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
    found = f"by {worst.relative:.1e} at most, in {worst.tensor} (bound {SAME_GRADIENT:.0e})"
    many = f"{len(gradients):,} parameters"
    if differ:
        detail = f"{len(differ):,} of {many} differ, the first {differ[0]}; {found}"
    else:
        detail = f"those of {many} differ {found}"
    return Check("gradients", "parameters", not differ, detail)


def _labels(sides: Sides, batch: Batch, seed: list[int]) -> "Labels":
    """Random labels for the heads that are there, by transformers' names of them."""
    import numpy as np

    rng = np.random.default_rng(seed)
    groups = set(sides.model.groups)
    rows, width = batch.input_ids.shape
    tokens = batch.input_mask > 0
    hidden = sides.variables["bert/embeddings/word_embeddings"].shape[1]

    def drawn(classes: int, chosen: "Array") -> "Array":
        return np.where(chosen, rng.integers(0, classes, chosen.shape), _IGNORED)

    labels: Labels = {}
    if "mlm" in groups:
        masked = tokens & (rng.random(tokens.shape) < _MASKED)
        masked[:, 0] = True  # at least one in every batch
        vocabulary = sides.variables["bert/embeddings/word_embeddings"].shape[0]
        labels["labels"] = drawn(vocabulary, masked)
    if "nsp" in groups:
        # BertForNextSentencePrediction calls them `labels`.
        labels["next_sentence_label" if "mlm" in groups else "labels"] = rng.integers(0, 2, rows)
    if "squad" in groups:
        lengths = batch.input_mask.sum(axis=1)
        labels["start_positions"] = rng.integers(0, lengths)
        labels["end_positions"] = rng.integers(0, lengths)
    if groups & {"classifier", "token"}:
        classes = len(sides.variables["output_bias"])
        if classes > 1:  # with one, transformers takes it for a regression, and Google's loss is 0
            chosen = tokens if "token" in groups else np.ones(rows, bool)
            labels["labels"] = drawn(classes, chosen)
    if not labels:
        labels["project"] = rng.standard_normal((rows, width, hidden)) * tokens[..., np.newaxis]
        labels["project_pooled"] = rng.standard_normal((rows, hidden))
    return labels


def _tensorflow(sides: Sides, labels: "list[Labels]") -> "tuple[dict[str, Array], float]":
    """Gradients by Google's names, and the loss; both summed over the batches."""
    tf = bert.tensorflow()
    variables = as_tensors(sides.variables, "float64")
    model = replace(sides.model, untrained_id=_PAD)
    gradients: dict[str, Array] = {}
    total = 0.0
    for batch, wanted in zip(sides.batches, labels, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(variables)
            loss = _google_loss(bert.forward(variables, model, batch), wanted)
        for name, gradient in tape.gradient(loss, variables).items():
            if gradient is not None:
                dense = tf.convert_to_tensor(gradient).numpy()
                gradients[name] = gradients[name] + dense if name in gradients else dense
        total += float(loss)
    return gradients, total


def _google_loss(outputs: dict[str, Any], labels: "Labels") -> Any:
    tf = bert.tensorflow()
    if "project" in labels:
        *_, last = (name for name in outputs if name.startswith("layer_"))
        loss = tf.reduce_sum(outputs[last] * labels["project"])
        if "pooled" in outputs:
            loss += tf.reduce_sum(outputs["pooled"] * labels["project_pooled"])
        return loss
    if "start_positions" in labels:
        return (
            _cross_entropy(outputs["start_logits"], labels["start_positions"])
            + _cross_entropy(outputs["end_logits"], labels["end_positions"])
        ) / 2
    parts: list[Any] = []
    logits = iter([outputs[name] for name in outputs if name.endswith("logits")])
    parts = [_cross_entropy(next(logits), wanted) for wanted in labels.values()]
    return tf.add_n(parts)


def _cross_entropy(logits: Any, labels: "Array") -> Any:
    """The mean over the labels that count: -log_softmax(logits)[label]."""
    import numpy as np

    tf = bert.tensorflow()
    places = np.argwhere(labels != _IGNORED)
    log_probs = tf.nn.log_softmax(tf.gather_nd(logits, places), axis=-1)
    one_hot = tf.one_hot(labels[labels != _IGNORED], logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_mean(-tf.reduce_sum(log_probs * one_hot, axis=-1))


def _pytorch(sides: Sides, labels: "list[Labels]") -> "tuple[dict[str, Array], float]":
    """Gradients by the tensors' names, and the loss; both summed over the batches."""
    import torch

    model = sides.torch_float64
    model.zero_grad()
    total = 0.0
    for batch, wanted in zip(sides.batches, labels, strict=True):
        given = {name: torch.from_numpy(array) for name, array in wanted.items()}
        own = {} if "project" in given else given
        outputs, loss = torch_model.forward(model, batch, **own)
        if "project" in given:
            *_, last = (name for name in outputs if name.startswith("layer_"))
            loss = (outputs[last] * given["project"]).sum()
            if "pooled" in outputs:
                loss = loss + (outputs["pooled"] * given["project_pooled"]).sum()
        loss.backward()
        total += float(loss.detach())
    prefix = "" if model.base_model is not model else f"{type(model).base_model_prefix}."
    return {prefix + name: gradient for name, gradient in _named(model)}, total


def _named(model: Any) -> "Iterator[tuple[str, Array]]":
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.numpy()
