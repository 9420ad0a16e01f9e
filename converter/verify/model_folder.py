"""A model folder as it lies on disk: its config, its provenance, its tensors."""

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ..errors import ParityError
from ..layout import MODEL_FILES
from ..prepare import SourceFile
from ..storage.files import Progress
from ..storage.urls import shown

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"


class Origin(Struct, frozen=True):
    """What conversion.json says of a tensor."""

    variable: str
    transform: str
    dtype: str
    crc32c: str | None = None  # of the variable; None where the checkpoint has none


class Provenance(Struct, frozen=True):
    """What conversion.json says of a conversion, as far as a checkpoint can be held against it."""

    mapping: dict[str, str]
    sources: list[SourceFile]
    scope: str
    tensors: dict[str, Origin]
    dropped: dict[str, str]
    activation: dict[str, str]
    do_lower_case: bool | None


class ModelFolder(Struct, frozen=True):
    """A folder that transformers loads."""

    path: Path
    config: dict[str, Any]
    provenance: Provenance | None
    files: dict[str, "Mapping[str, Array]"]  # the tensors of each weights file, read when asked for
    notes: list[str]

    @property
    def tensors(self) -> "Mapping[str, Array]":
        """The tensors of the file that transformers prefers."""
        return next(iter(self.files.values()))


@contextmanager
def downloaded(url: str, progress: Progress | None = None) -> Iterator[Path]:
    """A model folder afar, for the time that it is needed on disk.

    Raises:
        CheckpointError: it can't be fetched.
        ParityError: there is none, or whoever uses it raises that.
    """
    from ..storage.remote import download

    with tempfile.TemporaryDirectory(prefix="bertconvert-") as folder:
        if not download(url, MODEL_FILES, Path(folder), progress):
            raise ParityError(f"{shown(url)} is not there, or holds no model")
        try:
            yield Path(folder)
        except ParityError as error:
            raise ParityError(str(error).replace(folder, shown(url))) from error


def open_folder(path: Path) -> ModelFolder:
    """Open a model folder; no tensor is read yet, but for those of a torch file.

    Raises:
        ParityError: there is no such folder, or a file that it must have is missing or damaged.
    """
    if not path.is_dir():
        raise ParityError(f"{path} is {'no folder' if path.exists() else 'not there'}")
    notes: list[str] = []
    config = _json(path / "config.json", dict[str, Any])
    provenance = None
    if (path / "conversion.json").exists():
        provenance = _json(path / "conversion.json", Provenance)
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
                raise ParityError(
                    f"{path / TORCH} needs torch to be read, which can't be imported ({error});"
                    " `pip install bertconvert[torch]` brings it"
                ) from error
            notes.append(f"{TORCH} was not read: that needs `pip install bertconvert[torch]`")
    if not files:
        lying = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise ParityError(
            f"{path} holds neither {SAFETENSORS} nor {TORCH}. There is {lying}."
            " A model in several files is not read"
        )
    return files


class _SafeTensors(Mapping[str, "Array"]):
    """The tensors of a safetensors file, each read anew whenever it is asked for."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        opener: Any = safe_open
        try:
            self._file = opener(path, "np")
        except (OSError, SafetensorError) as error:
            raise ParityError(f"{path} is damaged, or no safetensors file: {error}") from error
        self._path = path
        self._names = set(self._file.keys())

    def __getitem__(self, name: str) -> "Array":
        if name not in self._names:
            raise KeyError(name)
        array: Array
        try:
            array = self._file.get_tensor(name)
        except Exception as error:  # a dtype that numpy has no name for
            raise ParityError(f"{self._path}: {name} can't be read: {error}") from error
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


def _torch_tensors(path: Path) -> "dict[str, Array]":
    import ml_dtypes
    import torch

    try:
        # weights_only: a pickle may hold any code, and this reads none of it.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, zipfile.BadZipFile) as error:
        first = str(error).strip().partition("\n")[0]
        raise ParityError(
            f"{path} holds more than tensors, or is damaged, and was not loaded: {first}"
        ) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise ParityError(f"{path} is no state dict: it holds something else than named tensors")
    return {
        name: tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if tensor.dtype == torch.bfloat16
        else tensor.numpy()
        for name, tensor in state.items()
    }


def _json(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        lying = ", ".join(sorted(file.name for file in path.parent.iterdir())[:8]) or "nothing"
        raise ParityError(f"{path} is missing. There is {lying}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ParityError(f"{path} can't be read: {error}") from error
