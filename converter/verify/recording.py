"""Makes a golden record of a checkpoint."""

import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ... import __version__
from ..checkpoint.checksum import crc32c
from ..choices import LEVELS
from ..errors import VerificationError
from ..options import DEFAULTS, Options, make_options
from ..prepare import Planned, Prepared, SourceFile, data_files, prepare
from ..storage.files import Progress
from .golden_record import Pin, Record, check_place, write_record
from .metadata import padding_id
from .packages import how_to_install, missing_for_record, versions
from .sides import POSITIONS, SAMPLES, Wanted, compute, sequences
from .variables import cast, sha256


def record(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    level: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    positions: int = POSITIONS,
    force: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Record:
    """Run a checkpoint's model once, and write what proves a model folder into a golden record.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        file: the record: a file on a disk.
        options: as for the conversion that is to be proved.
        level: the highest that the record is to prove; by default gradients, or weights if the
            mapping has no reference.
        samples: the number of sequences that go through the model.
        seed: of those sequences, and of the labels for the gradients.
        positions: the most positions of a sequence at which outputs are kept.
        force: whether a record in `file` is replaced.
        progress: told of the bytes of the variables that are read.
        **changes: single options, which go over `options`.

    Raises:
        CheckpointError, MappingError, PlanError: as `prepare` raises them.
        OriginalError: TensorFlow fails.
        OutputError: the record can't be written.
        VerificationError: TensorFlow is not installed, or the mapping has no reference.
        ValueError: there is no such level, or a number is too small.
    """
    check_place(Path(file), force)
    if level not in (None, *LEVELS):
        raise ValueError(f"there is no level {level!r}; the levels are {', '.join(LEVELS)}")
    prepared = prepare(path, make_options(changes, options), progress=progress)
    if not prepared.mapping.reference:
        if level not in (None, LEVELS[0]):
            raise VerificationError(
                f"the mapping {prepared.mapping.name} names no reference to compute outputs with,"
                f" so a record of it proves level weights only. Use --level {LEVELS[0]}"
            )
        level = LEVELS[0]
    wanted = Wanted(level or LEVELS[-1], samples, seed, positions)
    made = record_prepared(prepared, wanted, progress)
    write_record(made, Path(file), force)
    return made


def record_prepared(
    prepared: Prepared, wanted: Wanted | None = None, progress: Progress | None = None
) -> Record:
    """A record of what is prepared; nothing is opened again.

    Args:
        prepared: the checkpoint and its plan.
        wanted: what the record is to prove; by default all levels that the mapping allows.
        progress: told of the bytes of the variables that are read.

    Raises:
        CheckpointError: a variable can't be read.
        OriginalError: TensorFlow fails.
        VerificationError: TensorFlow is not installed.
    """
    if wanted is None:
        wanted = Wanted(LEVELS[-1] if prepared.mapping.reference else LEVELS[0])
    runs = wanted.level != LEVELS[0]
    if runs and (missing := missing_for_record()):
        raise VerificationError(
            f"a record of level {wanted.level} needs {', '.join(missing)}:"
            f" {how_to_install(missing)}"
        )
    entries, described = prepared.plan.entries, prepared.checkpoint.variables
    pad_id = padding_id(prepared, None)
    with ExitStack() as stack:
        finish = None
        if runs:
            casts = {
                entry.name: entry.dtype
                for entry in entries
                if entry.dtype != described[entry.variable].tf_dtype
            }
            batches = sequences(prepared, wanted, None, pad_id).samples
            config = prepared.plan.config
            computing = compute(prepared, config, casts, batches, wanted, pad_id, progress)
            finish = stack.enter_context(computing)
        pins = _pins(prepared, progress)  # while TensorFlow runs
        original = finish() if finish is not None else None
    return Record(
        made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool=f"bertconvert {__version__}",
        versions=versions(original.tensorflow if original is not None else ""),
        checkpoint=os.path.basename(prepared.checkpoint.name),
        files=_files(prepared),
        pins=pins,
        level=wanted.level,
        samples=original.count if original is not None else 0,
        seed=wanted.seed,
        positions=wanted.positions if original is not None else 0,
        pad_id=pad_id,
        planned=_planned(prepared),
        original=original,
    )


def is_record_of(record: Record, prepared: Prepared) -> bool:
    """Whether a record is of what is prepared, wherever that was found."""
    mine, its = (
        replace(planned, options=DEFAULTS, notes=[])
        for planned in (_planned(prepared), record.planned)
    )
    return record.files == _files(prepared) and mine == its


def _files(prepared: Prepared) -> list[SourceFile]:
    index = [source for source in prepared.sources if source.role == "index"]
    return [*index, *data_files(prepared.checkpoint)]


def _planned(prepared: Prepared) -> Planned:
    """The conversion without the paths of this machine."""
    known = {name: getattr(prepared, name) for name in Planned.__struct_fields__}
    options = replace(prepared.options, mapping=None, config=None, vocab=None, labels=None)
    return Planned(**known | {"options": options})


def _pins(prepared: Prepared, progress: Progress | None) -> dict[str, Pin]:
    """What is known of each variable; only those that the model has are read."""
    import numpy as np

    checkpoint = prepared.checkpoint
    entries = {entry.variable: entry for entry in prepared.plan.entries}
    checkpoint.fetch(entries, progress)
    total = sum(checkpoint.variables[name].nbytes for name in entries)
    done = 0
    pins = {}
    for name, variable in checkpoint.variables.items():
        if name not in entries:
            pins[name] = Pin(variable, checkpoint.checksum(name))
            continue
        array = checkpoint[name]
        held = cast(array, entries[name].dtype)
        pins[name] = Pin(
            variable,
            crc32c(np.ascontiguousarray(array).view(np.uint8).data),
            entries[name].dtype,
            sha256(held),
            int(held.size - np.count_nonzero(np.isfinite(held))),
        )
        done += variable.nbytes
        if progress is not None:
            progress("recording weights", done, total)
    return pins
