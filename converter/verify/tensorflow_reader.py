"""A checkpoint's variables, read by TensorFlow itself."""

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import VerificationError
from ..models.backend import tensorflow

_COPY_BYTES = 1 << 24


def read_at(prefix: str, checkpoint: str, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Read variables one after the other: what to call each, and a numpy array.

    Args:
        prefix: as `on_disk` gives it.
        checkpoint: what to call the checkpoint in an error.
        names: what to call a variable -> its name in the checkpoint.

    Raises:
        VerificationError: TensorFlow can't read it.
    """
    tf = tensorflow()
    try:
        reader = tf.train.load_checkpoint(prefix)
        dtypes = reader.get_variable_to_dtype_map()
        for name, variable in names.items():
            try:
                array = reader.get_tensor(variable)
            except tf.errors.UnimplementedError:  # a partitioned variable in V1
                array = tf.raw_ops.Restore(
                    file_pattern=prefix, tensor_name=variable, dt=dtypes[variable]
                ).numpy()
            yield name, array
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise VerificationError(f"TensorFlow can't read {checkpoint}: {error}") from error


def refuse_what_ends_the_process(checkpoint: Checkpoint) -> None:
    """Refuse an index that TensorFlow's reader would end the process for, when it is opened.

    That reader does not expect a slice twice, even of a variable that nobody reads. What else it
    does not expect, such as a shape with too many elements, is refused when a checkpoint is opened.

    Raises:
        CheckpointError: the slices of a variable do not fit it.
    """
    for name in checkpoint:
        checkpoint.position(name)  # which checks the slices


@contextmanager
def on_disk(checkpoint: Checkpoint, names: Collection[str]) -> Iterator[str]:
    """A prefix that TensorFlow can open to read these variables, and perhaps no others.

    Of a Keras file it is the file.

    A checkpoint that is in an archive, remote, or renamed by a browser is copied under the names
    that TensorFlow wants. Any other is opened where it is.
    """
    files = {file.name: file for file in [checkpoint.index, *checkpoint.data_files()]}
    shards = checkpoint.num_shards
    opened = ""  # what TensorFlow is given after the prefix
    is_v2 = len(files) > shards
    if checkpoint.is_h5:
        endings = [""]
    elif is_v2:
        endings = [".index", *(f".data-{n:05d}-of-{shards:05d}" for n in range(shards))]
    elif list(files) == [checkpoint.name]:  # V1, whose tables hold both names and data
        endings = [""]
    else:
        endings = [f"-{n:05d}-of-{shards:05d}" for n in range(shards)]
        opened = f"-?????-of-{shards:05d}"
    here = [name for name in files if os.path.isfile(name)]
    if here == [checkpoint.name + ending for ending in endings]:
        yield checkpoint.name + opened
        return
    spans = {checkpoint.index: [(0, checkpoint.index.size)], **checkpoint.spans(names)}
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy.ckpt")
        for file, ending in zip(files.values(), endings, strict=True):
            ranges = spans.get(file, []) if is_v2 else [(0, file.size)]
            file.fetch(ranges)
            with Path(copy + ending).open("wb") as target:
                target.truncate(file.size)  # bytes that are not copied are zero
                for start, end in ranges:
                    target.seek(start)
                    for at in range(start, end, _COPY_BYTES):
                        target.write(file.read(at, min(_COPY_BYTES, end - at)))
        yield copy + opened
