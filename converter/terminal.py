"""What people see on standard error: lines, tables, how far something is."""

import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from .batch import Event


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


def _part(done: int, total: int) -> str:
    """How much of something is done; "" where nothing is counted."""
    if not total:
        return size_text(done) if done else ""
    return f"{size_text(done)} of {size_text(total)}"


def _share(what: str, done: int, total: int) -> float:
    """How much of a conversion is done, by what is being done."""
    if what == "converting":
        return done / total if total else 0.0
    return 0.0 if what in ("starting", "fetching", "unpacking") else 1.0


def say(text: str) -> None:
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """A text that does nothing to a terminal but appear: names in a file can hold anything."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def _one_line(name: str) -> str:
    return printable(name).replace("\n", "\\n")


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


_WORDS = {"ok": "green", "PASS": "green", "same": "green", "converted": "green", "there": "green"}


def coloured(line: str) -> str:
    """A line of a report with its word of success or failure in colour, on a terminal."""
    words = re.compile(r"^(?:\s*|\w+: )(ok|NO|PASS|FAIL|same|DIFFERENT|NOT RUN)\b")
    found = words.match(line)
    if found is None:
        return line
    word = click.style(found[1], fg=_WORDS.get(found[1], "red"), bold=True)
    return f"{line[: found.start(1)]}{word}{line[found.end(1) :]}"


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
                say(f"{what}: {_part(done, total)}")
            return
        if self._bar is None or self._task is None:
            self._start()
        assert self._bar is not None and self._task is not None
        self._bar.update(
            self._task,
            description=what,
            completed=done,
            total=total or None,
            part=_part(done, total),
        )

    def _start(self) -> None:
        self._bar = _bars()
        self._task = self._bar.add_task("", part="")
        self._bar.start()


def _bars() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[part]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class Board:
    """Shows how far many conversions are: a bar for each that runs, and one for all of them.

    Where it is no terminal, it is a line for each that is done, and one every few seconds.

    Args:
        sizes: the bytes of each conversion by its name; 0 where that is not known.
        quiet: whether only failures are told.
    """

    def __init__(self, sizes: Mapping[str, int], quiet: bool) -> None:
        known = [size for size in sizes.values() if size]
        typical = sum(known) // len(known) if known else 1
        self._sizes = {name: size or typical for name, size in sizes.items()}
        self._is_sized = bool(known)
        self._total = sum(self._sizes.values())
        self._width = min(max((len(_one_line(name)) for name in sizes), default=0), 40)
        self._quiet = quiet
        self._done = 0  # bytes of those that are done
        self._ended = 0
        self._running: dict[str, tuple[str, int, int]] = {}
        self._begin = self._said = time.monotonic()
        self._bars: Bar | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: "Event") -> None:
        """What `batch` calls."""
        name, step, model = event.job.name, event.step, event.model
        if model is None:
            self._go_on(name, step.what, step.done, step.total)
        elif model.error:
            self._end(name, "FAILED", model.error)
        else:
            sizes = " ".join(f"{s}={model.sizes[s]:,}" for s in ("L", "H") if s in model.sizes)
            proved = f"  verified: {model.verified}" if model.verified else ""
            self._end(name, event.kind, f"{sizes}  {size_text(model.nbytes)}{proved}")

    def _go_on(self, name: str, what: str, done: int, total: int) -> None:
        self._running[name] = what, done, total
        now = time.monotonic()
        if self._quiet or now - self._begin < 1:
            return
        if sys.stderr.isatty():
            self._draw()
        elif now - self._said >= 5:
            self._said = now
            steps = "; ".join(
                f"{_one_line(name)}: {what} {_part(done, total)}".rstrip()
                for name, (what, done, total) in self._running.items()
            )
            say(f"{self._ended:,} of {len(self._sizes):,} done; {steps}")

    def _end(self, name: str, word: str, rest: str) -> None:
        self._running.pop(name, None)
        self._ended += 1
        self._done += self._sizes[name]
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        failed = word not in _WORDS
        if self._quiet and not failed:
            return
        if sys.stderr.isatty():
            word = click.style(word, fg=_WORDS.get(word, "red"), bold=failed)
        line = f"{_one_line(name):<{self._width}}  {word}  {printable(rest)}"
        if self._bars is None:
            click.echo(line, err=True)
        else:
            from rich.text import Text

            self._bars.console.print(Text.from_ansi(line), soft_wrap=True)
            self._draw()

    def _draw(self) -> None:
        if self._bars is None:
            self._start()
        assert self._bars is not None
        part = 0.0
        for name, (what, done, total) in self._running.items():
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task("", part="")
            part += self._sizes[name] * _share(what, done, total)
            self._bars.update(
                self._tasks[name],
                description=f"{_one_line(name)[: self._width]} {what}",
                completed=done,
                total=total or None,
                part=_part(done, total),
            )
        done = int(self._done + part)
        self._bars.update(
            self._tasks[""],
            description=f"{self._ended:,} of {len(self._sizes):,}",
            completed=done,
            part=_part(done, self._total) if self._is_sized else "",
        )

    def _start(self) -> None:
        self._bars = _bars()
        self._tasks[""] = self._bars.add_task("", total=self._total, part="")
        self._bars.start()
