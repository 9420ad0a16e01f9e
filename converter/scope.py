"""Which variables of a checkpoint are those of the model, and which rule finds which of them."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile

from msgspec import Struct

from .checkpoint.variable import Variable
from .errors import PlanError
from .mapping import Drop, MappingFile, Pair, dropper, wildcard
from .options import Options
from .text import joined, listed, nearest

Found = list[tuple[Pair, Variable | None]]
"""Pairs, each with the variable that it finds."""

BY_CALLER = "by the caller"
"""The reason why a variable is skipped that fits a pattern of the option `drop`."""


class Dropped(Struct, frozen=True):
    """A variable that is skipped."""

    variable: str
    reason: str


def fits(variables: Iterable[str], mapping: MappingFile) -> bool:
    """Whether a checkpoint has all variables that the mapping is detected by, in one scope."""
    return bool(_scopes(variables, mapping))


def telling_names(
    variables: Mapping[str, Variable], mapping: MappingFile | None, options: Options
) -> dict[str, Variable]:
    """The names that tell what model a checkpoint is, without a scope.

    If a mapping fits, they are those inside of its model: a scope, a head or another model next to
    it may be called like anything. If several models fit, there are none.

    Args:
        variables: those of the checkpoint, by name.
        mapping: the rules; None if no mapping fits.
        options: the caller's decisions.
    """
    why_dropped = dropper([*(mapping.drop if mapping else []), Drop([*options.drop], BY_CALLER)])
    kept = {name: v for name, v in variables.items() if why_dropped(name) is None}
    scopes = _scopes(kept, mapping) if mapping is not None else []
    if mapping is None or not scopes:
        return kept
    if options.scope is None and len(scopes) > 1:
        return {}
    scope = scopes[0] if options.scope is None else _scope_of(options.scope)
    starts = tuple(scope + folder for folder in mapping.folders)
    return {name[len(scope) :]: v for name, v in kept.items() if name.startswith(starts)}


def _scopes(variables: Iterable[str], mapping: MappingFile) -> list[str]:
    """The scopes that have all variables that the mapping is detected by."""
    found = [
        {name.removesuffix(d) for name in variables if name == d or name.endswith(f"/{d}")}
        for d in mapping.detects
    ]
    return sorted(set.intersection(*found))


def _scope_of(given: str) -> str:
    """A scope as the names start with it."""
    scope = given.strip("/")
    return f"{scope}/" if scope not in ("", ".") else ""


class Taken(Struct, frozen=True):
    """The variables of one model."""

    scope: str
    local: dict[str, Variable]  # by their names within the scope
    beyond: set[str]  # those of `local` that are outside of the scope, and of every other
    dropped: list[Dropped]


def take_scope(variables: Mapping[str, Variable], mapping: MappingFile, options: Options) -> Taken:
    """The scope of the model, its variables, and what is skipped.

    What is outside of all scopes belongs to the model if there is only one. If the caller chooses
    a scope, it is skipped, but for what a head needs that the caller chooses, too.
    """
    dropped = []
    kept = {}
    why_dropped = dropper([*mapping.drop, Drop([*options.drop], BY_CALLER)])
    for name, variable in variables.items():
        reason = why_dropped(name)
        if reason is None:
            kept[name] = variable
        else:
            dropped.append(Dropped(name, reason))
    scopes = _scopes(kept, mapping)
    shown = ", ".join(listed([scope or "/ (the root)" for scope in scopes]))
    if not scopes:
        by_drop = "; --drop skips it" if _scopes(variables, mapping) else ""
        raise PlanError(
            f"the checkpoint has no {joined(mapping.detects)}, by which the mapping {mapping.name}"
            f" recognizes its models{by_drop or nearest(mapping.detects[0], kept)}"
        )
    scope = scopes[0] if options.scope is None else _scope_of(options.scope)
    if options.scope is None and len(scopes) > 1:
        first, last = (scope.rstrip("/") or "/" for scope in (scopes[0], scopes[-1]))
        raise PlanError(
            f"the checkpoint has {len(scopes)} models, in the scopes {shown}."
            f" Choose one with --scope, such as --scope {first} or --scope {last}"
        )
    if scope not in scopes:
        raise PlanError(
            f"--scope {options.scope!r}: no model is in this scope; the scopes are {shown}"
        )
    local, twice, beyond = {}, [], set()
    folders = tuple(mapping.folders)
    for name, variable in kept.items():
        owner = max((s for s in scopes if name.startswith(s)), key=len, default=None)
        if owner == scope:
            local[name.removeprefix(scope)] = variable
        elif owner is not None:
            where = f"in the scope {owner}" if owner else f"outside the scope {scope}"
            dropped.append(Dropped(name, where))
        elif options.scope is None and scope + name in kept:
            twice.append(name)
        elif options.scope is None or not (
            options.head is None or scope + name in kept or name.startswith(folders)
        ):
            local[name] = variable
            beyond.add(name)
        else:
            dropped.append(Dropped(name, f"outside the scope {scope}"))
    if twice:
        raise PlanError(
            f"the model is in the scope {scope}, and the checkpoint has {joined(twice)} both inside"
            f" and outside of it. --scope {scope.rstrip('/')} skips what is outside"
        )
    return Taken(scope, local, beyond, dropped)


def find(pair: Pair, local: Mapping[str, Variable], ordered: Sequence[str]) -> Variable | None:
    """The variable of a pair: by its original name, else by an alias that finds exactly one."""
    for name in pair.names:
        matches = [name] if name in local else list(matching(name, ordered))
        if len(matches) == 1:
            return local[matches[0]]
    return None


def matching(alias: str, ordered: Sequence[str]) -> Iterator[str]:
    """Those of the sorted names that an alias with a `*` fits."""
    prefix, star, _ = alias.partition("*")
    if star:
        after = islice(ordered, bisect_left(ordered, prefix), None)
        near = takewhile(lambda name: name.startswith(prefix), after)
        yield from (name for name in near if wildcard(alias).fullmatch(name))
