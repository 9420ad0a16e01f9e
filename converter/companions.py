"""Finds the config and the vocabulary that belong to a checkpoint.

Beside it, names tell; of several files, their keys. One folder up, the sizes must fit, too, and the
name must be the usual one.
"""

import hashlib
import os
import re
from collections.abc import Callable
from functools import cache, partial
from itertools import islice

from msgspec import Struct

from .checkpoint import Checkpoint
from .config_file import ConfigFile, may_be_config, parse_config, parse_document
from .errors import CheckpointError, PlanError
from .mapping import FileRule, MappingFile
from .options import Options
from .plan import Plan, make_plan
from .storage.files import File
from .storage.location import parse_location
from .storage.mistaken import mistaken
from .text import as_text, joined
from .tokenizers.registry import load_tokenizer

LARGEST_TEXT = 64 << 20  # bytes; a vocabulary is a thousandth of it
_LARGEST_CONFIG = 4 << 20  # bytes; in memory, JSON takes some thirty times as much
_MOST_NOTES = 3  # on files that do not fit


class Companions(Struct):
    """The files that belong to a checkpoint, as far as there are any."""

    config: ConfigFile | None = None
    config_file: File | None = None
    vocabulary_file: File | None = None
    tokenizer: str = ""  # the vocabulary's kind


def find_companions(
    checkpoint: Checkpoint, mapping: MappingFile, options: Options, notes: list[str]
) -> Companions:
    """The config and the vocabulary that the caller names, else those next to the checkpoint.

    If there is none, one in the folder above is taken, but only if its sizes fit.

    Raises:
        CheckpointError: one can't be opened, or several fit.
        PlanError: the config can't be read.
    """
    files = Companions()
    rule, other = mapping.files.config, []

    def said(file: File) -> dict[str, object] | None:
        found = config_among(file, mapping)
        if found is None:
            other.append(base_name(file))
        return None if found is None else found.values

    if options.config is not None:
        files.config_file = parse_location(options.config).open()
    elif rule is not None:
        files.config_file = checkpoint.companion(rule.name, rule.pattern, said)
    if files.config_file is not None:
        files.config = read_config(files.config_file, mapping)
    if options.vocab is not None:
        files.vocabulary_file = parse_location(options.vocab).open()
        files.tokenizer = _kind_of(files.vocabulary_file, mapping)
    else:
        _look_beside(files, checkpoint, mapping)
    if None in (files.config_file, files.vocabulary_file):
        _look_above(files, checkpoint, mapping, options, notes)
    if files.config_file is None and other:
        notes.append(f"by the keys, this is no config of such a model: {joined(other)}")
    if files.config_file is not None and files.config is not None and files.config.inside:
        notes.append(f"the config is {files.config.inside} in {base_name(files.config_file)}")
    return files


def _kind_of(file: File, mapping: MappingFile) -> str:
    """The kind of tokenizer of a vocabulary file, by its name; else the first that can read it.

    Raises:
        PlanError: none can.
        CheckpointError: the file can't be read.
    """
    name, reasons = os.path.basename(file.name), list[str]()
    for rule in mapping.vocabularies:
        if name == rule.name or re.fullmatch(rule.pattern, name):
            return rule.tokenizer
    if len(mapping.tokenizers) < 2:
        return "".join(mapping.tokenizers)
    for kind in mapping.tokenizers:
        try:
            load_tokenizer(kind).read_vocabulary(text_of(file), file.name)
        except PlanError as error:
            reasons += error.reasons
        else:
            return kind
    raise PlanError(*reasons)


def _look_beside(files: Companions, checkpoint: Checkpoint, mapping: MappingFile) -> None:
    """Add the vocabulary that is next to the checkpoint.

    Raises:
        CheckpointError: there are several.
    """
    for rule in mapping.vocabularies:
        file = checkpoint.companion(rule.name, rule.pattern, digest_of)
        if file is None:
            continue
        if files.vocabulary_file is not None:
            raise CheckpointError(
                f"{_path_of(files.vocabulary_file)} and {base_name(file)} are vocabularies of"
                " two kinds. Choose one of them with --vocab"
            )
        files.vocabulary_file, files.tokenizer = file, rule.tokenizer


def _look_above(
    files: Companions,
    checkpoint: Checkpoint,
    mapping: MappingFile,
    options: Options,
    notes: list[str],
) -> None:
    """Add a config and a vocabulary from the folder above, if a plan can be made with them.

    One of another name than the usual one is suggested only: the folder may have other models.
    """

    def plan_with(config: ConfigFile | None, name: str = "", tokens: int | None = None) -> Plan:
        if config is None:
            return make_plan(checkpoint.variables, mapping, None, tokens, options)
        return make_plan(
            checkpoint.variables,
            mapping,
            config.values,
            tokens,
            options,
            config_name=name,
            config_line=config.line,
        )

    def as_config(file: File) -> object:
        found = config_among(file, mapping)
        if found is not None:
            plan_with(found, base_name(file))
        return None if found is None else found.values

    @cache
    def rows() -> int | None:
        """The tokens of the model; None if it can't be converted with any vocabulary."""
        try:
            return plan_with(files.config).sizes.get(mapping.roles.vocabulary)
        except PlanError:
            return None

    def as_vocabulary(kind: str, file: File) -> object:
        tokens = len(load_tokenizer(kind).read_vocabulary(text_of(file), file.name))
        wanted = rows()
        if wanted is None:
            return None
        if tokens != wanted and options.pad_vocab:
            plan_with(files.config, tokens=tokens)
        elif tokens != wanted:
            raise PlanError(f"it has {tokens:,} tokens, and the model {wanted:,} word embeddings")
        return digest_of(file)

    def find(option: str, rule: FileRule | None, content: Callable[[File], object]) -> File | None:
        unfit: dict[str, str] = {}

        def fitting(file: File) -> object:
            try:
                return content(file)
            except (CheckpointError, PlanError) as error:
                unfit[_path_of(file)] = getattr(error, "reasons", [str(error)])[0]
                return None

        if rule is None:
            return None
        try:
            found = checkpoint.companion(rule.name, rule.pattern, fitting, above=True)
        except CheckpointError as error:  # several fit
            notes.append(str(error))
            return None
        if found is not None and (
            os.path.basename(found.name) == rule.name or checkpoint.is_of_saved_model
        ):
            notes.append(
                f"{_path_of(found)} is taken, one folder up, because its sizes fit. --{option}"
                " names another"
            )
            return found
        if found is not None:
            notes.append(
                f"--{option} {_path_of(found)} takes a file one folder up, whose sizes fit"
            )
            return None
        notes.extend(
            f"{path}, one folder up, is not taken: {reason}. --{option} names another"
            for path, reason in islice(unfit.items(), _MOST_NOTES)
        )
        return None

    if files.config_file is None:
        files.config_file = find("config", mapping.files.config, as_config)
        if files.config_file is not None:
            files.config = read_config(files.config_file, mapping)
    for rule in mapping.vocabularies:
        if files.vocabulary_file is None:
            found = find("vocab", rule, partial(as_vocabulary, rule.tokenizer))
            files.vocabulary_file, files.tokenizer = found, rule.tokenizer if found else ""


def text_of(file: File) -> bytes:
    """The content of a config or a vocabulary file.

    Raises:
        PlanError: it is too large to be one.
        CheckpointError: it can't be read.
    """
    if file.size > LARGEST_TEXT:
        raise PlanError(
            f"{file.name} is too large for a config or a vocabulary: {file.size:,} bytes"
        )
    text = file.read(0, file.size)
    if text and (what := mistaken(file)):  # a page and a pointer are text, too
        raise CheckpointError(what)
    return text


def read_config(file: File, mapping: MappingFile) -> ConfigFile:
    """The original code's config.

    Raises:
        PlanError: it is none, or can't be read; with the line.
        CheckpointError: as `text_of`.
    """
    return parse_config(_config_text(file), file.name, mapping)


def read_document(file: File) -> ConfigFile:
    """The config that a whole file is, whatever its keys.

    Raises:
        PlanError: it can't be read; with the line.
        CheckpointError: as `text_of`.
    """
    return parse_document(_config_text(file), file.name)


def _config_text(file: File) -> bytes:
    if file.size > _LARGEST_CONFIG:
        raise PlanError(f"{file.name} is too large for a model's config: {file.size:,} bytes")
    return text_of(file)


def config_among(file: File, mapping: MappingFile) -> ConfigFile | None:
    """The config of a file that may be something else, which its keys tell; None if it is.

    Raises:
        PlanError, CheckpointError: it has a config's keys, and can't be read.
    """
    if file.size > _LARGEST_CONFIG:
        return None
    data = text_of(file)
    return parse_config(data, file.name, mapping) if may_be_config(data, mapping) else None


def digest_of(file: File) -> bytes:
    """What tells two texts apart."""
    return hashlib.sha256(text_of(file)).digest()


def base_name(file: File) -> str:
    """The name of a file without its folder, as text: bytes that are not UTF-8 are escaped."""
    return as_text(os.path.basename(file.name))


def _path_of(file: File) -> str:
    return as_text(file.name.removeprefix("./"))
