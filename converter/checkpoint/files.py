"""Where a checkpoint's bytes lie: in a folder, or inside an archive that is never unpacked there.

A `File` is a range of what bytes are read from, so a stored member of a zip, or of a tar, is read
where it is, and so is an archive in an archive. What is compressed goes, when it is first needed,
to a nameless temporary file.
"""

import errno
import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError

if TYPE_CHECKING:
    import gzip
    import tarfile
    import zipfile

    from _typeshed import WriteableBuffer

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the bytes that are done, and how many there are (0: unknown)."""

_COPY_BYTES = 1 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# What an archive may unpack to, in all. Trained weights are packed to some nine tenths. Zeros are
# packed a thousandfold, but an optimizer's slots before its first step are two thirds of a
# checkpoint: it is packed to a third then. Only one that is nearly all zeros grows 64-fold, and up
# to a GiB that is let pass too. A bomb can't fill the disk, and is refused with what to do instead.
UNPACKED_ALWAYS, UNPACKED_GROWTH = 1 << 30, 64
# The end of a zip, without a comment, and what stands before each file (APPNOTE 4.3.15, 4.3.7).
_ZIP_END_BYTES, _ZIP_HEADER_BYTES, _ZIP_HEADERS = 42, 30, 256
# A tar's header of a long name, or of attributes, is read whole, and every file takes a kilobyte.
_TAR_HEADER_BYTES, _TAR_FILES, _TAR_ATTRIBUTES = 1 << 17, 100_000, 100
_TAR_AHEAD = 2048  # what stands before a file has one to three blocks of 512


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
        return [name for name in names if _is_inside(name)]

    def open(self, name: str) -> File:
        return open_file(os.path.join(self.path, name), os.path.join(self.path, name))


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


def archive(file: File, progress: Progress | None = None) -> Folder | None:
    """The inside of a zip, tar or gzipped tar, told by its first bytes; None for any other file.

    Raises:
        CheckpointError: the archive is damaged.
    """
    head = file.read(0, min(file.size, 4))
    if head in (b"PK\x03\x04", b"PK\x05\x06"):
        return _Zip(file, progress)
    if head.startswith(b"\x1f\x8b"):
        return _Tar(_gunzip(file, progress))
    if file.size > 512 and file.read(257, 5) == b"ustar":
        return _Tar(file)
    return None


class _Zip:
    listed = True

    def __init__(self, file: File, progress: Progress | None) -> None:
        import zipfile

        self.path = file.name
        self._progress = progress
        self._file = file
        try:
            file.fetch([(max(file.size - _ZIP_END_BYTES, 0), file.size)])
            self._zip = zipfile.ZipFile(file.stream())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise CheckpointError(
                f"{self.path} is a damaged zip ({error}). Download it again."
            ) from error
        self._members = {
            _trim(info.filename): info
            for info in self._zip.infolist()
            if info.filename and not info.is_dir()
        }
        starts = [info.header_offset for info in self._members.values()][:_ZIP_HEADERS]
        file.fetch([(start, start + _ZIP_HEADER_BYTES) for start in starts])
        self._inflated: dict[str, File] = {}
        self._room = _may_unpack_to(self._file.size)

    def names(self) -> list[str]:
        return sorted(name for name in self._members if _is_inside(name))

    def open(self, name: str) -> File:
        import zipfile

        info = self._members[name]
        shown = f"{self.path}/{name}"
        try:
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                start = self._start_of(info, shown)
                if start + info.file_size > self._file.size:
                    raise CheckpointError(f"{shown} is damaged. Download {self.path} again.")
                return self._file.part(shown, start, info.file_size)
            if name not in self._inflated:
                start = self._start_of(info, shown)
                end = min(start + info.compress_size, self._file.size)
                self._file.fetch([(info.header_offset, end)], self._progress)
                with self._zip.open(info) as member:
                    spool = _spool(member, shown, info.file_size, self._room, self._progress)
                with spool:
                    descriptor = Descriptor(os.dup(spool.fileno()))
                size = os.fstat(descriptor.fd).st_size
                if size != info.file_size:
                    raise EOFError(f"{size:,} bytes of {info.file_size:,}")
                self._inflated[name] = File(shown, descriptor, 0, size)
                self._room -= size
            return self._inflated[name]
        except CheckpointError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise CheckpointError(f"{shown} can't be unpacked: {error}") from error
        except Exception as error:  # every decompressor has errors of its own
            raise CheckpointError(f"{shown} is damaged ({error}). Download it again.") from error

    def is_packed(self, name: str) -> bool:
        return self._members[name].compress_type != 0  # ZIP_STORED

    def _start_of(self, info: "zipfile.ZipInfo", shown: str) -> int:
        """Where the bytes of a member begin."""
        # The local header repeats the name, with an extra field of its own length (APPNOTE 4.3.7).
        header = self._file.read(info.header_offset, _ZIP_HEADER_BYTES)
        signature, *_, name_bytes, extra_bytes = struct.unpack("<4s5H3L2H", header)
        if signature != b"PK\x03\x04":
            raise CheckpointError(f"{shown} is damaged. Download {self.path} again.")
        return info.header_offset + 30 + int(name_bytes) + int(extra_bytes)


def is_packed(folder: Folder, name: str) -> bool:
    """Whether a file has to be unpacked before it can be read."""
    return isinstance(folder, _Zip) and folder.is_packed(name)


class _Tar:
    listed = True

    def __init__(self, file: File) -> None:
        import tarfile

        self.path = file.name
        self._file = file
        try:
            headers: Any = _Headers(file.stream(_TAR_AHEAD))
            with tarfile.open(fileobj=headers, mode="r:") as contents:
                self._members = {
                    _trim(member.name): (member.offset_data, member.size)
                    for member in _ascending(contents)
                    if member.isreg() and not member.issparse()
                }
        except (
            tarfile.TarError,
            OSError,
            ValueError,
            EOFError,
            MemoryError,  # tarfile believes the header of a long name, however long
            OverflowError,
            RecursionError,  # headers of headers of headers
        ) as error:
            reason = str(error) or type(error).__name__
            raise CheckpointError(
                f"{self.path} is a damaged tar ({reason}). Download it again."
            ) from error

    def names(self) -> list[str]:
        return sorted(name for name in self._members if _is_inside(name))

    def open(self, name: str) -> File:
        start, size = self._members[name]
        shown = f"{self.path}/{name}"
        if start + size > self._file.size:
            raise CheckpointError(f"{shown} is cut off. Download {self.path} again.")
        return self._file.part(shown, start, size)


class _Headers:
    """A tar as tarfile reads it, which takes a header of any length that it claims to have."""

    def __init__(self, tar: IO[bytes]) -> None:
        self.seek, self.tell, self._read = tar.seek, tar.tell, tar.read

    def read(self, size: int) -> bytes:
        if size > _TAR_HEADER_BYTES:
            raise ValueError(f"a header of {size:,} bytes")
        return self._read(size)


def _ascending(contents: "tarfile.TarFile") -> Iterator["tarfile.TarInfo"]:
    """The members of a tar; by itself tarfile follows a negative size back, round and round."""
    import tarfile

    end = -1
    for _ in range(_TAR_FILES):
        member = contents.next()
        if member is None:
            return
        if member.size < 0 or member.offset <= end:
            raise tarfile.ReadError(f"{member.name} has a wrong size")
        # Attributes that stand for all files are copied to each, and tarfile keeps every file.
        if len(contents.pax_headers) > _TAR_ATTRIBUTES:
            raise tarfile.ReadError("more attributes of all files than any tar has")
        end = member.offset
        contents.members.clear()  # type: ignore[attr-defined]
        yield member
    raise tarfile.ReadError(f"more than {_TAR_FILES:,} files")


def _is_inside(name: str) -> bool:
    """Whether a file is its author's, not one that macOS put beside it."""
    return not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith("._")


def _trim(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")  # some tools for Windows write backslashes


def _gunzip(file: File, progress: Progress | None) -> File:
    import gzip
    import zlib

    file.fetch([(0, file.size)], progress)
    try:
        with gzip.GzipFile(fileobj=file.stream()) as packed:
            spool = _spool(packed, file.name, 0, _may_unpack_to(file.size), progress)
    except (OSError, zlib.error, EOFError) as error:
        raise CheckpointError(f"{file.name} is damaged ({error}). Download it again.") from error
    with spool:
        descriptor = Descriptor(os.dup(spool.fileno()))
    return File(file.name, descriptor, 0, os.fstat(descriptor.fd).st_size)


def _may_unpack_to(size: int) -> int:
    return UNPACKED_ALWAYS + UNPACKED_GROWTH * size


def _spool(
    source: "IO[bytes] | gzip.GzipFile", name: str, size: int, most: int, progress: Progress | None
) -> IO[bytes]:
    """Unpack a stream into a temporary file that has no name and goes away by itself.

    Args:
        source: the stream.
        name: what messages call it.
        size: what it is said to have, 0 where that is not known.
        most: of so many bytes, the stream is refused.
        progress: told of what is done.
    """
    import tempfile
    from contextlib import suppress

    done = 0
    try:
        spool = tempfile.TemporaryFile()  # noqa: SIM115 (it outlives this function)
    except OSError as error:
        raise no_room(name, "unpacked", done, error) from error
    try:
        room = os.fstatvfs(spool.fileno())
        if size <= most and size > room.f_bavail * room.f_frsize:
            raise no_room(name, "unpacked", done)
        while size <= most and (chunk := source.read(_COPY_BYTES)):
            try:
                spool.write(chunk)
                spool.flush()
            except OSError as error:
                raise no_room(name, "unpacked", done, error) from error
            done += len(chunk)
            if done > most:
                break
            if progress is not None:
                progress(f"unpacking {name}", done, size)
        if max(size, done) > most:
            raise CheckpointError(
                f"{name} unpacks to more than {most:,} bytes, too much for a checkpoint in an"
                " archive of its size. If you trust it, unpack it yourself and give the folder."
            )
    except BaseException:
        with suppress(OSError):  # what the disk did not take, it does not take now either
            spool.close()
        raise
    return spool


def no_room(name: str, must: str, done: int, error: OSError | None = None) -> CheckpointError:
    """What to say where no more than `done` bytes of what `must` be done fit the disk."""
    reason = error.strerror if error is not None else os.strerror(errno.ENOSPC)
    return CheckpointError(
        f"{name} has to be {must}, and the folder for temporary files took {done:,} bytes of it:"
        f" {reason}. Set TMPDIR to a folder with more room."
    )
