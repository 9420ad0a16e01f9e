"""The pytest plugin: a fixture that fails a test unless a model folder is its checkpoint.

pytest imports this in every run, so it imports nothing of the converter before the fixture is used.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .converter.verify import Verdict


@pytest.fixture(scope="session")
def bertconvert_parity() -> "Callable[..., Verdict]":
    """Fails the test unless a model folder is its checkpoint; the failure is the report.

    Call it with a checkpoint or a golden record, the model folder, and the keywords of
    `bertconvert.verify`, such as `level`. It gives the verdict.
    """
    return _prove


def _prove(
    reference: str | os.PathLike[str], model: str | os.PathLike[str], **options: Any
) -> "Verdict":
    from . import BertconvertError, verify
    from .converter.verify.report import lines

    try:
        verdict = verify(reference, model, **options)
        failure = "" if verdict.passed else "\n".join(lines(verdict))
    except BertconvertError as error:
        failure = f"no verdict on {os.fspath(model)}: {error}"
    if failure:
        pytest.fail(failure, pytrace=False)
    return verdict
