"""The ops that turn a TensorFlow variable into a PyTorch tensor, each with its inverse.

An op returns a view and moves no data, so writing the view is the only copy.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Transform(Struct, frozen=True):
    """An op of the mapping files."""

    apply: "Callable[[Array], Array]"
    inverse: str  # the op that undoes it
    shape: "Callable[[tuple[Any, ...]], tuple[Any, ...]]"  # of sizes, or of their symbols
    ranks: range  # the numbers of dimensions that it takes


def merge(shape: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """A shape with some dimensions taken as one.

    Args:
        shape: the dimensions.
        counts: how many of them each dimension of the result is made of.
    """
    left = iter(shape)
    return tuple(math.prod(islice(left, count)) for count in counts)


def to_tensorflow(tensor: "Array", op: str) -> "Array":
    """A tensor as the variable that it comes from; dimensions that were merged stay so."""
    return TRANSFORMS[TRANSFORMS[op].inverse].apply(tensor)


def merged_shape(op: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a variable before its op, with merged dimensions as one, from the tensor's."""
    return TRANSFORMS[TRANSFORMS[op].inverse].shape(shape)


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
