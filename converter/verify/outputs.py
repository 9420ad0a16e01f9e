"""Level outputs: both sides compute the same function, and are as accurate in float32."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ..models.reference import Product, Reference, Samples
from ..text import joined
from ..transforms import to_tensorflow
from . import torch_model
from .batches import Original
from .distance import largest
from .gradients import Trained, train
from .model_folder import ModelFolder
from .samples import at_rows, first_tokens
from .variables import cast
from .verdict import (
    ACCURACY_RATIO,
    ACCURACY_ULPS,
    FLOAT64_TO_FLOAT32,
    ROUNDING,
    SAME_FUNCTION,
    Check,
    Match,
    Output,
    ulp,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


_MOST_SHOWN = 5


def _silent() -> None:
    """Report no progress."""


class Port(Struct, frozen=True):
    """A model folder in PyTorch."""

    model: Any
    random: list[str]  # tensors that transformers initialized randomly
    reference: Reference
    settings: Any  # of the reference

    def outputs(self, samples: Samples) -> "dict[str, Array]":
        """The outputs at the positions that are compared.

        Raises:
            VerificationError: the model does not run.
        """
        import torch

        with torch.no_grad():
            outputs, _ = torch_model.forward(self.model, self.reference, samples)
        return at_rows(outputs, self.reference.by_position(self.settings), samples)


def run_in_float64(
    port: Port,
    original: Original,
    parameters: Mapping[str, Match] | None,
    running: Callable[[], None] = _silent,
) -> "tuple[dict[str, Errors], list[Trained], dict[str, Array]]":
    """Compare embeddings, every layer, the pooled output and the logits of every head.

    What has a value for each position is compared at `rows` of the samples.

    Args:
        port: the folder, in float64.
        original: what it is compared with.
        parameters: by name, to compute the gradients of, too; None for no gradients.
        running: called for each batch.

    Returns:
        The errors in float64 by output, in the order of the forward pass; loss and gradients of
        each batch; and the outputs of the last batch, which has padding.

    Raises:
        VerificationError: the model does not run.
    """
    tables: dict[str, Errors] = {}
    trained = []
    outputs: dict[str, Array] = {}
    for batch in original.batches:
        running()
        if parameters is None:
            outputs = port.outputs(batch.samples)
        else:
            found = train(port.model, port.reference, port.settings, batch, parameters)
            trained.append(found)
            outputs = found.outputs
        for name in dict.fromkeys([*max(batch.outputs, outputs, key=len), *batch.outputs]):
            arrays = [_array(side, name) for side in (batch.outputs, outputs)]
            errors = tables.get(name) or Errors(tensorflow=original.errors.get(name, 0.0))
            tables[name] = errors.with_float64(*arrays)
    return tables, trained, outputs


def judge_float32(
    original: Original,
    single: "list[dict[str, Array]]",
    tables: "Mapping[str, Errors]",
    products: Mapping[str, Product],
) -> list[Output]:
    """Compare the same in float32, and judge all of it.

    Args:
        original: what is compared with.
        single: what PyTorch computed in float32 of each batch.
        tables: the errors in float64.
        products: the outputs that are one product.
    """
    tables = dict(tables)
    bounds = dict.fromkeys(products, 0.0)
    for batch, outputs in zip(original.batches, single, strict=True):
        for name, errors in tables.items():
            arrays = [_array(side, name) for side in (batch.outputs, outputs)]
            tables[name] = errors.with_float32(*arrays)
        for name, product in products.items():
            x = [_array(side, product.source) for side in (batch.outputs, outputs)]
            if x[0].shape == x[1].shape and x[0].shape[-1] == len(product.matrix):
                if product.first:
                    x = [array[first_tokens(batch.samples)] for array in x]
                bounds[name] = max(bounds[name], product_bound(product, *x))
    return judged(tables, bounds)


def _array(side: "Mapping[str, Array]", name: str) -> "Array":
    """An output; empty if the side has none of that name, such as that of a layer too many."""
    import numpy as np

    return side[name] if name in side else np.zeros(0)


class FolderVariables(Mapping[str, "Array"]):
    """The tensors of a folder as the variables that they come from, by the original names."""

    def __init__(self, folder: ModelFolder, matches: list[Match]) -> None:
        self._tensors = folder.tensors
        self._matches = {match.name: match for match in matches}

    def __getitem__(self, name: str) -> "Array":
        match = self._matches[name]
        return to_tensorflow(self._tensors[match.tensor], match.op)

    def __iter__(self) -> Iterator[str]:
        return iter(self._matches)

    def __len__(self) -> int:
        return len(self._matches)


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

    def with_float64(self, original: "Array", ours: "Array") -> "Errors":
        """The errors with another batch, which both sides computed in float64."""
        import numpy as np

        finite = np.isfinite(original)
        return replace(
            self,
            scale=max(self.scale, float(np.abs(original[finite]).max(initial=0))),
            float64=max(self.float64, largest(original, ours)),
            nonfinite=self.nonfinite + int(original.size - np.count_nonzero(finite)),
        )

    def with_float32(self, original: "Array", ours: "Array") -> "Errors":
        """The errors with another batch, which PyTorch computed in float32."""
        return replace(self, pytorch=max(self.pytorch, largest(original, ours)))

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


def output_checks(outputs: list[Output]) -> list[Check]:
    """The checks of level outputs."""
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


def loading_check(port: Port) -> Check:
    """Whether the folder has every tensor of its class."""
    random = joined(port.random, _MOST_SHOWN)
    text = f"transformers initialized randomly: {random}" if random else "every tensor was found"
    return Check("outputs", "loading", not port.random, text)
