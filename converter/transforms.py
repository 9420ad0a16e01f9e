"""The ops that turn a TensorFlow variable into a PyTorch tensor, each with its inverse.

An op returns a view and moves no data, so writing the view is the only copy.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Transform(Struct, frozen=True):
    """An op of the mapping files."""

    apply: "Callable[[Array], Array]"
    inverse: str  # the op that undoes it
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    ranks: range  # the numbers of dimensions that it takes


TRANSFORMS = {
    "identity": Transform(
        apply=lambda array: array,
        inverse="identity",
        shape=lambda shape: shape,
        ranks=range(33),
    ),
    # TensorFlow's dense kernels are [in, out], torch.nn.Linear's weights [out, in].
    "transpose": Transform(
        apply=lambda array: array.T,
        inverse="transpose",
        shape=lambda shape: shape[::-1],
        ranks=range(2, 3),
    ),
}
