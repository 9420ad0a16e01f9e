"""A SentencePiece model of Google's ALBERT -> the tokenizer files that transformers loads.

The files give the ids of google-research/albert `tokenization.py`: `preprocess_text`, then
FullTokenizer with `spm_model_file`. transformers' own conversion (`AlbertConverter`, and
`AlbertTokenizer`, which builds its pipeline anew) does not: it replaces `` and '' by quotes, strips
marks by another rule, matches the model's rules for characters by graphemes, and lets control
pieces and numbers such as 21,058 become other pieces. So tokenizer.json spells out Google's steps,
and `tokenizer_class` is `PreTrainedTokenizerFast`, which takes them as they are.

Google's steps, and what stands for them:

1. Spaces are collapsed, and the text is decomposed (NFKD), loses its marks, and is lower-cased.
2. The model's rules replace characters. Of some 220,000 rules of Google's models, step 1 leaves a
   few to do: they delete, make a space, or compose what NFC composes.
3. The best path through the pieces is taken (Viterbi). tokenizers has the same algorithm; it adds
   the scores in float64, and sentencepiece in float32. So of two paths with nearly the same score,
   such as those of repeated letters, either may take the other one.
4. A piece that ends in a digit and a comma is split again. As `_numbers` says, this is exact for
   numbers as people write them.

Text that spells a special token, such as "[MASK]", becomes that token, as with other tokenizers.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, cast

from .. import layout
from ..checkpoint.protos import Malformed
from ..errors import PlanError
from ..text import cut, joined, to_json_lines
from .parts import UNUSED, Casing, added_tokens, free_name, lower_case, replace
from .registry import Role, SpecialToken
from .sentencepiece_model import (
    LONGEST_UNUSED,
    NORMAL,
    SPACE,
    USER_DEFINED,
    Model,
    read_model,
)

VOCABULARY = layout.SENTENCEPIECE
MODEL = "Unigram"

_UNKNOWN = "<unk>"
_SPECIAL_TOKENS: Mapping[Role, str] = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": _UNKNOWN,
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}

# What str.split() splits at.
_SPACES = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# The characters for which unicodedata.combining() is not 0, in Unicode 14. Regular expressions have
# no name for them: of the category M, about half are no such characters.
_MARKS = """
    300-34e 350-36f 483-487 591-5bd 5bf 5c1-5c2 5c4-5c5 5c7 610-61a 64b-65f 670 6d6-6dc 6df-6e4
    6e7-6e8 6ea-6ed 711 730-74a 7eb-7f3 7fd 816-819 81b-823 825-827 829-82d 859-85b 898-89f
    8ca-8e1 8e3-8ff 93c 94d 951-954 9bc 9cd 9fe a3c a4d abc acd b3c b4d bcd c3c c4d c55-c56 cbc
    ccd d3b-d3c d4d dca e38-e3a e48-e4b eb8-eba ec8-ecb f18-f19 f35 f37 f39 f71-f72 f74 f7a-f7d
    f80 f82-f84 f86-f87 fc6 1037 1039-103a 108d 135d-135f 1714-1715 1734 17d2 17dd 18a9 1939-193b
    1a17-1a18 1a60 1a75-1a7c 1a7f 1ab0-1abd 1abf-1ace 1b34 1b44 1b6b-1b73 1baa-1bab 1be6 1bf2-1bf3
    1c37 1cd0-1cd2 1cd4-1ce0 1ce2-1ce8 1ced 1cf4 1cf8-1cf9 1dc0-1dff 20d0-20dc 20e1 20e5-20f0
    2cef-2cf1 2d7f 2de0-2dff 302a-302f 3099-309a a66f a674-a67d a69e-a69f a6f0-a6f1 a806 a82c a8c4
    a8e0-a8f1 a92b-a92d a953 a9b3 a9c0 aab0 aab2-aab4 aab7-aab8 aabe-aabf aac1 aaf6 abed fb1e
    fe20-fe2f 101fd 102e0 10376-1037a 10a0d 10a0f 10a38-10a3a 10a3f 10ae5-10ae6 10d24-10d27
    10eab-10eac 10f46-10f50 10f82-10f85 11046 11070 1107f 110b9-110ba 11100-11102 11133-11134
    11173 111c0 111ca 11235-11236 112e9-112ea 1133b-1133c 1134d 11366-1136c 11370-11374 11442
    11446 1145e 114c2-114c3 115bf-115c0 1163f 116b6-116b7 1172b 11839-1183a 1193d-1193e 11943
    119e0 11a34 11a47 11a99 11c3f 11d42 11d44-11d45 11d97 16af0-16af4 16b30-16b36 16ff0-16ff1
    1bc9e 1d165-1d169 1d16d-1d172 1d17b-1d182 1d185-1d18b 1d1aa-1d1ad 1d242-1d244 1e000-1e006
    1e008-1e018 1e01b-1e021 1e023-1e024 1e026-1e02a 1e130-1e136 1e2ae 1e2ec-1e2ef 1e8d0-1e8d6
    1e944-1e94a
"""

_FEW = 0.01  # the share of a vocabulary that people add by hand
_MOST_RULES = 100  # each is a pass over the text
_DIGITS = "0123456789"
_MOST_DIGITS = 3  # after a comma, as people write numbers
_LONGEST_NUMBER = 24  # characters
_MOST_RIVALS = 20_000  # pairs of pieces with a comma; Google's model has 1,700


def read_vocabulary(data: bytes, source: str) -> Model:
    """The pieces of a SentencePiece model by id.

    Args:
        data: the file's content.
        source: the file's name, for errors.

    Raises:
        PlanError: the file is no unigram model, or is damaged.
    """
    return read_model(data, source)


def infer_casing(tokens: Sequence[str], name: str) -> Casing:
    """Whether a model with these pieces lower-cases its text: whether few pieces have capitals.

    Pieces in brackets, such as "[CLS]", do not count. Marks are stripped in any case.

    Args:
        tokens: the pieces.
        name: the model's path. It tells nothing: Google's ALBERT is lower-cased, and its names do
            not say so.
    """
    capitals = [t for t in tokens if t != t.lower() and not t.startswith(("[", "<"))]
    few = len(capitals) <= _FEW * len(tokens)
    if not capitals:
        return Casing(True, "no piece has capitals")
    some = ", ".join(capitals[:3]) + (", …" if len(capitals) > 3 else "")
    have = f"{len(capitals):,} of {len(tokens):,} pieces {'has' if len(capitals) == 1 else 'have'}"
    return Casing(few, f"{'only ' if few else ''}{have} capitals ({some})")


def special_tokens(tokens: Sequence[str]) -> dict[Role, SpecialToken]:
    """[CLS], [SEP], [MASK], <pad> and the piece for what is unknown, usually <unk>."""
    rows = {token: row for row, token in enumerate(tokens)}
    unknown = tokens[tokens.unknown] if isinstance(tokens, Model) else _UNKNOWN
    names = {**_SPECIAL_TOKENS, "unk_token": unknown}
    return {role: SpecialToken(text, rows.get(text)) for role, text in names.items()}


def vocabulary_notes(tokens: Sequence[str]) -> list[str]:
    """For which texts the tokenizer may give other pieces than Google's code does."""
    inside = [token for token in tokens if _is_number(token) and not token.startswith(SPACE)]
    if not inside:
        return []
    return [
        "Google's code splits a piece that ends in a digit and a comma once more. Inside of a word,"
        f" the tokenizer may split it differently: {joined(inside, 3)}"
    ]


def pad_vocabulary(tokens: Sequence[str], rows: int) -> tuple[str, ...]:
    """The model with pieces that no text spells, "[unused_17]", for rows that have none."""
    taken = set(tokens)
    return append_tokens(tokens, [free_name(UNUSED, r, taken) for r in range(len(tokens), rows)])


def append_tokens(tokens: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """The model with more pieces, which are unused; without a model, the pieces alone.

    Raises:
        PlanError: a token can't be a piece.
    """
    for token in more:
        if not 0 < len(token.encode()) <= LONGEST_UNUSED:
            raise PlanError(f"the token {cut(token, 40)!r} is too long for {VOCABULARY}, or empty")
    return tokens.padded(more) if isinstance(tokens, Model) else (*tokens, *more)


def vocabulary_file(tokens: Sequence[str]) -> bytes:
    """The file of a SentencePiece model.

    Raises:
        PlanError: the tokens are of no model, but of a tokenizer.json.
    """
    if not isinstance(tokens, Model):
        raise PlanError(
            f"{VOCABULARY} is missing. {layout.TOKENIZER} can't replace it, because it lacks the"
            " kinds of pieces. transformers 5 does not save the file: copy it from the model that"
            " this one was made of"
        )
    return tokens.file.data


def tokenizer_files(
    tokens: Sequence[str], *, do_lower_case: bool, model_max_length: int
) -> dict[str, bytes]:
    """The tokenizer files of a model folder: name -> content, the same for the same arguments.

    One text is encoded as [CLS] a [SEP], two as [CLS] a [SEP] b [SEP] with token types 0 and 1, as
    classifier_utils.py does. A special token that the model lacks is left out. The model's file
    goes with them, for Google's code and other programs that use sentencepiece.

    Args:
        tokens: the model.
        do_lower_case: whether text is lower-cased.
        model_max_length: the number of the model's positions.

    Raises:
        PlanError: the rules for characters are damaged, or can't be written as tokenizer.json.
    """
    model = cast(Model, tokens)
    found = special_tokens(model).items()
    special: dict[str, str] = {role: token.text for role, token in found if token.row is not None}
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Without this, transformers 5 gives a tokenizer of that class no token types.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": model_max_length,
        "do_lower_case": do_lower_case,
        **special,
    }
    try:
        pipeline = _tokenizer_json(model, set(special.values()), do_lower_case)
    except Malformed as error:
        raise PlanError(f"the SentencePiece model is damaged: {error}") from None
    return {
        VOCABULARY: vocabulary_file(model),
        layout.TOKENIZER: to_json_lines(pipeline),
        layout.TOKENIZER_CONFIG: to_json_lines(config),
        layout.SPECIAL_TOKENS: to_json_lines(special),
    }


def _tokenizer_json(model: Model, special: Iterable[str], do_lower_case: bool) -> dict[str, Any]:
    """The whole pipeline, as the tokenizers library describes it."""
    ids = {piece: row for row, piece in enumerate(model)}
    metaspace: dict[str, Any] = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if model.file.dummy_prefix else "never",
        # A word is a unit if no piece goes on after a space. Else the whole text is one.
        "split": SPACE in ids and not any(SPACE in piece[1:] for piece in model),
    }
    before = [metaspace]
    if cuts := [*_numbers(model), *_apart(model, do_lower_case)]:
        pattern = {"Regex": "|".join(cuts)}
        before.append(
            {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        )
    normalizers = [
        replace(f"[{_SPACES}]+", " "),
        {"type": "NFKD"},
        replace(f"[{_spans(_MARKS)}]", ""),
        *(lower_case() if do_lower_case else []),
        *_character_rules(model, do_lower_case),
        replace(" {2,}", " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]
    if model.file.rules.longest(SPACE.encode(), 0) is None:
        # Then it is a character like others, but at the end. Metaspace adds none before it.
        normalizers.append(replace(f"[ {SPACE}]+$", ""))
        normalizers += [{"type": "Prepend", "prepend": SPACE}] * model.file.dummy_prefix
    frame: dict[str, int] = {text: ids[text] for text in ("[CLS]", "[SEP]") if text in ids}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens({token: ids[token] for token in special}),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": before},
        "post_processor": _framing(frame) if len(frame) == 2 else None,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": model.unknown,
            "vocab": [*zip(model, _scores(model), strict=True)],
            "byte_fallback": model.file.byte_fallback,
        },
    }


def _spans(text: str) -> str:
    """What is between the brackets of a regular expression for some code points."""
    ends = (span.split("-") for span in text.split())
    return "".join("-".join(chr(int(end, 16)) for end in span) for span in ends)


def _framing(ids: Mapping[str, int]) -> dict[str, Any]:
    def token(text: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), token("[SEP]", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [row], "tokens": [name]} for name, row in ids.items()
        },
    }


def _scores(model: Model) -> list[float]:
    """The scores with which tokenizers takes the pieces that sentencepiece takes, by id.

    A piece that stands for no text is worse than any way to spell it. So is one that ends in a
    digit and a comma, which Google's code splits. A piece that the user defined has the score that
    unigram_model.cc gives it.
    """
    file = model.file
    normal = [score for score, kind in zip(file.scores, file.types, strict=True) if kind == NORMAL]
    highest = max(0.0, *normal)
    never = (1 + max(map(len, model))) * min(0.0, *normal) - 1

    def score_of(piece: str, score: float, kind: int) -> float:
        if kind == USER_DEFINED:
            return len(piece.encode()) * highest - 0.1
        return score if kind == NORMAL and not _is_number(piece) else never

    return [*map(score_of, model, file.scores, file.types)]


# --- the rules for characters --------------------------------------------------------------------


def _character_rules(model: Model, do_lower_case: bool) -> list[dict[str, Any]]:
    """The normalizers for the model's rules, as far as the steps before leave something to do.

    Raises:
        PlanError: tokenizer.json can't have them.
        Malformed: they are damaged.
    """

    def is_left(char: str) -> bool:
        decomposed = unicodedata.normalize("NFKD", char) == char
        lowered = not do_lower_case or char.lower() == char
        return decomposed and lowered and not unicodedata.combining(char)

    symbols = tuple(model[row] for row in model.of_type(USER_DEFINED))  # found before any rule
    found = model.file.rules.rules(is_left)
    rules = {key: text for key, text in found if not key.startswith(symbols)}
    composed = {
        key: text
        for key, text in rules.items()
        if len(key) > 1 and unicodedata.normalize("NFC", key) == text
    }
    keys: dict[str, list[str]] = {}  # by what replaces them
    for key in rules.keys() - composed.keys():
        keys.setdefault(rules[key], []).append(key)
    _check_rules(keys)
    known = set().union(*model)
    # Characters that are unknown both before and after need no composing.
    matter = any(not known.isdisjoint(key + text) for key, text in composed.items())
    return [
        *([{"type": "NFC"}] if matter else []),
        *(replace(_either(sorted(some)), text) for text, some in sorted(keys.items())),
    ]


def _check_rules(keys: Mapping[str, list[str]]) -> None:
    """Refuse rules that do something else if they are done one after the other."""
    uses = Counter(char for some in keys.values() for key in some for char in set(key))
    entangled = [
        (key, text)
        for text, some in keys.items()
        for key in some
        if any(char in uses for char in text) or (len(key) > 1 and any(uses[c] > 1 for c in key))
    ]
    if len(keys) > _MOST_RULES or entangled:
        key, text = min(entangled or [(some[0], text) for text, some in keys.items()])
        raise PlanError(
            "the SentencePiece model has rules for characters that tokenizer.json can't hold, such"
            f" as {key!r} -> {text!r}"
        )


def _either(keys: Sequence[str]) -> str:
    """A regular expression for any of some texts, which are sorted."""
    spans: list[list[int]] = []
    for code in (ord(key) for key in keys if len(key) == 1):
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    chars = "".join("-".join(_literal(chr(end)) for end in sorted({*span})) for span in spans)
    longer = sorted((key for key in keys if len(key) > 1), key=len, reverse=True)
    one = [f"[{chars}]"] if chars else []
    return "|".join([*("".join(map(_literal, key)) for key in longer), *one])


def _literal(char: str) -> str:
    return f"\\{char}" if char in r"\^$.*+?()[]{}|/-&" else char


# --- where a word is cut -------------------------------------------------------------------------


def _apart(model: Model, do_lower_case: bool) -> list[str]:
    """Patterns of places where text that spells a piece which no text has is cut, such as <|pad>.

    Spelled like the piece, such text is the special token. But <PAD> becomes the same when it is
    lower-cased, and tokenizers takes that piece, however low its score, before an unknown character
    such as "<". So it is cut where no piece goes across, and no run of unknown characters.
    """
    texts = [model[row] for row in model.of_type(NORMAL, USER_DEFINED)]
    known = {text for text in texts if len(text) == 1}
    spelled = [
        text
        for text in {*model} - {*texts}
        if not known.issuperset(text) and (text == text.lower() or not do_lower_case)
    ]
    pairs = {text[at : at + 2] for text in texts for at in range(len(text) - 1)} if spelled else ()
    patterns = []
    for text in sorted(spelled):
        for at in range(1, len(text)):
            if text[at - 1 : at + 1] not in pairs and not known.isdisjoint(text[at - 1 : at + 1]):
                before, after = ("".join(map(_literal, part)) for part in (text[:at], text[at:]))
                patterns.append(f"(?<={before})(?={after})")
                break
    return patterns


def _is_number(piece: str) -> bool:
    """Whether Google's `encode_pieces` splits a piece again."""
    return piece[-1] == "," and piece[-2:-1].isdigit()


def _numbers(model: Model) -> list[str]:
    """Patterns of numbers and commas after which a word is cut; [] if that is needless.

    Google's code takes the best path, and splits the pieces on it that end in a digit and a comma:
    "▁21," becomes "▁21" and ",". With a low score for these pieces, the best path spells the same,
    as long as no piece goes on after the comma. For 21,058 it is "▁2", "1,0" and "58". So a word is
    cut after such a piece, if there is a digit next and the piece is on the best path. That is
    found for all numbers with at most three digits next. For more digits, of which people group
    three, the first three decide.
    """
    spelled = {*_DIGITS, ",", SPACE}
    scores = {
        piece: score
        for piece, score, kind in zip(model, model.file.scores, model.file.types, strict=True)
        if kind == NORMAL and len(piece) <= _LONGEST_NUMBER and spelled.issuperset(piece)
    }
    ends = {piece: scores.pop(piece) for piece in [*filter(_is_number, scores)]}
    across: dict[str, list[str]] = {}  # the digits before the comma -> those after it
    for piece in scores:
        start, comma, rest = piece.partition(",")
        if comma and rest[:1].isdigit():
            across.setdefault(start, []).append(rest)
    patterns: dict[str, list[str]] = {}  # what may follow the comma -> numbers
    rivals = 0
    for piece, score in sorted(ends.items()):
        number, plain = piece[:-1], _best(piece, scores)
        if not piece.startswith(SPACE) or plain >= score:
            continue
        worse, better = False, set[str]()
        for at in range(len(number) + 1):
            for rest in across.get(number[at:], ()):
                head = _best(number[:at], scores) + scores[f"{number[at:]},{rest}"]
                gain = head - _best(rest, scores)
                worse |= plain < gain
                if gain > score:
                    better.update(_better(piece, rest, score, scores))
                rivals += 1
        if rivals > _MOST_RIVALS:
            raise PlanError("the SentencePiece model has too many pieces of digits and commas")
        if worse:
            but = f"(?!{'|'.join(sorted(better))})" if better else ""
            patterns.setdefault(f"{but}(?=[0-9])", []).append(number)
    return [f"(?:{'|'.join(numbers)}),{rest}" for rest, numbers in patterns.items()]


def _better(piece: str, rest: str, score: float, scores: Mapping[str, float]) -> Iterator[str]:
    """Yield patterns of the digits after a number with which a piece across its comma is better.

    Args:
        piece: the number's piece, with its comma.
        rest: what is after the comma in the piece across it.
        score: of `piece`.
        scores: of the pieces that Google's code does not split.
    """
    if len(rest) >= _MOST_DIGITS or "," in rest:
        yield rest
        return
    for more in range(_MOST_DIGITS - len(rest) + 1):
        for digits in product(_DIGITS, repeat=more):
            text = rest + "".join(digits)
            if _best(piece + text, scores) > score + _best(text, scores):
                yield text if len(text) == _MOST_DIGITS else f"{text}(?![0-9])"


def _best(text: str, scores: Mapping[str, float]) -> float:
    """The score of the best path through the pieces; less than any number if there is none."""
    best = [0.0] + [-math.inf] * len(text)
    for end in range(1, len(text) + 1):
        best[end] = max(
            best[start] + scores.get(text[start:end], -math.inf) for start in range(end)
        )
    return best[-1]
