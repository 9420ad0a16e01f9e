import json
from pathlib import Path

import pytest

from bertconvert.converter.errors import PlanError
from bertconvert.converter.tokenizers.wordpiece import (
    infer_casing,
    pad_vocabulary,
    read_vocabulary,
    special_tokens,
    tokenizer_files,
    vocabulary_notes,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def files(*tokens: str, do_lower_case: bool = True, positions: int = 512) -> dict[str, bytes]:
    return tokenizer_files(tokens, do_lower_case=do_lower_case, model_max_length=positions)


class TestReadVocabulary:
    def test_gives_each_token_at_the_index_of_its_line(self) -> None:
        assert read_vocabulary(b"[PAD]\nthe\n##s\n", "vocab.txt") == ("[PAD]", "the", "##s")

    @pytest.mark.parametrize("data", [b"a\nb", b"a\nb\n", b"a\nb\n\n \n", b"a\r\nb\r\n", b" a\nb "])
    def test_strips_lines_and_drops_empty_ones_at_the_end(self, data: bytes) -> None:
        assert read_vocabulary(data, "vocab.txt") == ("a", "b")

    def test_an_empty_line_between_tokens_keeps_its_index(self) -> None:
        assert read_vocabulary(b"a\n\nb\n", "vocab.txt") == ("a", "", "b")

    def test_only_a_newline_ends_a_line(self) -> None:
        data = "a\n\u2028\n##\u2028\nx\u0085y\n".encode()
        assert read_vocabulary(data, "vocab.txt") == ("a", "", "##", "x\u0085y")

    def test_a_byte_order_mark_is_no_part_of_the_first_token(self) -> None:
        assert read_vocabulary(b"\xef\xbb\xbf[PAD]\na\n", "vocab.txt") == ("[PAD]", "a")

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_names_file_and_line_of_what_is_not_utf_8(self, mark: bytes) -> None:
        with pytest.raises(PlanError, match=r"some/vocab\.txt, line 3: not UTF-8"):
            read_vocabulary(mark + b"a\nb\nna\xefve\n", "some/vocab.txt")

    @pytest.mark.parametrize("data", [b"", b"\n\n"])
    def test_refuses_a_file_without_tokens(self, data: bytes) -> None:
        with pytest.raises(PlanError, match=r"vocab\.txt has no token"):
            read_vocabulary(data, "vocab.txt")


class TestInferCasing:
    @pytest.mark.parametrize(
        ("file", "name", "do_lower_case", "reason"),
        [
            (
                "vocab-uncased-30522.txt",
                "uncased_L-2_H-128_A-2",
                True,
                "no token has capitals or accents, and the name says uncased",
            ),
            (
                "vocab-cased-28996.txt",
                "cased_L-12_H-768_A-12/bert_model.ckpt",
                False,
                "8,826 of 28,996 tokens have capitals or accents (A, B, C, …), "
                "and the name says cased",
            ),
            (
                "vocab-cased-28996.txt",
                "finetuned",
                False,
                "8,826 of 28,996 tokens have capitals or accents (A, B, C, …)",
            ),
            (
                "vocab-chinese-21128.txt",
                "chinese_L-12_H-768_A-12",
                True,
                "no token has capitals or accents",
            ),
        ],
    )
    def test_agrees_with_google_about_its_own_vocabularies(
        self, real: Path, file: str, name: str, do_lower_case: bool, reason: str
    ) -> None:
        casing = infer_casing(read_vocabulary((real / file).read_bytes(), file), name)
        assert (casing.do_lower_case, casing.reason) == (do_lower_case, reason)

    @pytest.mark.parametrize("token", ["Paris", "##É", "é", "कु", "が"])
    def test_tokens_that_lower_cased_text_cannot_spell_mean_a_cased_model(self, token: str) -> None:
        casing = infer_casing([*SPECIAL, "the", "##s", token], "model")
        assert not casing.do_lower_case
        assert casing.reason == f"1 of 8 tokens has capitals or accents ({token})"

    def test_special_tokens_are_no_evidence(self) -> None:
        assert infer_casing([*SPECIAL, "[unused1]", "[ENT]", "<S>"], "model").do_lower_case

    def test_the_vocabulary_overrules_a_name_that_contradicts_it(self) -> None:
        lower = infer_casing([*SPECIAL, "the"], "my_cased_model")
        assert lower.do_lower_case
        assert lower.reason == "no token has capitals or accents, though the name says cased"
        cased = infer_casing([*SPECIAL, "The"], "runs/BERT-Uncased/model.ckpt")
        assert not cased.do_lower_case
        assert cased.reason == (
            "1 of 6 tokens has capitals or accents (The), though the name says uncased"
        )

    @pytest.mark.parametrize(
        ("name", "do_lower_case", "ending"),
        [
            ("model", True, ""),
            ("uncased", True, ", and the name says uncased"),
            ("cased/model.ckpt", False, ", but the name says cased"),
        ],
    )
    def test_with_a_few_added_tokens_the_name_decides(
        self, name: str, do_lower_case: bool, ending: str
    ) -> None:
        casing = infer_casing([f"t{index}" for index in range(298)] + ["New", "York"], name)
        reason = f"only 2 of 300 tokens have capitals or accents (New, York){ending}"
        assert (casing.do_lower_case, casing.reason) == (do_lower_case, reason)

    @pytest.mark.parametrize(
        ("name", "do_lower_case", "ending"),
        [
            ("model", False, ""),
            ("cased", False, ", and the name says cased"),
            ("uncased", True, ", but the name says uncased"),
        ],
    )
    def test_with_accents_alone_the_name_decides(
        self, name: str, do_lower_case: bool, ending: str
    ) -> None:
        casing = infer_casing([*SPECIAL, "für", "##ß", "ö"], name)
        reason = f"2 of 8 tokens have capitals or accents (für, ö){ending}"
        assert (casing.do_lower_case, casing.reason) == (do_lower_case, reason)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("uncased_models/multi_cased_L-12_H-768_A-12", "cased"),
            ("cased/lowercased-v2", "lowercased"),
            ("BERTUncased", "uncased"),
        ],
    )
    def test_the_last_word_of_the_name_counts(self, name: str, said: str) -> None:
        assert infer_casing(["the"], name).reason.endswith(f"the name says {said}")


class TestSpecialTokens:
    def test_are_found_by_name_wherever_they_are(self) -> None:
        found = special_tokens(["a", "[CLS]", "[PAD]", "[SEP]", "[UNK]", "b", "[MASK]"])
        assert {role: (token.text, token.row) for role, token in found.items()} == {
            "unk_token": ("[UNK]", 4),
            "sep_token": ("[SEP]", 3),
            "pad_token": ("[PAD]", 2),
            "cls_token": ("[CLS]", 1),
            "mask_token": ("[MASK]", 6),
        }

    def test_have_no_row_where_the_vocabulary_lacks_them(self) -> None:
        found = special_tokens(["[PAD]", "[UNK]", "[CLS]", "a"])
        missing = [token.text for token in found.values() if token.row is None]
        assert missing == ["[SEP]", "[MASK]"]

    def test_have_the_last_of_several_rows(self) -> None:
        assert special_tokens(["[PAD]", "[CLS]", "a", "[CLS]"])["cls_token"].row == 3


class TestVocabularyNotes:
    def test_say_nothing_of_a_plain_vocabulary(self) -> None:
        assert vocabulary_notes([*SPECIAL, "a"]) == []

    def test_name_the_lines_that_are_blank(self) -> None:
        (note,) = vocabulary_notes(["a", "", "b", ""])
        assert "2 and 4" in note

    def test_name_the_tokens_on_several_lines_with_their_lines(self) -> None:
        (note,) = vocabulary_notes(["a", "b", "a", "c", "b"])
        assert "a (1 and 3)" in note
        assert "b (2 and 5)" in note

    def test_stay_short(self) -> None:
        notes = vocabulary_notes([str(number // 2) for number in range(100_000)] + [""] * 50_000)
        assert "50,000" in notes[0]
        assert "50,000" in notes[1]
        assert all(len(note) < 300 for note in notes)


class TestPadVocabulary:
    def test_names_the_rows_without_a_token(self) -> None:
        assert pad_vocabulary(["a", "b"], 4) == ("a", "b", "[unused_2]", "[unused_3]")
        assert pad_vocabulary(["a", "b"], 2) == ("a", "b")

    def test_takes_no_name_that_the_vocabulary_has(self) -> None:
        padded = pad_vocabulary(["[unused_3]", "[unused_4]", "[unused_4_]"], 5)
        assert len(set(padded)) == 5
        assert all(name.startswith("[unused_") for name in padded)


class TestTokenizerFiles:
    def test_are_four_and_the_same_every_time(self) -> None:
        made = files(*SPECIAL, "a")
        assert list(made) == [
            "vocab.txt",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ]
        assert made == files(*SPECIAL, "a")

    @pytest.mark.parametrize("name", ["uncased-30522", "cased-28996"])
    def test_vocab_txt_is_googles_own(self, real: Path, name: str) -> None:
        data = (real / f"vocab-{name}.txt").read_bytes()
        tokens = read_vocabulary(data, name)
        assert files(*tokens)["vocab.txt"] == data

    def test_every_vocabulary_reads_back_from_vocab_txt(self, real: Path) -> None:
        for path in real.rglob("vocab*.txt"):
            tokens = read_vocabulary(path.read_bytes(), path.name)
            assert read_vocabulary(files(*tokens)["vocab.txt"], "vocab.txt") == tokens

    @pytest.mark.parametrize("do_lower_case", [True, False])
    def test_the_config_says_the_case_the_length_and_the_special_tokens(
        self, do_lower_case: bool
    ) -> None:
        made = files(*SPECIAL, do_lower_case=do_lower_case, positions=128)
        special = {
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        }
        assert json.loads(made["special_tokens_map.json"]) == special
        assert json.loads(made["tokenizer_config.json"]) == {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "model_max_length": 128,
            "do_lower_case": do_lower_case,
            **special,
        }

    def test_tokenizer_json_holds_every_id_and_marks_the_special_ones(self) -> None:
        tokens = ("a", *SPECIAL, "##é")
        pipeline = json.loads(files(*tokens)["tokenizer.json"])
        assert pipeline["model"]["vocab"] == {token: index for index, token in enumerate(tokens)}
        added = pipeline["added_tokens"]
        assert [(token["id"], token["content"]) for token in added] == list(enumerate(SPECIAL, 1))
        assert all(token["special"] and not token["normalized"] for token in added)

    def test_lower_cases_only_where_asked(self) -> None:
        def steps(do_lower_case: bool) -> list[str]:
            pipeline = json.loads(files("a", do_lower_case=do_lower_case)["tokenizer.json"])
            return [step["type"] for step in pipeline["normalizer"]["normalizers"]]

        assert steps(True) == ["Replace", "Replace", "Lowercase", "NFD", "Replace"]
        assert steps(False) == ["Replace"]

    def test_of_a_token_on_several_lines_the_last_counts_and_no_id_is_lost(self) -> None:
        made = files("[UNK]", "a", "b", "a", "a", "c")
        vocabulary = json.loads(made["tokenizer.json"])["model"]["vocab"]
        assert vocabulary == {
            "[UNK]": 0,
            "[duplicate1]": 1,
            "b": 2,
            "[duplicate3]": 3,
            "a": 4,
            "c": 5,
        }
        assert read_vocabulary(made["vocab.txt"], "vocab.txt") == tuple(vocabulary)

    def test_a_missing_special_token_is_left_out_everywhere(self) -> None:
        made = files("[UNK]", "[CLS]", "a")
        special = {"unk_token": "[UNK]", "cls_token": "[CLS]"}
        assert json.loads(made["special_tokens_map.json"]) == special
        config = json.loads(made["tokenizer_config.json"])
        assert {key: config[key] for key in config if key.endswith("_token")} == special
        pipeline = json.loads(made["tokenizer.json"])
        assert [token["content"] for token in pipeline["added_tokens"]] == ["[UNK]", "[CLS]"]
        assert pipeline["post_processor"] is None
