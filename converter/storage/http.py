"""HTTP through fsspec's session: the size of a file, its bytes, and lists of files.

fsspec's `cat_file` returns the whole file in place of a range if the server ignores ranges, and
loses what had arrived when a connection is dropped.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from msgspec import Struct

from .filesystems import Problem, driver
from .urls import split

_PAGES = ("text/html", "application/xhtml+xml")
_URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=-._~"  # RFC 3986
_LARGEST_LIST = 16 << 20  # bytes
# Titles of the lists of Apache, nginx, lighttpd, Python, Node and IIS; others link to `..`.
_LIST = re.compile(r"<title>\s*(index of|directory listing|files within|listing|[^<]* - /)", re.I)


class WebPage(Problem):
    """The server answers with a web page in place of the file."""

    def __init__(self) -> None:
        super().__init__(
            "the server answers with a web page (text/html): it may need a login, or be the page"
            " that links to the file"
        )


async def stat(url: str) -> tuple[int | None, str]:
    """A file's size in bytes (None if the server does not tell) and its version.

    None of its bytes is downloaded.

    Raises:
        WebPage: the server answers with a page.
        Exception: as aiohttp raises it.
    """
    async with await _request("HEAD", url) as answer:
        if answer.status in (404, 410):
            answer.raise_for_status()
        if answer.status < 300:
            _refuse_page(answer)
            if answer.content_length is not None:
                return int(answer.content_length), _version(answer)
    # A server may refuse HEAD, for example if a URL is signed for GET, or leave out the size.
    async with await _request("GET", url, {"Range": "bytes=0-0"}) as answer:
        if answer.status == 416:  # the file is empty
            return _range(answer)[1] or 0, ""
        _check(answer)
        size = _range(answer)[1] if answer.status == 206 else answer.content_length
        return size, _version(answer)


def _version(answer: Any) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


@asynccontextmanager
async def opened(
    url: str, start: int, end: int | None, expected: int | None
) -> AsyncIterator["Part"]:
    """Request the bytes from `start` to `end`; a server without ranges sends the whole file.

    Args:
        url: the file.
        start: the first byte.
        end: the byte after the last; None for the whole file.
        expected: the size that the file had before; None if unknown.

    Raises:
        Problem: the answer is a page, the size changed, or the answer has other bytes.
        Exception: as aiohttp raises it.
    """
    ranged = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
    async with await _request("GET", url, ranged) as answer:
        _check(answer)
        if answer.status != 206:
            at, total = 0, answer.content_length
        else:
            at, total = _range(answer)
            if at != start:
                raise Problem(f"the server sends byte {at:,} in place of byte {start:,}")
        if total is not None and expected is not None and total != expected:
            raise Problem(f"its size changed from {expected:,} to {total:,} bytes")
        whole = answer.status != 206
        limit = None if whole or end is None else end - start
        yield Part(at, whole, _data(answer, limit))


class Part(Struct, frozen=True):
    """The bytes that a server sends."""

    start: int
    whole: bool  # whether it is the whole file, even if a range was requested
    data: AsyncIterator[bytes]


async def _data(answer: Any, limit: int | None) -> AsyncIterator[bytes]:
    async for data in answer.content.iter_any():
        if limit is not None:
            data, limit = data[:limit], limit - len(data[:limit])
        if data:
            yield data
        if limit == 0:
            return


async def listed(url: str) -> tuple[list[str], bool]:
    """The names that a folder's page links to, and whether it is a list of files.

    Folders' names end with `/`.

    Raises:
        Exception: as aiohttp raises it.
    """
    async with await _request("GET", url) as answer:
        answer.raise_for_status()
        if answer.content_type not in _PAGES:
            return [], False
        text = (await _start(answer)).decode(answer.charset or "utf-8", "replace")
        page = str(answer.url)
    links = _Links(page)
    links.feed(text)
    return sorted(links.names), links.upwards or _LIST.search(text) is not None


async def _start(answer: Any) -> bytes:
    data = bytearray()
    async for chunk in answer.content.iter_any():
        data += chunk
        if len(data) > _LARGEST_LIST:
            break
    return bytes(data)


async def _request(method: str, url: str, headers: dict[str, str] | None = None) -> Any:
    from yarl import URL

    file_system, _ = driver(url)
    session = await file_system.set_session()
    options = {"allow_redirects": True, **file_system.kwargs}
    # A file that is compressed in transfer has another size, and no ranges.
    given = options.pop("headers", {})
    headers = {**given, "Accept-Encoding": "identity", **(headers or {})}
    # Escaped characters stay as they are: a signature is computed from them.
    address = URL(quote(url, safe=_URL_CHARACTERS), encoded=True) if "%" in url else URL(url)
    return session.request(method, address, headers=headers, **options)


def _check(answer: Any) -> None:
    """Refuse an answer that does not have the bytes of the stored file."""
    if answer.status >= 400:
        pause = answer.headers.get("Retry-After", "")
        if answer.status in (429, 503) and pause.isdecimal():
            raise Problem(f"the server answers {answer.status}", "transient", float(pause))
        answer.raise_for_status()
    _refuse_page(answer)
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    # Some servers report x.tar.gz as a tar that is compressed in transfer.
    packed = encoding in ("gzip", "x-gzip") and split(str(answer.url))[1].endswith(("gz", "tgz"))
    if encoding not in ("identity", "") and not packed:
        raise Problem(f"the server compresses it ({encoding}), against the request")


def _refuse_page(answer: Any) -> None:
    if answer.content_type in _PAGES and "Content-Type" in answer.headers:
        raise WebPage


def _range(answer: Any) -> tuple[int, int | None]:
    """The position of the first byte of a part, and the size of the whole file."""
    text = answer.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", text.strip())
    if found is None:
        raise Problem(f"the server sends a part of it, and its Content-Range is wrong ({text!r})")
    return int(found[1] or 0), None if found[2] == "*" else int(found[2])


class _Links(HTMLParser):
    """The names that a folder's page links to, of files and folders directly in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page
        self._folder = urlsplit(page).path.rpartition("/")[0] + "/"
        self.names: set[str] = set()
        self.upwards = False  # whether it links to the parent folder

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href")
        if tag != "a" or not link:
            return
        try:
            target = urlsplit(urljoin(self._page, link))
        except ValueError:
            return
        if target.hostname != urlsplit(self._page).hostname:
            return
        name = unquote(target.path.removeprefix(self._folder))
        if target.path.startswith(self._folder) and name and "/" not in name[:-1] and name != "/":
            self.names.add(name)
        self.upwards |= link in ("..", "../")
