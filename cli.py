"""The command line: parse, call, print. Computes nothing."""

import os
import signal
from contextlib import ExitStack, contextmanager, suppress

with suppress(ValueError):  # in a thread, which gets no signals
    # While the imports below run, Ctrl-C just ends the process; as an exception it would be shown
    # with its traceback.
    _interrupt = signal.getsignal(signal.SIGINT)
    if _interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))

import gc
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from . import __version__
from .converter.choices import LEVELS, Activation, DType, Format, ProblemType, Step
from .converter.interrupts import STOPS
from .converter.layout import VERIFICATION
from .converter.terminal import (
    Board,
    Progress,
    printable,
    say,
    show,
    show_audit,
    show_back_conversion,
    show_checkpoint,
    show_conversion,
    show_json,
    show_json_line,
    show_mapping,
    show_plan,
    show_record,
    show_report,
    show_roundtrip,
    show_table,
)
from .converter.text import counted

if TYPE_CHECKING:
    from .converter import audit as auditing
    from .converter.batch import Event
    from .converter.verify import Failure, Verdict

F = TypeVar("F", bound=Callable[..., Any])

_INTERRUPTED = 128 + signal.SIGINT  # the exit code, as for the other signals
_HIGHEST = "highest"  # what --verify means without a level

_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Commands(click.Group):
    """Turns every error into one message and an exit code; only --debug shows a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's, but it knows the exit codes of an interrupt and of a full standard output."""
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})
        except click.ClickException as error:
            with suppress(OSError):  # standard error may be full, or closed by its reader
                error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            say("Aborted!")
            code = _INTERRUPTED
        except OSError as error:
            if not _is_of_output(error):
                raise
            say(f"Error: {_unprinted(error)}")
            code = 1
        sys.exit(code or 0)

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
            if "debug" in ctx.meta or _is_of_output(error):
                raise
            raise click.ClickException(
                f"internal error ({type(error).__name__}: {error}). Run it again with --debug to"
                " see where, and please report it."
            ) from error


def _is_of_output(error: BaseException) -> bool:
    """Whether an error was raised while a result was printed."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    printing = at is not None and at.tb_frame.f_code is click.echo.__code__
    return printing and isinstance(error, OSError)


def _unprinted(error: OSError) -> str:
    return f"standard output can't be written: {error.strerror}"


@contextmanager
def _printing(done: str) -> Iterator[None]:
    """Print what came of work. If that fails, the error says what was done."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{_unprinted(error)}. {printable(done)}") from error


class _Proving(click.Command):
    """A command whose --verify takes a level or none.

    The word after it is a level only if it is one of the levels, so that it never swallows CKPT.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for at in reversed(range(end)):
            if args[at] == "--verify":
                has_level = at + 1 < end and args[at + 1] in LEVELS
                level = args[at + 1] if has_level else _HIGHEST
                args[at : at + 1 + has_level] = [f"--verify={level}"]
        return super().parse_args(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bertconvert", message="%(prog)s %(version)s")
def cli() -> None:
    """Convert TensorFlow checkpoints of the BERT family to PyTorch, and back.

    CKPT is a folder, a prefix (.../model.ckpt), any file of the checkpoint, a Keras .h5, a .zip
    or .tar.gz of it, or the URL of any of these (https://, s3://, gs://, hf://).

    Results go to standard output, progress and notes to standard error. Exit codes: 0 for
    success, 1 for bad data or a failed proof, 2 for a wrong call.
    """


def main() -> None:
    """Run the command line; ends as sys.exit does."""
    _open_streams()
    for stop in STOPS:  # as exceptions, so that unfinished files are removed
        if signal.getsignal(stop) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(stop, _stop)
    cli(prog_name="bertconvert")


def _stop(number: int, _: object) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _open_streams() -> None:
    """Make standard streams that anything can be written to.

    Those that are closed, as in a daemon, become /dev/null. Else the next file that is opened gets
    their number, and what a library prints ends up in it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error has it


def run() -> None:
    """The command `bertconvert`: `main` in a process of its own, which exits at once.

    Garbage collection and the interpreter's shutdown would take a sixth of the time of a small
    conversion.
    """
    gc.set_threshold(100_000, 50, 50)
    code: object = _INTERRUPTED
    with suppress(KeyboardInterrupt):
        try:
            main()
        except SystemExit as end:
            code = end.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader of a pipe may be gone
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


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


def _with_options(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class _Step(click.ParamType[Any]):
    """A training step, or `latest`."""

    name = "step"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "latest" or isinstance(value, int):
            return value
        if value.isascii() and value.isdigit() and len(value) <= 18:
            return int(value)
        self.fail(f"{value!r} is neither a number nor latest", param, ctx)


_step_option = click.option(
    "--step",
    type=_Step(),
    metavar="N|latest",
    help="The training step, if CKPT has several.  [default: as the file checkpoint says]",
)

# The options of a conversion are the fields of `Options`; a test compares the two.
_source_options = _with_options(
    [
        click.option(
            "--mapping",
            metavar="NAME|FILE",
            help="The mapping to use.  [default: the one that fits]",
        ),
        click.option(
            "--config", metavar="FILE", help="The original config.  [default: next to CKPT]"
        ),
        click.option("--vocab", metavar="FILE", help="The vocabulary.  [default: next to CKPT]"),
        click.option("--head", help="The head to keep, such as token, or none."),
        click.option(
            "--drop",
            metavar="PATTERN",
            multiple=True,
            help="Skip these variables, such as 'my_head/*'. Repeatable.",
        ),
        click.option("--scope", help="The scope of the model, if CKPT has several."),
        _step_option,
        click.option(
            "--num-heads",
            type=click.IntRange(1),
            help="The number of attention heads, if no config gives it.",
        ),
        click.option(
            "--num-layers",
            type=click.IntRange(1),
            help="The number of layers, if they share their weights and no config gives it.",
        ),
        click.option(
            "--activation",
            type=click.Choice(get_args(Activation)),
            help="Which GELU to write: tanh (Google's since 2019), erf, or gelu_new (tanh, for"
            " programs that know only that name).  [default: auto]",
        ),
        click.option(
            "--labels",
            metavar="FILE|A,B,...",
            help="The names of a classifier's labels.  [default: next to CKPT]",
        ),
        click.option(
            "--problem-type",
            metavar="KIND",
            type=click.Choice(get_args(ProblemType)),
            help=f"What the labels are for: {', '.join(get_args(ProblemType))}.  [default:"
            " regression if there is one label]",
        ),
        click.option(
            "--pad-vocab",
            is_flag=True,
            default=None,
            help="Allow more embeddings than tokens: the tokenizer gets [unused_...] for the rest.",
        ),
        click.option(
            "--lower-case/--no-lower-case",
            default=None,
            help="Whether the tokenizer lower-cases text.  [default: inferred from the vocabulary]",
        ),
    ]
)
_plan_options = _with_options(
    [
        click.option(
            "--dtype",
            type=click.Choice(get_args(DType)),
            help="The dtype of the tensors.  [default: keep]",
        ),
        _source_options,
    ]
)
_conversion_options = _with_options(
    [
        click.option(
            "--format",
            "formats",
            type=click.Choice(get_args(Format)),
            multiple=True,
            help="The weights files to write. Repeatable.  [default: safetensors]",
        ),
        _plan_options,
    ]
)
_sequence_options = _with_options(
    [
        click.option(
            "--samples",
            type=click.IntRange(1),
            default=8,
            show_default=True,
            help="The number of random sequences.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="The seed of the sequences.",
        ),
        click.option(
            "--positions",
            type=click.IntRange(1),
            default=32,
            show_default=True,
            help="The most positions of a sequence at which outputs are compared.",
        ),
    ]
)
_proof_options = _with_options(
    [
        click.option(
            "--level",
            type=click.Choice(LEVELS),
            help="How much to prove.  [default: the highest that is installed]",
        ),
        _sequence_options,
    ]
)
_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
)
_quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
_verify_option = click.option(
    "--verify",
    "level",
    metavar="[LEVEL]",
    type=click.Choice([*LEVELS, _HIGHEST]),
    help="Publish the result only if it passes verify at LEVEL.  [default: the highest that is"
    " installed]",
)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _checked_level(level: str | None, option: str, record: bool = False) -> str | None:
    """A level whose packages are installed; None stays None.

    With a golden record in place of a checkpoint, no TensorFlow is needed.

    Raises:
        UsageError: a package is missing.
    """
    if level is None:
        return None
    from .converter.verify import highest_level, missing_extras

    if level == _HIGHEST:
        return highest_level()
    if missing := missing_extras(level, record=record):
        raise click.UsageError(f"{option} {level} needs {_missing(missing)}")
    return level


def _check_record_option() -> None:
    from .converter.verify import missing_for_record

    if missing := missing_for_record():
        raise click.UsageError(f"--record needs {_missing(missing)}")


def _missing(packages: Sequence[str]) -> str:
    from .converter.verify import how_to_install

    found = "is not installed" if len(packages) == 1 else "are not installed"
    return f"{', '.join(packages)}, which {found}: {how_to_install(packages)}"


@cli.command(cls=_Proving)
@click.argument("ckpt")
@click.argument("out")
@_conversion_options
@click.option("--force", is_flag=True, help="Replace the model in OUT, and the record FILE.")
@_verify_option
@click.option("--record", "file", type=_FILE, help="Write a golden record of CKPT, too.")
@_quiet_option
@_json_option
@_debug_option
def tf2pt(
    ckpt: str,
    out: str,
    level: str | None,
    file: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert CKPT into the folder OUT, which transformers loads.

    \b
    bertconvert tf2pt uncased_L-2_H-128_A-2.zip bert-tiny/
    bertconvert tf2pt run_42/ out/ --head token --verify weights
    """
    from .converter.convert import convert
    from .converter.storage.location import parse_location

    prove = None
    level = _checked_level(level, "--verify")
    if file is not None:
        _check_record_option()
        if parse_location(out).contains(parse_location(file)):
            raise click.UsageError("--record needs a FILE that is not in OUT")
    with ExitStack() as stack, Progress(quiet) as progress:
        if level is not None or file is not None:
            from .converter.verify import kept, prover, recorder

            keep = None if file is None else stack.enter_context(kept(file, force))
            if level is not None:
                prove = prover(level, progress, keep)
            elif keep is not None:
                prove = recorder(keep, progress)
        conversion = convert(
            ckpt, out, force=force, progress=progress, prove=prove, **_given(options)
        )
    if file is not None and not quiet:
        say(f"the record was written to {printable(str(file))}")
    with _printing(f"The model was written to {_shown(out)}"):
        if as_json:
            show_json(conversion)
        elif not quiet:
            show_conversion(ckpt, conversion)


@cli.command(cls=_Proving)
@click.argument("model")
@click.argument("out")
@click.option(
    "--prefix",
    metavar="NAME",
    help="The checkpoint's name in OUT.  [default: as the original code calls it]",
)
@click.option(
    "--global-step",
    metavar="N",
    type=click.IntRange(0),
    help="Store this training step, which Estimator needs to load OUT as its model_dir.",
)
@click.option(
    "--dtype",
    type=click.Choice(get_args(DType)),
    help="The dtype of the variables.  [default: keep]",
)
@click.option(
    "--mapping",
    metavar="NAME|FILE",
    help="The mapping to use.  [default: the one of Google's code for this kind of model]",
)
@click.option("--head", help="The head to write, or none.  [default: all that MODEL has]")
@click.option(
    "--pad-vocab",
    is_flag=True,
    help="Allow more embeddings than tokens: the vocabulary gets [unused_...] for the rest.",
)
@click.option("--force", is_flag=True, help="Replace the checkpoint in OUT.")
@_verify_option
@_quiet_option
@_json_option
@_debug_option
def pt2tf(
    model: str,
    out: str,
    level: str | None,
    prefix: str | None,
    dtype: DType | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert the transformers folder MODEL into a TensorFlow checkpoint in the folder OUT.

    MODEL may be a URL. OUT gets the checkpoint, the file `checkpoint`, the config and the
    vocabulary, as Google's code reads them. There is no .meta file: it holds a program's graph,
    which weights do not have.

    \b
    bertconvert pt2tf bert-tiny/ bert-tiny-tf/
    bertconvert pt2tf my-model/ out/ --prefix model.ckpt-1000 --global-step 1000
    """
    from .converter.convert_back import convert_back

    level = _checked_level(level, "--verify")
    if level is not None and dtype not in (None, "keep"):
        raise click.UsageError("--verify needs --dtype keep: cast variables are not the tensors")
    prove = None
    with Progress(quiet) as progress:
        if level is not None:
            from .converter.verify import back_prover

            prove = back_prover(model, level, progress)
        try:
            conversion = convert_back(
                model,
                out,
                prefix=prefix,
                dtype=dtype or "keep",
                progress=progress,
                prove=prove,
                **options,
            )
        except ValueError as error:
            raise click.UsageError(printable(str(error))) from error
    with _printing(f"The checkpoint was written to {_shown(out)}"):
        if as_json:
            show_json(conversion)
        elif not quiet:
            show_back_conversion(model, conversion)


@cli.command()
@click.argument("ckpt")
@_source_options
@_json_option
@_debug_option
@click.pass_context
def roundtrip(ctx: click.Context, /, ckpt: str, as_json: bool, **options: Any) -> None:
    """Convert CKPT to PyTorch and back, and compare the two checkpoints byte for byte.

    Both conversions go to a temporary folder (TMPDIR).

    \b
    bertconvert roundtrip uncased_L-2_H-128_A-2.zip
    bertconvert roundtrip run_42/ --head token
    """
    from .converter.roundtrip import roundtrip as go

    with Progress(as_json) as progress:
        result = go(ckpt, progress=progress, **_given(options))
    if as_json:
        show_json(result)
    else:
        show_roundtrip(result)
    ctx.exit(0 if result.same else 1)


@cli.command(cls=_Proving)
@click.argument("places", nargs=-1, required=True, metavar="[SOURCE]... OUT")
@click.option("--list", "listed", type=_EXISTING, help="A TOML list of sources, names, options.")
@click.option("--family", help="A published family, such as compact.")
@click.option("--base-url", help="Where the family's files are.  [default: as published]")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="How many to convert at once.  [default: by processors and memory]",
)
@click.option("--scheduler", metavar="tcp://...", help="Run on the workers of a Dask scheduler.")
@_verify_option
@click.option("--record", "records", metavar="FOLDER", help="Write golden records there, too.")
@click.option("--fail-fast", is_flag=True, help="Start no more models after the first failure.")
@click.option("--force", is_flag=True, help="Replace models that exist, and records.")
@_quiet_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event.")
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
    records: str | None,
    fail_fast: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert every SOURCE into a folder of its own in OUT.

    A SOURCE is a checkpoint as tf2pt takes it, a folder or an archive of many, or a pattern such
    as 'models/*.zip'. OUT gets a table of all models, README.md and family.json. A model that
    exists and was made from the same checkpoint is left unchanged, so a batch that was stopped
    continues where it was.

    \b
    bertconvert batch models/ 'more/*.zip' out/
    bertconvert batch --family compact out/ --verify weights
    """
    from .converter.batch import batch as convert_all
    from .converter.batch import find_jobs
    from .converter.errors import BatchError

    level = _checked_level(level, "--verify")
    if records is not None:
        _check_record_option()
    if jobs is not None and scheduler is not None:
        raise click.UsageError(
            "--jobs and --scheduler can't be combined: a scheduler has its own workers"
        )
    *sources, out = places
    start = time.monotonic()
    try:
        with Progress(quiet or as_json) as progress:
            found = find_jobs(
                sources,
                out,
                listed=listed,
                family=family,
                base_url=base_url,
                progress=progress,
                **_given(options),
            )
        sizes = {job.name: job.nbytes for job in found}
        with Board(sizes, quiet or as_json) as board:
            summary = convert_all(
                found,
                out,
                processes=jobs,
                level=level,
                records=records,
                force=force,
                fail_fast=fail_fast,
                scheduler=scheduler,
                watch=_json_lines() if as_json else board,
            )
    except BatchError as error:
        raise click.UsageError(printable(str(error))) from error
    except (KeyboardInterrupt, OSError):  # --json may find its reader gone
        say("stopped. Finished models stay; run the same command again to continue")
        raise
    if "debug" in ctx.meta:
        for row in summary.models:
            if row.traceback:
                say(f"{row.name}:\n{row.traceback}")
    counts = {
        "converted": summary.converted,
        "unchanged": summary.unchanged,
        "failed": summary.failed,
        "not_started": summary.not_started,
    }
    shown = _shown(out)
    told = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items() if n)
    table = f"{shown.rstrip('/')}/README.md"
    with _printing(f"Models: {told}. Their table is {table}"):
        if as_json:
            show_json_line({"event": "end", "out": shown, **counts})
        elif not quiet:
            show(f"{counted(len(found), 'model')}: {told}, in {time.monotonic() - start:.1f} s")
            show(f"table: {table}, and family.json for programs")
    ctx.exit(1 if summary.failed else 0)


def _shown(place: str) -> str:
    """A path, or a URL without its secrets."""
    from .converter.storage.location import parse_location

    return parse_location(place).shown


def _json_lines() -> Callable[["Event"], None]:
    """What `batch` calls: prints a line of JSON for each event, of steps at most one a second."""
    import msgspec

    printed: dict[str, float] = {}

    def print_event(event: "Event") -> None:
        now, name = time.monotonic(), event.job.name
        if event.model is not None:
            show_json_line({"event": event.kind, **msgspec.to_builtins(event.model)})
        elif event.kind == "start":
            show_json_line({"event": "start", "name": name, "source": event.job.shown})
        elif now - printed.get(name, 0) >= 1:
            printed[name] = now
            step = msgspec.to_builtins(event.step)
            show_json_line({"event": "step", "name": name, **step})

    return print_event


@cli.command()
@click.argument("ckpt")
@click.argument("file", type=_FILE)
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    help="The highest level that the record is to prove.  [default: gradients]",
)
@_sequence_options
@click.option("--force", is_flag=True, help="Replace the record FILE.")
@_plan_options
@_quiet_option
@_json_option
@_debug_option
def record(
    ckpt: str,
    file: Path,
    level: str | None,
    samples: int,
    seed: int,
    positions: int,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a golden record of CKPT, by which `verify` proves a model folder.

    It is a small safetensors file with checksums of the variables, and what TensorFlow computes
    with them. `verify FILE OUT` needs neither TensorFlow nor CKPT.

    \b
    bertconvert record uncased_L-2_H-128_A-2.zip bert-tiny.record.safetensors
    bertconvert verify bert-tiny.record.safetensors bert-tiny/
    """
    from .converter.verify import check_place, missing_for_record
    from .converter.verify import record as make

    check_place(file, force)
    if level != LEVELS[0] and (missing := missing_for_record()):
        raise click.UsageError(f"a record needs {_missing(missing)}")
    with Progress(quiet) as progress:
        made = make(
            ckpt,
            file,
            level=level,
            samples=samples,
            seed=seed,
            positions=positions,
            force=force,
            progress=progress,
            **_given(options),
        )
    nbytes = file.stat().st_size
    with _printing(f"The record was written to {_shown(str(file))}"):
        if as_json:
            show_json(made.summary(str(file), nbytes))
        elif not quiet:
            show_record(ckpt, str(file), made, nbytes)


@cli.command()
@click.argument("ckpt")
@click.argument("out")
@_proof_options
@click.option(
    "--text", type=_EXISTING, help="A text file whose lines to use in place of random sequences."
)
@click.option(
    "--save", is_flag=True, help="Write what was proved into OUT: verification.json and its card."
)
@click.option("--junit", type=_FILE, help="Write JUnit XML, for CI.")
@click.option("--html", type=_FILE, help="Write an HTML page with charts.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    help="The form of the report on standard output. github also annotates the run and adds to the"
    " job's summary, in GitHub Actions.  [default: text]",
)
@_source_options
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
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
    positions: int,
    text: Path | None,
    save: bool,
    junit: Path | None,
    html: Path | None,
    form: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Prove that the folder OUT matches CKPT, or find the first thing that differs.

    In place of the checkpoint, CKPT may be a golden record of it, which `record` makes. Then
    neither the checkpoint nor TensorFlow is needed.

    \b
    weights    every tensor is its variable; needs neither torch nor TensorFlow
    outputs    TensorFlow and transformers also compute the same
    gradients  and the same gradients, so that fine-tuning starts alike

    \b
    bertconvert verify uncased_L-2_H-128_A-2.zip bert-tiny/
    bertconvert verify CKPT OUT --level weights --json > verdict.json
    bertconvert verify bert-tiny.record.safetensors bert-tiny/
    """
    from .converter.verify import report

    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} can't be combined")
    form = "json" if as_json else form or "text"
    forms = [(junit, report.to_junit), (html, report.to_html)]
    reports = _Reports([(path, write) for path, write in forms if path is not None])
    with _reporting(reports, ckpt, out, form):
        verdict = _verdict(
            ckpt, out, level, text, save, html, samples, seed, positions, _given(options)
        )
    problems = reports.write(verdict)
    with _printing(f"The verdict is {'PASS' if verdict.passed else 'FAIL'}"):
        if form == "json":
            click.echo(report.to_json(verdict), nl=False)
        elif form == "text":
            show_report(report.lines(verdict))
        else:
            with _commands_stopped():
                show_report(report.lines(verdict))
            problems += _tell_github(verdict)
    if save:
        done = f"{VERIFICATION} was written into {_shown(out)}"
        say(done if verdict.passed else "nothing was saved, because the verdict is FAIL")
    if problems:
        raise click.ClickException("\n".join(problems))
    ctx.exit(0 if verdict.passed else 1)


def _verdict(
    ckpt: str,
    out: str,
    level: str | None,
    text: Path | None,
    save: bool,
    html: Path | None,
    samples: int,
    seed: int,
    positions: int,
    options: dict[str, Any],
) -> "Verdict":
    from .converter.errors import MissingOptionError
    from .converter.storage.location import DiskPath, parse_location
    from .converter.verify import find_record, highest_level, missing_extras
    from .converter.verify import verify as prove

    record = find_record(ckpt) is not None
    chosen = _checked_level(level, "--level", record) or highest_level(record)
    if text is not None and chosen == "weights":
        missing = missing_extras("outputs")
        needs = f", which needs {_missing(missing)}" if missing else ""
        raise click.UsageError(f"--text needs --level outputs or gradients{needs}")
    if save and not isinstance(parse_location(out), DiskPath):
        raise click.UsageError("--save needs an OUT that is a folder on a disk")
    if html is not None and (missing := missing_extras("weights", html=True)):
        raise click.UsageError(f"--html needs {_missing(missing)}")
    _say_level(chosen, level, record)
    try:
        with Progress(False) as progress:
            return prove(
                ckpt,
                out,
                level=level if record else chosen,
                samples=samples,
                seed=seed,
                positions=positions,
                text=text,
                save=save,
                progress=progress,
                **options,
            )
    except (MissingOptionError, ValueError) as error:
        raise click.UsageError(printable(str(error))) from error


def _say_level(chosen: str, given: str | None, record: bool = False) -> None:
    """Say at which level a proof runs, and why at no higher one."""
    from .converter.verify import missing_extras

    if record and given is None:  # the record is not read yet
        say("the highest level that the record and the installed packages allow")
    else:
        sides = "PyTorch runs OUT's model" if record else "TensorFlow and PyTorch run both models"
        most = "" if given else ", the highest that is installed"
        say(f"level {chosen}{most}{'' if chosen == 'weights' else f': {sides}'}")
    if given is None and (missing := missing_extras("gradients", record=record)):
        say(f"  outputs and gradients need {_missing(missing)}")


class _Reports:
    """The files that a verdict is written to."""

    def __init__(self, forms: "list[tuple[Path, Callable[[Verdict | Failure], bytes]]]") -> None:
        self.forms = forms

    def write(self, verdict: "Verdict | Failure") -> list[str]:
        """Write all of them; which could not be written, and why."""
        problems = []
        for path, form in self.forms:
            try:
                path.write_bytes(form(verdict))
            except OSError as error:
                problems.append(f"{printable(str(path))} can't be written: {error.strerror}")
        return problems


@contextmanager
def _commands_stopped() -> Iterator[None]:
    """See that GitHub takes no name that is printed meanwhile for a command to itself."""
    from secrets import token_hex

    token = token_hex(16)
    click.echo(f"::stop-commands::{token}")
    yield
    click.echo(f"::{token}::")


def _tell_github(found: "Verdict | Failure") -> list[str]:
    """Annotate a run of GitHub Actions, and add to the job's summary; what went wrong."""
    from .converter.verify import github

    for command in github.commands(found):
        click.echo(command)
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return []
    try:
        with open(path, "ab") as summary:
            start = "\n\n" if summary.tell() else ""  # ends whatever an earlier command wrote
            summary.write(f"{start}{github.summary(found)}".encode())
    except OSError as error:
        return [f"{printable(path)} (GITHUB_STEP_SUMMARY) can't be written: {error.strerror}"]
    return []


@contextmanager
def _reporting(reports: _Reports, ckpt: str, out: str, form: str) -> Iterator[None]:
    """See that the reports never show an older verdict, whatever happens.

    They are written before any work, which also shows whether they can be, and hold the error if
    there is one.
    """
    from .converter.errors import BertconvertError
    from .converter.verify import Failure, report

    def failure(text: str) -> Failure:
        return Failure(printable(_shown(ckpt)), printable(_shown(out)), printable(text))

    try:
        if problems := reports.write(failure("verify was started and did not finish")):
            raise click.UsageError("\n".join(problems))
        yield
    except Exception as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        found = failure(text or type(error).__name__)
        reports.write(found)
        if form == "json":
            click.echo(report.to_json(found), nl=False)
        elif form == "github":
            with _commands_stopped():
                show(f"Error: {found.error}")
            for problem in _tell_github(found):
                say(problem)
            expected = isinstance(error, BertconvertError | click.ClickException)
            if expected and "debug" not in click.get_current_context().meta:
                # Standard error is read for commands, too, and must not have the text again.
                raise click.exceptions.Exit(getattr(error, "exit_code", 1)) from error
        raise


@cli.command()
@click.argument("listed", metavar="LIST", type=_EXISTING)
@click.argument("out")
@_proof_options
@click.option("--force", is_flag=True, help="Prove again what has a verdict.")
@_quiet_option
@_source_options
@_json_option
@_debug_option
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    listed: Path,
    out: str,
    level: str | None,
    samples: int,
    seed: int,
    positions: int,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Verify a LIST of model folders, each against its checkpoint.

    LIST is a TOML file with a [[pair]] table for each model: reference (a checkpoint, or a golden
    record of one), model (a folder or its URL, whoever converted it), name, and options. OUT gets a
    page, index.html, the same for programs, audit.json, and the reports of each pair. A pair is not
    proved again if nothing changed, so an audit that was stopped continues where it was.

    \b
    bertconvert audit ports.toml audit/
    bertconvert audit ports.toml audit/ --level weights --json | jq .pairs
    """
    from .converter.audit import PAGE, find_pairs, has_records
    from .converter.audit import audit as prove_all
    from .converter.errors import BatchError
    from .converter.verify import highest_level, missing_extras

    if missing := missing_extras("weights", html=True):
        raise click.UsageError(f"the page needs {_missing(missing)}")
    try:
        pairs = find_pairs(listed, **_given(options))
    except BatchError as error:
        raise click.UsageError(printable(str(error))) from error
    record = has_records(pairs)
    chosen = _checked_level(level, "--level", record) or highest_level(record)
    if not (quiet or as_json):
        if record:
            say(f"level {level}" if level else "each at the highest level that is installed")
        else:
            _say_level(chosen, level)
    start = time.monotonic()
    try:
        with Board({pair.name: 0 for pair in pairs}, quiet or as_json) as board:
            result = prove_all(
                pairs,
                out,
                level=level,
                samples=samples,
                seed=seed,
                positions=positions,
                force=force,
                watch=_on_board(board),
            )
    except BatchError as error:
        raise click.UsageError(printable(str(error))) from error
    except KeyboardInterrupt:
        say("stopped. Verdicts stay; run the same command again to continue")
        raise
    page = f"{_shown(out).rstrip('/')}/{PAGE}"
    with _printing(f"The page was written to {page}"):
        if as_json:
            show_json(result)
        elif not quiet:
            show_audit(result, time.monotonic() - start, page)
    ctx.exit(0 if result.passed else 1)


def _on_board(board: Board) -> "Callable[[auditing.Event], None]":
    """What `audit` calls: shows each event."""

    def show_event(event: "auditing.Event") -> None:
        row, step = event.row, event.step
        if row is None:
            board.go_on(event.name, step.what, step.done, step.total)
            return
        known = "  (unchanged)" if event.is_unchanged else ""
        board.end(event.name, row.verdict, f"{row.reason or f'level {row.level}'}{known}")

    return show_event


@cli.command()
@click.argument("ckpt")
@_step_option
@_json_option
@_debug_option
def inspect(ckpt: str, step: Step | None, as_json: bool) -> None:
    """Show the variables of CKPT, and the mapping that converts it.

    \b
    bertconvert inspect uncased_L-2_H-128_A-2.zip
    bertconvert inspect CKPT --json | jq .variable
    """
    from .converter.opening import open_checkpoint
    from .converter.prepare import recognize

    with Progress(as_json) as progress:
        checkpoint = open_checkpoint(ckpt, progress=progress, step=step)
    show_checkpoint(checkpoint, *recognize(checkpoint), as_json)


@cli.command()
@click.argument("ckpt")
@_plan_options
@_json_option
@_debug_option
def explain(ckpt: str, as_json: bool, **options: Any) -> None:
    """Show what becomes of each variable of CKPT, and why; write nothing.

    \b
    bertconvert explain uncased_L-2_H-128_A-2.zip
    bertconvert explain run_42/ --head none
    """
    from .converter.prepare import prepare

    with Progress(as_json) as progress:
        prepared = prepare(ckpt, progress=progress, **_given(options))
    if as_json:
        show_json({"plan": prepared.plan, "notes": prepared.notes, "sources": prepared.sources})
    else:
        show_plan(prepared)


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--size", "sizes", multiple=True, metavar="SYMBOL=N", help="A size, such as L=12. Repeatable."
)
@_json_option
@_debug_option
def mappings(name: str | None, sizes: Sequence[str], as_json: bool) -> None:
    """List the mappings, or show the one called NAME (or a file), expanded.

    \b
    bertconvert mappings
    bertconvert mappings bert --size L=12
    """
    from .converter.mapping import builtin_mappings, load_mapping

    known = builtin_mappings()
    if name is None:
        if sizes:
            raise click.UsageError("--size needs the NAME of a mapping, as in `mappings bert`")
        about = {stem: load_mapping(path).about for stem, path in known.items()}
        if as_json:
            show_json(about)
        else:
            show_table(["mapping", "describes"], [[*row] for row in about.items()])
        return
    mapping = load_mapping(known.get(name, Path(name)))
    show_mapping(mapping, dict(_size(text, mapping.sizes) for text in sizes), as_json)


def _size(text: str, known: Iterable[str]) -> tuple[str, int]:
    symbol, _, number = text.partition("=")
    if symbol not in known or not number.isdecimal() or not 0 < int(number) < 1_000_000:
        raise click.BadParameter(
            f"{text!r} is not like L=12; the symbols are {', '.join(known)}", param_hint="--size"
        )
    return symbol, int(number)


with suppress(ValueError):
    if _interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
