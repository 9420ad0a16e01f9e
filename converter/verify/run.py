"""The proof that a model folder is the checkpoint that it was made of."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ..errors import ParityError
from ..options import DEFAULTS, Options
from ..storage.files import Progress, is_url
from ..storage.urls import shown
from .metadata import prove_agreement
from .model_folder import downloaded
from .subject import Subject, open_subject
from .verdict import LEVELS, Activation, Cause, Check, Gradient, Match, Output, Verdict
from .weights import prove_weights

if TYPE_CHECKING:
    from .samples import Batch

__all__ = ["LEVELS", "Verdict", "highest_level", "missing_extras", "prover", "verify"]

_EXTRAS = ("tensorflow", "torch", "transformers")


def missing_extras(level: str, html: bool = False) -> list[str]:
    """The packages of `bertconvert[verify]` that a level, or the page, needs and that are missing.

    Nothing is imported for it.
    """
    needed = [*(_EXTRAS if level != "weights" else ()), *(("jinja2", "matplotlib") if html else ())]
    return [name for name in needed if find_spec(name) is None]


def highest_level() -> str:
    """The highest level that the installed packages allow."""
    return "weights" if missing_extras(LEVELS[-1]) else LEVELS[-1]


def verify(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    level: str | None = None,
    options: Options = DEFAULTS,
    samples: int = 8,
    seed: int = 0,
    text: Path | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Prove that a model folder is a checkpoint, or find the first thing that differs.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        out: the model folder, or its URL.
        level: `weights`, `outputs` or `gradients`, each on top of those before it; by default the
            highest that the installed packages allow.
        options: what belongs to the checkpoint, as for a conversion; whatever is None is taken
            from OUT's provenance, or found.
        samples: the number of sequences that go through both models.
        seed: of those sequences, and of the labels for the gradients.
        text: a file of UTF-8 text whose lines are the sequences, in place of seeded ones.
        progress: told of the bytes of the weights that are done.

    Returns:
        A verdict, passed or not: a difference is no error.

    Raises:
        CheckpointError, MappingError, PlanError: as `prepare` raises them.
        ParityError: OUT can't be opened, or a level can't be run on it.
        ValueError: there is no such level.
    """
    level = level or highest_level()
    if level not in LEVELS:
        raise ValueError(f"there is no level {level!r}; there are {', '.join(LEVELS)}")
    if is_url(os.fspath(out)):
        with downloaded(os.fspath(out), progress) as folder:
            verdict = verify(
                path,
                folder,
                level=level,
                options=options,
                samples=samples,
                seed=seed,
                text=text,
                progress=progress,
            )
        return replace(verdict, out=shown(os.fspath(out)))
    subject = open_subject(path, Path(os.path.expanduser(out)), options, progress)
    checks, matches, left_behind = prove_weights(subject, progress)
    agreement, notes = prove_agreement(subject, matches)
    checks += agreement
    causes: list[Cause] = []
    if not all(check.passed for check in checks):
        from .diagnose import tensor_causes

        causes = tensor_causes(subject, matches)
    ran = _Found([], [], None, [], [])
    if level != "weights":
        try:
            ran = _run(subject, matches, level, samples, seed, text)
        except ParityError as error:
            ran = _Found([], [], None, [Check("outputs", "running", False, str(error))], [])
    return Verdict(
        checkpoint=subject.checkpoint.name,
        out=str(out),
        level=level,
        architecture=subject.architecture.name,
        seed=seed,
        samples=samples,
        checks=[*checks, *ran.checks],
        matches=matches,
        left_behind=left_behind,
        outputs=ran.outputs,
        gradients=ran.gradients,
        activation=ran.activation,
        causes=[*causes, *ran.causes],
        first_tensor=next((match.tensor for match in matches if not match.same), ""),
        first_output=next((o.tensor for o in ran.outputs if not o.same_function), ""),
        notes=[*subject.folder.notes, *notes],
    )


def prover(
    path: str | os.PathLike[str], options: Options = DEFAULTS, level: str | None = None
) -> Callable[[Path], str]:
    """What `convert` takes as `prove`: a folder that fails is not published.

    Without a level, the proof goes as far as the installed packages allow. It gives a sentence for
    the card, without figures, which differ from machine to machine; a failure raises ParityError
    with the report.
    """

    def prove(folder: Path) -> str:
        from .report import card_sentence, lines

        verdict = verify(path, folder, level=level, options=options)
        if not verdict.passed:
            raise ParityError("\n".join([*lines(verdict), "Nothing was published."]))
        return card_sentence(verdict)

    return prove


class _Found(Struct, frozen=True):
    """What came of running both models."""

    outputs: list[Output]
    gradients: list[Gradient]
    activation: Activation | None
    checks: list[Check]
    causes: list[Cause]


def _run(
    subject: Subject,
    matches: list[Match],
    level: str,
    samples: int,
    seed: int,
    text: Path | None,
) -> _Found:
    from .diagnose import gradient_causes, output_causes
    from .gradients import prove_gradients
    from .outputs import activation_verdict, open_sides, prove_outputs

    batches, checks = _batches(subject, samples, seed, text)
    sides = open_sides(subject, matches, batches)
    found, outputs = prove_outputs(subject, sides)
    checks += found
    gradients: list[Gradient] = []
    causes: list[Cause] = []
    first = next((output.tensor for output in outputs if not output.same_function), "")
    if first:
        causes = output_causes(subject, sides, matches, first)
    if level == "gradients":
        found, gradients = prove_gradients(sides, matches, seed)
        checks += found
        wrong = [gradient.tensor for gradient in gradients if not gradient.passed]
        if wrong and not first:
            causes = gradient_causes(sides, wrong[0])
    activation = None if first else activation_verdict(sides)
    return _Found(outputs, gradients, activation, checks, causes)


def _batches(
    subject: Subject, samples: int, seed: int, text: Path | None
) -> "tuple[list[Batch], list[Check]]":
    from .samples import seeded_batches, text_batches

    def rows(table: str) -> int:
        name = f"{subject.scope}bert/embeddings/{table}_embeddings"
        if name not in subject.checkpoint:
            raise ParityError(f"the checkpoint has no {name}; only --level weights can be proved")
        return subject.checkpoint.variables[name].shape[0]

    if text is None:
        batches = seeded_batches(
            samples,
            seed,
            vocab_size=rows("word"),
            positions=rows("position"),
            segments=rows("token_type"),
            vocabulary=subject.vocabulary,
        )
        return batches, []
    batches, differs = text_batches(
        text,
        samples,
        folder=subject.folder.path,
        vocabulary=subject.vocabulary,
        do_lower_case=subject.do_lower_case is not False,
        positions=rows("position"),
    )
    same = "both tokenizers give the same ids"
    return batches, [Check("outputs", "tokenizers", not differs, differs or same)]
