"""A Plan of the way back -> a checkpoint, byte for byte as TensorFlow's Saver writes it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from .checkpoint import Variable
from .checkpoint.bundle_writer import index_file, layout
from .checkpoint.checksum import crc32c
from .checkpoint.names import INDEX, shard_of
from .errors import OutputError
from .plan import Plan
from .storage.files import Progress
from .tensor_copy import Buffer, Copy, Source, write_file
from .transforms import TRANSFORMS

_NO_SCALARS: Mapping[str, int] = MappingProxyType({})


def write_checkpoint(
    source: Source,
    plan: Plan,
    prefix: Path,
    scalars: Mapping[str, int] = _NO_SCALARS,
    progress: Progress | None = None,
) -> None:
    """Write the variables of a plan to PREFIX.data-00000-of-00001, and then PREFIX.index.

    Args:
        source: has the tensors.
        plan: of an entry, `variable` names the source's tensor; `tensor`, `shape` and `dtype` are
            the name, shape and dtype of TensorFlow's variable.
        prefix: the checkpoint's name; its folder exists, and the two files don't.
        scalars: the numbers of other variables, which are int64 and of no dimension.
        progress: told of the bytes of tensors that are written, and of their total.

    Raises:
        CheckpointError, ModelError: a tensor can't be read, or is damaged.
        OutputError: a number does not fit the dtype, TensorFlow can't store a variable, two have
            the same name, or a file can't be written.
    """
    numbers = {name: value.to_bytes(8, "little", signed=True) for name, value in scalars.items()}
    entries = {entry.tensor: entry for entry in plan.entries}
    places = layout(
        [
            *(Variable(e.tensor, e.dtype, e.shape, e.nbytes) for e in plan.entries),
            *(Variable(name, "int64", (), len(data)) for name, data in numbers.items()),
        ]
    )
    offsets = {place.variable.name: place.offset for place in places}
    copies = [
        Copy(
            name=entry.variable,
            result=entry.tensor,
            op=entry.op,
            # That of the variable may have more dimensions, which are one in PyTorch.
            shape=TRANSFORMS[entry.op].shape(source.variables[entry.variable].shape),
            dtype=entry.dtype,
            place=offsets[entry.tensor],
        )
        for entry in entries.values()
    ]
    checksums = dict.fromkeys(entries, 0) | {n: crc32c(data) for n, data in numbers.items()}

    def observe(copy: Copy, piece: Buffer) -> None:
        checksums[copy.result] = crc32c(piece, checksums[copy.result])

    index = f"{prefix}{INDEX}"
    others = {offsets[name]: data for name, data in numbers.items()}
    write_file(Path(shard_of(index, 0, 1)), source, copies, others, progress, observe)
    try:
        with open(index, "xb") as file:
            file.write(index_file(places, checksums))
    except OSError as error:
        raise OutputError(f"{index} can't be written: {error.strerror}") from error
