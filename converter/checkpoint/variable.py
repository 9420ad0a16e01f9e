"""The description of a variable, without its data."""

import math
import operator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .dtypes import DTYPES, numpy_dtype
from .protos import Malformed

if TYPE_CHECKING:
    import numpy as np


class Variable(Struct, frozen=True, gc=False):
    """A variable of a checkpoint."""

    name: str
    tf_dtype: str  # TensorFlow's name, such as float32 or string
    shape: tuple[int, ...]  # in TensorFlow
    nbytes: int  # of its data; of strings, as they are stored
    full_name: str = ""  # the name that the program gave a TF2 object's variable

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The numpy dtype of its values.

        Raises:
            CheckpointError: neither numpy nor ml_dtypes has one.
        """
        return numpy_dtype(self.tf_dtype)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def describe(raw_name: bytes, dtype: int, shape: tuple[int, ...], stored: int) -> Variable:
    """The variable with a name, a dtype and a shape.

    Args:
        raw_name: the name; bytes that are not UTF-8 are escaped.
        dtype: a number of types.proto.
        shape: the shape.
        stored: the size of its data in bytes, used if dtype and shape do not tell it.

    Raises:
        Malformed: it has more bytes than 64 bits can count.
    """
    name = raw_name.decode("utf-8", "backslashreplace")
    tf_dtype, itemsize = DTYPES.get(dtype, (f"dtype {dtype}", 0))
    size = math.prod(shape)
    nbytes = size * itemsize if itemsize else stored
    # TensorFlow multiplies from the left, and ends the process if a product is too large, even if
    # a zero follows.
    largest = size or max(accumulate(shape, operator.mul, initial=1))
    if max(largest, nbytes) >= 1 << 63:
        raise Malformed(f"{name} has more bytes than 64 bits can count")
    return Variable(name, tf_dtype, shape, nbytes)
