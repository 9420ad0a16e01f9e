import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
import tracemalloc
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from bertconvert.converter import safetensors_writer
from bertconvert.converter.checkpoint import Variable, open_checkpoint
from bertconvert.converter.errors import CheckpointError, OutputError
from bertconvert.converter.plan import Entry, Plan
from bertconvert.converter.prepare import prepare
from bertconvert.converter.safetensors_writer import write_safetensors, write_torch

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
SAFETENSORS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}

# Around the sizes at which a tensor is read in pieces of 1 MiB, or transposed in tiles of 256.
VECTORS = [(0,), (1,), (5,), (262_143,), (262_144,), (262_145,), (1_000_003,), (3, 5, 7), ()]
MATRICES = [(1, 1), (1, 9), (9, 1), (255, 257), (256, 256), (257, 3), (3, 300_001), (1031, 769)]
EMPTY = [(0, 4), (4, 0), (0, 0)]


class Memory:
    """What write_safetensors asks of a checkpoint, with arrays that are in memory."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self.variables = {
            name: Variable(name, array.dtype.name, array.shape, array.nbytes)
            for name, array in arrays.items()
        }

    def fetch(self, names: list[str], progress: object) -> None:
        assert set(names) == set(self._arrays)

    def position(self, name: str) -> tuple[int, int]:
        return 0, list(self._arrays).index(name)

    def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
        data = self._arrays[name].reshape(-1).view(np.uint8).data
        for start in range(0, len(data), len(buffer)):
            part = data[start : start + len(buffer)]
            buffer[: len(part)] = part
            yield buffer[: len(part)]
        buffer[:] = bytes(len(buffer))  # whoever still looks into it sees it

    def strips(
        self, name: str, row_bytes: int, start: int, stop: int, buffer: memoryview
    ) -> Iterator[memoryview] | None:
        if int(name.partition(",")[0].strip("()") or 0) % 2:  # as if it were in slices
            return None
        rows = self._arrays[name].reshape(-1).view(np.uint8).reshape(-1, row_bytes)
        step = len(buffer) // (stop - start)

        def read() -> Iterator[memoryview]:
            for row in range(0, len(rows), step):
                part = np.ascontiguousarray(rows[row : row + step, start:stop]).reshape(-1).data
                buffer[: len(part)] = part
                yield buffer[: len(part)]

        return read()


@pytest.fixture(scope="module")
def any_plan(fixtures: Path) -> Plan:
    return prepare(fixtures / "pretraining").plan


Write = Callable[..., dict[str, Array]]


@pytest.fixture
def write(any_plan: Plan, tmp_path: Path) -> Write:
    """(variables, dtype, op) -> the tensors in the file, by the variables' names."""

    def write(
        arrays: dict[str, Array], dtype: str = "keep", op: str = "identity", **kwargs: Any
    ) -> dict[str, Array]:
        entries = [
            Entry(
                tensor=name,
                variable=name,
                name=name,
                op=op,
                group="",
                shape=array.shape[::-1] if op == "transpose" else array.shape,
                dtype=array.dtype.name if dtype == "keep" else dtype,
            )
            for name, array in arrays.items()
        ]
        plan = msgspec.structs.replace(any_plan, entries=entries)
        path = tmp_path / "model.safetensors"
        path.unlink(missing_ok=True)
        memory: Any = kwargs.pop("checkpoint", None) or Memory(arrays)
        write_safetensors(memory, plan, path, **kwargs)
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


def any_bits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Numbers of any bit pattern: NaNs of every kind, infinities and subnormals among them."""
    size = int(np.prod(shape)) * DTYPES[dtype].itemsize
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return data.view(DTYPES[dtype]).reshape(shape)


def same_bits(a: Array, b: Array) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


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


class TestTensors:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_have_every_bit_of_their_variables(self, write: Write, dtype: str) -> None:
        arrays = {str(shape): any_bits(shape, dtype) for shape in [*VECTORS, *MATRICES, *EMPTY]}
        tensors = write(arrays)
        assert [n for n, array in arrays.items() if not same_bits(tensors[n], array)] == []

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_have_every_bit_where_they_are_transposed(self, write: Write, dtype: str) -> None:
        arrays = {str(shape): any_bits(shape, dtype) for shape in [*MATRICES, *EMPTY]}
        tensors = write(arrays, op="transpose")
        assert [n for n, array in arrays.items() if not same_bits(tensors[n], array.T)] == []

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("band", [1, 5000, 70_000])
    def test_have_every_bit_where_they_are_transposed_in_bands(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, dtype: str, band: int
    ) -> None:
        monkeypatch.setattr(safetensors_writer, "_BAND_BYTES", band)
        arrays = {
            str(shape): any_bits(shape, dtype) for shape in [(3, 5), (4, 5), (300, 700), (701, 300)]
        }
        tensors = write(arrays, op="transpose")
        assert [n for n, array in arrays.items() if not same_bits(tensors[n], array.T)] == []

    def test_of_any_size_are_transposed_in_the_same_memory(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(safetensors_writer, "_BAND_BYTES", 1 << 20)
        array = np.ones((2048, 4096), np.float32)  # of 32 MiB
        checkpoint, peaks = Memory({"0": array}), []

        def progress(*_: object) -> None:
            peaks.append(tracemalloc.get_traced_memory()[1])

        tracemalloc.start()
        try:
            write({"0": array}, op="transpose", checkpoint=checkpoint, progress=progress)
        finally:
            tracemalloc.stop()
        assert max(peaks) < 12 << 20

    @pytest.mark.parametrize("op", ["identity", "transpose"])
    def test_are_never_all_in_memory(self, write: Write, op: str) -> None:
        variable = np.ones((512, 1024), np.float32)  # of 2 MiB
        arrays = {f"{number}": variable for number in range(16)}
        checkpoint = Memory(arrays)
        peaks = []

        def progress(*_: object) -> None:
            peaks.append(tracemalloc.get_traced_memory()[1])

        tracemalloc.start()
        try:
            write(arrays, op=op, checkpoint=checkpoint, progress=progress)
        finally:
            tracemalloc.stop()
        # A tensor for each of two threads, and less than as much for what is read and transposed.
        assert max(peaks) < 8 << 20


def expected_cast(array: Array, dtype: str) -> Array:
    with np.errstate(all="ignore"):
        return array.astype(DTYPES[dtype])


def fitting(array: Array, dtype: str) -> Array:
    """What of any numbers does not overflow in the dtype, as a vector."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        return flat[~(np.isinf(expected_cast(flat, dtype)) & np.isfinite(flat))]


class TestACast:
    @pytest.mark.parametrize("op", ["identity", "transpose"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    @pytest.mark.parametrize("source", DTYPES)
    def test_rounds_as_numpy_and_torch_do(
        self, write: Write, source: str, dtype: str, op: str
    ) -> None:
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        numbers = np.concatenate(
            [
                fitting(any_bits((300_000,), source), dtype),
                fitting(rng.normal(0, 0.02, 300_000).astype(DTYPES[source]), dtype),
                # Half-way between two bfloat16, which goes to the even one of them.
                fitting((1 + np.arange(512) * 2.0**-8).astype(DTYPES[source]), dtype),
                np.array([0.0, -0.0, np.inf, -np.inf, np.nan], DTYPES[source]),
            ]
        )
        numbers = numbers[: len(numbers) // 3 * 3].reshape(-1, 3)
        tensor = write({"x": numbers}, dtype, op)["x"]
        result = tensor.T if op == "transpose" else tensor
        expected = expected_cast(numbers, dtype)
        with np.errstate(all="ignore"):
            nan = np.isnan(numbers)
            assert np.array_equal(np.isnan(result), nan)
        bits = f"i{expected.itemsize}"
        found = np.ascontiguousarray(result).view(bits)[~nan]
        assert np.array_equal(found, expected.view(bits)[~nan])
        if (source, dtype) == ("float64", "float16"):
            return  # torch rounds twice there, to float32 first
        by_torch = (
            torch.from_numpy(numbers.view(f"i{numbers.itemsize}"))
            .view(getattr(torch, source))
            .to(getattr(torch, dtype))
            .view(getattr(torch, f"int{8 * expected.itemsize}"))
        )
        assert np.array_equal(found, by_torch.numpy()[~nan])

    @pytest.mark.parametrize("op", ["identity", "transpose"])
    @pytest.mark.parametrize(
        ("source", "dtype", "number", "advice"),
        [
            ("float32", "float16", 65520.0, "Choose --dtype bfloat16, or keep."),
            ("float32", "float16", -1e30, "Choose --dtype bfloat16, or keep."),
            ("bfloat16", "float16", 1e5, "Choose --dtype bfloat16, or keep."),
            ("float32", "bfloat16", float(np.finfo(np.float32).max), "Choose --dtype keep."),
            ("float64", "float32", 1e300, "Choose --dtype keep."),
            ("float64", "bfloat16", -1e300, "Choose --dtype keep."),
        ],
    )
    def test_that_would_make_a_number_infinite_is_an_error_that_names_the_variable(
        self, write: Write, op: str, source: str, dtype: str, number: float, advice: str
    ) -> None:
        numbers = np.zeros((700, 700), DTYPES[source])
        numbers[699, 3] = number
        numbers[5, 5] = np.inf  # is already, and says nothing
        with pytest.raises(OutputError) as caught:
            write({"bert/good": np.ones((2, 2), np.float32), "bert/bad": numbers}, dtype, op)
        shown = f"{abs(float(numbers[699, 3])):.4g}"
        assert str(caught.value) == (
            f"bert/bad has numbers too large for {dtype}, such as {shown}. {advice}"
        )

    @pytest.mark.filterwarnings("error")
    def test_of_any_nan_says_nothing(self, write: Write) -> None:
        signalling = np.array([0x7F800001, 0xFFBFFFFF], np.uint32).view(np.float32)
        for dtype, infinity in (("float16", 0x7C00), ("bfloat16", 0x7F80)):
            result = write({"x": signalling}, dtype)["x"]
            assert (result.view(np.uint16) & 0x7FFF > infinity).all()

    def test_takes_the_largest_number_that_fits(self, write: Write) -> None:
        numbers = np.array([65504, -65504, 65519.99, 1e-30, np.inf, -np.inf, np.nan], np.float32)
        result = write({"x": numbers}, "float16")["x"]
        assert result[:4].tolist() == [65504, -65504, 65504, 0]
        assert result[4:6].tolist() == [np.inf, -np.inf]
        assert np.isnan(result[6])


class TestProgress:
    @pytest.mark.parametrize("op", ["identity", "transpose"])
    def test_rises_to_the_number_of_bytes(self, write: Write, op: str) -> None:
        arrays = {str(shape): any_bits(shape, "float32") for shape in MATRICES}
        calls: list[tuple[str, int, int]] = []
        write(arrays, op=op, progress=lambda *call: calls.append(call))
        total = sum(array.nbytes for array in arrays.values())
        done = [call[1] for call in calls]
        assert {(call[0], call[2]) for call in calls} == {("converting", total)}
        assert done == sorted(done)
        assert done[-1] == total

    def test_that_raises_stops_the_work(self, write: Write) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write({str(n): np.ones(4, np.float32) for n in range(50)}, progress=stop)


class TestErrors:
    @pytest.mark.parametrize(
        "variable", ["bert/embeddings/word_embeddings", "bert/encoder/layer_1/output/dense/kernel"]
    )
    def test_a_damaged_variable_is_named(
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

    def test_a_data_file_that_is_cut_off_is_named(self, fixtures: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(fixtures / "pretraining", copy)
        data = copy / "bert_model.ckpt.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:-1])
        prepared = prepare(copy)
        with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is cut off"):
            write_safetensors(prepared.checkpoint, prepared.plan, tmp_path / "model.safetensors")

    @pytest.mark.parametrize("in_helper", [False, True])
    @pytest.mark.parametrize(
        "error", [CheckpointError("bad"), MemoryError(), SystemExit(1), KeyboardInterrupt()]
    )
    def test_of_any_thread_are_raised_and_stop_the_others(
        self, write: Write, in_helper: bool, error: BaseException
    ) -> None:
        raised = threading.Event()
        begun: list[str] = []

        class Failing(Memory):
            def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
                begun.append(name)
                if (threading.current_thread() is threading.main_thread()) != in_helper:
                    raised.set()
                    raise error
                assert raised.wait(10)
                time.sleep(0.05)
                return super().stream(name, buffer)

        arrays = {str(n): np.ones(4, np.float32) for n in range(100)}
        with pytest.raises(type(error)) as caught:
            write(arrays, checkpoint=Failing(arrays))
        assert caught.value is error
        assert len(begun) <= 2

    def test_an_interrupt_waits_for_the_thread_that_still_writes(
        self, monkeypatch: pytest.MonkeyPatch, write: Write
    ) -> None:
        events: list[str] = []
        helper_has_begun = threading.Event()

        class Slow(Memory):
            def stream(self, name: str, buffer: memoryview) -> Iterator[memoryview]:
                if threading.current_thread() is threading.main_thread():
                    assert helper_has_begun.wait(10)
                else:
                    helper_has_begun.set()
                    time.sleep(0.2)  # the other has nothing left to do, and waits
                    main_thread = threading.main_thread().ident
                    assert main_thread is not None
                    signal.pthread_kill(main_thread, signal.SIGINT)
                    time.sleep(0.2)
                    events.append("written")
                return super().stream(name, buffer)

        close = os.close

        def closing(fd: int) -> None:
            events.append("closed")
            close(fd)

        arrays = {str(n): np.ones(4, np.float32) for n in range(2)}
        monkeypatch.setattr(os, "close", closing)
        with pytest.raises(KeyboardInterrupt):
            write(arrays, checkpoint=Slow(arrays))
        assert events == ["written", "closed"]

    def test_leave_no_descriptor_open(self, write: Write) -> None:
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("the open descriptors can't be listed here")
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OutputError):
            write({"x": np.full(4, 1e30, np.float32)}, "float16")
        assert len(os.listdir("/proc/self/fd")) == len(before)


class TestAFullDisk:
    def test_is_known_before_a_file_is_made(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = namedtuple("room", "f_bavail f_frsize")
        monkeypatch.setattr(os, "statvfs", lambda _: room(10, 1024))
        with pytest.raises(OutputError, match=r"10,240 bytes .* 12,\d\d\d "):
            write({"x": np.zeros(3000, np.float32)})
        assert os.listdir(tmp_path) == []

    def test_is_said_when_it_shows_itself_later(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pwrite = os.pwrite

        def full(fd: int, data: memoryview, place: int) -> int:
            if place > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwrite(fd, data, place)

        monkeypatch.setattr(os, "pwrite", full)
        arrays = {str(n): np.zeros(10_000, np.float32) for n in range(10)}
        with pytest.raises(OutputError, match=r"model\.safetensors can't be written: No space"):
            write(arrays)

    def test_writes_that_take_only_a_part_are_continued(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
        array = any_bits((100, 101), "float32")
        assert same_bits(write({"x": array}, op="transpose")["x"], array.T)


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


def test_the_threads_are_as_many_as_the_module_says(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {str(n): any_bits((300, 300), "float32", seed=n) for n in range(20)}
    for threads in (1, 2, 5):
        monkeypatch.setattr(safetensors_writer, "_THREADS", threads)
        tensors = write(arrays, op="transpose")
        assert all(same_bits(tensors[name], arrays[name].T) for name in arrays)
