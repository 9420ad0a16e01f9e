"""The way back: a mapping read backwards, and the plan for a checkpoint of a model's tensors.

A mapping that is read backwards is a mapping, too: tensors take the place of variables. So the same
code expands its rules and checks them, in both directions.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from .checkpoint.variable import Variable
from .checks import MODEL, Checks
from .errors import PlanError
from .expressions import evaluate, is_expression
from .labels import usual_problem_type
from .layout import CONFIG
from .mapping import HEADLESS, Architecture, MappingFile, SizeRule, Tie, VariableRule
from .options import Options
from .plan import Entry, Plan, choose_architecture, is_empty, loop_sizes, told_sizes
from .scope import Dropped, Found, Taken
from .tensor_names import canonical_names
from .text import MOST, joined, listed, nearest
from .transforms import TRANSFORMS

_BUFFER = "a buffer: the numbers of the positions"
_EMPTY = "it has no numbers"

UNTIED = (
    "The original code has one tensor for the embeddings and the output layer, so they must be"
    f" equal. --head {HEADLESS} writes the model without the output layer"
)
"""What to know about an output layer that is not tied to the embeddings."""


def read_backwards(mapping: MappingFile) -> MappingFile:
    """The mapping from a model's tensors to a checkpoint's variables.

    Each rule has the tensor's name on the left and the first of the variable's names on the right,
    the shape in PyTorch, and the op that undoes its own. A size that only dimensions tell which
    are merged in PyTorch must be in the config.
    """
    groups = [
        replace(group, variable=[_backwards(rule) for rule in group.variable])
        for group in mapping.group
        if not group.instead
    ]
    back = replace(mapping, group=groups, spelling={}, drop=[], refuse=[], tie=[])
    told = back.loop_sizes() | {
        size
        for group in groups
        for rule in group.variable
        for size in rule.stored
        if isinstance(size, str) and not is_expression(size)
    }
    sizes = {
        symbol: rule if symbol in told else _not_assumed(mapping, symbol)
        for symbol, rule in mapping.sizes.items()
    }
    return replace(back, sizes=sizes)


def _backwards(rule: VariableRule) -> VariableRule:
    merged = tuple("*".join(map(str, d)) if isinstance(d, list) else d for d in rule.shape)
    transform = TRANSFORMS[rule.op]
    return VariableRule(
        tf=rule.pt,
        pt=rule.names[0],
        shape=[*transform.shape(merged)],
        op=transform.inverse,
        loops=rule.loops,
    )


def _not_assumed(mapping: MappingFile, symbol: str) -> SizeRule:
    rule = mapping.sizes[symbol]
    return SizeRule(rule) if isinstance(rule, str) else replace(rule, assume="")


def plan_back(
    tensors: Mapping[str, Variable],
    mapping: MappingFile,
    config: Mapping[str, object],
    options: Options,
    vocabulary_size: int | None = None,
    config_line: Callable[[str], int | None] = lambda key: None,
) -> Plan:
    """Decide what becomes of every tensor of a model.

    The plan is that of a conversion, with tensors in place of variables: of an entry, `variable` is
    the tensor as the model names it, `tensor` is the name of TensorFlow's variable, and `shape` its
    shape. `config` has the keys of the original config, and `ties` the tensors that must be equal.

    Args:
        tensors: those of the model, by name.
        mapping: the rules, forwards.
        config: the content of the model's config.json.
        options: `head`, `dtype` and `pad_vocab` count.
        vocabulary_size: the number of tokens in the vocabulary, if there is one.
        config_line: gives the line of a key in the config, for messages.

    Raises:
        PlanError: with every reason why the parts do not fit together.
        MappingError: the rules expand to too many variables.
    """
    values = _config(config, mapping)
    named = _named_class(config, mapping, options.head)
    back = _without_rivals(read_backwards(mapping), named)
    names = _with_prefix(canonical_names(tensors), mapping)
    local = {name: tensors[known] for name, known in names.items()}
    dropped = [Dropped(name, _BUFFER) for name in tensors.keys() - {*names.values()}]
    dropped += [Dropped(tensor.name, _EMPTY) for tensor in local.values() if not tensor.nbytes]
    local = {name: tensor for name, tensor in local.items() if tensor.nbytes}
    shared = _take_ties(mapping, local)

    loops = loop_sizes(local, back)
    every: Found = [
        (pair, local.get(pair.names[0]))
        for pair in back.expand(loops, [group.name for group in back.group])
    ]
    told = loops | told_sizes(every)
    needless = {group.name for group in back.group if not group.is_needed(told)}
    every = [item for item in every if item[0].group not in needless]
    present = {pair.group for pair, tensor in every if tensor is not None}
    if named is not None and (options.head or not present | needless >= {*named.groups}):
        architecture = named  # what it lacks is reported
    else:  # it may be more than the config says
        classes = [named.name] if named is not None else None
        architecture = choose_architecture(back, present, needless, None, classes)
    wanted = {*architecture.groups, *present.intersection(architecture.optional)} - needless
    written = [
        (pair, tensor)
        for pair, tensor in every
        if pair.group in wanted and not (tensor is None and is_empty(pair, told))
    ]

    checks = Checks(back, values, options, CONFIG, config_line, source=MODEL)
    checks.check_presence(written, Taken("", local, set(), []), architecture)
    fits = checks.measure(written, loops)
    checks.complete_sizes()
    if fits:  # else the sizes may be wrong
        checks.check_expressions(written)
    checks.check_needs(architecture)
    if vocabulary_size is not None:
        checks.check_vocabulary(vocabulary_size, "the vocabulary", [])
    checks.check_config()
    _check_other_keys(checks)
    activation = _activation(checks)
    content = _original_config(checks, architecture, present)
    if mapping.activation is not None:
        content[mapping.activation.config] = activation[0] or None
    checks.check_dtypes(written)
    ties = [tie for tie in mapping.tie if tie.group in ("", *wanted)]
    _check_ties(checks, ties, shared, tensors)
    skipped, reasons = _others(back, options, architecture, every, written, local)
    dropped += skipped
    same = [shared[tie.pt] for tie in ties if tie.pt in shared]
    dropped += [
        Dropped(tie.pt, f"equal to {tie.to}" if tie in same else f"not part of {architecture.name}")
        for tie in shared.values()
    ]
    checks.reasons += reasons
    if checks.reasons:
        raise PlanError(*checks.reasons)
    if named is not None and architecture.name != named.name:
        checks.notes.append(
            f"{CONFIG} says {named.name}, and the weights are those of {architecture.name}."
            " All weights are written"
        )
    forwards = {
        (pair.group, pair.names[0]): pair
        for pair in mapping.expand(checks.sizes, [group.name for group in back.group])
    }
    return Plan(
        mapping=mapping.name,
        architecture=architecture,
        groups=[group.name for group in back.group if group.name in wanted],
        scope="",
        sizes=checks.sizes,
        config=content,
        activation=activation,
        entries=[
            Entry(
                tensor=pair.tensor,
                variable=tensor.name,
                name=pair.names[0],
                op=pair.op,
                group=pair.group,
                shape=_sizes(forwards[pair.group, pair.tensor].shape, checks.sizes),
                dtype=tensor.tf_dtype if options.dtype == "keep" else options.dtype,
            )
            for pair, tensor in written
            if tensor is not None
        ],
        empty={},
        ties=same,
        dropped=sorted(dropped, key=lambda drop: drop.variable),
        notes=checks.notes,
        doubts=[],
        untold=[],
    )


def _sizes(shape: Sequence[str | int], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(str(size), sizes) or 0 for size in shape)


def _config(config: Mapping[str, object], mapping: MappingFile) -> dict[str, object]:
    """The keys of config.json with the values that transformers takes for those that it lacks."""
    values = {**mapping.implied, **{k: v for k, v in config.items() if v is not None}}
    labels = mapping.roles.labels
    if labels:  # their number is that of their names
        key = mapping.size_key(labels)
        names = config.get("id2label")
        values.pop(key, None)
        if isinstance(names, dict):
            values[key] = len(names)
        elif config.get(key) is not None:
            values[key] = config[key]
    return values


def _named_class(
    config: Mapping[str, object], mapping: MappingFile, head: str | None
) -> Architecture | None:
    """The class that the caller names, else the config; None if neither does."""
    if head is not None:
        return choose_architecture(mapping, set(), set(), head, None)
    listed = config.get("architectures")
    if not isinstance(listed, list) or not listed:
        return None
    found = next((a for a in mapping.architecture if a.name == listed[0]), None)
    if found is None:
        classes = joined([a.name for a in mapping.architecture])
        raise PlanError(
            f"{CONFIG} says that the class is {str(listed[0])!r}, which the mapping"
            f" {mapping.name} does not have. It has {classes}. --head chooses what to write, such"
            f" as --head {HEADLESS} for the model without its head"
        )
    return found


def _without_rivals(back: MappingFile, named: Architecture | None) -> MappingFile:
    """The mapping without groups that would take the tensors of the named class."""
    if named is None:
        return back
    own = {*named.groups, *named.optional}
    tensors = {
        rule.names[0] for group in back.group if group.name in own for rule in group.variable
    }
    groups = [
        group
        for group in back.group
        if group.name in own or tensors.isdisjoint(rule.names[0] for rule in group.variable)
    ]
    return replace(back, group=groups)


def _with_prefix(names: Mapping[str, str], mapping: MappingFile) -> dict[str, str]:
    """The names as in a class with a head, which a class without one saves without a prefix."""
    headless = mapping.headless
    strip = headless.strip if headless is not None else ""
    if headless is None or not strip or any(name.startswith(strip) for name in names):
        return {**names}
    inside = {
        rule.pt.removeprefix(strip).partition(".")[0]
        for group in mapping.group
        if group.name in {*headless.groups, *headless.optional}
        for rule in group.variable
    }
    return {
        (strip + name if name.partition(".")[0] in inside else name): known
        for name, known in names.items()
    }


def _take_ties(mapping: MappingFile, local: dict[str, Variable]) -> dict[str, Tie]:
    """Take the tensors that must equal others out of `local`: by name, the ties in file names.

    If only one of the two is there, it stands for both.
    """
    shared = {}
    for tie in mapping.tie:
        tensor = local.pop(tie.pt, None)
        if tensor is not None and tie.to in local:
            shared[tie.pt] = Tie(tensor.name, local[tie.to].name, tie.group)
        elif tensor is not None:
            local[tie.to] = tensor
    return shared


def _check_ties(
    checks: Checks,
    ties: Sequence[Tie],
    shared: Mapping[str, Tie],
    tensors: Mapping[str, Variable],
) -> None:
    """A reason for each output layer that is not tied, as far as shapes and the config tell."""
    for pair in (shared[tie.pt] for tie in ties if tie.pt in shared):
        one, other = tensors[pair.pt], tensors[pair.to]
        if one.shape != other.shape:
            checks.reasons.append(
                f"{one.name} {list(one.shape)} has another shape than {other.name}"
                f" {list(other.shape)}. {UNTIED}"
            )
    lost = [tie.pt for tie in ties if tie.pt.endswith(".weight") and tie.pt not in shared]
    if lost and checks.config.get("tie_word_embeddings") is False:
        checks.reasons.append(
            f"{checks.place('tie_word_embeddings')} sets tie_word_embeddings to false, and the"
            f" weights lack {joined(lost)}. {UNTIED}"
        )


def _check_other_keys(checks: Checks) -> None:
    """A reason for keys of any transformers config by which a model is not the original one."""
    config = checks.config
    if config.get("pruned_heads"):
        checks.reasons.append(
            f"{checks.place('pruned_heads')} has pruned_heads: the original code can't leave out"
            " heads"
        )
    if config.get("quantization_config"):
        checks.reasons.append(
            f"{checks.place('quantization_config')} has quantization_config: the weights are"
            " quantized. Save the model again with floating-point weights"
        )


def _original_config(
    checks: Checks, architecture: Architecture, present: set[str]
) -> dict[str, object]:
    """The content of the original code's config file, without the activation."""
    mapping, values = checks.mapping, checks.config_values()
    rule = mapping.files.config
    keys = {mapping.size_key(s) for s in mapping.sizes if s != mapping.roles.labels}
    keys |= {*mapping.defaults, *(rule.keys if rule else ())}
    content = {key: value for key, value in values.items() if key in keys}
    for key, group in mapping.flags.items():
        content[key] = group in present
        if checks.config.get(key, content[key]) != content[key]:
            has = "have" if content[key] else "lack"
            checks.notes.append(f"{key} = {content[key]}, because the weights {has} the {group}")
    loss = checks.config.get("problem_type")
    labels = checks.sizes.get(mapping.roles.labels)
    if architecture.problem_type and labels and loss not in (None, usual_problem_type(labels)):
        content["problem_type"] = loss
    if mapping.class_key:  # the original is a model of transformers
        content["model_type"] = mapping.model_type
        content[mapping.class_key] = [architecture.name]
    return content


def _activation(checks: Checks) -> tuple[str, str]:
    """TensorFlow's name of the activation, and transformers' name; "" if there is none."""
    rule = checks.mapping.activation
    if rule is None:
        return "", ""
    stated = checks.config.get(rule.config, rule.default)
    found = rule.of_transformers(stated)
    if found is None:
        known = joined([*filter(None, rule.names)])
        checks.reasons.append(
            f"{checks.place(rule.config)}: the original code has no name for {rule.config} ="
            f" {stated!r}; it knows {known}"
        )
        return "", ""
    name, form = found
    offered = rule.names[name]
    usual = next(iter(offered)) if isinstance(offered, dict) else form
    if form != usual:
        checks.notes.append(
            f"{checks.place(rule.config)} says {rule.config} = {stated}, which is the {form} form."
            f" The original code has one name, {name}, and computes the {usual} form today, so its"
            f" outputs will differ. Give verify --activation {form}"
        )
    return name, str(stated)


def _others(
    back: MappingFile,
    options: Options,
    architecture: Architecture,
    every: Found,
    written: Found,
    local: Mapping[str, Variable],
) -> tuple[list[Dropped], list[str]]:
    """The tensors that are left behind, and the reasons why others may not be."""
    used = {tensor.name for _, tensor in written if tensor is not None}
    groups = {tensor.name: pair.group for pair, tensor in every if tensor is not None}
    strip = architecture.strip
    skipped, unknown = [], []
    for name, tensor in local.items():
        if tensor.name in used:
            continue
        if tensor.name in groups:
            reason = f"{groups[tensor.name]}: not part of {architecture.name}"
            skipped.append(Dropped(tensor.name, reason))
        elif options.head is not None and strip and not name.startswith(strip):
            reason = f"outside of {strip}: not part of {architecture.name}"
            skipped.append(Dropped(tensor.name, reason))
        else:
            known = [pair.names[0] for pair, _ in every]
            unknown.append(
                f"{tensor.name} ({tensor.tf_dtype} {list(tensor.shape)}) is unknown to the mapping"
                f" {back.name}{nearest(name, known)}"
            )
    reasons = listed(unknown, MOST)
    if unknown and back.headless is not None and options.head is None:
        reasons.append(
            "An unknown tensor may be part of what the model computes, so nothing is written. If it"
            f" is a head of your own, --head {HEADLESS} writes the model without it"
        )
    return skipped, reasons
