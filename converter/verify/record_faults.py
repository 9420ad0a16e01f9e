"""What is wrong with a golden record: it is a file from outside, and its sha256 is no signature."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..errors import BertconvertError
from ..mapping import mapping_problems
from ..models.reference import LABELS
from ..plan import Plan, make_plan
from ..prepare import Planned
from ..text import cut, joined
from ..tokenizers.registry import load_tokenizer
from .batches import Batch, Original
from .metadata import padding_id

if TYPE_CHECKING:
    from .golden_record import Record

_SHA256 = 64  # digits


def faults(record: "Record") -> Iterator[str]:
    """How a record contradicts itself.

    Each is found on the premise that those before it are not there, so the first is the one to
    report.
    """
    yield from (f"its mapping: {problem}" for problem in mapping_problems(record.planned.mapping))
    yield from _plan_faults(record)
    yield from _pin_faults(record)
    if record.original is not None:
        yield from _original_faults(record, record.original)


def _plan_faults(record: "Record") -> Iterator[str]:
    """Whether the plan is the one that variables, mapping and config give."""
    planned, tokens = record.planned, record.planned.vocabulary
    has = (tokens is not None, planned.tokenizer != "", planned.do_lower_case is not None)
    if len({*has}) > 1 or planned.tokenizer not in ("", *planned.mapping.tokenizers):
        yield "its vocabulary does not fit its tokenizer"
    if not 0 <= planned.padding <= len(tokens or ()):
        yield "it has more padding than tokens"
    try:
        plan = _plan_again(planned, record)
    except BertconvertError as error:
        yield f"its variables can't be converted: {cut(str(error))}"
        return
    one, other = (_without_sentences(each) for each in (plan, planned.plan))
    differ = [key for key in Plan.__struct_fields__ if getattr(one, key) != getattr(other, key)]
    if differ:
        yield f"its variables, mapping and config give another plan, by its {joined(differ)}"
    count = plan.sizes.get(planned.mapping.roles.labels, 0)
    if planned.labels is not None and len(planned.labels) != count:
        yield f"it names {len(planned.labels):,} labels, and the model has {count:,}"
    if record.pad_id != padding_id(planned, None):
        yield "its padding token is not the one that the vocabulary or the config gives"


def _without_sentences(plan: Plan) -> Plan:
    """A plan without what another version may say in other words."""
    dropped = [replace(drop, reason="") for drop in plan.dropped]
    return replace(plan, dropped=dropped, notes=[], doubts=[], untold=[])


def _plan_again(planned: Planned, record: "Record") -> Plan:
    tokens, special = planned.vocabulary, None
    if tokens is not None:
        tokens = tokens[: len(tokens) - planned.padding]
        special = load_tokenizer(planned.tokenizer).special_tokens(tokens)
    return make_plan(
        {name: pin.variable for name, pin in record.pins.items()},
        planned.mapping,
        planned.config,
        None if tokens is None else len(tokens),
        planned.options,
        special_tokens=special,
    )


def _pin_faults(record: "Record") -> Iterator[str]:
    mapped = {entry.variable: entry.dtype for entry in record.planned.plan.entries}
    for name, pin in record.pins.items():
        told = name not in mapped or (
            pin.dtype == mapped[name]
            and len(pin.sha256) == _SHA256
            and pin.crc32c is not None
            and 0 <= pin.nonfinite <= pin.variable.size
        )
        if name != pin.variable.name or not told:
            yield f"what it knows of the variable {cut(name)} is not complete"
    if not any(file.role == "index" for file in record.files):
        yield "it names no index"


def _original_faults(record: "Record", original: Original) -> Iterator[str]:
    """Whether the model that is planned can have computed this."""
    from .original import role_sizes

    sizes = role_sizes(record.planned)
    if original.count != record.samples:
        yield f"it has {original.count:,} sequences, and names {record.samples:,}"
    names = [f"layer_{layer}" for layer in range(sizes.get("layers", 0))]
    for batch in original.batches:
        if [*batch.outputs][: len(names) + 1] != ["embeddings", *names]:
            yield "it has not the outputs of all layers"
        if not all(output.size for output in batch.outputs.values()):
            yield "it has an output without a number"
        yield from _sample_faults(batch, sizes, record.positions)
        if record.level == "gradients":
            yield from _gradient_faults(batch, {e.name for e in record.planned.plan.entries})
        elif batch.gradients or batch.labels:
            yield f"it has gradients, and its level is {record.level}"
    if original.errors.keys() != original.batches[0].outputs.keys():
        yield "it has not TensorFlow's error of each output"
    cost = original.activation.cost if original.activation is not None else 0.0
    if not all(error >= 0 for error in (*original.errors.values(), cost)):  # NaN is not, either
        yield "an error is negative, or not a number"


def _sample_faults(batch: Batch, sizes: dict[str, int], positions: int) -> Iterator[str]:
    import numpy as np

    samples = batch.samples
    for ids, role in ((samples.input_ids, "vocabulary"), (samples.segment_ids, "segments")):
        if not 0 <= ids.min() <= ids.max() < sizes.get(role, 0):
            yield f"its sequences have ids that the model has no {role} for"
    width = samples.input_ids.shape[1]
    if width > sizes.get("positions", 0):
        yield "its sequences are longer than the model's positions"
    if np.bincount(samples.rows // width).max() > positions:
        yield f"it compares a sequence at more than {positions:,} positions"


def _gradient_faults(batch: Batch, names: set[str]) -> Iterator[str]:
    import numpy as np

    from .original import LAST_LAYER, POOLED, last_layer

    if not batch.labels or not batch.gradients:
        yield "it lacks the gradients of a batch, or the labels for them"
    if batch.labels.keys() & {LAST_LAYER, POOLED}:
        projected = {LAST_LAYER: last_layer(batch.outputs)}
        projected |= {POOLED: "pooled"} if "pooled" in batch.outputs else {}
        form = {name: (np.float64, batch.outputs[of].shape) for name, of in projected.items()}
        if {name: (label.dtype, label.shape) for name, label in batch.labels.items()} != form:
            yield "its projections do not fit the outputs"
    elif unknown := batch.labels.keys() - LABELS:
        yield f"it has labels that no class takes: {cut(min(unknown))}"
    if unknown := batch.gradients.keys() - names:
        yield f"it has the gradient of {cut(min(unknown))}, which is no variable of the model"
    for name, found in batch.gradients.items():
        finite = all(map(math.isfinite, (found.norm, found.places, *found.products)))
        if not finite or found.norm < 0:
            yield f"its gradient of {cut(name)} is no sum of finite numbers"
