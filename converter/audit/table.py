"""The table of an audit: audit.json for programs, index.html for people."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ... import __version__
from ..errors import OutputError
from ..prepare import SourceFile
from ..storage.location import parse_location
from ..text import cut, to_json_lines
from ..verify.verdict import Fact, Recording

TABLES = JSON, PAGE = "audit.json", "index.html"
REPORTS = ".html", ".json"
"""The endings of a pair's reports."""

VERSION = 1
"""Of the schema of audit.json."""

FACTS = ("bits", "heads", "activation", "casing", "tokenizer", "config")
"""The columns of the table that say how one thing compares."""

_MARK = "<!-- written by bertconvert audit -->"
_CELL = 160  # characters of what differs; the pair's report has all of it
_REASON = 300

Outcome = Literal["PASS", "FAIL", "ERROR", "NOT RUN"]


class Inputs(Struct, frozen=True):
    """All that a verdict depends on. If nothing of it changed, the verdict still holds."""

    tool: str
    versions: dict[str, str]  # of Python and of the packages that the level needs
    level: str  # that was asked for, or that is the highest
    samples: int
    seed: int
    positions: int
    options: dict[str, Any]  # those that are given
    reference: str  # where it is, without the secrets of a URL
    reference_files: list[SourceFile]
    model: str
    model_files: dict[str, str]  # name -> sha256


class PairRow(Struct, frozen=True, omit_defaults=True):
    """A row of the table: what became of one pair."""

    name: str
    reference: str
    model: str
    verdict: Outcome
    reason: str = ""  # the first cause of a FAIL, or the error
    level: str = ""  # the highest that was run
    architecture: str = ""
    tensors: int = 0
    facts: list[Fact] = []
    activation: str = ""  # what running both models tells of it
    record: Recording | None = None  # None if the checkpoint itself was read
    notes: list[str] = []
    unproved: list[str] = []  # those of the notes that say what nothing in the checkpoint proves
    inputs: Inputs | None = None  # of a PASS or FAIL
    traceback: str = ""  # of an error that bertconvert did not foresee

    @property
    def is_proved(self) -> bool:
        """Whether there is a verdict."""
        return self.verdict in ("PASS", "FAIL")


class Audit(Struct, frozen=True, kw_only=True):
    """All pairs of a list, in its order."""

    version: int = VERSION
    tool: str
    level: str  # "" for the highest that is installed
    samples: int
    seed: int
    positions: int
    pairs: list[PairRow]
    earlier: list[PairRow]
    """Verdicts of earlier runs whose files were not looked at since. They hold if the files are
    still the same, which the next run finds out."""

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs have each outcome, of those that occur."""
        found = Counter(pair.verdict for pair in self.pairs)
        order: tuple[Outcome, ...] = ("PASS", "FAIL", "ERROR", "NOT RUN")
        return {outcome: found[outcome] for outcome in order if found[outcome]}

    @property
    def passed(self) -> bool:
        """Whether every pair passed."""
        return all(pair.verdict == "PASS" for pair in self.pairs)


def read_earlier(out: str, names: Iterable[str]) -> dict[str, PairRow]:
    """The verdicts of an earlier run, by the pairs' names.

    Args:
        out: the folder.
        names: the pairs that will be proved, whose reports may only replace those of an audit.

    Raises:
        OutputError: a file of a name that would be written exists, and no audit wrote it.
    """
    folder = parse_location(out)
    page, text = folder.join(PAGE).read_bytes(), folder.join(JSON).read_bytes()
    if page and _MARK.encode() not in page[:200]:
        raise _foreign(out, PAGE)
    rows: list[PairRow] = []
    if text:  # it may be empty after a power failure
        try:
            audit = msgspec.json.decode(text, type=Audit)
        except (ValueError, RecursionError):
            raise _foreign(out, JSON) from None
        if audit.version != VERSION:
            raise _foreign(out, JSON)
        rows = [*audit.earlier, *audit.pairs]
    ours = {row.name for row in rows}
    for name in names:
        for file in (name + ending for ending in REPORTS):
            if name not in ours and folder.join(file).size() is not None:
                raise _foreign(out, file)
    return {row.name: row for row in rows if row.is_proved}


def _foreign(out: str, name: str) -> OutputError:
    return OutputError(
        f"{parse_location(out).join(name).shown} exists and was not written by this version of"
        " bertconvert audit. Choose another folder, or move the file away"
    )


def write_audit(out: str, audit: Audit) -> None:
    """Write both files, each whole or not at all; the same audit gives the same bytes.

    Raises:
        OutputError: they can't be written.
    """
    folder = parse_location(out)
    folder.join(JSON).write_bytes(to_json_lines(audit))
    folder.join(PAGE).write_bytes(to_page(audit))


class _Cell(Struct, frozen=True):
    """A fact as the page shows it."""

    column: str
    text: str = ""
    mark: str = ""  # "" if it was not compared
    word: str = ""
    colour: str = ""


# What stands for `Fact.same`: a mark, a word and a class of the page.
_MARKS = {
    True: ("\u2713", "the same", "good"),
    False: ("\u2717", "different", "bad"),
    None: ("?", "not proved", "doubt"),
}
_OUTCOMES = {"PASS": "good", "FAIL": "bad", "ERROR": "bad", "NOT RUN": "soft"}


def to_page(audit: Audit) -> bytes:
    """One page that needs no other file; without JavaScript it lacks the search and the sorting."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = (Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        mark=_MARK,
        audit=audit,
        columns=FACTS,
        outcomes=_OUTCOMES,
        cells={pair.name: list(_cells(pair)) for pair in audit.pairs},
        reasons={pair.name: cut(pair.reason, _REASON) for pair in audit.pairs},
        links={pair.name: quote(pair.name) for pair in audit.pairs},
    )
    return page.encode("utf-8", "backslashreplace")


def _cells(pair: PairRow) -> Iterator[_Cell]:
    by_name = {fact.name: fact for fact in pair.facts}
    for name in FACTS:
        fact = by_name.get(name)
        if fact is None:
            yield _Cell(name)
            continue
        found = fact.found
        if name == "bits":  # without the names of the tensors
            found = "; ".join(part.partition(": ")[0] for part in found.split("; "))
        text = cut(found, _CELL)
        if fact.same is False and fact.expected and len(fact.found) < 40:
            text = f"{fact.found}, not {fact.expected}"
        yield _Cell(name, text, *_MARKS[fact.same])


def table_rows(audit: Audit) -> tuple[Sequence[str], list[list[str]]]:
    """The table for a terminal: the columns' headings, and the rows."""
    words = {True: "ok", False: "NO", None: "?"}
    rows = []
    for pair in audit.pairs:
        by_name = {fact.name: words[fact.same] for fact in pair.facts}
        cells = [by_name.get(name, "-") for name in FACTS]
        rows.append([pair.name, *cells, pair.level or "-", pair.verdict])
    return ("pair", "bits", "heads", "act.", "case", "tok.", "conf.", "level", "verdict"), rows


def new_audit(pairs: list[PairRow], earlier: list[PairRow], **settings: Any) -> Audit:
    """An audit by this version of bertconvert."""
    return Audit(tool=f"bertconvert {__version__}", pairs=pairs, earlier=earlier, **settings)
