"""A path at a URL means the same checkpoint as on a disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.discover import find_checkpoints

from ..checkpoint.h5_writer import write_h5
from .server import serving

Put = Callable[[str, float], None]
STORE = "memory://bucket"


@pytest.fixture
def put(tmp_path: Path) -> Iterator[Put]:
    """Writes a checkpoint whose variable `a` is [number] to a prefix in the store."""
    store: Any = fsspec.filesystem("memory")

    def put(prefix: str, number: float) -> None:
        local = tmp_path / prefix
        write_bundle(local, {"a": np.float32([number])})
        for file in local.parent.glob(f"{local.name}.*"):
            store.pipe(f"{STORE}/{file.relative_to(tmp_path)}", file.read_bytes())

    yield put
    store.rm("/bucket", recursive=True)


def state(path: str, text: str) -> None:
    fsspec.filesystem("memory").pipe(f"{STORE}/{path}/checkpoint", text.encode())


def number(path: str, **options: Any) -> float:
    return float(open_checkpoint(f"{STORE}/{path}", **options)["a"][0])


def test_a_prefix_comes_before_a_folder_unless_a_slash_ends_it(put: Put) -> None:
    put("m", 1)
    put("m/x", 2)
    assert number("m") == 1
    assert number("m/") == 2


def test_a_step_is_chosen(put: Put) -> None:
    for step in (1, 10):
        put(f"run/model.ckpt-{step}", step)
    with pytest.raises(CheckpointError, match="--step"):
        number("run")
    assert number("run", step=1) == number("run/model.ckpt", step=1) == 1
    assert number("run", step="latest") == number("run/model.ckpt", step="latest") == 10
    assert number("run/model.ckpt-1/") == 1


def test_the_only_step_is_taken_with_a_note(put: Put) -> None:
    put("one/model.ckpt-7", 7)
    found = open_checkpoint(f"{STORE}/one/model.ckpt")
    assert found["a"].tolist() == [7]
    assert "model.ckpt-7" in found.note


def test_the_file_checkpoint_names_a_path_below_its_folder(put: Put) -> None:
    put("moved/two", 1)
    put("moved/sub/two", 2)
    state("moved", "model_checkpoint_path: 'sub/two'")
    found = open_checkpoint(f"{STORE}/moved")
    assert found["a"].tolist() == [2]
    assert "moved/two" in found.note
    state("moved", "model_checkpoint_path: 'gone/two'")
    assert number("moved") == 1


def test_a_prefix_that_is_called_checkpoint_is_no_state_file(put: Put) -> None:
    put("keras/checkpoint", 5)
    put("keras/other", 6)
    state("keras", "model_checkpoint_path: 'other'")
    assert number("keras/checkpoint") == 5
    assert number("keras") == 6


def test_a_keras_file_is_read_by_its_path_and_by_its_folder(tmp_path: Path, put: Put) -> None:
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    local = write_h5(tmp_path / "tf_model.h5", {"main": {"main/table:0": table}})
    fsspec.filesystem("memory").pipe(f"{STORE}/h5/tf_model.h5", local.read_bytes())
    for path in ("h5/tf_model.h5", "h5"):
        assert np.array_equal(open_checkpoint(f"{STORE}/{path}")["main/table"], table)
    with serving(tmp_path) as server:
        found = open_checkpoint(f"{server.url}/tf_model.h5")
        assert np.array_equal(found["main/table"], table)
    (one,) = find_checkpoints(STORE)
    assert one.index == f"{STORE}/h5/tf_model.h5"
    put("h5/other", 3)
    assert number("h5") == 3
