"""The model folder that transformers loads: tensors, config, tokenizer, card, provenance."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .. import __version__
from .checkpoint import Checkpoint
from .layout import WEIGHTS
from .model_card import model_card
from .options import DEFAULTS, Options
from .prepare import Prepared, SourceFile, base_name, prepare
from .safetensors_writer import write_safetensors, write_torch
from .storage.files import Progress
from .storage.location import parse_location
from .tokenizers.wordpiece import tokenizer_files


class Conversion(Struct, frozen=True):
    """What came out of a conversion."""

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
    proof: str = ""  # what was proved of it; "" where nothing was


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    force: bool = False,
    progress: Progress | None = None,
    prove: Callable[[Prepared, Path], str] | None = None,
    **changes: Any,
) -> Conversion:
    """Convert a TensorFlow checkpoint into a model folder that transformers loads.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        out: the folder to make, or its URL; it must not exist, or be empty, unless
            `options.force`.
        options: the caller's decisions.
        progress: told of the bytes that are done.
        prove: called with what was prepared and the new folder, before the folder is published. It
            gives a sentence for the card, or raises an error; then nothing is published.

    Raises:
        CheckpointError: the checkpoint can't be found or opened, or is damaged.
        MappingError: no mapping fits, or it is wrong.
        PlanError: with every reason why the parts do not fit together.
        OutputError: `out` can't be written, or holds something.
        VerificationError: `prove` found a difference.
        ValueError: a format is unknown, or there is none.
    """
    location = parse_location(out)
    location.check_output(force)  # before any work
    prepared = prepare(path, options, progress=progress, **changes)
    made = write_model(prepared, str(location), force, progress, prove)
    return replace(made, out=str(out))


def write_model(
    prepared: Prepared,
    out: str,
    force: bool = False,
    progress: Progress | None = None,
    prove: Callable[[Prepared, Path], str] | None = None,
) -> Conversion:
    """Do a conversion that is prepared; arguments and errors are those of `convert`."""
    plan = prepared.plan
    small = small_files(prepared)  # a data file that is missing is known before any work
    with parse_location(out).published(force, progress) as stage:
        _write_tensors(prepared, stage, prepared.options.formats, progress)
        for name, content in small.items():
            (stage / name).write_bytes(content)
        proof = prove(prepared, stage) if prove is not None else ""
        (stage / "README.md").write_bytes(model_card(prepared, proof).encode())
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
        proof=proof,
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
    """Every other file but the card, by name; the same input gives the same bytes.

    Raises:
        CheckpointError: a data file is missing.
    """
    files = {
        "config.json": _json(_config(prepared)),
        "conversion.json": _json(_provenance(prepared)),
    }
    if prepared.vocabulary is not None and prepared.do_lower_case is not None:
        positions = prepared.plan.config.get("max_position_embeddings")
        files |= tokenizer_files(
            prepared.vocabulary,
            do_lower_case=prepared.do_lower_case,
            model_max_length=positions if isinstance(positions, int) else len(prepared.vocabulary),
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
    # transformers keeps the number of labels as their names.
    labels = config.pop("num_labels", None)
    if isinstance(labels, int):
        config["id2label"] = {str(label): f"LABEL_{label}" for label in range(labels)}
        config["label2id"] = {f"LABEL_{label}": label for label in range(labels)}
    return dict(sorted(config.items()))


def _provenance(prepared: Prepared) -> dict[str, object]:
    plan, checkpoint = prepared.plan, prepared.checkpoint
    data = [SourceFile("data", base_name(file), file.size) for file in checkpoint.data_files()]
    return {
        "tool": f"bertconvert {__version__}",
        "mapping": {"name": plan.mapping, "sha256": prepared.mapping_sha256},
        "sources": [*prepared.sources, *data],
        "architecture": plan.architecture.name,
        "groups": plan.groups,
        "scope": plan.scope,
        "sizes": plan.sizes,
        "dtype": plan.dtype,
        "activation": dict(zip(("tensorflow", "transformers"), plan.activation, strict=True)),
        "do_lower_case": prepared.do_lower_case,
        "notes": plan.notes,  # what was told of paths depends on where the input lay
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
    """Of a variable's bytes; TensorFlow has none of a V1 or a partitioned variable as a whole."""
    checksum = checkpoint.checksum(variable)
    return None if checksum is None else f"{checksum:08x}"


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
