"""The tokenizer of a SentencePiece model, as transformers loads it, against Google's own code.

albert-tensorflow's tokenization.py is the published one. It reads the model with sentencepiece.
"""

import io
import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from bertconvert import convert
from bertconvert.converter.tokenizers import sentencepiece_model
from bertconvert.converter.tokenizers.sentencepiece import (
    _MARKS,
    _spans,
    read_vocabulary,
    tokenizer_files,
)
from bertconvert.converter.tokenizers.sentencepiece_reference import encode

from .test_wordpiece import TEXTS

WORDS = """
the quick Brown fox didn't jump in 2010, costs $1,000 and 21,058 people; ``quote'' "this"
(or that) Σίσυφος ΟΔΥΣΣΕΥΣ İstanbul STRASSE straße naïve café 9, 10, 1,5 3.14 100,000,000
hmm aa [mask] <PAD> <Unk> ▁ ▁the e-mail a—b x…y 50% #5 @user http://a.b/c?d=1 foo_bar C++ ½ ²
ﬁne Å ㎏ ① 한국어 日本語 中文 हिन्दी العربية עברית ไทย தமிழ் 👍🏽 👩‍👩‍👧 🇩🇪 ☕️
Donaudampfschifffahrtsgesellschaft pneumonoultramicroscopicsilicovolcanoconiosis
"""
MARKS = ["\u200b", "\u200d", "\xad", "\ufeff", "\u0301", "\u20dd", "\0", "\x85", "\u3000", "\t",
         "\x1c", "\u2028", "\r\n", "\x07", '"', "``", "''", "“", "\ufffd", "\ue000"]  # fmt: skip
BLOCKS = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF),
    (0x600, 0x6FF), (0x900, 0x97F), (0xB80, 0xBFF), (0xE00, 0xE7F), (0x1100, 0x11FF),
    (0x1E00, 0x1FFF), (0x2000, 0x214F), (0x2150, 0x22FF), (0x2460, 0x27BF), (0x3000, 0x30FF),
    (0x3300, 0x33FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFDFF), (0xFE00, 0xFFEF),
    (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x0, 0x1F), (0x7F, 0x9F), (0x300, 0x36F),
]  # fmt: skip


def lines(count: int) -> Iterator[str]:
    """Lines of many kinds: words, blocks of Unicode, spaces, signs and numbers."""
    rng, words = random.Random(7), WORDS.split()
    yield from TEXTS
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 14)):
            kind = rng.random()
            first, last = rng.choice(BLOCKS)
            block = "".join(chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 6)))
            number = f"{rng.randrange(10 ** rng.randrange(1, 8)):,}"
            part = rng.choice(words) if kind < 0.5 else block if kind < 0.75 else number
            part = rng.choice(MARKS) if kind > 0.9 else part
            parts.append(part + rng.choice(["", " ", " ", ", ", "\t"]))
        yield "".join(parts)


def is_tied(ours: list[str], theirs: list[str]) -> bool:
    """Whether two lists of pieces spell the same by the same pieces in another order.

    The sums of their scores differ by the rounding of float32 alone, if at all.
    """
    return "".join(ours) == "".join(theirs) and sorted(ours) == sorted(theirs)


@cache
def google_tokenization() -> Any:
    """tokenization.py, which logs with TensorFlow 1, and needs nothing else of it here."""
    kept = sys.modules.get("tensorflow")
    stub = ModuleType("tensorflow")
    stub.logging = SimpleNamespace(info=lambda *_: None)  # type: ignore[attr-defined]
    sys.modules["tensorflow"] = stub
    try:
        from albert import tokenization
    finally:
        del sys.modules["tensorflow"]
        if kept is not None:
            sys.modules["tensorflow"] = kept
    return tokenization


def google(model: Path) -> Callable[[str, bool], list[int]]:
    tokenization = google_tokenization()
    tokenizer = tokenization.FullTokenizer(vocab_file=None, spm_model_file=str(model))

    def ids(text: str, lower: bool) -> list[int]:
        prepared = tokenization.preprocess_text(text, lower=lower)
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prepared))

    return ids


@pytest.fixture
def real_model(families: Path) -> Path:
    return families / "index" / "google-albert_base_v2" / "30k-clean.model"


@pytest.fixture
def small_model(fixtures: Path) -> Path:
    return fixtures / "albert" / "30k-clean.model"


def loaded(model: Path, folder: Path, lower: bool) -> Any:
    vocabulary = read_vocabulary(model.read_bytes(), model.name)
    folder.mkdir()
    files = tokenizer_files(vocabulary, do_lower_case=lower, model_max_length=512)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "albert"}')
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("which", ["real_model", "small_model"])
def test_gives_googles_ids(
    which: str, lower: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(which)
    theirs, ours = google(model), loaded(model, tmp_path / "out", lower)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tied = 0
    for line in lines(3000):
        expected = theirs(line, lower)
        found = ours(line, add_special_tokens=False)["input_ids"]
        if found != expected:
            names = [[pieces.id_to_piece(row) for row in rows] for rows in (found, expected)]
            assert is_tied(*names), repr(line)
            tied += 1
    assert tied < 10


def test_a_path_of_the_same_score_may_be_another_one(real_model: Path, tmp_path: Path) -> None:
    theirs, ours = google(real_model), loaded(real_model, tmp_path / "out", True)
    line = "brownaaaaaaa"
    assert ours.tokenize(line) == ["▁brown", "a", "aaa", "aaa"]
    assert theirs(line, True) == ours.convert_tokens_to_ids(["▁brown", "aaa", "a", "aaa"])


def test_every_number_with_a_comma_is_split_as_googles(real_model: Path, tmp_path: Path) -> None:
    theirs, ours = google(real_model), loaded(real_model, tmp_path / "out", True)
    rng = random.Random(3)
    for start in [*range(1, 65), *range(1900, 2030)]:
        for rest in rng.sample(range(1000), 40):
            for line in (f"{start},{rest:03}", f"in {start},{rest % 100} or {start}, {rest}"):
                found = ours(line, add_special_tokens=False)["input_ids"]
                expected = theirs(line, True)
                if found != expected:  # such as 60,666, with 66 and 6
                    assert len(set(f"{rest:03}")) == 1 and sorted(found) == sorted(expected), line


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("which", ["real_model", "small_model"])
def test_the_original_rules_give_googles_ids(
    which: str, lower: bool, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(which)
    theirs, vocabulary = google(model), read_vocabulary(model.read_bytes(), model.name)
    extra = ["brownaaaaaaa", "[MASK] [CLS] <pad>", "xxxx ddd 666 287,405,888 $813,666.25, and"]
    for line in [*lines(300), *extra]:
        assert encode(line, vocabulary, lower) == theirs(line, lower), repr(line)


def test_special_tokens_in_a_text_are_themselves(real_model: Path, tmp_path: Path) -> None:
    ours = loaded(real_model, tmp_path / "out", True)
    assert ours.tokenize("A [MASK] car.") == ["▁a", "[MASK]", "▁car", "."]
    assert ours.tokenize("a <PAD>") == ["▁a", "▁", "<", "pad", ">"]
    assert (ours.mask_token_id, ours.pad_token_id, ours.unk_token_id) == (4, 0, 1)
    assert (ours.bos_token_id, ours.eos_token_id, ours.model_max_length) == (2, 3, 512)


def test_a_converted_folder_frames_one_text_and_two(fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "albert", tmp_path / "out")
    theirs = google(fixtures / "albert" / "30k-clean.model")
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    a, b = theirs("You may reproduce", False), theirs("the Work, 2.0", False)
    assert ours("You may reproduce")["input_ids"] == [2, *a, 3]
    pair = ours("You may reproduce", "the Work, 2.0")
    assert pair["input_ids"] == [2, *a, 3, *b, 3]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert ours.decode(a) == "You may reproduce"
    assert len(ours) == 128


def test_the_models_file_is_in_the_folder(fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "albert", tmp_path / "out")
    original = (fixtures / "albert" / "30k-clean.model").read_bytes()
    assert (tmp_path / "out" / "spiece.model").read_bytes() == original


def test_sentencepiece_reads_a_padded_model(fixtures: Path) -> None:
    vocabulary = read_vocabulary((fixtures / "albert" / "30k-clean.model").read_bytes(), "x")
    padded = vocabulary.padded(["[unused_128]", "[unused_129]"])
    read = sentencepiece.SentencePieceProcessor(model_proto=padded.file.data)
    assert [read.id_to_piece(row) for row in range(len(read))] == [*padded]
    assert read.is_unused(129)


def test_the_marks_are_those_of_unicodedata() -> None:
    every = "".join(map(chr, range(0x110000)))
    found = set(re.findall(f"[{_spans(_MARKS)}]", every))
    marks = {char for char in every if unicodedata.combining(char)}
    newer = marks - found
    assert found <= marks
    assert unicodedata.unidata_version != "14.0.0" or not newer


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_models_of_other_types_are_refused(kind: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c a b ab abc"] * 9), model_writer=out, model_type=kind,
        vocab_size=9, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    with pytest.raises(sentencepiece_model.PlanError, match="type"):
        read_vocabulary(out.getvalue(), "x.model")
