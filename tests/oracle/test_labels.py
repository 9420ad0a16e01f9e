"""Labels and problem types as transformers takes them, and the losses that follow from them."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertconvert import convert, verify
from bertconvert.converter.choices import ProblemType

from ..helpers import with_labels

REGRESSION, MULTI = "regression", "multi_label_classification"


@pytest.fixture
def source(fixtures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fixtures / "classifier", tmp_path / "in"))


@pytest.mark.parametrize("problem_type", [None, *get_args(ProblemType)])
def test_the_proof_computes_the_loss_of_the_problem(
    source: Path, tmp_path: Path, problem_type: str | None
) -> None:
    convert(source, tmp_path / "out", labels="a,b,c", problem_type=problem_type)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.problem_type == problem_type
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    verdict = verify(source, tmp_path / "out", level="gradients", samples=4)
    assert verdict.passed, verdict.checks
    assert any(
        gradient.scale > 0 for gradient in verdict.gradients if gradient.group == "classifier"
    )


@pytest.mark.parametrize("problem_type", [None, REGRESSION, MULTI])
def test_the_proof_computes_the_loss_of_one_label(
    source: Path, tmp_path: Path, problem_type: ProblemType | None
) -> None:
    with_labels(source, 1)
    convert(source, tmp_path / "out", problem_type=problem_type)
    verdict = verify(source, tmp_path / "out", level="gradients", samples=8)
    assert verdict.passed, verdict.checks
    (classifier,) = [g for g in verdict.gradients if g.tensor == "classifier.weight"]
    assert classifier.scale > 0


def test_one_label_is_what_transformers_makes_of_it(source: Path, tmp_path: Path) -> None:
    convert(with_labels(source, 1), tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    written = model.config.problem_type
    model.config.problem_type = None
    model(torch.tensor([[1, 2]]), labels=torch.tensor([0.5]))
    assert model.config.problem_type == written == REGRESSION
