"""What conversion.json records of how a folder was made, and what of it may be believed.

The record can be edited. So it only tells what to compare with: which head, scope, step and skipped
variables were chosen, which the tensors then prove. What no variable tells, such as the number of
attention heads, is taken from it if config.json agrees and nothing next to the checkpoint tells
it; the verdict lists that as not proved.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from ..checkpoint import Checkpoint
from ..checkpoint.names import prefix_of, step_of
from ..checks import NOT_RECORDED, Recorded
from ..companions import find_companions
from ..errors import CheckpointError, MissingOptionError, PlanError, VerificationError
from ..layout import CONFIG, PROVENANCE
from ..mapping import MappingFile, SizeRule, builtin_mappings, same_function
from ..opening import open_checkpoint
from ..options import Options
from ..plan import choose_architecture
from ..prepare import Prepared, infer_casing, named_mapping, prepare, source_file
from ..scope import BY_CALLER
from ..storage.files import Progress
from ..text import cut, joined
from .model_folder import ModelFolder, Provenance
from .weights import groups_of

_MOST_SHOWN = 5


class ByRecord(Struct, frozen=True):
    """What the record was believed in."""

    notes: list[str] = []
    unproved: list[str] = []
    believed: list[str] = []  # the facts that only the record tells


def prepare_again(
    path: str | os.PathLike[str], options: Options, folder: ModelFolder, progress: Progress | None
) -> tuple[Prepared, ByRecord]:
    """Plan the conversion that made a folder, from its checkpoint.

    Args:
        path: the checkpoint.
        options: the caller's, which go over the record.
        folder: the model folder.
        progress: told of the bytes that are downloaded, or unpacked from an archive.

    Raises:
        CheckpointError, MappingError, PlanError: as `prepare` raises them.
        MissingOptionError: an option is missing that the conversion had.
        VerificationError: nothing tells the class.
    """
    provenance = folder.provenance
    if provenance is None:
        return _prepare_without_record(path, options, folder, progress)
    complete = _with_head(options, folder)
    name = provenance.mapping.get("name", "")
    if options.mapping is None and name not in builtin_mappings():
        raise MissingOptionError(
            f"OUT was made with the mapping {cut(name)}, which does not come with bertconvert. Give"
            " its file with --mapping"
        )
    mapping, digest = named_mapping(options.mapping or name)
    is_other = options.mapping is None and digest != provenance.mapping.get("sha256")
    recorded = _recorded(mapping, folder, provenance, options, with_drops=is_other)
    complete = _with_record(replace(complete, mapping=options.mapping or name), provenance)
    try:
        prepared = _prepare_step(path, options, complete, recorded, provenance, progress)
    except PlanError as error:
        missing = _missing_options(path, complete, mapping, provenance, is_other)
        if missing:
            raise MissingOptionError(f"{missing}\n{error}") from error
        raise
    if is_other and _is_index_of(prepared.checkpoint, provenance):
        made = {tensor: (o.variable, o.transform) for tensor, o in provenance.tensors.items()}
        planned = {entry.tensor: (entry.variable, entry.op) for entry in prepared.plan.entries}
        if made != planned:
            raise MissingOptionError(_other_mapping(name))
    return prepared, _by_record(prepared, options, provenance)


def _prepare_without_record(
    path: str | os.PathLike[str],
    options: Options,
    folder: ModelFolder,
    progress: Progress | None,
) -> tuple[Prepared, ByRecord]:
    """Plan the conversion of a folder that others wrote.

    Its config may name no class, or one that has not all of its tensors. Then the class that has
    them is proved, if the checkpoint has it.
    """
    complete = _with_head(options, folder)
    prepared = _prepare(path, options, complete, NOT_RECORDED, progress)
    plan, mapping = prepared.plan, prepared.mapping
    present = groups_of(prepared, folder.tensors)
    own = {*plan.architecture.groups, *plan.architecture.optional}
    if options.head is not None or (complete.head is not None and present <= own):
        return prepared, ByRecord()
    needless = {group.name for group in mapping.group if not group.is_needed(plan.sizes)}
    with suppress(CheckpointError, PlanError):
        whole = choose_architecture(mapping, present, needless, None, None).name
        if whole != plan.architecture.name:
            again = replace(complete, head=whole)
            prepared = _prepare(path, options, again, NOT_RECORDED, progress)
            said = complete.head or "no class"
            note = f"{CONFIG} says {said}, and the weights are those of {whole}"
            return prepared, ByRecord(notes=[note])
    return prepared, ByRecord()


def _with_head(options: Options, folder: ModelFolder) -> Options:
    if options.head is not None:
        return options
    listed = folder.config.get("architectures")
    if isinstance(listed, list) and listed and isinstance(listed[0], str):
        return replace(options, head=listed[0])
    if folder.provenance is None:
        return options
    raise VerificationError(
        f"{folder.path / CONFIG} names no class in architectures; --head says which head OUT has"
    )


def _with_record(options: Options, provenance: Provenance) -> Options:
    """The options, with those of the conversion that the tensors will prove."""
    # A recorded name stands for itself. No variable that TensorFlow names has a `*`.
    by_caller = tuple(
        name
        for name, reason in provenance.dropped.items()
        if reason == BY_CALLER and "*" not in name
    )
    return replace(
        options,
        drop=options.drop or by_caller,
        scope=provenance.scope if options.scope is None else options.scope,
        lower_case=provenance.do_lower_case if options.lower_case is None else options.lower_case,
        pad_vocab=options.pad_vocab or provenance.padding > 0,
    )


def _recorded(
    mapping: MappingFile,
    folder: ModelFolder,
    provenance: Provenance,
    options: Options,
    with_drops: bool,
) -> Recorded:
    """What neither a variable nor the caller tells, where conversion.json and config.json agree."""
    config, implied, stated = folder.config, mapping.implied, provenance.config
    keys = [
        rule.config
        for symbol, rule in mapping.sizes.items()
        if isinstance(rule, SizeRule)
        and (symbol != mapping.roles.heads or options.num_heads is None)
        and (symbol != mapping.roles.layers or options.num_layers is None)
    ]
    keys += [*mapping.defaults, *(["problem_type"] if options.problem_type is None else [])]
    agreed = {
        key: stated[key]
        for key in keys
        if stated.get(key) is not None and config.get(key, implied.get(key)) == stated[key]
    }
    function, rule = provenance.activation.get("transformers", ""), mapping.activation
    if rule is not None and "tensorflow" in provenance.activation:
        key = rule.config
        if same_function(config.get(key, implied.get(key))) == same_function(function):
            agreed[key] = provenance.activation["tensorflow"]
        else:
            function = ""
    return Recorded(
        config=agreed,
        activation=function,
        dropped=provenance.dropped if with_drops else {},
        labels=tuple(provenance.labels or ()),
    )


def _prepare_step(
    path: str | os.PathLike[str],
    options: Options,
    complete: Options,
    recorded: Recorded,
    provenance: Provenance,
    progress: Progress | None,
) -> Prepared:
    """Prepare the checkpoint of the recorded step, if there is one."""
    index = next((source.name for source in provenance.sources if source.role == "index"), "")
    step = step_of(prefix_of(index))
    if options.step is None and step is not None:
        with suppress(CheckpointError):
            at_step = replace(complete, step=step)
            return _prepare(path, options, at_step, recorded, progress)
    return _prepare(path, options, complete, recorded, progress)


def _prepare(
    path: str | os.PathLike[str],
    options: Options,
    complete: Options,
    recorded: Recorded,
    progress: Progress | None,
) -> Prepared:
    try:
        return prepare(path, complete, progress=progress, recorded=recorded)
    except PlanError as error:
        if options.head is not None:
            raise
        reason = f"OUT is a {complete.head} by its {CONFIG}, and the checkpoint does not fit that:"
        raise PlanError(reason, *error.reasons) from error


def _missing_options(
    path: str | os.PathLike[str],
    options: Options,
    mapping: MappingFile,
    provenance: Provenance,
    is_other: bool,
) -> str:
    """Which options a conversion of this checkpoint had, and the proof lacks; "" if none."""
    with suppress(CheckpointError, PlanError):
        checkpoint = open_checkpoint(path, step=options.step)
        if not _is_index_of(checkpoint, provenance):
            return ""
        if is_other:
            return _other_mapping(mapping.name)
        files = find_companions(checkpoint, mapping, options, [])
        found = {
            role: source_file(role, file).sha256
            for role, file in (
                ("config", files.config_file),
                ("vocabulary", files.vocabulary_file),
            )
            if file is not None
        }
        return ". ".join(_other_files(options, provenance, found))
    return ""


def _other_mapping(name: str) -> str:
    return (
        f"OUT was made with another mapping that is called {name}, by whose rules other variables"
        " become its tensors. Give its file with --mapping"
    )


def _is_index_of(checkpoint: Checkpoint, provenance: Provenance) -> bool:
    """Whether the folder was made from this checkpoint, by its index."""
    digest = source_file("index", checkpoint.index).sha256
    return digest in [source.sha256 for source in provenance.sources if source.role == "index"]


def _other_files(options: Options, provenance: Provenance, found: dict[str, str]) -> Iterator[str]:
    """A sentence for each file that the conversion read, and the proof did not.

    Args:
        options: the caller's.
        provenance: of the folder.
        found: role -> sha256 of the file that the proof read.
    """
    for role, option, given in (
        ("config", "--config", options.config),
        ("vocabulary", "--vocab", options.vocab),
        ("labels", "--labels", options.labels),
    ):
        for source in provenance.sources:
            if source.role == role and given is None and source.sha256 != found.get(role):
                verb = "is not the one" if role in found else "is not"
                yield (
                    f"OUT was made with the {role} file {cut(source.name)}, which {verb} next to"
                    f" the checkpoint. {option} names it"
                )
                break


def _by_record(prepared: Prepared, options: Options, provenance: Provenance) -> ByRecord:
    """What the record was believed in, besides what the plan itself doubts."""
    found = {source.role: source.sha256 for source in prepared.sources}
    notes = [*_other_files(options, provenance, found)]
    step = prepared.options.step
    if options.step is None and step is not None:
        notes.append(f"the checkpoint of step {step} was taken, because OUT was made from it")
    unproved, believed = [], []
    labels = provenance.labels
    if labels and prepared.labels is None:
        unproved.append(
            f"the labels are as {PROVENANCE} records them ({joined(labels, _MOST_SHOWN)}); nothing"
            " in the checkpoint names them"
        )
    lowers, vocabulary = provenance.do_lower_case, prepared.vocabulary
    if options.lower_case is None and lowers is not None and vocabulary is not None:
        tokens = vocabulary[: len(vocabulary) - prepared.padding]
        told, why = infer_casing(prepared.checkpoint, prepared.mapping, prepared.tokenizer, tokens)
        if told is not lowers:
            believed.append("casing")
            unproved.append(
                f"the tokenizer {'lower-cases' if lowers else 'does not lower-case'} text as"
                f" {PROVENANCE} records it; without --lower-case or --no-lower-case, a conversion"
                f" takes the opposite: {why}"
            )
    return ByRecord(notes, unproved, believed)
