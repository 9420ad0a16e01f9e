"""The tokenizer files of a model folder, whoever wrote them -> the vocabulary that they have.

transformers 2 and 3 write vocab.txt, and what was added to it in added_tokens.json. Since version 3
there is tokenizer.json, which has everything, and transformers 5 writes nothing else, so that
spiece.model is lost. Where several files are there, they must agree.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..errors import PlanError
from ..layout import ADDED_TOKENS, TOKENIZER, TOKENIZER_CONFIG
from ..text import counted, cut, joined
from .registry import load_tokenizer

_MOST_SHOWN = 5

# The classes that treat text as the original code does, but for what their settings say.
_SAME_CLASSES = frozenset(
    {
        "AlbertTokenizer",
        "BertTokenizer",
        "ElectraTokenizer",
        "MobileBertTokenizer",
        "PreTrainedTokenizer",
        "TokenizersBackend",
    }
)

Document = TypeVar("Document")


class _Model(Struct):
    vocab: dict[str, int] | list[tuple[str, float]]  # tokens -> ids, or tokens and scores by id
    type: str | None = None  # which early versions of tokenizers leave out
    merges: object = None
    continuing_subword_prefix: str | None = None

    @property
    def kind(self) -> str:
        if self.type is not None:
            return self.type
        if isinstance(self.vocab, list):
            return "Unigram"
        if self.merges is not None:
            return "BPE"
        return "WordLevel" if self.continuing_subword_prefix is None else "WordPiece"

    @property
    def ids(self) -> Iterable[tuple[str, int]]:
        """The tokens and their ids."""
        if isinstance(self.vocab, dict):
            return self.vocab.items()
        return ((token, index) for index, (token, _) in enumerate(self.vocab))


class _Added(Struct):
    content: str


class _AddedWithId(_Added):
    id: int


class _TokenizerJson(Struct):
    """The parts of tokenizer.json that matter here."""

    model: _Model
    normalizer: object = None
    pre_tokenizer: object = None
    added_tokens: list[_AddedWithId] = []

    @property
    def lowers(self) -> bool:
        """Whether text is lower-cased."""
        normalizer = msgspec.json.encode(self.normalizer)
        # The second is what a BertNormalizer has.
        return b'"Lowercase"' in normalizer or b'"lowercase":true' in normalizer


class _TokenizerConfig(Struct):
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    tokenizer_class: str | None = None
    added_tokens_decoder: dict[int, _Added] = {}


class Written(Struct, frozen=True):
    """The vocabulary of a model folder, and how it treats text."""

    kind: str  # the name of a module of this folder
    tokens: tuple[str, ...]  # by id
    added: int  # the number of tokens, at the end, that the vocabulary itself lacks
    lowers: dict[str, bool]  # file -> whether text is lower-cased, of those that tell
    notes: list[str]  # where the original tokenizer treats text in another way


class Original(Struct, frozen=True):
    """A vocabulary as the original code reads it."""

    kind: str  # the name of a module of this folder
    data: bytes  # the vocabulary file
    tokens: tuple[str, ...]  # by id
    do_lower_case: bool | None  # None if no file tells, or two contradict each other
    notes: list[str]  # facts that a person should know


def original_vocabulary(files: Mapping[str, bytes], kinds: Sequence[str]) -> Original | None:
    """The vocabulary file that a model folder has, or that its other files stand for.

    The file's bytes are kept if they have all tokens. A vocab.txt that is made of other files has
    one token a line, in the order of the ids.

    Args:
        files: the folder's tokenizer files that exist: name -> content. Others are not read.
        kinds: the kinds of tokenizer that the model may have.

    Returns:
        The vocabulary; None if the folder has none.

    Raises:
        PlanError: a file is damaged, of another kind, or missing; two contradict each other; an id
            has no token, or two; or a token can't be written.
    """
    found = read_written(files, kinds)
    if found is None:
        return None
    kind, notes = load_tokenizer(found.kind), [*found.notes]
    if found.added:
        few = joined([cut(token, 40) for token in found.tokens[-found.added :]], _MOST_SHOWN)
        notes.append(
            f"{kind.VOCABULARY} ends with {counted(found.added, 'token')} that"
            f" {'was' if found.added == 1 else 'were'} added to the tokenizer: {few}. The original"
            " tokenizer knows no added tokens, and may split their text"
        )
    if {*found.lowers.values()} == {True, False}:
        lowers, does_not = sorted(found.lowers, key=found.lowers.__getitem__, reverse=True)
        notes.append(f"{lowers} says that text is lower-cased, and {does_not} that it is not")
    if kind.VOCABULARY in files and not found.added:
        data = files[kind.VOCABULARY]
    else:
        data = kind.vocabulary_file(found.tokens)
    said, odd = {*found.lowers.values()}, kind.vocabulary_notes(found.tokens)
    return Original(
        kind=found.kind,
        data=data,
        tokens=found.tokens,
        do_lower_case=said.pop() if len(said) == 1 else None,
        notes=[*notes, *(f"{kind.VOCABULARY}: {note}" for note in odd)],
    )


def padded(vocabulary: Original, rows: int) -> Original:
    """The vocabulary with as many tokens as the model has rows; the added ones get a name."""
    kind = load_tokenizer(vocabulary.kind)
    tokens = kind.pad_vocabulary(vocabulary.tokens, rows)
    return replace(vocabulary, data=kind.vocabulary_file(tokens), tokens=tokens)


def read_written(files: Mapping[str, bytes], kinds: Sequence[str]) -> Written | None:
    """The tokens of a model folder, and whether text is lower-cased.

    Args:
        files: the folder's tokenizer files that exist: name -> content. Others are not read.
        kinds: the kinds of tokenizer that the model may have.

    Returns:
        What is in the files; None if they have no vocabulary.

    Raises:
        PlanError: a file is damaged, or of another kind; two contradict each other; or an id has no
            token, or two.
    """
    document = _decoded(files, TOKENIZER, _TokenizerJson)
    config = _decoded(files, TOKENIZER_CONFIG, _TokenizerConfig) or _TokenizerConfig()
    name = _kind(files, kinds, document)
    if not name:
        return None
    kind = load_tokenizer(name)
    tokens: tuple[str, ...] = ()
    if kind.VOCABULARY in files:
        tokens = kind.read_vocabulary(files[kind.VOCABULARY], kind.VOCABULARY)
        if document is not None:
            _check_same(tokens, document, kind.VOCABULARY)
    elif document is not None:
        tokens = tuple(_appended((), document.model.ids, TOKENIZER))
        if not tokens:
            raise PlanError(f"{TOKENIZER} has no token")
    added = [
        *((token.content, token.id) for token in (document.added_tokens if document else ())),
        *((token.content, row) for row, token in config.added_tokens_decoder.items()),
        *(_decoded(files, ADDED_TOKENS, dict[str, int]) or {}).items(),
    ]
    more = _appended(tokens, added, "the tokens that were added to the vocabulary")
    lowers = {} if document is None else {TOKENIZER: document.lowers}
    if config.do_lower_case is not None:
        lowers[TOKENIZER_CONFIG] = config.do_lower_case
    return Written(
        kind=name,
        tokens=kind.append_tokens(tokens, more),
        added=len(more),
        lowers=lowers,
        notes=[*_differences(document, config)],
    )


def _decoded(files: Mapping[str, bytes], name: str, kind: type[Document]) -> Document | None:
    if name not in files:
        return None
    try:
        return msgspec.json.decode(files[name], type=kind)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{name} is damaged, or is not what its name says: {error}") from None


def _kind(files: Mapping[str, bytes], kinds: Sequence[str], document: _TokenizerJson | None) -> str:
    """The kind of tokenizer that the files are of; "" if they have no vocabulary."""
    loaded = {name: load_tokenizer(name) for name in kinds}
    if document is None:
        return next((name for name, kind in loaded.items() if kind.VOCABULARY in files), "")
    model = document.model
    wanted = joined([kind.MODEL for kind in loaded.values()])
    what = f"{TOKENIZER} is a {cut(model.kind, 40)} tokenizer"
    if model.continuing_subword_prefix not in (None, "##"):
        what += f" with {cut(model.continuing_subword_prefix, 40)!r} inside of words, not '##'"
    elif b'"ByteLevel"' in msgspec.json.encode(document.pre_tokenizer):
        what += " of bytes, not of characters"
    else:
        for name, kind in loaded.items():
            if model.kind == kind.MODEL:
                return name
        what += f", not {wanted}" if wanted else ""
    raise PlanError(f"{what}, so the model's original code can't read its vocabulary")


def _check_same(tokens: Sequence[str], document: _TokenizerJson, vocabulary: str) -> None:
    """Whether tokenizer.json has the vocabulary's tokens; of one that is there twice, the last."""
    if dict(document.model.ids) == {token: row for row, token in enumerate(tokens)}:
        return  # as for most
    file = {_plain(token): row for row, token in enumerate(tokens)}
    by_id = sorted(document.model.ids, key=lambda pair: pair[1])
    written = {_plain(token): row for token, row in by_id}
    if file != written:
        differ = {row for _, row in file.items() ^ written.items()}
        raise PlanError(
            f"{TOKENIZER} and {vocabulary} have different tokens, the first at {min(differ):,}."
            " Remove the one that is not the model's"
        )


def _appended(tokens: Sequence[str], pairs: Iterable[tuple[str, int]], source: str) -> list[str]:
    """The tokens that come after `tokens`, in the order of their ids.

    Args:
        tokens: those with the first ids.
        pairs: tokens and their ids; some may be among `tokens`.
        source: where they are from, for errors.

    Raises:
        PlanError: an id has no token, or two, or a token has two.
    """
    pairs = [*pairs]
    is_known = all(0 <= row < len(tokens) for _, row in pairs)
    known = set() if is_known else {_plain(token) for token in tokens}
    more: dict[int, str] = {}
    for token, row in pairs:
        if 0 <= row < len(tokens):
            other = tokens[row]
        else:
            other = more.setdefault(row, token)
            if _plain(token) in known:
                raise PlanError(f"{source}: {cut(token, 40)!r} has two ids, one of which is {row}")
        if _plain(other) != _plain(token):
            raise PlanError(
                f"{source}: both {cut(other, 40)!r} and {cut(token, 40)!r} have the id {row}"
            )
    for expected, row in enumerate(sorted(more), len(tokens)):
        if row != expected:
            raise PlanError(
                f"{source}: no token has the id {expected}, and {cut(more[row], 40)!r} has {row}"
            )
    if len({*more.values()}) < len(more):
        raise PlanError(f"{source}: a token has several ids")
    return [more[row] for row in sorted(more)]


def _plain(token: str) -> str:
    """A token as the original code reads it from a line of a file."""
    return token.replace("\r", "").strip()


def _differences(document: _TokenizerJson | None, config: _TokenizerConfig) -> Iterator[str]:
    """Where the folder's tokenizer treats text in another way than the original one."""
    stated: dict[str, Any] = {}
    if document is not None and isinstance(document.normalizer, dict):
        stated = document.normalizer
    lowers = stated.get("lowercase", config.do_lower_case)
    strips = stated.get("strip_accents", config.strip_accents)
    if isinstance(strips, bool) and isinstance(lowers, bool) and strips is not lowers:
        yield (
            f"the folder's tokenizer {'strips' if strips else 'keeps'} accents; the original one"
            " strips them if it lower-cases text, and only then"
        )
    if stated.get("handle_chinese_chars", config.tokenize_chinese_chars) is False:
        yield (
            "the folder's tokenizer does not split Chinese text into characters; the original one"
            " does"
        )
    name = config.tokenizer_class
    if name and name.removesuffix("Fast") not in _SAME_CLASSES:
        yield (
            f"the folder's tokenizer is of the class {cut(name, 40)}, so the original one may split"
            " text in another way"
        )
