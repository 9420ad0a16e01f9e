"""What reading untrusted bytes must not do in any test: take for ever."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

SECONDS = 30


@pytest.fixture(autouse=True)
def _ends_in_time() -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"still at work after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
