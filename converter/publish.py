"""A folder that is published all at once, or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

# Whatever a model folder may hold. What else lies in a folder is the user's.
MODEL_FILES = frozenset(
    {
        "README.md",
        "config.json",
        "conversion.json",
        "model.safetensors",
        "pytorch_model.bin",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
)


@contextmanager
def published(out: Path, force: bool) -> Iterator[Path]:
    """A new folder to write into, which becomes `out` at the end, in one step.

    If anything goes wrong, an interrupt included, `out` is what it was and nothing is left beside
    it. What a killed process left there is taken away by the next one. With `force`, an `out` that
    holds something is replaced: files that are not of a model folder (`MODEL_FILES`) stay in it,
    and the old ones are given up only when the new ones are on the disk.

    Raises:
        OutputError: `out` is no folder, or not empty (without `force`), or can't be written.
    """
    out = Path(os.path.realpath(out))
    check_output(out, force)
    made = _make_parents(out.parent)
    stage = out.parent / f".{out.name}.bertconvert"
    try:
        lock = _claim(stage)
        try:
            yield stage
            _publish(stage, out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(lock)
    except BaseException as error:
        for folder in made:
            folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{out} can't be written: {error.strerror or error}") from error
        raise


def check_output(out: Path, force: bool) -> None:
    """Refuse what would overwrite something, before any work is done.

    Raises:
        OutputError: `out` is no folder, is the current one, or is not empty (without `force`).
    """
    try:
        lying = sorted(os.listdir(out))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise OutputError(f"{out} is a file, or lies in one; name a folder") from None
    except OSError as error:
        raise OutputError(f"{out} can't be opened: {error.strerror}") from error
    if os.path.samefile(out, os.curdir):
        raise OutputError(f"{out} is the current folder, which can't be replaced; name another")
    if lying and not force:
        some = ", ".join(lying[:5]) + (", ..." if len(lying) > 5 else "")
        raise OutputError(
            f"{out} is not empty ({some}). Name another folder, or --force to replace the model"
            " in it"
        )


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and those it lies in; gives those that were made, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for parent in reversed(missing):
            parent.mkdir()
    except OSError as error:
        raise OutputError(f"{missing[0]} can't be made: {error.strerror}") from error
    return missing


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
    lock = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise OutputError(f"another process is writing {stage}; wait for it") from error
    for left in os.scandir(stage):
        os.unlink(left.path)
    return lock


def _publish(stage: Path, out: Path) -> None:
    if not out.exists() or not os.listdir(out):
        os.rename(stage, out)
        return
    for kept in os.scandir(out):
        if kept.name not in MODEL_FILES:
            _link(Path(kept.path), stage / kept.name)
    # The old model goes away, so the new one has to be on the disk before.
    for name in (*os.listdir(stage), "."):
        fd = os.open(stage / name, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    shutil.copymode(out, stage)
    _exchange(stage, out)


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
    aside = stage.with_name(f"{stage.name}.old")
    os.rename(out, aside)
    try:
        os.rename(stage, out)
    except BaseException:
        os.rename(aside, out)
        raise
    os.rename(aside, stage)
