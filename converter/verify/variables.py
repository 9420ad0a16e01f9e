"""What tensors are compared with: the variables of a checkpoint, or what is known without them."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from ..checkpoint.dtypes import numpy_dtype
from ..checkpoint.variable import Variable
from ..plan import Entry
from ..prepare import Prepared, SourceFile, data_files
from ..storage.files import Progress
from ..transforms import merged_shape, to_tensorflow

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Comparison(Struct, frozen=True):
    """What a comparison of a tensor with its variable gave."""

    same: bool  # bit for bit, if the variable is cast to the tensor's dtype
    nonfinite: int  # elements of the variable that are NaN or infinite


class Variables(Protocol):
    """The variables of a checkpoint, as a proof needs them."""

    @property
    def name(self) -> str:
        """What the checkpoint is called."""

    @property
    def described(self) -> Mapping[str, Variable]:
        """The description of each variable by name."""

    @property
    def files(self) -> list[SourceFile]:
        """The index and the data files."""

    def fetch(self, names: Iterable[str], progress: Progress | None) -> None:
        """Announce the variables to be compared."""

    def checksum(self, name: str) -> int | None:
        """The crc32c of a variable; None if nothing tells it."""

    def compare(self, entry: Entry, tensor: "Array") -> Comparison:
        """Compare a tensor, carried back, with its variable."""

    def digest(self, name: str, dtype: str) -> str | None:
        """The sha256 of a variable's bytes in a dtype; None if nothing tells it."""

    def read(self, name: str) -> "Array | None":
        """A variable; None if it is not at hand."""


class CheckpointVariables:
    """The variables of a checkpoint that is open."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._checkpoint = prepared.checkpoint

    @property
    def name(self) -> str:
        return self._checkpoint.name

    @property
    def described(self) -> Mapping[str, Variable]:
        return self._checkpoint.variables

    @property
    def files(self) -> list[SourceFile]:
        index = [source for source in self._prepared.sources if source.role == "index"]
        return [*index, *data_files(self._checkpoint)]

    def fetch(self, names: Iterable[str], progress: Progress | None) -> None:
        self._checkpoint.fetch(names, progress)

    def checksum(self, name: str) -> int | None:
        return self._checkpoint.checksum(name)

    def compare(self, entry: Entry, tensor: "Array") -> Comparison:
        import numpy as np

        variable = self._checkpoint[entry.variable]
        variable = variable.reshape(merged_shape(entry.op, entry.shape))
        return Comparison(
            same_bits(tensor, variable, entry.op),
            int(variable.size - np.count_nonzero(np.isfinite(variable))),
        )

    def digest(self, name: str, dtype: str) -> str | None:
        return sha256(cast(self._checkpoint[name], dtype))

    def read(self, name: str) -> "Array | None":
        return self._checkpoint[name]


def same_bits(tensor: "Array", variable: "Array", op: str) -> bool:
    """Whether a tensor, carried back through `op`, is a variable (or its cast) bit for bit.

    NaNs are compared by their bits too.
    """
    import numpy as np

    back = to_tensorflow(tensor, op)
    if back.shape != variable.shape:
        return False
    if back.dtype != variable.dtype:
        with np.errstate(all="ignore"):  # an overflow shows in the comparison
            variable = variable.astype(back.dtype)
    bits = f"u{back.dtype.itemsize}"
    return bool(np.array_equal(back.view(bits), variable.view(bits)))


def cast(array: "Array", dtype: str) -> "Array":
    """An array in another dtype, which may be `bfloat16`."""
    import numpy as np

    with np.errstate(all="ignore"):
        return array.astype(numpy_dtype(dtype), copy=False)


def sha256(array: "Array") -> str:
    """The sha256 of an array's bytes: little-endian, row-major."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()
