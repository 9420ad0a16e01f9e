"""Expressions of sizes in mapping files: a symbol, a number, or two of them, such as "H-E"."""

import operator
from collections.abc import Mapping

_OPERATIONS = {"*": operator.mul, "-": operator.sub, "/": operator.floordiv}


def _parts(text: str) -> tuple[str, str, str]:
    """The left side, the operation and the right side; the latter two are "" if there is one."""
    # No regular expression: to compile one takes longer than all expressions of a mapping.
    sign = next((sign for sign in _OPERATIONS if sign in text), "")
    return text.partition(sign) if sign else (text, "", "")


def is_expression(text: str) -> bool:
    """Whether a text is more than one symbol or number."""
    return bool(_parts(text)[1])


def symbols_of(text: str) -> list[str]:
    """The symbols in an expression."""
    left, sign, right = _parts(text)
    return [part for part in ([left, right] if sign else [left]) if not part.isdigit()]


def evaluate(text: str, sizes: Mapping[str, int]) -> int | None:
    """The value of an expression; None if a symbol has no size, or a quotient is not whole."""
    one, sign, other = _parts(text)
    if not sign:
        return int(text) if text.isdigit() else sizes.get(text)
    left, right = (int(p) if p.isdigit() else sizes.get(p) for p in (one, other))
    if left is None or right is None:
        return None
    if sign == "/" and (right == 0 or left % right):
        return None
    value: int = _OPERATIONS[sign](left, right)
    return value
