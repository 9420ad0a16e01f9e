"""What is held against what: a checkpoint with all that belongs to it, and a model folder."""

import os
import re
from pathlib import Path

from msgspec import Struct

from ..checkpoint import Checkpoint, open_checkpoint
from ..errors import ParityError
from ..mapping import Architecture, MappingFile, Pair, builtin_mappings, wildcard
from ..options import Options
from ..prepare import choose_mapping, given_or_beside, read_config, text_of
from ..storage.files import Progress, absolute
from ..tokenizers.wordpiece import infer_casing, read_vocabulary
from .model_folder import ModelFolder, open_folder


class Subject(Struct, frozen=True):
    """The two sides of a proof, and the rules that say how they belong together."""

    checkpoint: Checkpoint
    folder: ModelFolder
    mapping: MappingFile
    mapping_sha256: str
    architecture: Architecture
    scope: str  # what stands before every name in the checkpoint; "" or ending in "/"
    layers: dict[str, int]  # the sizes that the checkpoint's names tell, by symbol
    google_config: dict[str, object] | None  # bert_config.json
    vocabulary: tuple[str, ...] | None
    do_lower_case: bool | None
    options: Options

    def local(self) -> dict[str, str]:
        """The variables' names without the scope -> their names; what is outside keeps its own."""
        names = {name: name for name in self.checkpoint if not name.startswith(self.scope)}
        return names | {
            name.removeprefix(self.scope): name
            for name in self.checkpoint
            if name.startswith(self.scope)
        }

    def pairs(self) -> list[Pair]:
        """What the folder's class is made of, in the order of the forward pass.

        Groups that the class may lack are among them where the checkpoint has them.
        """
        groups = [*self.architecture.groups, *self.architecture.optional]
        every = self.mapping.expand(self.layers, groups)
        local = self.local()
        there = {pair.group for pair in every if find(pair, local)}
        required = set(self.architecture.groups)
        kept = [pair for pair in every if pair.group in required or pair.group in there]
        return sorted(kept, key=_stage)


def open_subject(
    path: str | os.PathLike[str],
    out: Path,
    options: Options,
    progress: Progress | None = None,
) -> Subject:
    """Open a checkpoint and a model folder, and find what belongs to them; reads no tensor.

    What `options` leave open is taken from the folder's provenance, else found as for a
    conversion.

    Raises:
        CheckpointError, MappingError, PlanError: as `prepare` raises them.
        ParityError: the folder can't be opened, or it can't be told what it is.
    """
    folder = open_folder(out)
    checkpoint = open_checkpoint(path, progress=progress)
    said = folder.provenance
    given = options.mapping
    if given is None and said is not None:
        name = said.mapping.get("name", "")
        given = name if name in builtin_mappings() else None
    mapping, sha256 = choose_mapping(checkpoint, given)

    file = given_or_beside(options.config, checkpoint, "bert_config.json", r".*config.*\.json")
    google_config = None if file is None else read_config(file)
    vocabulary = do_lower_case = None
    file = given_or_beside(options.vocab, checkpoint, "vocab.txt", r".*vocab.*\.txt")
    if file is not None:
        vocabulary = read_vocabulary(text_of(file), file.name)
        do_lower_case = options.lower_case
        if do_lower_case is None and said is not None:
            do_lower_case = said.do_lower_case  # a decision that the converter's user may have made
        if do_lower_case is None:
            name = absolute(checkpoint.name)
            do_lower_case = infer_casing(vocabulary, name).do_lower_case

    scope = _scope(checkpoint, mapping, options.scope, said.scope if said else None)
    local = [name.removeprefix(scope) for name in checkpoint if name.startswith(scope)]
    return Subject(
        checkpoint=checkpoint,
        folder=folder,
        mapping=mapping,
        mapping_sha256=sha256,
        architecture=_architecture(folder, mapping, options.head),
        scope=scope,
        layers={symbol: _count(local, mapping, symbol) for symbol in mapping.loop_sizes()},
        google_config=google_config,
        vocabulary=vocabulary,
        do_lower_case=do_lower_case,
        options=options,
    )


def find(pair: Pair, local: dict[str, str]) -> str:
    """The variable that a pair's tensor comes from, by its name without the scope; "" for none."""
    for alias in pair.names:
        if alias in local:
            return local[alias]
        prefix, star, _ = alias.partition("*")
        if star:
            pattern = wildcard(alias)
            found = [n for n in local if n.startswith(prefix) and pattern.fullmatch(n)]
            if len(found) == 1:
                return local[found[0]]
    return ""


def _stage(pair: Pair) -> tuple[int, int]:
    """Embeddings, then layer by layer, then what stands on them; a mapping goes rule by rule."""
    layer = re.search(r"(?<=\.)\d+(?=\.)", pair.tensor)
    if layer:
        return 1, int(layer[0])
    return (0 if ".embeddings." in pair.tensor else 2), 0


def _scope(
    checkpoint: Checkpoint, mapping: MappingFile, wanted: str | None, said: str | None
) -> str:
    detect = mapping.detects[0]
    scopes = sorted(
        name.removesuffix(detect)
        for name in checkpoint
        if (name == detect or name.endswith(f"/{detect}")) and mapping.why_dropped(name) is None
    )
    if wanted is not None:
        scope = wanted.strip("/")
        scope = f"{scope}/" if scope not in ("", ".") else ""
    elif said is not None and said in scopes:
        scope = said
    elif len(scopes) == 1:
        scope = scopes[0]
    else:
        shown = ", ".join(scope or "/ (the root)" for scope in scopes[:12])
        raise ParityError(
            f"the checkpoint holds models in the scopes {shown}; --scope says which OUT is"
            if scopes
            else f"{checkpoint.name} has no {detect}, by which the mapping {mapping.name} knows its"
            " models"
        )
    if scope not in scopes:
        raise ParityError(f"there is no model in the scope {wanted!r} of {checkpoint.name}")
    return scope


def _architecture(folder: ModelFolder, mapping: MappingFile, head: str | None) -> Architecture:
    listed = folder.config.get("architectures")
    named = listed[0] if isinstance(listed, list) and listed else None
    for architecture in mapping.architecture:
        wanted = (architecture.head, architecture.name) if head else (architecture.name,)
        if (head or named) in wanted:
            return architecture
    known = ", ".join(architecture.name for architecture in mapping.architecture)
    raise ParityError(
        f"{folder.path / 'config.json'} names the class {named!r}, and the mapping {mapping.name}"
        f" knows {known}"
        if head is None
        else f"the mapping {mapping.name} has no head {head!r}"
    )


def _count(local: list[str], mapping: MappingFile, symbol: str) -> int:
    """One more than the highest number that a loop's names have."""
    numbers = {
        int(found[1])
        for prefix in mapping.loop_prefixes(symbol)
        for pattern in [re.compile(wildcard(prefix).pattern + "([0-9]{1,9})")]
        for name in local
        if (found := pattern.match(name))
    }
    if max(numbers, default=0) > len(local):
        raise ParityError(f"{mapping.size_key(symbol)} can't be told: a name has {max(numbers):,}")
    return max(numbers, default=0) + 1
