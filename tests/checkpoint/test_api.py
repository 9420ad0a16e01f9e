"""What a program may do with an open checkpoint: share, send, close, and bring its own memory."""

import array
import multiprocessing
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle

from . import table_writer as write


def mixtures(folder: Path) -> dict[str, Path]:
    return {
        "V2": write.write_mixture(folder / "v2"),
        "V2, big-endian": write.write_mixture(folder / "big", big_endian=True),
        "V1": write.write_v1_mixture(folder / "v1", 2, block_bytes=40),
    }


@pytest.fixture(params=["V2", "V2, big-endian", "V1"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for folder in ("v2", "big", "v1"):
        (tmp_path / folder).mkdir()
    return mixtures(tmp_path)[request.param]


def read(checkpoint: Any) -> dict[str, object]:
    return {name: value.tolist() for name, value in checkpoint.items()}


def read_elsewhere(checkpoint: Any, queue: Any) -> None:
    queue.put(read(checkpoint))


class TestThreads:
    def test_that_read_the_same_checkpoint_all_get_the_right_bytes(self, prefix: Path) -> None:
        checkpoint = open_checkpoint(prefix)
        right = read(open_checkpoint(prefix))
        start = threading.Barrier(16)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # so that they get into each other's way
        try:

            def work(number: int) -> bool:
                start.wait()
                names = list(checkpoint) * 8
                names = names[number % len(names) :] + names[: number % len(names)]
                return all(checkpoint[name].tolist() == right[name] for name in names)

            with ThreadPoolExecutor(16) as pool:
                assert all(pool.map(work, range(16)))
        finally:
            sys.setswitchinterval(interval)

    def test_may_stream_into_buffers_of_their_own(self, fixtures: Path) -> None:
        checkpoint = open_checkpoint(fixtures / "pretraining")
        right = {name: checkpoint[name].tobytes() for name in checkpoint}

        def work(name: str) -> bool:
            pieces = checkpoint.stream(name, memoryview(bytearray(96)))
            return b"".join(bytes(piece) for piece in pieces) == right[name]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, list(right) * 4))


class TestPickling:
    def test_opens_it_again(self, prefix: Path) -> None:
        checkpoint = open_checkpoint(prefix, verify_checksums=False)
        again = pickle.loads(pickle.dumps(checkpoint))
        assert read(again) == read(checkpoint)
        assert again.__reduce__() == checkpoint.__reduce__()

    def test_does_not_depend_on_the_folder_that_a_program_is_in(
        self, prefix: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(prefix.parent)
        data = pickle.dumps(open_checkpoint(prefix.name))
        monkeypatch.chdir("/")
        assert read(pickle.loads(data)) == read(open_checkpoint(prefix))

    def test_of_a_checkpoint_that_is_gone_says_so(self, tmp_path: Path) -> None:
        data = pickle.dumps(open_checkpoint(write.write_mixture(tmp_path)))
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(CheckpointError, match=r"m\.ckpt\.index"):
            pickle.loads(data)

    def test_takes_it_into_another_process(self, prefix: Path) -> None:
        """One that is started anew, as on Windows and macOS, and inherits nothing."""
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        checkpoint = open_checkpoint(prefix)
        process = context.Process(target=read_elsewhere, args=(checkpoint, queue))
        process.start()
        assert queue.get(timeout=20) == read(checkpoint)
        process.join()


class TestClosing:
    def test_lists_and_reads_nothing_afterwards(self, prefix: Path) -> None:
        with open_checkpoint(prefix) as checkpoint:
            names = list(checkpoint)
        assert list(checkpoint) == names
        with pytest.raises(ValueError, match="closed"):
            checkpoint[names[0]]

    @pytest.mark.skipif(sys.platform != "linux", reason="where open files can be listed")
    def test_leaves_no_file_open(self, prefix: Path) -> None:
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with open_checkpoint(prefix) as checkpoint:
                read(checkpoint)
            read(open_checkpoint(prefix))
        assert len(os.listdir("/proc/self/fd")) == len(before)


class TestOwnBuffers:
    @pytest.mark.parametrize("name", ["a/kernel", "parts"])
    def test_of_any_kind_are_filled(self, prefix: Path, name: str) -> None:
        with open_checkpoint(prefix) as checkpoint:
            right = checkpoint[name]
            numbers = np.empty(right.shape, right.dtype)
            buffers: list[Any] = [
                bytearray(right.nbytes),
                memoryview(bytearray(right.nbytes)),
                memoryview(bytearray(right.nbytes + 3))[3:],  # at an odd address
                array.array("i", [0] * right.size),
                numbers,
                memoryview(numbers),
            ]
            for buffer in buffers:
                checkpoint.read_into(name, buffer)
                assert bytes(buffer) == right.tobytes()

    def test_that_do_not_fit_are_refused(self, prefix: Path) -> None:
        checkpoint = open_checkpoint(prefix)
        size = checkpoint.variables["a/kernel"].nbytes
        for buffer in (bytes(size), memoryview(bytearray(2 * size))[::2]):
            with pytest.raises(ValueError, match="a/kernel needs a writable"):
                checkpoint.read_into("a/kernel", buffer)
        with pytest.raises(ValueError, match=f"has {size} bytes, not {size + 1}"):
            checkpoint.read_into("a/kernel", bytearray(size + 1))
        with pytest.raises(CheckpointError, match="names is a string tensor"):
            checkpoint.read_into("names", bytearray(16))

    @pytest.mark.parametrize("size", [0, 1, 7])
    def test_that_hold_no_whole_element_are_refused(self, prefix: Path, size: int) -> None:
        with pytest.raises(ValueError, match="whole elements of a/kernel"):
            list(open_checkpoint(prefix).stream("a/kernel", memoryview(bytearray(size))))


class TestWithoutChecksums:
    def test_damaged_data_is_read_and_a_damaged_index_is_not(self, tmp_path: Path) -> None:
        prefix = write.write_mixture(tmp_path)
        shard = write.shard_path(prefix, 0, 2)
        shard.write_bytes(bytes(byte ^ 1 for byte in shard.read_bytes()))
        with open_checkpoint(prefix, verify_checksums=False) as checkpoint:
            assert checkpoint["a/kernel"].shape == (2, 2)
        index = Path(f"{prefix}.index")
        data = bytearray(index.read_bytes())
        data[20] ^= 1
        index.write_bytes(data)
        with pytest.raises(CheckpointError, match="wrong checksum"):
            open_checkpoint(prefix, verify_checksums=False)


class TestStrips:
    @pytest.mark.parametrize(("start", "stop"), [(0, 4), (4, 12), (8, 20), (0, 20)])
    @pytest.mark.parametrize("rows", [1, 3, 100])
    def test_are_some_columns_of_a_matrix(
        self, tmp_path: Path, start: int, stop: int, rows: int
    ) -> None:
        matrix = np.arange(35, dtype=np.float32).reshape(7, 5)
        prefix = tmp_path / "m"
        write_bundle(prefix, {"w": matrix, "a": matrix})
        buffer = memoryview(bytearray(rows * (stop - start)))
        strips = open_checkpoint(prefix).strips("w", 20, start, stop, buffer)
        assert strips is not None
        assert b"".join(map(bytes, strips)) == matrix[:, start // 4 : stop // 4].tobytes()

    def test_of_a_file_that_is_cut_off_are_refused(self, tmp_path: Path) -> None:
        matrix = np.zeros((7, 5), np.float32)
        prefix = tmp_path / "m"
        write_bundle(prefix, {"w": matrix})
        os.truncate(f"{prefix}.data-00000-of-00001", 130)
        with pytest.raises(CheckpointError, match="cut off"):
            open_checkpoint(prefix).strips("w", 20, 0, 4, memoryview(bytearray(8)))

    def test_of_numbers_in_another_order_are_left_to_stream(self, tmp_path: Path) -> None:
        matrix = np.zeros((7, 5), np.float32)
        prefix = write.write_bundle(tmp_path / "m", {"w": (1, matrix)}, big_endian=True)
        assert open_checkpoint(prefix).strips("w", 20, 0, 4, memoryview(bytearray(8))) is None
