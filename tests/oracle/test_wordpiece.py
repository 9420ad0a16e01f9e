"""The tokenizer files, as transformers loads them, against Google's own tokenization.py.

bert-tensorflow's tokenization.py is the published one, but for a vocabulary with duplicates, which
it closes up; it needs TensorFlow to read a file.
"""

# ruff: noqa: RUF001 (letters of other scripts that look like Latin ones are the point here)

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from absl import flags
from bert import tokenization
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from bertconvert.converter.tokenizers.wordpiece import read_vocabulary, tokenizer_files

flags.FLAGS.mark_as_parsed()  # tokenization.py reads a flag of its own

TEXTS = [
    "The quick brown fox didn't jump over 3.14 lazy dogs; e-mail: a_b@example.org ($5 + 5% = ^_^)!",
    "L'élève garçon, où êtes-vous ? Œuvre, naïveté, ÇA VA, ÉTÉ.",
    "Tiếng Việt có sáu thanh điệu: ngang, huyền, ngã, hỏi, sắc, nặng. ĐƯỜNG PHỐ",
    "Ο ΜΕΓΑΛΟΣ ΟΔΥΣΣΕΑΣ ΤΗΣ ΙΘΑΚΗΣ, ο Σωκράτης· ΑΣ'Α Ο.Η.Ε.Σ. Α..Σ Σ ΣΑΣ",
    "\u0391\u0301\u03a3 ΑΣ\u0301 ΑΣ\u0301Α ἌΣ ᾼΣ \u02b0Σ ΑΣ\u02b0 'Σ ΑΣ' ς σ Σ中Α ΑΣ中",
    "İstanbul'da ILIK ışık; IĞDIR, ĞÜŞİÖÇ",
    "Straße, STRASSE, ẞ, Äpfel, Über, Donaudampfschifffahrtsgesellschaftskapitän",
    "Съешь же ещё этих мягких французских булок, ЙОД, Ёлка, Її, й",
    "اَلْعَرَبِيَّةُ لُغَةٌ جَمِيلَةٌ، أهلاً وسهلاً؟ ـــ ٣٫١٤",
    "हिन्दी में लिखा हुआ वाक्य। क़लम, ज़रूर, श्री १२३",
    "ภาษาไทยไม่มีช่องว่าง ที่นี่ น้ำ ๑๒๓",
    "한국어 문장은 띄어쓰기를 합니다. 값싼 닭, ᄒᆞᆫ글",
    "日本語の文章です。ガギグゲゴ、がぎぐ、ﾊﾝｶｸ、々〆ヶ「引用」",
    "中文句子没有空格,混合English和123。㐀𠀀𫠝𫠠𬺡豈丽",
    "emoji 😀😃 👩‍👩‍👧‍👦 🇬🇷 👍🏽 ☕️ ❤️ 🤣🥲🫠",
    "combining: e\u0301 a\u0308\u0301 n\u0303 \u0301start q\u0307\u0323 ﬁ ½ Å K Ω ≠ \u0344",
    "zero\u200bwidth zero\u200cwidth zero\u200dwidth soft\u00adhyphen \ufeffBOM\ufeff \u2060\u180e",
    "no\u00a0break thin\u2009space wide\u3000space line\u2028sep para\u2029sep next\u0085line",
    "tab\tnew\nline\rreturn\x0bvt\x0cff \x00nul\x01\x1c\x1d\x1e\x1f\x7f \x80\x9f",
    "private \ue000 \uf8ff \U000f0000 \U0010fffd replacement \ufffd noncharacter \ufffe \U0001ffff",
    "marks — – … « » “ ” ‘ ’ ¿ ¡ § ¶ † ‡ • ′ € £ ¥ © ® ™ ° ± × ÷ ‿ ⁀ ﹏ ＿ ～ ＋ ؛ ׳ ᙭ ՚ ⸮ 𐏐",
    *("a" * length + " end" for length in (99, 100, 101, 199, 200, 201)),
    *("é" * length + " ß" for length in (100, 101, 200, 201)),
    "e\u0301" * 200 + " " + "e\u0301" * 201,
    "",
    " \t ",
]

# Where tokenizers' Unicode tables contradict those of Python 3.11: Ahom's medial RA was Mn and is
# Mc now; Dives Akuru's vowel sign O came with a decomposition that tokenizers' NFD does not know.
CONTRADICTIONS = {"\U0001171e", "\U00011938"}


def is_settled(char: str) -> bool:
    """Whether both sides know `char`; Python's table lacks the newest of tokenizers' characters."""
    return unicodedata.category(char) not in ("Cn", "Cs") and char not in CONTRADICTIONS


# Each kind of character that a rule singles out is as likely as all the others together.
SINGLED_OUT = "aÉßİΑΣσς.'’·\u0301\u0345ʰ \t\n\r\x00\u00a0\u00ad\u200b\u2028\u3000中豈が한#[]"
CHARACTERS = st.one_of(
    st.sampled_from(SINGLED_OUT),
    st.characters(min_codepoint=0x20, max_codepoint=0x2FF),
    st.characters().filter(is_settled),
)

Pair = tuple[tokenization.FullTokenizer, Any]
Make = Callable[[bytes, bool], Pair]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """(a vocab.txt, do_lower_case) -> Google's tokenizer and transformers' one of our files."""

    def make(data: bytes, do_lower_case: bool) -> Pair:
        folder = tmp_path_factory.mktemp("model")
        tokens = read_vocabulary(data, "vocab.txt")
        made = tokenizer_files(tokens, do_lower_case=do_lower_case, model_max_length=512)
        for name, content in made.items():
            (folder / name).write_bytes(content)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        source = tmp_path_factory.mktemp("google") / "vocab.txt"
        source.write_bytes(data)
        google = tokenization.FullTokenizer(str(source), do_lower_case=do_lower_case)
        return google, AutoTokenizer.from_pretrained(folder)

    return make


@pytest.fixture(scope="module", params=[True, False], ids=["lower", "cased"])
def spelling(request: pytest.FixtureRequest, make: Make) -> Pair:
    """Tokenizers that know each character of the basic plane: no [UNK] hides a difference."""
    characters = [char for char in map(chr, range(0x10000)) if is_settled(char) and char.strip()]
    pieces = [*characters, *(f"##{char}" for char in characters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##ing", *pieces]
    return make("\n".join(vocabulary).encode(), request.param)


def assert_equal_on(pair: Pair, text: str) -> None:
    google, ours = pair
    expected = google.tokenize(text)
    assert ours.tokenize(text) == expected
    ids = ours(text, add_special_tokens=False)["input_ids"]
    assert ids == google.convert_tokens_to_ids(expected)


@pytest.mark.parametrize("do_lower_case", [True, False], ids=["lower", "cased"])
@pytest.mark.parametrize(
    "file",
    [
        "vocab-uncased-30522.txt",
        "vocab-cased-28996.txt",
        "vocab-chinese-21128.txt",
        "keras-bert-tiny-pretrain/vocab.txt",
    ],
)
def test_tokens_and_ids_are_googles_with_real_vocabularies(
    real: Path, make: Make, file: str, do_lower_case: bool
) -> None:
    pair = make((real / file).read_bytes(), do_lower_case)
    for text in TEXTS:
        assert_equal_on(pair, text)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_and_ids_are_googles_character_by_character(spelling: Pair, text: str) -> None:
    assert_equal_on(spelling, text)


@settings(max_examples=1000, deadline=None)
@given(text=st.text(CHARACTERS, max_size=40))
def test_tokens_and_ids_are_googles_for_any_text(spelling: Pair, text: str) -> None:
    assert_equal_on(spelling, text)


def test_words_are_googles_around_every_code_point(spelling: Pair) -> None:
    google, ours = spelling[0].basic_tokenizer, spelling[1].backend_tokenizer

    def words(text: str) -> list[str]:
        normal = ours.normalizer.normalize_str(text)
        return [word for word, _ in ours.pre_tokenizer.pre_tokenize_str(normal)]

    different = set()
    for start in range(0, 0x110000, 256):
        chars = [chr(c) for c in range(start, start + 256) if not 0xD800 <= c <= 0xDFFF]
        text = " ".join(f"a{char}b" for char in chars)
        if google.tokenize(text) != words(text):
            different |= {c for c in chars if google.tokenize(f"a{c}b") != words(f"a{c}b")}
    assert {char for char in different if is_settled(char)} == set()


def test_pairs_are_framed_as_run_classifier_frames_them(spelling: Pair) -> None:
    google, ours = spelling
    a, b = google.tokenize("the thing, sung"), google.tokenize("中 end")
    encoded = ours("the thing, sung", "中 end")
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]  # convert_single_example
    assert encoded["input_ids"] == google.convert_tokens_to_ids(tokens)
    assert encoded["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    alone = ours("the thing, sung")
    assert alone["input_ids"] == google.convert_tokens_to_ids(["[CLS]", *a, "[SEP]"])
    assert alone["token_type_ids"] == [0] * (len(a) + 2)


def test_a_special_token_in_the_text_is_that_token_where_google_splits_it(spelling: Pair) -> None:
    google, ours = spelling
    assert google.tokenize("x[MASK]")[:2] == ["x", "["]
    assert ours.tokenize("x[MASK]") == ["x", "[MASK]"]


def test_special_tokens_length_and_padding_are_known(spelling: Pair) -> None:
    _, ours = spelling
    assert ours.model_max_length == 512
    assert (ours.pad_token_id, ours.unk_token_id, ours.cls_token_id) == (0, 1, 2)
    assert (ours.sep_token_id, ours.mask_token_id) == (3, 4)
    assert ours("the", padding="max_length", max_length=6)["input_ids"] == [2, 5, 3, 0, 0, 0]
    assert ours.decode(ours("the thing")["input_ids"], skip_special_tokens=True) == "the thing"


def test_a_vocabulary_without_special_tokens_loads(make: Make) -> None:
    _, ours = make(b"a\n##b\nc\n", True)
    assert ours.all_special_tokens == []
    assert len(ours) == 3
    assert ours("ab c", "a")["input_ids"] == [0, 1, 2, 0]


def load_vocab(path: str) -> dict[str, int]:
    """load_vocab of google-research/bert, in which every line has an id."""
    found, index = {}, 0
    with tf.io.gfile.GFile(path, "r") as reader:
        while token := reader.readline():
            found[token.strip()] = index
            index += 1
    return found


UNIQUE = {
    "no final newline": b"a\nb",
    "CRLF": b"a\r\nb\r\n",
    "CRLF without the last": b"a\r\nb",
    "carriage returns inside": b"a\rb\nc\r\r\n",
    "spaces around": b" a\n\tb \n",
    "spaces inside": "New York\na\u00a0b\n".encode(),
    "no-break space": "a\n\u00a0\nb\n".encode(),
    "line separator": "a\n\u2028\nb\u2029c\n##\u2028\n".encode(),
    "other ends of lines": b"a\x0bb\nc\x0cd\n\xc2\x85e\nf\x1cg\n",
    "NUL": b"a\x00b\n\x00\n",
    "blank in the middle": b"a\n\nb\n",
    "blank first": b"\na\n",
    "byte order mark inside": "a\n\ufeffb\n".encode(),
}
REPEATED = {
    "blank twice": b"a\n\n \nb\n",
    "duplicates": b"[UNK]\na\nb\na\na\nc\n",
    "duplicates after strip": b"a\na \r\nb\n",
    "a name of ours": b"a\na\n[duplicate0]\n[duplicate0_]\n",
}


@pytest.mark.parametrize("about", [*UNIQUE, *REPEATED])
def test_every_token_has_the_id_that_google_reads(make: Make, tmp_path: Path, about: str) -> None:
    data = (UNIQUE | REPEATED)[about]
    (tmp_path / "vocab.txt").write_bytes(data)
    expected = load_vocab(str(tmp_path / "vocab.txt"))
    if about in UNIQUE:  # of others, the package on PyPI leaves out lines
        assert expected == tokenization.load_vocab(str(tmp_path / "vocab.txt"))
    _, ours = make(data, False)
    ids = ours.get_vocab()
    assert {token: ids[token] for token in expected} == expected
    rows = max(expected.values()) + 1
    assert sorted(ids.values()) == list(range(rows))
    assert len(ours) == rows


@pytest.mark.parametrize("data", [b"a\nb\n\n\n", b"a\nb\n \n\t", "a\nb\n\u2028\n".encode()])
def test_blank_lines_at_the_end_have_no_id(make: Make, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(data)
    expected = tokenization.load_vocab(str(tmp_path / "vocab.txt"))
    assert make(data, False)[1].get_vocab() == {t: i for t, i in expected.items() if t}


def test_a_byte_order_mark_is_not_in_the_first_token_though_it_is_for_google(
    make: Make, tmp_path: Path
) -> None:
    data = "\ufeff[PAD]\na\n".encode()
    (tmp_path / "vocab.txt").write_bytes(data)
    assert tokenization.load_vocab(str(tmp_path / "vocab.txt")) == {"\ufeff[PAD]": 0, "a": 1}
    assert make(data, False)[1].get_vocab() == {"[PAD]": 0, "a": 1}


@pytest.mark.parametrize("size", [30_000, 500_000])
def test_large_vocabularies_have_the_ids_that_google_reads(
    make: Make, tmp_path: Path, size: int
) -> None:
    data = "".join(f"{number:x}\n" for number in range(size)).encode()
    (tmp_path / "vocab.txt").write_bytes(data)
    assert make(data, False)[1].get_vocab() == load_vocab(str(tmp_path / "vocab.txt"))


def test_every_id_of_a_vocabulary_with_duplicates_has_a_token(make: Make) -> None:
    _, ours = make(b"[UNK]\na\nb\na\nc\n", True)
    assert len(ours) == 5
    assert ours("a b c")["input_ids"] == [3, 2, 4]


def test_a_save_by_transformers_keeps_the_tokenizer(spelling: Pair, tmp_path: Path) -> None:
    _, ours = spelling
    ours.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert again(text, text) == ours(text, text)


def test_bert_tokenizer_reads_vocabulary_and_case_from_the_same_files(make: Make) -> None:
    data = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nA\n"
    for do_lower_case, expected in ((True, [2, 5, 3]), (False, [2, 6, 3])):
        _, ours = make(data, do_lower_case)
        assert BertTokenizer.from_pretrained(ours.name_or_path)("A")["input_ids"] == expected
