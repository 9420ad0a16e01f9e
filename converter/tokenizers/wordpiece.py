"""A vocabulary of Google's BERT -> the tokenizer files that transformers loads.

The files give the tokens and ids of google-research/bert `tokenization.py` (FullTokenizer). The
`BertNormalizer` and `BertPreTokenizer` that BERT's tokenizer.json usually has do not: they delete
private-use characters, know only the punctuation and the marks of an old Unicode version, miss 256
CJK ideographs and the final form of Σ, and take words of at most 100 characters. So tokenizer.json
spells out Google's rules with the general components of tokenizers, which are as fast.

transformers uses tokenizer.json as it is only if tokenizer_config.json does not name BERT's class:
`BertTokenizer` of transformers 5 takes the vocabulary from it and builds everything else itself.
`PreTrainedTokenizerFast` means "as it is" in both version 4 and version 5.

Two differences remain. Text that spells a special token, such as "[MASK]", becomes that token,
which users of transformers expect; Google's code splits it. And the Unicode tables of the two sides
classify a few code points differently, nearly all of them newer than the older table.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import layout
from ..errors import PlanError
from ..text import cut, joined, to_json_lines
from .parts import UNUSED, Casing, added_tokens, free_name, lower_case, replace
from .registry import Role, SpecialToken

VOCABULARY = layout.VOCABULARY
MODEL = "WordPiece"

SPECIAL_TOKENS: Mapping[Role, str] = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}

# The default of WordpieceTokenizer; that of tokenizers is 100.
_MAX_CHARS_PER_WORD = 200

# The characters that _clean_text deletes. NUL, which it also names, has the category Cc.
_DELETED = r"[^\P{Cc}\t\n\r]|\p{Cf}|" + "\ufffd"

# Each of these characters is a word: those of _is_punctuation, which includes all ASCII signs, and
# the blocks of _is_chinese_char. Google's code separates the ideographs before it strips accents.
# The order makes no difference, because compatibility ideographs decompose into ideographs.
_ALONE = (
    r"[!-/:-@\[-`{-~\p{P}"
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)

# People add up to this share of a vocabulary by hand. In Google's cased vocabulary, 8,826 of 28,996
# tokens have capitals or accents; in the uncased and the Chinese ones, none.
_STRAY_SHARE = 0.01


_MOST_LINES = 5  # that a note names

# The names of rows that no text may spell: a text has no word with a bracket in it.
_DUPLICATE = "duplicate"


def read_vocabulary(data: bytes, source: str) -> tuple[str, ...]:
    """The tokens of a vocab.txt by index: one per line, stripped.

    It reads like `load_vocab` of google-research/bert with TensorFlow's reader of lines: only
    "\\n" ends a line (some tokens of the Chinese vocabulary are other line ends), "\\r" is dropped
    anywhere, and a blank line counts, except at the end. A byte order mark is not part of the first
    token, though it is for Google's code.

    Args:
        data: the file's content.
        source: the file's name, for errors.

    Raises:
        PlanError: the file is not UTF-8, or has no token.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PlanError(
            f"{source}, line {line}: not UTF-8 ({error.reason}); a BERT vocabulary is UTF-8 text"
        ) from None
    tokens = [line.strip() for line in text.replace("\r", "").split("\n")]
    while tokens and not tokens[-1]:
        tokens.pop()
    if not tokens:
        raise PlanError(f"{source} has no token; a BERT vocabulary has one token per line")
    return tuple(tokens)


def infer_casing(tokens: Sequence[str], name: str) -> Casing:
    """Whether a model with this vocabulary lower-cases its text.

    The evidence is in the tokens that lower-cased text never spells: those with capitals or
    accents, because Google's lower-casing removes both. Tokens in brackets, such as "[CLS]" or
    "<S>", do not count. Many capitals mean a cased model, and neither capitals nor accents mean a
    lower-cased one, whatever the name says; the reason mentions a contradiction. In between, with a
    few such tokens or with accents alone, "cased" or "uncased" in the name decides. Without either,
    few such tokens mean lower-cased and many mean cased.

    Args:
        tokens: the vocabulary.
        name: the model's path, or any name.
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


def special_tokens(tokens: Sequence[str]) -> dict[Role, SpecialToken]:
    """[UNK], [SEP], [PAD], [CLS] and [MASK]; of several rows the last, as in `load_vocab`."""
    rows = {token: row for row, token in enumerate(tokens)}
    return {role: SpecialToken(text, rows.get(text)) for role, text in SPECIAL_TOKENS.items()}


def vocabulary_notes(tokens: Sequence[str]) -> list[str]:
    """Which lines of a vocabulary are blank, and which tokens are on several lines.

    In `load_vocab` of google-research/bert, the last line of a token has its id, and a blank line
    is a row that no text reaches. That of bert-tensorflow on PyPI skips such lines, so that the ids
    after them are smaller.
    """
    lines: dict[str, list[int]] = {}
    if len(set(tokens)) == len(tokens) and "" not in tokens:
        return []
    for number, token in enumerate(tokens, 1):
        lines.setdefault(token, []).append(number)
    notes = []
    blank = lines.pop("", [])
    if blank:
        are, rows = ("line is", "its row") if len(blank) == 1 else ("lines are", "their rows")
        where = joined([f"{number:,}" for number in blank], _MOST_LINES)
        notes.append(f"{len(blank):,} {are} blank, and no text reaches {rows}: {where}")
    twice = [
        f"{token} ({joined([f'{number:,}' for number in numbers], _MOST_LINES)})"
        for token, numbers in lines.items()
        if len(numbers) > 1
    ]
    if twice:
        are = "token is" if len(twice) == 1 else "tokens are"
        notes.append(
            f"{len(twice):,} {are} on several lines, and the last one counts:"
            f" {joined(twice, _MOST_LINES)}"
        )
    return notes


def pad_vocabulary(tokens: Sequence[str], rows: int) -> tuple[str, ...]:
    """The tokens, and "[unused_17]" with their index for rows that have none."""
    taken = set(tokens)
    return (*tokens, *(free_name(UNUSED, row, taken) for row in range(len(tokens), rows)))


def append_tokens(tokens: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """The tokens, and more of them."""
    return (*tokens, *more)


def vocabulary_file(tokens: Sequence[str]) -> bytes:
    """A vocab.txt: one token a line. A token of spaces, which no text reaches, is a blank line.

    Raises:
        PlanError: `load_vocab` of google-research/bert would read another token, or fewer.
    """
    lines = [token if token.strip() else "" for token in tokens]
    for row, line in enumerate(lines):
        if line != line.replace("\r", "").strip() or "\n" in line:
            raise PlanError(
                f"{cut(line, 40)!r}, the token with the id {row:,}, can't be a line of"
                f" {VOCABULARY}: spaces at its ends are not read, and a line break ends it"
            )
    if not lines or not lines[-1]:
        raise PlanError(f"{VOCABULARY} can't be written: the last token is blank, or there is none")
    try:
        return _lines(lines)
    except UnicodeEncodeError as error:
        raise PlanError(f"a token can't be a line of {VOCABULARY}: {error}") from None


def _lines(tokens: Sequence[str]) -> bytes:
    return ("\n".join(tokens) + "\n").encode()


def tokenizer_files(
    tokens: Sequence[str], *, do_lower_case: bool, model_max_length: int
) -> dict[str, bytes]:
    """The tokenizer files of a model folder: name -> content, the same for the same arguments.

    One text is encoded as [CLS] a [SEP], two as [CLS] a [SEP] b [SEP] with token types 0 and 1, as
    run_classifier.py does.

    If a token is on several lines, the last one has its id, as in `load_vocab`. The others become
    "[duplicate17]", with their index, which no text spells. Without them, `len(tokenizer)` would be
    too small, and `resize_token_embeddings(len(tokenizer))` would cut the model.

    A special token that the vocabulary lacks is left out, not added, because the model has no
    embedding for it. Without [CLS] or [SEP], nothing is put around a text. Without [UNK], an
    unknown word is an error when the tokenizer meets it, as in `tokenization.py`.

    Args:
        tokens: the vocabulary by index.
        do_lower_case: whether text is lower-cased.
        model_max_length: the number of the model's positions.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        taken = set(tokens)
        tokens = [
            token if ids[token] == index else free_name(_DUPLICATE, index, taken)
            for index, token in enumerate(tokens)
        ]
        ids = {token: index for index, token in enumerate(tokens)}
    special: dict[str, str] = {
        role: token for role, token in SPECIAL_TOKENS.items() if token in ids
    }
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Without this, transformers 5 gives a tokenizer of that class no token types.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": model_max_length,
        # For people who load vocab.txt with another class; tokenizer.json has it in its rules.
        "do_lower_case": do_lower_case,
        **special,
    }
    return {
        layout.VOCABULARY: _lines(tokens),
        layout.TOKENIZER: to_json_lines(_tokenizer_json(ids, special.values(), do_lower_case)),
        layout.TOKENIZER_CONFIG: to_json_lines(config),
        layout.SPECIAL_TOKENS: to_json_lines(special),
    }


def _tokenizer_json(
    ids: dict[str, int], special: Iterable[str], do_lower_case: bool
) -> dict[str, Any]:
    """The whole pipeline, as the tokenizers library describes it."""
    normalizers = [replace(_DELETED, "")]
    if do_lower_case:
        normalizers += [*lower_case(), {"type": "NFD"}, replace(r"\p{Mn}", "")]
    framed = "[CLS]" in ids and "[SEP]" in ids
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens({token: ids[token] for token in special}),
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


def _lower_case(text: str) -> str:
    """A word as BasicTokenizer changes it if do_lower_case is set."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
