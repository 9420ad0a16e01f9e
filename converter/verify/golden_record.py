"""A golden record: what a checkpoint is and what it computes, in one small file.

It is a safetensors file, so anyone can read it; docs/golden-record.md describes it. It has a sha256
of itself, which finds damage and careless edits. It is no signature: who makes a record can write
anything into it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from ..checkpoint.variable import Variable
from ..checks import FLOATS
from ..choices import LEVELS, Level
from ..errors import CheckpointError, OutputError, VerificationError
from ..layout import CONFIG
from ..plan import Entry
from ..prepare import Planned, SourceFile
from ..safetensors_writer import safetensors_header
from ..storage.files import File, Progress
from ..storage.location import parse_location
from ..text import cut
from ..transforms import merged_shape, to_tensorflow
from .batches import Original, from_arrays, to_arrays
from .model_folder import ModelFolder
from .record_faults import faults
from .variables import Comparison, sha256
from .verdict import Recording
from .weights import groups_of, part_of_class

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

KIND = "bertconvert golden record"
"""What the metadata calls the file."""

FORMAT = 1

_LARGEST = 1 << 32  # bytes
_HEAD = 256  # bytes that tell a record
_VOCABULARY = "vocabulary"  # the array with the tokens as a JSON list


class Pin(Struct, frozen=True, omit_defaults=True):
    """What is known of a variable: of one that was skipped, only what the index tells."""

    variable: Variable
    crc32c: int | None  # of its bytes; None if it was skipped and the index does not tell it
    dtype: str = ""  # of the tensor that it becomes
    sha256: str = ""  # of its bytes, cast to that dtype: little-endian, row-major
    nonfinite: int = 0  # elements that are NaN or infinite


class Record(Struct, frozen=True):
    """A golden record."""

    made: str  # when, in UTC: 2026-01-31T12:00:00Z
    tool: str  # bertconvert and its version
    versions: dict[str, str]  # of Python and of the packages that computed
    checkpoint: str  # its name, without its place
    files: list[SourceFile]  # the index and the data files
    pins: dict[str, Pin]  # by the variables' names in the checkpoint
    level: str  # the highest that it proves
    samples: int  # sequences; 0 at level weights
    seed: int  # of the sequences and the labels
    positions: int  # the most of a sequence that outputs are compared at
    pad_id: int | None  # the token whose embedding is not trained by looking it up
    planned: Planned
    original: Original | None  # None at level weights

    def recording(self, file: File) -> Recording:
        """What a verdict says of it.

        Args:
            file: that it was read from.
        """
        tensorflow = self.original.tensorflow if self.original is not None else ""
        digest = hashlib.sha256(file.read(0, file.size)).hexdigest()
        return Recording(file.name, digest, self.made, self.tool, tensorflow)

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs that it holds, in the order of the forward pass."""
        return [*self.original.batches[0].outputs] if self.original is not None else []

    def summary(self, file: str, nbytes: int) -> dict[str, object]:
        """What it is, for programs.

        Args:
            file: where it is.
            nbytes: of the file.
        """
        return {
            "file": file,
            "nbytes": nbytes,
            "made": self.made,
            "tool": self.tool,
            "versions": self.versions,
            "checkpoint": self.checkpoint,
            "architecture": self.planned.plan.architecture.name,
            "level": self.level,
            "variables": len(self.planned.plan.entries),
            "outputs": self.outputs,
            "samples": self.samples,
            "seed": self.seed,
            "positions": self.positions,
            "notes": self.planned.notes,
        }


class RecordedVariables:
    """The variables of a checkpoint, by what a record pins of them."""

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def name(self) -> str:
        return self._record.checkpoint

    @property
    def described(self) -> Mapping[str, Variable]:
        return {name: pin.variable for name, pin in self._record.pins.items()}

    @property
    def files(self) -> list[SourceFile]:
        return self._record.files

    def fetch(self, names: Iterable[str], progress: Progress | None) -> None:
        pass

    def checksum(self, name: str) -> int | None:
        return self._record.pins[name].crc32c

    def compare(self, entry: Entry, tensor: "Array") -> Comparison:
        pin, back = self._record.pins[entry.variable], to_tensorflow(tensor, entry.op)
        if (dtype := str(back.dtype)) != pin.dtype and dtype in FLOATS:
            raise VerificationError(
                f"{entry.tensor} is {dtype} in OUT, and the record has a checksum of it as"
                f" {pin.dtype}. Make a record that has it as OUT does: bertconvert record CKPT FILE"
                f" --dtype {dtype}"
            )
        same = (
            back.shape == merged_shape(entry.op, entry.shape)
            and str(back.dtype) == pin.dtype
            and sha256(back) == pin.sha256
        )
        return Comparison(same, pin.nonfinite)

    def digest(self, name: str, dtype: str) -> str | None:
        pin = self._record.pins[name]
        return pin.sha256 if dtype == pin.dtype else None

    def read(self, name: str) -> "Array | None":
        return None


_Count = Annotated[int, Meta(ge=0)]
_Words = Annotated[str, Meta(max_length=200)]


class _Facts(Struct, frozen=True):
    """What of a record is no array, apart from what `batches.py` writes."""

    made: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    tool: _Words
    versions: dict[_Words, _Words]
    checkpoint: str
    files: list[SourceFile]
    pins: dict[str, Pin]
    level: Level
    samples: _Count
    seed: _Count
    positions: _Count
    pad_id: _Count | None
    planned: dict[str, Any]


def write_record(record: Record, path: Path, force: bool = False) -> None:
    """Write a record whole or not at all.

    Raises:
        OutputError: the file can't be written, or exists and `force` is not given.
    """
    check_place(path, force)
    parse_location(path).write_bytes(to_bytes(record), flush=True)


@contextmanager
def kept(path: Path, force: bool) -> Iterator[Callable[[Record], None]]:
    """What takes a record, whose file appears at the end of the block.

    The record is on the disk when it was taken. After an error, nothing of it is left.

    Args:
        path: the file.
        force: whether a record there is replaced.

    Raises:
        OutputError: the file can't be written, or exists and `force` is not given.
    """
    check_place(path, force)
    unfinished = path.with_name(f".{path.name}.bertconvert")

    def keep(record: Record) -> None:
        content = to_bytes(record)
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{path} can't be written: {error.strerror}") from error

    try:
        yield keep
        if unfinished.exists():
            _put(unfinished, path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _put(unfinished: Path, path: Path) -> None:
    try:
        os.rename(unfinished, path)
    except OSError as error:
        raise OutputError(
            f"everything else is done, but {path} can't be written: {error.strerror}"
        ) from error


def check_place(path: Path, force: bool) -> None:
    """Refuse a file that can't be written.

    Raises:
        OutputError: it exists and `force` is not given, or its folder does not exist.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Give the name of a file")
    if path.exists():
        if not force:
            raise OutputError(f"{path} exists. Use --force to replace it")
        if find_record(path) is None:
            raise OutputError(f"{path} exists and is no record. It is never replaced")
    if not path.parent.is_dir():
        raise OutputError(f"{path} can't be written: the folder {path.parent} does not exist")


def to_bytes(record: Record) -> bytes:
    """The content of a record's file."""
    import numpy as np

    arrays: dict[str, Array] = {}
    computed = b""
    if record.original is not None:
        arrays, computed = to_arrays(record.original)
    planned = msgspec.to_builtins(record.planned)
    tokens = planned.pop("vocabulary")
    if tokens is not None:
        arrays[_VOCABULARY] = np.frombuffer(msgspec.json.encode(tokens), np.uint8)
    known = {name: getattr(record, name) for name in _Facts.__struct_fields__}
    facts = _Facts(**known | {"planned": _without_infinity(planned)})
    metadata = {
        "format": KIND,
        "version": str(FORMAT),
        "facts": msgspec.json.encode(facts).decode(),
        "computed": computed.decode(),
    }
    metadata["sha256"] = _seal(metadata, arrays)
    # Wide elements come first, which aligns every array.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    described = ((n, arrays[n].dtype.name, arrays[n].shape, arrays[n].nbytes) for n in order)
    header, _ = safetensors_header(metadata, described)
    return b"".join([header, *(arrays[name].tobytes() for name in order)])


def find_record(path: str | os.PathLike[str]) -> File | None:
    """The file at a path or URL, if it is a golden record.

    Raises:
        CheckpointError: a server does not answer.
    """
    location = parse_location(path)
    if not (os.path.isfile(path) or str(location.name).endswith(".safetensors")):
        return None
    try:
        file = location.open()
    except CheckpointError:
        if os.path.exists(path):
            return None
        raise
    return file if KIND.encode() in file.read(0, min(file.size, _HEAD)) else None


def read_record(file: File, progress: Progress | None = None) -> Record:
    """Read a golden record.

    Args:
        file: as `find_record` gives it.
        progress: told of the bytes that are downloaded.

    Raises:
        VerificationError: it is damaged, edited, of a newer format, or contradicts itself.
    """
    try:
        return _read(file, progress)
    except VerificationError as error:
        raise VerificationError(f"the record {file.name}: {error}") from error


def _read(file: File, progress: Progress | None) -> Record:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if file.size > _LARGEST:
        raise VerificationError(f"it has {file.size:,} bytes; the limit is {_LARGEST:,}")
    file.fetch([(0, file.size)], progress)
    data = file.read(0, file.size)
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        metadata = loads(data[8:end])["__metadata__"]
        version = metadata["version"]
        if version != str(FORMAT):
            raise VerificationError(
                f"its format has version {cut(str(version))}, and this bertconvert knows"
                f" {FORMAT}. Update bertconvert"
            )
        arrays = load(data)
        text, computed, digest = (metadata[key] for key in ("facts", "computed", "sha256"))
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise VerificationError(
            f"it is damaged: {cut(str(error))}. Download or copy it again"
        ) from error
    if digest != _seal(metadata, arrays):
        raise VerificationError(
            "it was damaged or edited: its content does not have the sha256 that it names."
            " Download or copy it again"
        )
    try:
        facts = msgspec.json.decode(text, type=_Facts)
        planned = dict(facts.planned)
        tokens = arrays.pop(_VOCABULARY, None)
        planned["vocabulary"] = None if tokens is None else msgspec.json.decode(tokens.tobytes())
        plan = msgspec.convert(planned, Planned)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise VerificationError(f"it is not what a record has: {error}") from error
    original = None
    if facts.level != LEVELS[0]:
        original = from_arrays(arrays, computed)
    elif arrays or computed:
        raise VerificationError(f"it has outputs, and its level is {facts.level}")
    known = {name: getattr(facts, name) for name in _Facts.__struct_fields__}
    record = Record(**known | {"planned": plan, "original": original})
    for fault in faults(record):
        raise VerificationError(f"it contradicts itself: {fault}")
    return record


def fitting(record: Record, folder: ModelFolder) -> ModelFolder:
    """The folder without what is not of the record's class.

    Raises:
        VerificationError: it is of another class.
    """
    planned, name = record.planned, record.planned.plan.architecture.name
    if planned.options.head is not None and folder.provenance is None:
        folder = part_of_class(planned, folder)
    listed = folder.config.get("architectures")
    stated = listed[0] if isinstance(listed, list) and listed else name
    if stated == name:
        return folder
    present = groups_of(planned, folder.tensors)
    if folder.provenance is None and {*planned.plan.groups} <= present:
        note = f"{CONFIG} says {stated}, and the weights are those of {name}"
        return replace(folder, notes=[*folder.notes, note])
    raise VerificationError(
        f"OUT is a {stated} by its {CONFIG}, and the record is of a {name}. Make a record with the"
        " options of the conversion, such as --head"
    )


def _seal(metadata: Mapping[str, Any], arrays: "Mapping[str, Array]") -> str:
    """The sha256 of all that a record says."""
    digest = hashlib.sha256()
    for key in ("facts", "computed"):
        text = str(metadata[key]).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _without_infinity(value: Any) -> Any:
    """Values without the keys whose number is infinite, which JSON lacks; all are defaults."""
    if isinstance(value, dict):
        return {
            key: _without_infinity(inner)
            for key, inner in value.items()
            if inner not in (float("inf"), -float("inf"))
        }
    return [*map(_without_infinity, value)] if isinstance(value, list) else value
