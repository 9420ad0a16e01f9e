"""What a caller may decide about a conversion: one flat set, the same everywhere."""

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from .choices import Activation, DType, Format


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a conversion. What is None is found next to the checkpoint, or inferred."""

    mapping: str | None = None
    """A built-in mapping's name, or the path of a mapping file."""
    config: Path | None = None
    """The config of the original code, such as bert_config.json."""
    vocab: Path | None = None
    """The vocabulary file."""
    head: str | None = None
    """Which head to keep, by the mapping's word for it or by the class; `none` for no head."""
    scope: str | None = None
    """Which model to take from a checkpoint that holds several; "" is the root."""
    num_heads: int | None = None
    """The number of attention heads, where no config tells it."""
    activation: Activation = "auto"
    """Which form of an activation to write where the mapping offers several."""
    dtype: DType = "keep"
    """The dtype of the tensors; `keep` leaves each as it is."""
    lower_case: bool | None = None
    """Whether the tokenizer lower-cases text."""
    formats: tuple[Format, ...] = ("safetensors",)
    """The weights files to write."""


DEFAULTS = Options()

_PATHS = ("config", "vocab")


def make_options(values: dict[str, Any], base: Options = DEFAULTS) -> Options:
    """Check keyword arguments and put them over other options.

    Args:
        values: option name -> value; None leaves the base's value.
        base: the options that `values` change.

    Raises:
        TypeError: there is no option of a name.
        ValueError: a value is not one that the option takes.
    """
    unknown = sorted(values.keys() - set(Options.__struct_fields__))
    if unknown:
        known = ", ".join(Options.__struct_fields__)
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {known}")
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("mapping", *_PATHS):
        if isinstance(given.get(name), os.PathLike):
            given[name] = os.fspath(given[name])
    if isinstance(given.get("formats"), str):
        given["formats"] = (given["formats"],)
    try:
        whole = msgspec.structs.asdict(base) | given
        options = msgspec.convert(whole, Options, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    if not options.formats:
        raise ValueError("formats is empty; give safetensors, bin or both")
    return options


def _decode(kind: type[Any], value: object) -> object:
    if kind is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    raise NotImplementedError(f"{value!r} is not a {kind.__name__}")
