"""Text -> ids, as google-research/bert `tokenization.py` (FullTokenizer) does it.

It follows that file function by function, so that a folder's tokenizer can be checked against
Google's rules without Google's package. It shares nothing with the tokenizer.json that a conversion
writes.
"""

import unicodedata
from collections.abc import Sequence

_MAX_CHARS_PER_WORD = 200
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def encode(text: str, vocabulary: Sequence[str], do_lower_case: bool) -> list[int]:
    """The ids of a text's word pieces, without [CLS] and [SEP].

    Args:
        text: the text.
        vocabulary: tokens by id. If a token is there twice, the last one counts, as in
            `load_vocab`.
        do_lower_case: whether text is lower-cased and loses its accents.

    Raises:
        KeyError: a word is unknown, and the vocabulary has no [UNK].
    """
    ids = {token: index for index, token in enumerate(vocabulary)}
    return [
        ids[piece]
        for word in _words(text, do_lower_case)
        for piece in (_pieces(word, ids) or ["[UNK]"])
    ]


def encode_alone(
    text: str, vocabulary: Sequence[str], do_lower_case: bool, max_length: int
) -> list[int]:
    """The ids of one text as run_classifier.py frames and cuts it: [CLS], its pieces, [SEP].

    A vocabulary that lacks [CLS] or [SEP] makes that program fail. Here its texts have no frame.

    Args:
        text, vocabulary, do_lower_case: as for `encode`.
        max_length: the length with the frame.

    Raises:
        KeyError: as `encode` raises it.
    """
    ids = encode(text, vocabulary, do_lower_case)
    last = {token: index for index, token in enumerate(vocabulary)}
    if "[CLS]" not in last or "[SEP]" not in last:
        return ids[:max_length]
    return [last["[CLS]"], *ids[: max_length - 2], last["[SEP]"]]


def _words(text: str, do_lower_case: bool) -> list[str]:
    """BasicTokenizer.tokenize."""
    words = []
    for word in "".join(map(_cleaned, text)).split():
        if do_lower_case:
            decomposed = unicodedata.normalize("NFD", word.lower())
            word = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
        words.append("".join(f" {char} " if _is_punctuation(char) else char for char in word))
    return " ".join(words).split()


def _cleaned(char: str) -> str:
    """_clean_text and _tokenize_chinese_chars."""
    code, category = ord(char), unicodedata.category(char)
    if char in " \t\n\r" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
        return ""
    return f" {char} " if any(first <= code <= last for first, last in _CJK) else char


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(char).startswith("P")


def _pieces(word: str, ids: dict[str, int]) -> list[str]:
    """WordpieceTokenizer.tokenize: the longest piece first; [] if a part has no piece."""
    if len(word) > _MAX_CHARS_PER_WORD:
        return []
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in ids:
                break
        else:
            return []
        pieces.append(piece)
        start = end
    return pieces
