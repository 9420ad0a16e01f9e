"""A time limit, as reading untrusted bytes must not take forever."""

from collections.abc import Iterator

import pytest

from ..helpers import deadline

SECONDS = 30


@pytest.fixture(autouse=True)
def _ends_in_time() -> Iterator[None]:
    with deadline(SECONDS):
        yield
