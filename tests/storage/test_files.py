import gc
import gzip
import io
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertconvert import Checkpoint, CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.storage import archives
from bertconvert.converter.storage.archives import archive
from bertconvert.converter.storage.files import Directory, open_path

from ..checkpoint import table_writer as write

CONFIG = b'{"hidden_size": 2}'
VOCABULARY = b"[PAD]\n[UNK]\n" * 50


@cache
def bundle(number: float) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tensors = {"a": np.float32([number, *[0] * 999]), "b": np.float32([2])}
        write_bundle(Path(folder) / "bert_model.ckpt", tensors)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def members(top: str = "", number: float = 1) -> dict[str, bytes]:
    """The files of a published checkpoint, whose variable `a` is [number, 0, ...]."""
    files = bundle(number) | {"bert_config.json": CONFIG, "vocab.txt": VOCABULARY}
    return {top + name: content for name, content in files.items()}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


def tarred(files: dict[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return file.getvalue()


PACKED = {
    "stored.zip": zipped,
    "deflated.zip": lambda files: zipped(files, zipfile.ZIP_DEFLATED),
    "bzipped.zip": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda files: zipped(files, zipfile.ZIP_LZMA),
    "plain.tar": tarred,
    "pax.tar": lambda files: tarred(files, format=tarfile.PAX_FORMAT, pax_headers={"a": "b"}),
    "gnu.tar": lambda files: tarred(files, format=tarfile.GNU_FORMAT),
    "model.tar.gz": lambda files: gzip.compress(tarred(files)),
    "model.tgz": lambda files: gzip.compress(tarred(files)),
}


def whole(checkpoint: Checkpoint, number: float = 1) -> bool:
    return checkpoint["a"].tolist() == [number] + [0] * 999 and checkpoint["b"].tolist() == [2]


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        dict(open_checkpoint(path))
    return str(caught.value)


def companion(checkpoint: Checkpoint, name: str) -> bytes:
    file = checkpoint.companion(name, "nothing else")
    assert file is not None
    return file.read(0, file.size)


@pytest.fixture
def no_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file was made")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)


class TestArchive:
    @pytest.mark.parametrize("top", ["", "uncased_L-2_H-128_A-2/", "./", "./a/", "a/b/c/"])
    @pytest.mark.parametrize("name", PACKED)
    def test_is_read_as_a_folder_is(self, tmp_path: Path, name: str, top: str) -> None:
        path = tmp_path / name
        path.write_bytes(PACKED[name](members(top)))
        checkpoint = open_checkpoint(path)
        assert whole(checkpoint)
        shown = top.removeprefix("./")
        assert checkpoint.name == f"{path}/{shown}bert_model.ckpt"
        assert companion(checkpoint, "bert_config.json") == CONFIG
        assert companion(checkpoint, "vocab.txt") == VOCABULARY
        assert checkpoint.companion("bert_config.json", "") is not None
        assert checkpoint.companion("nothing.json", "nothing") is None

    @pytest.mark.parametrize("name", PACKED)
    def test_leaves_nothing_beside_it(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / name).write_bytes(PACKED[name](members("m/")))
        checkpoint = open_checkpoint(name)
        assert whole(checkpoint)
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {name, "tmp"}

    @pytest.mark.parametrize("name", ["stored.zip", "plain.tar", "pax.tar", "gnu.tar"])
    @pytest.mark.usefixtures("no_temporary_file")
    def test_that_is_not_compressed_is_read_where_it_is(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(PACKED[name](members("m/")))
        checkpoint = open_checkpoint(tmp_path / name)
        assert whole(checkpoint)
        assert companion(checkpoint, "vocab.txt") == VOCABULARY

    def test_that_is_compressed_is_unpacked_once_and_where_it_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = 0
        make = tempfile.TemporaryFile

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            return make(*arguments, **options)

        monkeypatch.setattr(tempfile, "TemporaryFile", counted)
        for name, after_open, after_read in (("deflated.zip", 1, 2), ("model.tgz", 1, 1)):
            made = 0
            (tmp_path / name).write_bytes(PACKED[name](members()))
            checkpoint = open_checkpoint(tmp_path / name)
            assert made == after_open
            assert whole(checkpoint) and whole(checkpoint)
            assert made == after_read
            for _ in range(2):
                assert companion(checkpoint, "vocab.txt") == VOCABULARY
            assert made == after_read + (name == "deflated.zip")

    @pytest.mark.parametrize("name", ["deflated.zip", "model.tar.gz"])
    def test_tells_how_far_it_is_unpacked(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        path.write_bytes(PACKED[name](members()))
        told: list[tuple[str, int, int]] = []
        checkpoint = open_checkpoint(path, progress=lambda *what: told.append(what))
        assert whole(checkpoint)
        assert told
        assert all(what.startswith(f"unpacking {path}") for what, _, _ in told)
        assert all(0 < done <= (size or done) for _, done, size in told)

    @pytest.mark.parametrize("name", PACKED)
    def test_is_known_by_its_bytes_and_not_by_its_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "download").write_bytes(PACKED[name](members()))
        assert whole(open_checkpoint(tmp_path / "download"))

    @pytest.mark.parametrize("name", PACKED)
    def test_may_hold_what_macos_adds(self, tmp_path: Path, name: str) -> None:
        junk = b"\0\5\x16\7" + bytes(200)
        files = members("uncased/")
        files |= {
            "__MACOSX/._uncased": junk,
            "__MACOSX/uncased/._bert_model.ckpt.index": junk,
            "__MACOSX/bert_model.ckpt.index": junk,
            "._bert_model.ckpt.index": junk,
            "uncased/._vocab.txt": junk,
        }
        (tmp_path / name).write_bytes(PACKED[name](files))
        checkpoint = open_checkpoint(tmp_path / name)
        assert whole(checkpoint)
        assert checkpoint.companion("vocabulary", r".*vocab\.txt").name.endswith(
            "uncased/vocab.txt"
        )

    @pytest.mark.parametrize("name", PACKED)
    def test_with_several_checkpoints_lists_them(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        files = members("a/", 1) | members("b/", 2)
        path.write_bytes(PACKED[name](files))
        message = refusal(path)
        assert "2 checkpoints" in message
        assert f"{path}/a/bert_model.ckpt.index" in message

    @pytest.mark.parametrize("name", PACKED)
    def test_without_a_checkpoint_says_what_is_in_it(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        path.write_bytes(PACKED[name]({"pytorch_model.bin": b"x"}))
        message = refusal(path)
        assert message.startswith(f"{path} has no checkpoint")
        assert "pytorch_model.bin is a PyTorch file" in message

    @pytest.mark.parametrize("name", PACKED)
    def test_without_the_data_says_so(self, tmp_path: Path, name: str) -> None:
        files = members("m/")
        del files["m/bert_model.ckpt.data-00000-of-00001"]
        (tmp_path / name).write_bytes(PACKED[name](files))
        message = refusal(tmp_path / name)
        assert f"{name}/m/bert_model.ckpt.data-00000-of-00001 is missing" in message
        assert ": bert_config.json, bert_model.ckpt.index, vocab.txt." in message

    @pytest.mark.parametrize("name", PACKED)
    def test_of_nothing_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(PACKED[name]({}))
        assert str(tmp_path / name) in refusal(tmp_path / name)

    @pytest.mark.parametrize("name", PACKED)
    def test_does_not_lead_to_files_outside(self, tmp_path: Path, name: str) -> None:
        """The file `checkpoint` inside names a path; somebody else wrote it."""
        prefix = tmp_path / "outside"
        write_bundle(prefix, {"a": np.float32([9])})
        state = f'model_checkpoint_path: "{prefix}"\n'.encode()
        (tmp_path / name).write_bytes(PACKED[name]({"checkpoint": state}))
        assert "no checkpoint" in refusal(tmp_path / name)

    @pytest.mark.parametrize("name", PACKED)
    def test_whose_file_checkpoint_names_one_of_several_gives_that(
        self, tmp_path: Path, name: str
    ) -> None:
        files = members("m/old-", 1) | members("m/new-", 2)
        files["m/checkpoint"] = b'model_checkpoint_path: "/tmp/new-bert_model.ckpt"\n'
        (tmp_path / name).write_bytes(PACKED[name](files))
        assert whole(open_checkpoint(tmp_path / name), 2)

    @pytest.mark.parametrize("name", PACKED)
    def test_that_is_cut_off_is_refused(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        data = PACKED[name](members("m/"))
        contents = sum(map(len, members("m/").values()))
        for size in {*range(0, min(len(data), contents), 131), len(data) // 2}:
            path.write_bytes(data[:size])
            assert str(path) in refusal(path)

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(sorted(PACKED)), st.data())
    def test_with_wrong_bytes_is_refused_or_right(self, name: str, data: st.DataObject) -> None:
        content = bytearray(PACKED[name](members("m/")))
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        with tempfile.NamedTemporaryFile() as file, suppress(CheckpointError):
            file.write(content)
            file.flush()
            checkpoint = open_checkpoint(file.name)
            for companion_of in ("bert_config.json", "vocab.txt"):
                found = checkpoint.companion(companion_of, "")
                assert found is None or len(found.read(0, found.size)) == found.size
            assert all(checkpoint[name].nbytes <= 4000 for name in checkpoint)

    def test_tells_a_full_disk_from_a_damaged_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")

        def full() -> io.BufferedRandom:
            return open("/dev/full", "w+b")

        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        for name in ("deflated.zip", "model.tgz"):
            (tmp_path / name).write_bytes(PACKED[name](members()))
            message = refusal(tmp_path / name)
            assert f"no space to unpack {tmp_path / name}" in message
            assert "No space left on device" in message
            assert "TMPDIR" in message

    def test_without_a_folder_for_temporary_files_says_what_it_needs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("deflated.zip", "model.tgz"):
            (tmp_path / name).write_bytes(PACKED[name](members()))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        for name in ("deflated.zip", "model.tgz"):
            message = refusal(tmp_path / name)
            assert f"{tmp_path / 'gone'}: No such file" in message
            assert "TMPDIR" in message

    def test_can_be_renamed_and_removed_while_it_is_open(self, tmp_path: Path) -> None:
        for name in PACKED:
            (tmp_path / name).write_bytes(PACKED[name](members()))
            checkpoint = open_checkpoint(tmp_path / name)
            (tmp_path / name).unlink()
            assert whole(checkpoint)

    def test_closes_what_it_opened(self, tmp_path: Path) -> None:
        descriptors = Path("/proc/self/fd")
        if not descriptors.exists():
            pytest.skip("no /proc here, where open files are counted")
        for name in PACKED:
            (tmp_path / name).write_bytes(PACKED[name](members()))
        gc.collect()
        before = len(list(descriptors.iterdir()))
        for name in PACKED:
            assert whole(open_checkpoint(tmp_path / name))
        gc.collect()
        assert len(list(descriptors.iterdir())) == before


def patched(data: bytes, marks: dict[bytes, tuple[int, bytes]]) -> bytes:
    """Bytes with others at a distance after each of the marks."""
    content = bytearray(data)
    for mark, (distance, new) in marks.items():
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            content[place + distance : place + distance + len(new)] = new
    return bytes(content)


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"  # of a member's own header, and of its entry in the directory


class TestZip:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_that_is_encrypted_is_refused(self, tmp_path: Path, method: int) -> None:
        data = zipped(members("m/"), method)
        (tmp_path / "m.zip").write_bytes(patched(data, {LOCAL: (6, b"\1"), CENTRAL: (8, b"\1")}))
        message = refusal(tmp_path / "m.zip")
        assert "m.zip/m/bert_model.ckpt.index can't be unpacked" in message
        assert "encrypted" in message

    def test_of_an_unknown_compression_is_refused(self, tmp_path: Path) -> None:
        data = zipped(members(), zipfile.ZIP_DEFLATED)
        path = tmp_path / "m.zip"
        path.write_bytes(patched(data, {LOCAL: (8, b"\x61"), CENTRAL: (10, b"\x61")}))
        assert f"{path}/bert_model.ckpt.index can't be unpacked" in refusal(path)

    @pytest.mark.parametrize("name", ["deflated.zip", "bzipped.zip", "lzma.zip"])
    def test_whose_data_are_damaged_is_refused(self, tmp_path: Path, name: str) -> None:
        content = bytearray(PACKED[name](members()))
        data = "bert_model.ckpt.data-00000-of-00001"  # which is the first
        content[content.index(data.encode()) + len(data) + 12] ^= 0xFF
        (tmp_path / name).write_bytes(content)
        message = refusal(tmp_path / name)
        assert f"{name}/{data} is damaged" in message
        assert "Download it again" in message

    def test_whose_stored_data_are_damaged_is_refused_by_the_tensors_checksum(
        self, tmp_path: Path
    ) -> None:
        content = bytearray(PACKED["stored.zip"](members()))
        content[content.index(LOCAL) + 100] ^= 1
        (tmp_path / "m.zip").write_bytes(content)
        assert "is damaged at a " in refusal(tmp_path / "m.zip")

    @pytest.mark.parametrize("size", [2**20, 2**31, 2**32 - 2])
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_that_promises_more_than_it_holds_is_refused(
        self, tmp_path: Path, method: int, size: int
    ) -> None:
        data = zipped(members(), method)
        path = tmp_path / "m.zip"
        path.write_bytes(patched(data, {CENTRAL: (24, struct.pack("<I", size))}))
        refused = refusal(path)
        assert f"{path}/bert_model.ckpt.index " in refused
        assert "is damaged" in refused or (method and "unpacks to more than 1,07" in refused)

    def test_whose_companion_promises_more_than_it_holds_is_refused(self, tmp_path: Path) -> None:
        data = zipped(members(), zipfile.ZIP_DEFLATED)
        place = data.rindex(b"vocab.txt") - 46
        assert data[place : place + 4] == CENTRAL
        path = tmp_path / "m.zip"
        path.write_bytes(data[: place + 24] + struct.pack("<I", 2**20) + data[place + 28 :])
        with pytest.raises(CheckpointError, match=r"vocab\.txt is damaged"):
            open_checkpoint(path).companion("vocab.txt", "")

    def test_whose_directory_points_nowhere_is_refused(self, tmp_path: Path) -> None:
        for place in (1, 2**31, 2**32 - 2):
            content = patched(zipped(members()), {CENTRAL: (42, struct.pack("<I", place))})
            (tmp_path / "m.zip").write_bytes(content)
            assert str(tmp_path / "m.zip") in refusal(tmp_path / "m.zip")

    def test_may_have_backslashes_between_its_folders(self, tmp_path: Path) -> None:
        """As tools for Windows have written them."""
        (tmp_path / "m.zip").write_bytes(zipped(members("uncased\\"), zipfile.ZIP_DEFLATED))
        checkpoint = open_checkpoint(tmp_path / "m.zip")
        assert whole(checkpoint)
        assert companion(checkpoint, "vocab.txt") == VOCABULARY

    def test_may_have_bytes_before_it(self, tmp_path: Path) -> None:
        data = zipped(members())
        first = zipped({"x": b""})[:31]
        (tmp_path / "m.zip").write_bytes(first + data)
        assert whole(open_checkpoint(tmp_path / "m.zip"))

    def test_may_have_longer_headers_at_its_members_than_in_its_directory(
        self, tmp_path: Path
    ) -> None:
        """Writers align members so; zipfile's own ZIP64 is another case."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as packed:
            for name, content in members().items():
                with packed.open(name, "w", force_zip64=True) as member:
                    member.write(content)
        (tmp_path / "m.zip").write_bytes(file.getvalue())
        assert whole(open_checkpoint(tmp_path / "m.zip"))

    def test_may_have_entries_for_its_folders(self, tmp_path: Path) -> None:
        (tmp_path / "m.zip").write_bytes(zipped({"m/": b""} | members("m/")))
        assert whole(open_checkpoint(tmp_path / "m.zip"))

    def test_may_have_a_member_without_a_name(self, tmp_path: Path) -> None:
        data = bytearray(zipped({"x": b""} | members()))
        lengths = data.index(CENTRAL) + 28  # of the name, and of the extra field after it
        data[lengths : lengths + 4] = b"\0\0\1\0"
        (tmp_path / "m.zip").write_bytes(data)
        assert whole(open_checkpoint(tmp_path / "m.zip"))

    def test_does_not_follow_links(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        write_bundle(outside, {"a": np.float32([9])})
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as packed:
            for ending in (".index", ".data-00000-of-00001"):
                link = zipfile.ZipInfo(f"m{ending}")
                link.create_system = 3
                link.external_attr = (stat.S_IFLNK | 0o777) << 16
                packed.writestr(link, f"{outside}{ending}")
        (tmp_path / "m.zip").write_bytes(file.getvalue())
        assert "m.index is damaged or is not an index" in refusal(tmp_path / "m.zip")

    def test_may_be_read_in_any_number_of_threads(self, tmp_path: Path) -> None:
        (tmp_path / "m.zip").write_bytes(zipped(members(), zipfile.ZIP_DEFLATED))
        checkpoint = open_checkpoint(tmp_path / "m.zip")
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: whole(checkpoint), range(40)))


def tar_header(
    name: bytes, size: int = 0, kind: bytes = b"0", real_size: int = 0, at: bytes = b""
) -> bytes:
    """A tar's header block, with its checksum right, whatever the size."""
    head = bytearray(512)
    head[: len(name)] = name
    head[100:124] = b"0000644\0" + b"0000000\0" * 2
    head[124:136] = (
        b"%011o\0" % size
        if 0 <= size < 8**11
        else bytes([0x80 if size >= 0 else 0xFF]) + (size % 256**11).to_bytes(11, "big")
    )
    head[136:148] = b"%011o\0" % 0
    head[156:157] = kind
    head[257:265] = b"ustar  \0" if kind in b"LKS" else b"ustar\x0000"
    head[483:495] = b"%011o\0" % real_size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + at


class TestTar:
    def test_does_not_follow_links(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        write_bundle(outside, {"a": np.float32([9])})
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            with tarfile.open(tmp_path / "m.tar", "w") as packed:
                for ending in (".index", ".data-00000-of-00001"):
                    link = tarfile.TarInfo(f"m{ending}")
                    link.type = kind
                    link.linkname = f"{outside}{ending}"
                    packed.addfile(link)
            assert "no checkpoint" in refusal(tmp_path / "m.tar")

    def test_does_not_read_a_member_with_holes(self, tmp_path: Path) -> None:
        """The archive does not have its bytes in one piece."""
        files = members()
        data = files.pop("bert_model.ckpt.data-00000-of-00001")
        sparse = tar_header(b"bert_model.ckpt.data-00000-of-00001", 512, b"S", len(data))
        (tmp_path / "m.tar").write_bytes(sparse + bytes(512) + tarred(files))
        assert "data-00000-of-00001 is missing" in refusal(tmp_path / "m.tar")

    def test_passes_over_pipes_and_devices(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "m.tar", "w") as packed:
            for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE):
                member = tarfile.TarInfo(f"{kind.decode()}.index")
                member.type = kind
                packed.addfile(member)
            for name, content in members().items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
        assert whole(open_checkpoint(tmp_path / "m.tar"))

    def test_may_have_names_that_are_long(self, tmp_path: Path) -> None:
        for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            (tmp_path / "m.tar").write_bytes(tarred(members("folder/" * 50), format=style))
            assert whole(open_checkpoint(tmp_path / "m.tar"))

    @pytest.mark.parametrize("size", [2**40, 2**62, 2**80, -1, -512, -1024, -(2**62)])
    @pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"S"])
    def test_with_a_member_of_an_impossible_size_is_refused(
        self, tmp_path: Path, kind: bytes, size: int
    ) -> None:
        path = tmp_path / "m.tar"
        path.write_bytes(tar_header(b"m.index", size, kind, 7, bytes(1024)) + bytes(2048))
        assert str(path) in refusal(path)

    def test_with_a_companion_of_a_negative_size_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "m.tar"
        path.write_bytes(tar_header(b"vocab.txt", -1) + tarred(members()))
        assert f"{path} is a damaged tar" in refusal(path)

    @pytest.mark.parametrize("kind", [b"0", b"7", b"S"])
    @pytest.mark.parametrize("back", [1, 2, 3])
    def test_whose_members_go_round_in_a_circle_is_refused(
        self, tmp_path: Path, back: int, kind: bytes
    ) -> None:
        before = b"".join(tar_header(b"%d.index" % number) for number in range(4))
        path = tmp_path / "m.tar"
        path.write_bytes(before + tar_header(b"x.index", -512 * back, kind, 7) + bytes(2048))
        assert f"{path} is a damaged tar" in refusal(path)

    @pytest.mark.parametrize("kind", [b"L", b"K", b"x"])
    def test_of_headers_of_headers_without_end_is_refused(
        self, tmp_path: Path, kind: bytes
    ) -> None:
        body = b"9 path=a\n" if kind == b"x" else b"name\0"
        header = tar_header(b"m", len(body), kind, at=body.ljust(512, b"\0"))
        path = tmp_path / "m.tar.gz"
        path.write_bytes(gzip.compress(header * 5000))
        assert f"{path} is a damaged tar" in refusal(path)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([b"0", b"L", b"K", b"x", b"g", b"S", b"5", b"7", b"\0", b"?"]),
                st.one_of(
                    st.integers(-2000, 2000), st.sampled_from([2**33, 2**62, 2**87, -(2**62)])
                ),
                st.one_of(
                    st.binary(max_size=40),
                    st.sampled_from(
                        [
                            b"11 size=-9\n",
                            b"20 size=9999999999\n",
                            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
                            b"24 GNU.sparse.map=9,9,9\n",
                            b"8 size=\n",
                            b"12 path=../x\n",
                        ]
                    ),
                ),
            ),
            max_size=5,
        )
    )
    def test_of_any_members_is_read_or_refused(self, parts: list[tuple[bytes, int, bytes]]) -> None:
        content = b"".join(
            tar_header(b"m.index", size, kind, abs(size) % 512, body.ljust(512, b"\0"))
            for kind, size, body in parts
        )
        with tempfile.NamedTemporaryFile() as file, suppress(CheckpointError):
            file.write(content.ljust(1024, b"\0"))
            file.flush()
            dict(open_checkpoint(file.name))

    def test_that_is_gzipped_and_damaged_is_refused(self, tmp_path: Path) -> None:
        content = bytearray(PACKED["model.tar.gz"](members()))
        path = tmp_path / "m.tar.gz"
        for place in (3, len(content) // 2, len(content) - 6):
            damaged = content.copy()
            damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            assert f"{path} is damaged" in refusal(path)

    def test_that_is_gzipped_and_no_tar_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "vocab.txt.gz"
        path.write_bytes(gzip.compress(VOCABULARY))
        assert f"{path} is a damaged tar" in refusal(path)


class TestBombs:
    """Archives that unpack to far more than a checkpoint would."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archives, "UNPACKED_ALWAYS", 1 << 20)

    def test_of_zeros_are_refused_with_what_to_do(self, tmp_path: Path) -> None:
        zeros = members() | {"bert_model.ckpt.index": bytes(1 << 23)}
        (tmp_path / "m.zip").write_bytes(zipped(zeros, zipfile.ZIP_DEFLATED))
        (tmp_path / "m.tar.gz").write_bytes(gzip.compress(tarred(zeros)))
        for name in ("m.zip", "m.tar.gz"):
            refused = refusal(tmp_path / name)
            assert "unpacks to more than 1," in refused
            assert "unpack it yourself and give the folder" in refused

    def test_take_no_more_of_the_disk_than_is_allowed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = []
        monkeypatch.setattr(archives, "_COPY_BYTES", 1 << 16)
        (tmp_path / "m.tar.gz").write_bytes(gzip.compress(bytes(1 << 24)))
        with pytest.raises(CheckpointError, match="unpacks to more"):
            open_checkpoint(tmp_path / "m.tar.gz", progress=lambda *told: written.append(told[1]))
        assert (1 << 20) <= max(written) <= (1 << 20) + 64 * 17_000

    def test_of_many_members_are_bounded_together(self, tmp_path: Path) -> None:
        """None of them is an index, so each is looked at."""
        zeros = {f"m{number}": bytes(1 << 19) for number in range(40)}
        path = tmp_path / "m.zip"
        path.write_bytes(zipped(zeros, zipfile.ZIP_DEFLATED))
        told: list[int] = []
        with pytest.raises(CheckpointError, match="no checkpoint"):
            open_checkpoint(path, progress=lambda _, done, size: told.append(size))
        assert sum(told) <= (1 << 20) + 64 * path.stat().st_size

    def test_are_not_told_by_zeros_in_a_checkpoint(self, tmp_path: Path) -> None:
        """Before the first step, an optimizer's slots are zeros: two thirds of the file."""
        rng = np.random.default_rng(0)
        weights = rng.standard_normal(300_000, np.float32)
        tensors = {"w": weights, "w/m": 0 * weights, "w/v": 0 * weights}
        write_bundle(tmp_path / "made" / "m", tensors)
        contents = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
        (tmp_path / "m.zip").write_bytes(zipped(contents, zipfile.ZIP_DEFLATED))
        (tmp_path / "m.tar.gz").write_bytes(gzip.compress(tarred(contents)))
        for name in ("m.zip", "m.tar.gz"):
            assert open_checkpoint(tmp_path / name)["w"].tobytes() == weights.tobytes()

    def test_that_do_not_fit_the_disk_are_refused_before_they_are_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m.zip").write_bytes(zipped(members(), zipfile.ZIP_DEFLATED))
        full = os.statvfs_result((4096, 4096, 9, 0, 0, 9, 9, 9, 0, 255))
        monkeypatch.setattr(os, "fstatvfs", lambda _: full)
        assert "No space left" in refusal(tmp_path / "m.zip")

    def test_of_very_many_files_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archives, "_TAR_FILES", 100)
        path = tmp_path / "m.tar.gz"
        path.write_bytes(gzip.compress(b"".join(tar_header(b"%d" % n) for n in range(101))))
        assert "more than 100 files" in refusal(path)

    @pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
    def test_of_a_name_that_fills_the_memory_are_refused(self, tmp_path: Path, kind: bytes) -> None:
        path = tmp_path / "m.tar"
        path.write_bytes(tar_header(b"m", 1 << 19, kind, at=bytes(1 << 19)) + bytes(1024))
        assert "524,288 bytes" in refusal(path)

    def test_of_attributes_that_every_file_gets_are_refused(self, tmp_path: Path) -> None:
        attributes = b"".join(b"%d %05d=\n" % (10, number) for number in range(1000))
        header = tar_header(b"g", len(attributes), b"g", at=attributes)
        (tmp_path / "m.tar").write_bytes(
            header + bytes(-len(attributes) % 512) + tar_header(b"a") * 9 + bytes(1024)
        )
        assert "more than 100 global attributes" in refusal(tmp_path / "m.tar")

    @pytest.mark.parametrize("name", ["../m", "/etc/m", "a/../../m", "..\\m", "C:\\m"])
    def test_names_that_lead_out_of_an_archive_are_names_and_no_more(
        self, tmp_path: Path, name: str
    ) -> None:
        """Nothing is written under them, and nothing on the disk is read."""
        (tmp_path / "m.index").write_bytes(b"outside")
        contents = {f"{name}.index": write.index({})}
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "m.zip").write_bytes(zipped(contents, zipfile.ZIP_DEFLATED))
        (folder / "m.tar.gz").write_bytes(gzip.compress(tarred(contents)))
        for packed in ("m.zip", "m.tar.gz"):
            assert list(open_checkpoint(folder / packed)) == []
        assert sorted(path.name for path in folder.iterdir()) == ["m.tar.gz", "m.zip"]
        assert (tmp_path / "m.index").read_bytes() == b"outside"


class TestDirectory:
    def test_names_its_files_and_those_one_folder_deeper(self, tmp_path: Path) -> None:
        for name in ("b", "a", "inner/c", "inner/deeper/d"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert Directory(str(tmp_path)).names() == ["a", "b", "inner/c"]


class TestOpenFile:
    def test_reads_any_part(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"0123456789")
        file = open_path(str(tmp_path / "f"), "shown")
        assert (file.name, file.size) == ("shown", 10)
        assert [file.read(0, 10), file.read(3, 4), file.read(10, 0)] == [
            b"0123456789",
            b"3456",
            b"",
        ]

    @pytest.mark.parametrize(("offset", "size"), [(0, 11), (11, 0), (2**63, 1), (0, 2**63)])
    def test_refuses_what_lies_beyond_the_end(self, tmp_path: Path, offset: int, size: int) -> None:
        (tmp_path / "f").write_bytes(b"0123456789")
        with pytest.raises(CheckpointError, match=r"shown is cut off.* 10 bytes"):
            open_path(str(tmp_path / "f"), "shown").read(offset, size)

    def test_goes_on_where_the_system_gives_less_than_was_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, to, at: preadv(fd, [to[0][:3]], at))
        (tmp_path / "f").write_bytes(b"0123456789")
        assert open_path(str(tmp_path / "f"), "f").read(1, 8) == b"12345678"

    @pytest.mark.parametrize("name", ["gone", "", "a\0b", "x" * 5000])
    def test_names_what_can_not_be_opened(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CheckpointError, match=r"shown (can't be opened|is not a regular file)"):
            open_path(str(tmp_path / name), "shown")

    def test_closes_the_file_with_its_last_reader(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"0")
        file = open_path(str(tmp_path / "f"), "f")
        fd = file._medium.fd
        os.fstat(fd)
        del file
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_file_that_is_no_archive_is_none(tmp_path: Path) -> None:
    def kinds() -> Iterator[bytes]:
        yield from (b"", b"P", b"PK\3", b"\x1f", b"text" * 1000, bytes(600))

    for content in kinds():
        (tmp_path / "f").write_bytes(content)
        assert archive(open_path(str(tmp_path / "f"), "f")) is None
