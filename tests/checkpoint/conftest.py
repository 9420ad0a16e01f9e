"""What reading untrusted bytes must not do in any test: take for ever."""

from collections.abc import Iterator

import pytest

from ..helpers import deadline

SECONDS = 30


@pytest.fixture(autouse=True)
def _ends_in_time() -> Iterator[None]:
    with deadline(SECONDS):
        yield
