"""The finger: why something differs, recognised by trying it.

A cause is named where a known mistake, made on purpose with the checkpoint's numbers, gives exactly
what the folder has: bit for bit for a tensor, within the bound of `outputs` for a forward pass.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..models import bert
from ..models.bert import Model
from ..transforms import TRANSFORMS
from . import torch_model
from .outputs import Sides, as_tensors, cast, largest
from .subject import Subject, find
from .verdict import SAME_FUNCTION, Cause, Match, relative

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_ACTIVATIONS = {  # transformers' names -> those of `bert.Model`
    "gelu": "erf",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "relu": "relu",
    "tanh": "pure tanh",
    "linear": "linear",
}
_EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-3)  # of other models and libraries
_MOST_SHOWN = 3  # sentences on one kind of mistake
_FEW = 0.01  # of a tensor's numbers


def tensor_causes(subject: Subject, matches: list[Match]) -> list[Cause]:
    """Why tensors differ from their variables, or are not there."""
    wrong = [match for match in matches if not match.same]
    missing = _missing(subject)
    found: dict[str, list[tuple[str, str]]] = {}
    if wrong:
        index = _Digests(subject, matches)
        for match in wrong:
            kind, text = _recognise(subject, match, index)
            found.setdefault(kind, []).append((match.tensor, text))
    unknown = [tensor for tensor, _ in found.get("unknown", [])]
    if len(unknown) > len(matches) / 2:
        text = f"{len(unknown):,} of {len(matches):,} tensors hold other numbers altogether"
        return [Cause("another checkpoint", tuple(unknown), f"{text}: OUT is of other weights")]
    causes = []
    for kind, mistakes in found.items():
        tensors, texts = zip(*mistakes, strict=True)
        different = list(dict.fromkeys(texts))
        text = "; ".join(different[:_MOST_SHOWN]) + ("; ..." if different[_MOST_SHOWN:] else "")
        causes.append(Cause(kind, tensors, text))
    if missing:
        causes.append(Cause("missing", tuple(missing), "not in the folder"))
    return causes


def output_causes(subject: Subject, sides: Sides, matches: list[Match], first: str) -> list[Cause]:
    """Why the two sides compute different functions, beyond tensors that differ.

    Args:
        subject: the two sides on disk.
        sides: the two sides, loaded.
        matches: the tensors.
        first: the first output that differs.
    """
    if sides.made_up:
        return [
            Cause("made up", tuple(sides.made_up), "transformers filled it with random numbers")
        ]
    outputs = _pytorch_outputs(sides)
    model, tensors = sides.model, as_tensors(sides.variables, "float64")
    if not all(match.same for match in matches):
        tensors = as_tensors(_of_the_folder(subject, sides, matches), "float64")
        if any(tensors[name].shape != array.shape for name, array in sides.variables.items()):
            return []
        if _explains(sides, outputs, tensors, model):
            return []  # the tensors are the whole difference
    for kind, text, model, changed in _hypotheses(subject, sides, tensors):
        if _explains(sides, outputs, changed, model):
            return [Cause(kind, (first,), text)]
    return []


def gradient_causes(sides: Sides, first: str) -> list[Cause]:
    """Why gradients differ where the outputs are the same."""
    config = sides.torch_float64.config
    causes = []
    if config.pad_token_id != 0:
        text = f"config.json's pad_token_id is {config.pad_token_id}, so that token is not trained"
        causes.append(Cause("padding row", (first,), text))
    if not getattr(config, "tie_word_embeddings", True):
        text = "config.json's tie_word_embeddings is off: the MLM head has embeddings of its own"
        causes.append(Cause("untied", (first,), text))
    return causes


def _missing(subject: Subject) -> list[str]:
    local = subject.local()
    there = subject.folder.tensors
    return [p.tensor for p in subject.pairs() if p.tensor not in there and find(p, local)]


class _Digests:
    """Which variable has which bytes, as it is and transposed; cast to a dtype of the folder."""

    def __init__(self, subject: Subject, matches: list[Match]) -> None:
        self._found: dict[bytes, list[tuple[str, str]]] = {}
        for match in matches:
            array = cast(subject.checkpoint[match.variable], match.dtype)
            for op, transform in TRANSFORMS.items():
                if array.ndim in transform.ranks:
                    key = _digest(transform.apply(array))
                    self._found.setdefault(key, []).append((match.variable, op))

    def of(self, tensor: "Array") -> list[tuple[str, str]]:
        """The variables that a tensor could be, each with the op that makes it."""
        return self._found.get(_digest(tensor), [])


def _digest(array: "Array") -> bytes:
    import numpy as np

    data = np.ascontiguousarray(array)
    digest = hashlib.blake2b(repr(data.shape).encode(), digest_size=16)
    digest.update(data.view(np.uint8).data)
    return digest.digest()


def _recognise(subject: Subject, match: Match, index: _Digests) -> tuple[str, str]:
    """The kind of a tensor's mistake, and a sentence on it."""
    import numpy as np

    tensor = subject.folder.tensors[match.tensor]
    variable = cast(subject.checkpoint[match.variable], match.dtype)
    if not np.any(tensor) and np.any(variable):
        return "zeroed", "all zeros"
    for name, op in index.of(tensor):
        if name == match.variable and op != match.op:
            return "not transposed", "has TensorFlow's layout: it was not transposed"
    # Of several with the same bytes (fresh biases are all zeros) the likeliest.
    others = [name for name, op in index.of(tensor) if op == match.op]
    if others:
        return _confused(match.variable, others)
    if any(op != match.op for _, op in index.of(tensor)):
        name = next(name for name, op in index.of(tensor) if op != match.op)
        kind, text = _confused(match.variable, [name])
        return kind, f"{text}, and was not transposed"
    back = TRANSFORMS[TRANSFORMS[match.op].inverse].apply(tensor)
    if tensor.size > 1 and np.all(tensor == tensor.flat[0]):
        return "constant", f"every number of it is {float(tensor.flat[0]):g}"
    if back.shape != variable.shape:
        shapes = f"{list(tensor.shape)}, and the variable {list(match_shape(variable, match.op))}"
        return "shape", f"has the shape {shapes}"
    return _numbers(back, variable, subject.checkpoint[match.variable])


def match_shape(variable: "Array", op: str) -> tuple[int, ...]:
    """The shape of the tensor that a variable becomes."""
    return TRANSFORMS[op].shape(variable.shape)


def _confused(own: str, others: list[str]) -> tuple[str, str]:
    """The sentence for a tensor that holds another variable."""
    for kind, words in (
        ("query, key or value swapped", ("query", "key", "value")),
        ("gamma and beta swapped", ("gamma", "beta")),
    ):
        for other in others:
            if other != own and _without(other, words) == _without(own, words):
                ours, theirs = ({*name.split("/")} & {*words} for name in (own, other))
                return kind, f"{ours.pop()} holds {theirs.pop()}"
    for other in others:
        if re.sub(r"layer_\d+/", "", other) == re.sub(r"layer_\d+/", "", own):
            own_layer, its_layer = (re.findall(r"layer_\d+", name)[:1] for name in (own, other))
            return "layer order", f"{''.join(own_layer)} holds {''.join(its_layer)}"
    return "another variable", f"holds {others[0]}"


def _without(name: str, words: Iterable[str]) -> str:
    return "/".join("*" if part in words else part for part in name.split("/"))


def _numbers(back: "Array", variable: "Array", source: "Array") -> tuple[str, str]:
    """What happened to the numbers of a tensor that has the right shape."""
    import numpy as np

    wide, own = back.astype(np.float64), variable.astype(np.float64)
    if variable.ndim == 2:
        shift = next((k for k in (1, 2, -1, -2) if _shifted(back, variable, k)), None)
        if shift is not None:
            return "rows shifted", f"its rows are shifted by {abs(shift)}"
        rows = [sorted(map(bytes, np.ascontiguousarray(a))) for a in (back, variable)]
        if rows[0] == rows[1]:
            return "rows in another order", "has the variable's rows in another order"
        columns = [sorted(map(bytes, np.ascontiguousarray(a.T))) for a in (back, variable)]
        if columns[0] == columns[1]:
            return "columns in another order", "has the variable's columns in another order"
    if variable.ndim == 1 and np.array_equal(np.sort(wide), np.sort(own)):
        return "numbers in another order", "has the variable's numbers in another order"
    for dtype in ("float16", "bfloat16"):
        if np.array_equal(cast(cast(source, dtype), str(back.dtype)), back):
            return "rounded", f"was rounded to {dtype} on the way"
    differ = ~((wide == own) | (np.isnan(wide) & np.isnan(own)))
    if np.array_equal(np.isfinite(wide), np.isfinite(own)) is False:
        place = np.argwhere(np.isfinite(wide) != np.isfinite(own))[0].tolist()
        return "NaN or infinity", f"has {wide[tuple(place)]} for {own[tuple(place)]} at {place}"
    if np.count_nonzero(differ) <= max(1, _FEW * differ.size):
        place = np.argwhere(differ)[0].tolist() if differ.any() else [0] * differ.ndim
        count = np.count_nonzero(differ)
        return "few numbers", (
            f"{count:,} of {differ.size:,} numbers differ, the first at {place}:"
            f" {wide[tuple(place)]:.9g} for {own[tuple(place)]:.9g}"
        )
    with np.errstate(all="ignore"):
        ratios = (wide / own)[own != 0]
    if ratios.size and np.ptp(ratios) <= 1e-5 * abs(ratios).max():
        return "scaled", f"is the variable times {np.median(ratios):.6g}"
    rows_differ = np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1))
    if variable.ndim == 2 and len(rows_differ) <= max(1, _FEW * len(differ)):
        return "few rows", f"{len(rows_differ):,} rows differ, the first is {rows_differ[0]:,}"
    return "unknown", f"{np.count_nonzero(differ):,} of {differ.size:,} numbers differ"


def _shifted(back: "Array", variable: "Array", by: int) -> bool:
    import numpy as np

    if abs(by) >= len(variable) - 1:
        return False
    if by > 0:
        return bool(np.array_equal(back[by:], variable[:-by]))
    return bool(np.array_equal(back[:by], variable[-by:]))


def _of_the_folder(subject: Subject, sides: Sides, matches: list[Match]) -> dict[str, Any]:
    """The folder's tensors, carried back, in place of the checkpoint's variables."""
    names = {own: name for name, own in sides.names.items()}
    changed = dict(sides.variables)
    for match in matches:
        name = names.get(match.variable)
        if name is not None and not match.same:
            tensor = subject.folder.tensors[match.tensor]
            changed[name] = TRANSFORMS[TRANSFORMS[match.op].inverse].apply(tensor)
    return changed


def _hypotheses(
    subject: Subject, sides: Sides, tensors: Mapping[str, Any]
) -> Iterator[tuple[str, str, Model, Mapping[str, Any]]]:
    """Mistakes to try, the likeliest first: what to call it, and TensorFlow's side with it."""
    model, config = sides.model, subject.folder.config
    stated: dict[str, Any] = {
        "activation": _ACTIVATIONS.get(str(config.get("hidden_act", "gelu"))),
        "epsilon": config.get("layer_norm_eps"),
        "heads": config.get("num_attention_heads"),
    }
    odd = {key: value for key, value in stated.items() if value not in (None, _of(model, key))}
    if odd.get("heads") and not _divides(odd["heads"], tensors):
        odd.pop("heads")
    for key, value in odd.items():
        yield key, _sentence(key, value, model), replace(model, **{key: value}), tensors
    if len(odd) > 1:
        text = "; ".join(_sentence(key, value, model) for key, value in odd.items())
        yield " and ".join(odd), text, replace(model, **odd), tensors
    for key, value in (
        *(("activation", name) for name in dict.fromkeys(_ACTIVATIONS.values())),
        *(("epsilon", value) for value in _EPSILONS),
        *(("heads", n) for n in range(1, 65) if _divides(n, tensors)),
        ("mask", "none"),
        ("mask", "causal"),
        ("segments", "first"),
        ("segments", "none"),
        *(("first_position", n) for n in (1, 2, -1)),
    ):
        if value != _of(model, key):
            yield key, _sentence(key, value, model), replace(model, **{key: value}), tensors
    # What a mapping may get wrong, which then calls every tensor equal to "its" variable.
    for pair in (("query", "key"), ("key", "value"), ("query", "value"), ("gamma", "beta")):
        text = f"the mapping takes {pair[0]} for {pair[1]}"
        yield "mapping", text, model, _exchanged(tensors, *pair)
    yield "mapping", "the mapping does not transpose square kernels", model, _transposed(tensors)


def _of(model: Model, key: str) -> object:
    value: object = getattr(model, key)
    return value


def _divides(heads: object, tensors: Mapping[str, Any]) -> bool:
    hidden = tensors["bert/embeddings/word_embeddings"].shape[1]
    return isinstance(heads, int) and 0 < heads <= hidden and hidden % heads == 0


def _sentence(key: str, value: Any, model: Model) -> str:
    gelu = {"tanh": "GELU by tanh", "erf": "GELU by erf", "pure tanh": "tanh"}
    if key == "activation":
        ours, theirs = (gelu.get(name, name) for name in (model.activation, value))
        return f"OUT computes {theirs}, and modeling.py {ours}"
    return {
        "epsilon": f"OUT's LayerNorm epsilon is {value}, and modeling.py's {model.epsilon}",
        "heads": f"OUT has {value} attention heads, and the checkpoint {model.heads}",
        "mask": "OUT ignores the padding mask"
        if value == "none"
        else "OUT is a decoder: a token does not see those behind it",
        "segments": "OUT takes every token for one of the first segment"
        if value == "first"
        else "OUT leaves out the segment (token type) embeddings",
        "first_position": f"OUT counts positions from {value} on",
    }[key]


def _exchanged(tensors: Mapping[str, Any], one: str, other: str) -> dict[str, Any]:
    swap = {one: other, other: one}
    return {
        name: tensors["/".join(swap.get(part, part) for part in name.split("/"))]
        for name in tensors
    }


def _transposed(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: array.T if name.endswith("/kernel") and array.shape[0] == array.shape[1] else array
        for name, array in variables.items()
    }


def _pytorch_outputs(sides: Sides) -> "dict[str, Array]":
    """What the folder computes of the last batch, which has padding and both segments."""
    import torch

    with torch.no_grad():
        outputs, _ = torch_model.forward(sides.torch_float64, sides.batches[-1])
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def _explains(
    sides: Sides, outputs: "Mapping[str, Array]", tensors: Mapping[str, Any], model: Model
) -> bool:
    """Whether TensorFlow, with a mistake in it, computes what the folder does."""
    for name, tensor in bert.forward(tensors, model, sides.batches[-1]).items():
        array = tensor.numpy()
        scale = float(abs(array).max(initial=0))
        if not relative(largest(array, outputs[name]), scale) <= SAME_FUNCTION:
            return False
    return True
