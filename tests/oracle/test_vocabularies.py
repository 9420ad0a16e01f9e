"""Vocabularies that are not like Google's: what transformers loads and TensorFlow computes.

The checkpoints are written by TensorFlow, which the proof needs as well.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from bertconvert import PlanError, convert, open_checkpoint, verify
from bertconvert.converter.checkpoint.bundle_writer import write_bundle

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = "bert/embeddings/word_embeddings"
Make = Callable[..., Path]


@pytest.fixture
def make(fixtures: Path, tmp_path: Path) -> Make:
    """A vocab.txt -> a checkpoint for it, whose loss uses padded positions."""

    def make(vocabulary: bytes, rows: int) -> Path:
        folder = tmp_path / "in"
        folder.mkdir()
        with open_checkpoint(fixtures / "squad") as checkpoint:
            arrays = {name: checkpoint[name] for name in checkpoint}
        rng = np.random.default_rng(0)
        arrays[WORDS] = rng.normal(0, 0.1, (rows, arrays[WORDS].shape[1])).astype("f4")
        write_bundle(folder / "model.ckpt", arrays)
        config = json.loads((fixtures / "squad" / "bert_config.json").read_text())
        (folder / "bert_config.json").write_text(json.dumps(config | {"vocab_size": rows}))
        (folder / "vocab.txt").write_bytes(vocabulary)
        return folder

    return make


def lines(*tokens: str) -> bytes:
    return "\n".join(tokens).encode() + b"\n"


REORDERED = ("[unused0]", "[PAD]", "a", "[SEP]", "[MASK]", "b", "[CLS]", "[UNK]", "##a", "c")


@pytest.mark.parametrize(
    ("vocabulary", "pad"),
    [
        (lines(*SPECIAL, "a", "b"), 0),
        (lines(*REORDERED), 1),
        (lines("a", "b", "c", *SPECIAL), 3),
        (lines("a", "b", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), None),
        (lines("a", "b", "c", "d"), None),
        (lines("[PAD]", "a", "[PAD]", "b", "[CLS]", "[SEP]", "[UNK]"), 2),
    ],
)
def test_the_padding_row_is_that_of_the_padding_token(
    make: Make, tmp_path: Path, vocabulary: bytes, pad: int | None
) -> None:
    source = make(vocabulary, vocabulary.count(b"\n"))
    assert_pads_with(pad, source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "pad"), [("dna-5mc-promoter-index", None), ("protein-3kmer-index", None)]
)
def test_vocabularies_of_other_alphabets_have_no_padding_row(
    real: Path, make: Make, tmp_path: Path, name: str, pad: int | None
) -> None:
    data = (real / name / "vocab_3kmer.txt").read_bytes()
    source = make(data, len(data.split()))
    assert_pads_with(pad, source, tmp_path / "out")


def assert_pads_with(pad: int | None, source: Path, out: Path) -> None:
    made = convert(source, out)
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == pad
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForQuestionAnswering.from_pretrained(out)
    assert tokenizer.pad_token_id == pad
    assert model.config.pad_token_id == pad
    assert model.bert.embeddings.word_embeddings.padding_idx == pad
    assert any("pad_token_id" in note for note in made.notes) == (pad != 0)
    verdict = verify(source, out, level="gradients", samples=4)
    assert verdict.passed, verdict.checks


@pytest.mark.parametrize("stated", [0, 2, None])
def test_another_padding_row_fails_the_proof_and_is_its_cause(
    make: Make, tmp_path: Path, stated: int | None
) -> None:
    source, out = make(lines(*REORDERED), len(REORDERED)), tmp_path / "out"
    convert(source, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"pad_token_id": stated}))
    verdict = verify(source, out, level="gradients", samples=4)
    failed = {check.name: check.detail for check in verdict.checks if not check.passed}
    assert "pad_token_id" in failed["config.json"]
    assert "1" in failed["config.json"]
    assert "parameters" in failed
    assert [cause.kind for cause in verdict.causes] == ["padding row"]


def test_without_a_vocabulary_the_padding_row_is_that_of_the_folders_tokenizer(
    make: Make, tmp_path: Path
) -> None:
    source, out = make(lines(*REORDERED), len(REORDERED)), tmp_path / "out"
    (source / "vocab.txt").rename(tmp_path / "elsewhere.txt")
    convert(source, out, vocab=tmp_path / "elsewhere.txt")
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == 1
    assert verify(source, out, level="gradients", samples=4).passed


def test_without_any_vocabulary_the_padding_row_is_assumed_and_reported(
    make: Make, tmp_path: Path
) -> None:
    source, out = make(lines(*REORDERED), len(REORDERED)), tmp_path / "out"
    (source / "vocab.txt").unlink()
    made = convert(source, out)
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == 0
    assert any("pad_token_id = 0" in note for note in made.notes)
    verdict = verify(source, out, level="gradients", samples=4)
    assert verdict.passed
    assert any("pad_token_id" in note for note in verdict.notes)


@pytest.mark.parametrize(
    "tokens",
    [
        REORDERED,
        ("[CLS]", "a", "[CLS]", "b", "[SEP]", "[UNK]", "[PAD]"),
        ("a", "b", "[UNK]"),
    ],
)
def test_a_text_is_framed_with_the_special_tokens_of_the_vocabulary(
    make: Make, tmp_path: Path, tokens: tuple[str, ...]
) -> None:
    source, out, text = make(lines(*tokens), len(tokens)), tmp_path / "out", tmp_path / "text.txt"
    convert(source, out, lower_case=True)
    text.write_text("a b c\nb a\n")
    verdict = verify(source, out, level="outputs", text=text)
    assert verdict.passed, verdict.checks


def test_a_text_with_an_unknown_word_is_not_encoded_without_a_token_for_it(
    make: Make, tmp_path: Path
) -> None:
    source, out, text = make(lines("a", "b"), 2), tmp_path / "out", tmp_path / "text.txt"
    convert(source, out)
    text.write_text("a\na z\n")
    verdict = verify(source, out, level="outputs", text=text)
    (check,) = [check for check in verdict.checks if not check.passed]
    assert "line 2" in check.detail
    assert "[UNK]" in check.detail


def test_a_tokenizer_that_names_a_token_which_the_vocabulary_lacks_fails(
    make: Make, tmp_path: Path
) -> None:
    source, out = make(lines("a", "[CLS]", "[SEP]", "[UNK]"), 4), tmp_path / "out"
    convert(source, out)
    file = out / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "[PAD]"}))
    assert AutoTokenizer.from_pretrained(out).pad_token_id == 4  # which no embedding has
    verdict = verify(source, out, level="weights")
    (check,) = [check for check in verdict.checks if not check.passed]
    assert "[PAD]" in check.detail


def test_rows_that_were_rounded_up_are_kept_and_named(make: Make, tmp_path: Path) -> None:
    tokens = (*SPECIAL, "a", "b", "[unused_8]")
    source, out = make(lines(*tokens), 16), tmp_path / "out"
    with pytest.raises(PlanError, match="--pad-vocab"):
        convert(source, out)
    convert(source, out, pad_vocab=True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForQuestionAnswering.from_pretrained(out)
    assert len(tokenizer) == model.config.vocab_size == 16
    assert len(set(tokenizer.get_vocab())) == 16
    assert [tokenizer.convert_ids_to_tokens(row) for row in range(8)] == list(tokens)
    assert json.loads((out / "conversion.json").read_text())["padding"] == 8
    assert verify(source, out, level="gradients", samples=4).passed  # conversion.json tells it


def test_a_folder_that_has_no_names_for_rounded_rows_passes_where_the_caller_allows_it(
    make: Make, tmp_path: Path
) -> None:
    source, out = make(lines(*SPECIAL, "a", "b"), 16), tmp_path / "out"
    convert(source, out, pad_vocab=True)
    (out / "conversion.json").unlink()
    (out / "vocab.txt").write_bytes(lines(*SPECIAL, "a", "b"))
    file = out / "tokenizer.json"
    document = json.loads(file.read_text())
    ids = document["model"]["vocab"]
    document["model"]["vocab"] = {token: row for token, row in ids.items() if row < 7}
    file.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="--pad-vocab"):
        verify(source, out, level="weights")
    assert verify(source, out, level="weights", pad_vocab=True).passed
    (out / "vocab.txt").write_bytes(lines(*SPECIAL, "b", "a"))
    assert not verify(source, out, level="weights", pad_vocab=True).passed
