"""The tensors of model folders that transformers and torch wrote."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel

from bertconvert import ModelError
from bertconvert.converter.state_dict import StateDict, open_state_dict
from bertconvert.converter.storage.location import parse_location

TORCH = "pytorch_model.bin"
CONFIG = BertConfig(
    vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
)
DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip

NEW_DTYPES = {torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2}  # than the old format


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def model() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(CONFIG)


def opened(folder: Path) -> StateDict:
    return open_state_dict(parse_location(folder).folder())


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        opened(folder)
    return str(caught.value)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def check(state: StateDict, expected: dict[str, torch.Tensor]) -> None:
    """The names, shapes, dtypes and bits are the same, however they are read."""
    assert state.keys() == expected.keys()
    buffer = memoryview(bytearray(48))
    for name, tensor in expected.items():
        variable = state.variables[name]
        assert variable.shape == tuple(tensor.shape)
        assert variable.tf_dtype == str(tensor.dtype).removeprefix("torch.")
        assert b"".join(map(bytes, state.stream(name, buffer))) == bits(tensor)
        assert state[name].tobytes() == bits(tensor)
        assert (state[name].shape, state[name].dtype) == (variable.shape, variable.dtype)


@pytest.mark.parametrize("size", ["5GB", "60KB", "10KB"])
def test_a_model_that_transformers_saved(
    model: BertForPreTraining, tmp_path: Path, size: str
) -> None:
    model.save_pretrained(tmp_path, max_shard_size=size)
    state = opened(tmp_path)
    assert sorted(state.files) == sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(state.files) == 1 if size == "5GB" else len(state.files) > 2
    again, loading = BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    weights = again.state_dict()
    assert weights.keys() - state.keys() <= {"cls.predictions.decoder.weight",
                                             "cls.predictions.decoder.bias"}  # fmt: skip
    check(state, {name: tensor for name, tensor in weights.items() if name in state})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_of_any_age(model: BertForPreTraining, tmp_path: Path, zipped: bool) -> None:
    torch.save(model.state_dict(), tmp_path / TORCH, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / TORCH) is zipped
    state = opened(tmp_path)
    assert state.files == (TORCH,)
    check(state, model.state_dict())
    assert state.same("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")
    state.fetch(state)


def test_a_torch_file_in_shards(model: BertForPreTraining, tmp_path: Path) -> None:
    weights = model.state_dict()
    shards = {name: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, name in enumerate(weights)}
    for file in set(shards.values()):
        part = {name: weights[name].clone() for name in weights if shards[name] == file}
        torch.save(part, tmp_path / file)
    (tmp_path / f"{TORCH}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shards})
    )
    state = opened(tmp_path)
    assert state.files == tuple(sorted(set(shards.values())))
    check(state, BertForPreTraining.from_pretrained(tmp_path, config=CONFIG).state_dict())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_dtype_and_stride(
    tmp_path: Path, dtype: torch.dtype, zipped: bool
) -> None:
    whole = torch.arange(60).reshape(3, 4, 5).to(dtype)
    tensors = {
        "whole": whole,
        "shared": whole,
        "part": whole[1],
        "transposed": whole.permute(2, 0, 1),
        "every other": whole[:, ::2, 1::2],
        "expanded": whole[:1, :1].expand(3, 4, 5),
        "scalar": whole[0, 0, 3],
        "empty": whole[:, :0],
        "parameter": torch.nn.Parameter(whole, requires_grad=dtype.is_floating_point),
    }
    torch.save(tensors, tmp_path / TORCH, _use_new_zipfile_serialization=zipped)
    if not zipped and dtype in NEW_DTYPES:  # torch can't read them either
        assert "was not loaded" in refusal(tmp_path)
        return
    state = opened(tmp_path)
    check(state, tensors)
    assert state.same("whole", "shared")


def test_columns_of_a_transposed_tensor_can_be_read_alone(tmp_path: Path) -> None:
    matrix = torch.randn(12, 7).T
    torch.save({"m": matrix}, tmp_path / TORCH)
    strips = opened(tmp_path).strips("m", 12 * 4, 2 * 4, 5 * 4, memoryview(bytearray(2 * 3 * 4)))
    found = np.frombuffer(b"".join(map(bytes, strips)), np.float32).reshape(7, 3)
    np.testing.assert_array_equal(found, matrix[:, 2:5].numpy())


def test_a_conjugated_and_a_negated_tensor_are_read_as_they_are_meant(tmp_path: Path) -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    torch.save(
        {"conjugated": numbers.conj(), "negated": numbers.clone().conj().imag}, tmp_path / TORCH
    )
    state = opened(tmp_path)
    np.testing.assert_array_equal(state["conjugated"], [1 - 2j, 3 + 4j])
    np.testing.assert_array_equal(state["negated"], [-2, 4])


def test_a_file_that_was_zipped_again_is_refused(tmp_path: Path) -> None:
    """A small one could fill the memory; and mapped, its numbers would be others."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "stored.bin")
    with (
        zipfile.ZipFile(tmp_path / "stored.bin") as stored,
        zipfile.ZipFile(tmp_path / TORCH, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert "was compressed after it was saved" in refusal(tmp_path)


def test_a_huge_expanded_tensor_takes_no_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / TORCH)
    state = opened(tmp_path)
    assert state.variables["a"].nbytes == 1 << 42
    assert bytes(next(state.stream("a", memoryview(bytearray(64))))) == bytes(64)


def test_a_tensor_is_read_from_the_disk_when_it_is_asked_for(tmp_path: Path) -> None:
    """A mapped file's tensor takes no memory, which is what lets large models be read."""
    code = f"""
import resource, torch
from bertconvert.converter.state_dict import open_state_dict
from bertconvert.converter.storage.location import parse_location

def private():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

before = private()
state = open_state_dict(parse_location({str(tmp_path)!r}).folder())
buffer = memoryview(bytearray(1 << 20))
total = sum(len(piece) for piece in state.stream("a", buffer))
print(total, private() - before)
"""
    torch.save({"a": torch.ones(16 << 20)}, tmp_path / TORCH)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    total, kilobytes = map(int, process.stdout.split())
    assert total == 64 << 20
    assert kilobytes < 24 << 10, process.stderr


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_a_state_dict_alone_in_a_dict_is_taken(tmp_path: Path, key: str) -> None:
    tensors = {"a": torch.ones(3)}
    torch.save({key: tensors}, tmp_path / TORCH)
    check(opened(tmp_path), tensors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(3)}, "epoch": 3}, "Its keys are state_dict and epoch."),
        ({"model": {"a": torch.ones(3)}}, "model in it is not a named tensor, but a dict"),
        ({"a": torch.ones(3), "step": 7}, "step in it is not a named tensor, but a int"),
        ({1: torch.ones(3)}, "1 in it is not a named tensor"),
        ({"\ud800": torch.ones(3)}, "\\ud800 in it is not a named tensor"),
        ([torch.ones(3)], "is not a state dict, but a list"),
        (torch.ones(3), "is not a state dict, but a Tensor"),
        ({"a": torch.ones(3).to_sparse()}, "a is a sparse tensor"),
        ({"a": torch.ones(3, device="meta")}, "a is a meta tensor"),
    ],
)
def test_what_is_no_state_dict_says_what_it_is(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / TORCH)
    found = refusal(tmp_path)
    assert str(tmp_path / TORCH) in found
    assert message in found


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["value", "key", "whole", "nested"])
def test_code_in_a_torch_file_is_never_run(tmp_path: Path, zipped: bool, where: str) -> None:
    harm = Harm(tmp_path / "harmed")
    content: Any = {
        "value": {"a": torch.ones(3), "b": harm},
        "key": {harm: torch.ones(3)},
        "whole": harm,
        "nested": {"state_dict": {"a": [harm]}},
    }[where]
    torch.save(content, tmp_path / TORCH, _use_new_zipfile_serialization=zipped)
    found = refusal(tmp_path)
    assert "posix.mkdir" in found and "None of it was run" in found
    assert not harm.folder.exists()
    with zipfile.ZipFile(tmp_path / TORCH) if zipped else open(os.devnull):
        torch.load(tmp_path / TORCH, weights_only=False)  # the file is one that harms
    assert harm.folder.exists()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / TORCH)
    assert "it has torch.nn.modules.linear.Linear in it" in refusal(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_that_is_cut_off_or_changed_ends_in_one_error(
    tmp_path: Path, zipped: bool
) -> None:
    file = tmp_path / TORCH
    torch.save(
        {"a": torch.ones(3), "b": torch.ones(2)}, file, _use_new_zipfile_serialization=zipped
    )
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: int(size)] for size in rng.integers(0, len(whole), 60)]
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        file.write_bytes(data)
        try:
            state = opened(tmp_path)
            for name in state:
                b"".join(map(bytes, state.stream(name, memoryview(bytearray(64)))))
        except ModelError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 60


def test_what_is_no_torch_file_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / TORCH).write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 438000000\n" % (b"a" * 64)
    )
    assert "git lfs pull" in refusal(tmp_path)
    (tmp_path / TORCH).write_bytes(b"")
    assert "is empty" in refusal(tmp_path)
    (tmp_path / TORCH).write_bytes(b"\x80\x02nonsense")
    assert "was not loaded: it is damaged" in refusal(tmp_path)


def test_torch_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BertModel(CONFIG).save_pretrained(tmp_path)
    torch.save({"a": torch.ones(3)}, tmp_path / TORCH)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "bert" not in opened(tmp_path).files
    (tmp_path / "model.safetensors").unlink()
    assert "pip install 'bertconvert[torch]'" in refusal(tmp_path)
