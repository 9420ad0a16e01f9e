"""A folder, an archive of archives, a pattern -> all the checkpoints that lie there."""

import glob
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from ..errors import CheckpointError
from .files import Directory, File, Folder, Progress, archive, is_packed, is_url, open_file
from .locate import ARCHIVES, Located, every, locate


class Found(Struct, frozen=True):
    """A checkpoint that lies somewhere."""

    path: str  # as `open_checkpoint` takes it
    name: str  # what a person would call it: its folder's name, or its archive's
    nbytes: int = 0  # of its files, as they lie there; 0 where that is not known


def find_checkpoints(source: str, progress: Progress | None = None) -> list[Found]:
    """Find every checkpoint that `source` means, in the order of their paths.

    A folder is searched, with all that lies below it but what is hidden; so is an archive, and
    those in it. Of several checkpoints side by side, the one that their file `checkpoint` names is
    meant, and without such a file all of them.

    Args:
        source: a checkpoint in any form that `open_checkpoint` takes, a folder or an archive of
            many, or a pattern such as `models/*.zip` (`**` stands for any number of folders).
        progress: told of the bytes that are unpacked from an archive.

    Raises:
        CheckpointError: there is none, or what was named can't be read.
    """
    source = os.path.expanduser(source)
    is_pattern = glob.has_magic(source) and not os.path.lexists(source)
    if is_url(source):
        found = list(_afar(source))
    elif is_pattern:
        places = sorted(glob.glob(source, recursive=True))
        if not places:
            raise CheckpointError(f"{source} matches nothing")
        # A pattern may well match a vocabulary that lies beside a checkpoint.
        found = [one for place in places for one in _search(place, progress, sole=False)]
    else:
        found = list(_search(source, progress, sole=True))
    if not found:
        raise CheckpointError(
            f"no checkpoint in {source}: a checkpoint is a file .index with its"
            " .data-?????-of-?????, or a .zip or .tar.gz of them"
        )
    return list({os.path.realpath(one.path): one for one in found}.values())


def _search(place: str, progress: Progress | None, sole: bool) -> Iterator[Found]:
    if os.path.isdir(place):
        yield from _in_directories(place, progress)
    elif os.path.isfile(place) and place.endswith(ARCHIVES):
        inside = list(_in_archive(open_file(place, place), progress))
        yield from inside or [Found(place, _stem(os.path.basename(place)), os.path.getsize(place))]
    else:
        try:
            yield _named(locate(place, progress), place)
        except CheckpointError:
            if sole:
                raise


def _in_directories(place: str, progress: Progress | None) -> Iterator[Found]:
    def refuse(error: OSError) -> None:
        raise CheckpointError(f"{error.filename} can't be listed: {error.strerror}") from error

    for path, folders, files in os.walk(place, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from _of_folder(_Flat(path), os.path.basename(os.path.abspath(path)))
        for name in sorted(files):
            if name.endswith(ARCHIVES) and not name.startswith("."):
                inner = os.path.join(path, name)
                try:
                    yield from _in_archive(open_file(inner, inner), progress)
                except CheckpointError:  # whoever opens it will say why, and the others go on
                    yield Found(inner, _stem(name))


def _afar(url: str) -> Iterator[Found]:
    """Every checkpoint that a URL means: below a folder, in an archive, of a pattern."""
    from . import remote, urls

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
            found = [one for some in looked for one in some]
            yield from sorted(found, key=lambda one: urls.shown(one.path).rstrip("/"))
        else:
            yield Found(place, os.path.basename(locate(place).folder.path))


def _in_archive_afar(url: str) -> list[Found]:
    from .remote import open_url
    from .urls import join, shown, split

    own = Found(url, _stem(split(url)[1]))
    try:
        inside = list(_in_archive(open_url(url), None))
    except CheckpointError:  # whoever opens it will say why, and the others go on
        return [own]
    at = len(shown(url)) + 1
    return [
        Found(join(url, one.path[at:]) if one.path[at:] else url, one.name, one.nbytes)
        for one in inside
    ] or [own]


def _in_folder_afar(url: str, names: list[str]) -> list[Found]:
    from .remote import RemoteFolder
    from .urls import is_web, join

    here = RemoteFolder(url, files=names)
    at = len(here.path) + 1
    own = join(url, "") if is_web(url) else url
    return [
        Found(join(url, one.path[at:]) if one.path[at:] else own, one.name)
        for one in _of_folder(here, here.path.rpartition("/")[2])
    ]


def _in_archive(file: File, progress: Progress | None) -> Iterator[Found]:
    folder = archive(file, progress)
    if folder is None:
        raise CheckpointError(f"{file.name} is no zip and no tar")
    inside = _of_archive(folder, progress)
    if len(inside) == 1:  # the archive was made for it, and named after it
        yield Found(inside[0].path, _stem(os.path.basename(file.name)), file.size)
    else:
        yield from inside


def _of_archive(folder: Folder, progress: Progress | None) -> list[Found]:
    found = list(_of_folder(folder, _stem(os.path.basename(folder.path))))
    for name in folder.names():
        if not name.endswith(ARCHIVES):
            continue
        path = os.path.join(folder.path, name)
        if is_packed(folder, name):  # to look into it would take as long as to convert it
            found.append(Found(path, _stem(os.path.basename(name))))
        else:
            inner = folder.open(name)
            found += _in_archive(inner, progress)
    return found


def _of_folder(folder: Folder, own_name: str) -> Iterator[Found]:
    """The checkpoints that a folder lists."""
    inside = every(folder)
    for one in inside:
        base = os.path.dirname(one.prefix)
        if _is_alone(one, inside):
            path = os.path.join(folder.path, base) if base else folder.path
        else:
            path = os.path.join(folder.path, one.index_name)
        yield Found(path, _name(one, inside, own_name), _nbytes(one))


def _named(located: Located, path: str) -> Found:
    """A checkpoint that was given itself, called as a search would call it."""
    folder = located.folder
    own_path = folder.path if is_url(folder.path) else os.path.abspath(folder.path)
    name = _name(located, every(folder), _stem(os.path.basename(own_path.rstrip("/"))))
    return Found(path, name, _nbytes(located))


def _is_alone(one: Located, inside: list[Located]) -> bool:
    base = os.path.dirname(one.prefix)
    beside = [other.prefix for other in inside if os.path.dirname(other.prefix) == base]
    return beside == [one.prefix]


def _name(one: Located, inside: list[Located], own_name: str) -> str:
    """Its folder's name, and where that has others, its own too."""
    base, prefix = os.path.split(one.prefix)
    name = os.path.basename(base) or own_name
    return name if _is_alone(one, inside) else f"{name}-{prefix}"


def _nbytes(located: Located) -> int:
    """Of the files of a checkpoint on disk."""
    folder = located.folder
    if not isinstance(folder, Directory | _Flat):
        return 0
    beside = (name for name in folder.names() if name.startswith(located.prefix))
    return sum(os.path.getsize(os.path.join(folder.path, name)) for name in beside)


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
