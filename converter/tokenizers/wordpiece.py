"""A vocabulary of Google's BERT -> the tokenizer files that transformers loads.

The files give the tokens and ids of google-research/bert `tokenization.py` (FullTokenizer). The
`BertNormalizer` and `BertPreTokenizer` that a tokenizer.json of BERT usually names do not: they
delete private-use characters, know the punctuation and the marks of an old Unicode only, overlook
256 CJK ideographs and the final form of Σ, and are used with words of 100 characters at most. So
tokenizer.json spells Google's rules out in the general parts of tokenizers, which are as fast.

transformers reads tokenizer.json as it is written only where tokenizer_config.json names no class
of its own for BERT: `BertTokenizer` of transformers 5 takes the vocabulary from it and builds the
rest anew. `PreTrainedTokenizerFast` is the name for "as written" that versions 4 and 5 both know.

What remains different: text that spells a special token, as "[MASK]", becomes that token, which
users of transformers expect and Google's splits; and the few code points that the Unicode tables
of the two sides class differently, nearly all of them younger than the older table.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import PlanError

SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}

# WordpieceTokenizer's default. tokenizers' own is 100.
_MAX_CHARS_PER_WORD = 200

# The patterns below are read by Oniguruma (tokenizers) and, with its `u` flag, by JavaScript
# (transformers.js): so nothing that only one of them knows, and code points as themselves.

# _clean_text deletes these. NUL, which it names too, is of category Cc.
_DELETED = r"[^\P{Cc}\t\n\r]|\p{Cf}|" + "\ufffd"

# str.lower() writes Σ as ς behind a cased letter with none to follow, looking past what ignores
# case (Final_Sigma in Unicode's SpecialCasing.txt); the Lowercase of tokenizers does not.
_CASED = r"[^\P{Cased}\p{Case_Ignorable}]"
_FINAL_SIGMA = rf"(?<={_CASED}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_CASED})"

# Each is a word of its own: _is_punctuation, which counts all of ASCII's signs in, and the blocks
# of _is_chinese_char. Google's spaces the ideographs out before it takes accents away; that is the
# same, as the compatibility ideographs decompose into ideographs.
_ALONE = (
    r"[!-/:-@\[-`{-~\p{P}"
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)

# Up to this share of a vocabulary was added by hand. Of Google's cased one 8,826 of 28,996 tokens
# have capitals or accents, of the uncased and the Chinese none.
_STRAY_SHARE = 0.01


class Casing(Struct, frozen=True):
    """Whether text is lower-cased and stripped of accents, and the sentence that says why."""

    do_lower_case: bool
    reason: str


def read_vocabulary(data: bytes, source: str) -> tuple[str, ...]:
    """The tokens of a vocab.txt, each at its index: one a line, stripped.

    As `load_vocab` of google-research/bert reads it: lines end at "\\n" alone (some tokens of the
    Chinese vocabulary are other line ends), and a line that strips to nothing still counts, but
    for those at the end. A byte order mark is no part of the first token.

    `source` names the file in errors. Raises PlanError if it is not UTF-8 or holds no token.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PlanError(
            f"{source}, line {line}: not UTF-8 ({error.reason}); a BERT vocabulary is UTF-8 text"
        ) from None
    tokens = [line.strip() for line in text.split("\n")]
    while tokens and not tokens[-1]:
        tokens.pop()
    if not tokens:
        raise PlanError(f"{source}: no token in it; a BERT vocabulary has one token a line")
    return tuple(tokens)


def infer_casing(tokens: Sequence[str], name: str) -> Casing:
    """Whether a model with this vocabulary lower-cases its text; `name` is its path, or any name.

    The evidence is in the tokens that lower-cased text can never spell: those that have capitals
    or accents, for Google's lower-casing takes both (tokens in brackets, as "[CLS]" or "<S>",
    aside). Many capitals mean a cased model, and neither capitals nor accents a lower-cased one,
    whatever the name says; the reason tells where the two contradict each other. In between, with
    a stray few of such tokens or with accents alone, "cased" or "uncased" in the name decides;
    without either a few mean lower-cased and many cased.
    """

    def few(found: Sequence[str]) -> bool:
        return len(found) <= _STRAY_SHARE * len(tokens)

    chars = set("".join(tokens))
    lost_chars = {char for char in chars if _lower_case(char) != char}
    capitals = {char for char in lost_chars if char.lower() != char}
    lost = [
        token
        for token in tokens
        if not lost_chars.isdisjoint(token) and not token.startswith(("[", "<"))
    ]
    reason = "no token has capitals or accents"
    if lost:
        count = f"{len(lost):,} of {len(tokens):,} tokens {'has' if len(lost) == 1 else 'have'}"
        some = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
        reason = f"{'only ' if few(lost) else ''}{count} capitals or accents ({some})"

    words = re.findall(r"(un|lower)?(cased)", name.lower())
    if not words:
        return Casing(few(lost), reason)
    named = bool(words[-1][0])
    clear = not lost or not few([token for token in lost if not capitals.isdisjoint(token)])
    but = "and" if named is few(lost) else "though" if clear else "but"
    do_lower_case = few(lost) if clear else named
    return Casing(do_lower_case, f"{reason}, {but} the name says {''.join(words[-1])}")


def missing_special_tokens(tokens: Sequence[str]) -> list[str]:
    """Which of [UNK], [SEP], [PAD], [CLS], [MASK] the vocabulary lacks; a real one lacks none."""
    present = set(tokens)
    return [token for token in SPECIAL_TOKENS.values() if token not in present]


def tokenizer_files(
    tokens: Sequence[str], *, do_lower_case: bool, model_max_length: int
) -> dict[str, bytes]:
    """The tokenizer files of a model folder: name -> content, the same for the same arguments.

    `tokens` is a vocabulary by index, `model_max_length` the number of the model's positions.
    One text is encoded as [CLS] a [SEP], two as [CLS] a [SEP] b [SEP] with token types 0 and 1,
    as run_classifier.py does.

    A token that stands on several lines is the last of them, as in `load_vocab`. The others become
    "[duplicate17]", by their index, which no text spells: an id without a token would make
    `len(tokenizer)` too small, and `resize_token_embeddings(len(tokenizer))` cut the model.

    A special token that the vocabulary lacks is left out, not added, for the model has no row for
    it. Without [CLS] or [SEP] nothing is put around a text; without [UNK] an unknown word is an
    error when it is met, as it is in `tokenization.py`.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        tokens = [
            token if ids[token] == index else f"[duplicate{index}]"
            for index, token in enumerate(tokens)
        ]
        ids = {token: index for index, token in enumerate(tokens)}
    special = {role: token for role, token in SPECIAL_TOKENS.items() if token in ids}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Without this, transformers 5 gives a tokenizer of that class no token types.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": model_max_length,
        # For those who load vocab.txt with a class of their choice; tokenizer.json says it itself.
        "do_lower_case": do_lower_case,
        **special,
    }
    return {
        "vocab.txt": ("\n".join(tokens) + "\n").encode(),
        "tokenizer.json": _json(_tokenizer_json(ids, special.values(), do_lower_case)),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(special),
    }


def _tokenizer_json(
    ids: dict[str, int], special: Iterable[str], do_lower_case: bool
) -> dict[str, Any]:
    """The whole pipeline, in the words of the tokenizers library."""
    normalizers = [_replace(_DELETED, "")]
    if do_lower_case:
        normalizers += [
            _replace(_FINAL_SIGMA, "ς"),
            {"type": "Lowercase"},
            {"type": "NFD"},
            _replace(r"\p{Mn}", ""),
        ]
    framed = "[CLS]" in ids and "[SEP]" in ids
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in sorted(special, key=ids.__getitem__)
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {
                    "type": "Split",
                    "pattern": {"Regex": _ALONE},
                    "behavior": "Isolated",
                    "invert": False,
                },
            ],
        },
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", ids["[SEP]"]],
            "cls": ["[CLS]", ids["[CLS]"]],
        }
        if framed
        else None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": _MAX_CHARS_PER_WORD,
            "vocab": ids,
        },
    }


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _lower_case(text: str) -> str:
    """What BasicTokenizer does to a word when do_lower_case is set."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def _json(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
