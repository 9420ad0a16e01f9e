"""Arrays of a checkpoint or a model -> a file: each is read once, transformed, cast and written.

Only a few arrays are in memory at a time, however many there are. It is the same in both
directions: the formats differ in what surrounds the arrays.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from msgspec import Struct

from .checkpoint import Variable
from .checkpoint.dtypes import numpy_dtype
from .errors import OutputError
from .storage.files import Progress
from .transforms import TRANSFORMS

if TYPE_CHECKING:
    from .transforms import Array

Buffer = memoryview | bytes

_THREADS = 2  # one reads and transforms while the other writes; a third gains nothing
_PIECE_BYTES = 1 << 20  # fits a core's cache, so that checksum and write find the bytes there
# A larger write makes Linux search for larger pages, which takes up to four times as long.
_WRITE_BYTES = 1 << 17
# A larger array is transposed in bands of its rows, so that it takes no more memory than this. The
# largest of the published models has 268 MB.
_BAND_BYTES = 36 << 20
_LARGE_PIECE_BYTES = 1 << 22  # of such an array, so that a tile has more rows
_STRIP_BYTES = 1 << 13  # parts of rows that are shorter take longer to read than whole rows
_TILE = 256  # rows and columns that are transposed at once, in a core's cache


class Source(Protocol):
    """Where arrays come from. `Checkpoint` describes what the methods do."""

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The description of each array by name."""

    def fetch(self, names: Iterable[str], progress: Progress | None = None) -> None:
        """Announce the arrays to be read."""

    def position(self, name: str) -> tuple[int, int]:
        """File and byte of an array's start: the order in which reading is cheap."""

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        """Yield an array's bytes (little-endian, row-major) piece by piece in `buffer`."""

    def strips(
        self, name: str, row_bytes: int, start: int, stop: int, buffer: memoryview
    ) -> Iterator[memoryview] | None:
        """Yield the bytes from `start` to `stop` of each row; None if that takes a whole read."""


class Copy(Struct, frozen=True, gc=False):
    """An array of a source, and what it becomes in a file."""

    name: str  # in the source
    result: str  # the name of what it becomes
    op: str
    shape: tuple[int, ...]  # of the result; of two dimensions unless op is "identity"
    dtype: str  # of the result: TensorFlow's name
    place: int  # the result's first byte in the file

    @property
    def nbytes(self) -> int:
        """The bytes of the result."""
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


def write_file(
    path: Path,
    source: Source,
    copies: Sequence[Copy],
    others: Mapping[int, bytes],
    progress: Progress | None = None,
    observe: Callable[[Copy, Buffer], None] | None = None,
) -> None:
    """Write arrays of a source, and other bytes, to a file.

    Args:
        path: the file, which must not exist.
        source: has the arrays.
        copies: what becomes of them, and where it is placed.
        others: bytes that no array gives, by their places in the file.
        progress: told of the bytes of arrays that are written, and of their total.
        observe: told of the bytes of each result, from the first to the last, before they are
            written. Several threads call it, but only one of them for the same result.

    Raises:
        CheckpointError, ModelError: an array can't be read, or is damaged.
        OutputError: a number does not fit the dtype, or the file can't be written.
    """
    total = sum(copy.nbytes for copy in copies)
    needed = total + sum(map(len, others.values()))
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:  # reported before the work, not at its end
        raise OutputError(
            f"{path.parent} has {free:,} bytes of free space, but {needed:,} are needed"
        )
    source.fetch([copy.name for copy in copies], progress)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for place, data in others.items():
            _write(fd, data, place)
        done = 0
        # Linux lets one thread at a time write to a file, and the others spin meanwhile. With
        # this lock they sleep.
        turn = threading.Lock()

        def work(copy: Copy, scratch: _Scratch) -> None:
            nonlocal done
            place = copy.place
            for piece in _pieces(source, copy, scratch):
                if observe is not None:
                    observe(copy, piece)
                with turn:
                    _write(fd, piece, place)
                    done += len(piece)
                    if progress is not None:
                        progress("converting", done, total)
                place += len(piece)

        _in_threads(work, sorted(copies, key=lambda copy: source.position(copy.name)))
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        os.close(fd)


class _Scratch:
    """The memory of one thread, allocated once and used for every array."""

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


def _pieces(source: Source, copy: Copy, scratch: _Scratch) -> Iterator[Buffer]:
    """The bytes of a result, from the first to the last; the next piece takes their memory.

    An op other than "identity" takes a matrix, and makes its columns the rows of the result.
    """
    source_dtype, dtype = source.variables[copy.name].dtype, numpy_dtype(copy.dtype)
    if not copy.nbytes:
        return
    if copy.op == "identity":
        for piece in source.stream(copy.name, scratch.piece(_PIECE_BYTES // _TILE)):
            if source_dtype == dtype:
                yield piece
                continue
            numbers = np.frombuffer(piece, source_dtype)
            cast = scratch.tensor(numbers.size * dtype.itemsize).view(dtype)
            _cast(numbers, cast, copy)
            yield cast.view(np.uint8).data
        return
    row_bytes = copy.nbytes // copy.shape[0]  # of the result; a column of the source's array
    band = max(_BAND_BYTES // row_bytes, 1)
    undo = TRANSFORMS[TRANSFORMS[copy.op].inverse].apply
    for first in range(0, copy.shape[0], band):
        last = min(first + band, copy.shape[0])
        whole = scratch.tensor((last - first) * row_bytes)
        # The band is filled through a view with the layout of the source.
        view = undo(whole.view(dtype).reshape(last - first, -1))
        row = 0
        for rows in _columns(source, copy, first, last, scratch):
            for column in range(0, last - first, _TILE):
                # If rows are a power of two apart, their starts compete for the same few cache
                # lines. The rows of a tile are a little longer.
                part = rows[:, column : column + _TILE]
                tile = scratch.tile(dtype)[: len(part), : part.shape[1]]
                _cast(part, tile, copy)
                np.copyto(view[row : row + len(rows), column : column + _TILE], tile)
            row += len(rows)
        yield whole.data


def _columns(
    source: Source, copy: Copy, first: int, last: int, scratch: _Scratch
) -> "Iterator[Array]":
    """Columns `first` to `last` of an array that is a matrix, some rows at a time.

    For the first columns all bytes are read, so that their checksum is compared.
    """
    dtype = source.variables[copy.name].dtype
    width, size = copy.shape[0], dtype.itemsize
    most = _PIECE_BYTES if copy.nbytes <= _BAND_BYTES else _LARGE_PIECE_BYTES
    strips = None
    if first:
        wide = (last - first) * size >= _STRIP_BYTES
        start, stop = (first, last) if wide else (0, width)
        buffer = scratch.piece((stop - start) * size, most)
        strips = source.strips(copy.name, width * size, start * size, stop * size, buffer)
    if strips is None:
        start, stop = 0, width
        strips = source.stream(copy.name, scratch.piece(width * size, most))
    for strip in strips:
        rows = np.frombuffer(strip, dtype).reshape(-1, stop - start)
        yield rows[:, first - start : last - start]


def _cast(numbers: "Array", into: "Array", copy: Copy) -> None:
    if numbers.dtype == into.dtype:
        np.copyto(into, numbers)
        return
    with np.errstate(all="ignore"):  # a NaN is invalid for numpy, but is kept
        np.copyto(into, numbers, casting="unsafe")
        overflows = np.isinf(into) & np.isfinite(numbers)
    if np.any(overflows):
        largest = np.abs(numbers[np.isfinite(numbers)]).max()
        raise OutputError(
            f"{copy.name} has numbers too large for {into.dtype}, such as {largest:.4g}."
            f" Choose --dtype {'bfloat16, or keep' if into.dtype == np.float16 else 'keep'}."
        )


def _write(fd: int, data: Buffer, place: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view[:_WRITE_BYTES], place)
        place += count
        view = view[count:]


def _in_threads(work: Callable[[Copy, _Scratch], None], copies: Iterable[Copy]) -> None:
    """Do the work for every copy, in a few threads. An error stops all.

    Of several errors, that of the first copy is raised, so that it is always the same.
    """
    queue = iter([*enumerate(copies)])  # threads can share a list's iterator
    errors: list[tuple[int, BaseException]] = []

    def run(ended: threading.Event) -> None:
        started = 0
        try:
            scratch = _Scratch()
            for number, copy in queue:
                started = number
                if errors:
                    return
                work(copy, scratch)
        except BaseException as error:
            errors.append((started, error))
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
                errors.append((-1, error))
    if errors:
        raise min(errors, key=lambda item: item[0])[1]
