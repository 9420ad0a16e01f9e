"""Open a checkpoint, find its mapping, config and vocabulary, and plan its conversion."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from .checkpoint import Checkpoint
from .checks import NOT_RECORDED, Recorded
from .companions import LARGEST_TEXT, base_name, find_companions, text_of
from .errors import CheckpointError, MappingError, PlanError
from .labels import (
    Labels,
    from_names,
    generic_name,
    is_pickle,
    labels_of,
    names_a_file,
    names_by_id,
    read_labels,
)
from .mapping import MappingFile, builtin_mappings, read_header, read_mapping
from .opening import open_checkpoint
from .options import DEFAULTS, Options, make_options
from .plan import Plan, make_plan
from .scope import casing_variables, detected, fits, missing_name, telling_names
from .storage.files import File, Progress
from .storage.location import parse_location
from .text import joined
from .tokenizers.registry import load_tokenizer


class SourceFile(Struct, frozen=True, omit_defaults=True):
    """A file that a conversion reads."""

    role: str
    name: str
    size: int  # bytes
    sha256: str = ""  # of small files; the tensors in a data file have checksums of their own


class Planned(Struct, frozen=True):
    """What a conversion will do, apart from the checkpoint. A golden record holds it."""

    options: Options
    mapping: MappingFile
    mapping_sha256: str
    plan: Plan
    config: dict[str, object] | None  # of the original code; None if there is no file
    tokenizer: str  # the kind that the vocabulary is for; "" if there is none
    vocabulary: tuple[str, ...] | None  # tokens by row; None if there is no tokenizer
    padding: int  # rows of the model that the vocabulary file has no token for
    do_lower_case: bool | None  # None if there is no tokenizer
    labels: tuple[str, ...] | None  # by id; None if nothing names them
    sources: list[SourceFile]  # the index, the config and the vocabulary
    notes: list[str]  # facts that a person should know


class Prepared(Planned, frozen=True, kw_only=True):
    """A conversion that is planned, before any tensor is read. A proof takes it as it is."""

    checkpoint: Checkpoint


def prepare(
    path: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    progress: Progress | None = None,
    recorded: Recorded = NOT_RECORDED,
    **changes: Any,
) -> Prepared:
    """Open a checkpoint and plan its conversion; no tensor is read.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        options: the caller's decisions.
        progress: told of the bytes that are downloaded, or unpacked from an archive.
        recorded: what an earlier conversion recorded, for what nothing else tells.
        **changes: single options by name, which replace those of `options`.

    Raises:
        CheckpointError: the checkpoint can't be found or opened.
        MappingError: no mapping fits, several do, or it is wrong.
        PlanError: with every reason why the parts do not fit together.
        TypeError, ValueError: there is no such option, or its value is wrong.
    """
    options = make_options(changes, options)
    checkpoint = open_checkpoint(path, progress=progress, step=options.step)
    mapping, digest = choose_mapping(checkpoint, options)
    try:
        return _prepare(checkpoint, mapping, digest, options, recorded)
    except (CheckpointError, PlanError) as error:
        other = ""
        if options.mapping in (None, *builtin_mappings()):
            other = _other_mapping(checkpoint, mapping)
            other = other or _other_model(checkpoint, mapping, options)
        if other:
            raise PlanError(other) from error
        if checkpoint.unnamed and isinstance(error, PlanError):
            raise PlanError(*error.reasons, checkpoint.unnamed) from error
        raise


def _prepare(
    checkpoint: Checkpoint,
    mapping: MappingFile,
    digest: str,
    options: Options,
    recorded: Recorded,
) -> Prepared:
    notes = [checkpoint.note] if checkpoint.note else []
    sources = [source_file("index", checkpoint.index)]

    files = find_companions(checkpoint, mapping, options, notes)
    config, config_name = files.config, "the config"
    values = None if config is None else config.values
    if files.config_file is not None:
        config_name = base_name(files.config_file)
        sources.append(source_file("config", files.config_file))

    vocabulary = do_lower_case = special_tokens = None
    odd: list[str] = []
    vocabulary_name = "the vocabulary"
    if not mapping.tokenizers:
        if options.vocab is not None:
            raise PlanError(f"--vocab {options.vocab}: the mapping {mapping.name} has no tokenizer")
        notes.append(f"the mapping {mapping.name} has no tokenizer, so the folder has none")
    elif (file := files.vocabulary_file) is not None:
        tokenizer = load_tokenizer(files.tokenizer)
        vocabulary, vocabulary_name = (
            tokenizer.read_vocabulary(text_of(file), file.name),
            base_name(file),
        )
        sources.append(source_file("vocabulary", file))
        inferred, reason = infer_casing(checkpoint, mapping, files.tokenizer, vocabulary)
        do_lower_case = inferred if options.lower_case is None else options.lower_case
        if do_lower_case is not inferred:
            variables, said = _said_casing(checkpoint, mapping)
            reason = f"the caller says so, though {variables} says the opposite" if said else ""
        elif options.lower_case is not None:
            reason = ""
        if reason:
            verb = "lower-cases" if do_lower_case else "does not lower-case"
            notes.append(f"the tokenizer {verb} text: {reason}")
        special_tokens = tokenizer.special_tokens(vocabulary)
        missing = [token.text for token in special_tokens.values() if token.row is None]
        if missing:
            notes.append(f"the vocabulary lacks {', '.join(dict.fromkeys(missing))}")
        odd = tokenizer.vocabulary_notes(vocabulary)
        notes += [f"{vocabulary_name}: {note}" for note in odd]
    else:
        name = " or ".join(rule.name for rule in mapping.vocabularies) or "vocabulary"
        notes.append(f"no {name} was found, so the folder has no tokenizer. --vocab names one")

    plan = make_plan(
        checkpoint.variables,
        mapping,
        values,
        None if vocabulary is None else len(vocabulary),
        options,
        special_tokens=special_tokens,
        vocabulary_notes=odd,
        config_name=config_name,
        config_line=config.line if config is not None else lambda key: None,
        vocabulary_name=vocabulary_name,
        recorded=recorded,
    )
    labels = _labels(
        checkpoint, mapping, options, plan, values, config_name, sources, notes, recorded.labels
    )
    padding = 0
    if vocabulary is not None:
        rows = plan.sizes.get(mapping.roles.vocabulary, len(vocabulary))
        padding = rows - len(vocabulary)
        vocabulary = load_tokenizer(files.tokenizer).pad_vocabulary(vocabulary, rows)
    else:
        notes += [
            f"{key} = {msgspec.json.encode(plan.config[key]).decode()} is assumed, because there is"
            " no vocabulary"
            for key in mapping.token_ids
        ]
    return Prepared(
        checkpoint=checkpoint,
        options=options,
        mapping=mapping,
        mapping_sha256=digest,
        plan=plan,
        config=values,
        tokenizer=files.tokenizer if vocabulary is not None else "",
        vocabulary=vocabulary,
        padding=padding,
        do_lower_case=do_lower_case,
        labels=labels,
        sources=sources,
        notes=[*plan.notes, *notes],
    )


def infer_casing(
    checkpoint: Checkpoint, mapping: MappingFile, tokenizer: str, tokens: Sequence[str]
) -> tuple[bool, str]:
    """Whether text is lower-cased, and why: a variable says it, else the vocabulary tells.

    Args:
        checkpoint: its variable that says it is read, which has one byte.
        mapping: the rules, which name the variable.
        tokenizer: the vocabulary's kind.
        tokens: the vocabulary.

    Raises:
        CheckpointError: the variable is damaged.
    """
    place = str(parse_location(checkpoint.name).absolute())
    casing = load_tokenizer(tokenizer).infer_casing(tokens, place)
    told, why = casing.do_lower_case, casing.reason
    variables, said = _said_casing(checkpoint, mapping)
    if len(said) == 1:
        but = "" if told in said else f", though {why}"
        return said.pop(), f"{variables} says so{but}"
    if variables:
        problem = "contradict each other" if said else "can't be read without the data"
        why += f"; the variables that say it, {variables}, {problem}"
    return told, why


def _said_casing(checkpoint: Checkpoint, mapping: MappingFile) -> tuple[str, set[bool]]:
    """The variables that say whether text is lower-cased, and what they say; nothing without data.

    Raises:
        CheckpointError: one is damaged.
    """
    said = [v.name for v in casing_variables(checkpoint.variables.values(), mapping)]
    try:
        checkpoint.spans(said)
    except CheckpointError:  # a data file is missing
        return joined(said), set()
    return joined(said), {bool(checkpoint[name]) for name in said}


def _labels(
    checkpoint: Checkpoint,
    mapping: MappingFile,
    options: Options,
    plan: Plan,
    config: dict[str, object] | None,
    config_name: str,
    sources: list[SourceFile],
    notes: list[str],
    recorded: tuple[str, ...],
) -> tuple[str, ...] | None:
    """The names of the head's labels by id: those that the caller gives, else those that are found.

    If several files name different ones, those that an earlier conversion recorded are taken.

    Raises:
        PlanError: they are not those of the head, or two files name different ones.
        CheckpointError: a file can't be read.
    """
    count, given = plan.sizes.get(mapping.roles.labels), options.labels
    if count is None:
        if given is not None:
            raise PlanError(f"--labels: {plan.architecture.name} has no labels that have names")
        return None
    found: dict[str, Labels] = {}
    if isinstance(given, tuple):
        found["--labels"] = from_names(given, "--labels")
    elif given is not None and not names_a_file(given):
        names = given.removesuffix(",").split(",")
        found["--labels"] = from_names([name.strip() for name in names], "--labels")
    else:
        if given is not None:
            files = [parse_location(given).open()]
        else:
            files = checkpoint.companions(mapping.files.labels)
            in_config = labels_of(config or {}, config_name)
            found |= {config_name: in_config} if in_config else {}
        for file in files:
            name = base_name(file)
            if given is None and is_pickle(name):
                notes.append(
                    f"{name} was not read, because a pickle may run any program when it is read."
                    " --labels names the labels"
                )
                continue
            found[name] = read_labels(text_of(file), name)
            sources.append(source_file("labels", file))
    if not found:
        if count > 1:
            last = generic_name(count - 1)
            notes.append(
                f"nothing names the {count:,} labels, so they are {generic_name(0)} to {last}."
                " --labels names them"
            )
        return None
    if recorded:
        same = {
            s: labels for s, labels in found.items() if names_by_id(labels, count, s) == recorded
        }
        found = same or found
    source, labels = next(iter(found.items()))
    for other, others in found.items():
        if others != labels:
            raise PlanError(
                f"{source} and {other} name different labels. --labels chooses one of them"
            )
    by_id = names_by_id(labels, count, source)
    if given is None:
        notes.append(f"{joined([*found])} names the labels: {joined(by_id)}")
    return by_id


def source_file(role: str, file: File) -> SourceFile:
    """The record of a file for conversion.json: name, size, and the sha256 of a small file."""
    small = file.size <= LARGEST_TEXT  # the index of a V1 checkpoint has the data, too
    digest = hashlib.sha256(file.read(0, file.size)).hexdigest() if small else ""
    return SourceFile(role, base_name(file), file.size, digest)


def data_files(checkpoint: Checkpoint) -> list[SourceFile]:
    """The records of a checkpoint's data files.

    Raises:
        CheckpointError: one is missing.
    """
    return [SourceFile("data", base_name(file), file.size) for file in checkpoint.data_files()]


def _other_model(checkpoint: Checkpoint, mapping: MappingFile | None, options: Options) -> str:
    """Which other model this is, if the names of the variables tell it; else "".

    That explains every other reason why a conversion is not possible, and so replaces them.
    """
    from .other_models import other_model

    found = other_model(telling_names(checkpoint.variables, mapping, options))
    if not found:
        return ""
    return f"{checkpoint.name} {found}"


def recognize(checkpoint: Checkpoint) -> tuple[MappingFile | None, str]:
    """The built-in mapping that converts such a checkpoint; None, and the reason, if none does."""
    try:
        mapping, _ = choose_mapping(checkpoint, DEFAULTS)
    except MappingError as error:
        return None, str(error)
    try:
        make_plan(checkpoint.variables, mapping)
    except PlanError:  # which a config may mend, but nothing makes one model of another
        if other := _other_model(checkpoint, mapping, DEFAULTS):
            return None, other
    return mapping, ""


def _other_mapping(checkpoint: Checkpoint, mapping: MappingFile) -> str:
    """Which built-in mapping a checkpoint fits if it is not the one that was taken; else ""."""
    try:
        best, _ = choose_mapping(checkpoint, DEFAULTS)
    except MappingError:
        return ""
    is_more = {*mapping.detects} < {*best.detects}
    if not is_more and detected(checkpoint.variables.values(), mapping):
        return ""
    return (
        f"{checkpoint.name} fits the mapping {best.name}, not {mapping.name}. Leave out --mapping,"
        f" or give --mapping {best.name}"
    )


def named_mapping(given: str) -> tuple[MappingFile, str]:
    """The mapping of a name or a file, and its sha256.

    Raises:
        MappingError: there is none, or it is wrong.
    """
    known = builtin_mappings()
    path = known.get(given, Path(given).expanduser())
    if given not in known and "." not in given and not path.exists():
        raise MappingError(
            f"--mapping {given}: no such file exists; the built-in mappings are {joined([*known])}"
        )
    return read_mapping(path)


def choose_mapping(checkpoint: Checkpoint, options: Options) -> tuple[MappingFile, str]:
    """The mapping that the caller names, else the one that fits the checkpoint; and its sha256.

    Of several that fit, the one that is detected by the most variables is taken.

    Raises:
        MappingError: none fits, several fit equally well, or the named one is wrong.
    """
    known, given = builtin_mappings(), options.mapping
    if given is not None:
        return named_mapping(given)
    every = {path: read_header(path) for path in known.values()}
    variables = checkpoint.variables.values()
    fitting = {path: mapping for path, mapping in every.items() if fits(variables, mapping)}
    if not fitting:
        if checkpoint.unnamed:
            raise MappingError(f"{checkpoint.name} fits no mapping: {checkpoint.unnamed}")
        if other := _other_model(checkpoint, None, options):
            raise MappingError(other)
        some = ", ".join(list(checkpoint)[:5])
        first: dict[str, list[str]] = {}
        for mapping in every.values():
            first.setdefault(missing_name(variables, mapping), []).append(mapping.name)
        detects = joined([f"{name} ({', '.join(of)})" for name, of in first.items()])
        raise MappingError(
            f"no mapping fits {checkpoint.name}. It has {len(checkpoint):,} variables, such as"
            f" {some}; the mappings look for {detects}. --mapping takes a file with your own rules"
        )
    most = max(len(mapping.detects) for mapping in fitting.values())
    best = [path for path, mapping in fitting.items() if len(mapping.detects) == most]
    if len(best) > 1:
        names = [fitting[path].name for path in best]
        raise MappingError(
            f"the mappings {joined(names)} fit {checkpoint.name} equally well. Choose one with"
            f" --mapping, such as --mapping {names[0]}"
        )
    return read_mapping(best[0], check=False)
