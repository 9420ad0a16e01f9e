"""Level weights, besides the tensors: config.json, tokenizer and provenance fit the checkpoint."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

import msgspec
from msgspec import Struct

from ..errors import PlanError
from ..labels import generic_name, usual_problem_type
from ..layout import CONFIG, PROVENANCE, TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_FILES
from ..mapping import SizeRule, same_function
from ..prepare import Planned, SourceFile
from ..text import counted, joined, listed
from ..tokenizers.registry import Role, Tokenizer, load_tokenizer
from ..tokenizers.written import Written, read_written
from .model_folder import ModelFolder, Provenance
from .variables import Variables
from .verdict import Check, Fact, Match

_MOST_SHOWN = 4


class Metadata(Struct, frozen=True):
    """What was found besides the tensors."""

    checks: list[Check]
    facts: list[Fact]
    notes: list[str]
    unproved: list[str]  # what nothing in the checkpoint tells


def prove_metadata(
    planned: Planned, variables: Variables, folder: ModelFolder, matches: list[Match]
) -> Metadata:
    """Check config, tokenizer and provenance against the checkpoint.

    Args:
        planned: the conversion.
        variables: those of the checkpoint.
        folder: the model folder.
        matches: the tensors, as `prove_weights` found them.

    Returns:
        A check of each file that exists, and notes on those that do not.
    """
    notes: list[str] = []
    unproved: list[str] = []
    check, facts = _config(planned, folder, notes, unproved)
    tokenizer, more = _tokenizer(planned, folder, notes, unproved)
    checks = [check, *tokenizer]
    if folder.provenance is None:
        notes.append(f"{PROVENANCE} is missing, so the origin of OUT was not checked")
    else:
        checks.append(_provenance(planned, variables, folder, folder.provenance, matches, notes))
    return Metadata(checks, [*facts, *more], notes, unproved)


def bits_fact(checks: list[Check], matches: list[Match]) -> Fact:
    """Whether the tensors are the variables.

    Args:
        checks: as `prove_weights` gives them.
        matches: the tensors, as it found them.
    """
    wrong = [check.detail for check in checks if not check.passed]
    casts = sorted({match.dtype for match in matches if match.cast})
    right = f"equal, cast to {joined(casts)}" if casts else "equal"
    return Fact("bits", "equal", "; ".join(wrong) or right, not wrong)


def _config(
    planned: Planned, folder: ModelFolder, notes: list[str], unproved: list[str]
) -> tuple[Check, list[Fact]]:
    sizes, activation = _sizes(planned, folder), _activation(planned, folder)
    rest = [*_values(planned, folder), *_special_rows(planned, folder, unproved)]
    rest += [*_labels(planned, folder, notes), *_problem_type(planned, folder, unproved)]
    check = _check(
        CONFIG,
        [*sizes.values(), *rest, *activation],
        "sizes, heads, constants and activation fit the checkpoint",
    )
    mapping, facts = planned.mapping, []
    heads, rule = mapping.roles.heads, mapping.activation
    if heads in planned.plan.sizes:
        key, expected = mapping.size_key(heads), str(planned.plan.sizes[heads])
        facts.append(_value(planned, folder, "heads", key, expected, heads in sizes))
    if rule is not None:
        expected = planned.plan.activation[1]
        facts.append(_value(planned, folder, "activation", rule.config, expected, bool(activation)))
    rest = [*(text for symbol, text in sizes.items() if symbol != heads), *rest]
    found = "; ".join(listed(rest, _MOST_SHOWN)) or "equal"
    return check, [*facts, Fact("config", "equal", found, not rest)]


def _value(
    planned: Planned, folder: ModelFolder, name: str, key: str, expected: str, differs: bool
) -> Fact:
    """What the checkpoint and OUT say of a key of config.json."""
    stated = folder.config.get(key, planned.mapping.implied.get(key))
    # Each sentence about what nothing tells begins with the key.
    untold = any(text.split(" ", 1)[0] == key for text in planned.plan.untold)
    found = stated if isinstance(stated, str) else _shown(stated)
    return Fact(name, expected, found, False if differs else None if untold else True)


def _sizes(planned: Planned, folder: ModelFolder) -> dict[str, str]:
    """Which sizes are wrong, by their symbols."""
    mapping, sizes = planned.mapping, planned.plan.sizes
    wrong = {}
    for symbol, rule in mapping.sizes.items():
        key = mapping.size_key(symbol)
        if symbol not in sizes:
            continue
        stated, expected = folder.config.get(key), sizes[symbol]
        if symbol == mapping.roles.labels:  # transformers keeps the number of labels as their names
            labels = folder.config.get("id2label")
            stated = len(labels) if isinstance(labels, dict) else mapping.implied.get(key)
        told = not isinstance(rule, SizeRule) or _is_told(planned, symbol)
        if stated != expected and told:
            wrong[symbol] = f"{key} is {stated}, but the checkpoint has {expected}"
        elif stated != expected and isinstance(rule, SizeRule):
            wrong[symbol] = (
                f"{key} is {stated}, but {expected} is assumed ({rule.assume}), because no config"
                " gives it. Give the right number with --config or --num-heads"
            )
    return wrong


def _is_told(planned: Planned, symbol: str) -> bool:
    """Whether the source's config or the caller tells a size that no variable does."""
    key = planned.mapping.size_key(symbol)
    roles, options = planned.mapping.roles, planned.options
    by_caller = {roles.heads: options.num_heads, roles.layers: options.num_layers}.get(symbol)
    return by_caller is not None or (planned.config or {}).get(key) is not None


def _values(planned: Planned, folder: ModelFolder) -> list[str]:
    config, mapping = folder.config, planned.mapping
    due = planned.plan.config
    expected: dict[str, object] = {"model_type": mapping.model_type}
    expected |= {key: due.get(key) for key in (*mapping.config, *mapping.defaults)}
    wrong = [
        f"{key} is {found!r}, but must be {value!r}"
        for key, value in expected.items()
        if (found := config.get(key, mapping.implied.get(key, value))) != value
    ]
    wrong += [
        f"{key} is {config[key]!r}; with it the model computes something else"
        for key, value in mapping.neutral.items()
        if config.get(key, value) != value
    ]
    return wrong


def padding_id(planned: Planned, folder: ModelFolder | None) -> int | None:
    """The id of the padding token, whose embedding is not trained; None if there is none.

    Args:
        planned: the conversion.
        folder: it tells the id if neither a vocabulary nor a config does. Without one, what a
            conversion assumes is taken.
    """
    return next((t.row for t in _token_ids(planned, folder) if t.role == "pad_token"), None)


class _TokenId(Struct, frozen=True):
    """A key of config.json, and the row of the token that it means."""

    key: str
    role: Role
    row: int | None
    told_by: str  # "" if nothing tells, so that it is what OUT has


def _token_ids(planned: Planned, folder: ModelFolder | None) -> list[_TokenId]:
    mapping, due = planned.mapping, planned.plan.config
    written = None
    if planned.vocabulary is None and folder is not None:
        with suppress(OSError, PlanError):  # which another check reports
            written = _written(planned, folder)
    found = []
    for key, role in mapping.token_ids.items():
        row = due[key]
        if planned.vocabulary is not None:
            told_by = "the vocabulary"
        elif key in (planned.config or {}):
            told_by = "the checkpoint's config"
        elif written:
            told_by = "OUT's tokenizer"
            special = load_tokenizer(written.kind).special_tokens(written.tokens)
            row = special[role].row if role in special else None
        elif folder is not None:
            told_by, row = "", folder.config.get(key, mapping.implied.get(key))
        else:
            told_by = ""
        found.append(_TokenId(key, role, row if isinstance(row, int) else None, told_by))
    return found


def _shown(value: object) -> str:
    return "null" if value is None else repr(value)


def _special_rows(planned: Planned, folder: ModelFolder, unproved: list[str]) -> list[str]:
    wrong = []
    for token in _token_ids(planned, folder):
        stated = folder.config.get(token.key, planned.mapping.implied.get(token.key))
        if not token.told_by:
            unproved.append(f"{token.key} was not checked, because there is no vocabulary")
        elif stated != token.row:
            wrong.append(
                f"{token.key} is {_shown(stated)}, but must be {_shown(token.row)} by"
                f" {token.told_by}"
            )
    return wrong


def _labels(planned: Planned, folder: ModelFolder, notes: list[str]) -> list[str]:
    """Whether the labels have the right names, where the checkpoint or the caller tells them."""
    stated = folder.config.get("id2label")
    if planned.mapping.roles.labels not in planned.plan.sizes or not isinstance(stated, dict):
        return []  # their number is checked with the other sizes
    found = (stated.get(str(label)) for label in range(len(stated)))
    names = [name if isinstance(name, str) else None for name in found]
    wrong = []
    back = folder.config.get("label2id")
    if isinstance(back, dict) and back != {name: label for label, name in enumerate(names)}:
        wrong.append("id2label and label2id contradict each other")
    recorded = folder.provenance and folder.provenance.labels
    expected = planned.labels or recorded
    if not expected or names == [*expected]:
        return wrong
    if names == [*map(generic_name, range(len(names)))]:
        notes.append(f"the labels have no names; those of the checkpoint are {joined(expected)}")
        return wrong
    differ = (
        f"the label {label} is {name!r}, but must be {right!r}"
        for label, (name, right) in enumerate(zip(names, expected, strict=False))
        if name != right
    )
    return [*wrong, *islice(differ, 1)]


def _problem_type(planned: Planned, folder: ModelFolder, unproved: list[str]) -> list[str]:
    """Whether a classifier has the right loss, where the checkpoint or the caller tells it."""
    plan = planned.plan
    if not plan.architecture.problem_type:
        return []
    count = plan.sizes.get(planned.mapping.roles.labels, 0)
    usual = usual_problem_type(count)
    stated = folder.config.get("problem_type") or usual
    told = planned.options.problem_type or (planned.config or {}).get("problem_type")
    if told and stated != told:
        return [f"problem_type is {stated!r}, but must be {told!r}"]
    if count == 1 and stated == "single_label_classification":
        return [f"problem_type is {stated!r}, which needs two labels, and there is one"]
    recorded = folder.provenance and folder.provenance.config.get("problem_type")
    if not told and stated not in (usual, recorded):
        unproved.append(f"problem_type = {stated} was not checked, because no config tells it")
    return []


def _activation(planned: Planned, folder: ModelFolder) -> list[str]:
    rule = planned.mapping.activation
    if rule is None:
        return []
    original, expected = planned.plan.activation
    stated = folder.config.get(rule.config, planned.mapping.implied.get(rule.config))
    known = same_function(stated)
    if known == same_function(expected):
        return []
    offered = rule.names.get(original)
    hint = ""
    if isinstance(offered, dict):
        hint = "".join(
            f". If the checkpoint was trained with the {word} form, give --activation {word}"
            for word, name in offered.items()
            if word == rule.form((original, known))
        )
    return [f"{rule.config} is {stated!r}, but the original {original!r} is {expected!r}{hint}"]


def _tokenizer(
    planned: Planned, folder: ModelFolder, notes: list[str], unproved: list[str]
) -> tuple[list[Check], list[Fact]]:
    if not planned.mapping.tokenizers:
        notes.append(f"the mapping {planned.mapping.name} has no tokenizer, so none was checked")
        return [], []
    tokens = planned.vocabulary
    expected = "" if tokens is None else counted(len(tokens) - planned.padding, "token")
    names = (_kind(planned, folder).VOCABULARY, TOKENIZER)
    missing = [name for name in names if not (folder.path / name).exists()]
    provenance = folder.provenance
    had_vocabulary = provenance is not None and any(
        source.role == "vocabulary" for source in provenance.sources
    )
    has_none = len(missing) == len(names)
    if (missing and had_vocabulary) or (has_none and planned.vocabulary is not None):
        text = f"{joined(missing)} missing, and the checkpoint has a vocabulary"
        check = Check("weights", "tokenizer", False, text)
        return [check], [Fact("tokenizer", expected, text, False)]
    if has_none:
        notes.append("OUT has no tokenizer, so none was checked")
        return [], [Fact("tokenizer", expected, "none", None)]
    if planned.vocabulary is None:
        unproved.append(
            "the checkpoint has no vocabulary, so the tokenizer's tokens were not checked; --vocab"
            " names one"
        )
    written, wrong, case = None, list[str](), list[str]()
    try:
        if written := _written(planned, folder):
            case = _other_case(planned.do_lower_case, written.lowers)
            wrong = _token_faults(planned, folder, written)
    except PlanError as error:
        wrong = [*error.reasons]
    except (OSError, ValueError) as error:
        wrong = [f"a file of the tokenizer can't be read: {error}"]
    right = f"the vocabulary has the model's {_rows(folder):,} tokens"
    has = expected or (counted(len(written.tokens), "token") if written else "none")
    found = "; ".join(listed(wrong, _MOST_SHOWN)) or has
    same = False if wrong else None if tokens is None or written is None else True
    facts = [Fact("tokenizer", expected, found, same)]
    if written is not None:
        facts.append(_casing(planned.do_lower_case, written.lowers, case))
    return [_check("tokenizer", [*wrong, *case], right)], facts


def _casing(expected: bool | None, lowers: dict[str, bool], wrong: list[str]) -> Fact:
    words = {True: "lower-cases", False: "keeps case", None: ""}
    has = words[next(iter(lowers.values()))] if lowers else f"{words[True]}, by default"
    same = False if wrong else None if expected is None else True
    return Fact("casing", words[expected], "; ".join(wrong) or has, same)


def _rows(folder: ModelFolder) -> int:
    rows = folder.config.get("vocab_size")
    return rows if isinstance(rows, int) else 0


def _token_faults(planned: Planned, folder: ModelFolder, written: Written) -> list[str]:
    wrong = []
    if len(written.tokens) not in (_rows(folder), _rows(folder) - planned.padding):
        wrong.append(
            f"the number of tokens in the vocabulary is {len(written.tokens):,}, but vocab_size is"
            f" {_rows(folder):,}"
        )
    config: dict[str, object] = {}
    if (folder.path / TOKENIZER_CONFIG).exists():
        data = (folder.path / TOKENIZER_CONFIG).read_bytes()
        config = msgspec.json.decode(data, type=dict[str, object])
    wrong += _other_tokens(planned, written.tokens)
    wrong += _other_special_tokens(load_tokenizer(written.kind), config, written.tokens)
    return wrong


def _kinds(planned: Planned) -> list[str]:
    """The kind of tokenizer that the vocabulary is for; without one, those that it may be."""
    return [planned.tokenizer] if planned.tokenizer else [*planned.mapping.tokenizers]


def _kind(planned: Planned, folder: ModelFolder) -> Tokenizer:
    """The kind of tokenizer whose vocabulary OUT has or should have."""
    loaded = [load_tokenizer(kind) for kind in _kinds(planned)]
    return next((kind for kind in loaded if (folder.path / kind.VOCABULARY).exists()), loaded[0])


def _written(planned: Planned, folder: ModelFolder) -> Written | None:
    """The vocabulary of OUT; None if it has none.

    Raises:
        PlanError: a file is damaged, or two contradict each other.
        OSError: one can't be read.
    """
    paths = [folder.path / name for name in TOKENIZER_FILES]
    files = {path.name: path.read_bytes() for path in paths if path.exists()}
    return read_written(files, _kinds(planned))


def _other_special_tokens(
    kind: Tokenizer, config: dict[str, object], written: Sequence[str]
) -> list[str]:
    """The tokens that tokenizer_config.json gives a role which they do not have.

    transformers adds a token that the vocabulary lacks, with an id that no embedding has.
    """
    wrong = []
    for role, token in kind.special_tokens(written).items():
        stated = config.get(role)
        text = stated.get("content") if isinstance(stated, dict) else stated
        if text is not None and (text != token.text or token.row is None):
            lacks = ", which the vocabulary lacks" if token.row is None else f", not {token.text}"
            wrong.append(f"{TOKENIZER_CONFIG} has {role} = {text}{lacks}")
    return wrong


def _other_tokens(planned: Planned, written: Sequence[str]) -> list[str]:
    """Where OUT's tokens are not those of the file; the names of rows without one are free."""
    if planned.vocabulary is None:
        return []
    original = planned.vocabulary[: len(planned.vocabulary) - planned.padding]
    last = {token: index for index, token in enumerate(original)}
    changed = [
        index
        for index, (old, new) in enumerate(zip(original, written, strict=False))
        if old != new and last[old] == index
    ]
    if not changed and len(original) <= len(written):
        return []
    where = f", the first at {changed[0]:,}" if changed else ""
    return [f"{len(changed):,} tokens differ from the checkpoint's vocabulary{where}"]


def _other_case(expected: bool | None, lowers: dict[str, bool]) -> list[str]:
    """Where OUT lower-cases text and the original does not, or the other way round."""
    if not lowers:
        if expected is not False:
            return []
        return [
            "no file says that text keeps its case, so transformers lower-cases it, but the"
            " vocabulary is cased"
        ]
    source = next(iter(lowers))  # transformers takes tokenizer.json, where there is one
    wrong = []
    if expected is not None and lowers[source] is not expected:
        wrong.append(
            f"{source} {'lower-cases' if lowers[source] else 'does not lower-case'} text, but the"
            f" vocabulary is {'uncased' if expected else 'cased'}"
        )
    wrong += [
        f"{other} has do_lower_case = {stated}, unlike {source}"
        for other, stated in lowers.items()
        if stated is not lowers[source]
    ]
    return wrong


def _provenance(
    planned: Planned,
    variables: Variables,
    folder: ModelFolder,
    provenance: Provenance,
    matches: list[Match],
    notes: list[str],
) -> Check:
    wrong = _sources(variables.files, provenance)
    wrong = wrong or _record(planned, variables, folder, provenance, matches)
    if provenance.mapping.get("sha256") != planned.mapping_sha256:
        notes.append(f"OUT was made with another version of the mapping {planned.mapping.name}")
    return _check(PROVENANCE, wrong, "names this checkpoint and every tensor")


def _sources(files: list[SourceFile], provenance: Provenance) -> list[str]:
    """Whether OUT was made from the index and the data files of this checkpoint."""
    index = next(file for file in files if file.role == "index")
    wrong = []
    for source in provenance.sources:
        if source.role == "index" and source.sha256 and index.sha256 != source.sha256:
            wrong.append(
                f"OUT was made from another checkpoint: its index had the sha256"
                f" {source.sha256[:16]}..., but {index.name} has {index.sha256[:16]}..."
            )
    sizes = sorted(source.size for source in provenance.sources if source.role == "data")
    found = sorted(file.size for file in files if file.role == "data")
    if sizes != found:
        wrong.append(f"the data files had {sum(sizes):,} bytes and now have {sum(found):,}")
    return wrong


def _record(
    planned: Planned,
    variables: Variables,
    folder: ModelFolder,
    provenance: Provenance,
    matches: list[Match],
) -> list[str]:
    """Whether conversion.json says of each tensor what was found."""
    wrong = []
    by_tensor = {match.tensor: match for match in matches}
    for tensor in sorted(by_tensor.keys() ^ provenance.tensors.keys()):
        missing = PROVENANCE if tensor in by_tensor else "the weights"
        wrong.append(f"{tensor} is missing from {missing}")
    for tensor in sorted(by_tensor.keys() & provenance.tensors.keys()):
        match, origin = by_tensor[tensor], provenance.tensors[tensor]
        if (origin.variable, origin.transform) != (match.variable, match.op):
            wrong.append(f"{tensor} is recorded as {origin.variable} ({origin.transform})")
        elif origin.crc32c and int(origin.crc32c, 16) != variables.checksum(match.variable):
            wrong.append(f"{match.variable} no longer has the crc32c {origin.crc32c}")
        if origin.dtype != match.dtype:
            wrong.append(f"{tensor} is recorded as {origin.dtype} but is {match.dtype}")
    mapping, rule = planned.mapping, planned.mapping.activation
    # config.json has labels' names in place of their number; activations have several names.
    uncompared = {mapping.size_key(mapping.roles.labels)} if mapping.roles.labels else set()
    uncompared |= {rule.config} if rule is not None else set()
    wrong += [
        f"{CONFIG} was edited: {key} was {_shown(value)}"
        for key, value in provenance.config.items()
        if key not in uncompared and folder.config.get(key, value) != value
    ]
    listed_classes = folder.config.get("architectures")
    if provenance.architecture and listed_classes != [provenance.architecture]:
        wrong.append(f"{CONFIG} was edited: architectures was [{provenance.architecture!r}]")
    if rule is not None:
        recorded, stated = provenance.activation.get("transformers"), folder.config.get(rule.config)
        if recorded and stated is not None and same_function(stated) != same_function(recorded):
            wrong.append(f"{CONFIG} was edited: {rule.config} was {recorded!r}")
    taken = {match.variable for match in matches}
    for name in sorted(set(variables.described) - taken - provenance.dropped.keys()):
        wrong.append(f"{name} is missing from {PROVENANCE}")
    return wrong


def _check(name: str, wrong: list[str], right: str) -> Check:
    return Check("weights", name, not wrong, "; ".join(listed(wrong, _MOST_SHOWN)) or right)
