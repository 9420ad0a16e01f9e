"""Files and folders whose bytes can be read by range, on disk or not."""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Protocol

from ..errors import CheckpointError

if TYPE_CHECKING:
    import mmap

    from _typeshed import WriteableBuffer

_LARGE = 1 << 22  # bytes of a read, of which few are

Progress = Callable[[str, int, int], None]
"""Called with the current step, the bytes done and the bytes in all (0: unknown)."""

IsWanted = Callable[[str], bool]
"""Whether a file of this name, other than an archive, is what the caller looks for."""


def nothing(name: str) -> bool:
    """Wants no file."""
    return False


class Medium(Protocol):
    """Where the bytes of any number of `File`s come from; safe in several threads."""

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill the start of `buffer`; gives the number of bytes, which is 0 only at the end.

        Raises:
            OSError: the bytes can't be read.
        """

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        """Prepare to read the ranges (start, end), if that is faster for all of them at once."""


class Descriptor:
    """An open file descriptor, which is closed together with the last `File` that uses it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read_into(self, position: int, buffer: memoryview) -> int:
        return os.preadv(self.fd, [buffer], position)

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        pass  # a disk needs no preparation

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)  # bound early: `os` may be gone when the interpreter exits


class File:
    """A range of a medium's bytes, with the name that messages use for it.

    Args:
        name: the name.
        medium: where the bytes come from.
        start: the position of the file's first byte in the medium.
        size: the number of bytes.
    """

    def __init__(self, name: str, medium: Medium, start: int, size: int) -> None:
        self.name = name
        self.size = size
        self._medium = medium
        self._start = start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) with the bytes from `offset`; safe in several threads.

        Raises:
            CheckpointError: the file ends before that, or can't be read.
        """
        self.check(offset, len(buffer))
        done = 0
        while done < len(buffer):
            done += self.read_some(offset + done, buffer[done:])

    def read_strips(self, offset: int, stride: int, width: int, buffer: memoryview) -> None:
        """Fill `buffer` with `width` bytes from `offset`, from `stride` bytes after it, and so on.

        Raises:
            CheckpointError: as `read_into`.
        """
        if width == stride:
            return self.read_into(offset, buffer)
        count = len(buffer) // width
        self.check(offset, (count - 1) * stride + width)
        try:
            for number in range(count):
                at = offset + number * stride
                strip = buffer[number * width : (number + 1) * width]
                if self._medium.read_into(self._start + at, strip) != width:
                    self.read_into(at, strip)
        except OSError as error:
            raise self._unreadable(error) from error

    def strips(
        self, offset: int, size: int, row_bytes: int, start: int, stop: int, buffer: memoryview
    ) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop` of each row of a matrix, piece by piece.

        Args:
            offset: where the matrix begins.
            size: the bytes of the matrix.
            row_bytes: the bytes of a row.
            start: the first byte of a row that is wanted.
            stop: the byte after the last.
            buffer: writable bytes for a piece, as many as whole strips have.

        Raises:
            CheckpointError: as `read_into`.
        """
        width = stop - start
        step = len(buffer) // width * row_bytes
        for at in range(0, size, step):
            piece = buffer[: min(step, size - at) // row_bytes * width]
            self.read_strips(offset + at + start, row_bytes, width, piece)
            yield piece

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Fill the start of `buffer` with at least one byte; gives the number of bytes.

        Raises:
            CheckpointError: as `read_into`.
        """
        try:
            count = self._medium.read_into(self._start + offset, buffer)
        except OSError as error:
            raise self._unreadable(error) from error
        if count == 0:
            raise CheckpointError(f"{self.name} became shorter while it was read")
        return count

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset`.

        Raises:
            CheckpointError: as `read_into`.
        """
        return bytes(self.view(offset, size))

    def view(self, offset: int, size: int) -> memoryview:
        """Read `size` bytes from `offset` into memory of their own, without another copy.

        Raises:
            CheckpointError: as `read_into`.
        """
        self.check(offset, size)  # before memory is allocated
        buffer = memoryview(_memory(size))
        self.read_into(offset, buffer)
        return buffer

    def part(self, name: str, offset: int, size: int) -> "File":
        """A file that is a range of this one, from byte `offset`."""
        return File(name, self._medium, self._start + offset, size)

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None = None) -> None:
        """Announce the ranges (start, end) to be read: those of a remote file are downloaded.

        Raises:
            CheckpointError: they can't be downloaded.
        """
        try:
            moved = [(self._start + start, self._start + end) for start, end in ranges]
            self._medium.fetch(moved, progress)
        except OSError as error:
            raise self._unreadable(error) from error

    def stream(self, ahead: int = 1 << 16) -> IO[bytes]:
        """A Python file object, which reads up to `ahead` bytes ahead."""
        return io.BufferedReader(_Raw(self), ahead)

    def check(self, offset: int, size: int) -> None:
        """Check that the file has `size` bytes at `offset`.

        Raises:
            CheckpointError: it ends before that.
        """
        if offset + size > self.size:
            raise CheckpointError(
                f"{self.name} is cut off: it has {self.size:,} bytes, and bytes {offset:,} to"
                f" {offset + size:,} are needed. Download or copy it again."
            )

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.name} can't be read: {error.strerror or error}")


def _memory(size: int) -> "bytearray | mmap.mmap":
    """Memory for bytes to be read into. A bytearray would be filled with zeros first."""
    if size < _LARGE:
        return bytearray(size)
    import mmap

    return mmap.mmap(-1, size)


def is_private(view: memoryview) -> bool:
    """Whether the memory is that of a large `view` of a file, which has all of it."""
    return type(view.obj).__name__ == "mmap"


class _Raw(io.RawIOBase):
    """A file with a position."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, f"the position {start + offset:,} is negative")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(self._file.size - self._at, 0)]
        count = self._file.read_some(self._at, view) if view else 0
        self._at += count
        return count


class Folder(Protocol):
    """Files by their relative names, with `/` between the parts."""

    path: str
    listed: bool  # after `names`: False if it may be incomplete, as a server lists no names

    def names(self) -> list[str]:
        """The files' names, sorted."""

    def open(self, name: str) -> File:
        """Open a file for reading."""

    def above(self, inside: str, expected: Sequence[str]) -> "Folder | None":
        """The folder that this one is in, without its subfolders; None if it can't be read.

        Args:
            inside: a subfolder of it to take instead; "" for itself.
            expected: names to ask for if a server does not list it.
        """


def open_path(path: str, name: str = "") -> File:
    """Open a file on disk for reading.

    Args:
        path: the file.
        name: what messages call it; by default its path.

    Raises:
        CheckpointError: it does not exist, can't be opened, or is not a regular file.
    """
    name = name or path
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a process that writes to it.
        descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{name} can't be opened: {reason}") from error
    status = os.fstat(descriptor.fd)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{name} is not a regular file")
    return File(name, descriptor, 0, status.st_size)


class Directory:
    """A folder on disk with its subfolders.

    Args:
        path: the folder.
        files: the names of the files directly in it; by default the folder is listed, and its
            subfolders, too.
    """

    listed = True

    def __init__(self, path: str, files: Sequence[str] | None = None) -> None:
        self.path = path
        self._files = files

    def names(self) -> list[str]:
        try:
            names = self._names() if self._files is None else self._files
        except OSError as error:
            raise CheckpointError(f"{self.path} can't be listed: {error.strerror}") from error
        return sorted(name for name in names if not is_of_macos(name))

    def _names(self) -> list[str]:
        names = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if _is_file(entry):
                    names.append(entry.name)
                elif os.access(entry.path, os.R_OK | os.X_OK) and entry.is_dir():
                    with os.scandir(entry.path) as inner:
                        names += [f"{entry.name}/{file.name}" for file in inner if _is_file(file)]
        return names

    def open(self, name: str) -> File:
        return open_path(os.path.join(self.path, name))

    def above(self, inside: str, expected: Sequence[str]) -> "Directory | None":
        # Without the links in the path, as people read it.
        path = os.path.normpath(os.path.join(self.path, os.pardir, inside))
        try:
            with os.scandir(path) as entries:
                return Directory(path, [entry.name for entry in entries if _is_file(entry)])
        except OSError:
            return None


class Subfolder:
    """A folder within a folder, such as one in an archive."""

    def __init__(self, folder: Folder, base: str) -> None:
        self.path = os.path.join(folder.path, base)
        self.listed = folder.listed
        self._folder = folder
        self._base = f"{base}/"

    def names(self) -> list[str]:
        inside = (name for name in self._folder.names() if name.startswith(self._base))
        return [name.removeprefix(self._base) for name in inside]

    def open(self, name: str) -> File:
        return self._folder.open(self._base + name)

    def above(self, inside: str, expected: Sequence[str]) -> Folder:
        base = os.path.join(os.path.dirname(self._base.rstrip("/")), inside).rstrip("/")
        return Subfolder(self._folder, base) if base else self._folder


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link that points to itself
        return False


def is_of_macos(name: str) -> bool:
    """Whether macOS added the file, to keep a file's attributes on a foreign disk or in a zip."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def no_space(verb: str, name: str, error: OSError | None = None) -> CheckpointError:
    """The error for a temporary folder that can't take a file.

    Args:
        verb: what the file needs, `unpack` or `download`.
        name: the file.
        error: what the system reports; None for too little free space.
    """
    import tempfile

    error = error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = ": ".join(filter(None, [tempfile.tempdir, error.strerror or str(error)]))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CheckpointError(
            f"no space to {verb} {name} in the temporary folder ({reason}). Set TMPDIR to a larger"
            " one."
        )
    return CheckpointError(
        f"can't {verb} {name} to the temporary folder ({reason}). Set TMPDIR to another one."
    )
