"""Which variables of a checkpoint are those of the model, and which rule finds which of them."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile

from msgspec import Struct

from .checkpoint.variable import Variable
from .errors import PlanError
from .mapping import LONGEST_NAME, Drop, Header, MappingFile, Pair, dropper, wildcard
from .options import Options
from .text import joined, listed, nearest

Found = list[tuple[Pair, Variable | None]]
"""Pairs, each with the variable that it finds."""

BY_CALLER = "by the caller"
"""The reason why a variable is skipped that fits a pattern of the option `drop`."""

_CASING = "says whether text is lower-cased"


class Dropped(Struct, frozen=True):
    """A variable that is skipped."""

    variable: str
    reason: str
    name: str = ""  # by which rules would find it, if that is another


def detected(variables: Iterable[Variable], mapping: Header) -> bool:
    """Whether a checkpoint has all variables that the mapping is detected by, in one scope."""
    names = [name for name, _ in _named(variables, mapping)]
    lines = "\n".join(["", *names, ""])
    if not all(f"{name}\n" in lines for name in mapping.detects):  # so for nearly all mappings
        return False
    return bool(_scopes(names, mapping.detects))


def fits(variables: Collection[Variable], mapping: Header) -> bool:
    """Whether a mapping is detected, and the checkpoint has nothing that its models lack."""
    if not detected(variables, mapping):
        return False
    names = [name for name, _ in _named(variables, mapping)]
    lacks = [mapping.lacks] if isinstance(mapping.lacks, str) else mapping.lacks
    return not any(_scopes(names, [name]) for name in lacks)


def missing_name(variables: Iterable[Variable], mapping: Header) -> str:
    """The first variable that a mapping is detected by and that a checkpoint lacks.

    If it has each of them, but not in one scope, it is the first of all.
    """
    names = [name for name, _ in _named(variables, mapping)]
    lost = (name for name in mapping.detects if not _scopes(names, [name]))
    return next(lost, mapping.detects[0])


def name_of(variable: Variable) -> str:
    """The name that a TF2 program gave a variable, else its name in the checkpoint."""
    return variable.full_name or variable.name


def _named(variables: Iterable[Variable], mapping: Header) -> Iterator[tuple[str, Variable]]:
    """Variables by the names that the mapping's rules are made for."""
    for variable in variables:
        yield (name_of(variable) if mapping.names == "full" else variable.name), variable


def casing_variables(variables: Iterable[Variable], mapping: MappingFile) -> list[Variable]:
    """The variables whose one byte says whether text is lower-cased."""
    given = [mapping.lower_case] if isinstance(mapping.lower_case, str) else mapping.lower_case
    patterns = [wildcard(pattern) for pattern in given]
    return [
        variable
        for variable in variables
        if (variable.tf_dtype, variable.shape) == ("bool", ())
        and len(variable.name) <= LONGEST_NAME
        and any(pattern.fullmatch(variable.name) for pattern in patterns)
    ]


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
    if mapping is None:
        return {name: v for name, v in variables.items() if why_dropped(name) is None}
    kept = {
        name: v
        for name, v in _named(variables.values(), mapping)
        if why_dropped(v.name) is None and why_dropped(name) is None
    }
    scopes = _scopes(kept, mapping.detects)
    if not scopes:
        return kept
    if options.scope is None and len(scopes) > 1:
        return {}
    scope = scopes[0] if options.scope is None else _scope_of(options.scope)
    starts = tuple(scope + folder for folder in mapping.folders)
    return {name[len(scope) :]: v for name, v in kept.items() if name.startswith(starts)}


def _scopes(names: Iterable[str], detects: Sequence[str]) -> list[str]:
    """The scopes that have all of some names."""
    found = [
        {name.removesuffix(d) for name in names if name == d or name.endswith(f"/{d}")}
        for d in detects
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
    beyond: set[str]  # those of `local` that are outside of every scope, by the checkpoint's names
    dropped: list[Dropped]


def take_scope(variables: Mapping[str, Variable], mapping: MappingFile, options: Options) -> Taken:
    """The scope of the model, its variables, and what is skipped.

    What is outside of all scopes belongs to the model if there is only one. If the caller chooses
    a scope, it is skipped, but for what a head needs that the caller chooses, too.
    """
    dropped = []
    kept: dict[str, Variable] = {}
    why_dropped = dropper([*mapping.drop, Drop([*options.drop], BY_CALLER)])
    casing = {variable.name for variable in casing_variables(variables.values(), mapping)}
    for name, variable in _named(variables.values(), mapping):
        reason = _CASING if variable.name in casing else why_dropped(variable.name)
        if reason is None and name != variable.name:
            reason = why_dropped(name)
        if reason is not None:
            dropped.append(Dropped(variable.name, reason, name))
        elif name in kept:
            raise PlanError(
                f"{kept[name].name} and {variable.name} are both called {name} by the program that"
                " saved them. --drop skips one of them"
            )
        else:
            kept[name] = variable
    scopes = _scopes(kept, mapping.detects)
    shown = ", ".join(listed([scope or "/ (the root)" for scope in scopes]))
    if not scopes:
        every = [name for name, _ in _named(variables.values(), mapping)]
        by_drop = "; --drop skips it" if _scopes(every, mapping.detects) else ""
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
            dropped.append(Dropped(variable.name, where))
        elif options.scope is None and scope + name in kept:
            twice.append(name)
        elif options.scope is None or not (
            options.head is None or scope + name in kept or name.startswith(folders)
        ):
            local[name] = variable
            beyond.add(variable.name)
        else:
            dropped.append(Dropped(variable.name, f"outside the scope {scope}"))
    if twice:
        raise PlanError(
            f"the model is in the scope {scope}, and the checkpoint has {joined(twice)} both inside"
            f" and outside of it. --scope {scope.rstrip('/')} skips what is outside"
        )
    return Taken(scope, local, beyond, dropped)


def find(pair: Pair, local: Mapping[str, Variable], ordered: Sequence[str]) -> Variable | None:
    """The variable of a pair: by its original name, else by an alias that finds exactly one."""
    return next((local[found[0]] for found in _all(pair, local, ordered) if len(found) == 1), None)


def alternatives(
    pair: Pair, local: Mapping[str, Variable], ordered: Sequence[str]
) -> dict[int, Variable]:
    """Every variable that a pair's names find, by the name's place among them."""
    every = enumerate(_all(pair, local, ordered))
    return {place: local[found[0]] for place, found in every if len(found) == 1}


def _all(pair: Pair, local: Mapping[str, Variable], ordered: Sequence[str]) -> Iterator[list[str]]:
    for name in pair.names:
        yield [name] if name in local else list(matching(name, ordered))


def matching(alias: str, ordered: Sequence[str]) -> Iterator[str]:
    """Those of the sorted names that an alias with a `*` fits."""
    prefix, star, _ = alias.partition("*")
    if star:
        after = islice(ordered, bisect_left(ordered, prefix), None)
        near = takewhile(lambda name: name.startswith(prefix), after)
        yield from (name for name in near if wildcard(alias).fullmatch(name))
