"""The folder of a family, on a disk or at a URL."""

import os
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError
from ..storage.files import is_url


def read(folder: str, name: str) -> bytes | None:
    """What a small file holds; None where there is none.

    Raises:
        OutputError: it can't be read.
    """
    if is_url(folder):
        from ..storage.remote_file import read_bytes

        return read_bytes(f"{folder.rstrip('/')}/{name}")
    try:
        return Path(folder, name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{Path(folder, name)} can't be read: {error.strerror}") from error


def size(folder: str, name: str) -> int | None:
    """How many bytes a file has; None where there is none."""
    if is_url(folder):
        from ..storage.remote_file import size

        return size(f"{folder.rstrip('/')}/{name}")
    try:
        return os.stat(os.path.join(folder, name)).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(folder: str, name: str, content: bytes) -> None:
    """Write a small file, all at once or not at all.

    Raises:
        OutputError: it can't be written.
    """
    if is_url(folder):
        from ..storage.remote_file import write_bytes

        write_bytes(f"{folder.rstrip('/')}/{name}", content)
        return
    path, beside = Path(folder, name), Path(folder, f".{name}.bertconvert")
    try:
        beside.write_bytes(content)  # not flushed to the disk: the next run can write it again
        os.rename(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
