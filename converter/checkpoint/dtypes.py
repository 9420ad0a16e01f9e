"""TensorFlow's dtypes: numbers, names and sizes (tensorflow/core/framework/types.proto)."""

from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..text import pip_install

if TYPE_CHECKING:
    import numpy as np

# number -> (name, bytes per element). A dtype of 0 bytes can't be read as numbers.
DTYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 4),
    2: ("float64", 8),
    3: ("int32", 4),
    4: ("uint8", 1),
    5: ("int16", 2),
    6: ("int8", 1),
    7: ("string", 0),
    8: ("complex64", 8),
    9: ("int64", 8),
    10: ("bool", 1),
    11: ("qint8", 1),
    12: ("quint8", 1),
    13: ("qint32", 4),
    14: ("bfloat16", 2),
    15: ("qint16", 2),
    16: ("quint16", 2),
    17: ("uint16", 2),
    18: ("complex128", 16),
    19: ("float16", 2),
    20: ("resource", 0),
    21: ("variant", 0),
    22: ("uint32", 4),
    23: ("uint64", 8),
    24: ("float8_e5m2", 1),
    25: ("float8_e4m3fn", 1),
    26: ("float8_e4m3fnuz", 1),
    27: ("float8_e4m3b11fnuz", 1),
    28: ("float8_e5m2fnuz", 1),
    29: ("int4", 1),
    30: ("uint4", 1),
    31: ("int2", 1),
    32: ("uint2", 1),
    33: ("float4_e2m1fn", 1),
}

NUMBERS = {name: number for number, (name, itemsize) in DTYPES.items() if itemsize}
"""name -> number, of the dtypes that are numbers."""

_NUMPY = {
    "float32", "float64", "float16", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
}  # fmt: skip


def numpy_dtype(name: str) -> "np.dtype[Any]":
    """The numpy dtype of a TensorFlow dtype, from ml_dtypes if numpy has none.

    Raises:
        CheckpointError: neither has one, or ml_dtypes is not installed.
    """
    import numpy as np

    if name in _NUMPY:
        return np.dtype(name)
    if name == "string":
        return np.dtype(object)
    if name.startswith(("qint", "quint")):  # like TensorFlow's reader
        return np.dtype(name.removeprefix("q"))
    try:
        import ml_dtypes
    except ImportError as error:  # it has no package for musl
        raise CheckpointError(
            f"{name} needs ml-dtypes, which can't be imported ({error}). Install it:"
            f" {pip_install('bfloat16', 'ml-dtypes')}"
        ) from error
    held: type[np.generic] | None = getattr(ml_dtypes, name, None)
    if held is None:
        raise CheckpointError(f"numpy can't represent {name}")
    return np.dtype(held)
