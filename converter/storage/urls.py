"""URLs as text: taken apart, put together, and shown without what is secret in them."""

import re
from urllib.parse import quote, unquote

_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_USER = re.compile(r"(?<=://)[^/?#@]*@")


def protocol(url: str) -> str:
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Whether it is of the web, where a name may have a query and letters are escaped."""
    return protocol(url) in ("http", "https")


def host(url: str) -> str:
    """The host that a URL of the web names; of another, the first part of the path."""
    return _USER.sub("", url).partition("://")[2].partition("/")[0].partition("?")[0]


def shown(url: str) -> str:
    """What messages and model cards call it: without user, password, query and fragment."""
    return _USER.sub("", _cut(url)[0], count=1)


def split(url: str) -> tuple[str, str]:
    """The folder, with the URL's query, and the name in it; "" where there is none."""
    path, query = _cut(url)
    root = _root(path)
    folder, _, name = path[len(root) :].rstrip("/").rpartition("/")
    return root + folder + query, unquote(name) if is_web(url) else name


def join(folder: str, name: str) -> str:
    """The URL of a file in a folder, with the folder's query, which may be what admits to it."""
    path, query = _cut(folder)
    return path.rstrip("/") + "/" + (quote(name) if is_web(folder) else name) + query


def scrubbed(text: str) -> str:
    """What a driver says, on one line, without the secrets of URLs in it."""
    text = re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", text)
    return " ".join(re.sub(r"://[^/\s@'\"]*@", "://", text).split())


def ends_as_folder(url: str) -> bool:
    path = _cut(url)[0]
    return path.endswith("/") or path == _root(path)


def store(url: str) -> str:
    """The bucket or repository that a URL lies in; "" where there is no such thing."""
    scheme, _, path = url.partition("://")
    parts = {"s3": 1, "s3a": 1, "gs": 1, "gcs": 1, "hf": 2}.get(scheme.lower(), 0)
    if scheme.lower() == "hf" and path.startswith(("datasets/", "spaces/")):
        parts = 3
    return f"{scheme}://" + "/".join(path.split("/")[:parts]) if parts else ""


def _root(url: str) -> str:
    found = _ROOT.match(url)
    return found[0] if found else ""


def _cut(url: str) -> tuple[str, str]:
    """What stands before the query, and the query with its `?`; elsewhere `?` is a letter."""
    if not is_web(url):
        return url, ""
    path, mark, query = url.partition("#")[0].partition("?")
    return path, mark + query
