"""A checkpoint as a mapping of names to arrays."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from ..errors import CheckpointError
from ..storage.files import File, Progress
from ..storage.location import parse_location
from .bundle import Bundle
from .locate import locate
from .object_graph import OBJECT_GRAPH, full_names
from .protos import Malformed
from .slices import Part, check_tiling, fill, in_order, place_strings, whole
from .v1 import SavedTensorSlices
from .variable import Variable

if TYPE_CHECKING:
    import numpy as np
    from _typeshed import WriteableBuffer as Buffer

__all__ = ["Checkpoint", "File", "Progress", "Variable", "open_checkpoint"]

_SCRATCH_BYTES = 1 << 20


def open_checkpoint(
    path: "str | os.PathLike[str]",
    *,
    verify_checksums: bool = True,
    progress: Progress | None = None,
    expected: Sequence[str] = (),
) -> "Checkpoint":
    """Open a TensorFlow checkpoint; only its index is read.

    Args:
        path: a folder, a prefix (`.../model.ckpt`), any file of the checkpoint, a `.zip` or
            `.tar.gz` of it, or the URL of any of these.
        verify_checksums: whether the crc32c of each tensor is checked when it is read. Those of
            the index, and of a V1 file's blocks, always are.
        progress: told of the bytes that are downloaded, or unpacked from an archive.
        expected: names to ask for in a remote folder that lists none: of files, or of an index
            (`model.ckpt.index`), which stands for all files of its checkpoint.

    Raises:
        CheckpointError: there is no checkpoint, there are several, or the index is damaged.
    """
    return Checkpoint(os.fsdecode(path), verify_checksums, progress, tuple(expected))


class Checkpoint(Mapping[str, "np.ndarray[Any, Any]"]):
    """A checkpoint's variables by name, each read anew whenever it is asked for.

    `checkpoint[name]` is an array of the variable's dtype and shape, as TensorFlow holds it;
    strings are bytes in an array of objects. It raises KeyError for a name that is not there, and
    CheckpointError where the data is missing or damaged.

    Reading is safe in several threads. A checkpoint can be pickled, and is opened again where it is
    unpickled. As a context manager it closes its files at the end; without, they are closed with
    the last reference to it.
    """

    def __init__(
        self,
        path: str,
        verify_checksums: bool,
        progress: Progress | None,
        expected: tuple[str, ...],
    ) -> None:
        # The path is absolute, as it may be unpickled in another folder.
        location = str(parse_location(path).absolute())
        self._arguments = location, verify_checksums, None, expected
        self._located = locate(path, progress, expected)
        self._storage: Bundle | SavedTensorSlices | None = (
            SavedTensorSlices(self._located.tables())
            if self._located.is_v1
            else Bundle(self._located, verify_checksums)
        )
        self._format = self._opened.format
        self._variables = dict(self._opened.variables)
        self._add_full_names()

    def _add_full_names(self) -> None:
        """What the object graph of TF2 says; it is in a shard, which may not be there."""
        graph = self._variables.get(OBJECT_GRAPH)
        if graph is None or (graph.tf_dtype, graph.shape) != ("string", ()):
            return
        try:
            parts = self._whole_parts(OBJECT_GRAPH)
        except CheckpointError:
            return  # an index without its data can still be listed
        (text,) = parts[0].strings()
        for key, full_name in full_names(self._opened.index.name, text):
            if key in self._variables:
                self._variables[key] = replace(self._variables[key], full_name=full_name)

    @property
    def _opened(self) -> "Bundle | SavedTensorSlices":
        if self._storage is None:
            raise ValueError("the checkpoint is closed")
        return self._storage

    def _parts(self, name: str) -> Sequence[Part]:
        with self._damage_of(name):
            parts: Sequence[Part] = self._opened.parts(name)
            if len(parts) != 1 or parts[0].box != whole(self._variables[name].shape):
                check_tiling([part.box for part in parts], self._variables[name].shape)
        return parts

    def _whole_parts(self, name: str) -> Sequence[Part]:
        """The parts of a variable whose data is known to be there, all of it."""
        parts = self._parts(name)
        with self._damage_of(name):
            self._opened.check(name, parts)
        return parts

    @contextmanager
    def _damage_of(self, name: str) -> Iterator[None]:
        try:
            yield
        except Malformed as error:
            raise CheckpointError(
                f"{self._opened.index.name} is damaged: {name}: {error}. Download or copy it again."
            ) from error

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
        return self._format

    @property
    def num_shards(self) -> int:
        """The number of data files."""
        return self._opened.num_shards

    @property
    def variables(self) -> Mapping[str, Variable]:
        """Name -> dtype, shape and nbytes; no data is read for it."""
        return MappingProxyType(self._variables)

    @property
    def index(self) -> File:
        """The file that lists the variables."""
        return self._opened.index

    def data_files(self) -> list[File]:
        """The files that hold the data.

        Raises:
            CheckpointError: one is missing.
        """
        return [self._opened.shard(shard) for shard in range(self._opened.num_shards)]

    def companion(self, name: str, pattern: str) -> File | None:
        """The file `name` beside the checkpoint, else the only one that matches `pattern`.

        Raises:
            CheckpointError: there are several, and none has the name itself.
        """
        return self._located.companion(name, pattern)

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The ranges of bytes (start, end) that variables lie in, by their data files.

        Raises:
            CheckpointError: a data file is missing, or the index is damaged.
        """
        found: dict[File, list[tuple[int, int]]] = {}
        for name in names:
            with self._damage_of(name):
                for file, ranges in self._opened.spans([name]).items():
                    found.setdefault(file, []).extend(ranges)
        return found

    def fetch(self, names: Iterable[str], progress: Progress | None = None) -> None:
        """Say which variables will be read: from afar they come all at once, and no others.

        Raises:
            CheckpointError: they can't be had.
        """
        for file, ranges in self.spans(names).items():
            file.fetch(ranges, progress)

    def position(self, name: str) -> tuple[int, int]:
        """Shard and byte offset of a variable: the order in which reading is cheap."""
        return self._parts(name)[0].position

    def checksum(self, name: str) -> int | None:
        """The crc32c of a variable's stored bytes, as the index has it.

        None where the checkpoint has none of the whole: of a partitioned variable, and in V1.
        """
        parts = self._parts(name)
        return parts[0].checksum if len(parts) == 1 else None

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        """Yield a variable's bytes (little-endian, row-major) piece by piece in `buffer`.

        A wrong checksum is raised after the last piece: what was done with the pieces before must
        then be thrown away.

        Args:
            name: the variable, of numbers.
            buffer: writable bytes, whole rows of the variable or whole elements.

        Raises:
            CheckpointError: the data is missing, cut off or damaged, or no numbers.
            ValueError: the buffer holds no whole number of elements.
        """
        variable = self._variables[name]
        _refuse_strings(variable)
        if variable.nbytes and (not buffer or len(buffer) % variable.dtype.itemsize):
            raise ValueError(f"{len(buffer):,} bytes hold no whole elements of {name}")
        parts = sorted(self._whole_parts(name), key=lambda part: part.box)
        if in_order([part.box for part in parts], variable.shape):
            for part in parts:
                yield from part.stream(buffer)
            return
        data = self[name].reshape(-1).view("u1").data
        for start in range(0, len(data), len(buffer)):
            piece = buffer[: min(len(buffer), len(data) - start)]
            piece[:] = data[start : start + len(piece)]
            yield piece

    def __getitem__(self, name: str) -> "np.ndarray[Any, Any]":
        import numpy as np

        variable = self._variables[name]
        dtype = variable.dtype
        # Memory is asked for when the data is known to be there: the index may say anything.
        parts = self._whole_parts(name)
        is_text = variable.tf_dtype == "string"
        strings = [part.strings() for part in parts] if is_text else []
        try:
            array = np.empty(variable.shape, dtype)
        except ValueError as error:
            raise CheckpointError(f"{name} is nothing that numpy can hold: {error}") from error
        for part, texts in zip(parts, strings, strict=is_text):
            place_strings(array, part.box, texts)
        if not is_text:
            self._fill(array, parts)
        return array

    def read_into(self, name: str, buffer: "Buffer") -> None:
        """Fill a buffer of the variable's `nbytes` with its data in row-major order.

        Args:
            name: the variable, of numbers.
            buffer: a writable memoryview, bytearray, array or the like, in one piece.

        Raises:
            CheckpointError: the data is missing, cut off or damaged, or no numbers.
            ValueError: the buffer has another size, can't be written to, or has gaps.
        """
        import numpy as np

        variable = self._variables[name]
        _refuse_strings(variable)
        view = memoryview(buffer)
        if view.nbytes != variable.nbytes:
            raise ValueError(f"{name} has {variable.nbytes:,} bytes, not {view.nbytes:,}")
        parts = self._whole_parts(name)
        if not view.nbytes:
            return
        if view.readonly or not view.c_contiguous:
            raise ValueError(f"{name} needs a buffer that can be written to, in one piece")
        array = np.frombuffer(view.cast("B"), np.uint8).view(variable.dtype)
        try:
            array = array.reshape(variable.shape)
        except ValueError as error:
            raise CheckpointError(f"{name} is nothing that numpy can hold: {error}") from error
        self._fill(array, parts)

    def _fill(self, array: "np.ndarray[Any, Any]", parts: Sequence[Part]) -> None:
        scratch = memoryview(bytearray(_SCRATCH_BYTES if len(parts) > 1 else 0))
        for part in parts:
            fill(array, part, scratch)

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name}: {len(self)} variables, {self._format}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._storage = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Checkpoint, self._arguments


def _refuse_strings(variable: Variable) -> None:
    if variable.tf_dtype == "string":
        raise CheckpointError(
            f"{variable.name} is a string tensor; its bytes are no array of numbers"
        )
