"""The levels that run both models: TensorFlow the original one, PyTorch the folder's."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ..choices import LEVELS
from ..errors import VerificationError
from ..prepare import Planned, Prepared
from ..storage.files import Progress
from ..tokenizers.registry import load_tokenizer
from .metadata import padding_id
from .model_folder import ModelFolder
from .subject import Subject
from .verdict import Activation, Cause, Check, Faulty, Gradient, Output, Text
from .weights import tensor_names

if TYPE_CHECKING:
    from ..models.reference import Samples
    from ..tokenizers.registry import Role
    from .batches import Original

SAMPLES = 8
"""The number of sequences that go through both models, unless the caller says otherwise."""

POSITIONS = 32
"""The most positions of a sequence at which outputs are compared, unless the caller says so."""


class Wanted(Struct, frozen=True):
    """How much is to be proved."""

    level: str
    samples: int = SAMPLES
    seed: int = 0
    positions: int = POSITIONS
    text: Path | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or self.seed < 0 or self.positions < 1:
            raise ValueError(
                f"samples is {self.samples}, seed {self.seed}, and positions {self.positions}; at"
                " least 1, 0 and 1 are needed"
            )


class Ran(Struct, frozen=True):
    """What came of running both models."""

    outputs: list[Output] = []
    gradients: list[Gradient] = []
    activation: Activation | None = None
    checks: list[Check] = []
    causes: list[Cause] = []
    faulty: list[Faulty] = []
    samples: int = 0  # sequences
    text: Text | None = None
    tensorflow: str = ""  # the version


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


def run_both(
    prepared: Prepared, subject: Subject, wanted: Wanted, progress: Progress | None
) -> Ran:
    """Run the original model, and the folder's on the same sequences."""
    folder = subject.folder
    pad_id = padding_id(prepared, folder)
    inputs = sequences(prepared, wanted, folder, pad_id)
    casts = {match.name: match.dtype for match in subject.matches if match.cast}
    batches = inputs.samples
    with compute(prepared, folder.config, casts, batches, wanted, pad_id, progress) as finish:
        ran = run_folder(subject, batches, finish, wanted.level, pad_id, progress)
    return replace(ran, checks=[*inputs.checks, *ran.checks], text=inputs.text)


@contextmanager
def compute(
    prepared: Prepared,
    config: Mapping[str, Any],
    casts: Mapping[str, str],
    samples: "list[Samples]",
    wanted: Wanted,
    pad_id: int | None,
    progress: Progress | None = None,
) -> "Iterator[Callable[[], Original]]":
    """Start to run the original model; the function that it gives waits for the result.

    Args:
        prepared: the checkpoint and its plan.
        config: whose problem_type chooses a loss.
        casts: original name -> the dtype to round a variable to.
        samples: the sequences.
        wanted: the level, and the seed of the labels.
        pad_id: the padding token.
        progress: told that TensorFlow runs.
    """
    from .original import Task, architecture_of, check_reference
    from .tensorflow_process import computing
    from .tensorflow_reader import on_disk, refuse_what_ends_the_process

    reference, checkpoint = prepared.mapping.reference, prepared.checkpoint
    check_reference(prepared, config)
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
            architecture=architecture_of(prepared, config),
            with_gradients=wanted.level == LEVELS[-1],
            seed=wanted.seed,
            pad_id=pad_id,
        )
        with computing(task, samples, progress) as finish:
            yield finish


def run_folder(
    subject: Subject,
    samples: "list[Samples]",
    finish: "Callable[[], Original]",
    level: str,
    pad_id: int | None,
    progress: Progress | None,
) -> Ran:
    """Run the folder's model on what the original was run on, and compare.

    At level outputs it runs in float32 while TensorFlow does.

    Args:
        subject: the folder.
        samples: the sequences.
        finish: gives what the original computes of them, and may wait for it.
        level: outputs or gradients.
        pad_id: the padding token.
        progress: told that PyTorch runs.
    """
    from ..models import load_reference
    from .diagnose import gradient_causes, output_causes
    from .gradients import prove_gradients
    from .original import settings_of
    from .outputs import (
        FolderVariables,
        Port,
        judge_float32,
        loading_check,
        output_checks,
        run_in_float64,
    )
    from .parts import faulty_parts
    from .torch_model import load_model, load_packages

    def running() -> None:
        if progress is not None:
            progress("running PyTorch", 0, 0)

    running()
    planned, folder, matches = subject.planned, subject.folder, subject.matches
    plan = planned.plan
    reference = load_reference(planned.mapping.reference)
    settings = settings_of(reference, planned, folder.config)

    def load(dtype: str) -> Port:
        name, groups = plan.architecture.name, plan.groups
        return Port(*load_model(folder.path, name, reference, groups, dtype), reference, settings)

    load_packages(plan.architecture.name)
    # TensorFlow's gradients leave no room for another model within 4 GB, for BERT-Base.
    original = finish() if level == LEVELS[-1] else None
    port, single = load("float32"), []
    for batch in samples:
        running()
        single.append(port.outputs(batch))
    original = original or finish()
    running()
    if any(match.dtype == "float64" for match in matches):  # which float32 has cut
        port = load("float64")
    model = port.model.double()  # in place: one precision is held at a time
    entries = tensor_names(planned, folder.tensors)
    parameters = None
    if level == LEVELS[-1]:
        parameters = {entries[match.tensor].tensor: match for match in matches}
    tables, trained, last = run_in_float64(port, original, parameters, running)
    differ = [name for name, errors in tables.items() if not errors.same]
    causes: list[Cause] = []
    faulty: list[Faulty] = []
    if differ:
        causes = output_causes(subject, port, differ[0], samples[-1], last)
        faulty = faulty_parts(model, reference, settings, original.batches)
    checks, gradients = list[Check](), list[Gradient]()
    if level == LEVELS[-1]:
        checks, gradients = prove_gradients(original, trained, matches)
        wrong = [gradient.tensor for gradient in gradients if not gradient.passed]
        if wrong and not differ:
            causes = gradient_causes(model.config, pad_id, wrong[0])
    held = FolderVariables(folder, matches)
    has_all = all(name in held for name in reference.names(settings))
    products = reference.products(held, settings) if has_all else {}
    outputs = judge_float32(original, single, tables, products)
    return Ran(
        outputs=outputs,
        gradients=gradients,
        activation=None if differ else original.activation,
        checks=[*output_checks(outputs), loading_check(port), *checks],
        causes=causes,
        faulty=faulty,
        samples=original.count,
        tensorflow=original.tensorflow,
    )
