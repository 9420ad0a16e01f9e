"""Damage of every kind is noticed, or changes nothing that is read."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.protos import Malformed
from bertconvert.converter.checkpoint.sstable import Table

from . import table_writer as write

SECONDS = 10  # that reading one damaged checkpoint may take; it takes a few milliseconds
ORDINARY, SLOW = 60, 20_000  # random damages: of each checkpoint, and of all together

MIXTURES: dict[str, Callable[[Path], Path]] = {
    "V2": lambda folder: write.write_mixture(folder),
    "V2 of many blocks": lambda folder: write.write_mixture(folder, block_bytes=40),
    "V2 in Snappy": lambda folder: write.write_mixture(folder, compression=write.SNAPPY),
    "V2, big-endian": lambda folder: write.write_mixture(folder, big_endian=True),
    "V1": lambda folder: write.write_v1_mixture(folder),
    "V1 of many blocks": lambda folder: write.write_v1_mixture(folder, block_bytes=40),
    "V1 in Snappy": lambda folder: write.write_v1_mixture(folder, compression=write.SNAPPY),
    "V1 in two shards": lambda folder: write.write_v1_mixture(folder, 2, block_bytes=60),
}
FIXTURES = ["classifier", "encoder", "keras-names", "pretraining", "pretraining-adam", "squad"]

Read = dict[str, tuple[Any, ...]]


def value(checkpoint: Any, name: str) -> tuple[Any, ...]:
    array = checkpoint[name]
    data = array.tolist() if array.dtype == object else array.tobytes()
    return checkpoint.variables[name].tf_dtype, array.dtype, array.shape, data


class Damaged:
    """A checkpoint in a folder of its own, one of whose files is damaged and mended again."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.files = {path: path.read_bytes() for path in sorted(prefix.parent.iterdir())}
        self.files = {p: data for p, data in self.files.items() if p.name.startswith(prefix.name)}
        with open_checkpoint(prefix) as checkpoint:
            self.right = {name: value(checkpoint, name) for name in checkpoint}

    def try_with(self, path: Path, data: bytes) -> bool:
        """Whether damage is noticed; fails if it changes anything that is read."""
        signal.alarm(SECONDS)
        path.write_bytes(data)
        try:
            return self._is_noticed()
        finally:
            path.write_bytes(self.files[path])

    def _is_noticed(self) -> bool:
        try:
            checkpoint = open_checkpoint(self.prefix)
        except CheckpointError:
            return True
        noticed = False
        assert set(checkpoint) == set(self.right)
        for name, right in self.right.items():
            try:
                assert value(checkpoint, name) == right, name
            except CheckpointError:
                noticed = True
        return noticed


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of files are written."""
    memory = Path("/dev/shm")
    folder = memory / f"bertconvert-{os.getpid()}" if memory.is_dir() else tmp_path / "scratch"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_read_as_it_was_meant(scratch: Path, name: str) -> None:
    """So that the damage below is done to something that is read to the last byte."""
    MIXTURES[name](scratch)
    with open_checkpoint(scratch) as checkpoint:
        read = {name: array.tolist() for name, array in checkpoint.items()}
    same = {"a/kernel": [[1, 2], [3, 4]], r"b\xff": -5}
    if "V1" in name:  # whose values may leave out repetitions at the end
        texts = [b"", b"xxx", b"x" * 9]
        parts = [[1, 2, 300], [4, 300, 300]]
        assert read == same | {"content": [7, 8, 9], "names": texts, "parts": parts}
    else:
        texts = [b"", b"one", b"two" * 3]
        assert read == same | {"a/none": [], "names": texts, "parts": [[1, 2, 3], [4, 5, 6]]}


@pytest.mark.parametrize("name", MIXTURES)
def test_every_flip_of_a_bit_is_noticed_or_changes_nothing(scratch: Path, name: str) -> None:
    damaged = Damaged(MIXTURES[name](scratch))
    noticed = tried = 0
    for path, data in damaged.files.items():
        for place in range(len(data)):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[place] ^= 1 << bit
                noticed += damaged.try_with(path, bytes(flipped))
                tried += 1
    # The padding of footers and the metaindex are read by nobody.
    assert noticed > 0.75 * tried


@pytest.mark.parametrize("name", MIXTURES)
def test_every_cut_is_noticed_or_changes_nothing(scratch: Path, name: str) -> None:
    damaged = Damaged(MIXTURES[name](scratch))
    for path, data in damaged.files.items():
        noticed = [damaged.try_with(path, data[:size]) for size in range(len(data))]
        assert all(noticed)


def at_random(rng: random.Random, data: bytes) -> bytes:
    """A file, damaged."""
    size = len(data)
    start, end = sorted(rng.randrange(size + 1) for _ in range(2))
    part = data[start:end]
    place = rng.randrange(size)
    kind = rng.randrange(9)
    changed = bytearray(data)
    if kind == 0:  # bits
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 1:  # cut
        del changed[start:]
    elif kind == 2:  # a piece is missing
        del changed[start:end]
    elif kind == 3:  # a piece is there twice
        changed[place:place] = part
    elif kind == 4:  # a piece overwrites another
        changed[place : place + len(part)] = part[: size - place]
    elif kind == 5:  # a sector or a page of zeros
        changed[place : place + 512] = bytes(min(512, size - place))
    elif kind == 6:  # bytes of another file
        changed[start:end] = rng.randbytes(end - start)
    else:  # blocks of a table, or sectors of a shard, are swapped or there twice
        first, second = sorted(rng.sample(pieces(data), 2))
        one, other = data[slice(*first)], data[slice(*second)]
        changed[slice(*second)] = one
        changed[slice(*first)] = other if kind == 7 else one
    return bytes(changed)


def pieces(data: bytes) -> list[tuple[int, int]]:
    """The places of a table's blocks; in another file, pieces of 64 bytes."""
    try:
        handles = Table(write.in_file(data))._handles
    except (Malformed, CheckpointError):
        handles = []
    found = [(offset, offset + size + 5) for offset, size in handles]
    found += [(start, min(start + 64, len(data))) for start in range(0, len(data), 64)]
    return [*found, (0, len(data))]


def damage(damaged: Damaged, count: int, seed: int) -> int:
    rng = random.Random(seed)
    # The small index counts as much as the large shard.
    files = [path for path, data in damaged.files.items() if len(data) > 1]
    noticed = 0
    for _ in range(count):
        path = rng.choice(files)
        noticed += damaged.try_with(path, at_random(rng, damaged.files[path]))
    return noticed


def copied(fixture: Path, scratch: Path) -> Path:
    for path in fixture.glob("bert_model.ckpt*"):
        shutil.copy(path, scratch)
    return scratch / "bert_model.ckpt"


@pytest.mark.parametrize("name", MIXTURES)
def test_damage_of_a_mixture_is_noticed_or_changes_nothing(scratch: Path, name: str) -> None:
    assert damage(Damaged(MIXTURES[name](scratch)), ORDINARY, 0) > ORDINARY // 2


@pytest.mark.parametrize("name", FIXTURES)
def test_damage_of_a_fixture_is_noticed_or_changes_nothing(
    fixtures: Path, scratch: Path, name: str
) -> None:
    damaged = Damaged(copied(fixtures / name, scratch))
    assert damage(damaged, ORDINARY, 0) > ORDINARY // 2


@pytest.mark.slow
def test_twenty_thousand_damages_are_noticed_or_change_nothing(
    fixtures: Path, scratch: Path
) -> None:
    count = SLOW // (len(MIXTURES) + len(FIXTURES)) + 1
    for number, name in enumerate([*MIXTURES, *FIXTURES]):
        folder = scratch / str(number)
        folder.mkdir()
        made = MIXTURES[name](folder) if name in MIXTURES else copied(fixtures / name, folder)
        assert damage(Damaged(made), count, 1 + number) > count // 2
