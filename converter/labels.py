"""The names of a classifier's labels, in the forms in which programs keep them in files.

The names by id come as one name a line; as a JSON list; as a JSON object, {"0": "no", "1": "yes"}
or {"no": 0, "yes": 1}; or as such a list or object under a key such as `id2label`. Pickles are
refused, because reading one may run any program.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .errors import PlanError
from .text import cut, joined

Labels = dict[int, str]

_CONFIG_KEYS = ("id2label", "label2id", "label_map")
_KEYS = (*_CONFIG_KEYS, "label_list", "labels")
_PICKLES = (".pkl", ".pickle", ".p")
_MOST_SHOWN = 5


def is_pickle(name: str, data: bytes = b"") -> bool:
    """Whether a file is a pickle, by its name or its first bytes."""
    # From protocol 2 on, a pickle begins with its number.
    return name.lower().endswith(_PICKLES) or (data[:1] == b"\x80" and data[1:2] in b"\2\3\4\5")


def read_labels(data: bytes, source: str) -> Labels:
    """The names of a file's labels by id.

    Args:
        data: the file's content.
        source: the file's name, for errors.

    Raises:
        PlanError: it is a pickle, no text, or does not name labels.
    """
    if is_pickle(source, data):
        raise PlanError(
            f"{source} is a pickle, which may run any program when it is read, so it was not read."
            " Write its labels to a text file, one a line in the order of their ids, and name it"
            " with --labels"
        )
    import json  # which few conversions need

    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PlanError(f"{source}, line {line}: not UTF-8 ({error.reason})") from None
    # A name may begin with a bracket, too, such as "[PAD]".
    if source.lower().endswith(".json") or text.startswith(("[", "{")):
        try:
            return _from_json(json.loads(text, object_pairs_hook=_object), source)
        except (ValueError, RecursionError) as error:
            if source.lower().endswith(".json"):
                raise PlanError(f"{source} does not name labels: {error}") from None
    return from_names([line.strip() for line in text.split("\n")], source)


def names_a_file(labels: str, folder: Path = Path()) -> bool:
    """Whether the option `labels` means a file: one in the folder, a URL, or no list of names."""
    return "," not in labels or "://" in labels or (folder / labels).expanduser().is_file()


def from_names(names: Sequence[str], source: str) -> Labels:
    """Labels whose ids are the places of their names.

    Raises:
        PlanError: a name is empty, or there twice.
    """
    return _checked([*enumerate(names)], source)


def labels_of(config: Mapping[str, object], source: str) -> Labels | None:
    """The labels that a model's config names; None if it names none.

    transformers writes "LABEL_0" and so on where it knows no name, which names nothing.

    Raises:
        PlanError: they make no sense.
    """
    known = {key: config[key] for key in _CONFIG_KEYS if isinstance(config.get(key), dict)}
    found = _from_json(known, source) if any(known.values()) else {}
    return found if any(name != generic_name(i) for i, name in found.items()) else None


def names_by_id(labels: Labels, count: int, source: str) -> tuple[str, ...]:
    """The names of a head's labels in the order of their ids.

    Programs that keep the id 0 for padding name the others from 1. The id 0 is then "LABEL_0", as
    transformers calls a label without a name.

    Args:
        labels: the names by id.
        count: the number of labels that the head has.
        source: where the names are from, for errors.

    Raises:
        PlanError: the ids are not those of the head.
    """
    if set(labels) == set(range(1, count)):
        labels = {0: generic_name(0), **labels}
    if set(labels) != set(range(count)):
        few = "label" if len(labels) == 1 else "labels"
        ids = sorted(labels)
        span = f" with the ids {ids[0]} to {ids[-1]}" if ids != [*range(len(ids))] else ""
        some = joined([cut(labels[i], 40) for i in ids], _MOST_SHOWN)
        raise PlanError(
            f"{source} has {len(labels):,} {few}{span} ({some}), but the head has {count:,}."
            " --labels names a file with the right ones, or the names themselves, as in --labels"
            f" {','.join(map(generic_name, range(min(count, 3))))}{',...' if count > 3 else ''}"
        )
    return tuple(labels[i] for i in range(count))


def generic_name(label: int) -> str:
    """What transformers calls a label without a name."""
    return f"LABEL_{label}"


def usual_problem_type(count: int) -> str:
    """What transformers takes a classifier with so many labels for, unless config.json says it."""
    return "regression" if count == 1 else "single_label_classification"


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, in which no key may be twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {cut(twice)!r} is there twice")
    return found


def _from_json(value: object, source: str) -> Labels:
    inner = [value[key] for key in _KEYS if isinstance(value, dict) and key in value]
    found = [_named(item, source) for item in inner if isinstance(item, dict | list)]
    if any(labels != found[0] for labels in found):
        raise PlanError(f"{source} names different labels under several keys")
    return found[0] if found else _named(value, source)


def _named(value: object, source: str) -> Labels:
    if isinstance(value, list):
        return _checked([*enumerate(value)], source)
    if not isinstance(value, dict) or not value:
        raise PlanError(f"{source} is neither a list of labels nor an object with their ids")
    if all(isinstance(item, str) for item in value.values()) and all(map(_is_id, value)):
        return _checked([(int(key), name) for key, name in value.items()], source)
    wrong = next((item for item in value.values() if not _is_id(item)), None)
    if wrong is not None:
        raise PlanError(
            f'{source} is neither like {{"0": "name"}} nor like {{"name": 0}}: it has'
            f" {cut(repr(wrong))}"
        )
    return _checked([(int(item), name) for name, item in value.items()], source)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) < 10
    return type(value) is int and 0 <= value < 1_000_000_000


def _checked(labels: Iterable[tuple[int, object]], source: str) -> Labels:
    found: Labels = {}
    ids: dict[str, int] = {}
    for label, name in labels:
        if not isinstance(name, str) or not name.strip():
            raise PlanError(f"{source}: the label {label} is {cut(repr(name))}, which is no name")
        if label in found:
            raise PlanError(f"{source}: {cut(found[label])} and {cut(name)} have the id {label}")
        if name in ids:
            raise PlanError(f"{source}: {cut(name)} is the name of {ids[name]} and of {label}")
        found[label], ids[name] = name, label
    if not found:
        raise PlanError(f"{source} has no label")
    return found
