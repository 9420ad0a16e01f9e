"""URLs as text: split, joined, and shown without their secrets."""

import re
from urllib.parse import quote, unquote

_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_USER = re.compile(r"(?<=://)[^/?#@]*@")


def protocol(url: str) -> str:
    """The part before `://`, in lower case."""
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Whether it is http:// or https://, where a query may follow and characters are escaped."""
    return protocol(url) in ("http", "https")


def host(url: str) -> str:
    """The host of a web URL; of another URL, the first part of the path."""
    return _USER.sub("", url).partition("://")[2].partition("/")[0].partition("?")[0]


def shown(url: str) -> str:
    """The URL for messages and model cards: without user, password, query and fragment."""
    return _USER.sub("", _cut(url)[0], count=1)


def split(url: str) -> tuple[str, str]:
    """The folder, with the URL's query, and the last part of the path; "" if it has none."""
    path, query = _cut(url)
    root = _root(path)
    folder, _, name = path[len(root) :].rstrip("/").rpartition("/")
    return root + folder + query, unquote(name) if is_web(url) else name


def join(folder: str, name: str) -> str:
    """The URL of a file in a folder, with the folder's query, which may hold the access key."""
    path, query = _cut(folder)
    return path.rstrip("/") + "/" + (quote(name) if is_web(folder) else name) + query


def scrubbed(text: str) -> str:
    """A driver's message on one line, without the secrets of the URLs in it."""
    text = re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", text)
    return " ".join(re.sub(r"://[^/\s@'\"]*@", "://", text).split())


def ends_as_folder(url: str) -> bool:
    """Whether its path ends with a slash or is empty."""
    path = _cut(url)[0]
    return path.endswith("/") or path == _root(path)


def store(url: str) -> str:
    """The bucket or repository of a URL; "" for a protocol that has none."""
    scheme, _, path = url.partition("://")
    parts = {"s3": 1, "s3a": 1, "gs": 1, "gcs": 1, "hf": 2}.get(scheme.lower(), 0)
    if scheme.lower() == "hf" and path.startswith(("datasets/", "spaces/")):
        parts = 3
    return f"{scheme}://" + "/".join(path.split("/")[:parts]) if parts else ""


def _root(url: str) -> str:
    found = _ROOT.match(url)
    return found[0] if found else ""


def _cut(url: str) -> tuple[str, str]:
    """The URL before its query, and the query with `?`; only web URLs have queries."""
    if not is_web(url):
        return url, ""
    path, mark, query = url.partition("#")[0].partition("?")
    return path, mark + query
