"""The way back: a model folder of transformers -> a checkpoint that TensorFlow reads."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from .backwards import UNTIED, plan_back
from .checkpoint.names import INDEX, shard_of
from .checkpoint.state_file import STATE, state_file
from .checkpoint_writer import write_checkpoint
from .choices import DType
from .companions import read_document, text_of
from .errors import MappingError, ModelError, OutputError, PlanError
from .labels import labels_of, names_by_id
from .layout import CONFIG, TOKENIZER_FILES
from .mapping import MappingFile, builtin_mappings, read_header, read_mapping
from .options import Options, make_options
from .plan import Plan
from .prepare import named_mapping
from .state_dict import EXPECTED, StateDict, is_weights, open_state_dict
from .storage.files import Progress
from .storage.location import DiskPath, Location, Url, parse_location
from .text import joined, to_json_lines
from .tokenizers.registry import load_tokenizer
from .tokenizers.written import Original, original_vocabulary, padded

GLOBAL_STEP = "global_step"
"""The variable in which Estimator keeps the training step: an int64 scalar."""

_PREFIX = "model.ckpt"  # where the original code has no name of its own
_LABELS = ("labels.txt", "labels.json")


class BackConversion(Struct, frozen=True):
    """The result of a conversion to TensorFlow."""

    out: str
    prefix: str  # what TensorFlow's programs take: the path of the checkpoint
    mapping: str
    architecture: str
    sizes: dict[str, int]
    activation: str  # as the config for TensorFlow has it
    dtype: str
    parameters: int
    variables: int
    nbytes: int  # of the variables
    files: dict[str, int]  # name -> bytes
    dropped: dict[str, int]  # reason -> number of tensors
    notes: list[str]
    proof: str = ""  # the sentence of `prove`; "" if nothing was proved


class Model(Struct, frozen=True):
    """A model folder that is open and planned; no tensor is read."""

    tensors: StateDict
    mapping: MappingFile
    plan: Plan
    vocabulary: Original | None
    labels: tuple[str, ...] | None
    notes: list[str]


def convert_back(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    mapping: str | None = None,
    head: str | None = None,
    dtype: DType = "keep",
    pad_vocab: bool = False,
    prefix: str | None = None,
    global_step: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    prove: Callable[[Path, Options], str] | None = None,
) -> BackConversion:
    """Convert a model folder of transformers into a TensorFlow checkpoint.

    The data file and the index are byte for byte those that TensorFlow's Saver writes for the same
    variables. There is no `.meta` file: it holds a program's graph, which weights do not tell.

    Args:
        path: the model folder, or its URL. It has a config.json, and weights as `open_state_dict`
            takes them.
        out: the folder to create. It must not exist, or be empty, unless `force`.
        mapping: a built-in mapping's name, or the path of a mapping file. By default, the one for
            the model's type whose variables have Google's names.
        head: the head to write, or the class, as for `convert`. By default, all that the weights
            have.
        dtype: the dtype of the variables; `keep` leaves each as it is.
        pad_vocab: whether the model may have some rows more than the vocabulary has tokens.
        prefix: the checkpoint's name in `out`. By default, the one that the original code uses.
        global_step: the training step to store, which Estimator needs to go on with a checkpoint.
        force: whether a checkpoint in `out` is replaced.
        progress: told of the bytes that are done.
        prove: called with the new checkpoint, before it is published, and with the options by
            which it is converted again. It gives a sentence, or raises an error; then nothing is
            published.

    Raises:
        ModelError: the folder can't be found, or a file in it is missing or damaged.
        CheckpointError: a file can't be read or downloaded.
        MappingError: no mapping fits, or it is wrong.
        PlanError: with every reason why the parts do not fit together.
        OutputError: `out` can't be written, or is not empty.
        VerificationError: `prove` found a difference.
        ValueError: an option has a wrong value.
    """
    changes = {"mapping": mapping, "head": head, "dtype": dtype, "pad_vocab": pad_vocab}
    options = make_options(changes)
    source = parse_location(path)
    target = _checked_place(source, parse_location(out))
    target.check_output(force)
    model = open_model(source, options, progress)
    name = _usual_prefix(model.mapping) if prefix is None else prefix
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII) or name == STATE:
        raise ValueError(
            f"the prefix can't be {name!r}. Use letters, digits, - _ and ., with no . at the start,"
            f" and not {STATE!r}"
        )
    if global_step is not None and not 0 <= global_step < 1 << 63:
        raise ValueError(f"the global step can't be {global_step}; it is from 0 to 2**63 - 1")
    small = {STATE: state_file(name), **_small_files(model)}
    extra = {} if global_step is None else {GLOBAL_STEP: global_step}
    files = {*small, f"{name}{INDEX}", shard_of(f"{name}{INDEX}", 0, 1), *_LABELS}
    with target.published(force, files=files) as stage:
        _check_ties(model, progress)
        write_checkpoint(model.tensors, model.plan, stage / name, extra, progress)
        for file, content in small.items():
            (stage / file).write_bytes(content)
        proof = prove(stage / name, _options_back(model, options)) if prove is not None else ""
        written = {file.name: file.stat().st_size for file in sorted(stage.iterdir())}
    plan = model.plan
    return BackConversion(
        out=str(out),
        prefix=str(target.join(name)),
        mapping=plan.mapping,
        architecture=plan.architecture.name,
        sizes=plan.sizes,
        activation=plan.activation[0],
        dtype=plan.dtype,
        parameters=plan.parameters,
        variables=len(plan.entries) + len(extra),
        nbytes=sum(entry.nbytes for entry in plan.entries),
        files=written,
        dropped=dict(Counter(drop.reason for drop in plan.dropped)),
        notes=model.notes,
        proof=proof,
    )


def _checked_place(source: Location, out: Location) -> DiskPath:
    """The output folder, which must be on a disk and have nothing to do with the model.

    Raises:
        OutputError: it is a URL, is in the model folder, or holds it.
    """
    if isinstance(out, Url):
        raise OutputError(
            f"{out.shown} is a URL, and pt2tf writes to a disk only. Give a folder, and copy it to"
            " the URL"
        )
    if source.contains(out) or out.contains(source):
        inside = "is inside" if source.contains(out) else "contains"
        where = "is" if source.contains(out) and out.contains(source) else inside
        raise OutputError(
            f"{out.shown} {where} the model folder {source.shown}. Give the model first, then a new"
            " folder"
        )
    return out


def open_model(source: Location, options: Options, progress: Progress | None = None) -> Model:
    """Open a model folder and plan its checkpoint; no tensor is read.

    Args:
        source: the model folder.
        options: `mapping`, `head`, `dtype` and `pad_vocab` count.
        progress: told of the bytes that are downloaded.

    Raises:
        ModelError, CheckpointError, MappingError, PlanError: as `convert_back` raises them.
    """
    if not source.may_be_folder():
        kind = "is a file. Give the folder that it is in" if source.kind() else "does not exist"
        raise ModelError(f"{source.shown} {kind}")
    folder = source.folder((CONFIG, *EXPECTED, *TOKENIZER_FILES), is_weights)
    names = {*folder.names()}
    tensors = open_state_dict(folder, progress)
    if CONFIG not in names:
        raise ModelError(f"{source.shown} has no {CONFIG}, which tells the model's class and sizes")
    config = read_document(folder.open(CONFIG))
    mapping = _choose_mapping(config.values, tensors, options)

    files = {file: text_of(folder.open(file)) for file in TOKENIZER_FILES if file in names}
    vocabulary = original_vocabulary(files, mapping.tokenizers)
    notes = []
    plan = plan_back(
        tensors.variables,
        mapping,
        config.values,
        options,
        len(vocabulary.tokens) if vocabulary is not None else None,
        config.line,
    )
    if vocabulary is None:
        notes.append("the folder has no vocabulary, so the checkpoint has none")
    else:
        rows = plan.sizes.get(mapping.roles.vocabulary, 0)
        if len(vocabulary.tokens) < rows:
            vocabulary = padded(vocabulary, rows)
        notes += vocabulary.notes
        if vocabulary.do_lower_case is not None:
            lowers = vocabulary.do_lower_case
            does = "lower-cases text" if lowers else "keeps the case of text"
            notes.append(
                f"the tokenizer {does}. Google's programs need --do_lower_case="
                f"{str(lowers).lower()} for that"
            )
    labels, why_none = _labels(config.values, mapping, plan)
    notes += [why_none] if why_none else []
    return Model(tensors, mapping, plan, vocabulary, labels, plan.notes + notes)


def _choose_mapping(
    config: Mapping[str, object], tensors: StateDict, options: Options
) -> MappingFile:
    """The mapping that the caller names, else the one for the model's type and class."""
    if options.mapping is not None:
        return named_mapping(options.mapping)[0]
    headers = {path: read_header(path) for path in builtin_mappings().values()}
    # The others are for checkpoints whose variables have names of another program.
    headers = {path: header for path, header in headers.items() if header.names == "checkpoint"}
    stated, listed = config.get("model_type"), config.get("architectures")
    fitting = [path for path, h in headers.items() if stated in (None, h.model_type)]
    if not fitting:
        types = joined(sorted({header.model_type for header in headers.values()}))
        raise MappingError(
            f"{CONFIG} says model_type = {stated!r}, and no mapping is for such a model. There are"
            f" mappings for {types}. --mapping takes a file with your own rules"
        )
    mappings = [read_mapping(path, check=False)[0] for path in fitting]
    mappings.sort(key=lambda mapping: mapping.name != mapping.model_type)
    classes = listed if isinstance(listed, list) else []
    best = [m for m in mappings if any(a.name in classes for a in m.architecture)]
    if stated is None and not best:
        best = [
            m
            for m in mappings
            if m.headless is not None
            and m.headless.strip
            and any(name.startswith(m.headless.strip) for name in tensors.variables)
        ]
    elif not best:
        best = mappings
    if not best:
        raise MappingError(
            f"{CONFIG} has no model_type, and neither its class nor the names of the tensors tell"
            f" it. Choose a mapping with --mapping: {joined([m.name for m in mappings])}"
        )
    return best[0]


def _labels(
    config: Mapping[str, object], mapping: MappingFile, plan: Plan
) -> tuple[tuple[str, ...] | None, str]:
    """The names of the head's labels by id, if the config has any; else perhaps why not."""
    count = plan.sizes.get(mapping.roles.labels)
    try:
        labels = labels_of(config, CONFIG) if count is not None else None
        if labels is None or count is None or not re.fullmatch(mapping.files.labels, _LABELS[0]):
            return None, ""
        return names_by_id(labels, count, CONFIG), ""
    except PlanError as error:
        return None, f"the labels' names are not written: {error}"


def _usual_prefix(mapping: MappingFile) -> str:
    """The name of a checkpoint of the original code, if it has one."""
    names = mapping.files.prefixes
    return names[0] if len(names) == 1 else _PREFIX


def _small_files(model: Model) -> dict[str, bytes]:
    """The config, the vocabulary and the labels, as the original code reads them."""
    files, mapping = {}, model.mapping
    if mapping.files.config is not None:
        files[mapping.files.config.name] = to_json_lines(dict(sorted(model.plan.config.items())))
    if model.vocabulary is not None:
        kind = model.vocabulary.kind
        names = (rule.name for rule in mapping.vocabularies if rule.tokenizer == kind)
        files[next(names, load_tokenizer(kind).VOCABULARY)] = model.vocabulary.data
    if model.labels is not None:
        as_lines = all(name == name.strip() and "\n" not in name for name in model.labels)
        text, document = _LABELS
        if as_lines:
            files[text] = "".join(f"{name}\n" for name in model.labels).encode()
        else:
            files[document] = to_json_lines(model.labels)
    return files


def _check_ties(model: Model, progress: Progress | None) -> None:
    """Compare the tensors that must be equal, byte for byte.

    Raises:
        PlanError: two differ.
        CheckpointError: one can't be read.
    """
    ties, tensors = model.plan.ties, model.tensors
    tensors.fetch([name for tie in ties for name in (tie.pt, tie.to)], progress)
    untied = [tie for tie in ties if not tensors.same(tie.pt, tie.to)]
    if untied:
        raise PlanError(*(f"{tie.pt} differs from {tie.to}. {UNTIED}" for tie in untied))


def _options_back(model: Model, options: Options) -> Options:
    """The options by which the new checkpoint becomes the model again."""
    rule, vocabulary = model.mapping.activation, model.vocabulary
    return make_options(
        {
            "mapping": options.mapping or model.mapping.name,
            "head": model.plan.architecture.name,
            "activation": rule.form(model.plan.activation) if rule is not None else None,
            "lower_case": vocabulary.do_lower_case if vocabulary is not None else None,
        }
    )
