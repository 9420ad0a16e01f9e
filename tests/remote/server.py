"""A web server on this machine, with the faults that a test needs."""

import html
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

_BLOCK = 1 << 16


AnyServer = TypeVar("AnyServer", bound=ThreadingHTTPServer)


class Served:
    """An answer with content: which bytes of which file, and how many of them went out."""

    def __init__(self, name: str, start: int, end: int) -> None:
        self.name, self.start, self.end = name, start, end
        self.sent = 0

    def __repr__(self) -> str:
        return f"{self.name}[{self.start}:{self.end}] ({self.sent} sent)"


class Server(ThreadingHTTPServer):
    """Serves a folder; the attributes may be changed at any time.

    `served` has every answer with content, `asked` every request's method and path, `headers` what
    each came with, and `at_once` how many were answered at the same time, at most.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.number = time.time_ns()  # as ports are used again
        self.versions = True  # whether it is told when a file is another
        self.ranges = True  # whether parts of a file are sent
        self.lists = False  # whether folders are
        self.head = 200  # how HEAD is answered, if not as usual
        self.length = True  # whether sizes are told
        self.delay = 0.0  # seconds before each answer
        self.drop_after = -1  # bytes after which a connection is dropped
        self.drop_every = 1  # of so many answers, one is dropped
        self.stall_after = -1  # bytes after which nothing more comes
        self.fail: dict[str, int] = {}  # path -> status
        self.failures: list[int] = []  # statuses of the next answers to GET
        self.page = ""  # what is sent in place of anything
        self.redirect = ""  # where every request is sent on, if its path has not that
        self.login = ""  # Authorization that must be given
        self.query = ""  # that must be given
        self.headers_sent: dict[str, str] = {}
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.served: list[Served] = []
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, end: str) -> list[Served]:
        """The answers with content of files whose names end so."""
        return [one for one in self.served if one.name.endswith(end)]

    def sent(self, end: str = "") -> int:
        """The bytes that were sent of those files."""
        return sum(one.sent for one in self.of(end))

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients may go away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        server = self.server
        with server.lock:
            server.asked.append((self.command, self.path))
            server.headers.append(dict(self.headers.items()))
            server.now += 1
            server.at_once = max(server.at_once, server.now)
        try:
            time.sleep(server.delay)
            self._respond(with_content)
        finally:
            with server.lock:
                server.now -= 1

    def _respond(self, with_content: bool) -> None:
        server, parts = self.server, urlsplit(self.path)
        path = unquote(parts.path)
        file = server.folder / path.strip("/")
        if server.redirect and not path.startswith(server.redirect):
            target = server.redirect + parts.path + "?signed=once"
            return self._empty(302, Location=target)
        path = path.removeprefix(server.redirect)
        file = server.folder / path.strip("/")
        if server.login and self.headers.get("Authorization") != server.login:
            return self._empty(401)
        if server.query and parts.query != server.query:
            return self._empty(403)
        if path in server.fail:
            return self._empty(server.fail[path])
        if not with_content and server.head != 200:
            return self._empty(server.head)
        if with_content and server.failures:
            return self._empty(server.failures.pop(0))
        if server.page:
            return self._page(server.page, with_content)
        if file.is_dir() and server.lists:
            if not path.endswith("/"):
                return self._empty(301, Location=parts.path + "/")
            return self._page(_listing(file), with_content)
        if not file.is_file():
            return self._empty(404)
        about = file.stat()
        self._version = f'"{server.number}-{about.st_mtime_ns}-{about.st_size}"'
        self._file(path.strip("/"), file.read_bytes(), with_content)

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, text: str, with_content: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if with_content:
            self.wfile.write(text.encode())

    def _file(self, name: str, data: bytes, with_content: bool) -> None:
        server = self.server
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end, status = 0, len(data), 200
        if wanted and server.ranges and with_content:
            start, status = int(wanted[1]), 206
            end = min(int(wanted[2] or len(data)) + 1, len(data))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        if server.length:
            self.send_header("Content-Length", str(end - start))
        elif with_content:
            self.send_header("Transfer-Encoding", "chunked")
        if server.versions:
            self.send_header("ETag", self._version)
        for key, value in server.headers_sent.items():
            self.send_header(key, value)
        self.end_headers()
        if with_content:
            self._send(Served(name, start, end), data[start:end])

    def _send(self, served: Served, data: bytes) -> None:
        server = self.server
        with server.lock:
            server.served.append(served)
            drops = server.drop_after >= 0 and len(server.served) % server.drop_every == 0
        limit = server.drop_after if drops else server.stall_after
        for at in range(0, len(data), _BLOCK):
            block = data[at : at + _BLOCK]
            if 0 <= limit < at + len(block):
                block = block[: limit - at]
            served.sent += len(block)  # before the client can see it
            if server.length:
                self.wfile.write(block)
            elif block:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
            if 0 <= limit <= at + len(block) and served.sent < len(data):
                if drops:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    time.sleep(60)
                return
        if not server.length:
            self.wfile.write(b"0\r\n\r\n")


def _listing(folder: Path) -> str:
    """As nginx has it."""
    names = sorted(f"{file.name}/" if file.is_dir() else file.name for file in folder.iterdir())
    links = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a> 1-Jan 1\n' for name in names)
    title = f"Index of /{folder.name}/"
    return f'<html><head><title>{title}</title></head><pre><a href="../">../</a>\n{links}</pre>'


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a folder, until the end."""
    with running(Server(folder)) as server:
        yield server


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class GoogleStore(ThreadingHTTPServer):
    """As much of Google's store as a driver asks for: one bucket, `models`, in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _GoogleHandler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.served: list[Served] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, folder: Path, under: str) -> None:
        for file in folder.iterdir():
            self.objects[f"{under}/{file.name}"] = file.read_bytes()


class _GoogleHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GoogleStore

    def log_message(self, *_: Any) -> None:
        pass

    def _say(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _about(self, name: str) -> dict[str, Any]:
        return {"name": name, "bucket": "models", "size": str(len(self.server.objects[name]))}

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        found = re.fullmatch(r"(/download)?/storage/v1/b/models(/o(?:/(.+))?)?", parts.path)
        if found is None:
            return self._say(404, {"error": {"message": "The bucket does not exist."}})
        name = unquote(found[3] or "")
        if not found[2]:
            return self._say(200, {"name": "models"})
        if not name:
            return self._say(200, self._list(query))
        if name not in self.server.objects:
            return self._say(404, {"error": {"message": f"No such object: models/{name}"}})
        if not found[1]:
            return self._say(200, self._about(name))
        data = self.server.objects[name]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, len(data))
        self.server.served.append(Served(name, start, end))
        self._say(206 if wanted else 200, data[start:end])

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        prefix, items, folders = query.get("prefix", ""), [], set()
        for name in sorted(self.server.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if "delimiter" in query and "/" in rest:
                folders.add(prefix + rest.partition("/")[0] + "/")
            else:
                items.append(self._about(name))
        return {"items": items, "prefixes": sorted(folders)}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        body = self._body()
        if query["uploadType"] == ["resumable"]:
            number = str(len(self.server.uploads))
            self.server.uploads[number] = query["name"][0], b""
            return self._say(200, Location=f"{self.server.url}/upload/{number}")
        about, content = re.split(rb"\n--==0==", body, maxsplit=1)
        name = json.loads(about.partition(b"\n\n")[2])["name"]
        self.server.objects[name] = content.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        self._say(200, self._about(name))

    def do_PUT(self) -> None:
        number = self.path.rpartition("/")[2]
        name, before = self.server.uploads[number]
        data = before + self._body()
        self.server.uploads[number] = name, data
        if self.headers["Content-Range"].endswith(f"/{len(data)}"):
            self.server.objects[name] = data
            return self._say(200, self._about(name))
        self._say(308, Range=f"bytes=0-{len(data) - 1}")

    def do_DELETE(self) -> None:
        name = unquote(urlsplit(self.path).path.partition("/o/")[2])
        self._say(204 if self.server.objects.pop(name, None) is not None else 404)


class Hub(ThreadingHTTPServer):
    """As much of the Hugging Face Hub as a driver asks for: the model `me/bert`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.folder = folder
        self.served: list[Served] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _say(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        files = sorted(self.server.folder.iterdir())
        if path in ("/api/models/me/bert", "/api/models/me/bert/revision/main"):
            return self._say(200, {"id": "me/bert", "sha": "b" * 40, "siblings": []})
        if path.rstrip("/") == "/api/models/me/bert/tree/main":
            return self._say(
                200,
                [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "a" * 40}
                    for f in files
                ],
            )
        if path.startswith("/api/models/me/bert/"):
            return self._say(404, {"error": "no such entry"}, X_Error_Code="EntryNotFound")
        name = path.removeprefix("/me/bert/resolve/main/")
        if name not in {file.name for file in files}:
            return self._say(401, {"error": "no such model"}, X_Error_Code="RepoNotFound")
        data = (self.server.folder / name).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, len(data))
        self.server.served.append(Served(name, start, end))
        self._say(206 if wanted else 200, data[start:end])
