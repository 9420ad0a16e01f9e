"""Text -> ids, as google-research/albert `tokenization.py` does it with a SentencePiece model.

It follows `preprocess_text` and FullTokenizer there, and sentencepiece's normalizer.cc and
unigram_model.cc, so that a folder's tokenizer can be checked without either package. Of the
tokenizer.json that a conversion writes, it shares nothing but the reader of the model's file.
"""

import unicodedata
from collections.abc import Iterator
from ctypes import c_float

from ..checkpoint.protos import Malformed
from ..errors import PlanError
from .sentencepiece_model import NORMAL, SPACE, USER_DEFINED, Model

_SMALLEST = 2.0**-126  # FLT_MIN, which unigram_model.cc begins with to find the highest score
_UNKNOWN_PENALTY = 10.0


def encode(text: str, vocabulary: Model, do_lower_case: bool) -> list[int]:
    """The ids of a text's pieces, without [CLS] and [SEP].

    Args:
        text: the text.
        vocabulary: the model.
        do_lower_case: whether text is lower-cased.

    Raises:
        PlanError: the model's rules for characters are damaged.
    """
    ids = {piece: row for row, piece in enumerate(vocabulary)}
    try:
        found = [*_encode_pieces(_preprocessed(text, do_lower_case), _Processor(vocabulary))]
    except Malformed as error:
        raise PlanError(f"the SentencePiece model is damaged: {error}") from None
    return [ids.get(piece, vocabulary.unknown) for piece in found]


def encode_alone(text: str, vocabulary: Model, do_lower_case: bool, max_length: int) -> list[int]:
    """The ids of one text as classifier_utils.py frames and cuts it: [CLS], its pieces, [SEP].

    Args:
        text, vocabulary, do_lower_case: as for `encode`.
        max_length: the length with the frame.

    Raises:
        PlanError: as `encode` raises it.
    """
    ids = encode(text, vocabulary, do_lower_case)
    rows = {piece: row for row, piece in enumerate(vocabulary)}
    if "[CLS]" not in rows or "[SEP]" not in rows:
        return ids[:max_length]
    return [rows["[CLS]"], *ids[: max_length - 2], rows["[SEP]"]]


def _preprocessed(text: str, do_lower_case: bool) -> str:
    """preprocess_text."""
    text = unicodedata.normalize("NFKD", " ".join(text.split()))
    text = "".join(char for char in text if not unicodedata.combining(char))
    return text.lower() if do_lower_case else text


def _encode_pieces(text: str, processor: "_Processor") -> Iterator[str]:
    """encode_pieces. In Python 3, it never takes off the space that a piece begins with."""
    for piece in processor.pieces(text):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            yield from processor.pieces(piece[:-1].replace(SPACE, ""))
            yield ","
        else:
            yield piece


class _Processor:
    """SentencePieceProcessor.EncodeAsPieces."""

    def __init__(self, model: Model) -> None:
        self._model = model
        pieces = [*zip(model, model.file.scores, model.file.types, strict=True)]
        normal = [score for _, score, kind in pieces if kind == NORMAL]
        highest = max(_SMALLEST, *normal)
        self._unknown_score = _float(min(normal) - _UNKNOWN_PENALTY)
        self._scores = {piece: score for piece, score, kind in pieces if kind == NORMAL}
        self._symbols = [piece.encode() for piece, _, kind in pieces if kind == USER_DEFINED]
        self._symbols.sort(key=len, reverse=True)
        self._scores |= {s.decode(): len(s) * highest - 0.1 for s in self._symbols}
        self._longest = max(map(len, self._scores))

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text; a run of unknown characters is one."""
        found: list[str] = []
        was_unknown = False
        for piece, is_unknown in self._best_path(self._normalized(text)):
            if is_unknown and self._model.file.byte_fallback:
                found += [f"<0x{byte:02X}>" for byte in piece.encode()]
            elif is_unknown and was_unknown:
                found[-1] += piece
            else:
                found.append(piece)
            was_unknown = is_unknown
        return found

    def _normalized(self, text: str) -> str:
        """Normalizer::Normalize."""
        data, at = text.encode(), 0
        made = [SPACE] if self._model.file.dummy_prefix else []
        after_space = True
        while at < len(data):
            length, part = self._prefix(data, at)
            at += length
            part = part.lstrip(" ") if after_space else part
            if part:
                made.append(part.replace(" ", SPACE))
                after_space = part.endswith(" ")
        return "".join(made).rstrip(SPACE)

    def _prefix(self, data: bytes, at: int) -> tuple[int, str]:
        """Normalizer::NormalizePrefix: a symbol of the user, a rule, or a character as it is."""
        symbol = next((s for s in self._symbols if data.startswith(s, at)), None)
        if symbol is not None:
            return len(symbol), symbol.decode()
        if rule := self._model.file.rules.longest(data, at):
            return rule
        end = at + 1
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
        return end - at, data[at:end].decode()

    def _best_path(self, text: str) -> list[tuple[str, bool]]:
        """Model::EncodeOptimized: the pieces, and whether each is unknown.

        Sums are float32, so that two paths with nearly the same score may have the same.
        """
        best = [0.0] * (len(text) + 1)
        starts: list[int | None] = [None] * (len(text) + 1)
        unknown = [False] * (len(text) + 1)

        def offer(start: int, end: int, score: float, is_unknown: bool) -> None:
            score = _float(score)
            if starts[end] is None or score > best[end]:
                best[end], starts[end], unknown[end] = score, start, is_unknown

        for start in range(len(text)):
            for end in range(start + 1, min(start + self._longest, len(text)) + 1):
                score = self._scores.get(text[start:end])
                if score is not None:
                    offer(start, end, score + best[start], False)
            if text[start] not in self._scores:
                offer(start, start + 1, self._unknown_score + best[start], True)
        path, end = list[tuple[str, bool]](), len(text)
        while end:
            start = starts[end] or 0
            path.append((text[start:end], unknown[end]))
            end = start
        return path[::-1]


def _float(value: float) -> float:
    """The nearest float32."""
    return c_float(value).value
