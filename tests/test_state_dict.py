"""The tensors of a model folder, compared with what the safetensors library reads."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save, save_file

from bertconvert import CheckpointError, ModelError
from bertconvert.converter.state_dict import StateDict, open_state_dict
from bertconvert.converter.storage.location import parse_location

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 438000000\n" % (
    b"a" * 64
)

DTYPES = [
    "bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "complex64", "bfloat16", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip
ITEMSIZE = {"F4": 0.5, "F6_E2M3": 0.75, "F6_E3M2": 0.75, "F8_E8M0": 1}


def opened(folder: Path) -> StateDict:
    return open_state_dict(parse_location(folder).folder())


def written(folder: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file with this header: JSON, or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def entry(dtype: str, shape: list[Any], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        opened(folder)
    return str(caught.value)


def all_bytes(state: StateDict, name: str, buffer_bytes: int) -> bytes:
    buffer = memoryview(bytearray(buffer_bytes))
    return b"".join(map(bytes, state.stream(name, buffer)))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shapes = st.lists(st.integers(0, 5), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, st.tuples(st.sampled_from(DTYPES), shapes), max_size=8))
def test_names_shapes_and_bytes_are_those_that_safetensors_wrote(
    tmp_path_factory: pytest.TempPathFactory, described: dict[str, tuple[str, list[int]]]
) -> None:
    described.pop("__metadata__", None)
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (dtype, shape) in described.items():
        numbers = rng.integers(0, 2, shape) if dtype == "bool" else rng.normal(size=shape) * 99
        with np.errstate(all="ignore"):
            tensors[name] = np.asarray(numbers).astype(getattr(ml_dtypes, dtype, dtype))
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    state = opened(folder)
    assert state.files == (WEIGHTS,)
    assert set(state) == set(state.variables) == set(tensors)
    for name, tensor in tensors.items():
        variable = state.variables[name]
        assert variable.name == name
        assert (variable.tf_dtype, variable.shape) == (tensor.dtype.name, tensor.shape)
        assert variable.nbytes == tensor.nbytes
        assert all_bytes(state, name, 16) == tensor.tobytes()
        array = state[name]
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
        assert array.tobytes() == tensor.tobytes()


def test_numbers_are_those_that_safetensors_reads(converted: Callable[[str], Path]) -> None:
    folder = converted("pretraining")
    state = opened(folder)
    expected = load_file(folder / WEIGHTS)
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, strict=True)


def test_columns_of_a_matrix_can_be_read_alone(tmp_path: Path) -> None:
    matrix = np.arange(7 * 12, dtype=np.float32).reshape(7, 12)
    save_file({"a": np.zeros(3, np.float32), "m": matrix}, tmp_path / WEIGHTS)
    state = opened(tmp_path)
    strips = state.strips("m", 12 * 4, 2 * 4, 5 * 4, memoryview(bytearray(2 * 3 * 4)))
    found = np.frombuffer(b"".join(map(bytes, strips)), np.float32).reshape(7, 3)
    np.testing.assert_array_equal(found, matrix[:, 2:5])


def test_positions_are_in_the_order_of_the_file(converted: Callable[[str], Path]) -> None:
    state = opened(converted("pretraining"))
    with safe_open(converted("pretraining") / WEIGHTS, "np") as file:
        assert sorted(state, key=state.position) == list(file.offset_keys())


def test_a_buffer_must_have_whole_elements(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32), "none": np.zeros(0, np.float32)}, tmp_path / WEIGHTS)
    state = opened(tmp_path)
    for size in (0, 3):
        with pytest.raises(ValueError, match="not whole elements of a"):
            all_bytes(state, "a", size)
    assert all_bytes(state, "none", 0) == b""


def test_two_tensors_are_the_same_if_all_bits_are(tmp_path: Path) -> None:
    large = np.random.default_rng(0).normal(size=400_000).astype(np.float32)  # several pieces
    other = large.copy()
    other[-1] = np.nextafter(other[-1], 9)
    tensors = {
        "large": large,
        "copy": large.copy(),
        "other": other,
        "reshaped": large.reshape(2, -1).copy(),
        "bits": large.view(np.int32),
        "nan": np.full(3, np.nan),
        "nan too": np.full(3, np.nan),
    }
    save_file(tensors, tmp_path / WEIGHTS)
    state = opened(tmp_path)
    assert state.same("large", "copy") and state.same("nan", "nan too")
    assert not any(state.same("large", name) for name in ("other", "reshaped", "bits", "nan"))


@pytest.mark.parametrize(("dtype", "itemsize"), ITEMSIZE.items())
def test_dtypes_that_tensorflow_lacks_keep_their_name(
    tmp_path: Path, dtype: str, itemsize: float
) -> None:
    data = bytes(range(int(8 * itemsize)))
    written(tmp_path, {"a": entry(dtype, [2, 4], 0, len(data))}, data)
    with safe_open(tmp_path / WEIGHTS, "np") as file:
        assert [*file.keys()] == ["a"]
    state = opened(tmp_path)
    assert state.variables["a"].tf_dtype == dtype
    assert state.variables["a"].nbytes == len(data)
    assert state.same("a", "a")
    with pytest.raises(CheckpointError, match=f"numpy can't represent {dtype}"):
        state["a"]


def test_a_dtype_of_safetensors_is_never_unknown(tmp_path: Path) -> None:
    from bertconvert.converter import state_dict

    for dtype, (_, bits) in state_dict._DTYPES.items():
        written(tmp_path, {"a": entry(dtype, [8], 0, bits)}, bytes(bits))
        with safe_open(tmp_path / WEIGHTS, "np") as file:
            assert file.get_slice("a").get_dtype() == dtype


def test_a_file_of_transformers_2_to_5_may_have_other_metadata(tmp_path: Path) -> None:
    for metadata in ({}, {"format": "pt"}, {"format": "pt", "note": "x"}, {"other": "x"}):
        save_file({"a": np.zeros(3)}, tmp_path / WEIGHTS, metadata)
        assert [*opened(tmp_path)] == ["a"]
    for format in ("tf", "flax"):
        save_file({"a": np.zeros(3)}, tmp_path / WEIGHTS, {"format": format})
        assert f"from_{format}=True" in refusal(tmp_path)


A = entry("F32", [2], 0, 8)
B = entry("F32", [2], 8, 16)
DAMAGED: dict[str, tuple[bytes | dict[str, Any], int, str]] = {  # header, bytes of data, message
    "overlap": ({"a": A, "b": entry("F32", [2], 4, 12)}, 12, "a and b overlap at byte 4"),
    "the same place": ({"a": A, "b": A}, 8, "overlap at byte 0"),
    "hole": ({"a": A, "b": entry("F32", [2], 12, 20)}, 20, "no tensor has the bytes 8 to 12"),
    "hole at the start": ({"b": B}, 16, "no tensor has the bytes 0 to 8"),
    "rest": ({"a": A}, 9, "no tensor has the last 1 bytes"),
    "cut off": ({"a": A, "b": B}, 15, "15 bytes of data, and 16 are needed, so it is cut off"),
    "backwards": ({"a": entry("F32", [2], 8, 0)}, 8, "a ends at byte 0, before its start"),
    "negative": ({"a": entry("F32", [2], -8, 0)}, 8, "a: .*>= 0"),
    "outside": ({"a": entry("F32", [2], 0, 1 << 63)}, 8, "a: .*<="),
    "shape": ({"a": entry("F32", [3], 0, 8)}, 8, r"a has the shape \[3\] of F32"),
    "negative shape": ({"a": entry("F32", [-1, -2], 0, 8)}, 8, "a: .*>= 0"),
    "overflow": ({"a": entry("F32", [1 << 62, 4, 0], 0, 0)}, 0, "a has a shape of more bytes"),
    "wrapped": ({"a": entry("F32", [1 << 62, 4], 0, 0)}, 0, "a has a shape of more bytes"),
    "rank": ({"a": entry("F32", [1] * 65, 0, 4)}, 4, "a: .*length <= 64"),
    "half a byte": ({"a": entry("F4", [3], 0, 1)}, 1, r"a has the shape \[3\] of F4"),
    "dtype": ({"a": entry("F33", [2], 0, 8)}, 8, "a has the dtype 'F33', which is unknown"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "a: .*`dtype`"),
    "one offset": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, 8, "a: .*length 2"),
    "text in a shape": ({"a": entry("F32", ["2"], 0, 8)}, 8, "a: .*`int`"),
    "half in a shape": ({"a": entry("F32", [2.0], 0, 8)}, 8, "a: .*`int`"),
    "true in a shape": ({"a": entry("F64", [True], 0, 8)}, 8, "a: .*`int`"),
    "no entry": ({"a": [1]}, 0, "a: .*`object`"),
    "metadata": ({"__metadata__": {"format": 1}, "a": A}, 8, "__metadata__: "),
    "name twice": (b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), 8, "a is in it twice"),
    "key twice": (
        b'{"a":{"dtype":"F32","shape":[2],"shape":[1,2],"data_offsets":[0,8]}}', 8,
        "shape is in it twice",
    ),
    "no UTF-8": (b'{"\xff":%b}' % json.dumps(A).encode(), 8, "not UTF-8: .* at byte 2"),
    "surrogate": (b'{"\\ud800":%b}' % json.dumps(A).encode(), 8, "surrogates not allowed"),
    "no JSON": (b"{a}", 8, "its JSON is not valid"),
    "list": (b"[]", 0, "its JSON is not an object"),
    "nothing": (b"", 0, "its JSON is not valid"),
    "nested": (b'{"a":' + b"[" * 100_000, 0, "its JSON is not valid"),
    "digits": (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}", 0, "its JSON is not valid"),
    "NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', 8, "a: .*`int`"),
    "mark": (b"\xef\xbb\xbf" + json.dumps({"a": A}).encode(), 8, "its JSON is not valid"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_each_damage_has_a_message_of_its_own(tmp_path: Path, damage: str) -> None:
    header, size, message = DAMAGED[damage]
    written(tmp_path, header, bytes(size))
    if damage not in ("name twice", "rank"):  # safetensors takes the last one, and any rank
        with pytest.raises(SafetensorError), safe_open(tmp_path / WEIGHTS, "np"):
            pass
    with pytest.raises(ModelError, match=message) as caught:
        opened(tmp_path)
    assert str(tmp_path / WEIGHTS) in str(caught.value)
    assert str(caught.value).endswith("Download or copy it again.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"1234567", "it has 7 bytes, so it is cut off"),
        (POINTER, "git lfs pull"),
        (b"<!DOCTYPE html><html><title>Sign in</title></html>", "a web page (Sign in)"),
        (b"\x1f\x8b" + bytes(50), "compressed with gzip"),
        ((1 << 62).to_bytes(8, "little"), "a header of 4,611,686,018,427,387,904 bytes"),
        ((100_000_001).to_bytes(8, "little"), "more than 100,000,000"),
        ((90_000_000).to_bytes(8, "little") + b"{}", "90,000,008 are needed for its header alone"),
    ],
)
def test_what_is_no_safetensors_file_is_called_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / WEIGHTS).write_bytes(content)
    assert message in refusal(tmp_path)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = save({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.int8)})
    for size in range(len(whole)):
        (tmp_path / WEIGHTS).write_bytes(whole[:size])
        assert str(tmp_path / WEIGHTS) in refusal(tmp_path)


def test_no_changed_header_ends_in_another_error_or_in_wrong_bounds(tmp_path: Path) -> None:
    tensors = {"a.b": np.ones((2, 3), np.float32), "c": np.ones(5, np.int8), "d": np.ones(())}
    whole = save(tensors, {"format": "pt"})
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    bits = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"9" * 30, b"1e9", b"null", b"\\"]
    accepted = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(header)
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                data[at : at + 1] = rng.choice(bits)
        (tmp_path / WEIGHTS).write_bytes(data)
        try:
            state = opened(tmp_path)
            for name in state:
                try:
                    state[name]
                except CheckpointError as error:  # a dtype that numpy lacks
                    assert "numpy can't represent" in str(error)
        except (ModelError, CheckpointError):
            continue
        accepted += 1
        with safe_open(tmp_path / WEIGHTS, "np") as file:
            assert set(file.keys()) == set(state)
    assert accepted > 25


OPEN_HOSTILE = """
import resource, sys
from bertconvert import CheckpointError, ModelError
from bertconvert.converter.state_dict import open_state_dict
from bertconvert.converter.storage.location import parse_location

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
open("/proc/self/clear_refs", "w").write("5")
before, said = peak(), ""
try:
    open_state_dict(parse_location(sys.argv[1]).folder())
except (CheckpointError, ModelError) as error:
    said = str(error)
print(peak() - before, said[-300:])
"""
HUGE = 2_000_000
HOSTILE = {
    "a claim": (99_000_000).to_bytes(8, "little"),
    "a rank": b'{"a":{"dtype":"F32","shape":[' + b"9," * (HUGE // 2) + b'9],"data_offsets":[0,0]}}',
    "empty objects": b'{"a":[' + b"{}," * (HUGE // 3) + b"0]}",
    "empty lists": b'{"a":[' + b"[]," * (HUGE // 3) + b"0]}",
    "names": b"{" + b",".join(b'"%d":0' % n for n in range(HUGE // 9)) + b"}",
    "one name": b'{"' + b"a" * HUGE + b'":0}',
    "nesting": b'{"a":' * (HUGE // 5),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux only")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_take_little_memory(tmp_path: Path, what: str) -> None:
    data = HOSTILE[what]
    if what != "a claim":
        data = len(data).to_bytes(8, "little") + data
    (tmp_path / WEIGHTS).write_bytes(data)
    process = subprocess.run(
        [sys.executable, "-c", OPEN_HOSTILE, str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    grown, _, said = process.stdout.partition(" ")
    assert int(grown) < 32 * len(data) + (16 << 20)
    assert len(said) > 10


def test_headers_are_read_without_torch_and_numpy(converted: Callable[[str], Path]) -> None:
    code = f"""
import sys
from bertconvert.converter.state_dict import open_state_dict
from bertconvert.converter.storage.location import parse_location
open_state_dict(parse_location({str(converted("encoder"))!r}).folder())
print([name for name in ("torch", "numpy", "safetensors") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "[]\n", process.stderr


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model in two shards."""
    for number in (1, 2):
        tensors = {f"{letter}{number}": np.full(3, number) for letter in "ab"}
        save_file(tensors, tmp_path / f"model-0000{number}-of-00002.safetensors")
    index(tmp_path, {n: f"model-0000{n[1]}-of-00002.safetensors" for n in ("a1", "b1", "a2", "b2")})
    return tmp_path


def index(folder: Path, weight_map: object) -> None:
    document = {"metadata": {"total_size": 96}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(document))


def test_shards_are_one_state_dict(sharded: Path) -> None:
    state = opened(sharded)
    assert state.files == tuple(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    assert {name: int(state[name][0]) for name in state} == {"a1": 1, "b1": 1, "a2": 2, "b2": 2}
    assert [state.position(name)[0] for name in ("a1", "b1", "a2", "b2")] == [0, 0, 1, 1]
    assert not state.same("a1", "a2") and state.same("a1", "b1")


def test_the_whole_file_goes_over_shards(sharded: Path) -> None:
    save_file({"whole": np.zeros(1)}, sharded / WEIGHTS)
    assert [*opened(sharded)] == ["whole"]


def test_missing_shards_are_listed(sharded: Path) -> None:
    (sharded / "model-00001-of-00002.safetensors").unlink()
    message = refusal(sharded)
    assert f"{INDEX} names 2 files, and model-00001-of-00002.safetensors is missing" in message
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors and model-00002" in refusal(sharded)


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").write_bytes(POINTER)
    assert "model-00002-of-00002.safetensors is a git-lfs pointer" in refusal(sharded)


ONE, TWO = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c1": ONE}, f"c1 is not in {ONE}, where the index has it"),
        ({"b1": TWO}, f"b1 is not in {TWO}, where the index has it"),
        ({"b1": None}, f"b1 of {ONE} is not in the index"),
    ],
)
def test_shards_that_do_not_fit_the_index_are_refused(
    sharded: Path, change: dict[str, str | None], message: str
) -> None:
    mapped = json.loads((sharded / INDEX).read_text())["weight_map"] | change
    index(sharded, {name: shard for name, shard in mapped.items() if shard})
    assert message in refusal(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    tensors = load_file(sharded / TWO) | {"a1": np.zeros(3)}
    save_file(tensors, sharded / TWO)
    assert f"a1 is in {ONE} and {TWO}" in refusal(sharded)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b", ".", "..", "", "a\\b", "a\0b", ".hidden"]
)
def test_an_index_names_files_next_to_it_only(sharded: Path, name: str) -> None:
    index(sharded, {"a1": name})
    assert "is not the name of a file next to it" in refusal(sharded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (POINTER, "git lfs pull"),
        (b"{", "its JSON is not valid"),
        (b"{}", "weight_map: "),
        (b'{"weight_map": {}}', "its weight_map is empty"),
        (b'{"weight_map": {"a": 1}}', "weight_map: "),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "a is in it twice"),
        (b'{"weight_map": {"a": "x"}, "weight_map": {"a": "y"}}', "weight_map is in it twice"),
        (b'{"weight_map": {"\xff": "x"}}', "its text is not UTF-8"),
        (b"[" * 100_000, "its JSON is not valid"),
    ],
)
def test_each_damage_of_an_index_has_a_message_of_its_own(
    sharded: Path, content: bytes, message: str
) -> None:
    (sharded / INDEX).write_bytes(content)
    found = refusal(sharded)
    assert message in found
    assert str(sharded / INDEX) in found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "The folder is empty."),
        (["config.json", "vocab.txt"], "The folder has: config.json and vocab.txt."),
        (["tf_model.h5"], "tf_model.h5 is for TensorFlow. Run `bertconvert tf2pt` on it first."),
        (
            ["adapter_model.safetensors", "adapter_config.json"],
            "adapter_config.json and adapter_model.safetensors are a LoRA adapter",
        ),
        (["adapter_model.bin"], "merge_and_unload"),
        (["flax_model.msgpack"], "from_flax=True"),
        (["model.Q4_K_M.gguf"], "llama.cpp"),
        (["onnx/model.onnx"], "in ONNX"),
        (["rust_model.ot"], "rust-bert"),
        (["model.fp16.safetensors"], "model.fp16.safetensors is a variant, which is not read"),
        (["pytorch_model.fp16.bin"], "a variant"),
        (["model.safetensors.index.fp16.json"], "a variant"),
        (["model.fp16-00001-of-00002.safetensors"], "a variant"),
        (["model-00001-of-00002.safetensors"], "index (.index.json) is missing"),
        (["pytorch_model-00001-of-00002.bin"], "index (.index.json) is missing"),
        (["bert_model.ckpt.index"], "a TensorFlow checkpoint already"),
        (["consolidated.safetensors"], "call it model.safetensors"),
        (["model.pt"], "pytorch_model.bin"),
        (["training_args.bin", "optimizer.pt"], "The folder has: optimizer.pt and training_args"),
        (["run/model.safetensors"], "Its subfolders have weights: run. Give one of them."),
    ],
)
def test_a_folder_without_weights_says_what_its_files_are(
    tmp_path: Path, files: list[str], message: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = refusal(tmp_path)
    assert found.startswith(f"{tmp_path} has no weights: neither model.safetensors, ")
    assert message in found


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere can't be listed: No such file"):
        opened(tmp_path / "nowhere")
