"""Expressions of sizes in mapping files: symbols and numbers with `-`, `*` and `/`, as in "H-E"."""

import operator
from collections.abc import Mapping

# What binds least comes first.
_OPERATIONS = {"-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def _parts(text: str) -> tuple[str, str, str]:
    """The left side, the operation and the right side; the first two are "" if there is one."""
    # No regular expression: to compile one takes longer than all expressions of a mapping.
    sign = next((sign for sign in _OPERATIONS if sign in text), "")
    return text.rpartition(sign) if sign else ("", "", text)


def is_expression(text: str) -> bool:
    """Whether a text is more than one symbol or number."""
    return bool(_parts(text)[1])


def symbols_of(text: str) -> list[str]:
    """The symbols in an expression."""
    left, sign, right = _parts(text)
    if sign:
        return symbols_of(left) + symbols_of(right)
    return [] if right.isdecimal() else [right]


def evaluate(text: str, sizes: Mapping[str, int]) -> int | None:
    """The value of an expression; None if a symbol has no size, or a quotient is not whole."""
    one, sign, other = _parts(text)
    if not sign:
        return int(text) if text.isdecimal() else sizes.get(text)
    left, right = evaluate(one, sizes), evaluate(other, sizes)
    if left is None or right is None:
        return None
    if sign == "/" and (right == 0 or left % right):
        return None
    value: int = _OPERATIONS[sign](left, right)
    return value
