"""A model folder on disk: its config, its provenance, its tensors."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ..checkpoint.dtypes import numpy_dtype
from ..errors import CheckpointError, ModelError, VerificationError
from ..layout import CONFIG, PROVENANCE, SAFETENSORS, TORCH
from ..prepare import SourceFile
from ..state_dict import open_torch
from ..storage.files import open_path
from ..storage.mistaken import mistaken
from ..text import joined, pip_install

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


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
    """A folder that transformers loads."""

    path: Path
    config: dict[str, Any]
    provenance: Provenance | None
    files: dict[
        str, "Mapping[str, Array]"
    ]  # the tensors of each weights file, read when they are asked for
    notes: list[str]

    @property
    def tensors(self) -> "Mapping[str, Array]":
        """The tensors of the file that transformers prefers."""
        return next(iter(self.files.values()))


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


def _weights(path: Path, notes: list[str]) -> "dict[str, Mapping[str, Array]]":
    files: dict[str, Mapping[str, Array]] = {}
    if (path / SAFETENSORS).exists():
        files[SAFETENSORS] = _SafeTensors(path / SAFETENSORS)
    if (path / TORCH).exists():
        try:
            files[TORCH] = _torch_tensors(path / TORCH)
        except ImportError as error:
            if not files:
                raise VerificationError(
                    f"reading {path / TORCH} needs torch, which can't be imported ({error})."
                    f" Install it: {pip_install('torch', 'torch')}"
                ) from error
            notes.append(f"{TORCH} was not read: it needs {pip_install('torch', 'torch')}")
    if not files:
        raise VerificationError(
            f"{path} has neither {SAFETENSORS} nor {TORCH}. {_contents(path)} Weights that"
            " are split into several files are not supported."
        )
    return files


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
        self._names = set(self._file.keys())

    def __getitem__(self, name: str) -> "Array":
        if name not in self._names:
            raise KeyError(name)
        array: Array
        if self._file.get_slice(name).get_dtype() == "BF16":
            numpy_dtype("bfloat16")  # by which numpy gets to know the name
        try:
            array = self._file.get_tensor(name)
        except Exception as error:  # a dtype that numpy has no name for
            raise VerificationError(f"{self._path}: {name} can't be read: {error}") from error
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

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
