"""Level weights: every tensor is its variable, bit for bit, and nothing is left over.

The mapping is read backwards, from tensor to variable, and the inverse transform is applied to the
tensor, so that a mistake of the conversion is not made a second time here.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..mapping import Pair
from ..plan import FLOATS
from ..storage.files import Progress
from ..transforms import TRANSFORMS
from .subject import Subject, find
from .verdict import Check, LeftBehind, Match

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MOST_SHOWN = 5


def prove_weights(
    subject: Subject, progress: Progress | None = None
) -> tuple[list[Check], list[Match], list[LeftBehind]]:
    """Compare every tensor with its variable, and account for all of both.

    Args:
        subject: the two sides.
        progress: told of the bytes that are done.

    Returns:
        The checks; each tensor, in the order of the forward pass, of the file that transformers
        prefers; and the variables that no tensor comes from.

    Raises:
        CheckpointError: a variable can't be read, or is damaged.
        ParityError: a tensor can't be read.
    """
    pairs = subject.pairs()
    local = subject.local()
    subject.checkpoint.fetch([name for pair in pairs if (name := find(pair, local))], progress)
    ledgers = {}
    checks = []
    for file, tensors in subject.folder.files.items():
        ledgers[file] = list(_matches(subject, pairs, tensors, progress))
        checks += [_equal(file, ledgers[file]), _explained(subject, file, pairs, tensors)]
        if subject.mapping.tie:
            checks.append(_ties(subject, file, tensors))
    matches = next(iter(ledgers.values()))
    left = _left_behind(subject, matches)
    checks.append(_accounted(matches, left))
    if any(match.nonfinite for match in matches):
        checks.append(_nonfinite(matches))
    return checks, matches, left


def same_bits(tensor: "Array", variable: "Array", op: str) -> bool:
    """Whether a tensor, carried back through `op`, is a variable (or its cast) bit for bit.

    NaNs are compared by their bits too.
    """
    import numpy as np

    back = TRANSFORMS[TRANSFORMS[op].inverse].apply(tensor)
    if back.shape != variable.shape:
        return False
    if back.dtype != variable.dtype:
        with np.errstate(all="ignore"):  # what overflows shows in the comparison
            variable = variable.astype(back.dtype)
    bits = f"u{back.dtype.itemsize}"
    return bool(np.array_equal(back.view(bits), variable.view(bits)))


def _matches(
    subject: Subject,
    pairs: list[Pair],
    tensors: "Mapping[str, Array]",
    progress: Progress | None,
) -> Iterator[Match]:
    import numpy as np

    local = subject.local()
    total = sum(subject.checkpoint.variables[v].nbytes for p in pairs if (v := find(p, local)))
    done = 0
    for pair in pairs:
        name = find(pair, local)
        if pair.tensor not in tensors or not name:
            continue
        tensor, variable = tensors[pair.tensor], subject.checkpoint[name]
        yield Match(
            tensor=pair.tensor,
            variable=name,
            group=pair.group,
            op=pair.op,
            shape=tensor.shape,
            dtype=str(tensor.dtype),
            cast=tensor.dtype != variable.dtype,
            same=str(tensor.dtype) in FLOATS and same_bits(tensor, variable, pair.op),
            nonfinite=int(variable.size - np.count_nonzero(np.isfinite(variable))),
        )
        done += variable.nbytes
        if progress is not None:
            progress("comparing weights", done, total)


def _equal(file: str, matches: list[Match]) -> Check:
    same = [match for match in matches if match.same]
    casts = sorted({match.dtype for match in matches if match.cast})
    what = f"equal the cast of their variables to {_and(casts)}" if casts else "equal bit for bit"
    if len(same) == len(matches) and matches:
        return Check("weights", file, True, f"{len(same):,} of {len(matches):,} tensors {what}")
    other = [match.tensor for match in matches if not match.same]
    return Check(
        "weights",
        file,
        False,
        f"{len(other):,} of {len(matches):,} tensors differ: {_some(other)}"
        if matches
        else "none of its tensors is one that the mapping knows",
    )


def _explained(
    subject: Subject, file: str, pairs: list[Pair], tensors: "Mapping[str, Array]"
) -> Check:
    local = subject.local()
    known = {pair.tensor for pair in pairs if find(pair, local)}
    ties = {tie.pt for tie in subject.mapping.tie}
    missing = [pair.tensor for pair in pairs if pair.tensor not in tensors]
    unknown = [name for name in tensors if name not in known and name not in ties]
    parts = []
    if missing:
        parts.append(f"lacks {_some(missing)}")
    if unknown:
        parts.append(f"holds what no variable explains: {_some(unknown)}")
    return Check(
        "weights",
        f"tensors of {file}",
        not parts,
        "; ".join(parts) or f"all {len(tensors):,} have their variable, and none is missing",
    )


def _ties(subject: Subject, file: str, tensors: "Mapping[str, Array]") -> Check:
    import numpy as np

    ties = [tie for tie in subject.mapping.tie if tie.to in tensors]
    untied = [
        f"{tie.pt} is there, and is not {tie.to}"
        for tie in ties
        if tie.pt in tensors
        and not (
            tensors[tie.pt].dtype == tensors[tie.to].dtype
            and np.array_equal(
                np.ascontiguousarray(tensors[tie.pt]).view(np.uint8),
                np.ascontiguousarray(tensors[tie.to]).view(np.uint8),
            )
        )
    ]
    if subject.folder.config.get("tie_word_embeddings", True) is not True and ties:
        untied.append(f"config.json has tie_word_embeddings off, which unties {ties[0].pt}")
    tied = [tie.pt for tie in ties if not tie.group or tie.group in subject.architecture.groups]
    done = f"{_some(tied)}: the same tensor as TensorFlow's" if tied else "none in this class"
    return Check("weights", f"ties of {file}", not untied, "; ".join(untied) or done)


def _left_behind(subject: Subject, matches: list[Match]) -> list[LeftBehind]:
    taken = {match.variable for match in matches}
    local = subject.local()
    every = subject.mapping.expand(subject.layers, [group.name for group in subject.mapping.group])
    groups = {find(pair, local): pair.group for pair in every}
    used = {*subject.architecture.groups, *subject.architecture.optional}
    left = []
    for name in subject.checkpoint:
        if name in taken:
            continue
        reason = subject.mapping.why_dropped(name)
        if reason is None and name in groups and groups[name] not in used:
            reason = f"{groups[name]}: {subject.architecture.name} has none"
        if reason is None and not name.startswith(subject.scope) and name not in groups:
            reason = f"outside the scope {subject.scope}"
        if reason is None and _of_another_model(name, subject):
            reason = "of another model in the checkpoint"
        left.append(LeftBehind(name, reason or ""))
    return left


def _of_another_model(name: str, subject: Subject) -> bool:
    """Whether a variable lies in the scope of a model other than the one that OUT is."""
    detect = subject.mapping.detects[0]
    scopes = [
        n.removesuffix(detect)
        for n in subject.checkpoint
        if n.endswith(f"/{detect}") or n == detect
    ]
    owners = [scope for scope in scopes if name.startswith(scope)]
    return bool(owners) and max(owners, key=len) != subject.scope


def _accounted(matches: list[Match], left: list[LeftBehind]) -> Check:
    lost = [entry.variable for entry in left if not entry.reason]
    mapped = f"{len(matches):,} mapped"
    if lost:
        return Check(
            "weights", "variables", False, f"{mapped}; lost without a reason: {_some(lost)}"
        )
    return Check("weights", "variables", True, f"{mapped}, {len(left):,} left behind for a reason")


def _nonfinite(matches: list[Match]) -> Check:
    found = [f"{match.variable} ({match.nonfinite:,})" for match in matches if match.nonfinite]
    same = all(match.same for match in matches if match.nonfinite)
    where = "at the same places on both sides" if same else "and the tensors differ there"
    return Check("weights", "NaN or infinity", same, f"in {_some(found)}, {where}")


def _some(names: list[str]) -> str:
    rest = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _and(names: list[str]) -> str:
    return " and ".join(names)
