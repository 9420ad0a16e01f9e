"""A model folder that is made here and published afar, at a URL.

A store of objects has no folder that could be renamed, so files appear one by one: a model is whole
when its conversion.json is there, which comes last and, where a model is replaced, goes first.
Until then another file says that what lies there is unfinished, and may be made anew.
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
from ..layout import MODEL_FILES
from .files import Progress
from .filesystems import TRIES, Problem, call, driver, patiently, run
from .remote import children, look
from .urls import is_web, join, protocol, shown, split, store

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]

MARK = "conversion.json"
UNFINISHED = ".bertconvert"
_PART_BYTES, _PARTS_AT_ONCE, _MOST_PARTS = 8 << 20, 4, 9000
# Where a folder is no more than a part of its files' names, and a bucket is never to be made.
_OBJECTS = {"abfs", "az", "gcs", "gs", "hf", "s3", "s3a"}


@contextmanager
def uploaded(url: str, force: bool, progress: Progress | None = None) -> Iterator[Path]:
    """A new folder to write into, whose files are uploaded to `url` at the end.

    If anything goes wrong, an interrupt included, what was uploaded is removed again, as far as the
    connection allows, and no conversion.json is left.

    Args:
        url: the folder.
        force: whether a model in it is replaced; files of no model stay.
        progress: told of the bytes that are uploaded.

    Raises:
        OutputError: it is not empty (without `force`), or can't be written.
    """
    check_url(url, force)
    try:
        with tempfile.TemporaryDirectory(prefix="bertconvert-") as folder:
            yield Path(folder)
            lying = check_url(url, force)  # again, as another process may have been here
            _upload(Path(folder), url, lying & MODEL_FILES, progress)
    except OSError as error:
        raise OutputError(
            f"the folder for temporary files, {tempfile.gettempdir()}, can't be written:"
            f" {error.strerror or error}. TMPDIR names another"
        ) from error


def check_url(url: str, force: bool) -> set[str]:
    """Refuse a URL that can't be written, or would be overwritten; gives what lies there.

    Raises:
        OutputError: it is of the web, is a file, has no bucket, or is not empty (without `force`).
    """
    if is_web(url):
        raise OutputError(
            f"{shown(url)} can't be written: {protocol(url)}:// can only be read. Name a folder, or"
            " one at s3://, gs:// or hf://"
        )

    async def lying() -> set[str]:
        owner = store(url)
        if owner and (await look(owner)).kind == "missing":  # one is never made
            raise Problem(f"there is no {shown(owner)}")
        if (await look(url)).kind == "file":
            raise OutputError(f"{shown(url)} is a file, or lies in one; name a folder")
        return {name.rstrip("/") for name in await children(url) or ()}

    names = _run(lying, url)
    if UNFINISHED in names and MARK not in names:  # left by a process that was killed
        names.remove(UNFINISHED)
        kept = sorted(names - MODEL_FILES)
    else:
        kept = sorted(names)
    if kept and not force:
        some = ", ".join(kept[:5]) + (", ..." if len(kept) > 5 else "")
        raise OutputError(
            f"{shown(url)} is not empty ({some}). Name another folder, or --force to replace the"
            " model in it"
        )
    return names


def _upload(stage: Path, url: str, replaced: set[str], progress: Progress | None) -> None:
    names = sorted(os.listdir(stage), key=lambda name: (name == MARK, name))
    begun: list[str] = []
    try:
        if protocol(url) not in _OBJECTS:
            _run(_patient("makedirs", url, exist_ok=True), url)
        begun.append(UNFINISHED)
        write_bytes(join(url, UNFINISHED), b"An upload that is not finished.\n")
        if MARK in replaced:
            _remove(join(url, MARK))
        for name in names:
            if name == MARK:
                for old in sorted(replaced - set(names)):
                    _remove(join(url, old))
            begun.append(name)
            _put(stage / name, join(url, name), progress)
        _remove(join(url, UNFINISHED))
    except BaseException:
        for name in reversed(begun):
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
        run(_patient("rm_file", url), url)
    except Problem as problem:
        if problem.kind != "missing":  # a try whose answer was lost may have done it
            raise OutputError(f"{shown(url)} can't be deleted: {problem}") from problem


def _put(file: Path, url: str, progress: Progress | None) -> None:
    from fsspec.callbacks import Callback

    size = file.stat().st_size
    told: Any = Callback()

    def begin() -> Awaitable[None]:
        nonlocal told
        told = Callback()
        return _call("put_file", url, os.fspath(file), callback=told)

    def tick() -> None:
        if progress is not None:
            progress(f"uploading {shown(url)}", min(told.value, size), size)

    _run(lambda: patiently(begin, url, TRIES), split(url)[0], tick)


async def _call(method: str, url: str, *before: str, **options: Any) -> Any:
    """Call a method of the driver; the paths `before` come before the URL's own."""
    file_system, path = driver(url)
    if method == "put_file":
        size = os.path.getsize(before[0])
        own = file_system._put_file if file_system.async_impl else file_system.put_file
        # A driver's own parts may be so large that those on their way fill the memory.
        parts = {
            "chunksize": max(_PART_BYTES, -(-size // _MOST_PARTS // (1 << 18)) << 18),
            "max_concurrency": _PARTS_AT_ONCE,
        }
        known = inspect.signature(own).parameters
        options |= {name: value for name, value in parts.items() if name in known}
    return await call(file_system, method, *before, path, **options)


async def _forget_parts(url: str) -> None:
    """S3 keeps the parts of an upload that was broken off, unseen and paid for."""
    file_system, path = driver(url)
    if protocol(url) in ("s3", "s3a"):
        bucket, key, _ = file_system.split_path(path)
        listed = await file_system._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for one in listed.get("Uploads", []):
            if one["Key"] == key:
                await file_system._abort_mpu(bucket, key, one["UploadId"])


def _patient(method: str, url: str, **options: Any) -> "Work[Any]":
    return lambda: patiently(partial(_call, method, url, **options), url, TRIES)


def _run(work: "Work[T]", url: str, tick: Callable[[], None] | None = None) -> T:
    try:
        return run(work, url, tick)
    except Problem as problem:
        raise OutputError(f"{shown(url)} can't be written: {problem}") from problem


def read_bytes(url: str) -> bytes | None:
    """What a small file holds; None where there is none.

    Raises:
        OutputError: it can't be read.
    """
    found: bytes | None = _if_there("cat_file", url)
    return found


def size(url: str) -> int | None:
    """How many bytes a file has; None where there is none.

    Raises:
        OutputError: that can't be told.
    """
    found = _if_there("info", url)
    return None if found is None or found["type"] == "directory" else found["size"]


def _if_there(method: str, url: str) -> Any:
    try:
        driver(url)[0].invalidate_cache(driver(url)[1])
        return run(_patient(method, url), url)
    except Problem as problem:
        if problem.kind == "missing":
            return None
        raise OutputError(f"{shown(url)} can't be read: {problem}") from problem


def write_bytes(url: str, content: bytes) -> None:
    """Write a small file, all at once or not at all where the store can.

    Raises:
        OutputError: it can't be written.
    """
    if is_web(url):
        raise OutputError(f"{shown(url)} can't be written: {protocol(url)}:// can only be read")

    async def write() -> None:
        file_system, path = driver(url)
        if protocol(url) not in _OBJECTS:
            await _call("makedirs", split(url)[0], exist_ok=True)
        await call(file_system, "pipe_file", path, content)

    _run(lambda: patiently(write, url, TRIES), url)
