"""What people see: results on standard output, progress and notes on standard error."""

import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import click

from .text import as_text, counted, to_json, to_json_lines

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from .audit import Audit
    from .batch import Event
    from .checkpoint import Checkpoint
    from .convert import Conversion
    from .convert_back import BackConversion
    from .mapping import MappingFile
    from .prepare import Prepared
    from .roundtrip import RoundTrip
    from .verify import Record


def shape_text(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def size_text(nbytes: int) -> str:
    """A number of bytes with a unit."""
    if nbytes < 1000:
        return counted(nbytes, "byte")
    for power, unit in enumerate(("kB", "MB", "GB"), 1):
        number = f"{nbytes / 1000**power:,.1f}"
        if number != "1,000.0" and (nbytes < 1000 ** (power + 1) or unit == "GB"):
            break
    return f"{number} {unit}"


def _part(done: int, total: int) -> str:
    """How much of something is done; "" if nothing is counted."""
    if not total:
        return size_text(done) if done else ""
    return f"{size_text(done)} of {size_text(total)}"


def _share(what: str, done: int, total: int) -> float:
    """The share of a conversion that is done, from 0 to 1."""
    if what == "converting":
        return done / total if total else 0.0
    return 0.0 if what in ("starting", "fetching", "unpacking") else 1.0


def show(text: str) -> None:
    """Print a line of a result."""
    click.echo(printable(text))


def say(text: str) -> None:
    """Print a note, or how far something is. It is no failure if nobody can read it."""
    _say(printable(text))


def _say(line: str) -> None:
    with suppress(OSError):  # a full disk, or a pipe whose reader is gone
        click.echo(line, err=True)


def show_json(value: object) -> None:
    """Print one JSON document."""
    click.echo(to_json_lines(value), nl=False)


def show_json_line(value: object) -> None:
    """Print a JSON document on one line."""
    click.echo(to_json(value))


def printable(text: str) -> str:
    """A text without control characters or bytes that are no text, which a file's name may have."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in as_text(text)
    )


def _one_line(name: str) -> str:
    return printable(name).replace("\n", "\\n")


def _is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _styled(word: str, stream: IO[str], colour: str, bold: bool = True) -> str:
    if not _is_terminal(stream) or os.environ.get("NO_COLOR"):
        return word
    return click.style(word, fg=colour, bold=bold)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns. On a terminal, a first cell that is too long gets a line to itself."""
    lines = [columns, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    if sys.stdout.isatty():
        free = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * len(widths[1:])
        widths[0] = min(widths[0], max(free, 20))
    for number, line in enumerate(lines):
        first = line[0]
        if len(first) > widths[0]:
            show(first)
            first = ""
        rest = (cell.ljust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        show("  ".join([first.ljust(widths[0]), *rest]).rstrip())
        if number == 0:
            show("  ".join("-" * width for width in widths))


def _show_pairs(rows: Iterable[tuple[tuple[str, ...], tuple[str, str]]]) -> None:
    """Print variables with their shapes, and below each the tensor that it becomes."""
    from .fold import fold

    for (variable, tensor), (shape, op), _ in fold(rows):
        show(f"  {variable}  {shape}")
        show(f"    -> {tensor}{'' if op == 'identity' else f' ({op}d)'}")


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{symbol}={size:,}" for symbol, size in sizes.items())


def show_conversion(ckpt: str, conversion: "Conversion") -> None:
    """Print the result of `tf2pt`."""
    _show_made(ckpt, conversion.out, conversion, counted(conversion.tensors, "tensor"), "variable")


def show_back_conversion(model: str, conversion: "BackConversion") -> None:
    """Print the result of `pt2tf`."""
    arrays = counted(conversion.variables, "variable")
    _show_made(model, conversion.prefix, conversion, arrays, "tensor")


def _show_made(
    source: str, out: str, made: "Conversion | BackConversion", arrays: str, part: str
) -> None:
    """Print what a conversion made: `arrays`, of each `part` of the source but those skipped."""
    from .storage.location import parse_location

    show(f"{parse_location(source).shown} -> {parse_location(out).shown}")
    show(f"  {made.architecture} ({_sizes_text(made.sizes)})")
    show(f"  {made.parameters:,} parameters in {arrays}, {size_text(made.nbytes)} as {made.dtype}")
    if made.activation:
        show(f"  activation: {made.activation}")
    for reason, count in made.dropped.items():
        show(f"  skipped: {counted(count, part)} ({reason})")
    if made.proof:
        show(f"  {made.proof}")
    _say_notes(made.notes)


def show_record(ckpt: str, file: str, record: "Record", nbytes: int) -> None:
    """Print the result of `record`.

    Args:
        ckpt: the checkpoint.
        file: where the record is.
        record: what is in it.
        nbytes: of the file.
    """
    from .storage.location import parse_location

    plan, original = record.planned.plan, record.original
    show(f"{parse_location(ckpt).shown} -> {parse_location(file).shown}")
    show(f"  {plan.architecture.name} ({_sizes_text(plan.sizes)})")
    show(f"  the checksums of {counted(len(plan.entries), 'variable')}")
    if original is not None:
        gradients = ", and the gradients" if original.has_gradients else ""
        show(
            f"  {counted(len(record.outputs), 'output')} of {counted(record.samples, 'sequence')}"
            f" at up to {counted(record.positions, 'position')} each{gradients}"
        )
        show(f"  computed by TensorFlow {original.tensorflow}")
    show(f"  {size_text(nbytes)}; it proves level {record.level}")
    _say_notes(record.planned.notes)


def show_roundtrip(result: "RoundTrip") -> None:
    """Print the result of `roundtrip`."""
    show(f"{result.checkpoint}: to PyTorch and back")
    for difference in result.differences:
        show(f"  DIFFERENT: {difference}")
    what = f"{counted(result.variables, 'variable')} ({size_text(result.nbytes)})"
    if result.identical:
        show(f"  the same, byte for byte: {what}, the index and the data file")
    elif result.same:
        show(f"  the same, byte for byte: {what}")
        show("  the new index and data file are what TensorFlow writes for these variables")
    for reason, count in result.dropped.items():
        show(f"  left behind: {counted(count, 'variable')} ({reason})")
    if result.renamed:
        old, new = next(iter(result.renamed.items()))
        show(f"  renamed: {counted(len(result.renamed), 'variable')}, such as {old} to {new}")
    if result.same and not (result.identical or result.dropped or result.renamed):
        files = counted(result.data_files, "data file")
        show(f"  the original is stored in another way: {result.format}, {files}")
    _say_notes(result.notes)


def show_audit(audit: "Audit", seconds: float, page: str) -> None:
    """Print the result of `audit`."""
    from .audit import table_rows

    show_table(*table_rows(audit))
    counts = ", ".join(f"{number:,} {verdict}" for verdict, number in audit.counts.items())
    show(f"{counted(len(audit.pairs), 'model')}: {counts}, in {seconds:.1f} s")
    show(f"page: {page}, and audit.json for programs")


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def show_checkpoint(
    checkpoint: "Checkpoint", mapping: "MappingFile | None", why_none: str, as_json: bool
) -> None:
    """Print the result of `inspect`; `why_none` says why no mapping converts the checkpoint."""
    from .fold import fold

    variables = list(checkpoint.variables.values())
    total = {
        "variables": len(variables),
        "elements": sum(variable.size for variable in variables),
        "nbytes": sum(variable.nbytes for variable in variables),
    }
    if as_json:
        document: dict[str, Any] = {
            "checkpoint": checkpoint.name,
            "format": checkpoint.format,
            "data_files": checkpoint.num_shards,
            **total,
            "mapping": mapping.name if mapping is not None else None,
            **({"reason": why_none} if why_none else {}),
            "variable": {
                v.name: {"dtype": v.tf_dtype, "shape": v.shape, "nbytes": v.nbytes}
                | ({"full_name": v.full_name} if v.full_name else {})
                for v in variables
            },
        }
        show_json(document)
        return
    alike = Counter(v.full_name or v.name for v in variables)
    # A full name that several variables have tells none of them.
    named = [(v.full_name if alike[v.full_name] == 1 else v.name, v) for v in variables]
    rows = fold(
        ((name,), (v.tf_dtype, shape_text(v.shape), v.nbytes))
        for name, v in sorted(named, key=lambda item: item[0])
    )
    show_table(
        ["variable", "dtype", "shape", "bytes"],
        [
            [name, dtype, shape, f"{count} x {nbytes:,}" if count > 1 else f"{nbytes:,}"]
            for (name,), (dtype, shape, nbytes), count in rows
        ],
    )
    show(f"mapping: {'none' if mapping is None else f'{mapping.name}, {mapping.about}'}")
    show(
        f"{checkpoint.name}: {checkpoint.format}, data files: {checkpoint.num_shards}\n"
        f"{counted(total['variables'], 'variable')}, {counted(total['elements'], 'element')},"
        f" {size_text(total['nbytes'])}"
    )
    _say_notes([why_none] if why_none else [])
    if checkpoint.note and checkpoint.note not in why_none:
        _say_notes([checkpoint.note])
    if any(v.name != name for name, v in named):
        say("note: variables of TF2 are shown by their full names; --json has their keys, too")


def show_plan(prepared: "Prepared") -> None:
    """Print the result of `explain`."""
    from .fold import fold

    plan, variables = prepared.plan, prepared.checkpoint.variables
    for group in plan.groups:
        entries = [entry for entry in plan.entries if entry.group == group]
        show(f"{group}: {counted(len(entries), 'variable')}")
        _show_pairs(
            ((e.variable, e.tensor), (shape_text(variables[e.variable].shape), e.op))
            for e in entries
        )
    for reason in dict.fromkeys(drop.reason for drop in plan.dropped):
        names = [drop.variable for drop in plan.dropped if drop.reason == reason]
        show(f"skipped, {reason}: {counted(len(names), 'variable')}")
        for (name,), _, _ in fold(((name,), None) for name in names):
            show(f"  {name}")
    sizes = _sizes_text(plan.sizes)
    show(f"{plan.architecture.name} ({sizes}) by the mapping {plan.mapping}")
    mapped, skipped = (counted(len(x), "variable") for x in (plan.entries, plan.dropped))
    show(f"{mapped} mapped, {skipped} skipped")
    for tie in plan.ties:
        show(f"{tie.pt} is tied to {tie.to}")
    _say_notes(prepared.notes)


_EXAMPLE_SIZE = 2  # of a loop whose size is not given


def show_mapping(mapping: "MappingFile", given: Mapping[str, int], as_json: bool) -> None:
    """Print the result of `mappings NAME`."""
    loops = mapping.loop_sizes()
    pairs = mapping.expand(
        {symbol: given.get(symbol, _EXAMPLE_SIZE) for symbol in loops},
        [group.name for group in mapping.group],
    )
    if as_json:
        show_json({"name": mapping.name, "pairs": pairs, "architectures": mapping.architecture})
        return
    for group in mapping.group:
        stands = f", as the {group.instead} if --head asks for one" if group.instead else ""
        show(f"{group.name}{', required' if group.required else ''}{stands}")
        _show_pairs(
            (
                (pair.names[0], pair.tensor),
                (shape_text([given.get(str(size), size) for size in pair.shape]), pair.op),
            )
            for pair in pairs
            if pair.group == group.name
        )
    for architecture in mapping.architecture:
        optional = (f"[{group}]" for group in architecture.optional)
        groups = ", ".join([*architecture.groups, *optional])
        show(f"--head {architecture.head}: {architecture.name}: {groups}")
    assumed = sorted(loops - set(given))
    if assumed:
        sizes = ", ".join(f"{symbol}={_EXAMPLE_SIZE}" for symbol in assumed)
        say(f"note: expanded for {sizes}; --size gives other sizes")


_COLOURS = {
    "ok": "green",
    "PASS": "green",
    "same": "green",
    "converted": "green",
    "unchanged": "green",
}
_WORD = re.compile(r"^(?:\s*|\w+: )(ok|NO|PASS|FAIL|same|DIFFERENT|NOT RUN)\b")


def show_report(lines: Iterable[str]) -> None:
    """Print a report; on a terminal, words of success or failure in colour."""
    for line in lines:
        found = _WORD.match(line)
        if found is None:
            show(line)
            continue
        word = _styled(found[1], sys.stdout, _COLOURS.get(found[1], "red"))
        click.echo(printable(line[: found.start(1)]) + word + printable(line[found.end(1) :]))


class Progress:
    """Shows how far a conversion is, once it takes over a second."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._started = time.monotonic()
        self._printed = self._started
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
        if self._quiet or now - self._started < 1:
            return
        if not _is_terminal(sys.stderr):
            if now - self._printed >= 5:
                self._printed = now
                part = _part(done, total)
                say(f"{what}: {part}" if part else what)
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


def _with_notes(notes: Iterable[str]) -> str:
    """The notes of a model, to follow its line: below it in a terminal, else on the same line."""
    texts = [f"note: {_one_line(note)}" for note in notes]
    if not _is_terminal(sys.stderr):
        return "".join(f"  {text}" for text in texts)
    import textwrap

    columns = max(shutil.get_terminal_size().columns, 40)
    wrap = partial(textwrap.wrap, width=columns, initial_indent="  ", subsequent_indent="    ")
    return "".join(f"\n{line}" for text in texts for line in wrap(text))


class Board:
    """Shows how far many conversions are: a bar for each that runs, and one for all.

    If standard error is not a terminal, prints a line for each that is done, and one every few
    seconds.

    Args:
        sizes: the bytes of each conversion by its name; 0 if unknown.
        quiet: whether to print failures only.
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
        self._started = self._printed = time.monotonic()
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
            self.go_on(name, step.what, step.done, step.total)
        elif model.error:
            self.end(name, "FAILED", model.error)
        else:
            proved = f"  verified: {model.verified}" if model.verified else ""
            size = f"{model.layers:,} x {model.hidden:,}  " if model.layers else ""
            rest = f"{size}{size_text(model.nbytes)}{proved}"
            self.end(name, event.kind, rest, model.notes)

    def go_on(self, name: str, what: str, done: int, total: int) -> None:
        """Show how far one is: the step, the bytes done and the bytes in all."""
        self._running[name] = what, done, total
        now = time.monotonic()
        if self._quiet or now - self._started < 1:
            return
        if _is_terminal(sys.stderr):
            self._draw()
        elif now - self._printed >= 5:
            self._printed = now
            steps = "; ".join(
                f"{_one_line(name)}: {what} {_part(done, total)}".rstrip()
                for name, (what, done, total) in self._running.items()
            )
            say(f"{self._ended:,} of {len(self._sizes):,} done; {steps}")

    def end(self, name: str, word: str, rest: str, notes: Sequence[str] = ()) -> None:
        """Show what became of one: a word that tells success or failure, and the rest."""
        self._running.pop(name, None)
        self._ended += 1
        self._done += self._sizes[name]
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        failed = word not in _COLOURS
        if self._quiet and not failed:
            return
        word = _styled(word, sys.stderr, _COLOURS.get(word, "red"), bold=failed)
        line = f"{_one_line(name):<{self._width}}  {word}  {printable(rest)}"
        line += _with_notes(notes)
        if self._bars is None:
            _say(line)
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
