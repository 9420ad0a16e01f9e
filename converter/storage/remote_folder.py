"""Remote folders: their files listed, searched and downloaded.

A web server need not list a folder's files. Then the names that are expected are asked for one by
one.
"""

import fnmatch
import os
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from . import http
from .archives import ARCHIVES
from .files import File, IsWanted, Progress
from .filesystems import Problem, call, driver, run_or_refuse, with_retries
from .remote_file import RemoteFile, Stat, for_each, open_url, recent_stat, stat_of, stat_urls
from .urls import ends_as_folder, is_web, join, shown, split, store

_MOST_SUBFOLDERS = 64  # whose files are listed together with those of their folder
_NOT_LISTED = "the server does not list the files in it"
_DEPTH = 12  # of the folders that are searched on a web server


def kind(url: str, is_wanted: IsWanted) -> str:
    """`file` or `folder`, "" if it is neither or the server does not tell.

    Raises:
        CheckpointError: the server does not answer, or there is no driver.
    """
    if is_web(url) and ends_as_folder(url):
        return "folder"
    stat = stat_urls([url])[0]
    if stat.kind == "page":
        return "folder" if RemoteFolder(url, (), is_wanted).is_list() else ""
    if stat.problem and url.rstrip("/") == store(url):  # it has no parent to look in
        raise CheckpointError(f"{shown(url)} can't be read: {stat.problem}")
    return stat.kind if stat.kind in ("file", "folder") else ""


def may_be_folder(url: str) -> bool:
    """Whether something may be in it: a web server need not say that a folder exists.

    Raises:
        CheckpointError: the server does not answer, or there is no driver.
    """
    if not is_web(url):
        return stat_urls([url])[0].kind in ("folder", "denied")
    above = [url]
    while split(above[-1])[1]:
        above.append(split(above[-1])[0])
    archives = [u for u in above if split(u)[1].endswith(ARCHIVES)]
    return not any(stat.kind == "file" for stat in stat_urls([url, *archives]))


class RemoteFolder:
    """The files of a remote folder, and of its subfolders if it holds no wanted file itself.

    Args:
        url: the folder.
        expected: names to ask for if the server lists none.
        is_wanted: tells the names that the caller looks for.
        files: the names of the files directly in it, if they are known.
    """

    def __init__(
        self,
        url: str,
        expected: Sequence[str],
        is_wanted: IsWanted,
        files: Sequence[str] | None = None,
    ) -> None:
        self.path = shown(url).rstrip("/")
        self.listed = True
        self._url = url
        self._expected = list(dict.fromkeys(expected))
        self._is_wanted = is_wanted
        self._stats: dict[str, Stat | None] | None = None if files is None else dict.fromkeys(files)
        self._turn = threading.Lock()

    def names(self) -> list[str]:
        return sorted(self._files())

    def open(self, name: str) -> File:
        return open_url(join(self._url, name), self.stat(name))

    def above(self, inside: str, expected: Sequence[str]) -> "RemoteFolder | None":
        url, name = split(self._url)
        if not name or self._url.rstrip("/") == store(self._url):
            return None
        url = join(url, inside) if inside else url

        def is_useful(name: str) -> bool:
            return name in expected

        try:
            listed = run_or_refuse(CheckpointError, lambda: children(url, is_useful), url)
            files = None if listed is None else [n for n in listed if not n.endswith("/")]
            found = RemoteFolder(url, expected, is_useful, files)
            found.names()
        except CheckpointError:
            return None
        return found

    def stat(self, name: str) -> Stat:
        """What the server reports of a file.

        Raises:
            CheckpointError: the server does not answer.
        """
        return (self._stats or {}).get(name) or stat_urls([join(self._url, name)])[0]

    def expecting(self, names: Sequence[str]) -> "RemoteFolder":
        """The same folder, with other names to ask for."""
        return RemoteFolder(self._url, names, self._is_wanted)

    def subfolder(self, base: str, names: Sequence[str]) -> "RemoteFolder":
        """A folder in this one, with the names to ask for in it."""
        return RemoteFolder(join(self._url, base), names, self._is_wanted)

    def is_list(self) -> bool:
        """Whether the page of a web folder lists files."""
        return (
            run_or_refuse(
                CheckpointError,
                lambda: _web_names(self._url, self._is_useful),
                self._url,
            )
            is not None
        )

    def _is_useful(self, name: str) -> bool:
        return self._is_wanted(name) or name in self._expected

    def _files(self) -> dict[str, Stat | None]:
        """The names of the files, with what is known of them."""
        with self._turn:
            if self._stats is None:
                self._stats = run_or_refuse(CheckpointError, self._list, self._url)
            return self._stats

    async def _list(self) -> dict[str, Stat | None]:
        listed = await children(self._url, self._is_useful)
        if listed is None:
            self.listed = False
            return await self._ask()
        files = {name: stat for name, stat in listed.items() if not name.endswith("/")}
        if not any(map(self._is_wanted, files)):
            folders = [name for name in listed if name.endswith("/")][:_MOST_SUBFOLDERS]

            async def below(url: str) -> dict[str, Stat | None] | None:
                return await children(url, self._is_wanted)

            inner = await for_each(below, [join(self._url, name) for name in folders])
            for folder, names in zip(folders, inner, strict=True):
                inside = (names or {}).items()
                files |= {folder + name: stat for name, stat in inside if not name.endswith("/")}
        return files

    async def _ask(self) -> dict[str, Stat | None]:
        """The expected files that exist."""
        stats = await for_each(recent_stat, [join(self._url, name) for name in self._expected])
        answers = list(zip(self._expected, stats, strict=True))
        files: dict[str, Stat | None] = {
            name: stat for name, stat in answers if stat.kind == "file"
        }
        if not any(self._is_wanted(name) or name == self._expected[0] for name in files):
            for refusal in ("denied", "page"):
                for name, stat in answers:
                    if stat.kind == refusal:
                        raise CheckpointError(f"{self.path}/{name} can't be read: {stat.problem}")
        return files


async def children(url: str, is_wanted: IsWanted) -> dict[str, Stat | None] | None:
    """The names directly in a folder, subfolders' with `/` at the end; None if nobody lists them.

    Raises:
        Problem: the server does not answer, or there is no driver.
    """
    if is_web(url):
        names = await _web_names(url, is_wanted)
        return None if names is None else dict.fromkeys(names)
    try:
        file_system, path = driver(url)
        file_system.invalidate_cache(path)
        entries = await with_retries(lambda: call(file_system, "ls", path, detail=True), url)
    except Problem as problem:
        if problem.kind == "denied":
            return None
        if problem.kind == "missing":
            return {}
        raise
    found: dict[str, Stat | None] = {}
    for entry in entries:
        # A name that ends with `/` stands for a folder in a store that has no folders.
        name = entry["name"].rpartition("/")[2]
        if name and entry["name"].strip("/") != path.strip("/"):
            stat = stat_of(entry)
            found[f"{name}/" if stat.kind == "folder" else name] = stat
    return found


async def _web_names(url: str, is_wanted: IsWanted) -> list[str] | None:
    """The names that a folder's page lists; None if the page is no list."""
    try:
        names, is_list = await with_retries(lambda: http.listed(join(url, "")), url)
    except Problem as problem:
        if problem.kind in ("missing", "denied"):
            return None
        raise
    useful = any(is_wanted(name) or name.endswith(ARCHIVES) for name in names)
    return names if is_list or useful else None


def find(url: str, is_wanted: IsWanted) -> list[str] | None:
    """The URLs of all files below a folder, sorted; None if a web server does not list it.

    Raises:
        CheckpointError: the server does not answer, or there is no driver.
    """

    async def search() -> list[str] | None:
        if is_web(url):
            return await _web_find(url, is_wanted)
        file_system, path = driver(url)
        file_system.invalidate_cache(path)
        found = await with_retries(lambda: call(file_system, "find", path), url)
        return [_url_of(file_system, name, path, url) for name in found]

    found = run_or_refuse(CheckpointError, search, url)
    return None if found is None else sorted(found)


async def _web_find(url: str, is_wanted: IsWanted) -> list[str] | None:
    async def names_in(folder: str) -> list[str] | None:
        return await _web_names(folder, is_wanted)

    found: list[str] = []
    folders = [url]
    for _ in range(_DEPTH):
        pages = await for_each(names_in, folders)
        if folders == [url] and pages == [None]:
            return None
        inside = [
            join(folder, name)
            for folder, names in zip(folders, pages, strict=True)
            for name in names or ()
        ]
        found += [inner for inner in inside if not ends_as_folder(inner)]
        folders = [inner for inner in inside if ends_as_folder(inner)]
        if not folders:
            break
    return found


def expand(url: str, is_wanted: IsWanted) -> list[str]:
    """The URLs that match a pattern with `*`, `?` or `[`, sorted; a URL without them is its own.

    For a web URL, `*` and `[` may be in the last name only, `?` begins the query, and the server
    must list the folder.

    Raises:
        CheckpointError: the folder can't be listed.
    """
    folder, pattern = split(url)
    marks = "*[" if is_web(url) else "*[?"
    if not any(mark in (pattern if is_web(url) else url) for mark in marks):
        return [url]

    async def search() -> list[str]:
        if is_web(url):
            listed = await _web_names(folder, is_wanted)
            if listed is None:
                raise Problem(_NOT_LISTED)
            return [join(folder, name) for name in fnmatch.filter(listed, pattern)]
        # The part before the first mark is the same in all matches.
        base = url[: min(url.find(mark) for mark in marks if mark in url)].rpartition("/")[0]
        file_system, path = driver(url)
        file_system.invalidate_cache(driver(base)[1])
        names = await with_retries(lambda: call(file_system, "glob", path), url)
        return [_url_of(file_system, name, driver(base)[1], base) for name in names]

    return sorted(run_or_refuse(CheckpointError, search, url))


def _url_of(file_system: Any, name: str, path: str, url: str) -> str:
    """The URL of a driver's `name`, in the folder `url` whose name is `path` for the driver."""
    path = path.rstrip("/")
    if name.startswith(f"{path}/"):
        return join(url, name[len(path) + 1 :])
    return str(file_system.unstrip_protocol(name))


def download(
    url: str, names: Collection[str], folder: Path, progress: Progress | None = None
) -> None:
    """Download those of a folder's files `names` that exist, to a folder on disk.

    Raises:
        CheckpointError: one can't be downloaded, or the disk has no space for it.
    """
    remote = RemoteFolder(url, sorted(names), lambda name: name in names)
    for name in sorted(set(remote.names()) & set(names)):
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        file = RemoteFile(join(url, name), remote.stat(name), fd)
        file.fetch([(0, file.size)], progress)
