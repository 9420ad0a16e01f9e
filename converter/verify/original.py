"""What the original model computes: its outputs, loss and gradients, by TensorFlow in float64.

It is computed from a `Task`, which is plain data, so that it may run in a process of its own
(`tensorflow_process.py`). The result is an `Original`, which a golden record keeps.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import VerificationError
from ..models import load_reference
from ..models.backend import in_float64, tensorflow
from ..models.layers import gathered
from ..models.reference import Architecture, Reference, Samples
from ..prepare import Planned
from ..text import joined
from . import h5_reader, tensorflow_reader
from .batches import Batch, Original
from .distance import largest, sketch
from .samples import at_rows
from .variables import cast
from .verdict import Activation

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# Labels that project an encoder's outputs to a number, where there is no head: those of the last
# layer at the rows of the samples, [R, H], and, if there is one, of the pooled output, [B, H].
LAST_LAYER, POOLED = "project", "project_pooled"

_MOST_SHOWN = 5


class Task(Struct, frozen=True, tag=True):
    """Which model to run, and what to compute."""

    checkpoint: str  # its name, for messages
    path: str  # of its prefix, or of the HDF5 file: on a disk
    is_h5: bool
    variables: dict[str, str]  # original name -> name in the checkpoint
    casts: dict[str, str]  # original name -> the dtype to round the variable to
    reference: str  # a module of converter/models/
    architecture: Architecture
    with_gradients: bool
    seed: int  # of the labels
    pad_id: int | None  # the token whose embedding is not trained by looking it up


def role_sizes(planned: Planned) -> dict[str, int]:
    """The sizes by the mapping's roles."""
    roles, sizes = planned.mapping.roles, planned.plan.sizes
    named = {role: getattr(roles, role) for role in roles.__struct_fields__}
    return {role: sizes[symbol] for role, symbol in named.items() if symbol in sizes}


def architecture_of(planned: Planned, config: Mapping[str, Any]) -> Architecture:
    """What the family's settings are made from.

    Args:
        planned: the conversion.
        config: of the model folder, whose problem_type chooses a loss.
    """
    plan, mapping, rule = planned.plan, planned.mapping, planned.mapping.activation
    keys = {mapping.size_key(symbol): size for symbol, size in plan.sizes.items()}
    return Architecture(
        sizes=keys | role_sizes(planned),
        groups=plan.groups,
        head=plan.architecture.head,
        activation=plan.activation[0],
        form=rule.form(plan.activation) if rule is not None else "auto",
        problem_type=str(config.get("problem_type") or ""),
        config=plan.config,
    )


def settings_of(reference: Reference, planned: Planned, config: Mapping[str, Any]) -> Any:
    """The settings of a conversion's model; `config` is as for `architecture_of`.

    Raises:
        VerificationError: the mapping has no role for a size that they need.
    """
    try:
        return reference.settings(architecture_of(planned, config))
    except KeyError as error:
        raise VerificationError(
            f"the mapping {planned.mapping.name} gives no size {error}, which its reference"
            f" {planned.mapping.reference} needs. Name it in [roles] or in [sizes]"
        ) from error


def check_reference(planned: Planned, config: Mapping[str, Any]) -> None:
    """Refuse a mapping that does not name all variables that the reference needs.

    Raises:
        VerificationError: it lacks some.
    """
    reference = load_reference(planned.mapping.reference)
    settings = settings_of(reference, planned, config)
    names = {entry.name for entry in planned.plan.entries}
    if missing := [name for name in reference.names(settings) if name not in names]:
        raise VerificationError(
            f"the reference {planned.mapping.reference} needs the variables"
            f" {joined(missing, _MOST_SHOWN)}, which the mapping {planned.mapping.name} does not"
            " name. Remove `reference` from the mapping to prove level weights only"
        )


def compute(task: Task, samples: list[Samples]) -> Original:
    """Run the original model on sequences.

    One precision is held at a time: the variables in float64, and then in float32.

    Args:
        task: which model.
        samples: the sequences, in batches.

    Raises:
        VerificationError: TensorFlow can't be imported, or can't read the checkpoint.
    """
    tf = tensorflow()
    reference = load_reference(task.reference)
    settings = reference.settings(task.architecture)
    variables = {name: in_float64(array) for name, array in _read(task)}
    batches = [
        _batch(task, reference, settings, variables, batch, number)
        for number, batch in enumerate(samples)
    ]
    activation = _activation(reference, settings, variables, batches[-1])
    for name in variables:
        variables[name] = tf.cast(variables[name], tf.float32)
    errors: dict[str, float] = {}
    by_position = reference.by_position(settings)
    for batch in batches:
        outputs = reference.forward(variables, settings, batch.samples)
        for name, single in at_rows(outputs, by_position, batch.samples).items():
            error = largest(batch.outputs[name], single)
            errors[name] = max(errors.get(name, 0.0), error)
    return Original(batches, errors, activation, tf.__version__)


def _read(task: Task) -> "Iterator[tuple[str, Array]]":
    reader = h5_reader if task.is_h5 else tensorflow_reader
    for name, array in reader.read_at(task.path, task.checkpoint, task.variables):
        yield name, cast(array, task.casts[name]) if name in task.casts else array


def _batch(
    task: Task,
    reference: Reference,
    settings: Any,
    variables: Mapping[str, Any],
    samples: Samples,
    number: int,
) -> Batch:
    import numpy as np

    by_position = reference.by_position(settings)
    if not task.with_gradients:
        outputs = reference.forward(variables, settings, samples)
        return Batch(samples, at_rows(outputs, by_position, samples), {}, 0.0, {})
    tf = tensorflow()
    trained = settings
    if task.pad_id is not None:
        trained = reference.without_training(settings, task.pad_id)
    rng = np.random.default_rng([task.seed, number])
    with tf.GradientTape() as tape:
        tape.watch(variables)
        outputs = reference.forward(variables, trained, samples)
        labels = reference.labels(variables, settings, samples, rng)
        if labels:
            loss = reference.loss(outputs, settings, labels)
        else:
            last = gathered(outputs[last_layer(outputs)], samples.rows)
            labels = {LAST_LAYER: rng.standard_normal(last.shape)}
            loss = tf.reduce_sum(last * labels[LAST_LAYER])
            if "pooled" in outputs:
                labels[POOLED] = rng.standard_normal(outputs["pooled"].shape)
                loss += tf.reduce_sum(outputs["pooled"] * labels[POOLED])
    found = at_rows(outputs, by_position, samples)
    del outputs
    gradients = tape.gradient(loss, variables)
    sketches = {}
    for name in variables:  # one after the other, so that each can be freed
        gradient = gradients.pop(name)
        if gradient is not None:
            sketches[name] = sketch(name, tf.convert_to_tensor(gradient).numpy())
    return Batch(samples, found, labels, float(loss), sketches)


def last_layer(outputs: Mapping[str, Any]) -> str:
    """The name of the last layer's output."""
    *_, last = (name for name in outputs if name.startswith("layer_"))
    return last


def _activation(
    reference: Reference, settings: Any, variables: Mapping[str, Any], batch: Batch
) -> Activation | None:
    """How much the other form of the activation would change, for a model that has one."""
    other = reference.other_activation(settings)
    if other is None:
        return None
    outputs = reference.forward(variables, other, batch.samples)
    theirs = at_rows(outputs, reference.by_position(settings), batch.samples)
    costs = {name: largest(batch.outputs[name], theirs[name]) for name in theirs}
    logits = {name: cost for name, cost in costs.items() if name.endswith("logits")} or costs
    where = max(logits, key=lambda name: logits[name])
    words = reference.activation_words
    return Activation(words(settings), words(other), logits[where], where)
