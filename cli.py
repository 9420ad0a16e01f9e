"""The command line: parse, call, print. Computes nothing."""

import gc
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from ._version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from .converter.prepare import Options

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Commands(click.Group):
    """Turns every error into one message; a traceback comes only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        from .converter.errors import BertconvertError

        try:
            return super().invoke(ctx)
        except BertconvertError as error:
            if "debug" in ctx.meta:
                raise
            raise click.ClickException(_printable(str(error))) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if "debug" in ctx.meta:
                raise
            raise click.ClickException(
                f"something went wrong that bertconvert did not foresee ({type(error).__name__}:"
                f" {error}). --debug shows where; please report it."
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bertconvert", message="%(prog)s %(version)s")
def cli() -> None:
    """Google's BERT checkpoints out of TensorFlow 1, faithfully and fast.

    CKPT is whatever you have: a folder, a prefix (.../bert_model.ckpt), any file of the set, a .zip
    or .tar.gz as published.
    """


def main() -> None:
    """The command line; ends as sys.exit does."""
    for stop in (signal.SIGTERM, signal.SIGHUP):  # so that what is half made is taken away
        if signal.getsignal(stop) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(stop, lambda number, _: sys.exit(128 + number))
    cli(prog_name="bertconvert")


def run() -> None:
    """The command `bertconvert`: `main` in a process of its own, which ends with it at once.

    Collecting garbage and taking the interpreter apart would take a sixth of the time that a small
    conversion takes.
    """
    gc.set_threshold(100_000, 50, 50)
    try:
        main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # whoever read it may be gone
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["debug"] = True


_debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_debug,
    help="Show the traceback of an error.",
)


def _output_options(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON document on standard output."
    )(_debug_option(command))


def _plan_options(command: F) -> F:
    """The options of every command that plans a conversion."""
    dtypes = click.Choice(["keep", "float32", "float16", "bfloat16"])
    return _source_options(
        click.option("--dtype", type=dtypes, default="keep", show_default=True)(command)
    )


def _source_options(command: F) -> F:
    """The options that say what belongs to a checkpoint, and how it is read."""
    options = [
        click.option("--mapping", type=click.Path(path_type=Path), help="A mapping file."),
        click.option(
            "--config", type=click.Path(path_type=Path), help="bert_config.json, if not beside."
        ),
        click.option("--vocab", type=click.Path(path_type=Path), help="vocab.txt, if not beside."),
        click.option("--head", help="Which head to keep, e.g. token, none."),
        click.option("--scope", help="Which model, where a checkpoint holds several."),
        click.option("--heads", type=click.IntRange(1), help="Attention heads, without a config."),
        click.option(
            "--activation",
            type=click.Choice(["auto", "tanh", "erf"]),
            default="auto",
            show_default=True,
            help="What Google's gelu becomes.",
        ),
        click.option(
            "--lower-case/--no-lower-case",
            default=None,
            help="Of the tokenizer.  [default: inferred, and said]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _options(
    *,
    mapping: Path | None,
    config: Path | None,
    vocab: Path | None,
    head: str | None,
    scope: str | None,
    heads: int | None,
    activation: str,
    lower_case: bool | None,
    dtype: str = "keep",
    formats: Sequence[str] = ("safetensors",),
    force: bool = False,
) -> "Options":
    from .converter.plan import Choices
    from .converter.prepare import Options

    choices = Choices(scope, head, heads, activation, dtype)
    return Options(mapping, config, vocab, lower_case, tuple(formats), choices, force)


@cli.command()
@click.argument("ckpt")
@click.argument("out")
@_plan_options
@click.option(
    "--format",
    "formats",
    type=click.Choice(["safetensors", "bin"]),
    multiple=True,
    default=["safetensors"],
    show_default=True,
    help="Repeatable.",
)
@click.option("--force", is_flag=True, help="Replace the model in OUT.")
@click.option("--verify", "proved", is_flag=True, help="Publish only what `verify` passes.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@_output_options
def tf2pt(ckpt: str, out: str, proved: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Convert CKPT into the folder OUT, which transformers loads."""
    from .converter.model_folder import convert

    chosen = _options(**options)
    prove = None
    if proved:
        from .converter.parity import prover

        prove = prover(ckpt, chosen)
    with _Progress(quiet) as progress:
        conversion = convert(ckpt, out, chosen, progress, prove)
    if as_json:
        _print_json(conversion)
    if quiet or as_json:
        return
    sizes = " ".join(f"{symbol}={size:,}" for symbol, size in conversion.sizes.items())
    _say(f"{ckpt} -> {out}")
    _say(f"  {conversion.architecture} ({sizes})")
    _say(
        f"  {conversion.parameters:,} parameters in {conversion.tensors:,} tensors,"
        f" {_bytes(conversion.nbytes)} as {conversion.dtype}"
    )
    _say(f"  activation: {conversion.activation}")
    for reason, count in conversion.dropped.items():
        _say(f"  left behind: {_count(count, 'variable')} ({reason})")
    for note in conversion.notes:
        _say(f"  note: {note}")
    if conversion.proof:
        _say(f"  {conversion.proof}")


@cli.command()
@click.argument("ckpt")
@click.argument("out")
@click.option(
    "--level",
    type=click.Choice(["weights", "outputs", "gradients"]),
    help="How far to go.  [default: as far as what is installed allows, and said]",
)
@click.option("--samples", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--text", type=_EXISTING, help="Text whose lines are the samples.")
@click.option("--json", "json_file", type=_FILE, help="Everything that was found; - is stdout.")
@click.option("--junit", type=_FILE, help="JUnit XML, for CI.")
@click.option("--html", type=_FILE, help="One page, with pictures.")
@_source_options
@_debug_option
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    ckpt: str,
    out: str,
    level: str | None,
    samples: int,
    seed: int,
    text: Path | None,
    json_file: Path | None,
    junit: Path | None,
    html: Path | None,
    **options: Any,
) -> None:
    """Prove that the folder OUT is CKPT, or find the first thing that differs.

    \b
    weights    every tensor is its variable; needs neither torch nor TensorFlow
    outputs    and TensorFlow and transformers compute the same
    gradients  and the same gradients, so that fine-tuning begins alike
    """
    from .converter.parity import highest_level, missing_extras, report
    from .converter.parity import verify as prove

    if level is not None and (missing := missing_extras(level)):
        raise click.UsageError(f"--level {level} needs {_missing(missing)}")
    if html is not None and (missing := missing_extras("weights", html=True)):
        raise click.UsageError(f"--html needs {_missing(missing)}")
    chosen = level or highest_level()
    runs = "" if chosen == "weights" else ": TensorFlow and PyTorch run both models"
    _say(f"level {chosen}{'' if level else ', the highest that is installed'}{runs}")
    if missing := missing_extras("gradients"):
        _say(f"  outputs and gradients need {_missing(missing)}")
    with _Progress(False) as progress:
        verdict = prove(
            ckpt,
            out,
            level=chosen,
            options=_options(**options),
            samples=samples,
            seed=seed,
            text=text,
            progress=progress,
        )
    for line in report.lines(verdict):
        click.echo(_coloured(_printable(line)), err=True)
    forms = ((json_file, report.to_json), (junit, report.to_junit), (html, report.to_html))
    for path, form in forms:
        if path is not None:
            try:
                with click.open_file(os.fspath(path), "wb") as file:
                    file.write(form(verdict))
            except OSError as error:
                raise click.ClickException(f"{path} can't be written: {error.strerror}") from error
    ctx.exit(0 if verdict.passed else 1)


def _missing(packages: Sequence[str]) -> str:
    found = "is not installed" if len(packages) == 1 else "are not installed"
    return f"{', '.join(packages)}, which {found}: `pip install bertconvert[verify]`"


_WORDS = {"ok": "green", "PASS": "green", "same": "green"}


def _coloured(line: str) -> str:
    """A line of a report with its word of success or failure in colour, on a terminal."""
    words = re.compile(r"^(?:\s*|\w+: )(ok|NO|PASS|FAIL|same|DIFFERENT|NOT RUN)\b")
    found = words.match(line)
    if found is None:
        return line
    word = click.style(found[1], fg=_WORDS.get(found[1], "red"), bold=True)
    return f"{line[: found.start(1)]}{word}{line[found.end(1) :]}"


@cli.command()
@click.argument("ckpt")
@_output_options
def inspect(ckpt: str, as_json: bool) -> None:
    """Show what is in CKPT: variables, dtypes, shapes, bytes."""
    from .converter.checkpoint import open_checkpoint
    from .converter.fold import fold

    with _Progress(as_json) as progress:
        checkpoint = open_checkpoint(ckpt, progress=progress)
    variables = list(checkpoint.variables.values())
    total = {
        "variables": len(variables),
        "elements": sum(variable.size for variable in variables),
        "nbytes": sum(variable.nbytes for variable in variables),
    }
    if as_json:
        _print_json(
            {
                "checkpoint": checkpoint.name,
                "format": checkpoint.format,
                "data_files": checkpoint.num_shards,
                **total,
                "variable": {
                    v.name: {"dtype": v.tf_dtype, "shape": v.shape, "nbytes": v.nbytes}
                    for v in variables
                },
            }
        )
        return
    rows = fold([((v.name,), (v.tf_dtype, _shape(v.shape), v.nbytes)) for v in variables])
    _table(
        ["variable", "dtype", "shape", "bytes"],
        [
            [name, dtype, shape, f"{count} x {nbytes:,}" if count > 1 else f"{nbytes:,}"]
            for (name,), (dtype, shape, nbytes), count in rows
        ],
    )
    _say(
        f"{checkpoint.name}: {checkpoint.format}, data files: {checkpoint.num_shards}\n"
        f"{_count(total['variables'], 'variable')}, {_count(total['elements'], 'element')},"
        f" {_bytes(total['nbytes'])}"
    )
    if checkpoint.note:
        _say(f"note: {checkpoint.note}")


@cli.command()
@click.argument("ckpt")
@_plan_options
@_output_options
def explain(ckpt: str, as_json: bool, **options: Any) -> None:
    """Show what becomes of each variable of CKPT, and why; writes nothing."""
    from .converter.fold import fold
    from .converter.prepare import prepare

    with _Progress(as_json) as progress:
        prepared = prepare(ckpt, _options(**options), progress)
    plan = prepared.plan
    if as_json:
        _print_json({"plan": plan, "notes": prepared.notes, "sources": prepared.sources})
        return
    for group in plan.groups:
        entries = [entry for entry in plan.entries if entry.group == group]
        _say(f"{group}: {_count(len(entries), 'variable')}")
        shapes = (_shape(prepared.checkpoint.variables[e.variable].shape) for e in entries)
        _pairs(
            fold(
                ((e.variable, e.tensor), (shape, e.op))
                for e, shape in zip(entries, shapes, strict=True)
            )
        )
    for reason in dict.fromkeys(drop.reason for drop in plan.dropped):
        names = [drop.variable for drop in plan.dropped if drop.reason == reason]
        _say(f"left behind, {reason}: {_count(len(names), 'variable')}")
        for (name,), _, _ in fold(((name,), None) for name in names):
            _say(f"  {name}")
    sizes = " ".join(f"{symbol}={size:,}" for symbol, size in plan.sizes.items())
    _say(f"{plan.architecture.name} ({sizes}) by the mapping {plan.mapping}")
    _say(
        f"{_count(len(plan.entries), 'variable')} mapped,"
        f" {_count(len(plan.dropped), 'variable')} left behind"
    )
    for tie in plan.ties:
        _say(f"{tie.pt} is tied to {tie.to}")
    for note in prepared.notes:
        _say(f"note: {note}")


@cli.command()
@click.argument("name", required=False)
@click.option("--size", "sizes", multiple=True, metavar="SYMBOL=N", help="E.g. L=12. Repeatable.")
@_output_options
def mappings(name: str | None, sizes: Sequence[str], as_json: bool) -> None:
    """List the mappings, or show the one called NAME (or a file), expanded."""
    from .converter.fold import fold
    from .converter.mapping import builtin_mappings, load_mapping

    known = {path.stem: path for path in builtin_mappings()}
    if name is None:
        loaded = {stem: load_mapping(path) for stem, path in known.items()}
        if as_json:
            _print_json({stem: mapping.about for stem, mapping in loaded.items()})
            return
        _table(["mapping", "of"], [[stem, mapping.about] for stem, mapping in loaded.items()])
        return
    mapping = load_mapping(known.get(name, Path(name)))
    given = dict(_size(text, mapping.sizes) for text in sizes)
    pairs = mapping.expand(
        {symbol: given.get(symbol, 2) for symbol in mapping.loop_sizes()},
        [group.name for group in mapping.group],
    )
    if as_json:
        _print_json({"name": mapping.name, "pairs": pairs, "architectures": mapping.architecture})
        return
    for group in mapping.group:
        _say(f"{group.name}{', required' if group.required else ''}")
        _pairs(
            fold(
                (
                    (pair.names[0], pair.tensor),
                    (_shape([given.get(str(size), size) for size in pair.shape]), pair.op),
                )
                for pair in pairs
                if pair.group == group.name
            )
        )
    for architecture in mapping.architecture:
        _say(
            f"--head {architecture.head}: {architecture.name}:"
            f" {', '.join([*architecture.groups, *(f'[{g}]' for g in architecture.optional)])}"
        )
    loops = mapping.loop_sizes() - set(given)
    if loops:
        _say(f"Expanded for {', '.join(f'{symbol}=2' for symbol in sorted(loops))}; see --size.")


def _size(text: str, known: Iterable[str]) -> tuple[str, int]:
    symbol, _, number = text.partition("=")
    if symbol not in known or not number.isdecimal() or not 0 < int(number) < 1_000_000:
        raise click.BadParameter(
            f"{text!r} is not like L=12; the symbols are {', '.join(known)}", param_hint="--size"
        )
    return symbol, int(number)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shape(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000  # type: ignore[assignment]
    return f"{count:,} bytes" if unit == "bytes" else f"{count:,.1f} {unit}"


def _say(text: str) -> None:
    click.echo(_printable(text), err=True)


def _printable(text: str) -> str:
    """A text that does nothing to a terminal but appear: names in a file can hold anything."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def _print_json(value: object) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def _pairs(rows: Iterable[tuple[tuple[str, ...], tuple[str, str], int]]) -> None:
    """Variables with their shapes, and below each the tensor that it becomes."""
    for (variable, tensor), (shape, op), _ in rows:
        _say(f"  {variable}  {shape}")
        _say(f"    -> {tensor}{'' if op == 'identity' else f' ({op}d)'}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side; where the first is too long for the terminal, on a line of its own."""
    lines = [columns, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    if sys.stderr.isatty():
        room = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * len(widths[1:])
        widths[0] = min(widths[0], max(room, 20))
    for number, line in enumerate(lines):
        first = line[0]
        if len(first) > widths[0]:
            _say(first)
            first = ""
        rest = (cell.ljust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        _say("  ".join([first.ljust(widths[0]), *rest]).rstrip())
        if number == 0:
            _say("  ".join("-" * width for width in widths))


class _Progress:
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
                part = f" of {_bytes(total)}" if total else ""
                _say(f"{what}: {_bytes(done)}{part}")
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
