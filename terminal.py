"""What people see on standard error: lines, tables, how far something is."""

import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shape_text(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def size_text(nbytes: int) -> str:
    """A number of bytes as people say it."""
    if nbytes < 1000:
        return counted(nbytes, "byte")
    for power, unit in enumerate(("kB", "MB", "GB"), 1):
        number = f"{nbytes / 1000**power:,.1f}"
        if number != "1,000.0" and (nbytes < 1000 ** (power + 1) or unit == "GB"):
            break
    return f"{number} {unit}"


def say(text: str) -> None:
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """A text that does nothing to a terminal but appear: names in a file can hold anything."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def say_pairs(rows: Iterable[tuple[tuple[str, ...], tuple[str, str], int]]) -> None:
    """Variables with their shapes, and below each the tensor that it becomes."""
    for (variable, tensor), (shape, op), _ in rows:
        say(f"  {variable}  {shape}")
        say(f"    -> {tensor}{'' if op == 'identity' else f' ({op}d)'}")


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side; where the first is too long for the terminal, on a line of its own."""
    lines = [columns, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    if sys.stderr.isatty():
        room = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * len(widths[1:])
        widths[0] = min(widths[0], max(room, 20))
    for number, line in enumerate(lines):
        first = line[0]
        if len(first) > widths[0]:
            say(first)
            first = ""
        rest = (cell.ljust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        say("  ".join([first.ljust(widths[0]), *rest]).rstrip())
        if number == 0:
            say("  ".join("-" * width for width in widths))


class Progress:
    """Shows how far a conversion is, once it lasts over a second."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._begin = time.monotonic()
        self._said = self._begin
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or now - self._begin < 1:
            return
        if not sys.stderr.isatty():
            if now - self._said >= 5:
                self._said = now
                part = f" of {size_text(total)}" if total else ""
                say(f"{what}: {size_text(done)}{part}")
            return
        if self._bar is None or self._task is None:
            self._start()
        assert self._bar is not None and self._task is not None
        self._bar.update(self._task, description=what, completed=done, total=total or None)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("")
        self._bar.start()


_WORDS = {"ok": "green", "PASS": "green", "same": "green"}


def coloured(line: str) -> str:
    """A line of a report with its word of success or failure in colour, on a terminal."""
    words = re.compile(r"^(?:\s*|\w+: )(ok|NO|PASS|FAIL|same|DIFFERENT|NOT RUN)\b")
    found = words.match(line)
    if found is None:
        return line
    word = click.style(found[1], fg=_WORDS.get(found[1], "red"), bold=True)
    return f"{line[: found.start(1)]}{word}{line[found.end(1) :]}"
