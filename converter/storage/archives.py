"""The files in a zip, a tar or a gzipped tar, read in place.

A member that is not compressed is a range of the archive's bytes, and is read as such; so is an
archive in an archive. A compressed member is unpacked when it is first opened, to a temporary file
without a name.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from ..errors import CheckpointError
from .files import Descriptor, File, Folder, Progress, is_of_macos, no_space

if TYPE_CHECKING:
    import gzip
    import tarfile
    import zipfile

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""The file name endings of the archives that can be read."""

_COPY_BYTES = 1 << 20
# An archive may unpack to so many bytes, and so many times its size, so that a zip bomb can't fill
# the disk. Trained weights compress to nine tenths. Zeros compress a thousandfold, but an untrained
# optimizer's are two thirds of a checkpoint, which then compresses to a third. Only a checkpoint of
# nearly nothing but zeros grows 64-fold, and one of up to a GiB is accepted all the same.
UNPACKED_ALWAYS, UNPACKED_GROWTH = 1 << 30, 64
# The end record of a zip without a comment, a member's local header, and the number of these
# headers to download at once (APPNOTE 4.3.15, 4.3.7).
_ZIP_END_BYTES, _ZIP_HEADER_BYTES, _ZIP_HEADERS = 42, 30, 256
# tarfile reads the header of a long name or of attributes whole, and keeps a kilobyte for each
# file: these are the most that a header, the files and the global attributes may be.
_TAR_HEADER_BYTES, _TAR_FILES, _TAR_ATTRIBUTES = 1 << 17, 100_000, 100
_TAR_AHEAD = 2048  # a file's headers are one to three blocks of 512 bytes


def archive(file: File, progress: Progress | None = None) -> Folder | None:
    """Open a zip, tar or gzipped tar, recognized by its first bytes; None for any other file.

    Args:
        file: the archive.
        progress: told of the bytes that are downloaded or unpacked.

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
            reason = str(error)
            if reason == "File is not a zip file":  # zipfile looks for the directory at the end
                reason = "the list of its files is missing at the end, so it is cut off"
            raise CheckpointError(
                f"{self.path} is a damaged zip ({reason}). Download it again."
            ) from error
        self._members = {
            _trim(info.filename): info
            for info in self._zip.infolist()
            if info.filename and not info.is_dir()
        }
        starts = [info.header_offset for info in self._members.values()][:_ZIP_HEADERS]
        file.fetch([(start, start + _ZIP_HEADER_BYTES) for start in starts])
        self._inflated: dict[str, File] = {}
        self._may_unpack = _most_unpacked(self._file.size)

    def names(self) -> list[str]:
        return sorted(name for name in self._members if not is_of_macos(name))

    def above(self, inside: str, expected: Sequence[str]) -> None:
        pass  # what is next to an archive is not a part of it

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
                    spool = _spool(member, shown, info.file_size, self._may_unpack, self._progress)
                with spool:
                    descriptor = Descriptor(os.dup(spool.fileno()))
                size = os.fstat(descriptor.fd).st_size
                if size != info.file_size:
                    raise EOFError(f"{size:,} of {info.file_size:,} bytes")
                self._inflated[name] = File(shown, descriptor, 0, size)
                self._may_unpack -= size
            return self._inflated[name]
        except CheckpointError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise CheckpointError(f"{shown} can't be unpacked: {error}") from error
        except Exception as error:  # each decompressor raises other errors
            raise CheckpointError(f"{shown} is damaged ({error}). Download it again.") from error

    def is_packed(self, name: str) -> bool:
        return self._members[name].compress_type != 0  # ZIP_STORED

    def _start_of(self, info: "zipfile.ZipInfo", shown: str) -> int:
        """The position of a member's first byte."""
        # The local header repeats the name, with an extra field of another length (APPNOTE 4.3.7).
        header = self._file.read(info.header_offset, _ZIP_HEADER_BYTES)
        signature, *_, name_bytes, extra_bytes = struct.unpack("<4s5H3L2H", header)
        if signature != b"PK\x03\x04":
            raise CheckpointError(f"{shown} is damaged. Download {self.path} again.")
        return info.header_offset + 30 + int(name_bytes) + int(extra_bytes)


def is_packed(folder: Folder, name: str) -> bool:
    """Whether a file must be unpacked before it can be read."""
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
            MemoryError,  # tarfile trusts the length of a long name
            OverflowError,
            RecursionError,  # a header may follow a header, without end
        ) as error:
            reason = str(error) or type(error).__name__
            raise CheckpointError(
                f"{self.path} is a damaged tar ({reason}). Download it again."
            ) from error

    def names(self) -> list[str]:
        return sorted(name for name in self._members if not is_of_macos(name))

    def above(self, inside: str, expected: Sequence[str]) -> None:
        pass  # what is next to an archive is not a part of it

    def open(self, name: str) -> File:
        start, size = self._members[name]
        shown = f"{self.path}/{name}"
        if start + size > self._file.size:
            raise CheckpointError(f"{shown} is cut off. Download {self.path} again.")
        return self._file.part(shown, start, size)


class _Headers:
    """The stream that tarfile reads headers from; refuses one that claims to be too long."""

    def __init__(self, tar: IO[bytes]) -> None:
        self.seek, self.tell, self._read = tar.seek, tar.tell, tar.read

    def read(self, size: int) -> bytes:
        if size > _TAR_HEADER_BYTES:
            raise ValueError(f"a header has {size:,} bytes")
        return self._read(size)


def _ascending(contents: "tarfile.TarFile") -> Iterator["tarfile.TarInfo"]:
    """The members of a tar; tarfile alone would follow a negative size back, in a loop."""
    import tarfile

    end = -1
    for _ in range(_TAR_FILES):
        member = contents.next()
        if member is None:
            return
        if member.size < 0 or member.offset <= end:
            raise tarfile.ReadError(f"{member.name} has a wrong size")
        # tarfile copies global attributes to each file, and keeps all files.
        if len(contents.pax_headers) > _TAR_ATTRIBUTES:
            raise tarfile.ReadError(f"more than {_TAR_ATTRIBUTES} global attributes")
        end = member.offset
        contents.members.clear()  # type: ignore[attr-defined]
        yield member
    raise tarfile.ReadError(f"more than {_TAR_FILES:,} files")


def _trim(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")  # some Windows tools write backslashes


def _gunzip(file: File, progress: Progress | None) -> File:
    import gzip
    import zlib

    file.fetch([(0, file.size)], progress)
    try:
        with gzip.GzipFile(fileobj=file.stream()) as packed:
            spool = _spool(packed, file.name, 0, _most_unpacked(file.size), progress)
    except (OSError, zlib.error, EOFError) as error:
        raise CheckpointError(f"{file.name} is damaged ({error}). Download it again.") from error
    with spool:
        descriptor = Descriptor(os.dup(spool.fileno()))
    return File(file.name, descriptor, 0, os.fstat(descriptor.fd).st_size)


def _most_unpacked(size: int) -> int:
    return UNPACKED_ALWAYS + UNPACKED_GROWTH * size


def _spool(
    source: "IO[bytes] | gzip.GzipFile", name: str, size: int, most: int, progress: Progress | None
) -> IO[bytes]:
    """Unpack a stream into a temporary file without a name, which disappears when it is closed.

    Args:
        source: the stream.
        name: what messages call it.
        size: its reported size in bytes; 0 if unknown.
        most: the most bytes that it may have.
        progress: told of the bytes that are unpacked.

    Raises:
        CheckpointError: it has more bytes, or the temporary folder has no space.
    """
    import tempfile
    from contextlib import suppress

    done = 0
    try:
        spool = tempfile.TemporaryFile()  # noqa: SIM115 (it outlives this function)
    except OSError as error:
        raise no_space("unpack", name, error) from error
    try:
        disk = os.fstatvfs(spool.fileno())
        if size <= most and size > disk.f_bavail * disk.f_frsize:
            raise no_space("unpack", name)
        while size <= most and (chunk := source.read(_COPY_BYTES)):
            try:
                spool.write(chunk)
                spool.flush()
            except OSError as error:
                raise no_space("unpack", name, error) from error
            done += len(chunk)
            if done > most:
                break
            if progress is not None:
                progress(f"unpacking {name}", done, size)
        if max(size, done) > most:
            raise CheckpointError(
                f"{name} unpacks to more than {most:,} bytes, too much for an archive of its"
                " size. If you trust it, unpack it yourself and give the folder."
            )
    except BaseException:
        with suppress(OSError):  # closing flushes, which a full disk refuses again
            spool.close()
        raise
    return spool
