"""Level weights: every tensor is its variable, bit for bit, and nothing is missing or left over.

The plan is read backwards, from tensor to variable, and the inverse transform is applied to the
tensor, so that a mistake of the conversion is not repeated here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..checks import FLOATS
from ..plan import Entry
from ..prepare import Planned
from ..storage.files import Progress
from ..text import joined
from ..transforms import merged_shape
from .model_folder import ModelFolder
from .variables import Variables
from .verdict import Check, Match

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Tensors = Mapping[str, Array]

_MOST_SHOWN = 5


def prove_weights(
    planned: Planned,
    variables: Variables,
    folder: ModelFolder,
    progress: Progress | None = None,
) -> tuple[list[Check], list[Match]]:
    """Compare every tensor with its variable, and account for all of both.

    Args:
        planned: the conversion.
        variables: those of the checkpoint.
        folder: the model folder.
        progress: told of the bytes that are compared.

    Returns:
        The checks, and each tensor of the file that transformers prefers, in the order of the
        forward pass.

    Raises:
        CheckpointError: a variable can't be read, or is damaged.
        VerificationError: a tensor can't be read.
    """
    variables.fetch([entry.variable for entry in planned.plan.entries], progress)
    matches = {}
    checks = []
    for file, tensors in folder.files.items():
        names = tensor_names(planned, tensors)
        matches[file] = list(_matches(variables, names, tensors, progress))
        checks += [_equal(file, matches[file]), _complete(planned, file, names, tensors)]
        if planned.mapping.tie:
            checks.append(_ties(planned, file, tensors, folder.config))
    found = next(iter(matches.values()))
    checks.append(_accounted(planned, variables))
    if any(match.nonfinite for match in found):
        checks.append(_nonfinite(found))
    return checks, found


def tensor_names(planned: Planned, tensors: "Tensors") -> dict[str, Entry]:
    """The tensors that a file must have -> where each comes from.

    transformers loads every class under both kinds of names: with the prefix of the model inside of
    a class with a head, and as the class without one saves them. Of two tensors that are tied, a
    file may have either.
    """
    strip, known = planned.plan.architecture.strip, _known_name(planned, tensors)
    other = {known(tie.to): known(tie.pt) for tie in planned.mapping.tie}
    names = {known(strip + entry.tensor): entry for entry in planned.plan.entries}
    return {
        other[name] if name not in tensors and other.get(name) in tensors else name: entry
        for name, entry in names.items()
    }


def part_of_class(planned: Planned, folder: ModelFolder) -> ModelFolder:
    """The folder without the tensors that transformers does not load into the class."""
    others = _other_tensors(planned, folder.tensors)
    if not others:
        return folder
    name = planned.plan.architecture.name
    note = f"not compared, because {name} has no such tensors: {joined(others, _MOST_SHOWN)}"
    return folder.without(others, note)


def groups_of(planned: Planned, tensors: "Tensors") -> set[str]:
    """The groups of the mapping that have tensors in a file.

    Several groups may have tensors of the same names. They are those of the class, if it has them.
    """
    mapping, known = planned.mapping, _known_name(planned, tensors)
    own = {*planned.plan.architecture.groups, *planned.plan.architecture.optional}
    pairs = mapping.expand(planned.plan.sizes, [group.name for group in mapping.group])
    found: dict[str, str] = {}
    for pair in sorted(pairs, key=lambda pair: pair.group not in own):
        if known(pair.tensor) in tensors:
            found.setdefault(pair.tensor, pair.group)
    return {*found.values()}


def _other_tensors(planned: Planned, tensors: "Tensors") -> list[str]:
    known = _known_name(planned, tensors)
    needed = {*tensor_names(planned, tensors), *planned.plan.empty}
    needed |= {known(tie.pt) for tie in planned.mapping.tie}
    return [name for name in tensors if name not in needed]


def _known_name(planned: Planned, tensors: "Tensors") -> Callable[[str], str]:
    """A tensor's name in a class with a head -> its name in a file."""
    headless = planned.mapping.headless
    prefix = headless.strip if headless is not None else ""
    if not prefix or any(name.startswith(prefix) for name in tensors):
        return str
    return lambda name: name.removeprefix(prefix)


def _matches(
    variables: Variables,
    names: Mapping[str, Entry],
    tensors: "Tensors",
    progress: Progress | None,
) -> Iterator[Match]:
    described = variables.described
    total = sum(described[entry.variable].nbytes for entry in names.values())
    done = 0
    for name, entry in names.items():
        if name not in tensors:
            continue
        tensor, variable = tensors[name], described[entry.variable]
        found = variables.compare(entry, tensor)
        yield Match(
            tensor=name,
            variable=entry.variable,
            name=entry.name,
            group=entry.group,
            op=entry.op,
            shape=tensor.shape,
            merged=merged_shape(entry.op, entry.shape),
            dtype=str(tensor.dtype),
            cast=str(tensor.dtype) != variable.tf_dtype,
            same=str(tensor.dtype) in FLOATS and found.same,
            nonfinite=found.nonfinite,
        )
        done += variable.nbytes
        if progress is not None:
            progress("comparing weights", done, total)


def _equal(file: str, matches: list[Match]) -> Check:
    differ = [match.tensor for match in matches if not match.same]
    casts = sorted({match.dtype for match in matches if match.cast})
    if not matches:
        text = "the mapping knows none of its tensors"
    elif differ:
        shown = joined(differ, _MOST_SHOWN)
        verb = "differs" if len(differ) == 1 else "differ"
        text = f"{len(differ):,} of {len(matches):,} tensors {verb}: {shown}"
    else:
        what = (
            f"equal their variables cast to {joined(casts)}" if casts else "are equal bit for bit"
        )
        text = f"all {len(matches):,} tensors {what}"
    return Check("weights", file, bool(matches) and not differ, text)


def _complete(planned: Planned, file: str, names: Mapping[str, Entry], tensors: "Tensors") -> Check:
    empty = planned.plan.empty
    missing = [name for name in (*names, *empty) if name not in tensors]
    unknown = _other_tensors(planned, tensors)
    full = [n for n, shape in empty.items() if n in tensors and tensors[n].shape != shape]
    parts = []
    if full:
        parts.append(f"not empty, as these sizes want it: {joined(full, _MOST_SHOWN)}")
    if missing:
        parts.append(f"missing: {joined(missing, _MOST_SHOWN)}")
    if unknown:
        parts.append(f"not from any variable: {joined(unknown, _MOST_SHOWN)}")
    text = "; ".join(parts) or f"all {len(tensors):,} come from a variable, and none is missing"
    return Check("weights", f"tensors of {file}", not parts, text)


def _ties(planned: Planned, file: str, tensors: "Tensors", config: Mapping[str, object]) -> Check:
    import numpy as np

    def same(one: "Array", other: "Array") -> bool:
        first, second = (np.ascontiguousarray(a).view(np.uint8) for a in (one, other))
        return one.dtype == other.dtype and np.array_equal(first, second)

    known, groups = _known_name(planned, tensors), planned.plan.architecture.groups
    pairs = [(known(tie.pt), known(tie.to)) for tie in planned.mapping.tie]
    untied = [
        f"{one} exists and differs from {other}"
        for one, other in pairs
        if one in tensors and other in tensors and not same(tensors[one], tensors[other])
    ]
    tied = [tie.pt for tie in planned.mapping.tie if not tie.group or tie.group in groups]
    lost = [name for name in tied if known(name) not in tensors]
    if config.get("tie_word_embeddings", True) is not True and lost:
        untied.append(f"config.json sets tie_word_embeddings to false, which unties {lost[0]}")
    text = f"tied: {joined(tied, _MOST_SHOWN)}" if tied else "this class has none"
    return Check("weights", f"ties of {file}", not untied, "; ".join(untied) or text)


def _accounted(planned: Planned, variables: Variables) -> Check:
    """Whether the plan accounts for every variable of the checkpoint."""
    mapped = {entry.variable for entry in planned.plan.entries}
    dropped = {drop.variable for drop in planned.plan.dropped}
    lost = [name for name in variables.described if name not in mapped and name not in dropped]
    text = f"{len(mapped):,} mapped, {len(dropped):,} skipped for a reason"
    if lost:
        text += f"; not accounted for: {joined(lost, _MOST_SHOWN)}"
    return Check("weights", "variables", not lost, text)


def _nonfinite(matches: list[Match]) -> Check:
    found = [f"{match.variable} ({match.nonfinite:,})" for match in matches if match.nonfinite]
    same = all(match.same for match in matches if match.nonfinite)
    where = "at the same places on both sides" if same else "and the tensors differ there"
    return Check("weights", "NaN or infinity", same, f"in {joined(found, _MOST_SHOWN)}, {where}")
