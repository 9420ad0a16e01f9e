"""How far two arrays are apart, and two gradients of which only a sketch is kept.

A gradient of n numbers is flattened row by row, filled up with zeros, and cut into rows of 1,024:
G. With two seeded vectors, u of as many numbers as G has rows and v of 1,024, u G v is the dot
product of the gradient with the vector that u and v span. If another gradient differs from it by D,
the products differ by u D v, which is small only if D is: with numbers from -1 to 1 in u and v, its
expected square is a ninth of the square of D's norm.
"""

import math
import zlib
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PRODUCTS = 8
"""The number of dot products."""

_WIDTH = 1024
_LEAST = 3.0  # 1 / sqrt(1/9), see above


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


class Sketch(Struct, frozen=True):
    """What is left of a gradient."""

    norm: float  # Euclidean, of the finite numbers
    products: tuple[float, ...]  # with seeded vectors, of the finite numbers
    places: float  # one product of the mask of NaN and infinity; 0 if there is none


def sketch(name: str, gradient: "Array") -> Sketch:
    """The norm and the dot products of a gradient.

    Args:
        name: the variable's original name, which seeds the vectors.
        gradient: float64, in TensorFlow's layout; dimensions may be merged.
    """
    import numpy as np

    flat = np.ascontiguousarray(gradient).reshape(-1)
    square, places = float(flat @ flat), 0.0
    if not math.isfinite(square):
        finite = np.isfinite(flat)
        places = _products(name, (~finite).astype(np.float64), 1)[0]
        flat = np.where(finite, flat, 0.0)
        square = float(flat @ flat)
    return Sketch(math.sqrt(square), _products(name, flat, PRODUCTS), places)


def distance(one: Sketch, other: Sketch) -> float:
    """About the norm of the difference of two gradients; infinite if NaNs are at other places.

    It is a third to three times that norm, and in one case of a million less than a tenth.
    """
    if not math.isclose(one.places, other.places, rel_tol=1e-9):
        return math.inf
    pairs = zip(one.products, other.products, strict=True)
    return _LEAST * max(abs(first - second) for first, second in pairs)


def _products(name: str, flat: "Array", count: int) -> tuple[float, ...]:
    import numpy as np

    whole = len(flat) // _WIDTH
    rest = flat[whole * _WIDTH :]
    matrix = flat[: whole * _WIDTH].reshape(whole, _WIDTH)
    # The raw bits are the same in all versions of NumPy, its distributions may not be.
    bits = np.random.PCG64(zlib.crc32(name.encode()))
    right = _uniform(bits, (_WIDTH, count))
    left = _uniform(bits, (whole + 1, count))
    products = np.einsum("rk,rk->k", left[:whole], matrix @ right)
    products += left[whole] * (rest @ right[: len(rest)])
    return tuple(map(float, products))


def _uniform(bits: "np.random.PCG64", shape: tuple[int, int]) -> "Array":
    """Numbers from -1 to 1."""
    import numpy as np

    raw = np.asarray(bits.random_raw(math.prod(shape)), np.uint64)
    return ((raw >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)
