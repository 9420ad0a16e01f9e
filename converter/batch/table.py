"""The table of a batch: family.json for programs, README.md for people."""

from textwrap import shorten
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ... import __version__
from ..errors import OutputError
from ..storage.location import parse_location
from ..text import as_text, joined, to_json_lines

TABLES = JSON, TABLE = "family.json", "README.md"
VERSION = 1
"""Of the schema of family.json."""

_CELL = 500  # characters of a failure; family.json has all of it
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
    verified: str = ""  # the level that was proved; "" if none was
    notes: list[str] = []  # of the conversion: facts that a person should know
    error: str = ""  # why it could not be converted
    traceback: str = ""  # of an error that bertconvert did not foresee


class Table(Struct, frozen=True, kw_only=True):
    """All models of a folder, in the order of their names."""

    version: int = VERSION
    tool: str
    models: list[ModelRow]


def read_family(out: str) -> dict[str, ModelRow]:
    """The rows of the family.json of an earlier run, by name.

    Raises:
        OutputError: a file of that name exists, and no batch wrote it.
    """
    folder = parse_location(out)
    text, table = folder.join(JSON).read_bytes(), folder.join(TABLE).read_bytes()
    if table and not table.startswith(_MARK.encode()):
        raise _foreign(out, TABLE)
    if not text:  # it may be empty after a power failure
        return {}
    try:
        family = msgspec.json.decode(text, type=Table)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _foreign(out, JSON) from None
    return {model.name: model for model in family.models}


def _foreign(out: str, name: str) -> OutputError:
    return OutputError(
        f"{parse_location(out).join(name).shown} exists and was not written by bertconvert batch."
        " Choose another folder, or move the file away"
    )


def write_family(out: str, models: dict[str, ModelRow]) -> None:
    """Write both files, each whole or not at all; the same models give the same bytes.

    Raises:
        OutputError: they can't be written.
    """
    ordered = [model for _, model in sorted(models.items())]
    family = Table(tool=f"bertconvert {__version__}", models=ordered)
    folder = parse_location(out)
    folder.join(JSON).write_bytes(to_json_lines(family))
    folder.join(TABLE).write_bytes(_table(ordered).encode())


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
        f"# {len(done):,} model{'' if len(done) == 1 else 's'}, converted from TensorFlow"
        " checkpoints",
        f"{total:,} parameters in all."
        + (f" {failed:,} of the checkpoints could not be converted." if failed else "")
        + f" Written by bertconvert {__version__}; `{JSON}` has the same for programs. Each folder"
        " loads with `transformers`; its README.md describes the model.",
        "\n".join(rows),
        *_notes(done),
    ]
    return as_text("\n\n".join(parts) + "\n")


def _notes(models: list[ModelRow]) -> list[str]:
    """The notes of all models, each once with the models that it is about."""
    about: dict[str, list[str]] = {}
    for model in models:
        for note in model.notes:
            about.setdefault(note, []).append(model.name)
    lines = [f"- {' '.join(note.split())} ({joined(names)})" for note, names in about.items()]
    return ["## Notes", "\n".join(lines)] if lines else []


def _verdict(model: ModelRow) -> str:
    if model.error:
        return shorten(f"failed: {model.error}", _CELL, placeholder=" ...")
    return f"verified: {model.verified}" if model.verified else "converted, not verified"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
