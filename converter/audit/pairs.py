"""Reads a list of pairs: what each model folder is compared with."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..batch.jobs import overlaid, read_list, relative_to
from ..errors import BatchError, BertconvertError
from ..options import DEFAULTS, Options, make_options
from ..storage.location import parse_location
from ..text import as_text
from ..verify import find_record
from .table import TABLES

_LONGEST = 200  # bytes of a name, which becomes that of a file

# What a conversion writes, and a proof does not choose.
_NOT_OF_A_PROOF = ("dtype", "formats")


class Pair(Struct, frozen=True):
    """A checkpoint, or a golden record of one, and the model folder that should be the same."""

    name: str  # of the pair's reports
    reference: str  # as a proof takes it
    model: str  # a folder or its URL
    options: Options = DEFAULTS

    @property
    def shown(self) -> tuple[str, str]:
        """The reference and the model, without the secrets of URLs."""
        reference, model = (parse_location(place).shown for place in (self.reference, self.model))
        return as_text(reference), as_text(model)


def has_records(pairs: Iterable[Pair]) -> bool:
    """Whether a golden record takes the place of a checkpoint in any pair."""
    for pair in pairs:
        with suppress(BertconvertError):  # which the proof will meet, too
            if find_record(pair.reference) is not None:
                return True
    return False


class _Entry(Struct, frozen=True):
    """The keys of a pair in a list that are not options."""

    reference: str
    model: str
    name: str | None = None


class _List(Struct, frozen=True, forbid_unknown_fields=True):
    pair: list[dict[str, Any]]


def find_pairs(
    listed: str | os.PathLike[str], options: Options = DEFAULTS, **changes: Any
) -> list[Pair]:
    """The pairs of a list: a TOML file with `[[pair]]` tables, paths relative to it.

    Args:
        listed: the file. A pair has `reference`, `model`, usually `name`, and options.
        options: of all proofs; a pair's own go over them.
        **changes: single options, which go over `options`.

    Raises:
        BatchError: it can't be read, says what a list can't say, has no pair, or two of one name.
        TypeError: there is no such option.
        ValueError: an option has a wrong value.
    """
    path, options = Path(os.fsdecode(listed)), make_options(changes, options)
    pairs = []
    for number, table in enumerate(read_list(path, _List).pair):
        try:
            pairs.append(_pair(table, options, path.parent))
        except (BertconvertError, TypeError, ValueError) as error:  # msgspec's among them
            raise BatchError(f"{path} is wrong: pair[{number}]: {error}") from error
    if not pairs:
        raise BatchError(f"{path} has no [[pair]]")
    by_name: dict[str, Pair] = {}
    for pair in pairs:
        # On many disks, files whose names differ only in case are the same file.
        other = by_name.setdefault(pair.name.casefold(), pair)
        if other is not pair:
            raise BatchError(
                f"{path}: two pairs are called {pair.name}: {other.shown[1]} and {pair.shown[1]}."
                " Give them other names"
            )
    return pairs


def _pair(table: dict[str, Any], options: Options, folder: Path) -> Pair:
    entry = msgspec.convert(table, _Entry)
    keys = _Entry.__struct_fields__
    known = [n for n in Options.__struct_fields__ if n not in _NOT_OF_A_PROOF]
    if unknown := sorted(table.keys() - {*keys, *known}):
        raise BatchError(
            f"unknown key {', '.join(unknown)}; a pair has {', '.join([*keys, *known])}"
        )
    for key in ("reference", "model"):
        if not table[key] or "\0" in table[key]:
            raise BatchError(f"{key} = {table[key]!r} can't be a path")
    said = {name: table[name] for name in known if name in table}
    reference, model = (relative_to(folder, place) for place in (entry.reference, entry.model))
    name = entry.name
    if name is None:
        name = as_text(parse_location(model.rstrip("/") or model).absolute().name)
    if not _is_file_name(name):
        raise BatchError(f"name = {name!r} can't be the name of a report; give another")
    return Pair(name, reference, model, overlaid(options, said, folder))


def _is_file_name(name: str) -> bool:
    """Whether a name with an ending is that of a file, and not one of the table's."""
    is_plain = name == os.path.basename(name) and not name.startswith(".") and name.isprintable()
    taken = {os.path.splitext(table)[0] for table in TABLES}
    return (
        bool(name) and is_plain and len(name.encode()) <= _LONGEST and name.casefold() not in taken
    )
