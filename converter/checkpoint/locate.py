"""Finds the files of the one checkpoint that a path means.

docs/checkpoint-format.md has the rules in one table, in the order of `locate`, `_of_name` and
`_choose`. Files may be renamed copies (`model.ckpt (1).index`), and the file `checkpoint` may name
a path on another machine.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from ..choices import Step
from ..errors import CheckpointError
from ..storage.archives import ARCHIVES, archive, is_packed
from ..storage.files import Directory, File, Folder, Progress, Subfolder
from ..storage.location import Location, Url, parse_location
from ..storage.mistaken import mistaken
from .names import (
    INDEX,
    SAVED_MODEL,
    SAVED_VARIABLES,
    files_of,
    index_of,
    is_h5,
    is_index,
    is_of_a_set,
    is_unfinished,
    may_be_index,
    may_be_v1,
    num_v1_shards,
    other_format,
    prefix_of,
    shard_of,
    step_of,
    unmarked,
    v1_prefix_of,
    without_step,
)
from .protos import Malformed
from .sstable import Table, is_table
from .state_file import LARGEST, STATE, latest_path

_MOST_NAMES = 12  # in a message
# TensorFlow's, to ask for in a folder that is not listed.
_USUAL_PREFIXES = ("model.ckpt", os.path.basename(SAVED_VARIABLES))
_MOST_OPENED = 100  # remote files to find a V1 checkpoint in; each takes two requests
_V1_HEADER = b"\x0a"  # the first byte of SavedTensorSlices.meta; a V2 header begins with another


Content = Callable[[File], object]
"""What a file says, by which two files are the same; None if it is no file of the kind."""


class Located(Struct, frozen=True):
    """The files of one checkpoint."""

    folder: Folder
    prefix: str  # within the folder, with `/` between parts
    index_name: str  # the file that lists the variables; the first of a V1 checkpoint's files
    note: str = ""  # what a person should know of the choice
    table_names: tuple[str, ...] = ()  # the files of a V1 checkpoint
    is_h5: bool = False  # whether it is a Keras HDF5 file, which is all of it

    @property
    def name(self) -> str:
        """The path of the prefix, for messages."""
        return os.path.join(self.folder.path, self.prefix)

    @property
    def is_v1(self) -> bool:
        """Whether it is a V1 checkpoint, which has no index and data files."""
        return bool(self.table_names)

    @property
    def is_of_saved_model(self) -> bool:
        """Whether it is the variables of a SavedModel, by the name of its folder."""
        return os.path.basename(os.path.dirname(os.path.abspath(self.name))) == "variables"

    def index(self) -> File:
        """Open the file that lists the variables.

        Raises:
            CheckpointError: it can't be opened.
        """
        return self.folder.open(self.index_name)

    def tables(self) -> list[File]:
        """Open the files of a V1 checkpoint.

        Raises:
            CheckpointError: one is missing or can't be opened.
        """
        wanted, found = num_v1_shards(self.table_names[0]), len(self.table_names)
        if self.prefix != self.table_names[0] and wanted != found:
            raise CheckpointError(
                f"{self.name} has {wanted:,} files, and only {found:,} of them exist:"
                f" {', '.join(_shorten(list(self.table_names)))}"
            )
        return [self.folder.open(name) for name in self.table_names]

    def copies(self) -> dict[str, list[str]]:
        """The files of the folder by their names without the mark of a copy."""
        found: dict[str, list[str]] = {}
        for name in self.folder.names():
            found.setdefault(unmarked(name), []).append(name)
        return found

    def shard(self, shard: int, num_shards: int, copies: dict[str, list[str]]) -> File:
        """Open a data file: the one that is called like the index, else its only copy.

        Args:
            shard: its number, from 0.
            num_shards: the number of data files.
            copies: as `copies` returns them.

        Raises:
            CheckpointError: it is missing, or several copies of it exist.
        """
        wanted = shard_of(self.index_name, shard, num_shards)
        found = copies.get(unmarked(wanted), [])
        for exact in (wanted, unmarked(wanted)):
            if exact in found:
                found = [exact]
        if not found and not self.folder.listed:
            return self.folder.open(wanted)
        if len(found) == 1:
            return self.folder.open(found[0])
        path = os.path.join(self.folder.path, wanted)
        if found:
            raise CheckpointError(f"{path} exists more than once: {', '.join(found)}")
        hint = f" If {self.name} is this file, rename it." if self.prefix in copies else ""
        raise CheckpointError(
            f"{path} is missing; the index {self.index_name} needs it for the variables' data."
            f"{hint} {_present(self.folder, os.path.dirname(self.prefix))}"
        )

    def companion(
        self, name: str, pattern: str, content: Content | None = None, above: bool = False
    ) -> File | None:
        """A file that belongs to the checkpoint; `Checkpoint.companion` describes it.

        Raises:
            CheckpointError: several files fit.
        """
        places = self._above(name) if above else [(self.folder, os.path.dirname(self.prefix))]
        found: list[tuple[Folder, str]] = []
        for wanted, is_certain in ((re.escape(name), not above), (pattern, False)):
            if not found:
                found = _in_places(places, wanted)
                if content is not None and not is_certain and len(found) <= _MOST_OPENED:
                    found = _different(found, content)
        if len(found) > 1:
            names = [os.path.join(folder.path, n) if above else n for folder, n in found]
            raise CheckpointError(
                f"{places[0][0].path} has several files that may be {name}:"
                f" {', '.join(_shorten(names))}. Choose one with --config or --vocab."
            )
        return found[0][0].open(found[0][1]) if found else None

    def _above(self, name: str) -> list[tuple[Folder, str]]:
        """The folder one up; and what a SavedModel has next to its variables."""
        base = os.path.dirname(self.prefix)
        folder = Subfolder(self.folder, base) if base else self.folder
        places = ("", "assets") if self.is_of_saved_model else ("",)
        found = [folder.above(inside, [name]) for inside in places]
        return [(one, "") for one in found if one is not None]

    def companions(self, pattern: str) -> list[File]:
        """The files next to the checkpoint whose whole name matches `pattern`."""
        places = [(self.folder, os.path.dirname(self.prefix))]
        return [folder.open(name) for folder, name in _in_places(places, pattern)]


def _different(found: list[tuple[Folder, str]], content: Content) -> list[tuple[Folder, str]]:
    """The files of a kind; only the first if all say the same."""
    said = [(file, content(file[0].open(file[1]))) for file in found]
    kept = [(file, value) for file, value in said if value is not None]
    same = all(value == kept[0][1] for _, value in kept)
    return [file for file, _ in (kept[:1] if same else kept)]


def _in_places(places: list[tuple[Folder, str]], pattern: str) -> list[tuple[Folder, str]]:
    """The files whose whole name fits, directly in a folder, or in a base within it."""
    return [
        (folder, name)
        for folder, base in places
        for name in sorted(folder.names())
        if os.path.dirname(name) == base and re.fullmatch(pattern, os.path.basename(name))
    ]


class Search(Struct, frozen=True):
    """What is looked for, besides the path."""

    step: Step | None = None
    progress: Progress | None = None  # told of the bytes that are downloaded or unpacked
    expected: Sequence[str] = ()  # names to ask for in a remote folder that lists none

    def folder(self, location: Location, name: str = "") -> Folder:
        """A folder, in which `name` is looked for."""
        return location.folder(self.names_to_ask_for(name), may_be_index)

    def names_to_ask_for(self, name: str) -> list[str]:
        """The names of files that may be in a folder that is not listed."""
        prefixes = [n.removesuffix(INDEX) for n in self.expected if n.endswith(INDEX)]
        prefixes += _USUAL_PREFIXES
        if isinstance(self.step, int):
            prefixes = [f"{prefix}-{self.step}" for prefix in filter(None, [name, *prefixes])]
        names = files_of(name) if name else []
        names += [file for prefix in prefixes for file in files_of(prefix)]
        return [*names, STATE, *(n for n in self.expected if not n.endswith(INDEX))]


def locate(
    path: str,
    progress: Progress | None = None,
    expected: Sequence[str] = (),
    step: Step | None = None,
) -> Located:
    """Find the checkpoint that a path means.

    Args:
        path: a path or a URL.
        progress: told of the bytes that are downloaded or unpacked.
        expected: names to ask for in a remote folder that lists none; one that ends with `.index`
            stands for all files of its checkpoint.
        step: the training step to choose if there are several, or `latest`.

    Raises:
        CheckpointError: there is no checkpoint, or there are several and nothing tells which is
            meant. The message says what was looked for and which files exist.
    """
    search = Search(step, progress, expected)
    location = parse_location(path)
    parent, name = location.parent, location.name
    kind = location.kind(may_be_index)
    if kind == "folder" and (path.endswith("/") or not _is_prefix(location)):
        return _choose(search.folder(location), search)
    if not kind and not parent.may_be_folder():
        return _in_archive(location, search)
    folder = search.folder(parent, name)
    if not kind and name:
        folder.names()  # after which it is known whether they are listed
        if not folder.listed and not _by_name(folder, name, search):
            inner = search.folder(location)  # the server does not tell that it is none
            if _candidates(inner, inner.names()):
                return _choose(inner, search)
            if found := _saved_model(inner):
                return found
    if kind == "other" and not is_of_a_set(name):
        location.open()  # which refuses it
    return _of_name(folder, name, search, location.open if kind == "file" else None)


def _is_prefix(location: Location) -> bool:
    """Whether a V2 checkpoint has this prefix."""
    try:
        return location.parent.join(location.name + INDEX).kind() == "file"
    except CheckpointError:  # such as above a repository of the Hub
        return False


def _in_archive(location: Location, search: Search) -> Located:
    """The checkpoint of a path that continues inside an archive: `all.zip/tiny.zip`."""
    outer, rest = location.parent, location.name
    while not (kind := outer.kind(may_be_index)) and outer.parent != outer:
        outer, rest = outer.parent, f"{outer.name}/{rest}"
    inside = archive(outer.open(), search.progress) if kind == "file" else None
    if inside is None:
        raise CheckpointError(
            f"{location.shown}: the folder {location.parent.shown} does not exist"
        )
    return _within(inside, rest.strip("/"), search)


def _within(folder: Folder, rest: str, search: Search) -> Located:
    """The checkpoint that the path `rest` means within an archive."""
    names = folder.names()
    if not rest:
        return _choose(folder, search)
    if any(name.startswith(f"{rest}/") for name in names) and rest + INDEX not in names:
        return _choose(Subfolder(folder, rest), search)
    for name in names:
        if rest.startswith(f"{name}/"):
            inside = archive(folder.open(name), search.progress)
            if inside is not None:
                return _within(inside, rest[len(name) + 1 :], search)
    base, _, name = rest.rpartition("/")
    parent = Subfolder(folder, base) if base else folder
    return _of_name(parent, name, search, partial(folder.open, rest) if rest in names else None)


_FORMS = (
    "Give a folder, a prefix such as model.ckpt, one of the files .index, .data-?????-of-?????"
    " or .meta, a Keras .h5, or a .zip or .tar.gz of them."
)


def _of_name(
    folder: Folder, name: str, search: Search, open_file: Callable[[], File] | None
) -> Located:
    """The checkpoint of a name in a folder; `open_file` is None if no file has the name."""
    if open_file and name.endswith(ARCHIVES) and (inside := archive(open_file(), search.progress)):
        return _choose(inside, search)
    if found := _by_name(folder, name, search):
        return found
    path = os.path.join(folder.path, name).removeprefix("./")
    if open_file is None or is_of_a_set(name):
        index = index_of(name)
        exists = not folder.listed or name in folder.names()
        problem = f"{index} does not exist"
        if not exists and not is_of_a_set(name):
            problem = f"neither {name} nor {index} exists"
        raise CheckpointError(f"{path} is not a checkpoint: {problem}. {_present(folder, '')}")
    if is_unfinished(name):
        raise CheckpointError(f"{path} looks like an unfinished download.")
    if name == SAVED_MODEL:
        if found := _saved_model(folder):
            return found
        raise _without_variables(folder.path)
    if other := other_format(name):  # before archives, as some of these formats are zips
        raise CheckpointError(f"{path} is {other}" + ("" if other.endswith(".") else f". {_FORMS}"))
    file = open_file()
    if inside := archive(file, search.progress):
        return _choose(inside, search)
    if name == STATE or name.endswith((".json", ".txt")):
        return _choose(folder, search)
    raise CheckpointError(mistaken(file, folder) or f"{path} is not a checkpoint. {_FORMS}")


def _by_name(folder: Folder, name: str, search: Search) -> Located | None:
    """The checkpoint that has the name or a file of the name; None if there is none."""
    rules = (_v2, _v1, _h5, _of_a_v2_file, _copies, _steps)
    names = folder.names()  # once, as a folder on a disk is listed each time
    for rule in (_steps, *rules) if search.step is not None else rules:
        if found := rule(folder, names, name):
            path = os.path.join(folder.path, name).removeprefix("./")
            return _pick(found, search.step, f"{path} may be any of {len(found)} checkpoints")
    return None


def _v2(folder: Folder, names: list[str], name: str) -> list[Located]:
    index = name + INDEX
    return [Located(folder, name, index)] if index in names else []


def _h5(folder: Folder, names: list[str], name: str) -> list[Located]:
    return _h5_in(folder, [name]) if name in names else []


def _v1(folder: Folder, names: list[str], name: str) -> list[Located]:
    prefix = v1_prefix_of(name)
    if name in names and prefix == name:
        sets = {1: [name]}
    else:
        sets = {}
        for file in names:
            count = num_v1_shards(file)
            if file != prefix == v1_prefix_of(file) and (
                prefix == name or count == num_v1_shards(name)
            ):
                sets.setdefault(count, []).append(file)
    found = [tuple(files) for files in sets.values() if _is_v1(folder, files[0])]
    if found == [(name,)] and prefix != name:  # TensorFlow reads it as a whole checkpoint
        note = (
            f"by its name, {name} is one of {num_v1_shards(name):,} files; the others do not exist"
        )
        return [Located(folder, name, name, note, (name,))]
    return [Located(folder, prefix, files[0], table_names=files) for files in found]


def _of_a_v2_file(folder: Folder, names: list[str], name: str) -> list[Located]:
    index = index_of(name)
    is_one = is_of_a_set(name) and index in names
    return [Located(folder, prefix_of(name), index)] if is_one else []


def _copies(folder: Folder, names: list[str], name: str) -> list[Located]:
    prefix = unmarked(prefix_of(name))
    return [found for found in _v2_in(folder, names) if unmarked(found.prefix) == prefix]


def _steps(folder: Folder, names: list[str], name: str) -> list[Located]:
    if name in names:
        return []
    found = [
        one
        for one in _candidates(folder, names)
        if step_of(one.prefix) is not None and without_step(one.prefix) == name
    ]
    if len(found) == 1:
        note = f"{name} does not exist; {found[0].prefix} was taken, the only step of it"
        return [replace(found[0], note=note)]
    return found


def _pick(found: list[Located], step: Step | None, problem: str) -> Located:
    """The only one, or the one of a step; `problem` begins the message if there are several."""
    if step is not None:
        taken = _of_step(found, step)
        if not taken:
            steps = sorted({number for one in found if (number := step_of(one.prefix)) is not None})
            known = f"Its steps are {', '.join(_shorten([str(number) for number in steps]))}."
            raise CheckpointError(
                f"--step {step}: {found[0].folder.path} has no checkpoint of this step."
                f" {known if steps else 'Its checkpoints have no step in their names.'}"
            )
        found = taken
    if len(found) == 1:
        return found[0]
    raise _ambiguous(found, problem)


def _of_step(found: list[Located], step: Step) -> list[Located]:
    steps = [-1 if (number := step_of(one.prefix)) is None else number for one in found]
    wanted = max(0, *steps) if step == "latest" else step
    return [one for one, number in zip(found, steps, strict=True) if number == wanted]


def _candidates(folder: Folder, names: list[str]) -> list[Located]:
    """The checkpoints whose files are among these of a folder.

    V1 checkpoints have to be opened to be recognized. So where that takes downloading or unpacking,
    they are looked for only if there is no V2 checkpoint. A Keras file is taken if there is no
    other: people have it next to the checkpoint that it was made from.
    """
    found = _v2_in(folder, names)
    if not found or isinstance(folder, Directory):
        prefixes = {one.prefix for one in found}  # TensorFlow reads V2 if both have one prefix
        found += [one for one in _v1_in(folder, names) if one.prefix not in prefixes]
    return found or _h5_in(folder, names)


def _v2_in(folder: Folder, names: list[str]) -> list[Located]:
    return [Located(folder, prefix_of(name), name) for name in names if is_index(name)]


def _h5_in(folder: Folder, names: list[str]) -> list[Located]:
    return [Located(folder, name, name, is_h5=True) for name in names if is_h5(name)]


def _v1_in(folder: Folder, names: list[str]) -> list[Located]:
    names = [name for name in names if may_be_v1(name)]
    if len(names) > _MOST_OPENED and isinstance(parse_location(folder.path), Url):
        return []
    tables: dict[str, list[str]] = {}
    for name in names:
        if _is_v1(folder, name):
            tables.setdefault(v1_prefix_of(name), []).append(name)
    return [
        Located(folder, prefix, files[0], table_names=tuple(files))
        for prefix, files in tables.items()
    ]


def _is_v1(folder: Folder, name: str) -> bool:
    """Whether the content of a file is that of a V1 checkpoint's."""
    try:
        file = folder.open(name)
        if not is_table(file):
            return False
        if not is_index(name):  # the reader tells whether it is damaged
            return True
        return bytes(Table(file).get(b"") or b"").startswith(_V1_HEADER)
    except (CheckpointError, Malformed):
        return False


def all_in(folder: Folder, step: Step | None = None) -> list[Located]:
    """All the checkpoints in a folder and its subfolders.

    If a subfolder has several, only that of the step is given, or the one that its file
    `checkpoint` names. A file that must be unpacked to see whether it is a V1 checkpoint is
    skipped.
    """
    names = folder.names()
    cheap = [n for n in names if n.endswith(INDEX) or not is_packed(folder, n)]
    by_subfolder: dict[str, list[Located]] = {}
    for candidate in _candidates(folder, cheap):
        by_subfolder.setdefault(os.path.dirname(candidate.prefix), []).append(candidate)
    found = []
    for base, group in sorted(by_subfolder.items()):
        if step is not None:
            found += _of_step(group, step) or group[:1]  # opening it tells why there is none
            continue
        latest = _latest(folder, base, _path_in_state(folder, names, base))
        inside = [one for one in group if latest and one.index_name == latest.index_name]
        found += inside or group
    return found


def _choose(folder: Folder, search: Search) -> Located:
    """The only checkpoint of a folder, or the one that its file `checkpoint` or the step tells."""
    names = folder.names()
    direct = [file for file in names if "/" not in file]
    deeper = [file for file in names if "/" in file]
    candidates = _candidates(folder, direct) or _candidates(folder, deeper)
    depth = min((one.prefix.count("/") for one in candidates), default=0)
    nearest = [one for one in candidates if one.prefix.count("/") == depth]
    bases = {os.path.dirname(one.prefix) for one in nearest} or {""}
    path = ""
    if len(bases) == 1 and search.step is None:  # the file is about the files next to it only
        base = bases.pop()
        path = _path_in_state(folder, names, base)
        if latest := _latest(folder, base, path):
            return latest
    name = _last_part(path)
    if path and not folder.listed:
        from ..storage.remote_folder import RemoteFolder

        if isinstance(folder, RemoteFolder):
            asked = folder.expecting(search.names_to_ask_for(name))
            if latest := _by_name(asked, name, search):
                return latest
    if not nearest:
        saved = [os.path.dirname(file) for file in names if os.path.basename(file) == SAVED_MODEL]
        inside = [_saved_model(folder, base) for base in saved or ([] if folder.listed else [""])]
        nearest = [one for one in inside if one is not None]
        if saved and not nearest:
            raise _without_variables(os.path.join(folder.path, saved[0]))
    if not nearest:
        raise CheckpointError(
            f"{folder.path} has no checkpoint: no file *{INDEX} exists. {_present(folder, '')}"
            + _hint(names)
        )
    found = _pick(nearest, search.step, _several(folder, "", nearest))
    note = f"the file {STATE} names {name}, which does not exist" if name else found.note
    return replace(found, note=note)


def _saved_model(folder: Folder, base: str = "") -> Located | None:
    """The variables of a SavedModel in a folder or a subfolder, which need not be listed."""
    return _at_path(folder, os.path.join(base, SAVED_VARIABLES))


def _without_variables(path: str) -> CheckpointError:
    return CheckpointError(
        f"{path.rstrip('/')} is a SavedModel without its variables: {SAVED_VARIABLES}{INDEX} does"
        " not exist. Copy or download its folder variables/, too."
    )


def _path_in_state(folder: Folder, names: list[str], base: str) -> str:
    """The path in the file `checkpoint` of a subfolder; "" if there is none."""
    name = os.path.join(base, STATE)
    if name not in names:
        return ""
    file = folder.open(name)
    return latest_path(file.read(0, min(file.size, LARGEST)))


def _latest(folder: Folder, base: str, path: str) -> Located | None:
    """The checkpoint of a path in the file `checkpoint` of the subfolder `base`.

    TensorFlow takes the path from that subfolder. If nothing is there, the files were moved, and
    the checkpoint of the same name in the subfolder is meant. The path may be of another operating
    system.
    """
    name = _last_part(path)
    if not name:
        return None
    there = _at_path(folder, os.path.join(base, path))
    here = _exactly(folder, os.path.join(base, name))
    if there is None or here is None or _real_path(there) == _real_path(here):
        return here or there
    note = f"the file {STATE} names {there.name}, which was taken; {here.name} exists, too"
    return replace(there, note=note)


def _at_path(folder: Folder, path: str) -> Located | None:
    """The checkpoint with a prefix that is relative to the folder, or absolute on a disk."""
    if "\0" in path or isinstance(parse_location(path), Url):
        return None
    if isinstance(folder, Directory):
        parent, name = os.path.split(os.path.normpath(os.path.join(folder.path, path)))
        return _exactly(Directory(parent), name) if os.path.isdir(parent) else None
    path = os.path.normpath(path)
    if path.startswith(("/", "..")):
        return None
    base, name = os.path.split(path)
    if base and isinstance(parse_location(folder.path), Url):  # it lists no subfolder
        from ..storage.remote_folder import RemoteFolder

        if isinstance(folder, RemoteFolder):
            return _exactly(folder.subfolder(base, files_of(name)), name)
    return _exactly(folder, path)


def _exactly(folder: Folder, name: str) -> Located | None:
    """The only checkpoint with this prefix."""
    names = folder.names()
    for rule in (_v2, _v1, _copies):
        if found := rule(folder, names, name):
            return found[0] if len(found) == 1 else None
    return None


def _real_path(located: Located) -> str:
    return os.path.realpath(os.path.join(located.folder.path, located.index_name))


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _several(folder: Folder, base: str, found: list[Located]) -> str:
    path = os.path.join(folder.path, base) if base else folder.path
    state = os.path.join(base, STATE)
    if state in folder.names() and (what := mistaken(folder.open(state), folder)):
        return f"{what} {path} has {len(found)} checkpoints, and nothing else tells which is meant"
    return f"{path} has {len(found)} checkpoints, and no file `{STATE}` that names one of them"


def _ambiguous(found: list[Located], problem: str) -> CheckpointError:
    def age(one: Located) -> tuple[int, str]:
        number = step_of(one.prefix)
        return -1 if number is None else number, one.index_name

    found = sorted(found, key=age)  # the newest last
    names = [os.path.join(one.folder.path, one.index_name) for one in found[-_MOST_NAMES:]]
    others = len(found) - len(names)
    more = [f"({others:,} more)"] if others else []
    by_step = ", or choose one with --step N or --step latest" if age(found[-1])[0] >= 0 else ""
    return CheckpointError(
        f"{problem}. Give one of these{by_step}:\n"
        + "\n".join(f"  {line}" for line in (*more, *names))
    )


def _present(folder: Folder, base: str) -> str:
    """The sentences of a message that say which files a folder has."""
    direct = [os.path.basename(n) for n in folder.names() if os.path.dirname(n) == base]
    names = direct or folder.names()
    for name in names:
        if is_unfinished(name):
            return f"{name} looks like an unfinished download."
    if not names:
        return "It is empty." if folder.listed else "The server does not list its files."
    where = "folder" if direct else "subfolders"
    text = f"Files in the {where}: {', '.join(_shorten(names))}."
    if archives := [name for name in names if name.endswith(ARCHIVES)]:
        example = os.path.join(folder.path, base if direct else "", archives[0])
        text += f" To open an archive, give its path, such as {example.removeprefix('./')}."
    return text


def _hint(names: list[str]) -> str:
    """A sentence on the first file that is of another format."""
    others = (
        f" {name} is {other.removesuffix('.')}." for name in names if (other := other_format(name))
    )
    return next(others, "")


def _shorten(names: list[str]) -> list[str]:
    rest = len(names) - _MOST_NAMES
    return names if rest <= 0 else [*names[:_MOST_NAMES], f"and {rest:,} more"]
