"""A folder that is published all at once, or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BusyError, OutputError
from ..layout import MODEL_FILES
from .files import Progress, is_url


@contextmanager
def published(out: Path | str, force: bool, progress: Progress | None = None) -> Iterator[Path]:
    """A new folder to write into, which becomes `out` at the end, in one step.

    If anything goes wrong, an interrupt included, `out` is what it was and nothing is left beside
    it. What a killed process left there is taken away by the next one. With `force`, an `out` that
    holds something is replaced: files that are not of a model folder (`MODEL_FILES`) stay in it,
    and the old ones are given up only when the new ones are on the disk.

    To a URL, files are uploaded one by one, and `progress` is told; see `upload.uploaded`.

    Raises:
        OutputError: `out` is no folder, or not empty (without `force`), or can't be written.
    """
    if is_url(os.fspath(out)):
        from .upload import uploaded

        with uploaded(os.fspath(out), force, progress) as stage:
            yield stage
        return
    out = Path(os.path.realpath(out))
    check_output(out, force)
    made = _make_parents(out.parent)
    stage = _stage(out)
    try:
        lock = _claim(stage)
        try:
            _put_back(stage, out)
            check_output(out, force)  # again, as another process may have been here
            yield stage
            check_output(out, force)
            _publish(stage, out)
        except BaseException:
            _remove(stage)
            raise
        finally:
            os.close(lock)
    except BaseException as error:
        for folder in made:
            with suppress(OSError):  # somebody else put something there
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{out} can't be written: {error.strerror or error}") from error
        raise


def tidy(out: Path) -> None:
    """Take away what a process that was killed left beside `out`, if none is writing there."""
    stage = _stage(Path(os.path.realpath(out)))
    if stage.is_dir():
        with suppress(BusyError):
            lock = _claim(stage)
            _remove(stage)
            os.close(lock)


def _stage(out: Path) -> Path:
    return out.parent / f".{out.name}.bertconvert"


def check_output(out: Path | str, force: bool) -> None:
    """Refuse what would overwrite something, before any work is done.

    Raises:
        OutputError: `out` is no folder, is or holds the current one, is a mount point, or is not
            empty (without `force`); or it is a URL that can't be written.
    """
    if is_url(os.fspath(out)):
        from .upload import check_url

        check_url(os.fspath(out), force)
        return
    try:
        lying = sorted(os.listdir(out))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise OutputError(f"{out} is a file, or lies in one; name a folder") from None
    except OSError as error:
        raise OutputError(f"{out} can't be opened: {error.strerror}") from error
    if _holds_current_folder(Path(out)):
        raise OutputError(
            f"{out} is the current folder, or holds it, and can't be replaced; name another"
        )
    if os.path.ismount(out):
        raise OutputError(f"{out} is a mount point, which can't be replaced; name a folder in it")
    if lying and not force:
        some = ", ".join(lying[:5]) + (", ..." if len(lying) > 5 else "")
        raise OutputError(
            f"{out} is not empty ({some}). Name another folder, or --force to replace the model"
            " in it"
        )


def _holds_current_folder(folder: Path) -> bool:
    try:
        current = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return False
    return any(os.path.samefile(folder, parent) for parent in (current, *current.parents))


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and those it lies in; gives those that were made, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for parent in reversed(missing):
            parent.mkdir()
            made.insert(0, parent)
    except OSError as error:
        for parent in made:
            parent.rmdir()
        raise OutputError(f"{missing[0]} can't be made: {error.strerror}") from error
    return made


def _claim(stage: Path) -> int:
    """Make the folder empty and lock it; the descriptor holds the lock."""
    try:
        stage.mkdir()
    except FileExistsError:
        pass  # left by a process that was killed, or in use, as the lock tells
    except OSError as error:
        raise OutputError(
            f"{stage.parent} can't be written: {error.strerror}. Name a folder elsewhere."
        ) from error
    lock = _lock(stage)
    try:
        for left in os.scandir(stage):
            if left.is_dir(follow_symlinks=False):
                _remove(Path(left.path))
            else:
                os.unlink(left.path)
        if os.listdir(stage):
            raise OutputError(f"{stage} can't be emptied; delete it")
    except BaseException:
        os.close(lock)
        raise
    return lock


def _lock(folder: Path) -> int:
    lock = -1
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(folder)):
            return lock
        raise FileNotFoundError  # it was published between the two
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError | FileNotFoundError):
            raise BusyError(f"another process is writing {folder}; wait for it") from error
        raise OutputError(f"{folder} can't be used: {error.strerror}") from error


def _remove(folder: Path) -> None:
    """Take a folder away as far as possible, read-only folders in it included."""
    _unlock(folder)
    for parent, names, _ in os.walk(folder):
        for name in names:
            _unlock(Path(parent, name))
    shutil.rmtree(folder, ignore_errors=True)


def _unlock(folder: Path) -> None:
    if not folder.is_symlink():
        with suppress(OSError):
            folder.chmod(0o700)


def _put_back(stage: Path, out: Path) -> None:
    """Undo the half of `_exchange` that a process did which was killed in the middle of it."""
    aside = _aside(stage)
    if not os.path.lexists(aside):
        return
    if os.path.lexists(out):
        raise OutputError(
            f"{aside} is left from a process that was killed, and holds what {out} held before."
            " Look whether you need it, and delete it"
        )
    os.rename(aside, out)


def _aside(stage: Path) -> Path:
    return stage.with_name(f"{stage.name}.old")


def _publish(stage: Path, out: Path) -> None:
    if not out.exists():
        os.rename(stage, out)
        return
    if not os.listdir(out):
        shutil.copymode(out, stage)
        os.rename(stage, out)
        return
    # The old model goes away, so the new one has to be on the disk before.
    for name in os.listdir(stage):
        _sync(stage / name)
    for kept in os.scandir(out):
        if kept.name not in MODEL_FILES:
            _link(Path(kept.path), stage / kept.name)
    _sync(stage)
    shutil.copymode(out, stage)
    lock = _lock(out)  # which lies at `stage` in a moment, where the next process would take it
    try:
        _exchange(stage, out)
        _remove(stage)
    finally:
        os.close(lock)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _link(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=os.link)
    else:
        os.link(source, target, follow_symlinks=False)


def _exchange(stage: Path, out: Path) -> None:
    """Let two folders change places, in one step where the system can."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):  # Linux
        arguments = (-100, os.fsencode(stage), -100, os.fsencode(out), 2)  # RENAME_EXCHANGE
        if libc.renameat2(*arguments) == 0:
            return
        code = ctypes.get_errno()
    elif hasattr(libc, "renamex_np"):  # macOS
        if libc.renamex_np(os.fsencode(stage), os.fsencode(out), 2) == 0:  # RENAME_SWAP
            return
        code = ctypes.get_errno()
    else:
        code = errno.ENOSYS
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code))
    aside = _aside(stage)
    os.rename(out, aside)
    try:
        os.rename(stage, out)
    except BaseException:
        os.rename(aside, out)
        raise
    os.rename(aside, stage)
