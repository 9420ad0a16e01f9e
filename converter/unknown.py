"""What becomes of variables that no rule of the class takes: skipped, or a reason against it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from msgspec import Struct

from .checkpoint.variable import Variable
from .layout import PROVENANCE
from .mapping import HEADLESS, LONGEST_NAME, Architecture, MappingFile, Pair, dropper, wildcard
from .options import Options
from .scope import BY_CALLER, Dropped, Found, Taken, matching
from .text import MOST, counted, cut, joined, nearest

_Unknown = list[tuple[str, Variable]]  # by their names within the scope


def stand_ins(
    mapping: MappingFile, pairs: Found, local: Mapping[str, Variable], loops: Mapping[str, int]
) -> list[Found]:
    """The folders that have a group which stands for another, each as that group's pairs.

    Their variables are outside of the model, no other rule finds them, and their shapes fit.
    """
    known = {variable.name for _, variable in pairs if variable is not None}
    sizes: dict[object, int] = {}
    for pair, variable in pairs:
        if variable is not None:
            for symbol, size in zip(pair.shape, variable.shape, strict=False):
                sizes.setdefault(symbol, size)
    folders = tuple(mapping.folders)
    free = {
        name: variable
        for name, variable in local.items()
        if variable.name not in known and not name.startswith(folders) and len(name) <= LONGEST_NAME
    }
    found = []
    for group in mapping.group:
        if not group.instead:
            continue
        expected = mapping.expand(loops, [group.name])
        homes: dict[str, dict[str, tuple[Pair, Variable | None]]] = {}
        for name, variable in free.items():
            for pair in expected:
                if any(wildcard(f"**/{alias}").fullmatch(name) for alias in pair.names):
                    home = homes.setdefault(name.rpartition("/")[0], {})
                    home.setdefault(pair.tensor, (pair, variable))
        for home in homes.values():
            own = dict(sizes)
            if len(home) == len(expected) and all(
                variable is not None
                and len(variable.shape) == len(pair.shape)
                and all(
                    (s if isinstance(s, int) else own.setdefault(s, n)) == n
                    for s, n in zip(pair.shape, variable.shape, strict=True)
                )
                for pair, variable in home.values()
            ):
                found.append([home[pair.tensor] for pair in expected])
    return found


class Skipped(Struct, frozen=True):
    """What becomes of the variables that are not written."""

    dropped: list[Dropped]
    reasons: list[str]  # why some may not be skipped
    notes: list[str]  # facts that a person should know
    doubts: list[str]  # those that nothing in the checkpoint proves


def skip_others(
    mapping: MappingFile,
    options: Options,
    taken: Taken,
    pairs: Found,
    written: Found,
    architecture: Architecture,
    loops: Mapping[str, int],
    recorded: Mapping[str, str],
    replaced: Mapping[str, str],
) -> Skipped:
    """Skip what is not part of the class, or say why it may not be skipped.

    A class without a head that the caller chooses leaves behind what is outside of the model. Any
    other variable that no rule knows is a reason.

    Args:
        mapping: the rules.
        options: the caller's decisions.
        taken: the model's variables.
        pairs: all pairs of the mapping, but for those of groups that stand for others.
        written: the pairs of the class.
        architecture: the class.
        loops: the sizes that names tell.
        recorded: variables that an earlier conversion skipped, and why. It may have had another
            version of the mapping.
        replaced: variables in whose place a preferred one is taken, and why.
    """
    reasons: list[str] = []
    notes: list[str] = []
    used = {variable.name for _, variable in written if variable is not None}
    elsewhere = {variable.name: pair.group for pair, variable in pairs if variable is not None}
    folders = mapping.folders
    is_chosen = architecture.head == HEADLESS and options.head is not None
    skipped, left, slots, inside, outside = [], [], [], [], []
    by_record = []
    for name, variable in taken.local.items():
        if variable.name in used:
            continue
        if variable.name in replaced:
            skipped.append(Dropped(variable.name, replaced[variable.name]))
        elif variable.name in elsewhere:
            reason = f"{elsewhere[variable.name]}: not part of {architecture.name}"
            skipped.append(Dropped(variable.name, reason))
        elif variable.name in taken.beyond and options.scope is not None:
            skipped.append(Dropped(variable.name, f"outside the scope {taken.scope}"))
        elif is_chosen and not name.startswith(tuple(folders)):
            left.append(variable.name)
        elif variable.name in recorded:
            by_record.append(variable.name)
        elif name.rpartition("/")[0] in taken.local:
            slots.append((name, variable))
        elif name.startswith(tuple(folders)):
            inside.append((name, variable))
        else:
            outside.append((name, variable))
    where = joined(folders)
    refused, inside, outside = _refuse(mapping, inside, outside)
    if refused:
        reasons += refused
        if mapping.headless is not None and not is_chosen:
            reasons.append(f"--head {HEADLESS} converts what is inside of {where}")
    if left:
        reason = f"a head of its own, outside of {where}: not part of {architecture.name}"
        skipped += [Dropped(name, reason) for name in left]
        notes.append(
            f"{counted(len(left), 'variable')} outside of {where}, which no rule of the mapping"
            f" {mapping.name} knows, {'is' if len(left) == 1 else 'are'} left behind:"
            f" {_folded(left)}"
        )
    if inside:
        reasons += _list_unknown(mapping, inside, written)
        drops = _drop_options(variable.name for _, variable in inside)
        reasons.append(
            f"What is inside of {where} is part of what the model computes, so --head"
            f" {HEADLESS} does not leave it behind. To skip variables that are not weights, use"
            f" {drops} or add a [[drop]] to a copy of the mapping"
        )
    if outside:
        reasons.append(
            f"the checkpoint has a head of its own: {counted(len(outside), 'variable')}"
            f" outside of {where}"
        )
        reasons += _list_unknown(mapping, outside, written)
        reasons.append(
            _remedy_outside(outside, taken, _offers(mapping, options, outside, pairs, taken, loops))
        )
    if slots:
        reasons += _list_unknown(mapping, slots, written)
        drops = _drop_options(f"**/{name.rpartition('/')[2]}" for name, _ in slots)
        reasons.append(
            f"They are named like slots of an optimizer. To skip them, use {drops} or add a"
            " [[drop]] to a copy of the mapping"
        )
    skipped += [Dropped(name, recorded[name]) for name in by_record]
    return Skipped(skipped, reasons, notes, _recorded_doubts(mapping, by_record, recorded))


def _refuse(
    mapping: MappingFile, inside: _Unknown, outside: _Unknown
) -> tuple[list[str], _Unknown, _Unknown]:
    """The reasons of variables that the mapping refuses by name, and those that it does not."""
    why_refused = dropper(mapping.refuse)
    found: dict[str, list[str]] = {}
    for name, variable in (*inside, *outside):
        if (reason := why_refused(name)) is not None:
            found.setdefault(reason, []).append(variable.name)
    reasons = [f"{_folded(names)}: {reason}" for reason, names in found.items()]
    rest = [[item for item in some if why_refused(item[0]) is None] for some in (inside, outside)]
    return reasons, rest[0], rest[1]


def _recorded_doubts(
    mapping: MappingFile, names: list[str], recorded: Mapping[str, str]
) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name in names:
        by_reason.setdefault(recorded[name], []).append(name)
    return [
        f"{counted(len(some), 'variable')}, which the mapping {mapping.name} does not skip,"
        f" {'is' if len(some) == 1 else 'are'} skipped as {PROVENANCE} records it"
        f" ({cut(reason)}): {_folded(some)}. If the model computes with them, it computes something"
        " else than the checkpoint"
        for reason, some in by_reason.items()
    ]


def _list_unknown(mapping: MappingFile, unknown: _Unknown, written: Found) -> list[str]:
    lines = [_describe(mapping, *item, written) for item in unknown[:MOST]]
    rest = len(unknown) - MOST
    return [*lines, f"... and {rest:,} more unknown variables"] if rest > 0 else lines


def _offers(
    mapping: MappingFile,
    options: Options,
    unknown: _Unknown,
    pairs: Found,
    taken: Taken,
    loops: Mapping[str, int],
) -> list[str]:
    """What each --head would do about variables that no rule knows."""
    offers = []
    if mapping.headless is not None:
        offers.append(f"--head {HEADLESS} converts the model without it")
    present = {pair.group for pair, variable in pairs if variable is not None}
    homes = [] if options.head else stand_ins(mapping, pairs, taken.local, loops)
    names = sorted(variable.name for _, variable in unknown)
    if any(names != sorted(v.name for _, v in home if v) for home in homes):
        return offers  # several folders could be the head
    for home in homes:
        group = next(g for g in mapping.group if g.name == home[0][0].group)
        heads = [
            f"--head {a.head}"
            for a in mapping.architecture
            if a.head and group.instead in a.groups
            if present.issuperset({*a.groups} - {group.instead})
        ]
        if heads:
            offers.append(f"{' or '.join(heads)} takes it as the {group.instead}")
    return offers


def doubts(mapping: MappingFile, taken: Taken, pairs: Found) -> list[str]:
    """What the caller skipped although the model may compute something else without it."""
    known = {taken.scope + name for pair, _ in pairs for name in pair.names}
    folders = mapping.folders
    starts = tuple(taken.scope + folder for folder in folders)
    names = [
        drop.variable
        for drop in taken.dropped
        if drop.reason == BY_CALLER and drop.name.startswith(starts) and drop.name not in known
    ]
    if not names:
        return []
    return [
        f"{counted(len(names), 'variable')} inside of {joined(folders)}, which no rule of the"
        f" mapping {mapping.name} knows, {'was' if len(names) == 1 else 'were'} skipped by the"
        f" caller: {_folded(names)}. If they are more than slots of an optimizer, the model"
        " computes something else than the checkpoint"
    ]


def _describe(mapping: MappingFile, name: str, variable: Variable, written: Found) -> str:
    shown = f"{cut(variable.name)} ({variable.tf_dtype} {list(variable.shape)})"
    loose = {group.name for group in mapping.group if group.instead}
    for pair, other in written:
        if (
            other is not None
            and pair.group not in loose
            and any(alias == name or any(matching(alias, [name])) for alias in pair.names)
        ):
            return f"{shown} and {other.name} are the same tensor, {pair.tensor}"
    return f"{shown} is unknown to the mapping {mapping.name}" + nearest(
        name, [pair.names[0] for pair, _ in written]
    )


def _folded(names: Iterable[str]) -> str:
    from .fold import fold

    return joined([cut(name) for (name,), _, _ in fold(((name,), None) for name in names)])


def _remedy_outside(unknown: _Unknown, taken: Taken, offers: Sequence[str]) -> str:
    """What to do about unknown variables that are a head of some kind."""
    spared = {v.name for v in taken.local.values()} - {v.name for _, v in unknown}
    patterns = []
    for name, variable in unknown:
        folder, slash, _ = name.partition("/")
        start = "" if variable.name in taken.beyond else taken.scope
        pattern = f"{start}{folder}/**/*" if slash else variable.name
        # A key of TF2 may begin as those of the model do.
        fits = any(map(wildcard(pattern).fullmatch, spared))
        patterns.append(variable.name if fits else pattern)
    drop = f"{_drop_options(patterns)} or a [[drop]] in a copy of the mapping skips it"
    return ". ".join([*offers, drop])


def _drop_options(patterns: Iterable[str]) -> str:
    """The options that skip variables, if they can be typed and are few."""
    different = [*dict.fromkeys(islice(patterns, 1000))]
    if len(different) > 3 or not all(
        re.fullmatch(r"[\w./-]+|[\w./-]*\*\*/[\w.*-]+", pattern) and len(pattern) <= 60
        for pattern in different
    ):
        return "--drop PATTERN"
    return " ".join(f"--drop '{pattern}'" for pattern in different)
