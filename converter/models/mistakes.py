"""Mistakes of ports that any family may have, each made on purpose."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from .backend import tensorflow
from .encoder import S, Settings, activation_words
from .reference import Mistake

# transformers' names of activations -> those of `Settings`.
_BY_TRANSFORMERS = {
    "gelu": "erf",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "relu": "relu",
    "relu6": "relu6",
    "tanh": "pure tanh",
    "linear": "linear",
}
# Keys of config.json -> what they count, in `Settings` and in words.
_COUNTS = {
    "num_attention_heads": ("heads", "attention heads"),
    "num_hidden_layers": ("layers", "layers"),
}
_OTHER_EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-3)  # of other models and libraries
_MOST_HEADS = 64


def usual_mistakes(
    variables: Mapping[str, Any],
    settings: S,
    config: Mapping[str, Any],
    *,
    hidden: int,
    names: Callable[[S], list[str]],
    counts: Mapping[str, tuple[str, str]] = {},
) -> Iterator[Mistake]:
    """What `Reference.mistakes` gives, for what every family may get wrong.

    Args:
        variables: by their original names.
        settings: of the model.
        config: the folder's config.json.
        hidden: the size that the attention heads divide.
        names: the family's; a model that needs more variables is not tried.
        counts: keys of config.json -> what they count, in the family's settings and in words.
    """
    counted = dict({**_COUNTS, **counts}.values())

    def possible(key: str, value: object) -> bool:
        if key == "heads":
            return isinstance(value, int) and 0 < value <= hidden and hidden % value == 0
        if key in counted:
            return isinstance(value, int) and value > 0 and _has(replace(settings, **{key: value}))
        return value is not None

    def _has(changed: S) -> bool:
        return variables.keys() >= set(names(changed))

    def mistake(changes: Mapping[str, Any]) -> Mistake:
        text = "; ".join(
            f"the number of {counted[key]} is {value} in OUT, and {getattr(settings, key)} in the"
            " checkpoint"
            if key in counted
            else _sentence(key, value, settings)
            for key, value in changes.items()
        )
        return Mistake(" and ".join(changes), text, replace(settings, **changes), variables)

    stated = {"activation": _BY_TRANSFORMERS.get(str(config.get("hidden_act", "gelu")))}
    stated["epsilon"] = config.get("layer_norm_eps")
    stated |= {key: config.get(name) for name, (key, _) in {**_COUNTS, **counts}.items()}
    odd = {
        key: value
        for key, value in stated.items()
        if value != getattr(settings, key) and possible(key, value)
    }
    yield from (mistake({key: value}) for key, value in odd.items())
    if len(odd) > 1:
        yield mistake(odd)
    for key, values in {
        "activation": dict.fromkeys(_BY_TRANSFORMERS.values()),
        "epsilon": _OTHER_EPSILONS,
        **{key: range(1, getattr(settings, key)) for key, _ in counts.values()},
        "heads": range(1, _MOST_HEADS + 1),
        "mask": ("none", "causal"),
        "segments": ("first", "none"),
        "first_position": (1, 2, -1),
    }.items():
        for value in values:
            if value != getattr(settings, key) and possible(key, value):
                yield mistake({key: value})
    # What a mapping may get wrong, which then calls every tensor equal to "its" variable.
    for one, other in (("query", "key"), ("key", "value"), ("query", "value"), ("gamma", "beta")):
        swapped = exchanged(variables, one, other)
        if all(swapped[name].shape == array.shape for name, array in variables.items()):
            text = f"the mapping swaps {one} and {other}"
            yield Mistake("mapping", text, settings, swapped)
    text = "the mapping does not transpose square kernels"
    yield Mistake("mapping", text, settings, _transposed(variables))


def _sentence(key: str, value: Any, settings: Settings) -> str:
    if key == "activation":
        theirs = activation_words(replace(settings, activation=value))
        return f"OUT computes {theirs}, and the original code {activation_words(settings)}"
    return {
        "epsilon": f"OUT's LayerNorm epsilon is {value}; the original code has {settings.epsilon}",
        "mask": "OUT ignores the padding mask"
        if value == "none"
        else "OUT is a decoder: a token does not see the tokens after it",
        "segments": "OUT treats every token as part of the first segment"
        if value == "first"
        else "OUT leaves out the segment (token type) embeddings",
        "first_position": f"OUT counts positions from {value}",
    }[key]


def exchanged(variables: Mapping[str, Any], one: str, other: str) -> dict[str, Any]:
    """The variables with two parts of their names exchanged, such as `query` and `key`.

    A variable without a counterpart stays.
    """
    swap = {one: other, other: one}
    return {
        name: variables.get("/".join(swap.get(part, part) for part in name.split("/")), array)
        for name, array in variables.items()
    }


def _transposed(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _flipped(array) if name.endswith("/kernel") else array
        for name, array in variables.items()
    }


def _flipped(kernel: Any) -> Any:
    """A square kernel transposed; one of [H, N, D] or [N, D, H] is square if H = N D."""
    tf = tensorflow()
    for split in range(1, kernel.ndim):
        size = math.prod(kernel.shape[:split])
        if size == math.prod(kernel.shape[split:]):
            return tf.reshape(tf.transpose(tf.reshape(kernel, [size, size])), kernel.shape)
    return kernel
