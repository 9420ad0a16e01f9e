"""Level outputs: both sides compute the same function, and are as accurate in float32."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import VerificationError
from ..models.backend import tensorflow
from ..models.reference import Architecture, Product, Reference, Samples
from ..plan import Plan
from ..prepare import Prepared
from ..text import joined
from . import torch_model
from .h5_reader import read_h5
from .model_folder import ModelFolder
from .samples import at_rows, first_tokens
from .tensorflow_reader import read_variables
from .variables import cast
from .verdict import (
    ACCURACY_RATIO,
    ACCURACY_ULPS,
    FLOAT64_TO_FLOAT32,
    ROUNDING,
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


_MOST_SHOWN = 5


class Sides(Struct, frozen=True):
    """Everything that both forward passes need."""

    reference: Reference
    settings: Any  # of the reference
    variables: dict[str, Any]  # the checkpoint's as numpy arrays, by their original names
    torch_float64: Any
    random: list[str]  # tensors that transformers initialized randomly
    samples: list[Samples]


def role_sizes(prepared: Prepared) -> dict[str, int]:
    """The sizes by the mapping's roles."""
    roles, sizes = prepared.mapping.roles, prepared.plan.sizes
    named = {role: getattr(roles, role) for role in roles.__struct_fields__}
    return {role: sizes[symbol] for role, symbol in named.items() if symbol in sizes}


def open_sides(
    prepared: Prepared,
    folder: ModelFolder,
    reference: Reference,
    matches: list[Match],
    samples: list[Samples],
) -> Sides:
    """Load the checkpoint with TensorFlow or h5py, and the folder with transformers in float64.

    If the folder's tensors are casts, TensorFlow's variables are cast too: the proof is then that
    the folder computes the function of the cast weights.

    Raises:
        VerificationError: one of them can't be loaded.
    """
    plan, mapping, rule = prepared.plan, prepared.mapping, prepared.mapping.activation
    keys = {mapping.size_key(symbol): size for symbol, size in plan.sizes.items()}
    settings = reference.settings(
        Architecture(
            sizes=keys | role_sizes(prepared),
            groups=plan.groups,
            head=plan.architecture.head,
            activation=plan.activation[0],
            form=rule.form(plan.activation) if rule is not None else "auto",
            problem_type=str(folder.config.get("problem_type") or ""),
            config=plan.config,
        )
    )
    names = {entry.name: entry.variable for entry in plan.entries}
    missing = [name for name in reference.names(settings) if name not in names]
    if missing:
        raise VerificationError(
            f"the reference {prepared.mapping.reference} needs the variables"
            f" {joined(missing, _MOST_SHOWN)}, which the mapping {prepared.mapping.name} does not"
            " name. Remove `reference` from the mapping to prove level weights only"
        )
    read = read_h5 if prepared.checkpoint.is_h5 else read_variables
    variables = read(prepared.checkpoint, names)
    for match in matches:
        if match.cast:
            variables[match.name] = cast(variables[match.name], match.dtype)
    torch_float64, random = _load(folder, plan, reference, "float64")
    return Sides(reference, settings, variables, torch_float64, random, samples)


def _load(
    folder: ModelFolder, plan: Plan, reference: Reference, dtype: str
) -> tuple[Any, list[str]]:
    name = plan.architecture.name
    return torch_model.load_model(folder.path, name, reference, plan.groups, dtype)


def prove_outputs(
    prepared: Prepared, folder: ModelFolder, sides: Sides
) -> tuple[list[Check], list[Output]]:
    """Compare embeddings, every layer, the pooled output and the logits of every head.

    What has a value for each position is compared at `rows` of the samples.

    Args:
        prepared: the checkpoint and its plan.
        folder: the model folder.
        sides: both, loaded.

    Raises:
        VerificationError: transformers can't load the folder in float32.
    """
    import torch

    reference = sides.reference
    torch_float32, _ = _load(folder, prepared.plan, reference, "float32")
    tables: dict[str, Errors] = {}
    products = reference.products(sides.variables, sides.settings)
    bounds = dict.fromkeys(products, 0.0)
    by_position = reference.by_position(sides.settings)
    exact, single = as_tensors(sides.variables, "float64"), as_tensors(sides.variables, "float32")
    for samples in sides.samples:
        tf64 = reference.forward(exact, sides.settings, samples)
        tf32 = reference.forward(single, sides.settings, samples)
        with torch.no_grad():
            pt64, _ = torch_model.forward(sides.torch_float64, reference, samples)
            pt32, _ = torch_model.forward(torch_float32, reference, samples)
        tf64, pt64, tf32, pt32 = (
            at_rows(side, by_position, samples) for side in (tf64, pt64, tf32, pt32)
        )
        for name in dict.fromkeys([*max(tf64, pt64, key=len), *tf64]):
            arrays = [_array(side, name) for side in (tf64, pt64, tf32, pt32)]
            tables[name] = tables.get(name, Errors()).with_batch(*arrays)
        for name, product in products.items():
            x = [_array(side, product.source) for side in (tf64, pt32)]
            if x[0].shape == x[1].shape:
                if product.first:
                    x = [array[first_tokens(samples)] for array in x]
                bounds[name] = max(bounds[name], product_bound(product, *x))
    outputs = judged(tables, bounds)
    return [*_checks(outputs), _loaded(sides)], outputs


def _array(side: "Mapping[str, Array]", name: str) -> "Array":
    """An output; empty if the side has none of that name, such as that of a layer too many."""
    import numpy as np

    return side[name] if name in side else np.zeros(0)


def activation_verdict(sides: Sides) -> Activation | None:
    """How much the other form of the activation would change, for a model that has one."""
    other = sides.reference.other_activation(sides.settings)
    if other is None:
        return None
    variables = as_tensors(sides.variables, "float64")
    samples = sides.samples[-1]
    ours = sides.reference.forward(variables, sides.settings, samples)
    theirs = sides.reference.forward(variables, other, samples)
    costs = {name: largest(ours[name].numpy(), theirs[name].numpy()) for name in ours}
    logits = {name: cost for name, cost in costs.items() if name.endswith("logits")} or costs
    where = max(logits, key=lambda name: logits[name])
    words = sides.reference.activation_words
    return Activation(words(sides.settings), words(other), logits[where], where)


def as_tensors(variables: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Numpy arrays as TensorFlow's tensors of a dtype."""
    tf = tensorflow()
    return {name: tf.constant(cast(array, dtype)) for name, array in variables.items()}


def largest(one: "Array", other: "Array") -> float:
    """The largest difference.

    It is infinite if the shapes differ, or if NaN or infinity are not at the same places.
    """
    import numpy as np

    if one.shape != other.shape:
        return math.inf
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite].astype(one.dtype), equal_nan=True):
        return math.inf
    difference = np.abs(np.where(finite, one, 0) - np.where(finite, other, 0))
    return float(difference.max(initial=0))


def product_bound(product: Product, exact: "Array", single: "Array") -> float:
    """The largest error that x K + b may have in float32, by the error that x has already.

    |e K| is what becomes of the error e of x. Rounding adds at most n u (|x| |K| + |b|), for n
    terms and u = 2^-24, but its signs are random: with sqrt(n) for n, the bound holds in practice,
    whatever the order of the terms (Higham and Mary 2019, doi:10.1137/18M1226312).

    Args:
        product: what is computed.
        exact: x [..., H] in float64, of the first tokens if it is made of these.
        single: x as PyTorch computed it in float32.
    """
    import numpy as np

    x, matrix, bias = (cast(array, "float64") for array in (single, product.matrix, product.bias))
    with np.errstate(all="ignore"):  # NaN and infinity are compared elsewhere
        carried = np.abs((x - exact) @ matrix)
        terms = np.abs(x) @ np.abs(matrix) + np.abs(bias)
        bound = carried + math.sqrt(len(matrix) + 1) * ROUNDING * terms
    return float(bound.max(initial=0, where=np.isfinite(bound)))


class Errors(Struct, frozen=True):
    """The largest errors of one tensor so far."""

    scale: float = 0
    float64: float = 0
    tensorflow: float = 0
    pytorch: float = 0
    nonfinite: int = 0

    def with_batch(self, tf64: "Array", pt64: "Array", tf32: "Array", pt32: "Array") -> "Errors":
        import numpy as np

        finite = np.isfinite(tf64)
        return Errors(
            max(self.scale, float(np.abs(tf64[finite]).max(initial=0))),
            max(self.float64, largest(tf64, pt64)),
            max(self.tensorflow, largest(tf64, tf32)),
            max(self.pytorch, largest(tf64, pt32)),
            self.nonfinite + int(tf64.size - np.count_nonzero(finite)),
        )

    @property
    def same(self) -> bool:
        """Whether both sides compute the same function, by float64."""
        return self.float64 <= SAME_FUNCTION * self.scale

    def output(self, name: str, bound: float) -> Output:
        return Output(
            tensor=name,
            scale=self.scale,
            float64_difference=self.float64,
            tensorflow_error=self.tensorflow,
            pytorch_error=self.pytorch,
            float32_bound=bound,
            nonfinite=self.nonfinite,
            same_function=self.same,
            as_accurate=self.pytorch <= bound,
        )


def judged(tables: Mapping[str, Errors], bounds: Mapping[str, float]) -> list[Output]:
    """The outputs, with what PyTorch's error in float32 may be.

    TensorFlow's error may be small by luck. So a layer's bound counts two more: what rounding does
    in float64, which shows how much the model enlarges it; and what the layers up to this one add
    in any case, which grows with the root of their number, as the sum of independent errors does.

    Args:
        tables: the errors, in the order of the forward pass.
        bounds: those of the outputs that are one product.
    """
    outputs, layers = [], 0
    for name, errors in tables.items():
        bound = bounds.get(name)
        if bound is None:
            layers += 1
            least = ACCURACY_ULPS * math.sqrt(layers) * ulp(errors.scale)
            # Two sides have rounded, so the difference is larger by sqrt(2) than one's error.
            double = errors.float64 * FLOAT64_TO_FLOAT32 / math.sqrt(2) if errors.same else 0.0
            bound = max(ACCURACY_RATIO * max(errors.tensorflow, double), least)
        outputs.append(errors.output(name, bound))
    return outputs


def _checks(outputs: list[Output]) -> list[Check]:
    differ = [output for output in outputs if not output.same_function]
    worst = max(outputs, key=lambda output: output.relative)
    bound = f"(bound {SAME_FUNCTION:.0e})"
    if differ:
        first = differ[0]
        found = f"{first.tensor} is the first that differs, by {first.relative:.1e} of its scale"
    else:
        found = f"differ by at most {worst.relative:.1e} of the scale, in {worst.tensor}"
    checks = [Check("outputs", "float64", not differ, f"{found} {bound}")]
    coarse = [output for output in outputs if not output.as_accurate]
    worst = max(outputs, key=lambda output: output.share)
    found = f"PyTorch's error is at most {worst.share:.3g} times its bound, in {worst.tensor}"
    if coarse:
        found += f"; {coarse[0].tensor} is the first over it"
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
    random = joined(sides.random, _MOST_SHOWN)
    text = f"transformers initialized randomly: {random}" if random else "every tensor was found"
    return Check("outputs", "loading", not sides.random, text)
