"""Level outputs: both sides compute the same function, and float32 is as accurate on both."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ..models import bert
from ..models.bert import Model
from . import torch_model
from .metadata import expected_activation, expected_heads
from .samples import Batch
from .subject import Subject
from .verdict import (
    ACCURACY_RATIO,
    ACCURACY_ULPS,
    SAME_FUNCTION,
    Activation,
    Check,
    Match,
    Output,
    ulp,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

OTHER_ACTIVATION = {"tanh": "erf", "erf": "tanh"}


class Sides(Struct, frozen=True):
    """Everything that both forward passes need."""

    variables: dict[str, Any]  # the checkpoint's as numpy arrays, by Google's names
    names: dict[str, str]  # Google's names -> the checkpoint's
    model: Model
    torch_float64: Any
    made_up: list[str]  # tensors that transformers filled with random numbers
    batches: list[Batch]


def open_sides(subject: Subject, matches: list[Match], batches: list[Batch]) -> Sides:
    """Load the checkpoint with TensorFlow, and the folder with transformers in float64.

    Where the folder's tensors are casts, TensorFlow's variables are cast alike: what is proved is
    then that the folder computes what the cast weights do.

    Raises:
        ParityError: one of them can't be loaded.
    """
    groups = {match.group for match in matches} - {"encoder"}
    if subject.architecture.head == "token":
        groups = groups - {"classifier"} | {"token"}
    google, _ = expected_activation(subject)
    chosen = "erf" if subject.options.activation == "erf" else "tanh"
    functions = {"gelu": chosen, "tanh": "pure tanh", "": "linear"}
    heads = expected_heads(subject)
    model = Model(
        layers=bert.count_layers(subject.checkpoint, subject.scope),
        heads=heads or 1,
        groups=tuple(group for group in bert.GROUPS if group in groups),
        activation=functions.get(google, google),
    )
    names = bert.find_variables(bert.variable_names(model), subject.checkpoint, subject.scope)
    variables = bert.read_variables(subject.checkpoint, names)
    casts = {match.variable: match.dtype for match in matches if match.cast}
    for name, own in names.items():
        if own in casts:
            variables[name] = cast(variables[name], casts[own])
    torch_float64, made_up = torch_model.load_model(
        subject.folder.path, subject.architecture.name, "float64", "pooler" in groups
    )
    return Sides(variables, names, model, torch_float64, made_up, batches)


def prove_outputs(subject: Subject, sides: Sides) -> tuple[list[Check], list[Output]]:
    """Compare embeddings, every layer, the pooled output and the logits of every head.

    Every position is compared, padded ones too: both sides define them alike, as attention leaves
    padding out of the keys alone.

    Args:
        subject: the two sides on disk.
        sides: the two sides, loaded.

    Raises:
        ParityError: transformers can't load the folder in float32.
    """
    import torch

    torch_float32, _ = torch_model.load_model(
        subject.folder.path,
        subject.architecture.name,
        "float32",
        "pooler" in sides.model.groups,
    )
    tables: dict[str, _Errors] = {}
    exact, single = as_tensors(sides.variables, "float64"), as_tensors(sides.variables, "float32")
    for batch in sides.batches:
        tf64 = bert.forward(exact, sides.model, batch)
        tf32 = bert.forward(single, sides.model, batch)
        with torch.no_grad():
            pt64, _ = torch_model.forward(sides.torch_float64, batch)
            pt32, _ = torch_model.forward(torch_float32, batch)
        for name in tf64:
            arrays = [side[name].numpy() for side in (tf64, pt64, tf32, pt32)]
            tables[name] = tables.get(name, _Errors()).with_batch(*arrays)
    outputs = [errors.output(name) for name, errors in tables.items()]
    return [*_checks(outputs), _loaded(sides)], outputs


def activation_verdict(sides: Sides) -> Activation | None:
    """What the other form of GELU would cost, for a model that has one."""
    other = OTHER_ACTIVATION.get(sides.model.activation)
    if other is None:
        return None
    changed = replace(sides.model, activation=other)
    variables = as_tensors(sides.variables, "float64")
    batch = sides.batches[-1]
    ours = bert.forward(variables, sides.model, batch)
    theirs = bert.forward(variables, changed, batch)
    costs = {name: largest(ours[name].numpy(), theirs[name].numpy()) for name in ours}
    logits = {name: cost for name, cost in costs.items() if name.endswith("logits")} or costs
    where = max(logits, key=lambda name: logits[name])
    return Activation(sides.model.activation, other, logits[where], where)


def as_tensors(variables: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Numpy arrays as TensorFlow's tensors of a dtype."""
    tf = bert.tensorflow()
    return {name: tf.constant(cast(array, dtype)) for name, array in variables.items()}


def cast(array: "Array", dtype: str) -> "Array":
    """An array in another dtype, `bfloat16` among them."""
    import ml_dtypes
    import numpy as np

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    with np.errstate(all="ignore"):
        return array.astype(kind)


def largest(one: "Array", other: "Array") -> float:
    """The largest difference; infinite where NaN or infinity do not stand at the same places."""
    import numpy as np

    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite].astype(one.dtype), equal_nan=True):
        return math.inf
    difference = np.abs(np.where(finite, one, 0) - np.where(finite, other, 0))
    return float(difference.max(initial=0))


class _Errors(Struct, frozen=True):
    """The largest errors of one tensor so far."""

    scale: float = 0
    float64: float = 0
    tensorflow: float = 0
    pytorch: float = 0
    nonfinite: int = 0

    def with_batch(self, tf64: "Array", pt64: "Array", tf32: "Array", pt32: "Array") -> "_Errors":
        import numpy as np

        finite = np.isfinite(tf64)
        return _Errors(
            max(self.scale, float(np.abs(tf64[finite]).max(initial=0))),
            max(self.float64, largest(tf64, pt64)),
            max(self.tensorflow, largest(tf64, tf32)),
            max(self.pytorch, largest(tf64, pt32)),
            self.nonfinite + int(tf64.size - np.count_nonzero(finite)),
        )

    def output(self, name: str) -> Output:
        bound = max(ACCURACY_RATIO * self.tensorflow, ACCURACY_ULPS * ulp(self.scale))
        return Output(
            tensor=name,
            scale=self.scale,
            float64_difference=self.float64,
            tensorflow_error=self.tensorflow,
            pytorch_error=self.pytorch,
            float32_bound=bound,
            nonfinite=self.nonfinite,
            same_function=self.float64 <= SAME_FUNCTION * self.scale,
            as_accurate=self.pytorch <= bound,
        )


def _checks(outputs: list[Output]) -> list[Check]:
    differ = [output for output in outputs if not output.same_function]
    worst = max(outputs, key=lambda output: output.relative)
    bound = f"(bound {SAME_FUNCTION:.0e})"
    if differ:
        first = differ[0]
        found = f"{first.tensor} is the first that differs, by {first.relative:.1e} of its scale"
    else:
        found = f"they differ by {worst.relative:.1e} of the scale at most, in {worst.tensor}"
    checks = [Check("outputs", "float64", not differ, f"{found} {bound}")]
    coarse = [output for output in outputs if not output.as_accurate]
    worst = max(outputs, key=lambda output: output.pytorch_error / (output.float32_bound or 1))
    found = (
        f"PyTorch's error is {worst.ratio:.3g} times TensorFlow's at most, in {worst.tensor}"
        f" (bound {ACCURACY_RATIO}, or {ACCURACY_ULPS} ULP)"
    )
    checks.append(Check("outputs", "float32", not coarse, found))
    if any(output.nonfinite for output in outputs):
        places = ", ".join(
            f"{output.tensor} ({output.nonfinite:,})" for output in outputs if output.nonfinite
        )
        same = all(math.isfinite(output.float64_difference) for output in outputs)
        where = "at the same places on both sides" if same else "but not at the same places"
        checks.append(Check("outputs", "NaN or infinity", same, f"in {places}, {where}"))
    return checks


def _loaded(sides: Sides) -> Check:
    made_up = ", ".join(sides.made_up[:5])
    return Check(
        "outputs",
        "loading",
        not sides.made_up,
        f"transformers fills with random numbers: {made_up}" if made_up else "nothing is made up",
    )
