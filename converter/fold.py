"""Rows of names that differ in a number alone -> one row: `layer_{0..11}`."""

import re
from collections.abc import Iterable
from typing import TypeVar

_NUMBER = re.compile(r"(?<![A-Za-z0-9])(?:0|[1-9][0-9]{0,8})(?![A-Za-z0-9])")

Rest = TypeVar("Rest")


def fold(
    rows: Iterable[tuple[tuple[str, ...], Rest]],
) -> list[tuple[tuple[str, ...], Rest, int]]:
    """Fold rows whose names differ only in their first number, and that agree in all the rest.

    Args:
        rows: names, which all have the same first number, and what else the row says (hashable).

    Returns:
        Names, the rest, and how many rows it stands for; in the order of the first of them.
    """
    groups: dict[tuple[object, Rest], list[tuple[int, tuple[str, ...]]]] = {}
    for names, rest in rows:
        numbers = {number[0] for name in names if (number := _NUMBER.search(name))}
        if len(numbers) == 1:
            around = tuple(tuple(_NUMBER.split(name, maxsplit=1)) for name in names)
            groups.setdefault((around, rest), []).append((int(numbers.pop()), names))
        else:
            groups.setdefault((names, rest), []).append((0, names))
    folded = []
    for (_, rest), members in groups.items():
        span = {number for number, _ in members}
        first, last = min(span), max(span)
        if len(members) > 1 and len(members) == len(span) == last - first + 1:
            names = tuple(
                _NUMBER.sub(f"{{{first}..{last}}}", name, count=1) for name in members[0][1]
            )
            folded.append((names, rest, len(members)))
        else:
            folded += [(names, rest, 1) for _, names in members]
    return folded
