"""Turns sources, a list or a family into jobs, one for each model folder."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..checkpoint.discover import checkpoint_files, find_checkpoints
from ..errors import BatchError, CheckpointError
from ..labels import names_a_file
from ..mapping import FOLDER, builtin_mappings
from ..opening import expected_names
from ..options import DEFAULTS, Options, make_options
from ..storage.files import Progress
from ..storage.location import Url, parse_location
from ..text import as_text, joined
from .table import TABLES

T = TypeVar("T")

_CATALOGUES = FOLDER / "families"


class Job(Struct, frozen=True):
    """A checkpoint, and the name of the folder that it becomes."""

    name: str
    source: str  # as a conversion takes it
    options: Options = DEFAULTS
    nbytes: int = 0  # of the source; 0 if unknown
    index: str = ""  # the file that is opened first; "" if unknown yet
    sizes: dict[str, int] = {}  # that it must have, by the mapping's symbols
    error: str = ""  # why it can't be converted

    @property
    def shown(self) -> str:
        """The source, without the secrets of a URL."""
        return as_text(parse_location(self.source).shown)


class _Entry(Struct, frozen=True):
    """The keys of a model in a list that are not options."""

    source: str
    name: str | None = None


class _List(Struct, frozen=True, forbid_unknown_fields=True):
    model: list[dict[str, Any]]


class _Published(Struct, frozen=True, forbid_unknown_fields=True):
    """A model of a catalogue."""

    name: str
    file: str  # within the catalogue's `base_url`
    sizes: dict[str, int]  # by the mapping's symbols
    nbytes: int  # of its tensors


class _Catalogue(Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    base_url: str
    model: list[_Published]


def families() -> dict[str, Path]:
    """The catalogues that bertconvert brings, by name."""
    return {path.stem: path for path in sorted(_CATALOGUES.glob("*.toml"))}


def from_sources(
    sources: Iterable[str], options: Options = DEFAULTS, progress: Progress | None = None
) -> Iterator[Job]:
    """A job for each checkpoint that the sources mean, named after its folder or archive.

    A source that means none is a job that fails: the others can be done.
    """
    for source in sources:
        try:
            expected = expected_names(source)
            for found in find_checkpoints(source, progress, expected, options.step):
                yield Job(as_text(found.name), found.path, options, found.nbytes, found.index)
        except CheckpointError as error:
            name = os.path.basename(source.rstrip("/")).lstrip(".") or "source"
            yield Job(as_text(name), source, options, error=as_text(str(error)))


def from_list(
    path: Path, options: Options = DEFAULTS, progress: Progress | None = None
) -> Iterator[Job]:
    """The jobs of a list: a TOML file with `[[model]]` tables, paths relative to it.

    A name for several checkpoints is a job that fails: the others can be done.

    Raises:
        BatchError: it can't be read, says what a list can't say, or has only such names.
    """
    entries = []
    for number, table in enumerate(read_list(path, _List).model):
        try:
            entry = msgspec.convert(table, _Entry)
            said = {n: v for n, v in table.items() if n not in _Entry.__struct_fields__}
            own = overlaid(options, said, path.parent)
        except (TypeError, ValueError) as error:  # msgspec's among them
            raise BatchError(f"{path} is wrong: model[{number}]: {error}") from error
        entries.append((entry, relative_to(path.parent, entry.source), own))
    refused: list[str] = []
    for entry, source, own in entries:
        jobs = list(from_sources([source], own, progress))
        if entry.name is not None and len(jobs) != 1:
            several = (
                f"{path}: {entry.source} holds {len(jobs):,} checkpoints, which can't all be called"
                f" {entry.name}. Leave out the name, or give one of: "
                + ", ".join(job.shown for job in jobs[:5])
            )
            refused.append(as_text(several))
            jobs = [Job(entry.name, source, own, error=refused[-1])]
        yield from (replace(job, name=entry.name or job.name) for job in jobs)
    if refused and len(refused) == len(entries):
        raise BatchError("\n".join(refused))


def from_family(name: str, base_url: str | None, options: Options = DEFAULTS) -> Iterator[Job]:
    """The jobs of a published family; `base_url` is a folder, or a URL, of the same files.

    Raises:
        BatchError: there is no such family.
    """
    known = families()
    if name not in known:
        raise BatchError(f"there is no family {name!r}; the families are {', '.join(known)}")
    catalogue = read_list(known[name], _Catalogue)
    base = os.path.expanduser(base_url or catalogue.base_url).rstrip("/")
    for model in catalogue.model:
        source = f"{base}/{model.file}"
        if os.path.isdir(f"{base}/{model.name}") and not os.path.exists(source):
            source = f"{base}/{model.name}"  # unpacked
        yield Job(model.name, source, options, model.nbytes, sizes=model.sizes)


def check_jobs(jobs: list[Job], sources: Iterable[str], out: str) -> None:
    """Refuse jobs that can't all be done, before any is started.

    Args:
        jobs: all of them.
        sources: the sources, some of which are folders that were searched.
        out: the folder of the folders that they become.

    Raises:
        BatchError: there is no job, two have one name, a name can't be a folder's, or `out` is in a
            source.
        CheckpointError: none of the sources can be found.
    """
    if not jobs:
        raise BatchError("there is nothing to convert. Give a SOURCE, --list or --family")
    if all(job.error for job in jobs):
        raise CheckpointError("\n".join(job.error for job in jobs))
    by_name: dict[str, Job] = {}
    for job in jobs:
        # On many disks, folders whose names differ only in case are the same folder.
        other = by_name.setdefault(job.name.casefold(), job)
        if other is not job:
            raise BatchError(
                f"two sources are called {job.name}: {other.shown} and {job.shown}. Give them other"
                " names in a list (--list)"
            )
        if not _is_folder_name(job.name):
            raise BatchError(f"{job.shown}: {job.name!r} can't be the name of a folder in {out}")
    target = parse_location(out)
    if files := [name for name in checkpoint_files(target.folder()) if "/" not in name]:
        raise BatchError(
            f"{target.shown} holds a checkpoint ({joined(files, 3)}) and is never written; choose"
            " another folder. OUT comes last"
        )
    for source in (*sources, *(job.source for job in jobs)):
        if parse_location(source).contains(target):
            raise BatchError(f"{out} is in the source {source}; choose a folder elsewhere")


def _is_folder_name(name: str) -> bool:
    is_plain = name == os.path.basename(name) and not name.startswith(".") and "\0" not in name
    return bool(name) and is_plain and name.casefold() not in {t.casefold() for t in TABLES}


def overlaid(options: Options, said: dict[str, Any], folder: Path) -> Options:
    """The options with what a table of a list says put over them.

    Args:
        options: of all entries.
        said: the options in the table.
        folder: that of the list, to which paths are relative.

    Raises:
        TypeError: there is no such option.
        ValueError: it does not take this value.
    """
    said = dict(said)
    for name in ("mapping", "config", "vocab"):
        if name in said and (name != "mapping" or said[name] not in builtin_mappings()):
            said[name] = relative_to(folder, said[name])
    labels = said.get("labels")
    if isinstance(labels, str) and names_a_file(labels, folder):
        said["labels"] = relative_to(folder, labels)
    return make_options(said, options)


def relative_to(folder: Path, path: str) -> str:
    """A path of a list, which is relative to the list; a URL stays as it is."""
    location = parse_location(path)
    return str(location) if isinstance(location, Url) else str(folder / str(location))


def read_list(path: Path, kind: type[T]) -> T:
    """The content of a TOML file.

    Raises:
        BatchError: it can't be read, or says what its kind can't say.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise BatchError(f"{path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BatchError(f"{path} is wrong: {error}") from error
