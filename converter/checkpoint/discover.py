"""Finds all the checkpoints in a folder, in an archive of archives, or of a pattern."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from msgspec import Struct

from ..choices import Step
from ..errors import CheckpointError
from ..storage.archives import ARCHIVES, archive, is_packed
from ..storage.files import Directory, File, Folder, Progress
from ..storage.location import Location, Url, parse_location
from ..storage.mistaken import mistaken
from .locate import Located, Search, all_in, locate
from .names import SAVED_VARIABLES, is_of_a_set, may_be_index, prefix_of

T = TypeVar("T")

_THREADS = 12  # that each wait for a server
_VARIABLES = os.path.dirname(SAVED_VARIABLES)


class Found(Struct, frozen=True):
    """A checkpoint that was found."""

    path: str  # for `open_checkpoint`
    name: str  # of its folder or archive, and its prefix if others are next to it
    index: str  # the file that is opened first: the same for every path to the checkpoint
    nbytes: int = 0  # of its files as they are stored; 0 if unknown


def find_checkpoints(
    source: str,
    progress: Progress | None = None,
    expected: Sequence[str] = (),
    step: Step | None = None,
) -> list[Found]:
    """Find all the checkpoints that `source` means, in the order of their paths.

    A folder is searched with its subfolders, except hidden ones; so is an archive, with the
    archives in it. If a folder has several checkpoints and its file `checkpoint` names one, only
    that one is found. An archive that can't be opened is included: opening it gives the reason.

    Args:
        source: a checkpoint in any form that `open_checkpoint` takes, a folder or an archive of
            many, or a pattern such as `models/*.zip` (`**` matches any number of folders).
        progress: told of the bytes that are unpacked from an archive.
        expected: as for `open_checkpoint`.
        step: as for `open_checkpoint`.

    Raises:
        CheckpointError: there is no checkpoint, or the source can't be read.
    """
    search = Search(step, progress, expected)
    location = parse_location(source)
    places = location.expand(may_be_index)
    if not places:
        raise CheckpointError(f"{location.shown} matches no file")
    if places == [location]:
        found = _search(location, search) or [_given(location, search)]
    else:
        found = [one for place in places for one in _matched(place, search)]
    if not found:
        raise CheckpointError(
            f"{location.shown} matches no checkpoint: a checkpoint is a file .index with its"
            " .data-?????-of-?????, or a .zip or .tar.gz of them"
        )
    once: dict[str, Found] = {}
    for one in sorted(found, key=lambda one: one.path.split("/")):  # as folders are listed
        once.setdefault(one.index, one)
    return list(once.values())


def checkpoint_files(folder: Folder) -> list[str]:
    """The names of files that belong to checkpoints in a folder, which need not exist."""
    try:
        names = [name for name in folder.names() if is_of_a_set(name)]
        return names or [one.index_name for one in all_in(folder)]
    except CheckpointError:
        return []


def _search(place: Location, search: Search) -> list[Found]:
    """The checkpoints in a folder or an archive.

    Raises:
        CheckpointError: it can't be searched.
    """
    if place.name.endswith(ARCHIVES) and place.kind() == "file":
        return _in_archive(place, place.open(), search)
    jobs: list[Callable[[], list[Found]]] = []
    for location, names in place.walk(may_be_index):
        folder = location.folder(is_wanted=may_be_index, files=names)
        jobs.append(partial(_in_folder, location, folder, _folder_name(location), search))
        for name in names:
            if name.endswith(ARCHIVES) and not name.startswith("."):
                jobs.append(partial(_in_any_archive, location.join(name), search))
    return [one for found in _run(jobs, isinstance(place, Url)) for one in found]


def _run(jobs: list[Callable[[], T]], in_threads: bool) -> Iterator[T]:
    """The results of functions, which wait for servers all at once."""
    if not in_threads:
        yield from (job() for job in jobs)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda job: job(), jobs)


def _given(place: Location, search: Search) -> Found:
    """The checkpoint of a path, with the name that a search would give it."""
    located = locate(str(place), search.progress, search.expected, search.step)
    folder = located.folder
    own_name = _stem(_folder_name(parse_location(folder.path)))
    name = _name(located, all_in(folder, search.step), own_name)
    return Found(str(place), name, _index(located), _nbytes(located))


def _matched(place: Location, search: Search) -> list[Found]:
    """The checkpoints of one match of a pattern, which may be a file next to a checkpoint."""
    if place.name.endswith(ARCHIVES):
        return _in_any_archive(place, search)
    if place.kind(may_be_index) == "folder" and (found := _search(place, search)):
        return found
    try:
        one = _given(place, search)
    except CheckpointError:
        return []
    path = one.path if isinstance(place, Url) else one.index
    return [Found(path, one.name, one.index, one.nbytes)]


def _in_any_archive(place: Location, search: Search, file: File | None = None) -> list[Found]:
    """The checkpoints in an archive, or the archive if it can't be opened.

    Args:
        place: the archive.
        search: what is looked for.
        file: the archive, opened; by default `place` is.
    """
    try:
        return _in_archive(place, file or place.open(), search)
    except CheckpointError:
        return [Found(str(place), _stem(place.name), place.resolved().shown)]


def _in_archive(place: Location, file: File, search: Search) -> list[Found]:
    """The checkpoints in an archive.

    Raises:
        CheckpointError: it is damaged, or not an archive.
    """
    name = _stem(place.name)
    folder = archive(file, search.progress)
    if folder is None:
        raise CheckpointError(mistaken(file) or f"{file.name} is neither a zip nor a tar")
    found = _in_folder(place, folder, name, search)
    for inner in folder.names():
        inside = place.join(inner)
        if inner.endswith(ARCHIVES) and is_packed(folder, inner):
            # Opening it here would take as long as converting it.
            found.append(Found(str(inside), _stem(inside.name), inside.resolved().shown))
        elif inner.endswith(ARCHIVES):
            found += _in_any_archive(inside, search, folder.open(inner))
    if len(found) == 1:  # the archive is named after it
        return [Found(found[0].path, name, found[0].index, file.size)]
    return found


def _in_folder(place: Location, folder: Folder, own_name: str, search: Search) -> list[Found]:
    """The checkpoints that a folder lists.

    Args:
        place: the folder.
        folder: the same folder, opened.
        own_name: the name of a checkpoint directly in it.
        search: what is looked for.
    """
    inside = all_in(folder, search.step)
    found = []
    for one in inside:
        base = os.path.dirname(one.prefix)
        if not _is_alone(one, inside):
            base = one.index_name
        path = place.join(base) if base else place
        found.append(Found(str(path), _name(one, inside, own_name), _index(one), _nbytes(one)))
    return found


def _is_alone(one: Located, inside: list[Located]) -> bool:
    base = os.path.dirname(one.prefix)
    return [c.prefix for c in inside if os.path.dirname(c.prefix) == base] == [one.prefix]


def _name(one: Located, inside: list[Located], own_name: str) -> str:
    """The name of its folder, followed by its prefix if the folder has several checkpoints."""
    base, prefix = os.path.split(one.prefix)
    if one.is_of_saved_model:
        base = os.path.dirname(base)
    name = os.path.basename(base) or own_name
    return name if _is_alone(one, inside) else f"{name}-{prefix}"


def _folder_name(location: Location) -> str:
    """The name of a folder; for the `variables/` of a SavedModel, that of the SavedModel."""
    location = location.absolute()
    return location.parent.name if location.name == _VARIABLES else location.name


def _index(located: Located) -> str:
    path = os.path.join(located.folder.path, located.index_name)
    return str(parse_location(path).resolved())


def _nbytes(located: Located) -> int:
    """The size of a checkpoint's files on disk; 0 elsewhere."""
    folder = located.folder
    if not isinstance(folder, Directory):
        return 0
    names = {name for name in folder.names() if prefix_of(name) == located.prefix}
    names |= set(located.table_names)
    return sum(os.path.getsize(os.path.join(folder.path, name)) for name in names)


def _stem(name: str) -> str:
    """An archive's name without its ending."""
    for ending in sorted(ARCHIVES, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name
