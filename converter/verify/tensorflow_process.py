"""TensorFlow in a process of its own.

So its import takes no time from that of torch, its memory is free when torch needs some, and if it
ends its process, that is an error like any other. A process that has imported TensorFlow already
uses it as it is.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..errors import BertconvertError, OriginalError
from ..models.backend import tensorflow
from ..models.reference import Samples
from ..storage.files import Progress
from .batches import Batch, Original, from_arrays, to_arrays
from .explain import Question, explain
from .original import Task, compute
from .verdict import Cause

# The files by which the two processes exchange what they have to say.
_WORK, _GIVEN = "work.json", "given.safetensors"
_RESULT, _CAUSES, _ERROR = "result.safetensors", "causes.json", "error.json"
_IMPORTED, _PRINTED = "imported", "printed"

_FACTS = "facts"
_TICK_SECONDS = 0.5  # between two reports of progress
_MOST_PRINTED = 300  # bytes of what a process printed before it ended
_ELSEWHERE = (
    " Where it can be imported, `bertconvert record CKPT FILE` makes a record, by which"
    " `bertconvert verify FILE OUT` proves the folder here"
)


class _Error(Struct, frozen=True):
    """An error in the process."""

    text: str
    internal: bool  # whether it is a mistake of the program


@contextmanager
def computing(
    task: Task, samples: list[Samples], progress: Progress | None = None
) -> Iterator[Callable[[], Original]]:
    """Start to compute what the original does; the function that it gives waits for it.

    It raises OriginalError if TensorFlow fails.

    Args:
        task: which model.
        samples: the sequences, in batches.
        progress: told that TensorFlow runs, while that function waits.
    """
    known = _known.get()
    key = b"" if known is None else _key(task, samples)
    if known is not None and key in known:
        found = known[key]
        yield lambda: found
        return

    def kept(original: Original) -> Original:
        if known is not None:
            known[key] = original
        return original

    if "tensorflow" in sys.modules:
        yield lambda: kept(compute(task, samples))
        return
    with _process(task, Original([Batch(batch) for batch in samples]), progress) as finish:
        yield lambda: kept(_read(finish() / _RESULT))


_known: ContextVar[dict[bytes, Original] | None] = ContextVar("known", default=None)


@contextmanager
def remembering(known: dict[bytes, Original]) -> Iterator[None]:
    """Compute nothing twice within the block.

    Args:
        known: what was computed before, of a checkpoint whose bytes have not changed since. It
            gets what is computed now.
    """
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def _key(task: Task, samples: list[Samples]) -> bytes:
    """What a result depends on, besides the bytes of the checkpoint, wherever they are."""
    digest = hashlib.sha256(msgspec.json.encode(replace(task, checkpoint="", path="")))
    for batch in samples:
        for field in Samples.__struct_fields__:
            array = getattr(batch, field)
            digest.update(f"{field} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.digest()


def explained(question: Question, batch: Batch) -> list[Cause]:
    """Which known mistake computes what a folder does.

    Args:
        question: on which folder.
        batch: sequences, and what the folder computes of them.

    Raises:
        OriginalError: TensorFlow fails.
    """
    if "tensorflow" in sys.modules:
        return explain(question, batch)
    with _process(question, Original([batch]), None) as finish:
        return msgspec.json.decode((finish() / _CAUSES).read_bytes(), type=list[Cause])


@contextmanager
def _process(
    work: Task | Question, given: Original, progress: Progress | None
) -> Iterator[Callable[[], Path]]:
    """Start a process on some work; the function that it gives waits, and gives its folder."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write(given, folder / _GIVEN)
        (folder / _WORK).write_bytes(msgspec.json.encode(work))
        with (folder / _PRINTED).open("wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-c", code, name],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
            )

        def finish() -> Path:
            while process.poll() is None:
                if progress is not None:
                    progress("running TensorFlow", 0, 0)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK_SECONDS)
            _check(process.returncode, folder, _ELSEWHERE if isinstance(work, Task) else "")
            return folder

        try:
            yield finish
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _check(code: int, folder: Path, advice: str) -> None:
    """Raise the error that a process ended with; `advice` is what to do if it imported nothing."""
    is_imported = (folder / _IMPORTED).exists()
    if (folder / _ERROR).exists():
        error = msgspec.json.decode((folder / _ERROR).read_bytes(), type=_Error)
        if error.internal:
            raise RuntimeError(error.text)
        text = error.text if is_imported or not advice else f"{error.text}."
    elif code == 0:
        return
    else:
        names = {-stop: stop.name for stop in signal.Signals}
        how = f"was ended by {names[code]}" if code in names else f"ended with exit code {code}"
        when = "while it ran the model" if is_imported else "while it was imported"
        memory = " The machine may have too little memory." if names.get(code) == "SIGKILL" else ""
        text = f"TensorFlow {how} {when}.{memory}{_last_printed(folder / _PRINTED)}"
    raise OriginalError(text if is_imported else text + advice)


def _last_printed(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MOST_PRINTED))
        words = file.read().decode("utf-8", "replace").split()
    return f" It printed: {' '.join(words)}." if words else ""


def main() -> None:
    """The process. Its argument is the folder with the work."""
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    try:
        work = msgspec.json.decode((folder / _WORK).read_bytes(), type=Task | Question)
        given = _read(folder / _GIVEN)
        tensorflow()
        (folder / _IMPORTED).touch()
        if isinstance(work, Task):
            _write(compute(work, [batch.samples for batch in given.batches]), folder / _RESULT)
        else:
            causes = explain(work, given.batches[0])
            (folder / _CAUSES).write_bytes(msgspec.json.encode(causes))
    except Exception as error:
        internal = not isinstance(error, BertconvertError)
        text = f"{type(error).__name__}: {error}" if internal else str(error)
        (folder / _ERROR).write_bytes(msgspec.json.encode(_Error(text, internal)))
    os._exit(0)  # TensorFlow takes its time to end


def _end_with_parent(folder: Path) -> None:
    """Wait for the end of standard input, which comes with the end of the other process.

    It was killed, then, and left the folder.
    """
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _write(original: Original, path: Path) -> None:
    from safetensors.numpy import save_file

    arrays, facts = to_arrays(original)
    save_file(arrays, path, metadata={_FACTS: facts.decode()})


def _read(path: Path) -> Original:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in [*file.keys()]}
        return from_arrays(arrays, file.metadata()[_FACTS])
