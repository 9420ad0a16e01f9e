"""The config and the vocabulary of a remote checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from bertconvert import prepare

from .conftest import Bucket
from .server import Server


@pytest.fixture
def model(fixtures: Path, tmp_path: Path) -> Path:
    """A checkpoint in a folder of a folder, which has its config and its vocabulary."""
    shutil.copytree(fixtures / "encoder", tmp_path / "model" / "run")
    for name in ("vocab.txt", "bert_config.json"):
        shutil.move(tmp_path / "model" / "run" / name, tmp_path / "model" / name)
    config = tmp_path / "model" / "bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_attention_heads": 4}))
    return tmp_path / "model"


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("path", ["model/run/", "model/run/bert_model.ckpt"])
def test_are_found_one_folder_up_on_a_web_server(
    model: Path, web_of: Server, lists: bool, path: str
) -> None:
    web_of.lists = lists
    web_of.query = "key=secret"
    prepared = prepare(f"{web_of.url}/{path}?key=secret")
    assert prepared.plan.sizes["A"] == 4
    assert [file.name for file in prepared.sources[1:]] == ["bert_config.json", "vocab.txt"]
    notes = [note for note in prepared.notes if "one folder up" in note]
    assert len(notes) == 2
    assert all("model/" in note and "secret" not in note for note in notes)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize(
    "path", ["", "/", "/saved_model.pb", "/variables/", "/variables/variables"]
)
def test_of_a_saved_model_in_any_form_are_found_on_a_web_server(
    model: Path, web_of: Server, lists: bool, path: str
) -> None:
    (model / "variables").mkdir()
    for file in (model / "run").glob("bert_model.ckpt.*"):
        file.rename(model / "variables" / file.name.replace("bert_model.ckpt", "variables"))
    (model / "assets").mkdir()
    (model / "vocab.txt").rename(model / "assets" / "vocab.txt")
    (model / "saved_model.pb").touch()
    web_of.lists = lists
    prepared = prepare(f"{web_of.url}/model{path}")
    assert [file.name for file in prepared.sources[1:]] == ["bert_config.json", "vocab.txt"]


@pytest.mark.parametrize("lists", [True, False])
def test_of_a_saved_model_are_found_on_a_web_server(
    model: Path, web_of: Server, lists: bool
) -> None:
    (model / "run").rename(model / "variables")
    (model / "assets").mkdir()
    (model / "vocab.txt").rename(model / "assets" / "vocab.txt")
    web_of.lists = lists
    prepared = prepare(f"{web_of.url}/model/variables/bert_model.ckpt")
    assert [file.name for file in prepared.sources[1:]] == ["bert_config.json", "vocab.txt"]


def test_are_told_by_their_keys_on_a_web_server(model: Path, web_of: Server) -> None:
    web_of.lists = True
    (model / "run" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (model / "bert_config.json").rename(model / "run" / "bert_config_3.json")
    assert prepare(f"{web_of.url}/model/run/").plan.sizes["A"] == 4


def test_are_found_one_folder_up_in_a_store(model: Path, bucket: Bucket) -> None:
    bucket.put(model / "run", "models/mine/run")
    shutil.rmtree(model / "run")
    bucket.put(model, "models/mine")
    for path in ("models/mine/run", "models/mine/run/bert_model.ckpt"):
        prepared = prepare(f"{bucket.url}/{path}")
        assert [file.name for file in prepared.sources[1:]] == ["bert_config.json", "vocab.txt"]
        assert prepared.plan.sizes["A"] == 4


def test_a_server_that_shows_nothing_above_costs_nothing_but_a_note(
    fixtures: Path, tmp_path: Path, web_of: Server
) -> None:
    shutil.copytree(fixtures / "encoder", tmp_path / "model" / "run")
    (tmp_path / "model" / "run" / "bert_config.json").unlink()
    for status in (403, 401, 404, 410):
        web_of.fail = {"/model": status, "/model/": status, "/model/bert_config.json": status}
        prepared = prepare(f"{web_of.url}/model/run/")
        assert prepared.config is None
        assert any("no bert_config.json was found" in note for note in prepared.notes)
