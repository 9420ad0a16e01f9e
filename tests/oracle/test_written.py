"""The vocabulary of folders that transformers saved, against transformers and Google's code."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from absl import flags
from bert import tokenization
from transformers import AlbertTokenizer, AutoTokenizer, BertTokenizer, ElectraTokenizer

from bertconvert import PlanError
from bertconvert.converter.layout import TOKENIZER_FILES
from bertconvert.converter.tokenizers.written import Original, original_vocabulary, padded

flags.FLAGS.mark_as_parsed()  # tokenization.py reads a flag of its own


def read(folder: Path, kind: str = "wordpiece", rows: int = 0) -> Original:
    files = {n: (folder / n).read_bytes() for n in TOKENIZER_FILES if (folder / n).exists()}
    found = original_vocabulary(files, [kind])
    assert found is not None
    return padded(found, rows) if len(found.tokens) < rows else found


def assert_same_ids(found: Original, tokenizer: Any, file: Path) -> None:
    """Each token has the same id in transformers and, read from the new file, in Google's code."""
    file.write_bytes(found.data)
    google = tokenization.load_vocab(str(file))
    theirs = {token.strip(): row for token, row in tokenizer.get_vocab().items()}
    assert google == theirs == {token.strip(): row for row, token in enumerate(found.tokens)}
    assert len(found.tokens) == len(tokenizer)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("tokenizer_class", [BertTokenizer, ElectraTokenizer, AutoTokenizer])
def test_a_folder_that_transformers_saved_again_gives_every_token_its_id(
    converted: Callable[[str], Path], tmp_path: Path, tokenizer_class: Any, lower: bool
) -> None:
    source = tmp_path / "in"
    shutil.copytree(converted("squad"), source)
    if tokenizer_class is not AutoTokenizer:  # a folder as transformers 2 wrote it
        (source / "tokenizer.json").unlink()
        (source / "tokenizer_config.json").write_text("{}")
    tokenizer = tokenizer_class.from_pretrained(source, do_lower_case=lower)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    found = read(tmp_path / "saved")
    assert_same_ids(found, tokenizer, tmp_path / "vocab.txt")
    assert found.data == (source / "vocab.txt").read_bytes()
    if tokenizer_class is not AutoTokenizer:
        assert found.do_lower_case is lower


@pytest.mark.parametrize(
    "name", ["vocab-uncased-30522.txt", "vocab-cased-28996.txt", "vocab-chinese-21128.txt"]
)
def test_googles_vocabularies_come_back_from_a_tokenizer_json(
    real: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(real / name, tmp_path / "in" / "vocab.txt")
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "in")
    tokenizer.save_pretrained(tmp_path / "saved")
    found = read(tmp_path / "saved")
    assert_same_ids(found, tokenizer, tmp_path / "vocab.txt")
    ours = {token.strip() for token in found.data.decode().split("\n")}
    assert ours == {token.strip() for token in (real / name).read_text().split("\n")}


def test_tokens_that_were_added_keep_their_ids(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = BertTokenizer.from_pretrained(converted("squad"))
    tokenizer.add_tokens(["<entity>", "two words"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    tokenizer.save_pretrained(tmp_path / "saved")
    found = read(tmp_path / "saved")
    assert_same_ids(found, tokenizer, tmp_path / "vocab.txt")
    assert found.tokens[-3:] == ("<entity>", "two words", "[E1]")
    google = tokenization.FullTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=True)
    assert "<entity>" not in google.tokenize("an <entity>")
    assert tokenizer.tokenize("an <entity>")[-1] == "<entity>"


def test_an_albert_tokenizer_that_was_saved_again_has_lost_its_model(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = AlbertTokenizer.from_pretrained(converted("albert"))
    tokenizer.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "spiece.model").exists()
    with pytest.raises(PlanError, match=r"spiece\.model is missing"):
        read(tmp_path / "saved", "sentencepiece")
    shutil.copy(converted("albert") / "spiece.model", tmp_path / "saved")
    found = read(tmp_path / "saved", "sentencepiece")
    assert found.data == (converted("albert") / "spiece.model").read_bytes()
    assert [*found.tokens] == tokenizer.convert_ids_to_tokens([*range(len(tokenizer))])
    assert found.do_lower_case is tokenizer.do_lower_case


def test_tokens_that_were_added_are_pieces_that_no_text_reaches(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = AlbertTokenizer.from_pretrained(converted("albert"))
    tokenizer.add_tokens(["<entity>"])
    tokenizer.save_pretrained(tmp_path / "saved")
    shutil.copy(converted("albert") / "spiece.model", tmp_path / "saved")
    found = read(tmp_path / "saved", "sentencepiece", len(tokenizer) + 1)
    assert found.tokens[-2] == "<entity>"
    google = sentencepiece.SentencePieceProcessor(model_proto=found.data)
    assert [google.id_to_piece(row) for row in range(len(google))] == [*found.tokens]
    assert len(google) - 2 not in google.encode("an <entity>")
