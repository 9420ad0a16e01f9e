"""A verdict for GitHub Actions: annotations of a run, and a part of a job's summary."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ... import __version__
from ..choices import LEVELS
from ..text import counted, cut, listed
from .report import (
    MEANING,
    activation_sentence,
    faulty_sentence,
    figures,
    names_of,
    plain,
    sequences_text,
)
from .verdict import SAME_GRADIENT, Fact, Failure, Output, Verdict

Item = TypeVar("Item")

# GitHub shows ten annotations of a kind for each step, and 4,096 characters of each.
_ANNOTATIONS = 10
_MESSAGE = 4_000

# What GitHub decodes in a command's message, and in its properties. `plain` leaves no other
# character that ends a line.
_DATA = "%\n"
_PROPERTY = "%:,"

# GitHub refuses a summary of more than 1 MiB. What is cut off here is in the other reports.
_ROWS = 50
_CELL = 300

# What Markdown or GitHub may take for markup: emphasis, links, HTML, the cells of a table, emoji,
# mentions, formulas. As a character reference it is text everywhere, in a table, too.
_MARKUP = re.compile(r"[\\`*\[\]<>|~$&#@!]|:(?=\S)|(?<![^\W_])_|_(?![^\W_])")


def commands(found: Verdict | Failure) -> Iterator[str]:
    """The workflow commands: an error if it is not passed, a warning for what is not proved."""
    if isinstance(found, Failure):
        yield _command("error", f"no verdict on {found.out}", found.error)
        return
    if not found.passed:
        title = f"{found.out} differs from {found.checkpoint}"
        yield _command("error", title, "\n".join(_differences(found)))
    for fact in listed(found.unproved, _ANNOTATIONS - 1):
        yield _command("warning", "not proved", fact)


def _command(kind: str, title: str, message: str) -> str:
    title = _percent(plain(cut(f"bertconvert: {title}")), _PROPERTY)
    text = cut("\n".join(map(plain, cut(message, _MESSAGE).split("\n"))), _MESSAGE)
    return f"::{kind} title={title}::{_percent(text, _DATA)}"


def _percent(text: str, special: str) -> str:
    """The text with special characters as GitHub decodes them: % and their code in hexadecimal."""
    return "".join(f"%{ord(char):02X}" if char in special else char for char in text)


def _differences(verdict: Verdict) -> Iterator[str]:
    failed = [check for check in verdict.checks if not check.passed]
    yield from listed([cut(f"{check.name}: {check.detail}", _CELL) for check in failed])
    if verdict.first_tensor:
        yield f"The first tensor that differs: {verdict.first_tensor}"
    if verdict.first_output:
        yield f"The first output that differs: {verdict.first_output}"
    if verdict.faulty:
        yield faulty_sentence(verdict)
    causes = [f"{cause.kind}: {names_of(cause)}: {cause.text}" for cause in verdict.causes]
    yield from listed([cut(cause, _CELL) for cause in causes])


def summary(found: Verdict | Failure) -> str:
    """The part of the summary, in Markdown: what was compared, with what, and what was found."""
    blocks = _error(found) if isinstance(found, Failure) else _verdict(found)
    return "\n\n".join([*blocks, f"bertconvert {__version__}"]) + "\n"


def _error(failure: Failure) -> Iterator[str]:
    yield f"## ERROR: no verdict on {_code(failure.out)}"
    lines = listed(failure.error.split("\n"), _ROWS)
    error = "<br>".join(map(_text, lines))
    yield _table(["", ""], [["reference", _code(failure.checkpoint)], ["error", error]])


def _verdict(verdict: Verdict) -> Iterator[str]:
    if verdict.passed:
        yield f"## PASS: {_code(verdict.out)} matches {_code(verdict.checkpoint)}"
    else:
        yield f"## FAIL: {_code(verdict.out)} differs from {_code(verdict.checkpoint)}"
    yield _table(["level", "result", ""], [_level(verdict, level) for level in LEVELS])
    if not verdict.passed:
        yield from _what_differs(verdict)
    if verdict.unproved:
        yield "### Not proved"
        yield _table(
            ["Nothing in the reference says"], _few(verdict.unproved, lambda f: [_text(f)])
        )
    if verdict.facts:
        yield "### Facts"
        yield _table(["", "reference", "model", ""], _few(verdict.facts, _fact))
    if verdict.outputs:
        yield "### Outputs"
        columns = ["output", "float64, relative", "TensorFlow, ULP", "PyTorch, ULP", "may be, ULP"]
        yield _table([*columns, ""], _few(verdict.outputs, _output))
    yield "### What was compared"
    yield _table(["", ""], [[name, text] for name, text in _facts(verdict)])


def _what_differs(verdict: Verdict) -> Iterator[str]:
    failed = [check for check in verdict.checks if not check.passed]
    yield "### What differs"
    rows = _few(failed, lambda check: [_text(check.name), _text(check.detail)])
    if verdict.first_tensor:
        rows.append(["the first tensor", _code(verdict.first_tensor)])
    if verdict.first_output:
        rows.append(["the first output", _code(verdict.first_output)])
    yield _table(["check", "what was found"], rows)
    if verdict.faulty:
        yield "### Parts that differ even if fed the original's input"
        rows = _few(verdict.faulty, lambda part: [_code(part.tensor), f"{part.relative:.1e}"])
        yield _table(["output", "float64, relative"], rows)
    if verdict.causes:
        yield "### Causes"
        rows = _few(verdict.causes, lambda c: [_text(c.kind), _text(names_of(c)), _text(c.text)])
        yield _table(["cause", "tensors", ""], rows)
    elif verdict.first_tensor or verdict.first_output:
        yield "No known cause was recognized."


def _level(verdict: Verdict, level: str) -> list[str]:
    checks = verdict.at(level)
    failed = sum(not check.passed for check in checks)
    if not checks:
        return [level, "not run", ""]
    if failed:
        return [level, "**DIFFERENT**", f"{failed:,} of {counted(len(checks), 'check')} failed"]
    return [level, "same", MEANING[level]]


def _fact(fact: Fact) -> list[str]:
    words = {True: "same", False: "**DIFFERENT**", None: "not proved"}
    return [_text(fact.name), _text(fact.expected), _text(fact.found), words[fact.same]]


def _output(output: Output) -> list[str]:
    relative, *errors, _ = figures(output)
    passed = output.same_function and output.as_accurate
    return [_code(output.tensor), relative, *errors, "" if passed else "**NO**"]


def _facts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    yield "model", _text(f"{verdict.architecture}, {counted(len(verdict.matches), 'tensor')}")
    record = verdict.record
    if record is None:
        yield "reference", f"the checkpoint {_code(verdict.checkpoint)}"
    else:
        origin = f"made {record.made} by {record.tool}"
        if record.tensorflow:
            origin += f" with TensorFlow {record.tensorflow}"
        yield "reference", f"the golden record {_code(record.file)}, {_text(origin)}"
        yield "checkpoint", _code(verdict.checkpoint)
    if verdict.samples:
        yield "sequences", _text(sequences_text(verdict))
    if verdict.gradients:
        largest = max(gradient.relative for gradient in verdict.gradients)
        text = f"the largest relative difference is {largest:.1e}, and may be {SAME_GRADIENT:.0e}"
        yield "gradients", f"of {counted(len(verdict.gradients), 'parameter')}; {text}"
    if verdict.activation is not None:
        yield "activation", _text(activation_sentence(verdict))
    if verdict.versions:
        yield "versions", _text(", ".join(f"{k} {v}" for k, v in verdict.versions.items()))


def _text(text: str) -> str:
    """A text for a cell: on one line, not too long, and without markup."""
    return _MARKUP.sub(lambda char: f"&#{ord(char[0])};", cut(plain(cut(text, _CELL)), _CELL))


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _few(items: Sequence[Item], row: Callable[[Item], list[str]]) -> list[list[str]]:
    """The rows of the first items, and one that counts the rest."""
    rows = [row(item) for item in items[:_ROWS]]
    rest = len(items) - len(rows)
    return [*rows, [f"... and {rest:,} more", *[""] * (len(rows[0]) - 1)]] if rest else rows
