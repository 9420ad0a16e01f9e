"""Rules that say which variable becomes which tensor: read from TOML, checked, expanded.

A rule is expanded to exact names, never matched, so that what a checkpoint must hold is known
before it is opened, and the same rules serve in both directions. The form of a mapping file is
described in docs/mapping-files.md.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

import msgspec
from msgspec import Struct, field

from .errors import MappingError
from .transforms import TRANSFORMS

FOLDER = Path(__file__).parent.parent / "mappings"

_NAME = re.compile(r"\w[\w.-]{0,63}")  # it is part of a file's name, see release.py
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9}|[A-Za-z_]\w*)")
_LOOP = re.compile(r"\{([^}]*)\}")
_QUOTIENT = re.compile(r"(\w+)/([1-9][0-9]{0,8})")
_LARGEST_FILE = 1 << 20  # bytes; ours has 12,000
_MOST_PAIRS = 200_000  # BERT-Large has 400
_MOST_SHOWN = 20  # problems
# The time that a pattern may take is a power of its stars and of the name's length.
_MOST_STARS = 4
_LONGEST_NAME = 1000  # letters; TensorFlow sets no bound


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

        Raises:
            MappingError: there are too many.
        """
        wanted = set(groups)
        rules = [(g.name, rule) for g in self.group if g.name in wanted for rule in g.variable]
        count = sum(_count(rule, sizes) for _, rule in rules)
        if count > _MOST_PAIRS:
            raise MappingError(
                f"the mapping {self.name} stands for {count:,} variables at these sizes; at most"
                f" {_MOST_PAIRS:,} are taken"
            )
        return [pair for group, rule in rules for pair in _expand(group, rule, sizes)]

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
        """What stands before a loop's number in the variables' names: `bert/encoder/layer_`.

        Other loops before it stand as a `*`.
        """
        return {
            _LOOP.sub("*", name[: name.index("{" + loop + "}")])
            for group in self.group
            for rule in group.variable
            for loop, values in rule.loops.items()
            if isinstance(values, str) and values.endswith(f"..{symbol}")
            for name in rule.names
        }

    def why_dropped(self, name: str) -> str | None:
        """The reason for which a variable of this name is left behind, if it is."""
        if len(name) > _LONGEST_NAME:
            return None
        pattern, reasons = _drops(tuple((t, d.reason) for d in self.drop for t in _list(d.tf)))
        found = pattern.fullmatch(name)
        return reasons[found.lastindex - 1] if found and found.lastindex else None


def _count(rule: VariableRule, sizes: Mapping[str, int]) -> int:
    return math.prod(len(_values(loop, sizes)) for loop in rule.loops.values())


def _expand(group: str, rule: VariableRule, sizes: Mapping[str, int]) -> Iterator[Pair]:
    values = [_values(loop, sizes) for loop in rule.loops.values()]
    for combination in product(*values):
        names, tensor = rule.names, rule.pt
        for loop, value in zip(rule.loops, combination, strict=True):
            names = [name.replace("{" + loop + "}", str(value)) for name in names]
            tensor = tensor.replace("{" + loop + "}", str(value))
        yield Pair(group, tuple(names), tensor, tuple(rule.shape), rule.op)


def _values(loop: str | list[str], sizes: Mapping[str, int]) -> Sequence[str | int]:
    if isinstance(loop, list):
        return loop
    start, _, end = loop.partition("..")
    return range(int(start), int(end) if end.isdigit() else sizes[end])


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
            raise MappingError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > _LARGEST_FILE:
            raise MappingError(f"{path}: too large to be a mapping file")
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # as some editors begin a file
        mapping = msgspec.toml.decode(data, type=MappingFile)
    except UnicodeDecodeError as error:
        raise MappingError(f"{path}: no mapping file, for it is not UTF-8: {error}") from error
    except (OSError, ValueError, RecursionError) as error:  # msgspec's and tomllib's among them
        raise MappingError(f"{path}: {error}") from error
    problems = list(_problems(mapping))
    if problems:
        if len(problems) > _MOST_SHOWN:
            problems[_MOST_SHOWN:] = [f"... and {len(problems) - _MOST_SHOWN:,} more"]
        raise MappingError("\n".join(f"{path}: {problem}" for problem in problems))
    return mapping


def builtin_mappings() -> dict[str, Path]:
    """The mapping files that come with bertconvert, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def _problems(mapping: MappingFile) -> Iterator[str]:
    """Whatever would make a rule mean nothing, or two things; with the key of each."""
    before = 0
    if not _NAME.fullmatch(mapping.name):
        yield f"name = {mapping.name!r}: it takes letters, digits, and - _ . between them"
    for g, group in enumerate(mapping.group):
        if not group.variable:
            yield f"group[{g}] ({group.name}): it has no variable"
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
    elif all(architecture.explicit for architecture in mapping.architecture):
        yield "architecture: all are `explicit = true`, so none would ever be chosen"
    for t, tie in enumerate(mapping.tie):
        if tie.group and tie.group not in names:
            yield f"tie[{t}]: there is no group {tie.group!r}"
    for d, drop in enumerate(mapping.drop):
        for pattern in _list(drop.tf):
            yield from (f"drop[{d}]: {problem}" for problem in _pattern_problems(pattern))
    for symbol, size in mapping.sizes.items():
        if isinstance(size, SizeRule):
            quotient = _QUOTIENT.fullmatch(size.assume)
            if quotient is None or not isinstance(mapping.sizes.get(quotient[1]), str):
                yield f'sizes.{symbol}: assume = {size.assume!r} is not like "H/64"'
            if size.divides and not isinstance(mapping.sizes.get(size.divides), str):
                yield f"sizes.{symbol}: divides = {size.divides!r} is no symbol of a shape"
    keys = [mapping.size_key(symbol) for symbol in mapping.sizes]
    keys += [*mapping.config, *mapping.defaults]
    if mapping.activation:
        keys.append(mapping.activation.config)
        if mapping.activation.default not in mapping.activation.names:
            yield f"activation: default {mapping.activation.default!r} is none of its names"
        for name, offered in mapping.activation.names.items():
            if name != name.lower():
                yield f"activation.names.{name}: names are compared in small letters"
            if not offered:
                yield f"activation.names.{name}: there is no name of transformers"
    yield from (f"{key}: the config's key is set twice" for key in _repeated(keys))
    if not before:
        yield from _expansion_problems(mapping)


def _rule_problems(rule: VariableRule, mapping: MappingFile) -> Iterator[str]:
    for loop, values in rule.loops.items():
        span = _RANGE.fullmatch(values) if isinstance(values, str) else None
        if isinstance(values, str) and span is None:
            yield f'for.{loop} = {values!r} is neither a list nor like "0..L"'
        elif isinstance(values, list) and (
            not values or len(set(values)) < len(values) or re.search(r"[*{}]", "".join(values))
        ):
            yield f"for.{loop} = {values!r}: it takes values that differ, without * {{ }}"
        elif span and not span[2].isdigit() and not isinstance(mapping.sizes.get(span[2]), str):
            yield f"for.{loop} = {values!r}: {span[2]} is not in [sizes]"
        elif span and span[2].isdigit() and int(span[1]) >= int(span[2]):
            yield f"for.{loop} = {values!r} holds no number"
    if not all([*rule.names, rule.names, rule.pt]):
        yield "tf or pt: no name"
    for name in rule.names[1:]:
        yield from _pattern_problems(name)
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


def _pattern_problems(pattern: str) -> Iterator[str]:
    stars = re.findall(r"(?:^|(?<=/))\*\*/|\*+", pattern)
    if any(len(star) > 1 and not star.endswith("/") for star in stars):
        yield f"{pattern!r}: `**/` stands for whole folders, before a name; all else takes one `*`"
    if len(stars) > _MOST_STARS:
        yield f"{pattern!r}: at most {_MOST_STARS} `*` are taken"


def _expansion_problems(mapping: MappingFile) -> Iterator[str]:
    sizes = dict.fromkeys(mapping.sizes, 2)
    count = sum(_count(rule, sizes) for group in mapping.group for rule in group.variable)
    if count > _MOST_PAIRS:
        yield f"group: the rules stand for {count:,} variables; at most {_MOST_PAIRS:,} are taken"
        return
    every = mapping.expand(sizes, [group.name for group in mapping.group])
    if mapping.detect not in {pair.names[0] for pair in every}:
        yield f"detect = {mapping.detect!r} is the first name of no variable"
    tensors = {pair.tensor for pair in every}
    for t, tie in enumerate(mapping.tie):
        if tie.to not in tensors or tie.pt in tensors:
            yield f"tie[{t}]: `to` must be a tensor of a rule, and `pt` none"
    taken = {
        reason: name
        for pair in reversed(every)
        for name in pair.names
        if "*" not in name and (reason := mapping.why_dropped(name)) is not None
    }
    for d, drop in enumerate(mapping.drop):
        if drop.reason in taken:
            yield f"drop[{d}] ({drop.reason}): takes {taken[drop.reason]}, which a rule maps"
    seen = set()
    for architecture in mapping.architecture:
        pairs = mapping.expand(sizes, [*architecture.groups, *architecture.optional])
        for key, names in (
            ("tf", [name for pair in pairs for name in dict.fromkeys(pair.names)]),
            ("pt", [pair.tensor for pair in pairs]),
        ):
            for name in _repeated(names):
                if (key, name) not in seen:
                    yield f"{architecture.name}: two variables have {key} = {name!r}"
                seen.add((key, name))


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
