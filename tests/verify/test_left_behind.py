"""What a conversion skips, and that its folder is proved without saying it again."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bertconvert import PlanError, convert
from bertconvert.cli import cli
from bertconvert.converter.verify import verify

from ..helpers import changed_copy

CRF = {"crf_loss/transitions": (5, 5), "project/logits/W": (32, 5)}
EXTRA = {"bert/embeddings/extra": (7, 32)}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)], prog_name="bertconvert")


@pytest.fixture
def crf(fixtures: Path, tmp_path: Path) -> Path:
    return changed_copy(tmp_path / "crf", fixtures / "classifier", CRF, without="output_")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--head", "none"], "a head of its own, outside of bert/: not part of BertModel"),
        (["--drop", "crf_loss/*", "--drop", "project/**/*"], "by the caller"),
    ],
)
def test_a_head_that_is_left_behind_is_recorded_listed_and_proved(
    crf: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    out = tmp_path / "out"
    assert run("tf2pt", crf, out, *options).exit_code == 0
    record = json.loads((out / "conversion.json").read_text())
    assert record["dropped"] == dict.fromkeys(CRF, reason)
    card = (out / "README.md").read_text()
    assert all(f"`{name}`" in card for name in CRF)
    explained = run("explain", crf, *options).output
    assert reason in explained and all(name in explained for name in CRF)
    assert run("verify", crf, out, "--level", "weights").exit_code == 0


@pytest.mark.parametrize("head", ["none", None])
def test_a_variable_that_was_not_there_at_the_conversion_fails(
    crf: Path, tmp_path: Path, head: str | None
) -> None:
    convert(crf, tmp_path / "out", head=head, drop=() if head else tuple(CRF))
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    del record["dropped"]["crf_loss/transitions"]
    (tmp_path / "out" / "conversion.json").write_text(json.dumps(record))
    verdict = verify(crf, tmp_path / "out", level="weights")
    (wrong,) = [check for check in verdict.checks if not check.passed]
    assert wrong.name == "conversion.json"
    assert "crf_loss/transitions is missing" in wrong.detail


def test_a_part_of_the_encoder_that_is_skipped_is_in_every_report(
    fixtures: Path, tmp_path: Path
) -> None:
    source = changed_copy(tmp_path / "in", fixtures / "classifier", EXTRA)
    out = tmp_path / "out"
    assert run("tf2pt", source, out, "--head", "none").exit_code == 1
    made = run("tf2pt", source, out, "--drop", *EXTRA)
    (doubt,) = verify(source, out, level="weights").notes
    assert "bert/embeddings/extra" in doubt and "something else" in doubt
    assert doubt in made.output
    assert doubt in (out / "README.md").read_text()
    assert doubt in json.loads((out / "conversion.json").read_text())["notes"]
    assert doubt in run("explain", source, "--drop", *EXTRA).output


def test_a_record_cannot_skip_what_a_tensor_needs(fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "classifier", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    record["dropped"]["bert/pooler/dense/bias"] = "by the caller"
    (tmp_path / "out" / "conversion.json").write_text(json.dumps(record))
    with pytest.raises(PlanError, match="bert/pooler/dense/bias"):
        verify(fixtures / "classifier", tmp_path / "out", level="weights")


@pytest.mark.parametrize("scope", [None, "module"])
def test_a_head_outside_of_the_scope_is_proved(
    fixtures: Path, tmp_path: Path, scope: str | None
) -> None:
    source = changed_copy(
        tmp_path / "in", fixtures / "classifier", rename=("bert/", "module/bert/")
    )
    made = convert(source, tmp_path / "out", scope=scope, head="classifier")
    assert made.architecture == "BertForSequenceClassification"
    assert verify(source, tmp_path / "out", level="weights").passed


def test_a_batch_takes_patterns_from_its_list(crf: Path, tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(
        f'[[model]]\nsource = "{crf}"\ndrop = ["crf_loss/*", "project/**/*"]\n'
    )
    out = tmp_path / "models"
    result = run("batch", "--list", tmp_path / "list.toml", out, "--verify", "weights")
    assert result.exit_code == 0, result.output
    record = json.loads((out / "crf" / "conversion.json").read_text())
    assert record["dropped"] == dict.fromkeys(CRF, "by the caller")
