"""A checkpoint as a mapping of names to arrays."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from ..choices import Step
from ..errors import CheckpointError
from ..storage.files import File, Progress
from ..storage.location import parse_location
from .bundle import Bundle
from .locate import Content, locate
from .object_graph import LARGEST_GRAPH, OBJECT_GRAPH, full_names, name_in_key
from .protos import Malformed
from .slices import check_tiling, fill, in_order, place_strings, whole
from .v1 import SavedTensorSlices
from .variable import Variable

if TYPE_CHECKING:
    import numpy as np
    from _typeshed import WriteableBuffer as Buffer

    from .protocols import Part, Storage

__all__ = ["Checkpoint", "File", "Progress", "Variable", "open_checkpoint"]

_SCRATCH_BYTES = 1 << 20


def open_checkpoint(
    path: "str | os.PathLike[str]",
    *,
    verify_checksums: bool = True,
    progress: Progress | None = None,
    expected: Sequence[str] = (),
    step: Step | None = None,
) -> "Checkpoint":
    """Open a TensorFlow checkpoint; only its index is read.

    Args:
        path: a folder, a prefix (`.../model.ckpt`), any file of the checkpoint, a Keras `.h5`, a
            `.zip` or `.tar.gz` of it, or the URL of any of these.
        verify_checksums: whether the crc32c of each tensor is checked when it is read. Those of
            the index, and of a V1 file's blocks, always are.
        progress: told of the bytes that are downloaded, or unpacked from an archive.
        expected: names to ask for in a remote folder that lists none: of files, or of an index
            (`model.ckpt.index`), which stands for all files of its checkpoint.
        step: the training step to choose if there are several, or `latest`.

    Raises:
        CheckpointError: there is no checkpoint, there are several, or the index is damaged.
    """
    return Checkpoint(os.fsdecode(path), verify_checksums, progress, tuple(expected), step)


class Checkpoint(Mapping[str, "np.ndarray[Any, Any]"]):
    """A checkpoint's variables by name; a variable is read each time it is accessed.

    `checkpoint[name]` is an array with the variable's dtype and shape in TensorFlow; strings are
    bytes in an array of objects. It raises KeyError for an unknown name, and CheckpointError if the
    data is missing or damaged.

    Reading is safe in several threads. A checkpoint can be pickled, and is opened again when it is
    unpickled. As a context manager it closes its files at the end; otherwise they are closed
    together with the last reference to it.
    """

    def __init__(
        self,
        path: str,
        verify_checksums: bool,
        progress: Progress | None,
        expected: tuple[str, ...],
        step: Step | None,
    ) -> None:
        # The path is absolute, as it may be unpickled in another folder.
        location = str(parse_location(path).absolute())
        self._arguments = location, verify_checksums, None, expected, step
        self._located = locate(path, progress, expected, step)
        self._unnamed = ""
        self._storage: Storage | None = self._open_storage(verify_checksums, progress)
        self._format = self._opened.format
        self._variables = dict(self._opened.variables)
        self._add_full_names()

    def _open_storage(self, verify_checksums: bool, progress: Progress | None) -> "Storage":
        if self._located.is_h5:
            from .keras_h5 import KerasFile

            return KerasFile(self._located.index(), progress)
        if self._located.is_v1:
            return SavedTensorSlices(self._located.tables())
        return Bundle(self._located, verify_checksums)

    def _add_full_names(self) -> None:
        """Add the names in the keys and in the object graph of TF2, if the shard with it exists."""
        graph = self._variables.get(OBJECT_GRAPH)
        if graph is None or (graph.tf_dtype, graph.shape) != ("string", ()):
            return
        names = {key: name for key in self._variables if (name := name_in_key(key))}
        try:
            if graph.nbytes > LARGEST_GRAPH:
                raise Malformed(f"it has {graph.nbytes:,} bytes, more than {LARGEST_GRAPH:,}")
            parts = self._whole_parts(OBJECT_GRAPH)
            (text,) = parts[0].strings()
            names |= full_names(text, self._variables)
        except (CheckpointError, Malformed) as error:
            self._unnamed = (
                f"the object graph can't be read, so the variables' full names are unknown: {error}"
            )
        for key, name in names.items():
            self._variables[key] = replace(self._variables[key], full_name=name)

    @property
    def _opened(self) -> "Storage":
        if self._storage is None:
            raise ValueError("the checkpoint is closed")
        return self._storage

    def _parts(self, name: str) -> "Sequence[Part]":
        with self._damage_of(name):
            parts = self._opened.parts(name)
            if len(parts) != 1 or parts[0].box != whole(self._variables[name].shape):
                check_tiling([part.box for part in parts], self._variables[name].shape)
        return parts

    def _whole_parts(self, name: str) -> "Sequence[Part]":
        """The parts of a variable, all of whose data is known to exist."""
        parts = self._parts(name)
        with self._damage_of(name):
            self._opened.check(name)
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
        """What a person should know of how it was found; usually empty."""
        return "; ".join(filter(None, [self._located.note, self._unnamed]))

    @property
    def unnamed(self) -> str:
        """Why variables of TF2 lack the full names that their program gave them; usually empty."""
        return self._unnamed

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
        """The description of each variable by name; no data is read."""
        return MappingProxyType(self._variables)

    @property
    def index(self) -> File:
        """The file that lists the variables."""
        return self._opened.index

    def data_files(self) -> list[File]:
        """The files with the data.

        Raises:
            CheckpointError: one is missing.
        """
        return [self._opened.shard(shard) for shard in range(self._opened.num_shards)]

    @property
    def is_h5(self) -> bool:
        """Whether it is a Keras HDF5 file, which TensorFlow's reader of checkpoints can't open."""
        return self._located.is_h5

    @property
    def is_of_saved_model(self) -> bool:
        """Whether it is the variables of a SavedModel, by the name of its folder."""
        return self._located.is_of_saved_model

    def companion(
        self, name: str, pattern: str, content: Content | None = None, above: bool = False
    ) -> File | None:
        """The file `name` next to the checkpoint, or the only one that matches `pattern`.

        Args:
            name: the usual name.
            pattern: a regular expression for the whole name.
            content: gives what a file that matches `pattern` says, or None if it is no file of
                this kind; of several that say the same, the first is taken.
            above: whether to look one folder up instead, and for a SavedModel in its assets.
                There, `content` must tell of the file `name`, too.

        Raises:
            CheckpointError: several files match, and none is called `name`.
        """
        return self._located.companion(name, pattern, content, above)

    def companions(self, pattern: str) -> list[File]:
        """The files next to the checkpoint whose whole name matches a regular expression."""
        return self._located.companions(pattern)

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The ranges of bytes (start, end) of variables, by their data files.

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
        """Announce the variables to be read: those of a remote checkpoint are downloaded.

        Args:
            names: the variables.
            progress: told of the bytes that are downloaded.

        Raises:
            CheckpointError: they can't be downloaded.
        """
        for file, ranges in self.spans(names).items():
            file.fetch(ranges, progress)

    def position(self, name: str) -> tuple[int, int]:
        """Data file and byte of a variable's start: the order in which reading is cheap."""
        return self._parts(name)[0].position

    def checksum(self, name: str) -> int | None:
        """The crc32c of a variable's stored bytes, from the index.

        It is None for a partitioned variable, whose slices have one each, and in V1.
        """
        parts = self._parts(name)
        return parts[0].checksum if len(parts) == 1 else None

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        """Yield a variable's bytes (little-endian, row-major) piece by piece in `buffer`.

        A wrong checksum is found after the last piece, so the caller must be able to discard all.

        Args:
            name: the variable, of numbers.
            buffer: writable bytes, as many as whole rows or whole elements have.

        Raises:
            CheckpointError: the data is missing, cut off or damaged, or the variable has strings.
            ValueError: the buffer's size is not a multiple of an element's.
        """
        variable = self._variables[name]
        _refuse_strings(variable)
        if variable.nbytes and (not buffer or len(buffer) % variable.dtype.itemsize):
            raise ValueError(f"{len(buffer):,} bytes are not whole elements of {name}")
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

    def strips(
        self, name: str, row_bytes: int, start: int, stop: int, buffer: memoryview
    ) -> Iterator[memoryview] | None:
        """Yield the bytes from `start` to `stop` of each row, piece by piece in `buffer`.

        Checksums are not compared: `stream` does that. None if the variable is not stored in one
        piece, as it is.

        Args:
            name: the variable, of numbers.
            row_bytes: the size of a row.
            start: the first byte of a row that is wanted.
            stop: the byte after the last.
            buffer: writable bytes, as many as whole strips have.

        Raises:
            CheckpointError: the data is missing or cut off.
        """
        parts = self._whole_parts(name)
        place = parts[0].place if len(parts) == 1 else None
        if place is None:
            return None
        file, offset = place
        nbytes = self._variables[name].nbytes
        return file.strips(offset, nbytes, row_bytes, start, stop, buffer)

    def __getitem__(self, name: str) -> "np.ndarray[Any, Any]":
        import numpy as np

        variable = self._variables[name]
        dtype = variable.dtype
        # The data is checked before memory is allocated, as the index may claim any shape.
        parts = self._whole_parts(name)
        is_text = variable.tf_dtype == "string"
        strings = [part.strings() for part in parts] if is_text else []
        try:
            if len(parts) == 1 and not is_text and (memory := parts[0].owned()) is not None:
                return np.frombuffer(memory, dtype).reshape(variable.shape)
            array = np.empty(variable.shape, dtype)
        except ValueError as error:
            raise CheckpointError(f"numpy can't hold {name}: {error}") from error
        for part, texts in zip(parts, strings, strict=is_text):
            place_strings(array, part.box, texts)
        if not is_text:
            self._fill(array, parts)
        return array

    def read_into(self, name: str, buffer: "Buffer") -> None:
        """Fill a buffer of the variable's `nbytes` with its data in row-major order.

        Args:
            name: the variable, of numbers.
            buffer: a writable, contiguous memoryview, bytearray, array or the like.

        Raises:
            CheckpointError: the data is missing, cut off or damaged, or the variable has strings.
            ValueError: the buffer has another size, is read-only or not contiguous.
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
            raise ValueError(f"{name} needs a writable, contiguous buffer")
        array = np.frombuffer(view.cast("B"), np.uint8).view(variable.dtype)
        try:
            array = array.reshape(variable.shape)
        except ValueError as error:
            raise CheckpointError(f"numpy can't hold {name}: {error}") from error
        self._fill(array, parts)

    def _fill(self, array: "np.ndarray[Any, Any]", parts: "Sequence[Part]") -> None:
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
        raise CheckpointError(f"{variable.name} is a string tensor, not an array of numbers")
