"""The options of a conversion: one flat set for the API, the command line and a batch list."""

import os
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from .choices import Activation, DType, Format, ProblemType, Step


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a conversion. An option that is None is found or inferred.

    Functions that take options take each of them as a keyword, too: `convert(path, out,
    head="token")`.
    """

    mapping: str | None = None
    """A built-in mapping's name, or the path of a mapping file."""
    step: Step | None = None
    """The training step to choose if there are several checkpoints, such as 343 for
    `model.ckpt-343`, or `latest`. By default, the file `checkpoint` tells."""
    config: Path | None = None
    """The original code's config file. By default, the one next to the checkpoint."""
    vocab: Path | None = None
    """The vocabulary file. By default, the one next to the checkpoint."""
    head: str | None = None
    """The head to keep: the mapping's word for it, or the class; `none` for no head. By default,
    the class that fits the checkpoint's variables."""
    drop: tuple[str, ...] = ()
    """Patterns of variables to skip, as a mapping's `[[drop]]` has them."""
    scope: str | None = None
    """The scope of the model, for a checkpoint with several models; "" is the root."""
    num_heads: int | None = None
    """The number of attention heads, if neither the variables nor a config tell it."""
    num_layers: int | None = None
    """The number of layers, if neither the variables nor a config tell it, because all layers
    share their weights."""
    activation: Activation = "auto"
    """Which form of the activation to write, if the mapping offers several: `tanh` or `erf` for
    GELU, or `gelu_new`, which is `tanh` under the name that older programs know. `auto` takes the
    form that the original code computes."""
    dtype: DType = "keep"
    """The dtype of the tensors; `keep` leaves each tensor as it is."""
    lower_case: bool | None = None
    """Whether the tokenizer lower-cases text. By default, inferred from the vocabulary."""
    labels: str | tuple[str, ...] | None = None
    """The names of a classifier's labels in the order of their ids: a file of them, names separated
    by commas, or a sequence. By default, those in the config, or next to the checkpoint."""
    problem_type: ProblemType | None = None
    """What a classifier's labels are for, if no config tells it; transformers chooses the loss by
    it. By default, one label is a regression."""
    pad_vocab: bool = False
    """Whether the model may have some rows more than the vocabulary has tokens, because they were
    rounded up. The rows are kept, and the tokenizer has names for them that no text spells."""
    formats: tuple[Format, ...] = ("safetensors",)
    """The weights files to write: `safetensors`, `bin` or both."""


DEFAULTS = Options()

_PATHS = ("config", "vocab")


def make_options(values: dict[str, Any], base: Options = DEFAULTS) -> Options:
    """Check options that are given by keyword, and let them replace others.

    Args:
        values: option name -> value. None keeps the value of `base`.
        base: the options to change.

    Raises:
        TypeError: there is no option of this name.
        ValueError: the option does not take this value.
    """
    unknown = sorted(values.keys() - set(Options.__struct_fields__))
    if unknown:
        known = ", ".join(Options.__struct_fields__)
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {known}")
    if not isinstance(base, Options):
        raise TypeError(f"the options must be an Options, not {base!r}")
    given = {name: value for name, value in values.items() if value is not None}
    whole = msgspec.structs.asdict(base) | given
    for name in ("mapping", "labels", *_PATHS):
        if isinstance(whole[name], os.PathLike):
            whole[name] = os.fspath(whole[name])
    for name in ("formats", "drop"):
        if isinstance(whole[name], str):
            whole[name] = (whole[name],)
    try:
        options = msgspec.convert(whole, Options, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ValueError(_refusal(str(error), whole)) from error
    if not options.formats:
        raise ValueError("formats is empty; give safetensors, bin or both")
    return options


def _refusal(reason: str, values: dict[str, Any]) -> str:
    """msgspec's reason, which ends in the place of the wrong value, as a sentence."""
    reason, _, place = reason.partition(" - at `$.")
    name = place.partition("[")[0].rstrip("`")
    words = _words(get_type_hints(Options)[name])
    takes = f"; it takes {' or '.join(words)}" if words else ""
    return f"the option {name} can't be {values[name]!r}: {reason}{takes}"


def _words(kind: Any) -> tuple[str, ...]:
    """The words that a type allows; none if it allows more than words."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _words(part))


def _decode(kind: type[Any], value: object) -> object:
    if kind is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    raise TypeError(f"{value!r} is not a path")  # which msgspec turns into a ValidationError
