"""What a file is if it is not what its name says, by its first bytes.

People have such files from a clone without git-lfs (or a zip of it, from GitHub), from a sign-in or
error page that was saved under the file's name, or from another program. So a reader that can't
make sense of a file asks here before it calls the file damaged.
"""

import os
import re
from collections.abc import Iterator
from itertools import islice

from ..errors import CheckpointError
from ..text import cut, joined
from .files import Directory, File, Folder

_START = 4096  # bytes that are looked at
# The pointer files of git-lfs (docs/spec.md there) have a key and a value on each line.
_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024  # bytes
_MOST_SIBLINGS = 200  # files that are looked at for other pointers

_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error")
_TITLE = rb"<(title|code)\b[^>]{0,100}>\s{0,100}([^<]{1,200})</\1>"

_KINDS = {  # the first bytes -> what the file is, and what to do
    b"Rar!\x1a\x07": "a RAR archive. Unpack it and give the folder",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive. Unpack it and give the folder",
    b"\xfd7zXZ\x00": "compressed with xz. Unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Unpack it first",
    b"\x1f\x8b": "compressed with gzip. Unpack it first",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, such as Keras writes. Give it a name that ends in .h5",
    b"%PDF-": "a PDF document. Download the file again",
}


def mistaken(file: File, folder: Folder | None = None) -> str:
    """A sentence that says what a file is and what to do; "" if its first bytes do not tell.

    Args:
        file: the file that a reader could not make sense of.
        folder: where it is, to name all pointers of git-lfs at once; not needed on a disk.

    Raises:
        CheckpointError: the file can't be read.
    """
    if not file.size:
        return f"{file.name} is empty (0 bytes). Download or copy it again."
    start = file.read(0, min(file.size, _START)).removeprefix(b"\xef\xbb\xbf")
    if (size := _pointer(start)) is not None:
        others = [os.path.basename(other) for other in _siblings(file, folder)]
        more = f" Other pointers next to it: {joined(others)}." if others else ""
        return (
            f"{file.name} is a git-lfs pointer; the real file has {size:,} bytes. Run"
            f" `git lfs pull` in the repository.{more}"
        )
    if start.lstrip()[:20].lower().startswith(_PAGES):
        return _page(file.name, start)
    if start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
        return f"{file.name} is compressed with bzip2. Unpack it first."
    kinds = (kind for magic, kind in _KINDS.items() if start.startswith(magic))
    return next((f"{file.name} is {kind}." for kind in kinds), "")


def _page(name: str, start: bytes) -> str:
    what = "an XML document" if b"<html" not in start.lower() else "a web page"
    found = re.search(_TITLE, start, re.IGNORECASE)
    title = f" ({cut(' '.join(found[2].decode('utf-8', 'replace').split()), 80)})" if found else ""
    return (
        f"{name} is {what}{title}, such as a server sends in place of a file. Download the file"
        " again."
    )


def _pointer(start: bytes) -> int | None:
    """The size in bytes of the file that a pointer of git-lfs stands for; None if it is none."""
    if not start.startswith(_POINTER) or len(start) > _LARGEST_POINTER:
        return None
    values = dict(line.split(b" ", 1) for line in start.splitlines() if b" " in line)
    size = values.get(b"size", b"").strip()
    return int(size) if size.isdigit() and len(size) < 20 else None


def _siblings(file: File, folder: Folder | None) -> Iterator[str]:
    """The other pointers of git-lfs next to a file on a disk or in an archive."""
    base = os.path.dirname(file.name)
    if os.path.isfile(file.name):
        folder, base = Directory(base or "."), ""
    elif folder is None or "://" in base:  # a server would be asked for each
        return
    else:
        base = base.removeprefix(folder.path).strip("/")
    names = (name for name in folder.names() if os.path.dirname(name) == base)
    for name in islice(names, _MOST_SIBLINGS):
        try:
            other = folder.open(name)
            start = other.read(0, other.size) if other.size <= _LARGEST_POINTER else b""
        except CheckpointError:
            continue  # it is another file that the caller asks about
        if _pointer(start) is not None and other.name.removeprefix("./") != file.name:
            yield name
