"""Runs the readers on libFuzzer's inputs: any exception but that of bad data is a bug.

    python fuzz/fuzz_checkpoint.py --seeds FOLDER              # writes a first corpus
    python fuzz/fuzz_checkpoint.py FOLDER -max_total_time=1800

An input's first byte selects what the rest is: an index with a shard, a V1 table, the content of
either before its checksums are computed (so that they do not hide the damage), an archive, the file
`checkpoint`, a name that a person typed, or a SentencePiece model. The other options are
libFuzzer's.
"""

import io
import os
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, os.fspath(Path(__file__).parent.parent))
with atheris.instrument_imports(include=["bertconvert.converter"]):
    from bertconvert import CheckpointError, PlanError, open_checkpoint
    from bertconvert.converter.checkpoint import slices, sstable, v1  # noqa: F401 (imported late)
    from bertconvert.converter.checkpoint.object_graph import OBJECT_GRAPH
    from bertconvert.converter.tokenizers import sentencepiece, sentencepiece_reference
    from tests.checkpoint import table_writer as write
    from tests.tokenizers import model_writer

TEXTS = write.strings([b"", b"abc"])
SHARD = bytes(range(256)) * 2 + TEXTS.data
LARGEST_BUFFER = 1 << 20


def read_all(path: Path) -> None:
    """Open a checkpoint and read each variable in each way."""
    for verify in (True, False):
        with suppress(CheckpointError), open_checkpoint(path, verify_checksums=verify) as opened:
            for name, variable in opened.variables.items():
                with suppress(CheckpointError):
                    opened.position(name)
                    opened.checksum(name)
                    array = opened[name]
                    assert array.shape == variable.shape
                    if variable.tf_dtype == "string":
                        continue
                    assert array.nbytes == variable.nbytes
                    pieces = opened.stream(name, memoryview(bytearray(48)))
                    assert b"".join(map(bytes, pieces)) == array.tobytes()
                    if variable.nbytes < LARGEST_BUFFER:
                        buffer = bytearray(variable.nbytes)
                        opened.read_into(name, memoryview(buffer))
                        assert buffer == array.tobytes()


def index(folder: Path, data: bytes) -> None:
    (folder / "m.index").write_bytes(data)
    write.shard_path(folder / "m").write_bytes(SHARD)
    read_all(folder / "m")


def entries(folder: Path, data: bytes) -> None:
    """The keys and values of an index with correct checksums."""
    index(folder, write.table_of([(b"\xff" * 9, checked(data))]))


def snappy_entries(folder: Path, data: bytes) -> None:
    index(folder, claimed(data))


def v1_table(folder: Path, data: bytes) -> None:
    (folder / "m").write_bytes(data)
    read_all(folder / "m")


def v1_entries(folder: Path, data: bytes) -> None:
    v1_table(folder, write.table_of([(b"\xff" * 9, checked(data))]))


def graph(folder: Path, data: bytes) -> None:
    """A key and the object graph of TF2, a string in a shard; both are read when it is opened."""
    key, _, text = data.partition(b"\n")
    content = write.strings([text])
    variables: dict[str | bytes, bytes] = {key or b"a": write.entry(write.INT32, (1,), 4)}
    place = write.entry(write.STRING, (), len(content.data), crc=content.crc)
    write.write_index(folder / "m", variables | {OBJECT_GRAPH: place})
    write.shard_path(folder / "m").write_bytes(content.data)
    read_all(folder / "m")
    with suppress(CheckpointError):
        for variable in open_checkpoint(folder / "m").variables.values():
            # No name is made of nothing: each is in the graph or in the key, escaped.
            assert len(variable.full_name) <= 4 * max(len(text), len(variable.name))


def archived(folder: Path, data: bytes) -> None:
    (folder / "m.archive").write_bytes(data)
    read_all(folder / "m.archive")


def state(folder: Path, data: bytes) -> None:
    (folder / "checkpoint").write_bytes(data)
    for name in ("m", "n"):
        write.write_bundle(folder / name, {"a": write.floats(1, 2)})
    read_all(folder)


def typed(folder: Path, data: bytes) -> None:
    """The name of a file, and a name that is opened."""
    present, _, asked = data.partition(b"\n")
    with suppress(OSError, ValueError):
        (folder / os.fsdecode(present.replace(b"/", b"_"))[:80]).write_bytes(SHARD)
    write.write_bundle(folder / "m.ckpt-1", {"a": write.floats(1, 2)})
    read_all(folder / os.fsdecode(asked.replace(b"/", b"_")[:80].replace(b"..", b"_")))


def pieces(folder: Path, data: bytes) -> None:
    """A SentencePiece model: what is read is written, and gives ids of its pieces."""
    with suppress(PlanError):
        model = sentencepiece.read_vocabulary(data, "m.model")
        files = sentencepiece.tokenizer_files(model, do_lower_case=True, model_max_length=8)
        assert sentencepiece.vocabulary_file(model) == files[sentencepiece.VOCABULARY]
        ids = sentencepiece_reference.encode("ab 21,05 \u200bx", model, True)
        assert all(0 <= row < len(model) for row in ids)


def checked(data: bytes) -> bytes:
    """A block with the entries in `data`, and a restart."""
    return data + struct.pack("<II", 0, 1)


def claimed(data: bytes) -> bytes:
    """A table whose only block claims to be compressed with Snappy."""
    stored = data + bytes([write.SNAPPY])
    stored += struct.pack("<I", write.masked(stored))
    handles = write.block([(b"\xff" * 9, write.handle(0, len(data)))])
    at = write.handle(len(stored), len(handles))
    return stored + write.stored(handles) + write.footer(write.handle(0, 0), at)


KINDS: list[Callable[[Path, bytes], None]] = [
    index, entries, snappy_entries, v1_table, v1_entries, graph, archived, state, typed, pieces,
]  # fmt: skip


def one_input(data: bytes) -> None:
    if data:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            KINDS[data[0] % len(KINDS)](Path(folder), data[1:])


SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None


def write_seeds(folder: Path) -> None:
    """Write a small checkpoint of each form, and an input for each part of it."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [(KINDS.index(kind), data) for kind, data in seeds_by_kind()]
    for number, (kind, data) in enumerate(seeds):
        (folder / f"{KINDS[kind].__name__}-{number:02d}").write_bytes(bytes([kind]) + data)


def seeds_by_kind() -> list[tuple[Callable[[Path, bytes], None], bytes]]:
    head = write.header()
    described = {
        "a": write.entry(1, (2, 3), 24, 4, write.masked(SHARD[4:28])),
        "b": write.entry(7, (2,), len(TEXTS.data), 512, TEXTS.crc),
        "p": write.entry(3, (4,), 0, slices=[write.extents((0, 2)), write.extents((2, 2))]),
        write.slice_key(b"p", (0, 2)): write.entry(3, (2,), 8, 0, write.masked(SHARD[:8])),
        write.slice_key(b"p", (2, 2)): write.entry(3, (2,), 8, 8, write.masked(SHARD[8:16])),
    }
    pairs = [(b"", head), *sorted((k if isinstance(k, bytes) else k.encode(), v)
                                  for k, v in described.items())]  # fmt: skip
    tables = [write.table(pairs), write.table(pairs, 40, 1), write.table(pairs, compression=1)]
    big = write.table([(b"", write.header(big_endian=True)), *pairs[1:]])
    found = [(index, data) for data in (*tables, big)]
    found += [(entries, write.block(pairs)[:-8])]
    found += [(snappy_entries, bytes(write.snappy.compress_raw(write.block(pairs))))]
    old = write.v1_pairs(SEED_VARIABLES)
    found += [(v1_table, write.table(old, compression=kind)) for kind in (write.NONE, write.SNAPPY)]
    found += [(v1_entries, write.block(old)[:-8])]
    keys = (b"a", b"l/b.Sc..d:0/.ATTRIBUTES/VARIABLE_VALUE", b"o/.OPTIMIZER_SLOT/m/.ATTRIBUTES/V")
    found += [(graph, key + b"\n" + object_graph(key)) for key in keys]
    with tempfile.TemporaryDirectory() as scratch:
        prefix = write.write_bundle(Path(scratch) / "m", {"a": write.floats(1, 2)})
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", method) as zipped:
                for path in (Path(f"{prefix}.index"), write.shard_path(prefix)):
                    zipped.write(path, path.name)
            found.append((archived, packed.getvalue()))
        for mode in ("w", "w:gz"):
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode=mode) as tarred:
                tarred.add(scratch, "folder")
            found.append((archived, packed.getvalue()))
    found += [(state, b'model_checkpoint_path: "m"\nall_model_checkpoint_paths: "n"\n')]
    found += [(state, b'model_checkpoint_path: "C:\\\\tmp\\\\gr\\303\\266\\"\n')]
    found += [(typed, b"m.ckpt-1 (1).index\nm.ckpt-1"), (typed, b"m.index\nm.ckpt-1.meta")]
    some = [(text, -1.0 - row, 1) for row, text in enumerate(["▁", "a", "▁21,", "1,0", ",", "0"])]
    found += [(pieces, model_writer.model([*some, ("b", 0.0, 4)], rules={"x": "ab"}))]
    return found


def object_graph(key: bytes) -> bytes:
    """Two nodes that are children of each other, of which one has a variable and its slot."""
    child = write.field(1, write.field(1, 1) + write.field(2, b"next"))
    back = write.field(1, write.field(2, b"before"))
    saved = write.field(1, b"VARIABLE_VALUE") + write.field(2, b"dense/kernel:0")
    slot = write.field(3, write.field(1, 1) + write.field(2, b"m") + write.field(3, 1))
    node = write.field(2, saved + write.field(3, key)) + back
    return write.field(1, child + slot) + write.field(1, node)


SEED_VARIABLES = [
    write.V1Variable(b"a", write.FLOAT32, (2, 2), [((0, 2), (0, 2))], [write.packed_floats(1, 2)]),
    write.V1Variable(
        b"i", write.INT32, (4,), [((0, 2),), ((2, 2),)],
        [write.field(7, b"\1\2"), write.field(7, 5) + write.field(7, -1)],
    ),
    write.V1Variable(b"s", write.STRING, (3,), [((0, 3),)], [write.field(8, b"x")]),
]  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(Path(sys.argv[2]))
        return
    findings = f"-artifact_prefix={Path(__file__).parent}/"
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", findings]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
