"""Files and folders: ranges of bytes that can be read, wherever they are."""

import errno
import io
import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Protocol

from ..errors import CheckpointError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the bytes that are done, and how many there are (0: unknown)."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def absolute(path: str) -> str:
    """A path from the root; a URL is one."""
    return path if is_url(path) else os.path.abspath(path)


def is_url(path: str) -> bool:
    """Whether a path names something afar, such as https://host/x.zip or s3://bucket/folder."""
    return _URL.match(path) is not None


class Medium(Protocol):
    """What bytes are read from, by any number of `File`s and threads."""

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill as much of `buffer` as there is in one go; 0 bytes are read at the end alone.

        Raises:
            OSError: they can't be read.
        """

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        """Make (start, end) at hand, where that is better done all at once."""


class Descriptor:
    """An open file descriptor, closed with the last `File` that reads from it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read_into(self, position: int, buffer: memoryview) -> int:
        return os.preadv(self.fd, [buffer], position)

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        pass  # a disk's bytes are at hand

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)  # bound early: at the interpreter's exit `os` may be gone


class File:
    """`size` bytes of a medium, from byte `start`, under the name that a person knows."""

    def __init__(self, name: str, medium: Medium, start: int, size: int) -> None:
        self.name = name
        self.size = size
        self._medium = medium
        self._start = start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) with what stands at `offset`; safe in several threads.

        Raises:
            CheckpointError: the file ends before that, or can't be read.
        """
        self.check(offset, len(buffer))
        done = 0
        while done < len(buffer):
            done += self.read_some(offset + done, buffer[done:])

    def read_some(self, offset: int, buffer: memoryview) -> int:
        """Fill a part of `buffer`: as much as comes at once, and more than nothing.

        Raises:
            CheckpointError: as `read_into`.
        """
        try:
            count = self._medium.read_into(self._start + offset, buffer)
        except OSError as error:
            raise CheckpointError(
                f"{self.name} can't be read: {error.strerror or error}"
            ) from error
        if count == 0:
            raise CheckpointError(f"{self.name} became shorter while it was read")
        return count

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`.

        Raises:
            CheckpointError: as `read_into`.
        """
        self.check(offset, size)  # before anything is allocated
        buffer = bytearray(size)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def part(self, name: str, offset: int, size: int) -> "File":
        """A file that lies within this one, from byte `offset`."""
        return File(name, self._medium, self._start + offset, size)

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None = None) -> None:
        """Say which bytes, each (start, end), will be read: from afar they come all at once.

        Raises:
            CheckpointError: they can't be had.
        """
        try:
            moved = [(self._start + start, self._start + end) for start, end in ranges]
            self._medium.fetch(moved, progress)
        except OSError as error:
            raise CheckpointError(
                f"{self.name} can't be read: {error.strerror or error}"
            ) from error

    def stream(self, ahead: int = 1 << 16) -> IO[bytes]:
        """It as other libraries read a file, up to so many bytes ahead."""
        return io.BufferedReader(_Raw(self), ahead)

    def check(self, offset: int, size: int) -> None:
        """Make sure that there are `size` bytes at `offset`.

        Raises:
            CheckpointError: the file ends before that.
        """
        if offset + size > self.size:
            raise CheckpointError(
                f"{self.name} is cut off: bytes {offset:,} to {offset + size:,} are wanted, and it"
                f" has {self.size:,}. Download or copy it again."
            )


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
            raise ValueError(f"a negative position, {start + offset:,}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(self._file.size - self._at, 0)]
        count = self._file.read_some(self._at, view) if view else 0
        self._at += count
        return count


class Folder(Protocol):
    """Files by their names, relative and with `/` between the parts."""

    path: str
    listed: bool  # whether `names` has all of them, and not only those that are known otherwise

    def names(self) -> list[str]:
        """The files' names, sorted."""

    def open(self, name: str) -> File:
        """One of them, opened for reading."""


def open_file(path: str, name: str) -> File:
    """A file on disk, or afar; `name` is what messages call one on disk.

    Raises:
        CheckpointError: there is none, it can't be opened, or it is no regular file.
    """
    if is_url(path):
        from .remote import open_url

        return open_url(path)
    return open_path(path, name)


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
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{name} can't be opened: {reason}") from error
    status = os.fstat(descriptor.fd)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{name} is not a regular file")
    return File(name, descriptor, 0, status.st_size)


class Directory:
    """A folder on disk, with the folders directly in it."""

    listed = True

    def __init__(self, path: str) -> None:
        self.path = path

    def names(self) -> list[str]:
        try:
            return sorted(self._names())
        except OSError as error:
            raise CheckpointError(f"{self.path} can't be listed: {error.strerror}") from error

    def _names(self) -> list[str]:
        names = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if _is_file(entry):
                    names.append(entry.name)
                elif os.access(entry.path, os.R_OK | os.X_OK) and entry.is_dir():
                    with os.scandir(entry.path) as inner:
                        names += [f"{entry.name}/{file.name}" for file in inner if _is_file(file)]
        return [name for name in names if is_inside(name)]

    def open(self, name: str) -> File:
        return open_path(os.path.join(self.path, name))


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


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link that points to itself
        return False


def is_inside(name: str) -> bool:
    """Whether a file is its author's, not one that macOS put beside it."""
    return not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith("._")


def no_room(name: str, must: str, done: int, error: OSError | None = None) -> CheckpointError:
    """What to say where no more than `done` bytes of what `must` be done fit the disk."""
    reason = error.strerror if error is not None else os.strerror(errno.ENOSPC)
    return CheckpointError(
        f"{name} has to be {must}, and the folder for temporary files took {done:,} bytes of it:"
        f" {reason}. Set TMPDIR to a folder with more room."
    )
