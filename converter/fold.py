"""Rows of names that differ only in a number -> one row: `layer_{0..11}`."""

import re
from collections.abc import Iterable
from typing import TypeVar

_NUMBER = re.compile(r"(?<![A-Za-z0-9])(?:0|[1-9][0-9]{0,8})(?![A-Za-z0-9])")

Rest = TypeVar("Rest")


def fold(
    rows: Iterable[tuple[tuple[str, ...], Rest]],
) -> list[tuple[tuple[str, ...], Rest, int]]:
    """Fold rows whose names differ only in their first number and whose rest is equal.

    Args:
        rows: the names of a row, and the rest of it (hashable). Rows are folded only if all names
            of a row have the same first number.

    Returns:
        Names, the rest, and the number of rows that were folded; in the order of the first rows.
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
