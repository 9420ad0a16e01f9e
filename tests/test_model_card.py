import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import bertconvert
from bertconvert import Options, prepare
from bertconvert.converter.mapping import Architecture, Card, Paper
from bertconvert.converter.model_card import model_card
from bertconvert.converter.prepare import Prepared

yaml = pytest.importorskip("yaml")

FIXTURES = ["pretraining", "pretraining-adam", "classifier", "squad", "encoder", "keras-names"]
SECTIONS = [
    "Architecture",
    "How to load it",
    "Where it came from",
    "Activation",
    "What was skipped",
    "What the converter noted",
    "How to verify",
    "Papers",
]
# Layers and hidden size -> the name and some of the scores that google-research/bert gives it.
NAMED = {
    (2, 128): ("BERT-Tiny", "64.2", "81.1/71.1", "21.0"),
    (4, 256): ("BERT-Mini", "65.8", "81.1/71.8", "26.1"),
    (4, 512): ("BERT-Small", "71.2", "83.4/76.2", "28.6"),
    (8, 512): ("BERT-Medium", "73.5", "86.6/81.6", "30.5"),
}


def front_matter(card: str) -> dict[str, Any]:
    """The YAML at the beginning of a card."""
    _, matter, _ = card.split("---\n", 2)
    loaded = yaml.safe_load(matter)
    assert isinstance(loaded, dict)
    return loaded


def sections(card: str) -> dict[str, str]:
    """The card's parts, by their headings."""
    parts = re.split(r"^## (.+)\n", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(card: str) -> list[list[list[str]]]:
    """Every table of a card, as rows of cells."""
    found: list[list[list[str]]] = []
    previous = ""
    for line in card.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
            if not previous.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        previous = line
    return found


def released(
    prepared: Prepared, layers: int, hidden: int, vocabulary: int = 30522, cased: bool = False
) -> Prepared:
    """A conversion of a checkpoint that has the sizes of one that Google published."""
    sizes = {"L": layers, "H": hidden, "A": hidden // 64, "V": vocabulary, "P": 512, "T": 2}
    sizes["I"] = 4 * hidden
    config = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "vocab_size": vocabulary,
    }
    plan = msgspec.structs.replace(
        prepared.plan, sizes=prepared.plan.sizes | sizes, config=prepared.plan.config | config
    )
    return msgspec.structs.replace(prepared, plan=plan, do_lower_case=not cased)


@pytest.fixture
def pretraining(fixtures: Path) -> Prepared:
    return prepare(fixtures / "pretraining")


class TestEveryCard:
    @pytest.mark.parametrize("name", FIXTURES)
    def test_has_front_matter_that_the_hub_reads(self, fixtures: Path, name: str) -> None:
        prepared = prepare(fixtures / name)
        matter = front_matter(model_card(prepared))
        assert matter["library_name"] == "transformers"
        assert matter["pipeline_tag"] == prepared.plan.architecture.pipeline
        assert matter["tags"] == ["bert", "tensorflow-1-checkpoint", "bertconvert"]
        assert None not in matter.values()

    @pytest.mark.parametrize("name", FIXTURES)
    def test_has_the_same_sections_each_with_something_in_it(
        self, fixtures: Path, name: str
    ) -> None:
        parts = sections(model_card(prepare(fixtures / name)))
        noted = name == "encoder"  # which has no pooler
        assert list(parts) == [s for s in SECTIONS if noted or s != "What the converter noted"]
        assert all(text.strip() for text in parts.values())

    @pytest.mark.parametrize("name", FIXTURES)
    def test_has_tables_whose_rows_are_all_as_wide_as_their_heads(
        self, fixtures: Path, name: str
    ) -> None:
        found = tables(model_card(prepare(fixtures / name)))
        assert len(found) == 2
        for head, line, *rows in found:
            assert set("".join(line)) == {"-"}
            assert rows
            assert {len(row) for row in (head, line, *rows)} == {len(head)}

    @pytest.mark.parametrize("name", FIXTURES)
    def test_is_plain_text_without_loose_ends(self, fixtures: Path, name: str) -> None:
        card = model_card(prepare(fixtures / name))
        assert card.endswith("\n")
        assert not card.endswith("\n\n")
        assert "\n\n\n" not in card
        assert not re.search(r"[ \t]$", card, re.MULTILINE)
        assert not re.search(r"\b(None|nan)\b|\{|\}", card.replace('"None"', ""))
        assert card.count("```") == 2

    def test_names_the_files_with_their_checksums(self, pretraining: Prepared) -> None:
        source = sections(model_card(pretraining))["Where it came from"]
        (table,) = tables(source)
        assert table[2:] == [
            [file.role, f"`{file.name}`", f"{file.size:,}", f"`{file.sha256}`"]
            for file in pretraining.sources
        ]
        assert [row[0] for row in table[2:]] == ["index", "config", "vocabulary"]

    def test_shows_names_of_files_that_would_break_a_table(self, pretraining: Prepared) -> None:
        odd = msgspec.structs.replace(pretraining.sources[2], name="a|b`c\nd.txt")
        card = model_card(msgspec.structs.replace(pretraining, sources=[odd]))
        (table,) = tables(sections(card)["Where it came from"])
        assert table[2][1] == "`a\\|b'c d.txt`"

    def test_puts_commas_into_large_numbers(self, pretraining: Prepared) -> None:
        card = model_card(released(pretraining, 12, 768))
        architecture = dict(map(tuple, tables(card)[0][2:]))
        assert architecture["vocabulary"] == "30,522"
        assert architecture["layers"] == "12"
        assert architecture["parameters"] == "34,050"
        assert "with 34,050 parameters" in card

    def test_names_the_version(self, pretraining: Prepared) -> None:
        assert f"bertconvert {bertconvert.__version__}" in model_card(pretraining)

    def test_is_the_same_every_time(self, fixtures: Path) -> None:
        cards = {model_card(prepare(fixtures / "pretraining-adam")) for _ in range(3)}
        assert len(cards) == 1


class TestExactness:
    def test_is_claimed_where_every_bit_is_kept(self, pretraining: Prepared) -> None:
        assert "keeps every bit" in model_card(pretraining)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_is_not_claimed_of_a_cast(self, fixtures: Path, dtype: str) -> None:
        card = model_card(prepare(fixtures / "squad", Options(dtype=dtype)))
        assert "every bit" not in card
        assert f"as {dtype}" in card
        assert f"| dtype | {dtype} |" in card


class TestLoading:
    @pytest.mark.parametrize(
        ("name", "head", "auto"),
        [
            ("pretraining", None, "AutoModelForPreTraining"),
            ("pretraining", "mlm", "AutoModelForMaskedLM"),
            ("pretraining", "nsp", "AutoModelForNextSentencePrediction"),
            ("pretraining", "none", "AutoModel"),
            ("classifier", None, "AutoModelForSequenceClassification"),
            ("classifier", "token", "AutoModelForTokenClassification"),
            ("squad", None, "AutoModelForQuestionAnswering"),
        ],
    )
    def test_uses_the_class_that_was_converted(
        self, fixtures: Path, name: str, head: str | None, auto: str
    ) -> None:
        card = model_card(prepare(fixtures / name, Options(head=head)))
        usage = sections(card)["How to load it"]
        assert f"model = {auto}.from_pretrained(folder)" in usage
        assert f"import {auto}, AutoTokenizer" in usage

    def test_asks_for_no_pooler_where_there_is_none(self, fixtures: Path) -> None:
        usage = sections(model_card(prepare(fixtures / "encoder")))["How to load it"]
        assert "AutoModel.from_pretrained(folder, add_pooling_layer=False)" in usage

    def test_uses_no_tokenizer_where_there_is_none(self, pretraining: Prepared) -> None:
        bare = msgspec.structs.replace(pretraining, vocabulary=None, do_lower_case=None)
        card = model_card(bare)
        assert "okenizer" not in sections(card)["How to load it"]
        assert "lower-cased text | unknown" in card

    @pytest.mark.parametrize("name", FIXTURES)
    def test_is_shown_by_code_that_compiles(self, fixtures: Path, name: str) -> None:
        usage = sections(model_card(prepare(fixtures / name)))["How to load it"]
        (code,) = re.findall(r"```python\n(.*?)```", usage, re.DOTALL)
        compile(code, "README.md", "exec")


class TestARelease:
    @pytest.mark.parametrize(("layers", "hidden"), NAMED)
    def test_that_google_named_is_named_and_has_its_scores(
        self, pretraining: Prepared, layers: int, hidden: int
    ) -> None:
        card = model_card(released(pretraining, layers, hidden))
        name, score, mrpc, ax = NAMED[layers, hidden]
        assert f"\n# {name}\n" in card
        head, _, values = tables(sections(card)["Scores"])[0]
        scores = dict(zip(head, values, strict=True))
        assert (scores["score"], scores["MRPC"], scores["AX"]) == (score, mrpc, ax)
        assert len(scores) == 12
        assert "not measured on this folder" in sections(card)["Scores"]

    @pytest.mark.parametrize(
        ("layers", "hidden", "vocabulary", "cased"),
        [
            (2, 256, 30522, False),
            (6, 512, 30522, False),
            (12, 768, 30522, False),
            (24, 1024, 30522, False),
            (12, 768, 28996, True),
            (12, 768, 21128, False),
        ],
    )
    def test_that_has_no_published_scores_has_none(
        self, pretraining: Prepared, layers: int, hidden: int, vocabulary: int, cased: bool
    ) -> None:
        card = model_card(released(pretraining, layers, hidden, vocabulary, cased))
        assert "Scores" not in sections(card)
        compact = hidden < 768  # of the other sizes there are models by others, too
        assert front_matter(card)["license"] == ("apache-2.0" if compact else "unknown")
        assert "published BERT" in card

    def test_of_the_compact_family_says_where_it_lies(self, pretraining: Prepared) -> None:
        card = model_card(released(pretraining, 8, 512))
        matter = front_matter(card)
        assert matter["license"] == "apache-2.0"
        assert matter["language"] == "en"
        assert matter["base_model"] == "google/bert_uncased_L-8_H-512_A-8"
        assert (
            "https://storage.googleapis.com/bert_models/2020_02_20/uncased_L-8_H-512_A-8.zip"
            in sections(card)["Where it came from"]
        )
        assert "1908.08962" in sections(card)["Papers"]

    def test_is_known_by_a_real_index(self, real: Path) -> None:
        base = model_card(prepare(real / "google-uncased_L-12_H-768_A-12-index"))
        assert "\n# BERT-Base\n" in base
        assert "110,106,428 parameters" in base
        assert "okenizer" not in sections(base)["How to load it"]
        chinese = front_matter(model_card(prepare(real / "google-chinese_L-12_H-768_A-12-index")))
        assert chinese["language"] == "zh"

    def test_is_not_claimed_of_what_was_trained_further(
        self, pretraining: Prepared, fixtures: Path
    ) -> None:
        others = {
            "other sizes": pretraining,
            "another vocabulary": released(pretraining, 2, 128, 30523),
            "a cased vocabulary": released(pretraining, 2, 128, cased=True),
            "optimizer slots": released(prepare(fixtures / "pretraining-adam"), 2, 128),
            "a head of its own": released(prepare(fixtures / "classifier"), 2, 128),
            "no head": released(prepare(fixtures / "encoder"), 2, 128),
        }
        for what, prepared in others.items():
            card = model_card(prepared)
            matter = front_matter(card)
            assert "Scores" not in sections(card), what
            assert "published BERT" not in card, what
            assert matter["license"] == "unknown", what
            assert not {"base_model", "language"} & matter.keys(), what


class TestTheRest:
    def test_says_what_the_other_activation_would_be(self, fixtures: Path) -> None:
        tanh, erf = (
            sections(model_card(prepare(fixtures / "squad", Options(activation=a))))
            for a in ("auto", "erf")
        )
        assert "`gelu_pytorch_tanh` in config.json (`hidden_act`)" in tanh["Activation"]
        assert "--activation erf" in tanh["Activation"]
        assert "`gelu` is `gelu` in config.json" in erf["Activation"]
        assert "--activation tanh" in erf["Activation"]

    def test_counts_what_was_left_behind_by_its_reason(self, fixtures: Path) -> None:
        left = sections(model_card(prepare(fixtures / "pretraining-adam")))["What was skipped"]
        assert "- 92 variables: optimizer slot\n- 1 variable: training step\n" in left

    def test_says_so_where_nothing_was_left_behind(self, fixtures: Path) -> None:
        left = sections(model_card(prepare(fixtures / "squad")))["What was skipped"]
        assert left.strip() == "Nothing: every variable of the checkpoint is in the model."

    def test_says_which_tensors_are_tied(self, pretraining: Prepared) -> None:
        left = sections(model_card(pretraining))["What was skipped"]
        assert "`cls.predictions.decoder.weight` is not written" in left
        assert "`cls.predictions.decoder.bias` is not written" in left

    def test_repeats_every_note_of_the_plan_and_none_of_where_the_input_lay(
        self, fixtures: Path
    ) -> None:
        prepared = prepare(fixtures / "encoder")
        noted = sections(model_card(prepared))["What the converter noted"]
        assert noted.strip() == "\n".join(f"- {note}" for note in prepared.plan.notes)

    def test_counts_the_labels_of_a_classifier(self, fixtures: Path) -> None:
        assert "| labels | 3 |" in model_card(prepare(fixtures / "classifier"))

    def test_is_written_for_a_mapping_with_other_words_for_the_sizes(
        self, pretraining: Prepared
    ) -> None:
        plan = msgspec.structs.replace(pretraining.plan, config={"n_layers": 2}, sizes={"N": 2})
        rules = msgspec.structs.replace(pretraining.mapping, sizes={"N": "n_layers"}, title="")
        card = model_card(msgspec.structs.replace(pretraining, plan=plan, mapping=rules))
        assert "\n# BertForPreTraining\n" in card
        assert "| n layers | 2 |" in card

    def test_takes_its_words_from_the_mapping(self, pretraining: Prepared) -> None:
        rules = msgspec.structs.replace(
            pretraining.mapping,
            name="memo",
            title="Memo",
            model_type="memo",
            reference="",
            card=Card(papers=[Paper("Memories (Doe; 2019)")], license_unknown="ask us."),
            architecture=[],
        )
        plan = msgspec.structs.replace(
            pretraining.plan,
            mapping="memo",
            architecture=Architecture(name="MemoModel", groups=[]),
            ties=[],
        )
        card = model_card(msgspec.structs.replace(pretraining, plan=plan, mapping=rules))
        assert "\n# Memo, 2 layers of 32\n" in card
        assert "\nLicense of the source: ask us.\n" in card
        assert card.endswith("## Papers\n\n- Memories (Doe; 2019).\n")
        assert "class `MemoModel`" in sections(card)["How to load it"]
        for word in ("Google", "Devlin", "Apache", "MLM", "AutoModel", "gradients", "# BERT"):
            assert word not in card

    def test_lacks_what_the_mapping_does_not_say(self, pretraining: Prepared) -> None:
        rules = msgspec.structs.replace(pretraining.mapping, card=Card(), activation=None)
        card = model_card(msgspec.structs.replace(pretraining, mapping=rules))
        assert not {"Papers", "Activation"} & sections(card).keys()
