"""Opens a checkpoint, with the names of files that the mappings expect on a server.

It is apart from `prepare`, so that reading a checkpoint on disk imports nothing of the mappings.
"""

import os

from .checkpoint import Checkpoint, reader
from .choices import Step
from .storage.files import Progress
from .storage.location import Url, parse_location


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    verify_checksums: bool = True,
    progress: Progress | None = None,
    step: Step | None = None,
) -> Checkpoint:
    """Open a TensorFlow checkpoint; only its index is read.

    Args:
        path: a folder, a prefix (`.../model.ckpt`), any file of the checkpoint, a Keras `.h5`, a
            `.zip` or `.tar.gz` of it, or the URL of any of these.
        verify_checksums: whether the crc32c of each tensor is checked when it is read. Those of
            the index, and of a V1 file's blocks, always are.
        progress: told of the bytes that are downloaded, or unpacked from an archive.
        step: the training step to choose if there are several, such as 343 for `model.ckpt-343`,
            or `latest`. It goes over the file `checkpoint`.

    Raises:
        CheckpointError: there is no checkpoint, there are several, or the index is damaged.
    """
    return reader.open_checkpoint(
        path,
        verify_checksums=verify_checksums,
        progress=progress,
        expected=expected_names(path),
        step=step,
    )


def expected_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The usual names of files, by the built-in mappings, for a server that lists none."""
    if not isinstance(parse_location(path), Url):
        return ()
    from .mapping import builtin_mappings, load_mapping

    mappings = [load_mapping(mapping) for mapping in builtin_mappings().values()]
    rules = [rule for m in mappings for rule in (m.files.config, *m.vocabularies) if rule]
    prefixes = [prefix for mapping in mappings for prefix in mapping.files.prefixes]
    return (*(f"{prefix}.index" for prefix in prefixes), *(rule.name for rule in rules))
