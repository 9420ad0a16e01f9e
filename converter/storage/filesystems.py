"""fsspec's drivers for what lies afar: found by the URL, called with patience, understood.

Nothing of fsspec is imported before a URL is met.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Literal, TypeVar

from .urls import host, is_web, protocol, scrubbed

T = TypeVar("T")

_EXTRA = "'bertconvert[remote]'"
# What the extra brings, by protocol.
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
TRIES = 5  # in a row, of which none gets any further
FIRST_TRIES = 3  # of what was never answered yet, and may have a wrong name
_PATIENT = {"gcs", "gs", "hf", "s3", "s3a"}  # drivers that have made some tries themselves
PAUSE_SECONDS = 0.5  # after the first try, and twice as long after each that follows
_LONGEST_PAUSE = 30.0
_THREADS = 8  # of drivers that wait for each answer

Kind = Literal["other", "missing", "denied", "transient"]


class Problem(Exception):
    """Why something afar can't be had, as the end of a sentence, and whether to try again."""

    def __init__(self, text: str, kind: Kind = "other", pause: float = 0.0) -> None:
        super().__init__(text)
        self.kind = kind
        self.pause = pause  # seconds that the server asks to wait


_opened: dict[tuple[object, ...], Any] = {}


def driver(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path that it knows the URL by.

    Raises:
        Problem: the driver is not installed, or there is none.
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
        raise Problem(f"{name}:// is no protocol that fsspec knows") from error
    try:
        options = _web_options(name) if is_web(url) else kind._get_kwargs_from_urls(url)
        # fsspec keeps one for each thread, which would connect anew in each. After a fork none of
        # them can be used.
        key = (os.getpid(), name, repr(sorted(options.items())))
        if key not in _opened:
            for loud in _LOUD:  # what they have to say is in the error, too
                logging.getLogger(loud).addHandler(logging.NullHandler())
            _opened[key] = kind(**options)
        return _opened[key], kind._strip_protocol(url)
    except Exception as error:  # each driver has errors of its own
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
        f"{name}:// needs {package}, which is not installed: pip install"
        f" {_EXTRA if ours else package}"
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
            "auto_decompress": False,  # bytes are wanted as they lie there
            "trust_env": True,  # proxies, ~/.netrc
            **given,
        }
    }


def call(file_system: Any, method: str, *arguments: Any, **options: Any) -> Awaitable[Any]:
    """Call a method of a file system without waiting for it in fsspec's loop."""
    if file_system.async_impl:
        answer: Awaitable[Any] = getattr(file_system, f"_{method}")(*arguments, **options)
        return answer
    waiting = partial(getattr(file_system, method), *arguments, **options)
    return asyncio.get_running_loop().run_in_executor(_threads(), waiting)


_pools: dict[int, ThreadPoolExecutor] = {}  # by process, as no thread comes along with a fork


def _threads() -> ThreadPoolExecutor:
    process = os.getpid()
    if process not in _pools:
        _pools[process] = ThreadPoolExecutor(_THREADS, "bertconvert")
    return _pools[process]


def run(
    work: Callable[[], Coroutine[Any, Any, T]], url: str, tick: Callable[[], None] | None = None
) -> T:
    """Wait for work that is done in fsspec's loop; an interrupt ends both.

    Args:
        work: what is to be done, called there.
        url: what it is done with.
        tick: called in this thread, some times in a second, and at the end.

    Raises:
        Problem: there is no driver, or `work` raises that.
    """
    driver(url)  # some can't be made in the loop
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


async def patiently(work: Callable[[], Awaitable[T]], url: str, tries: int = 0) -> T:
    """What `work` gives, which is tried again where that may help.

    Args:
        work: called for each try.
        url: what it is done with.
        tries: how many; by default a few, or one where the driver tries again itself.

    Raises:
        Problem: it is of no use.
    """
    tries = tries or (1 if protocol(url) in _PATIENT else FIRST_TRIES)
    for number in range(1, tries + 1):
        try:
            return await work()
        except Exception as error:
            problem = explain(error, url)
            if problem.kind != "transient" or number == tries:
                raise problem from error
        await pause(number, problem)
    raise AssertionError("there is at least one try")


async def pause(number: int, problem: Problem) -> None:
    """Wait after the try of this number, longer each time, and not as long as others do."""
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
_UNREACHED = {"ClientConnectorError", "ConnectError", "EndpointConnectionError"}
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
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


def explain(error: BaseException, url: str) -> Problem:
    """What a driver's error means.

    Drivers are told by the names of their errors, as those of others are not installed.
    """
    if isinstance(error, Problem):
        return error
    causes = list(_causes(error))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    status = next((found for cause in causes if (found := _status(cause))), 0)
    at = host(url) if is_web(url) else "the server"
    if status in (401, 403, 407) or names & _LOGIN_ERRORS or "Forbidden" in str(error)[:10]:
        answer = f"the server answers {status}: " if status else ""
        absent = "it is not there, or " if protocol(url) == "hf" else ""
        return Problem(f"{answer}{absent}it asks for a login{_login(url)}", "denied")
    if status in (404, 410) or "FileNotFoundError" in names:
        return Problem("it is not there" + (f" ({status})" if status else ""), "missing")
    if names & {"gaierror", "ClientConnectorDNSError"}:
        return Problem(f"{at} can't be found: check its name, and the network", "transient")
    if names & {"SSLError", "ClientSSLError"}:
        reason = next((str(c.verify_message) for c in causes if hasattr(c, "verify_message")), "")
        return Problem(
            f"no safe connection to {at} can be made{f' ({reason})' if reason else ''};"
            " SSL_CERT_FILE names the certificates that are trusted"
        )
    if "InvalidURL" in names:
        return Problem("that is no URL")
    if "ConnectionRefusedError" in names:
        return Problem(f"{at} refuses the connection", "transient")
    if names & _UNREACHED:
        return Problem(f"{at} can't be reached", "transient")
    if "TimeoutError" in names or any("Timeout" in name for name in names):
        return Problem(f"{at} does not answer", "transient")
    if status:
        return Problem(f"the server answers {status}", "transient" if status in _AGAIN else "other")
    if names & _DROPPED:
        return Problem("the connection was dropped", "transient")
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
    """The status of the HTTP answer that an error tells of."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # of botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(answer, "status_code", None)
    found = found or getattr(error, "status", None)
    if type(error).__name__ == "HttpError":  # of gcsfs; of aiohttp, 400 is any broken answer
        found = found or getattr(error, "code", None)
    return found if isinstance(found, int) and 100 <= found < 600 else 0
