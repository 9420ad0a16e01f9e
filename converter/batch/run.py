"""Many checkpoints -> a folder of model folders, with a table of them all."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import BatchError, OutputError
from ..mapping import builtin_mappings
from ..options import DEFAULTS, Options, make_options
from ..storage.files import Progress, absolute, is_url
from . import workers
from .jobs import Job, check_jobs, families, from_family, from_list, from_sources
from .table import ModelRow, read_family, write_family
from .task import Outcome, Task, failed
from .workers import Step, Workers, default_jobs

__all__ = ["Event", "Job", "ModelRow", "Summary", "batch", "default_jobs", "families", "find_jobs"]

_TICK_SECONDS = 0.1
_TABLE_SHARE = 0.05  # of the time, at most, goes into writing the table while others work


class Event(Struct, frozen=True):
    """Something that a person, or a program, may want to see."""

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
    sources: Sequence[str],
    out: str,
    options: Options = DEFAULTS,
    *,
    listed: Path | None = None,
    family: str | None = None,
    base_url: str | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> list[Job]:
    """Find all that is to be converted.

    Args:
        sources: checkpoints in any form that `convert` takes; folders, archives of archives and
            patterns such as `models/*.zip`, which are searched.
        out: where the model folders will be.
        listed: a TOML file whose `[[model]]` tables say `source`, `name` and options.
        family: the name of a published family; see `families`.
        base_url: where its files lie, if not where they were published.
        options: for all of them, but for what a list says.
        progress: told of the bytes that are unpacked.

    Raises:
        BatchError: the call is wrong; nothing was done.
        CheckpointError: not one of the sources can be found.
    """
    options = make_options(changes, options)
    jobs = list(from_sources(sources, options, progress))
    if listed is not None:
        jobs += from_list(listed, options, progress)
    if family is not None:
        jobs += from_family(family, base_url, options)
    elif base_url is not None:
        raise BatchError("a base URL is for a family; --family names one")
    # Several sources may mean the same checkpoint.
    jobs = list({(job.name, job.index or job.source, job.options): job for job in jobs}.values())
    check_jobs(jobs, sources, out)
    return jobs


def batch(
    jobs: Sequence[Job],
    out: str | os.PathLike[str],
    *,
    processes: int | None = None,
    level: str | None = None,
    force: bool = False,
    fail_fast: bool = False,
    scheduler: str | None = None,
    watch: Callable[[Event], None] = lambda _: None,
) -> Summary:
    """Convert many checkpoints, each into a folder of its own in `out`.

    What is there already, made of the same checkpoint with the same options, is left as it is; so
    a batch that was stopped goes on where it was. A failure is noted, and the others go on. Beside
    the folders are `family.json` and `README.md`, the table of all of them.

    Args:
        jobs: as `find_jobs` gives them.
        out: a folder, or a URL; it is made where it is missing.
        processes: how many are converted at a time; by default as many as the machine has
            processors and memory for, and one where torch and TensorFlow run, which use them all.
        level: what is proved of each before it is published: `weights`, `outputs`, `gradients`.
        force: replace what is there.
        fail_fast: begin no other after one failed.
        scheduler: the address of a Dask scheduler, whose workers do it.
        watch: told of what goes on, from the calling thread.

    Raises:
        BatchError: the scheduler can't be used.
        BertconvertError: it went away.
        OutputError: `out` can't be written, or holds a table that is not a batch's.
    """
    out = os.fspath(out)
    if not is_url(out):
        out = os.path.abspath(os.path.expanduser(out))
        try:
            os.makedirs(out, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out} can't be made: {error.strerror}") from error
    table = _Table(out)
    # The largest first, so that no processor is left with one at the end.
    tasks = [
        Task(
            number=number,
            job=replace(job, options=_absolute(job.options)),
            source=absolute(os.path.expanduser(job.source)),
            out=out,
            force=force,
            level=level,
            known=table.known.get(job.name),
        )
        for number, job in enumerate(sorted(jobs, key=lambda job: (-job.nbytes, job.name)))
    ]
    if processes is None:
        heavy = level not in (None, "weights")
        processes = 1 if heavy else min(default_jobs(), max(len(tasks), 1))

    def open_workers(alone: bool) -> AbstractContextManager[Workers]:
        if scheduler is not None:
            return workers.cluster(scheduler, out)
        return workers.processes(1 if alone else processes, len(tasks))

    counts = {"converted": 0, "unchanged": 0, "failed": 0}
    try:
        with closing(_outcomes(tasks, open_workers, fail_fast, watch)) as outcomes:
            for outcome in outcomes:
                counts[outcome.status] += 1
                table.add(outcome.model)
                watch(Event(outcome.status, tasks[outcome.number].job, model=outcome.model))
    finally:
        table.write()
    models = sorted(table.added, key=lambda model: model.name)
    return Summary(out, models, not_started=len(tasks) - len(models), **counts)


def _absolute(options: Options) -> Options:
    """The options with paths that hold in any folder."""
    files = {name: getattr(options, name) for name in ("config", "vocab")}
    paths = {name: path.expanduser().absolute() for name, path in files.items() if path is not None}
    if options.mapping is not None and options.mapping not in builtin_mappings():
        return replace(
            options, mapping=os.path.abspath(os.path.expanduser(options.mapping)), **paths
        )
    return replace(options, **paths)


class _Table:
    """The table of a family, written now and then while it grows."""

    def __init__(self, out: str) -> None:
        self.known = read_family(out)
        self.added: list[ModelRow] = []
        self._out = out
        # What failed before and is not tried again now is nothing that is there.
        self._models = {name: model for name, model in self.known.items() if not model.error}
        self._next = time.monotonic()

    def add(self, model: ModelRow) -> None:
        self.added.append(model)
        self._models[model.name] = model
        if time.monotonic() >= self._next:
            with suppress(OutputError):  # it is written once more, and that has to succeed
                self.write()

    def write(self) -> None:
        begin = time.monotonic()
        write_family(self._out, self._models)
        self._next = time.monotonic() + (time.monotonic() - begin) / _TABLE_SHARE


def _outcomes(
    tasks: Sequence[Task],
    open_workers: Callable[[bool], AbstractContextManager[Workers]],
    fail_fast: bool,
    watch: Callable[[Event], None],
) -> Generator[Outcome]:
    """Do the tasks; those whose worker died are done again, each alone, to see which killed it."""
    left, suspects = deque(tasks), deque[Task]()
    in_vain = 0  # rounds, in a row, in which no worker came as far as to begin
    while left or suspects:
        alone = bool(suspects)
        queue = deque([suspects.popleft()]) if alone else left
        with open_workers(alone) as opened:
            begun: set[int] = set()
            running: dict[Future[Outcome], Task] = {}
            lost: list[Task] = []
            try:
                while (queue or running) and not lost:
                    while queue and len(running) < (opened.at_once if fail_fast else opened.room):
                        task = queue.popleft()
                        running[_submit(opened, task)] = task
                    done, _ = wait(running, _TICK_SECONDS, FIRST_COMPLETED)
                    opened.check()
                    for future in done:
                        task = running.pop(future)
                        _tell(task, opened.step(task.number), begun, watch)
                        outcome = _outcome(future, task)
                        if outcome is None:
                            lost.append(task)
                            continue
                        yield outcome
                        if outcome.status == "failed" and fail_fast:
                            queue.clear()
                            left.clear()
                            suspects.clear()
                            for other in [f for f in running if f.cancel()]:
                                del running[other]
                    for task in running.values():
                        _tell(task, opened.step(task.number), begun, watch)
            except BrokenExecutor:  # from submit, before a future tells
                lost.append(task)
                for task in running.values():
                    _tell(task, opened.step(task.number), begun, watch)
            except BaseException:
                opened.stop()
                raise
            if lost or not running:
                opened.kill()
        lost += running.values()
        in_vain = in_vain + 1 if lost and not begun and not alone else 0
        if in_vain == 2:
            raise BatchError(
                "no worker process could begin. A program has to call batch() below"
                " `if __name__ == '__main__':`, as the workers import it"
            )
        for task in lost:
            if alone:
                yield failed(
                    task,
                    "its process was killed, twice; by the system, most likely, for want of memory",
                )
                if fail_fast:
                    return
            elif task.number in begun:
                suspects.append(task)
            else:
                left.append(task)


def _submit(opened: Workers, task: Task) -> Future[Outcome]:
    try:
        return opened.executor.submit(opened.work, task)
    except OSError as error:  # a pool that breaks while it starts a process closes what it needs
        raise BrokenExecutor from error


def _tell(task: Task, step: Step | None, begun: set[int], watch: Callable[[Event], None]) -> None:
    if step is None:
        return
    if task.number not in begun:
        begun.add(task.number)
        watch(Event("start", task.job))
    watch(Event("step", task.job, step))


def _outcome(future: Future[Outcome], task: Task) -> Outcome | None:
    """What became of a task; None where its worker died under it."""
    try:
        error = future.exception()
    except CancelledError:  # by a scheduler that is going away
        return None
    if error is None:
        return future.result()
    if isinstance(error, BrokenExecutor | SystemExit | KeyboardInterrupt):
        return None
    return failed(task, f"its worker was lost: {error}")
