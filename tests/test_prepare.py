import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bertconvert
from bertconvert import CheckpointError, MappingError, PlanError, convert, prepare
from bertconvert.converter import mapping as mapping_module
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.object_graph import OBJECT_GRAPH
from bertconvert.converter.mapping import load_mapping
from bertconvert.converter.prepare import Prepared

from .checkpoint import table_writer

BERT = (mapping_module.FOLDER / "bert.toml").read_text()
ADAM = '["bert/embeddings/word_embeddings", "cls/predictions/output_bias"]'
VOCABULARY = "{ name = \"vocab.txt\", pattern = '.*vocab.*\\.txt' }"
OTHER_VOCABULARY = '{ name = "words.list", tokenizer = "wordpiece" }'


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
        with pytest.raises(MappingError, match=r"--mapping beard: .* albert, bert, bert_h5"):
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

    @pytest.mark.parametrize(
        ("name", "above"), [("words.list", False), ("vocab.txt", False), ("words.list", True)]
    )
    def test_a_vocabulary_may_be_one_of_several(
        self, fixtures: Path, tmp_path: Path, name: str, above: bool
    ) -> None:
        mine = tmp_path / "mine.toml"
        mine.write_text(BERT.replace(VOCABULARY, f"[{OTHER_VOCABULARY}, {VOCABULARY}]", 1))
        folder = tmp_path / "model" / "run"
        shutil.copytree(fixtures / "encoder", folder)
        (folder / "vocab.txt").rename((folder.parent if above else folder) / name)
        prepared = prepare(folder, mapping=mine)
        assert prepared.sources[2].name == name
        assert prepared.tokenizer == "wordpiece"

    def test_two_vocabularies_of_two_kinds_are_an_error(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        mine = tmp_path / "mine.toml"
        mine.write_text(BERT.replace(VOCABULARY, f"[{OTHER_VOCABULARY}, {VOCABULARY}]", 1))
        shutil.copytree(fixtures / "encoder", tmp_path / "in")
        shutil.copy(tmp_path / "in" / "vocab.txt", tmp_path / "in" / "words.list")
        with pytest.raises(CheckpointError, match=r"words\.list.*vocab\.txt.*--vocab"):
            prepare(tmp_path / "in", mapping=mine)
        words = tmp_path / "in" / "words.list"
        assert prepare(tmp_path / "in", mapping=mine, vocab=words).sources[2].name == "words.list"

    def test_a_vocabulary_of_another_name_is_of_the_kind_that_can_read_it(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        shutil.copy(fixtures / "albert" / "30k-clean.model", tmp_path / "pieces")
        shutil.copy(fixtures / "albert-relu" / "vocab_chinese.txt", tmp_path / "words")
        for name, kind in (("pieces", "sentencepiece"), ("words", "wordpiece")):
            assert prepare(fixtures / "albert", vocab=tmp_path / name).tokenizer == kind
        (tmp_path / "neither").write_bytes(b"\xff\n")
        with pytest.raises(PlanError, match=r"SentencePiece(.|\n)*UTF-8"):
            prepare(fixtures / "albert", vocab=tmp_path / "neither")

    def test_without_any_of_several_vocabularies_all_are_named(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        mine = tmp_path / "mine.toml"
        mine.write_text(BERT.replace(VOCABULARY, f"[{OTHER_VOCABULARY}, {VOCABULARY}]", 1))
        shutil.copytree(fixtures / "encoder", tmp_path / "in")
        (tmp_path / "in" / "vocab.txt").unlink()
        prepared = prepare(tmp_path / "in", mapping=mine)
        assert (prepared.tokenizer, prepared.vocabulary) == ("", None)
        assert told(prepared, "words.list or vocab.txt")


CONFIG = json.loads(
    (Path(__file__).parent.parent / "fixtures/encoder/bert_config.json").read_text()
)


def write_json(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.fixture
def bare(fixtures: Path, tmp_path: Path) -> Path:
    """A checkpoint in a folder of a folder, without config and vocabulary."""
    folder = tmp_path / "model" / "run"
    folder.mkdir(parents=True)
    for file in (fixtures / "encoder").glob("bert_model.ckpt.*"):
        shutil.copy(file, folder)
    return folder


def told(prepared: Prepared, text: str) -> list[str]:
    return [note for note in prepared.notes if text in note]


class TestTheConfigBesideTheCheckpoint:
    @pytest.mark.parametrize("name", ["config.json", "bert_config_3.json", "my_config (1).json"])
    def test_may_have_another_name(self, bare: Path, name: str) -> None:
        write_json(bare / name, {**CONFIG, "num_attention_heads": 4})
        prepared = prepare(bare)
        assert prepared.plan.sizes["A"] == 4
        assert prepared.sources[1].name == name

    def test_is_told_from_other_files_by_its_keys(self, bare: Path) -> None:
        write_json(bare / "tokenizer_config.json", {"do_lower_case": True, "vocab_size": 128})
        write_json(bare / "train_config.json", {"hidden_dropout_prob": 0.3, "num_labels": 7})
        (bare / "broken_config.json").write_text("{ // no JSON")
        prepared = prepare(bare)
        assert prepared.config is None
        (note,) = told(prepared, "tokenizer_config.json")
        assert "train_config.json" in note
        write_json(bare / "the_config.json", {**CONFIG, "num_attention_heads": 4})
        prepared = prepare(bare)
        assert prepared.plan.sizes["A"] == 4
        assert told(prepared, "tokenizer_config.json") == []

    def test_that_can_not_be_read_is_no_reason_to_assume_one(self, bare: Path) -> None:
        (bare / "my_config.json").write_text('{\n"hidden_size": 32,\n}')
        with pytest.raises(PlanError, match=r"my_config\.json .*line 2"):
            prepare(bare)

    def test_may_be_there_twice_but_not_differ(self, bare: Path) -> None:
        write_json(bare / "a_config.json", CONFIG)
        (bare / "b_config.json").write_text(json.dumps(CONFIG, indent=4))
        assert prepare(bare).config == CONFIG
        write_json(bare / "b_config.json", {**CONFIG, "num_attention_heads": 4})
        with pytest.raises(CheckpointError, match=r"a_config\.json, b_config\.json.*--config"):
            prepare(bare)
        assert prepare(bare, config=bare / "b_config.json").plan.sizes["A"] == 4
        write_json(bare / "bert_config.json", CONFIG)
        assert prepare(bare).plan.sizes["A"] == 2

    def test_may_be_a_part_of_a_file(self, bare: Path) -> None:
        inner = {**CONFIG, "num_attention_heads": 4}
        write_json(bare / "train_config.json", {"seed": 1, "bert_config": inner})
        prepared = prepare(bare)
        assert prepared.plan.sizes["A"] == 4
        assert told(prepared, "bert_config in train_config.json")

    def test_that_is_as_large_as_no_config_is_not_read(self, bare: Path) -> None:
        (bare / "my_config.json").write_bytes(b" " * (5 << 20))
        assert prepare(bare).config is None
        (bare / "my_config.json").rename(bare / "bert_config.json")
        with pytest.raises(PlanError, match="too large"):
            prepare(bare)

    @pytest.mark.parametrize("kind", ["zip", "gztar"])
    def test_in_an_archive_is_told_by_its_keys(self, bare: Path, tmp_path: Path, kind: str) -> None:
        write_json(bare / "tokenizer_config.json", {"do_lower_case": True})
        write_json(bare / "bert_config_3.json", {**CONFIG, "num_attention_heads": 4})
        archive = shutil.make_archive(str(tmp_path / "all"), kind, bare.parent)
        assert prepare(archive).plan.sizes["A"] == 4


class TestOneFolderUp:
    def test_config_and_vocabulary_are_taken_if_their_sizes_fit(
        self, bare: Path, fixtures: Path
    ) -> None:
        write_json(bare.parent / "bert_config.json", {**CONFIG, "num_attention_heads": 4})
        shutil.copy(fixtures / "encoder" / "vocab.txt", bare.parent)
        prepared = prepare(bare)
        assert prepared.plan.sizes["A"] == 4
        assert prepared.vocabulary is not None and len(prepared.vocabulary) == 128
        names = [source.name for source in prepared.sources]
        assert names[1:] == ["bert_config.json", "vocab.txt"]
        for name in names[1:]:
            (note,) = told(prepared, name)
            assert str(bare.parent / name) in note and "one folder up" in note
        assert prepare(bare / "bert_model.ckpt").sources == prepared.sources

    def test_what_has_another_name_is_suggested_if_its_sizes_fit(
        self, bare: Path, fixtures: Path
    ) -> None:
        write_json(bare.parent / "bert_config.json", {**CONFIG, "hidden_size": 64})
        write_json(bare.parent / "small_config.json", {**CONFIG, "num_attention_heads": 4})
        shutil.copy(fixtures / "encoder" / "vocab.txt", bare.parent / "vocab_b.txt")
        (bare.parent / "vocab_a.txt").write_text("[PAD]\n[UNK]\n")
        prepared = prepare(bare)
        assert prepared.config is None and prepared.vocabulary is None
        (note,) = told(prepared, str(bare.parent / "small_config.json"))
        assert "--config" in note
        (note,) = told(prepared, str(bare.parent / "vocab_b.txt"))
        assert "--vocab" in note

    def test_what_does_not_fit_is_not_taken_and_named(self, bare: Path) -> None:
        write_json(bare.parent / "bert_config.json", {**CONFIG, "hidden_size": 64})
        (bare.parent / "vocab.txt").write_text("[PAD]\n[UNK]\n")
        prepared = prepare(bare)
        assert prepared.config is None and prepared.vocabulary is None
        (note,) = told(prepared, str(bare.parent / "bert_config.json"))
        assert "hidden_size = 64" in note and "--config" in note
        (note,) = told(prepared, str(bare.parent / "vocab.txt"))
        assert "2 tokens" in note and "--vocab" in note

    def test_several_that_fit_and_differ_are_named_and_not_taken(self, bare: Path) -> None:
        write_json(bare.parent / "a_config.json", CONFIG)
        write_json(bare.parent / "b_config.json", {**CONFIG, "num_attention_heads": 4})
        prepared = prepare(bare)
        assert prepared.config is None
        (note,) = told(prepared, "a_config.json")
        assert str(bare.parent / "b_config.json") in note and "--config" in note

    def test_a_config_is_taken_if_no_plan_can_be_made_without_it(self, tmp_path: Path) -> None:
        """The assumed number of heads, 200 / 64, does not divide 200."""
        sizes = {"V": 9, "H": 200, "L": 1, "I": 8, "P": 4, "T": 2}
        pairs = load_mapping(mapping_module.FOLDER / "bert.toml").expand(sizes, ["encoder"])
        (tmp_path / "model").mkdir()
        write_bundle(
            tmp_path / "model" / "run" / "bert_model.ckpt",
            {
                pair.names[0]: np.zeros([sizes[str(symbol)] for symbol in pair.shape], np.float32)
                for pair in pairs
            },
        )
        with pytest.raises(PlanError, match="does not divide"):
            prepare(tmp_path / "model" / "run")
        keys = {"vocab_size": 9, "hidden_size": 200, "num_hidden_layers": 1}
        write_json(tmp_path / "model" / "bert_config.json", {**keys, "num_attention_heads": 4})
        assert prepare(tmp_path / "model" / "run").plan.sizes["A"] == 4

    def test_a_padded_vocabulary_is_taken_if_that_is_allowed(
        self, bare: Path, fixtures: Path
    ) -> None:
        words = (fixtures / "encoder" / "vocab.txt").read_text().splitlines()
        (bare.parent / "vocab.txt").write_text("\n".join(words[:-3]))
        assert prepare(bare).vocabulary is None
        assert prepare(bare, pad_vocab=True).padding == 3

    def test_a_config_must_have_a_configs_keys(self, bare: Path) -> None:
        write_json(bare.parent / "bert_config.json", {"num_attention_heads": 4})
        assert prepare(bare).config is None

    def test_nothing_is_taken_if_it_is_next_to_the_checkpoint(
        self, bare: Path, fixtures: Path
    ) -> None:
        write_json(bare / "bert_config.json", CONFIG)
        write_json(bare.parent / "bert_config.json", {**CONFIG, "num_attention_heads": 4})
        assert prepare(bare).plan.sizes["A"] == 2

    def test_nothing_is_taken_from_two_folders_up(self, bare: Path) -> None:
        write_json(bare.parent.parent / "bert_config.json", CONFIG)
        assert prepare(bare).config is None

    def test_the_path_may_be_the_current_folder(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_json(bare.parent / "bert_config.json", {**CONFIG, "num_attention_heads": 4})
        monkeypatch.chdir(bare)
        for path in (".", "bert_model.ckpt", "./bert_model.ckpt.index"):
            assert prepare(path).plan.sizes["A"] == 4

    @pytest.mark.parametrize("kind", ["folder", "zip", "gztar"])
    def test_a_saved_model_has_its_vocabulary_in_assets(
        self, bare: Path, fixtures: Path, tmp_path: Path, kind: str
    ) -> None:
        saved = bare.parent
        bare.rename(saved / "variables")
        (saved / "assets").mkdir()
        shutil.copy(fixtures / "encoder" / "vocab.txt", saved / "assets" / "uncased_vocab.txt")
        write_json(saved / "bert_config.json", {**CONFIG, "num_attention_heads": 4})
        paths = [saved, saved / "variables"]
        if kind != "folder":
            archive = Path(shutil.make_archive(str(tmp_path / "all"), kind, tmp_path, "model"))
            paths = [archive, archive / "model", archive / "model" / "variables"]
        for path in paths:
            names = [source.name for source in prepare(path).sources]
            assert names[1:] == ["bert_config.json", "uncased_vocab.txt"]

    @pytest.mark.parametrize("kind", ["zip", "gztar"])
    def test_an_archive_is_looked_into(self, bare: Path, tmp_path: Path, kind: str) -> None:
        write_json(bare.parent / "bert_config.json", {**CONFIG, "num_attention_heads": 4})
        write_json(tmp_path / "bert_config.json", CONFIG)
        archive = Path(shutil.make_archive(str(tmp_path / "all"), kind, bare.parent))
        for path in (archive, archive / "run", archive / "run" / "bert_model.ckpt"):
            assert prepare(path).plan.sizes["A"] == 4
        alone = shutil.make_archive(str(tmp_path / "alone"), kind, bare)
        assert prepare(alone).config is None  # what is next to an archive is not a part of it

    def test_what_is_above_a_run_from_the_wild_is_found(self, real: Path) -> None:
        prepared = prepare(real / "tiny-finetuned-mrpc")
        assert prepared.vocabulary is None  # the folder has vocabularies for all models
        assert told(prepared, f"--vocab {real / 'vocab-uncased-30522.txt'}")
        prepared = prepare(real / "bleurt-tiny", head="none")
        names = [source.name for source in prepared.sources]
        assert names[1:] == ["bert_config.json", "vocab.txt"]


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


class TestAVariableThatSaysTheCasing:
    """That of a TF-Hub module, in a model around a hub.KerasLayer, whose keys have the names."""

    @staticmethod
    def wrapped(fixtures: Path, folder: Path, *said: tuple[str, bytes], dtype: int = 10) -> Path:
        """The module of the fixture, as such a layer saves it; `said` are variables of one byte."""
        content = table_writer.strings([b""])
        graph = table_writer.entry(table_writer.STRING, (), len(content.data), crc=content.crc)
        entries: dict[str | bytes, bytes] = {OBJECT_GRAPH: graph}
        data = bytearray(content.data)

        def add(name: str, number: int, shape: tuple[int, ...], value: bytes) -> None:
            key = f"layer/{name.replace('/', '.S')}:0/.ATTRIBUTES/VARIABLE_VALUE"
            crc = table_writer.masked(value)
            entries[key] = table_writer.entry(number, shape, len(value), len(data), crc)
            data.extend(value)

        for name, value in said:
            add(name, dtype, (len(value),) if len(value) > 1 else (), value)
        with bertconvert.open_checkpoint(fixtures / "tf2-hub") as module:
            for variable in module.variables.values():
                if variable.tf_dtype == "float32":
                    array = module[variable.name]
                    add(variable.full_name, table_writer.FLOAT32, array.shape, array.tobytes())
        prefix = folder / "variables" / "variables"
        table_writer.write_index(prefix, entries)
        table_writer.shard_path(prefix).write_bytes(data)
        shutil.copytree(fixtures / "tf2-hub" / "assets", folder / "assets")
        return folder

    @pytest.mark.parametrize("lowers", [True, False])
    def test_is_believed_whatever_the_vocabulary_tells(
        self, fixtures: Path, tmp_path: Path, lowers: bool
    ) -> None:
        prepared = prepare(self.wrapped(fixtures, tmp_path, ("Variable", bytes([lowers]))))
        assert prepared.do_lower_case is lowers
        (note,) = [note for note in prepared.notes if "layer/Variable:0" in note]
        assert ("though no token has capitals" in note) is not lowers
        (drop,) = [drop for drop in prepared.plan.dropped if "Variable:0" in drop.variable]
        assert "lower-cased" in drop.reason

    def test_is_that_of_a_module_itself(self, fixtures: Path) -> None:
        prepared = prepare(fixtures / "tf2-hub")
        with bertconvert.open_checkpoint(fixtures / "tf2-hub") as checkpoint:
            said = bool(checkpoint["do_lower_case/.ATTRIBUTES/VARIABLE_VALUE"])
        assert prepared.do_lower_case is said is False
        assert any("do_lower_case/" in note for note in prepared.notes)

    def test_is_overruled_by_the_caller_with_a_note(self, fixtures: Path, tmp_path: Path) -> None:
        folder = self.wrapped(fixtures, tmp_path, ("Variable", b"\1"))
        prepared = prepare(folder, lower_case=False)
        assert prepared.do_lower_case is False
        assert any("the caller" in note and "Variable:0" in note for note in prepared.notes)
        agreeing = prepare(folder, lower_case=True)
        assert agreeing.do_lower_case is True
        assert not any("Variable:0" in note for note in agreeing.notes)

    def test_is_not_believed_if_another_says_the_opposite(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        folder = self.wrapped(fixtures, tmp_path, ("Variable", b"\0"), ("x/Variable", b"\1"))
        variables = bertconvert.open_checkpoint(folder).variables
        assert {v.full_name for v in variables.values() if v.tf_dtype == "bool"} == {
            "Variable",
            "x/Variable",
        }
        prepared = prepare(folder, mapping=str(self.mapping_that_finds_both(tmp_path)))
        assert prepared.do_lower_case is True
        assert any("contradict each other" in note for note in prepared.notes)

    @staticmethod
    def mapping_that_finds_both(folder: Path) -> Path:
        text = (mapping_module.FOLDER / "bert_tf2.toml").read_text()
        (folder / "rules.toml").write_text(text.replace('"**/Variable:0/', '"**/*Variable:0/'))
        return folder / "rules.toml"

    def test_is_the_only_one_that_is_read(self, fixtures: Path, tmp_path: Path) -> None:
        folder = self.wrapped(fixtures, tmp_path, ("Variable", b"\0"))
        shard = table_writer.shard_path(folder / "variables" / "variables")
        data = shard.read_bytes()
        shard.write_bytes(data[:6] + bytes(len(data) - 6))
        assert prepare(folder).do_lower_case is False

    def test_is_an_error_if_it_is_damaged(self, fixtures: Path, tmp_path: Path) -> None:
        folder = self.wrapped(fixtures, tmp_path, ("Variable", b"\0"))
        shard = table_writer.shard_path(folder / "variables" / "variables")
        data = bytearray(shard.read_bytes())
        data[5] = 1
        shard.write_bytes(data)
        with pytest.raises(CheckpointError, match="Variable:0"):
            prepare(folder)

    def test_leaves_it_to_the_vocabulary_if_its_data_is_missing(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        folder = self.wrapped(fixtures, tmp_path, ("Variable", b"\0"))
        table_writer.shard_path(folder / "variables" / "variables").unlink()
        prepared = prepare(folder)
        assert prepared.do_lower_case is True
        assert any("Variable:0" in note and "without the data" in note for note in prepared.notes)

    @pytest.mark.parametrize(("value", "dtype"), [(b"\0\1", 10), (b"\0", 4)])
    def test_is_a_single_bool_and_nothing_else_of_the_name(
        self, fixtures: Path, tmp_path: Path, value: bytes, dtype: int
    ) -> None:
        folder = self.wrapped(fixtures, tmp_path, ("Variable", value), dtype=dtype)
        with pytest.raises(PlanError, match="Variable:0"):
            prepare(folder)


@pytest.mark.parametrize("kind", ["folder", "zip", "gztar"])
def test_a_module_of_albert_has_its_config_and_pieces_in_assets(
    fixtures: Path, tmp_path: Path, kind: str
) -> None:
    saved = tmp_path / "module"
    for folder in ("variables", "assets"):
        (saved / folder).mkdir(parents=True)
    for name in ("albert_config.json", "30k-clean.model", "30k-clean.vocab"):
        shutil.copy(fixtures / "albert" / name, saved / "assets" / name)
    for file in (fixtures / "albert").glob("model.ckpt-best.*"):
        name = file.name.replace("model.ckpt-best", "variables")
        shutil.copy(file, saved / "variables" / name)
    for name in ("saved_model.pb", "tfhub_module.pb"):
        (saved / name).touch()
    path: str | Path = saved
    if kind != "folder":
        path = shutil.make_archive(str(tmp_path / "packed"), kind, saved)
    sources = [file.name for file in prepare(path).sources[1:]]
    assert sources == ["albert_config.json", "30k-clean.model"]


class TestNamesThatCantBeRead:
    def test_are_the_reason_why_no_mapping_fits(self, fixtures: Path, tmp_path: Path) -> None:
        folder = tmp_path / "hub"
        shutil.copytree(fixtures / "tf2-hub", folder)
        table_writer.shard_path(folder / "variables" / "variables").unlink()
        with pytest.raises(MappingError) as caught:
            prepare(folder)
        assert "variables.data-00000-of-00001 is missing" in str(caught.value)
        assert "full names are unknown" in str(caught.value)

    def test_are_told_with_the_reasons_of_a_plan(self, families: Path) -> None:
        index = families / "index" / "tfhub-small_bert_L-2_H-256-finetuned-savedmodel"
        with pytest.raises(PlanError) as caught:
            prepare(index)
        assert "full names are unknown" in caught.value.reasons[-1]
        # `layer_with_weights-0/**/*` would skip the encoder, too.
        assert not any("--drop 'layer_with_weights-0/" in r for r in caught.value.reasons)
        assert prepare(index, head="none").plan.sizes["L"] == 2
