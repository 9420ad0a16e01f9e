"""The tensors, against those of the conversion that transformers 4 had; and keras-bert's loader.

It needs an environment of its own, for that version and TensorFlow: `make peer` makes it in
.venv-peer, and BERTCONVERT_PEER_PYTHON names the interpreter of another one.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from bertconvert import convert, convert_back

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def peer() -> str:
    """The interpreter of the environment that has transformers 4."""
    default = ROOT / ".venv-peer" / "bin" / "python"
    python = os.environ.get("BERTCONVERT_PEER_PYTHON") or str(default)
    if not os.path.exists(python):
        pytest.skip(
            f"no {python}: `make peer` makes .venv-peer, or set BERTCONVERT_PEER_PYTHON to a Python"
            " that has transformers==4.57.6 and tensorflow"
        )
    return python


def full_size() -> list[Any]:
    """The checkpoints of a folder that benchmarks/make_checkpoints.py filled."""
    named = os.environ.get("BERTCONVERT_BENCH_CHECKPOINTS")
    if not named:
        reason = "BERTCONVERT_BENCH_CHECKPOINTS names no folder of full-size checkpoints"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="full-size")]
    folders = sorted(index.parent for index in Path(named).glob("*/bert_model.ckpt.index"))
    return [pytest.param(folder, id=folder.name) for folder in folders]


def assert_same(peer: str, checkpoint: Path, tmp_path: Path) -> None:
    """Convert both ways, and compare the tensors bit by bit, one at a time."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    # It may belong to an environment that finds other packages than this one does.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [peer, ROOT / "benchmarks" / "peer.py", checkpoint, theirs]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    convert(checkpoint, ours)
    with (
        safe_open(theirs / "model.safetensors", "np") as expected,
        safe_open(ours / "model.safetensors", "np") as found,
    ):
        assert set(found.keys()) == set(expected.keys())
        assert len(found.keys()) >= 46
        assert found.metadata() == expected.metadata()
        for name in expected.keys():  # noqa: SIM118 (a file, not a dict)
            a, b = found.get_tensor(name), expected.get_tensor(name)
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert np.array_equal(a.view(np.uint32), b.view(np.uint32)), name
    assert (ours / "vocab.txt").read_bytes() == (theirs / "vocab.txt").read_bytes()
    for folder in (ours, theirs):  # pytest would keep gigabytes
        shutil.rmtree(folder)


def test_a_fixture_has_the_bits_of_transformers_4(
    peer: str, fixtures: Path, tmp_path: Path
) -> None:
    assert_same(peer, fixtures / "pretraining", tmp_path)


def test_a_fixture_with_optimizer_slots_has_the_bits_of_transformers_4(
    peer: str, fixtures: Path, tmp_path: Path
) -> None:
    assert_same(peer, fixtures / "pretraining-adam", tmp_path)


def test_a_checkpoint_from_the_wild_has_the_bits_of_transformers_4(
    peer: str, real: Path, tmp_path: Path
) -> None:
    assert_same(peer, real / "keras-bert-tiny-pretrain", tmp_path)


# What from_pretrained(from_tf=True) does; in 4.57.6, that leaves every tensor without data.
LOAD_H5 = """
import sys
import transformers
from transformers.modeling_tf_pytorch_utils import load_tf2_checkpoint_in_pytorch_model
folder, kind, out = sys.argv[1:]
model = getattr(transformers, kind)(transformers.BertConfig.from_pretrained(folder))
load_tf2_checkpoint_in_pytorch_model(model, f"{folder}/tf_model.h5")
model.save_pretrained(out)
"""


@pytest.mark.parametrize(
    ("name", "kind", "head"),
    [
        ("h5-pretraining", "BertForPreTraining", None),
        ("h5-pretraining", "BertForMaskedLM", "mlm"),
        ("h5-pretraining", "BertForNextSentencePrediction", "nsp"),
        ("h5-pretraining", "BertModel", "none"),
        ("h5-classifier", "BertForSequenceClassification", None),
        ("h5-classifier", "BertForTokenClassification", "token"),
    ],
)
def test_a_keras_file_has_the_bits_that_transformers_4_loads(
    peer: str, fixtures: Path, tmp_path: Path, name: str, kind: str, head: str | None
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [peer, "-c", LOAD_H5, fixtures / name, kind, tmp_path / "theirs"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    convert(fixtures / name, tmp_path / "ours", head=head)
    theirs, ours = (load_file(tmp_path / n / "model.safetensors") for n in ("theirs", "ours"))
    # Our folder keeps the pooler of a class that loads none.
    assert ours.keys() - theirs.keys() <= {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert theirs.keys() <= ours.keys()
    for tensor, array in theirs.items():
        assert np.array_equal(array, ours[tensor]), tensor


@pytest.mark.parametrize("checkpoint", full_size())
def test_a_full_size_checkpoint_has_the_bits_of_transformers_4(
    peer: str, checkpoint: Path, tmp_path: Path
) -> None:
    assert_same(peer, checkpoint, tmp_path)


# Every weight of keras-bert's model must be a variable; NSP's matrix is transposed.
KERAS_BERT = """
import sys
import tensorflow as tf
from keras_bert import load_trained_model_from_checkpoint
config, prefix = sys.argv[1:]
model = load_trained_model_from_checkpoint(config, prefix, training=True, seq_len=64)
reader = tf.train.load_checkpoint(prefix)
variables = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]
known = {array.tobytes() for array in variables} | {array.T.tobytes() for array in variables}
weights = model.get_weights()
assert len(weights) == len(variables), (len(weights), len(variables))
assert all(weight.tobytes() in known for weight in weights)
"""


def test_keras_bert_loads_what_pt2tf_writes(peer: str, fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "pretraining", tmp_path / "model")
    done = convert_back(tmp_path / "model", tmp_path / "back")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    loaded = subprocess.run(
        [peer, "-c", KERAS_BERT, tmp_path / "back" / "bert_config.json", done.prefix],
        capture_output=True,
        text=True,
        env=environment | {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"},
    )
    assert loaded.returncode == 0, loaded.stderr
