"""The table of a family: family.json for programs, README.md for people."""

import os
from textwrap import shorten
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ... import __version__
from ..errors import OutputError
from . import place

TABLES = JSON, TABLE = "family.json", "README.md"
VERSION = 1
"""Of the schema of family.json."""

_CELL = 500  # letters of a failure, which family.json has in full
_MARK = "<!-- written by bertconvert batch -->"


class ModelRow(Struct, frozen=True, omit_defaults=True):
    """A row of the table: one model folder, or why it could not be converted."""

    name: str  # of the folder
    source: str
    architecture: str = ""
    sizes: dict[str, int] = {}  # by the mapping's symbols
    layers: int = 0
    hidden: int = 0  # the hidden size
    parameters: int = 0
    dtype: str = ""
    activation: str = ""  # as config.json has it
    file: str = ""  # of the weights, in the folder
    nbytes: int = 0  # of that file
    crc32c: str = ""  # of that file, in hexadecimal digits
    provenance: str = ""  # sha256 of conversion.json
    verified: str = ""  # the level that was proved; "" where nothing was
    error: str = ""  # why it could not be converted
    traceback: str = ""  # of an error that bertconvert did not foresee


class Table(Struct, frozen=True):
    """All models of a folder, in the order of their names."""

    tool: str
    models: list[ModelRow]
    version: int = VERSION


def read_family(out: str) -> dict[str, ModelRow]:
    """What the family.json of an earlier run says, by name.

    Raises:
        OutputError: a file that a batch writes is there, and no batch wrote it.
    """
    text, table = place.read(out, JSON), place.read(out, TABLE)
    if table and not table.startswith(_MARK.encode()):
        raise _foreign(out, TABLE)
    if not text:  # or it was empty when the power failed
        return {}
    try:
        family = msgspec.json.decode(text, type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _foreign(out, JSON) from None
    return {model.name: model for model in family.models}


def _foreign(out: str, name: str) -> OutputError:
    return OutputError(
        f"{os.path.join(out, name)} is there, and was not written by `bertconvert batch`. Name"
        " another folder, or move it away"
    )


def write_family(out: str, models: dict[str, ModelRow]) -> None:
    """Write both files, each whole or not at all; the same models give the same bytes.

    Raises:
        OutputError: they can't be written.
    """
    ordered = [model for _, model in sorted(models.items())]
    family = Table(f"bertconvert {__version__}", ordered)
    text = msgspec.json.format(msgspec.json.encode(family), indent=2) + b"\n"
    place.write(out, JSON, text)
    place.write(out, TABLE, _table(ordered).encode())


def _table(models: list[ModelRow]) -> str:
    rows = [
        "| model | L | H | parameters | bytes | CRC32C | activation | verdict |",
        "|---|--:|--:|--:|--:|---|---|---|",
    ]
    for model in models:
        cells = [
            f"[{model.name}]({quote(model.name)})" if not model.error else model.name,
            f"{model.layers:,}" if model.layers else "",
            f"{model.hidden:,}" if model.hidden else "",
            f"{model.parameters:,}" if model.parameters else "",
            f"{model.nbytes:,}" if model.nbytes else "",
            f"`{model.crc32c}`" if model.crc32c else "",
            f"`{model.activation}`" if model.activation else "",
            _verdict(model),
        ]
        rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    done = [model for model in models if not model.error]
    total = sum(model.parameters for model in done)
    failed = len(models) - len(done)
    parts = [
        _MARK,
        f"# {len(done):,} model{'' if len(done) == 1 else 's'}, converted from TensorFlow 1"
        " checkpoints",
        f"{total:,} parameters in all."
        + (f" {failed:,} of the checkpoints could not be converted." if failed else "")
        + f" Written by bertconvert {__version__}; `{JSON}` has the same for programs. Each folder"
        " loads with `transformers`, and its README.md says what it is and how it was made.",
        "\n".join(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(model: ModelRow) -> str:
    if model.error:
        return shorten(f"failed: {model.error}", _CELL, placeholder=" ...")
    return f"verified: {model.verified}" if model.verified else "converted, not verified"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
