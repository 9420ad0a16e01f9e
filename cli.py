"""The command line: parse, call, print. Computes nothing."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import __version__
from .converter.terminal import (
    Board,
    Progress,
    coloured,
    counted,
    printable,
    say,
    say_pairs,
    say_table,
    shape_text,
    size_text,
)

if TYPE_CHECKING:
    from .converter.batch import Event
    from .converter.options import Options

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
            raise click.ClickException(printable(str(error))) from error
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
    or .tar.gz as published, or the URL of any of these (https://, s3://, gs://, hf://).
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
    dtypes = click.Choice(["keep", "float64", "float32", "float16", "bfloat16"])
    return _source_options(
        click.option("--dtype", type=dtypes, default="keep", show_default=True)(command)
    )


def _conversion_options(command: F) -> F:
    """The options of every command that writes models."""
    formats = click.option(
        "--format",
        "formats",
        type=click.Choice(["safetensors", "bin"]),
        multiple=True,
        default=["safetensors"],
        show_default=True,
        help="Repeatable.",
    )
    return _plan_options(formats(command))


def _source_options(command: F) -> F:
    """The options that say what belongs to a checkpoint, and how it is read."""
    options = [
        click.option("--mapping", help="A mapping's name, or a mapping file."),
        click.option(
            "--config", type=click.Path(path_type=Path), help="bert_config.json, if not beside."
        ),
        click.option("--vocab", type=click.Path(path_type=Path), help="vocab.txt, if not beside."),
        click.option("--head", help="Which head to keep, e.g. token, none."),
        click.option("--scope", help="Which model, where a checkpoint holds several."),
        click.option(
            "--num-heads", type=click.IntRange(1), help="Attention heads, without a config."
        ),
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


def _options(**values: Any) -> "Options":
    from .converter.options import make_options

    return make_options(values)


@cli.command()
@click.argument("ckpt")
@click.argument("out")
@_conversion_options
@click.option("--force", is_flag=True, help="Replace the model in OUT.")
@click.option("--verify", "proved", is_flag=True, help="Publish only what `verify` passes.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@_output_options
def tf2pt(
    ckpt: str, out: str, proved: bool, force: bool, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Convert CKPT into the folder OUT, which transformers loads."""
    from .converter.convert import convert

    chosen = _options(**options)
    prove = None
    if proved:
        from .converter.verify import prover

        prove = prover()
    with Progress(quiet) as progress:
        conversion = convert(ckpt, out, chosen, force=force, progress=progress, prove=prove)
    if as_json:
        _print_json(conversion)
    if quiet or as_json:
        return
    sizes = " ".join(f"{symbol}={size:,}" for symbol, size in conversion.sizes.items())
    say(f"{_shown(ckpt)} -> {_shown(out)}")
    say(f"  {conversion.architecture} ({sizes})")
    say(
        f"  {conversion.parameters:,} parameters in {conversion.tensors:,} tensors,"
        f" {size_text(conversion.nbytes)} as {conversion.dtype}"
    )
    say(f"  activation: {conversion.activation}")
    for reason, count in conversion.dropped.items():
        say(f"  left behind: {counted(count, 'variable')} ({reason})")
    for note in conversion.notes:
        say(f"  note: {note}")
    if conversion.proof:
        say(f"  {conversion.proof}")


@cli.command()
@click.argument("places", nargs=-1, required=True, metavar="[SOURCE]... OUT")
@click.option("--list", "listed", type=_EXISTING, help="A TOML file: source, name, options each.")
@click.option("--family", help="A published family: compact.")
@click.option("--base-url", help="Where the family's files lie, if not where it was published.")
@click.option("--jobs", type=click.IntRange(1), help="[default: what processors and memory allow]")
@click.option("--scheduler", metavar="tcp://...", help="A Dask scheduler, whose workers do it.")
@click.option(
    "--verify",
    "level",
    type=click.Choice(["weights", "outputs", "gradients"]),
    help="Publish only what passes.",
)
@click.option("--fail-fast", is_flag=True, help="Begin no other after one failed.")
@click.option("--force", is_flag=True, help="Convert again what is there.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each event, on stdout.")
@_conversion_options
@_debug_option
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    places: tuple[str, ...],
    listed: Path | None,
    family: str | None,
    base_url: str | None,
    jobs: int | None,
    scheduler: str | None,
    level: str | None,
    fail_fast: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert every SOURCE into a folder of its own in OUT.

    A SOURCE is a checkpoint as `tf2pt` takes it, a folder or an archive of many, or a pattern such
    as 'models/*.zip'. OUT gets a table of all, README.md and family.json. What is there already,
    from the same checkpoint, is left as it is: a batch that was stopped goes on where it was.
    """
    from .converter.batch import batch as convert_all
    from .converter.batch import find_jobs
    from .converter.errors import BatchError

    if level not in (None, "weights"):
        from .converter.verify import missing_extras

        if missing := missing_extras(level):
            raise click.UsageError(f"--verify {level} needs {_missing(missing)}")
    if jobs is not None and scheduler is not None:
        raise click.UsageError("--jobs is for this machine; a scheduler has workers of its own")
    *sources, out = places
    begin = time.monotonic()
    try:
        with Progress(quiet or as_json) as progress:
            found = find_jobs(
                sources,
                out,
                listed=listed,
                family=family,
                base_url=base_url,
                options=_options(**options),
                progress=progress,
            )
        sizes = {job.name: job.nbytes for job in found}
        with Board(sizes, quiet or as_json) as board:
            summary = convert_all(
                found,
                out,
                processes=jobs,
                level=level,
                force=force,
                fail_fast=fail_fast,
                scheduler=scheduler,
                watch=_json_lines() if as_json else board,
            )
    except BatchError as error:
        raise click.UsageError(printable(str(error))) from error
    except KeyboardInterrupt:
        say("stopped. What is done stays; the same call goes on from there")
        raise
    counts = {
        "converted": summary.converted,
        "there": summary.there,
        "failed": summary.failed,
        "left": summary.left,
    }
    if as_json:
        _print_json_line({"event": "end", "out": _shown(out), **counts})
    elif not quiet:
        words = {"there": "there already", "left": "not begun"}
        told = ", ".join(f"{n:,} {words.get(what, what)}" for what, n in counts.items() if n)
        say(f"{counted(len(found), 'model')}: {told}, in {time.monotonic() - begin:.1f} s")
        say(f"the table is {_shown(out).rstrip('/')}/README.md, and family.json for programs")
    ctx.exit(1 if summary.failed else 0)


def _shown(place: str) -> str:
    """A path, or a URL without what is secret in it."""
    from .converter.storage.files import is_url

    if not is_url(place):
        return place
    from .converter.storage.urls import shown

    return shown(place)


def _json_lines() -> Callable[["Event"], None]:
    """What `batch` calls, and prints a line of JSON for each event, of each step one a second."""
    import msgspec

    said: dict[str, float] = {}

    def show(event: "Event") -> None:
        now, name = time.monotonic(), event.job.name
        if event.model is not None:
            _print_json_line({"event": event.kind, **msgspec.to_builtins(event.model)})
        elif event.kind == "begin":
            _print_json_line({"event": "begin", "name": name, "source": event.job.shown})
        elif now - said.get(name, 0) >= 1:
            said[name] = now
            step = msgspec.to_builtins(event.step)
            _print_json_line({"event": "step", "name": name, **step})

    return show


def _print_json_line(value: object) -> None:
    import msgspec

    click.echo(msgspec.json.encode(value))


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
    from .converter.verify import highest_level, missing_extras, report
    from .converter.verify import verify as prove

    if level is not None and (missing := missing_extras(level)):
        raise click.UsageError(f"--level {level} needs {_missing(missing)}")
    if html is not None and (missing := missing_extras("weights", html=True)):
        raise click.UsageError(f"--html needs {_missing(missing)}")
    chosen = level or highest_level()
    runs = "" if chosen == "weights" else ": TensorFlow and PyTorch run both models"
    say(f"level {chosen}{'' if level else ', the highest that is installed'}{runs}")
    if missing := missing_extras("gradients"):
        say(f"  outputs and gradients need {_missing(missing)}")
    with Progress(False) as progress:
        verdict = prove(
            ckpt,
            out,
            level=chosen,
            samples=samples,
            seed=seed,
            text=text,
            progress=progress,
            **options,
        )
    for line in report.lines(verdict):
        click.echo(coloured(printable(line)), err=True)
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


@cli.command()
@click.argument("ckpt")
@_output_options
def inspect(ckpt: str, as_json: bool) -> None:
    """Show what is in CKPT: variables, dtypes, shapes, bytes."""
    from .converter.fold import fold
    from .converter.prepare import open_checkpoint

    with Progress(as_json) as progress:
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
    rows = fold([((v.name,), (v.tf_dtype, shape_text(v.shape), v.nbytes)) for v in variables])
    say_table(
        ["variable", "dtype", "shape", "bytes"],
        [
            [name, dtype, shape, f"{count} x {nbytes:,}" if count > 1 else f"{nbytes:,}"]
            for (name,), (dtype, shape, nbytes), count in rows
        ],
    )
    say(
        f"{checkpoint.name}: {checkpoint.format}, data files: {checkpoint.num_shards}\n"
        f"{counted(total['variables'], 'variable')}, {counted(total['elements'], 'element')},"
        f" {size_text(total['nbytes'])}"
    )
    if checkpoint.note:
        say(f"note: {checkpoint.note}")


@cli.command()
@click.argument("ckpt")
@_plan_options
@_output_options
def explain(ckpt: str, as_json: bool, **options: Any) -> None:
    """Show what becomes of each variable of CKPT, and why; writes nothing."""
    from .converter.fold import fold
    from .converter.prepare import prepare

    with Progress(as_json) as progress:
        prepared = prepare(ckpt, progress=progress, **options)
    plan = prepared.plan
    if as_json:
        _print_json({"plan": plan, "notes": prepared.notes, "sources": prepared.sources})
        return
    for group in plan.groups:
        entries = [entry for entry in plan.entries if entry.group == group]
        say(f"{group}: {counted(len(entries), 'variable')}")
        shapes = (shape_text(prepared.checkpoint.variables[e.variable].shape) for e in entries)
        say_pairs(
            fold(
                ((e.variable, e.tensor), (shape, e.op))
                for e, shape in zip(entries, shapes, strict=True)
            )
        )
    for reason in dict.fromkeys(drop.reason for drop in plan.dropped):
        names = [drop.variable for drop in plan.dropped if drop.reason == reason]
        say(f"left behind, {reason}: {counted(len(names), 'variable')}")
        for (name,), _, _ in fold(((name,), None) for name in names):
            say(f"  {name}")
    sizes = " ".join(f"{symbol}={size:,}" for symbol, size in plan.sizes.items())
    say(f"{plan.architecture.name} ({sizes}) by the mapping {plan.mapping}")
    say(
        f"{counted(len(plan.entries), 'variable')} mapped,"
        f" {counted(len(plan.dropped), 'variable')} left behind"
    )
    for tie in plan.ties:
        say(f"{tie.pt} is tied to {tie.to}")
    for note in prepared.notes:
        say(f"note: {note}")


@cli.command()
@click.argument("name", required=False)
@click.option("--size", "sizes", multiple=True, metavar="SYMBOL=N", help="E.g. L=12. Repeatable.")
@_output_options
def mappings(name: str | None, sizes: Sequence[str], as_json: bool) -> None:
    """List the mappings, or show the one called NAME (or a file), expanded."""
    from .converter.fold import fold
    from .converter.mapping import builtin_mappings, load_mapping

    known = builtin_mappings()
    if name is None and sizes:
        raise click.UsageError("--size is for a mapping that is named, such as `mappings bert`")
    if name is None:
        loaded = {stem: load_mapping(path) for stem, path in known.items()}
        if as_json:
            _print_json({stem: mapping.about for stem, mapping in loaded.items()})
            return
        say_table(["mapping", "of"], [[stem, mapping.about] for stem, mapping in loaded.items()])
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
        say(f"{group.name}{', required' if group.required else ''}")
        say_pairs(
            fold(
                (
                    (pair.names[0], pair.tensor),
                    (shape_text([given.get(str(size), size) for size in pair.shape]), pair.op),
                )
                for pair in pairs
                if pair.group == group.name
            )
        )
    for architecture in mapping.architecture:
        say(
            f"--head {architecture.head}: {architecture.name}:"
            f" {', '.join([*architecture.groups, *(f'[{g}]' for g in architecture.optional)])}"
        )
    loops = mapping.loop_sizes() - set(given)
    if loops:
        say(f"Expanded for {', '.join(f'{symbol}=2' for symbol in sorted(loops))}; see --size.")


def _size(text: str, known: Iterable[str]) -> tuple[str, int]:
    symbol, _, number = text.partition("=")
    if symbol not in known or not number.isdecimal() or not 0 < int(number) < 1_000_000:
        raise click.BadParameter(
            f"{text!r} is not like L=12; the symbols are {', '.join(known)}", param_hint="--size"
        )
    return symbol, int(number)


def _print_json(value: object) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
