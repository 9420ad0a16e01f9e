"""What a checkpoint format provides to the reader."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from ..storage.files import File
from .protos import Box
from .variable import Variable


class Part(Protocol):
    """A variable, or a slice of it, that can be read."""

    @property
    def variable(self) -> Variable: ...

    @property
    def box(self) -> Box:
        """The place of the slice in the variable."""

    @property
    def position(self) -> tuple[int, int]:
        """File and byte of its start: the order in which reading is cheap."""

    @property
    def place(self) -> tuple[File, int] | None:
        """Its file and first byte there; None if it is not stored as `stream` gives it."""

    @property
    def checksum(self) -> int | None:
        """The crc32c of its stored bytes; None if the format has none."""

    def stream(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield its bytes (little-endian, row-major) piece by piece in `buffer`.

        A wrong checksum is found after the last piece, so the caller must be able to discard all.

        Args:
            buffer: writable bytes, a multiple of 16.

        Raises:
            CheckpointError: the data is missing or damaged.
        """

    def owned(self) -> memoryview | None:
        """All its bytes (little-endian, row-major) in writable memory that nothing else uses.

        None if reading them does not give such memory anyway.

        Raises:
            CheckpointError: as `stream`.
        """

    def strings(self) -> list[bytes]:
        """The elements of a string tensor in row-major order.

        Raises:
            CheckpointError: the data is missing or damaged.
        """


class Storage(Protocol):
    """The variables of one checkpoint, in one of TensorFlow's formats."""

    @property
    def format(self) -> str:
        """TensorFlow's name of the format."""

    @property
    def variables(self) -> Mapping[str, Variable]: ...

    @property
    def index(self) -> File:
        """The file that lists the variables."""

    @property
    def num_shards(self) -> int:
        """The number of data files."""

    def shard(self, shard: int) -> File:
        """A data file, opened at its first use.

        Raises:
            CheckpointError: it is missing.
        """

    def parts(self, name: str) -> Sequence[Part]:
        """The slices of a variable; a single one if it is not partitioned.

        Raises:
            Malformed: the slices do not fit the variable.
        """

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The ranges of bytes (start, end) of variables, by their data files.

        Raises:
            CheckpointError: a data file is missing.
            Malformed: the slices do not fit their variable.
        """

    def check(self, name: str) -> None:
        """Check that a variable's data exists before memory is allocated for it.

        Raises:
            CheckpointError: a data file is missing, cut off or damaged.
            Malformed: a little data stands for a large variable.
        """
