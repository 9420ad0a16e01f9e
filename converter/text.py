"""Lists of names as text that stays short, whatever a checkpoint holds."""

from collections.abc import Sequence

MOST = 12
"""The number of items that a message shows unless it says otherwise."""


def listed(lines: Sequence[str], most: int = MOST) -> list[str]:
    """The first lines, and one more that counts the rest if there are more than `most`."""
    rest = len(lines) - most
    return [*lines] if rest <= 0 else [*lines[:most], f"... and {rest:,} more"]


def joined(names: Sequence[str], most: int = MOST) -> str:
    """The names as part of a sentence: `a, b and c`, or `a, b and 7 more`."""
    rest = len(names) - most
    *most_names, last = [*names[:most], f"{rest:,} more"] if rest > 0 else [*names] or [""]
    return f"{', '.join(most_names)} and {last}" if most_names else last


def cut(text: str, most: int = 200) -> str:
    """The text, cut off after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."
