"""Model folders on a server: their tensors are read by ranges, and nothing is fetched twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertconvert import CheckpointError, ModelError
from bertconvert.converter.state_dict import EXPECTED, StateDict, is_weights, open_state_dict
from bertconvert.converter.storage.location import parse_location

from .conftest import Bucket
from .server import Server

SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
TENSORS: dict[str, Any] = {
    "large": np.random.default_rng(0).normal(size=(300, 1000)),
    "small": np.arange(3, dtype=np.float32),
}


def opened(url: str) -> StateDict:
    def progress(what: str, done: int, total: int) -> None:
        assert what.startswith("fetching ")

    return open_state_dict(parse_location(url).folder(EXPECTED, is_weights), progress)


def check(state: StateDict) -> None:
    state.fetch(state)
    assert state.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(state[name], array, strict=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for shard, (name, array) in zip(SHARDS, TENSORS.items(), strict=True):
        save_file({name: array}, tmp_path / shard, {"format": "pt"})
    mapped = dict(zip(TENSORS, SHARDS, strict=True))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapped}))
    return tmp_path


@pytest.mark.parametrize("lists", [True, False])
def test_only_what_is_needed_is_fetched_and_nothing_twice(
    model: Path, web_of: Server, lists: bool
) -> None:
    web_of.lists = lists
    state = opened(web_of.url)
    header = web_of.sent("model.safetensors")
    size = (model / "model.safetensors").stat().st_size
    assert header <= 1 << 16
    assert [*state] == ["large", "small"] or [*state] == ["small", "large"]
    state.fetch(["small"])
    assert web_of.sent("model.safetensors") <= header + TENSORS["small"].nbytes
    check(state)
    assert web_of.sent("model.safetensors") == size


@pytest.mark.parametrize("lists", [True, False])
def test_shards_are_read_on_a_web_server(sharded: Path, web_of: Server, lists: bool) -> None:
    web_of.lists = lists
    web_of.query = "key=secret"
    check(opened(f"{web_of.url}/?key=secret"))
    for shard in SHARDS:
        assert web_of.sent(shard) == (sharded / shard).stat().st_size


@pytest.mark.parametrize("lists", [True, False])
def test_a_missing_shard_is_named(sharded: Path, web_of: Server, lists: bool) -> None:
    (sharded / SHARDS[1]).unlink()
    web_of.lists = lists
    with pytest.raises(ModelError, match=f"names 2 files, and {SHARDS[1]} is missing") as caught:
        opened(web_of.url)
    assert web_of.url in str(caught.value)


def test_shards_are_read_where_a_server_denies_what_it_does_not_have(
    sharded: Path, web_of: Server
) -> None:
    """As stores do that may not be listed."""
    web_of.fail = {f"/{name}": 403 for name in EXPECTED if not (sharded / name).exists()}
    check(opened(web_of.url))


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_all_is_told_from_a_folder_without_weights(
    model: Path, web_of: Server, status: int
) -> None:
    web_of.fail = {f"/{name}": status for name in EXPECTED}
    with pytest.raises(CheckpointError, match="can't be read"):
        opened(web_of.url)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize(
    ("name", "message"), [("tf_model.h5", "tf2pt"), ("adapter_config.json", "merge_and_unload")]
)
def test_a_folder_without_weights_says_what_its_files_are(
    tmp_path: Path, web_of: Server, lists: bool, name: str, message: str
) -> None:
    (tmp_path / name).write_text("x")
    web_of.lists = lists
    with pytest.raises(ModelError, match=message):
        opened(web_of.url)


def test_a_sign_in_page_is_called_one(tmp_path: Path, web_of: Server) -> None:
    web_of.page = "<html><title>Sign in</title></html>"
    with pytest.raises(CheckpointError, match="web page"):
        opened(web_of.url)


def test_a_folder_in_a_store(sharded: Path, bucket: Bucket) -> None:
    bucket.put(sharded, "models/mine")
    check(opened(f"{bucket.url}/models/mine"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_fetched_whole_and_once(
    tmp_path: Path, web_of: Server, zipped: bool
) -> None:
    import torch

    file = tmp_path / "pytorch_model.bin"
    tensors = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    check(opened(web_of.url))
    assert web_of.sent(file.name) == file.stat().st_size
