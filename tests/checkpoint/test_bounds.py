"""Files by somebody who means harm take no more time and memory than their size accounts for.

Each is opened and read in a process of its own, which may not have more than 2 GiB of addresses,
and says how much memory it took. Linux only, as that is where memory can be asked for.
"""

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from . import table_writer as write

MEGABYTE = 1 << 20
GROWTH, ALWAYS = 32, 160 * MEGABYTE  # of memory: so many times the file, and this
SECONDS = 20  # most of them take less than one

READ_ALL = """
import resource, sys
import cramjam, ml_dtypes, numpy
from bertconvert import CheckpointError, open_checkpoint

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
open("/proc/self/clear_refs", "w").write("5")
before, said, read = peak(), "", 0
try:
    with open_checkpoint(sys.argv[1]) as checkpoint:
        for name in list(checkpoint)[:1000]:
            try:
                checkpoint[name]
                read += 1
            except CheckpointError as error:
                said = str(error)
except CheckpointError as error:
    said = str(error)
print(peak() - before, read, said[-300:])
"""

HEAD = (b"", write.header())
Box = tuple[tuple[int, int], ...]
V1 = write.V1Variable


def bundle(entries: dict[str | bytes, bytes], data: bytes = b"") -> dict[str, bytes]:
    return {"m.index": write.index(entries), "m.data-00000-of-00001": data}


def partitioned(boxes: Sequence[Box], shape: Sequence[int], data: bytes = b"") -> dict[str, bytes]:
    """A variable of uint8 in slices, all of which are at byte 0."""
    listed = [write.extents(*box) for box in boxes]
    entries: dict[str | bytes, bytes] = {"a": write.entry(4, shape, 0, slices=listed)}
    for box in boxes:
        lengths = [length for _, length in box]
        entries[write.slice_key(b"a", *box)] = write.entry(4, lengths, math.prod(lengths))
    return bundle(entries, data)


def shuffled(boxes: list[Box]) -> list[Box]:
    random.Random(0).shuffle(boxes)
    return boxes


def spiral(size: int) -> list[Box]:
    """Slices of which a straight cut takes one away at a time."""
    boxes: list[Box] = []
    for at in range(size):
        boxes += [((at, 1), (at, size - at)), ((at + 1, size - at - 1), (at, 1))]
    return boxes[:-1]


def strings(texts: list[bytes], *shape: int) -> dict[str, bytes]:
    stored = write.strings(texts)
    return bundle({"s": write.entry(7, shape, len(stored.data), 0, stored.crc)}, stored.data)


def keys(count: int, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    return [HEAD, *((prefix + b"%07d" % n, b"") for n in range(count))]


def v1(*variables: write.V1Variable, block_bytes: int = 1 << 30) -> dict[str, bytes]:
    return {"m": write.table(write.v1_pairs(variables), block_bytes)}


def v1_meta(*parts: bytes) -> dict[str, bytes]:
    return {"m": write.table([(b"", write.field(1, write.field(1, b"".join(parts))))])}


def graph(content: bytes) -> dict[str, bytes]:
    stored = write.strings([content])
    entry = write.entry(7, (), len(stored.data), 0, stored.crc)
    return bundle({"_CHECKPOINTABLE_OBJECT_GRAPH": entry}, stored.data)


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = write.field(1, data)
    return data


def empty_blocks(count: int) -> bytes:
    """An index block of many blocks without entries."""
    one = write.stored(bytes(4))
    handles = [(b"%07d" % n, write.handle(n * len(one), 4)) for n in range(count)]
    index = write.block(handles)
    place = write.handle(count * len(one), len(index))
    return one * count + write.stored(index) + write.footer(write.handle(0, 0), place)


HUGE = 2**40
HOSTILE: dict[str, Callable[[], dict[str, bytes]]] = {
    "a huge shape and no data": lambda: bundle({"a": write.entry(4, (HUGE,), HUGE)}, bytes(9)),
    "a huge shape in two huge slices": lambda: partitioned(
        [((0, HUGE),), ((HUGE, HUGE),)], (2 * HUGE,), bytes(9)
    ),
    "entries of no bytes": lambda: {"m.index": write.table(keys(150_000))},
    "entries of no bytes, in Snappy": lambda: {
        "m.index": write.table(keys(150_000), compression=write.SNAPPY)
    },
    "entries that share their bytes": lambda: bundle(
        {f"{n:05d}": write.entry(4, (MEGABYTE,), MEGABYTE) for n in range(1000)}, bytes(MEGABYTE)
    ),
    "keys that repeat a long prefix": lambda: {
        "m.index": write.table(keys(20_000, b"\xff" * 300), restart_interval=1 << 30)
    },
    "keys that repeat a long prefix, block by block": lambda: {
        "m.index": write.table(keys(600, b"\xff" * 2000), 1 << 16, 1 << 30)
    },
    "Snappy that claims to be 2^40 bytes": lambda: {
        "m.index": b"".join(
            [
                (data := write.varint(HUGE) + bytes(50)),
                b"\1",
                write.masked(data + b"\1").to_bytes(4, "little"),
                write.footer(write.handle(0, 0), write.handle(0, len(data))),
            ]
        )
    },
    "blocks of no entries": lambda: {"m.index": empty_blocks(100_000)},
    "shapes of many dimensions": lambda: {
        "m.index": write.index({f"{n:06d}": write.entry(1, [0] * 250, 0) for n in range(3_000)})
    },
    "a shape of 100,000 dimensions": lambda: bundle({"a": write.entry(1, [0] * 10**5, 0)}),
    "100,000 slices that are not there": lambda: bundle(
        {"a": write.entry(4, (9,), 0, slices=[b""] * 10**5)}
    ),
    "one slice, listed 50,000 times": lambda: partitioned([((0, 1),)] * 50_000, (50_000,)),
    "100,000 slices in no order": lambda: partitioned(
        shuffled([((n, 1),) for n in range(100_000)]), (100_000,), bytes(100_000)
    ),
    "20,000 slices that overlap": lambda: partitioned(
        [((n, 2),) for n in range(20_000)], (40_000,), bytes(100_000)
    ),
    "20,000 slices of no elements": lambda: partitioned(
        [((n, 0),) for n in range(20_000)], (20_000,)
    ),
    "20,000 slices in a spiral": lambda: partitioned(spiral(10_000), (10_000, 10_000), bytes(99)),
    "slices that share their bytes": lambda: partitioned(
        [((n, 1), (0, MEGABYTE)) for n in range(1000)], (1000, MEGABYTE), bytes(MEGABYTE)
    ),
    "a long name and many slices": lambda: bundle(
        {"n" * MEGABYTE: write.entry(4, (9,), 0, slices=[write.extents((0, 1))] * 30_000)}
    ),
    "2^40 strings": lambda: strings([b"a"], HUGE),
    "strings of two bytes": lambda: strings([b"ab"] * 300_000, 300_000),
    "strings of no bytes": lambda: strings([b""] * 1_000_000, 1_000_000),
    "a string of 2^63 bytes": lambda: bundle(
        {"s": write.entry(7, (2,), 20)}, write.varint(2**63) * 2
    ),
    "an object graph of attributes that say nothing": lambda: graph(
        write.field(1, write.field(2, b"") * 1_000_000)
    ),
    "an object graph of names for one variable": lambda: graph(
        write.field(1, write.field(2, write.field(2, b"x") + write.field(3, b"a")) * 300_000)
    ),
    "an object graph that nests": lambda: graph(nested(100_000)),
    "V1 with one value for 2^40": lambda: v1(V1(b"a", 1, (HUGE,), [(None,)], [b""])),
    "V1 with one string for 2^40": lambda: v1(V1(b"a", 7, (HUGE,), [(None,)], [b""])),
    "V1 with one value for each of many large slices": lambda: v1(
        V1(b"a", 4, (1000, MEGABYTE), [((n, 1), None) for n in range(1000)], [b""] * 1000)
    ),
    "V1 with 20,000 slices in one block": lambda: v1(
        V1(b"a", 4, (20_000,), [((n, 1),) for n in range(20_000)], [write.field(7, 1)] * 20_000)
    ),
    "V1 with a long name and many slices": lambda: v1_meta(
        write.field(1, b"n" * MEGABYTE),
        write.field(2, write.shape(4)),
        write.field(3, 1),
        write.field(4, write.extents((0, 1))) * 100_000,
    ),
    "V1 with numbers one by one": lambda: v1(
        V1(b"a", 9, (500_000,), [(None,)], [write.field(10, 5) * 500_000])
    ),
    "V1 with numbers that never end": lambda: v1(
        V1(b"a", 9, (500_000,), [(None,)], [write.field(10, b"\xff" * 2_000_000)])
    ),
    "V1 with strings of two bytes": lambda: v1(
        V1(b"a", 7, (300_000,), [(None,)], [write.field(8, b"ab") * 300_000])
    ),
    "V1 that nests": lambda: v1_meta(nested(100_000)),
    "V1 that describes a variable 200,000 times": lambda: {
        "m": write.table([(b"", write.field(1, write.field(1, write.field(1, b"a")) * 200_000))])
    },
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of memory")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_takes_no_more_memory_than_its_size_accounts_for(tmp_path: Path, name: str) -> None:
    files = HOSTILE[name]()
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, tmp_path / "m"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    taken, read, said = done.stdout.split(" ", 2)
    assert int(taken) <= ALWAYS + GROWTH * sum(map(len, files.values()))
    assert int(read) or said.strip() or "graph" in name
