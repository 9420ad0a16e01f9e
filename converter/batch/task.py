"""One job: a checkpoint -> its model folder, wherever it is done."""

import hashlib
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ... import __version__
from ..checkpoint.checksum import crc32c
from ..choices import LEVELS
from ..convert import small_files, write_model
from ..errors import BertconvertError, BusyError, OutputError, PlanError, VerificationError
from ..layout import WEIGHTS
from ..options import Options
from ..prepare import Prepared, prepare
from ..safetensors_writer import safetensors_size
from ..storage.files import Progress, is_url
from ..storage.publish import tidy
from ..verify import prover, verify
from ..verify.report import lines
from . import place
from .jobs import Job
from .table import ModelRow

_PROVENANCE = "conversion.json"
_PATIENCE = 10.0  # seconds; a process that was killed may take a moment to let go of its folder
_PIECE_BYTES = 1 << 20


class Task(Struct, frozen=True):
    """A job with all that a worker has to know."""

    number: int
    job: Job
    source: str  # as every worker finds it, wherever it runs
    out: str  # the folder of the family
    force: bool
    level: str | None  # to be proved; None for no proof
    known: ModelRow | None = None  # what an earlier run said of it
    version: str = __version__


class Outcome(Struct, frozen=True):
    """What became of a task."""

    number: int
    status: Literal["converted", "unchanged", "failed"]
    model: ModelRow


def do(task: Task, progress: Progress) -> Outcome:
    """Do a task; what goes wrong with it is its outcome.

    Args:
        task: what to do.
        progress: told of the bytes that are done; what it raises is raised here, and leaves
            nothing half made.
    """
    if task.version != __version__:
        return failed(task, f"its worker has bertconvert {__version__}, not {task.version}")
    if task.job.error:
        return failed(task, task.job.error)
    try:
        return _do(task, progress)
    except BertconvertError as error:
        return failed(task, str(error))
    except Exception as error:  # whatever it is, the other checkpoints can be converted
        text = f"internal error ({type(error).__name__}: {error}). Please report it"
        return failed(task, text, traceback.format_exc())


def failed(task: Task, reason: str, trace: str = "") -> Outcome:
    """The outcome of a task that can't be done."""
    row = ModelRow(task.job.name, task.job.shown, error=reason, traceback=trace)
    return Outcome(task.number, "failed", row)


def _do(task: Task, progress: Progress) -> Outcome:
    job, target = task.job, os.path.join(task.out, task.job.name)
    prepared = prepare(task.source, job.options, progress=progress)
    _compare(job, prepared)
    model, force = _model(job, prepared), task.force
    held = None if force else place.read(target, _PROVENANCE)
    if held is not None:
        if not is_url(target):
            tidy(Path(target))
        difference = _difference(prepared, job.options, target)
        if difference:
            raise OutputError(
                f"{target} holds something else: {difference}. --force replaces it, or name"
                " another folder"
            )
        model = replace(
            model,
            nbytes=place.size(target, model.file) or 0,
            provenance=hashlib.sha256(held).hexdigest(),
        )
        known = task.known
        if known and (known.provenance, known.nbytes) == (model.provenance, model.nbytes):
            return _unchanged(task, replace(model, crc32c=known.crc32c, verified=known.verified))
        if not is_url(target):
            return _unchanged(
                task, replace(model, crc32c=_crc32c(Path(target, model.file), progress))
            )
        force = True  # to read it all again takes as long as to make it again

    prove = None if task.level is None else prover(task.level)

    def look(prepared: Prepared, stage: Path) -> str:
        nonlocal model
        model = replace(
            model,
            nbytes=(stage / model.file).stat().st_size,
            crc32c=_crc32c(stage / model.file, progress),
            provenance=hashlib.sha256((stage / _PROVENANCE).read_bytes()).hexdigest(),
            verified=task.level or "",
        )
        if prove is None:
            return ""
        progress("verifying", 0, 0)
        return prove(prepared, stage)

    try:
        _patiently(lambda: write_model(prepared, target, force, progress, look))
    except OutputError:
        if force or place.read(target, _PROVENANCE) is None:
            raise
        # Somebody else made it meanwhile, such as a worker of a call that was stopped.
        return _do(task, progress)
    return Outcome(task.number, "converted", model)


def _compare(job: Job, prepared: Prepared) -> None:
    """Refuse a checkpoint that is not the one that a catalogue means."""
    sizes = prepared.plan.sizes
    wrong = [
        f"{symbol}={sizes.get(symbol)} in place of {wanted}"
        for symbol, wanted in job.sizes.items()
        if sizes.get(symbol) != wanted
    ]
    if wrong:
        raise PlanError(f"{job.shown} is not {job.name}: {', '.join(wrong)}")


def _difference(prepared: Prepared, options: Options, target: str) -> str:
    """In what a model folder is not what would be made now; "" where it is the same."""
    for name, content in small_files(prepared).items():
        if place.read(target, name) != content:
            return f"its {name} is {'missing' if place.size(target, name) is None else 'another'}"
    for form in options.formats:
        name = WEIGHTS[form]
        size = place.size(target, name)
        if size is None:
            return f"its {name} is missing"
        exact = safetensors_size(prepared.plan) if form == "safetensors" else size
        if size != exact:
            return f"its {name} has {size:,} bytes, and {exact:,} belong there"
    return ""


def _unchanged(task: Task, model: ModelRow) -> Outcome:
    """The outcome of a task that was done before, and is proved now where that was not done."""
    if task.level is not None and not _is_proved(model.verified, task.level):
        target = os.path.join(task.out, task.job.name)
        verdict = verify(task.source, target, task.job.options, level=task.level)
        if not verdict.passed:
            raise VerificationError("\n".join([f"{target} is there, and fails:", *lines(verdict)]))
        model = replace(model, verified=task.level)
    return Outcome(task.number, "unchanged", model)


def _is_proved(level: str, wanted: str) -> bool:
    return level in LEVELS and LEVELS.index(level) >= LEVELS.index(wanted)


def _model(job: Job, prepared: Prepared) -> ModelRow:
    plan, roles = prepared.plan, prepared.mapping.roles
    formats = job.options.formats
    return ModelRow(
        name=job.name,
        source=job.shown,
        architecture=plan.architecture.name,
        sizes=plan.sizes,
        layers=plan.sizes.get(roles.layers, 0),
        hidden=plan.sizes.get(roles.hidden, 0),
        parameters=plan.parameters,
        dtype=plan.dtype,
        activation=plan.activation[1],
        file=WEIGHTS["safetensors" if "safetensors" in formats else formats[0]],
    )


def _patiently(work: Callable[[], object]) -> None:
    """Do it, and wait a while for a process that still has the folder."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            work()
            return
        except BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _crc32c(path: Path, progress: Progress) -> str:
    """The CRC32C of a file, as stores tell it, too; SHA-256 would take ten times as long."""
    checksum, buffer, done = 0, memoryview(bytearray(_PIECE_BYTES)), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while count := file.readinto(buffer):
            checksum = crc32c(buffer[:count], checksum)
            done += count
            progress("hashing", done, size)
    return f"{checksum:08x}"
