"""What ends the process of TensorFlow's reader is refused before the reader sees it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertconvert import BertconvertError, convert, open_checkpoint, record, verify
from bertconvert.converter.checkpoint.sstable import Table
from bertconvert.converter.storage.files import open_path
from bertconvert.converter.verify import tensorflow_process
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


@pytest.mark.parametrize("kind", INDEXES)
def test_record_and_verify_refuse_it_before_tensorflow_starts(
    tmp_path: Path, kind: str, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faulty variable is one that a conversion skips, so the rest of the checkpoint is good."""

    def started(*_: object) -> None:
        pytest.fail("TensorFlow was started")

    monkeypatch.setattr(tensorflow_process, "_process", started)
    monkeypatch.setattr(tensorflow_process, "compute", started)
    source, out = tmp_path / "in", tmp_path / "out"
    convert(fixtures / "encoder", out)
    shutil.copytree(fixtures / "encoder", source)
    index = source / "bert_model.ckpt.index"
    pairs = dict(Table(open_path(str(index))))
    pairs |= {name.encode(): entry for name, entry in INDEXES[kind].items()}
    index.write_bytes(write.table(sorted(pairs.items())))
    with pytest.raises(BertconvertError):
        record(source, tmp_path / "r.safetensors", drop="s")
    with pytest.raises(BertconvertError):
        verify(source, out, level="outputs", drop="s")
    assert not (tmp_path / "r.safetensors").exists()
