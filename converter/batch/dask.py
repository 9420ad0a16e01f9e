"""Tasks on the workers of an existing Dask cluster."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from ... import __version__
from ..errors import BatchError, BertconvertError
from ..storage.location import DiskPath, parse_location
from ..text import pip_install
from .task import Outcome, Task, do
from .workers import Step, Workers, nothing

_CONNECT_SECONDS, _REPORT_SECONDS = 10, 1.0


@contextmanager
def cluster(address: str, out: str) -> Iterator[Workers]:
    """The workers of a Dask scheduler, each of which writes into the folder `out`.

    Raises:
        BatchError: dask.distributed is not installed, no scheduler answers, there are no workers,
            or they have another version of bertconvert or don't see `out`.
    """
    import logging
    import uuid

    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise BatchError(
            f"--scheduler needs dask.distributed, which can't be imported ({error}). Install it:"
            f" {pip_install('cluster', 'distributed')}"
        ) from error
    for loud in ("distributed", "distributed.client", "tornado.application"):
        # They log a traceback for a connection that ends; the error below says it in a sentence.
        logging.getLogger(loud).setLevel(logging.CRITICAL)
    try:
        get_address_host_port(address)  # a client with a malformed address hangs
        client: Any = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:  # a timeout is an OSError
        raise BatchError(
            f"no scheduler answers at {address} ({error or type(error).__name__}). Is it running"
            " (`dask scheduler`), and is the address the one that it printed?"
        ) from error
    try:
        threads = _check_workers(client, address, out)
        topic = f"bertconvert-{uuid.uuid4().hex}"
        steps: dict[int, Step] = {}

        def receive(event: tuple[float, tuple[int, str, int, int]]) -> None:
            number, what, done, total = event[1]
            steps[number] = Step(what, done, total)

        client.subscribe_topic(topic, receive)

        def check() -> None:
            # Some futures would never end.
            if client.status != "running":
                raise BertconvertError(
                    f"the scheduler at {address} went away. What is done stays; the same call goes"
                    " on from there"
                )

        executor = client.get_executor(pure=False)
        try:
            capacity = 2 * threads + 32
            work = _OnCluster(topic)
            yield Workers(executor, work, threads, capacity, steps.get, nothing, nothing, check)
        finally:
            executor.shutdown(wait=False)  # which cancels tasks that have not started
            client.unsubscribe_topic(topic)
    finally:
        client.close()


def _check_workers(client: Any, address: str, out: str) -> int:
    """The number of tasks that the workers run at a time, after checking that they can run ours."""
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
    except Exception as error:  # any error of a worker that can't import it
        raise BatchError(
            f"the workers of {address} can't use bertconvert ({error}). Install version"
            f" {__version__} where they run"
        ) from error
    if versions != {__version__}:
        raise BatchError(
            f"the workers of {address} have bertconvert {', '.join(sorted(versions))}, but this is"
            f" {__version__}. Install one version everywhere, so that all write the same bytes"
        )
    folder = parse_location(out)
    if isinstance(folder, DiskPath):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".bertconvert-") as mark:
            blind = [who for who, sees in client.run(os.path.exists, mark.name).items() if not sees]
        if blind:
            raise BatchError(
                f"the worker {blind[0]} does not see {out}. OUT must be a folder that all machines"
                " share under the same path, or a URL"
            )
    return sum(worker["nthreads"] for worker in workers.values())


def _version() -> str:
    return __version__


class _OnCluster(Struct, frozen=True):
    """Runs a task in a Dask worker, and reports its progress to a topic of the scheduler."""

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
