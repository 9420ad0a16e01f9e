"""The sequences that go through both models."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VerificationError
from ..layout import TOKENIZER
from ..models.reference import Samples
from ..tokenizers.registry import Role

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_ROWS = 8  # of a batch, so that memory stays bounded whatever the number of samples
_SHORT = 64  # tokens: the longest of the ragged sequences


def seeded_samples(
    samples: int,
    seed: int,
    *,
    vocab_size: int,
    positions: int,
    segments: int,
    special: Mapping[Role, int],
    pad_id: int | None,
) -> list[Samples]:
    """Sequences that no training set has, but that reach every part of the model.

    Of every eight sequences, one has all positions, one has a single token, and the rest are
    ragged. Two of three are pairs, so that both segments occur. Tokens come from the whole
    vocabulary except the padding token, which no tokenizer puts among tokens and which PyTorch
    never trains (`padding_idx`).

    Args:
        samples: how many sequences.
        seed: of the random numbers.
        vocab_size, positions, segments: rows of the three embedding tables.
        special: the ids of the special tokens, to put them where they belong.
        pad_id: the id of the padding token; None if there is none.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    others = np.arange(vocab_size)
    if pad_id is not None and vocab_size > 1:
        others = np.delete(others, pad_id)
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


def text_samples(
    lines: list[str],
    *,
    folder: Path,
    tokenizer: str,
    vocabulary: tuple[str, ...] | None,
    do_lower_case: bool,
    positions: int,
    pad_id: int | None,
) -> tuple[list[Samples], str]:
    """Lines of a text, through the original tokenizer and through the folder's.

    Args:
        lines: the text.
        folder: the model folder, whose tokenizer transformers loads.
        tokenizer: the mapping's kind of tokenizer.
        vocabulary: the checkpoint's.
        do_lower_case: for the original tokenizer.
        positions: longer sequences are cut to it.
        pad_id: the id of the padding token; None if there is none.

    Returns:
        Samples with the original tokenizer's ids, and what differs in the first line for which the
        folder's tokenizer gives other ids; "" if none does.

    Raises:
        VerificationError: a tokenizer is missing, or can't encode a line.
    """
    if vocabulary is None or not tokenizer or not (folder / TOKENIZER).exists():
        raise VerificationError(
            "--text needs both tokenizers: a vocabulary next to the checkpoint (or --vocab), and"
            f" {TOKENIZER} in OUT"
        )
    from transformers import AutoTokenizer

    original: Any = import_module(f"...tokenizers.{tokenizer}_reference", __name__)
    loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows, differs = [], ""
    for number, line in enumerate(lines, 1):
        try:
            ids = original.encode_alone(line, vocabulary, do_lower_case, positions)
        except KeyError as error:
            raise VerificationError(
                f"--text: line {number} can't be encoded by the original rules, because the"
                f" vocabulary has no {error.args[0]}"
            ) from None
        try:
            other = loaded(line, truncation=True, max_length=positions)["input_ids"]
        except Exception as error:  # whatever it raises, the folder caused it
            other = [str(error)]
        if ids != other and not differs:
            differs = f"line {number}: {ids[:12]} by the original rules, {other[:12]} in OUT"
        if ids:
            rows.append((ids, [0] * len(ids)))
    if not rows:
        raise VerificationError("--text: the tokenizer gives no token for any line")
    chunks = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
    return [_padded(chunk, pad_id) for chunk in chunks], differs


def read_lines(path: Path, most: int) -> list[str]:
    """The first lines of a UTF-8 text that are not empty.

    Raises:
        VerificationError: it can't be read, or has no such line.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationError(f"{path} can't be read as UTF-8 text: {error}") from error
    lines = list(filter(None, lines))[:most]
    if not lines:
        raise VerificationError(f"{path} has no text")
    return lines


def _sequence(
    rng: "np.random.Generator",
    length: int,
    others: "Array",
    special: Mapping[Role, int],
    segments: int,
) -> tuple[list[int], list[int]]:
    """Ids and segments of one text or of two: cls a sep, or cls a sep b sep."""
    ids = rng.choice(others, size=length).tolist()
    split = int(rng.integers(length // 2, length)) if length > 4 and segments > 1 else length
    places: tuple[tuple[int, Role], ...] = (
        (2, "mask_token"),
        (3, "unk_token"),
        (split - 1, "sep_token"),
        (-1, "sep_token"),
    )
    for place, role in places:
        if role in special and place < length and length > 1:
            ids[place] = special[role]
    ids[0] = special.get("cls_token", ids[0])
    return ids, [0] * split + [1] * (length - split)


def _padded(rows: list[tuple[list[int], list[int]]], pad_id: int | None) -> Samples:
    import numpy as np

    width = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), width), pad_id or 0, np.int32)
    input_mask = np.zeros_like(input_ids)
    segment_ids = np.zeros_like(input_ids)
    for row, (ids, segments) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        input_mask[row, : len(ids)] = 1
        segment_ids[row, : len(ids)] = segments
    return Samples(input_ids, input_mask, segment_ids)
