"""What becomes of tasks whose workers die: with workers that are made up, and die as told."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bertconvert.converter import batch as package
from bertconvert.converter.batch import Event, Job, Summary, batch, find_jobs
from bertconvert.converter.batch import processes as local
from bertconvert.converter.batch.processes import default_jobs
from bertconvert.converter.batch.task import Outcome, Task
from bertconvert.converter.batch.workers import Step, Workers
from bertconvert.converter.errors import BatchError

from .runs import children, copies, table

Did = Callable[[Task], Outcome]


class Pool:
    """An executor that does a task when somebody waits for it, as a process pool would.

    `deadly` says of how many more of its runs a task kills its worker, and with that the pool.
    """

    def __init__(self, did: Did, deadly: Counter[str], silent: bool, late: bool) -> None:
        self._did = did
        self._deadly = deadly
        self._silent = silent
        self._late = late
        self._broken = False
        self.begun: set[int] = set()

    def submit(self, _: object, task: Task) -> "Future[Outcome]":
        if self._broken and self._late:
            raise BrokenExecutor("a worker died")
        future: Future[Outcome] = Future()
        if self._deadly[task.job.name] > 0 and not self._broken:
            self._deadly[task.job.name] -= 1
            self._broken = True
        if not self._silent:
            self.begun.add(task.number)
        if self._broken:
            future.set_exception(BrokenExecutor("a worker died"))
        else:
            future.set_result(self._did(task))
        return future

    def step(self, number: int) -> Step | None:
        return Step("converting", 1, 2) if number in self.begun else None


Batch = Callable[..., tuple[Summary, list[Event]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Batch:
    """A batch of jobs a to e by such workers; `deadly` says whose worker dies, and how often."""

    def run(
        silent: bool = False, late: bool = False, fail_fast: bool = False, **deadly: int
    ) -> tuple[Summary, list[Event]]:
        left = Counter(deadly)

        def did(task: Task) -> Outcome:
            model = package.ModelRow(task.job.name, task.job.source, parameters=1)
            return Outcome(task.number, "converted", model)

        def nothing() -> None:
            pass

        @contextmanager
        def processes(jobs: int, tasks: int, *_: Any, **__: Any) -> Iterator[Workers]:
            pool: Any = Pool(did, left, silent, late)
            yield Workers(pool, did, jobs, 2 * jobs, pool.step, nothing, nothing, nothing)

        monkeypatch.setattr(local, "processes", processes)
        events: list[Event] = []
        jobs = [Job(name, f"/{name}") for name in "abcde"]
        summary = batch(
            jobs, tmp_path / "out", processes=2, fail_fast=fail_fast, watch=events.append
        )
        return summary, events

    return run


class TestADeadWorker:
    @pytest.mark.parametrize("late", [False, True])
    def test_is_made_good_by_doing_its_task_again(self, run: Batch, late: bool) -> None:
        for name in "abcde":
            summary, _ = run(late=late, **{name: 1})
            assert (summary.converted, summary.failed, summary.not_started) == (5, 0, 0), name

    @pytest.mark.parametrize("late", [False, True])
    def test_each_time_fails_the_task_that_kills_it_and_no_other(
        self, run: Batch, late: bool
    ) -> None:
        for name in "abcde":
            summary, events = run(late=late, **{name: 100})
            assert (summary.converted, summary.failed) == (4, 1)
            (failed,) = [model for model in summary.models if model.error]
            assert failed.name == name
            assert "killed twice" in failed.error
            ends = Counter(event.job.name for event in events if event.model is not None)
            assert ends == dict.fromkeys("abcde", 1)

    def test_of_several_tasks_fails_just_these(self, run: Batch, tmp_path: Path) -> None:
        summary, _ = run(b=100, d=100, e=1)
        assert sorted(model.name for model in summary.models if model.error) == ["b", "d"]
        assert summary.converted == 3
        verdicts = {name: row["verdict"] for name, row in table(tmp_path / "out").items()}
        assert {name for name, verdict in verdicts.items() if "killed" in verdict} == {"b", "d"}

    def test_of_every_task_fails_all_of_them(self, run: Batch) -> None:
        summary, _ = run(a=9, b=9, c=9, d=9, e=9)
        assert (summary.converted, summary.failed, summary.not_started) == (0, 5, 0)

    def test_each_time_is_the_end_with_fail_fast(self, run: Batch) -> None:
        summary, _ = run(fail_fast=True, a=100)
        assert summary.failed == 1
        assert summary.converted + summary.not_started == 4
        assert summary.not_started >= 3

    def test_before_anything_begins_is_made_good_too(self, run: Batch) -> None:
        summary, _ = run(silent=True, a=1)
        assert (summary.converted, summary.failed, summary.not_started) == (5, 0, 0)

    def test_each_time_before_anything_begins_is_an_error(self, run: Batch) -> None:
        with pytest.raises(BatchError, match="__main__"):
            run(silent=True, a=10**9, b=10**9, c=10**9, d=10**9, e=10**9)


# What a program looks like whose author forgot that worker processes import it.
UNGUARDED = """
import sys
from bertconvert.converter.batch import batch, find_jobs

batch(find_jobs([sys.argv[1]], sys.argv[2]), sys.argv[2])
"""


def test_a_program_that_workers_can_not_import_is_told_what_is_wrong(
    fixtures: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    command = [sys.executable, script, fixtures / "squad", tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "BatchError" in ended.stderr
    assert "if __name__ == '__main__':" in ended.stderr.splitlines()[-1]


def test_workers_are_as_many_as_asked_for(fixtures: Path, tmp_path: Path) -> None:
    jobs = find_jobs([str(copies(fixtures, tmp_path / "models", "abcdef"))], str(tmp_path / "out"))
    most = 0

    def watch(_: Event) -> None:
        nonlocal most
        # What forks them, and what cleans up after them, are no workers.
        most = max(most, len(children(os.getpid())) - 2)

    batch(jobs, tmp_path / "out", processes=3, watch=watch)
    assert 1 <= most <= 3


class TestTheNumberOfWorkers:
    def memory(self, monkeypatch: pytest.MonkeyPatch, nbytes: int, processors: int) -> int:
        monkeypatch.setattr(local, "_free_memory", lambda: nbytes)
        monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: set(range(processors)))
        return default_jobs()

    def test_is_that_of_the_processors_where_memory_allows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.memory(monkeypatch, 10**12, 7) == 7
        assert self.memory(monkeypatch, 100 * 10**6 + 3 * 128 * 10**6, 7) == 3
        assert self.memory(monkeypatch, 10**6, 7) == 1
        assert self.memory(monkeypatch, 10**12, 1) == 1

    def test_is_by_the_memory_that_this_machine_has(self) -> None:
        assert local._free_memory() > 0
        assert default_jobs() >= 1

    @pytest.mark.parametrize(("level", "wanted"), [(None, 4), ("weights", 4), ("outputs", 1)])
    def test_is_one_where_both_models_run_which_take_all_processors(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, level: str | None, wanted: int
    ) -> None:
        asked = []

        def processes(jobs: int, *_: Any, **__: Any) -> None:
            asked.append(jobs)
            raise KeyboardInterrupt

        monkeypatch.setattr(local, "processes", processes)
        monkeypatch.setattr(local, "default_jobs", lambda: 4)
        jobs = [Job(name, f"/{name}") for name in "abcdefgh"]
        with pytest.raises(KeyboardInterrupt):
            batch(jobs, tmp_path / "out", level=level)
        assert asked == [wanted]
