"""One pair: proves a model folder, in whatever process it runs."""

import hashlib
import os
import stat
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from ... import __version__
from ..companions import base_name
from ..errors import BertconvertError, VerificationError
from ..options import DEFAULTS, Options
from ..prepare import Prepared, SourceFile, data_files
from ..storage.files import File, Progress, open_path
from ..storage.location import parse_location
from ..text import to_json
from ..verify import Failure, Verdict, find_record, highest_level, report, verify
from ..verify.batches import Original
from ..verify.model_folder import files_at, files_read, open_folder
from ..verify.provenance import prepare_again
from ..verify.tensorflow_process import remembering
from .pairs import Pair
from .table import REPORTS, Inputs, PairRow

_PIECE_BYTES = 1 << 20


class Settings(Struct, frozen=True):
    """What is proved of every pair, and how."""

    level: str  # "" for the highest that is installed
    samples: int
    seed: int
    positions: int


class Task(Struct, frozen=True):
    """A pair with all that a worker has to know."""

    number: int
    pair: Pair  # with paths that hold in every process
    shown: tuple[str, str]  # the reference and the model as the list has them
    out: str  # the folder of the reports
    settings: Settings
    known: PairRow | None  # the verdict of an earlier run; None to prove it in any case


class Done(Struct, frozen=True):
    """What became of a task."""

    row: PairRow
    is_unchanged: bool = False  # whether the verdict is that of an earlier run


def do(task: Task, progress: Progress) -> Done:
    """Prove a pair, and write its reports; an error is the verdict.

    Args:
        task: what to do.
        progress: told of the bytes that are done; an error that it raises is raised here.
    """
    try:
        return _do(task, progress)
    except BertconvertError as error:
        return failed(task, str(error))
    except Exception as error:  # the other pairs can still be proved
        text = (
            f"internal error ({type(error).__name__}: {error}). audit.json has the traceback;"
            " please report it"
        )
        return failed(task, text, traceback.format_exc())


def failed(task: Task, reason: str, trace: str = "") -> Done:
    """What becomes of a task that comes to no verdict. Its reports say why."""
    reason = _as_listed(task, reason)
    row = PairRow(task.pair.name, *task.shown, "ERROR", reason, traceback=trace)
    try:
        _write_reports(task, Failure(*task.shown, reason))
    except BertconvertError as error:
        row = replace(row, reason=f"{reason}\n{error}")
    return Done(row)


def _write_reports(task: Task, verdict: Verdict | Failure) -> None:
    folder, forms = parse_location(task.out), (report.to_html, report.to_json)
    for ending, form in zip(REPORTS, forms, strict=True):
        folder.join(task.pair.name + ending).write_bytes(form(verdict))


def _has_reports(task: Task) -> bool:
    folder = parse_location(task.out)
    return all(folder.join(task.pair.name + ending).size() for ending in REPORTS)


def _do(task: Task, progress: Progress) -> Done:
    pair, settings = task.pair, task.settings
    model = parse_location(pair.model)
    with model.on_disk(files_at(model), progress) as path:
        try:
            _refuse_pipes(path)
            record = find_record(pair.reference)
            level = settings.level or highest_level(record is not None)
            inputs = _inputs(task, path, record, level, progress)
            known = task.known
            if known is not None and known.inputs == inputs and _has_reports(task):
                reference, model_shown = task.shown
                row = replace(known, reference=reference, model=model_shown)
                return Done(row, is_unchanged=True)
            verdict = _verdict(task, path, record, level, inputs, progress)
        except BertconvertError as error:
            raise VerificationError(str(error).replace(str(path), model.shown)) from error
    verdict = replace(verdict, checkpoint=_as_listed(task, verdict.checkpoint), out=task.shown[1])
    if (made := verdict.record) is not None:
        verdict = replace(verdict, record=replace(made, file=_as_listed(task, made.file)))
    _write_reports(task, verdict)
    return Done(_row(task, verdict, inputs))


def _verdict(
    task: Task, folder: Path, record: File | None, level: str, inputs: Inputs, progress: Progress
) -> Verdict:
    pair, settings = task.pair, task.settings
    if record is not None:  # which has its own sequences
        return verify(pair.reference, folder, level=settings.level or None, progress=progress)
    with remembering(_originals_of(inputs.reference_files)):
        return verify(
            pair.reference,
            folder,
            pair.options,
            level=level,
            samples=settings.samples,
            seed=settings.seed,
            positions=settings.positions,
            progress=progress,
        )


def _as_listed(task: Task, text: str) -> str:
    """A text with the paths as the list has them."""
    for place, shown in zip((task.pair.reference, task.pair.model), task.shown, strict=True):
        text = text.replace(parse_location(place).shown, shown)
    return text


_known: dict[bytes, dict[bytes, Original]] = {}


def _originals_of(files: list[SourceFile]) -> dict[bytes, Original]:
    """What the original computed in this process of a checkpoint: TensorFlow runs once for several
    models of one checkpoint. Only the last checkpoint's results are kept.
    """
    key = to_json(files)
    if key not in _known:
        _known.clear()
        _known[key] = {}
    return _known[key]


def _refuse_pipes(folder: Path) -> None:
    """Refuse what would be read without end.

    Raises:
        VerificationError: a file of the folder is a pipe, a device or the like.
    """
    if not folder.is_dir():
        return  # which the proof reports
    try:
        modes = {path: path.stat().st_mode for path in folder.iterdir() if path.exists()}
    except OSError as error:
        raise VerificationError(f"{error.filename} can't be read: {error.strerror}") from error
    for path, mode in modes.items():
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise VerificationError(f"{path} is not a regular file")


def _row(task: Task, verdict: Verdict, inputs: Inputs) -> PairRow:
    reference, model = task.shown
    return PairRow(
        name=task.pair.name,
        reference=reference,
        model=model,
        verdict="PASS" if verdict.passed else "FAIL",
        reason=_first_cause(verdict),
        level=verdict.level,
        architecture=verdict.architecture,
        tensors=len(verdict.matches),
        facts=verdict.facts,
        activation=report.activation_sentence(verdict),
        record=verdict.record,
        notes=[note for note in verdict.notes if note not in verdict.unproved],
        unproved=verdict.unproved,
        inputs=inputs,
    )


def _first_cause(verdict: Verdict) -> str:
    """Why a model failed, in one sentence; "" if it passed."""
    cause = next(iter(verdict.causes), None)
    if cause is not None and cause.kind != "unknown":
        return f"{cause.kind}: {', '.join(cause.tensors[:1])}: {cause.text}"
    return next((f"{c.name}: {c.detail}" for c in verdict.checks if not c.passed), "")


def _inputs(
    task: Task, folder: Path, record: File | None, level: str, progress: Progress
) -> Inputs:
    """What the verdict will depend on.

    Raises:
        CheckpointError, MappingError, PlanError: as `prepare` raises them.
        VerificationError: the folder can't be opened, or a record is given options.
    """
    pair, opened = task.pair, open_folder(folder)
    names = files_read(opened)
    if record is None:
        prepared, _ = prepare_again(pair.reference, pair.options, opened, progress)
        files = _files(prepared, progress)
        options = {**_given(pair.options), "mapping sha256": prepared.mapping_sha256}
    elif pair.options == DEFAULTS:
        sha256 = _sha256_of(record, progress)
        files, options = [SourceFile("record", base_name(record), record.size, sha256)], {}
    else:
        raise VerificationError(
            f"{record.name} is a record, which has its own options. Give none, or make another"
            " record with them"
        )
    return Inputs(
        tool=f"bertconvert {__version__}",
        versions=_versions(level),
        level=level,
        samples=task.settings.samples,
        seed=task.settings.seed,
        positions=task.settings.positions,
        options=options,
        reference=parse_location(pair.reference).absolute().shown,
        reference_files=files,
        model=parse_location(pair.model).absolute().shown,
        model_files={name: _sha256(folder / name, progress) for name in names},
    )


def _given(options: Options) -> dict[str, Any]:
    """The options that are not the defaults. What is in their files is in the prepared sources."""
    defaults = asdict(DEFAULTS)
    return {
        name: str(value) if isinstance(value, os.PathLike) else value
        for name, value in asdict(options).items()
        if value != defaults[name]
    }


def _versions(level: str) -> dict[str, str]:
    """The versions of what computes at a level."""
    found = {"python": python_version()}
    packages = ["numpy", "safetensors"]
    packages += (
        ["torch", "transformers", "tensorflow", "tensorflow-cpu"] if level != "weights" else []
    )
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _files(prepared: Prepared, progress: Progress) -> list[SourceFile]:
    """The files of the reference, each with its sha256."""
    checkpoint = prepared.checkpoint
    checkpoint.fetch([*checkpoint], progress)
    files = zip(data_files(checkpoint), checkpoint.data_files(), strict=True)
    data = [replace(source, sha256=_sha256_of(file, progress)) for source, file in files]
    index = prepared.sources[0]
    index = replace(index, sha256=index.sha256 or _sha256_of(checkpoint.index, progress))
    return [index, *prepared.sources[1:], *data]


def _sha256_of(file: File, progress: Progress) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE_BYTES))
    for start in range(0, file.size, _PIECE_BYTES):
        piece = buffer[: min(_PIECE_BYTES, file.size - start)]
        file.read_into(start, piece)
        digest.update(piece)
        progress("hashing", start + len(piece), file.size)
    return digest.hexdigest()


def _sha256(path: Path, progress: Progress) -> str:
    return _sha256_of(open_path(str(path)), progress)
