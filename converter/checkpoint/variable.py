"""What a checkpoint says of a variable before any of its data is read."""

import math
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .dtypes import DTYPES, numpy_dtype
from .protos import Malformed

if TYPE_CHECKING:
    import numpy as np


class Variable(Struct, frozen=True, gc=False):
    """A variable of a checkpoint."""

    name: str
    tf_dtype: str  # TensorFlow's name of it, such as float32 or string
    shape: tuple[int, ...]  # as TensorFlow holds it
    nbytes: int  # of its data; what strings take is known when they are read
    full_name: str = ""  # of a TF2 object's variable: the name that its program gave it

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The numpy dtype that holds it.

        Raises:
            CheckpointError: neither numpy nor ml_dtypes has one.
        """
        return numpy_dtype(self.tf_dtype)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def describe(raw_name: bytes, dtype: int, shape: tuple[int, ...], stored: int) -> Variable:
    """The variable of a name, a number of types.proto, and a shape.

    Args:
        stored: the bytes that its data takes, where they do not follow from dtype and shape.

    Raises:
        Malformed: it has more bytes than 64 bits can count.
    """
    name = raw_name.decode("utf-8", "backslashreplace")
    tf_dtype, itemsize = DTYPES.get(dtype, (f"dtype {dtype}", 0))
    size = math.prod(shape)
    nbytes = size * itemsize if itemsize else stored
    if max(size, nbytes) >= 1 << 63:
        raise Malformed(f"{name} has more bytes than 64 bits can count")
    return Variable(name, tf_dtype, shape, nbytes)
