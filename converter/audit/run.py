"""Proves many pairs one after the other, with a table of all."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import closing, suppress

from msgspec import Struct
from msgspec.structs import asdict, replace

from ..batch.processes import processes
from ..batch.run import absolute_paths
from ..batch.workers import Step, Workers
from ..errors import BatchError, OutputError
from ..interrupts import held
from ..storage.location import Location, parse_location
from ..verify import checked_level
from ..verify.sides import POSITIONS, SAMPLES
from .pairs import Pair
from .table import Audit, PairRow, new_audit, read_earlier, write_audit
from .task import Done, Settings, Task, do, failed

_TICK_SECONDS = 0.1
_GRACE_SECONDS = 2.0  # for a worker to remove its temporary files after an interrupt
_TABLE_SHARE = 0.05  # the most of the time that goes into writing the table


class Event(Struct, frozen=True):
    """Something that happened to a pair: a step, or what became of it."""

    name: str
    step: Step = Step("", 0, 0)
    row: PairRow | None = None
    is_unchanged: bool = False  # whether the verdict is that of an earlier run


def audit(
    pairs: Sequence[Pair],
    out: str | os.PathLike[str],
    *,
    level: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    positions: int = POSITIONS,
    force: bool = False,
    watch: Callable[[Event], None] = lambda _: None,
) -> Audit:
    """Compare many model folders, each with its checkpoint.

    A pair that has a verdict is not proved again if nothing changed that the verdict depends on:
    the bytes of all files of both, the options, the level and the versions of the programs. So an
    audit that was stopped continues where it was. An error is the verdict of its pair only.

    Args:
        pairs: as `find_pairs` gives them.
        out: a folder, or a URL, for the table and the reports; it is created if it does not exist.
        level: as for `verify`; by default the highest that the installed packages allow for each.
        samples: as for `verify`.
        seed: as for `verify`.
        positions: as for `verify`.
        force: prove all again.
        watch: called with each event, from the calling thread.

    Raises:
        BatchError: `out` is in a folder that is compared.
        OutputError: `out` can't be written, or has files of these names that no audit wrote.
        ValueError: there is no such level.
    """
    settings = Settings(checked_level(level) if level else "", samples, seed, positions)
    folder = parse_location(out).absolute()
    for place in (place for pair in pairs for place in (pair.model, pair.reference)):
        if parse_location(place).contains(folder):
            shown = parse_location(place).shown
            raise BatchError(f"{folder.shown} is in {shown}, which is compared; choose another OUT")
    known = read_earlier(str(folder), [pair.name for pair in pairs])
    folder.make_folder()
    table = _Table(folder, pairs, settings, known)
    table.write()  # so that it never shows what an earlier run found as if it was found now
    tasks = [
        Task(
            number=number,
            pair=_absolute(pair),
            shown=pair.shown,
            out=str(folder),
            settings=settings,
            known=None if force else known.get(pair.name),
        )
        for number, pair in enumerate(pairs)
    ]
    # Models of one checkpoint follow each other, so that it is computed once.
    first = {task.pair.reference: task.number for task in reversed(tasks)}
    tasks.sort(key=lambda task: first[task.pair.reference])
    try:
        with closing(_results(tasks, watch, table.write_now_and_then)) as results:
            for task, done in results:
                table.add(task.number, done.row)
                watch(Event(done.row.name, row=done.row, is_unchanged=done.is_unchanged))
    finally:
        table.write()
    return table.audit


def _absolute(pair: Pair) -> Pair:
    """The pair, with paths that hold in any folder."""
    reference, model = (
        str(parse_location(place).absolute()) for place in (pair.reference, pair.model)
    )
    options = absolute_paths(pair.options)
    return replace(pair, reference=reference, model=model, options=options)


class _Table:
    """The table of all pairs, written now and then while they are proved."""

    def __init__(
        self, out: Location, pairs: Sequence[Pair], settings: Settings, known: dict[str, PairRow]
    ) -> None:
        rows = [PairRow(pair.name, *pair.shown, "NOT RUN") for pair in pairs]
        self.audit = new_audit(rows, [*known.values()], **asdict(settings))
        self._out = str(out)
        self._next = time.monotonic()
        self._is_written = False

    def add(self, number: int, row: PairRow) -> None:
        rows = [*self.audit.pairs]
        rows[number] = row
        earlier = [other for other in self.audit.earlier if other.name != row.name]
        self.audit = replace(self.audit, pairs=rows, earlier=earlier)
        self._is_written = False
        self.write_now_and_then()

    def write_now_and_then(self) -> None:
        """Write the table if it changed, and if it was not written a moment ago."""
        if not self._is_written and time.monotonic() >= self._next:
            with suppress(OutputError):  # it is written again at the end, and that must succeed
                self.write()

    def write(self) -> None:
        start = time.monotonic()
        write_audit(self._out, self.audit)
        self._is_written = True
        self._next = time.monotonic() + (time.monotonic() - start) / _TABLE_SHARE


def _results(
    tasks: Sequence[Task], watch: Callable[[Event], None], tick: Callable[[], None]
) -> Generator[tuple[Task, Done]]:
    """Do the tasks in a process that is replaced if it dies, one at a time.

    torch and TensorFlow use all processors, and take most of the memory.

    Args:
        tasks: what to do.
        watch: told of each step.
        tick: called now and then while a task runs.
    """
    waiting = deque(tasks)
    while waiting:
        with processes(1, len(tasks), do) as workers:
            alive = True
            while waiting and alive:
                task = waiting.popleft()
                try:
                    done = _result(task, workers, watch, tick)
                except BrokenExecutor:
                    alive = False
                    reason = "its process was killed, probably because memory ran out"
                    done = failed(task, reason)
                yield task, done
            if not alive:
                workers.kill()


def _result(
    task: Task, workers: Workers, watch: Callable[[Event], None], tick: Callable[[], None]
) -> Done:
    """What a worker makes of a task.

    Raises:
        BrokenExecutor: the worker died.
    """
    futures: list[Future[Done]] = []
    try:
        try:
            with held():  # a worker that the executor does not know would never end
                futures.append(workers.executor.submit(workers.work, task))
        except (OSError, EOFError) as error:  # the server that forks the workers died
            raise BrokenExecutor from error
        while not wait(futures, _TICK_SECONDS).done:
            tick()
            if step := workers.step(task.number):
                watch(Event(task.pair.name, step))
        return futures[0].result()
    except BrokenExecutor:
        raise
    except BaseException:
        try:
            workers.stop()
            wait(futures, _GRACE_SECONDS)
        finally:
            workers.kill()  # it may compute for minutes
        raise
