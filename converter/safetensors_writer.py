"""A Plan -> the tensors of a model, as a safetensors file or a torch file.

Every tensor is read once, checked, transformed and written. Only a few tensors are in memory at a
time, however large the checkpoint is.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from .checkpoint import Checkpoint
from .checkpoint.dtypes import numpy_dtype
from .checks import FLOATS
from .errors import OutputError
from .plan import Entry, Plan
from .storage.files import Progress
from .text import pip_install
from .transforms import to_tensorflow

if TYPE_CHECKING:
    from .transforms import Array

Buffer = memoryview | bytes

# safetensors' names of dtypes, as in safetensors/tensor.rs
_SAFETENSORS = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_THREADS = 2  # one reads and transforms while the other writes; a third gains nothing
_PIECE_BYTES = 1 << 20  # fits a core's cache, so that checksum and write find the bytes there
# A larger write makes Linux search for larger pages, which takes up to four times as long.
_WRITE_BYTES = 1 << 17
# A larger tensor is transposed in bands of its rows, so that it takes no more memory than this. The
# largest of the published models has 268 MB.
_BAND_BYTES = 36 << 20
_LARGE_PIECE_BYTES = 1 << 22  # of such a tensor, so that a tile has more rows
_STRIP_BYTES = 1 << 13  # parts of rows that are shorter take longer to read than whole rows
_TILE = 256  # rows and columns that are transposed at once, in a core's cache


def write_safetensors(
    checkpoint: Checkpoint,
    plan: Plan,
    path: Path,
    progress: Progress | None = None,
) -> None:
    """Write the tensors of a plan, as https://huggingface.co/docs/safetensors describes the file.

    Args:
        checkpoint: has the variables.
        plan: says which variable becomes which tensor.
        path: the file, which must not exist.
        progress: told of the bytes that are written, and of their total.

    Raises:
        CheckpointError: a variable can't be read, or is damaged.
        OutputError: a number does not fit the dtype, or the file can't be written.
    """
    text, places = _layout(plan)
    data_start = 8 + len(text)
    end = sum(entry.nbytes for entry in plan.entries)
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < data_start + end:  # reported before the work, not at its end
        raise OutputError(
            f"{path.parent} has {free:,} bytes of free space, but {data_start + end:,} are needed"
        )
    checkpoint.fetch([entry.variable for entry in plan.entries], progress)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write(fd, len(text).to_bytes(8, "little") + text, 0)
        done = 0
        # Linux lets one thread at a time write to a file, and the others spin meanwhile. With
        # this lock they sleep.
        turn = threading.Lock()

        def write(data: Buffer, place: int) -> None:
            nonlocal done
            with turn:
                _write(fd, data, place)
                done += len(data)
                if progress is not None:
                    progress("converting", done, end)

        def copy(entry: Entry, scratch: _Scratch) -> None:
            _copy(checkpoint, entry, data_start + places[entry.tensor], write, scratch)

        _in_threads(copy, sorted(plan.entries, key=lambda e: checkpoint.position(e.variable)))
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        os.close(fd)


def safetensors_size(plan: Plan) -> int:
    """The bytes of the file that `write_safetensors` writes."""
    return 8 + len(_layout(plan)[0]) + sum(entry.nbytes for entry in plan.entries)


def _layout(plan: Plan) -> tuple[bytes, dict[str, int]]:
    """The header, and the offset of each tensor after it."""
    # Wide dtypes come first, which aligns every tensor to its elements, as the format requires.
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
    for tensor, shape in plan.empty.items():
        header[tensor] = {
            "dtype": _SAFETENSORS[plan.dtype],
            "shape": shape,
            "data_offsets": (end, end),
        }
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    return text, places


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
            f" install it: {pip_install('torch', 'torch')}"
        ) from error
    try:
        torch.save(load_file(safetensors), path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        raise OutputError(f"{path} can't be written: {error}") from error


class _Scratch:
    """The memory of one thread, allocated once and used for every tensor."""

    def __init__(self) -> None:
        self._piece = np.empty(_PIECE_BYTES, np.uint8)
        self._tensor = np.empty(_PIECE_BYTES, np.uint8)
        self._tile = np.empty((0, 0), np.uint8)

    def piece(self, row_bytes: int, most: int = _PIECE_BYTES) -> memoryview:
        """Space for as many whole rows as fit `most` bytes or a tile, and for at least one."""
        nbytes = min(max(most // row_bytes, 1), _TILE) * row_bytes
        if nbytes > len(self._piece):
            self._piece = np.empty(nbytes, np.uint8)
        return self._piece.data[:nbytes]

    def tile(self, dtype: "np.dtype[np.generic]") -> "Array":
        if self._tile.dtype != dtype:
            self._tile = np.empty((_TILE, _TILE + 16), dtype)
        return self._tile

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
) -> None:
    """Copy one variable to byte `place` of a file, transformed and cast."""
    variable = checkpoint.variables[entry.variable]
    source_dtype, dtype = variable.dtype, numpy_dtype(entry.dtype)
    if not entry.nbytes:
        return
    if entry.op == "identity":
        for piece in checkpoint.stream(entry.variable, scratch.piece(_PIECE_BYTES // _TILE)):
            if source_dtype != dtype:
                numbers = np.frombuffer(piece, source_dtype)
                cast = scratch.tensor(numbers.size * dtype.itemsize).view(dtype)
                _cast(numbers, cast, entry)
                piece = cast.view(np.uint8).data
            write(piece, place)
            place += len(piece)
        return
    row_bytes = entry.nbytes // entry.shape[0]  # of the tensor; a column of the variable
    band = max(_BAND_BYTES // row_bytes, 1)
    for first in range(0, entry.shape[0], band):
        last = min(first + band, entry.shape[0])
        whole = scratch.tensor((last - first) * row_bytes)
        # The band is filled through a view with TensorFlow's layout.
        view = to_tensorflow(whole.view(dtype).reshape(last - first, -1), entry.op)
        row = 0
        for rows in _columns(checkpoint, entry, first, last, scratch):
            for column in range(0, last - first, _TILE):
                # If rows are a power of two apart, their starts compete for the same few cache
                # lines. The rows of a tile are a little longer.
                part = rows[:, column : column + _TILE]
                tile = scratch.tile(dtype)[: len(part), : part.shape[1]]
                _cast(part, tile, entry)
                np.copyto(view[row : row + len(rows), column : column + _TILE], tile)
            row += len(rows)
        write(whole.data, place + first * row_bytes)


def _columns(
    checkpoint: Checkpoint, entry: Entry, first: int, last: int, scratch: _Scratch
) -> "Iterator[Array]":
    """Columns `first` to `last` of a variable that is a matrix, some rows at a time.

    For the first columns all bytes are read, so that their checksum is compared.
    """
    dtype = checkpoint.variables[entry.variable].dtype
    width, size = entry.shape[0], dtype.itemsize
    most = _PIECE_BYTES if entry.nbytes <= _BAND_BYTES else _LARGE_PIECE_BYTES
    strips = None
    if first:
        wide = (last - first) * size >= _STRIP_BYTES
        start, stop = (first, last) if wide else (0, width)
        buffer = scratch.piece((stop - start) * size, most)
        strips = checkpoint.strips(entry.variable, width * size, start * size, stop * size, buffer)
    if strips is None:
        start, stop = 0, width
        strips = checkpoint.stream(entry.variable, scratch.piece(width * size, most))
    for strip in strips:
        rows = np.frombuffer(strip, dtype).reshape(-1, stop - start)
        yield rows[:, first - start : last - start]


def _cast(numbers: "Array", into: "Array", entry: Entry) -> None:
    if numbers.dtype == into.dtype:
        np.copyto(into, numbers)
        return
    with np.errstate(all="ignore"):  # a NaN is invalid for numpy, but is kept
        np.copyto(into, numbers, casting="unsafe")
        overflows = np.isinf(into) & np.isfinite(numbers)
    if np.any(overflows):
        largest = np.abs(numbers[np.isfinite(numbers)]).max()
        raise OutputError(
            f"{entry.variable} has numbers too large for {into.dtype}, such as {largest:.4g}."
            f" Choose --dtype {'bfloat16, or keep' if into.dtype == np.float16 else 'keep'}."
        )


def _write(fd: int, data: Buffer, place: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view[:_WRITE_BYTES], place)
        place += count
        view = view[count:]


def _in_threads(work: Callable[[Entry, _Scratch], None], entries: Iterable[Entry]) -> None:
    """Do the work for every entry, in a few threads. The first error stops all and is raised."""
    queue = iter(entries)  # threads can share a list's iterator
    errors: list[BaseException] = []

    def run(ended: threading.Event) -> None:
        try:
            scratch = _Scratch()
            for entry in queue:
                if errors:
                    return
                work(entry, scratch)
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    ends = [threading.Event() for _ in range(_THREADS)]
    for end in ends[1:]:
        threading.Thread(target=run, args=(end,), daemon=True).start()
    run(ends[0])
    # No thread may write to a closed file, whatever happens. Thread.join is not used: before Python
    # 3.13, an interrupted join marks its thread as ended.
    for end in ends:
        while not end.is_set():
            try:
                end.wait()
            except BaseException as error:  # an interrupt, which stops the other threads, too
                errors.append(error)
    if errors:
        raise errors[0]
