"""The model folder that transformers loads: tensors, config, tokenizer, card, provenance."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from .. import __version__
from .checkpoint import Checkpoint
from .checkpoint.discover import checkpoint_files
from .checkpoint.names import INDEX, is_index
from .errors import OutputError
from .labels import generic_name
from .layout import CARD, CONFIG, PROVENANCE, VERIFICATION, WEIGHTS
from .model_card import model_card
from .options import DEFAULTS, Options, make_options
from .prepare import Prepared, data_files, prepare
from .safetensors_writer import write_safetensors, write_torch
from .storage.files import Progress
from .storage.location import Location, parse_location
from .text import as_text, joined, to_json_lines
from .tokenizers.registry import load_tokenizer


class Proof(Struct, frozen=True):
    """What was proved of a model folder, for all who read it."""

    sentence: str  # for a terminal
    card: str  # for the model card, as Markdown
    document: bytes  # of verification.json


Prove = Callable[[Prepared, Path], Proof | None]


class Conversion(Struct, frozen=True):
    """The result of a conversion."""

    out: str
    architecture: str
    sizes: dict[str, int]
    activation: str  # as config.json has it
    dtype: str
    parameters: int
    tensors: int
    nbytes: int  # of the tensors
    files: dict[str, int]  # name -> bytes
    dropped: dict[str, int]  # reason -> number of variables
    notes: list[str]
    proof: str = ""  # the sentence of `prove`; "" if nothing was proved


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    force: bool = False,
    progress: Progress | None = None,
    prove: Prove | None = None,
    **changes: Any,
) -> Conversion:
    """Convert a TensorFlow checkpoint into a model folder that transformers loads.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        out: the folder to create, or its URL. It must not exist, or be empty, unless `force`.
        options: the caller's decisions.
        force: whether a model in `out` is replaced.
        progress: told of the bytes that are done.
        prove: called with what was prepared and the new folder, before the folder is published. It
            gives what it proved, which goes to verification.json and the card, or None; or it
            raises an error, and nothing is published.
        **changes: single options by name, which replace those of `options`, such as
            `head="token", lower_case=True`.

    Raises:
        CheckpointError: the checkpoint can't be found or opened, or is damaged.
        MappingError: no mapping fits, several do, or it is wrong.
        PlanError: with every reason why the parts do not fit together.
        OutputError: `out` can't be written, or is not empty.
        VerificationError: `prove` found a difference.
        TypeError, ValueError: there is no such option, or its value is wrong.
    """
    options = make_options(changes, options)
    location = parse_location(out)
    location.check_output(force=True)  # before any work
    spare_checkpoints(parse_location(path), location)
    location.check_output(force)
    prepared = prepare(path, options, progress=progress)
    made = write_model(prepared, str(location), force, progress, prove)
    return replace(made, out=str(out))


def spare_checkpoints(source: Location, out: Location) -> None:
    """Refuse an output folder that has to do with a checkpoint: --force must not replace its files.

    Args:
        source: the checkpoint to be converted.
        out: the folder.

    Raises:
        OutputError: it is in `source`, holds a checkpoint, or has the name of one's files.
    """
    never = (
        "It is never written, not even with --force. Give the checkpoint first, then a new folder"
    )
    if source.contains(out):
        same = out.contains(source)
        where = "is the checkpoint" if same else f"is in the checkpoint {source.shown}"
        raise OutputError(f"{out.shown} {where}. {never}")
    if out.contains(source):
        raise OutputError(f"{out.shown} holds the checkpoint {source.shown}. {never}")
    if out.parent.join(f"{out.name}{INDEX}").size() is not None:
        raise OutputError(f"{out.shown} is the prefix of a checkpoint. {never}")
    if files := checkpoint_files(out.folder(is_wanted=is_index)):
        raise OutputError(f"{out.shown} holds a checkpoint ({joined(files, 3)}). {never}")


def write_model(
    prepared: Prepared,
    out: str,
    force: bool = False,
    progress: Progress | None = None,
    prove: Prove | None = None,
) -> Conversion:
    """Write a conversion that is prepared; arguments and errors are those of `convert`."""
    plan = prepared.plan
    small = small_files(prepared)  # a missing data file is reported before any work
    with parse_location(out).published(force, progress) as stage:
        _write_tensors(prepared, stage, prepared.options.formats, progress)
        for name, content in small.items():
            (stage / name).write_bytes(content)
        proof = prove(prepared, stage) if prove is not None else None
        if proof is not None:
            (stage / VERIFICATION).write_bytes(proof.document)
        card = model_card(prepared, proof.card if proof is not None else "")
        (stage / CARD).write_bytes(as_text(card).encode())
        files = {file.name: file.stat().st_size for file in sorted(stage.iterdir())}
    return Conversion(
        out=out,
        architecture=plan.architecture.name,
        sizes=plan.sizes,
        activation=plan.activation[1],
        dtype=plan.dtype,
        parameters=plan.parameters,
        tensors=len(plan.entries),
        nbytes=sum(entry.nbytes for entry in plan.entries),
        files=files,
        dropped=dict(Counter(drop.reason for drop in plan.dropped)),
        notes=prepared.notes,
        proof=proof.sentence if proof is not None else "",
    )


def _write_tensors(
    prepared: Prepared, stage: Path, formats: tuple[str, ...], progress: Progress | None
) -> None:
    safetensors = stage / WEIGHTS["safetensors"]
    write_safetensors(prepared.checkpoint, prepared.plan, safetensors, progress)
    if "bin" in formats:
        write_torch(safetensors, stage / WEIGHTS["bin"])
    if "safetensors" not in formats:
        safetensors.unlink()


def small_files(prepared: Prepared) -> dict[str, bytes]:
    """The config, the tokenizer and the provenance: name -> content, always the same bytes.

    Raises:
        CheckpointError: a data file is missing.
    """
    files = {
        CONFIG: to_json_lines(_config(prepared)),
        PROVENANCE: to_json_lines(_provenance(prepared)),
    }
    if prepared.vocabulary is not None and prepared.do_lower_case is not None:
        positions = prepared.plan.sizes.get(prepared.mapping.roles.positions)
        files |= load_tokenizer(prepared.tokenizer).tokenizer_files(
            prepared.vocabulary,
            do_lower_case=prepared.do_lower_case,
            model_max_length=positions or len(prepared.vocabulary),
        )
    return files


def _config(prepared: Prepared) -> dict[str, object]:
    plan = prepared.plan
    config = {
        "architectures": [plan.architecture.name],
        "model_type": prepared.mapping.model_type,
        "dtype": plan.dtype,
        **plan.config,
    }
    symbol = prepared.mapping.roles.labels
    if symbol in plan.sizes:  # transformers stores the number of labels as their names
        del config[prepared.mapping.size_key(symbol)]
        names = prepared.labels or [*map(generic_name, range(plan.sizes[symbol]))]
        config["id2label"] = {str(label): name for label, name in enumerate(names)}
        config["label2id"] = {name: label for label, name in enumerate(names)}
    return dict(sorted(config.items()))


def _provenance(prepared: Prepared) -> dict[str, object]:
    plan, checkpoint = prepared.plan, prepared.checkpoint
    return {
        "version": 1,  # of this file's form
        "tool": f"bertconvert {__version__}",
        "mapping": {"name": plan.mapping, "sha256": prepared.mapping_sha256},
        "sources": [*prepared.sources, *data_files(checkpoint)],
        "architecture": plan.architecture.name,
        "groups": plan.groups,
        "scope": plan.scope,
        "sizes": plan.sizes,
        "dtype": plan.dtype,
        "activation": dict(zip(("tensorflow", "transformers"), plan.activation, strict=True)),
        "do_lower_case": prepared.do_lower_case,
        "padding": prepared.padding,
        "labels": prepared.labels,
        "problem_type": plan.config.get("problem_type"),
        "config": plan.config,
        "notes": plan.notes,  # those of the checkpoint's path would differ from place to place
        "tensors": {
            entry.tensor: {
                "variable": entry.variable,
                "transform": entry.op,
                "dtype": entry.dtype,
                "shape": entry.shape,
                "crc32c": _checksum(checkpoint, entry.variable),
            }
            for entry in plan.entries
        },
        "ties": {tie.pt: tie.to for tie in plan.ties},
        "dropped": {drop.variable: drop.reason for drop in plan.dropped},
    }


def _checksum(checkpoint: Checkpoint, variable: str) -> str | None:
    """The crc32c of a variable; TensorFlow stores none for a V1 or a partitioned variable."""
    checksum = checkpoint.checksum(variable)
    return None if checksum is None else f"{checksum:08x}"
