"""Holds Ctrl-C and the other signals that stop a program back, where they would leave a mess."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back until the block ends, for steps that must be done together.

    It is meant for moments. Python runs the handlers of signals in the main thread, so in other
    threads there is nothing to hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        came.append(number)

    # None is the handler of a program that embeds Python, and can't be put back.
    before = {stop: found for stop in STOPS if (found := signal.getsignal(stop)) is not None}
    for stop, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(stop, keep)
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
        if came:
            signal.raise_signal(came[0])
