"""Every mistake of the list is caught without torch or TensorFlow, and its cause is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert.converter.verify import verify

from .sabotage import CONFIGS, LAYERS, TENSORS, Sabotage, of_layer, sabotaged

EVERYWHERE = [*TENSORS, *(mistake for number in LAYERS for mistake in of_layer(number))]


def named(sabotage: Sabotage) -> str:
    return f"{sabotage.name}: {sabotage.tensor}"


@pytest.mark.parametrize("sabotage", EVERYWHERE, ids=named)
def test_a_mistake_in_the_tensors_is_caught_at_level_weights_and_named(
    sabotage: Sabotage, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="weights")
    assert not verdict.passed
    assert (sabotage.kind, sabotage.tensor) in {(c.kind, c.tensors[0]) for c in verdict.causes}
    assert verdict.first_tensor == sabotage.tensor or sabotage.kind == "missing"


@pytest.mark.parametrize("sabotage", CONFIGS, ids=named)
def test_a_config_edited_by_hand_is_caught_at_level_weights(
    sabotage: Sabotage, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="weights")
    failed = [check for check in verdict.checks if not check.passed]
    assert "config.json" in [check.name for check in failed]
    assert verdict.first_tensor == ""


def test_there_are_mistakes_of_more_than_fifteen_kinds() -> None:
    assert len({mistake.kind for mistake in [*EVERYWHERE, *CONFIGS]}) >= 15
