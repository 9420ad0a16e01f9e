"""The weights that Keras saved in an HDF5 file, by the names that the program gave its variables.

Format: tf_keras/src/saving/legacy/hdf5_format.py. The root has the attribute `layer_names`, and
each layer a group with the attribute `weight_names`, below which the layer's variables are
datasets, with their names as paths. Layers that share a variable have a copy of it each. In a whole
model, all of this is in the group `model_weights`.

HDF5's own library tells where the bytes of a dataset are; they are read like those of any other
checkpoint. Of what HDF5 offers only this is accepted: hard links, no two to one object, and
datasets whose bytes are in this file, in one piece and as they are. Keras writes nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from ..errors import CheckpointError
from ..storage.files import File, Progress
from ..storage.mistaken import mistaken
from ..text import cut, pip_install
from .dtypes import NUMBERS
from .names import SAVE_AGAIN
from .protos import Box, Malformed
from .slices import whole
from .variable import Variable, describe

_MAGIC = b"\x89HDF\r\n\x1a\n"
# Attributes of a layer's group and of the group with all layers. Keras cuts a long list in pieces.
_OF_LAYER, _OF_ALL = (b"weight_names", b"weight_names0"), (b"layer_names", b"layer_names0")
_WHOLE_MODEL = b"model_weights/"
_NUMBERED = b"vars"  # the group with numbered variables, in the format of Keras 3
_MOST_LINKS, _MOST_PATH_BYTES = 100_000, 64 << 20  # BERT of 24 layers has 1,000, of 60 bytes each
_COMPARED_BYTES = 1 << 20

# What h5py and the library report of a file that is damaged, or that makes no sense.
_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError)


class KerasFile:
    """The variables of a Keras HDF5 file; data is read only when it is needed.

    A variable that several layers have keeps its name in the one with the most variables. A copy in
    another layer is called by that layer's group, too. `check` compares the data of copies.

    Args:
        file: the file.
        progress: told of the bytes that are downloaded.

    Raises:
        CheckpointError: h5py is not installed, or the file is damaged or not of this kind.
    """

    format = "Keras HDF5"
    num_shards = 1

    def __init__(self, file: File, progress: Progress | None = None) -> None:
        self.index = file
        self.variables: dict[str, Variable] = {}
        self._datasets: dict[str, _Dataset] = {}
        self._copies: dict[str, list[str]] = {}  # not yet compared, by the name of the first
        if file.read(0, min(file.size, len(_MAGIC))) != _MAGIC:
            raise CheckpointError(
                mistaken(file) or f"{file.name} is not an HDF5 file, in spite of its name."
            )
        h5py = _h5py(file)
        file.fetch([(0, file.size)], progress)  # the names are all over it
        try:
            with file.stream() as stream, h5py.File(stream, "r") as opened:
                self._add_all(h5py, opened.id)
        except (Malformed, *_ERRORS) as error:
            reason = str(error).strip("'\"")  # h5py's are those of a dict's missing key
            raise CheckpointError(
                f"{file.name} is damaged or is not a file that Keras wrote: {reason}. Download or"
                " copy it again."
            ) from error

    def _add_all(self, h5py: Any, root: Any) -> None:
        base = b"" if _has(h5py, root, _OF_ALL) else _WHOLE_MODEL
        if base and not _is_whole_model(h5py, root):
            raise CheckpointError(_not_of_keras(self.index, root))
        for dataset in _datasets(h5py, root, base):
            name = dataset.name
            if name in self._datasets:
                first, name = name, dataset.path
                self._copies.setdefault(first, []).append(name)
            if name in self._datasets:
                raise Malformed(f"two variables have the name {cut(name)}")
            self.variables[name] = dataset.variable(name)
            self._datasets[name] = dataset

    def shard(self, shard: int) -> File:
        """The file itself."""
        return self.index

    def parts(self, name: str) -> "list[Part]":
        """The variable, in one piece.

        Raises:
            CheckpointError: the file does not have its bytes as they are.
        """
        dataset = self._datasets[name]
        if dataset.problem:
            raise CheckpointError(f"{self.index.name}: {name} {dataset.problem}")
        return [Part(self.index, self.variables[name], dataset.offset)]

    def spans(self, names: Iterable[str]) -> dict[File, list[tuple[int, int]]]:
        """The ranges of bytes (start, end) of variables.

        Raises:
            CheckpointError: as `parts`.
        """
        parts = [part for name in names for part in self.parts(name)]
        return {self.index: [(part.offset, part.offset + part.variable.nbytes) for part in parts]}

    def check(self, name: str) -> None:
        """Check that the file has a variable's bytes, and the same bytes in each copy of it.

        Raises:
            CheckpointError: it is cut off, or a copy differs.
            Malformed: copies share bytes, so that comparing them would take any time.
        """
        (part,) = self.parts(name)
        self.index.check(part.offset, part.variable.nbytes)
        copies = self._copies.get(name, ())
        if part.variable.nbytes * (1 + len(copies)) > self.index.size:
            raise Malformed("its copies share bytes")
        for copy in copies:
            self._compare(part, self.parts(copy)[0])
        self._copies.pop(name, None)

    def _compare(self, part: "Part", copy: "Part") -> None:
        import numpy as np

        one, other = part.variable, copy.variable
        names = f"{self.index.name}: {one.name} and its copy {other.name}"
        reason = (
            "Keras saves a variable with each layer that uses it. So the file was changed, or two"
            " layers have variables of one name; nothing tells which is right"
        )
        if (one.tf_dtype, one.shape) != (other.tf_dtype, other.shape):
            raise CheckpointError(
                f"{names} are {one.tf_dtype} {list(one.shape)} and {other.tf_dtype}"
                f" {list(other.shape)}. {reason}"
            )
        self.index.check(copy.offset, other.nbytes)
        for start in range(0, one.nbytes, _COMPARED_BYTES):
            size = min(_COMPARED_BYTES, one.nbytes - start)
            mine, its = (self.index.read(p.offset + start, size) for p in (part, copy))
            if mine == its:
                continue
            differ = np.frombuffer(mine, np.uint8) != np.frombuffer(its, np.uint8)
            at = int(differ.argmax()) // one.dtype.itemsize
            values = (np.frombuffer(data, one.dtype)[at] for data in (mine, its))
            number = start // one.dtype.itemsize + at
            place = [int(index) for index in np.unravel_index(number, one.shape)]
            raise CheckpointError(
                f"{names} differ at {place}: {' and '.join(map(str, values))}. {reason}"
            )


class Part(Struct, frozen=True):
    """A variable's bytes in the file."""

    file: File
    variable: Variable
    offset: int

    @property
    def box(self) -> Box:
        """All of the variable."""
        return whole(self.variable.shape)

    @property
    def position(self) -> tuple[int, int]:
        """The file, of which there is one, and the byte of its start."""
        return 0, self.offset

    @property
    def place(self) -> tuple[File, int]:
        """The file, and the byte of its start."""
        return self.file, self.offset

    @property
    def checksum(self) -> None:
        """None: Keras writes no checksums."""

    def stream(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield its bytes (little-endian, row-major) piece by piece in `buffer`.

        Raises:
            CheckpointError: the file is cut off.
        """
        size = self.variable.nbytes
        self.file.check(self.offset, size)
        for start in range(0, size, len(buffer) or 1):
            piece = buffer[: min(len(buffer), size - start)]
            self.file.read_into(self.offset + start, piece)
            yield piece

    def owned(self) -> None:
        """No memory: the bytes are read to where they are wanted."""

    def strings(self) -> list[bytes]:
        """No strings: Keras saves numbers.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(f"{self.variable.name} is {self.variable.tf_dtype}")


class _Dataset(Struct, frozen=True):
    """Where a dataset is in the tree of groups, and in the file."""

    layer: bytes  # the path of its layer's group; "" outside of all layers
    below: bytes  # its path in that group
    tf_dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    problem: str  # why it can't be read, after its name; "" if it can

    @property
    def name(self) -> str:
        return _text(self.below)

    @property
    def path(self) -> str:
        return _text(self.layer + self.below)

    def variable(self, name: str) -> Variable:
        number = NUMBERS.get(self.tf_dtype)
        if number is None:
            return Variable(name, self.tf_dtype, self.shape, self.nbytes)
        variable = describe(name.encode(), number, self.shape, self.nbytes)
        if variable.nbytes != self.nbytes and not self.problem:
            raise Malformed(
                f"{cut(name)} has {self.nbytes:,} bytes, but {self.tf_dtype} {list(self.shape)}"
                f" takes {variable.nbytes:,}"
            )
        return variable


_OTHER_DTYPE = "hdf5 type"


def _text(path: bytes) -> str:
    """A path as a variable's name, without the number of the operation's output at its end."""
    return path.decode("utf-8", "backslashreplace").removesuffix(":0")


def _h5py(file: File) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise CheckpointError(
            f"{file.name} is an HDF5 file, which h5py reads, and it can't be imported ({error})."
            f" Install it: {pip_install('h5', 'h5py')}"
        ) from error
    return h5py


def _has(h5py: Any, group: Any, attributes: Iterable[bytes]) -> bool:
    """Whether a group has one of the attributes.

    Their values are not read: strings of variable length can fill the memory from a small file.
    """
    return any(h5py.h5a.exists(group, name) for name in attributes)


class _Link(Struct, frozen=True):
    """A link in a group."""

    name: bytes
    is_hard: bool
    address: object  # of the object that a hard link leads to


def _links(h5py: Any, group: Any, most: int) -> list[_Link]:
    """The links of a group, by name.

    Raises:
        Malformed: there are more than `most`.
    """
    found: list[_Link] = []

    def add(name: bytes, info: Any) -> bool:
        found.append(_Link(name, info.type == h5py.h5l.TYPE_HARD, info.u))
        return len(found) > most  # which ends the iteration

    # In another order, the library would first make a list of all.
    if group.links.iterate(add, info=True, order=h5py.h5.ITER_NATIVE)[0]:
        raise Malformed("it has too many groups and datasets")
    return sorted(found, key=lambda link: link.name)


def _datasets(h5py: Any, root: Any, base: bytes) -> list[_Dataset]:
    """The datasets of a file, the layer with the most of them first; then by path and name.

    Keras' own order is in attributes that are not read, see `_has`.

    Args:
        h5py: the module.
        root: the root group.
        base: the path of the group with the layers: "", or it ends in "/".
    """
    left, path_bytes = _MOST_LINKS, 0
    seen = {h5py.h5o.get_info(root).addr}
    groups: list[tuple[bytes, bytes, Any]] = [(b"", b"", root)]
    found: list[_Dataset] = []
    while groups:
        path, layer, group = groups.pop()
        if path != base and path.startswith(base) and _has(h5py, group, _OF_LAYER):
            layer = path
        links = _links(h5py, group, left)
        left -= len(links)
        for link in links:
            full = path + link.name
            path_bytes += len(full)
            if path_bytes > _MOST_PATH_BYTES:
                raise Malformed("the names of its groups and datasets take too much memory")
            if not link.is_hard:
                raise Malformed(f"{cut(_text(full))} is a link to another place")
            if link.address in seen:
                raise Malformed(f"{cut(_text(full))} has two names, or contains itself")
            seen.add(link.address)
            item = h5py.h5o.open(group, link.name)
            if isinstance(item, h5py.h5g.GroupID):
                groups.append((full + b"/", layer, item))
            elif isinstance(item, h5py.h5d.DatasetID):
                start = len(layer)
                found.append(_described(h5py, item, layer.removeprefix(base), full[start:]))
    sizes = Counter(dataset.layer for dataset in found)
    return sorted(found, key=lambda d: (not d.layer, -sizes[d.layer], d.layer, d.below))


def _described(h5py: Any, dataset: Any, layer: bytes, below: bytes) -> _Dataset:
    plist = dataset.get_create_plist()
    layout = plist.get_layout()
    problem = ""
    if layout != h5py.h5d.CONTIGUOUS or plist.get_nfilters() or plist.get_external_count():
        problem = (
            "is not in one piece in this file, but in chunks, compressed or elsewhere. Keras does"
            " not save it so; `h5repack -l CONTI -f NONE` may make a file in which it is"
        )
    # The library would open other files for the shape of a view of them.
    space = None if layout == h5py.h5d.VIRTUAL else dataset.get_space()
    if space is None or space.get_simple_extent_type() == h5py.h5s.NULL:
        return _Dataset(layer, below, _dtype(h5py, dataset), (), 0, 0, problem or "has no data")
    offset, nbytes = dataset.get_offset(), dataset.get_storage_size()
    if not problem and offset is None and nbytes:
        problem = "has no data"
    shape = space.get_simple_extent_dims()
    return _Dataset(layer, below, _dtype(h5py, dataset), shape, nbytes, offset or 0, problem)


def _dtype(h5py: Any, dataset: Any) -> str:
    """TensorFlow's name of exactly the stored type; `_OTHER_DTYPE` if it has none."""
    types, stored = h5py.h5t, dataset.get_type()
    known = {
        "float32": types.IEEE_F32LE, "float64": types.IEEE_F64LE, "float16": types.IEEE_F16LE,
        "int64": types.STD_I64LE, "int32": types.STD_I32LE, "int16": types.STD_I16LE,
        "int8": types.STD_I8LE, "uint64": types.STD_U64LE, "uint32": types.STD_U32LE,
        "uint16": types.STD_U16LE, "uint8": types.STD_U8LE,
    }  # fmt: skip
    return next((name for name, own in known.items() if stored.equal(own)), _OTHER_DTYPE)


def _is_whole_model(h5py: Any, root: Any) -> bool:
    name = _WHOLE_MODEL.removesuffix(b"/")
    return (
        root.links.exists(name)
        and root.links.get_info(name).type == h5py.h5l.TYPE_HARD
        and _has(h5py, h5py.h5o.open(root, name), _OF_ALL)
    )


def _not_of_keras(file: File, root: Any) -> str:
    if root.links.exists(_NUMBERED):
        return (
            f"{file.name} is of Keras' newer format, in which variables have numbers and no names."
            f" {SAVE_AGAIN}"
        )
    return (
        f"{file.name} is an HDF5 file, and not one of a Keras model's weights: it has no attribute"
        " layer_names"
    )
