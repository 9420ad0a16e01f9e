"""The vocabulary of a model folder that anyone wrote."""

import json
from typing import Any

import pytest

from bertconvert import PlanError
from bertconvert.converter.tokenizers.sentencepiece import read_vocabulary, tokenizer_files
from bertconvert.converter.tokenizers.sentencepiece_model import NORMAL, SPACE
from bertconvert.converter.tokenizers.written import Original, original_vocabulary, padded

from .model_writer import model

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
VOCAB = "".join(f"{token}\n" for token in TOKENS).encode()
BERT_NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def ids(*tokens: str) -> dict[str, int]:
    return {token: row for row, token in enumerate(tokens)}


def tokenizer_json(
    vocab: Any = None, added: dict[str, int] | None = None, **changes: Any
) -> dict[str, bytes]:
    wordpiece = {"type": "WordPiece", "continuing_subword_prefix": "##"}
    document = {
        "added_tokens": [{"id": row, "content": token} for token, row in (added or {}).items()],
        "normalizer": changes.pop("normalizer", BERT_NORMALIZER),
        "pre_tokenizer": changes.pop("pre_tokenizer", {"type": "BertPreTokenizer"}),
        "model": {**wordpiece, "vocab": ids(*TOKENS) if vocab is None else vocab, **changes},
    }
    return {"tokenizer.json": json.dumps(document).encode()}


def config(**keys: Any) -> dict[str, bytes]:
    return {"tokenizer_config.json": json.dumps(keys).encode()}


def original(files: dict[str, bytes], rows: int = 7, kind: str = "wordpiece") -> Original:
    found = original_vocabulary(files, [kind])
    assert found is not None
    return padded(found, rows) if len(found.tokens) < rows else found


def test_a_folder_without_a_vocabulary_has_none() -> None:
    assert original_vocabulary(config(do_lower_case=True), ["wordpiece"]) is None
    assert original_vocabulary({"vocab.txt": VOCAB}, []) is None


@pytest.mark.parametrize("data", [VOCAB, VOCAB[:-1], b"\xef\xbb\xbf" + VOCAB, b"a\r\nb\n\nc\n"])
def test_the_bytes_of_a_whole_vocabulary_are_kept(data: bytes) -> None:
    found = original({"vocab.txt": data}, rows=4 if data[:1] == b"a" else 7)
    assert found.data == data
    assert found.do_lower_case is None


def test_a_tokenizer_json_alone_gives_one_token_a_line() -> None:
    shuffled = dict(sorted(ids(*TOKENS).items()))
    found = original(tokenizer_json(shuffled))
    assert found.data == VOCAB
    assert (found.kind, [*found.tokens], found.do_lower_case) == ("wordpiece", TOKENS, True)
    assert found.notes == []


def test_a_model_without_a_type_is_told_by_its_keys() -> None:
    assert original(tokenizer_json(type=None)).data == VOCAB


@pytest.mark.parametrize(
    "files",
    [
        {"vocab.txt": VOCAB, "added_tokens.json": b'{"<y>": 8, "<x>": 7}'},
        {"vocab.txt": VOCAB, **tokenizer_json(added={"[CLS]": 2, "<x>": 7, "<y>": 8})},
        tokenizer_json(added={"<y>": 8, "<x>": 7}),
        {
            "vocab.txt": VOCAB,
            **config(added_tokens_decoder={"7": {"content": "<x>"}, "8": {"content": "<y>"}}),
            "added_tokens.json": b'{"<x>": 7, "<y>": 8}',
        },
    ],
)
def test_tokens_that_were_added_come_after_the_others(files: dict[str, bytes]) -> None:
    found = original(files, 9)
    assert found.data == VOCAB + b"<x>\n<y>\n"
    assert found.tokens[7:] == ("<x>", "<y>")
    assert "2 tokens" in found.notes[0]
    assert "<x> and <y>" in found.notes[0]


def test_rows_without_a_token_get_a_name() -> None:
    found = original({"vocab.txt": VOCAB}, 9)
    assert found.data == VOCAB + b"[unused_7]\n[unused_8]\n"


def test_more_tokens_than_rows_are_all_given() -> None:
    found = original({"vocab.txt": VOCAB, "added_tokens.json": b'{"<x>": 7}'}, 7)
    assert len(found.tokens) == 8


def test_a_token_of_spaces_is_a_blank_line() -> None:
    tokens = [*TOKENS[:5], "\u2028", "", "\n", "a"]
    found = original(tokenizer_json(ids(*tokens)), 9)
    assert found.data.decode().split("\n") == [*TOKENS[:5], "", "", "", "a", ""]
    assert any("blank" in note for note in found.notes)


def test_files_agree_where_a_token_is_on_two_lines_or_has_spaces() -> None:
    data = VOCAB + "a\n \u2028\nx\n".encode()
    vocab = {token: row for row, token in enumerate([*TOKENS, "a", "\u2028", "x"])}
    assert original({"vocab.txt": data, **tokenizer_json(vocab)}, 10).data == data


@pytest.mark.parametrize(
    ("stated", "lowers"),
    [
        (config(do_lower_case=False), False),
        (config(do_lower_case=True, tokenizer_class="BertTokenizerFast"), True),
        (config(), None),
        (tokenizer_json(normalizer=BERT_NORMALIZER | {"lowercase": False}), False),
        (tokenizer_json(normalizer={"normalizers": [{"type": "Lowercase"}]}), True),
        (tokenizer_json(normalizer=None), False),
        (tokenizer_json() | config(do_lower_case=True), True),
    ],
)  # fmt: skip
def test_the_folder_says_whether_text_is_lower_cased(
    stated: dict[str, bytes], lowers: bool | None
) -> None:
    assert original({"vocab.txt": VOCAB} | stated).do_lower_case is lowers


def test_two_files_that_say_the_opposite_say_nothing() -> None:
    found = original(tokenizer_json() | config(do_lower_case=False))
    assert found.do_lower_case is None
    assert found.notes == [
        "tokenizer.json says that text is lower-cased, and tokenizer_config.json that it is not"
    ]


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (tokenizer_json(normalizer=BERT_NORMALIZER | {"strip_accents": False}), "keeps accents"),
        (config(do_lower_case=False, strip_accents=True), "strips accents"),
        (
            tokenizer_json(normalizer=BERT_NORMALIZER | {"handle_chinese_chars": False}),
            "Chinese text",
        ),
        (config(tokenizer_class="BertJapaneseTokenizer"), "BertJapaneseTokenizer"),
    ],
)
def test_a_note_says_where_the_original_tokenizer_differs(
    files: dict[str, bytes], note: str
) -> None:
    (found,) = original({"vocab.txt": VOCAB} | files).notes
    assert note in found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (tokenizer_json(type="BPE", merges=[]), "tokenizer.json is a BPE tokenizer"),
        (tokenizer_json(type=None, merges=[]), "tokenizer.json is a BPE tokenizer"),
        (tokenizer_json([["<unk>", 0.0]], type="Unigram"), "Unigram tokenizer, not WordPiece"),
        (tokenizer_json(continuing_subword_prefix="@@"), "'@@' inside of words"),
        (tokenizer_json(pre_tokenizer={"type": "ByteLevel"}), "of bytes"),
        (tokenizer_json({"a": 0, "b": 2}), "no token has the id 1"),
        (tokenizer_json({"a": 0, "b": 0}), "'a' and 'b' have the id 0"),
        (tokenizer_json({"a": -1}), "no token has the id 0"),
        (tokenizer_json({"a": 1 << 60}), "no token has the id 0"),
        (tokenizer_json({}), "has no token"),
        (tokenizer_json({"a": "0"}), "tokenizer.json is damaged"),
        (tokenizer_json({"a": 0, " b": 1}), "' b', the token with the id 1"),
        (tokenizer_json({"a": 0, "b\nc": 1}), "the token with the id 1"),
        (tokenizer_json({"a": 0, "b\rc": 1}), "the token with the id 1"),
        (tokenizer_json(ids(*TOKENS[:6], "")), "the last token is blank"),
        (tokenizer_json(added={"<x>": 8}), "no token has the id 7"),
        (tokenizer_json(added={"<x>": 6}), "'##b' and '<x>' have the id 6"),
        (tokenizer_json(added={"a": 7}), "'a' has two ids, one of which is 7"),
        (tokenizer_json() | {"added_tokens.json": b'{"<x>": 7, "<y>": 7}'}, "have the id 7"),
        (tokenizer_json() | {"vocab.txt": VOCAB + b"c\n"}, "different tokens, the first at 7"),
        (tokenizer_json(["a"]), "tokenizer.json is damaged"),
        ({"vocab.txt": b"na\xefve\n"}, "vocab.txt, line 1: not UTF-8"),
        ({"tokenizer.json": b"\xff"}, "tokenizer.json is damaged"),
        ({"tokenizer.json": b"[" * 100_000}, "tokenizer.json is damaged"),
        ({"tokenizer.json": b'{"normalizer": ' + b"[" * 100_000}, "tokenizer.json is damaged"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json is damaged"),
        ({"tokenizer.json": b'{"model": {"vocab": {"\\ud800": 0}}}'}, "tokenizer.json is damaged"),
        ({"vocab.txt": VOCAB, "tokenizer_config.json": b"[]"}, "tokenizer_config.json is damaged"),
        ({"vocab.txt": VOCAB} | config(do_lower_case="yes"), "tokenizer_config.json is damaged"),
        ({"vocab.txt": VOCAB, "added_tokens.json": b'{"<x>": null}'}, "added_tokens.json is dam"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_vocabulary_is_an_error(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        original(files)


PIECES = model([(SPACE, -2.0, NORMAL), ("a", -1.0, NORMAL)])


def test_a_sentencepiece_model_is_kept_as_it_is() -> None:
    pieces = read_vocabulary(PIECES, "x")
    files = tokenizer_files(pieces, do_lower_case=True, model_max_length=8)
    found = original(files, 7, "sentencepiece")
    assert (found.kind, found.data, found.tokens) == ("sentencepiece", PIECES, pieces)
    assert found.do_lower_case is True


def test_tokens_that_were_added_to_a_sentencepiece_model_are_unused_pieces() -> None:
    found = original(
        {"spiece.model": PIECES, "added_tokens.json": b'{"<x>": 7}'}, 9, "sentencepiece"
    )
    assert read_vocabulary(found.data, "x") == found.tokens
    assert found.tokens[7:] == ("<x>", "[unused_8]")
    assert found.data.startswith(PIECES)


@pytest.mark.parametrize("token", ["", "x" * 124])
def test_a_token_that_can_be_no_piece_is_an_error(token: str) -> None:
    files = {"spiece.model": PIECES, "added_tokens.json": json.dumps({token: 7}).encode()}
    with pytest.raises(PlanError, match="too long"):
        original(files, 8, "sentencepiece")


def test_pieces_without_their_model_are_an_error_that_asks_for_it() -> None:
    pieces = read_vocabulary(PIECES, "x")
    files = tokenizer_files(pieces, do_lower_case=True, model_max_length=8)
    del files["spiece.model"]
    with pytest.raises(PlanError, match=r"spiece\.model is missing.*transformers 5"):
        original(files, 7, "sentencepiece")


@pytest.mark.parametrize(("file", "kind"), [("vocab.txt", 0), ("spiece.model", 1)])
def test_of_two_kinds_the_files_choose(file: str, kind: int) -> None:
    kinds = ["wordpiece", "sentencepiece"]
    files = {file: VOCAB if kind == 0 else PIECES}
    found = original_vocabulary(files, kinds[::-1])
    assert found is not None
    assert found.kind == kinds[kind]
    chinese = original_vocabulary(tokenizer_json(), kinds[::-1])
    assert chinese is not None
    assert chinese.kind == "wordpiece"
