"""Expressions of sizes in mapping files: a symbol, a number, or two of them, such as "H-E"."""

import operator
import re
from collections.abc import Mapping

_EXPRESSION = re.compile(r"(\w+)([*/-])(\w+)")
_OPERATIONS = {"*": operator.mul, "-": operator.sub, "/": operator.floordiv}


def is_expression(text: str) -> bool:
    """Whether a text is more than one symbol or number."""
    return _EXPRESSION.fullmatch(text) is not None


def symbols_of(text: str) -> list[str]:
    """The symbols in an expression."""
    found = _EXPRESSION.fullmatch(text)
    return [part for part in ((found[1], found[3]) if found else (text,)) if not part.isdigit()]


def evaluate(text: str, sizes: Mapping[str, int]) -> int | None:
    """The value of an expression; None if a symbol has no size, or a quotient is not whole."""
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        return int(text) if text.isdigit() else sizes.get(text)
    left, right = (evaluate(part, sizes) for part in (found[1], found[3]))
    if left is None or right is None:
        return None
    if found[2] == "/" and (right == 0 or left % right):
        return None
    value: int = _OPERATIONS[found[2]](left, right)
    return value
