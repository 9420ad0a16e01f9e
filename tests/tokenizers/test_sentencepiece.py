import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from bertconvert.converter.errors import PlanError
from bertconvert.converter.tokenizers import sentencepiece_model
from bertconvert.converter.tokenizers.sentencepiece import (
    infer_casing,
    pad_vocabulary,
    read_vocabulary,
    special_tokens,
    tokenizer_files,
    vocabulary_notes,
)
from bertconvert.converter.tokenizers.sentencepiece_model import (
    BYTE,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from bertconvert.converter.tokenizers.sentencepiece_reference import encode, encode_alone

from .model_writer import Piece, message, model, number, piece


def normal(**scores: float) -> list[Piece]:
    return [(text.replace("_", "▁"), score, NORMAL) for text, score in scores.items()]


LETTERS = normal(_=-2.0, a=-5.0, b=-5.5, ab=-4.0, _a=-3.0, _b=-3.5, c=-6.0)


def written(data: bytes, *, lower: bool = True) -> dict[str, Any]:
    files = tokenizer_files(
        read_vocabulary(data, "x.model"), do_lower_case=lower, model_max_length=64
    )
    return json.loads(files["tokenizer.json"])


def both(data: bytes, text: str, *, lower: bool = True) -> list[str]:
    """The pieces of a text, which must be the same by the original rules and by tokenizers."""
    vocabulary = read_vocabulary(data, "x.model")
    ids = encode(text, vocabulary, lower)
    loaded = Tokenizer.from_str(json.dumps(written(data, lower=lower)))
    assert loaded.encode(text, add_special_tokens=False).ids == ids
    return [vocabulary[row] for row in ids]


class TestReadVocabulary:
    def test_gives_each_piece_at_its_id(self) -> None:
        read = read_vocabulary(model(LETTERS), "x.model")
        assert read[:7] == ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "▁", "a")
        assert read.file.scores[5:7] == (-2.0, -5.0)
        assert read.unknown == 1

    @pytest.mark.parametrize(
        ("data", "facts"),
        [
            (b"", ["no SentencePiece model", "no piece"]),
            (b"[PAD]\n[UNK]\n", ["no SentencePiece model"]),
            (model(LETTERS)[:-1], ["damaged"]),
            (model(LETTERS)[:60], ["damaged"]),
            (piece("<unk>", 0, UNKNOWN) + piece("a", -1, NORMAL), ["cut off"]),
            (model(LETTERS, trainer=number(3, 2)), ["BPE", "unigram"]),
            (model(LETTERS, trainer=number(3, 3)), ["word", "unigram"]),
            (model(LETTERS, trainer=number(3, 4)), ["character", "unigram"]),
            (model(LETTERS, trainer=number(3, 9)), ["9", "unigram"]),
            (model(LETTERS, trainer=number(24, 1)), ["treat_whitespace_as_suffix"]),
            (model(LETTERS, normalizer=number(4, 0)), ["remove_extra_whitespaces"]),
            (model(LETTERS, normalizer=number(5, 0)), ["escape_whitespaces"]),
            (model([*LETTERS, (b"\xff", -1, NORMAL)]), ["12", "not UTF-8"]),
            (model([*LETTERS, ("", -1, NORMAL)]), ["empty piece", "12"]),
            (model([*LETTERS, ("ab", -1, NORMAL)]), ["twice", "ab"]),
            (model([*LETTERS, ("x" * 5000, -1, NORMAL)]), ["5,000 characters", "12"]),
            (model([*LETTERS, ("d", float("nan"), NORMAL)]), ["12", "nan"]),
            (model([*LETTERS, ("d", -1, 77)]), ["type 77"]),
            (model([*LETTERS, ("d", -1, UNKNOWN)]), ["2 pieces", "<unk>"]),
            (model([*LETTERS, ("<0x41>", 0, BYTE)]), ["byte"]),
            (model(LETTERS).replace(b"\x18\x02", b"\x18\x03"), ["no piece for", "<unk>"]),
            (model([]), ["no piece is for text"]),
        ],
    )
    def test_says_what_is_wrong_and_in_which_file(self, data: bytes, facts: list[str]) -> None:
        with pytest.raises(PlanError) as caught:
            read_vocabulary(data, "some/x.model")
        assert all(fact in str(caught.value) for fact in ["some/x.model", *facts])

    def test_refuses_too_many_pieces_before_they_take_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sentencepiece_model, "_MOST_PIECES", 10)
        with pytest.raises(PlanError, match="more than 10 pieces"):
            read_vocabulary(model(LETTERS), "x.model")

    def test_no_damage_of_a_byte_raises_another_error(self) -> None:
        data = model(LETTERS, rules={"x": "ab"})
        for at in [*range(0, 160), *range(len(data) - 60, len(data))]:
            for value in (0, 0xFF, data[at] ^ 1):
                damaged = data[:at] + bytes([value]) + data[at + 1 :]
                try:
                    written(damaged)
                except PlanError:
                    continue


class TestRulesForCharacters:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x01",
            struct.pack("<I", 400) + bytes(8),
            struct.pack("<I", 6) + bytes(8),
            struct.pack("<2I", 4, 0xFFFFFFFF) + b"a\0",
        ],
    )
    def test_that_are_damaged_are_an_error(self, data: bytes) -> None:
        damaged = model(LETTERS, normalizer=message(2, data))
        with pytest.raises(PlanError, match="damaged"):
            written(damaged)
        with suppress(PlanError):  # where the text comes to it
            encode("ab", read_vocabulary(damaged, "x"), True)

    def test_without_an_end_are_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        units = [0] * 512
        units[0] = 256 << 10
        units[256 + ord("a")] = (256 ^ 256 + ord("a")) << 10 | ord("a")  # "a" leads to itself
        data = struct.pack("<I512I", 2048, *units) + b"\0"
        with pytest.raises(PlanError, match="no end"):
            written(model(LETTERS, normalizer=message(2, data)))

    def test_delete_make_spaces_and_replace(self) -> None:
        rules = {"\x01": "", "\u200b": " ", "ß": "ab", "▁": " "}
        assert both(model(LETTERS, rules=rules), "a\x01b\u200bß▁a") == ["▁", "ab", "▁", "ab", "▁a"]

    def test_of_which_the_longest_counts(self) -> None:
        rules = {"ᄀ": "a", "``": "c", "가": "b"}
        assert both(model(LETTERS, rules=rules), "a``b") == ["▁a", "c", "b"]

    def test_compose_what_was_decomposed(self) -> None:
        han = [*LETTERS, ("한", -4.0, NORMAL)]
        rules = {"\u1112\u1161\u11ab": "한"}
        assert both(model(han, rules=rules), "한a") == ["▁", "한", "a"]

    def test_leave_the_symbols_of_the_user_alone(self) -> None:
        pieces = [*LETTERS, ("~", 0.0, USER_DEFINED)]
        assert both(model(pieces, rules={"~": "c"}), "a~b") == ["▁a", "~", "b"]

    def test_that_tokenizer_json_can_not_hold_are_refused(self) -> None:
        with pytest.raises(PlanError, match=r"tokenizer\.json can't hold.*'x' -> 'y'"):
            written(model(LETTERS, rules={"x": "y", "y": "c"}))
        many = {chr(0x2C80 + n): f"{n:03}" for n in range(1, 250, 2)}
        with pytest.raises(PlanError, match=r"tokenizer\.json can't hold"):
            written(model(LETTERS, rules=many))


class TestTheTokenizer:
    @pytest.mark.parametrize(
        ("text", "pieces"),
        [
            ("", []),
            (" \t\u3000\x85 ", []),
            ("ab", ["▁", "ab"]),
            ("  a \n\u2028 B ", ["▁a", "▁b"]),
            ("áb\u0301", ["▁", "ab"]),
            ("xyz", ["▁", "<unk>"]),
            ("xaz", ["▁", "<unk>", "a", "<unk>"]),
            ("x z", ["▁", "<unk>", "▁", "<unk>"]),
            ("<PAD>", ["▁", "<unk>", "a", "<unk>"]),
            ("a▁b", ["▁a", "▁b"]),
        ],
    )
    def test_gives_the_pieces_of_the_original(self, text: str, pieces: list[str]) -> None:
        assert both(model(LETTERS, rules={"▁": " "}), text) == pieces

    def test_keeps_capitals_if_the_model_has_them(self) -> None:
        assert both(model([*LETTERS, ("A", -5.0, NORMAL)]), "A", lower=False) == ["▁", "A"]

    def test_takes_no_space_before_a_text_if_the_model_has_none(self) -> None:
        assert both(model(LETTERS, normalizer=number(3, 0)), "ab a") == ["ab", "▁a"]

    def test_splits_no_words_if_a_piece_goes_on_after_a_space(self) -> None:
        pieces = [*LETTERS, ("a▁b", -1.0, NORMAL)]
        assert both(model(pieces), "a bab") == ["▁", "a▁b", "ab"]

    def test_fuses_what_is_unknown_over_spaces_if_a_space_is_unknown(self) -> None:
        assert both(model(normal(a=-1.0, b=-2.0)), "x y a") == ["<unk>", "a"]

    def test_prefers_the_symbols_of_the_user(self) -> None:
        pieces = [*LETTERS, ("bc", 0.0, USER_DEFINED)]
        assert both(model(pieces), "abc") == ["▁a", "bc"]

    def test_never_gives_an_unused_piece(self) -> None:
        pieces = [*LETTERS, ("abc", 5.0, UNUSED)]
        assert both(model(pieces), "abc") == ["▁", "ab", "c"]

    def test_spells_what_is_unknown_in_bytes_if_the_model_has_them(self) -> None:
        every = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
        data = model([*LETTERS, *every], trainer=number(35, 1))
        assert both(data, "axé") == ["▁a", "<0x78>", "<0x65>"]

    def test_has_no_frame_without_its_tokens(self) -> None:
        data = model(LETTERS).replace(b"[SEP]", b"[END]")
        assert written(data)["post_processor"] is None
        assert encode_alone("ab", read_vocabulary(data, "x"), True, 8) == [5, 8]


NUMBERS = [
    *normal(_=-2.0),
    *[(digit, -6.0, NORMAL) for digit in "0123456789"],
    (",", -3.2, NORMAL),
    ("▁2", -8.0, NORMAL),
    ("▁21", -9.0, NORMAL),
    ("▁21,", -10.5, NORMAL),
    ("1,0", -9.0, NORMAL),
    ("00", -6.5, NORMAL),
    ("1,000", -4.0, NORMAL),
]


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "pieces"),
        [
            ("21, 2", ["▁21", ",", "▁2"]),
            ("21,5", ["▁21", ",", "5"]),
            ("21,05", ["▁21", ",", "0", "5"]),
            ("21,058", ["▁21", ",", "0", "5", "8"]),
            ("21,000", ["▁2", "1,000"]),
            ("1,05", ["▁", "1,0", "5"]),
        ],
    )
    def test_are_split_as_the_original_splits_them(self, text: str, pieces: list[str]) -> None:
        assert both(model(NUMBERS), text) == pieces

    def test_every_number_of_a_few_digits_is_the_same(self) -> None:
        data = model(NUMBERS)
        vocabulary = read_vocabulary(data, "x.model")
        loaded = Tokenizer.from_str(json.dumps(written(data)))
        texts = [f"{start},{rest}" for start in ("1", "2", "21") for rest in _digits()]
        for text in texts:
            found = loaded.encode(text, add_special_tokens=False).ids
            assert found == encode(text, vocabulary, True), text

    def test_a_piece_inside_of_a_word_is_noted(self) -> None:
        assert vocabulary_notes(read_vocabulary(model(NUMBERS), "x")) == []
        (note,) = vocabulary_notes(read_vocabulary(model([*NUMBERS, ("7,", -9, NORMAL)]), "x"))
        assert "7," in note


def _digits() -> Iterator[str]:
    for length in (1, 2, 3):
        yield from (f"{number:0{length}}" for number in range(10**length))


class TestCasing:
    @pytest.mark.parametrize(
        ("more", "lower"),
        [([], True), (normal(A=-5.0, B=-5.0), False), (normal(**{"é": -5.0}), True)],
    )
    def test_capitals_tell(self, more: list[Piece], lower: bool) -> None:
        casing = infer_casing(read_vocabulary(model([*LETTERS, *more]), "x"), "some/cased")
        assert casing.do_lower_case is lower
        assert ("A" in casing.reason) is not lower

    def test_a_few_capitals_do_not(self) -> None:
        many = [(f"a{n}", -9.0, NORMAL) for n in range(200)]
        casing = infer_casing(read_vocabulary(model([*LETTERS, *many, *normal(A=-9.0)]), "x"), "")
        assert casing.do_lower_case
        assert "only 1 of 213" in casing.reason


class TestSpecialTokens:
    def test_are_found_by_name_and_by_type(self) -> None:
        data = model(LETTERS).replace(b"<unk>", b"<UNK>").replace(b"[MASK]", b"[WASK]")
        found = special_tokens(read_vocabulary(data, "x"))
        rows = {role: token.row for role, token in found.items()}
        assert rows == {
            "bos_token": 2, "eos_token": 3, "unk_token": 1, "sep_token": 3, "pad_token": 0,
            "cls_token": 2, "mask_token": None,
        }  # fmt: skip
        assert found["unk_token"].text == "<UNK>"


def test_a_padded_model_has_names_that_no_text_spells() -> None:
    padded = pad_vocabulary(read_vocabulary(model([*LETTERS, ("[", -9.0, NORMAL)]), "x"), 15)
    assert padded[13:] == ("[unused_13]", "[unused_14]")
    files = tokenizer_files(padded, do_lower_case=True, model_max_length=8)
    assert read_vocabulary(files["spiece.model"], "x") == padded
    assert both(files["spiece.model"], "a [unused_12]") == ["▁a", "▁", "[", "<unk>"]


def test_a_conversion_with_another_tokenizer_imports_nothing_of_this(
    fixtures: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from bertconvert import convert; convert(*sys.argv[1:])\n"
        "print([name for name in sys.modules if 'sentencepiece' in name])"
    )
    command = [sys.executable, "-c", program, str(fixtures / "encoder"), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
