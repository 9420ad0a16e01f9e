"""Text: lists of names that stay short, hints, and paths that are not UTF-8."""

from collections.abc import Iterable, Sequence
from itertools import islice

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


def counted(number: int, noun: str) -> str:
    """A number of things, as `1 variable` or `2,000 variables`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cut(text: str, most: int = 200) -> str:
    """The text, cut off after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def as_text(path: str) -> str:
    """A path as text: its bytes that are not UTF-8 are escaped, as in `caf\\xe9`."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # it is no path, and holds other surrogates
        return path.encode("utf-8", "backslashreplace").decode()


def pip_install(extra: str, *packages: str) -> str:
    """How to install packages: with bertconvert's extra, or alone, as not every index has it."""
    return f"pip install 'bertconvert[{extra}]', or pip install {' '.join(packages)}"


def to_json(value: object) -> bytes:
    """A value as JSON on one line; in paths that are not UTF-8, those bytes are escaped."""
    import msgspec

    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_escaped(msgspec.to_builtins(value)))


def to_json_lines(value: object) -> bytes:
    """A value as JSON for people: indented, with a newline at the end."""
    import msgspec

    return msgspec.json.format(to_json(value), indent=2) + b"\n"


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that is most like another, as the end of a message; "" if none is."""
    from difflib import get_close_matches

    found = get_close_matches(name, islice(names, 1000), 1)
    return f" (nearest: {found[0]})" if found else ""
