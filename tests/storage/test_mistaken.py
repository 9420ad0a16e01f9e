"""Files that are not what their names say are called what they are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert import BertconvertError, CheckpointError, convert, open_checkpoint, verify
from bertconvert.converter.storage.files import open_path
from bertconvert.converter.storage.mistaken import mistaken

SIZE = 440_425_712
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size %d\n" % SIZE
)
CONTENTS = {
    "git-lfs pointer": (POINTER, ["git-lfs", "440,425,712 bytes", "git lfs pull"]),
    "page": (b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>", ["web page", "Sign in"]),
    "page in capitals": (b"<HTML><BODY>404 not found", ["web page"]),
    "page after a byte order mark": (b"\xef\xbb\xbf<html>", ["web page"]),
    "XHTML": (b'<?xml version="1.0"?><html xmlns="x"><title>Gone</title>', ["web page", "Gone"]),
    "error of a store": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        ["XML", "AccessDenied"],
    ),
    "nothing": (b"", ["empty", "0 bytes"]),
    "RAR": (b"Rar!\x1a\x07\x01\x00" + bytes(100), ["RAR", "Unpack"]),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(100), ["7-Zip", "Unpack"]),
    "xz": (b"\xfd7zXZ\x00" + bytes(100), ["xz", "Unpack"]),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), ["zstd", "Unpack"]),
    "bzip2": (b"BZh91AY&SY" + bytes(100), ["bzip2", "Unpack"]),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), ["HDF5"]),
    "PDF": (b"%PDF-1.7\n" + bytes(100), ["PDF"]),
}
INDEX, DATA = "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BertconvertError) as caught:
        action()
    return str(caught.value)


@pytest.fixture
def folder(fixtures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fixtures / "classifier", tmp_path / "checkpoint"))


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", [INDEX, DATA, "bert_config.json", "vocab.txt"])
def test_a_file_of_a_checkpoint(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    content, facts = CONTENTS[kind]
    (folder / name).write_bytes(content)
    message = refusal(lambda: convert(folder, tmp_path / "out"))
    assert str(folder / name) in message
    if content or name in (INDEX, DATA):  # an empty config or vocabulary has its own message
        assert all(fact in message for fact in facts), message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", ["bert.zip", "bert.tar.gz", "bert.tgz", "bert"])
def test_an_archive_or_a_file_by_itself(tmp_path: Path, name: str, kind: str) -> None:
    content, facts = CONTENTS[kind]
    (tmp_path / name).write_bytes(content)
    message = refusal(lambda: open_checkpoint(tmp_path / name))
    assert str(tmp_path / name) in message
    assert all(fact in message for fact in facts), message


@pytest.mark.parametrize("form", ["", "zip", "gztar"])
def test_all_pointers_of_a_set_are_in_one_message(folder: Path, form: str) -> None:
    """As in a clone without git-lfs, and in the zip that GitHub makes of it."""
    names = {INDEX, DATA, "vocab.txt", "checkpoint"}
    for name in names:
        (folder / name).write_bytes(POINTER)
    place = shutil.make_archive(str(folder), form, folder.parent, folder.name) if form else folder
    message = refusal(lambda: open_checkpoint(place))
    assert all(name in message for name in names)
    assert "bert_config.json" not in message


def test_the_state_file_is_named_where_only_it_can_tell(folder: Path) -> None:
    for name in (INDEX, DATA):
        shutil.copy(folder / name, folder / name.replace("bert_model", "other"))
    (folder / "checkpoint").write_bytes(POINTER)
    message = refusal(lambda: open_checkpoint(folder))
    assert "git-lfs" in message
    assert "2 checkpoints" in message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_a_model_folder(
    fixtures: Path, converted: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    out = Path(shutil.copytree(converted("classifier"), tmp_path / "out"))
    (out / name).write_bytes(POINTER)
    message = refusal(lambda: verify(fixtures / "classifier", out, level="weights"))
    assert f"{SIZE:,}" in message
    assert str(out / name) in message


@pytest.mark.parametrize("name", ["classifier/vocab.txt", f"classifier/{INDEX}", f"squad/{DATA}"])
def test_real_files_are_not_mistaken(fixtures: Path, name: str) -> None:
    assert mistaken(open_path(str(fixtures / name))) == ""


@pytest.mark.parametrize(
    "content",
    [
        POINTER.replace(b"size ", b"size x"),
        POINTER.replace(b"size 4", b"size 4" * 5),
        POINTER + bytes(2000),
        b"version 1\nsize 3\n",
    ],
)
def test_what_is_only_like_a_pointer_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert mistaken(open_path(str(tmp_path / "file"))) == ""


def test_index_and_data_of_different_steps_are_told_from_damage(
    fixtures: Path, folder: Path
) -> None:
    changed = bytearray((folder / DATA).read_bytes())
    changed[::4] = bytes((byte + 1) % 256 for byte in changed[::4])  # every number is another
    (folder / DATA).write_bytes(changed)
    message = refusal(lambda: convert(folder, folder.parent / "out"))
    assert "different checkpoints" in message
    assert str(folder / INDEX) in message
    assert str(folder / DATA) in message

    damaged = bytearray((fixtures / "classifier" / DATA).read_bytes())
    damaged[50_000] ^= 1
    (folder / DATA).write_bytes(damaged)
    assert "is damaged at" in refusal(lambda: convert(folder, folder.parent / "out"))

    cut = (fixtures / "classifier" / DATA).read_bytes()
    (folder / DATA).write_bytes(cut[:40_000] + bytes(len(cut) - 40_000))  # of a download
    assert "is damaged at" in refusal(lambda: convert(folder, folder.parent / "out"))


def test_pointers_and_pages_of_others_are_called_what_they_are(real: Path) -> None:
    squad = refusal(lambda: open_checkpoint(real / "tiny-finetuned-squad-lfs")["global_step"])
    assert "52,502,048" in squad
    assert squad.count("data-00000-of-00001") == 3
    empty = refusal(lambda: open_checkpoint(real / "lfs-pointers" / "empty-members.tar.gz"))
    assert "empty" in empty
    for name in ("bert_base_uncased.zip", "test_checkpoint.zip", "test_checkpoint.tar.gz"):
        with pytest.raises(CheckpointError, match="git lfs pull"):
            open_checkpoint(real / "lfs-pointers" / name)


def test_a_zip_without_files_and_one_that_is_cut_off(folder: Path) -> None:
    whole = Path(shutil.make_archive(str(folder), "zip", folder))
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    assert "cut off" in refusal(lambda: open_checkpoint(whole))
    whole.write_bytes(b"PK\5\6" + bytes(18))
    assert "no checkpoint" in refusal(lambda: open_checkpoint(whole))
    assert "empty" in refusal(lambda: open_checkpoint(whole))
