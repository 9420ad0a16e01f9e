"""Checkpoint x mapping x config -> a Plan, or every reason why not. Opens no file.

A plan is a proof by names and shapes: every variable of the checkpoint becomes one tensor, or is
skipped for a reason; every tensor of the chosen class is filled once; every shape fits.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from .checkpoint.variable import Variable
from .checks import FLOATS, NOT_RECORDED, Checks, Recorded
from .errors import PlanError
from .expressions import evaluate, is_expression
from .mapping import Architecture, MappingFile, Pair, Tie, wildcard
from .options import DEFAULTS, Options
from .scope import Dropped, Found, Taken, alternatives, find, take_scope
from .text import cut, joined
from .tokenizers.registry import Role, SpecialToken
from .transforms import TRANSFORMS, merge
from .unknown import doubts, skip_others, stand_ins


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
    empty: dict[str, tuple[int, ...]]  # tensors without a number, which TensorFlow does not have
    ties: list[Tie]  # tensors that the model shares, so that they are not written
    dropped: list[Dropped]
    notes: list[str]  # facts that a person should know
    doubts: list[str]  # those of the notes by which the model may compute something else
    untold: list[str]  # what neither the variables, nor a config, nor the caller tells

    @property
    def dtype(self) -> str:
        """The widest dtype of the tensors, so that loading loses nothing."""
        return min((entry.dtype for entry in self.entries), key=list(FLOATS).index)

    @property
    def parameters(self) -> int:
        """The number of weights that are written."""
        return sum(math.prod(entry.shape) for entry in self.entries)


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
    config_line: Callable[[str], int | None] = lambda key: None,
    vocabulary_name: str = "the vocabulary",
    recorded: Recorded = NOT_RECORDED,
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
        config_line: gives the line of a key in the config file, for messages.
        vocabulary_name: the vocabulary file's name, for messages.
        recorded: what an earlier conversion recorded, if there is one.

    Raises:
        PlanError: with every reason why the parts do not fit together.
        MappingError: the rules expand to too many variables.
    """
    taken = take_scope(variables, mapping, options)
    local = taken.local
    loops = loop_sizes(local, mapping)
    ordered = sorted(local)
    groups = [group.name for group in mapping.group if not group.instead]
    every = [(pair, find(pair, local, ordered)) for pair in mapping.expand(loops, groups)]
    told = loops | told_sizes(every)
    needless = {group.name for group in mapping.group if not group.is_needed(told)}
    pairs = [item for item in every if item[0].group not in needless]
    present = {pair.group for pair, variable in pairs if variable is not None}
    named = (config or {}).get(mapping.class_key)
    architecture = choose_architecture(mapping, present, needless, options.head, named)
    wanted = {*architecture.groups, *present.intersection(architecture.optional)} - needless
    planner = Checks(mapping, config, options, config_name, config_line, recorded)
    planner.check_patterns(taken.dropped)
    stands_for = {group.name: group.instead for group in mapping.group}
    lacks = sorted(wanted - present) if options.head is not None else []
    fitting = stand_ins(mapping, pairs, local, loops) if lacks else []
    for lacking in lacks:
        homes = [home for home in fitting if stands_for[home[0][0].group] == lacking]
        if homes:
            planner.check_stand_in(lacking, homes)
            wanted ^= {lacking, homes[0][0][0].group}
            pairs += homes[0]
    written = [item for item in pairs if item[0].group in wanted]
    empty = [pair for pair, variable in written if variable is None and is_empty(pair, told)]
    written = [item for item in written if item[0] not in empty]

    planner.check_presence(written, taken, architecture)
    planner.check_uniqueness(written)
    planner.check_alternatives(written, local, ordered)
    fits = planner.measure(written, loops)
    planner.complete_sizes()
    if fits:  # else the sizes may be wrong
        planner.check_expressions(written)
    planner.check_needs(architecture)
    if vocabulary_size is not None:
        planner.check_vocabulary(vocabulary_size, vocabulary_name, vocabulary_notes)
    planner.check_config()
    values = planner.config_values() | planner.token_ids(special_tokens)
    values |= planner.flags(present)
    values |= planner.problem_type(architecture)
    activation = planner.activation()
    if mapping.activation is not None:
        values[mapping.activation.config] = activation[1]
    planner.check_dtypes(written)
    replaced = {
        variable.name: pair.prefer
        for pair, taken_one in every
        if pair.prefer
        for place, variable in alternatives(pair, local, ordered).items()
        if variable is not taken_one or (place and pair.group in needless)
    }
    others = skip_others(
        mapping, options, taken, pairs, written, architecture, loops, recorded.dropped, replaced
    )
    planner.reasons += others.reasons
    planner.notes += others.notes
    dropped = taken.dropped + others.dropped
    if planner.reasons:
        raise PlanError(*planner.reasons)

    groups = [group.name for group in mapping.group if group.name in wanted]
    tensors = {pair.tensor for pair, _ in written}
    strip = architecture.strip
    doubtful = [*others.doubts, *doubts(mapping, taken, pairs)]
    return Plan(
        mapping=mapping.name,
        architecture=architecture,
        groups=groups,
        scope=taken.scope,
        sizes=planner.sizes,
        config=values,
        activation=activation,
        entries=[_entry(pair, v, strip, options.dtype) for pair, v in written if v is not None],
        empty={
            pair.tensor.removeprefix(strip): _empty_shape(pair, planner.sizes) for pair in empty
        },
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
            *doubtful,
        ],
        doubts=doubtful,
        untold=planner.untold,
    )


def told_sizes(pairs: Found) -> dict[str, int]:
    """The sizes that the first shapes tell, which are compared later."""
    sizes: dict[str, int] = {}
    for pair, variable in pairs:
        if variable is not None and len(pair.shape) == len(variable.shape):
            for symbol, size in zip(pair.shape, variable.shape, strict=True):
                if isinstance(symbol, str) and not is_expression(symbol):
                    sizes.setdefault(symbol, size)
    return sizes


def is_empty(pair: Pair, sizes: Mapping[str, int]) -> bool:
    """Whether a tensor has no number, so that TensorFlow has no variable for it."""
    return any(isinstance(size, str) and evaluate(size, sizes) == 0 for size in pair.shape)


def _empty_shape(pair: Pair, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = merge([evaluate(str(size), sizes) or 0 for size in pair.shape], pair.merged)
    return TRANSFORMS[pair.op].shape(shape)


def _scope_notes(taken: Taken, written: Found) -> list[str]:
    used = [v.name for _, v in written if v is not None and v.name in taken.beyond]
    outside = f"; {joined(used)} outside of it are taken, too" if used else ""
    return [f"the model is in the scope {taken.scope}{outside}"] if taken.scope else []


def loop_sizes(local: Mapping[str, Variable], mapping: MappingFile) -> dict[str, int]:
    """The sizes that names tell: one more than the highest number that a loop's names have."""
    sizes = {}
    for symbol in sorted(mapping.loop_sizes()):
        numbers = [
            (int(number[1]), name)
            for prefix in mapping.loop_prefixes(symbol)
            for pattern in [re.compile(wildcard(prefix).pattern + "([0-9]{1,18})")]
            for name in local
            if (number := pattern.match(name))
        ]
        rest = mapping.loop_rest(symbol)
        # If there is none, number 0 is missing, or the loop is empty.
        highest, name = max(numbers, default=(-1 if rest else 0, ""))
        if highest > len(numbers):  # at least one number below it is missing
            raise PlanError(
                f"can't tell {mapping.size_key(symbol)}: {cut(name)} has the number {highest:,},"
                f" but only {len(numbers):,} names have a number"
            )
        sizes[symbol] = highest + 1 + rest
    return sizes


def choose_architecture(
    mapping: MappingFile, present: set[str], needless: set[str], head: str | None, named: object
) -> Architecture:
    """The class that the caller chooses, else the one with the most of the checkpoint's groups.

    Of several that hold all of them, it is the one that the config names, if there is one.
    """
    present = present | needless
    if head is not None:
        for architecture in mapping.architecture:
            if head in (architecture.head, architecture.name):
                return architecture
        heads = ", ".join(a.head or a.name for a in mapping.architecture)
        raise PlanError(f"--head {head} is unknown; the mapping {mapping.name} has {heads}")
    for architecture in mapping.architecture:
        groups = {*architecture.groups}
        is_named = isinstance(named, list) and architecture.name in named
        if is_named and groups <= present <= groups.union(architecture.optional, needless):
            return architecture
    fitting = [a for a in mapping.architecture if not a.explicit and present.issuperset(a.groups)]
    if not fitting:  # a required group is missing, which is reported later
        return min(mapping.architecture, key=lambda a: len(a.groups))
    best = max(fitting, key=lambda a: (len(a.groups), len(a.optional)))
    beyond = present - {*best.groups, *best.optional} - needless
    if beyond:
        choices = [
            f"{a.head or a.name} ({a.name})"
            for a in mapping.architecture
            if present.issuperset(a.groups) and (beyond & {*a.groups} or a is best)
        ]
        raise PlanError(
            f"it is not certain which class {joined(sorted(present - needless))} belong to. Choose"
            f" one with --head: {', '.join(choices)}"
        )
    return best


def _entry(pair: Pair, variable: Variable, strip: str, dtype: str) -> Entry:
    return Entry(
        tensor=pair.tensor.removeprefix(strip),
        variable=variable.name,
        name=pair.names[0],
        op=pair.op,
        group=pair.group,
        shape=TRANSFORMS[pair.op].shape(merge(variable.shape, pair.merged)),
        dtype=variable.tf_dtype if dtype == "keep" else dtype,
    )
