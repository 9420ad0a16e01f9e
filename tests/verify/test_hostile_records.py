"""Golden records from outside: damaged, edited, or made to deceive. Each is a clear error.

What a model computes is made up here, because records are checked without any model.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bertconvert import BertconvertError, VerificationError, convert, record, verify
from bertconvert.cli import cli
from bertconvert.converter.models.reference import Samples
from bertconvert.converter.verify import Record, find_record, read_record
from bertconvert.converter.verify.batches import Batch, Original
from bertconvert.converter.verify.distance import PRODUCTS, Sketch
from bertconvert.converter.verify.golden_record import to_bytes
from bertconvert.converter.verify.verdict import Activation

from .record_writer import Arrays, parts, sealed, written

ROOT = Path(__file__).parents[2]
Facts = dict[str, Any]


def invented(made: Record) -> Record:
    """A record at level gradients, with numbers that no model computed."""
    ids = np.arange(12, dtype=np.int32).reshape(2, 6)
    mask = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]], np.int32)
    rows = np.array([0, 2, 5, 6, 8])
    samples = Samples(ids, mask, ids % 2, rows, rows[[1, 3]])
    shapes = {"embeddings": (5, 32), "layer_0": (5, 32), "layer_1": (5, 32)}
    shapes |= {"pooled": (2, 32), "mlm_logits": (2, 128), "nsp_logits": (2, 2)}
    outputs = {name: np.ones(shape) for name, shape in shapes.items()}
    gradients = {
        entry.name: Sketch(1.0, (0.5,) * PRODUCTS, 0.0) for entry in made.planned.plan.entries
    }
    batch = Batch(samples, outputs, {"next_sentence_label": np.zeros(2)}, 1.0, gradients)
    activation = Activation("this", "that", 0.5, "pooled")
    original = Original([batch], dict.fromkeys(outputs, 1e-6), activation, "2.21.0")
    return replace(made, level="gradients", samples=2, positions=4, original=original)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    made = record(ROOT / "fixtures/pretraining", folder / "r.safetensors", level="weights")
    (folder / "r.safetensors").write_bytes(to_bytes(invented(made)))
    return folder / "r.safetensors"


@pytest.fixture(scope="module")
def whole(file: Path) -> tuple[Facts, Facts, Arrays]:
    return parts(file)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "hostile.safetensors"


@pytest.fixture
def refused(place: Path, converted: Callable[[str], Path]) -> Callable[[bytes], str]:
    """Whether `verify` refuses a record, at level weights, and what it says."""

    def say(content: bytes) -> str:
        place.write_bytes(content)
        with pytest.raises(VerificationError) as error:
            verify(place, converted("pretraining"), level="weights")
        assert "hostile.safetensors" in str(error.value)
        return str(error.value)

    return say


def read(place: Path) -> Record:
    found = find_record(place)
    assert found is not None
    return read_record(found)


def test_what_is_changed_here_is_a_record_as_it_is(
    file: Path, place: Path, whole: Any, converted: Callable[[str], Path]
) -> None:
    assert verify(file, converted("pretraining"), level="weights").passed
    place.write_bytes(sealed(*whole))
    assert verify(place, converted("pretraining"), level="weights").passed
    assert read(place).level == "gradients"


def test_a_record_that_is_cut_off_anywhere(file: Path, refused: Callable[[bytes], str]) -> None:
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for end in (200, 1000, header - 1, header, header + 1, header + 400, len(content) - 1):
        assert "it is damaged" in refused(content[:end])


def test_a_record_with_any_byte_changed(file: Path, refused: Callable[[bytes], str]) -> None:
    content = file.read_bytes()
    for at in (150, 5000, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        assert "was damaged or edited" in (said := refused(changed)) or "it is damaged" in said


@pytest.mark.parametrize("key", ["version", "facts", "computed", "sha256"])
@pytest.mark.parametrize("value", [None, "", "[]", "null", 1, {"a": "b"}, "[" * 10**5], ids=str)
def test_metadata_of_another_form(
    key: str, value: Any, whole: Any, refused: Callable[[bytes], str]
) -> None:
    metadata = {
        "format": "bertconvert golden record",
        "version": "1",
        "facts": json.dumps(whole[0]),
        "computed": json.dumps(whole[1]),
        "sha256": "0" * 64,
    }
    metadata |= {key: value}
    if value is None:
        del metadata[key]
    assert "the record " in refused(written(metadata, whole[2]))


def test_a_record_of_a_newer_format(whole: Any, refused: Callable[[bytes], str]) -> None:
    metadata = {"format": "bertconvert golden record", "version": "2", "anything": "else"}
    said = refused(written(metadata, {}))
    assert "its format has version 2, and this bertconvert knows 1. Update bertconvert" in said


def test_a_header_of_nested_lists_only(refused: Callable[[bytes], str]) -> None:
    text = b'{"__metadata__":{"format":"bertconvert golden record"},"a":' + b"[" * 10**5
    assert "it is damaged" in refused(len(text).to_bytes(8, "little") + text)


def test_a_header_that_claims_to_be_huge(file: Path, refused: Callable[[bytes], str]) -> None:
    content = file.read_bytes()
    for size in (2**40, 2**63, 2**64 - 1):
        assert "it is damaged" in refused(size.to_bytes(8, "little") + content[8:])


def edited(whole: Any, **changes: Any) -> bytes:
    """A record with other facts; a name such as `planned__padding` is a path."""
    facts, computed, arrays = whole
    facts = json.loads(json.dumps(facts))
    for path, value in changes.items():
        inner = facts
        *folders, last = path.split("__")
        for key in folders:
            inner = inner[key]
        inner[last] = value
    return sealed(facts, computed, arrays)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"planned__mapping__reference": "../../os"}, "converter/models has no such module"),
        ({"planned__mapping__tokenizer": "os"}, "converter/tokenizers has no such module"),
        ({"planned__tokenizer": "registry"}, "its vocabulary does not fit its tokenizer"),
        ({"planned__tokenizer": ""}, "its vocabulary does not fit its tokenizer"),
        ({"planned__padding": -1}, "it has more padding than tokens"),
        ({"planned__padding": 10**9}, "it has more padding than tokens"),
        ({"planned__plan__sizes": {"L": -1}}, "another plan, by its sizes"),
        ({"planned__plan__sizes": {"L": 10**9}}, "another plan, by its sizes"),
        ({"planned__plan__entries": []}, "another plan, by its entries"),
        ({"planned__plan__config": {}}, "another plan, by its config"),
        ({"planned__plan__groups": ["encoder"]}, "another plan, by its groups"),
        ({"planned__options__head": "none"}, "another plan, by its architecture"),
        ({"planned__options__dtype": "float16"}, "another plan, by its entries"),
        ({"planned__config__num_attention_heads": 10**9}, "its variables can't be converted"),
        ({"planned__labels": ["a", "b"]}, "it names 2 labels, and the model has 0"),
        ({"pad_id": 5}, "its padding token is not the one"),
        ({"pad_id": None}, "its padding token is not the one"),
        ({"pins": {}}, "its variables can't be converted"),
        ({"files": []}, "it names no index"),
        ({"level": "everything"}, "Invalid enum value 'everything'"),
        ({"level": "outputs"}, "it has gradients, and its level is outputs"),
        ({"level": "weights"}, "it has outputs, and its level is weights"),
        ({"samples": 8}, "it has 2 sequences, and names 8"),
        ({"samples": -1}, "Expected `int` >= 0"),
        ({"positions": 2}, "it compares a sequence at more than 2 positions"),
        ({"made": "today \x1b[31m"}, "matching regex"),
        ({"tool": "x" * 10**6}, "length <= 200"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_facts_that_contradict_each_other(
    changes: Facts, said: str, whole: Any, refused: Callable[[bytes], str]
) -> None:
    assert said in refused(edited(whole, **changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sha256", ""),
        ("crc32c", None),
        ("dtype", "float16"),
        ("nonfinite", -1),
    ],
)
def test_a_pin_that_is_not_complete(
    key: str, value: Any, whole: Any, refused: Callable[[bytes], str]
) -> None:
    name = "bert/embeddings/LayerNorm/beta"
    pins = whole[0]["pins"] | {name: whole[0]["pins"][name] | {key: value}}
    said = refused(edited(whole, pins=pins))
    assert f"what it knows of the variable {name} is not complete" in said


def test_a_shape_with_more_elements_than_can_be_counted(
    whole: Any, refused: Callable[[bytes], str]
) -> None:
    name = "bert/embeddings/word_embeddings"
    for shape in ([2**62, 2**62], [-128, -32], [0, 0], []):
        pins = json.loads(json.dumps(whole[0]["pins"]))
        pins[name]["variable"]["shape"] = shape
        assert "it contradicts itself: its variables can't be" in refused(edited(whole, pins=pins))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("batches", 10**9, "it lacks the array 1/input_ids"),
        ("batches", 0, "Expected `int` >= 1"),
        ("batches", -1, "Expected `int` >= 1"),
        ("outputs", [], "that nothing names: 0/outputs/"),
        ("outputs", ["embeddings", "embeddings"], "it lacks the array 0/outputs/embeddings"),
        ("outputs", ["../x"], "it lacks the array 0/outputs/../x"),
        ("activation", None, "that nothing names: activation_cost"),
        ("activation", ["a"], "its facts can't be read"),
        ("tensorflow", 2, "its facts can't be read"),
    ],
)
def test_what_is_computed_in_another_form(
    key: str, value: Any, said: str, whole: Any, refused: Callable[[bytes], str]
) -> None:
    facts, computed, arrays = whole
    assert said in refused(sealed(facts, computed | {key: value}, arrays))


def test_layers_in_another_order(whole: Any, refused: Callable[[bytes], str]) -> None:
    facts, computed, arrays = whole
    outputs = computed["outputs"]
    for order in ([*reversed(outputs)], ["layer_0", "embeddings", *outputs[2:]]):
        said = refused(sealed(facts, computed | {"outputs": order}, arrays))
        assert "it has not the outputs of all layers" in said


ARRAYS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("0/input_ids", lambda a: a + 128, "ids that the model has no vocabulary for"),
    ("0/input_ids", lambda a: a - 1, "ids that the model has no vocabulary for"),
    ("0/input_ids", lambda a: a.astype(np.int64), "is int64 [2, 6]"),
    ("0/input_ids", lambda a: a[0], "is int32 [6]"),
    ("0/input_ids", lambda a: a[:0], "is int32 [2, 6], which is not"),
    ("0/segment_ids", lambda a: a + 1, "ids that the model has no segments for"),
    ("0/segment_ids", lambda a: a[:1], "is int32 [1, 6]"),
    ("0/input_mask", lambda a: a * 2, "is not a mask"),
    ("0/input_mask", lambda a: 1 - a, "is not a mask"),
    ("0/input_mask", lambda a: a * 0, "does not list tokens"),
    ("0/rows", lambda a: a + 10**9, "does not list tokens"),
    ("0/rows", lambda a: a - 1, "does not list tokens"),
    ("0/rows", lambda a: a[::-1], "does not list tokens"),
    ("0/rows", lambda a: a[1:], "lacks a first token"),
    ("0/rows", lambda a: a[:0], "lacks a first token"),
    ("0/masked", lambda a: a + 3, "does not list tokens"),
    ("0/masked", lambda a: np.array([1]), "lacks a first token, or a position of"),
    ("0/outputs/layer_0", lambda a: a[:-1], "has the shape [4, 32]"),
    ("0/outputs/layer_0", lambda a: a.astype(np.float32), "is float32 [5, 32]"),
    ("0/outputs/mlm_logits", lambda a: a[:0], "has the shape [0, 128]"),
    ("0/outputs/nsp_logits", lambda a: a.reshape(-1)[:0], "has the shape [0]"),
    ("0/outputs/layer_0", lambda a: a[:, :0], "an output without a number"),
    ("0/labels/input_ids", lambda a: np.ones(2), "labels that no class takes: input_ids"),
    ("0/labels/project", lambda a: np.ones(2), "its projections do not fit the outputs"),
    ("0/loss", lambda a: np.ones(2), "is float64 [2]"),
    ("0/gradients/bert/pooler/dense/bias", lambda a: a[:-1], "is float64 [9]"),
    ("0/gradients/bert/pooler/dense/bias", lambda a: a * np.nan, "no sum of finite numbers"),
    ("0/gradients/bert/pooler/dense/bias", lambda a: a + np.inf, "no sum of finite numbers"),
    ("0/gradients/bert/pooler/dense/bias", lambda a: -a, "no sum of finite numbers"),
    ("float32_errors/pooled", lambda a: a * np.nan, "is negative, or not a number"),
    ("float32_errors/pooled", lambda a: -a, "is negative, or not a number"),
    ("activation_cost", lambda a: a * np.nan, "is negative, or not a number"),
    ("vocabulary", lambda a: a[:-1], "it is not what a record has"),
    ("vocabulary", lambda a: a * 0, "it is not what a record has"),
]


@pytest.mark.parametrize(
    ("name", "change", "said"), ARRAYS, ids=[f"{name}: {said}" for name, _, said in ARRAYS]
)
def test_an_array_of_another_form(
    name: str,
    change: Callable[[Any], Any],
    said: str,
    whole: Any,
    refused: Callable[[bytes], str],
) -> None:
    facts, computed, arrays = whole
    changed = np.ascontiguousarray(change(arrays.get(name)))
    assert said in refused(sealed(facts, computed, arrays | {name: changed}))


def test_any_array_that_is_missing(whole: Any, refused: Callable[[bytes], str]) -> None:
    facts, computed, arrays = whole
    for name in (n for n in arrays if "gradients" not in n):
        assert refused(sealed(facts, computed, {n: a for n, a in arrays.items() if n != name}))


def test_an_array_that_nothing_names(whole: Any, refused: Callable[[bytes], str]) -> None:
    facts, computed, arrays = whole
    for name in ("more", "1/input_ids", "0/more", "0/outputs/layer_2"):
        said = refused(sealed(facts, computed, arrays | {name: np.ones(1)}))
        assert f"it has an array that nothing names: {name}" in said
    said = refused(sealed(facts, computed, arrays | {"0/gradients/x": np.ones(PRODUCTS + 2)}))
    assert "it has the gradient of x, which is no variable of the model" in said


def test_an_array_whose_shape_is_huge(file: Path, refused: Callable[[bytes], str]) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for shape in ([2**62, 4], [2**40, 2**40], [-1, 6]):
        header = json.loads(content[8 : 8 + length])
        header["0/input_ids"]["shape"] = shape
        text = json.dumps(header).encode()
        whole = len(text).to_bytes(8, "little") + text + content[8 + length :]
        assert "it is damaged" in refused(whole)


VALUES = [None, True, 0, -1, 10**9, 2**70, 1e308, "", "os", "{l}", "(", [], [[]], {}, {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all that a JSON document has."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_is_edited_raises_no_other_error(
    data: st.DataObject, whole: Any, place: Path, converted: Callable[[str], Path]
) -> None:
    documents: dict[str, Any] = {"facts": whole[0], "computed": whole[1]}
    documents = json.loads(json.dumps(documents))
    kinds: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for path in places(documents):
        if len(path) > 1:
            kinds.setdefault(tuple("#" if "/" in str(k) else k for k in path), []).append(path)
    *folders, last = data.draw(st.sampled_from([paths[0] for paths in kinds.values()]))
    inner: Any = documents
    for key in folders:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = data.draw(st.sampled_from(VALUES))
    else:
        del inner[last]
    place.write_bytes(sealed(documents["facts"], documents["computed"], whole[2]))
    try:
        verify(place, converted("pretraining"), level="weights")
    except BertconvertError as error:
        assert str(error)


@pytest.mark.parametrize("kind", ["folder", "fifo", "empty", "null", "weights", "text"])
@pytest.mark.parametrize("name", ["r.safetensors", "r"])
def test_what_is_no_record(
    kind: str, name: str, tmp_path: Path, converted: Callable[[str], Path]
) -> None:
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "null":
        path.symlink_to(os.devnull)
    else:
        weights = (converted("pretraining") / "model.safetensors").read_bytes()
        path.write_bytes({"empty": b"", "weights": weights, "text": b"a record"}[kind])
    command = [sys.executable, "-m", "bertconvert", "verify", path, converted("pretraining")]
    command += ["--level", "weights"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ") or "Error: " in done.stderr
    assert "Traceback" not in done.stderr and "internal" not in done.stderr


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_of_another_dtype_than_the_folder_says_what_to_do(
    dtype: Any, file: Path, fixtures: Path, tmp_path: Path
) -> None:
    convert(fixtures / "pretraining", tmp_path / "out", dtype=dtype)
    result = CliRunner().invoke(
        cli, ["verify", str(file), str(tmp_path / "out"), "--level", "weights"]
    )
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"is {dtype} in OUT, and the record has a checksum of it as float32." in said
    assert f"bertconvert record CKPT FILE --dtype {dtype}" in said


def test_a_part_that_models_share_is_no_reference() -> None:
    from bertconvert.converter.models import load_reference

    for name in ("layers", "heads", "backend", "reference", "mistakes", "encoder"):
        with pytest.raises(VerificationError, match="is no model"):
            load_reference(name)
