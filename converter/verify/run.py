"""The proof that a model folder is the checkpoint that it was made from."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ..choices import LEVELS
from ..convert import Proof, Prove
from ..errors import VerificationError
from ..options import DEFAULTS, Options, make_options
from ..prepare import Planned, Prepared
from ..storage.files import File, Progress
from ..storage.location import parse_location
from .golden_record import Record, RecordedVariables, find_record, fitting, read_record
from .metadata import bits_fact, padding_id, prove_metadata
from .model_folder import ModelFolder, files_at, open_folder
from .packages import highest_level, how_to_install, missing_extras, versions
from .provenance import prepare_again
from .recording import record_prepared
from .report import findings, lines
from .sides import POSITIONS, SAMPLES, Ran, Wanted, run_both, run_folder
from .subject import Subject
from .variables import CheckpointVariables, Variables
from .verdict import Cause, Check, Verdict
from .verification import check_place, outdated, proof_of, save_proof
from .weights import part_of_class, prove_weights


def verify(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    level: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    positions: int = POSITIONS,
    text: Path | None = None,
    save: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Verdict:
    """Prove that a model folder is a checkpoint, or find the first thing that differs.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes; or a golden record of it.
        out: the model folder, or its URL.
        options: as for a conversion. What is not given is found, or taken from OUT's provenance.
        level: `weights`, `outputs` or `gradients`, each on top of those before it; by default the
            highest that the installed packages allow. A mapping without a reference is provable at
            level weights only.
        samples: the number of sequences that go through both models.
        seed: of those sequences, and of the labels for the gradients.
        positions: the most positions of a sequence at which outputs are compared.
        text: a file of UTF-8 text whose lines are the sequences, in place of seeded ones.
        save: whether a verdict that passes is written into OUT, which is a folder on a disk: to
            verification.json, and to the card if it has a place for it.
        progress: told of the bytes of the weights that are compared.
        **changes: single options, which go over `options`.

    Returns:
        A verdict, passed or not: a difference is not an error.

    Raises:
        CheckpointError, MappingError, PlanError: as `prepare` raises them.
        MissingOptionError: an option is missing that the conversion had.
        VerificationError: OUT can't be opened, a level can't be run on it, or a package that it
            needs is not installed.
        OutputError: the verdict can't be saved.
        ValueError: there is no such level, `text` is given for level weights, or `save` for a URL.
    """
    if save:
        check_place(parse_location(out))
    options = make_options(changes, options)
    file = find_record(path)
    chosen = checked_level(level, record=file is not None)
    if missing := missing_extras(chosen, record=file is not None):
        raise VerificationError(
            f"level {chosen} needs {', '.join(missing)}: {how_to_install(missing)}"
        )
    wanted = Wanted(chosen, samples, seed, positions, text)
    if file is not None:
        if options != DEFAULTS or wanted != Wanted(chosen):
            raise ValueError(
                f"{file.name} is a record, which has its own options and sequences. Give none, or"
                " make another record with them"
            )
        record = read_record(file, progress)
        if level is None:
            wanted = Wanted(min(chosen, record.level, key=LEVELS.index))
        return _prove_by_record(record, file, out, wanted, progress, save)
    if text is not None and chosen == LEVELS[0]:
        raise ValueError(f"a text needs level outputs; level {chosen} runs no sequences")
    return _prove(path, out, options, wanted, progress, save)


def _prove(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options,
    wanted: Wanted,
    progress: Progress | None = None,
    is_saved: bool = False,
    is_newer: bool = False,
) -> Verdict:
    """As `verify`. If the checkpoint was made from the folder, `is_newer`.

    Then what the folder records is about another checkpoint, and is not read.
    """
    with _opened(out, progress) as (folder, shown):
        if is_newer:
            folder = replace(folder, provenance=None)
        prepared, believed = prepare_again(path, options, folder, progress)
        if options.head is not None and folder.provenance is None:
            folder = part_of_class(prepared, folder)
        verdict = _verify(prepared, folder, shown, wanted, progress)
        verdict = replace(
            verdict,
            notes=[*verdict.notes, *believed.notes, *believed.unproved],
            unproved=[*verdict.unproved, *believed.unproved],
            facts=[
                replace(fact, same=None) if fact.name in believed.believed else fact
                for fact in verdict.facts
            ],
        )
        return verdict if is_newer else _kept(verdict, folder, out, is_saved)


def _prove_by_record(
    record: Record,
    file: File,
    out: str | os.PathLike[str],
    wanted: Wanted,
    progress: Progress | None,
    is_saved: bool,
) -> Verdict:
    """As `verify`, with a record in place of the checkpoint."""
    if LEVELS.index(wanted.level) > LEVELS.index(record.level):
        raise VerificationError(
            f"the record {file.name} was made at level {record.level}. For level {wanted.level},"
            f" make another one with `bertconvert record CKPT FILE --level {wanted.level}`"
        )
    with _opened(out, progress) as (folder, shown):
        folder = fitting(record, folder)
        planned, original = record.planned, record.original
        variables = RecordedVariables(record)

        def run(subject: Subject) -> Ran:
            if original is None:
                return Ran()
            samples = [batch.samples for batch in original.batches]
            level, pad_id = wanted.level, record.pad_id
            return run_folder(subject, samples, lambda: original, level, pad_id, progress)

        verdict = _verdict(planned, variables, folder, shown, wanted.level, run, progress)
        verdict = replace(
            verdict,
            seed=record.seed,
            positions=record.positions if verdict.samples else 0,
            record=record.recording(file),
        )
        return _kept(verdict, folder, out, is_saved)


@contextmanager
def _opened(
    out: str | os.PathLike[str], progress: Progress | None
) -> Iterator[tuple[ModelFolder, str]]:
    """The model folder, on a disk, and how to show its place."""
    location = parse_location(out)
    with location.on_disk(files_at(location), progress) as path_on_disk:
        try:
            yield open_folder(path_on_disk), location.shown
        except VerificationError as error:
            shown = str(error).replace(str(path_on_disk), location.shown)
            raise type(error)(shown) from error


def _kept(
    verdict: Verdict, folder: ModelFolder, out: str | os.PathLike[str], is_saved: bool
) -> Verdict:
    """The verdict, which is saved if it passed and is to be saved."""
    if is_saved and verdict.passed:
        note = save_proof(proof_of(verdict, folder.path), parse_location(out))
    else:
        note = outdated(folder.path)
    return replace(verdict, notes=[*verdict.notes, note]) if note else verdict


def checked_level(level: str | None, record: bool = False) -> str:
    """The level, or the highest that the installed packages allow.

    Args:
        level: what the caller says.
        record: whether a golden record takes the place of the checkpoint.

    Raises:
        ValueError: there is no such level.
    """
    level = level or highest_level(record)
    if level not in LEVELS:
        raise ValueError(f"there is no level {level!r}; the levels are {', '.join(LEVELS)}")
    return level


def level_of(prepared: Prepared, level: str | None) -> str:
    """The level at which a proof will run: a mapping without a reference allows weights only.

    "" if no level is wanted.
    """
    if not level:
        return ""
    return level if prepared.mapping.reference else LEVELS[0]


def verify_prepared(
    prepared: Prepared,
    folder: Path,
    *,
    level: str | None = None,
    progress: Progress | None = None,
    record: Record | None = None,
) -> Verdict:
    """Prove that a model folder is what was prepared; nothing is opened again.

    Args:
        prepared: the checkpoint and its plan.
        folder: the model folder.
        level: as for `verify`.
        progress: told of the bytes of the weights that are compared.
        record: of the same checkpoint: what TensorFlow computed is taken from it.

    Raises:
        CheckpointError: a variable can't be read.
        VerificationError: the folder can't be opened, or a level can't be run on it.
        ValueError: there is no such level.
    """
    wanted = Wanted(checked_level(level, record=record is not None))
    return _verify(prepared, open_folder(folder), str(folder), wanted, progress, record)


def prover(
    level: str | None = None,
    progress: Progress | None = None,
    keep: Callable[[Record], None] | None = None,
) -> Prove:
    """What `convert` takes as `prove`: a folder that fails is not published.

    A failure raises VerificationError with the report.

    Args:
        level: as for `verify`.
        progress: told of the bytes of the weights that are compared.
        keep: takes a golden record, if one is wanted; TensorFlow runs once for both.
    """
    checked_level(level)

    def prove(prepared: Prepared, folder: Path) -> Proof:
        record = record_prepared(prepared, progress=progress) if keep is not None else None
        verdict = verify_prepared(prepared, folder, level=level, progress=progress, record=record)
        proof = proof_of(_passed(verdict), folder)
        if keep is not None and record is not None:
            keep(record)
        return proof

    return prove


def recorder(keep: Callable[[Record], None], progress: Progress | None = None) -> Prove:
    """What `convert` takes as `prove` if a golden record is wanted and no proof.

    Args:
        keep: takes the record.
        progress: told of the bytes of the variables that are read.
    """

    def prove(prepared: Prepared, _: Path) -> None:
        keep(record_prepared(prepared, progress=progress))

    return prove


def back_prover(
    model: str | os.PathLike[str], level: str | None = None, progress: Progress | None = None
) -> Callable[[Path, Options], str]:
    """What `convert_back` takes as `prove`: a checkpoint that fails is not published.

    It gives a sentence without figures. A failure raises VerificationError with the report.

    Args:
        model: the model folder, or its URL.
        level: as for `verify`.
        progress: told of the bytes of the weights that are compared.
    """
    level = checked_level(level)

    def prove(checkpoint: Path, options: Options) -> str:
        verdict = _prove(checkpoint, model, options, Wanted(level), progress, is_newer=True)
        return f"Verified: {findings(_passed(verdict))}"

    return prove


def _passed(verdict: Verdict) -> Verdict:
    """The verdict.

    Raises:
        VerificationError: it is not passed.
    """
    if not verdict.passed:
        raise VerificationError("\n".join([*lines(verdict), "Nothing was published."]))
    return verdict


def _verify(
    prepared: Prepared,
    folder: ModelFolder,
    out: str,
    wanted: Wanted,
    progress: Progress | None,
    record: Record | None = None,
) -> Verdict:
    """Prove a folder by its checkpoint. What a record has is not computed again."""
    variables = CheckpointVariables(prepared)
    level = level_of(prepared, wanted.level)

    def run(subject: Subject) -> Ran:
        original = record.original if record is not None else None
        if original is None:
            return run_both(prepared, subject, wanted, progress)
        pad_id = padding_id(prepared, folder)
        samples = [batch.samples for batch in original.batches]
        return run_folder(subject, samples, lambda: original, level, pad_id, progress)

    verdict = _verdict(prepared, variables, folder, out, level, run, progress)
    notes = []
    if level != wanted.level:
        unused = "" if wanted.text is None else f", so {wanted.text} was not used"
        notes.append(
            f"only level weights was run: the mapping {prepared.mapping.name} names no reference to"
            f" compare outputs with{unused}"
        )
    return replace(
        verdict,
        seed=wanted.seed,
        positions=wanted.positions if verdict.samples else 0,
        notes=[*notes, *verdict.notes],
    )


def _verdict(
    planned: Planned,
    variables: Variables,
    folder: ModelFolder,
    out: str,
    level: str,
    run: Callable[[Subject], Ran],
    progress: Progress | None,
) -> Verdict:
    """Prove a folder.

    Args:
        planned: the conversion that made it.
        variables: those of the checkpoint.
        folder: the model folder.
        out: how to show its place.
        level: the level, which the mapping allows.
        run: runs both models.
        progress: told of the bytes of the weights that are compared.
    """
    checks, matches = prove_weights(planned, variables, folder, progress)
    subject = Subject(planned, variables, folder, matches)
    metadata = prove_metadata(planned, variables, folder, matches)
    facts = [bits_fact(checks, matches), *metadata.facts]
    checks += metadata.checks
    unproved = [*planned.plan.untold, *planned.plan.doubts, *metadata.unproved]
    causes: list[Cause] = []
    if not all(check.passed for check in checks):
        from .diagnose import tensor_causes

        causes = tensor_causes(subject, _swaps(planned))
    ran = Ran()
    if level != LEVELS[0]:
        try:
            ran = run(subject)
        except VerificationError as error:
            ran = Ran(checks=[Check("outputs", "running", False, str(error))])
    return Verdict(
        checkpoint=variables.name,
        out=out,
        level=level,
        architecture=planned.plan.architecture.name,
        mapping=planned.mapping.name,
        seed=0,
        samples=ran.samples,
        text=ran.text,
        checks=[*checks, *ran.checks],
        matches=matches,
        dropped=planned.plan.dropped,
        outputs=ran.outputs,
        gradients=ran.gradients,
        activation=ran.activation,
        causes=[*causes, *ran.causes],
        first_tensor=next((match.tensor for match in matches if not match.same), ""),
        first_output=next((o.tensor for o in ran.outputs if not o.same_function), ""),
        notes=[*folder.notes, *metadata.notes, *unproved],
        unproved=unproved,
        versions=versions(ran.tensorflow, torch=ran.samples > 0),
        faulty=ran.faulty,
        facts=facts,
        sources=planned.sources,
    )


def _swaps(planned: Planned) -> Mapping[str, tuple[str, ...]]:
    """Parts of names that ports are known to swap."""
    if not planned.mapping.reference:
        return {}
    from ..models import load_reference

    return load_reference(planned.mapping.reference).SWAPS
