"""What the kinds of tokenizers share of a tokenizer.json."""

from collections.abc import Container, Mapping
from typing import Any

from msgspec import Struct

UNUSED = "unused_"  # the name of a row of the model for which the vocabulary has no token

# Both Oniguruma (tokenizers) and JavaScript with the flag `u` (transformers.js) read the patterns.
# So they use only what both know, and code points are written as themselves.

# str.lower() writes Σ as ς after a cased letter if no cased letter follows; characters that ignore
# case do not count (Final_Sigma in Unicode's SpecialCasing.txt). Lowercase of tokenizers does not.
_CASED = r"[^\P{Cased}\p{Case_Ignorable}]"
_FINAL_SIGMA = rf"(?<={_CASED}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_CASED})"


class Casing(Struct, frozen=True):
    """Whether text is lower-cased and stripped of accents, and the sentence that says why."""

    do_lower_case: bool
    reason: str


def replace(pattern: str, content: str) -> dict[str, Any]:
    """A normalizer that replaces what a regular expression finds."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def lower_case() -> list[dict[str, Any]]:
    """The normalizers that do what str.lower() does."""
    return [replace(_FINAL_SIGMA, "ς"), {"type": "Lowercase"}]


def added_tokens(special: Mapping[str, int]) -> list[dict[str, Any]]:
    """The tokens that text may spell, by id.

    Args:
        special: tokens and their ids.
    """
    return [
        {
            "id": row,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, row in sorted(special.items(), key=lambda item: item[1])
    ]


def free_name(kind: str, row: int, taken: Container[str]) -> str:
    """A name for a row that no text spells, and that is not taken: "[unused_17]"."""
    name = f"{kind}{row}"
    while f"[{name}]" in taken:
        name += "_"
    return f"[{name}]"
