"""The names of a checkpoint's files.

A V2 checkpoint `m` is the files `m.index` and `m.data-00000-of-00001`, ..., and often `m.meta`. A
V1 checkpoint is the file `m`, or `m-00000-of-00002`, .... Browsers and file managers mark a second
copy: `m (1).index`.
"""

import os
import re

INDEX = ".index"
_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")
# A file of a V1 checkpoint; TensorFlow names all of them together as m-?????-of-00002.
_V1_SHARD = re.compile(r"-(?:\d{5}|\?{5})-of-(\d{5})$")
# Endings that no V1 file has, so that not every file of a folder must be opened to find one.
_NOT_V1 = (".meta", ".json", ".txt", ".md", ".py", ".pb", ".zip", ".gz", ".tfevents")
# The marks of browsers, Windows and macOS.
_COPY_MARK = re.compile(r" ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?(?=\.|$)")
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".filepart")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MOST_V1_SHARDS = 1000  # to ask a server for


def may_be_index(name: str) -> bool:
    """Whether it can be an index, under any mark of a copy."""
    return INDEX in name


def is_index(name: str) -> bool:
    """Whether it is the name of an index."""
    return unmarked(name).endswith(INDEX)


def is_of_a_set(name: str) -> bool:
    """Whether it is the name of a file that only belongs to a V2 checkpoint."""
    name = unmarked(name)
    return name.endswith((INDEX, ".meta")) or bool(_SHARD.search(name))


def prefix_of(name: str) -> str:
    """The prefix of a V2 checkpoint's file, without the mark of a copy."""
    return _SHARD.sub("", unmarked(name)).removesuffix(INDEX).removesuffix(".meta")


def v1_prefix_of(name: str) -> str:
    """The prefix of a V1 checkpoint's file."""
    return _V1_SHARD.sub("", name)


def num_v1_shards(name: str) -> int:
    """The number of a V1 checkpoint's files, by the name of one of them."""
    found = _V1_SHARD.search(name)
    return int(found[1]) if found else 1


def may_be_v1(name: str) -> bool:
    """Whether it can be the name of a V1 checkpoint's file."""
    return not (
        name.endswith(_NOT_V1) or is_of_a_set(name) or os.path.basename(name) == "checkpoint"
    )


def shard_name(prefix: str, shard: int, num_shards: int) -> str:
    """The name of a V2 checkpoint's data file."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"


def files_of(name: str) -> list[str]:
    """The names that a checkpoint's files may have, by its prefix or the name of one of them."""
    prefix = prefix_of(name)
    names = [name, prefix, prefix + INDEX, shard_name(prefix, 0, 1)]
    count = num_v1_shards(name)
    if v1_prefix_of(name) != name:
        prefix = v1_prefix_of(name)
        names += [f"{prefix}-{n:05d}-of-{count:05d}" for n in range(min(count, _MOST_V1_SHARDS))]
    return names


def unmarked(name: str) -> str:
    """The name without the mark of a copy; folders' names keep theirs."""
    folder, base = os.path.split(name)
    return os.path.join(folder, _COPY_MARK.sub("", base))


def copy_mark(name: str) -> str:
    """The mark of a copy in a name; "" if it has none."""
    found = _COPY_MARK.search(os.path.basename(name))
    return found[0] if found else ""


def is_unfinished(name: str) -> bool:
    """Whether it is the name of an unfinished download."""
    return name.endswith(_UNFINISHED)


def other_format(name: str, start: bytes = b"") -> str:
    """What a file of another format is; "" if neither its name nor its first bytes tell."""
    if name.endswith((".bin", ".pt", ".pth", ".safetensors")):
        return "a PyTorch file"
    if name.endswith((".h5", ".hdf5", ".keras")) or start.startswith(_HDF5):
        return "a Keras file; bertconvert does not read HDF5"
    if name.endswith(".pb"):
        return "a graph; the variables of a SavedModel are in its folder variables/"
    return ""
