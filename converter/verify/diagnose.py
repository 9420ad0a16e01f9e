"""Why something differs, recognized by trying it.

A cause is named if a known mistake, made on purpose with the checkpoint's numbers, gives exactly
what the folder has: bit for bit for a tensor, within the bound of `outputs` for a forward pass.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import permutations
from typing import TYPE_CHECKING, Any

from ..errors import OriginalError
from ..models.reference import Samples
from ..prepare import Planned
from ..transforms import TRANSFORMS, to_tensorflow
from .batches import Batch
from .explain import Held, Question
from .model_folder import ModelFolder
from .original import architecture_of
from .outputs import Port
from .subject import Subject
from .tensorflow_process import explained
from .variables import Variables, cast, sha256
from .verdict import Cause, Match
from .weights import tensor_names

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MOST_SHOWN = 3  # sentences on one kind of mistake
_FEW = 0.01  # of a tensor's numbers or rows
_SAME_RATIO = 1e-5  # how much the ratios of scaled numbers may differ, relative to them
_MOST_SHIFT = 2  # rows
_NUMBER = re.compile(r"[0-9]+")


def tensor_causes(subject: Subject, swaps: Mapping[str, tuple[str, ...]]) -> list[Cause]:
    """Why tensors differ from their variables, or are missing.

    Args:
        subject: the model folder.
        swaps: a kind of mistake -> the words of names that it swaps.
    """
    planned, variables = subject.planned, subject.variables
    folder, matches = subject.folder, subject.matches
    wrong = [match for match in matches if not match.same]
    names = tensor_names(planned, folder.tensors)
    needed = [*names, *planned.plan.empty]
    missing = [name for name in needed if name not in folder.tensors]
    found: dict[str, list[tuple[str, str]]] = {}
    if wrong:
        index, skipped = _Digests(variables, matches), _Skipped(planned, variables)
        for match in wrong:
            kind, text = _recognize(variables, folder, match, index, swaps)
            if kind in ("unknown", "shape") and (reason := skipped.reason(folder, match)):
                kind, text = "skipped variables", f"holds what was skipped: {reason}"
            found.setdefault(kind, []).append((match.tensor, text))
    unknown = [tensor for tensor, _ in found.get("unknown", [])]
    if len(unknown) > len(matches) / 2:
        text = f"{len(unknown):,} of {len(matches):,} tensors have entirely different numbers"
        return [Cause("another checkpoint", tuple(unknown), f"{text}: OUT has other weights")]
    causes = []
    for kind, mistakes in found.items():
        tensors, texts = zip(*mistakes, strict=True)
        different = list(dict.fromkeys(texts))
        text = "; ".join(different[:_MOST_SHOWN]) + ("; ..." if different[_MOST_SHOWN:] else "")
        causes.append(Cause(kind, tensors, text))
    if missing:
        causes.append(Cause("missing", tuple(missing), "not in the folder"))
    return causes


def output_causes(
    subject: Subject, port: Port, first: str, samples: Samples, last: "dict[str, Array]"
) -> list[Cause]:
    """Why the two sides compute different functions, beyond tensors that differ.

    Args:
        subject: the model folder.
        port: the same, loaded.
        first: the first output that differs.
        samples: the last batch of sequences.
        last: what the folder computes of it.
    """
    if port.random:
        return [Cause("random", tuple(port.random), "transformers initialized it randomly")]
    folder, described = subject.folder, subject.variables.described
    question = Question(
        folder=str(folder.path),
        held={
            match.name: Held(match.tensor, match.op, described[match.variable].shape, match.merged)
            for match in subject.matches
        },
        same=all(match.same for match in subject.matches),
        reference=subject.planned.mapping.reference,
        architecture=architecture_of(subject.planned, folder.config),
        config=folder.config,
        first=first,
    )
    try:
        return explained(question, Batch(samples, last))
    except OriginalError as error:  # a record's verdict does not depend on TensorFlow
        text = f"known mistakes were not tried, because that needs TensorFlow: {error}"
        return [Cause("unknown", (first,), text)]


def gradient_causes(config: Any, pad_id: int | None, first: str) -> list[Cause]:
    """Why gradients differ although the outputs are the same.

    Args:
        config: the model's, as transformers has it.
        pad_id: the padding token's id; None if there is none.
        first: the first parameter whose gradient differs.
    """
    causes = []
    if config.pad_token_id != pad_id:
        text = f"config.json's pad_token_id is {config.pad_token_id}, but should be {pad_id}"
        causes.append(Cause("padding row", (first,), text))
    if not getattr(config, "tie_word_embeddings", True):
        text = "config.json's tie_word_embeddings is off: the output layer has its own embeddings"
        causes.append(Cause("untied", (first,), text))
    return causes


class _Digests:
    """Which variables have which bytes, cast to the dtype of the folder's tensor."""

    def __init__(self, variables: Variables, matches: list[Match]) -> None:
        self._found: dict[str | None, list[str]] = {}
        for match in matches:
            digest = variables.digest(match.variable, match.dtype)
            self._found.setdefault(digest, []).append(match.name)

    def of(self, tensor: "Array") -> list[tuple[str, str]]:
        """The variables that a tensor could be, each with the op that makes it."""
        return [
            (name, op)
            for op, transform in TRANSFORMS.items()
            if tensor.ndim in transform.ranks
            for name in self._found.get(sha256(to_tensorflow(tensor, op)), [])
        ]


class _Skipped:
    """The variables that were skipped, such as another model's. Each is read once, if at all."""

    def __init__(self, planned: Planned, variables: Variables) -> None:
        self._variables = variables
        self._dropped = planned.plan.dropped
        self._digests: dict[tuple[str, str], str | None] = {}

    def reason(self, folder: ModelFolder, match: Match) -> str:
        """Why the variable was skipped that a tensor has the bytes of; "" if it has those of none.

        Only variables of the right shape are read.
        """
        tensor, shape = folder.tensors[match.tensor], TRANSFORMS[match.op].shape
        digest = sha256(to_tensorflow(tensor, match.op))
        for drop in self._dropped:
            variable = self._variables.described[drop.variable]
            if len(variable.shape) != tensor.ndim or shape(variable.shape) != tensor.shape:
                continue
            key = (drop.variable, match.dtype)
            if key not in self._digests:
                self._digests[key] = self._variables.digest(*key)
            if self._digests[key] == digest:
                return drop.reason
        return ""


def _recognize(
    variables: Variables,
    folder: ModelFolder,
    match: Match,
    index: _Digests,
    swaps: Mapping[str, tuple[str, ...]],
) -> tuple[str, str]:
    """The kind of a tensor's mistake, and a sentence on it."""
    import numpy as np

    tensor = folder.tensors[match.tensor]
    whole = variables.read(match.variable)
    if not np.any(tensor) and (whole is None or np.any(cast(whole, match.dtype))):
        return "zeroed", "all zeros"
    candidates = index.of(tensor)
    if any(name == match.name and op != match.op for name, op in candidates):
        return "not transposed", "has TensorFlow's layout: it was not transposed"
    # Several may have the same bytes (new biases are all zeros); the likeliest is named.
    others = [name for name, op in candidates if op == match.op]
    if others:
        return _confused(match.name, others, swaps)
    if candidates:
        kind, text = _confused(match.name, [candidates[0][0]], swaps)
        return kind, f"{text}, and was not transposed"
    back = to_tensorflow(tensor, match.op)
    if tensor.size > 1 and np.all(tensor == tensor.flat[0]):
        return "constant", f"every number is {float(tensor.flat[0]):g}"
    if back.shape != match.merged:
        expected = TRANSFORMS[match.op].shape(match.merged)
        return "shape", f"has the shape {list(tensor.shape)}; the variable gives {list(expected)}"
    if whole is None:
        return "unknown", "its numbers differ; a record has checksums, and not the numbers"
    source, held = whole.reshape(match.merged), cast(whole, match.dtype)
    if _is_merged_otherwise(tensor, back, held):
        text = f"merges the variable's dimensions {list(whole.shape)} in another order"
        return "dimensions in another order", text
    variable = held.reshape(match.merged)
    for recognize in _NUMBERS:
        found = recognize(back, variable, source)
        if found is not None:
            return found
    return "unknown", _differing(back, variable)


def _is_merged_otherwise(tensor: "Array", back: "Array", whole: "Array") -> bool:
    """Whether a tensor has a variable's numbers, whose dimensions were exchanged and then merged.

    Args:
        tensor: the folder's.
        back: the same, before its op.
        whole: the variable, with all of its dimensions.
    """
    import numpy as np

    if whole.ndim == back.ndim:
        return False
    orders = (np.transpose(whole, order) for order in permutations(range(whole.ndim)))
    return any(
        np.array_equal(order.reshape(layout.shape), layout)
        for order in orders
        for layout in (back, tensor)
    )


def _confused(
    name: str, others: list[str], swaps: Mapping[str, tuple[str, ...]]
) -> tuple[str, str]:
    """The sentence for a tensor that holds another variable."""
    for kind, words in swaps.items():
        for other in others:
            if other != name and _without(other, words) == _without(name, words):
                mine, its = ({*path.split("/")} & {*words} for path in (name, other))
                return kind, f"{mine.pop()} holds {its.pop()}"
    for other in others:
        if _NUMBER.sub("", other) == _NUMBER.sub("", name):
            pairs = zip(name.split("/"), other.split("/"), strict=True)
            ours, theirs = next(((a, b) for a, b in pairs if a != b), (name, other))
            return "layer order", f"{ours} holds {theirs}"
    return "another variable", f"holds {others[0]}"


def _without(name: str, words: Iterable[str]) -> str:
    return "/".join("*" if part in words else part for part in name.split("/"))


def _rows_shifted(back: "Array", variable: "Array", _: "Array") -> tuple[str, str] | None:
    if variable.ndim == 2:
        for by in range(1, _MOST_SHIFT + 1):
            if any(
                _is_shifted(one, other, by) for one, other in ((back, variable), (variable, back))
            ):
                return "rows shifted", f"its rows are shifted by {by}"
    return None


def _is_shifted(one: "Array", other: "Array", by: int) -> bool:
    import numpy as np

    return by < len(other) - 1 and bool(np.array_equal(one[by:], other[:-by]))


def _reordered(back: "Array", variable: "Array", _: "Array") -> tuple[str, str] | None:
    import numpy as np

    if variable.ndim == 2:
        for what, one, other in (("rows", back, variable), ("columns", back.T, variable.T)):
            if _sorted_rows(one) == _sorted_rows(other):
                return f"{what} in another order", f"has the variable's {what} in another order"
    wide, numbers = back.astype(np.float64), variable.astype(np.float64)
    if variable.ndim == 1 and np.array_equal(np.sort(wide), np.sort(numbers)):
        return "numbers in another order", "has the variable's numbers in another order"
    return None


def _sorted_rows(array: "Array") -> list[bytes]:
    import numpy as np

    return sorted(map(bytes, np.ascontiguousarray(array)))


def _rounded(back: "Array", _: "Array", source: "Array") -> tuple[str, str] | None:
    import numpy as np

    for dtype in ("float16", "bfloat16"):
        if np.array_equal(cast(cast(source, dtype), str(back.dtype)), back):
            return "rounded", f"was rounded to {dtype}"
    return None


def _nonfinite(back: "Array", variable: "Array", _: "Array") -> tuple[str, str] | None:
    import numpy as np

    wide, numbers = back.astype(np.float64), variable.astype(np.float64)
    places = np.argwhere(np.isfinite(wide) != np.isfinite(numbers))
    if not len(places):
        return None
    place = places[0].tolist()
    found, expected = wide[tuple(place)], numbers[tuple(place)]
    return "NaN or infinity", f"has {found} instead of {expected} at {place}"


def _few_numbers(back: "Array", variable: "Array", _: "Array") -> tuple[str, str] | None:
    import numpy as np

    differ = _differ(back, variable)
    count = np.count_nonzero(differ)
    if count > max(1, _FEW * differ.size):
        return None
    place = np.argwhere(differ)[0].tolist() if count else [0] * differ.ndim
    found, expected = (float(array[tuple(place)]) for array in (back, variable))
    text = f"{_differing(back, variable)}, the first at {place}: {found:.9g} instead of"
    return "few numbers", f"{text} {expected:.9g}"


def _scaled(back: "Array", variable: "Array", _: "Array") -> tuple[str, str] | None:
    import numpy as np

    wide, numbers = back.astype(np.float64), variable.astype(np.float64)
    with np.errstate(all="ignore"):
        ratios = (wide / numbers)[numbers != 0]
    if ratios.size and np.ptp(ratios) <= _SAME_RATIO * abs(ratios).max():
        return "scaled", f"is the variable times {np.median(ratios):.6g}"
    return None


def _few_rows(back: "Array", variable: "Array", _: "Array") -> tuple[str, str] | None:
    import numpy as np

    differ = _differ(back, variable)
    rows = np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1)).tolist()
    if differ.ndim == 2 and len(rows) <= max(1, _FEW * len(differ)):
        return "few rows", f"{len(rows):,} rows differ, the first is row {rows[0]:,}"
    return None


_Recognizer = Callable[[Any, Any, Any], tuple[str, str] | None]
# What may have happened to the numbers of a tensor that has the right shape, the likeliest first.
# Each gets the tensor carried back, the variable cast to the tensor's dtype, and the variable.
_NUMBERS: tuple[_Recognizer, ...] = (
    _rows_shifted,
    _reordered,
    _rounded,
    _nonfinite,
    _few_numbers,
    _scaled,
    _few_rows,
)


def _differ(back: "Array", variable: "Array") -> "Array":
    import numpy as np

    wide, numbers = back.astype(np.float64), variable.astype(np.float64)
    differ: Array = ~((wide == numbers) | (np.isnan(wide) & np.isnan(numbers)))
    return differ


def _differing(back: "Array", variable: "Array") -> str:
    differ = _differ(back, variable)
    return f"{int(differ.sum()):,} of {differ.size:,} numbers differ"
