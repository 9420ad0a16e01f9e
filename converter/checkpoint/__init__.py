"""TensorFlow's storage -> named arrays. Knows nothing of BERT."""

import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .bundle import Bundle
from .files import File, Progress
from .locate import Located, locate
from .variable import Variable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Checkpoint", "File", "Progress", "Variable", "open_checkpoint"]


def open_checkpoint(
    path: "str | os.PathLike[str]",
    *,
    verify_checksums: bool = True,
    progress: Progress | None = None,
) -> "Checkpoint":
    """Open a TensorFlow checkpoint; only its index is read.

    Args:
        path: a folder, a prefix (`.../bert_model.ckpt`), any file of the set, a `.zip` or
            `.tar.gz` of it.
        verify_checksums: whether the crc32c of each tensor is checked when it is read. Those of
            the index always are.
        progress: told of the bytes that are unpacked from an archive.

    Raises:
        CheckpointError: there is no checkpoint, there are several, or the index is damaged.
    """
    located = locate(os.fsdecode(path), progress)
    return Checkpoint(located, Bundle(located, verify_checksums))


class Checkpoint(Mapping[str, "np.ndarray[Any, Any]"]):
    """A checkpoint's variables by name, each read anew whenever it is asked for.

    `checkpoint[name]` is an array of the variable's dtype and shape, as TensorFlow holds it. It
    raises KeyError for a name that is not there, and CheckpointError where the data is missing or
    damaged. Reading is safe in several threads.
    """

    def __init__(self, located: Located, bundle: Bundle) -> None:
        self._located = located
        self._bundle = bundle

    @property
    def name(self) -> str:
        """The path of the checkpoint's prefix, for messages."""
        return self._located.name

    @property
    def note(self) -> str:
        """What a person should know of how it was found; mostly empty."""
        return self._located.note

    @property
    def format(self) -> str:
        """TensorFlow's name of the format."""
        return self._bundle.format

    @property
    def num_shards(self) -> int:
        """The number of data files."""
        return self._bundle.num_shards

    @property
    def variables(self) -> Mapping[str, Variable]:
        """Name -> dtype, shape and nbytes; no data is read for it."""
        return MappingProxyType(self._bundle.variables)

    @property
    def index(self) -> File:
        """The file that lists the variables."""
        return self._bundle.index

    def data_files(self) -> list[File]:
        """The files that hold the data.

        Raises:
            CheckpointError: one is missing.
        """
        return [self._bundle.shard(shard) for shard in range(self._bundle.num_shards)]

    def companion(self, name: str, pattern: str) -> File | None:
        """The file `name` beside the checkpoint, else the only one that matches `pattern`.

        Raises:
            CheckpointError: there are several, and none has the name itself.
        """
        return self._located.companion(name, pattern)

    def position(self, name: str) -> tuple[int, int]:
        """Shard and byte offset of a variable: the order in which reading is cheap."""
        return self._bundle.position(name)

    def checksum(self, name: str) -> int:
        """The crc32c of a variable's stored bytes, as the index has it."""
        return self._bundle.checksum(name)

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        """Yield a variable's bytes (little-endian, row-major) piece by piece in `buffer`.

        A wrong checksum is raised after the last piece: what was done with the pieces before must
        then be thrown away.

        Args:
            name: the variable.
            buffer: writable bytes, a multiple of 16 long.

        Raises:
            CheckpointError: the data is missing, cut off or damaged.
        """
        return self._bundle.stream(name, buffer)

    def __getitem__(self, name: str) -> "np.ndarray[Any, Any]":
        import numpy as np

        variable = self._bundle.variables[name]
        dtype = variable.dtype
        if variable.size:
            self._bundle.source(name)  # before memory is asked for: the index may say anything
        try:
            array = np.empty(variable.shape, dtype)
        except ValueError as error:
            raise CheckpointError(f"{name} is nothing that numpy can hold: {error}") from error
        if array.nbytes:
            self.read_into(name, array.reshape(-1).view(np.uint8).data)
        return array

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Fill `buffer`, bytes of the variable's `nbytes`, with its data in row-major order.

        Raises:
            CheckpointError: the data is missing, cut off or damaged.
            ValueError: the buffer has another size.
        """
        if len(buffer) != self._bundle.variables[name].nbytes:
            raise ValueError(f"{name} has {self._bundle.variables[name].nbytes:,} bytes")
        for _ in self._bundle.stream(name, buffer):
            pass

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.variables)

    def __len__(self) -> int:
        return len(self._bundle.variables)

    def __contains__(self, name: object) -> bool:
        return name in self._bundle.variables

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name}: {len(self)} variables, {self.format}>"
