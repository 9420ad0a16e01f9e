"""Arrays of any bits, and a source that has them in memory."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from bertconvert.converter.checkpoint import Variable
from bertconvert.converter.models.reference import Samples

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def everywhere(*inputs: Array) -> Samples:
    """Sequences that are compared at all positions, padded ones too: their recordings are."""
    places = np.arange(inputs[0].size)
    return Samples(*inputs, rows=places, masked=places)


class Memory:
    """A `Source` of arrays that are in memory."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self.variables = {
            name: Variable(name, array.dtype.name, array.shape, array.nbytes)
            for name, array in arrays.items()
        }

    def fetch(self, names: Iterable[str], progress: object = None) -> None:
        assert set(names) == set(self._arrays)

    def position(self, name: str) -> tuple[int, int]:
        return 0, list(self._arrays).index(name)

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        data = self._arrays[name].reshape(-1).view(np.uint8).data
        for start in range(0, len(data), len(buffer)):
            part = data[start : start + len(buffer)]
            buffer[: len(part)] = part
            yield buffer[: len(part)]
        buffer[:] = bytes(len(buffer))  # whoever still looks into it sees it

    def strips(
        self, name: str, row_bytes: int, start: int, stop: int, buffer: memoryview
    ) -> Iterator[memoryview] | None:
        if self._arrays[name].shape[0] % 2:  # as if it were in slices
            return None
        rows = self._arrays[name].reshape(-1).view(np.uint8).reshape(-1, row_bytes)
        step = len(buffer) // (stop - start)

        def read() -> Iterator[memoryview]:
            for row in range(0, len(rows), step):
                part = np.ascontiguousarray(rows[row : row + step, start:stop]).reshape(-1).data
                buffer[: len(part)] = part
                yield buffer[: len(part)]

        return read()


def any_bits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Numbers of any bit pattern: NaNs of every kind, infinities and subnormals among them."""
    size = int(np.prod(shape)) * DTYPES[dtype].itemsize
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return data.view(DTYPES[dtype]).reshape(shape)


def same_bits(a: Array, b: Array) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def as_tensors(variables: Mapping[str, Array], dtype: str) -> dict[str, Any]:
    """Arrays as TensorFlow's tensors of a dtype."""
    import tensorflow as tf

    return {name: tf.constant(array.astype(dtype)) for name, array in variables.items()}
