"""Checkpoint x mapping x config -> a Plan, or every reason why not. Pure: reads no tensor.

A plan is a proof by names and shapes: every variable of the checkpoint becomes one tensor, or is
left behind for a reason; every tensor of the chosen class is filled once; every shape fits.
"""

import math
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from .checkpoint.variable import Variable
from .errors import PlanError
from .mapping import Architecture, MappingFile, Pair, SizeRule, Tie, wildcard
from .transforms import TRANSFORMS

# What weights may be, widest first, and the bytes of an element.
FLOATS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_MOST_SHOWN = 12


class Entry(Struct, frozen=True):
    """A variable and the tensor that it becomes."""

    tensor: str
    variable: str
    op: str
    group: str
    shape: tuple[int, ...]  # as PyTorch holds it
    dtype: str

    @property
    def nbytes(self) -> int:
        """The bytes of the tensor."""
        return math.prod(self.shape) * FLOATS[self.dtype]


class Dropped(Struct, frozen=True):
    """A variable that is left behind."""

    variable: str
    reason: str


class Plan(Struct, frozen=True):
    """What a conversion will do, proved before it is done."""

    mapping: str  # the mapping's name
    architecture: Architecture
    groups: list[str]  # that are written
    scope: str  # what stands before every name in the checkpoint; "" or ending in "/"
    sizes: dict[str, int]  # by symbol
    config: dict[str, object]  # for config.json
    activation: tuple[str, str]  # TensorFlow's name, and transformers'
    entries: list[Entry]  # in the order of the forward pass
    ties: list[Tie]  # tensors that the model shares, so that they are not written
    dropped: list[Dropped]
    notes: list[str]  # what a person should know

    @property
    def dtype(self) -> str:
        """The widest dtype of the tensors, so that loading loses nothing."""
        return min((entry.dtype for entry in self.entries), key=list(FLOATS).index)

    @property
    def parameters(self) -> int:
        """The number of weights that are written."""
        return sum(math.prod(entry.shape) for entry in self.entries)


_Found = list[tuple[Pair, Variable | None]]  # the pairs of some groups, with what was found


class Choices(Struct, frozen=True):
    """What the caller decided instead of leaving it to the checkpoint."""

    scope: str | None = None  # "" is the root
    head: str | None = None
    heads: int | None = None  # attention heads
    activation: str = "auto"
    dtype: str = "keep"


AUTOMATIC = Choices()


def make_plan(
    variables: Mapping[str, Variable],
    mapping: MappingFile,
    config: Mapping[str, object] | None = None,
    vocabulary_size: int | None = None,
    choices: Choices = AUTOMATIC,
) -> Plan:
    """Decide what becomes of every variable.

    Args:
        variables: the checkpoint's, by name.
        mapping: the rules.
        config: Google's bert_config.json, if there is one.
        vocabulary_size: the tokens of vocab.txt, if there is one.
        choices: the caller's own decisions.

    Raises:
        PlanError: with every reason why the parts do not fit together.
    """
    scope, local, dropped = _take_scope(variables, mapping, choices.scope)
    loops = _loop_sizes(local, mapping)
    found: dict[str, _Found] = {
        group.name: [(pair, _find(pair, local)) for pair in mapping.expand(loops, [group.name])]
        for group in mapping.group
    }
    present = {name for name, pairs in found.items() if any(v for _, v in pairs)}
    architecture = _choose_architecture(mapping, present, choices.head)
    optional = [group for group in architecture.optional if group in present]
    groups = [g.name for g in mapping.group if g.name in {*architecture.groups, *optional}]
    written = [item for group in groups for item in found[group]]

    reasons = _missing(written, local) + _taken_twice(written)
    sizes, evidence = _sizes(written, loops, mapping, reasons)
    notes = _complete_sizes(sizes, evidence, mapping, config, choices, reasons)
    if vocabulary_size is not None:
        _check_vocabulary(vocabulary_size, sizes, evidence, mapping, reasons)
    values = _config_values(sizes, mapping, config, reasons)
    activation = _activation(mapping, config, choices.activation, reasons)
    if mapping.activation is not None:
        values[mapping.activation.config] = activation[1]
    entries = [_entry(pair, v, choices, reasons) for pair, v in written if v is not None]

    taken = {variable.name for _, variable in written if variable is not None}
    elsewhere = {v.name: group for group in found for _, v in found[group] if v is not None}
    for name, variable in local.items():
        if variable.name in taken:
            continue
        if variable.name in elsewhere:
            reason = f"{elsewhere[variable.name]}: {architecture.name} has none"
            dropped.append(Dropped(variable.name, reason))
        else:
            reasons.append(_unknown(name, variable, written, mapping))
    if reasons:
        raise PlanError(*_shorten(reasons))
    if scope:
        notes.append(f"the model lies in the scope {scope}")
    notes += [
        group.absent
        for group in mapping.group
        if group.absent and group.name in architecture.optional and group.name not in present
    ]
    return Plan(
        mapping=mapping.name,
        architecture=architecture,
        groups=groups,
        scope=scope,
        sizes=sizes,
        config=values,
        activation=activation,
        entries=entries,
        ties=[
            tie
            for tie in mapping.tie
            if tie.to in {entry.tensor for entry in entries} and tie.group in ("", *groups)
        ],
        dropped=sorted(dropped, key=lambda drop: drop.variable),
        notes=notes,
    )


def fits(variables: Iterable[str], mapping: MappingFile) -> bool:
    """Whether a checkpoint holds the variable that the mapping is detected by, in any scope."""
    return any(name == mapping.detect or name.endswith(f"/{mapping.detect}") for name in variables)


def _take_scope(
    variables: Mapping[str, Variable], mapping: MappingFile, wanted: str | None
) -> tuple[str, dict[str, Variable], list[Dropped]]:
    """The scope of the model, its variables by their names within it, and what is left behind."""
    dropped = []
    kept = {}
    for name, variable in variables.items():
        reason = mapping.why_dropped(name)
        if reason is None:
            kept[name] = variable
        else:
            dropped.append(Dropped(name, reason))
    detect = mapping.detect
    scopes = sorted(n.removesuffix(detect) for n in kept if n == detect or n.endswith(f"/{detect}"))
    shown = ", ".join(scope or "/ (the root)" for scope in scopes)
    if not scopes:
        raise PlanError(
            f"no {detect} in the checkpoint, by which the mapping {mapping.name} knows its models"
            + _nearest(detect, kept)
        )
    if wanted is None:
        if len(scopes) > 1:
            raise PlanError(
                f"the checkpoint holds {len(scopes)} models, in the scopes {shown}."
                " --scope chooses one: --scope / or --scope " + scopes[-1].rstrip("/")
            )
        return scopes[0], _within(scopes[0], kept), dropped
    scope = wanted.strip("/")
    scope = f"{scope}/" if scope not in ("", ".") else ""
    if scope not in scopes:
        raise PlanError(f"there is no model in the scope {wanted!r}; there is one in {shown}")
    local = {}
    for name, variable in kept.items():
        owner = max((s for s in scopes if name.startswith(s)), key=len, default=None)
        if owner == scope:
            local[name.removeprefix(scope)] = variable
        else:
            where = f"in the scope {owner}" if owner else f"outside the scope {scope}"
            dropped.append(Dropped(name, where))
    return scope, local, dropped


def _within(scope: str, kept: Mapping[str, Variable]) -> dict[str, Variable]:
    # What lies outside keeps its whole name, and is an unknown variable unless a rule takes it.
    return {name.removeprefix(scope): variable for name, variable in kept.items()}


def _loop_sizes(local: Mapping[str, Variable], mapping: MappingFile) -> dict[str, int]:
    """The sizes that names tell: one more than the highest number that a loop's names have."""
    sizes = {}
    for symbol in mapping.loop_sizes():
        numbers = {
            int(number[0])
            for prefix in mapping.loop_prefixes(symbol)
            for name in local
            if name.startswith(prefix) and (number := re.match(r"\d{1,18}", name[len(prefix) :]))
        }
        size = max(numbers, default=-1) + 1
        if size > len(local):
            raise PlanError(
                f"a variable's name has the number {size - 1:,}, and there are no more than"
                f" {len(local):,} variables: {mapping.size_key(symbol)} can't be told"
            )
        sizes[symbol] = size or 1  # where there is none, the first is what is missing
    return sizes


def _find(pair: Pair, local: Mapping[str, Variable]) -> Variable | None:
    """The variable of a pair: by Google's own name, else by an alias that finds exactly one."""
    for name in pair.names:
        if "*" not in name:
            if name in local:
                return local[name]
            continue
        pattern, prefix = wildcard(name), name[: name.index("*")]
        matches = [n for n in local if n.startswith(prefix) and pattern.fullmatch(n)]
        if len(matches) == 1:
            return local[matches[0]]
    return None


def _choose_architecture(mapping: MappingFile, present: set[str], head: str | None) -> Architecture:
    if head is not None:
        for architecture in mapping.architecture:
            if head in (architecture.head, architecture.name):
                return architecture
        heads = ", ".join(a.head or a.name for a in mapping.architecture)
        raise PlanError(f"the mapping {mapping.name} has no head {head!r}; it has {heads}")
    fitting = [a for a in mapping.architecture if not a.explicit and present.issuperset(a.groups)]
    if not fitting:  # a required group is missing, which is then said
        return min(mapping.architecture, key=lambda a: len(a.groups))
    best = max(fitting, key=lambda a: (len(a.groups), len(a.optional)))
    beyond = present - {*best.groups, *best.optional}
    if beyond:
        choices = [a for a in fitting if beyond & set(a.groups) or a is best]
        raise PlanError(
            f"the checkpoint has {_and(sorted(present))}, which no one class holds together."
            f" --head chooses what to keep: {', '.join(f'{a.head} ({a.name})' for a in choices)}"
        )
    return best


def _missing(written: _Found, local: Mapping[str, Variable]) -> list[str]:
    """A reason for every group that lacks variables."""
    taken = {variable.name for _, variable in written if variable is not None}
    free = [name for name, variable in local.items() if variable.name not in taken]
    lines = []
    for group in dict.fromkeys(pair.group for pair, _ in written):
        lost = [pair for pair, variable in written if pair.group == group and variable is None]
        total = sum(pair.group == group for pair, _ in written)
        if not lost:
            continue
        lines.append(
            f"{group} is not whole: {len(lost):,} of its {total:,} variables are missing"
            if len(lost) < total
            else f"{group} is not there: all of its {total:,} variables are missing"
        )
        for pair in lost[:_MOST_SHOWN]:
            several = [n for alias in pair.names for n in free if wildcard(alias).fullmatch(n)]
            hint = f": {_and(several)} could all be it" if several else ""
            lines.append(f"  {pair.names[0]}{hint or _nearest(pair.names[0], free)}")
        if len(lost) > _MOST_SHOWN:
            lines.append(f"  and {len(lost) - _MOST_SHOWN:,} more")
    return lines


def _taken_twice(written: _Found) -> list[str]:
    tensors: dict[str, list[str]] = {}
    for pair, variable in written:
        if variable is not None:
            tensors.setdefault(variable.name, []).append(pair.tensor)
    return [
        f"{name} would become several tensors: {_and(several)}"
        for name, several in tensors.items()
        if len(several) > 1
    ]


def _sizes(
    written: _Found, loops: Mapping[str, int], mapping: MappingFile, reasons: list[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """The value of every symbol, and what says so; a shape that does not fit is a reason."""
    sizes = dict(loops)
    evidence = {
        symbol: f"{min(mapping.loop_prefixes(symbol))}0 to {size - 1}"
        for symbol, size in loops.items()
    }
    for pair, variable in written:
        if variable is None:
            continue
        shape = variable.shape
        expected = [sizes.get(s, s) if isinstance(s, str) else s for s in pair.shape]
        if len(shape) != len(expected) or any(
            isinstance(e, int) and e != s for e, s in zip(expected, shape, strict=False)
        ):
            symbols = ", ".join(map(str, pair.shape))
            values = ", ".join(map(str, expected))
            told = {s: evidence[s] for s in pair.shape if isinstance(s, str) and s in evidence}
            because = "; ".join(f"{symbol} by {what}" for symbol, what in told.items())
            reasons.append(
                f"{variable.name} has the shape {list(shape)}, and should have [{symbols}]"
                f" = [{values}]" + (f" ({because})" if because else "")
            )
            continue
        for symbol, size in zip(pair.shape, shape, strict=True):
            if isinstance(symbol, str) and symbol not in sizes:
                sizes[symbol] = size
                evidence[symbol] = f"{variable.name} {list(shape)}"
    return sizes, evidence


def _complete_sizes(
    sizes: dict[str, int],
    evidence: Mapping[str, str],
    mapping: MappingFile,
    config: Mapping[str, object] | None,
    choices: Choices,
    reasons: list[str],
) -> list[str]:
    """Hold the config against the sizes, and add those that no shape tells. Gives notes."""
    notes = []
    if config is None:
        notes.append("no bert_config.json: the sizes are those of the variables")
    for symbol, rule in mapping.sizes.items():
        key = mapping.size_key(symbol)
        stated = None if config is None else config.get(key)
        if stated is not None and (type(stated) is not int or stated < 1):
            reasons.append(f"the config's {key} is {stated!r}, which is no size")
            continue
        if symbol in evidence and stated not in (None, sizes[symbol]):
            reasons.append(
                f"the config says {key} = {stated}, and the checkpoint has {sizes[symbol]}"
                f" ({evidence[symbol]})"
            )
        if not isinstance(rule, SizeRule):
            continue
        if choices.heads is not None and stated not in (None, choices.heads):
            reasons.append(f"the config says {key} = {stated}, and --heads {choices.heads}")
        value = choices.heads or stated
        if value is None and rule.assume.partition("/")[0] in sizes:
            value = rule.assumed(sizes)
            notes.append(
                f"{key} = {value} is an assumption ({rule.assume}): no variable tells it, and no"
                " config is there; --heads sets another"
            )
        if not isinstance(value, int):
            continue
        sizes[symbol] = value
        if rule.divides in sizes and sizes[rule.divides] % value:
            reasons.append(
                f"{key} = {value} does not divide {mapping.size_key(rule.divides)} ="
                f" {sizes[rule.divides]}"
            )
    return notes


def _check_vocabulary(
    vocabulary_size: int,
    sizes: Mapping[str, int],
    evidence: Mapping[str, str],
    mapping: MappingFile,
    reasons: list[str],
) -> None:
    for symbol in mapping.sizes:
        if mapping.size_key(symbol) != "vocab_size" or symbol not in evidence:
            continue
        if sizes[symbol] != vocabulary_size:
            reasons.append(
                f"the vocabulary has {vocabulary_size:,} tokens, and the embeddings"
                f" {sizes[symbol]:,} rows ({evidence[symbol]}): it is another model's"
            )


def _config_values(
    sizes: Mapping[str, int],
    mapping: MappingFile,
    config: Mapping[str, object] | None,
    reasons: list[str],
) -> dict[str, object]:
    """What config.json says of the model, but for its activation."""
    values: dict[str, object] = {
        mapping.size_key(symbol): sizes[symbol] for symbol in mapping.sizes if symbol in sizes
    }
    values.update(mapping.config)
    for key, default in mapping.defaults.items():
        value = (config or {}).get(key, default)
        if type(value) is not type(default) and not (
            isinstance(default, float) and type(value) is int
        ):
            reasons.append(f"the config's {key} is {value!r}, and should be like {default!r}")
        values[key] = value
    return values


def _activation(
    mapping: MappingFile, config: Mapping[str, object] | None, choice: str, reasons: list[str]
) -> tuple[str, str]:
    """TensorFlow's name of the activation, and transformers' name of the same function."""
    rule = mapping.activation
    if rule is None:
        return "", ""
    # As modeling.py's get_activation: any case, and none at all is linear.
    stated = (config or {}).get(rule.config, rule.default)
    name = str(stated or "").lower()
    offered = rule.names.get(name)
    if isinstance(offered, str) and choice == "auto":
        return name, offered
    if isinstance(offered, dict) and choice in ("auto", *offered):
        return name, offered.get(choice) or next(iter(offered.values()))
    if offered is None:
        known = ", ".join(filter(None, rule.names))
        reasons.append(f"the config's {rule.config} is {stated!r}; known are {known}")
    else:
        kinds = _and([*offered]) if isinstance(offered, dict) else "one kind only"
        reasons.append(f"--activation {choice}: the config's {rule.config} is {name}: {kinds}")
    return name, ""


def _entry(pair: Pair, variable: Variable, choices: Choices, reasons: list[str]) -> Entry:
    if variable.tf_dtype not in FLOATS:
        reasons.append(f"{variable.name} is {variable.tf_dtype}; weights are {_and([*FLOATS])}")
    transform = TRANSFORMS[pair.op]
    return Entry(
        tensor=pair.tensor,
        variable=variable.name,
        op=pair.op,
        group=pair.group,
        shape=transform.shape(variable.shape),
        dtype=variable.tf_dtype if choices.dtype == "keep" else choices.dtype,
    )


def _unknown(name: str, variable: Variable, written: _Found, mapping: MappingFile) -> str:
    shown = f"{variable.name} ({variable.tf_dtype} {list(variable.shape)})"
    for pair, other in written:
        if any(wildcard(alias).fullmatch(name) for alias in pair.names) and other is not None:
            return f"{shown} is there twice: {other.name} means the same tensor, {pair.tensor}"
    return (
        f"{shown} is unknown to the mapping {mapping.name}"
        + _nearest(name, [pair.names[0] for pair, _ in written])
        + ". If it is not of the model, a [[drop]] in a copy of the mapping leaves it behind"
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches
    from itertools import islice

    found = get_close_matches(name, islice(names, 2000), 1)
    return f" (nearest: {found[0]})" if found else ""


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _shorten(reasons: list[str]) -> list[str]:
    rest = len(reasons) - _MOST_SHOWN
    return reasons if rest <= 0 else [*reasons[:_MOST_SHOWN], f"... and {rest:,} more"]
