"""The sequences that go through both models."""

from collections.abc import Collection, Mapping
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
_SHORT = 32  # tokens: the longest of the ragged sequences
_MOST_LOGITS = 2**19 // 8  # of a masked language model in a batch: half a MiB in float64


def seeded_samples(
    samples: int,
    seed: int,
    *,
    vocab_size: int,
    max_length: int,
    segments: int,
    special: Mapping[Role, int],
    pad_id: int | None,
    positions: int,
) -> list[Samples]:
    """Sequences that no training set has, but that reach every part of the model.

    Of every eight sequences, one has all positions, one has a single token, and the rest are
    ragged. Two of three are pairs, so that both segments occur. Tokens come from the whole
    vocabulary except the padding token, which no tokenizer puts among tokens and which PyTorch
    never trains (`padding_idx`).

    Args:
        samples: how many sequences.
        seed: of the random numbers. It gives the same sequences everywhere.
        vocab_size, max_length, segments: rows of the three embedding tables.
        special: the ids of the special tokens, to put them where they belong.
        pad_id: the id of the padding token; None if there is none.
        positions: the most of each sequence that outputs are compared at.
    """
    import numpy as np

    rng = _rng(seed)
    others = np.arange(vocab_size)
    if pad_id is not None and vocab_size > 1:
        others = np.delete(others, pad_id)
    longest = max(2, min(_SHORT, max_length))
    batches = []
    for first in range(0, samples, _ROWS):
        lengths = _integers(rng, 2, longest + 1, min(_ROWS, samples - first))
        if len(lengths) > 1:
            lengths[1] = 1
        # The long one goes alone, so that the others need no padding up to it.
        long = np.array([max_length])
        for rows in filter(len, (long, lengths[1:])):
            sequences = [
                _sequence(rng, length, others, special, segments if row % 3 < 2 else 1)
                for row, length in enumerate(rows)
            ]
            batches.append(_padded(sequences, pad_id))
    return _placed(batches, seed, vocab_size, positions)


def text_samples(
    lines: list[str],
    *,
    folder: Path,
    tokenizer: str,
    vocabulary: tuple[str, ...] | None,
    do_lower_case: bool,
    vocab_size: int,
    max_length: int,
    pad_id: int | None,
    positions: int,
    seed: int,
) -> tuple[list[Samples], str]:
    """Lines of a text, through the original tokenizer and through the folder's.

    Args:
        lines: the text.
        folder: the model folder, whose tokenizer transformers loads.
        tokenizer: the mapping's kind of tokenizer.
        vocabulary: the checkpoint's.
        do_lower_case: for the original tokenizer.
        vocab_size: rows of the table of words.
        max_length: longer sequences are cut to it.
        pad_id: the id of the padding token; None if there is none.
        positions: the most of each sequence that outputs are compared at.
        seed: of the choice of those positions.

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
            ids = original.encode_alone(line, vocabulary, do_lower_case, max_length)
        except KeyError as error:
            raise VerificationError(
                f"--text: line {number} can't be encoded by the original rules, because the"
                f" vocabulary has no {error.args[0]}"
            ) from None
        try:
            other = loaded(line, truncation=True, max_length=max_length)["input_ids"]
        except Exception as error:  # whatever it raises, the folder caused it
            other = [str(error)]
        if ids != other and not differs:
            differs = f"line {number}: {ids[:12]} by the original rules, {other[:12]} in OUT"
        if ids:
            rows.append((ids, [0] * len(ids)))
    if not rows:
        raise VerificationError("--text: the tokenizer gives no token for any line")
    chunks = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
    batches = [_padded(chunk, pad_id) for chunk in chunks]
    return _placed(batches, seed, vocab_size, positions), differs


def at_rows(
    outputs: Mapping[str, Any], by_position: Collection[str], samples: Samples
) -> "dict[str, Array]":
    """Either side's outputs as numpy arrays, at the positions that are compared: [R, ...].

    Those that have no value for each position are whole.

    Args:
        outputs: tensors of TensorFlow or of torch, by the names of `Reference.forward`.
        by_position: as `Reference` has it.
        samples: what went in.
    """
    found = {}
    for name, tensor in outputs.items():
        array = tensor.numpy()
        if is_by_position(name, by_position):
            array = array.reshape(-1, *array.shape[2:])[samples.rows]
        found[name] = array
    return found


def is_by_position(name: str, by_position: Collection[str] = ()) -> bool:
    """Whether an output has a value for each position.

    Args:
        name: of the output, which may be that of a layer that the original does not have.
        by_position: as `Reference` has it.
    """
    return name in by_position or name == "embeddings" or name.startswith("layer_")


def first_tokens(samples: Samples) -> "Array":
    """Which of `samples.rows` are the first token of a sequence: bool [R]."""
    chosen: Array = samples.rows % samples.input_ids.shape[1] == 0
    return chosen


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
    rng: "np.random.RandomState",
    length: int,
    others: "Array",
    special: Mapping[Role, int],
    segments: int,
) -> tuple[list[int], list[int]]:
    """Ids and segments of one text or of two: cls a sep, or cls a sep b sep."""
    ids = others[_integers(rng, 0, len(others), length)].tolist()
    pair = length > 4 and segments > 1
    split = int(_integers(rng, length // 2, length, 1)[0]) if pair else length
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


def _padded(
    rows: list[tuple[list[int], list[int]]], pad_id: int | None
) -> "tuple[Array, Array, Array]":
    """Ids, mask and segments as arrays [B, T]."""
    import numpy as np

    width = max(len(ids) for ids, _ in rows)
    input_ids = np.full((len(rows), width), pad_id or 0, np.int32)
    input_mask = np.zeros_like(input_ids)
    segment_ids = np.zeros_like(input_ids)
    for row, (ids, segments) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        input_mask[row, : len(ids)] = 1
        segment_ids[row, : len(ids)] = segments
    return input_ids, input_mask, segment_ids


def _placed(
    batches: "list[tuple[Array, Array, Array]]", seed: int, vocab_size: int, positions: int
) -> list[Samples]:
    """Batches with the positions at which outputs are compared.

    The first token of each sequence is always among them, because the pooled output is made of it.
    """
    import numpy as np

    most_masked = max(1, _MOST_LOGITS // vocab_size)
    placed = []
    for number, (input_ids, input_mask, segment_ids) in enumerate(batches):
        rng = _rng([seed, number])  # so that what is compared changes no sequence
        width = input_ids.shape[1]
        rows, masked = [], []
        for row, length in enumerate(input_mask.sum(axis=1).tolist()):
            others = rng.permutation(np.arange(1, length))[: positions - 1]
            chosen = row * width + np.array([0, *sorted(others)])
            rows += chosen.tolist()
            masked.append(rng.permutation(chosen).tolist())
        # One of each sequence in turn, until there are enough.
        turns = sorted(
            (turn, order, place)
            for order, row in enumerate(rng.permutation(np.arange(len(masked))))
            for turn, place in enumerate(masked[row])
        )
        places = sorted(place for _, _, place in turns[:most_masked])
        compared = np.array(rows, np.int64), np.array(places, np.int64)
        placed.append(Samples(input_ids, input_mask, segment_ids, *compared))
    return placed


def _rng(seed: int | list[int]) -> "np.random.RandomState":
    """A source of random numbers that no version of NumPy changes, as it may change `Generator`."""
    import numpy as np

    return np.random.RandomState(np.random.MT19937(seed))


def _integers(rng: "np.random.RandomState", low: int, high: int, size: int) -> "Array":
    """Random integers from `low` up to, and not including, `high`."""
    import numpy as np

    # Without a dtype, they would be drawn as C's `long`, which has 32 bits on some platforms.
    found: Array = rng.randint(low, high, size, dtype=np.int64)
    return found
