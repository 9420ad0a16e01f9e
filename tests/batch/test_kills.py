"""A batch that is stopped in the middle, in every way, and the run that goes on from there."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .runs import (
    Files,
    benchmark_checkpoints,
    check_whole,
    children,
    copies,
    is_alive,
    kill_group,
    lines,
    models,
    run,
    started,
    table,
    tree,
    until,
    workers,
)

Slow = Callable[[float], dict[str, str]]
Process = subprocess.Popen[str]

NAMES = [f"m{number}" for number in range(6)]


@pytest.fixture(scope="module")
def source(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that take a while, one after the other."""
    return copies(fixtures, tmp_path_factory.mktemp("kills") / "models", NAMES)


@pytest.fixture(scope="module")
def wanted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a run makes of them that nothing disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(source, out).exit_code == 0
    return tree(out)


def writes(out: Path) -> bool:
    """Whether somebody is in the middle of a model."""
    return any(path.stat().st_size > 1000 for path in out.glob(".*.bertconvert/model.safetensors"))


def hidden(out: Path) -> list[str]:
    return sorted(name for name in os.listdir(out) if name.startswith("."))


class Watch:
    """Looks, again and again, whether a model folder in OUT is not whole."""

    def __init__(self, out: Path, wanted: Files) -> None:
        self._out = out
        self._sizes: dict[str, dict[str, int]] = {}
        for path, data in wanted.items():
            folder, _, name = path.partition("/")
            self._sizes.setdefault(folder, {})[name] = len(data)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.wrong: list[str] = []
        self.looks = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self.looks += 1
            for name in models(self._out):
                sizes = {file.name: file.stat().st_size for file in os.scandir(self._out / name)}
                if sizes != self._sizes[name]:
                    self.wrong.append(f"{name} holds {sizes}")


def kill_a_worker(process: Process, place: int) -> None:
    """Kill the first or the last worker of a batch, as soon as it has one."""
    until(lambda: workers(process.pid) or process.poll() is not None)
    with suppress(IndexError, ProcessLookupError):  # it ended by itself
        os.kill(workers(process.pid)[place], signal.SIGKILL)


class TestARunThatIsKilled:
    @pytest.mark.parametrize("seed", range(8))
    def test_leaves_nothing_half_made_and_is_made_good_by_the_next(
        self, source: Path, wanted: Files, tmp_path: Path, slow: Slow, seed: int
    ) -> None:
        out = tmp_path / "out"
        chance = random.Random(seed)
        with started(source, out, "--jobs", "2", env=slow(0.003)) as process:
            until(lambda: (out / "family.json").exists() or writes(out))
            with Watch(out, wanted) as watch:
                time.sleep(chance.uniform(0, 0.7))
                alone = chance.random() < 0.5
                below = children(process.pid)
                if alone:
                    process.kill()  # and its workers are left
                else:
                    kill_group(process)
                process.wait()
                until(lambda: not any(map(is_alive, below)), seconds=2)
                assert process.poll() is not None
            assert watch.looks
            assert watch.wrong == []
        check_whole(out, wanted)
        made = models(out)
        result = run(source, out, "--json")
        assert result.exit_code == 0
        assert lines(result.stdout)[-1]["unchanged"] == len(made)
        assert tree(out) == wanted

    def test_to_replace_all_leaves_each_old_or_new(
        self, source: Path, wanted: Files, tmp_path: Path, slow: Slow
    ) -> None:
        out = tmp_path / "out"
        assert run(source, out).exit_code == 0
        chance = random.Random(0)
        for _ in range(3):
            with started(source, out, "--force", "--jobs", "2", env=slow(0.001)) as process:
                until(lambda: writes(out))
                time.sleep(chance.uniform(0, 0.3))
                kill_group(process)
            check_whole(out, wanted)
            assert models(out) == NAMES
        assert run(source, out, "--force").exit_code == 0
        assert tree(out) == wanted

    def test_is_gone_with_all_its_workers_soon(
        self, source: Path, tmp_path: Path, slow: Slow
    ) -> None:
        out = tmp_path / "out"
        with started(source, out, "--jobs", "2", env=slow(0.02)) as process:
            until(lambda: writes(out) and len(workers(process.pid)) == 2)
            below = children(process.pid)
            process.kill()
            process.wait()
            until(lambda: not any(map(is_alive, below)), seconds=2)
            assert len(below) >= 3


class TestAWorkerThatIsKilled:
    def test_costs_nothing_but_time(
        self, source: Path, wanted: Files, tmp_path: Path, slow: Slow
    ) -> None:
        out = tmp_path / "out"
        with started(source, out, "--jobs", "2", env=slow(0.005)) as process:
            until(lambda: writes(out))
            kill_a_worker(process, 0)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "FAILED" not in said and "Traceback" not in said
        assert tree(out) == wanted

    def test_again_and_again_costs_nothing_but_time(
        self, source: Path, wanted: Files, tmp_path: Path, slow: Slow
    ) -> None:
        out = tmp_path / "out"

        def is_by_two(process: Process, count: int) -> bool:
            two = len(workers(process.pid)) == 2 and writes(out)
            return process.poll() is not None or (two and len(models(out)) >= count)

        with started(source, out, "--jobs", "2", env=slow(0.005)) as process:
            for count in (0, 2, 4):  # never one that is alone, which would be its second time
                until(lambda count=count: is_by_two(process, count))
                kill_a_worker(process, -1)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert tree(out) == wanted

    def test_as_soon_as_it_is_there_costs_nothing_but_time(
        self, source: Path, wanted: Files, tmp_path: Path
    ) -> None:
        for number in range(4):
            out = tmp_path / f"out{number}"
            with started(source, out, "--jobs", "2") as process:
                kill_a_worker(process, -1)
                _, said = process.communicate(timeout=30)
            assert process.returncode == 0, said
            assert tree(out) == wanted

    def test_each_time_by_one_checkpoint_is_a_failure_of_that_one(
        self, source: Path, wanted: Files, fixtures: Path, tmp_path: Path, slow: Slow
    ) -> None:
        out = tmp_path / "out"
        both = [source, copies(fixtures, tmp_path / "x", ["doomed"]) / "doomed"]
        with started(*both, out, "--jobs", "2", env=slow(0.001)) as process:
            _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        (failure,) = [line for line in said.splitlines() if "FAILED" in line]
        assert failure.startswith("doomed  FAILED  the worker process was killed")
        assert "Traceback" not in said
        assert models(out) == NAMES
        check_whole(out, wanted)
        rows = table(out)
        assert list(rows) == ["doomed", *NAMES]
        assert "the worker process was killed" in rows["doomed"]["verdict"]
        assert run(both[1], out).exit_code == 0
        assert hidden(out) == []

    def test_by_one_checkpoint_is_the_end_with_fail_fast(
        self, source: Path, fixtures: Path, tmp_path: Path, slow: Slow
    ) -> None:
        copies(fixtures, tmp_path / "x", ["doomed"], of="pretraining")  # the largest
        options = ("--fail-fast", "--jobs", "1", "--json")
        command = (source, tmp_path / "x" / "doomed", tmp_path / "out", *options)
        with started(*command, env=slow(0.001)) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        end = lines(said)[-1]
        assert (end["failed"], end["converted"], end["not_started"]) == (1, 0, 6)
        assert models(tmp_path / "out") == []


class TestAStop:
    @pytest.fixture
    def running(self, source: Path, tmp_path: Path, slow: Slow) -> Iterator[Process]:
        """A batch into `out` that is in the middle of its third model, at least."""
        with started(source, tmp_path / "out", "--jobs", "2", env=slow(0.006)) as process:
            until(lambda: len(models(tmp_path / "out")) >= 2 and writes(tmp_path / "out"))
            yield process

    @pytest.mark.parametrize("whom", ["group", "parent"])
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_leaves_what_is_done_and_nothing_else(
        self,
        running: Process,
        source: Path,
        wanted: Files,
        tmp_path: Path,
        number: int,
        code: int,
        whom: str,
    ) -> None:
        out = tmp_path / "out"
        below = children(running.pid)
        assert len(below) >= 4  # two workers, what forks them, what cleans up after them
        if whom == "group":
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        said, error = running.communicate(timeout=30)
        assert running.returncode == code
        until(lambda: not any(map(is_alive, below)), seconds=2)
        assert hidden(out) == []
        check_whole(out, wanted)
        made = models(out)
        assert 2 <= len(made) < 6
        # What was published in the last moment may not have been told any more.
        assert set(table(out)) <= set(made)
        assert said == ""
        if number == signal.SIGINT:
            assert (
                "stopped. Finished models stay; run the same command again to continue\n" in error
            )
            assert error.endswith("\nAborted!\n")
        if number != signal.SIGHUP:  # what ends with the terminal may say what nobody reads
            assert "Traceback" not in error
        assert "FAILED" not in error
        assert run(source, out).exit_code == 0
        assert tree(out) == wanted

    def test_of_one_worker_is_no_stop(
        self, running: Process, wanted: Files, tmp_path: Path
    ) -> None:
        os.kill(workers(running.pid)[0], signal.SIGTERM)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 0
        assert "FAILED" not in said
        assert tree(tmp_path / "out") == wanted

    def test_before_the_first_model_leaves_a_table_of_none(
        self, source: Path, tmp_path: Path, slow: Slow, wanted: Files
    ) -> None:
        out = tmp_path / "out"
        with started(source, out, env=slow(0.05)) as process:
            until(lambda: writes(out))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        assert models(out) == hidden(out) == []
        assert table(out) == {}
        assert run(source, out).exit_code == 0
        assert tree(out) == wanted


class TestTwoBatchesAtOnce:
    def test_into_one_folder_make_every_model_whole(
        self, source: Path, wanted: Files, tmp_path: Path, slow: Slow
    ) -> None:
        out = tmp_path / "out"
        with (
            started(source, out, "--jobs", "2", env=slow(0.003)) as one,
            started(source, out, "--jobs", "2", env=slow(0.003)) as other,
            Watch(out, wanted) as watch,
        ):
            for process in (one, other):
                _, said = process.communicate(timeout=60)
                assert process.returncode == 0, said
        assert watch.wrong == []
        check_whole(out, wanted)
        assert run(source, out).exit_code == 0
        assert tree(out) == wanted


@pytest.mark.slow
class TestAFamilyOfFullSize:
    @pytest.fixture
    def large(self, tmp_path: Path) -> Path:
        """Some hundred MB that TensorFlow wrote."""
        pytest.importorskip("tensorflow")
        script = benchmark_checkpoints()
        folder = tmp_path / "large"
        for layers, hidden in ((2, 128), (4, 128), (2, 256), (4, 256), (6, 128)):
            size = script.Size(layers, hidden)
            script.make(size, folder / size.folder)
        return folder

    def test_killed_fifty_times_comes_out_as_if_nothing_had_happened(
        self, large: Path, tmp_path: Path
    ) -> None:
        undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
        begin = time.monotonic()
        with started(large, undisturbed, "--jobs", "2") as process:
            process.communicate(timeout=300)
        assert process.returncode == 0
        seconds = time.monotonic() - begin
        wanted = tree(undisturbed)
        chance = random.Random(1908)
        in_the_middle = 0
        for number in range(50):
            options = ["--force"] if number % 5 == 4 else []
            with started(large, out, "--jobs", "2", *options) as process:
                time.sleep(chance.uniform(0.1, seconds))
                if number % 3 == 0:
                    kill_a_worker(process, chance.choice([0, -1]))
                    process.communicate(timeout=300)
                    assert process.returncode == 0
                elif number % 3 == 1:
                    process.kill()
                    process.wait()
                else:
                    kill_group(process)
            if not out.exists():
                continue
            in_the_middle += bool(hidden(out)) or 0 < len(models(out)) < 5
            check_whole(out, wanted)
            # The workers of one that was killed may still be letting go.
            assert run(large, out, "--jobs", "2").exit_code == 0
            assert tree(out) == wanted
            if number % 5 != 3:
                shutil.rmtree(out)
        assert in_the_middle  # or the kills came too early or too late to tell anything
