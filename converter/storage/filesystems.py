"""fsspec's drivers for remote files: found by the URL, called with retries, their errors explained.

fsspec is imported when the first URL is used.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Literal, TypeVar

from ..errors import BertconvertError
from ..text import pip_install
from .urls import host, is_web, protocol, scrubbed, shown

T = TypeVar("T")

# The packages that the extra installs, by protocol.
_PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
}
_LOGINS = {
    "aiohttp": "https://USER:PASSWORD@HOST/..., or ~/.netrc",
    "s3fs": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a public bucket needs"
    " FSSPEC_S3='{\"anon\": true}'",
    "gcsfs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "huggingface_hub": "HF_TOKEN, or `hf auth login`",
}
_LOUD = ("aiobotocore", "botocore", "fsspec", "gcsfs", "s3fs")
CONNECT_SECONDS, STALL_SECONDS = 20, 30
TRIES = 5  # without any progress in between
FIRST_TRIES = 3  # to reach a server for the first time, whose name may be wrong
_RETRYING = {"gcs", "gs", "hf", "s3", "s3a"}  # drivers that retry by themselves
PAUSE_SECONDS = 0.5  # after the first try, twice as long after each further one
_LONGEST_PAUSE = 30.0
_THREADS = 8  # for drivers that block until a server answers

Kind = Literal["other", "missing", "denied", "transient"]


class Problem(Exception):
    """Why a remote file can't be used, as the end of a sentence, and whether to try again.

    Args:
        text: the reason.
        kind: `transient` if another try may help.
        pause: the seconds that the server asks to wait.
    """

    def __init__(self, text: str, kind: Kind = "other", pause: float = 0.0) -> None:
        super().__init__(text)
        self.kind = kind
        self.pause = pause


_opened: dict[tuple[object, ...], Any] = {}


def driver(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path that it uses for the URL.

    Raises:
        Problem: the driver is not installed, or does not exist.
    """
    name = protocol(url)
    try:
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise _missing(name, "fsspec") from error
    try:
        kind: Any = get_filesystem_class(name)
    except ImportError as error:
        cause = error.__cause__
        package = cause.name if isinstance(cause, ImportError) else None
        raise _missing(name, package or _package(name)) from error
    except ValueError as error:
        raise Problem(f"fsspec does not know the protocol {name}://") from error
    try:
        options = _web_options(name) if is_web(url) else kind._get_kwargs_from_urls(url)
        # fsspec keeps one file system for each thread, and each would open its own connections.
        # After a fork none of them can be used.
        key = (os.getpid(), name, repr(sorted(options.items())))
        if key not in _opened:
            for loud in _LOUD:  # the error has what they would print
                logging.getLogger(loud).addHandler(logging.NullHandler())
            _opened[key] = kind(**options)
        return _opened[key], kind._strip_protocol(url)
    except Exception as error:  # each driver raises other errors
        raise explain(error, url) from error


def _package(name: str) -> str:
    from fsspec.registry import known_implementations

    if name in _PACKAGES:
        return _PACKAGES[name]
    return str(known_implementations[name]["class"]).partition(".")[0]


def _missing(name: str, package: str) -> Problem:
    package = package.partition(".")[0]
    ours = package == "fsspec" or name in _PACKAGES
    return Problem(
        f"{name}:// needs {package}, which is not installed:"
        f" {pip_install('remote', package) if ours else f'pip install {package}'}"
    )


def _web_options(name: str) -> dict[str, Any]:
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    given = conf.get(name, {}).get("client_kwargs", {})
    return {
        "client_kwargs": {
            "timeout": ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS
            ),
            "auto_decompress": False,  # the bytes must be those of the stored file
            "trust_env": True,  # proxies, ~/.netrc
            **given,
        }
    }


def call(file_system: Any, method: str, *arguments: Any, **options: Any) -> Awaitable[Any]:
    """Call a method of a file system without blocking fsspec's event loop."""
    if file_system.async_impl:
        answer: Awaitable[Any] = getattr(file_system, f"_{method}")(*arguments, **options)
        return answer
    waiting = partial(getattr(file_system, method), *arguments, **options)
    return asyncio.get_running_loop().run_in_executor(_threads(), waiting)


_pools: dict[int, ThreadPoolExecutor] = {}  # by process, as a fork has none of its parent's threads


def _threads() -> ThreadPoolExecutor:
    process = os.getpid()
    if process not in _pools:
        _pools[process] = ThreadPoolExecutor(_THREADS, "bertconvert")
    return _pools[process]


def run(
    work: Callable[[], Coroutine[Any, Any, T]], url: str, tick: Callable[[], None] | None = None
) -> T:
    """Run a coroutine in fsspec's event loop and wait for it; an interrupt cancels it.

    Args:
        work: makes the coroutine, in that loop.
        url: the file or folder that it uses.
        tick: called in this thread several times a second, and at the end.

    Raises:
        Problem: there is no driver, or `work` raises it.
    """
    driver(url)  # some can't be created in the loop
    from fsspec.asyn import get_loop

    future = asyncio.run_coroutine_threadsafe(work(), get_loop())
    try:
        while not future.done():
            wait([future], 0.2)
            if tick is not None:
                tick()
        if tick is not None:
            tick()
    except BaseException:
        future.cancel()
        raise
    return future.result()


def run_or_refuse(
    refusal: type[BertconvertError],
    work: Callable[[], Coroutine[Any, Any, T]],
    url: str,
    tick: Callable[[], None] | None = None,
    verb: str = "read",
) -> T:
    """As `run`, but a problem is raised as an error that a person can read.

    Args:
        refusal: the class of the error.
        work: as for `run`.
        url: as for `run`.
        tick: as for `run`.
        verb: what can't be done with the URL, as a participle.
    """
    try:
        return run(work, url, tick)
    except Problem as problem:
        raise refusal(f"{shown(url)} can't be {verb}: {problem}") from problem


async def with_retries(work: Callable[[], Awaitable[T]], url: str, tries: int = 0) -> T:
    """The result of `work`, which is called again after an error that may not last.

    Args:
        work: called for each try.
        url: the file or folder that it uses.
        tries: the number of tries; by default a few, or one if the driver retries by itself.

    Raises:
        Problem: the error lasts, or the tries are used up.
    """
    tries = tries or (1 if protocol(url) in _RETRYING else FIRST_TRIES)
    for number in range(1, tries + 1):
        try:
            return await work()
        except Exception as error:
            problem = explain(error, url)
            if problem.kind != "transient" or number == tries:
                raise problem from error
        await pause(number, problem)
    raise AssertionError("the loop has at least one try")


async def pause(number: int, problem: Problem) -> None:
    """Wait after try `number`: longer each time, and not as long as other clients do."""
    seconds = PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.75, 1.25)
    await asyncio.sleep(min(max(seconds, problem.pause), _LONGEST_PAUSE))


_LOGIN_ERRORS = {
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "PermissionError",
    "ProfileNotFound",
    "RefreshError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
_DROPPED = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "NetworkError",
    "ProtocolError",
    "TransferEncodingError",
    "TransportError",
}
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
# The names of error classes, what they mean, and whether another try may help; the first that
# matches counts, as some are subclasses of others.
_MEANINGS: list[tuple[set[str], str, Kind]] = [
    (
        {"gaierror", "ClientConnectorDNSError"},
        "{server} can't be found; check its name and the network",
        "transient",
    ),
    (
        {"SSLError", "ClientSSLError"},
        "no secure connection to {server} is possible{reason}; SSL_CERT_FILE can name the trusted"
        " certificates",
        "other",
    ),
    ({"InvalidURL"}, "it is not a valid URL", "other"),
    ({"ConnectionRefusedError"}, "{server} refuses the connection", "transient"),
    (
        {"ClientConnectorError", "ConnectError", "EndpointConnectionError"},
        "{server} can't be reached",
        "transient",
    ),
    ({"Timeout"}, "{server} does not answer", "transient"),
    ({"Status"}, "the server answers {status}", "other"),
    (_DROPPED, "the connection was dropped", "transient"),
]


def explain(error: BaseException, url: str) -> Problem:
    """The meaning of a driver's error.

    Errors are recognized by the names of their classes, as not every driver is installed.
    """
    if isinstance(error, Problem):
        return error
    causes = list(_causes(error))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    status = next((found for cause in causes if (found := _status(cause))), 0)
    if status in (401, 403, 407) or names & _LOGIN_ERRORS or "Forbidden" in str(error)[:10]:
        answer = f"the server answers {status}: " if status else ""
        absent = "it does not exist, or " if protocol(url) == "hf" else ""
        return Problem(f"{answer}{absent}it needs a login{_login(url)}", "denied")
    if status in (404, 410) or "FileNotFoundError" in names:
        return Problem("it does not exist" + (f" ({status})" if status else ""), "missing")
    if any("Timeout" in name for name in names):
        names.add("Timeout")
    if status:
        names.add("Status")
    for known, text, kind in _MEANINGS:
        if names & known:
            server = host(url) if is_web(url) else "the server"
            details = [str(c.verify_message) for c in causes if hasattr(c, "verify_message")]
            reason = f" ({details[0]})" if details else ""
            kind = "transient" if status in _TRANSIENT_STATUS else kind
            return Problem(text.format(server=server, reason=reason, status=status), kind)
    text = scrubbed(f"{type(error).__name__}: {error}")[:300]
    return Problem(text, "transient" if isinstance(error, OSError) else "other")


def _login(url: str) -> str:
    hint = _LOGINS.get(_PACKAGES.get(protocol(url), ""))
    return f" ({hint})" if hint else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: BaseException) -> int:
    """The status of the HTTP answer that caused an error; 0 if there is none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # of botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(answer, "status_code", None)
    found = found or getattr(error, "status", None)
    if type(error).__name__ == "HttpError":  # gcsfs; aiohttp uses 400 for any broken answer
        found = found or getattr(error, "code", None)
    return found if isinstance(found, int) and 100 <= found < 600 else 0
