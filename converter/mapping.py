"""Rules that say which variable becomes which tensor: read from TOML, checked, expanded.

A rule is expanded to exact names, never matched. So what a checkpoint must hold is known before it
is opened, and the same rules serve in both directions. docs/mapping-files.md describes the form of
a mapping file.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct, field

from .errors import MappingError
from .expressions import evaluate, symbols_of
from .tokenizers.registry import Role
from .transforms import TRANSFORMS

FOLDER = Path(__file__).parent.parent / "mappings"
HEADLESS = "none"  # what --head calls the class without a head

# The first use compiles them: `check` alone needs most.
_NAME = r"\w[\w.-]{0,63}"  # it is part of a file's name, see releases.py
_RANGE = r"([0-9]{1,9})\.\.([0-9]{1,9}|([A-Za-z_]\w*)(?:-([1-9][0-9]?))?)"
_LOOP = r"\{([^}]*)\}"
_EQUATION = r"(\w+) = (\w+)"
_QUOTIENT = r"(\w+)/([1-9][0-9]{0,8})"
_MOST_PAIRS = 200_000  # a model of 24 layers has 400
LONGEST_NAME = 1000  # characters; the time that a pattern takes is a power of a name's length

_MOST_FOLDERS = 3  # `**/` in a pattern
_LONGEST_EXPRESSION = 64  # characters of a size in a shape

Value = str | int | float | bool
T = TypeVar("T", bound=Struct)
Item = TypeVar("Item")


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class FileRule(_Table, frozen=True):
    """How a file that belongs to a checkpoint is found."""

    name: str
    pattern: str = ""  # a regular expression, for where no file has the name


class ConfigRule(FileRule, frozen=True):
    """How a config is found, and what tells it from that of another model."""

    has: list[str] = []  # keys that every such config has
    keys: list[str] = []  # those of `config` that are keys of the original config, too


class VocabularyRule(FileRule, frozen=True):
    """How a vocabulary is found, and what it is."""

    tokenizer: str = ""  # its kind, if it is not the mapping's


class Files(_Table, frozen=True):
    """The files that the original code writes, or expects, next to a checkpoint."""

    config: ConfigRule | None = None
    vocabulary: VocabularyRule | list[VocabularyRule] | None = None
    labels: str = ""  # a pattern of names
    prefixes: list[str] = []  # usual names of a checkpoint, to ask for where nothing lists files


class Roles(_Table, frozen=True):
    """The symbols that mean the same in every model; "" where the model has no such size."""

    vocabulary: str = ""  # tokens
    positions: str = ""
    segments: str = ""  # token types
    labels: str = ""
    heads: str = ""  # of attention
    layers: str = ""
    hidden: str = ""


class SizeRule(_Table, frozen=True):
    """A symbol that no variable's shape tells."""

    config: str
    assume: str = ""  # such as "H/64", if the config has no value; "" if there is no usual one
    divides: str = ""  # the symbol that it must divide

    def assumed(self, sizes: Mapping[str, int]) -> int:
        """The value if nothing gives another; at least 1."""
        symbol, _, divisor = self.assume.partition("/")
        return max(1, sizes[symbol] // int(divisor))


class Default(_Table, frozen=True):
    """A value that the original config may have, and the range that it must be in."""

    value: Value | None = None  # without one, the key is written if the config has it: a number
    least: float = -math.inf
    most: float = math.inf
    computes: bool = False  # whether the model computes something else with another value

    @property
    def range(self) -> str:
        """The range in words."""
        if math.inf in (self.most, -self.least):
            return f"at least {self.least:g}" if self.most == math.inf else f"at most {self.most:g}"
        return f"between {self.least:g} and {self.most:g}"


class Foreign(_Table, frozen=True):
    """A key of another model's config."""

    of: str  # the models
    unless: Value | None = None  # the value, or the symbol of the size, with which it means nothing


class VariableRule(_Table, frozen=True):
    """One variable, or one for every combination of the loops' values."""

    tf: str | list[str]
    pt: str
    # As TensorFlow stores it: symbols, expressions or numbers. A list inside is taken as one
    # dimension.
    shape: list[str | int | list[str | int]]
    op: str = "identity"
    loops: dict[str, str | list[str]] = field(name="for", default_factory=dict)
    prefer: str = ""  # why the others are skipped, if the checkpoint has several of the names

    @property
    def names(self) -> list[str]:
        return _list(self.tf)

    @property
    def stored(self) -> tuple[str | int, ...]:
        """The dimensions in TensorFlow."""
        return tuple(d for dims in self.shape for d in (dims if isinstance(dims, list) else [dims]))

    @property
    def merged(self) -> tuple[int, ...]:
        """How many of the stored dimensions each dimension is made of."""
        return tuple(len(dims) if isinstance(dims, list) else 1 for dims in self.shape)


class Group(_Table, frozen=True):
    """Variables that a checkpoint has all together, or not at all."""

    name: str
    variable: list[VariableRule]
    required: bool = False
    absent: str = ""  # what a person should know if an optional group is missing
    instead: str = ""  # the group that it stands for, if only --head can tell that it does
    unless: str = ""  # such as "E = H": it is there exactly if the two sizes differ

    def is_needed(self, sizes: Mapping[str, int]) -> bool:
        """Whether a model of these sizes has the group."""
        one, _, other = self.unless.partition(" = ")
        return not self.unless or sizes.get(one) != sizes.get(other)


class Architecture(_Table, frozen=True):
    """A class of transformers, and the groups that fill it."""

    name: str = field(name="class")
    groups: list[str]
    optional: list[str] = []  # written if the checkpoint has them
    head: str = ""  # what --head calls it
    auto: str = ""  # the Auto class that loads it
    pipeline: str = ""  # the Hub's pipeline_tag
    strip: str = ""  # taken off the start of every tensor's name
    without: dict[str, str] = {}  # an optional group -> from_pretrained's argument if it is missing
    explicit: bool = False  # only --head or the config chooses it
    needs: dict[str, int] = {}  # a symbol -> the only size that the class may have
    problem_type: bool = False  # whether config.json's problem_type chooses its loss


class Drop(_Table, frozen=True):
    """Variables that are not weights."""

    tf: str | list[str]
    reason: str


class Refusal(_Table, frozen=True):
    """Variables that no rule maps, and by which a checkpoint can't be converted."""

    tf: str | list[str]
    reason: str  # a sentence that says what they are


class Tie(_Table, frozen=True):
    """A tensor that the model shares with another, so that it is not written."""

    pt: str
    to: str
    group: str = ""  # the group that it is part of; without one, of every model that has `to`


class Activation(_Table, frozen=True):
    """The config's key, and TensorFlow's names of activations -> transformers' names."""

    config: str
    default: str
    names: dict[str, str | dict[str, str]]  # a table offers several, by --activation's words

    def form(self, activation: tuple[str, str]) -> str:
        """The word of --activation for a function; "auto" if its name has only one form.

        Args:
            activation: TensorFlow's name and transformers' name.
        """
        offered = self.names.get(activation[0])
        forms = offered.items() if isinstance(offered, dict) else ()
        function = same_function(activation[1])
        return next((word for word, name in forms if same_function(name) == function), "auto")

    def of_transformers(self, stated: object) -> tuple[str, str] | None:
        """TensorFlow's name and its form, for transformers' name of a function; None if unknown."""
        function = same_function(stated)
        for name, offered in self.names.items():
            forms = offered if isinstance(offered, dict) else {"auto": offered}
            for word, known in forms.items():
                if same_function(known) == function:
                    return name, word
        return None


# Other names of transformers (ACT2FN in activations.py) for the same functions.
_ALIASES = {
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_accurate": "gelu_pytorch_tanh",
    "gelu_python_tanh": "gelu_pytorch_tanh",
    "gelu_python": "gelu",
}


def same_function(activation: object) -> str:
    """One name for all of transformers' names of one function."""
    return _ALIASES.get(str(activation), str(activation))


class Paper(_Table, frozen=True):
    """A publication that describes the model."""

    title: str
    arxiv: str = ""


class Card(_Table, frozen=True):
    """What the model card says about this kind of model."""

    source: str = "TensorFlow 1 checkpoint"  # what such a model is converted from
    papers: list[Paper] = []
    license: str = ""  # if the checkpoint has the sizes of a release whose license is known
    license_unknown: str = ""  # if not
    activations: dict[str, str] = {}  # by transformers' name


class Pair(Struct, frozen=True):
    """One variable and the tensor that it becomes: a rule, expanded."""

    group: str
    names: tuple[str, ...]  # in TensorFlow: the original name first; the others may hold a `*`
    tensor: str  # in PyTorch
    shape: tuple[str | int, ...]  # as TensorFlow stores it
    op: str
    merged: tuple[int, ...] = ()  # how many dimensions of `shape` the op takes as one
    prefer: str = ""


class Header(Struct, frozen=True):
    """What of a mapping file tells whether it fits a checkpoint: some keys before its tables."""

    name: str
    detect: str | list[str]
    model_type: str
    lacks: str | list[str] = []
    names: Literal["checkpoint", "full"] = "checkpoint"

    @property
    def detects(self) -> list[str]:
        """The variables that a checkpoint of this kind has, all in one scope."""
        return _list(self.detect)


class MappingFile(Header, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """The content of a mapping file."""

    group: list[Group]
    architecture: list[Architecture]
    about: str = ""
    title: str = ""
    include: list[str] = []
    tokenizer: str = ""
    lower_case: str | list[str] = []  # patterns of a bool variable that says whether text is
    reference: str = ""
    class_key: str = ""  # the config's key that lists classes, which tells between those that fit
    files: Files = field(default_factory=Files)
    sizes: dict[str, str | SizeRule] = {}
    roles: Roles = field(default_factory=Roles)
    config: dict[str, Value] = {}
    flags: dict[str, str] = {}  # config.json's key -> the group by which it is true
    token_ids: dict[str, Role] = {}  # config.json's key -> the token whose row it is
    defaults: dict[str, Value | Default] = {}
    neutral: dict[str, Value] = {}
    foreign: dict[str, Foreign] = {}
    implied: dict[str, Value] = {}
    activation: Activation | None = None
    spelling: dict[str, str] = {}
    drop: list[Drop] = []
    refuse: list[Refusal] = []
    tie: list[Tie] = []
    card: Card = field(default_factory=Card)

    @property
    def vocabularies(self) -> list[VocabularyRule]:
        """A rule for each file that may be the vocabulary; each names its kind of tokenizer."""
        named = [
            msgspec.structs.replace(rule, tokenizer=rule.tokenizer or self.tokenizer)
            for rule in _list(self.files.vocabulary or [])
        ]
        return [rule for rule in named if rule.tokenizer]

    @property
    def tokenizers(self) -> list[str]:
        """The kinds of tokenizers that such a model may have; [] if none is known."""
        kinds = [rule.tokenizer for rule in self.vocabularies] or [self.tokenizer]
        return list(dict.fromkeys(filter(None, kinds)))

    @property
    def headless(self) -> Architecture | None:
        """The class without a head."""
        return next((a for a in self.architecture if a.head == HEADLESS), None)

    @cached_property
    def folders(self) -> list[str]:
        """What the names of the model without its heads start with, such as `memo/`.

        A folder that heads have, too, is inside only if a required group is in it.
        """
        headless = self.headless
        names = {*headless.groups, *headless.optional} if headless else set()
        required = [group for group in self.group if group.required]
        without_head = [group for group in self.group if group.name in names]
        heads = [group for group in self.group if group not in (*required, *without_head)]
        return sorted(self._roots(required) | self._roots(without_head) - self._roots(heads))

    def _roots(self, groups: Iterable[Group]) -> set[str]:
        return {
            re.split(r"[{*]", f"{name.partition('/')[0]}/")[0]
            for group in groups
            for rule in group.variable
            for name in self.names_of(rule)
        }

    def size_key(self, symbol: str) -> str:
        """The config key of a symbol."""
        rule = self.sizes[symbol]
        return rule if isinstance(rule, str) else rule.config

    def default(self, key: str) -> Default:
        """The rule of a key of `defaults`."""
        rule = self.defaults[key]
        return rule if isinstance(rule, Default) else Default(rule)

    def names_of(self, rule: VariableRule) -> list[str]:
        """The names of a rule's variable: the original one, its aliases, and its other spelling."""
        parts = rule.names[0].split("/")
        spelled = "/".join(self.spelling.get(part, part) for part in parts)
        return rule.names if spelled in rule.names else [*rule.names, spelled]

    def expand(self, sizes: Mapping[str, int], groups: Iterable[str]) -> list[Pair]:
        """Every pair of the groups, in the order of the forward pass.

        That is the file's order, but rules with the same numbered loop are taken together: layer
        by layer, at the place of the first of them.

        Args:
            sizes: at least the symbols that bound a loop.
            groups: the groups' names.

        Raises:
            MappingError: there are too many.
        """
        wanted = set(groups)
        rules = [
            (group.name, rule, self.names_of(rule))
            for group in self.group
            if group.name in wanted
            for rule in group.variable
        ]
        count = sum(_count(rule, sizes) for _, rule, _ in rules)
        if count > _MOST_PAIRS:
            raise MappingError(
                f"the mapping {self.name} expands to {count:,} variables at these sizes; the limit"
                f" is {_MOST_PAIRS:,}"
            )
        return list(_expand(rules, {}, sizes))

    def loop_sizes(self) -> set[str]:
        """The symbols that bound a loop, which variables' names tell."""
        return {
            bound
            for group in self.group
            for rule in group.variable
            for loop in rule.loops.values()
            if isinstance(loop, str)
            for bound in symbols_of(loop.partition("..")[2])
        }

    def loop_rest(self, symbol: str) -> int:
        """What is missing from the number of loops to the size: 1 for a loop up to `F-1`."""
        ends = (
            loop.partition("..")[2]
            for group in self.group
            for rule in group.variable
            for loop in rule.loops.values()
            if isinstance(loop, str)
        )
        return next((int(e.partition("-")[2] or 0) for e in ends if symbols_of(e) == [symbol]), 0)

    def loop_prefixes(self, symbol: str) -> set[str]:
        """What precedes a loop's number in the variables' names, such as `encoder/layer_`.

        Other loops before it become a `*`.
        """
        return {
            re.sub(_LOOP, "*", name[: name.index("{" + loop + "}")])
            for group in self.group
            for rule in group.variable
            for loop, values in rule.loops.items()
            if isinstance(values, str) and symbols_of(values.partition("..")[2]) == [symbol]
            for name in self.names_of(rule)
        }


class _Shared(_Table, frozen=True):
    """The content of a file in mappings/shared/."""

    drop: list[Drop]


_Rules = list[tuple[str, VariableRule, list[str]]]  # each with its group and its names


def _expand(rules: _Rules, numbers: Mapping[str, str], sizes: Mapping[str, int]) -> Iterator[Pair]:
    """Expand rules; `numbers` has the values of the numbered loops around them."""
    blocks: dict[object, _Rules] = {}
    for position, item in enumerate(rules):
        loops = item[1].loops.items()
        inner = (loop for loop in loops if isinstance(loop[1], str) and loop[0] not in numbers)
        blocks.setdefault(next(inner, position), []).append(item)
    for key, block in blocks.items():
        if isinstance(key, tuple):
            loop, span = key
            for value in _values(span, sizes):
                yield from _expand(block, {**numbers, loop: str(value)}, sizes)
        else:
            yield from _expand_words(*block[0], numbers)


def _expand_words(
    group: str, rule: VariableRule, names: list[str], numbers: Mapping[str, str]
) -> Iterator[Pair]:
    words = {loop: values for loop, values in rule.loops.items() if isinstance(values, list)}
    for combination in product(*words.values()):
        filled, tensor = names, rule.pt
        for loop, value in [*numbers.items(), *zip(words, combination, strict=True)]:
            filled = [name.replace("{" + loop + "}", value) for name in filled]
            tensor = tensor.replace("{" + loop + "}", value)
        yield Pair(group, tuple(filled), tensor, rule.stored, rule.op, rule.merged, rule.prefer)


def _count(rule: VariableRule, sizes: Mapping[str, int]) -> int:
    return math.prod(len(_values(loop, sizes)) for loop in rule.loops.values())


def _values(loop: str | list[str], sizes: Mapping[str, int]) -> Sequence[str | int]:
    if isinstance(loop, list):
        return loop
    start, _, end = loop.partition("..")
    return range(int(start), evaluate(end, sizes) or 0)


def _list(value: Item | list[Item]) -> list[Item]:
    return value if isinstance(value, list) else [value]


@lru_cache
def wildcard(pattern: str) -> re.Pattern[str]:
    """A name's pattern: `*` is any characters but `/`, and `**/` any folders or none."""
    return re.compile(_wildcard(pattern))


def _wildcard(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*)", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*"}
    expression = ""
    for at in range(0, len(parts) - 1, 2):
        expression += re.escape(parts[at])
        if parts[at + 1] == "*" and parts[at + 2] and parts[at + 3 : at + 4] == ["*"]:
            # What is between two stars is found where it is first: no other place helps the rest,
            # and to try them all would take the time of a power of the name's length.
            expression += f"(?>[^/]*?{re.escape(parts[at + 2])})"
            parts[at + 2] = ""
        else:
            expression += known[parts[at + 1]]
    return expression + re.escape(parts[-1])


def dropper(drops: Iterable[Drop | Refusal]) -> Callable[[str], str | None]:
    """What tells the reason why a variable of a name is skipped; None if it is not."""
    reasons: dict[str, str] = {}
    for drop in drops:
        for pattern in _list(drop.tf):
            reasons.setdefault(pattern, drop.reason)
    patterns = [pattern for pattern in reasons if "*" in pattern]
    either = re.compile("|".join(f"({_wildcard(pattern)})" for pattern in patterns) or r"(?!)")

    def why_dropped(name: str) -> str | None:
        if name in reasons or len(name) > LONGEST_NAME:
            return reasons.get(name)
        found = either.fullmatch(name)
        return reasons[patterns[found.lastindex - 1]] if found and found.lastindex else None

    return why_dropped


def builtin_mappings() -> dict[str, Path]:
    """The mapping files that come with bertconvert, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read_header(path: Path) -> Header:
    """What tells whether a built-in mapping fits a checkpoint; the tables are not parsed.

    Python's TOML reader takes longer for a whole mapping than everything else that is needed to
    choose one.
    """
    text = path.read_text(encoding="utf-8")
    return msgspec.toml.decode(text[: text.index("\n[")], type=Header)


def load_mapping(path: Path) -> MappingFile:
    """Read a mapping file and check that its rules make sense.

    Raises:
        MappingError: it can't be read, or is wrong; the text names the line or the key.
    """
    return read_mapping(path)[0]


def read_mapping(path: Path, check: bool = True) -> tuple[MappingFile, str]:
    """The mapping of a file, and the sha256 of the file and of what it includes.

    Args:
        path: the file.
        check: whether the rules are checked. The tests check the built-in files.

    Raises:
        MappingError: as `load_mapping` raises it.
    """
    mapping, data = _decoded(path, MappingFile)
    for name in mapping.include:
        shared = FOLDER / "shared" / f"{name}.toml"
        if not re.fullmatch(_NAME, name) or not shared.is_file():
            known = ", ".join(sorted(file.stem for file in shared.parent.glob("*.toml")))
            raise MappingError(f"{path}: include: unknown list {name!r}; known lists are {known}")
        included, more = _decoded(shared, _Shared)
        mapping = msgspec.structs.replace(mapping, drop=[*mapping.drop, *included.drop])
        data += more
    problems = list(mapping_problems(mapping)) if check else []
    if problems:
        raise MappingError("\n".join(f"{path}: {problem}" for problem in problems))
    return mapping, hashlib.sha256(data).hexdigest()


def _decoded(path: Path, kind: type[T]) -> tuple[T, bytes]:
    try:
        if not path.is_file():
            raise MappingError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        data = path.read_bytes()
        return msgspec.toml.decode(data, type=kind), data
    except UnicodeDecodeError as error:
        raise MappingError(f"{path}: not a mapping file, because it is not UTF-8") from error
    except (OSError, ValueError, RecursionError) as error:  # msgspec's and tomllib's among them
        raise MappingError(f"{path}: {error}") from error


def mapping_problems(mapping: MappingFile) -> Iterator[str]:
    """Everything that would make a rule mean nothing, or two things; with the key of each."""
    wrong_rules = [
        f"group[{g}] ({group.name}) variable[{v}]: {problem}"
        for g, group in enumerate(mapping.group)
        for v, rule in enumerate(group.variable)
        for problem in _rule_problems(rule, mapping)
    ]
    yield from wrong_rules
    yield from _top_problems(mapping)
    yield from _group_problems(mapping)
    yield from _config_problems(mapping)
    if not wrong_rules:  # they could not be expanded
        yield from _expansion_problems(mapping)


def _top_problems(mapping: MappingFile) -> Iterator[str]:
    if not re.fullmatch(_NAME, mapping.name):
        yield f"name = {mapping.name!r}: use letters, digits, and - _ . between them"
    if not mapping.detects:
        yield "detect: it names no variable"
    kinds = {rule.tokenizer for rule in mapping.vocabularies} - {mapping.tokenizer}
    for key, value, folder in [
        ("tokenizer", mapping.tokenizer, "tokenizers"),
        *(("files.vocabulary: tokenizer", kind, "tokenizers") for kind in sorted(kinds)),
        ("reference", mapping.reference, "models"),
    ]:
        module = Path(__file__).parent / folder / f"{value}.py"
        if value and not (value.isidentifier() and module.is_file()):
            yield f"{key} = {value!r}: converter/{folder} has no such module"
    files = mapping.files
    regulars = [("files.config: pattern", files.config.pattern)] if files.config else []
    regulars += [("files.vocabulary: pattern", r.pattern) for r in _list(files.vocabulary or [])]
    for place, regular in [*regulars, ("files.labels", files.labels)]:
        try:
            re.compile(regular)
        except re.error as error:
            yield f"{place} = {regular!r}: {error}"
    for part, other in mapping.spelling.items():
        if not part or "/" in part + other:
            yield f"spelling.{part}: a spelling replaces one part of a name, between two `/`"
        yield from (f"spelling.{part}: {problem}" for problem in pattern_problems(other))
    places = {f"drop[{d}]": drop.tf for d, drop in enumerate(mapping.drop)}
    places |= {f"refuse[{r}]": refusal.tf for r, refusal in enumerate(mapping.refuse)}
    places["lower_case"] = mapping.lower_case
    for place, patterns in places.items():
        for pattern in _list(patterns):
            yield from (f"{place}: {problem}" for problem in pattern_problems(pattern))


def _group_problems(mapping: MappingFile) -> Iterator[str]:
    names = [group.name for group in mapping.group]
    required = {group.name for group in mapping.group if group.required}
    firsts = {group.name for group in mapping.group if not group.instead} - required
    for g, group in enumerate(mapping.group):
        if not group.variable:
            yield f"group[{g}] ({group.name}): it has no variable"
        equation = re.fullmatch(_EQUATION, group.unless)
        if group.unless and not (
            equation and all(isinstance(mapping.sizes.get(s), str) for s in equation.groups())
        ):
            yield f'group[{g}] ({group.name}): unless = {group.unless!r} is not like "E = H"'
        if group.instead and (group.required or group.instead not in firsts):
            yield f"group[{g}] ({group.name}): instead = {group.instead!r} is not another head"
    yield from (f"group: the name {name} is used twice" for name in _repeated(names))
    if not required:
        yield "group: none has `required = true`, so every checkpoint would fit"
    heads = [a.head for a in mapping.architecture if a.head]
    yield from (f"architecture: the head {head!r} is used twice" for head in _repeated(heads))
    for a, architecture in enumerate(mapping.architecture):
        place = f"architecture[{a}] ({architecture.name})"
        used = {*architecture.groups, *architecture.optional, *architecture.without}
        stand_ins = [group.name for group in mapping.group if group.instead]
        yield from (f"{place}: {n!r} stands for another group" for n in sorted(used & {*stand_ins}))
        unknown = used - set(names)
        yield from (f"{place}: unknown group {name!r}" for name in sorted(unknown))
        for symbol in sorted(architecture.needs.keys() - mapping.sizes.keys()):
            yield f"{place}: needs.{symbol} is not in [sizes]"
        missing = required - set(architecture.groups)
        yield from (f"{place}: lacks the required group {name!r}" for name in sorted(missing))
    if not mapping.architecture:
        yield "architecture: there is none"
    elif all(architecture.explicit for architecture in mapping.architecture):
        yield "architecture: all have `explicit = true`, so none would ever be chosen"
    for key, name in mapping.flags.items():
        if name not in names or name in required:
            yield f"flags.{key} = {name!r} is not a group that a checkpoint may lack"
    for t, tie in enumerate(mapping.tie):
        if tie.group and tie.group not in names:
            yield f"tie[{t}]: unknown group {tie.group!r}"


def _config_problems(mapping: MappingFile) -> Iterator[str]:
    for symbol, size in mapping.sizes.items():
        if isinstance(size, SizeRule):
            quotient = re.fullmatch(_QUOTIENT, size.assume)
            if size.assume and not (quotient and isinstance(mapping.sizes.get(quotient[1]), str)):
                yield f'sizes.{symbol}: assume = {size.assume!r} is not like "H/64"'
            if size.divides and not isinstance(mapping.sizes.get(size.divides), str):
                yield f"sizes.{symbol}: divides = {size.divides!r} is not a symbol of a shape"
    for role, symbol in msgspec.structs.asdict(mapping.roles).items():
        if symbol and symbol not in mapping.sizes:
            yield f"roles.{role} = {symbol!r} is not in [sizes]"
    keys = [mapping.size_key(symbol) for symbol in mapping.sizes]
    keys += [*mapping.config, *mapping.flags, *mapping.token_ids, *mapping.defaults]
    keys += [*mapping.neutral, *mapping.foreign]
    if mapping.activation:
        keys.append(mapping.activation.config)
        if mapping.activation.default not in mapping.activation.names:
            yield f"activation: default = {mapping.activation.default!r} is not one of its names"
        for name, offered in mapping.activation.names.items():
            if name != name.lower():
                yield f"activation.names.{name}: write it in lower case"
            if not offered:
                yield f"activation.names.{name}: it has no transformers name"
    yield from (f"{key}: this config key is set twice" for key in _repeated(keys))
    unknown = {*mapping.files.config.keys} - {*mapping.config} if mapping.files.config else set()
    yield from (f"files.config: keys: {key} is not in [config]" for key in sorted(unknown))
    for key in mapping.defaults:
        rule = mapping.default(key)
        in_range = not isinstance(rule.value, int | float) or rule.least <= rule.value <= rule.most
        if not in_range:
            yield f"defaults.{key}: {rule.value!r} is not {rule.range}"


def _rule_problems(rule: VariableRule, mapping: MappingFile) -> Iterator[str]:
    for loop, values in rule.loops.items():
        span = re.fullmatch(_RANGE, values) if isinstance(values, str) else None
        if isinstance(values, str) and span is None:
            yield f'for.{loop} = {values!r} is neither a list nor a range like "0..L"'
        elif isinstance(values, list) and (
            not values or len(set(values)) < len(values) or re.search(r"[*{}]", "".join(values))
        ):
            yield f"for.{loop} = {values!r}: give different values, without * {{ }}"
        elif span and span[3] and not isinstance(mapping.sizes.get(span[3]), str):
            yield f"for.{loop} = {values!r}: {span[3]} is not a symbol of [sizes]"
        elif span and span[2].isdigit() and int(span[1]) >= int(span[2]):
            yield f"for.{loop} = {values!r} is an empty range"
    if not all([*rule.names, rule.names, rule.pt]):
        yield "tf or pt: the name is empty"
        return
    for name in rule.names[1:]:
        yield from pattern_problems(name)
    for key, name in [*(("tf", name) for name in rule.names), ("pt", rule.pt)]:
        used = set(re.findall(_LOOP, name))
        yield from (f"{key} = {name!r}: {{{u}}} is not in `for`" for u in used - set(rule.loops))
        yield from (f"{key} = {name!r} lacks {{{u}}} of `for`" for u in set(rule.loops) - used)
    if "*" in rule.names[0] or "*" in rule.pt:
        yield "a `*` is allowed only in the second name of tf and those after it"
    for size in rule.stored:
        told = isinstance(size, int) or (
            len(size) <= _LONGEST_EXPRESSION
            and all(isinstance(mapping.sizes.get(symbol), str) for symbol in symbols_of(size))
        )
        if isinstance(size, str) and not (told and symbols_of(size)):
            yield f"shape: {size!r} is not a symbol of [sizes] that a shape can have"
        elif isinstance(size, int) and size < 1:
            yield f"shape: {size} is less than 1"
    if not all(rule.merged):
        yield "shape: [] merges no dimensions"
    if rule.prefer and len(rule.names) < 2:
        yield "prefer: there is only one name in tf"
    if rule.op not in TRANSFORMS:
        yield f"op = {rule.op!r} is unknown; known are {', '.join(TRANSFORMS)}"
    elif len(rule.shape) not in TRANSFORMS[rule.op].ranks:
        yield f"op = {rule.op!r} does not take {len(rule.shape)} dimensions"


def pattern_problems(pattern: str) -> Iterator[str]:
    """What makes a pattern of names wrong."""
    stars = re.findall(r"(?:^|(?<=/))\*\*/|\*+", pattern)
    if any(len(star) > 1 and not star.endswith("/") for star in stars):
        yield f"{pattern!r}: `**/` stands for whole folders before a name; elsewhere use one `*`"
    elif stars.count("**/") > _MOST_FOLDERS:  # each multiplies the time by the name's folders
        yield f"{pattern!r}: a pattern has `**/` at most {_MOST_FOLDERS} times"


def _expansion_problems(mapping: MappingFile) -> Iterator[str]:
    sizes = dict.fromkeys(mapping.sizes, 2)
    count = sum(_count(rule, sizes) for group in mapping.group for rule in group.variable)
    if count > _MOST_PAIRS:
        yield f"group: the rules expand to {count:,} variables; the limit is {_MOST_PAIRS:,}"
        return
    every = mapping.expand(sizes, [group.name for group in mapping.group])
    firsts = {pair.names[0] for pair in every}
    yield from (
        f"detect = {name!r} is not the first name of a variable"
        for name in mapping.detects
        if name not in firsts
    )
    tensors = {pair.tensor for pair in every}
    for t, tie in enumerate(mapping.tie):
        if tie.to not in tensors or tie.pt in tensors:
            yield f"tie[{t}]: `to` must be the tensor of a rule, and `pt` must not"
    why_dropped = dropper(mapping.drop)
    taken = {
        reason: name
        for pair in reversed(every)
        for name in pair.names
        if "*" not in name and (reason := why_dropped(name)) is not None
    }
    for d, drop in enumerate(mapping.drop):
        if drop.reason in taken:
            yield f"drop[{d}] ({drop.reason}): fits {taken[drop.reason]}, which a rule maps"
    seen = set()
    for architecture in mapping.architecture:
        pairs = mapping.expand(sizes, [*architecture.groups, *architecture.optional])
        other = [p.tensor for p in pairs if not p.tensor.startswith(architecture.strip)]
        if other:
            yield f"{architecture.name}: strip = {architecture.strip!r}, but a tensor is {other[0]}"
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
