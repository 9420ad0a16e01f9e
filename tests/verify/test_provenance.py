"""A plain `verify` after a conversion with options: what is believed of conversion.json."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bertconvert import PlanError, Verdict, convert, verify
from bertconvert.cli import cli
from bertconvert.converter.mapping import builtin_mappings
from bertconvert.converter.verify.report import findings

from ..helpers import changed_copy, with_labels

BERT = builtin_mappings()["bert"].read_text()


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, args)], prog_name="bertconvert")


def plain(source: Path, out: Path) -> Verdict:
    return verify(source, out, level="weights")


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edited_record(out: Path, key: str, **values: object) -> None:
    path = out / "conversion.json"
    record = json.loads(path.read_text())
    record[key] |= values
    path.write_text(json.dumps(record))


def moved(source: Path, name: str, to: Path, **values: object) -> Path:
    """Take a file away from a checkpoint; the new place of it."""
    to.mkdir(exist_ok=True)
    place = Path(shutil.move(source / name, to / f"own_{name}"))
    if values:
        edited(place, **values)
    return place


@pytest.fixture
def bare(fixtures: Path, tmp_path: Path) -> Path:
    """A checkpoint without a config."""
    source = shutil.copytree(fixtures / "pretraining", tmp_path / "bare")
    (source / "bert_config.json").unlink()
    return source


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class TestWhatOnlyTheCallerKnew:
    @pytest.mark.parametrize(
        "options",
        [
            {"activation": "erf"},
            {"activation": "gelu_new"},
            {"lower_case": False},
            {"head": "none"},
            {"head": "mlm"},
            {"dtype": "float16"},
            {"scope": ""},
            {"drop": ("cls/**/*",)},
        ],
        ids=str,
    )
    def test_passes_without_it(self, options: dict[str, Any], fixtures: Path, out: Path) -> None:
        convert(fixtures / "pretraining", out, **options)
        verdict = plain(fixtures / "pretraining", out)
        assert [check for check in verdict.checks if not check.passed] == []

    @pytest.mark.parametrize(
        ("options", "fact"),
        [
            ({"activation": "erf"}, "the erf form of gelu"),
            ({"lower_case": False}, "does not lower-case"),
        ],
    )
    def test_is_not_proved(
        self, options: dict[str, Any], fact: str, fixtures: Path, out: Path
    ) -> None:
        convert(fixtures / "pretraining", out, **options)
        (unproved,) = plain(fixtures / "pretraining", out).unproved
        assert fact in unproved and "conversion.json" in unproved

    def test_of_a_usual_conversion_is_nothing(self, fixtures: Path, out: Path) -> None:
        convert(fixtures / "pretraining", out)
        assert plain(fixtures / "pretraining", out).unproved == []

    def test_may_be_the_number_of_heads(self, bare: Path, out: Path) -> None:
        convert(bare, out, num_heads=4)
        verdict = plain(bare, out)
        assert verdict.passed
        assert "num_attention_heads = 4" in verdict.unproved[0]
        assert not verify(bare, out, level="weights", num_heads=2).passed

    def test_may_be_a_config_that_is_elsewhere(self, bare: Path, out: Path, tmp_path: Path) -> None:
        config = tmp_path / "elsewhere.json"
        shutil.copy(bare.parent / "bare" / "vocab.txt", tmp_path)
        config.write_text(
            json.dumps(
                {
                    "num_attention_heads": 2,
                    "hidden_act": "relu",
                    "hidden_dropout_prob": 0.3,
                    "attention_probs_dropout_prob": 0.0,
                }
            )
        )
        convert(bare, out, config=config)
        verdict = plain(bare, out)
        assert verdict.passed
        said = " ".join(verdict.unproved)
        for fact in (
            "num_attention_heads = 2",
            "hidden_act = relu",
            "hidden_dropout_prob = 0.3",
            "attention_probs_dropout_prob = 0.0",
        ):
            assert fact in said
        assert any("elsewhere.json" in note and "--config" in note for note in verdict.notes)
        assert verify(bare, out, level="weights", config=config).unproved == []

    def test_may_be_a_vocabulary_that_is_elsewhere(
        self, fixtures: Path, out: Path, tmp_path: Path
    ) -> None:
        source = shutil.copytree(fixtures / "pretraining", tmp_path / "in")
        vocab = moved(source, "vocab.txt", tmp_path / "other")
        convert(source, out, vocab=vocab)
        verdict = plain(source, out)
        assert verdict.passed
        assert any("no vocabulary" in fact for fact in verdict.unproved)
        assert any("own_vocab.txt" in note and "--vocab" in note for note in verdict.notes)
        assert verify(source, out, level="weights", vocab=vocab).unproved == []

    @pytest.mark.parametrize("given", ["no,yes,maybe", "file"])
    def test_may_be_the_labels(self, given: str, fixtures: Path, out: Path, tmp_path: Path) -> None:
        source = with_labels(shutil.copytree(fixtures / "classifier", tmp_path / "in"), 3)
        if given == "file":
            (tmp_path / "names.txt").write_text("no\nyes\nmaybe\n")
            given = str(tmp_path / "names.txt")
        convert(source, out, labels=given, problem_type="multi_label_classification")
        verdict = plain(source, out)
        assert verdict.passed
        said = " ".join(verdict.unproved)
        assert "no, yes and maybe" in said and "multi_label_classification" in said

    def test_may_be_the_choice_between_files_of_labels(
        self, fixtures: Path, out: Path, tmp_path: Path
    ) -> None:
        source = with_labels(shutil.copytree(fixtures / "classifier", tmp_path / "in"), 2)
        (source / "labels.txt").write_text("no\nyes\n")
        (source / "label_map.json").write_text('{"yes": 0, "no": 1}')
        with pytest.raises(PlanError, match="--labels"):
            convert(source, out)
        convert(source, out, labels=str(source / "label_map.json"))
        assert plain(source, out).passed

    def test_may_be_a_step(self, fixtures: Path, out: Path, tmp_path: Path) -> None:
        source = shutil.copytree(fixtures / "pretraining", tmp_path / "in")
        other = changed_copy(tmp_path / "other", fixtures / "pretraining", {"more": (2,)})
        for file in [*source.glob("bert_model.ckpt.*")]:
            shutil.copy(other / file.name, source / file.name.replace("bert_model", "m-20"))
            file.rename(source / file.name.replace("bert_model", "m-10"))
        for file in [*source.glob("m-*")]:
            step = file.name[2:4]
            file.rename(source / file.name.replace(f"m-{step}.ckpt", f"model.ckpt-{step}"))
        (source / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-20"\n')
        convert(source, out, step=10)
        verdict = plain(source, out)
        assert verdict.passed and verdict.checkpoint.endswith("model.ckpt-10")
        assert any("step 10" in note for note in verdict.notes)
        assert not verify(source, out, level="weights", step=20, drop=("more",)).passed
        with pytest.raises(PlanError, match="more"):
            verify(source / "model.ckpt-20", out, level="weights")


class TestWhatContradicts:
    def test_the_config_next_to_the_checkpoint_fails(
        self, bare: Path, out: Path, tmp_path: Path, fixtures: Path
    ) -> None:
        convert(bare, out, num_heads=4)
        verdict = plain(fixtures / "pretraining", out)
        assert not verdict.passed
        (wrong,) = [check for check in verdict.checks if not check.passed]
        assert "num_attention_heads is 4, but the checkpoint has 2" in wrong.detail

    def test_the_record_fails(self, fixtures: Path, out: Path) -> None:
        convert(fixtures / "pretraining", out)
        edited(out / "config.json", pad_token_id=3)
        verdict = plain(fixtures / "pretraining", out)
        assert {check.name for check in verdict.checks if not check.passed} == {
            "config.json",
            "conversion.json",
        }

    def test_a_record_that_was_edited_alone_is_not_believed(self, bare: Path, out: Path) -> None:
        convert(bare, out, num_heads=4)
        edited_record(out, "config", num_attention_heads=2)
        verdict = plain(bare, out)
        assert not verdict.passed
        assert any("num_attention_heads is 4" in check.detail for check in verdict.checks)

    def test_the_shapes_go_over_a_record(self, bare: Path, out: Path) -> None:
        convert(bare, out)
        edited(out / "config.json", vocab_size=99)
        edited_record(out, "config", vocab_size=99)
        verdict = plain(bare, out)
        assert any("vocab_size is 99, but the checkpoint has" in c.detail for c in verdict.checks)

    @pytest.mark.parametrize("heads", [5, 0, -1, "two", 2.5, [2], 10**30])
    def test_a_number_of_heads_that_is_none_is_no_verdict_that_passes(
        self, heads: object, bare: Path, out: Path
    ) -> None:
        convert(bare, out)
        edited(out / "config.json", num_attention_heads=heads)
        edited_record(out, "config", num_attention_heads=heads)
        result = run("verify", bare, out, "--level", "weights")
        assert result.exit_code == 1
        assert "num_attention_heads" in result.output and "internal error" not in result.output

    def test_another_class_in_the_config_is_an_edit(self, fixtures: Path, out: Path) -> None:
        convert(fixtures / "classifier", out)
        edited(out / "config.json", architectures=["BertForTokenClassification"])
        verdict = plain(fixtures / "classifier", out)
        assert any("architectures was" in c.detail for c in verdict.checks if not c.passed)


class TestAnAssumedNumberOfHeads:
    def test_is_not_proved_in_any_report(self, bare: Path, out: Path, tmp_path: Path) -> None:
        convert(bare, out)
        junit, page = tmp_path / "v.xml", tmp_path / "v.html"
        result = run("verify", bare, out, "--level=weights", "--junit", junit, "--html", page)
        assert result.exit_code == 0
        said = " ".join(result.stdout.split())
        assert "not proved: num_attention_heads = 1 is assumed (H/64)" in said
        assert said.rpartition("PASS: all 46 tensors")[2].endswith("2 facts are not proved")
        (suite,) = ElementTree.parse(junit).getroot()
        skipped = [case.find("skipped") for case in suite]
        facts = [found.get("message") for found in skipped if found is not None]
        assert suite.get("skipped") == str(len(facts)) == "2"
        assert "num_attention_heads = 1" in str(facts[0])
        assert "2 facts are not proved" in page.read_text()
        verdict = plain(bare, out)
        assert "Not proved: num_attention_heads = 1 is assumed" in findings(verdict)

    def test_is_in_the_card_of_a_conversion_that_was_proved(self, bare: Path, out: Path) -> None:
        result = run("tf2pt", bare, out, "--verify", "weights", "--json")
        assert "Not proved: num_attention_heads = 1" in json.loads(result.stdout)["proof"]
        saved = json.loads((out / "verification.json").read_bytes())
        assert "num_attention_heads = 1" in saved["unproved"][0]
        assert "Not proved: num_attention_heads = 1" in (out / "README.md").read_text()

    def test_is_no_assumption_if_the_caller_gives_it(self, bare: Path, out: Path) -> None:
        convert(bare, out, num_heads=1)
        verdict = verify(bare, out, level="weights", num_heads=1, activation="tanh")
        assert verdict.unproved == []


class TestAnotherMapping:
    @pytest.fixture
    def rules(self, tmp_path: Path) -> Callable[[str, str], Path]:
        def write(old: str, new: str) -> Path:
            assert old in BERT
            file = tmp_path / "own.toml"
            file.write_text(BERT.replace(old, new))
            return file

        return write

    def test_of_another_name_must_be_given(
        self, rules: Callable[[str, str], Path], fixtures: Path, out: Path
    ) -> None:
        file = rules('"bert"\ntitle', '"own"\ntitle')
        convert(fixtures / "pretraining", out, mapping=file)
        result = run("verify", fixtures / "pretraining", out, "--level", "weights")
        assert result.exit_code == 2
        assert "mapping own" in result.output and "--mapping" in result.output
        arguments = ["--level", "weights", "--mapping", file]
        assert run("verify", fixtures / "pretraining", out, *arguments).exit_code == 0

    def test_of_the_same_name_with_other_rules_must_be_given(
        self, rules: Callable[[str, str], Path], fixtures: Path, out: Path
    ) -> None:
        file = rules('pt = "bert.pooler.dense.bias"', 'pt = "bert.pooler.bias"')
        convert(fixtures / "pretraining", out, mapping=file)
        result = run("verify", fixtures / "pretraining", out, "--level", "weights")
        assert result.exit_code == 2
        assert "--mapping" in result.output

    def test_with_one_more_drop_is_a_fact_that_is_not_proved(
        self, rules: Callable[[str, str], Path], fixtures: Path, out: Path, tmp_path: Path
    ) -> None:
        more = {"ema/decay": (2,), "bert/encoder/layer_0/adapter": (3,)}
        source = changed_copy(tmp_path / "in", fixtures / "pretraining", more)
        drop = '[[drop]]\ntf = ["ema/*", "**/adapter"]\nreason = "kept for later"\n\n[[group]]'
        file = rules("[[group]]                   # run_squad", f"{drop} # run_squad")
        convert(source, out, mapping=file)
        verdict = plain(source, out)
        assert [check for check in verdict.checks if not check.passed] == []
        (fact,) = verdict.unproved
        assert "2 variables" in fact and "kept for later" in fact and "ema/decay" in fact
        assert {d.reason for d in verdict.dropped if d.variable in more} == {"kept for later"}
        given = verify(source, out, level="weights", mapping=file)
        assert given.passed and given.unproved == []

    def test_whose_record_skips_more_than_the_mapping_that_made_it_is_not_believed(
        self, fixtures: Path, out: Path, tmp_path: Path
    ) -> None:
        convert(fixtures / "pretraining", out)
        edited_record(out, "dropped", **{"ema/decay": "kept for later"})
        source = changed_copy(tmp_path / "in", fixtures / "pretraining", {"ema/decay": (2,)})
        with pytest.raises(PlanError, match="ema/decay"):
            plain(source, out)


class TestAFileThatDoesNotFit:
    def test_next_to_the_checkpoint_is_a_missing_option(
        self, fixtures: Path, out: Path, tmp_path: Path
    ) -> None:
        source = shutil.copytree(fixtures / "pretraining", tmp_path / "in")
        vocab = moved(source, "vocab.txt", tmp_path / "other")
        (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
        convert(source, out, vocab=vocab)
        result = run("verify", source, out, "--level", "weights")
        assert result.exit_code == 2
        assert "own_vocab.txt" in result.output and "--vocab" in result.output
        arguments = ["--level", "weights", "--vocab", vocab]
        assert run("verify", source, out, *arguments).exit_code == 0
