"""What tests of several folders share."""

import errno
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import numpy as np
import pytest

from bertconvert import Checkpoint, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.verify.tensorflow_reader import (
    on_disk,
    read_at,
    refuse_what_ends_the_process,
)


def has_data(prefix: Path) -> bool:
    """Whether the data files are there, and not their pointers in git-lfs."""
    shards = list(prefix.parent.glob(f"{prefix.name}.data-*"))
    return bool(shards) and not any(
        shard.read_bytes()[:8] == b"version " for shard in shards if shard.stat().st_size < 1024
    )


def with_labels(checkpoint: Path, count: int) -> Path:
    """Give a classifier's checkpoint another number of labels; the folder."""
    with open_checkpoint(checkpoint) as opened:
        arrays = dict(opened)
    for name in ("output_weights", "output_bias"):
        arrays[name] = np.resize(arrays[name], (count, *arrays[name].shape[1:]))
    for file in checkpoint.glob("bert_model.ckpt*"):
        file.unlink()
    write_bundle(checkpoint / "bert_model.ckpt", arrays)
    return checkpoint


def changed_copy(
    folder: Path,
    source: Path,
    more: Mapping[str, tuple[int, ...]] = {},
    *,
    without: str = "-",
    rename: tuple[str, str] = ("", ""),
) -> Path:
    """A checkpoint of the fixtures, with its config and vocabulary.

    Args:
        folder: the folder to make.
        source: the checkpoint.
        more: variables to add, with their shapes; random numbers, always the same.
        without: variables with this in their names are left out.
        rename: a part of all names, and what replaces it.
    """
    checkpoint = open_checkpoint(source)
    arrays = {name.replace(*rename): checkpoint[name] for name in checkpoint if without not in name}
    rng = np.random.default_rng(0)
    arrays |= {name: rng.normal(size=shape).astype(np.float32) for name, shape in more.items()}
    folder.mkdir()
    write_bundle(folder / "bert_model.ckpt", arrays)
    for path in source.iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copy(path, folder)
    return folder


def in_terminal(
    command: Sequence[str | Path],
    columns: int = 80,
    env: Mapping[str, str] = os.environ,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, str]:
    """Run Python with these arguments in a terminal: its exit code, and what it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {k: v for k, v in env.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=kept | {"TERM": "xterm"} | dict(extra),
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError as error:  # Linux raises it at the end
        if error.errno != errno.EIO:
            raise
    finally:
        os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of so many kilobytes; skips the test where nothing can be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Fail the test if the block takes longer; an alarm also interrupts an endless loop."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"still running after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def split_weights(folder: Path) -> dict[str, str]:
    """Split a folder's weights into two files with an index; which file has each tensor."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return places


def read_variables(checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Any]:
    """Variables as TensorFlow reads them: what to call each -> a numpy array."""
    refuse_what_ends_the_process(checkpoint)
    with on_disk(checkpoint, names.values()) as prefix:
        return dict(read_at(prefix, checkpoint.name, names))
