"""Every mistake that a checkpoint catches at level weights, a golden record of it catches, too."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert import record, verify
from bertconvert.converter.verify import Verdict

from .sabotage import CONFIGS, LAYERS, TENSORS, Sabotage, of_layer, sabotaged

EVERYWHERE = [*TENSORS, *CONFIGS, *(mistake for n in LAYERS for mistake in of_layer(n))]
# Causes that are found in the variable's numbers, of which a record has a checksum only.
IN_NUMBERS = {
    "rows shifted",
    "rows in another order",
    "columns in another order",
    "numbers in another order",
    "dimensions in another order",
    "rounded",
    "NaN or infinity",
    "few numbers",
    "few rows",
    "scaled",
}


def causes(verdict: Verdict) -> set[tuple[str, str]]:
    """Each tensor that has a cause, with the kind that a record can tell."""
    return {
        ("unknown" if cause.kind in IN_NUMBERS else cause.kind, tensor)
        for cause in verdict.causes
        for tensor in cause.tensors
    }


def assert_alike(by_record: Verdict, by_checkpoint: Verdict) -> None:
    """Assert that both find the same, but for what is in the variables' numbers."""
    failed = [(check.level, check.name) for check in by_checkpoint.checks if not check.passed]
    assert failed
    assert [(c.level, c.name) for c in by_record.checks if not c.passed] == failed
    assert by_record.first_tensor == by_checkpoint.first_tensor
    assert by_record.first_output == by_checkpoint.first_output
    assert by_record.faulty == by_checkpoint.faulty
    assert causes(by_record) == causes(by_checkpoint)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fixtures = Path(__file__).parents[2] / "fixtures"
    path = tmp_path_factory.mktemp("record") / "pretraining.safetensors"
    record(fixtures / "pretraining", path, level="weights")
    return path


@pytest.mark.parametrize("sabotage", EVERYWHERE, ids=lambda m: f"{m.name}: {m.tensor}")
def test_at_level_weights(
    sabotage: Sabotage,
    file: Path,
    fixtures: Path,
    converted: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    by_record, by_checkpoint = (
        verify(source, out, level="weights") for source in (file, fixtures / "pretraining")
    )
    assert_alike(by_record, by_checkpoint)
    assert by_record.facts == by_checkpoint.facts
    unknown = [cause.text for cause in by_record.causes if cause.kind == "unknown"]
    assert all("a record has checksums, and not the numbers" in text for text in unknown)
