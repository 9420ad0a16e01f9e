"""A Plan -> the tensors of a model, as a safetensors file or a torch file.

Every tensor is read once, checked, transformed on its way and written to its place; no more than a
few tensors are in memory at a time, whatever the checkpoint's size.
"""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from .checkpoint import Checkpoint, Progress
from .checkpoint.checksum import crc32c
from .checkpoint.dtypes import numpy_dtype
from .errors import OutputError
from .plan import FLOATS, Entry, Plan
from .transforms import TRANSFORMS

if TYPE_CHECKING:
    from .transforms import Array

Buffer = memoryview | bytes

# safetensors' names of dtypes, as in safetensors/tensor.rs
_SAFETENSORS = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_THREADS = 2  # one reads and transforms while the other writes; a third gains nothing
_PIECE_BYTES = 1 << 20  # fits a core's cache, so that checksum and write find the bytes there
_ROWS = 16  # written at once into a transposed tensor: 16 float32 fill a cache line of it


def write_safetensors(
    checkpoint: Checkpoint,
    plan: Plan,
    path: Path,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the tensors of a plan, as https://huggingface.co/docs/safetensors describes the file.

    Args:
        checkpoint: where the variables are.
        plan: which become what.
        path: the file, which must not exist.
        progress: told, now and then, the bytes that are written and how many there will be.

    Returns:
        The crc32c of every tensor's bytes.

    Raises:
        CheckpointError: a variable can't be read, or is damaged.
        OutputError: a number does not fit the dtype, or the file can't be written.
    """
    # The widest dtypes first keep every tensor aligned to its elements, as the format asks.
    entries = sorted(plan.entries, key=lambda e: (-FLOATS[e.dtype], e.tensor))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places: dict[str, int] = {}
    end = 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        places[entry.tensor] = start
        header[entry.tensor] = {
            "dtype": _SAFETENSORS[entry.dtype],
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    data_start = 8 + len(text)
    room = os.statvfs(path.parent)
    if room.f_bavail * room.f_frsize < data_start + end:  # known before the work, not at its end
        raise OutputError(
            f"{path.parent} has room for {room.f_bavail * room.f_frsize:,} bytes, and"
            f" {data_start + end:,} are needed"
        )
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write(fd, len(text).to_bytes(8, "little") + text, 0)
        done = 0
        # The kernel lets one thread at a time write to a file, and the others burn their time
        # waiting for it; here they sleep.
        turn = threading.Lock()

        def write(data: Buffer, place: int) -> None:
            nonlocal done
            with turn:
                _write(fd, data, place)
                done += len(data)
                if progress is not None:
                    progress("converting", done, end)

        checksums: dict[str, int] = {}

        def copy(entry: Entry, scratch: _Scratch) -> None:
            place = data_start + places[entry.tensor]
            checksums[entry.tensor] = _copy(checkpoint, entry, place, write, scratch)

        _in_threads(copy, sorted(entries, key=lambda e: checkpoint.position(e.variable)))
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        os.close(fd)
    return checksums


def write_torch(safetensors: Path, path: Path) -> None:
    """Write the tensors of a safetensors file as torch.save does.

    Raises:
        OutputError: torch is not installed, or the file can't be written.
    """
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError as error:
        raise OutputError(
            f"--format bin needs torch, which can't be imported ({error});"
            " `pip install bertconvert[torch]` brings it"
        ) from error
    torch.save(load_file(safetensors), path)


class _Scratch:
    """A thread's own memory, made once and used for every tensor."""

    def __init__(self) -> None:
        self._piece = np.empty(_PIECE_BYTES, np.uint8)
        self._tensor = np.empty(_PIECE_BYTES, np.uint8)

    def piece(self, row_bytes: int) -> memoryview:
        """Room for as many whole rows as make a piece, and for one at least."""
        nbytes = max(_PIECE_BYTES // row_bytes, 1) * row_bytes
        if nbytes > len(self._piece):
            self._piece = np.empty(nbytes, np.uint8)
        return self._piece.data[:nbytes]

    def tensor(self, nbytes: int) -> "Array":
        if nbytes > len(self._tensor):
            self._tensor = np.empty(nbytes, np.uint8)
        return self._tensor[:nbytes]


def _copy(
    checkpoint: Checkpoint,
    entry: Entry,
    place: int,
    write: Callable[[Buffer, int], None],
    scratch: _Scratch,
) -> int:
    """Copy one variable to byte `place` of a file, transformed and cast; gives its crc32c."""
    variable = checkpoint.variables[entry.variable]
    source_dtype, dtype = variable.dtype, numpy_dtype(entry.dtype)
    if entry.op == "identity":
        checksum = 0
        for piece in checkpoint.stream(entry.variable, scratch.piece(source_dtype.itemsize)):
            if source_dtype != dtype:
                numbers = np.frombuffer(piece, source_dtype)
                cast = scratch.tensor(numbers.size * dtype.itemsize).view(dtype)
                _cast(numbers, cast, entry)
                piece = cast.view(np.uint8).data
            checksum = crc32c(piece, checksum)
            write(piece, place)
            place += len(piece)
        return checksum
    # The tensor is filled through a view that is laid out as TensorFlow has it.
    whole = scratch.tensor(entry.nbytes)
    tensor = whole.view(dtype).reshape(entry.shape)
    view = TRANSFORMS[TRANSFORMS[entry.op].inverse].apply(tensor)
    row = 0
    row_bytes = variable.nbytes // variable.shape[0]
    for piece in checkpoint.stream(entry.variable, scratch.piece(row_bytes)):
        rows = np.frombuffer(piece, source_dtype).reshape(-1, *variable.shape[1:])
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            _cast(part, view[row : row + len(part)], entry)
            row += len(part)
    write(whole.data, place)
    return crc32c(whole.data)


def _cast(numbers: "Array", into: "Array", entry: Entry) -> None:
    if numbers.dtype == into.dtype:
        np.copyto(into, numbers)
        return
    with np.errstate(over="ignore"):
        np.copyto(into, numbers, casting="unsafe")
    if np.any(np.isinf(into) & np.isfinite(numbers)):
        largest = np.abs(numbers[np.isfinite(numbers)]).max()
        raise OutputError(
            f"{entry.variable} has numbers too large for {into.dtype}, such as {largest:.4g}."
            " Choose --dtype bfloat16, or keep."
        )


def _write(fd: int, data: Buffer, place: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, place)
        place += count
        view = view[count:]


def _in_threads(work: Callable[[Entry, _Scratch], None], entries: Iterable[Entry]) -> None:
    """Do the work on every entry, in a few threads; the first error stops all and is raised."""
    queue = iter(entries)  # a list's iterator is safe to share
    errors: list[BaseException] = []

    def run() -> None:
        try:
            scratch = _Scratch()
            for entry in queue:
                if errors:
                    return
                work(entry, scratch)
        except BaseException as error:
            errors.append(error)

    helpers = [threading.Thread(target=run, daemon=True) for _ in range(_THREADS - 1)]
    for helper in helpers:
        helper.start()
    try:
        run()
    finally:  # whatever happens, nobody writes to a file that is closed
        for helper in helpers:
            helper.join()
    if errors:
        raise errors[0]
