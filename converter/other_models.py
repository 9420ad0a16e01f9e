"""What a checkpoint is that can't be converted; the data is in mappings/unsupported/."""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from .checkpoint.variable import Variable
from .mapping import FOLDER, LONGEST_NAME, wildcard
from .text import cut


class _Other(Struct, frozen=True, forbid_unknown_fields=True):
    """A model that no mapping converts."""

    name: str
    why: str
    has: list[str]
    lacks: list[str] = []
    instead: str = ""  # what a person can do


class _Others(Struct, frozen=True, forbid_unknown_fields=True):
    model: list[_Other]


def other_model(variables: Mapping[str, Variable]) -> str:
    """What the variables are, by their names, and what to do; "" if unknown.

    The first of the two sentences lacks its subject.
    """
    names = {
        name: variable.name
        for key, variable in variables.items()
        for name in (variable.full_name, key)
        if name and len(name) <= LONGEST_NAME
    }
    path = FOLDER / "unsupported" / "models.toml"
    for other in msgspec.toml.decode(path.read_bytes(), type=_Others).model:
        found = _first(other.has, names)
        if found and not _first(other.lacks, names):
            evidence = "" if other.lacks else f" (it has {cut(found)})"
            remedy = other.instead or "`bertconvert mappings` lists what bertconvert converts"
            return f"is {other.name}{evidence}: {other.why}. {remedy}"
    return ""


def _first(patterns: list[str], names: Mapping[str, str]) -> str:
    """The name in the checkpoint of the first variable that a pattern fits; "" if none does."""
    either = re.compile("|".join(wildcard(pattern).pattern for pattern in patterns) or r"(?!)")
    return next((key for name, key in names.items() if either.fullmatch(name)), "")
