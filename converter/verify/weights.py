"""Level weights: every tensor is its variable, bit for bit, and nothing is missing or left over.

The plan is read backwards, from tensor to variable, and the inverse transform is applied to the
tensor, so that a mistake of the conversion is not repeated here.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..checks import FLOATS
from ..plan import Entry
from ..prepare import Prepared
from ..storage.files import Progress
from ..text import joined
from ..transforms import merged_shape, to_tensorflow
from .model_folder import ModelFolder
from .verdict import Check, Match

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Tensors = Mapping[str, Array]

_MOST_SHOWN = 5


def prove_weights(
    prepared: Prepared, folder: ModelFolder, progress: Progress | None = None
) -> tuple[list[Check], list[Match]]:
    """Compare every tensor with its variable, and account for all of both.

    Args:
        prepared: the checkpoint and its plan.
        folder: the model folder.
        progress: told of the bytes that are compared.

    Returns:
        The checks, and each tensor of the file that transformers prefers, in the order of the
        forward pass.

    Raises:
        CheckpointError: a variable can't be read, or is damaged.
        VerificationError: a tensor can't be read.
    """
    plan = prepared.plan
    prepared.checkpoint.fetch([entry.variable for entry in plan.entries], progress)
    matches = {}
    checks = []
    for file, tensors in folder.files.items():
        names = tensor_names(prepared, tensors)
        matches[file] = list(_matches(prepared, names, tensors, progress))
        checks += [_equal(file, matches[file]), _complete(prepared, file, names, tensors)]
        if prepared.mapping.tie:
            checks.append(_ties(prepared, file, tensors, folder.config))
    found = next(iter(matches.values()))
    checks.append(_accounted(prepared))
    if any(match.nonfinite for match in found):
        checks.append(_nonfinite(found))
    return checks, found


def tensor_names(prepared: Prepared, tensors: "Tensors") -> dict[str, Entry]:
    """The tensors that a file must have -> where each comes from.

    transformers loads the class without a head under both kinds of names: as it writes them, and
    with the prefix that they have in a class with a head.
    """
    strip = prepared.plan.architecture.strip
    prefixed = strip and any(name.startswith(strip) for name in tensors)
    return {(strip if prefixed else "") + entry.tensor: entry for entry in prepared.plan.entries}


def same_bits(tensor: "Array", variable: "Array", op: str) -> bool:
    """Whether a tensor, carried back through `op`, is a variable (or its cast) bit for bit.

    NaNs are compared by their bits too.
    """
    import numpy as np

    back = to_tensorflow(tensor, op)
    if back.shape != variable.shape:
        return False
    if back.dtype != variable.dtype:
        with np.errstate(all="ignore"):  # an overflow shows in the comparison
            variable = variable.astype(back.dtype)
    bits = f"u{back.dtype.itemsize}"
    return bool(np.array_equal(back.view(bits), variable.view(bits)))


def _matches(
    prepared: Prepared,
    names: Mapping[str, Entry],
    tensors: "Tensors",
    progress: Progress | None,
) -> Iterator[Match]:
    import numpy as np

    variables = prepared.checkpoint.variables
    total = sum(variables[entry.variable].nbytes for entry in names.values())
    done = 0
    for name, entry in names.items():
        if name not in tensors:
            continue
        tensor, variable = tensors[name], prepared.checkpoint[entry.variable]
        variable = variable.reshape(merged_shape(entry.op, entry.shape))
        yield Match(
            tensor=name,
            variable=entry.variable,
            name=entry.name,
            group=entry.group,
            op=entry.op,
            shape=tensor.shape,
            merged=variable.shape,
            dtype=str(tensor.dtype),
            cast=tensor.dtype != variable.dtype,
            same=str(tensor.dtype) in FLOATS and same_bits(tensor, variable, entry.op),
            nonfinite=int(variable.size - np.count_nonzero(np.isfinite(variable))),
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


def _complete(
    prepared: Prepared, file: str, names: Mapping[str, Entry], tensors: "Tensors"
) -> Check:
    ties = {tie.pt for tie in prepared.mapping.tie}
    empty = prepared.plan.empty
    missing = [name for name in (*names, *empty) if name not in tensors]
    unknown = [n for n in tensors if n not in names and n not in ties and n not in empty]
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


def _ties(prepared: Prepared, file: str, tensors: "Tensors", config: Mapping[str, object]) -> Check:
    import numpy as np

    def same(one: "Array", other: "Array") -> bool:
        first, second = (np.ascontiguousarray(a).view(np.uint8) for a in (one, other))
        return one.dtype == other.dtype and np.array_equal(first, second)

    ties = [tie for tie in prepared.mapping.tie if tie.to in tensors]
    untied = [
        f"{tie.pt} exists and differs from {tie.to}"
        for tie in ties
        if tie.pt in tensors and not same(tensors[tie.pt], tensors[tie.to])
    ]
    if config.get("tie_word_embeddings", True) is not True and ties:
        untied.append(f"config.json sets tie_word_embeddings to false, which unties {ties[0].pt}")
    groups = prepared.plan.architecture.groups
    tied = [tie.pt for tie in ties if not tie.group or tie.group in groups]
    text = f"tied: {joined(tied, _MOST_SHOWN)}" if tied else "this class has none"
    return Check("weights", f"ties of {file}", not untied, "; ".join(untied) or text)


def _accounted(prepared: Prepared) -> Check:
    """Whether the plan accounts for every variable of the checkpoint."""
    mapped = {entry.variable for entry in prepared.plan.entries}
    dropped = {drop.variable for drop in prepared.plan.dropped}
    lost = [name for name in prepared.checkpoint if name not in mapped and name not in dropped]
    text = f"{len(mapped):,} mapped, {len(dropped):,} skipped for a reason"
    if lost:
        text += f"; not accounted for: {joined(lost, _MOST_SHOWN)}"
    return Check("weights", "variables", not lost, text)


def _nonfinite(matches: list[Match]) -> Check:
    found = [f"{match.variable} ({match.nonfinite:,})" for match in matches if match.nonfinite]
    same = all(match.same for match in matches if match.nonfinite)
    where = "at the same places on both sides" if same else "and the tensors differ there"
    return Check("weights", "NaN or infinity", same, f"in {joined(found, _MOST_SHOWN)}, {where}")
