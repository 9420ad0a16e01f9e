"""A folder on disk that is published as a whole, or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BusyError, OutputError
from ..interrupts import held
from ..layout import MODEL_FILES


@contextmanager
def published(out: Path | str, force: bool, files: Collection[str] = MODEL_FILES) -> Iterator[Path]:
    """A new folder to write into, which becomes `out` at the end, in one step.

    After an error or an interrupt, `out` is as before and nothing is left next to it. What a killed
    process leaves there is removed by the next one. With `force`, the files of that kind in `out`
    are replaced and other files stay, and the old ones are deleted only when the new ones are on
    the disk.

    Args:
        out: the folder.
        force: whether it may have files.
        files: the names that may be written; by default those of a model folder.

    Raises:
        OutputError: `out` is not a folder, has files (without `force`), or can't be written.
        BusyError: another process is writing it.
    """
    out = Path(os.path.realpath(out))
    check_output(out, force)
    made: list[Path] = []
    stage = _stage(out)
    lock = None
    try:
        with held():
            made = _make_parents(out.parent)
            lock = _claim(stage)
        _put_back(stage, out)
        check_output(out, force)  # again, as another process may have been here
        yield stage
        check_output(out, force)
        _publish(stage, out, files)
    except BaseException as error:
        with held():
            if lock is not None:
                _remove(stage)
            for folder in made:
                with suppress(OSError):  # another process put something into it
                    folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{out} can't be written: {error.strerror or error}") from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def tidy(out: Path) -> None:
    """Remove what a killed process left next to `out`, unless another is writing it now."""
    stage = _stage(Path(os.path.realpath(out)))
    if stage.is_dir():
        with suppress(BusyError):
            lock = _claim(stage)
            _remove(stage)
            os.close(lock)


def _stage(out: Path) -> Path:
    return out.parent / f".{out.name}.bertconvert"


def check_output(out: Path | str, force: bool) -> None:
    """Refuse a folder that can't be written or would be overwritten, before any work is done.

    Args:
        out: the folder.
        force: whether it may have files.

    Raises:
        OutputError: it is a file, is or contains the current folder, is a mount point, or has files
            (without `force`).
    """
    try:
        present = sorted(os.listdir(out))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise OutputError(f"{out} is a file or is in a file; give a folder") from None
    except OSError as error:
        raise OutputError(f"{out} can't be opened: {error.strerror}") from error
    if _holds_current_folder(Path(out)):
        raise OutputError(
            f"{out} is or contains the current folder and can't be replaced; give another one"
        )
    if os.path.ismount(out):
        raise OutputError(f"{out} is a mount point and can't be replaced; give a folder in it")
    if present and not force:
        raise OutputError(not_empty(str(out), present))


def not_empty(out: str, names: list[str]) -> str:
    """The message for an output folder that has files."""
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return (
        f"{out} is not empty ({some}). Give another one, or --force to replace the files that were"
        " converted into it"
    )


def _holds_current_folder(folder: Path) -> bool:
    try:
        current = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return False
    return any(os.path.samefile(folder, parent) for parent in (current, *current.parents))


def _make_parents(folder: Path) -> list[Path]:
    """Create a folder and its parents; gives those that did not exist, innermost first."""
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
        raise OutputError(f"{missing[0]} can't be created: {error.strerror}") from error
    return made


def _claim(stage: Path) -> int:
    """Create the folder or empty it, and lock it; the descriptor holds the lock."""
    try:
        stage.mkdir()
    except FileExistsError:
        pass  # left by a killed process, or in use: the lock tells
    except OSError as error:
        raise OutputError(
            f"{stage.parent} can't be written: {error.strerror}. Give a folder elsewhere."
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
        raise FileNotFoundError  # it was published after it was opened
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError | FileNotFoundError):
            raise BusyError(f"another process is writing {folder}; wait until it ends") from error
        raise OutputError(f"{folder} can't be used: {error.strerror}") from error


def _remove(folder: Path) -> None:
    """Delete a folder as far as possible, including read-only folders in it."""
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
    """Undo an `_exchange` in two steps that was killed after the first."""
    aside = _aside(stage)
    if not os.path.lexists(aside):
        return
    if os.path.lexists(out):
        raise OutputError(
            f"{aside} was left by a killed process and has the former content of {out}. Check"
            " whether you need it, then delete it"
        )
    os.rename(aside, out)


def _aside(stage: Path) -> Path:
    return stage.with_name(f"{stage.name}.old")


def _publish(stage: Path, out: Path, files: Collection[str]) -> None:
    if not out.exists():
        os.rename(stage, out)
        return
    if not os.listdir(out):
        shutil.copymode(out, stage)
        os.rename(stage, out)
        return
    # The new model must be on the disk before the old one is deleted.
    for name in os.listdir(stage):
        _sync(stage / name)
    for kept in os.scandir(out):
        if kept.name not in files:
            _link(Path(kept.path), stage / kept.name)
    _sync(stage)
    shutil.copymode(out, stage)
    lock = _lock(out)  # after the exchange it is at `stage`, where another process would claim it
    try:
        with held():
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
    """Exchange two folders, in one step if the system supports it."""
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
