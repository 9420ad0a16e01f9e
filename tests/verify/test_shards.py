"""The proof of weights that are split into several files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from bertconvert import VerificationError, verify

from ..helpers import split_weights

INDEX = "model.safetensors.index.json"


@pytest.fixture
def out(converted: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = shutil.copytree(converted("squad"), tmp_path / "out")
    split_weights(folder)
    return folder


def test_the_tensors_of_all_shards_are_compared(fixtures: Path, out: Path) -> None:
    verdict = verify(fixtures / "squad", out, level="weights")
    assert verdict.passed
    assert {check.name for check in verdict.checks} >= {INDEX, f"tensors of {INDEX}"}
    assert len(verdict.matches) == len(json.loads((out / INDEX).read_text())["weight_map"])


def test_one_file_goes_over_an_index_as_in_transformers(
    fixtures: Path, converted: Callable[[str], Path], out: Path
) -> None:
    shutil.copy(converted("squad") / "model.safetensors", out)
    (out / "model-00001-of-00002.safetensors").unlink()
    assert verify(fixtures / "squad", out, level="weights").passed


def test_a_shard_that_is_missing_is_named(fixtures: Path, out: Path) -> None:
    (out / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(VerificationError, match=r"model-00001-of-00002\.safetensors, which"):
        verify(fixtures / "squad", out, level="weights")


def test_a_tensor_that_no_shard_has_is_missing(fixtures: Path, out: Path) -> None:
    file = out / "model-00001-of-00002.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    del tensors[name]
    save_file(tensors, file)
    verdict = verify(fixtures / "squad", out, level="weights")
    failed = {check.name: check.detail for check in verdict.checks if not check.passed}
    assert f"missing: {name}" in failed[f"tensors of {INDEX}"]


def test_a_tensor_that_two_shards_have_is_an_error(fixtures: Path, out: Path) -> None:
    one, two = (out / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    name = min(load_file(one))
    save_file(load_file(two) | {name: load_file(one)[name]}, two)
    with pytest.raises(VerificationError, match=f"two files have the tensor {name}"):
        verify(fixtures / "squad", out, level="weights")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": ' + "[" * 100_000,
    ],
)
def test_a_damaged_index_is_an_error_that_names_it(fixtures: Path, out: Path, content: str) -> None:
    (out / INDEX).write_text(content)
    with pytest.raises(VerificationError, match=r"model\.safetensors\.index\.json is damaged"):
        verify(fixtures / "squad", out, level="weights")
