"""A model folder on disk: its config, its provenance, its tensors."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..checkpoint.dtypes import numpy_dtype
from ..checkpoint.protos import Malformed
from ..errors import CheckpointError, ModelError, VerificationError
from ..layout import (
    CARD,
    CONFIG,
    MODEL_FILES,
    PROVENANCE,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    TOKENIZER_FILES,
    TORCH,
    TORCH_INDEX,
    VERIFICATION,
)
from ..prepare import SourceFile
from ..state_dict import open_torch, weight_map
from ..storage.files import File, open_path
from ..storage.location import DiskPath, Location
from ..storage.mistaken import mistaken
from ..tensor_names import canonical_names
from ..text import joined, pip_install

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# Weights that are split into several files have an index in place of the one file.
_INDEXES = {SAFETENSORS: SAFETENSORS_INDEX, TORCH: TORCH_INDEX}


class Origin(Struct, frozen=True):
    """What conversion.json says of a tensor."""

    variable: str
    transform: str
    dtype: str
    crc32c: str | None = None  # of the variable; None where the checkpoint has none


class Provenance(Struct, frozen=True):
    """The parts of conversion.json that can be checked against a checkpoint."""

    mapping: dict[str, str]
    sources: list[SourceFile]
    scope: str
    tensors: dict[str, Origin]
    dropped: dict[str, str]
    activation: dict[str, str]
    do_lower_case: bool | None
    architecture: str = ""
    config: dict[str, Any] = {}
    padding: int = 0
    labels: list[str] | None = None


class ModelFolder(Struct, frozen=True):
    """A folder that transformers loads, whoever wrote it."""

    path: Path
    config: dict[str, Any]
    provenance: Provenance | None
    files: dict[
        str, "Mapping[str, Array]"
    ]  # the tensors of each weights file or index, read when they are asked for
    notes: list[str]

    @property
    def tensors(self) -> "Mapping[str, Array]":
        """The tensors of the file that transformers prefers."""
        return next(iter(self.files.values()))

    def without(self, names: Collection[str], note: str) -> "ModelFolder":
        """The folder without some tensors, and a note about them."""
        files: dict[str, Mapping[str, Array]] = {
            file: _Places({name: (tensors, name) for name in tensors if name not in names})
            for file, tensors in self.files.items()
        }
        return replace(self, files=files, notes=[*self.notes, note])


def open_folder(path: Path) -> ModelFolder:
    """Open a model folder; no tensor is read yet, but for those of an old torch file.

    Raises:
        VerificationError: the folder does not exist, or a file is missing or damaged.
    """
    if not path.is_dir():
        raise VerificationError(
            f"{path} {'is not a folder' if path.exists() else 'does not exist'}"
        )
    notes: list[str] = []
    config = _json(path / CONFIG, dict[str, Any])
    provenance = None
    if (path / PROVENANCE).exists():
        provenance = _json(path / PROVENANCE, Provenance)
    return ModelFolder(path, config, provenance, _weights(path, notes), notes)


def files_at(location: Location) -> set[str]:
    """The names of the files of a model folder at a URL that a proof reads, where they exist.

    Raises:
        CheckpointError: the server does not answer.
        VerificationError: an index of shards is damaged.
    """
    names = {*MODEL_FILES, *TOKENIZER_FILES, *_INDEXES.values()}
    if isinstance(location, DiskPath):
        return names
    folder = location.folder(sorted(names), names.__contains__)
    found = folder.names()
    shards = [_shards(folder.open(i)) for s, i in _INDEXES.items() if s not in found and i in found]
    return names.union(*shards)


def files_read(folder: ModelFolder) -> list[str]:
    """The names of the files of a model folder that a proof has read."""
    small = {*MODEL_FILES, *TOKENIZER_FILES} - {CARD, VERIFICATION, *_INDEXES}
    names = {name for name in small if (folder.path / name).exists()}
    for name in _INDEXES:
        if found := _parts(folder.path, name):
            file, parts = found
            names |= {file, *(part.name for part in parts)} if file in folder.files else set()
    return sorted(names)


def _weights(path: Path, notes: list[str]) -> "dict[str, Mapping[str, Array]]":
    files: dict[str, Mapping[str, Array]] = {}
    if found := _parts(path, SAFETENSORS):
        files[found[0]] = _merged([_SafeTensors(part) for part in found[1]])
    if found := _parts(path, TORCH):
        try:
            files[found[0]] = _merged([_torch_tensors(part) for part in found[1]])
        except ImportError as error:
            if not files:
                raise VerificationError(
                    f"reading {path / found[0]} needs torch, which can't be imported ({error})."
                    f" Install it: {pip_install('torch', 'torch')}"
                ) from error
            notes.append(f"{found[0]} was not read: it needs {pip_install('torch', 'torch')}")
    if not files:
        raise VerificationError(f"{path} has neither {SAFETENSORS} nor {TORCH}. {_contents(path)}")
    return files


def _parts(path: Path, name: str) -> tuple[str, list[Path]] | None:
    """The weights file `name`, or its index, and the files that have the tensors."""
    if (path / name).exists():
        return name, [path / name]
    index = path / _INDEXES[name]
    if not index.exists():
        return None
    shards = [path / shard for shard in sorted(_shards(open_path(str(index))))]
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise VerificationError(
            f"{path} has not all of its weights: {index.name} names {joined(missing)}, which the"
            " folder lacks"
        )
    return index.name, shards


def _shards(index: File) -> set[str]:
    try:
        return {*weight_map(index).values()}
    except (Malformed, CheckpointError) as error:
        raise VerificationError(
            f"{index.name} is damaged, or no index of shards: {error}"
        ) from None


def _merged(shards: "Sequence[Mapping[str, Array]]") -> "Mapping[str, Array]":
    """The tensors of all shards, by the names that they have in transformers 5."""
    holders: dict[str, Mapping[str, Array]] = {}
    for shard in shards:
        for name in shard:
            if holders.setdefault(name, shard) is not shard:
                raise VerificationError(f"two files have the tensor {name}")
    places = {new: (holders[old], old) for new, old in canonical_names(holders).items()}
    return _Places(places)


class _Places(Mapping[str, "Array"]):
    """Tensors that are elsewhere: name -> where, and the name there."""

    def __init__(self, places: "Mapping[str, tuple[Mapping[str, Array], str]]") -> None:
        self._places = places

    def __getitem__(self, name: str) -> "Array":
        tensors, known = self._places[name]
        return tensors[known]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._places))

    def __len__(self) -> int:
        return len(self._places)


class _SafeTensors(Mapping[str, "Array"]):
    """The tensors of a safetensors file, read each time they are asked for."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        opener: Any = safe_open
        try:
            self._file = opener(path, "np")
        except (OSError, SafetensorError) as error:
            raise VerificationError(
                _mistaken(path) or f"{path} is damaged or not a safetensors file: {error}"
            ) from error
        self._path = path
        self._names = [*self._file.keys()]

    def __getitem__(self, name: str) -> "Array":
        array: Array
        if self._file.get_slice(name).get_dtype() == "BF16":
            numpy_dtype("bfloat16")  # by which numpy gets to know the name
        try:
            array = self._file.get_tensor(name)
        except Exception as error:  # a dtype that numpy has no name for
            raise VerificationError(f"{self._path}: {name} can't be read: {error}") from error
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _torch_tensors(path: Path) -> "Mapping[str, Array]":
    try:
        return open_torch(open_path(str(path)))
    except (CheckpointError, ModelError) as error:
        raise VerificationError(str(error)) from error


def _contents(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    return f"The folder has: {joined(names, 8)}." if names else "The folder is empty."


def _json(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise VerificationError(f"{path} is missing. {_contents(path.parent)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise VerificationError(_mistaken(path) or f"{path} can't be read: {error}") from error


def _mistaken(path: Path) -> str:
    """What a file is in place of what it should be; "" if that is not known."""
    try:
        return mistaken(open_path(str(path)))
    except CheckpointError:
        return ""
