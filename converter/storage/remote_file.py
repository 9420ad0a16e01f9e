"""Remote files: the bytes that are needed are downloaded, and no others.

They are kept at their positions in a sparse temporary file without a name, which takes no more
space than the downloaded bytes. Several ranges are downloaded at a time, and one whose connection
is dropped continues where it stopped.
"""

import asyncio
import os
import tempfile
import threading
import time
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeVar

from msgspec import Struct

from ..errors import CheckpointError, OutputError
from . import http
from .files import File, Progress, no_space
from .filesystems import (
    TRIES,
    Problem,
    call,
    driver,
    explain,
    pause,
    run,
    run_or_refuse,
    with_retries,
)
from .urls import is_web, protocol, shown, split

T = TypeVar("T")

WEB_PIECE_BYTES, WEB_PARALLEL = 4 << 20, 12  # written to the disk as they arrive
PIECE_BYTES, PARALLEL = 2 << 20, 8  # held in memory, twice, before they are written
FIRST_PIECE_BYTES = 1 << 19  # shows whether a web server supports ranges; a small file is complete
_PROGRESS_BYTES = 1 << 16  # a try that brings so much does not count as failed
PATIENCE_SECONDS = 120.0  # for failed tries in a row; some drivers take half a minute for each
REQUESTS_AT_ONCE = 12
STAT_SECONDS = 3.0  # how long a file's size is remembered, as opening a checkpoint asks repeatedly
# Stores of objects: a folder is a part of the files' names, and a bucket must not be created.
OBJECT_STORES = {"abfs", "az", "gcs", "gs", "hf", "s3", "s3a"}


class Spans:
    """Ranges (start, end) of bytes, sorted and apart from each other."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add a range, merged with those that it touches."""
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
        """The parts of a range that are in none of these."""
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


class RemoteFile:
    """The medium of a remote file; safe in several threads.

    Args:
        url: the file.
        stat: its size and version; if the size is unknown, the whole file is downloaded at once.
        fd: a file to download to, which is closed at the end; by default a temporary one.

    Raises:
        CheckpointError: it can't be downloaded, or the disk has no space for it.
    """

    def __init__(self, url: str, stat: "Stat", fd: int = -1) -> None:
        self.name = shown(url)
        self.version = stat.version, stat.size
        self._url = url
        self._fd = fd
        self._present = Spans()
        self._received = self._requested = 0  # bytes of the current download
        self._state = threading.Lock()
        self._turn = threading.Lock()  # one download at a time, so that nothing is fetched twice
        # Whether the server supports ranges; None for a web server that was not yet asked.
        self._has_ranges: bool | None = None if is_web(url) else True
        self._size = stat.size
        if stat.size is None:
            self._size = self._download([(0, None)], None)

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
        present = (gaps[0][0] if gaps else end) - position  # the caller asks again for the rest
        return os.preadv(self._fd, [buffer[:present]], position)

    def fetch(self, ranges: Sequence[tuple[int, int]], progress: Progress | None) -> None:
        wanted = list(Spans((start, min(end, self.size)) for start, end in ranges))
        with self._turn:
            if gaps := self._missing(wanted):
                self._download(gaps, progress)

    def _missing(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        with self._state:
            return [gap for span in ranges for gap in self._present.missing(*span)]

    def _download(self, gaps: Sequence[tuple[int, int | None]], progress: Progress | None) -> int:
        """Download ranges; gives the end of the last byte that is present."""
        self._received = 0
        self._requested = sum(end - start for start, end in gaps if end is not None)
        self._allocate()

        def tick() -> None:
            if progress is not None:
                progress(f"fetching {self.name}", self._received, self._requested)

        run_or_refuse(CheckpointError, lambda: self._download_all(gaps), self._url, tick)
        with self._state:
            return max((end for _, end in self._present), default=0)

    def _allocate(self) -> None:
        """Make the sparse file, and check that the disk has space for the current download."""
        try:
            if self._fd < 0:
                with tempfile.TemporaryFile() as file:
                    self._fd = os.dup(file.fileno())
            os.ftruncate(self._fd, self.size)
            disk = os.fstatvfs(self._fd)
        except OSError as error:
            raise no_space("download", self.name, error) from error
        if self._requested > disk.f_bavail * disk.f_frsize:
            raise no_space("download", self.name)

    async def _download_all(self, gaps: Sequence[tuple[int, int | None]]) -> None:
        size, parallel = PIECE_BYTES, PARALLEL
        if is_web(self._url):
            size, parallel = WEB_PIECE_BYTES, WEB_PARALLEL
        start, end = gaps[0]
        if end is None:
            await self._download_piece(start, None)
            return
        if self._has_ranges is None:
            await self._download_piece(start, min(end, start + FIRST_PIECE_BYTES))
        # A server without ranges has sent everything by now.
        left = self._missing((start, end) for start, end in gaps if end is not None)
        pieces = iter(
            [(at, min(at + size, end)) for start, end in left for at in range(start, end, size)]
        )

        async def work() -> None:
            for piece in pieces:
                await self._download_piece(*piece)

        workers = min(parallel, len(left) + self._requested // size)
        await together([work() for _ in range(workers)])

    async def _download_piece(self, start: int, end: int | None) -> None:
        """Download a range, with a new request wherever an answer ends early."""
        failures, since = 0, 0.0
        while end is None or start < end:
            try:
                at, is_whole = await self._download_answer(start, end)
                if is_whole:
                    return
                failures = 0 if at - start >= _PROGRESS_BYTES else failures
                start = at
                continue
            except _Dropped as dropped:
                problem, at = dropped.problem, dropped.at
            if at - start >= _PROGRESS_BYTES:
                failures = 0
            start = max(at, start)
            failures += 1
            since = time.monotonic() if failures == 1 else since
            give_up = failures >= TRIES or time.monotonic() - since > PATIENCE_SECONDS
            if problem.kind != "transient" or give_up:
                raise self._last_problem(problem, failures) from problem
            await pause(failures, problem)

    async def _download_answer(self, start: int, end: int | None) -> tuple[int, bool]:
        """Download one answer; gives the end of its bytes, and whether it was the whole file."""
        first = at = start
        is_whole = False
        try:
            async with self._opened(start, end) as part:
                is_whole = part.whole
                if not is_whole:
                    self._has_ranges = True
                elif self._has_ranges:
                    raise Problem("the server sends the whole file for a part", "transient")
                else:
                    self._requested = self.size
                    first = at = self._received = 0
                async for data in part.data:
                    self._write(at, data)
                    at += len(data)
                    self._received += len(data)
            if (at == first and end is not None) or (is_whole and at < self.size):
                raise Problem("the connection was dropped", "transient")
        except (CheckpointError, asyncio.CancelledError):
            raise
        except Exception as error:
            self._received -= at - first if is_whole else 0  # all of it is sent again
            raise _Dropped(explain(error, self._url), start if is_whole else at) from error
        finally:
            with self._state:
                self._present.add(first, at)
        if is_whole:
            self._has_ranges = False
        return at, is_whole

    @asynccontextmanager
    async def _opened(self, start: int, end: int | None) -> AsyncIterator[http.Part]:
        if is_web(self._url):
            async with http.opened(self._url, start, end, self._size) as part:
                yield part
            return
        file_system, path = driver(self._url)
        # Otherwise a driver that reads in blocks would read ahead.
        options = {} if file_system.async_impl else {"cache_type": "none"}
        data = await call(file_system, "cat_file", path, start=start, end=end, **options)
        if end is not None and len(data) > end - start:
            raise Problem(f"the server sends {len(data):,} bytes in place of {end - start:,}")
        yield http.Part(start, end is None, _once(data))

    def _write(self, at: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                count = os.pwrite(self._fd, view, at)
            except OSError as error:
                raise no_space("download", self.name, error) from error
            at += count
            view = view[count:]

    def _last_problem(self, problem: Problem, failures: int) -> Problem:
        if failures == 1:
            return problem
        of = f" of {self._requested:,}" if self._requested else ""
        return Problem(
            f"{problem}, {failures} times in a row; {self._received:,}{of} bytes were received."
            " Try again later"
        )

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)


class _Dropped(Exception):
    """An answer ended early."""

    def __init__(self, problem: Problem, at: int) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.at = at  # the byte to continue from


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


# A checkpoint may be opened again while it is open, for example to be verified; what was downloaded
# is used again.
_open: "weakref.WeakValueDictionary[tuple[int, str], RemoteFile]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


def open_url(url: str, stat: "Stat | None" = None) -> File:
    """Open a remote file; nothing is downloaded if the server tells its size.

    Args:
        url: the file.
        stat: what is known of it; by default the server is asked.

    Raises:
        CheckpointError: it does not exist or can't be downloaded.
    """
    stat = stat or stat_urls([url])[0]
    if stat.kind != "file":
        raise CheckpointError(f"{shown(url)} can't be opened: {stat.problem or 'it is a folder'}")
    key = os.getpid(), url
    with _opening:
        remote = _open.get(key)
        if remote is None or remote.version != (stat.version, stat.size):
            remote = _open[key] = RemoteFile(url, stat)
    return File(shown(url), remote, 0, remote.size)


class Stat(Struct, frozen=True):
    """What a server reports of a URL."""

    kind: Literal["file", "folder", "page", "missing", "denied"]
    size: int | None = None  # bytes; None if unknown
    version: str = ""  # changes when the file changes
    problem: str = ""


def stat_urls(urls: Sequence[str]) -> list[Stat]:
    """What the servers report of each URL.

    Raises:
        CheckpointError: a server does not answer, or there is no driver.
    """
    return run_or_refuse(CheckpointError, lambda: for_each(recent_stat, urls), urls[0])


async def stat_url(url: str) -> Stat:
    """What the server reports of a URL.

    Raises:
        Problem: it does not answer, or there is no driver.
    """
    try:
        if is_web(url):
            return Stat("file", *await with_retries(lambda: http.stat(url), url))
        file_system, path = driver(url)
        info = await with_retries(lambda: call(file_system, "info", path), url)
    except http.WebPage as problem:
        return Stat("page", problem=str(problem))
    except Problem as problem:
        if problem.kind in ("missing", "denied"):
            return Stat(problem.kind, problem=str(problem))
        raise
    return stat_of(info)


def stat_of(info: dict[str, Any]) -> Stat:
    """A driver's information on a file or a folder."""
    if info["type"] == "directory":
        return Stat("folder")
    fields = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "created")
    version = next((str(info[name]) for name in fields if info.get(name)), "")
    return Stat("file", info["size"], version)


_recent: dict[tuple[int, str], tuple[float, Stat]] = {}  # with the time of the answer


async def recent_stat(url: str) -> Stat:
    """As `stat_url`; the answer for a file is remembered for `STAT_SECONDS`."""
    key = os.getpid(), url
    when, stat = _recent.get(key, (0.0, None))
    if stat is None or time.monotonic() - when > STAT_SECONDS:
        stat = await stat_url(url)
        if stat.kind == "file":
            _recent[key] = time.monotonic(), stat
    return stat


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that run together; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0]  # noqa: B904 (it has its own cause)
    return [task.result() for task in tasks]


async def for_each(ask: Callable[[str], Coroutine[Any, Any, T]], urls: Iterable[str]) -> list[T]:
    """The answer for each URL; no more than `REQUESTS_AT_ONCE` are asked at a time."""
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def one(url: str) -> T:
        async with gate:
            return await ask(url)

    return await together([one(url) for url in urls])


def read_bytes(url: str) -> bytes | None:
    """The content of a small file; None if it does not exist.

    Raises:
        OutputError: it can't be read.
    """
    found: bytes | None = _unless_missing("cat_file", url)
    return found


def size(url: str) -> int | None:
    """The size of a file in bytes; None if it does not exist or is a folder.

    Raises:
        OutputError: the size can't be read.
    """
    found = _unless_missing("info", url)
    return None if found is None or found["type"] == "directory" else found["size"]


def _unless_missing(method: str, url: str) -> Any:
    try:
        file_system, path = driver(url)
        file_system.invalidate_cache(path)
        return run(lambda: with_retries(partial(call, file_system, method, path), url, TRIES), url)
    except Problem as problem:
        if problem.kind == "missing":
            return None
        raise OutputError(f"{shown(url)} can't be read: {problem}") from problem


def write_bytes(url: str, content: bytes) -> None:
    """Write a small file, whole or not at all if the store supports that.

    Raises:
        OutputError: it can't be written.
    """
    refuse_web(url)

    async def write() -> None:
        file_system, path = driver(url)
        if protocol(url) not in OBJECT_STORES:
            _, folder = driver(split(url)[0])
            await call(file_system, "makedirs", folder, exist_ok=True)
        await call(file_system, "pipe_file", path, content)

    run_or_refuse(OutputError, lambda: with_retries(write, url, TRIES), url, verb="written")


def refuse_web(url: str) -> None:
    """Refuse to write to a protocol that can only be read.

    Raises:
        OutputError: it is http:// or https://.
    """
    if is_web(url):
        raise OutputError(
            f"{shown(url)} can't be written: {protocol(url)}:// can only be read. Give a folder on"
            " disk, or one at s3://, gs:// or hf://"
        )
