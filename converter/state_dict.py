"""The tensors of a model folder, in the files that transformers writes.

A safetensors file is read in place, without torch, as https://huggingface.co/docs/safetensors
describes it: 8 bytes with the size of the header, the header as JSON, and the data. A large model
is split into shards, and an index tells the shard of each tensor. Older models have torch files.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import loads
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct, ValidationError, convert

from .checkpoint.protos import Malformed
from .checkpoint.variable import Variable
from .errors import CheckpointError, ModelError
from .layout import SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX
from .storage.files import File, Folder, Progress
from .storage.mistaken import mistaken
from .text import MOST, as_text, counted, cut, joined, listed, pip_install

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WEIGHTS_FILES = (SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX)
"""The files that `open_state_dict` looks for, in the order in which transformers prefers them."""

EXPECTED = (*WEIGHTS_FILES, "adapter_config.json", "tf_model.h5", "flax_model.msgpack")
"""The names to ask for in a remote folder that lists none: also those that an error names."""

_LARGEST_JSON = 100_000_000  # bytes; the limit that safetensors' own reader has for a header
_FIRST_BYTES = 1 << 16  # of a remote file, which most headers fit
_MOST_DIMENSIONS = 64  # numpy's limit
_PIECE_BYTES = 1 << 20

# safetensors' names of dtypes (tensor.rs there) -> TensorFlow's, and bits. A dtype that TensorFlow
# lacks, or stores otherwise, keeps its name.
_DTYPES = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "U16": ("uint16", 16),
    "U32": ("uint32", 32),
    "U64": ("uint64", 64),
    "I8": ("int8", 8),
    "I16": ("int16", 16),
    "I32": ("int32", 32),
    "I64": ("int64", 64),
    "F4": ("F4", 4),
    "F6_E2M3": ("F6_E2M3", 6),
    "F6_E3M2": ("F6_E3M2", 6),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("F8_E8M0", 8),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}

# Files that hold no weights for this reader: a pattern -> what they are, and what to do.
_OTHERS = {
    r"adapter_(model\.(safetensors|bin)|config\.json)": "a LoRA adapter, which is no model by"
    " itself. Merge it into its base model with merge_and_unload() of peft, and save that model",
    r"tf_model(-\d+-of-\d+)?\.h5": "for TensorFlow. Run `bertconvert tf2pt` on it first",
    r".*\.ckpt(-\d+)?\.(index|data-\d+-of-\d+)": "a TensorFlow checkpoint already",
    r"flax_model(-\d+-of-\d+)?\.msgpack": "for Flax. Load it in transformers 4 with from_flax=True,"
    " and save it again",
    r".*\.gguf": "made for llama.cpp, and usually quantized. Take the model that it was made from",
    r".*\.onnx": "in ONNX. Take the model that it was made from",
    r"rust_model\.ot": "for rust-bert. Take the model that it was made from",
    r"model\.safetensors\.index\..+\.json|pytorch_model\.bin\.index\..+\.json"
    r"|model\.(?!safetensors)[\w-]+\.safetensors|pytorch_model\.(?!bin)[\w-]+\.bin": "a variant,"
    " which is not read. Load it in transformers with variant=..., and save it again",
    r"model-\d+-of-\d+\.safetensors|pytorch_model-\d+-of-\d+\.bin": "part of a model whose"
    " index (.index.json) is missing. Download or copy it, too",
    r"(?!training_args\.bin|optimizer\.(bin|pt)|scheduler\.pt|rng_state).+"
    r"\.(safetensors|bin|pt|pth|ckpt)": "not read under this name. If it has the model's weights,"
    f" call it {SAFETENSORS} or {TORCH}, as it was written",
}

_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Shape = Annotated[tuple[_Size, ...], Meta(max_length=_MOST_DIMENSIONS)]


class _Entry(Struct, frozen=True):
    """What a header says of a tensor."""

    dtype: str
    shape: _Shape
    data_offsets: tuple[_Size, _Size]  # in the data: the first byte, and the one after the last


class _Tensor(Struct, frozen=True):
    """A tensor, and the bytes of its elements: little-endian, row-major."""

    variable: Variable
    file: File
    start: int

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes piece by piece in `buffer`."""
        nbytes = self.variable.nbytes
        for at in range(0, nbytes, len(buffer) or 1):
            piece = buffer[: min(len(buffer), nbytes - at)]
            self.file.read_into(self.start + at, piece)
            yield piece


_Tensors = dict[str, _Tensor]


def is_weights(name: str) -> bool:
    """Whether a file has the weights of a model folder, or tells in which files they are."""
    return name in WEIGHTS_FILES


def open_state_dict(folder: Folder, progress: Progress | None = None) -> "StateDict":
    """The tensors of a model folder. Of safetensors files, only the headers are read.

    The file is the first of `WEIGHTS_FILES` that exists. A folder on a server needs `EXPECTED`, in
    case that it lists nothing, and `is_weights`.

    Args:
        folder: the model folder.
        progress: told of the bytes that are downloaded.

    Raises:
        ModelError: the folder has no weights, a shard is missing, a file is damaged or has more
            than tensors in it, or torch is needed and not installed.
        CheckpointError: the folder can't be listed, or a file can't be read or downloaded.
    """
    names = folder.names()
    name = next((name for name in WEIGHTS_FILES if name in names), None)
    if name is None:
        raise ModelError(_without_weights(folder, names))
    read = _safetensors if name in (SAFETENSORS, SAFETENSORS_INDEX) else _torch
    if name in (SAFETENSORS, TORCH):
        return StateDict([name], read(folder.open(name), folder, progress))
    index = folder.open(name)
    with _damage_of(index, folder, "an index of shards"):
        shards = weight_map(index)
    files = _open_shards(index, sorted(set(shards.values())), folder, names)
    found = {shard: read(file, folder, progress) for shard, file in files.items()}
    _check_shards(index, shards, found)
    return StateDict([*files], {n: found[shard][n] for n, shard in shards.items()})


class StateDict(Mapping[str, "np.ndarray[Any, Any]"]):
    """A model's tensors by name; a tensor is read each time it is accessed.

    `state_dict[name]` is a numpy array. It raises KeyError for an unknown name. Reading is safe in
    several threads. The files are closed together with the last reference to it.

    Args:
        files: the names of the weights files.
        tensors: the tensors by name.
    """

    def __init__(self, files: Sequence[str], tensors: _Tensors) -> None:
        self.files = tuple(files)
        self._tensors = tensors
        self._variables = {name: tensor.variable for name, tensor in tensors.items()}
        self._numbers: dict[File, int] = {}
        for tensor in tensors.values():
            self._numbers.setdefault(tensor.file, len(self._numbers))

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The description of each tensor by name, with TensorFlow's name of its dtype.

        A dtype that TensorFlow lacks has the name of the file's format, such as F8_E8M0.
        """
        return MappingProxyType(self._variables)

    def position(self, name: str) -> tuple[int, int]:
        """File and byte of a tensor's start: the order in which reading is cheap."""
        tensor = self._tensors[name]
        return self._numbers[tensor.file], tensor.start

    def fetch(self, names: Iterable[str], progress: Progress | None = None) -> None:
        """Announce the tensors to be read: those of a remote model are downloaded.

        Args:
            names: the tensors.
            progress: told of the bytes that are downloaded.

        Raises:
            CheckpointError: they can't be downloaded.
        """
        spans: dict[File, list[tuple[int, int]]] = {}
        for tensor in map(self._tensors.__getitem__, names):
            span = tensor.start, tensor.start + tensor.variable.nbytes
            spans.setdefault(tensor.file, []).append(span)
        for file, ranges in spans.items():
            file.fetch(ranges, progress)

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        """Yield a tensor's bytes (little-endian, row-major) piece by piece in `buffer`.

        Args:
            name: the tensor.
            buffer: writable bytes, as many as whole elements have.

        Raises:
            CheckpointError: the data can't be read, or numpy has no such dtype.
            ValueError: the buffer's size is not a multiple of an element's.
        """
        tensor = self._tensors[name]
        if tensor.variable.nbytes and (not buffer or len(buffer) % tensor.variable.dtype.itemsize):
            raise ValueError(f"{len(buffer):,} bytes are not whole elements of {name}")
        return tensor.pieces(buffer)

    def strips(
        self, name: str, row_bytes: int, start: int, stop: int, buffer: memoryview
    ) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop` of each row, piece by piece in `buffer`.

        Args:
            name: the tensor.
            row_bytes: the size of a row.
            start: the first byte of a row that is wanted.
            stop: the byte after the last.
            buffer: writable bytes, as many as whole strips have.

        Raises:
            CheckpointError: the data can't be read.
        """
        tensor = self._tensors[name]
        nbytes = tensor.variable.nbytes
        return tensor.file.strips(tensor.start, nbytes, row_bytes, start, stop, buffer)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors have the same dtype and shape, and are equal bit for bit.

        However large they are, only a little of them is in memory at a time.

        Raises:
            CheckpointError: the data can't be read.
        """
        a, b = self._tensors[one], self._tensors[other]
        if (a.variable.tf_dtype, a.variable.shape) != (b.variable.tf_dtype, b.variable.shape):
            return False
        first, second = (memoryview(bytearray(_PIECE_BYTES)) for _ in range(2))
        pairs = zip(a.pieces(first), b.pieces(second), strict=True)
        return all(bytes(x) == bytes(y) for x, y in pairs)

    def __getitem__(self, name: str) -> "np.ndarray[Any, Any]":
        import numpy as np

        tensor = self._tensors[name]
        dtype = tensor.variable.dtype
        try:
            array = np.empty(tensor.variable.shape, dtype)
        except (ValueError, MemoryError) as error:
            raise ModelError(f"numpy can't hold {name}: {error}") from error
        if array.nbytes:
            tensor.file.read_into(tensor.start, array.reshape(-1).view(np.uint8).data)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


def _safetensors(file: File, folder: Folder, progress: Progress | None) -> _Tensors:
    """The tensors of a safetensors file, by its header."""
    file.fetch([(0, min(file.size, _FIRST_BYTES))], progress)
    with _damage_of(file, folder, "a safetensors file"):
        if file.size < 8:
            raise Malformed(f"it has {counted(file.size, 'byte')}, so it is cut off")
        size = int.from_bytes(file.read(0, 8), "little")
        if size > _LARGEST_JSON:
            raise Malformed(
                f"its first 8 bytes claim a header of {size:,} bytes, more than {_LARGEST_JSON:,}"
            )
        data = 8 + size
        if data > file.size:
            raise Malformed(
                f"it has {file.size:,} bytes, and {data:,} are needed for its header alone, so it"
                " is cut off"
            )
        header = _json(file.read(8, size))
        metadata = _as(dict[str, str] | None, header.pop("__metadata__", None), "__metadata__")
        entries = {name: _as(_Entry, value, name) for name, value in header.items()}
        _check_offsets(entries, file.size - data)
        variables = {name: _describe(name, entry) for name, entry in entries.items()}
    if (written := (metadata or {}).get("format")) in ("tf", "flax"):
        raise ModelError(
            f"{file.name} was not written for PyTorch: the format in its metadata is {written}."
            f" Load it in transformers 4 with from_{written}=True, and save it again."
        )
    return {
        name: _Tensor(variables[name], file, data + entry.data_offsets[0])
        for name, entry in entries.items()
    }


def _check_offsets(entries: Mapping[str, _Entry], size: int) -> None:
    """Check that the tensors are one after the other, and fill the `size` bytes of data."""
    end, last = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        if stop < start:
            raise Malformed(f"{cut(name)} ends at byte {stop:,}, before its start at {start:,}")
        if start < end:
            raise Malformed(f"{cut(last)} and {cut(name)} overlap at byte {start:,}")
        if start > end:
            raise Malformed(f"no tensor has the bytes {end:,} to {start:,}, before {cut(name)}")
        end, last = stop, name
    if end > size:
        raise Malformed(f"it has {size:,} bytes of data, and {end:,} are needed, so it is cut off")
    if end < size:
        raise Malformed(f"no tensor has the last {size - end:,} bytes")


def _describe(name: str, entry: _Entry) -> Variable:
    if entry.dtype not in _DTYPES:
        raise Malformed(f"{cut(name)} has the dtype {cut(entry.dtype)!r}, which is unknown")
    tf_dtype, bits = _DTYPES[entry.dtype]
    start, stop = entry.data_offsets
    if math.prod(size or 1 for size in entry.shape) * bits >= 1 << 63:
        raise Malformed(f"{cut(name)} has a shape of more bytes than 64 bits can count")
    if math.prod(entry.shape) * bits != (stop - start) * 8:
        raise Malformed(
            f"{cut(name)} has the shape {list(entry.shape)} of {entry.dtype}, which are not"
            f" {stop - start:,} bytes"
        )
    return Variable(name, tf_dtype, entry.shape, stop - start)


def weight_map(index: File) -> dict[str, str]:
    """The file of each tensor, by an index; the files are next to it.

    Raises:
        Malformed: the index is damaged, or names a file that is elsewhere.
        CheckpointError: it can't be read.
    """
    if index.size > _LARGEST_JSON:
        raise Malformed(f"it has {index.size:,} bytes, more than {_LARGEST_JSON:,}")
    shards: dict[str, str] = _as(
        dict[str, str], _json(index.read(0, index.size)).get("weight_map"), "weight_map"
    )
    if not shards:
        raise Malformed("its weight_map is empty")
    for shard in shards.values():
        if not re.fullmatch(r"\w[\w.+=@ -]*", shard):
            raise Malformed(
                f"{cut(shard)!r} in its weight_map is not the name of a file next to it"
            )
    return shards


def _open_shards(
    index: File, shards: Sequence[str], folder: Folder, names: Sequence[str]
) -> dict[str, File]:
    """Open the shards that an index tells of. A server that lists nothing is asked for each."""
    files, problems = {}, []
    missing = [shard for shard in shards if shard not in names] if folder.listed else []
    for shard in shards if not missing else ():
        try:
            files[shard] = folder.open(shard)
        except CheckpointError as error:
            missing.append(shard)
            problems.append(str(error))
            if len(missing) == MOST:  # an index may name any number
                break
    if missing:
        reason = f" ({problems[0]})" if problems else ""
        raise ModelError(
            f"{folder.path} lacks a part of its weights: {os.path.basename(index.name)} names"
            f" {counted(len(shards), 'file')}, and {joined(missing)}"
            f" {'is' if len(missing) == 1 else 'are'} missing{reason}. Download or copy"
            f" {'it' if len(missing) == 1 else 'them'}, too."
        )
    return files


def _check_shards(index: File, shards: Mapping[str, str], found: Mapping[str, _Tensors]) -> None:
    """Check that each shard has the tensors that its index says it has, and no others."""
    holders: dict[str, list[str]] = {}
    for shard, tensors in found.items():
        for name in tensors:
            holders.setdefault(name, []).append(shard)
    problems = [
        f"{cut(name)} is not in {shard}, where the index has it"
        for name, shard in shards.items()
        if name not in found[shard]
    ]
    for name, having in holders.items():
        if len(having) > 1:
            problems.append(f"{cut(name)} is in {joined(having)}")
        elif name not in shards:
            problems.append(f"{cut(name)} of {having[0]} is not in the index")
    if problems:
        raise ModelError(
            f"{index.name} does not fit its shards: {'; '.join(listed(problems, 4))}. Download or"
            " copy all of them again, from one place."
        )


def _torch(file: File, folder: Folder, progress: Progress | None) -> _Tensors:
    """The tensors of a torch file."""
    try:
        return open_torch(file, folder, progress)._tensors
    except ImportError as error:
        raise ModelError(
            f"reading {file.name} needs torch, which can't be imported ({error})."
            f" Install it: {pip_install('torch', 'torch')}"
        ) from error


def open_torch(
    file: File, folder: Folder | None = None, progress: Progress | None = None
) -> StateDict:
    """The tensors of a file that torch.save wrote. No code in it is run.

    One on disk is mapped into memory, and read when its numbers are. Others are read whole.

    Args:
        file: the file.
        folder: where it is, for messages.
        progress: told of the bytes that are downloaded.

    Raises:
        ImportError: torch is not installed.
        ModelError: the file is damaged, or is no state dict.
        CheckpointError: it can't be read or downloaded.
    """
    import torch

    file.fetch([(0, file.size)], progress)
    mapped = _is_zip(file) and os.path.isfile(file.name)
    try:
        # weights_only: a pickle may hold any code, and this runs none of it.
        state = torch.load(
            file.name if mapped else file.stream(),
            map_location="cpu",
            weights_only=True,
            mmap=mapped,
        )
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle may raise any
        raise ModelError(
            mistaken(file, folder) or f"{file.name} was not loaded: {_reason(error)}"
        ) from error
    if isinstance(state, dict) and len(state) == 1:
        ((key, inner),) = state.items()
        if key in ("state_dict", "model_state_dict") and isinstance(inner, dict):
            state = inner
    if not isinstance(state, dict):
        raise ModelError(f"{file.name} is not a state dict, but a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or as_text(name) != name or not torch.is_tensor(value):
            keys = [cut(as_text(str(key))) for key in state]
            raise ModelError(
                f"{file.name} is not a state dict: {cut(as_text(str(name)))} in it is not a named"
                f" tensor, but a {type(value).__name__}. Its keys are {joined(keys, 6)}. Save the"
                " model's state dict alone."
            )
    tensors = {name: _torch_tensor(file, name, tensor) for name, tensor in state.items()}
    return StateDict([os.path.basename(file.name)], tensors)


def _reason(error: Exception) -> str:
    """What torch's error means: its own text advises to trust the file."""
    text = str(error).strip()
    if found := re.search(r"GLOBAL (\S{1,200})", text):
        return (
            f"it has {found[1]} in it, and only tensors are read. None of it was run. Save the"
            " model's state dict alone."
        )
    first = "" if text.startswith("Weights only") else f" ({cut(text.partition(chr(10))[0])})"
    return (
        "it is damaged, or has more than tensors in it"
        f"{first if len(first) > 3 else ''}. Download or copy it again."
    )


def _is_zip(file: File) -> bool:
    """Whether torch takes a file for a zip, which is the newer format.

    Raises:
        ModelError: its parts are compressed. torch.save never does that, and a small file could
            fill the memory.
    """
    from zipfile import ZIP_STORED, ZipFile

    if file.size < 4 or file.read(0, 4) != b"PK\3\4":
        return False
    try:
        with ZipFile(file.stream()) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != ZIP_STORED]
    except CheckpointError:
        raise
    except Exception:  # the zip is damaged, which torch reports
        return True
    if packed:
        raise ModelError(
            f"{file.name} was compressed after it was saved. Load it with torch.load, and save it"
            " with torch.save."
        )
    return True


def _torch_tensor(file: File, name: str, tensor: "Tensor") -> _Tensor:
    import torch

    kinds = {
        "sparse": tensor.layout != torch.strided,
        "quantized": tensor.is_quantized,
        "nested": tensor.is_nested,
        "meta": tensor.device.type != "cpu",
    }
    if kind := next((kind for kind, is_so in kinds.items() if is_so), ""):
        raise ModelError(f"{file.name}: {cut(name)} is a {kind} tensor, which can't be converted")
    dtype = str(tensor.dtype).removeprefix("torch.")
    variable = Variable(name, dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())
    try:
        return _Tensor(variable, File(file.name, _Elements(tensor), 0, variable.nbytes), 0)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{file.name}: {cut(name)} can't be read: {error}") from error


class _Elements:
    """The medium of a torch tensor's bytes in row-major order, however it is stored."""

    def __init__(self, tensor: "Tensor") -> None:
        import torch

        self._size = tensor.element_size()
        # numpy has all of these, and not all dtypes of torch.
        same_size = {
            1: torch.uint8,
            2: torch.int16,
            4: torch.int32,
            8: torch.int64,
            16: torch.complex128,
        }[self._size]
        plain = tensor.detach().resolve_conj().resolve_neg()
        self._array: Any = plain.view(same_size).numpy()

    def read_into(self, position: int, buffer: memoryview) -> int:
        import numpy as np

        # An expanded tensor is never copied whole: it may be much larger than its storage.
        is_plain = self._array.flags.c_contiguous
        flat = self._array.reshape(-1) if is_plain else self._array.flat
        first, skipped = divmod(position, self._size)
        elements = flat[first : -(-(position + len(buffer)) // self._size)]
        data = np.ascontiguousarray(elements).view(np.uint8).data[skipped:]
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        return count

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        pass  # it is in memory


@contextmanager
def _damage_of(file: File, folder: Folder, what: str) -> Iterator[None]:
    try:
        yield
    except Malformed as error:
        raise ModelError(
            mistaken(file, folder)
            or f"{file.name} is damaged or is not {what}: {error}. Download or copy it again."
        ) from error


def _json(data: bytes) -> dict[str, object]:
    """A JSON object. Python's json reads it: msgspec takes the last value of a repeated key.

    Raises:
        Malformed: it is not valid, or has a key twice.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            raise Malformed(f"{cut(name)} is in it twice")
        return found

    try:
        document = loads(data.decode(), object_pairs_hook=unique)
    except Malformed:
        raise
    except UnicodeDecodeError as error:
        raise Malformed(f"its text is not UTF-8: {error.reason} at byte {error.start:,}") from error
    except (ValueError, RecursionError) as error:  # numbers of many digits; nesting
        raise Malformed(f"its JSON is not valid: {error}") from error
    if not isinstance(document, dict):
        raise Malformed("its JSON is not an object")
    return document


def _as(kind: Any, value: object, name: str) -> Any:
    """A part of a JSON document as a type.

    Raises:
        Malformed: it is of another type, or its name is no text.
    """
    try:
        name.encode()
        return convert(value, kind)
    except (UnicodeEncodeError, ValidationError) as error:
        raise Malformed(f"{cut(as_text(name))}: {error}") from error


def _without_weights(folder: Folder, names: Sequence[str]) -> str:
    """Why a folder has no weights: what the files in it are, and what to do."""
    found = (
        f"{folder.path} has no weights: neither {', '.join(WEIGHTS_FILES[:-1])} nor {TORCH_INDEX}."
    )
    below = sorted({os.path.dirname(name) for name in names if is_weights(os.path.basename(name))})
    if below:
        return f"{found} Its subfolders have weights: {joined(below)}. Give one of them."
    kinds: dict[str, list[str]] = {}
    for name in names:
        whats = (w for pattern, w in _OTHERS.items() if re.fullmatch(pattern, name))
        if what := next(whats, ""):
            kinds.setdefault(what, []).append(name)
    if kinds:
        return " ".join(
            [
                found,
                *(
                    f"{joined(files, 3)} {'is' if len(files) == 1 else 'are'} {what}."
                    for what, files in kinds.items()
                ),
            ]
        )
    here = [name for name in names if "/" not in name]
    return f"{found} {f'The folder has: {joined(here, 8)}.' if here else 'The folder is empty.'}"
