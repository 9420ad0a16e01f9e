"""What ends the process of TensorFlow's reader is refused before the reader sees it."""

import subprocess
import sys
from pathlib import Path

import pytest

from bertconvert import BertconvertError, open_checkpoint
from bertconvert.converter.verify.tensorflow_reader import refuse_what_ends_the_process

from ..checkpoint import table_writer as write

SLICE = write.field(7, write.extents((0, 1)))
INDEXES = {
    "a product that overflows": {"s": write.entry(write.STRING, (2**62, 2), 12)},
    "a product that overflows before a zero": {
        "s": write.entry(write.STRING, (2**40, 2**40, 0), 0)
    },
    "too many dimensions": {"s": write.entry(write.STRING, (1,) * 255, 12)},
    "a slice that exists twice": {"s": write.entry(write.STRING, (2**32,), 0) + SLICE + SLICE},
}
OPENS = """
import sys, tensorflow
for prefix in sys.argv[1:]:
    tensorflow.train.load_checkpoint(prefix).get_variable_to_shape_map()
"""


def opens(prefix: Path) -> int:
    """The exit code of a process in which TensorFlow opens a checkpoint."""
    command = [sys.executable, "-c", OPENS, str(prefix)]
    return subprocess.run(command, capture_output=True).returncode


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index(tmp_path: Path, kind: str) -> None:
    prefix = tmp_path / "m"
    write.write_index(prefix, INDEXES[kind])
    write.shard_path(prefix).write_bytes(bytes(16))
    with pytest.raises(BertconvertError):
        refuse_what_ends_the_process(open_checkpoint(prefix))


@pytest.mark.slow
@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_really_ends_tensorflows_process(tmp_path: Path, kind: str) -> None:
    """So that a guard that is no longer needed is noticed."""
    prefix = tmp_path / "m"
    write.write_index(prefix, INDEXES[kind])
    write.shard_path(prefix).write_bytes(bytes(16))
    assert opens(prefix) < 0


def test_what_has_zero_elements_and_is_allowed_is_read(tmp_path: Path) -> None:
    prefix = tmp_path / "m"
    write.write_index(prefix, {"a": write.entry(write.STRING, (0, 2**62, 2**62), 0)})
    write.shard_path(prefix).write_bytes(b"")
    checkpoint = open_checkpoint(prefix)
    refuse_what_ends_the_process(checkpoint)
    assert checkpoint.variables["a"].size == 0
    assert opens(prefix) == 0
