"""The sequences that go through both models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import ParityError
from ..tokenizers import wordpiece_reference

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_ROWS = 8  # of a batch, so that memory stays bounded whatever the number of samples
_SHORT = 64  # tokens: the longest of the ragged sequences
_SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[UNK]")


class Batch(Struct, frozen=True):
    """Sequences, padded to the longest of them: int32 [B, T] each, as modeling.py takes them."""

    input_ids: "Array"
    input_mask: "Array"  # 1 for a token, 0 for padding
    segment_ids: "Array"


def seeded_batches(
    samples: int,
    seed: int,
    *,
    vocab_size: int,
    positions: int,
    segments: int,
    vocabulary: tuple[str, ...] | None,
    pad_id: int = 0,
) -> list[Batch]:
    """Sequences that no training set has, but that reach every part of the model.

    Of every eight one has all positions, one has a single token, and the rest are ragged; two of
    three are pairs, so that both segments are there. Tokens come from the whole
    vocabulary, but [PAD], which no tokenizer puts among tokens and which PyTorch never trains
    (`padding_idx`).

    Args:
        samples: how many sequences.
        seed: of all that is drawn.
        vocab_size, positions, segments: rows of the three embedding tables.
        vocabulary: so that special tokens stand where they belong; None where there is none.
        pad_id: the id of [PAD].
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    ids = {token: index for index, token in enumerate(vocabulary or ())}
    special = {token: ids[token] for token in _SPECIAL if ids.get(token, vocab_size) < vocab_size}
    others = np.delete(np.arange(vocab_size), pad_id)
    longest = max(2, min(_SHORT, positions))
    batches = []
    for first in range(0, samples, _ROWS):
        lengths = rng.integers(2, longest + 1, size=min(_ROWS, samples - first))
        if len(lengths) > 1:
            lengths[1] = 1
        # The long one goes alone, so that the others need no padding up to it.
        long = np.array([positions])
        for rows in filter(len, (long, lengths[1:])):
            sequences = [
                _sequence(rng, length, others, special, segments if row % 3 < 2 else 1)
                for row, length in enumerate(rows)
            ]
            batches.append(_padded(sequences, pad_id))
    return batches


def text_batches(
    path: Path,
    samples: int,
    *,
    folder: Path,
    vocabulary: tuple[str, ...] | None,
    do_lower_case: bool,
    positions: int,
    pad_id: int = 0,
) -> tuple[list[Batch], str]:
    """The first lines of a text, through Google's tokenizer and through the folder's.

    Args:
        path: UTF-8 text; empty lines are skipped.
        samples: how many lines are taken at most.
        folder: the model folder, whose tokenizer transformers loads.
        vocabulary: the checkpoint's.
        do_lower_case: for Google's tokenizer.
        positions: longer sequences are cut to it.
        pad_id: the id of [PAD].

    Returns:
        Batches of Google's ids, and the first line for which the folder's differ; "" for none.

    Raises:
        ParityError: there is no text, or no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"{path} is no UTF-8 text: {error}") from error
    lines = list(filter(None, lines))[:samples]
    if not lines:
        raise ParityError(f"{path} holds no text")
    if vocabulary is None or not (folder / "tokenizer.json").exists():
        raise ParityError(
            "--text needs the tokenizers of both sides: a vocab.txt beside the checkpoint (or"
            " --vocab), and tokenizer.json in OUT"
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows, differs = [], ""
    for number, line in enumerate(lines, 1):
        google = wordpiece_reference.encode(line, vocabulary, do_lower_case)[: positions - 2]
        google = [vocabulary.index("[CLS]"), *google, vocabulary.index("[SEP]")]
        other = tokenizer(line, truncation=True, max_length=positions)["input_ids"]
        if google != other and not differs:
            differs = f"line {number}: {google[:12]} by Google's rules, {other[:12]} in OUT"
        rows.append((google, [0] * len(google)))
    chunks = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
    return [_padded(chunk, pad_id) for chunk in chunks], differs


def _sequence(
    rng: "np.random.Generator",
    length: int,
    others: "Array",
    special: dict[str, int],
    segments: int,
) -> tuple[list[int], list[int]]:
    """Ids and segments: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]."""
    ids = rng.choice(others, size=length).tolist()
    split = int(rng.integers(length // 2, length)) if length > 4 and segments > 1 else length
    for place, token in ((2, "[MASK]"), (3, "[UNK]"), (split - 1, "[SEP]"), (-1, "[SEP]")):
        if token in special and place < length and length > 1:
            ids[place] = special[token]
    ids[0] = special.get("[CLS]", ids[0])
    return ids, [0] * split + [1] * (length - split)


def _padded(rows: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    import numpy as np

    width = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), width), pad_id, np.int32)
    input_mask = np.zeros_like(input_ids)
    segment_ids = np.zeros_like(input_ids)
    for row, (ids, segments) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        input_mask[row, : len(ids)] = 1
        segment_ids[row, : len(ids)] = segments
    return Batch(input_ids, input_mask, segment_ids)
