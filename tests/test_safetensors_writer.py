import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from bertconvert.converter.checkpoint import open_checkpoint
from bertconvert.converter.errors import CheckpointError, OutputError
from bertconvert.converter.plan import Entry, Plan
from bertconvert.converter.prepare import prepare
from bertconvert.converter.safetensors_writer import write_safetensors, write_torch

from .arrays import DTYPES, Array, Memory, any_bits, same_bits

SAFETENSORS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@pytest.fixture(scope="module")
def any_plan(fixtures: Path) -> Plan:
    return prepare(fixtures / "pretraining").plan


Write = Callable[[dict[str, Array]], dict[str, Array]]


@pytest.fixture
def write(any_plan: Plan, tmp_path: Path) -> Write:
    """Variables -> the tensors in the file, by the variables' names."""

    def write(arrays: dict[str, Array]) -> dict[str, Array]:
        entries = [
            Entry(
                tensor=name,
                variable=name,
                name=name,
                op="identity",
                group="",
                shape=array.shape,
                dtype=array.dtype.name,
            )
            for name, array in arrays.items()
        ]
        plan = msgspec.structs.replace(any_plan, entries=entries)
        path = tmp_path / "model.safetensors"
        path.unlink(missing_ok=True)
        write_safetensors(Memory(arrays), plan, path)
        return read(path)

    return write


def header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what the header says."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return 8 + length, json.loads(data[8 : 8 + length])


def read(path: Path) -> dict[str, Array]:
    """The tensors of a file, by the format's description alone."""
    start, entries = header(path)
    data = path.read_bytes()
    del entries["__metadata__"]
    return {
        name: np.frombuffer(
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
            DTYPES[SAFETENSORS[entry["dtype"]]],
        ).reshape(entry["shape"])
        for name, entry in entries.items()
    }


class TestTheFile:
    def test_is_what_the_safetensors_library_reads(self, fixtures: Path, tmp_path: Path) -> None:
        prepared = prepare(fixtures / "pretraining")
        path = tmp_path / "model.safetensors"
        write_safetensors(prepared.checkpoint, prepared.plan, path)
        loaded = load_file(path)
        assert loaded.keys() == {entry.tensor for entry in prepared.plan.entries}
        for entry in prepared.plan.entries:
            variable = prepared.checkpoint[entry.variable]
            expected = variable.T if entry.op == "transpose" else variable
            assert same_bits(loaded[entry.tensor], expected)
            assert loaded[entry.tensor].shape == entry.shape
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}

    def test_begins_with_a_padded_header_and_holds_nothing_else(
        self, write: Write, tmp_path: Path
    ) -> None:
        for length in range(1, 10):
            write({"x" * length: np.zeros(3, np.float32)})
            start, entries = header(tmp_path / "model.safetensors")
            assert start % 8 == 0
            assert (tmp_path / "model.safetensors").stat().st_size == start + 12
            assert entries["x" * length]["data_offsets"] == [0, 12]

    def test_is_the_same_every_time(self, fixtures: Path, tmp_path: Path) -> None:
        prepared = prepare(fixtures / "pretraining-adam")
        files = set()
        for number in range(10):
            path = tmp_path / str(number)
            write_safetensors(prepared.checkpoint, prepared.plan, path)
            files.add(path.read_bytes())
        assert len(files) == 1

    def test_keeps_tensors_of_different_dtypes_aligned(self, write: Write, tmp_path: Path) -> None:
        arrays = {
            f"{number}{dtype[::-1]}": any_bits((size,), dtype, seed=size)
            for number, size in enumerate((1, 3, 5))
            for dtype in ("float16", "float64", "bfloat16", "float32")
        }
        tensors = write(arrays)
        assert all(same_bits(tensors[name], array) for name, array in arrays.items())
        start, entries = header(tmp_path / "model.safetensors")
        for name, array in arrays.items():
            assert (start + entries[name]["data_offsets"][0]) % array.dtype.itemsize == 0
        assert load_file(tmp_path / "model.safetensors").keys() == arrays.keys()

    def test_may_hold_names_of_any_letters(self, write: Write, tmp_path: Path) -> None:
        arrays = {name: np.ones(2, np.float32) for name in ('a"b', "ü/ö", "a\\b", "\u2028", "😀")}
        assert write(arrays).keys() == arrays.keys()
        assert load_file(tmp_path / "model.safetensors").keys() == arrays.keys()

    def test_must_not_be_there_before(self, write: Write, fixtures: Path, tmp_path: Path) -> None:
        prepared = prepare(fixtures / "encoder")
        (tmp_path / "precious").write_bytes(b"precious")
        with pytest.raises(FileExistsError):
            write_safetensors(prepared.checkpoint, prepared.plan, tmp_path / "precious")
        assert (tmp_path / "precious").read_bytes() == b"precious"


class TestADamagedCheckpoint:
    @pytest.mark.parametrize(
        "variable", ["bert/embeddings/word_embeddings", "bert/encoder/layer_1/output/dense/kernel"]
    )
    def test_is_an_error_that_names_the_variable(
        self, fixtures: Path, tmp_path: Path, variable: str
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(fixtures / "pretraining", copy)
        data = copy / "bert_model.ckpt.data-00000-of-00001"
        content = bytearray(data.read_bytes())
        content[open_checkpoint(copy).position(variable)[1] + 1000] ^= 1
        data.write_bytes(content)
        prepared = prepare(copy)
        with pytest.raises(CheckpointError, match=f"is damaged at {variable}"):
            write_safetensors(prepared.checkpoint, prepared.plan, tmp_path / "model.safetensors")

    def test_that_is_cut_off_is_an_error_that_names_the_file(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(fixtures / "pretraining", copy)
        data = copy / "bert_model.ckpt.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:-1])
        prepared = prepare(copy)
        with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is cut off"):
            write_safetensors(prepared.checkpoint, prepared.plan, tmp_path / "model.safetensors")


class TestATorchFile:
    @pytest.fixture
    def safetensors(self, fixtures: Path, tmp_path: Path) -> Path:
        prepared = prepare(fixtures / "classifier")
        path = tmp_path / "model.safetensors"
        write_safetensors(prepared.checkpoint, prepared.plan, path)
        return path

    def test_holds_the_same_tensors_and_nothing_that_runs(
        self, safetensors: Path, tmp_path: Path
    ) -> None:
        torch = pytest.importorskip("torch")
        write_torch(safetensors, tmp_path / "pytorch_model.bin")
        loaded = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
        expected = load_file(safetensors)
        assert loaded.keys() == expected.keys()
        assert all(same_bits(loaded[name].numpy(), expected[name]) for name in expected)

    def test_is_the_same_every_time(self, safetensors: Path, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            write_torch(safetensors, tmp_path / name / "pytorch_model.bin")
        first, second = (tmp_path / n / "pytorch_model.bin" for n in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()

    def test_without_torch_is_an_error_that_says_what_to_install(
        self, safetensors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(OutputError, match=r"pip install 'bertconvert\[torch\]'"):
            write_torch(safetensors, tmp_path / "pytorch_model.bin")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
    def test_on_a_full_disk_is_an_error(self, safetensors: Path) -> None:
        pytest.importorskip("torch")
        with pytest.raises(OutputError, match="/dev/full can't be written"):
            write_torch(safetensors, Path("/dev/full"))
