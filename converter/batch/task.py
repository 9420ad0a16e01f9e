"""One job: converts a checkpoint to its model folder, in whatever process it runs."""

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ... import __version__
from ..checkpoint.checksum import crc32c
from ..choices import LEVELS
from ..convert import Proof, small_files, spare_checkpoints, write_model
from ..errors import BertconvertError, BusyError, OutputError, PlanError, VerificationError
from ..layout import MODEL_FILES, PROVENANCE, VERIFICATION, WEIGHTS
from ..prepare import Prepared, prepare
from ..safetensors_writer import safetensors_size
from ..storage.files import Progress
from ..storage.location import DiskPath, Location, parse_location
from ..verify import (
    Record,
    find_record,
    is_record_of,
    kept,
    level_of,
    proof_of,
    prover,
    read_record,
    record_prepared,
    recorder,
    save_proof,
    verify_prepared,
)
from ..verify.report import lines
from .jobs import Job
from .table import ModelRow

# A process that was killed may take a moment to release its folder.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 10.0, 0.1
_PIECE_BYTES = 1 << 20

Keep = Callable[[Record], None]


class Task(Struct, frozen=True):
    """A job with all that a worker has to know."""

    number: int
    job: Job
    source: str  # as every worker finds it, wherever it runs
    out: str  # the folder of the family
    force: bool
    level: str | None  # to be proved; None for no proof
    records: str | None = None  # the folder for golden records; None for no records
    known: ModelRow | None = None  # what an earlier run said of it
    version: str = __version__


class Outcome(Struct, frozen=True):
    """What became of a task."""

    number: int
    status: Literal["converted", "unchanged", "failed"]
    model: ModelRow


def do(task: Task, progress: Progress) -> Outcome:
    """Do a task; an error is its outcome.

    Args:
        task: what to do.
        progress: told of the bytes that are done; an error that it raises is raised here, and
            leaves nothing unfinished.
    """
    if task.version != __version__:
        return failed(task, f"its worker has bertconvert {__version__}, not {task.version}")
    if task.job.error:
        return failed(task, task.job.error)
    try:
        return _do(task, progress)
    except BertconvertError as error:
        return failed(task, str(error))
    except Exception as error:  # the other checkpoints can still be converted
        text = (
            f"internal error ({type(error).__name__}: {error}). family.json has the traceback, and"
            " batch --debug prints it; please report it"
        )
        return failed(task, text, traceback.format_exc())


def failed(task: Task, reason: str, trace: str = "") -> Outcome:
    """The outcome of a task that can't be done."""
    row = ModelRow(task.job.name, task.job.shown, error=reason, traceback=trace)
    return Outcome(task.number, "failed", row)


def _do(task: Task, progress: Progress) -> Outcome:
    job, target = task.job, parse_location(task.out).join(task.job.name)
    spare_checkpoints(parse_location(task.source), target)
    prepared = prepare(task.source, job.options, progress=progress)
    _check_sizes(job, prepared)
    force = task.force
    existing = None if force else target.join(PROVENANCE).read_bytes()
    if existing is not None:
        target.tidy()
        difference = _difference(prepared, target)
        if difference:
            raise OutputError(
                f"{target.shown} exists and was converted differently ({difference}). Use --force"
                " to replace it, or choose another folder"
            )
        known = _known_row(task, prepared, target, existing, progress)
        if known is not None:
            with _recording(task, prepared) as keep:
                return _unchanged(task, prepared, target, known, keep, progress)
        force = True  # reading all of a remote model takes as long as writing it again
    row = _row(job, prepared)

    def complete(prepared: Prepared, stage: Path, keep: Keep | None) -> Proof | None:
        nonlocal row
        row = replace(
            row,
            nbytes=(stage / row.file).stat().st_size,
            crc32c=_crc32c(stage / row.file, progress),
            provenance=hashlib.sha256((stage / PROVENANCE).read_bytes()).hexdigest(),
        )
        if task.level is None:
            return None if keep is None else recorder(keep, progress)(prepared, stage)
        progress("verifying", 0, 0)
        row = replace(row, verified=level_of(prepared, task.level))
        return prover(task.level, keep=keep)(prepared, stage)

    def write() -> None:
        with _recording(task, prepared) as keep:
            prove = partial(complete, keep=keep)
            write_model(prepared, str(target), force, progress, prove)

    try:
        _with_patience(write)
    except OutputError:
        if force or target.join(PROVENANCE).read_bytes() is None:
            raise
        # Another process converted it in the meantime, such as a worker of a stopped batch.
        return _do(task, progress)
    return Outcome(task.number, "converted", row)


@contextmanager
def _recording(task: Task, prepared: Prepared) -> Iterator[Keep | None]:
    """What takes the golden record; None if none is wanted, or if it exists."""
    if task.records is None:
        yield None
        return
    path = Path(task.records, f"{task.job.name}.safetensors")
    file = find_record(path) if path.exists() and not task.force else None
    if file is None:
        with kept(path, task.force) as keep:
            yield keep
        return
    if not is_record_of(read_record(file), prepared):
        raise OutputError(
            f"{path} exists and is a record of another checkpoint, or was made with other options"
            " or by another version. Use --force to replace it"
        )
    yield None


def _check_sizes(job: Job, prepared: Prepared) -> None:
    """Refuse a checkpoint that is not the one in a catalogue."""
    sizes = prepared.plan.sizes
    wrong = [
        f"{symbol}={sizes.get(symbol)} instead of {wanted}"
        for symbol, wanted in job.sizes.items()
        if sizes.get(symbol) != wanted
    ]
    if wrong:
        raise PlanError(f"{job.shown} is not {job.name}: {', '.join(wrong)}")


def _difference(prepared: Prepared, target: Location) -> str:
    """How a model folder differs from what would be written now; "" if it does not."""
    for name, content in small_files(prepared).items():
        found = target.join(name).read_bytes()
        if found != content:
            return f"its {name} {'is missing' if found is None else 'differs'}"
    for form in prepared.options.formats:
        name = WEIGHTS[form]
        size = target.join(name).size()
        if size is None:
            return f"its {name} is missing"
        expected = safetensors_size(prepared.plan) if form == "safetensors" else size
        if size != expected:
            return f"its {name} has {size:,} bytes instead of {expected:,}"
    return ""


def _known_row(
    task: Task, prepared: Prepared, target: Location, provenance: bytes, progress: Progress
) -> ModelRow | None:
    """The row of a model that exists; None if its checksum is unknown and reading it costs more."""
    row = _row(task.job, prepared)
    row = replace(
        row,
        nbytes=target.join(row.file).size() or 0,
        provenance=hashlib.sha256(provenance).hexdigest(),
    )
    known = task.known
    if known and (known.provenance, known.nbytes) == (row.provenance, row.nbytes):
        has_proof = bool(known.verified) and target.join(VERIFICATION).size() is not None
        return replace(row, crc32c=known.crc32c, verified=known.verified if has_proof else "")
    if isinstance(target, DiskPath):
        return replace(row, crc32c=_crc32c(Path(target.join(row.file)), progress))
    return None


def _unchanged(
    task: Task,
    prepared: Prepared,
    target: Location,
    row: ModelRow,
    keep: Keep | None,
    progress: Progress,
) -> Outcome:
    """The outcome of a model that exists, which is proved and recorded now if it was not before."""
    record = record_prepared(prepared, progress=progress) if keep is not None else None
    if keep is not None and record is not None:
        keep(record)
    level = level_of(prepared, task.level)
    if level and not _is_proved(row.verified, level):
        with target.on_disk(MODEL_FILES, progress) as folder:
            verdict = verify_prepared(prepared, folder, level=level, record=record)
            if not verdict.passed:
                text = "\n".join([f"{target.shown} exists, and fails:", *lines(verdict)])
                raise VerificationError(text)
            proof = proof_of(verdict, folder)
        save_proof(proof, target)
        row = replace(row, verified=level)
    return Outcome(task.number, "unchanged", row)


def _is_proved(level: str, wanted: str) -> bool:
    return level in LEVELS and LEVELS.index(level) >= LEVELS.index(wanted)


def _row(job: Job, prepared: Prepared) -> ModelRow:
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
        notes=prepared.notes,
    )


def _with_patience(work: Callable[[], object]) -> None:
    """Do the work; wait a while for a process that still has the folder."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            work()
            return
        except BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE_SECONDS)


def _crc32c(path: Path, progress: Progress) -> str:
    """The CRC32C of a file, which object stores have too; SHA-256 would take ten times as long."""
    checksum, buffer, done = 0, memoryview(bytearray(_PIECE_BYTES)), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while count := file.readinto(buffer):
            checksum = crc32c(buffer[:count], checksum)
            done += count
            progress("hashing", done, size)
    return f"{checksum:08x}"
