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

from ..errors import OutputError
from .files import Directory, File, Folder, Progress, open_path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def parse_location(path: "str | os.PathLike[str]") -> "Location":
    """The place that a path or a URL names; `~` is expanded."""
    text = os.fsdecode(path)
    if _URL.match(text):
        return Url(text)
    text = os.path.expanduser(text)
    return DiskPath(text.rstrip("/") or text[:1])


class DiskPath(Struct, frozen=True):
    """A file or a folder on disk, which need not exist."""

    path: str  # without a slash at the end; "" is the current folder

    def __str__(self) -> str:
        return self.path

    def __fspath__(self) -> str:
        return self.path

    @property
    def shown(self) -> str:
        """The path, for messages."""
        return self.path or "."

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)

    @property
    def parent(self) -> "DiskPath":
        """The folder that it is in."""
        return DiskPath(os.path.dirname(self.path))

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
        mine, its = os.path.realpath(self.path), os.path.realpath(other.path)
        return os.path.commonpath([mine, its]) == mine

    def kind(self) -> str:
        """`file` or `folder`, `other` for a pipe and the like, "" if it does not exist."""
        path = self.path or "."
        if os.path.isdir(path):
            return "folder"
        return "file" if os.path.isfile(path) else "other" if os.path.exists(path) else ""

    def may_be_folder(self) -> bool:
        """Whether something may be in it."""
        return self.kind() == "folder"

    def open(self) -> File:
        """Open the file for reading.

        Raises:
            CheckpointError: it does not exist, can't be opened, or is not a regular file.
        """
        return open_path(self.path, self.shown)

    def folder(self, expected: Sequence[str] = ()) -> Folder:
        """The folder, whose files can be listed and opened.

        Args:
            expected: names to ask for if a remote folder does not list its files.
        """
        return Directory(self.path or ".")

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

    def write_bytes(self, content: bytes) -> None:
        """Write a small file, whole or not at all.

        Raises:
            OutputError: it can't be written.
        """
        path = Path(self.path)
        unfinished = path.with_name(f".{path.name}.bertconvert")
        try:
            unfinished.write_bytes(content)  # not flushed to the disk: it can be written again
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
        self, force: bool, progress: Progress | None = None
    ) -> AbstractContextManager[Path]:
        """A new folder to write into, which becomes this one at the end, in one step.

        Args:
            force: whether a model in this folder is replaced.
            progress: told of the bytes that are uploaded.

        Raises:
            OutputError: as `publish.published` says.
        """
        from .publish import published

        return published(self.path, force)

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

    def kind(self) -> str:
        """`file` or `folder`, "" if it is neither or the server does not tell.

        Raises:
            CheckpointError: the server does not answer, or the protocol's driver is missing.
        """
        from .remote import kind

        return kind(self.url)

    def may_be_folder(self) -> bool:
        """Whether something may be in it: a web server need not say that a folder exists.

        Raises:
            CheckpointError: the server does not answer, or the protocol's driver is missing.
        """
        from .remote import may_be_folder

        return may_be_folder(self.url)

    def open(self) -> File:
        from .remote import open_url

        return open_url(self.url)

    def folder(self, expected: Sequence[str] = ()) -> Folder:
        from .remote import RemoteFolder

        return RemoteFolder(self.url, expected)

    def read_bytes(self) -> bytes | None:
        from .upload import read_bytes

        return read_bytes(self.url)

    def size(self) -> int | None:
        from .upload import size

        return size(self.url)

    def write_bytes(self, content: bytes) -> None:
        from .upload import write_bytes

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

        from .remote import download

        with tempfile.TemporaryDirectory(prefix="bertconvert-") as folder:
            download(self.url, names, Path(folder), progress)
            yield Path(folder)


Location = DiskPath | Url
