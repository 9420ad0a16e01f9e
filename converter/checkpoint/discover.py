"""A folder, an archive of archives, a pattern -> all the checkpoints that lie there."""

import glob
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from ..errors import CheckpointError
from ..storage.archives import ARCHIVES, archive, is_packed
from ..storage.files import Directory, File, Folder, Progress, is_url, open_file
from .locate import Located, every, locate, prefix_of


class Found(Struct, frozen=True):
    """A checkpoint that lies somewhere."""

    path: str  # as `open_checkpoint` takes it
    name: str  # what a person would call it: its folder's name, or its archive's
    index: str  # the file that is opened first: the same, whichever path leads to it
    nbytes: int = 0  # of its files, as they lie there; 0 where that is not known


def find_checkpoints(source: str, progress: Progress | None = None) -> list[Found]:
    """Find every checkpoint that `source` means, in the order of their paths.

    A folder is searched, with all that lies below it but what is hidden; so is an archive, and
    those in it. Of several checkpoints side by side, the one that their file `checkpoint` names is
    meant, and without such a file all of them. An archive that can't be looked into is among what
    is found: whoever opens it will say why.

    Args:
        source: a checkpoint in any form that `open_checkpoint` takes, a folder or an archive of
            many, or a pattern such as `models/*.zip` (`**` stands for any number of folders).
        progress: told of the bytes that are unpacked from an archive.

    Raises:
        CheckpointError: there is none, or what was named can't be read.
    """
    source = os.path.expanduser(source)
    if is_url(source):
        found = list(_afar(source))
    elif glob.has_magic(source) and not os.path.lexists(source):
        places = glob.glob(source, recursive=True)
        if not places:
            raise CheckpointError(f"{source} matches nothing")
        found = [one for place in places for one in _matched(place, progress)]
    else:
        found = list(_search(source, progress)) or [_given(source, progress)]
    if not found:
        raise CheckpointError(
            f"no checkpoint in {source}: a checkpoint is a file .index with its"
            " .data-?????-of-?????, or a .zip or .tar.gz of them"
        )
    once: dict[str, Found] = {}
    for one in sorted(found, key=lambda one: one.path.split("/")):  # as folders are listed
        once.setdefault(one.index, one)
    return list(once.values())


def _search(place: str, progress: Progress | None) -> Iterator[Found]:
    """What lies in a folder or an archive.

    Raises:
        CheckpointError: it can't be looked into.
    """
    if os.path.isfile(place) and place.endswith(ARCHIVES):
        yield from _inside(open_file(place, place), progress)
    for path, folders, files in os.walk(place, onerror=_refuse):
        folders[:] = (name for name in folders if not name.startswith("."))
        yield from _in_folder(_Flat(path), os.path.basename(os.path.abspath(path)))
        for name in files:
            if name.endswith(ARCHIVES) and not name.startswith("."):
                yield from _in_archive(os.path.join(path, name), progress)


def _refuse(error: OSError) -> None:
    if not isinstance(error, NotADirectoryError | FileNotFoundError):
        raise CheckpointError(f"{error.filename} can't be listed: {error.strerror}") from error


def _given(place: str, progress: Progress | None) -> Found:
    """The checkpoint that a path means, called as a search would call it."""
    located = locate(place, progress)
    folder = located.folder
    own_path = folder.path if is_url(folder.path) else os.path.abspath(folder.path)
    name = _name(located, every(folder), _stem(os.path.basename(own_path.rstrip("/"))))
    return Found(place, name, _index(located), _nbytes(located))


def _matched(place: str, progress: Progress | None) -> Iterator[Found]:
    """What one match of a pattern means, which may well be a vocabulary beside a checkpoint."""
    if os.path.isdir(place):
        yield from _search(place, progress)
        return
    if place.endswith(ARCHIVES):
        yield from _in_archive(place, progress)
        return
    try:
        found = _given(place, progress)
    except CheckpointError:
        return
    yield Found(found.index, found.name, found.index, found.nbytes)


def _in_archive(path: str, progress: Progress | None, file: File | None = None) -> list[Found]:
    """What an archive holds, and itself where it can't be looked into.

    Args:
        path: what it is called, and where it lies, if it is no `file` in another.
        progress: told of the bytes that are unpacked.
        file: in an archive, or afar.
    """
    try:
        return _inside(file or open_file(path, path), progress)
    except CheckpointError:
        return [Found(path, _stem(os.path.basename(path)), os.path.realpath(path))]


def _inside(file: File, progress: Progress | None) -> list[Found]:
    """What an archive holds.

    Raises:
        CheckpointError: it is damaged, or none.
    """
    name = _stem(os.path.basename(file.name))
    folder = archive(file, progress)
    if folder is None:
        raise CheckpointError(f"{file.name} is no zip and no tar")
    found = list(_in_folder(folder, name))
    for inner in folder.names():
        path = os.path.join(folder.path, inner)
        if inner.endswith(ARCHIVES) and is_packed(folder, inner):
            # To look into it would take as long as to convert it.
            found.append(Found(path, _stem(os.path.basename(inner)), os.path.realpath(path)))
        elif inner.endswith(ARCHIVES):
            found += _in_archive(path, progress, folder.open(inner))
    if len(found) == 1:  # the archive was made for it, and named after it
        return [Found(found[0].path, name, found[0].index, file.size)]
    return found


def _in_folder(folder: Folder, own_name: str) -> Iterator[Found]:
    """The checkpoints that a folder lists."""
    inside = every(folder)
    for one in inside:
        base = os.path.dirname(one.prefix)
        if _is_alone(one, inside):
            path = os.path.join(folder.path, base) if base else folder.path
        else:
            path = os.path.join(folder.path, one.index_name)
        yield Found(path, _name(one, inside, own_name), _index(one), _nbytes(one))


def _is_alone(one: Located, inside: list[Located]) -> bool:
    base = os.path.dirname(one.prefix)
    beside = [other.prefix for other in inside if os.path.dirname(other.prefix) == base]
    return beside == [one.prefix]


def _name(one: Located, inside: list[Located], own_name: str) -> str:
    """Its folder's name, and where that has others, its own too."""
    base, prefix = os.path.split(one.prefix)
    name = os.path.basename(base) or own_name
    return name if _is_alone(one, inside) else f"{name}-{prefix}"


def _index(located: Located) -> str:
    path = os.path.join(located.folder.path, located.index_name)
    return path if is_url(path) else os.path.realpath(path)


def _nbytes(located: Located) -> int:
    """Of the files of a checkpoint on disk."""
    folder = located.folder
    if not isinstance(folder, Directory | _Flat):
        return 0
    own = {name for name in folder.names() if prefix_of(name) == located.prefix}
    own |= set(located.table_names)
    return sum(os.path.getsize(os.path.join(folder.path, name)) for name in own)


def _stem(name: str) -> str:
    """An archive's name without its ending."""
    for ending in sorted(ARCHIVES, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


class _Flat:
    """A folder on disk, without those in it."""

    listed = True

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = Directory(path)

    def names(self) -> list[str]:
        return [name for name in self._directory.names() if "/" not in name]

    def open(self, name: str) -> File:
        return self._directory.open(name)


def _afar(url: str) -> Iterator[Found]:
    """Every checkpoint that a URL means: below a folder, in an archive, of a pattern."""
    from ..storage import remote, urls

    for place in remote.expand(url):
        if urls.split(place)[1].endswith(ARCHIVES):
            yield from _in_archive_afar(place)
        elif remote.is_listed_folder(place):
            folders: dict[str, list[str]] = {}
            for file in remote.find(place):
                folder, name = urls.split(file)
                folders.setdefault(folder, []).append(name)
            archives = [
                urls.join(folder, name)
                for folder, names in folders.items()
                for name in names
                if name.endswith(ARCHIVES)
            ]
            with ThreadPoolExecutor(remote.ASKED_AT_ONCE) as threads:
                looked = [*threads.map(_in_folder_afar, *zip(*folders.items(), strict=True))]
                looked += threads.map(_in_archive_afar, archives)
            yield from (one for some in looked for one in some)
        else:
            located = locate(place)
            yield Found(place, os.path.basename(located.folder.path), _index(located))


def _in_archive_afar(url: str) -> list[Found]:
    from ..storage.remote import open_url
    from ..storage.urls import join, shown, split

    at = len(shown(url)) + 1
    try:
        inside = _inside(open_url(url), None)
    except CheckpointError:
        return [Found(url, _stem(split(url)[1]), url)]
    # What is found is called as messages call it, without what admits to it.
    return [
        Found(join(url, one.path[at:]) if one.path[at:] else url, one.name, one.index, one.nbytes)
        for one in inside
    ]


def _in_folder_afar(url: str, names: list[str]) -> list[Found]:
    from ..storage.remote import RemoteFolder
    from ..storage.urls import is_web, join

    here = RemoteFolder(url, files=names)
    at = len(here.path) + 1
    own = join(url, "") if is_web(url) else url
    return [
        Found(join(url, one.path[at:]) if one.path[at:] else own, one.name, one.index)
        for one in _in_folder(here, here.path.rpartition("/")[2])
    ]
