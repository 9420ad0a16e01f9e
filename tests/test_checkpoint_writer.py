import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bertconvert.converter import tensor_copy
from bertconvert.converter.checkpoint import open_checkpoint
from bertconvert.converter.checkpoint_writer import write_checkpoint
from bertconvert.converter.errors import CheckpointError, OutputError
from bertconvert.converter.plan import Entry, Plan
from bertconvert.converter.prepare import prepare
from bertconvert.converter.transforms import TRANSFORMS

from .arrays import DTYPES, Array, Memory, any_bits, same_bits
from .helpers import small_disk

INDEX, DATA = "m.index", "m.data-00000-of-00001"


@pytest.fixture(scope="module")
def any_plan(fixtures: Path) -> Plan:
    return prepare(fixtures / "encoder").plan


def entry(variable: str, array: Array, op: str, dtype: str = "keep") -> Entry:
    """What becomes of a tensor that turns into this array."""
    return Entry(
        tensor=variable,
        variable=f"tensor of {variable}",
        name=variable,
        op=op,
        group="",
        shape=array.shape,
        dtype=array.dtype.name if dtype == "keep" else dtype,
    )


def op_of(array: Array) -> str:
    return "transpose" if array.ndim == 2 else "identity"


Write = Callable[..., Path]


@pytest.fixture
def write(any_plan: Plan, tmp_path: Path) -> Write:
    """Variables -> the prefix of a checkpoint of them. Their tensors are transposed matrices."""

    def write(
        arrays: dict[str, Array], dtype: str = "keep", folder: Path = tmp_path, **kwargs: Any
    ) -> Path:
        entries = [entry(n, array, op_of(array), dtype) for n, array in arrays.items()]
        tensors = {
            f"tensor of {name}": TRANSFORMS[op_of(array)].apply(array)
            for name, array in arrays.items()
        }
        source = kwargs.pop("source", Memory)(tensors)
        plan = msgspec.structs.replace(any_plan, entries=entries)
        write_checkpoint(source, plan, folder / "m", **kwargs)
        return folder / "m"

    return write


class TestACheckpoint:
    @pytest.mark.parametrize("band", [100, 36 << 20])
    @pytest.mark.parametrize("name", ["pretraining", "pretraining-adam", "squad"])
    def test_is_byte_for_byte_the_one_that_tensorflow_wrote_of_the_same_variables(
        self, write: Write, fixtures: Path, monkeypatch: pytest.MonkeyPatch, name: str, band: int
    ) -> None:
        monkeypatch.setattr(tensor_copy, "_BAND_BYTES", band)
        with open_checkpoint(fixtures / name) as checkpoint:
            arrays = {n: checkpoint[n] for n in reversed(sorted(checkpoint))}
        scalars = {n: int(arrays.pop(n)) for n in [*arrays] if arrays[n].dtype == np.int64}
        prefix = write(arrays, scalars=scalars)
        (original,) = (fixtures / name).glob("*.index")
        for file in (prefix.with_suffix(".index"), prefix.with_suffix(".data-00000-of-00001")):
            assert file.read_bytes() == original.with_suffix(file.suffix).read_bytes()

    def test_has_what_the_ops_make_of_another_checkpoint(
        self, any_plan: Plan, fixtures: Path, tmp_path: Path
    ) -> None:
        source = open_checkpoint(fixtures / "pretraining")
        entries = [
            msgspec.structs.replace(e, shape=TRANSFORMS[e.op].shape(source[e.variable].shape))
            for e in prepare(fixtures / "pretraining").plan.entries
        ]
        plan = msgspec.structs.replace(any_plan, entries=entries)
        write_checkpoint(source, plan, tmp_path / "m")
        found = open_checkpoint(tmp_path / "m")
        assert found.keys() == {e.tensor for e in entries}
        for e in entries:
            expected = TRANSFORMS[e.op].apply(source[e.variable])
            assert same_bits(found[e.tensor], expected)

    def test_has_more_dimensions_where_the_plan_splits_them(
        self, any_plan: Plan, tmp_path: Path
    ) -> None:
        kernel, bias = any_bits((4, 2, 3), "float32"), any_bits((2, 3), "float32", 1)
        output = any_bits((2, 3, 4), "float32", 2)
        arrays = {"kernel": kernel, "bias": bias, "output": output}
        tensors = {
            "tensor of kernel": kernel.reshape(4, 6).T,
            "tensor of bias": bias.reshape(6),
            "tensor of output": output.reshape(6, 4).T,
        }
        ops = {"kernel": "transpose", "bias": "identity", "output": "transpose"}
        entries = [entry(name, array, ops[name]) for name, array in arrays.items()]
        plan = msgspec.structs.replace(any_plan, entries=entries)
        write_checkpoint(Memory(tensors), plan, tmp_path / "m")
        found = open_checkpoint(tmp_path / "m")
        assert all(same_bits(found[name], array) for name, array in arrays.items())

    def test_may_have_empty_variables_and_scalars(self, write: Write) -> None:
        arrays = {
            str(n): any_bits(shape, "float32", n)
            for n, shape in enumerate([(0,), (3, 0), (), (5, 7), (0, 4), (1,)])
        }
        found = open_checkpoint(write(arrays, scalars={"global_step": 1 << 40, "a": -1}))
        assert all(same_bits(found[name], array) for name, array in arrays.items())
        assert same_bits(found["global_step"], np.array(1 << 40))
        assert same_bits(found["a"], np.array(-1))
        assert len(found) == len(arrays) + 2

    def test_of_scalars_alone_is_possible(self, write: Write) -> None:
        assert dict(open_checkpoint(write({}, scalars={"global_step": 3}))) == {"global_step": 3}

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    @pytest.mark.parametrize("source", ["float64", "float32", "bfloat16", "float16"])
    def test_may_have_another_dtype_than_the_tensors(
        self, write: Write, source: str, dtype: str
    ) -> None:
        rng = np.random.default_rng(0)
        arrays = {
            str(shape): rng.normal(0, 0.02, shape).astype(DTYPES[source])
            for shape in [(300_001,), (301, 299), (2, 3, 4), ()]
        }
        found = open_checkpoint(write(arrays, dtype))
        assert all(same_bits(found[n], a.astype(DTYPES[dtype])) for n, a in arrays.items())

    def test_is_written_once_and_the_progress_rises_to_its_bytes(self, write: Write) -> None:
        arrays = {str(n): any_bits((300, 300), "float32", n) for n in range(5)}
        calls: list[tuple[str, int, int]] = []
        streamed: list[str] = []

        class Counting(Memory):
            def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
                streamed.append(name)
                return super().stream(name, buffer)

        write(
            arrays,
            source=Counting,
            scalars={"global_step": 1},
            progress=lambda *call: calls.append(call),
        )
        assert sorted(streamed) == [f"tensor of {n}" for n in range(5)]
        assert calls[-1] == ("converting", 5 * 360_000, 5 * 360_000)
        assert calls == sorted(calls)


class TestErrors:
    def test_in_the_middle_leave_no_index(self, write: Write, tmp_path: Path) -> None:
        class Failing(Memory):
            def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
                if name == "tensor of 7":
                    raise CheckpointError("tensor 7 is damaged")
                return super().stream(name, buffer)

        arrays = {str(n): any_bits((30, 30), "float32", n) for n in range(20)}
        with pytest.raises(CheckpointError, match="tensor 7 is damaged"):
            write(arrays, source=Failing)
        assert os.listdir(tmp_path) == [DATA]

    def test_name_the_tensor_whose_numbers_do_not_fit(self, write: Write) -> None:
        with pytest.raises(OutputError, match=r"tensor of x has numbers too large for float16"):
            write({"x": np.full((4, 4), 1e30, np.float32)}, "float16")

    def test_say_that_two_variables_have_the_same_name(self, write: Write, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"two variables have the name global_step"):
            write({"global_step": np.ones(3, np.float32)}, scalars={"global_step": 1})
        assert os.listdir(tmp_path) == []

    def test_leave_files_that_exist_as_they_are(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / DATA).write_bytes(b"precious")
        with pytest.raises(FileExistsError):
            write({"x": np.ones(3, np.float32)})
        assert (tmp_path / DATA).read_bytes() == b"precious"
        (tmp_path / DATA).unlink()
        (tmp_path / INDEX).write_bytes(b"precious")
        with pytest.raises(OutputError, match=r"m\.index can't be written: File exists"):
            write({"x": np.ones(3, np.float32)})
        assert (tmp_path / INDEX).read_bytes() == b"precious"

    def test_tell_of_a_full_disk_before_anything_is_written(
        self, write: Write, tmp_path: Path
    ) -> None:
        with small_disk(tmp_path / "disk", 64) as disk:
            with pytest.raises(OutputError, match=r"65,536 bytes of free space, but 80,008 are"):
                write({"x": np.ones(20_000, np.float32)}, folder=disk, scalars={"global_step": 1})
            assert os.listdir(disk) == []

    def test_tell_of_a_disk_without_room_for_the_index(self, write: Write, tmp_path: Path) -> None:
        with (
            small_disk(tmp_path / "disk", 64) as disk,
            pytest.raises(OutputError, match=r"m\.index can't be written: No space left"),
        ):
            write({"x": np.ones(16_384, np.float32)}, folder=disk)
