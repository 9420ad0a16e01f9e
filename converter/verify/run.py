"""The proof that a model folder is the checkpoint that it was made from."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ..choices import LEVELS
from ..convert import Proof, Prove
from ..errors import VerificationError
from ..options import DEFAULTS, Options, make_options
from ..prepare import Planned, Prepared
from ..storage.files import Progress
from ..storage.location import parse_location
from ..text import pip_install
from ..tokenizers.registry import load_tokenizer
from .metadata import bits_fact, padding_id, prove_metadata
from .model_folder import ModelFolder, files_at, open_folder
from .provenance import prepare_again
from .report import findings, lines
from .variables import CheckpointVariables, Variables
from .verdict import Activation, Cause, Check, Faulty, Gradient, Match, Output, Text, Verdict
from .verification import check_place, outdated, proof_of, save_proof
from .weights import part_of_class, prove_weights, tensor_names

if TYPE_CHECKING:
    from ..models.reference import Reference, Samples
    from ..tokenizers.registry import Role
    from .batches import Original

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


class Wanted(Struct, frozen=True):
    """How much is to be proved."""

    level: str
    samples: int = SAMPLES
    seed: int = 0
    positions: int = POSITIONS
    text: Path | None = None


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
        path: the checkpoint, in any form that `open_checkpoint` takes.
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
    level = checked_level(level)
    if missing := missing_extras(level):
        raise VerificationError(
            f"level {level} needs {', '.join(missing)}: {how_to_install(missing)}"
        )
    if save:
        check_place(parse_location(out))
    if samples < 1 or seed < 0 or positions < 1:
        raise ValueError(
            f"samples is {samples}, seed {seed}, and positions {positions}; at least 1, 0 and 1 are"
            " needed"
        )
    if text is not None and level == LEVELS[0]:
        raise ValueError(f"a text needs level outputs; level {level} runs no sequences")
    options = make_options(changes, options)
    wanted = Wanted(level, samples, seed, positions, text)
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
    location = parse_location(out)
    with location.on_disk(files_at(location), progress) as path_on_disk:
        try:
            folder = open_folder(path_on_disk)
            if is_newer:
                folder = replace(folder, provenance=None)
            prepared, by_record = prepare_again(path, options, folder, progress)
            if options.head is not None and folder.provenance is None:
                folder = part_of_class(prepared, folder)
            verdict = _verify(prepared, folder, location.shown, wanted, progress)
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
    return _verify(prepared, open_folder(folder), str(folder), Wanted(level), progress)


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


class _Ran(Struct, frozen=True):
    """What came of running both models."""

    outputs: list[Output] = []
    gradients: list[Gradient] = []
    activation: Activation | None = None
    checks: list[Check] = []
    causes: list[Cause] = []
    faulty: list[Faulty] = []
    samples: int = 0  # sequences
    text: Text | None = None
    tensorflow: str = ""  # the version that computed


def _verify(
    prepared: Prepared, folder: ModelFolder, out: str, wanted: Wanted, progress: Progress | None
) -> Verdict:
    mapping = prepared.mapping
    notes = [*folder.notes]
    level = level_of(prepared, wanted.level)
    if level != wanted.level:
        unused = "" if wanted.text is None else f", so {wanted.text} was not used"
        notes.append(
            f"only level weights was run: the mapping {mapping.name} names no reference to compare"
            f" outputs with{unused}"
        )
    variables = CheckpointVariables(prepared)
    checks, matches = prove_weights(prepared, variables, folder, progress)
    metadata = prove_metadata(prepared, variables, folder, matches)
    facts = [bits_fact(checks, matches), *metadata.facts]
    checks += metadata.checks
    notes += metadata.notes
    unproved = [*prepared.plan.untold, *prepared.plan.doubts, *metadata.unproved]
    causes: list[Cause] = []
    reference = _reference(prepared)
    if not all(check.passed for check in checks):
        from .diagnose import tensor_causes

        swaps = reference.SWAPS if reference else {}
        causes = tensor_causes(prepared, variables, folder, matches, swaps)
    ran = _Ran()
    if level != "weights" and reference is not None:
        try:
            ran = _run_both(prepared, variables, folder, matches, wanted)
        except VerificationError as error:
            ran = _Ran(checks=[Check("outputs", "running", False, str(error))])
    return Verdict(
        checkpoint=prepared.checkpoint.name,
        out=out,
        level=level,
        architecture=prepared.plan.architecture.name,
        mapping=mapping.name,
        seed=wanted.seed,
        samples=ran.samples,
        text=ran.text,
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
        positions=wanted.positions if ran.samples else 0,
        faulty=ran.faulty,
        facts=facts,
        sources=prepared.sources,
        versions=_versions(ran.tensorflow),
    )


def _versions(tensorflow: str) -> dict[str, str]:
    """The versions of Python and of the packages that computed.

    Args:
        tensorflow: its version; "" if no model was run.
    """
    import platform

    packages = ("numpy", *(("torch", "transformers") if tensorflow else ()))
    found = {name: str(sys.modules[name].__version__) for name in packages if name in sys.modules}
    ran = {"tensorflow": tensorflow} if tensorflow else {}
    return {"python": platform.python_version(), **found, **ran}


def _reference(planned: Planned) -> "Reference | None":
    if not planned.mapping.reference:
        return None
    from ..models import load_reference

    return load_reference(planned.mapping.reference)


class Sequences(Struct, frozen=True):
    """The sequences, and where they come from."""

    samples: "list[Samples]"
    checks: list[Check]
    text: Text | None


def sequences(
    planned: Planned, wanted: Wanted, folder: ModelFolder | None, pad_id: int | None
) -> Sequences:
    from .original import role_sizes
    from .samples import read_lines, seeded_samples, text_samples

    sizes = role_sizes(planned)
    missing = {"vocabulary", "positions", "segments"} - sizes.keys()
    if missing:
        raise VerificationError(
            f"the mapping {planned.mapping.name} lacks the [roles] {', '.join(sorted(missing))},"
            " which the sequences need"
        )
    if wanted.text is None or folder is None:
        made = seeded_samples(
            wanted.samples,
            wanted.seed,
            vocab_size=sizes["vocabulary"],
            max_length=sizes["positions"],
            segments=sizes["segments"],
            special=_special_ids(planned),
            pad_id=pad_id,
            positions=wanted.positions,
        )
        return Sequences(made, [], None)
    lines = read_lines(wanted.text, wanted.samples)
    made, differs = text_samples(
        lines,
        folder=folder.path,
        tokenizer=planned.tokenizer,
        vocabulary=planned.vocabulary,
        do_lower_case=planned.do_lower_case is not False,
        vocab_size=sizes["vocabulary"],
        max_length=sizes["positions"],
        pad_id=pad_id,
        positions=wanted.positions,
        seed=wanted.seed,
    )
    same = "both tokenizers give the same ids"
    check = Check("outputs", "tokenizers", not differs, differs or same)
    sha256 = hashlib.sha256(wanted.text.read_bytes()).hexdigest()
    return Sequences(made, [check], Text(wanted.text.name, sha256, len(lines)))


def _special_ids(planned: Planned) -> "dict[Role, int]":
    if planned.vocabulary is None:
        return {}
    found = load_tokenizer(planned.tokenizer).special_tokens(planned.vocabulary)
    return {role: token.row for role, token in found.items() if token.row is not None}


def _run_both(
    prepared: Prepared,
    variables: Variables,
    folder: ModelFolder,
    matches: list[Match],
    wanted: Wanted,
) -> _Ran:
    """Run the original model, and the folder's on the same sequences."""
    from . import torch_model

    pad_id = padding_id(prepared, folder)
    inputs = sequences(prepared, wanted, folder, pad_id)
    casts = {match.name: match.dtype for match in matches if match.cast}
    with compute(prepared, folder.config, casts, inputs.samples, wanted, pad_id) as finish:
        torch_model.load_packages(prepared.plan.architecture.name)  # while TensorFlow runs
        original = finish()
    ran = _run_folder(prepared, folder, variables, matches, original, wanted.level, pad_id)
    return replace(ran, checks=[*inputs.checks, *ran.checks], text=inputs.text)


@contextmanager
def compute(
    prepared: Prepared,
    config: Mapping[str, Any],
    casts: Mapping[str, str],
    samples: "list[Samples]",
    wanted: Wanted,
    pad_id: int | None,
) -> "Iterator[Callable[[], Original]]":
    """Start to run the original model; the function that it gives waits for the result.

    Args:
        prepared: the checkpoint and its plan.
        config: whose problem_type chooses a loss.
        casts: original name -> the dtype to round a variable to.
        samples: the sequences.
        wanted: the level, and the seed of the labels.
        pad_id: the padding token.
    """
    from .original import Task, architecture_of, check_reference
    from .tensorflow_process import computing
    from .tensorflow_reader import on_disk, refuse_what_ends_the_process

    reference, checkpoint = prepared.mapping.reference, prepared.checkpoint
    architecture = architecture_of(prepared, config)
    check_reference(prepared, architecture)
    refuse_what_ends_the_process(checkpoint)
    names = {entry.name: entry.variable for entry in prepared.plan.entries}
    with on_disk(checkpoint, names.values()) as path:
        task = Task(
            checkpoint=checkpoint.name,
            path=path,
            is_h5=checkpoint.is_h5,
            variables=names,
            casts=dict(casts),
            reference=reference,
            architecture=architecture,
            with_gradients=wanted.level == "gradients",
            seed=wanted.seed,
            pad_id=pad_id,
        )
        with computing(task, samples) as finish:
            yield finish


def _run_folder(
    planned: Planned,
    folder: ModelFolder,
    variables: Variables,
    matches: list[Match],
    original: "Original",
    level: str,
    pad_id: int | None,
) -> _Ran:
    """Run the folder's model on what the original was run on, and compare."""
    from ..models import load_reference
    from .diagnose import gradient_causes, output_causes
    from .gradients import prove_gradients
    from .original import architecture_of
    from .outputs import (
        FolderVariables,
        Port,
        loading_check,
        output_checks,
        run_in_float32,
        run_in_float64,
    )
    from .parts import faulty_parts
    from .torch_model import load_model

    plan = planned.plan
    reference = load_reference(planned.mapping.reference)
    settings = reference.settings(architecture_of(planned, folder.config))
    name = plan.architecture.name
    model, random = load_model(folder.path, name, reference, plan.groups, "float64")
    port = Port(model, random, reference, settings, original)
    entries = tensor_names(planned, folder.tensors)
    parameters = None
    if level == "gradients":
        parameters = {entries[match.tensor].tensor: match for match in matches}
    tables, trained, last = run_in_float64(port, parameters)
    differ = [name for name, errors in tables.items() if not errors.same]
    causes: list[Cause] = []
    faulty: list[Faulty] = []
    if differ:
        causes = output_causes(planned, variables, folder, port, matches, differ[0], last)
        faulty = faulty_parts(model, reference, settings, original.batches)
    checks, gradients = list[Check](), list[Gradient]()
    if level == "gradients":
        checks, gradients = prove_gradients(original, trained, matches)
        wrong = [gradient.tensor for gradient in gradients if not gradient.passed]
        if wrong and not differ:
            causes = gradient_causes(model.config, pad_id, wrong[0])
    model.float()  # in place: one precision is held at a time
    held = FolderVariables(folder, matches)
    has_all = all(name in held for name in reference.names(settings))
    products = reference.products(held, settings) if has_all else {}
    outputs = run_in_float32(port, tables, products)
    return _Ran(
        outputs=outputs,
        gradients=gradients,
        activation=None if differ else original.activation,
        checks=[*output_checks(outputs), loading_check(port), *checks],
        causes=causes,
        faulty=faulty,
        samples=original.count,
        tensorflow=original.tensorflow,
    )
