"""Where something is: a path on disk or a URL, with the same methods.

Nothing that speaks to a server is imported before a URL is used.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from ..errors import CheckpointError, OutputError
from ..interrupts import held
from ..layout import MODEL_FILES
from .files import Directory, File, Folder, IsWanted, Progress, nothing, open_path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def parse_location(path: "str | os.PathLike[str]") -> "Location":
    """The place that a path or a URL names; `~` is expanded.

    Raises:
        CheckpointError: a URL has nothing after `://`.
    """
    text = os.fsdecode(path)
    if found := _URL.match(text):
        if not text[found.end() :].strip("/"):
            raise CheckpointError(f"{text} names no server")
        return Url(text)
    text = os.path.expanduser(text)
    return DiskPath(text.rstrip("/") or text[:1])


class DiskPath(Struct, frozen=True):
    """A file or a folder on disk, which need not exist."""

    path: str  # without a slash at the end

    def __str__(self) -> str:
        return self.path

    def __fspath__(self) -> str:
        return self.path

    @property
    def shown(self) -> str:
        """The path, for messages."""
        return self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)

    @property
    def parent(self) -> "DiskPath":
        """The folder that it is in."""
        return DiskPath(os.path.dirname(self.path) or ".")

    def join(self, name: str) -> "DiskPath":
        """The file `name` in this folder."""
        return DiskPath(os.path.join(self.path, name))

    def absolute(self) -> "DiskPath":
        """The same place, named from the root."""
        return DiskPath(os.path.abspath(self.path))

    def contains(self, other: "Location") -> bool:
        """Whether `other` is this place, or in it."""
        if isinstance(other, Url):
            return False
        try:
            mine, its = os.path.realpath(self.path), os.path.realpath(other.path)
        except ValueError:  # no file has such a name
            return False
        return os.path.commonpath([mine, its]) == mine

    def resolved(self) -> "DiskPath":
        """The same place, named from the root without links."""
        return DiskPath(os.path.realpath(self.path))

    def kind(self, is_wanted: IsWanted = nothing) -> str:
        """`file` or `folder`, `other` for a pipe and the like, "" if it does not exist.

        Args:
            is_wanted: tells the names of files that make a web page a folder.
        """
        if os.path.isdir(self.path):
            return "folder"
        if os.path.isfile(self.path):
            return "file"
        return "other" if os.path.exists(self.path) else ""

    def may_be_folder(self) -> bool:
        """Whether something may be in it."""
        return self.kind() == "folder"

    def open(self) -> File:
        """Open the file for reading.

        Raises:
            CheckpointError: it does not exist, can't be opened, or is not a regular file.
        """
        return open_path(self.path, self.shown)

    def folder(
        self,
        expected: Sequence[str] = (),
        is_wanted: IsWanted = nothing,
        files: Sequence[str] | None = None,
    ) -> Folder:
        """The folder, whose files can be listed and opened.

        Args:
            expected: names to ask for if a remote folder does not list its files.
            is_wanted: tells the names of files that make a remote folder's subfolders unnecessary.
            files: the names of the files directly in it; by default the folder is listed.

        Raises:
            CheckpointError: the files can't be listed, when their names are asked for.
        """
        return Directory(self.path, files)

    def expand(self, is_wanted: IsWanted = nothing) -> "list[Location]":
        """The places that match this path as a pattern; a path without `*`, `?` or `[` is its own.

        Args:
            is_wanted: tells the names of files that make a web page a folder.

        Raises:
            CheckpointError: a folder can't be listed.
        """
        import glob

        if os.path.lexists(self.path) or not glob.has_magic(self.path):
            return [self]
        return [DiskPath(path) for path in glob.glob(self.path, recursive=True)]

    def walk(self, is_wanted: IsWanted = nothing) -> "Iterator[tuple[Location, list[str]]]":
        """Each folder in this one, itself included, with the names of the files directly in it.

        Hidden folders on disk are left out. There are none if this is not a folder, or if a server
        does not list it.

        Args:
            is_wanted: tells the names of files that make a web page a folder.

        Raises:
            CheckpointError: a folder can't be listed.
        """
        for path, folders, names in os.walk(self.path, onerror=_refuse):
            folders[:] = (name for name in folders if not name.startswith("."))
            files = [name for name in names if os.path.isfile(os.path.join(path, name))]
            yield DiskPath(path), files

    def read_bytes(self) -> bytes | None:
        """The content of a small file; None if it does not exist.

        Raises:
            OutputError: it can't be read.
        """
        try:
            return Path(self.path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{self.shown} can't be read: {error.strerror}") from error

    def size(self) -> int | None:
        """The size of a file in bytes; None if it does not exist or is a folder.

        Raises:
            OutputError: the size can't be read.
        """
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{self.shown} can't be read: {error.strerror}") from error
        return None if stat.S_ISDIR(found.st_mode) else found.st_size

    def write_bytes(self, content: bytes, flush: bool = False) -> None:
        """Write a small file, whole or not at all.

        Args:
            content: all of it.
            flush: whether it is on the disk when it takes the place of another, which matters
                where that can't be written again.

        Raises:
            OutputError: it can't be written.
        """
        path = Path(self.path)
        unfinished = path.with_name(f".{path.name}.bertconvert")
        try:
            with held():
                with unfinished.open("wb") as file:
                    file.write(content)
                    if flush:
                        file.flush()
                        os.fsync(file.fileno())
                os.rename(unfinished, path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise OutputError(f"{self.shown} can't be written: {error.strerror}") from error

    def make_folder(self) -> None:
        """Create the folder, and those above it, if they do not exist.

        Raises:
            OutputError: it can't be created.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.shown} can't be created: {error.strerror}") from error

    def check_output(self, force: bool) -> None:
        """Refuse an output folder that can't be written, or would be overwritten.

        Args:
            force: whether a model in it may be replaced.

        Raises:
            OutputError: as `publish.check_output` says.
        """
        from .publish import check_output

        check_output(self.path, force)

    def published(
        self,
        force: bool,
        progress: Progress | None = None,
        files: Collection[str] = MODEL_FILES,
    ) -> AbstractContextManager[Path]:
        """A new folder to write into, which becomes this one at the end, in one step.

        Args:
            force: whether what was converted into this folder is replaced.
            progress: told of the bytes that are uploaded.
            files: the names that may be written; by default those of a model folder.

        Raises:
            OutputError: as `publish.published` says.
        """
        from .publish import published

        return published(self.path, force, files)

    def tidy(self) -> None:
        """Remove what a killed process left next to this output folder."""
        from .publish import tidy

        tidy(Path(self.path))

    @contextmanager
    def on_disk(self, names: Collection[str], progress: Progress | None = None) -> Iterator[Path]:
        """The folder on disk; a remote one is downloaded and removed afterwards.

        Args:
            names: the files to download, those that exist.
            progress: told of the bytes that are fetched.

        Raises:
            CheckpointError: a file can't be fetched.
        """
        yield Path(self.path)


class Url(Struct, frozen=True):
    """A file or a folder at a URL; methods without a docstring are those of `DiskPath`."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def shown(self) -> str:
        """The URL without user, password, query and fragment."""
        from .urls import shown

        return shown(self.url)

    @property
    def name(self) -> str:
        from .urls import split

        return split(self.url)[1]

    @property
    def parent(self) -> "Url":
        from .urls import split

        return Url(split(self.url)[0])

    def join(self, name: str) -> "Url":
        from .urls import join

        return Url(join(self.url, name))

    def absolute(self) -> "Url":
        return self

    def contains(self, other: "Location") -> bool:
        mine = self.shown.rstrip("/")
        return isinstance(other, Url) and f"{other.shown.rstrip('/')}/".startswith(f"{mine}/")

    def resolved(self) -> "Url":
        return self

    def kind(self, is_wanted: IsWanted = nothing) -> str:
        """`file` or `folder`, "" if it is neither or the server does not tell.

        Raises:
            CheckpointError: the server does not answer, or the protocol's driver is missing.
        """
        from .remote_folder import kind

        return kind(self.url, is_wanted)

    def may_be_folder(self) -> bool:
        """Whether something may be in it: a web server need not say that a folder exists.

        Raises:
            CheckpointError: the server does not answer, or the protocol's driver is missing.
        """
        from .remote_folder import may_be_folder

        return may_be_folder(self.url)

    def open(self) -> File:
        from .remote_file import open_url

        return open_url(self.url)

    def folder(
        self,
        expected: Sequence[str] = (),
        is_wanted: IsWanted = nothing,
        files: Sequence[str] | None = None,
    ) -> Folder:
        from .remote_folder import RemoteFolder

        return RemoteFolder(self.url, expected, is_wanted, files)

    def expand(self, is_wanted: IsWanted = nothing) -> "list[Location]":
        from .remote_folder import expand

        return [Url(url) for url in expand(self.url, is_wanted)]

    def walk(self, is_wanted: IsWanted = nothing) -> "Iterator[tuple[Location, list[str]]]":
        from .remote_folder import find
        from .urls import is_web, join, split

        folders: dict[str, list[str]] = {}
        files = find(self.url, is_wanted) if self.kind(is_wanted) == "folder" else None
        for file in files or ():
            folder, name = split(file)
            folders.setdefault(folder, []).append(name)
        for folder, names in folders.items():  # a slash at the end makes it a folder on the web
            yield Url(join(folder, "") if is_web(folder) else folder), names

    def read_bytes(self) -> bytes | None:
        from .remote_file import read_bytes

        return read_bytes(self.url)

    def size(self) -> int | None:
        from .remote_file import size

        return size(self.url)

    def write_bytes(self, content: bytes, flush: bool = False) -> None:
        from .remote_file import write_bytes

        write_bytes(self.url, content)

    def make_folder(self) -> None:
        pass  # the first file that is written creates it

    def check_output(self, force: bool) -> None:
        from .upload import check_url

        check_url(self.url, force)

    def published(
        self, force: bool, progress: Progress | None = None
    ) -> AbstractContextManager[Path]:
        from .upload import uploaded

        return uploaded(self.url, force, progress)

    def tidy(self) -> None:
        pass  # the next upload replaces what a killed process left

    @contextmanager
    def on_disk(self, names: Collection[str], progress: Progress | None = None) -> Iterator[Path]:
        import tempfile

        from .remote_folder import download

        with tempfile.TemporaryDirectory(prefix="bertconvert-") as folder:
            download(self.url, names, Path(folder), progress)
            yield Path(folder)


Location = DiskPath | Url


def _refuse(error: OSError) -> None:
    if not isinstance(error, NotADirectoryError | FileNotFoundError):
        raise CheckpointError(f"{error.filename} can't be listed: {error.strerror}") from error
