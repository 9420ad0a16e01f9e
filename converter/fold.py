"""Rows of names that differ in a number alone -> one row: `layer_{0..11}`."""

import re
from collections.abc import Iterable
from typing import TypeVar

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")

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
    groups: dict[tuple[tuple[str, ...], Rest], list[tuple[int, tuple[str, ...]]]] = {}
    for names, rest in rows:
        numbers = {number[0] for name in names if (number := _NUMBER.search(name))}
        if len(numbers) == 1:
            template = tuple(_NUMBER.sub("{}", name, count=1) for name in names)
            groups.setdefault((template, rest), []).append((int(numbers.pop()), names))
        else:
            groups.setdefault((names, rest), []).append((0, names))
    folded = []
    for (template, rest), members in groups.items():
        span = sorted(number for number, _ in members)
        if len(span) > 1 and span == list(range(span[0], span[-1] + 1)):
            numbers_shown = f"{{{span[0]}..{span[-1]}}}"
            names = tuple(name.replace("{}", numbers_shown, 1) for name in template)
            folded.append((names, rest, len(span)))
        else:
            folded += [(names, rest, 1) for _, names in members]
    return folded
