"""The file of a SentencePiece model: its pieces, their scores, and its rules for characters.

Field numbers are those of src/sentencepiece_model.proto in google/sentencepiece: a `ModelProto` has
the pieces (1), the settings of the training (2) and those of the normalizer (3).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from struct import unpack
from typing import Self

from msgspec import Struct, structs

from ..checkpoint.protos import FIXED32, LENGTH, VARINT, Malformed, field, fields, signed
from ..errors import PlanError
from ..text import as_text, cut, joined

# The types of a piece.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "▁"  # U+2581, which stands for a space in a piece

_PIECES, _TRAINER, _NORMALIZER = field(1, LENGTH), field(2, LENGTH), field(3, LENGTH)
_PIECE, _SCORE, _TYPE = field(1, LENGTH), field(2, FIXED32), field(3, VARINT)
_KIND, _SUFFIX, _BYTES = field(3, VARINT), field(24, VARINT), field(35, VARINT)
_CHARSMAP, _PREFIX = field(2, LENGTH), field(3, VARINT)
_COLLAPSES, _ESCAPES = field(4, VARINT), field(5, VARINT)

_UNIGRAM = 1
_OTHER_KINDS = {2: "BPE", 3: "word", 4: "character"}

_MOST_PIECES = 1 << 20  # a multilingual model has 256,000
_LONGEST_PIECE = 1 << 10  # characters; a trainer's default is 16
LONGEST_UNUSED = 123  # bytes, so that the length of its message is one byte
_MOST_NODES = 1 << 18  # of the tree of rules; 15,000 of nmt_nfkc's are visited
_LONGEST_KEY = 64  # bytes; nmt_nfkc's have at most 18
_MOST_SHOWN = 3


class ModelFile(Struct, frozen=True):
    """What a model has besides its pieces."""

    data: bytes
    scores: tuple[float, ...]  # by id
    types: tuple[int, ...]  # by id
    rules: "Charsmap"
    dummy_prefix: bool  # whether a text starts with a space
    byte_fallback: bool  # whether an unknown character becomes its bytes


class Model(tuple[str, ...]):
    """The pieces by id; `file` has the rest of the model."""

    file: ModelFile

    def __new__(cls, pieces: Sequence[str], file: ModelFile) -> Self:
        made = super().__new__(cls, pieces)
        made.file = file
        return made

    @property
    def unknown(self) -> int:
        """The id of the piece for what no other piece spells."""
        return self.file.types.index(UNKNOWN)

    def of_type(self, *types: int) -> list[int]:
        """The ids of all pieces of these types."""
        return [index for index, kind in enumerate(self.file.types) if kind in types]

    def padded(self, names: Sequence[str]) -> Self:
        """The model with more pieces, of at most LONGEST_UNUSED bytes, which are unused."""
        if not names:
            return self
        file = self.file
        kind = bytes([_TYPE, UNUSED])
        texts = [bytes([_PIECE, len(name)]) + name.encode() + kind for name in names]
        more = b"".join(bytes([_PIECES, len(text)]) + text for text in texts)
        longer = structs.replace(
            file,
            data=file.data + more,  # protobuf appends to a list that is there already
            scores=(*file.scores, *(0.0 for _ in names)),
            types=(*file.types, *(UNUSED for _ in names)),
        )
        return type(self)((*self, *names), longer)


def read_model(data: bytes, source: str) -> Model:
    """The pieces of a unigram model, and what belongs to them.

    Args:
        data: the file's content.
        source: the file's name, for errors.

    Raises:
        PlanError: it is no such model, is damaged, or has settings that tokenizer.json lacks.
    """
    try:
        return _model(data)
    except Malformed as error:
        raise PlanError(f"{source} is no SentencePiece model, or is damaged: {error}") from None
    except _Unusable as error:
        raise PlanError(f"{source} {error}") from None


class _Unusable(ValueError):
    """The model has no meaning here; the text is the end of a sentence about the file."""


def _model(data: bytes) -> Model:
    texts: list[bytes] = []
    scores: list[int] = []
    types: list[int] = []
    trainer = normalizer = None
    for tag, _, payload in fields(data):
        if tag == _PIECES:
            text, score, kind = b"", 0, NORMAL
            for subtag, number, content in fields(payload):
                if subtag == _PIECE:
                    text = content
                elif subtag == _SCORE:
                    score = number
                elif subtag == _TYPE:
                    kind = number
            if len(texts) == _MOST_PIECES:
                raise _Unusable(f"has more than {_MOST_PIECES:,} pieces")
            texts.append(text)
            scores.append(score)
            types.append(kind)
        elif tag == _TRAINER:  # protobuf merges messages that are there twice
            trainer = (trainer or b"") + payload
        elif tag == _NORMALIZER:
            normalizer = (normalizer or b"") + payload
    if not texts:
        raise Malformed("it has no piece")
    if trainer is None or normalizer is None:
        raise Malformed("its settings are missing, so it may be cut off")
    _check_kind(trainer)
    pieces = _texts(texts)
    file = ModelFile(
        data=data,
        scores=unpack(
            f"<{len(scores)}f", b"".join(score.to_bytes(4, "little") for score in scores)
        ),
        types=tuple(types),
        rules=_normalizer(normalizer),
        dummy_prefix=bool(_last(normalizer, _PREFIX, 1)),
        byte_fallback=bool(_last(trainer, _BYTES, 0)),
    )
    _check_pieces(pieces, file)
    return Model(pieces, file)


def _check_kind(trainer: bytes) -> None:
    kind = _last(trainer, _KIND, _UNIGRAM)
    if kind != _UNIGRAM:
        what = _OTHER_KINDS.get(kind, f"unknown (type {kind:,})")
        raise _Unusable(
            f"is a SentencePiece model of another type: {what}. Only the type unigram is converted"
        )
    if _last(trainer, _SUFFIX, 0):
        raise _Unusable("has spaces at the end of pieces (treat_whitespace_as_suffix)")


def _normalizer(settings: bytes) -> "Charsmap":
    for tag, name in ((_COLLAPSES, "remove_extra_whitespaces"), (_ESCAPES, "escape_whitespaces")):
        if not _last(settings, tag, 1):
            raise _Unusable(f"has {name} = false, for which tokenizer.json has no counterpart")
    charsmap = [payload for tag, _, payload in fields(settings) if tag == _CHARSMAP]
    return Charsmap(charsmap[-1] if charsmap else b"")


def _last(message: bytes, wanted: int, default: int) -> int:
    """The value of a number in a message: of several, the last."""
    value = default
    for tag, number, _ in fields(message):
        if tag == wanted:
            value = signed(number)
    return value


def _texts(texts: list[bytes]) -> list[str]:
    pieces = []
    for index, text in enumerate(texts):
        try:
            pieces.append(text.decode())
        except UnicodeDecodeError as error:
            raise _Unusable(f"has a piece that is not UTF-8, {index:,} ({error.reason})") from None
    return pieces


def _check_pieces(pieces: list[str], file: ModelFile) -> None:
    if "" in pieces:
        raise _Unusable(f"has an empty piece, {pieces.index(''):,}")
    longest = max(pieces, key=len)
    if len(longest) > _LONGEST_PIECE:
        raise _Unusable(f"has a piece of {len(longest):,} characters, {pieces.index(longest):,}")
    if len(set(pieces)) < len(pieces):
        twice = [piece for piece, count in Counter(pieces).items() if count > 1]
        some = [cut(as_text(piece), 40) for piece in twice]
        raise _Unusable(f"has the same piece twice: {joined(some, _MOST_SHOWN)}")
    if unknown_types := set(file.types) - set(range(NORMAL, BYTE + 1)):
        raise Malformed(f"a piece has the type {min(unknown_types):,}")
    odd = [index for index, score in enumerate(file.scores) if not math.isfinite(score)]
    if odd:
        raise Malformed(f"the piece {odd[0]:,} has the score {file.scores[odd[0]]}")
    unknown = file.types.count(UNKNOWN)
    if unknown != 1:
        many = f"{unknown:,} pieces" if unknown else "no piece"
        raise _Unusable(f"has {many} for what is unknown, such as <unk>")
    if NORMAL not in file.types:
        raise Malformed("no piece is for text")
    byte_pieces = {p for p, kind in zip(pieces, file.types, strict=True) if kind == BYTE}
    if byte_pieces != ({f"<0x{b:02X}>" for b in range(256)} if file.byte_fallback else set()):
        raise Malformed("it has no piece for each byte, or such pieces without a use")


class Charsmap:
    """A model's rules that replace characters: `precompiled_charsmap`, a double array (Darts).

    Its numbers are units of 32 bits. A unit has the byte that leads to it, or is a leaf with a
    value: the place of the replacement, which ends with a NUL, in the text after the units.
    """

    def __init__(self, data: bytes) -> None:
        """Take the rules apart.

        Args:
            data: the rules; b"" for none.

        Raises:
            Malformed: they are damaged.
        """
        size = int.from_bytes(data[:4], "little")
        if data and (size % 4 or not 0 < size <= len(data) - 4):
            raise Malformed("the rules for characters are cut off")
        self._units = memoryview(data)[4 : 4 + size]
        self._texts = data[4 + size :]
        self._root = self._children(0, self._unit(0)) if data else 0

    def __bool__(self) -> bool:
        return bool(self._units)

    def _unit(self, at: int) -> int:
        unit = self._units[4 * at : 4 * at + 4]
        if len(unit) < 4:
            raise Malformed("the rules for characters are damaged")
        return int.from_bytes(unit, "little")

    def _children(self, at: int, unit: int) -> int:
        """Where a unit's children are, each at the exclusive or with its byte."""
        return at ^ (unit >> 10) << ((unit & 1 << 9) >> 6)

    def _text(self, children: int) -> str:
        """What a rule replaces its key with."""
        start = self._unit(children) & 0x7FFFFFFF
        end = self._texts.find(b"\0", start)
        if not 0 <= start < len(self._texts) or end < 0:
            raise Malformed("the rules for characters are damaged")
        try:
            return self._texts[start:end].decode()
        except UnicodeDecodeError:
            raise Malformed("a rule for characters is not UTF-8") from None

    def longest(self, text: bytes, start: int) -> tuple[int, str] | None:
        """The longest rule for what is at a place: the length of its key, and the replacement.

        Raises:
            Malformed: the rules are damaged.
        """
        found = None
        children = self._root
        for at in range(start, len(text) if self else 0):
            place = children ^ text[at]
            if not text[at] or 4 * place >= len(self._units):
                break
            unit = self._unit(place)
            if unit & 0x800000FF != text[at]:
                break
            children = self._children(place, unit)
            if unit >> 8 & 1:
                found = at + 1 - start, self._text(children)
        return found

    def rules(self, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """Yield every key and its replacement, if `is_wanted` says so of all of its characters.

        Raises:
            Malformed: the rules are damaged, or too many.
        """
        import numpy as np

        units = np.frombuffer(self._units, "<u4")
        units = np.append(units, np.zeros(-len(units) % 256, units.dtype))
        labels = np.arange(256, dtype=units.dtype)
        nodes = [(self._root, b"")] if self else []
        for _ in range(_MOST_NODES):
            if not nodes:
                return
            parent, start = nodes.pop()
            if parent >= len(units) or len(start) > _LONGEST_KEY:
                break
            block = units[parent ^ labels]
            for label in np.flatnonzero((block & 0x800000FF) == labels).tolist():
                key, place = start + bytes([label]), parent ^ label
                if not label or not _is_wanted(key, is_wanted):
                    continue
                unit = int(block[label])
                children = self._children(place, unit)
                if unit >> 8 & 1:
                    yield _decoded(key), self._text(children)
                nodes.append((children, key))
        raise Malformed("the rules for characters have no end")


def _is_wanted(key: bytes, is_wanted: Callable[[str], bool]) -> bool:
    """Whether the last character of a key is wanted, or not whole yet."""
    try:
        return is_wanted(key.decode()[-1])
    except UnicodeDecodeError:
        return True


def _decoded(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Malformed("a rule for characters is not UTF-8") from None
