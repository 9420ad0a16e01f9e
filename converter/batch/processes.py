"""Tasks in processes of this machine."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..interrupts import STOPS, held
from ..storage.files import Progress
from .task import do
from .workers import Step, Workers, nothing

if TYPE_CHECKING:
    from ctypes import Array, c_ulonglong

# The steps of a task, by the first word of what a progress callback gets. Shared memory holds their
# numbers; an unknown step counts as starting.
_STEPS = (
    "",
    "starting",
    "unpacking",
    "fetching",
    "converting",
    "comparing",
    "hashing",
    "verifying",
    "uploading",
)
# The most memory that a conversion takes, and that this process takes.
_JOB_BYTES, _BASE_BYTES = 128 * 10**6, 100 * 10**6
_GRACE_SECONDS = 0.5  # to remove unfinished files


def default_jobs() -> int:
    """The number of processors, or of conversions that fit the free memory if that is lower."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    fitting = (_free_memory() - _BASE_BYTES) // _JOB_BYTES
    return max(1, min(processors or 1, fitting))


def _free_memory() -> int:
    """Bytes that are free or can be freed, on Linux; unlimited elsewhere."""
    free = [1 << 62]
    try:
        with open("/proc/meminfo") as lines:
            free += [1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")]
        with (
            open("/sys/fs/cgroup/memory.max") as most,
            open("/sys/fs/cgroup/memory.current") as now,
        ):
            free.append(int(most.read()) - int(now.read()))
    except (OSError, ValueError):  # another system, or the limit is "max"
        pass
    return min(free)


@contextmanager
def processes(
    jobs: int, tasks: int, work: Callable[[Any, Progress], Any] = do
) -> Iterator[Workers]:
    """Processes of this machine.

    Threads would wait for each other, because planning holds the interpreter: two threads take half
    as long again as two processes.

    Args:
        jobs: how many at a time.
        tasks: the number of tasks, whose numbers start at 0.
        work: does a task, which has a `number`.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # A server imports once what all workers need, and is forked for each of them. This process is
    # not forked, because it may have threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.task"])
    with held():
        _start_server()
    # Shared memory without a lock, which a killed worker would leave locked: whether to stop, then
    # the step, the bytes done and the total of each task.
    table: Any = context.RawArray("Q", 1 + 3 * tasks)
    executor = ProcessPoolExecutor(jobs, context, _start_worker, (table,))

    def step(number: int) -> Step | None:
        what, done, total = table[1 + 3 * number : 4 + 3 * number]
        return Step(_STEPS[what], done, total) if what else None

    def stop() -> None:
        table[0] = 1

    others = set(multiprocessing.active_children())

    def kill() -> None:
        # The executor waits for all processes. It would wait forever for one that it starts while
        # it ends the others, or that waits for a lock which a killed process held.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()

    try:
        yield Workers(
            executor, partial(_in_process, work), jobs, 2 * jobs, step, stop, kill, nothing
        )
    finally:
        try:
            executor.shutdown(cancel_futures=True)
        except BaseException:  # a second interrupt
            with held():
                kill()
                executor.shutdown()
            raise


_table: "Array[c_ulonglong] | None" = None
_is_busy = False  # whether this process runs a task


def _start_server() -> None:
    """Start the server that forks the workers, with the signals of a terminal blocked.

    A terminal sends Ctrl-C to every process of a group. This process gets it too and stops the
    workers; if this process dies, they end by themselves.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(table: "Array[c_ulonglong]") -> None:
    """Make a process a worker."""
    global _table
    _table = table
    # The executor sends SIGTERM to the others when one was killed.
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end(number: int, _: object) -> None:
    if _is_busy:
        sys.exit(128 + number)  # which removes unfinished files on the way
    os._exit(128 + number)


def _end_with_parent() -> None:
    """End this worker when its parent ends, and leave nothing unfinished."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None and _table is not None
    connection.wait([parent.sentinel])
    _table[0] = 1
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _in_process(work: Callable[[Any, Progress], Any], task: Any) -> Any:
    global _is_busy
    assert _table is not None
    table, at = _table, 1 + 3 * task.number

    def progress(what: str, done: int, total: int) -> None:
        if table[0]:
            raise KeyboardInterrupt
        word = what.split(maxsplit=1)[0]
        table[at : at + 3] = [_STEPS.index(word) if word in _STEPS else 1, done, total]

    _is_busy = True
    try:
        progress("starting", 0, 0)
        return work(task, progress)
    except SystemExit:  # of `_end`; the executor would take it for the result of a task
        os._exit(128 + signal.SIGTERM)
    finally:
        _is_busy = False
