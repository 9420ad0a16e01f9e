"""Checkpoint x mapping x config -> a Plan, or every reason why not. Opens no file.

A plan is a proof by names and shapes: every variable of the checkpoint becomes one tensor, or is
skipped for a reason; every tensor of the chosen class is filled once; every shape fits.
"""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile

from msgspec import Struct

from .checkpoint.variable import Variable
from .errors import PlanError
from .mapping import (
    HEADLESS,
    LONGEST_NAME,
    Architecture,
    Drop,
    MappingFile,
    Pair,
    SizeRule,
    Tie,
    dropper,
    pattern_problems,
    wildcard,
)
from .options import DEFAULTS, Options
from .text import MOST, cut, joined, listed
from .tokenizers.registry import Role, SpecialToken
from .transforms import TRANSFORMS

# The dtypes that weights may have, widest first, and the bytes of an element.
FLOATS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_LARGEST_SIZE = (1 << 31) - 1
_MOST_PADDING = 1023  # rows; people round up to a multiple of 8, 128 or 1,024


class Entry(Struct, frozen=True):
    """A variable and the tensor that it becomes."""

    tensor: str
    variable: str  # as the checkpoint names it
    name: str  # as the original code names it, without a scope: the first name of the rule
    op: str
    group: str
    shape: tuple[int, ...]  # as PyTorch stores it
    dtype: str

    @property
    def nbytes(self) -> int:
        """The bytes of the tensor."""
        return math.prod(self.shape) * FLOATS[self.dtype]


class Dropped(Struct, frozen=True):
    """A variable that is skipped."""

    variable: str
    reason: str


BY_CALLER = "by the caller"
"""The reason why a variable is skipped that fits a pattern of the option `drop`."""


class Plan(Struct, frozen=True):
    """Everything that a conversion will do, proved before it is done."""

    mapping: str  # the mapping's name
    architecture: Architecture
    groups: list[str]  # those that are written
    scope: str  # the start of the model's names in the checkpoint: "", or it ends in "/"
    sizes: dict[str, int]  # by symbol
    config: dict[str, object]  # keys of config.json
    activation: tuple[str, str]  # TensorFlow's name, transformers' name; "" if unknown
    entries: list[Entry]  # in the order of the forward pass
    ties: list[Tie]  # tensors that the model shares, so that they are not written
    dropped: list[Dropped]
    notes: list[str]  # facts that a person should know
    doubts: list[str]  # those of the notes by which the model may compute something else

    @property
    def dtype(self) -> str:
        """The widest dtype of the tensors, so that loading loses nothing."""
        return min((entry.dtype for entry in self.entries), key=list(FLOATS).index)

    @property
    def parameters(self) -> int:
        """The number of weights that are written."""
        return sum(math.prod(entry.shape) for entry in self.entries)


_Found = list[tuple[Pair, Variable | None]]  # pairs, each with the variable that it finds


def make_plan(
    variables: Mapping[str, Variable],
    mapping: MappingFile,
    config: Mapping[str, object] | None = None,
    vocabulary_size: int | None = None,
    options: Options = DEFAULTS,
    *,
    special_tokens: Mapping[Role, SpecialToken] | None = None,
    vocabulary_notes: Sequence[str] = (),
    config_name: str = "the config",
    vocabulary_name: str = "the vocabulary",
) -> Plan:
    """Decide what becomes of every variable.

    Args:
        variables: those of the checkpoint, by name.
        mapping: the rules.
        config: the content of the original code's config file, if there is one.
        vocabulary_size: the number of tokens in the vocabulary file, if there is one.
        options: the caller's decisions.
        special_tokens: those of the vocabulary, if there is one.
        vocabulary_notes: what is odd about it, for the message that it does not fit.
        config_name: the config file's name, for messages.
        vocabulary_name: the vocabulary file's name, for messages.

    Raises:
        PlanError: with every reason why the parts do not fit together.
        MappingError: the rules expand to too many variables.
    """
    taken = _take_scope(variables, mapping, options)
    local = taken.local
    loops = _loop_sizes(local, mapping)
    ordered = sorted(local)
    groups = [group.name for group in mapping.group if not group.instead]
    pairs = [(pair, _find(pair, local, ordered)) for pair in mapping.expand(loops, groups)]
    present = {pair.group for pair, variable in pairs if variable is not None}
    architecture = _choose_architecture(mapping, present, options.head)
    wanted = {*architecture.groups, *present.intersection(architecture.optional)}
    stand_ins = [] if options.head is None else _stand_ins(mapping, pairs, local, loops)
    planner = _Planner(mapping, config, options, config_name)
    planner.check_patterns(taken.dropped)
    stands_for = {group.name: group.instead for group in mapping.group}
    for lacking in sorted(wanted - present):
        homes = [home for home in stand_ins if stands_for[home[0][0].group] == lacking]
        if homes:
            planner.check_stand_in(lacking, homes)
            wanted ^= {lacking, homes[0][0][0].group}
            pairs += homes[0]
    written = [item for item in pairs if item[0].group in wanted]

    planner.check_presence(written, taken, architecture)
    planner.check_uniqueness(written)
    planner.measure(written, loops)
    planner.complete_sizes()
    if vocabulary_size is not None:
        planner.check_vocabulary(vocabulary_size, vocabulary_name, vocabulary_notes)
    values = planner.config_values() | planner.token_ids(special_tokens)
    activation = planner.activation()
    if mapping.activation is not None:
        values[mapping.activation.config] = activation[1]
    planner.check_dtypes(written)
    dropped = taken.dropped + planner.skip_others(pairs, written, taken, architecture, loops)
    if planner.reasons:
        raise PlanError(*planner.reasons)

    groups = [group.name for group in mapping.group if group.name in wanted]
    tensors = {pair.tensor for pair, _ in written}
    strip = architecture.strip
    doubts = planner.doubts(taken, pairs)
    return Plan(
        mapping=mapping.name,
        architecture=architecture,
        groups=groups,
        scope=taken.scope,
        sizes=planner.sizes,
        config=values,
        activation=activation,
        entries=[_entry(pair, v, strip, options.dtype) for pair, v in written if v is not None],
        ties=[
            Tie(tie.pt.removeprefix(strip), tie.to.removeprefix(strip), tie.group)
            for tie in mapping.tie
            if tie.to in tensors and tie.group in ("", *groups)
        ],
        dropped=sorted(dropped, key=lambda drop: drop.variable),
        notes=[
            *planner.notes,
            *_scope_notes(taken, written),
            *(
                group.absent
                for group in mapping.group
                if group.absent and group.name in {*architecture.optional} - present
            ),
            *(
                f"{joined([v.name for p, v in written if v and p.group == group.name])} are taken"
                f" as the {group.instead}, because --head asks for one; nothing in the checkpoint"
                " tells what they are"
                for group in mapping.group
                if group.instead and group.name in wanted
            ),
            *doubts,
        ],
        doubts=doubts,
    )


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


class _Taken(Struct, frozen=True):
    """The variables of one model."""

    scope: str
    local: dict[str, Variable]  # by their names within the scope
    beyond: set[str]  # those of `local` that are outside of the scope, and of every other
    dropped: list[Dropped]


def _take_scope(
    variables: Mapping[str, Variable], mapping: MappingFile, options: Options
) -> _Taken:
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
            f" recognizes its models{by_drop or _nearest(mapping.detects[0], kept)}"
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
    return _Taken(scope, local, beyond, dropped)


def _scope_notes(taken: _Taken, written: _Found) -> list[str]:
    used = [v.name for _, v in written if v is not None and v.name in taken.beyond]
    outside = f"; {joined(used)} outside of it are taken, too" if used else ""
    return [f"the model is in the scope {taken.scope}{outside}"] if taken.scope else []


def _stand_ins(
    mapping: MappingFile, pairs: _Found, local: Mapping[str, Variable], loops: Mapping[str, int]
) -> list[_Found]:
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


def _loop_sizes(local: Mapping[str, Variable], mapping: MappingFile) -> dict[str, int]:
    """The sizes that names tell: one more than the highest number that a loop's names have."""
    sizes = {}
    for symbol in mapping.loop_sizes():
        numbers = [
            (int(number[1]), name)
            for prefix in mapping.loop_prefixes(symbol)
            for pattern in [re.compile(wildcard(prefix).pattern + "([0-9]{1,18})")]
            for name in local
            if (number := pattern.match(name))
        ]
        highest, name = max(numbers, default=(0, ""))  # if there is none, number 0 is missing
        if highest > len(numbers):  # at least one number below it is missing
            raise PlanError(
                f"can't tell {mapping.size_key(symbol)}: {cut(name)} has the number {highest:,},"
                f" but only {len(numbers):,} names have a number"
            )
        sizes[symbol] = highest + 1
    return sizes


def _find(pair: Pair, local: Mapping[str, Variable], ordered: Sequence[str]) -> Variable | None:
    """The variable of a pair: by its original name, else by an alias that finds exactly one."""
    for name in pair.names:
        matches = [name] if name in local else list(_matching(name, ordered))
        if len(matches) == 1:
            return local[matches[0]]
    return None


def _matching(alias: str, ordered: Sequence[str]) -> Iterator[str]:
    """Those of the sorted names that an alias with a `*` fits."""
    prefix, star, _ = alias.partition("*")
    if star:
        after = islice(ordered, bisect_left(ordered, prefix), None)
        near = takewhile(lambda name: name.startswith(prefix), after)
        yield from (name for name in near if wildcard(alias).fullmatch(name))


def _choose_architecture(mapping: MappingFile, present: set[str], head: str | None) -> Architecture:
    if head is not None:
        for architecture in mapping.architecture:
            if head in (architecture.head, architecture.name):
                return architecture
        heads = ", ".join(a.head or a.name for a in mapping.architecture)
        raise PlanError(f"--head {head} is unknown; the mapping {mapping.name} has {heads}")
    fitting = [a for a in mapping.architecture if not a.explicit and present.issuperset(a.groups)]
    if not fitting:  # a required group is missing, which is reported later
        return min(mapping.architecture, key=lambda a: len(a.groups))
    best = max(fitting, key=lambda a: (len(a.groups), len(a.optional)))
    beyond = present - {*best.groups, *best.optional}
    if beyond:
        choices = [
            f"{a.head or a.name} ({a.name})"
            for a in mapping.architecture
            if present.issuperset(a.groups) and (beyond & {*a.groups} or a is best)
        ]
        raise PlanError(
            f"the checkpoint has {joined(sorted(present))}, and it is not certain which class they"
            f" belong to. Choose one with --head: {', '.join(choices)}"
        )
    return best


class _Planner:
    """Checks the parts of a plan one after the other, and collects every reason against it."""

    def __init__(
        self,
        mapping: MappingFile,
        config: Mapping[str, object] | None,
        options: Options,
        config_name: str,
    ) -> None:
        self.mapping = mapping
        self.config = config or {}
        self.options = options
        self.config_name = config_name
        self.reasons: list[str] = []
        self.notes: list[str] = []
        self.sizes: dict[str, int] = {}  # by symbol
        self.evidence: dict[str, str] = {}  # by symbol: the variable that tells the size
        if config is None:
            rule = mapping.files.config
            self.notes.append(
                f"no {rule.name if rule else 'config'} was found, so the sizes are taken from the"
                " variables"
            )

    def check_patterns(self, dropped: Sequence[Dropped]) -> None:
        """A reason for every pattern of the caller that is wrong, a note if it fits nothing."""
        names = {drop.variable for drop in dropped}
        self.notes += [
            f"--drop {given} fits no variable"
            for given in self.options.drop
            if given not in names and not any(map(wildcard(given).fullmatch, names))
        ]
        self.reasons += [
            f"--drop {problem}"
            for given in self.options.drop
            for problem in pattern_problems(given)
        ]

    def check_stand_in(self, group: str, homes: list[_Found]) -> None:
        """A reason if several folders could stand for a group."""
        if len(homes) > 1:
            names = [joined([v.name for _, v in home if v is not None]) for home in homes]
            self.reasons.append(
                f"--head {self.options.head}: {len(homes):,} parts of the checkpoint fit as the"
                f" {group}: {'; '.join(listed(names))}. Skip all but one with --drop"
            )

    def check_presence(self, written: _Found, taken: _Taken, architecture: Architecture) -> None:
        """A reason for every group that lacks variables."""
        used = {variable.name for _, variable in written if variable is not None}
        free = sorted(name for name, variable in taken.local.items() if variable.name not in used)
        skipped = {drop.variable: drop.reason for drop in taken.dropped}
        head = self.options.head
        needs = architecture.name if head in (None, architecture.name) else f"--head {head}"
        for group in dict.fromkeys(pair.group for pair, _ in written):
            lost = [pair for pair, variable in written if pair.group == group and variable is None]
            total = sum(pair.group == group for pair, _ in written)
            if not lost:
                continue
            if len(lost) < total:
                are = "is" if len(lost) == 1 else "are"
                first = f"{group} is incomplete: {len(lost):,} of its {total:,} variables {are}"
                first += " missing:"
            else:
                none = {1: "lacks its variable", 2: "has neither of its 2 variables"}.get(
                    total, f"has none of its {total:,} variables"
                )
                first = f"{needs} needs the {group}, and the checkpoint {none}:"
            lines = [first]
            for pair in lost[:MOST]:
                several = [n for alias in pair.names for n in islice(_matching(alias, free), 3)]
                hint = f": {joined([*map(cut, several)])} fit equally well" if several else ""
                for name in (taken.scope + pair.names[0], pair.names[0]):
                    if name in skipped:
                        hint = f": it exists and is skipped, {skipped[name]}"
                lines.append(f"{pair.names[0]}{hint or _nearest(pair.names[0], free)}")
            if len(lost) > MOST:
                lines.append(f"... and {len(lost) - MOST:,} more")
            self.reasons.append("\n  ".join(lines))

    def check_uniqueness(self, written: _Found) -> None:
        """A reason for every variable and every tensor that two rules claim."""
        tensors: dict[str, list[str]] = {}
        variables: dict[str, list[str]] = {}
        for pair, variable in written:
            if variable is not None:
                tensors.setdefault(variable.name, []).append(pair.tensor)
                variables.setdefault(pair.tensor, []).append(variable.name)
        for claims, become in [
            (tensors, "would become several tensors"),
            (variables, "would be made from several variables"),
        ]:
            self.reasons += listed(
                [f"{k} {become}: {joined(names)}" for k, names in claims.items() if len(names) > 1]
            )

    def measure(self, written: _Found, loops: Mapping[str, int]) -> None:
        """Take the sizes from the shapes; a shape that does not fit is a reason."""
        self.sizes.update(loops)
        for symbol, size in loops.items():
            prefix = min(self.mapping.loop_prefixes(symbol))
            self.evidence[symbol] = f"{prefix}0 to {size - 1}"
        wrong: list[str] = []
        if factorized := self._factorized(written):
            self.reasons.append(factorized)
            return
        for pair, variable in written:
            if variable is None:
                continue
            shape = variable.shape
            local = {s: n for s, n in zip(pair.shape, shape, strict=False) if isinstance(s, str)}
            told = local | self.sizes  # a symbol may be twice in a shape, with one value
            expected = [told.get(s, s) if isinstance(s, str) else s for s in pair.shape]
            if list(shape) != expected:
                wrong.append(self._wrong_shape(pair, variable))
            elif 0 in shape:
                wrong.append(f"{variable.name} has the shape {list(shape)}, which is empty")
            else:
                for symbol, size in local.items():
                    if symbol not in self.sizes:
                        self.sizes[symbol] = size
                        self.evidence[symbol] = f"{variable.name} {list(shape)}"
        self.reasons += listed(wrong)

    def _factorized(self, written: _Found) -> str:
        """That the word embeddings have another width than the layers; "" if they do not."""
        roles = self.mapping.roles
        table = next(
            (item for item in written if item[0].shape == (roles.vocabulary, roles.hidden)), None
        )
        if table is None or table[1] is None or len(table[1].shape) != 2:
            return ""
        widths = Counter(
            size
            for pair, variable in written
            if variable is not None and len(pair.shape) == len(variable.shape)
            for symbol, size in zip(pair.shape, variable.shape, strict=True)
            if symbol == roles.hidden
        )
        width = widths.most_common(1)[0][0]
        own = table[1].shape[1]
        if own == width or 2 * widths[own] >= widths[width]:
            return ""
        return (
            f"{table[1].name} {list(table[1].shape)} is {own:,} wide, and the layers are"
            f" {width:,} wide: the embeddings are factorized, for which the mapping"
            f" {self.mapping.name} has no rule"
        )

    def _wrong_shape(self, pair: Pair, variable: Variable) -> str:
        symbols = ", ".join(map(str, pair.shape))
        values = ", ".join(str(self.sizes.get(str(s), s)) for s in pair.shape)
        by = {str(s): self.evidence[str(s)] for s in pair.shape if str(s) in self.evidence}
        because = "; ".join(f"{symbol} by {what}" for symbol, what in by.items())
        return (
            f"{variable.name} has the shape {list(variable.shape)} but should have [{symbols}]"
            + (f" = [{values}]" if values != symbols else "")
            + (f" ({because})" if because else "")
        )

    def complete_sizes(self) -> None:
        """Check the config against the sizes, and add the sizes that no shape tells."""
        heads = self.mapping.roles.heads
        given = self.options.num_heads
        if given is not None and not isinstance(self.mapping.sizes.get(heads), SizeRule):
            self.reasons.append(f"--num-heads: the mapping {self.mapping.name} does not need it")
        elif given is not None and not _is_size(given):
            self.reasons.append(f"--num-heads {_shown(given)} is not a number of heads")
            given = None
        for symbol, rule in self.mapping.sizes.items():
            key = self.mapping.size_key(symbol)
            stated = self.config.get(key)
            if stated is not None and not _is_size(stated):
                self.reasons.append(f"{self.config_name}: {key} is {_shown(stated)}, not a size")
                continue
            if symbol in self.evidence and stated not in (None, self.sizes[symbol]):
                reason = (
                    f"{self.config_name} says {key} = {stated}, but the checkpoint has"
                    f" {self.sizes[symbol]} ({self.evidence[symbol]})"
                )
                padded = _is_padded(stated, self.sizes[symbol])
                if symbol != self.mapping.roles.vocabulary or not padded:
                    self.reasons.append(reason)
                elif not self.options.pad_vocab:
                    self.reasons.append(f"{reason}. {_OFFER}")
            if isinstance(rule, SizeRule):
                self._untold_size(symbol, rule, stated, given if symbol == heads else None)

    def _untold_size(self, symbol: str, rule: SizeRule, stated: object, given: int | None) -> None:
        if given is not None and stated not in (None, given):
            self.reasons.append(
                f"{self.config_name} says {rule.config} = {stated}, but --num-heads is {given}"
            )
        value = given or stated
        origin = ""
        if value is None and rule.assume.partition("/")[0] in self.sizes:
            value = rule.assumed(self.sizes)
            remedy = "--num-heads" if symbol == self.mapping.roles.heads else "a config"
            origin = f" (assumed: {rule.assume}; {remedy} sets another)"
            self.notes.append(
                f"{rule.config} = {value} is assumed ({rule.assume}), because neither the variables"
                f" nor a config give it. {remedy} sets another"
            )
        if not isinstance(value, int):
            return
        self.sizes[symbol] = value
        if rule.divides in self.sizes and self.sizes[rule.divides] % value:
            self.reasons.append(
                f"{rule.config} = {value}{origin} does not divide"
                f" {self.mapping.size_key(rule.divides)} = {self.sizes[rule.divides]}"
            )

    def check_vocabulary(self, tokens: int, name: str, odd: Sequence[str]) -> None:
        """A reason if the vocabulary has another length than the model."""
        symbol = self.mapping.roles.vocabulary
        if symbol not in self.evidence or self.sizes[symbol] == tokens:
            return
        rows = self.sizes[symbol]
        reason = (
            f"{name} has {tokens:,} tokens but the model has {rows:,} word embeddings"
            f" ({self.evidence[symbol]})"
        )
        padded = _is_padded(tokens, rows)
        if not padded or not self.options.pad_vocab:
            reason += f": this {name.removeprefix('the ')} belongs to another model"
            reason += f". {_OFFER}" if padded else ""
            self.reasons.append("\n  ".join([reason, *odd]))
        else:
            self.notes.append(
                f"{name} has {tokens:,} tokens and the model {rows:,} word embeddings. The"
                f" tokenizer has unused tokens for the other {rows - tokens:,}"
            )

    def config_values(self) -> dict[str, object]:
        """The keys of config.json that describe the model, except for its activation."""
        values: dict[str, object] = {
            self.mapping.size_key(symbol): self.sizes[symbol]
            for symbol in self.mapping.sizes
            if symbol in self.sizes
        }
        values.update(self.mapping.config)
        for key, default in self.mapping.defaults.items():
            value = self.config.get(key, default)
            alike = type(value) is type(default) or (type(default) is float and type(value) is int)
            if not alike or (isinstance(value, int | float) and not abs(value) <= _LARGEST_SIZE):
                self.reasons.append(
                    f"{self.config_name}: {key} is {_shown(value)}, not a value like {default!r}"
                )
            values[key] = value
        return values

    def token_ids(
        self, special_tokens: Mapping[Role, SpecialToken] | None
    ) -> dict[str, int | None]:
        """The keys of config.json that name a token: its row, or None if there is no such token.

        Without a vocabulary, they are what the config says, or what transformers assumes.
        """
        values: dict[str, int | None] = {}
        rows = self.sizes.get(self.mapping.roles.vocabulary, _LARGEST_SIZE)
        for key, role in self.mapping.token_ids.items():
            usual = self.mapping.implied.get(key)
            stated = self.config.get(key, usual)
            if special_tokens is None:
                if stated is not None and not (type(stated) is int and 0 <= stated < rows):
                    self.reasons.append(
                        f"{self.config_name}: {key} is {_shown(stated)}, not a row of the"
                        " vocabulary"
                    )
                values[key] = stated if isinstance(stated, int) else None
                continue
            token = special_tokens.get(role, SpecialToken(role, None))
            values[key] = token.row
            if token.row is None:
                found = f"{key} is null, because the vocabulary has no {token.text}"
            else:
                found = f"{key} is {token.row}, the row of {token.text} in the vocabulary"
            if key in self.config and stated != token.row:
                self.notes.append(f"{found}; {self.config_name} says {_shown(stated)}")
            elif token.row != usual:
                self.notes.append(found)
        return values

    def activation(self) -> tuple[str, str]:
        """TensorFlow's name of the activation, and transformers' name of the same function."""
        rule, choice = self.mapping.activation, self.options.activation
        if rule is None:
            return "", ""
        # Upper and lower case mean the same, and null means linear, as in Google's code.
        stated = self.config.get(rule.config, rule.default)
        name = stated.lower() if isinstance(stated, str) else ""
        offered = rule.names.get(name) if stated is None or isinstance(stated, str) else None
        if isinstance(offered, str) and choice == "auto":
            return name, offered
        if isinstance(offered, dict) and choice in ("auto", *offered):
            return name, offered.get(choice) or next(iter(offered.values()))
        if offered is None:
            known = ", ".join(filter(None, rule.names))
            self.reasons.append(
                f"{self.config_name}: {rule.config} is {_shown(stated)}; known values are {known}"
            )
        else:
            forms = joined([*offered]) if isinstance(offered, dict) else "only one form"
            self.reasons.append(
                f"--activation {choice}: {rule.config} is {name}, which has {forms}"
            )
        return name, ""

    def check_dtypes(self, written: _Found) -> None:
        """A reason for every weight that is not a floating-point number."""
        self.reasons += listed(
            [
                f"{variable.name} is {variable.tf_dtype}; weights are {joined([*FLOATS])}"
                for _, variable in written
                if variable is not None and variable.tf_dtype not in FLOATS
            ]
        )

    def skip_others(
        self,
        pairs: _Found,
        written: _Found,
        taken: _Taken,
        architecture: Architecture,
        loops: Mapping[str, int],
    ) -> list[Dropped]:
        """The variables that are not part of the class; a reason for those that may not be skipped.

        A class without a head that the caller chooses leaves behind what is outside of the model.
        Any other variable that no rule knows is a reason.
        """
        used = {variable.name for _, variable in written if variable is not None}
        elsewhere = {variable.name: pair.group for pair, variable in pairs if variable is not None}
        folders = self.mapping.folders
        is_chosen = architecture.head == HEADLESS and self.options.head is not None
        skipped, left, slots, inside, outside = [], [], [], [], []
        for name, variable in taken.local.items():
            if variable.name in used:
                continue
            if variable.name in elsewhere:
                reason = f"{elsewhere[variable.name]}: not part of {architecture.name}"
                skipped.append(Dropped(variable.name, reason))
            elif name in taken.beyond and self.options.scope is not None:
                skipped.append(Dropped(variable.name, f"outside the scope {taken.scope}"))
            elif is_chosen and not name.startswith(tuple(folders)):
                left.append(variable.name)
            elif name.rpartition("/")[0] in taken.local:
                slots.append((name, variable))
            elif name.startswith(tuple(folders)):
                inside.append((name, variable))
            else:
                outside.append((name, variable))
        where = joined(folders)
        if left:
            reason = f"a head of its own, outside of {where}: not part of {architecture.name}"
            skipped += [Dropped(name, reason) for name in left]
            self.notes.append(
                f"{_counted(len(left))} outside of {where}, which no rule of the mapping"
                f" {self.mapping.name} knows, {'is' if len(left) == 1 else 'are'} left behind:"
                f" {_folded(left)}"
            )
        if inside:
            self._list_unknown(inside, written)
            drops = _drop_options(variable.name for _, variable in inside)
            self.reasons.append(
                f"What is inside of {where} is part of what the model computes, so --head"
                f" {HEADLESS} does not leave it behind. To skip variables that are not weights, use"
                f" {drops} or add a [[drop]] to a copy of the mapping"
            )
        if outside:
            self.reasons.append(
                f"the checkpoint has a head of its own: {_counted(len(outside))} outside of {where}"
            )
            self._list_unknown(outside, written)
            self.reasons.append(
                _remedy_outside(outside, taken, self._offers(outside, pairs, taken, loops))
            )
        if slots:
            self._list_unknown(slots, written)
            drops = _drop_options(f"**/{name.rpartition('/')[2]}" for name, _ in slots)
            self.reasons.append(
                f"They are named like slots of an optimizer. To skip them, use {drops} or add a"
                " [[drop]] to a copy of the mapping"
            )
        return skipped

    def _list_unknown(self, unknown: list[tuple[str, Variable]], written: _Found) -> None:
        self.reasons += [self._unknown(*item, written) for item in unknown[:MOST]]
        if len(unknown) > MOST:
            self.reasons.append(f"... and {len(unknown) - MOST:,} more unknown variables")

    def _offers(
        self,
        unknown: list[tuple[str, Variable]],
        pairs: _Found,
        taken: _Taken,
        loops: Mapping[str, int],
    ) -> list[str]:
        """What each --head would do about variables that no rule knows."""
        offers = []
        if self.mapping.headless is not None:
            offers.append(f"--head {HEADLESS} converts the model without it")
        present = {pair.group for pair, variable in pairs if variable is not None}
        stand_ins = _stand_ins(self.mapping, pairs, taken.local, loops)
        names = sorted(variable.name for _, variable in unknown)
        if len(stand_ins) == 1 and names == sorted(v.name for _, v in stand_ins[0] if v):
            group = next(g for g in self.mapping.group if g.name == stand_ins[0][0][0].group)
            heads = [
                f"--head {a.head}"
                for a in self.mapping.architecture
                if a.head and group.instead in a.groups
                if present.issuperset({*a.groups} - {group.instead})
            ]
            if heads:
                offers.append(f"{' or '.join(heads)} takes it as the {group.instead}")
        return offers

    def doubts(self, taken: _Taken, pairs: _Found) -> list[str]:
        """What the caller skipped although the model may compute something else without it."""
        known = {taken.scope + name for pair, _ in pairs for name in pair.names}
        folders = self.mapping.folders
        starts = tuple(taken.scope + folder for folder in folders)
        names = [
            drop.variable
            for drop in taken.dropped
            if drop.reason == BY_CALLER
            and drop.variable.startswith(starts)
            and drop.variable not in known
        ]
        if not names:
            return []
        return [
            f"{_counted(len(names))} inside of {joined(folders)}, which no rule of the mapping"
            f" {self.mapping.name} knows, {'was' if len(names) == 1 else 'were'} skipped by the"
            f" caller: {_folded(names)}. If they are more than slots of an optimizer, the model"
            " computes something else than the checkpoint"
        ]

    def _unknown(self, name: str, variable: Variable, written: _Found) -> str:
        shown = f"{cut(variable.name)} ({variable.tf_dtype} {list(variable.shape)})"
        loose = {group.name for group in self.mapping.group if group.instead}
        for pair, other in written:
            if (
                other is not None
                and pair.group not in loose
                and any(alias == name or any(_matching(alias, [name])) for alias in pair.names)
            ):
                return f"{shown} and {other.name} are the same tensor, {pair.tensor}"
        return f"{shown} is unknown to the mapping {self.mapping.name}" + _nearest(
            name, [pair.names[0] for pair, _ in written]
        )


def _entry(pair: Pair, variable: Variable, strip: str, dtype: str) -> Entry:
    return Entry(
        tensor=pair.tensor.removeprefix(strip),
        variable=variable.name,
        name=pair.names[0],
        op=pair.op,
        group=pair.group,
        shape=TRANSFORMS[pair.op].shape(variable.shape),
        dtype=variable.tf_dtype if dtype == "keep" else dtype,
    )


def _counted(count: int) -> str:
    return f"{count:,} {'variable' if count == 1 else 'variables'}"


def _folded(names: Iterable[str]) -> str:
    from .fold import fold

    return joined([cut(name) for (name,), _, _ in fold(((name,), None) for name in names)])


def _remedy_outside(
    unknown: list[tuple[str, Variable]], taken: _Taken, offers: Sequence[str]
) -> str:
    """What to do about unknown variables that are a head of some kind."""
    patterns = []
    for name, variable in unknown:
        folder, slash, _ = name.partition("/")
        start = "" if name in taken.beyond else taken.scope
        patterns.append(f"{start}{folder}/**/*" if slash else variable.name)
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


def _nearest(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, islice(names, 1000), 1)
    return f" (nearest: {found[0]})" if found else ""


_OFFER = (
    "Or its rows were rounded up: --pad-vocab keeps them, and gives the tokenizer unused tokens for"
    " those without one"
)


def _is_padded(tokens: object, rows: int) -> bool:
    """Whether a model's rows may be those of its tokens, rounded up."""
    return type(tokens) is int and tokens < rows <= tokens + _MOST_PADDING


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _shown(value: object) -> str:
    try:
        return cut(repr(value))
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
