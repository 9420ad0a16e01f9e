"""What the user typed -> the files of one checkpoint.

People pass a folder, a prefix, any file of the set, an archive; browsers and file managers rename
(`bert_model.ckpt (1).index`), and the file `checkpoint` names a path of the machine that wrote it.
"""

import os
import re

from msgspec import Struct
from msgspec.structs import replace

from ..errors import CheckpointError
from ..storage.archives import ARCHIVES, archive, is_packed
from ..storage.files import Directory, File, Folder, Progress, Subfolder, is_url, open_file
from .sstable import is_table

INDEX = ".index"
_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$")
# Of a V1 checkpoint; TensorFlow itself names several as m.ckpt-?????-of-00002.
_TABLE_SHARD = re.compile(r"-(?:\d{5}|\?{5})-of-(\d{5})$")
# What can't be a V1 table, so that not every file of a folder is opened to see.
_NO_TABLE = (".meta", ".json", ".txt", ".md", ".py", ".pb", ".zip", ".gz", ".tfevents")
# What browsers, Windows and macOS add to the name of a second copy.
_COPY_MARK = re.compile(r" ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?(?=\.|$)")
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".filepart")
_SHOWN = 12
# What a folder of the web is asked for that lists no names.
_USUAL_PREFIXES = ("bert_model.ckpt", "model.ckpt")
_SHARDS = 1000  # of a V1 checkpoint, that are asked for
_LOOKED_INTO = 100  # files afar, each of which takes the time of two answers


class Located(Struct, frozen=True):
    """One checkpoint's place: a folder, its prefix there, and the mark of a renamed copy."""

    folder: Folder
    prefix: str  # within the folder, `/` between parts, as its author named it
    index_name: str  # the file that lists the variables; in V1, the first of the tables
    note: str = ""  # what a person should know of the choice
    table_names: tuple[str, ...] = ()  # of a V1 checkpoint

    @property
    def name(self) -> str:
        """What messages call it."""
        return os.path.join(self.folder.path, self.prefix)

    @property
    def is_v1(self) -> bool:
        """Whether it has tables in place of an index and data files."""
        return bool(self.table_names)

    def index(self) -> File:
        return self.folder.open(self.index_name)

    def tables(self) -> list[File]:
        """The files of a V1 checkpoint.

        Raises:
            CheckpointError: one of several is missing.
        """
        numbered = _TABLE_SHARD.search(self.table_names[0])
        if numbered and len(self.table_names) != int(numbered[1]):
            raise CheckpointError(
                f"{self.name} is in {int(numbered[1]):,} files, and {len(self.table_names):,} of"
                f" them are there: {', '.join(_shorten(list(self.table_names)))}"
            )
        return [self.folder.open(name) for name in self.table_names]

    def copies(self) -> dict[str, list[str]]:
        """The files of the folder by the names that they had before they were renamed."""
        found: dict[str, list[str]] = {}
        for name in self.folder.names():
            found.setdefault(_unmarked(name), []).append(name)
        return found

    def shard(self, shard: int, num_shards: int, copies: dict[str, list[str]]) -> File:
        """One data file, out of `copies()`.

        Raises:
            CheckpointError: it is not there, or it can't be told which of several copies it is.
        """
        wanted = f"{self.prefix}.data-{shard:05d}-of-{num_shards:05d}"
        found = copies.get(wanted, [])
        same_mark = [name for name in found if _mark(name) == _mark(self.index_name)]
        if len(found) > 1:
            found = same_mark or [name for name in found if name == wanted] or found
        if not found and not self.folder.listed:
            return self.folder.open(wanted)
        if len(found) == 1:
            return self.folder.open(found[0])
        path = os.path.join(self.folder.path, wanted)
        if found:
            raise CheckpointError(f"{path} is there more than once: {', '.join(found)}")
        raise CheckpointError(
            f"{path} is missing; the index beside it says that the tensors' data are there."
            f" {_what_lies_there(self.folder, os.path.dirname(self.prefix))}"
        )

    def companion(self, name: str, pattern: str) -> File | None:
        """A file that belongs to the checkpoint: `name` beside it, else the only `pattern` match.

        Raises:
            CheckpointError: several files match, and none has the name itself.
        """
        base = os.path.dirname(self.prefix)
        beside = [n for n in self.folder.names() if os.path.dirname(n) == base]
        found = [n for n in beside if os.path.basename(n) == name]
        found = found or [n for n in beside if re.fullmatch(pattern, os.path.basename(n))]
        if len(found) > 1:
            raise CheckpointError(
                f"{self.folder.path} holds more than one {name}: {', '.join(found)}. Say which."
            )
        return self.folder.open(found[0]) if found else None


def locate(path: str, progress: Progress | None = None) -> Located:
    """Find the checkpoint that `path` means.

    Raises:
        CheckpointError: there is none, or there are several and nothing says which; the message
            says what was looked for and what lies there instead.
    """
    path = os.path.expanduser(path)
    kind = _kind(path)
    if kind == "folder":
        return _choose(_folder(path))
    parent, name = _split(path)
    if not kind and not _may_be_folder(parent):
        return _inside(path, progress)
    folder = _folder(parent, name)
    if not kind and name and not _matching(_candidates(folder), name) and not folder.listed:
        # Nobody tells whether a folder has this name.
        inner = _folder(path)
        return _choose(inner) if _candidates(inner) else _named(folder, name)
    if not kind or _is_of_a_set(name):
        return _named(folder, name)
    if kind == "file" and (table := _v1_candidates(folder, [name])):
        beside = _v1_candidates(folder, folder.names())
        return next((c for c in beside if c.prefix == table[0].prefix), table[0])
    if name == "checkpoint":
        return _choose(folder)
    shown = _shown(path)
    if name.endswith(_UNFINISHED):
        raise CheckpointError(f"{shown} looks like a download that is not finished.")
    if other := _other_format(name):  # some of which are zips
        raise CheckpointError(f"{shown}{other}. {_LOOKED_FOR}")
    inside = archive(open_file(path, shown), progress)
    if inside is not None:
        return _choose(inside)
    if name.endswith((".json", ".txt")):  # a config or a vocabulary stands for its folder
        return _choose(folder)
    raise CheckpointError(f"{shown} is no checkpoint. {_LOOKED_FOR}")


def _inside(path: str, progress: Progress | None) -> Located:
    """The checkpoint that a path means which goes on inside an archive: `all.zip/tiny.zip`."""
    outer, rest = _split(path)
    while not (kind := _kind(outer)):
        above, part = _split(outer)
        if not part:
            break
        outer, rest = above, f"{part}/{rest}"
    inside = archive(open_file(outer, outer), progress) if kind == "file" else None
    if inside is None:
        parent = _split(path)[0]
        raise CheckpointError(f"{_shown(path)}: there is no folder {_shown(parent)}")
    return locate_in(inside, rest.strip("/"), progress)


def _kind(path: str) -> str:
    """`file` or `folder`, `other` for a pipe and the like, "" for nothing."""
    if is_url(path):
        from ..storage import remote

        return remote.kind(path)
    if os.path.isdir(path):
        return "folder"
    return "file" if os.path.isfile(path) else "other" if os.path.exists(path) else ""


def _shown(path: str) -> str:
    """What messages call it."""
    if is_url(path):
        from ..storage import urls

        return urls.shown(path)
    return path


def _may_be_folder(path: str) -> bool:
    if is_url(path):
        from ..storage import remote

        return remote.may_be_folder(path)
    return os.path.isdir(path or ".")


def _split(path: str) -> tuple[str, str]:
    if is_url(path):
        from ..storage import urls

        return urls.split(path)
    return os.path.split(path)


def _folder(path: str, name: str = "") -> Folder:
    """A folder, in which `name` is looked for."""
    if is_url(path):
        from ..storage.remote import RemoteFolder

        return RemoteFolder(path, _expected(name))
    return Directory(path or ".")


def _expected(name: str) -> list[str]:
    """The names that may lie in a folder whose names nobody tells, where `name` is looked for."""
    prefixes = [prefix_of(name)] if name else []
    prefixes += _USUAL_PREFIXES
    names = [name] if name else []
    for prefix in prefixes:
        names += [prefix, f"{prefix}{INDEX}", f"{prefix}.data-00000-of-00001"]
    if numbered := _TABLE_SHARD.search(name):
        names += [
            f"{name[: numbered.start()]}-{shard:05d}-of-{numbered[1]}"
            for shard in range(min(int(numbered[1]), _SHARDS))
        ]
    return [*names, "checkpoint", "bert_config.json", "vocab.txt"]


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
            inside = None if _is_of_a_set(name) else archive(folder.open(name), progress)
            if inside is not None:
                return locate_in(inside, rest[len(name) + 1 :], progress)
    base, _, name = rest.rpartition("/")
    return _named(Subfolder(folder, base) if base else folder, name)


_LOOKED_FOR = (
    "Give a folder, a prefix such as bert_model.ckpt, one of the files .index, .data-?????-of-?????"
    " or .meta, or a .zip or .tar.gz of them."
)


def _is_of_a_set(name: str) -> bool:
    return _unmarked(name).endswith((INDEX, ".meta")) or bool(_SHARD.search(_unmarked(name)))


def prefix_of(name: str) -> str:
    """The prefix that a file of a set has, without the mark of a copy."""
    name = _unmarked(name)
    return _SHARD.sub("", name).removesuffix(INDEX).removesuffix(".meta")


def _unmarked(name: str) -> str:
    """The name without the mark of a copy; that of a folder stays as it is."""
    folder, base = os.path.split(name)
    return os.path.join(folder, _COPY_MARK.sub("", base))


def _mark(name: str) -> str:
    found = _COPY_MARK.search(os.path.basename(name))
    return found[0] if found else ""


def _candidates(folder: Folder, names: list[str] | None = None) -> list[Located]:
    names = folder.names() if names is None else names
    found = [Located(folder, prefix_of(n), n) for n in names if _unmarked(n).endswith(INDEX)]
    return found or _v1_candidates(folder, names)


def _v1_candidates(folder: Folder, names: list[str]) -> list[Located]:
    """V1 checkpoints have no index: they are told by their files' ends."""
    names = [
        name
        for name in names
        if not name.endswith(_NO_TABLE)
        and not _is_of_a_set(name)
        and os.path.basename(name) != "checkpoint"
    ]
    if is_url(folder.path) and len(names) > _LOOKED_INTO:
        return []
    tables: dict[str, list[str]] = {}
    for name in names:
        try:
            if is_table(folder.open(name)):
                tables.setdefault(_TABLE_SHARD.sub("", name), []).append(name)
        except CheckpointError:
            continue  # what can't be opened is no candidate
    return [
        Located(folder, prefix, files[0], table_names=tuple(files))
        for prefix, files in tables.items()
    ]


def _matching(candidates: list[Located], name: str) -> list[Located]:
    """Those that `name`, a prefix or a file of a set, may mean."""
    found = [c for c in candidates if c.prefix in (prefix_of(name), _TABLE_SHARD.sub("", name))]
    return [c for c in found if _mark(c.index_name) == _mark(name)] or found


def _named(folder: Folder, name: str) -> Located:
    """The checkpoint whose prefix, or one of whose files, has this name."""
    found = _matching(_candidates(folder), name)
    if len(found) == 1:
        return found[0]
    if found:
        return _refuse(folder, found)
    raise CheckpointError(
        f"{os.path.join(folder.path, name)}: no such checkpoint; looked for"
        f" {prefix_of(name)}{INDEX}."
        f" {_what_lies_there(folder, '')}"
    )


def every(folder: Folder) -> list[Located]:
    """All the checkpoints of a folder: of several side by side, the one that `checkpoint` names.

    What would have to be unpacked to see whether it is one, in V1, is not looked at.
    """
    names = [n for n in folder.names() if n.endswith(INDEX) or not is_packed(folder, n)]
    side_by_side: dict[str, list[Located]] = {}
    for candidate in _candidates(folder, names):
        side_by_side.setdefault(os.path.dirname(candidate.prefix), []).append(candidate)
    found = []
    for _, group in sorted(side_by_side.items()):
        latest, _ = _latest(folder, group)
        found += group if latest is None else [latest]
    return found


def _choose(folder: Folder) -> Located:
    """The one checkpoint of a folder, or the one that its file `checkpoint` names."""
    candidates = _candidates(folder)
    depth = min((c.prefix.count("/") for c in candidates), default=0)
    nearest = [c for c in candidates if c.prefix.count("/") == depth]
    latest, elsewhere = _latest(folder, nearest)
    if latest is not None:
        return latest
    if len(nearest) == 1:
        named = re.split(r"[/\\]", elsewhere)[-1]
        note = f"the file checkpoint names {named}, which is not here" if named else ""
        return replace(nearest[0], note=note)
    if not nearest and elsewhere and isinstance(folder, Directory):
        index = os.path.join(folder.path, elsewhere + INDEX)
        if os.path.isfile(index):
            return locate(index)
    if not nearest and elsewhere and not folder.listed:
        from ..storage.remote import RemoteFolder

        if isinstance(folder, RemoteFolder):
            named = re.split(r"[/\\]", elsewhere)[-1]
            return _named(folder.expecting(_expected(named)), named)
    return _refuse(folder, nearest)


def _latest(folder: Folder, candidates: list[Located]) -> tuple[Located | None, str]:
    """What the text proto `checkpoint` names: one of the candidates, or a path elsewhere."""
    bases = {os.path.dirname(c.prefix) for c in candidates} or {""}
    if len(bases) > 1:  # the `checkpoint` of one folder says nothing of the others
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
    # The path may be of another machine, and of another system.
    path = _unescape(named[1])
    found = _matching(candidates, os.path.join(base, re.split(r"[/\\]", path)[-1]))
    if len(found) == 1:
        return found[0], ""
    return None, path


def _unescape(text: str) -> str:
    """A string of a text proto, which has its quotes, backslashes and non-ASCII bytes escaped."""

    def byte(escape: re.Match[bytes]) -> bytes:
        return bytes([int(escape[1], 8) & 0xFF]) if escape[1].isdigit() else escape[1]

    return re.sub(rb"\\([0-7]{3}|[\\\"'])", byte, text.encode()).decode("utf-8", "replace")


def _refuse(folder: Folder, found: list[Located]) -> Located:
    if not found:
        raise CheckpointError(
            f"{folder.path}: no checkpoint here; looked for a file *{INDEX}."
            f" {_what_lies_there(folder, '')}"
        )
    names = [os.path.join(folder.path, c.index_name) for c in found]
    raise CheckpointError(
        f"{folder.path} holds {len(names)} checkpoints, and no file `checkpoint` names one of"
        " them. Give one of these:\n" + "\n".join(f"  {name}" for name in _shorten(names))
    )


def _what_lies_there(folder: Folder, base: str) -> str:
    names = [n for n in folder.names() if os.path.dirname(n) == base] or folder.names()
    unfinished = [name for name in names if name.endswith(_UNFINISHED)]
    if unfinished:
        return f"{unfinished[0]} looks like a download that is not finished."
    if not names:
        return "The folder is empty." if folder.listed else "The server lists none of its files."
    shown = ", ".join(_shorten([os.path.basename(name) for name in names]))
    hints = {_other_format(name) for name in names} - {""}
    text = f"What lies there: {shown}.{''.join(' One' + hint + '.' for hint in sorted(hints))}"
    if archives := [name for name in names if name.endswith(ARCHIVES)]:
        text += f" To look into an archive, give {os.path.join(folder.path, archives[0])}"
        text += "; `bertconvert batch` takes all of them." if len(archives) > 1 else "."
    return text


def _shorten(names: list[str]) -> list[str]:
    rest = len(names) - _SHOWN
    return names if rest <= 0 else [*names[:_SHOWN], f"and {rest:,} more"]


def _other_format(name: str) -> str:
    if name.endswith((".bin", ".pt", ".pth", ".safetensors")):
        return " is a PyTorch file already"
    if name.endswith((".h5", ".keras")):
        return " is a Keras file, which this tool does not read"
    if name.endswith(".pb"):
        return " is a graph; the variables of a SavedModel lie in its folder variables/"
    return ""
