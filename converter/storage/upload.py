"""A model folder that is written on disk and uploaded to a URL.

A store of objects can't rename a folder, so files appear one by one. A model is complete when its
conversion.json exists: that is uploaded last and, if a model is replaced, deleted first. Until then
the file `.bertconvert` marks the upload as unfinished, so that it may be replaced.
"""

import inspect
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import OutputError
from ..layout import MODEL_FILES, PROVENANCE
from .files import Progress
from .filesystems import TRIES, Problem, call, driver, run, run_or_refuse, with_retries
from .publish import not_empty
from .remote_file import OBJECT_STORES, refuse_web, stat_url, write_bytes
from .remote_folder import children
from .urls import join, protocol, shown, split, store

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]

UNFINISHED = ".bertconvert"
PART_BYTES, PARTS_AT_ONCE, _MOST_PARTS = 8 << 20, 4, 9000


@contextmanager
def uploaded(url: str, force: bool, progress: Progress | None = None) -> Iterator[Path]:
    """A new folder to write into, whose files are uploaded to `url` at the end.

    After an error or an interrupt the uploaded files are deleted as far as the connection allows,
    and no conversion.json is left.

    Args:
        url: the folder.
        force: whether a model in it is replaced; other files stay.
        progress: told of the bytes that are uploaded.

    Raises:
        OutputError: the folder has files (without `force`), or can't be written.
    """
    check_url(url, force)
    try:
        with tempfile.TemporaryDirectory(prefix="bertconvert-") as folder:
            yield Path(folder)
            present = check_url(url, force)  # again, as another process may have written it
            _upload(Path(folder), url, present & MODEL_FILES, progress)
    except OSError as error:
        raise OutputError(
            f"the temporary folder {tempfile.gettempdir()} can't be written:"
            f" {error.strerror or error}. Set TMPDIR to another one"
        ) from error


def check_url(url: str, force: bool) -> set[str]:
    """Refuse a URL that can't be written or would be overwritten; gives the names in it.

    Raises:
        OutputError: it is a web URL, is a file, has no bucket, or has files (without `force`).
    """
    refuse_web(url)

    async def list_names() -> set[str]:
        owner = store(url)
        if owner and (await stat_url(owner)).kind == "missing":  # it is not created
            raise Problem(f"{shown(owner)} does not exist")
        if (await stat_url(url)).kind == "file":
            raise OutputError(f"{shown(url)} is a file or is in a file; give a folder")
        names = await children(url, MODEL_FILES.__contains__)
        return {name.rstrip("/") for name in names or ()}

    names = _run(list_names, url)
    if UNFINISHED in names and PROVENANCE not in names:  # left by a killed process
        names.remove(UNFINISHED)
        kept = sorted(names - MODEL_FILES)
    else:
        kept = sorted(names)
    if kept and not force:
        raise OutputError(not_empty(shown(url), kept))
    return names


def _upload(stage: Path, url: str, replaced: set[str], progress: Progress | None) -> None:
    names = sorted(os.listdir(stage), key=lambda name: (name == PROVENANCE, name))
    started: list[str] = []
    try:
        if protocol(url) not in OBJECT_STORES:
            _run(_retried("makedirs", url, exist_ok=True), url)
        started.append(UNFINISHED)
        write_bytes(join(url, UNFINISHED), b"This upload is not finished.\n")
        if PROVENANCE in replaced:
            _remove(join(url, PROVENANCE))
        for name in names:
            if name == PROVENANCE:
                for old in sorted(replaced - set(names)):
                    _remove(join(url, old))
            started.append(name)
            _put(stage / name, join(url, name), progress)
        _remove(join(url, UNFINISHED))
    except BaseException:
        for name in reversed(started):
            with suppress(Exception):
                run(partial(_call, "rm_file", join(url, name)), url)
            with suppress(Exception):
                run(partial(_forget_parts, join(url, name)), url)
        if not replaced:
            with suppress(Exception):
                run(partial(_call, "rmdir", url), url)
        raise


def _remove(url: str) -> None:
    try:
        run(_retried("rm_file", url), url)
    except Problem as problem:
        if problem.kind != "missing":  # a try whose answer was lost may have deleted it
            raise OutputError(f"{shown(url)} can't be deleted: {problem}") from problem


def _put(file: Path, url: str, progress: Progress | None) -> None:
    from fsspec.callbacks import Callback

    size = file.stat().st_size
    counter: Any = Callback()

    def start() -> Awaitable[None]:
        nonlocal counter
        counter = Callback()
        return _call("put_file", url, os.fspath(file), callback=counter)

    def tick() -> None:
        if progress is not None:
            progress(f"uploading {shown(url)}", min(counter.value, size), size)

    _run(lambda: with_retries(start, url, TRIES), split(url)[0], tick)


async def _call(method: str, url: str, *before: str, **options: Any) -> Any:
    """Call a method of the driver with the paths `before`, then the URL's path."""
    file_system, path = driver(url)
    if method == "put_file":
        size = os.path.getsize(before[0])
        put = file_system._put_file if file_system.async_impl else file_system.put_file
        # A driver's default parts may be so large that those in transfer fill the memory.
        parts = {
            "chunksize": max(PART_BYTES, -(-size // _MOST_PARTS // (1 << 18)) << 18),
            "max_concurrency": PARTS_AT_ONCE,
        }
        known = inspect.signature(put).parameters
        options |= {name: value for name, value in parts.items() if name in known}
    return await call(file_system, method, *before, path, **options)


async def _forget_parts(url: str) -> None:
    """Delete the parts of a cancelled upload, which S3 would keep, invisible and billed."""
    file_system, path = driver(url)
    if protocol(url) in ("s3", "s3a"):
        bucket, key, _ = file_system.split_path(path)
        listed = await file_system._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for one in listed.get("Uploads", []):
            if one["Key"] == key:
                await file_system._abort_mpu(bucket, key, one["UploadId"])


def _retried(method: str, url: str, **options: Any) -> "Work[Any]":
    return lambda: with_retries(partial(_call, method, url, **options), url, TRIES)


def _run(work: "Work[T]", url: str, tick: Callable[[], None] | None = None) -> T:
    return run_or_refuse(OutputError, work, url, tick, "written")
