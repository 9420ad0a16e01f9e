"""What runs tasks: an executor, and how far its tasks are."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from msgspec import Struct


class Step(Struct, frozen=True):
    """How far a task is."""

    what: str
    done: int  # bytes
    total: int  # 0 if unknown


class Workers(Struct, frozen=True):
    """An executor, and what its tasks report."""

    executor: Executor
    work: Callable[[Any], Any]  # a task -> what became of it
    at_once: int  # how many tasks run at a time
    capacity: int  # how many tasks it is given, so that no worker waits for this process
    step: Callable[[int], Step | None]  # of a task, by its number; None before it has started
    stop: Callable[[], None]  # makes running tasks end soon and leave nothing unfinished
    kill: Callable[[], None]  # ends the workers at once
    check: Callable[[], None]  # raises BertconvertError if the workers are unreachable


def nothing() -> None:
    """What a kind of workers does that has no way to stop or kill them."""
