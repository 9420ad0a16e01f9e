"""Every reason why a checkpoint, a mapping, a config and a vocabulary do not fit together.

`Checks` goes through the parts one after the other and collects the reasons, so that a person sees
all of them at once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import get_args

from msgspec import Struct

from .checkpoint.variable import Variable
from .choices import ProblemType
from .errors import PlanError
from .expressions import evaluate, is_expression, symbols_of
from .labels import usual_problem_type
from .layout import PROVENANCE
from .mapping import Architecture, MappingFile, Pair, SizeRule, pattern_problems, wildcard
from .options import Options
from .scope import Dropped, Found, Taken, alternatives, matching
from .text import MOST, cut, joined, listed, nearest
from .tokenizers.registry import Role, SpecialToken

# The dtypes that weights may have, widest first, and the bytes of an element.
FLOATS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_LARGEST_SIZE = (1 << 31) - 1
_OF_TRANSFORMERS = ("model_type", "architectures", "transformers_version")  # keys of its configs
_MOST_PADDING = 1023  # rows; people round up to a multiple of 8, 128 or 1,024


class Recorded(Struct, frozen=True):
    """What an earlier conversion recorded. It is believed only where nothing else tells."""

    config: Mapping[str, object] = {}  # keys of the original config
    activation: str = ""  # transformers' name
    dropped: Mapping[str, str] = {}  # variables that no rule may know -> why they were skipped
    labels: tuple[str, ...] = ()  # by id


NOT_RECORDED = Recorded()


class Source(Struct, frozen=True):
    """What a plan is made from, in the words of messages."""

    whole: str
    part: str
    untold: str  # what to do about a size that nothing tells
    constant: str  # what follows from a constant of the original code that a config contradicts
    tokens: str  # what gets unused tokens for the rows without one


CHECKPOINT = Source(
    whole="the checkpoint",
    part="variable",
    untold="Give the original config with --config{also}",
    constant=(
        ", and so would the converted model. If the checkpoint was trained with {value!r}, remove"
        " the key from a copy of the config, and give the copy with --config"
    ),
    tokens="tokenizer",
)
MODEL = Source(
    whole="the model",
    part="tensor",
    untold="Add it to config.json",
    constant=", whatever a config says. So it would compute something else with these weights",
    tokens="vocabulary",
)


class Checks:
    """Checks the parts of a plan one after the other, and collects every reason against it."""

    def __init__(
        self,
        mapping: MappingFile,
        config: Mapping[str, object] | None,
        options: Options,
        config_name: str,
        config_line: Callable[[str], int | None],
        recorded: Recorded = NOT_RECORDED,
        source: Source = CHECKPOINT,
    ) -> None:
        self.mapping = mapping
        self.source = source
        self.config = {**recorded.config, **(config or {})}
        self.has_config = config is not None
        self.recorded = recorded
        self.by_record = recorded.config.keys() - (config or {}).keys()
        self.options = options
        self.config_name = config_name
        self.config_line = config_line
        self.reasons: list[str] = []
        self.notes: list[str] = []
        self.untold: list[str] = []
        self.sizes: dict[str, int] = {}  # by symbol
        self.evidence: dict[str, str] = {}  # by symbol: the variable that tells the size
        if config is None:
            rule = mapping.files.config
            self.notes.append(
                f"no {rule.name if rule else 'config'} was found, so the sizes are taken from the"
                " variables"
            )

    def place(self, key: str) -> str:
        """Where the config has a key, for messages."""
        line = self.config_line(key)
        return self.config_name if line is None else f"{self.config_name} (line {line:,})"

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

    def check_stand_in(self, group: str, homes: list[Found]) -> None:
        """A reason if several folders could stand for a group."""
        if len(homes) > 1:
            names = [joined([v.name for _, v in home if v is not None]) for home in homes]
            self.reasons.append(
                f"--head {self.options.head}: {len(homes):,} parts of the checkpoint fit as the"
                f" {group}: {'; '.join(listed(names))}. Skip all but one with --drop"
            )

    def check_presence(self, written: Found, taken: Taken, architecture: Architecture) -> None:
        """A reason for every group that lacks variables."""
        used = {variable.name for _, variable in written if variable is not None}
        free = sorted(name for name, variable in taken.local.items() if variable.name not in used)
        skipped = {drop.variable: drop.reason for drop in taken.dropped}
        head, part = self.options.head, self.source.part
        needs = architecture.name if head in (None, architecture.name) else f"--head {head}"
        for group in dict.fromkeys(pair.group for pair, _ in written):
            lost = [pair for pair, variable in written if pair.group == group and variable is None]
            total = sum(pair.group == group for pair, _ in written)
            if not lost:
                continue
            if len(lost) < total:
                are = "is" if len(lost) == 1 else "are"
                first = f"{group} is incomplete: {len(lost):,} of its {total:,} {part}s {are}"
                first += " missing:"
            else:
                none = {1: f"lacks its {part}", 2: f"has neither of its 2 {part}s"}.get(
                    total, f"has none of its {total:,} {part}s"
                )
                first = f"{needs} needs the {group}, and {self.source.whole} {none}:"
            lines = [first]
            for pair in lost[:MOST]:
                several = [n for alias in pair.names for n in islice(matching(alias, free), 3)]
                hint = f": {joined([*map(cut, several)])} fit equally well" if several else ""
                for name in (taken.scope + pair.names[0], pair.names[0]):
                    if name in skipped:
                        hint = f": it exists and is skipped, {skipped[name]}"
                lines.append(f"{pair.names[0]}{hint or nearest(pair.names[0], free)}")
            if len(lost) > MOST:
                lines.append(f"... and {len(lost) - MOST:,} more")
            self.reasons.append("\n  ".join(lines))

    def check_uniqueness(self, written: Found) -> None:
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

    def check_alternatives(
        self, written: Found, local: Mapping[str, Variable], ordered: Sequence[str]
    ) -> None:
        """A reason if some variables of a group have a preferred name, and others have not."""
        places: dict[str, dict[int, str]] = {}
        for pair, variable in written:
            if pair.prefer and variable is not None:
                place = next(
                    place
                    for place, found in alternatives(pair, local, ordered).items()
                    if found is variable
                )
                places.setdefault(pair.group, {}).setdefault(place, variable.name)
        for group, names in places.items():
            if len(names) > 1:
                self.reasons.append(
                    f"{group}: {joined([*names.values()])} have names of two kinds, so the"
                    f" {group} is incomplete under either"
                )

    def flags(self, present: set[str]) -> dict[str, bool]:
        """The keys of config.json that are true if the checkpoint has a group."""
        values = {key: group in present for key, group in self.mapping.flags.items()}
        for key, value in values.items():
            stated, group = self.config.get(key), self.mapping.flags[key]
            if stated not in (None, value):
                has = "has" if value else "lacks"
                self.reasons.append(
                    f"{self.place(key)} says {key} = {_shown(stated)}, but {self.source.whole}"
                    f" {has} the {group}"
                )
        return values

    def measure(self, written: Found, loops: Mapping[str, int]) -> bool:
        """Take the sizes from the shapes; a shape that does not fit is a reason.

        Returns:
            Whether all shapes fit, as far as they are no expressions.

        Raises:
            PlanError: the embeddings are narrower than the layers.
        """
        self.sizes.update(loops)
        for symbol, size in loops.items():
            prefix, last = min(self.mapping.loop_prefixes(symbol)), size - 1
            last -= self.mapping.loop_rest(symbol)
            self.evidence[symbol] = f"{prefix}0 to {last}" if last >= 0 else f"no {prefix}0"
        wrong: list[str] = []
        if factorized := self._factorized(written):
            raise PlanError(factorized)  # which explains every other reason
        for pair, variable in written:
            if variable is None:
                continue
            shape = variable.shape
            local = {
                s: n
                for s, n in zip(pair.shape, shape, strict=False)
                if isinstance(s, str) and not is_expression(s)
            }
            told = local | self.sizes  # a symbol may be twice in a shape, with one value
            fits = len(shape) == len(pair.shape) and all(
                size == told.get(str(s), s) or is_expression(str(s))
                for s, size in zip(pair.shape, shape, strict=True)
            )
            if not fits:
                wrong.append(self._wrong_shape(pair, variable))
            elif 0 in shape:
                wrong.append(f"{variable.name} has the shape {list(shape)}, which is empty")
            else:
                for symbol, size in local.items():
                    if symbol not in self.sizes:
                        self.sizes[symbol] = size
                        self.evidence[symbol] = f"{variable.name} {list(shape)}"
        self.reasons += listed(wrong)
        return not wrong

    def check_expressions(self, written: Found) -> None:
        """A reason for every shape that is not what an expression of the sizes gives."""
        self.reasons += listed(
            [
                self._wrong_shape(pair, variable)
                for pair, variable in written
                if variable is not None
                and any(
                    evaluate(str(s), self.sizes) != size
                    for s, size in zip(pair.shape, variable.shape, strict=True)
                    if is_expression(str(s))
                )
            ]
        )

    def _factorized(self, written: Found) -> str:
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
        known = [evaluate(str(s), self.sizes) for s in pair.shape]
        values = ", ".join(
            str(s if n is None else n) for s, n in zip(pair.shape, known, strict=True)
        )
        used = [symbol for s in pair.shape for symbol in symbols_of(str(s))]
        by = {symbol: self.evidence[symbol] for symbol in used if symbol in self.evidence}
        because = "; ".join(f"{symbol} by {what}" for symbol, what in by.items())
        return (
            f"{variable.name} has the shape {list(variable.shape)} but should have [{symbols}]"
            + (f" = [{values}]" if values != symbols else "")
            + (f" ({because})" if because else "")
        )

    def complete_sizes(self) -> None:
        """Check the config against the sizes, and add the sizes that no shape tells."""
        roles = self.mapping.roles
        given = {roles.heads: self.options.num_heads, roles.layers: self.options.num_layers}
        for symbol, option in self.size_options().items():
            value = given[symbol]
            if value is not None and not isinstance(self.mapping.sizes.get(symbol), SizeRule):
                self.reasons.append(f"{option}: the mapping {self.mapping.name} does not need it")
            elif value is not None and not _is_size(value):
                what = option.removeprefix("--num-")
                self.reasons.append(f"{option} {_shown(value)} is not a number of {what}")
                given[symbol] = None
        for symbol, rule in self.mapping.sizes.items():
            key = self.mapping.size_key(symbol)
            stated = self.config.get(key)
            if stated is not None and not _is_size(stated):
                self.reasons.append(f"{self.place(key)}: {key} is {_told(stated)}not a size")
                continue
            if symbol in self.evidence and stated not in (None, self.sizes[symbol]):
                reason = (
                    f"{self.place(key)} says {key} = {stated}, but {self.source.whole} has"
                    f" {self.sizes[symbol]} ({self.evidence[symbol]})"
                )
                padded = _is_padded(stated, self.sizes[symbol])
                if symbol != self.mapping.roles.vocabulary or not padded:
                    self.reasons.append(reason)
                elif not self.options.pad_vocab:
                    self.reasons.append(f"{reason}. {self._offer()}")
            if isinstance(rule, SizeRule):
                self._untold_size(symbol, rule, stated, given.get(symbol))

    def size_options(self) -> dict[str, str]:
        """The options that give a size, by its symbol."""
        roles = self.mapping.roles
        return {roles.layers: "--num-layers", roles.heads: "--num-heads"}

    def _untold_size(self, symbol: str, rule: SizeRule, stated: object, given: int | None) -> None:
        remedy = self.size_options().get(symbol, "a config")
        if given is not None and stated not in (None, given):
            self.reasons.append(
                f"{self.place(rule.config)} says {rule.config} = {stated}, but {remedy} is {given}"
            )
        value = given or stated
        origin = ""
        can_assume = rule.assume.partition("/")[0] in self.sizes
        assumed = rule.assumed(self.sizes) if can_assume else None
        is_recorded = given is None and rule.config in self.by_record
        if is_recorded and value != assumed:
            self._doubt_record(rule.config, value)
        elif can_assume and (value is None or is_recorded):
            value = assumed
            origin = f" (assumed: {rule.assume}; {remedy} sets another)"
            assumption = (
                f"{rule.config} = {value} is assumed ({rule.assume}), because neither the variables"
                f" nor a config give it. {remedy} sets another"
            )
            self.notes.append(assumption)
            self.untold.append(assumption)
        if not isinstance(value, int):
            if not rule.assume:
                also = "" if remedy == "a config" else f" or {remedy}"
                self.reasons.append(
                    f"neither the {self.source.part}s nor a config tell {rule.config}."
                    f" {self.source.untold.format(also=also)}"
                )
            return
        self.sizes[symbol] = value
        if rule.divides in self.sizes and self.sizes[rule.divides] % value:
            self.reasons.append(
                f"{rule.config} = {value}{origin} does not divide"
                f" {self.mapping.size_key(rule.divides)} = {self.sizes[rule.divides]}"
            )

    def _doubt_record(self, key: str, value: object) -> None:
        shown = cut(value) if isinstance(value, str) else _shown(value)
        self.untold.append(
            f"{key} = {shown} is as {PROVENANCE} records it; nothing in the checkpoint tells it"
        )

    def check_needs(self, architecture: Architecture) -> None:
        """A reason for every size that the class can't have."""
        self.reasons += [
            f"{architecture.name} needs {self.mapping.size_key(symbol)} = {size}, but"
            f" {self.source.whole} has {self.sizes[symbol]} ({self.evidence[symbol]})"
            for symbol, size in architecture.needs.items()
            if symbol in self.evidence and self.sizes[symbol] != size
        ]

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
            reason += f". {self._offer()}" if padded else ""
            self.reasons.append("\n  ".join([reason, *odd]))
        else:
            self.notes.append(
                f"{name} has {tokens:,} tokens and the model {rows:,} word embeddings. The"
                f" {self.source.tokens} has unused tokens for the other {rows - tokens:,}"
            )

    def _offer(self) -> str:
        """What to do if the model has a few rows more than there are tokens."""
        return (
            "Or its rows were rounded up: --pad-vocab keeps them, and gives the"
            f" {self.source.tokens} unused tokens for those without one"
        )

    def config_values(self) -> dict[str, object]:
        """The keys of config.json that describe the model, except for its activation."""
        values: dict[str, object] = {
            self.mapping.size_key(symbol): self.sizes[symbol]
            for symbol in self.mapping.sizes
            if symbol in self.sizes
        }
        values.update(self.mapping.config)
        for key in self.mapping.defaults:
            rule = self.mapping.default(key)
            usual, value = rule.value, self.config.get(key, rule.value)
            if usual is None and value is None:
                continue
            is_float = type(usual) is float or usual is None
            alike = type(value) is type(usual) or (is_float and type(value) in (int, float))
            if not alike or (isinstance(value, int | float) and not abs(value) <= _LARGEST_SIZE):
                wanted = "a number" if usual is None else f"a value like {usual!r}"
                self.reasons.append(f"{self.place(key)}: {key} is {_told(value)}not {wanted}")
            elif isinstance(value, int | float) and not rule.least <= value <= rule.most:
                self.reasons.append(
                    f"{self.place(key)}: {key} is {_shown(value)}, but must be {rule.range}"
                )
            elif is_float and isinstance(value, int):
                value = float(value)  # transformers takes no whole number for some keys
            if key in self.by_record and value != usual:
                self._doubt_record(key, value)
            elif rule.computes and not self.has_config:
                self.untold.append(
                    f"{key} = {_shown(value)} is assumed, because no config gives it"
                )
            values[key] = value
        return values

    def check_config(self) -> None:
        """A reason for every key of the config that tells another model, or contradicts the rules.

        Null is as good as no value.
        """
        mapping = self.mapping
        stated = {key: value for key, value in self.config.items() if value is not None}
        other = "this config belongs to another model"
        for key, foreign in mapping.foreign.items():
            harmless = foreign.unless
            if isinstance(harmless, str):
                harmless = self.sizes.get(harmless, harmless)
            if key in stated and (harmless is None or stated[key] != harmless):
                self.reasons.append(
                    f"{self.place(key)}: {key} = {_shown(stated[key])} is a key of {foreign.of},"
                    f" so {other}"
                )
        if stated.get("model_type", mapping.model_type) != mapping.model_type:
            self.reasons.append(
                f"{self.place('model_type')}: model_type is {_shown(stated['model_type'])}, not"
                f" {mapping.model_type!r}, so {other}"
            )
        rule = mapping.files.config
        lost = [key for key in (rule.has if rule else []) if key not in stated]
        if self.has_config and lost:
            self.reasons.append(
                f"{self.config_name} lacks {joined(lost)}, which every config of"
                f" {mapping.title or mapping.name} has, so {other}"
            )
        for key, value in (mapping.config | mapping.neutral).items():
            if key in stated and stated[key] != value:
                self.reasons.append(
                    f"{self.place(key)} says {key} = {_shown(stated[key])}, but the original code"
                    f" computes with {value!r}{self.source.constant.format(value=value)}"
                )

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
                        f"{self.place(key)}: {key} is {_told(stated)}not a row of the vocabulary"
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
                self.notes.append(f"{found}; {self.place(key)} says {_shown(stated)}")
            elif token.row != usual:
                self.notes.append(found)
        return values

    def problem_type(self, architecture: Architecture) -> dict[str, str]:
        """The key of config.json that says what a classifier's labels are for.

        transformers takes one label for a regression. It writes so into the config when it
        computes the loss, but until then a pipeline would take the sigmoid of it.
        """
        given, stated = self.options.problem_type, self.config.get("problem_type")
        labels = self.sizes.get(self.mapping.roles.labels)
        if not architecture.problem_type or labels is None:
            if given is not None:
                self.reasons.append(f"--problem-type: {architecture.name} has only one loss")
            return {}
        if stated is not None and stated not in get_args(ProblemType):
            self.reasons.append(
                f"{self.place('problem_type')}: problem_type is {_shown(stated)}; known values are"
                f" {joined(get_args(ProblemType))}"
            )
        elif given is not None and stated not in (None, given):
            self.reasons.append(
                f"{self.place('problem_type')} says problem_type = {stated}, but --problem-type is"
                f" {given}"
            )
        found = given or stated
        if given is None and stated is not None and "problem_type" in self.by_record:
            if stated != usual_problem_type(labels):
                self._doubt_record("problem_type", stated)
        elif found is None and labels == 1:
            found = "regression"
            self.notes.append(
                "one label is a regression, as in transformers; --problem-type sets another"
            )
        if found == "single_label_classification" and labels == 1:
            self.reasons.append(f"problem_type = {found} needs two labels, and the head has one")
        return {"problem_type": str(found)} if found is not None else {}

    def activation(self) -> tuple[str, str]:
        """TensorFlow's name of the activation, and transformers' name of the same function."""
        rule, choice = self.mapping.activation, self.options.activation
        if rule is None:
            return "", ""
        # Upper and lower case mean the same, and null means linear, as in Google's code.
        by_transformers = any(mark in self.config for mark in _OF_TRANSFORMERS)
        implied = self.mapping.implied.get(rule.config) if by_transformers else None
        stated = self.config.get(rule.config, implied or rule.default)
        name, form = stated.lower() if isinstance(stated, str) else "", "auto"
        offered = rule.names.get(name) if stated is None or isinstance(stated, str) else None
        theirs = rule.of_transformers(stated) if by_transformers else None
        if theirs is not None:
            name, form = theirs
            offered = rule.names[name]
        if choice == "auto" and rule.config in self.by_record and name != rule.default:
            self._doubt_record(rule.config, name)
        elif choice == "auto" and not self.has_config:
            self.untold.append(f"{rule.config} = {name} is assumed, because no config gives it")
        if isinstance(offered, str) and choice == "auto":
            return name, offered
        if isinstance(offered, dict) and choice in ("auto", *offered):
            usual = next(iter(offered))
            if choice == "auto" and form not in ("auto", usual):
                self.notes.append(
                    f"{self.config_name} is transformers' own, so {rule.config} = {stated} means"
                    f" the {form} form of {name}. The original code computes the {usual} form;"
                    f" --activation {usual} writes it"
                )
            form = usual if form == "auto" else form
            recorded = rule.form((name, self.recorded.activation))
            if choice == "auto" and recorded not in ("auto", form):
                self.untold.append(
                    f"{rule.config} is the {recorded} form of {name}, as {PROVENANCE} records it; a"
                    f" conversion without --activation writes the {form} form"
                )
                form = recorded
            word = form if choice == "auto" else choice
            return name, offered[word]
        if offered is None:
            known = ", ".join(filter(None, rule.names))
            self.reasons.append(
                f"{self.place(rule.config)}: {rule.config} is {_shown(stated)}; known values are"
                f" {known}"
            )
        else:
            forms = joined([*offered]) if isinstance(offered, dict) else "only one form"
            self.reasons.append(
                f"--activation {choice}: {rule.config} is {name}, which has {forms}"
            )
        return name, ""

    def check_dtypes(self, written: Found) -> None:
        """A reason for every weight that is not a floating-point number."""
        self.reasons += listed(
            [
                f"{variable.name} is {variable.tf_dtype}; weights are {joined([*FLOATS])}"
                for _, variable in written
                if variable is not None and variable.tf_dtype not in FLOATS
            ]
        )


def _is_padded(tokens: object, rows: int) -> bool:
    """Whether a model's rows may be those of its tokens, rounded up."""
    return type(tokens) is int and tokens < rows <= tokens + _MOST_PADDING


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _told(value: object) -> str:
    """A value that is wrong, before what it is not."""
    return f"{_shown(value)}, a string and " if isinstance(value, str) else f"{_shown(value)}, "


def _shown(value: object) -> str:
    if value != value:
        return "NaN"
    try:
        return cut(repr(value))
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
