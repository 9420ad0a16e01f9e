"""Writes SentencePiece models byte by byte, without sentencepiece."""

import struct
from collections.abc import Mapping, Sequence

from bertconvert.converter.tokenizers.sentencepiece_model import CONTROL, UNKNOWN

SPECIAL = [
    ("<pad>", 0.0, CONTROL),
    ("<unk>", 0.0, UNKNOWN),
    ("[CLS]", 0.0, CONTROL),
    ("[SEP]", 0.0, CONTROL),
    ("[MASK]", 0.0, CONTROL),
]

Piece = tuple[str | bytes, float, int]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def piece(text: str | bytes, score: float, kind: int) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return message(1, message(1, data) + b"\x15" + struct.pack("<f", score) + number(3, kind))


def charsmap(rules: Mapping[str, str]) -> bytes:
    """Rules as a double array: every state has a block of 256 units of its own."""
    states: dict[bytes, int] = {b"": 0}
    for key in rules:
        data = key.encode()
        for end in range(1, len(data) + 1):
            states.setdefault(data[:end], len(states))
    texts, places = b"", {}
    for key, text in rules.items():
        places[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    units = [0] * 256 * (len(states) + 1)
    blocks = {state: 256 * (index + 1) for state, index in states.items()}
    units[0] = blocks[b""] << 10
    for state, block in blocks.items():
        if state:
            at = blocks[state[:-1]] ^ state[-1]
            units[at] = (block ^ at) << 10 | state[-1] | (state in places) << 8
        if state in places:
            units[block] = 1 << 31 | places[state]
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


def model(
    pieces: Sequence[Piece],
    *,
    rules: Mapping[str, str] | None = None,
    trainer: bytes = number(3, 1),
    normalizer: bytes = b"",
) -> bytes:
    data = b"".join(piece(*one) for one in [*SPECIAL, *pieces])
    mapped = message(2, charsmap(rules)) if rules else b""
    return data + message(2, trainer) + message(3, mapped + normalizer)
