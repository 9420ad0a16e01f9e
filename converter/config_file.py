"""The original code's config: JSON, read so that a message can name the line of what is wrong.

The code that trained a model read it with Python's json, which takes the last value of a key that
is there twice. Here that is an error.
"""

import re
from collections import Counter
from collections.abc import Iterator
from json import JSONDecodeError, detect_encoding, loads

from msgspec import Struct

from .errors import PlanError
from .mapping import MappingFile
from .text import cut, joined

_TOKEN = r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}\[\]]'  # a string, perhaps a key; what nests
_KINDS = {list: "a list", str: "a string", type(None): "null", bool: "true or false"}


class ConfigFile(Struct, frozen=True):
    """The keys of a config, and where they are."""

    values: dict[str, object]
    text: str  # of the whole file
    inside: str = ""  # the key of the object that is the config; "" if the whole file is

    def line(self, key: str) -> int | None:
        """The line of a key, from 1; None if the config does not have it."""
        where = ["", self.inside] if self.inside else [""]
        return next((n for path, k, n in _keys(self.text) if k == key and path == where), None)


def parse_config(data: bytes, path: str, mapping: MappingFile) -> ConfigFile:
    """The config that a file is, or that one object in it is.

    Args:
        data: the content of the file.
        path: the file, for messages.
        mapping: the rules, which tell the keys of a config.

    Raises:
        PlanError: it is no JSON object, or has a key twice, or has no or several configs.
    """
    whole = parse_document(data, path)
    text, document = whole.text, whole.values
    known = _size_keys(mapping) | {*mapping.defaults}
    if mapping.activation is not None:
        known.add(mapping.activation.config)
    parts = _parts(document, mapping)
    if not parts and not known & document.keys():
        inner = {key: value for key, value in document.items() if isinstance(value, dict)}
        parts = {key: value for key, value in inner.items() if known & value.keys()}
        if not parts:
            keys = [mapping.size_key(symbol) for symbol in mapping.sizes]
            raise PlanError(
                f"{path} is not a model's config: it has none of its keys, such as"
                f" {joined(keys, 3)}"
            )
    if len(parts) > 1:
        raise PlanError(
            f"{path} has {len(parts)} configs: {joined([*map(_shown, parts)])}. Save the one of"
            " this checkpoint in a file of its own, and give it with --config"
        )
    if parts:
        ((inside, values),) = parts.items()
        return ConfigFile(values, text, inside)
    return whole


def may_be_config(data: bytes, mapping: MappingFile) -> bool:
    """Whether a file's keys are those of a config, or seem to be, in one that can't be read."""
    try:
        document = parse_document(data, "").values
    except PlanError:
        return any(f'"{key}"'.encode() in data for key in _size_keys(mapping))
    return bool(_parts(document, mapping))


def _size_keys(mapping: MappingFile) -> set[str]:
    return {mapping.size_key(symbol) for symbol in mapping.sizes}


def _parts(document: dict[str, object], mapping: MappingFile) -> dict[str, dict[str, object]]:
    """The objects that have at least half of the sizes, by their key; that of the file is ""."""
    keys = _size_keys(mapping)
    objects = {"": document} | {k: v for k, v in document.items() if isinstance(v, dict)}
    found = {k: v for k, v in objects.items() if 2 * len(keys & v.keys()) >= len(keys) > 0}
    return {"": document} if "" in found else found


def parse_document(data: bytes, path: str) -> ConfigFile:
    """The config that a whole file is, whatever its keys.

    Args:
        data: the content of the file.
        path: the file, for messages.

    Raises:
        PlanError: it is no JSON object, or has a key twice.
    """
    wrong = f"{path} is not a model's config"
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return found

    try:
        text = data.decode(detect_encoding(data))  # a mark of the byte order is no part of it
        document = loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise PlanError(f"{wrong}: it is no text ({error.reason})") from error
    except JSONDecodeError as error:
        raise PlanError(f"{wrong}: {_fault(text, error)}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting
        raise PlanError(f"{wrong}: {error}") from error
    if repeated:
        key = repeated[0]
        lines = [f"{line:,}" for _, name, line in _keys(text) if name == key]
        raise PlanError(
            f"{wrong}: the key {_shown(key)} is there twice, in the lines {joined(lines)}. Remove"
            " the wrong one"
        )
    if not isinstance(document, dict):
        raise PlanError(f"{wrong}: it is {_KINDS.get(type(document), 'a number')}, not an object")
    return ConfigFile(document, text)


def _fault(text: str, error: JSONDecodeError) -> str:
    """What is wrong with the JSON, with the line."""
    rest = text[error.pos :].lstrip()
    at = len(text) - len(rest)
    before = text[:at].rstrip()
    where = f"line {text.count(chr(10), 0, at) + 1:,}"
    if not before and not rest:
        return "it is empty"
    if rest.startswith(("//", "/*", "#")):
        return f"{where} has a comment, which JSON does not allow. Remove it"
    if (before.endswith(",") and rest.startswith(("}", "]"))) or re.match(r",\s*[}\]]", rest):
        comma = at if rest.startswith(",") else len(before)
        where = f"line {text.count(chr(10), 0, comma) + 1:,}"
        return f"{where} has a comma after the last value. Remove it"
    if rest.startswith("'"):
        return f"{where} has single quotes. JSON needs double quotes"
    if not rest:
        return f"it ends in {where}, before the JSON is complete"
    return f"{where}, column {at - text.rfind(chr(10), 0, at):,}: {error.msg}"


def _keys(text: str) -> Iterator[tuple[list[str], str, int]]:
    """Every key of valid JSON: the keys of the objects that it is in, the key, and its line.

    The list is the same one each time, and begins with an empty string for the file.
    """
    path: list[str] = []
    last, line, seen = "", 1, 0
    for token in re.finditer(_TOKEN, text, re.DOTALL):
        if token[2]:
            line += text.count("\n", seen, token.start())
            seen = token.start()
            last = loads(token[1]) if "\\" in token[1] else token[1][1:-1]
            yield path, last, line
        elif token[0] in ("{", "["):
            path.append(last)
        elif token[0] in ("}", "]"):
            path.pop()


def _shown(key: str) -> str:
    return cut(repr(key)[1:-1])
