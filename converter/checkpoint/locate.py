"""Finds the files of the one checkpoint that a path means.

The path may be a folder, a prefix, any file of the checkpoint or an archive. Files may be renamed
copies (`model.ckpt (1).index`), and the file `checkpoint` may name a path on another machine.
"""

import os
import re
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..errors import CheckpointError
from ..storage.archives import ARCHIVES, archive, is_packed
from ..storage.files import Directory, File, Folder, Progress, Subfolder
from ..storage.location import Location, Url, parse_location
from .names import (
    INDEX,
    copy_mark,
    files_of,
    is_index,
    is_of_a_set,
    is_unfinished,
    may_be_index,
    may_be_v1,
    num_v1_shards,
    other_format,
    prefix_of,
    shard_name,
    unmarked,
    v1_prefix_of,
)
from .sstable import is_table

_MOST_NAMES = 12  # in a message
_USUAL_PREFIX = "model.ckpt"  # TensorFlow's, to ask for in a folder that is not listed
_MOST_OPENED = 100  # remote files to find a V1 checkpoint in; each takes two requests


class Located(Struct, frozen=True):
    """The files of one checkpoint."""

    folder: Folder
    prefix: str  # within the folder, with `/` between parts, without the mark of a copy
    index_name: str  # the file that lists the variables; the first of a V1 checkpoint's files
    note: str = ""  # what a person should know of the choice
    table_names: tuple[str, ...] = ()  # the files of a V1 checkpoint

    @property
    def name(self) -> str:
        """The path of the prefix, for messages."""
        return os.path.join(self.folder.path, self.prefix)

    @property
    def is_v1(self) -> bool:
        """Whether it is a V1 checkpoint, which has no index and data files."""
        return bool(self.table_names)

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
        if wanted not in (1, found):
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
        """Open a data file.

        Args:
            shard: its number, from 0.
            num_shards: the number of data files.
            copies: as `copies` returns them.

        Raises:
            CheckpointError: it is missing, or several copies of it exist.
        """
        wanted = shard_name(self.prefix, shard, num_shards)
        found = copies.get(wanted, [])
        same_mark = [name for name in found if copy_mark(name) == copy_mark(self.index_name)]
        if len(found) > 1:
            found = same_mark or [name for name in found if name == wanted] or found
        if not found and not self.folder.listed:
            return self.folder.open(wanted)
        if len(found) == 1:
            return self.folder.open(found[0])
        path = os.path.join(self.folder.path, wanted)
        if found:
            raise CheckpointError(f"{path} exists more than once: {', '.join(found)}")
        raise CheckpointError(
            f"{path} is missing; the index {self.index_name} needs it for the variables' data."
            f" {_present(self.folder, os.path.dirname(self.prefix))}"
        )

    def companion(self, name: str, pattern: str) -> File | None:
        """The file `name` next to the checkpoint, or the only one that matches `pattern`.

        Raises:
            CheckpointError: several files match, and none is called `name`.
        """
        base = os.path.dirname(self.prefix)
        siblings = [n for n in self.folder.names() if os.path.dirname(n) == base]
        found = [n for n in siblings if os.path.basename(n) == name]
        found = found or [n for n in siblings if re.fullmatch(pattern, os.path.basename(n))]
        if len(found) > 1:
            raise CheckpointError(
                f"{self.folder.path} has several files that may be {name}: {', '.join(found)}."
                " Choose one with --config or --vocab."
            )
        return self.folder.open(found[0]) if found else None


def locate(path: str, progress: Progress | None = None, expected: Sequence[str] = ()) -> Located:
    """Find the checkpoint that a path means.

    Args:
        path: a path or a URL.
        progress: told of the bytes that are downloaded or unpacked.
        expected: names to ask for in a remote folder that lists none; one that ends with `.index`
            stands for all files of its checkpoint.

    Raises:
        CheckpointError: there is no checkpoint, or there are several and nothing tells which is
            meant. The message says what was looked for and which files exist.
    """
    location = parse_location(path)
    kind = location.kind(may_be_index)
    if kind == "folder":
        return _choose(_folder(location, expected), expected)
    parent, name = location.parent, location.name
    if not kind and not parent.may_be_folder():
        return _in_archive(location, progress)
    folder = _folder(parent, expected, name)
    if not kind and name and not _matching(_candidates(folder), name) and not folder.listed:
        # The server does not tell whether the name is a folder.
        inner = _folder(location, expected)
        return _choose(inner, expected) if _candidates(inner) else _named(folder, name)
    if not kind or is_of_a_set(name):
        return _named(folder, name)
    if kind == "file" and (table := _v1_candidates(folder, [name])):
        complete = _v1_candidates(folder, folder.names())
        return next((c for c in complete if c.prefix == table[0].prefix), table[0])
    if name == "checkpoint":
        return _choose(folder, expected)
    shown = location.shown
    if is_unfinished(name):
        raise CheckpointError(f"{shown} looks like an unfinished download.")
    if other := other_format(name):  # before archives, as some of these formats are zips
        raise CheckpointError(f"{shown} is {other}. {_FORMS}")
    file = location.open()
    inside = archive(file, progress)
    if inside is not None:
        return _choose(inside, expected)
    if name.endswith((".json", ".txt")):  # a config or a vocabulary stands for its folder
        return _choose(folder, expected)
    other = other_format(name, file.read(0, min(file.size, 8))) or "not a checkpoint"
    raise CheckpointError(f"{shown} is {other}. {_FORMS}")


def _in_archive(location: Location, progress: Progress | None) -> Located:
    """The checkpoint of a path that continues inside an archive: `all.zip/tiny.zip`."""
    outer, rest = location.parent, location.name
    while not (kind := outer.kind(may_be_index)) and outer.parent != outer:
        outer, rest = outer.parent, f"{outer.name}/{rest}"
    inside = archive(outer.open(), progress) if kind == "file" else None
    if inside is None:
        raise CheckpointError(
            f"{location.shown}: the folder {location.parent.shown} does not exist"
        )
    return locate_in(inside, rest.strip("/"), progress)


def _folder(location: Location, expected: Sequence[str], name: str = "") -> Folder:
    """A folder, in which `name` is looked for."""
    return location.folder(_names_to_ask_for(name, expected), may_be_index)


def _names_to_ask_for(name: str, expected: Sequence[str]) -> list[str]:
    """The names of files that may be in a folder that is not listed."""
    names = files_of(name) if name else []
    prefixes = [n.removesuffix(INDEX) for n in expected if n.endswith(INDEX)]
    for prefix in (*prefixes, _USUAL_PREFIX):
        names += files_of(prefix)
    return [*names, "checkpoint", *(n for n in expected if not n.endswith(INDEX))]


def locate_in(folder: Folder, rest: str, progress: Progress | None = None) -> Located:
    """Find the checkpoint that the path `rest` means within a folder or an archive.

    Raises:
        CheckpointError: as `locate`.
    """
    names = folder.names()
    if not rest:
        return _choose(folder)
    if any(name.startswith(f"{rest}/") for name in names):
        return _choose(Subfolder(folder, rest))
    for name in names:
        if rest == name or rest.startswith(f"{name}/"):
            inside = None if is_of_a_set(name) else archive(folder.open(name), progress)
            if inside is not None:
                return locate_in(inside, rest[len(name) + 1 :], progress)
    base, _, name = rest.rpartition("/")
    return _named(Subfolder(folder, base) if base else folder, name)


_FORMS = (
    "Give a folder, a prefix such as model.ckpt, one of the files .index, .data-?????-of-?????"
    " or .meta, or a .zip or .tar.gz of them."
)


def _candidates(folder: Folder, names: list[str] | None = None) -> list[Located]:
    names = folder.names() if names is None else names
    found = [Located(folder, prefix_of(name), name) for name in names if is_index(name)]
    return found or _v1_candidates(folder, names)


def _v1_candidates(folder: Folder, names: list[str]) -> list[Located]:
    """The V1 checkpoints, which have no index and are recognized by the end of their files."""
    names = [name for name in names if may_be_v1(name)]
    if len(names) > _MOST_OPENED and isinstance(parse_location(folder.path), Url):
        return []
    tables: dict[str, list[str]] = {}
    for name in names:
        try:
            if is_table(folder.open(name)):
                tables.setdefault(v1_prefix_of(name), []).append(name)
        except CheckpointError:
            continue  # a file that can't be opened is no candidate
    return [
        Located(folder, prefix, files[0], table_names=tuple(files))
        for prefix, files in tables.items()
    ]


def _matching(candidates: list[Located], name: str) -> list[Located]:
    """The candidates that `name`, a prefix or a file of a checkpoint, can mean."""
    found = [c for c in candidates if c.prefix in (prefix_of(name), v1_prefix_of(name))]
    return [c for c in found if copy_mark(c.index_name) == copy_mark(name)] or found


def _named(folder: Folder, name: str) -> Located:
    """The checkpoint with the prefix `name`, or with a file of that name."""
    found = _matching(_candidates(folder), name)
    if len(found) == 1:
        return found[0]
    if found:
        raise _ambiguous(folder, found)
    path, index = os.path.join(folder.path, name).removeprefix("./"), f"{prefix_of(name)}{INDEX}"
    if folder.listed and name == prefix_of(name) and name not in folder.names():
        problem = f"neither {name} nor {index} exists"
    else:
        problem = f"{index} does not exist"
    raise CheckpointError(f"{path} is not a checkpoint: {problem}. {_present(folder, '')}")


def all_in(folder: Folder) -> list[Located]:
    """All the checkpoints in a folder and its subfolders.

    If a subfolder has several and its file `checkpoint` names one, only that one is given. A file
    that must be unpacked to see whether it is a V1 checkpoint is skipped.
    """
    names = [n for n in folder.names() if n.endswith(INDEX) or not is_packed(folder, n)]
    by_subfolder: dict[str, list[Located]] = {}
    for candidate in _candidates(folder, names):
        by_subfolder.setdefault(os.path.dirname(candidate.prefix), []).append(candidate)
    found = []
    for _, group in sorted(by_subfolder.items()):
        latest, _ = _latest(folder, group)
        found += group if latest is None else [latest]
    return found


def _choose(folder: Folder, expected: Sequence[str] = ()) -> Located:
    """The only checkpoint of a folder, or the one that its file `checkpoint` names."""
    candidates = _candidates(folder)
    depth = min((c.prefix.count("/") for c in candidates), default=0)
    nearest = [c for c in candidates if c.prefix.count("/") == depth]
    latest, elsewhere = _latest(folder, nearest)
    if latest is not None:
        return latest
    named = re.split(r"[/\\]", elsewhere)[-1]
    if len(nearest) == 1:
        note = f"the file checkpoint names {named}, which does not exist" if named else ""
        return replace(nearest[0], note=note)
    if not nearest and elsewhere and isinstance(folder, Directory):
        index = os.path.join(folder.path, elsewhere + INDEX)
        if os.path.isfile(index):
            return locate(index)
    if not nearest and elsewhere and not folder.listed:
        from ..storage.remote_folder import RemoteFolder

        if isinstance(folder, RemoteFolder):
            return _named(folder.expecting(_names_to_ask_for(named, expected)), named)
    if not nearest:
        raise CheckpointError(
            f"{folder.path} has no checkpoint: no file *{INDEX} exists. {_present(folder, '')}"
            + _hint(folder.names())
        )
    raise _ambiguous(folder, nearest)


def _latest(folder: Folder, candidates: list[Located]) -> tuple[Located | None, str]:
    """The checkpoint that the text proto `checkpoint` names: a candidate, or a path elsewhere."""
    bases = {os.path.dirname(c.prefix) for c in candidates} or {""}
    if len(bases) > 1:  # the file `checkpoint` is about the files next to it only
        return None, ""
    base = bases.pop()
    state = os.path.join(base, "checkpoint")
    if state not in folder.names():
        return None, ""
    file = folder.open(state)
    text = file.read(0, min(file.size, 1 << 20)).decode("utf-8", "replace")
    named = re.search(r'^[ \t]*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
    if named is None:
        return None, ""
    # The path may be from another machine and another operating system.
    path = _unescape(named[1])
    found = _matching(candidates, os.path.join(base, re.split(r"[/\\]", path)[-1]))
    if len(found) == 1:
        return found[0], ""
    return None, path


def _unescape(text: str) -> str:
    """A string of a text proto, in which quotes, backslashes and non-ASCII bytes are escaped."""

    def byte(escape: re.Match[bytes]) -> bytes:
        return bytes([int(escape[1], 8) & 0xFF]) if escape[1].isdigit() else escape[1]

    return re.sub(rb"\\([0-7]{3}|[\\\"'])", byte, text.encode()).decode("utf-8", "replace")


def _ambiguous(folder: Folder, found: list[Located]) -> CheckpointError:
    names = [os.path.join(folder.path, c.index_name) for c in found]
    return CheckpointError(
        f"{folder.path} has {len(names)} checkpoints, and no file `checkpoint` that names one of"
        " them. Give one of these:\n" + "\n".join(f"  {name}" for name in _shorten(names))
    )


def _present(folder: Folder, base: str) -> str:
    """The sentences of a message that say which files a folder has."""
    direct = [os.path.basename(n) for n in folder.names() if os.path.dirname(n) == base]
    names = direct or folder.names()
    for name in names:
        if is_unfinished(name):
            return f"{name} looks like an unfinished download."
    if not names:
        return "The folder is empty." if folder.listed else "The server does not list its files."
    where = "folder" if direct else "subfolders"
    text = f"Files in the {where}: {', '.join(_shorten(names))}."
    if archives := [name for name in names if name.endswith(ARCHIVES)]:
        example = os.path.join(folder.path, base if direct else "", archives[0])
        text += f" To open an archive, give its path, such as {example.removeprefix('./')}."
    return text


def _hint(names: list[str]) -> str:
    """A sentence on the first file that is of another format."""
    others = (f" {name} is {other}." for name in names if (other := other_format(name)))
    return next(others, "")


def _shorten(names: list[str]) -> list[str]:
    rest = len(names) - _MOST_NAMES
    return names if rest <= 0 else [*names[:_MOST_NAMES], f"and {rest:,} more"]
