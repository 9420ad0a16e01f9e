"""What a checkpoint says of a variable before any of its data is read."""

import math
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .dtypes import numpy_dtype

if TYPE_CHECKING:
    import numpy as np


class Variable(Struct, frozen=True):
    """A variable of a checkpoint."""

    name: str
    tf_dtype: str  # TensorFlow's name of it, such as float32 or string
    shape: tuple[int, ...]  # as TensorFlow holds it
    nbytes: int  # of its data

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
