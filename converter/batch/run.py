"""Converts many checkpoints, each into a model folder, with a table of all."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import BatchError, OutputError
from ..interrupts import held
from ..mapping import builtin_mappings
from ..options import DEFAULTS, Options, make_options
from ..storage.files import Progress
from ..storage.location import DiskPath, Location, parse_location
from ..verify import checked_level
from . import dask, processes
from .jobs import Job, check_jobs, from_family, from_list, from_sources
from .table import ModelRow, read_family, write_family
from .task import Outcome, Task, failed
from .workers import Step, Workers

_TICK_SECONDS = 0.1
_TABLE_SHARE = 0.05  # the most of the time that goes into writing the table
# A worker that is killed while another one starts can take the server that forks them with it, and
# so cost a second round. A third one fails only if no worker can start at all.
_FUTILE_ROUNDS = 3


class Event(Struct, frozen=True):
    """Something that happened to a model."""

    kind: str  # `start`, `step`, or what became of a model: `converted`, `unchanged`, `failed`
    job: Job
    step: Step = Step("", 0, 0)
    model: ModelRow | None = None  # of the last three kinds


class Summary(Struct, frozen=True):
    """What became of a batch."""

    out: str
    models: list[ModelRow]  # of this batch, in the order of their names; see `ModelRow.error`
    converted: int
    unchanged: int  # converted before
    failed: int
    not_started: int  # after a failure with `fail_fast`


def find_jobs(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: Options = DEFAULTS,
    *,
    listed: str | os.PathLike[str] | None = None,
    family: str | None = None,
    base_url: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> list[Job]:
    """Find every checkpoint in the sources.

    Args:
        sources: checkpoints in any form that `convert` takes; folders, archives of archives and
            patterns such as `models/*.zip`, which are searched.
        out: where the model folders will be.
        options: of all conversions; a list may change them for a model.
        listed: a TOML file whose `[[model]]` tables have `source`, `name` and options.
        family: the name of a published family.
        base_url: where its files are, if not where it was published.
        progress: told of the bytes that are unpacked.
        **changes: single options, which go over `options`.

    Raises:
        BatchError: the call is wrong; nothing was done.
        CheckpointError: none of the sources can be found.
        TypeError: `sources` is a single path, or an option is unknown.
        ValueError: an option has a wrong value.
    """
    if isinstance(sources, str | bytes | os.PathLike) or not isinstance(sources, Iterable):
        raise TypeError(f"sources must be a list of checkpoints, not the single {sources!r}")
    options = make_options(changes, options)
    paths, out = [os.fsdecode(source) for source in sources], os.fsdecode(out)
    jobs = list(from_sources(paths, options, progress))
    if listed is not None:
        jobs += from_list(Path(listed), options, progress)
    if family is not None:
        jobs += from_family(family, None if base_url is None else os.fsdecode(base_url), options)
    elif base_url is not None:
        raise BatchError("--base-url needs --family, which names a family")
    # Several sources may mean the same checkpoint.
    jobs = list({(job.name, job.index or job.source, job.options): job for job in jobs}.values())
    check_jobs(jobs, paths, out)
    return jobs


def batch(
    jobs: Sequence[Job],
    out: str | os.PathLike[str],
    *,
    processes: int | None = None,
    level: str | None = None,
    records: str | os.PathLike[str] | None = None,
    force: bool = False,
    fail_fast: bool = False,
    scheduler: str | None = None,
    watch: Callable[[Event], None] = lambda _: None,
) -> Summary:
    """Convert many checkpoints, each into a folder of its own in `out`.

    A model that exists, and was made from the same checkpoint with the same options, is left
    unchanged; so a batch that was stopped continues where it was. A failure is recorded, and the
    others are converted. Next to the folders are `family.json` and `README.md`, the table of all.

    Args:
        jobs: as `find_jobs` gives them.
        out: a folder, or a URL; a folder is created if it does not exist.
        processes: how many are converted at a time; by default as many as the machine has
            processors and memory for, and one where torch and TensorFlow run, because they use all
            processors.
        level: what is proved of each before it is published: `weights`, `outputs`, `gradients`.
        records: a folder on a disk for a golden record of each, which is created if it does not
            exist. A record that exists is left if it is of the same checkpoint.
        force: replace models that exist, and records.
        fail_fast: start no other after one has failed.
        scheduler: the address of a Dask scheduler, whose workers convert.
        watch: called with each event, from the calling thread.

    Raises:
        BatchError: the scheduler can't be used.
        BertconvertError: the scheduler went away.
        OutputError: `out` can't be written, or has a table that no batch wrote.
        TypeError: an argument is not what it must be.
        ValueError: there is no such level.
    """
    if level is not None:
        checked_level(level)
    if not isinstance(jobs, Sequence) or not all(isinstance(job, Job) for job in jobs):
        raise TypeError("jobs must be a list of Job, as find_jobs gives it")
    if processes is not None and (not isinstance(processes, int) or processes < 1):
        raise ValueError(f"processes must be a number from 1 on, not {processes!r}")
    jobs = [replace(job, options=absolute_paths(job.options)) for job in jobs]
    folder = parse_location(out).absolute()
    is_new = isinstance(folder, DiskPath) and not folder.kind()
    kept = None if records is None else _folder_of_records(records, folder, jobs)
    folder.make_folder()
    table = _Table(str(folder))
    # The largest first, so that no processor is left with one at the end.
    tasks = [
        Task(
            number=number,
            job=job,
            source=str(parse_location(job.source).absolute()),
            out=str(folder),
            force=force,
            level=level,
            records=kept,
            known=table.known.get(job.name),
        )
        for number, job in enumerate(sorted(jobs, key=lambda job: (-job.nbytes, job.name)))
    ]
    counts = {"converted": 0, "unchanged": 0, "failed": 0}
    is_heavy = level not in (None, "weights") or records is not None
    open_workers = _opener(str(folder), len(tasks), processes, is_heavy, scheduler)
    has_begun = True
    try:
        with closing(_outcomes(tasks, open_workers, fail_fast, watch)) as outcomes:
            for outcome in outcomes:
                counts[outcome.status] += 1
                table.add(outcome.model)
                watch(Event(outcome.status, tasks[outcome.number].job, model=outcome.model))
    except BatchError:
        has_begun = bool(table.added)
        raise
    finally:
        if has_begun:
            table.write()
        elif is_new:
            with suppress(OSError):  # another process put something into it
                os.rmdir(str(folder))
    models = sorted(table.added, key=lambda model: model.name)
    return Summary(str(folder), models, not_started=len(tasks) - len(models), **counts)


def _folder_of_records(records: str | os.PathLike[str], out: Location, jobs: Sequence[Job]) -> str:
    """The folder of the golden records, which is created.

    Raises:
        BatchError: it is at a URL, or in a model's folder, which may be replaced as a whole.
        OutputError: it can't be created.
    """
    place = parse_location(records).absolute()
    if not isinstance(place, DiskPath):
        raise BatchError(f"--record needs a folder on a disk, not {place.shown}")
    if found := next((job.name for job in jobs if out.join(job.name).contains(place)), ""):
        raise BatchError(f"--record can't be in the folder of the model {found}")
    place.make_folder()
    return str(place)


def _opener(
    out: str, tasks: int, jobs: int | None, is_heavy: bool, scheduler: str | None
) -> Callable[[bool], AbstractContextManager[Workers]]:
    """What opens the workers of a round, which may run one task alone."""
    if jobs is None:
        jobs = 1 if is_heavy else min(processes.default_jobs(), max(tasks, 1))

    def open_workers(alone: bool) -> AbstractContextManager[Workers]:
        if scheduler is not None:
            return dask.cluster(scheduler, out)
        return processes.processes(1 if alone else jobs, tasks)

    return open_workers


def absolute_paths(options: Options) -> Options:
    """The options, checked, with paths that hold in any folder."""
    options = make_options({}, options)
    files = {name: getattr(options, name) for name in ("config", "vocab")}
    paths = {name: path.expanduser().absolute() for name, path in files.items() if path is not None}
    if options.mapping is not None and options.mapping not in builtin_mappings():
        paths["mapping"] = os.path.abspath(os.path.expanduser(options.mapping))
    return replace(options, **paths)


class _Table:
    """The table of all models, written now and then while it grows."""

    def __init__(self, out: str) -> None:
        self.known = read_family(out)
        self.added: list[ModelRow] = []
        self._out = out
        # A model that failed before and is not tried again does not exist.
        self._models = {name: model for name, model in self.known.items() if not model.error}
        self._next = time.monotonic()

    def add(self, model: ModelRow) -> None:
        self.added.append(model)
        self._models[model.name] = model
        if time.monotonic() >= self._next:
            with suppress(OutputError):  # it is written again at the end, and that must succeed
                self.write()

    def write(self) -> None:
        start = time.monotonic()
        write_family(self._out, self._models)
        self._next = time.monotonic() + (time.monotonic() - start) / _TABLE_SHARE


def _outcomes(
    tasks: Sequence[Task],
    open_workers: Callable[[bool], AbstractContextManager[Workers]],
    fail_fast: bool,
    watch: Callable[[Event], None],
) -> Generator[Outcome]:
    """Do the tasks, in rounds: a round ends when its workers are done, or when one of them dies.

    Each task that was running then is done again, alone, to see which of them killed its worker.
    """
    waiting, suspects = deque(tasks), deque[Task]()
    futile = 0  # rounds in a row in which no task started
    while waiting or suspects:
        alone = bool(suspects)
        queue = deque([suspects.popleft()]) if alone else waiting
        with open_workers(alone) as workers:
            current = _Round(workers, queue, fail_fast, watch)
            yield from current.run()
        if current.failed and fail_fast:
            return
        futile = futile + 1 if current.lost and not current.started and not alone else 0
        if futile == _FUTILE_ROUNDS:
            raise BatchError(
                "no worker process could start. A program must call batch() below"
                " `if __name__ == '__main__':`, because the workers import it"
            )
        if futile:
            time.sleep(_TICK_SECONDS)  # the server may be dying, and must be dead to be replaced
        for task in current.lost:
            if alone:
                yield failed(
                    task, "the worker process was killed twice, probably because memory ran out"
                )
                if fail_fast:
                    return
            elif task.number in current.started:
                suspects.append(task)
            else:
                waiting.append(task)


class _Round:
    """Tasks on workers that were opened together.

    Args:
        workers: what runs the tasks.
        queue: the tasks; those that were not given to the workers stay in it.
        fail_fast: whether to start no other task after a failure.
        watch: told of each event.
    """

    def __init__(
        self,
        workers: Workers,
        queue: deque[Task],
        fail_fast: bool,
        watch: Callable[[Event], None],
    ) -> None:
        self.started: set[int] = set()  # the tasks' numbers
        self.lost: list[Task] = []  # tasks whose worker died, or that it had no time for
        self.failed = False
        self._workers = workers
        self._queue = queue
        self._fail_fast = fail_fast
        self._watch = watch
        self._running: dict[Future[Outcome], Task] = {}

    def run(self) -> Generator[Outcome]:
        """Run the tasks until all are done, or a worker dies; gives what becomes of each."""
        try:
            while (self._queue or self._running) and not self.lost:
                self._submit()
                done, _ = wait(self._running, _TICK_SECONDS, FIRST_COMPLETED)
                self._workers.check()
                for future in done:
                    yield from self._end(future)
                self._report()
        except BrokenExecutor:  # raised by submit, before any future tells
            self._report()
        except BaseException:
            self._workers.stop()
            raise
        self._workers.kill()
        self.lost += self._running.values()

    def _submit(self) -> None:
        """Give the workers as many tasks as they take.

        Raises:
            BrokenExecutor: a worker has died.
        """
        workers = self._workers
        capacity = workers.at_once if self._fail_fast else workers.capacity
        while self._queue and len(self._running) < capacity:
            task = self._queue.popleft()
            try:
                with held():  # a worker that the executor does not know would never end
                    self._running[workers.executor.submit(workers.work, task)] = task
            except (BrokenExecutor, OSError, EOFError) as error:
                # A pool that breaks while it starts a process closes what it needs: an OSError. A
                # server of forks that dies answers nothing: an EOFError.
                self.lost.append(task)
                raise BrokenExecutor from error

    def _end(self, future: Future[Outcome]) -> Iterator[Outcome]:
        """What became of a task that is done; nothing if its worker died."""
        task = self._running.pop(future)
        self._report_step(task)
        outcome = _outcome(future, task)
        if outcome is None:
            self.lost.append(task)
            return
        yield outcome
        if outcome.status == "failed":
            self.failed = True
            if self._fail_fast:
                self._queue.clear()
                for other in [f for f in self._running if f.cancel()]:
                    del self._running[other]

    def _report(self) -> None:
        for task in self._running.values():
            self._report_step(task)

    def _report_step(self, task: Task) -> None:
        step = self._workers.step(task.number)
        if step is None:
            return
        if task.number not in self.started:
            self.started.add(task.number)
            self._watch(Event("start", task.job))
        self._watch(Event("step", task.job, step))


def _outcome(future: Future[Outcome], task: Task) -> Outcome | None:
    """What became of a task; None if its worker died."""
    try:
        error = future.exception()
    except CancelledError:  # by a scheduler that is shutting down
        return None
    if error is None:
        return future.result()
    if isinstance(error, BrokenExecutor | SystemExit | KeyboardInterrupt):
        return None
    return failed(task, f"its worker was lost: {error}")
