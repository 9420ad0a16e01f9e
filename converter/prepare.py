"""Find a checkpoint and what belongs to it, open it, and plan its conversion."""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from .checkpoint import Checkpoint, reader
from .errors import MappingError, PlanError
from .mapping import MappingFile, builtin_mappings, load_mapping, read_mapping
from .options import DEFAULTS, Options, make_options
from .plan import Plan, fits, make_plan
from .storage.files import File, Progress
from .storage.location import Url, parse_location
from .tokenizers.wordpiece import infer_casing, missing_special_tokens, read_vocabulary

_LARGEST_TEXT = 64 << 20  # bytes; a vocabulary or a config is a thousandth of it


class SourceFile(Struct, frozen=True, omit_defaults=True):
    """A file that a conversion reads."""

    role: str
    name: str
    size: int  # bytes
    sha256: str = ""  # of small files; the tensors in a data file have checksums of their own


class Prepared(Struct, frozen=True):
    """A conversion that is decided, and has read no tensor yet."""

    checkpoint: Checkpoint
    options: Options
    mapping: MappingFile
    mapping_sha256: str
    plan: Plan
    config: dict[str, object] | None  # of the source
    vocabulary: tuple[str, ...] | None
    do_lower_case: bool | None
    sources: list[SourceFile]
    notes: list[str]


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    verify_checksums: bool = True,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a TensorFlow checkpoint; only its index is read.

    Args:
        path: a folder, a prefix (`.../model.ckpt`), any file of the checkpoint, a `.zip` or
            `.tar.gz` of it, or the URL of any of these.
        verify_checksums: whether the crc32c of each tensor is checked when it is read. Those of
            the index, and of a V1 file's blocks, always are.
        progress: told of the bytes that are downloaded, or unpacked from an archive.

    Raises:
        CheckpointError: there is no checkpoint, there are several, or the index is damaged.
    """
    return reader.open_checkpoint(
        path,
        verify_checksums=verify_checksums,
        progress=progress,
        expected=expected_names(path),
    )


def expected_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The usual names of files, by the built-in mappings, for a server that lists none."""
    if not isinstance(parse_location(path), Url):
        return ()
    files = [load_mapping(mapping).files for mapping in builtin_mappings().values()]
    rules = [rule for some in files for rule in (some.config, some.vocabulary) if rule is not None]
    prefixes = [prefix for some in files for prefix in some.prefixes]
    return (*(f"{prefix}.index" for prefix in prefixes), *(rule.name for rule in rules))


def prepare(
    path: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> Prepared:
    """Find a checkpoint and what belongs to it, and plan its conversion; reads no tensor.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        options: the caller's decisions.
        progress: told of the bytes that are fetched, or unpacked from an archive.

    Raises:
        CheckpointError: the checkpoint can't be found or opened.
        MappingError: no mapping fits, or it is wrong.
        PlanError: with every reason why the parts do not fit together.
    """
    options = make_options(changes, options)
    checkpoint = open_checkpoint(path, progress=progress)
    notes = [checkpoint.note] if checkpoint.note else []
    sources = [source_file("index", checkpoint.index)]

    config: dict[str, object] | None = None
    file = given_or_beside(options.config, checkpoint, "bert_config.json", r".*config.*\.json")
    if file is not None:
        config = read_config(file)
        sources.append(source_file("config", file))

    vocabulary = do_lower_case = None
    file = given_or_beside(options.vocab, checkpoint, "vocab.txt", r".*vocab.*\.txt")
    if file is not None:
        vocabulary = read_vocabulary(text_of(file), file.name)
        sources.append(source_file("vocabulary", file))
        casing = infer_casing(vocabulary, str(parse_location(checkpoint.name).absolute()))
        do_lower_case = casing.do_lower_case
        if options.lower_case is None:
            notes.append(f"lower-case: {'yes' if do_lower_case else 'no'}: {casing.reason}")
        else:
            do_lower_case = options.lower_case
        if missing := missing_special_tokens(vocabulary):
            notes.append(f"the vocabulary lacks {', '.join(missing)}")
    else:
        notes.append("no vocab.txt: the folder has no tokenizer (--vocab names one)")

    mapping, digest = choose_mapping(checkpoint, options.mapping)
    size = None if vocabulary is None else len(vocabulary)
    plan = make_plan(checkpoint.variables, mapping, config, size, options)
    return Prepared(
        checkpoint,
        options,
        mapping,
        digest,
        plan,
        config,
        vocabulary,
        do_lower_case,
        sources,
        [*plan.notes, *notes],
    )


def given_or_beside(
    given: Path | None, checkpoint: Checkpoint, name: str, pattern: str
) -> File | None:
    """The file that the caller named, else the checkpoint's companion.

    Raises:
        CheckpointError: it can't be opened, or several fit.
    """
    if given is not None:
        return parse_location(given).open()
    return checkpoint.companion(name, pattern)


def text_of(file: File) -> bytes:
    """What a config or a vocabulary holds.

    Raises:
        PlanError: it is too large to be one.
        CheckpointError: it can't be read.
    """
    if file.size > _LARGEST_TEXT:
        raise PlanError(f"{file.name} has {file.size:,} bytes, which is no config or vocabulary")
    return file.read(0, file.size)


def read_config(file: File) -> dict[str, object]:
    """What bert_config.json says.

    Raises:
        PlanError: it is no JSON object.
    """
    try:
        return msgspec.json.decode(text_of(file), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"{file.name} is no bert_config.json: {error}") from error


def source_file(role: str, file: File) -> SourceFile:
    """What provenance says of a file that is read: name, size, and the sha256 of a small one."""
    small = file.size <= _LARGEST_TEXT  # what lists the variables of a V1 file holds the data, too
    digest = hashlib.sha256(file.read(0, file.size)).hexdigest() if small else ""
    return SourceFile(role, base_name(file), file.size, digest)


def base_name(file: File) -> str:
    """A file's own name, as text: what it holds that is not UTF-8 is escaped."""
    return os.fsencode(os.path.basename(file.name)).decode("utf-8", "backslashreplace")


def choose_mapping(checkpoint: Checkpoint, given: str | None) -> tuple[MappingFile, str]:
    """The mapping that was named, else the one that knows the checkpoint; and its sha256.

    Raises:
        MappingError: none knows the checkpoint, or the one that was named is wrong.
    """
    known = builtin_mappings()
    paths = [*known.values()] if given is None else [known.get(given, Path(given).expanduser())]
    for path in paths:
        mapping, digest = read_mapping(path)
        if given is not None or fits(checkpoint.variables, mapping):
            return mapping, digest
    detects = ", ".join(f"{load_mapping(path).detects[0]} ({path.stem})" for path in paths)
    some = ", ".join(list(checkpoint)[:5])
    raise MappingError(
        f"no mapping knows {checkpoint.name}. It has {len(checkpoint):,} variables, such as {some};"
        f" a mapping is known by {detects}. --mapping takes one of your own."
    )
