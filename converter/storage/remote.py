"""Checkpoints afar: of a URL's file, the bytes that are needed come here, and no others.

They are kept at their own places in a temporary file that has no name and takes as much room as
what came. Several ranges are fetched at a time, and one whose connection is dropped goes on from
where it was.
"""

import asyncio
import fnmatch
import os
import tempfile
import threading
import time
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct

from ..checkpoint.locate import INDEX
from ..errors import CheckpointError
from . import http
from .archives import ARCHIVES
from .files import File, Progress, no_room
from .filesystems import TRIES, Problem, call, driver, explain, patiently, pause, run
from .urls import ends_as_folder, is_web, join, shown, split, store

T = TypeVar("T")

_WEB_PIECE, _WEB_PARALLEL = 4 << 20, 12  # written as they come
_PIECE, _PARALLEL = 2 << 20, 8  # in memory, twice, before they are written
_FIRST_PIECE = 1 << 19  # tells whether a server of the web knows ranges; all of a small file
_USEFUL_BYTES = 1 << 16  # a try that brought so much was not in vain
_PATIENCE_SECONDS = 120.0  # for tries in vain; some drivers try for half a minute themselves
ASKED_AT_ONCE = 12
_SEEN_SECONDS = 3.0  # in which a checkpoint is found, which asks for a file more than once
_FOLDERS = 64  # of a folder, that are looked into
_UNLISTED = "the server does not list what lies there"
_DEPTH = 12  # of the folders that a server of the web lists


class Spans:
    """Ranges of bytes, sorted, none of which touches another."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Put a range to the others."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range that are not among them."""
        gaps = []
        for number in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[number] >= end:
                break
            if start < self._starts[number]:
                gaps.append((start, self._starts[number]))
            start = self._ends[number]
        return [*gaps, (start, end)] if start < end else gaps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)


class Remote:
    """A file afar, and what of it is here; for any number of threads.

    Args:
        url: where it is.
        seen: what is known of it; where that is not its size, all of it is fetched.
        fd: of the file that it comes to, which is closed at the end; by default a temporary one.

    Raises:
        CheckpointError: it can't be fetched, or there is no room for it.
    """

    def __init__(self, url: str, seen: "Seen", fd: int = -1) -> None:
        self.name = shown(url)
        self.version = seen.version, seen.size
        self._url = url
        self._fd = fd
        self._here = Spans()
        self._came = self._awaited = 0  # bytes, of the ranges that are being fetched
        self._state = threading.Lock()
        self._turn = threading.Lock()  # so that nothing is fetched twice
        # Whether the server knows ranges; of the web, None until it is seen.
        self._knows_ranges: bool | None = None if is_web(url) else True
        self._size = seen.size
        if seen.size is None:
            self._size = self._fetch([(0, None)], None)

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self._size or 0

    def read_into(self, position: int, buffer: memoryview) -> int:
        end = min(position + len(buffer), self.size)
        if position >= end:
            return 0
        gaps = self._missing([(position, end)])
        if gaps and gaps[0][0] == position:
            self.fetch([gaps[0]], None)
            gaps = gaps[1:]
        here = (gaps[0][0] if gaps else end) - position  # whoever wants more asks again
        return os.preadv(self._fd, [buffer[:here]], position)

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        wanted = list(Spans((start, min(end, self.size)) for start, end in ranges))
        with self._turn:
            if gaps := self._missing(wanted):
                self._fetch(gaps, progress)

    def _missing(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        with self._state:
            return [gap for span in ranges for gap in self._here.missing(*span)]

    def _fetch(self, gaps: Sequence[tuple[int, int | None]], progress: Progress | None) -> int:
        """Fetch what is not here; gives the byte after the last."""
        self._came = 0
        self._awaited = sum(end - start for start, end in gaps if end is not None)
        self._make_room()

        def tick() -> None:
            if progress is not None:
                progress(f"fetching {self.name}", self._came, self._awaited)

        try:
            run(lambda: self._fetch_all(gaps), self._url, tick)
        except Problem as problem:
            raise CheckpointError(f"{self.name} can't be read: {problem}") from problem
        with self._state:
            return max((end for _, end in self._here), default=0)

    def _make_room(self) -> None:
        try:
            if self._fd < 0:
                with tempfile.TemporaryFile() as file:
                    self._fd = os.dup(file.fileno())
            os.ftruncate(self._fd, self.size)  # what does not come takes no room
            room = os.fstatvfs(self._fd)
        except OSError as error:
            raise no_room(self.name, "fetched", 0, error) from error
        if self._awaited > room.f_bavail * room.f_frsize:
            raise no_room(self.name, "fetched", 0)

    async def _fetch_all(self, gaps: Sequence[tuple[int, int | None]]) -> None:
        size, parallel = (_WEB_PIECE, _WEB_PARALLEL) if is_web(self._url) else (_PIECE, _PARALLEL)
        start, end = gaps[0]
        if end is None:
            await self._fetch_piece(start, None)
            return
        if self._knows_ranges is None:
            await self._fetch_piece(start, min(end, start + _FIRST_PIECE))
        # What came without having been asked for is not fetched again.
        left = self._missing((start, end) for start, end in gaps if end is not None)
        pieces = iter(
            [(at, min(at + size, end)) for start, end in left for at in range(start, end, size)]
        )

        async def work() -> None:
            for piece in pieces:
                await self._fetch_piece(*piece)

        await _together([work() for _ in range(min(parallel, len(left) + self._awaited // size))])

    async def _fetch_piece(self, start: int, end: int | None) -> None:
        failures, since = 0, 0.0
        while end is None or start < end:
            try:
                at, is_whole = await self._fetch_some(start, end)
                if is_whole:
                    return
                failures = 0 if at - start >= _USEFUL_BYTES else failures
                start = at
                continue
            except _Dropped as dropped:
                problem, at = dropped.problem, dropped.at
            if at - start >= _USEFUL_BYTES:
                failures = 0
            start = max(at, start)
            failures += 1
            since = time.monotonic() if failures == 1 else since
            in_vain = failures >= TRIES or time.monotonic() - since > _PATIENCE_SECONDS
            if problem.kind != "transient" or in_vain:
                raise self._given_up(problem, failures) from problem
            await pause(failures, problem)

    async def _fetch_some(self, start: int, end: int | None) -> tuple[int, bool]:
        """Fetch one answer's bytes; gives where it ended, and whether it was the whole file."""
        begin = at = start
        is_whole = False
        try:
            async with self._opened(start, end) as part:
                is_whole = part.whole
                if not is_whole:
                    self._knows_ranges = True
                elif self._knows_ranges:
                    raise Problem("the server sends all of it for a part", "transient")
                else:
                    self._awaited = self.size
                    begin = at = self._came = 0
                async for data in part.data:
                    self._write(at, data)
                    at += len(data)
                    self._came += len(data)
            if (at == begin and end is not None) or (is_whole and at < self.size):
                raise Problem("the connection was dropped", "transient")
        except (CheckpointError, asyncio.CancelledError):
            raise
        except Exception as error:
            self._came -= at - begin if is_whole else 0  # it has to come again
            raise _Dropped(explain(error, self._url), start if is_whole else at) from error
        finally:
            with self._state:
                self._here.add(begin, at)
        if is_whole:
            self._knows_ranges = False
        return at, is_whole

    @asynccontextmanager
    async def _opened(self, start: int, end: int | None) -> AsyncIterator[http.Part]:
        if is_web(self._url):
            async with http.opened(self._url, start, end, self._size) as part:
                yield part
            return
        file_system, path = driver(self._url)
        # Otherwise a file that is read in blocks is read ahead.
        options = {} if file_system.async_impl else {"cache_type": "none"}
        data = await call(file_system, "cat_file", path, start=start, end=end, **options)
        if end is not None and len(data) > end - start:
            raise Problem(f"{len(data):,} bytes came where {end - start:,} were asked for")
        yield http.Part(start, end is None, _once(data))

    def _write(self, at: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                count = os.pwrite(self._fd, view, at)
            except OSError as error:
                raise no_room(self.name, "fetched", self._came, error) from error
            at += count
            view = view[count:]

    def _given_up(self, problem: Problem, failures: int) -> Problem:
        if failures == 1:
            return problem
        of = f" of {self._awaited:,}" if self._awaited else ""
        return Problem(
            f"{problem}, {failures} times in a row; {self._came:,}{of} bytes had come. Try again"
            " later"
        )

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)


class _Dropped(Exception):
    """An answer ended before its end."""

    def __init__(self, problem: Problem, at: int) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.at = at  # the byte that comes next


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


# A checkpoint is opened anew to be verified, while it is open: what came does not come again.
_open: "weakref.WeakValueDictionary[tuple[int, str], Remote]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


def open_url(url: str, seen: "Seen | None" = None) -> File:
    """A file afar; none of its bytes is fetched, if the server tells how many there are.

    Args:
        url: the file.
        seen: what is known of it.

    Raises:
        CheckpointError: there is none, or it can't be had.
    """
    seen = seen or _look_at([url])[0]
    if seen.kind != "file":
        problem = seen.problem or "it is a folder"
        raise CheckpointError(f"{shown(url)} can't be opened: {problem}")
    key = os.getpid(), url
    with _opening:
        remote = _open.get(key)
        if remote is None or remote.version != (seen.version, seen.size):
            remote = _open[key] = Remote(url, seen)
    return File(shown(url), remote, 0, remote.size)


class Seen(Struct, frozen=True):
    """What a URL names."""

    kind: Literal["file", "folder", "page", "missing", "denied"]
    size: int | None = None  # None where it is not known
    version: str = ""  # another one, if the file is another one
    problem: str = ""


def _look_at(urls: Sequence[str]) -> list[Seen]:
    """What each URL names.

    Raises:
        CheckpointError: a server does not answer, or there is no driver.
    """
    return _run(lambda: _each(_look_once, urls), urls[0])


async def look(url: str) -> Seen:
    """What a URL names.

    Raises:
        Problem: a server does not answer, or there is no driver.
    """
    try:
        if is_web(url):
            return Seen("file", *await patiently(lambda: http.look(url), url))
        file_system, path = driver(url)
        info = await patiently(lambda: call(file_system, "info", path), url)
    except http.WebPage as problem:
        return Seen("page", problem=str(problem))
    except Problem as problem:
        if problem.kind in ("missing", "denied"):
            return Seen(problem.kind, problem=str(problem))
        raise
    return _seen_of(info)


def _seen_of(info: dict[str, Any]) -> Seen:
    """What a driver says of a file or a folder."""
    if info["type"] == "directory":
        return Seen("folder")
    said = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "created")
    version = next((str(info[name]) for name in said if info.get(name)), "")
    return Seen("file", info["size"], version)


_files_seen: dict[tuple[int, str], tuple[float, Seen]] = {}  # and when


async def _look_once(url: str) -> Seen:
    """What a URL names, or named a moment ago if that was a file."""
    key = os.getpid(), url
    when, seen = _files_seen.get(key, (0.0, None))
    if seen is None or time.monotonic() - when > _SEEN_SECONDS:
        seen = await look(url)
        if seen.kind == "file":
            _files_seen[key] = time.monotonic(), seen
    return seen


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; the first error ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0]  # noqa: B904 (its own cause is what matters)
    return [task.result() for task in tasks]


async def _each(ask: Callable[[str], Coroutine[Any, Any, T]], urls: Iterable[str]) -> list[T]:
    """What is answered for each URL, of which only some are asked at a time."""
    gate = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(url: str) -> T:
        async with gate:
            return await ask(url)

    return await _together([one(url) for url in urls])


def _run(work: Callable[[], Coroutine[Any, Any, T]], url: str) -> T:
    try:
        return run(work, url)
    except Problem as problem:
        raise CheckpointError(f"{shown(url)} can't be read: {problem}") from problem


def kind(url: str) -> str:
    """`file` or `folder`, and "" for what is neither, or can't be told.

    Raises:
        CheckpointError: a server does not answer, or there is no driver.
    """
    if is_web(url) and ends_as_folder(url):
        return "folder"
    seen = _look_at([url])[0]
    if seen.kind == "page":
        return "folder" if RemoteFolder(url).is_list() else ""
    if seen.problem and url.rstrip("/") == store(url):  # nothing lies above it
        raise CheckpointError(f"{shown(url)} can't be read: {seen.problem}")
    return seen.kind if seen.kind in ("file", "folder") else ""


def is_listed_folder(url: str) -> bool:
    """Whether it is a folder, and what lies below it can be told.

    Raises:
        CheckpointError: a server does not answer, or there is no driver.
    """
    return kind(url) == "folder" and (not is_web(url) or RemoteFolder(url).is_list())


def may_be_folder(url: str) -> bool:
    """Whether something may lie in it: servers of the web need not say that a folder is there.

    Raises:
        CheckpointError: a server does not answer, or there is no driver.
    """
    if not is_web(url):
        return _look_at([url])[0].kind in ("folder", "denied")
    above = [url]
    while split(above[-1])[1]:
        above.append(split(above[-1])[0])
    archives = [u for u in above if split(u)[1].endswith(ARCHIVES)]
    return not any(seen.kind == "file" for seen in _look_at([url, *archives]))


class RemoteFolder:
    """A folder afar, with the folders directly in it where it holds no index itself.

    Args:
        url: the folder.
        expected: names to ask for, where the server lists none.
        files: the names of the files directly in it, where they are known.
    """

    def __init__(
        self, url: str, expected: Sequence[str] = (), files: Sequence[str] | None = None
    ) -> None:
        self.path = shown(url).rstrip("/")
        self.listed = True
        self._url = url
        self._expected = list(dict.fromkeys(expected))
        self._seen: dict[str, Seen | None] | None = None if files is None else dict.fromkeys(files)
        self._turn = threading.Lock()

    def names(self) -> list[str]:
        return sorted(self._files())

    def open(self, name: str) -> File:
        return open_url(join(self._url, name), self.look(name))

    def look(self, name: str) -> Seen:
        """What is known of a file.

        Raises:
            CheckpointError: a server does not answer.
        """
        return (self._seen or {}).get(name) or _look_at([join(self._url, name)])[0]

    def expecting(self, names: Sequence[str]) -> "RemoteFolder":
        """The same folder, which is asked for other names."""
        return RemoteFolder(self._url, names)

    def is_list(self) -> bool:
        """Whether a page of the web lists files."""
        return _run(lambda: _web_list(self._url, self._expected), self._url) is not None

    def _files(self) -> dict[str, Seen | None]:
        """The names of the files, and what is known of them."""
        with self._turn:
            if self._seen is None:
                self._seen = _run(self._list, self._url)
            return self._seen

    async def _list(self) -> dict[str, Seen | None]:
        listed = await children(self._url, self._expected)
        if listed is None:
            self.listed = False
            return await self._ask()
        files = {name: seen for name, seen in listed.items() if not name.endswith("/")}
        if not any(INDEX in name for name in files):
            folders = [name for name in listed if name.endswith("/")][:_FOLDERS]
            inner = await _each(children, [join(self._url, name) for name in folders])
            for folder, names in zip(folders, inner, strict=True):
                below = (names or {}).items()
                files |= {folder + name: seen for name, seen in below if not name.endswith("/")}
        return files

    async def _ask(self) -> dict[str, Seen | None]:
        """The files of the names that are expected, as far as they are there."""
        seen = await _each(_look_once, [join(self._url, name) for name in self._expected])
        named = list(zip(self._expected, seen, strict=True))
        files: dict[str, Seen | None] = {name: one for name, one in named if one.kind == "file"}
        if not any(INDEX in name or name == self._expected[0] for name in files):
            for refusal in ("denied", "page"):
                for name, one in named:
                    if one.kind == refusal:
                        raise CheckpointError(f"{self.path}/{name} can't be read: {one.problem}")
        return files


async def children(url: str, expected: Sequence[str] = ()) -> dict[str, Seen | None] | None:
    """What lies directly in a folder, folders with `/` at the end; None where nobody tells.

    Raises:
        Problem: a server does not answer, or there is no driver.
    """
    if is_web(url):
        names = await _web_list(url, expected)
        return None if names is None else dict.fromkeys(names)
    try:
        file_system, path = driver(url)
        file_system.invalidate_cache(path)
        entries = await patiently(lambda: call(file_system, "ls", path, detail=True), url)
    except Problem as problem:
        if problem.kind == "denied":
            return None
        if problem.kind == "missing":
            return {}
        raise
    found: dict[str, Seen | None] = {}
    for entry in entries:
        # A name that ends with `/` stands for a folder on a store that has none.
        name = entry["name"].rpartition("/")[2]
        if name and entry["name"].strip("/") != path.strip("/"):
            seen = _seen_of(entry)
            found[f"{name}/" if seen.kind == "folder" else name] = seen
    return found


async def _web_list(url: str, expected: Sequence[str] = ()) -> list[str] | None:
    """The names that a folder's page lists; None where it is no list."""
    try:
        names, is_list = await patiently(lambda: http.listed(join(url, "")), url)
    except Problem as problem:
        if problem.kind in ("missing", "denied"):
            return None
        raise
    useful = any(INDEX in n or n.endswith(ARCHIVES) or n in expected for n in names)
    return names if is_list or useful else None


def find(url: str) -> list[str]:
    """The URLs of all files below a folder, sorted.

    Raises:
        CheckpointError: it can't be listed.
    """

    async def search() -> list[str]:
        if is_web(url):
            return await _web_find(url)
        file_system, path = driver(url)
        file_system.invalidate_cache(path)
        found = await patiently(lambda: call(file_system, "find", path), url)
        return [_url_of(file_system, name, path, url) for name in found]

    return sorted(_run(search, url))


async def _web_find(url: str) -> list[str]:
    found: list[str] = []
    folders = [url]
    for _ in range(_DEPTH):
        pages = await _each(_web_list, folders)
        if folders == [url] and pages == [None]:
            raise Problem(_UNLISTED)
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


def expand(url: str) -> list[str]:
    """The URLs that a pattern with `*`, `?` or `[` matches, sorted; a URL without is itself.

    Of the web, `*` and `[` stand for parts of the last name, in a folder that the server lists.

    Raises:
        CheckpointError: it can't be listed.
    """
    folder, pattern = split(url)
    marks = "*[" if is_web(url) else "*[?"
    if not any(mark in (pattern if is_web(url) else url) for mark in marks):
        return [url]

    async def search() -> list[str]:
        if is_web(url):
            listed = await _web_list(folder)
            if listed is None:
                raise Problem(_UNLISTED)
            return [join(folder, name) for name in fnmatch.filter(listed, pattern)]
        # What stands before the first mark is the same in each.
        base = url[: min(url.find(mark) for mark in marks if mark in url)].rpartition("/")[0]
        file_system, path = driver(url)
        file_system.invalidate_cache(driver(base)[1])
        names = await patiently(lambda: call(file_system, "glob", path), url)
        return [_url_of(file_system, name, driver(base)[1], base) for name in names]

    return sorted(_run(search, url))


def _url_of(file_system: Any, name: str, path: str, url: str) -> str:
    """The URL of what a driver calls `name`, below the folder that it calls `path`."""
    path = path.rstrip("/")
    if name.startswith(f"{path}/"):
        return join(url, name[len(path) + 1 :])
    return str(file_system.unstrip_protocol(name))


def download(
    url: str, names: Collection[str], folder: Path, progress: Progress | None = None
) -> list[str]:
    """Fetch those of a folder's files that are there, whole, into a folder on disk; gives them.

    Raises:
        CheckpointError: one can't be fetched, or there is no room for it.
    """
    afar = RemoteFolder(url, sorted(names))
    found = sorted(set(afar.names()) & set(names))
    for name in found:
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        remote = Remote(join(url, name), afar.look(name), file)
        remote.fetch([(0, remote.size)], progress)
    return found
