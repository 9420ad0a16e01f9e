import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bertconvert
from bertconvert import MappingError, PlanError, convert, prepare
from bertconvert.converter import mapping as mapping_module

BERT = (mapping_module.FOLDER / "bert.toml").read_text()
ADAM = '["bert/embeddings/word_embeddings", "cls/predictions/output_bias"]'


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make copies of the mapping built-in, each with another name and edits."""

    def make(**edits: dict[str, str]) -> None:
        folder = tmp_path / "mappings"
        shutil.copytree(mapping_module.FOLDER, folder)
        (folder / "bert.toml").unlink()
        for name, changes in edits.items():
            text = BERT
            for old, new in {'name       = "bert"': f'name = "{name}"', **changes}.items():
                assert old in text
                text = text.replace(old, new, 1)
            (folder / f"{name}.toml").write_text(text)
        monkeypatch.setattr(mapping_module, "FOLDER", folder)

    return make


class TestTheMapping:
    def test_refuses_two_that_fit_equally_well(
        self, fixtures: Path, built_in: Callable[..., None]
    ) -> None:
        built_in(one={}, two={})
        with pytest.raises(MappingError) as caught:
            prepare(fixtures / "pretraining")
        assert {"one", "two", "--mapping"} <= set(str(caught.value).split())
        assert prepare(fixtures / "pretraining", mapping="two").mapping.name == "two"

    def test_takes_the_one_with_the_most_detect_names(
        self, fixtures: Path, built_in: Callable[..., None]
    ) -> None:
        detect = 'detect     = "bert/embeddings/word_embeddings"'
        built_in(one={}, two={detect: f"detect = {ADAM}"})
        assert prepare(fixtures / "pretraining").mapping.name == "two"
        assert prepare(fixtures / "squad").mapping.name == "one"  # it has not both variables

    def test_takes_the_name_of_a_built_in(self, fixtures: Path) -> None:
        assert prepare(fixtures / "squad", mapping="bert").mapping.name == "bert"

    def test_refuses_an_unknown_name_with_the_known_ones(self, fixtures: Path) -> None:
        with pytest.raises(MappingError, match=r"--mapping beard: .* bert$"):
            prepare(fixtures / "squad", mapping="beard")

    def test_refuses_a_checkpoint_that_none_fits(
        self, fixtures: Path, built_in: Callable[..., None]
    ) -> None:
        detect = 'detect     = "bert/embeddings/word_embeddings"'
        built_in(one={detect: f"detect = {ADAM}"})
        with pytest.raises(MappingError) as caught:
            prepare(fixtures / "squad")
        assert "cls/predictions/output_bias (one)" in str(caught.value)


class TestHeads:
    def test_sets_the_size_with_the_role_alone(self, fixtures: Path, tmp_path: Path) -> None:
        other = 'K = { config = "memory_slots", assume = "H/16" }\n\n[roles]'
        (tmp_path / "mine.toml").write_text(BERT.replace("[roles]", other, 1))
        shutil.copytree(fixtures / "encoder", tmp_path / "in")
        (tmp_path / "in" / "bert_config.json").unlink()
        prepared = prepare(tmp_path / "in", mapping=tmp_path / "mine.toml", num_heads=8)
        assert prepared.plan.sizes["A"] == 8
        assert prepared.plan.sizes["K"] == 2

    def test_refuses_a_number_that_the_mapping_has_no_use_for(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.toml").write_text(BERT.replace('heads      = "A"\n', "", 1))
        with pytest.raises(PlanError, match="--num-heads: the mapping bert"):
            prepare(fixtures / "encoder", mapping=tmp_path / "mine.toml", num_heads=4)


class TestFiles:
    def test_have_the_names_that_the_mapping_gives(self, fixtures: Path, tmp_path: Path) -> None:
        shutil.copytree(fixtures / "encoder", tmp_path / "in")
        (tmp_path / "in" / "bert_config.json").rename(tmp_path / "in" / "sizes.json")
        (tmp_path / "in" / "vocab.txt").rename(tmp_path / "in" / "words.txt")
        text = BERT.replace('"bert_config.json", pattern', '"sizes.json", pattern', 1)
        (tmp_path / "mine.toml").write_text(text.replace('"vocab.txt", p', '"words.txt", p', 1))
        prepared = prepare(tmp_path / "in", mapping=tmp_path / "mine.toml")
        assert [file.name for file in prepared.sources[1:]] == ["sizes.json", "words.txt"]
        assert prepared.config is not None
        assert prepared.config["num_hidden_layers"] == prepared.plan.sizes["L"]

    def test_have_no_tokenizer_without_one_in_the_mapping(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.toml").write_text(BERT.replace('tokenizer  = "wordpiece"\n', "", 1))
        made = convert(fixtures / "encoder", tmp_path / "out", mapping=tmp_path / "mine.toml")
        assert not {"vocab.txt", "tokenizer.json"} & made.files.keys()
        assert any("tokenizer" in note for note in made.notes)
        with pytest.raises(PlanError, match="--vocab"):
            prepare(
                fixtures / "encoder",
                mapping=tmp_path / "mine.toml",
                vocab=fixtures / "encoder" / "vocab.txt",
            )


def test_a_conversion_takes_options_by_keyword(fixtures: Path, tmp_path: Path) -> None:
    made = convert(fixtures / "classifier", tmp_path / "out", head="token", lower_case=False)
    assert made.architecture == "BertForTokenClassification"


def test_refuses_unknown_options_before_it_does_anything(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"heads.* num_heads"):
        convert(fixtures / "squad", tmp_path / "out", heads=3)
    with pytest.raises(ValueError, match="int8"):
        convert(fixtures / "squad", tmp_path / "out", dtype="int8")
    assert not (tmp_path / "out").exists()


def test_every_public_name_exists() -> None:
    assert [name for name in bertconvert.__all__ if not hasattr(bertconvert, name)] == []
    assert set(bertconvert.__all__) == set(dir(bertconvert))
