"""All the checkpoints below a URL."""

import shutil
import zipfile
from pathlib import Path

import pytest

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.discover import find_checkpoints

from .conftest import Bucket
from .server import Server

NAMES = ["classifier", "encoder", "keras-names", "pretraining", "pretraining-adam", "squad"]


def test_every_checkpoint_below_a_listed_folder_is_found(web: Server) -> None:
    web.lists = True
    web.query = "key=secret"
    found = find_checkpoints(f"{web.url}/?key=secret")
    assert [one.name for one in found] == NAMES
    for one in found:
        assert len(open_checkpoint(one.path)) > 30


def test_a_folder_that_is_not_listed_stands_for_the_checkpoint_in_it(web: Server) -> None:
    (found,) = find_checkpoints(f"{web.url}/squad/", expected=["bert_model.ckpt.index"])
    assert (found.path, found.name) == (f"{web.url}/squad/", "squad")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoints(f"{web.url}/nothing/")


def test_every_checkpoint_in_a_store_is_found(bucket: Bucket, fixtures: Path) -> None:
    for name in NAMES:
        bucket.put(fixtures / name, f"models/{name}")
    for url in (f"{bucket.url}/", f"{bucket.url}/models", f"{bucket.url}/models/*"):
        found = find_checkpoints(url)
        assert [one.name for one in found] == NAMES
        assert [one.path for one in found] == [f"{bucket.url}/models/{name}" for name in NAMES]
    (one,) = find_checkpoints(f"{bucket.url}/models/squad/bert_model.ckpt")
    assert one.name == "squad"


@pytest.mark.parametrize("pattern", ["", "*.zip"])
def test_archives_are_looked_into(
    web_of: Server, fixtures: Path, tmp_path: Path, pattern: str
) -> None:
    web_of.lists = True
    for name in ("squad", "encoder"):
        shutil.make_archive(str(tmp_path / name), "zip", fixtures, name)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as outer:
        for name in ("squad", "encoder"):
            outer.write(tmp_path / f"{name}.zip", f"both/{name}.zip")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    found = find_checkpoints(f"{web_of.url}/{pattern}")
    assert [one.path for one in found] == [
        f"{web_of.url}/{path}"
        for path in (
            "all.zip/both/encoder.zip/encoder",
            "all.zip/both/squad.zip/squad",
            "bad.zip",
            "encoder.zip/encoder",
            "squad.zip/squad",
        )
    ]
    for one in found:
        if "bad" not in one.path:
            assert len(open_checkpoint(one.path)) > 30
    inner = find_checkpoints(f"{web_of.url}/all.zip")
    assert [one.name for one in inner] == ["encoder", "squad"]
