"""What the original computes, as plain data: structs, and named arrays in a safetensors file.

The names of the arrays are in docs/golden-record.md.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..errors import VerificationError
from ..models.reference import Samples
from .distance import PRODUCTS, Sketch
from .verdict import Activation

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Labels = dict[str, Array]


class Batch(Struct, frozen=True):
    """What the original computes of one batch of sequences."""

    samples: Samples
    outputs: "dict[str, Array]" = {}  # float64, at the positions that are compared
    labels: "Labels" = {}  # by transformers' names of arguments; {} without gradients
    loss: float = 0.0  # 0 without gradients
    gradients: dict[str, Sketch] = {}  # by original names, of the variables that have one


class Original(Struct, frozen=True):
    """What the original computes of all sequences."""

    batches: list[Batch]
    errors: dict[str, float] = {}  # output -> the largest difference of float32 from float64
    activation: Activation | None = None  # None if its function has one form only
    tensorflow: str = ""  # version

    @property
    def count(self) -> int:
        """The number of sequences."""
        return sum(len(batch.samples.input_ids) for batch in self.batches)

    @property
    def has_gradients(self) -> bool:
        """Whether level gradients can be proved."""
        return any(batch.gradients for batch in self.batches)


class _Facts(Struct, frozen=True):
    """What of an `Original` is no number."""

    batches: Annotated[int, Meta(ge=1)]
    outputs: list[str]  # in the order of the forward pass
    activation: tuple[str, str, str] | None  # the fields of `Activation` that are words
    tensorflow: str


def to_arrays(original: Original) -> "tuple[dict[str, Array], bytes]":
    """Named arrays, and the rest as JSON."""
    import numpy as np

    arrays: dict[str, Array] = {}
    for number, batch in enumerate(original.batches):
        for field in Samples.__struct_fields__:
            arrays[f"{number}/{field}"] = getattr(batch.samples, field)
        for name, output in batch.outputs.items():
            arrays[f"{number}/outputs/{name}"] = output
        for name, label in batch.labels.items():
            arrays[f"{number}/labels/{name}"] = label
        for name, found in batch.gradients.items():
            numbers = [found.norm, *found.products, found.places]
            arrays[f"{number}/gradients/{name}"] = np.array(numbers)
        if batch.labels:
            arrays[f"{number}/loss"] = np.array([batch.loss])
    for name, error in original.errors.items():
        arrays[f"float32_errors/{name}"] = np.array([error])
    found_activation = original.activation
    words = None
    if found_activation is not None:
        arrays["activation_cost"] = np.array([found_activation.cost])
        words = (found_activation.matches, found_activation.other, found_activation.where)
    outputs = [*original.batches[0].outputs] if original.batches else []
    facts = _Facts(len(original.batches), outputs, words, original.tensorflow)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return whole, msgspec.json.encode(facts)


def from_arrays(arrays: "Mapping[str, Array]", text: str | bytes) -> Original:
    """What `to_arrays` was given.

    Raises:
        VerificationError: an array is missing or unknown, or has another form.
    """
    try:
        facts = msgspec.json.decode(text, type=_Facts)
    except (msgspec.DecodeError, RecursionError) as error:
        raise VerificationError(f"its facts can't be read: {error}") from error
    left = dict(arrays)
    batches = [_batch(left, f"{number}/", facts.outputs) for number in range(facts.batches)]
    errors = {
        name: float(_taken(left, f"float32_errors/{name}", "float64", (1,))[0])
        for name in facts.outputs
        if f"float32_errors/{name}" in left
    }
    activation = None
    if facts.activation is not None:
        matches, other, where = facts.activation
        cost = float(_taken(left, "activation_cost", "float64", (1,))[0])
        activation = Activation(matches, other, cost, where)
    if left:
        raise VerificationError(f"it has an array that nothing names: {min(left)}")
    return Original(batches, errors, activation, facts.tensorflow)


def _batch(left: "dict[str, Array]", start: str, names: list[str]) -> Batch:
    import numpy as np

    ids = _taken(left, f"{start}input_ids", "int32", (None, None))
    mask, segments = (_taken(left, start + n, "int32", ids.shape) for n in _LIKE_IDS)
    rows, masked = (_taken(left, start + n, "int64", (None,)) for n in ("rows", "masked"))
    if not ids.size or not np.isin(mask, (0, 1)).all() or (mask[:, 1:] > mask[:, :-1]).any():
        raise VerificationError(f"{start}input_mask is not a mask of tokens before padding")
    tokens = mask.reshape(-1) == 1
    for name, positions in (("rows", rows), ("masked", masked)):
        ascending = bool((positions[1:] > positions[:-1]).all())
        inside = not len(positions) or 0 <= positions[0] <= positions[-1] < ids.size
        if not (ascending and inside and tokens[positions].all()):
            raise VerificationError(f"{start}{name} does not list tokens in ascending order")
    firsts = range(0, ids.size, ids.shape[1])
    if not {*masked.tolist(), *firsts} <= {*rows.tolist()}:
        raise VerificationError(f"{start}rows lacks a first token, or a position of {start}masked")
    samples = Samples(ids, mask, segments, rows, masked)
    outputs = {}
    for name in names:
        output = _taken(left, f"{start}outputs/{name}", "float64", None)
        if len(output) != _expected(name, samples, output):
            raise VerificationError(f"{start}outputs/{name} has the shape {list(output.shape)}")
        outputs[name] = output
    labels = dict(_of(left, f"{start}labels/", None, None))
    loss = float(_taken(left, f"{start}loss", "float64", (1,))[0]) if labels else 0.0
    gradients = {}
    for name, numbers in _of(left, f"{start}gradients/", "float64", (PRODUCTS + 2,)):
        norm, *products, places = numbers.tolist()
        gradients[name] = Sketch(norm, tuple(products), places)
    return Batch(samples, outputs, labels, loss, gradients)


_LIKE_IDS = ("input_mask", "segment_ids")


def _expected(name: str, samples: Samples, output: "Array") -> int:
    """How long the first dimension of an output must be."""
    if name == "embeddings" or name.startswith("layer_"):
        return len(samples.rows)
    if name == "mlm_logits":
        return len(samples.masked)
    possible = {len(samples.rows), len(samples.input_ids), 1}
    return len(output) if len(output) in possible else -1


def _of(
    left: "dict[str, Array]", start: str, dtype: str | None, shape: tuple[int | None, ...] | None
) -> "Iterator[tuple[str, Array]]":
    """The arrays whose names have a start, by the rest of their names."""
    for name in [name for name in left if name.startswith(start)]:
        yield name.removeprefix(start), _taken(left, name, dtype, shape)


def _taken(
    left: "dict[str, Array]",
    name: str,
    dtype: str | None,
    shape: tuple[int | None, ...] | None,
) -> "Array":
    """Take an array out of those that are left; None allows any dtype, dimension or shape."""
    if name not in left:
        raise VerificationError(f"it lacks the array {name}")
    array = left.pop(name)
    fits = shape is None or (
        len(shape) == array.ndim
        and all(want in (None, has) for want, has in zip(shape, array.shape, strict=True))
    )
    if (shape is None and not array.ndim) or not fits or dtype not in (None, array.dtype.name):
        found = f"{array.dtype.name} {list(array.shape)}"
        raise VerificationError(f"its array {name} is {found}, which is not what a record has")
    return array
