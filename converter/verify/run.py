"""The proof that a model folder is the checkpoint that it was made from."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ..choices import LEVELS
from ..convert import Proof, Prove
from ..errors import VerificationError
from ..options import DEFAULTS, Options, make_options
from ..prepare import Prepared
from ..storage.files import Progress
from ..storage.location import parse_location
from ..text import pip_install
from ..tokenizers.registry import load_tokenizer
from .metadata import bits_fact, padding_id, prove_metadata
from .model_folder import ModelFolder, files_at, open_folder
from .provenance import prepare_again
from .report import findings, lines
from .variables import CheckpointVariables
from .verdict import Activation, Cause, Check, Gradient, Match, Output, Text, Verdict
from .verification import check_place, outdated, proof_of, save_proof
from .weights import part_of_class, prove_weights, tensor_names

if TYPE_CHECKING:
    from ..models.reference import Reference, Samples
    from ..tokenizers.registry import Role

SAMPLES = 8
"""The number of sequences that go through both models, unless the caller says otherwise."""

POSITIONS = 32
"""The most positions of a sequence at which outputs are compared, unless the caller says so."""

# The last Python that TensorFlow has packages for; pyproject.toml has it, too.
_LAST_PYTHON = (3, 13)
_EXTRAS = ("tensorflow", "torch", "transformers")
_HTML = {"jinja2", "matplotlib"}


def missing_extras(level: str, html: bool = False) -> list[str]:
    """The packages of `bertconvert[verify]` that a level, or the HTML page, needs and lacks.

    Imports nothing.
    """
    needed = [*(_EXTRAS if level != "weights" else ()), *(sorted(_HTML) if html else ())]
    return [name for name in needed if find_spec(name) is None]


def how_to_install(packages: Iterable[str]) -> str:
    """What to do about packages that are missing.

    TensorFlow has none for every machine. A record that was made elsewhere takes its place.
    """
    missing = [*packages]
    here = _machine_without_tensorflow() if "tensorflow" in missing else ""
    if here:
        missing.remove("tensorflow")
    extra = "verify" if "tensorflow" in missing else "html" if {*missing} <= _HTML else "parity"
    install = pip_install(extra, *(_on_this_machine(package) for package in missing))
    if not here:
        return install
    return (
        f"TensorFlow has no package for {here}. Run `bertconvert record CKPT FILE` where it has one"
        f" (Python 3.11 to {_LAST_PYTHON[0]}.{_LAST_PYTHON[1]} on Linux with glibc, or on macOS"
        " arm64), and `bertconvert verify FILE OUT` here"
        + (f", after {install}" if missing else "")
    )


def _machine_without_tensorflow() -> str:
    """What of this machine TensorFlow has no package for; "" if it has one."""
    import platform

    system, version = f"{platform.system()} {platform.machine()}", sys.version_info[:2]
    if system not in ("Linux x86_64", "Linux aarch64", "Darwin arm64"):
        return system
    if platform.system() == "Linux" and platform.libc_ver()[0] != "glibc":
        return f"{system} without glibc"
    return f"Python {version[0]}.{version[1]}" if version > _LAST_PYTHON else ""


def _on_this_machine(package: str) -> str:
    """A package as pip takes it."""
    import platform

    if package == "tensorflow" and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return "tensorflow-cpu"  # which is smaller
    return "'transformers>=5'" if package == "transformers" else package


def highest_level() -> str:
    """The highest level that the installed packages allow."""
    return "weights" if missing_extras(LEVELS[-1]) else LEVELS[-1]


def verify(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    level: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    text: Path | None = None,
    save: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Verdict:
    """Prove that a model folder is a checkpoint, or find the first thing that differs.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        out: the model folder, or its URL.
        options: as for a conversion. What is not given is found, or taken from OUT's provenance.
        level: `weights`, `outputs` or `gradients`, each on top of those before it; by default the
            highest that the installed packages allow. A mapping without a reference is provable at
            level weights only.
        samples: the number of sequences that go through both models.
        seed: of those sequences, and of the labels for the gradients.
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
    level = checked_level(level)
    if missing := missing_extras(level):
        raise VerificationError(
            f"level {level} needs {', '.join(missing)}: {how_to_install(missing)}"
        )
    if save:
        check_place(parse_location(out))
    if samples < 1 or seed < 0:
        raise ValueError(f"samples is {samples} and seed {seed}; at least 1 and 0 are needed")
    if text is not None and level == LEVELS[0]:
        raise ValueError(f"a text needs level outputs; level {level} runs no sequences")
    options = make_options(changes, options)
    return _prove(path, out, options, level, samples, seed, text, progress, save)


def _prove(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options,
    level: str,
    samples: int = SAMPLES,
    seed: int = 0,
    text: Path | None = None,
    progress: Progress | None = None,
    is_saved: bool = False,
    is_newer: bool = False,
) -> Verdict:
    """As `verify`. If the checkpoint was made from the folder, `is_newer`.

    Then what the folder records is about another checkpoint, and is not read.
    """
    location = parse_location(out)
    with location.on_disk(files_at(location), progress) as path_on_disk:
        try:
            folder = open_folder(path_on_disk)
            if is_newer:
                folder = replace(folder, provenance=None)
            prepared, by_record = prepare_again(path, options, folder, progress)
            if options.head is not None and folder.provenance is None:
                folder = part_of_class(prepared, folder)
            verdict = _verify(
                prepared, folder, location.shown, level, samples, seed, text, progress
            )
            verdict = replace(
                verdict,
                notes=[*verdict.notes, *by_record.notes, *by_record.unproved],
                unproved=[*verdict.unproved, *by_record.unproved],
                facts=[
                    replace(fact, same=None) if fact.name in by_record.believed else fact
                    for fact in verdict.facts
                ],
            )
            if is_saved and verdict.passed:
                note = save_proof(proof_of(verdict, path_on_disk), location)
            else:
                note = "" if is_newer else outdated(path_on_disk)
            return replace(verdict, notes=[*verdict.notes, note]) if note else verdict
        except VerificationError as error:
            shown = str(error).replace(str(path_on_disk), location.shown)
            raise type(error)(shown) from error


def checked_level(level: str | None) -> str:
    """The level, or the highest that the installed packages allow.

    Raises:
        ValueError: there is no such level, or a number is too small.
    """
    level = level or highest_level()
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
    prepared: Prepared, folder: Path, *, level: str | None = None, progress: Progress | None = None
) -> Verdict:
    """Prove that a model folder is what was prepared; nothing is opened again.

    Args:
        prepared: the checkpoint and its plan.
        folder: the model folder.
        level: as for `verify`.
        progress: told of the bytes of the weights that are compared.

    Raises:
        CheckpointError: a variable can't be read.
        VerificationError: the folder can't be opened, or a level can't be run on it.
        ValueError: there is no such level.
    """
    level = checked_level(level)
    return _verify(prepared, open_folder(folder), str(folder), level, SAMPLES, 0, None, progress)


def prover(level: str | None = None, progress: Progress | None = None) -> Prove:
    """What `convert` takes as `prove`: a folder that fails is not published.

    A failure raises VerificationError with the report.

    Args:
        level: as for `verify`.
        progress: told of the bytes of the weights that are compared.
    """
    checked_level(level)

    def prove(prepared: Prepared, folder: Path) -> Proof:
        verdict = _passed(verify_prepared(prepared, folder, level=level, progress=progress))
        return proof_of(verdict, folder)

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
        verdict = _prove(checkpoint, model, options, level, progress=progress, is_newer=True)
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


class _Ran(Struct, frozen=True):
    """What came of running both models."""

    outputs: list[Output]
    gradients: list[Gradient]
    activation: Activation | None
    checks: list[Check]
    causes: list[Cause]


_NOT_RUN = _Ran([], [], None, [], [])


def _verify(
    prepared: Prepared,
    folder: ModelFolder,
    out: str,
    level: str,
    samples: int,
    seed: int,
    text: Path | None,
    progress: Progress | None,
) -> Verdict:
    mapping = prepared.mapping
    notes = [*folder.notes]
    if level_of(prepared, level) != level:
        notes.append(
            f"only level weights was run: the mapping {mapping.name} names no reference to compare"
            f" outputs with{'' if text is None else f', so {text} was not used'}"
        )
        level = level_of(prepared, level)
    variables = CheckpointVariables(prepared)
    checks, matches = prove_weights(prepared, variables, folder, progress)
    metadata = prove_metadata(prepared, variables, folder, matches)
    facts = [bits_fact(checks, matches), *metadata.facts]
    checks += metadata.checks
    notes += metadata.notes
    unproved = [*prepared.plan.untold, *prepared.plan.doubts, *metadata.unproved]
    causes: list[Cause] = []
    if not all(check.passed for check in checks):
        from .diagnose import tensor_causes

        reference = _reference(prepared)
        causes = tensor_causes(
            prepared, variables, folder, matches, reference.SWAPS if reference else {}
        )
    ran, sequences, used_text = _NOT_RUN, 0, None
    if level != "weights" and (reference := _reference(prepared)) is not None:
        try:
            inputs = _inputs(prepared, folder, samples, seed, text)
            sequences, used_text = inputs.count, inputs.text
            ran = _run(prepared, folder, reference, matches, inputs, level, seed)
        except VerificationError as error:
            ran = replace(_NOT_RUN, checks=[Check("outputs", "running", False, str(error))])
    return Verdict(
        checkpoint=prepared.checkpoint.name,
        out=out,
        level=level,
        architecture=prepared.plan.architecture.name,
        mapping=mapping.name,
        seed=seed,
        samples=sequences,
        text=used_text,
        checks=[*checks, *ran.checks],
        matches=matches,
        dropped=prepared.plan.dropped,
        outputs=ran.outputs,
        gradients=ran.gradients,
        activation=ran.activation,
        causes=[*causes, *ran.causes],
        first_tensor=next((match.tensor for match in matches if not match.same), ""),
        first_output=next((o.tensor for o in ran.outputs if not o.same_function), ""),
        notes=[*notes, *unproved],
        unproved=unproved,
        positions=POSITIONS if sequences else 0,
        facts=facts,
        sources=prepared.sources,
    )


def _reference(prepared: Prepared) -> "Reference | None":
    if not prepared.mapping.reference:
        return None
    from ..models import load_reference

    return load_reference(prepared.mapping.reference)


class _Inputs(Struct, frozen=True):
    """The sequences, and where they come from."""

    samples: "list[Samples]"
    checks: list[Check]
    text: Text | None

    @property
    def count(self) -> int:
        return sum(len(samples.input_ids) for samples in self.samples)


def _inputs(
    prepared: Prepared, folder: ModelFolder, samples: int, seed: int, text: Path | None
) -> _Inputs:
    from .outputs import role_sizes
    from .samples import read_lines, seeded_samples, text_samples

    sizes = role_sizes(prepared)
    missing = {"vocabulary", "positions", "segments"} - sizes.keys()
    if missing:
        raise VerificationError(
            f"the mapping {prepared.mapping.name} lacks the [roles] {', '.join(sorted(missing))},"
            " which the sequences need"
        )
    pad_id = padding_id(prepared, folder)
    if text is None:
        made = seeded_samples(
            samples,
            seed,
            vocab_size=sizes["vocabulary"],
            max_length=sizes["positions"],
            segments=sizes["segments"],
            special=_special_ids(prepared),
            pad_id=pad_id,
            positions=POSITIONS,
        )
        return _Inputs(made, [], None)
    lines = read_lines(text, samples)
    made, differs = text_samples(
        lines,
        folder=folder.path,
        tokenizer=prepared.tokenizer,
        vocabulary=prepared.vocabulary,
        do_lower_case=prepared.do_lower_case is not False,
        vocab_size=sizes["vocabulary"],
        max_length=sizes["positions"],
        pad_id=pad_id,
        positions=POSITIONS,
        seed=seed,
    )
    same = "both tokenizers give the same ids"
    check = Check("outputs", "tokenizers", not differs, differs or same)
    sha256 = hashlib.sha256(text.read_bytes()).hexdigest()
    return _Inputs(made, [check], Text(text.name, sha256, len(lines)))


def _special_ids(prepared: Prepared) -> "dict[Role, int]":
    if prepared.vocabulary is None:
        return {}
    found = load_tokenizer(prepared.tokenizer).special_tokens(prepared.vocabulary)
    return {role: token.row for role, token in found.items() if token.row is not None}


def _run(
    prepared: Prepared,
    folder: ModelFolder,
    reference: "Reference",
    matches: list[Match],
    inputs: _Inputs,
    level: str,
    seed: int,
) -> _Ran:
    from .diagnose import gradient_causes, output_causes
    from .gradients import prove_gradients
    from .outputs import activation_verdict, open_sides, prove_outputs

    sides = open_sides(prepared, folder, reference, matches, inputs.samples)
    checks, outputs = prove_outputs(prepared, folder, sides)
    gradients: list[Gradient] = []
    causes: list[Cause] = []
    first = next((output.tensor for output in outputs if not output.same_function), "")
    if first:
        causes = output_causes(folder, sides, matches, first)
    if level == "gradients":
        pad_id = padding_id(prepared, folder)
        names = {n: e.tensor for n, e in tensor_names(prepared, folder.tensors).items()}
        found, gradients = prove_gradients(sides, matches, names, pad_id, seed)
        checks += found
        wrong = [gradient.tensor for gradient in gradients if not gradient.passed]
        if wrong and not first:
            causes = gradient_causes(sides, pad_id, wrong[0])
    activation = None if first else activation_verdict(sides)
    return _Ran(outputs, gradients, activation, [*inputs.checks, *checks], causes)
