"""The names of a checkpoint's files.

A V2 checkpoint `m` is the files `m.index` and `m.data-00000-of-00001`, ..., and often `m.meta`. A
V1 checkpoint is the file `m`, or `m-00000-of-00002`, .... A Keras HDF5 file is called `m.h5`.
Browsers and file managers mark a second copy: `m (1).index`.
"""

import os
import re

INDEX = ".index"
SAVED_MODEL, SAVED_VARIABLES = "saved_model.pb", "variables/variables"  # its graph, and the prefix
# The marks of browsers, Windows and macOS.
_MARK = r" ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?(?=\.|$)"
_COPY_MARK = re.compile(_MARK)
# A file of a V2 checkpoint: its prefix, what it is, and the mark of a copy.
_OF_A_SET = re.compile(rf"(.*)(\.index|\.data-\d{{5}}-of-\d{{5}}|\.meta)({_MARK})?", re.DOTALL)
# A file of a V1 checkpoint; TensorFlow names all of them together as m-?????-of-00002.
_V1_SHARD = re.compile(r"-(?:\d{5}|\?{5})-of-(\d{5})$")
# Endings that hardly any V1 file has, so that few files of a folder must be opened to find one.
_NOT_V1 = (".meta", ".json", ".txt", ".md", ".py", ".pb", ".pbtxt", ".zip", ".gz")
_H5 = (".h5", ".hdf5")
_H5_PIECE = re.compile(r"-\d{5}-of-\d{5}\.h5$")
_STEP = re.compile(r"-(\d{1,18})$")
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".filepart")
_MOST_V1_SHARDS = 1000  # to ask a server for

SAVE_AGAIN = (
    "Open it with Keras and save it in the older format: model.save_weights('tf_model.h5',"
    " save_format='h5') of Keras 2, or model.save('tf_model.h5')."
)
"""What to do about a file of Keras' newer format."""


def may_be_index(name: str) -> bool:
    """Whether it can be an index, under any mark of a copy, or be all of a checkpoint."""
    return INDEX in name or is_h5(name)


def is_index(name: str) -> bool:
    """Whether it is the name of an index."""
    found = _OF_A_SET.fullmatch(name)
    return found is not None and found[2] == INDEX


def is_h5(name: str) -> bool:
    """Whether it is the name of a Keras HDF5 file that is complete."""
    return name.endswith(_H5) and not _H5_PIECE.search(name)


def is_of_a_set(name: str) -> bool:
    """Whether it is the name of a file that only belongs to a V2 checkpoint."""
    return _OF_A_SET.fullmatch(name) is not None


def prefix_of(name: str) -> str:
    """The prefix of a V2 checkpoint's file; the name itself if it is no such file's."""
    found = _OF_A_SET.fullmatch(name)
    return found[1] if found else name


def index_of(name: str) -> str:
    """The index that a V2 checkpoint's file belongs to, with the same mark of a copy."""
    found = _OF_A_SET.fullmatch(name)
    return f"{found[1]}{INDEX}{found[3] or ''}" if found else name + INDEX


def shard_of(index: str, shard: int, num_shards: int) -> str:
    """The name of a data file, by the name of the index."""
    found = _OF_A_SET.fullmatch(index)
    prefix, mark = (found[1], found[3] or "") if found else (index, "")
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}{mark}"


def step_of(prefix: str) -> int | None:
    """The training step at the end of a prefix, such as 343 of `model.ckpt-343`; None without."""
    found = _STEP.search(unmarked(prefix))
    return int(found[1]) if found else None


def without_step(prefix: str) -> str:
    """The prefix without the training step."""
    return _STEP.sub("", unmarked(prefix))


def v1_prefix_of(name: str) -> str:
    """The prefix of a V1 checkpoint's file."""
    return _V1_SHARD.sub("", name)


def num_v1_shards(name: str) -> int:
    """The number of a V1 checkpoint's files, by the name of one of them."""
    found = _V1_SHARD.search(name)
    return int(found[1]) if found else 1


def may_be_v1(name: str) -> bool:
    """Whether a file of a folder is worth opening to see whether it is a V1 checkpoint."""
    return not (name.endswith(_NOT_V1) or is_of_a_set(name) or ".tfevents." in name)


def files_of(name: str) -> list[str]:
    """The names that a checkpoint's files may have, by its prefix or the name of one of them."""
    names = [name, name + INDEX, shard_of(name + INDEX, 0, 1)]
    if is_of_a_set(name):
        names += [prefix_of(name), index_of(name), shard_of(index_of(name), 0, 1)]
    count = num_v1_shards(name)
    if v1_prefix_of(name) != name:
        prefix = v1_prefix_of(name)
        names += [f"{prefix}-{n:05d}-of-{count:05d}" for n in range(min(count, _MOST_V1_SHARDS))]
    return names


def unmarked(name: str) -> str:
    """The name without the marks of a copy; folders' names keep theirs."""
    folder, base = os.path.split(name)
    return os.path.join(folder, _COPY_MARK.sub("", base))


def is_unfinished(name: str) -> bool:
    """Whether it is the name of an unfinished download."""
    return name.endswith(_UNFINISHED)


def other_format(name: str) -> str:
    """What a file of another format is; "" if its name does not tell.

    If there is something to do about it, that follows, with a full stop.
    """
    if name.endswith((".bin", ".pt", ".pth", ".safetensors")):
        return "a PyTorch file. `bertconvert pt2tf` converts a folder of it to TensorFlow."
    if _H5_PIECE.search(name):
        return (
            "a piece of a model that transformers cut up. Save it again in one piece, with"
            " save_pretrained(..., max_shard_size='100GB')."
        )
    if name.endswith(".keras"):
        return f"of Keras' newer format, in which variables have numbers and no names. {SAVE_AGAIN}"
    if name.endswith(".pb"):
        return "a graph; the variables of a SavedModel are in its folder variables/"
    return ""
