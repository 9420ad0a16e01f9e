"""Checkpoint x mapping x config -> a Plan, or every reason why not. Pure: reads no tensor.

A plan is a proof by names and shapes: every variable of the checkpoint becomes one tensor, or is
left behind for a reason; every tensor of the chosen class is filled once; every shape fits.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile

from msgspec import Struct

from .checkpoint.variable import Variable
from .errors import PlanError
from .mapping import Architecture, MappingFile, Pair, SizeRule, Tie, wildcard
from .options import DEFAULTS, Options
from .transforms import TRANSFORMS

# What weights may be, widest first, and the bytes of an element.
FLOATS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_MOST_SHOWN = 12
_LARGEST_SIZE = (1 << 31) - 1


class Entry(Struct, frozen=True):
    """A variable and the tensor that it becomes."""

    tensor: str
    variable: str  # as the checkpoint names it
    name: str  # as the original code names it, without a scope: the first name of the rule
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


def make_plan(
    variables: Mapping[str, Variable],
    mapping: MappingFile,
    config: Mapping[str, object] | None = None,
    vocabulary_size: int | None = None,
    options: Options = DEFAULTS,
) -> Plan:
    """Decide what becomes of every variable.

    Args:
        variables: the checkpoint's, by name.
        mapping: the rules.
        config: Google's bert_config.json, if there is one.
        vocabulary_size: the tokens of vocab.txt, if there is one.
        options: the caller's own decisions.

    Raises:
        PlanError: with every reason why the parts do not fit together.
        MappingError: the rules stand for too many variables.
    """
    scope, local, dropped = _take_scope(variables, mapping, options.scope)
    loops = _loop_sizes(local, mapping)
    ordered = sorted(local)
    every = mapping.expand(loops, [group.name for group in mapping.group])
    pairs = [(pair, _find(pair, local, ordered)) for pair in every]
    present = {pair.group for pair, variable in pairs if variable is not None}
    architecture = _choose_architecture(mapping, present, options.head)
    optional = [group for group in architecture.optional if group in present]
    groups = [g.name for g in mapping.group if g.name in {*architecture.groups, *optional}]
    written = [item for item in pairs if item[0].group in groups]

    reasons = _missing(written, local) + _taken_twice(written)
    sizes, evidence = _sizes(written, loops, mapping, reasons)
    notes = _complete_sizes(sizes, evidence, mapping, config, options, reasons)
    if vocabulary_size is not None:
        _check_vocabulary(vocabulary_size, sizes, evidence, mapping, reasons)
    values = _config_values(sizes, mapping, config, reasons)
    activation = _activation(mapping, config, options.activation, reasons)
    if mapping.activation is not None:
        values[mapping.activation.config] = activation[1]
    if options.dtype not in ("keep", *FLOATS):
        reasons.append(f"there is no dtype {options.dtype!r}; there are keep, {_and([*FLOATS])}")
    odd: list[str] = []
    strip = architecture.strip
    entries = [_entry(pair, v, strip, options, odd) for pair, v in written if v is not None]
    reasons += _shorten(odd)

    taken = {variable.name for _, variable in written if variable is not None}
    elsewhere = {v.name: pair.group for pair, v in pairs if v is not None}
    unknown = []
    for name, variable in local.items():
        if variable.name in taken:
            continue
        if variable.name in elsewhere:
            reason = f"{elsewhere[variable.name]}: {architecture.name} has none"
            dropped.append(Dropped(variable.name, reason))
        else:
            unknown.append((name, variable))
    reasons += [_unknown(*item, written, mapping) for item in unknown[:_MOST_SHOWN]]
    if len(unknown) > _MOST_SHOWN:
        reasons.append(f"... and {len(unknown) - _MOST_SHOWN:,} more that are unknown")
    if unknown:
        reasons.append("a [[drop]] in a copy of the mapping leaves behind what is no weight")
    if reasons:
        raise PlanError(*reasons)
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
            Tie(tie.pt.removeprefix(strip), tie.to.removeprefix(strip), tie.group)
            for tie in mapping.tie
            if tie.to in {pair.tensor for pair, _ in written} and tie.group in ("", *groups)
        ],
        dropped=sorted(dropped, key=lambda drop: drop.variable),
        notes=notes,
    )


def fits(variables: Iterable[str], mapping: MappingFile) -> bool:
    """Whether a checkpoint has all variables that the mapping is detected by, in one scope."""
    return bool(_scopes(variables, mapping))


def _scopes(variables: Iterable[str], mapping: MappingFile) -> list[str]:
    """The scopes in which all variables are that the mapping is detected by."""
    found = [
        {n.removesuffix(d) for n in variables if n == d or n.endswith(f"/{d}")}
        for d in mapping.detects
    ]
    return sorted(set.intersection(*found))


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
    detect = " and ".join(mapping.detects)
    scopes = _scopes(kept, mapping)
    shown = ", ".join(_shorten([scope or "/ (the root)" for scope in scopes]))
    if not scopes:
        raise PlanError(
            f"no {detect} in the checkpoint, by which the mapping {mapping.name} knows its models"
            + _nearest(mapping.detects[0], kept)
        )
    if wanted is None:
        if len(scopes) > 1:
            first, last = (scope.rstrip("/") or "/" for scope in (scopes[0], scopes[-1]))
            raise PlanError(
                f"the checkpoint holds {len(scopes)} models, in the scopes {shown}."
                f" --scope chooses one: --scope {first} or --scope {last}"
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
    twice = [name for name in kept if scope and not name.startswith(scope) and scope + name in kept]
    if twice:
        raise PlanError(
            f"the model lies in the scope {scope}, and {_and(_shorten(twice))} both there and"
            f" outside. --scope {scope.rstrip('/')} leaves behind what is outside"
        )
    return {name.removeprefix(scope): variable for name, variable in kept.items()}


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
        highest, name = max(numbers, default=(0, ""))  # where there is none, the first is missing
        if highest > len(numbers):  # some more than there are would be missing
            raise PlanError(
                f"{_cut(name)} has the number {highest:,}, and only {len(numbers):,} names have"
                f" one: {mapping.size_key(symbol)} can't be told"
            )
        sizes[symbol] = highest + 1
    return sizes


def _find(pair: Pair, local: Mapping[str, Variable], ordered: Sequence[str]) -> Variable | None:
    """The variable of a pair: by Google's own name, else by an alias that finds exactly one."""
    for name in pair.names:
        matches = [name] if name in local else list(_matching(name, ordered))
        if len(matches) == 1:
            return local[matches[0]]
    return None


def _matching(alias: str, ordered: Sequence[str]) -> Iterator[str]:
    """Those of the sorted names that an alias with a `*` means."""
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
        raise PlanError(f"the mapping {mapping.name} has no head {head!r}; it has {heads}")
    fitting = [a for a in mapping.architecture if not a.explicit and present.issuperset(a.groups)]
    if not fitting:  # a required group is missing, which is then said
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
            f"the checkpoint has {_and(sorted(present))}, which fit no one class for certain."
            f" --head chooses what to make of them: {', '.join(choices)}"
        )
    return best


def _missing(written: _Found, local: Mapping[str, Variable]) -> list[str]:
    """A reason for every group that lacks variables."""
    taken = {variable.name for _, variable in written if variable is not None}
    free = sorted(name for name, variable in local.items() if variable.name not in taken)
    reasons = []
    for group in dict.fromkeys(pair.group for pair, _ in written):
        lost = [pair for pair, variable in written if pair.group == group and variable is None]
        total = sum(pair.group == group for pair, _ in written)
        if not lost:
            continue
        lines = [
            f"{group} is not whole: {len(lost):,} of its {total:,} variables are missing"
            if len(lost) < total
            else f"{group} is not there: all of its {total:,} variables are missing"
        ]
        for pair in lost[:_MOST_SHOWN]:
            several = [n for alias in pair.names for n in islice(_matching(alias, free), 3)]
            hint = f": {_and([*map(_cut, several)])} could all be it" if several else ""
            lines.append(f"  {pair.names[0]}{hint or _nearest(pair.names[0], free)}")
        if len(lost) > _MOST_SHOWN:
            lines.append(f"  and {len(lost) - _MOST_SHOWN:,} more")
        reasons.append("\n".join(lines))
    return reasons


def _taken_twice(written: _Found) -> list[str]:
    tensors: dict[str, list[str]] = {}
    variables: dict[str, list[str]] = {}
    for pair, variable in written:
        if variable is not None:
            tensors.setdefault(variable.name, []).append(pair.tensor)
            variables.setdefault(pair.tensor, []).append(variable.name)
    return _shorten(
        [
            f"{name} would become several tensors: {_and(_shorten(several))}"
            for name, several in tensors.items()
            if len(several) > 1
        ]
    ) + _shorten(
        [
            f"{tensor} would be made of several variables: {_and(_shorten(several))}"
            for tensor, several in variables.items()
            if len(several) > 1
        ]
    )


def _sizes(
    written: _Found, loops: Mapping[str, int], mapping: MappingFile, reasons: list[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """The value of every symbol, and what says so; a shape that does not fit is a reason."""
    sizes = dict(loops)
    evidence = {
        symbol: f"{min(mapping.loop_prefixes(symbol))}0 to {size - 1}"
        for symbol, size in loops.items()
    }
    wrong = []
    for pair, variable in written:
        if variable is None:
            continue
        shape = variable.shape
        own = {s: n for s, n in zip(pair.shape, shape, strict=False) if isinstance(s, str)}
        told = own | sizes  # a symbol may be there twice, and must be the same both times
        expected = [told.get(s, s) if isinstance(s, str) else s for s in pair.shape]
        if list(shape) != expected:
            symbols = ", ".join(map(str, pair.shape))
            values = ", ".join(str(sizes.get(str(s), s)) for s in pair.shape)
            by = {s: evidence[s] for s in pair.shape if isinstance(s, str) and s in evidence}
            because = "; ".join(f"{symbol} by {what}" for symbol, what in by.items())
            wrong.append(
                f"{variable.name} has the shape {list(shape)}, and should have [{symbols}]"
                + (f" = [{values}]" if values != symbols else "")
                + (f" ({because})" if because else "")
            )
        elif 0 in shape:
            wrong.append(f"{variable.name} has the shape {list(shape)}, which holds nothing")
        else:
            for symbol, size in zip(pair.shape, shape, strict=True):
                if isinstance(symbol, str) and symbol not in sizes:
                    sizes[symbol] = size
                    evidence[symbol] = f"{variable.name} {list(shape)}"
    reasons += _shorten(wrong)
    return sizes, evidence


def _complete_sizes(
    sizes: dict[str, int],
    evidence: Mapping[str, str],
    mapping: MappingFile,
    config: Mapping[str, object] | None,
    options: Options,
    reasons: list[str],
) -> list[str]:
    """Hold the config against the sizes, and add those that no shape tells. Gives notes."""
    notes = []
    if config is None:
        notes.append("no bert_config.json: the sizes are those of the variables")
    for symbol, rule in mapping.sizes.items():
        key = mapping.size_key(symbol)
        stated = None if config is None else config.get(key)
        if stated is not None and not _is_size(stated):
            reasons.append(f"the config's {key} is {_shown(stated)}, which is no size")
            continue
        if symbol in evidence and stated not in (None, sizes[symbol]):
            reasons.append(
                f"the config says {key} = {stated}, and the checkpoint has {sizes[symbol]}"
                f" ({evidence[symbol]})"
            )
        if not isinstance(rule, SizeRule):
            continue
        if options.num_heads is not None and not _is_size(options.num_heads):
            reasons.append(f"--num-heads {_shown(options.num_heads)} is no number of heads")
            continue
        if options.num_heads is not None and stated not in (None, options.num_heads):
            reasons.append(f"the config says {key} = {stated}, and --num-heads {options.num_heads}")
        value = options.num_heads or stated
        origin = ""
        if value is None and rule.assume.partition("/")[0] in sizes:
            value = rule.assumed(sizes)
            origin = f" (assumed: {rule.assume}; --num-heads sets another)"
            notes.append(
                f"{key} = {value} is an assumption ({rule.assume}): no variable tells it, and no"
                " config; --num-heads sets another"
            )
        if not isinstance(value, int):
            continue
        sizes[symbol] = value
        if rule.divides in sizes and sizes[rule.divides] % value:
            reasons.append(
                f"{key} = {value}{origin} does not divide {mapping.size_key(rule.divides)} ="
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
        alike = type(value) is type(default) or (type(default) is float and type(value) is int)
        if not alike or (isinstance(value, int | float) and not abs(value) <= _LARGEST_SIZE):
            reasons.append(f"the config's {key} is {_shown(value)}, and should be like {default!r}")
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
    name = stated.lower() if isinstance(stated, str) else ""
    offered = rule.names.get(name) if stated is None or isinstance(stated, str) else None
    if isinstance(offered, str) and choice == "auto":
        return name, offered
    if isinstance(offered, dict) and choice in ("auto", *offered):
        return name, offered.get(choice) or next(iter(offered.values()))
    if offered is None:
        known = ", ".join(filter(None, rule.names))
        reasons.append(f"the config's {rule.config} is {_shown(stated)}; known are {known}")
    else:
        kinds = _and([*offered]) if isinstance(offered, dict) else "one kind only"
        reasons.append(f"--activation {choice}: the config's {rule.config} is {name}: {kinds}")
    return name, ""


def _entry(
    pair: Pair, variable: Variable, strip: str, options: Options, reasons: list[str]
) -> Entry:
    if variable.tf_dtype not in FLOATS:
        reasons.append(f"{variable.name} is {variable.tf_dtype}; weights are {_and([*FLOATS])}")
    transform = TRANSFORMS[pair.op]
    return Entry(
        tensor=pair.tensor.removeprefix(strip),
        variable=variable.name,
        name=pair.names[0],
        op=pair.op,
        group=pair.group,
        shape=transform.shape(variable.shape),
        dtype=variable.tf_dtype if options.dtype == "keep" else options.dtype,
    )


def _unknown(name: str, variable: Variable, written: _Found, mapping: MappingFile) -> str:
    shown = f"{_cut(variable.name)} ({variable.tf_dtype} {list(variable.shape)})"
    for pair, other in written:
        if other is not None and any(
            alias == name or any(_matching(alias, [name])) for alias in pair.names
        ):
            return f"{shown} is there twice: {other.name} means the same tensor, {pair.tensor}"
    return f"{shown} is unknown to the mapping {mapping.name}" + _nearest(
        name, [pair.names[0] for pair, _ in written]
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, islice(names, 1000), 1)
    return f" (nearest: {found[0]})" if found else ""


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _shown(value: object) -> str:
    try:
        return _cut(repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _shorten(reasons: list[str]) -> list[str]:
    rest = len(reasons) - _MOST_SHOWN
    return reasons if rest <= 0 else [*reasons[:_MOST_SHOWN], f"... and {rest:,} more"]
