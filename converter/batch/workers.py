"""Where tasks are done: processes of this machine, or an existing Dask cluster.

Both are a `concurrent.futures.Executor`, beside which every task says how far it is.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ... import __version__
from ..errors import BatchError, BertconvertError
from ..storage.files import is_url
from .task import Outcome, Task, do

if TYPE_CHECKING:
    from ctypes import Array, c_ulonglong

# What a task may be doing, by the first word of what a progress callback is told.
_STEPS = (
    "",
    "starting",
    "unpacking",
    "fetching",
    "converting",
    "hashing",
    "verifying",
    "uploading",
)
_JOB_BYTES, _BASE_BYTES = 128 * 10**6, 100 * 10**6  # what a conversion takes at most, and we do
_CONNECT_SECONDS, _REPORT_SECONDS = 10, 1.0
_STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_GRACE_SECONDS = 0.5  # for taking away what is half made


class Step(Struct, frozen=True):
    """How far a task is."""

    what: str
    done: int  # bytes
    total: int  # 0 where that is not known


class Workers(Struct, frozen=True):
    """An executor, and what its tasks say of themselves."""

    executor: Executor
    work: Callable[[Task], Outcome]
    at_once: int  # how many tasks are done at a time
    room: int  # how many it is given, so that none of them waits for us
    step: Callable[[int], Step | None]  # of a task, by its number; None before it has begun
    stop: Callable[[], None]  # makes what runs end soon, and leave nothing half made
    kill: Callable[[], None]  # ends them at once, when one died or there is no more to do
    check: Callable[[], None]  # raises BertconvertError where nobody is there any more


def default_jobs() -> int:
    """As many as there are processors, and as the free memory holds conversions."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    room = (_free_memory() - _BASE_BYTES) // _JOB_BYTES
    return max(1, min(processors or 1, room))


def _free_memory() -> int:
    """Bytes that are free or can be, by Linux and by the control group; plenty elsewhere."""
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
def processes(jobs: int, tasks: int) -> Iterator[Workers]:
    """Processes of this machine.

    Threads would wait for each other: planning holds the interpreter, and the kernel lets one
    thread at a time write to a file. Two take half as long again as two processes.

    Args:
        jobs: how many at a time.
        tasks: one more than the highest number of a task.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # A server that imports what all need, once, and is forked; this process, which may have
    # threads, is not.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.work"])
    _start_server()
    # Shared memory, without a lock: a worker that is killed leaves none behind it.
    table: Any = context.RawArray("Q", 1 + 3 * tasks)  # whether to stop; step, done, total of each
    executor = ProcessPoolExecutor(jobs, context, _begin, (table,))

    def step(number: int) -> Step | None:
        what, done, total = table[1 + 3 * number : 4 + 3 * number]
        return Step(_STEPS[what], done, total) if what else None

    def stop() -> None:
        table[0] = 1

    others = set(multiprocessing.active_children())

    def kill() -> None:
        # The executor waits for all. For one that it begins while it ends the others, or that
        # waits for a lock which another held when it was killed, it would wait for ever.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()

    try:
        yield Workers(executor, _in_process, jobs, 2 * jobs, step, stop, kill, _nothing)
    finally:
        executor.shutdown(cancel_futures=True)


def _nothing() -> None:
    pass


_table: "Array[c_ulonglong] | None" = None
_is_busy = False  # whether a task is being done in this process


def _start_server() -> None:
    """Start the server whose forks the workers are, deaf to what is sent to all of us.

    Who began them is told, too, and lets them stop; without it they end by themselves.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # which would make us hear again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(table: "Array[c_ulonglong]") -> None:
    """Make a process a worker."""
    global _table
    _table = table
    # The executor, which ends the others so when one was killed, has to be heard.
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end(number: int, _: object) -> None:
    if _is_busy:
        sys.exit(128 + number)  # by way of what takes away what is half made
    os._exit(128 + number)


def _end_with_parent() -> None:
    """Nobody waits for the work of a process whose parent was killed: end, and leave no half."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None and _table is not None
    connection.wait([parent.sentinel])
    _table[0] = 1
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _in_process(task: Task) -> Outcome:
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
        return do(task, progress)
    finally:
        _is_busy = False


@contextmanager
def cluster(address: str, out: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler, each of which writes into the folder `out`.

    Raises:
        BatchError: dask.distributed is not installed, nobody answers there, there are no workers,
            or they have another bertconvert or another disk.
    """
    import logging
    import uuid

    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise BatchError(
            f"--scheduler needs dask.distributed, which can't be imported ({error});"
            " `pip install 'bertconvert[cluster]'` brings it"
        ) from error
    for loud in ("distributed", "distributed.client", "tornado.application"):
        # What they say of a connection that ends is a traceback; we have our own words for it.
        logging.getLogger(loud).setLevel(logging.CRITICAL)
    try:
        get_address_host_port(address)  # a client of a wrong one is not easily ended
        client: Any = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:  # a timeout is an OSError
        raise BatchError(
            f"no scheduler answers at {address} ({error or type(error).__name__}). Is it running"
            " (`dask scheduler`), and is the address the one that it printed?"
        ) from error
    try:
        threads = _check_workers(client, address, out)
        topic = f"bertconvert-{uuid.uuid4().hex}"
        said: dict[int, Step] = {}

        def hear(event: tuple[float, tuple[int, str, int, int]]) -> None:
            number, what, done, total = event[1]
            said[number] = Step(what, done, total)

        client.subscribe_topic(topic, hear)

        def check() -> None:
            # Of some futures nothing more would be heard.
            if client.status != "running":
                raise BertconvertError(
                    f"the scheduler at {address} went away. What is done stays; the same call goes"
                    " on from there"
                )

        executor = client.get_executor(pure=False)
        try:
            room = 2 * threads + 32
            work = _OnCluster(topic)
            yield Workers(executor, work, threads, room, said.get, _nothing, _nothing, check)
        finally:
            executor.shutdown(wait=False)  # which takes back what has not begun
            client.unsubscribe_topic(topic)
    finally:
        client.close()


def _check_workers(client: Any, address: str, out: str) -> int:
    """How many tasks the workers do at a time, once it is known that they can do ours."""
    waited = time.monotonic() + _CONNECT_SECONDS
    while not (workers := client.scheduler_info(n_workers=-1)["workers"]):
        if time.monotonic() > waited:
            raise BatchError(
                f"the scheduler at {address} has no workers; start some:"
                f" `dask worker {address} --nthreads 1`"
            )
        time.sleep(0.1)
    try:
        versions = set(client.run(_version).values())
    except Exception as error:  # what the workers raise when they can't import it, of any kind
        raise BatchError(
            f"the workers of {address} can't use bertconvert ({error}). Install version"
            f" {__version__} where they run"
        ) from error
    if versions != {__version__}:
        raise BatchError(
            f"the workers of {address} have bertconvert {', '.join(sorted(versions))}, and this is"
            f" {__version__}: install one version everywhere, so that all make the same bytes"
        )
    if not is_url(out):
        with tempfile.NamedTemporaryFile(dir=out, prefix=".bertconvert-") as mark:
            blind = [who for who, sees in client.run(os.path.exists, mark.name).items() if not sees]
        if blind:
            raise BatchError(
                f"the worker {blind[0]} does not see {out}. OUT has to be a folder that all"
                " machines share, under the same path, or a URL"
            )
    return sum(worker["nthreads"] for worker in workers.values())


def _version() -> str:
    return __version__


class _OnCluster(Struct, frozen=True):
    """Does a task in a Dask worker, and reports how far it is to a topic of the scheduler."""

    topic: str

    def __call__(self, task: Task) -> Outcome:
        from distributed import get_worker

        worker = get_worker()
        last = ("", 0.0)

        def progress(what: str, done: int, total: int) -> None:
            nonlocal last
            word, now = what.split(maxsplit=1)[0], time.monotonic()
            if word != last[0] or now - last[1] >= _REPORT_SECONDS:
                last = word, now
                worker.log_event(self.topic, (task.number, word, done, total))

        progress("starting", 0, 0)
        return do(task, progress)
