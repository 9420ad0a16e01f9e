"""The proof of both directions: a checkpoint to PyTorch and back, and the two compared."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from .checkpoint import Checkpoint, Variable
from .checkpoint.bundle_writer import index_file, layout
from .checkpoint.checksum import crc32c
from .checkpoint.names import INDEX, shard_of
from .checkpoint_writer import write_checkpoint
from .convert import write_model
from .convert_back import open_model
from .options import DEFAULTS, Options, make_options
from .plan import Entry
from .prepare import Prepared, prepare
from .storage.files import File, Progress, open_path
from .storage.location import parse_location
from .transforms import TRANSFORMS

_PIECE_BYTES = 1 << 20


class RoundTrip(Struct, frozen=True):
    """What came of a conversion to PyTorch and back."""

    checkpoint: str
    architecture: str
    same: bool  # whether all that was converted came back, stored as TensorFlow's Saver stores it
    identical: bool  # whether the index and the data file are those of the checkpoint
    variables: int  # those that were converted
    nbytes: int  # of them
    differences: list[str]
    dropped: dict[str, int]  # reason -> number of variables that were left behind
    renamed: dict[str, str]  # a variable's name -> the one that it came back with
    format: str  # of the original
    data_files: int  # of the original
    notes: list[str]


def roundtrip(
    path: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> RoundTrip:
    """Convert a checkpoint to PyTorch and back in a temporary folder, and compare the two.

    Each variable that is converted must come back byte for byte, and the new index and data file
    must be those that TensorFlow's Saver writes for these variables. If the checkpoint has no
    others, and Saver wrote it in one piece, they are also its own files.

    Args:
        path: the checkpoint, in any form that `open_checkpoint` takes.
        options: as for a conversion; `dtype` and `formats` do not count.
        progress: told of the bytes that are done.
        **changes: single options by name, which replace those of `options`.

    Raises:
        CheckpointError, MappingError, PlanError, OutputError: as `convert` raises them.
        TypeError, ValueError: there is no such option, or its value is wrong.
    """
    options = replace(make_options(changes, options), dtype="keep", formats=("safetensors",))
    prepared = prepare(path, options, progress=progress)
    with tempfile.TemporaryDirectory(prefix="bertconvert-") as folder:
        out, prefix = Path(folder, "model"), Path(folder, "model.ckpt")
        write_model(prepared, str(out), progress=progress)
        way_back = Options(
            mapping=options.mapping or prepared.mapping.name,
            head=prepared.plan.architecture.name,
        )
        model = open_model(parse_location(out), way_back)
        write_checkpoint(model.tensors, model.plan, prefix, progress=progress)
        back = {entry.variable: entry for entry in model.plan.entries}
        pairs = [(entry, back[entry.tensor]) for entry in prepared.plan.entries]
        return _compare(prepared, pairs, prefix, progress)


def _compare(
    prepared: Prepared, pairs: list[tuple[Entry, Entry]], prefix: Path, progress: Progress | None
) -> RoundTrip:
    """Compare variables, each as it went and as it came back, and the files with their originals.

    Raises:
        CheckpointError: a variable can't be read.
    """
    checkpoint, plan = prepared.checkpoint, prepared.plan
    index = open_path(f"{prefix}{INDEX}")
    data = open_path(shard_of(index.name, 0, 1))
    places = layout(_expected(checkpoint, gone, came) for gone, came in pairs)
    offsets = {place.variable.name: place.offset for place in places}
    checksums: dict[str, int] = {}
    differences: list[str] = []
    done, total = 0, sum(place.variable.nbytes for place in places)
    for gone, came in pairs:
        same, checksum = _same(checkpoint, gone, came, data, offsets[came.tensor])
        if not same:
            differences.append(f"{gone.variable} came back as {came.tensor}, with other numbers")
        checksums[came.tensor] = checksum
        done += checkpoint.variables[gone.variable].nbytes
        if progress is not None:
            progress("comparing", done, total)
    if data.size != total:
        differences.append(f"the data file has {data.size:,} bytes, not {total:,}")
    written = index.read(0, index.size)
    if not differences and written != index_file(places, checksums):
        differences.append("the index is not the one that TensorFlow writes for these variables")
    renamed = {g.variable: c.tensor for g, c in pairs if g.variable != c.tensor}
    original = checkpoint.index
    is_whole = not differences and not plan.dropped and not renamed
    return RoundTrip(
        checkpoint=checkpoint.name,
        architecture=plan.architecture.name,
        same=not differences,
        identical=is_whole
        and checkpoint.num_shards == 1
        and original.size == index.size
        and original.read(0, original.size) == written
        and checkpoint.data_files()[0].size == data.size,
        variables=len(pairs),
        nbytes=total,
        differences=differences,
        dropped=dict(Counter(drop.reason for drop in plan.dropped)),
        renamed=renamed,
        format=checkpoint.format,
        data_files=checkpoint.num_shards,
        notes=prepared.notes,
    )


def _expected(checkpoint: Checkpoint, gone: Entry, came: Entry) -> Variable:
    """The variable that must come back."""
    variable = checkpoint.variables[gone.variable]
    shape = variable.shape if _is_undone(gone, came) else came.shape
    return Variable(came.tensor, variable.tf_dtype, shape, variable.nbytes)


def _is_undone(gone: Entry, came: Entry) -> bool:
    """Whether the way back undoes the op; another layer's form of a head, it does not."""
    return came.op == TRANSFORMS[gone.op].inverse


def _same(
    checkpoint: Checkpoint, gone: Entry, came: Entry, data: File, offset: int
) -> tuple[bool, int]:
    """Whether a variable came back, byte for byte, and the crc32c that its data must have.

    Args:
        checkpoint: has the variable.
        gone: what became of it.
        came: what came back.
        data: the new data file.
        offset: the first byte of what came back.
    """
    same, checksum = True, 0
    mine, theirs = memoryview(bytearray(_PIECE_BYTES)), memoryview(bytearray(_PIECE_BYTES))
    for piece in _original(checkpoint, gone, came, mine):
        other = theirs[: len(piece)]
        data.read_into(offset, other)
        same = same and other == piece
        checksum = crc32c(piece, checksum)
        offset += len(piece)
    return same, checksum


def _original(
    checkpoint: Checkpoint, gone: Entry, came: Entry, buffer: memoryview
) -> Iterator[memoryview]:
    """Yield the bytes that must come back."""
    if _is_undone(gone, came):
        yield from checkpoint.stream(gone.variable, buffer)
        return
    import numpy as np

    tensor = TRANSFORMS[gone.op].apply(checkpoint[gone.variable])
    data = np.ascontiguousarray(TRANSFORMS[came.op].apply(tensor)).view(np.uint8).reshape(-1).data
    for start in range(0, len(data), len(buffer)):
        yield data[start : start + len(buffer)]
