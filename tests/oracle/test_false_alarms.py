"""The bounds of float32: no false alarm where there are few numbers, and no fault that passes."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def script(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(fixtures.parent / "benchmarks")
    import false_alarms

    return false_alarms


def prover(script: Any, folder: Path, head: str, *arguments: Any) -> Any:
    script.make(script.Size(2, 128), head, *arguments, folder / "source")
    return script.Prover(folder / "source", folder / "out", script.HEADS[head][0])


@pytest.mark.parametrize("head", ["pretraining", "regression", "squad"])
def test_few_numbers_give_no_false_alarm(head: str, script: Any, tmp_path: Path) -> None:
    few = prover(script, tmp_path, head, "trained", 4, 150)
    outputs = [output for seed in range(12) for output in few.outputs(1, seed)]
    assert [output for output in outputs if not output.as_accurate] == []


@pytest.mark.parametrize("samples", [1, 8])
def test_a_fault_that_float32_alone_has_is_caught(
    samples: int, script: Any, tmp_path: Path
) -> None:
    faulty = prover(script, tmp_path, "pretraining", "random", 16, 150)
    missed = []
    for fault in script.FAULTS:
        outputs = faulty.outputs(samples, 0, fault)
        assert all(output.same_function for output in outputs)
        if all(output.as_accurate for output in outputs):
            missed.append(fault)
    assert missed == []


@pytest.mark.parametrize("head", ["regression", "token", "squad"])
def test_a_head_of_fewer_bits_is_caught_at_the_head(head: str, script: Any, tmp_path: Path) -> None:
    faulty = prover(script, tmp_path, head, "random", 8, 150)
    for fault in script.FAULTS:
        if fault.startswith("the head"):
            outputs = faulty.outputs(8, 0, fault)
            coarse = {output.tensor for output in outputs if not output.as_accurate}
            assert coarse and all("logits" in name for name in coarse)
