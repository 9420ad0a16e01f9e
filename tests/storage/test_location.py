"""Paths and URLs, behind one set of methods."""

import os
from pathlib import Path

import pytest

from bertconvert import OutputError
from bertconvert.converter.storage.location import DiskPath, Url, parse_location


@pytest.mark.parametrize(
    "text", ["https://h/x.zip", "s3://b/k", "HF://a/b", "git+ssh://h/x", "file:///x"]
)
def test_parses_urls(text: str) -> None:
    assert parse_location(text) == Url(text)


@pytest.mark.parametrize(
    "text", ["", "/x", "x.zip", "./http:/x", "C:\\x", "C:/x", "a/b://c", "://x", "1a://x"]
)
def test_parses_paths(text: str) -> None:
    assert parse_location(text) == DiskPath(text)


def test_a_path_ignores_slashes_at_its_end_and_expands_the_home_folder() -> None:
    assert parse_location("a/b//") == parse_location(Path("a/b")) == DiskPath("a/b")
    assert parse_location("/") == DiskPath("/")
    assert parse_location("~/x") == DiskPath(os.path.expanduser("~/x"))


@pytest.mark.parametrize("text", ["a/b/m.ckpt", "https://host/a/b/m.ckpt", "s3://a/b/m.ckpt"])
def test_parts_fit_together(text: str) -> None:
    location = parse_location(text)
    assert location.name == "m.ckpt"
    assert location.parent.name == "b"
    assert location.parent.join("m.ckpt") == location
    assert str(location) == text


def test_shows_no_secret_of_a_url() -> None:
    location = parse_location("https://me:secret@host/a/x.zip?token=secret#part")
    assert location.shown == "https://host/a/x.zip"
    assert "secret" in str(location)


def test_contains_what_is_inside() -> None:
    assert parse_location("a").contains(parse_location("a/b"))
    assert parse_location("a/b").contains(parse_location("a/b"))
    assert not parse_location("a/b").contains(parse_location("a/bc"))
    assert parse_location("s3://a/b").contains(parse_location("s3://a/b/c"))
    assert not parse_location("s3://a/b").contains(parse_location("s3://a/bc"))
    assert not parse_location("a").contains(parse_location("s3://a/b"))


def test_tells_files_from_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    os.mkfifo(tmp_path / "pipe")
    kinds = {name: parse_location(tmp_path / name).kind() for name in ("", "file", "pipe", "none")}
    assert kinds == {"": "folder", "file": "file", "pipe": "other", "none": ""}


def test_writes_and_reads_small_files(tmp_path: Path) -> None:
    location = parse_location(tmp_path / "file")
    assert (location.read_bytes(), location.size()) == (None, None)
    location.write_bytes(b"old")
    location.write_bytes(b"newer")
    assert (location.read_bytes(), location.size()) == (b"newer", 5)
    assert os.listdir(tmp_path) == ["file"]
    assert location.join("file").read_bytes() is None
    assert location.parent.size() is None


def test_refuses_to_write_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=str(tmp_path / "none" / "file")):
        parse_location(tmp_path / "none" / "file").write_bytes(b"")
