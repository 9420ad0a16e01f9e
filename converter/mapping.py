"""Rules that say which variable becomes which tensor: read from TOML, checked, expanded.

A rule is expanded to exact names, never matched, so that what a checkpoint must hold is known
before it is opened, and the same rules serve in both directions. The form of a mapping file is
described in docs/mapping-files.md.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from pathlib import Path

import msgspec
from msgspec import Struct, field

from .errors import MappingError
from .transforms import TRANSFORMS

FOLDER = Path(__file__).parent.parent / "mappings"

_RANGE = re.compile(r"(\d+)\.\.(\w+)")
_LOOP = re.compile(r"\{([^}]*)\}")
_QUOTIENT = re.compile(r"(\w+)/([1-9]\d*)")


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class SizeRule(_Table, frozen=True):
    """A symbol that no variable's shape tells."""

    config: str
    assume: str  # such as "H/64", where the config is silent
    divides: str = ""  # the symbol that it must divide

    def assumed(self, sizes: Mapping[str, int]) -> int:
        """The value where nothing says another; at least 1."""
        symbol, _, divisor = self.assume.partition("/")
        return max(1, sizes[symbol] // int(divisor))


class VariableRule(_Table, frozen=True):
    """One variable, or one for every combination of the loops' values."""

    tf: str | list[str]
    pt: str
    shape: list[str | int]  # as TensorFlow holds it: symbols or numbers
    op: str = "identity"
    loops: dict[str, str | list[str]] = field(name="for", default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [self.tf] if isinstance(self.tf, str) else self.tf


class Group(_Table, frozen=True):
    """Variables that are all there, or none of them."""

    name: str
    variable: list[VariableRule]
    required: bool = False
    absent: str = ""  # what a person should know where an optional group is not there


class Architecture(_Table, frozen=True):
    """A class of transformers, and the groups that fill it."""

    name: str = field(name="class")
    groups: list[str]
    optional: list[str] = []  # written where they are there
    head: str = ""  # what --head calls it
    pipeline: str = ""  # the Hub's pipeline_tag
    explicit: bool = False  # only --head chooses it


class Drop(_Table, frozen=True):
    tf: str | list[str]
    reason: str


class Tie(_Table, frozen=True):
    """A tensor that the model shares with another, so that it is not written."""

    pt: str
    to: str
    group: str = ""  # whose part it is; without one, of every model that has `to`


class Activation(_Table, frozen=True):
    """The config's key, and TensorFlow's names of activations -> transformers' ones."""

    config: str
    default: str
    names: dict[str, str | dict[str, str]]  # a table offers several, by --activation's words


class Pair(Struct, frozen=True):
    """One variable and the tensor that it becomes: a rule, expanded."""

    group: str
    names: tuple[str, ...]  # in TensorFlow: Google's own first; the others may hold a `*`
    tensor: str  # in PyTorch
    shape: tuple[str | int, ...]  # as TensorFlow holds it
    op: str


class MappingFile(_Table, frozen=True):
    """What a mapping file holds."""

    name: str
    detect: str
    group: list[Group]
    architecture: list[Architecture]
    model_type: str
    about: str = ""
    sizes: dict[str, str | SizeRule] = {}
    config: dict[str, str | int | float | bool] = {}
    defaults: dict[str, str | int | float | bool] = {}
    activation: Activation | None = None
    drop: list[Drop] = []
    tie: list[Tie] = []

    def size_key(self, symbol: str) -> str:
        """The config key of a symbol."""
        rule = self.sizes[symbol]
        return rule if isinstance(rule, str) else rule.config

    def expand(self, sizes: Mapping[str, int], groups: Iterable[str]) -> list[Pair]:
        """Every pair of the groups, in the file's order.

        Args:
            sizes: at least the symbols that bound a loop.
            groups: the groups' names.
        """
        wanted = set(groups)
        return [
            pair
            for group in self.group
            if group.name in wanted
            for rule in group.variable
            for pair in _expand(group.name, rule, sizes)
        ]

    def loop_sizes(self) -> set[str]:
        """The symbols that bound a loop, which variables' names tell."""
        return {
            bound
            for group in self.group
            for rule in group.variable
            for loop in rule.loops.values()
            if isinstance(loop, str)
            for bound in [loop.partition("..")[2]]
            if not bound.isdigit()
        }

    def loop_prefixes(self, symbol: str) -> set[str]:
        """What stands before a loop's number in the variables' names: `bert/encoder/layer_`."""
        return {
            name[: name.index("{" + loop + "}")]
            for group in self.group
            for rule in group.variable
            for loop, values in rule.loops.items()
            if isinstance(values, str) and values.endswith(f"..{symbol}")
            for name in rule.names
        }

    def why_dropped(self, name: str) -> str | None:
        """The reason for which a variable of this name is left behind, if it is."""
        pattern, reasons = _drops(tuple((t, d.reason) for d in self.drop for t in _list(d.tf)))
        found = pattern.fullmatch(name)
        return reasons[found.lastindex - 1] if found and found.lastindex else None


def _expand(group: str, rule: VariableRule, sizes: Mapping[str, int]) -> Iterator[Pair]:
    values = [_values(loop, sizes) for loop in rule.loops.values()]
    for combination in product(*values):
        names, tensor = rule.names, rule.pt
        for loop, value in zip(rule.loops, combination, strict=True):
            names = [name.replace("{" + loop + "}", value) for name in names]
            tensor = tensor.replace("{" + loop + "}", value)
        yield Pair(group, tuple(names), tensor, tuple(rule.shape), rule.op)


def _values(loop: str | list[str], sizes: Mapping[str, int]) -> list[str]:
    if isinstance(loop, list):
        return loop
    start, _, end = loop.partition("..")
    return [str(n) for n in range(int(start), int(end) if end.isdigit() else sizes[end])]


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@lru_cache
def wildcard(pattern: str) -> re.Pattern[str]:
    """A name's pattern: `*` is any letters but `/`, and `**/` any folders or none."""
    return re.compile(_wildcard(pattern))


def _wildcard(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*)", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return "".join(known.get(part) or re.escape(part) for part in parts)


@lru_cache
def _drops(drops: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], list[str]]:
    alternatives = "|".join(f"({_wildcard(pattern)})" for pattern, _ in drops)
    return re.compile(alternatives or r"(?!)"), [reason for _, reason in drops]


def load_mapping(path: Path) -> MappingFile:
    """Read a mapping file and check that its rules make sense.

    Raises:
        MappingError: it can't be read, or is wrong; the text names the line or the key.
    """
    try:
        if not path.is_file():
            raise MappingError(f"{path}: no such mapping file")
        mapping = msgspec.toml.decode(path.read_bytes(), type=MappingFile)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise MappingError(f"{path}: {error}") from error
    problems = list(_problems(mapping))
    if problems:
        raise MappingError("\n".join(f"{path}: {problem}" for problem in problems))
    return mapping


def builtin_mappings() -> list[Path]:
    """The mapping files that come with bertconvert."""
    return sorted(FOLDER.glob("*.toml"))


def _problems(mapping: MappingFile) -> Iterator[str]:
    """Whatever would make a rule mean nothing, or two things; with the key of each."""
    before = 0
    for g, group in enumerate(mapping.group):
        for v, rule in enumerate(group.variable):
            for problem in _rule_problems(rule, mapping):
                before += 1
                yield f"group[{g}] ({group.name}) variable[{v}]: {problem}"
    names = [group.name for group in mapping.group]
    yield from (f"group: {name} is there twice" for name in _repeated(names))
    required = {group.name for group in mapping.group if group.required}
    if not required:
        yield "group: none is `required = true`, so anything would fit"
    yield from (
        f"architecture: head {head!r} is there twice"
        for head in _repeated([a.head for a in mapping.architecture if a.head])
    )
    for a, architecture in enumerate(mapping.architecture):
        place = f"architecture[{a}] ({architecture.name})"
        unknown = {*architecture.groups, *architecture.optional} - set(names)
        yield from (f"{place}: there is no group {name!r}" for name in sorted(unknown))
        missing = required - set(architecture.groups)
        yield from (f"{place}: lacks the required group {name!r}" for name in sorted(missing))
    if not mapping.architecture:
        yield "architecture: there is none"
    for symbol, size in mapping.sizes.items():
        if isinstance(size, SizeRule):
            quotient = _QUOTIENT.fullmatch(size.assume)
            if quotient is None or not isinstance(mapping.sizes.get(quotient[1]), str):
                yield f'sizes.{symbol}: assume = {size.assume!r} is not like "H/64"'
            if size.divides and not isinstance(mapping.sizes.get(size.divides), str):
                yield f"sizes.{symbol}: divides = {size.divides!r} is no symbol of a shape"
    if mapping.activation and mapping.activation.default not in mapping.activation.names:
        yield f"activation: default {mapping.activation.default!r} is none of its names"
    if not before:
        yield from _expansion_problems(mapping)


def _rule_problems(rule: VariableRule, mapping: MappingFile) -> Iterator[str]:
    for loop, values in rule.loops.items():
        span = _RANGE.fullmatch(values) if isinstance(values, str) else None
        if isinstance(values, str) and span is None:
            yield f'for.{loop} = {values!r} is neither a list nor like "0..L"'
        elif span and not span[2].isdigit() and not isinstance(mapping.sizes.get(span[2]), str):
            yield f"for.{loop} = {values!r}: {span[2]} is not in [sizes]"
    if not rule.names:
        yield "tf: no name"
    for key, name in [*(("tf", name) for name in rule.names), ("pt", rule.pt)]:
        used = set(_LOOP.findall(name))
        yield from (f"{key} = {name!r}: {{{u}}} is not in `for`" for u in used - set(rule.loops))
        yield from (f"{key} = {name!r} lacks {{{u}}} of `for`" for u in set(rule.loops) - used)
    if "*" in (rule.names or [""])[0] or "*" in rule.pt:
        yield "a `*` may stand only in the second name of tf and those after it"
    for size in rule.shape:
        if isinstance(size, str) and not isinstance(mapping.sizes.get(size), str):
            yield f"shape: {size!r} is not in [sizes]"
        elif isinstance(size, int) and size < 1:
            yield f"shape: {size} is no size"
    if rule.op not in TRANSFORMS:
        yield f"op = {rule.op!r} is none of {', '.join(TRANSFORMS)}"
    elif len(rule.shape) not in TRANSFORMS[rule.op].ranks:
        yield f"op = {rule.op!r} does not take {len(rule.shape)} dimensions"


def _expansion_problems(mapping: MappingFile) -> Iterator[str]:
    sizes = dict.fromkeys(mapping.sizes, 2)
    every = mapping.expand(sizes, [group.name for group in mapping.group])
    if mapping.detect not in {pair.names[0] for pair in every}:
        yield f"detect = {mapping.detect!r} is the first name of no variable"
    tensors = {pair.tensor for pair in every}
    for t, tie in enumerate(mapping.tie):
        if tie.to not in tensors or tie.pt in tensors:
            yield f"tie[{t}]: `to` must be a tensor of a rule, and `pt` none"
    for architecture in mapping.architecture:
        pairs = mapping.expand(sizes, [*architecture.groups, *architecture.optional])
        for key, names in (
            ("tf", [name for pair in pairs for name in dict.fromkeys(pair.names)]),
            ("pt", [pair.tensor for pair in pairs]),
        ):
            for name in _repeated(names):
                yield f"{architecture.name}: two variables have {key} = {name!r}"


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
