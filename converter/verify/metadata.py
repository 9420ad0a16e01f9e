"""Level weights, beside the tensors: config, tokenizer and provenance agree with the checkpoint."""

import os

import msgspec
from msgspec import Struct

from ..mapping import SizeRule
from ..prepare import source_file
from .model_folder import ModelFolder
from .subject import Subject, find
from .verdict import Check, Match

# What transformers' BertConfig takes for granted, and what would make another function of it.
_NEUTRAL: dict[str, object] = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "chunk_size_feed_forward": 0,
}
# transformers' names of one and the same function (ACT2FN in activations.py).
_ALIASES = {"gelu_new": "gelu_pytorch_tanh", "gelu_python": "gelu"}
# BertConfig's own value of a key that config.json does not have.
_UNSAID = {"layer_norm_eps": 1e-12, "pad_token_id": 0, "hidden_act": "gelu"}


class _Model(Struct):
    vocab: dict[str, int]


class _Tokenizer(Struct):
    """What counts here of tokenizer.json."""

    model: _Model
    normalizer: object = None


def prove_agreement(subject: Subject, matches: list[Match]) -> tuple[list[Check], list[str]]:
    """Hold config, tokenizer and provenance against the checkpoint.

    Args:
        subject: the two sides.
        matches: the tensors, as `prove_weights` found them.

    Returns:
        A check of each that is there, and notes on what is not.
    """
    notes: list[str] = []
    wrong = [*_sizes(subject, notes), *_values(subject), *_activation(subject)]
    checks = [_check("config.json", wrong, "sizes, heads, constants and activation fit")]
    checks += _tokenizer(subject, notes)
    if subject.folder.provenance is None:
        notes.append("conversion.json is missing, so where OUT came from was not checked")
    else:
        wrong = _sources(subject) or _record(subject, matches)
        checks.append(_check("conversion.json", wrong, "names this checkpoint, and every tensor"))
        path = subject.folder.provenance.mapping.get("sha256")
        if path != subject.mapping_sha256:
            notes.append(
                f"the mapping {subject.mapping.name} is not, to the byte, the one that made OUT"
            )
    return checks, notes


def expected_activation(subject: Subject) -> tuple[str, str]:
    """TensorFlow's name of the activation, and transformers' name of the same function."""
    rule = subject.mapping.activation
    if rule is None:
        return "", ""
    stated = (subject.google_config or {}).get(rule.config, rule.default)
    name = stated.lower() if isinstance(stated, str) else ""
    offered = rule.names.get(name, "")
    if isinstance(offered, dict):
        choice = subject.options.activation
        return name, offered.get(choice) or next(iter(offered.values()))
    return name, offered


def expected_heads(subject: Subject) -> int | None:
    """The attention heads, by bert_config.json, by the caller, or by the mapping's assumption."""
    for symbol, rule in subject.mapping.sizes.items():
        if isinstance(rule, SizeRule):
            stated = (subject.google_config or {}).get(subject.mapping.size_key(symbol))
            if isinstance(stated, int):
                return stated
            sizes = _told(subject)
            if subject.options.num_heads is not None:
                return subject.options.num_heads
            return rule.assumed({key: size for key, (size, _) in sizes.items()})
    return None


def _told(subject: Subject) -> dict[str, tuple[int, str]]:
    """The sizes that the variables tell, by symbol, each with the variable that tells it."""
    told = {symbol: (size, "their names") for symbol, size in subject.layers.items()}
    local = subject.local()
    for pair in subject.pairs():
        name = find(pair, local)
        shape = subject.checkpoint.variables[name].shape if name else ()
        for symbol, size in zip(pair.shape, shape, strict=False):
            if isinstance(symbol, str):
                told.setdefault(symbol, (size, name))
    return told


def _sizes(subject: Subject, notes: list[str]) -> list[str]:
    config, mapping = subject.folder.config, subject.mapping
    told = {symbol: size for symbol, (size, _) in _told(subject).items()}
    wrong = []
    for symbol, rule in mapping.sizes.items():
        key = mapping.size_key(symbol)
        stated = config.get(key)
        if key == "num_labels":
            labels = config.get("id2label")
            stated = len(labels) if isinstance(labels, dict) else 2
        if isinstance(rule, SizeRule):
            heads = expected_heads(subject)
            known = subject.google_config is not None or subject.options.num_heads is not None
            if stated != heads:
                by = f"bert_config.json or --num-heads says {heads}"
                guess = (
                    f"{rule.assume} would be {heads}; --config or --num-heads says what it must be"
                )
                wrong.append(f"{key} is {stated}, and {by if known else guess}")
            elif not known:
                notes.append(
                    f"{key} = {heads} is an assumption ({rule.assume}): no config tells it"
                )
        elif symbol in told and stated != told[symbol]:
            wrong.append(f"{key} is {stated}, and the checkpoint has {told[symbol]}")
    return wrong


def _values(subject: Subject) -> list[str]:
    config, mapping = subject.folder.config, subject.mapping
    google = subject.google_config or {}
    expected: dict[str, object] = {"model_type": mapping.model_type, **mapping.config}
    expected |= {key: google.get(key, value) for key, value in mapping.defaults.items()}
    wrong = [
        f"{key} is {config.get(key, _UNSAID.get(key))!r}, and should be {value!r}"
        for key, value in expected.items()
        if config.get(key, _UNSAID.get(key, value)) != value
    ]
    wrong += [
        f"{key} is {config[key]!r}, which makes another function of it"
        for key, value in _NEUTRAL.items()
        if config.get(key, value) != value
    ]
    return wrong


def _activation(subject: Subject) -> list[str]:
    rule = subject.mapping.activation
    if rule is None:
        return []
    google, expected = expected_activation(subject)
    stated = subject.folder.config.get(rule.config, _UNSAID.get(rule.config))
    if _ALIASES.get(str(stated), stated) == expected:
        return []
    hint = ""
    offered = rule.names.get(google)
    if isinstance(offered, dict):
        hint = "".join(
            f". If the checkpoint was trained with the {word} form, --activation {word} says so"
            for word, name in offered.items()
            if name == _ALIASES.get(str(stated), stated)
        )
    return [f"{rule.config} is {stated!r}, and modeling.py's {google!r} is {expected!r}{hint}"]


def _tokenizer(subject: Subject, notes: list[str]) -> list[Check]:
    folder, tokens = subject.folder, subject.vocabulary
    there = [name for name in ("vocab.txt", "tokenizer.json") if (folder.path / name).exists()]
    said = folder.provenance
    vocabulary = said is not None and any(source.role == "vocabulary" for source in said.sources)
    missing = [name for name in ("vocab.txt", "tokenizer.json") if name not in there]
    if missing and vocabulary:
        return [Check("weights", "tokenizer", False, f"{' and '.join(missing)} missing")]
    if not there:
        notes.append("there is no tokenizer in OUT, so none was checked")
        return []
    if tokens is None:
        notes.append("no vocab.txt beside the checkpoint: --vocab names what the tokenizer must be")
    try:
        wrong = _tokenizer_faults(folder, tokens, subject.do_lower_case)
    except (OSError, ValueError, RecursionError) as error:
        wrong = [f"a file of it can't be read: {error}"]
    rows = subject.folder.config.get("vocab_size")
    return [_check("tokenizer", wrong, f"the vocabulary has the model's {rows:,} tokens")]


def _tokenizer_faults(
    folder: ModelFolder, tokens: tuple[str, ...] | None, lower_case: bool | None
) -> list[str]:
    wrong = []
    plain, fast = folder.path / "vocab.txt", folder.path / "tokenizer.json"
    written: list[str] = []
    if plain.exists():
        written = plain.read_bytes().decode().split("\n")
        while written and not written[-1]:
            written.pop()
    if fast.exists():
        tokenizer = msgspec.json.decode(fast.read_bytes(), type=_Tokenizer)
        ids = tokenizer.model.vocab
        if written and ids != {token: index for index, token in enumerate(written)}:
            wrong.append("tokenizer.json and vocab.txt have different tokens")
        written = written or sorted(ids, key=ids.__getitem__)
        normalizer = msgspec.json.encode(tokenizer.normalizer)
        # The latter is how a BertNormalizer says it.
        lowers: bool | None = b'"Lowercase"' in normalizer or b'"lowercase":true' in normalizer
    else:
        lowers = None
    rows = folder.config.get("vocab_size")
    if len(written) != rows:
        wrong.append(f"vocab.txt has {len(written):,} tokens, and the model {rows:,} rows")
    if tokens is not None:
        last = {token: index for index, token in enumerate(tokens)}
        changed = [
            index
            for index, (old, new) in enumerate(zip(tokens, written, strict=False))
            if old != new and last[old] == index
        ]
        if changed or len(tokens) != len(written):
            where = f", first at {changed[0]:,}" if changed else ""
            wrong.append(f"{len(changed):,} tokens are not the checkpoint's vocabulary's{where}")
    if None not in (lower_case, lowers) and lowers is not lower_case:
        wrong.append(
            f"tokenizer.json {'lower-cases' if lowers else 'does not lower-case'} text, and the"
            f" vocabulary is {'uncased' if lower_case else 'cased'}"
        )
    config = folder.path / "tokenizer_config.json"
    said: dict[str, object] = {}
    if config.exists():
        said = msgspec.json.decode(config.read_bytes(), type=dict[str, object])
    if lowers is not None and said.get("do_lower_case", lowers) is not lowers:
        wrong.append(f"tokenizer_config.json says do_lower_case = {said['do_lower_case']}")
    return wrong


def _sources(subject: Subject) -> list[str]:
    """The files that OUT was made of, by conversion.json, against those at hand."""
    said = subject.folder.provenance
    assert said is not None
    index = subject.checkpoint.index
    wrong = []
    for source in said.sources:
        if source.role == "index" and source.sha256:
            sha256 = source_file("index", index).sha256
            if sha256 != source.sha256:
                wrong.append(
                    f"OUT was made from another checkpoint: its index had the sha256"
                    f" {source.sha256[:16]}..., and {os.path.basename(index.name)} has"
                    f" {sha256[:16]}..."
                )
    sizes = sorted(source.size for source in said.sources if source.role == "data")
    found = sorted(file.size for file in subject.checkpoint.data_files())
    if sizes != found:
        wrong.append(f"the data had {sum(sizes):,} bytes, and has {sum(found):,}")
    return wrong


def _record(subject: Subject, matches: list[Match]) -> list[str]:
    """What conversion.json says of each tensor, against what was found."""
    said, checkpoint = subject.folder.provenance, subject.checkpoint
    assert said is not None
    wrong = []
    by_tensor: dict[str, Match] = {match.tensor: match for match in matches}
    for tensor in sorted(by_tensor.keys() ^ said.tensors.keys()):
        wrong.append(
            f"{tensor} is {'not in it' if tensor in by_tensor else 'in it, and not in OUT'}"
        )
    for tensor in by_tensor.keys() & said.tensors.keys():
        match, origin = by_tensor[tensor], said.tensors[tensor]
        if (origin.variable, origin.transform) != (match.variable, match.op):
            wrong.append(f"{tensor} is said to be {origin.variable} ({origin.transform})")
        elif origin.crc32c and int(origin.crc32c, 16) != checkpoint.checksum(match.variable):
            wrong.append(f"{match.variable} had the crc32c {origin.crc32c}, and has another")
        if origin.dtype != match.dtype:
            wrong.append(f"{tensor} is said to be {origin.dtype}, and is {match.dtype}")
    transformers = subject.mapping.activation and said.activation.get("transformers")
    stated = subject.folder.config.get("hidden_act")
    if transformers and stated not in (None, transformers):
        wrong.append(f"config.json was edited: hidden_act was {transformers!r}")
    taken = {match.variable for match in matches}
    for name in sorted(set(subject.checkpoint) - taken - said.dropped.keys()):
        wrong.append(f"{name} is not in it")
    return wrong


def _check(name: str, wrong: list[str], right: str) -> Check:
    shown = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4:,} more" if len(wrong) > 4 else "")
    return Check("weights", name, not wrong, shown or right)
