"""What the original computes is kept for the next model of the same checkpoint."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bertconvert.converter.models.reference import Architecture, Samples
from bertconvert.converter.verify import tensorflow_process
from bertconvert.converter.verify.batches import Original
from bertconvert.converter.verify.original import Task
from bertconvert.converter.verify.tensorflow_process import computing, remembering

TASK = Task(
    checkpoint="one.zip",
    path="/tmp/one/model.ckpt",
    is_h5=False,
    variables={"kernel": "bert/kernel"},
    casts={},
    reference="bert",
    architecture=Architecture({}, (), "", "gelu", "tanh", "", {}),
    with_gradients=False,
    seed=0,
    pad_id=0,
)


def samples(token: int = 5) -> list[Samples]:
    ids = np.full((1, 3), token, np.int32)
    rows = np.arange(3)
    return [Samples(ids, np.ones_like(ids), np.zeros_like(ids), rows, rows[:1])]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Task]]:
    """The tasks that TensorFlow was given, which computes nothing here."""
    tasks = []

    def compute(task: Task, _: Any) -> Original:
        tasks.append(task)
        return Original([], tensorflow=str(len(tasks)))

    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    monkeypatch.setattr(tensorflow_process, "compute", compute)
    yield tasks


def version(task: Task, inputs: list[Samples]) -> str:
    with computing(task, inputs) as finish:
        return finish().tensorflow


def test_a_result_is_taken_again_wherever_the_checkpoint_was_unpacked(
    computed: list[Task],
) -> None:
    with remembering({}):
        first = version(TASK, samples())
        assert version(replace(TASK, path="/tmp/two/model.ckpt"), samples()) == first
    assert len(computed) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"casts": {"kernel": "float16"}},
        {"with_gradients": True},
        {"pad_id": None},
        {"architecture": replace(TASK.architecture, form="erf")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_result_of_another_task_is_not_taken(
    computed: list[Task], changes: dict[str, Any]
) -> None:
    with remembering({}):
        assert version(TASK, samples()) != version(replace(TASK, **changes), samples())


def test_a_result_of_other_sequences_is_not_taken(computed: list[Task]) -> None:
    with remembering({}):
        assert version(TASK, samples(5)) != version(TASK, samples(6))


def test_nothing_is_kept_unless_it_is_asked_for(computed: list[Task]) -> None:
    known: dict[bytes, Original] = {}
    with remembering(known):
        version(TASK, samples())
    version(TASK, samples())
    assert (len(computed), len(known)) == (2, 1)
