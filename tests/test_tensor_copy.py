import errno
import os
import signal
import threading
import time
import tracemalloc
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertconvert.converter import tensor_copy
from bertconvert.converter.errors import CheckpointError, OutputError
from bertconvert.converter.tensor_copy import Buffer, Copy, write_file

from .arrays import DTYPES, Array, Memory, any_bits, same_bits

# Around the sizes at which a tensor is read in pieces of 1 MiB, or transposed in tiles of 256.
VECTORS = [(0,), (1,), (5,), (262_143,), (262_144,), (262_145,), (1_000_003,), (3, 5, 7), ()]
MATRICES = [(1, 1), (1, 9), (9, 1), (255, 257), (256, 256), (257, 3), (3, 300_001), (1031, 769)]
EMPTY = [(0, 4), (4, 0), (0, 0)]


Write = Callable[..., dict[str, Array]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """(arrays, dtype, op) -> the arrays in the file, one after the other behind 5 bytes."""

    def write(
        arrays: dict[str, Array], dtype: str = "keep", op: str = "identity", **kwargs: Any
    ) -> dict[str, Array]:
        dtypes = {n: a.dtype if dtype == "keep" else DTYPES[dtype] for n, a in arrays.items()}
        copies, place = [], 5
        for name, array in arrays.items():
            shape = array.shape[::-1] if op == "transpose" else array.shape
            copies.append(Copy(name, f"of {name}", op, shape, dtypes[name].name, place))
            place += copies[-1].nbytes
        path = tmp_path / "file"
        path.unlink(missing_ok=True)
        write_file(
            path, kwargs.pop("source", None) or Memory(arrays), copies, {0: b"begin"}, **kwargs
        )
        data = path.read_bytes()
        assert data[:5] == b"begin"
        assert len(data) == place
        return {
            copy.name: np.frombuffer(
                data[copy.place : copy.place + copy.nbytes], dtypes[copy.name]
            ).reshape(copy.shape)
            for copy in copies
        }

    return write


class TestArrays:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_have_every_bit_of_the_source(self, write: Write, dtype: str) -> None:
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
        monkeypatch.setattr(tensor_copy, "_BAND_BYTES", band)
        arrays = {
            str(shape): any_bits(shape, dtype) for shape in [(3, 5), (4, 5), (300, 700), (701, 300)]
        }
        tensors = write(arrays, op="transpose")
        assert [n for n, array in arrays.items() if not same_bits(tensors[n], array.T)] == []

    def test_of_any_size_are_transposed_in_the_same_memory(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tensor_copy, "_BAND_BYTES", 1 << 20)
        array = np.ones((2048, 4096), np.float32)  # of 32 MiB
        source, peaks = Memory({"0": array}), []

        def progress(*_: object) -> None:
            peaks.append(tracemalloc.get_traced_memory()[1])

        tracemalloc.start()
        try:
            write({"0": array}, op="transpose", source=source, progress=progress)
        finally:
            tracemalloc.stop()
        assert max(peaks) < 12 << 20

    @pytest.mark.parametrize("op", ["identity", "transpose"])
    def test_are_never_all_in_memory(self, write: Write, op: str) -> None:
        variable = np.ones((512, 1024), np.float32)  # of 2 MiB
        arrays = {f"{number}": variable for number in range(16)}
        source = Memory(arrays)
        peaks = []

        def progress(*_: object) -> None:
            peaks.append(tracemalloc.get_traced_memory()[1])

        tracemalloc.start()
        try:
            write(arrays, op=op, source=source, progress=progress)
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


class TestObserved:
    @pytest.mark.parametrize("op", ["identity", "transpose"])
    @pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
    @pytest.mark.parametrize("band", [5000, 36 << 20])
    def test_are_the_bytes_that_are_written_from_the_first_to_the_last(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, op: str, dtype: str, band: int
    ) -> None:
        monkeypatch.setattr(tensor_copy, "_BAND_BYTES", band)
        rng = np.random.default_rng(0)
        arrays = {str(shape): rng.normal(size=shape).astype(np.float32) for shape in MATRICES[3:]}
        observed = {f"of {name}": b"" for name in arrays}

        def observe(copy: Copy, piece: Buffer) -> None:
            observed[copy.result] += piece

        written = write(arrays, dtype, op, observe=observe)
        assert observed == {f"of {name}": array.tobytes() for name, array in written.items()}

    def test_that_raises_stops_the_work(self, write: Write) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write({str(n): np.ones(4, np.float32) for n in range(50)}, observe=stop)


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
            write(arrays, source=Failing(arrays))
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
            write(arrays, source=Slow(arrays))
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
        with pytest.raises(OutputError, match=r"file can't be written: No space"):
            write(arrays)

    def test_writes_that_take_only_a_part_are_continued(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
        array = any_bits((100, 101), "float32")
        assert same_bits(write({"x": array}, op="transpose")["x"], array.T)


def test_the_threads_are_as_many_as_the_module_says(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {str(n): any_bits((300, 300), "float32", seed=n) for n in range(20)}
    for threads in (1, 2, 5):
        monkeypatch.setattr(tensor_copy, "_THREADS", threads)
        tensors = write(arrays, op="transpose")
        assert all(same_bits(tensors[name], arrays[name].T) for name in arrays)
