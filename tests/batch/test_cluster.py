"""A batch on a Dask cluster: a scheduler and workers that are processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bertconvert.converter.batch import Job, batch, dask
from bertconvert.converter.errors import BatchError

from .runs import (
    Files,
    check_whole,
    copies,
    damage,
    lines,
    models,
    run,
    slowed,
    started,
    table,
    tree,
    until,
)

pytest.importorskip("distributed")

NAMES = [f"m{number:02d}" for number in range(16)]


class Cluster:
    """A scheduler, and the workers that are started for it; they write slowly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self._start("scheduler", *options, "--scheduler-file", str(file))
        until(lambda: file.exists() and file.read_bytes().endswith(b"}"))
        self.address = json.loads(file.read_bytes())["address"]

    def _start(self, what: str, *args: str, **env: str) -> "subprocess.Popen[bytes]":
        (self.folder / what).mkdir(exist_ok=True)
        with (self.folder / f"{what}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *args],
                stdout=log,
                stderr=log,
                cwd=self.folder / what,  # and not where the tests run
                env=slowed(self.folder / "site", 0.002) | env,
            )
        self._processes.append(process)
        return process

    def start_worker(self, name: str, **env: str) -> "subprocess.Popen[bytes]":
        place = ["--local-directory", str(self.folder / name)]
        alone = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name]
        return self._start("worker", self.address, *alone, *place, **env)

    def wait_for(self, count: int) -> None:
        """Wait until so many workers are there, no more and no fewer."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == count)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler that has no workers yet."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def cluster(bare: Cluster) -> Cluster:
    """A scheduler and two workers."""
    bare.start_worker("one")
    bare.start_worker("two")
    bare.wait_for(2)
    return bare


@pytest.fixture(scope="module")
def source(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copies(fixtures, tmp_path_factory.mktemp("cluster") / "models", NAMES)


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a run on this machine makes."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert run(source, out).exit_code == 0
    return tree(out)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "_CONNECT_SECONDS", 0.5)


class TestBeforeThereAreWorkers:
    def test_nothing_is_begun_and_it_is_told_how_to_start_some(
        self, bare: Cluster, source: Path, tmp_path: Path, impatient: None
    ) -> None:
        result = run(source, tmp_path / "out", "--scheduler", bare.address)
        assert result.exit_code == 2
        assert f"the scheduler at {bare.address} has no workers; start some" in result.output
        assert f"`dask worker {bare.address} --nthreads 1`" in result.output
        assert models(tmp_path / "out") == []

    def test_that_have_bertconvert_it_is_told_that_they_lack_it(
        self, bare: Cluster, source: Path, tmp_path: Path, impatient: None
    ) -> None:
        where = subprocess.run(
            [sys.executable, "-c", "import bertconvert"], cwd=tmp_path, env=without_path()
        )
        if where.returncode == 0:
            pytest.skip("it is installed, and not on PYTHONPATH alone")
        worker = bare.start_worker("ignorant", PYTHONPATH="")
        bare.wait_for(1)
        result = run(source, tmp_path / "out", "--scheduler", bare.address)
        assert result.exit_code == 2
        assert f"the workers of {bare.address} can't use bertconvert" in result.output
        assert "No module named 'bertconvert'" in result.output
        assert "Install version" in result.output
        assert "Traceback" not in result.output
        assert models(tmp_path / "out") == []
        worker.terminate()
        bare.wait_for(0)


def without_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class TestACluster:
    def test_makes_the_same_bytes_as_this_machine(
        self, cluster: Cluster, source: Path, local: Files, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        result = run(source, out, "--scheduler", cluster.address)
        assert result.exit_code == 0, result.stderr
        assert "16 models: 16 converted" in result.output
        assert tree(out) == local
        again = run(source, out, "--scheduler", cluster.address, "--json")
        assert lines(again.stdout)[-1]["unchanged"] == 16
        assert tree(out) == local

    def test_takes_paths_that_are_relative_to_where_it_is_called(
        self, cluster: Cluster, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(source / "m00", tmp_path / "models" / "a")
        (tmp_path / "models" / "a" / "vocab.txt").rename(tmp_path / "words.txt")
        monkeypatch.chdir(tmp_path)
        options = ["--vocab", "words.txt", "--scheduler", cluster.address]
        result = run("models", "out", *options)
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / "out" / "a" / "tokenizer.json").exists()
        assert run("models", "local", "--vocab", "words.txt").exit_code == 0
        assert tree(tmp_path / "out") == tree(tmp_path / "local")

    def test_tells_what_goes_on(
        self, cluster: Cluster, source: Path, fixtures: Path, tmp_path: Path
    ) -> None:
        bad = copies(fixtures, tmp_path, ["bad"]) / "bad"
        damage(bad)
        out, options = tmp_path / "out", ["--scheduler", cluster.address, "--json"]
        result = run(source / "m00", source / "m01", bad, out, *options)
        assert (result.exit_code, result.stderr) == (1, "")
        *events, end = lines(result.stdout)
        assert end["converted"] == 2 and end["failed"] == 1
        for name, last in (("m00", "converted"), ("m01", "converted"), ("bad", "failed")):
            kinds = [event["event"] for event in events if event["name"] == name]
            assert kinds[-1] == last
            assert kinds[0] == "start"
        assert "is damaged at" in table(out)["bad"]["verdict"]
        assert models(out) == ["m00", "m01"]

    def test_begins_no_other_with_fail_fast(
        self, cluster: Cluster, source: Path, fixtures: Path, tmp_path: Path
    ) -> None:
        damage(copies(fixtures, tmp_path, ["bad"], of="pretraining") / "bad")  # the largest
        options = ["--fail-fast", "--scheduler", cluster.address, "--json"]
        result = run(source, tmp_path / "bad", tmp_path / "out", *options)
        assert result.exit_code == 1
        end = lines(result.stdout)[-1]
        assert end["failed"] == 1
        assert end["not_started"] >= 13
        assert len(models(tmp_path / "out")) == end["converted"]

    def test_that_loses_a_worker_does_all_jobs_all_the_same(
        self, cluster: Cluster, source: Path, local: Files, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        third = cluster.start_worker("three", PAUSE="0.02")
        cluster.wait_for(3)
        with started(source, out, "--scheduler", cluster.address, "--json") as process:
            until(lambda: len(list(out.glob(".*.bertconvert/model.safetensors"))) == 3)
            third.kill()  # in the middle of a model, which takes it a second
            said, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        end = lines(said)[-1]
        assert end["converted"] + end["unchanged"] == 16
        assert end["failed"] == 0
        assert tree(out) == local
        cluster.wait_for(2)

    def test_goes_on_when_the_call_was_killed_and_is_made_again(
        self, cluster: Cluster, source: Path, local: Files, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with started(source, out, "--scheduler", cluster.address) as process:
            until(lambda: len(models(out)) >= 3)
            process.kill()
            process.wait()
        check_whole(out, local)
        result = run(source, out, "--scheduler", cluster.address)
        assert result.exit_code == 0, result.stderr
        assert tree(out) == local

    def test_is_left_in_peace_by_a_call_that_is_stopped(
        self, cluster: Cluster, source: Path, local: Files, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with started(source, out, "--scheduler", cluster.address) as process:
            until(lambda: len(models(out)) >= 2)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "stopped. Finished models stay" in error
        assert "Traceback" not in error
        cluster.wait_for(2)
        assert run(source, out, "--scheduler", cluster.address).exit_code == 0
        assert tree(out) == local

    def test_whose_scheduler_dies_ends_the_call_and_keeps_what_is_done(
        self, source: Path, local: Files, tmp_path: Path
    ) -> None:
        own, out = Cluster(tmp_path), tmp_path / "out"
        try:
            own.start_worker("only", PAUSE="0.01")
            own.wait_for(1)
            with started(source, out, "--scheduler", own.address) as process:
                until(lambda: len(models(out)) >= 1)
                own._processes[0].kill()
                own._processes[0].wait()
                _, error = process.communicate(timeout=60)
            assert process.returncode == 1
            assert f"the scheduler at {own.address} went away" in error
            assert "Traceback" not in error
        finally:
            own.stop()
        check_whole(out, local)
        assert run(source, out).exit_code == 0
        assert tree(out) == local


class TestASchedulerThatIsNone:
    @pytest.mark.parametrize(
        "address", ["tcp://127.0.0.1:1", "127.0.0.1:1", "nonsense", "http://127.0.0.1:1", ""]
    )
    def test_is_a_wrong_call(
        self, source: Path, tmp_path: Path, impatient: None, address: str
    ) -> None:
        result = run(source, tmp_path / "out", "--scheduler", address)
        assert result.exit_code == 2
        assert f"no scheduler answers at {address} " in result.output
        assert "`dask scheduler`" in result.output
        assert "Traceback" not in result.output
        assert len([line for line in result.output.splitlines() if "Error" in line]) == 1
        assert models(tmp_path / "out") == []

    def test_for_want_of_dask_is_told(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        result = run(source, tmp_path / "out", "--scheduler", "tcp://127.0.0.1:1")
        assert result.exit_code == 2
        assert "pip install 'bertconvert[cluster]'" in result.output


class Client:
    """What a cluster's client says of workers that are elsewhere."""

    version = dask.__version__
    sees = True

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {"tcp://far:1": {"nthreads": 1}, "tcp://farther:2": {"nthreads": 2}}}

    def run(self, call: Callable[..., object], *args: object) -> dict[str, object]:
        far = self.version if call is dask._version else self.sees and call(*args)
        return {"tcp://far:1": call(*args), "tcp://farther:2": far}

    def close(self) -> None:
        pass


class TestWorkersElsewhere:
    def refusal(self, monkeypatch: pytest.MonkeyPatch, out: Path) -> str:
        monkeypatch.setattr("distributed.Client", Client)
        with pytest.raises(BatchError) as caught:
            batch([Job("m", "/m")], out, scheduler="tcp://far:0")
        assert [name for name in os.listdir(out) if name.startswith(".")] == []
        return str(caught.value)

    def test_that_have_another_version_are_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(Client, "version", "0.0.9")
        said = self.refusal(monkeypatch, tmp_path)
        assert "have bertconvert 0.0.9, " in said
        assert f"but this is {dask.__version__}" in said

    def test_that_do_not_see_the_folder_are_refused_and_one_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(Client, "sees", False)
        said = self.refusal(monkeypatch, tmp_path)
        assert said.startswith(f"the worker tcp://farther:2 does not see {tmp_path}. ")
        assert "a URL" in said

    def test_do_as_many_tasks_as_they_have_threads(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        assert dask._check_workers(Client(), "tcp://far:0", str(tmp_path)) == 3
