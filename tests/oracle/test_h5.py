"""Files of Keras and of transformers' TensorFlow classes, against the programs that write them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import pytest
import tf_keras
import torch
import transformers
from safetensors.numpy import load_file

from bertconvert import CheckpointError, convert, open_checkpoint
from bertconvert.converter.checkpoint.reader import Checkpoint
from bertconvert.converter.verify import verify

CLASSES = {
    "h5-pretraining": transformers.AutoModelForPreTraining,
    "h5-classifier": transformers.AutoModelForSequenceClassification,
}
NAMES = {"prediction_logits": "mlm_logits", "seq_relationship_logits": "nsp_logits"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_computes_what_transformers_4_recorded(
    name: str, fixtures: Path, tmp_path: Path
) -> None:
    recorded = load_file(fixtures / name / "outputs.safetensors")
    convert(fixtures / name, tmp_path / "out")
    model, info = CLASSES[name].from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    inputs = {
        "input_ids": "input_ids",
        "attention_mask": "input_mask",
        "token_type_ids": "segment_ids",
    }
    given = {key: torch.from_numpy(recorded[ours]).long() for key, ours in inputs.items()}
    with torch.no_grad():
        found = model.eval()(**given, output_hidden_states=True)
    embeddings, *layers = found.hidden_states
    outputs = {"embeddings": embeddings}
    outputs |= {f"layer_{number}": layer for number, layer in enumerate(layers)}
    outputs |= {NAMES.get(key, key): found[key] for key in found if key.endswith("logits")}
    assert outputs.keys() == recorded.keys() - {*inputs.values(), "pooled"}
    for key, output in outputs.items():
        np.testing.assert_allclose(output.numpy(), recorded[key], rtol=0, atol=5e-6)


@pytest.mark.parametrize("head", ["", "mlm", "nsp", "none"])
def test_every_class_of_a_pretrained_model_passes_every_level(
    head: str, fixtures: Path, tmp_path: Path
) -> None:
    options = {"head": head} if head else {}
    convert(fixtures / "h5-pretraining", tmp_path / "out", **options)
    verdict = verify(fixtures / "h5-pretraining", tmp_path / "out", level="gradients", **options)
    assert verdict.passed
    assert {output.tensor for output in verdict.outputs} >= {"embeddings", "layer_1"}


@pytest.mark.parametrize("head", ["classifier", "token"])
def test_every_class_of_a_classifier_passes_every_level(
    head: str, fixtures: Path, tmp_path: Path
) -> None:
    convert(fixtures / "h5-classifier", tmp_path / "out", head=head)
    verdict = verify(fixtures / "h5-classifier", tmp_path / "out", level="gradients", head=head)
    assert verdict.passed


def test_a_model_of_choices_passes_every_level(fixtures: Path, tmp_path: Path) -> None:
    shutil.copytree(fixtures / "h5-classifier", tmp_path / "in")
    with h5py.File(tmp_path / "in" / "tf_model.h5", "r+") as file:
        head = file["classifier/tf_bert_for_sequence_classification/classifier"]
        for name in ("kernel:0", "bias:0"):
            array = head[name][..., :1]
            del head[name]
            head[name] = array
    options = {"head": "choice", "labels": ["score"]}
    convert(tmp_path / "in", tmp_path / "out", **options)
    verdict = verify(tmp_path / "in", tmp_path / "out", level="gradients", **options)
    assert verdict.passed
    assert verdict.architecture == "BertForMultipleChoice"


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [("layer_norm_eps", 1e-12, "epsilon"), ("hidden_act", "gelu", "activation")],
)
def test_a_folder_with_another_config_fails_with_the_cause(
    key: str, value: Any, cause: str, fixtures: Path, tmp_path: Path
) -> None:
    convert(fixtures / "h5-classifier", tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    setattr(config, key, value)
    config.save_pretrained(tmp_path / "out")
    verdict = verify(fixtures / "h5-classifier", tmp_path / "out", level="outputs")
    assert not verdict.passed
    assert any(found.kind == cause for found in verdict.causes)


def test_a_toy_model_from_elsewhere_passes_every_level(families: Path, tmp_path: Path) -> None:
    checkpoint = families / "checkpoints" / "h5-TFBertForPreTraining"
    assert convert(checkpoint, tmp_path / "out").architecture == "BertForPreTraining"
    assert verify(checkpoint, tmp_path / "out", level="gradients").passed


@pytest.fixture
def model() -> Iterator[Any]:
    """A Keras model of layers in layers, of which two share one."""
    tf_keras.backend.clear_session()
    table = tf_keras.layers.Embedding(7, 3, name="table")
    inner = tf_keras.Sequential(
        [table, tf_keras.layers.LSTM(4, name="lstm"), tf_keras.layers.Dense(2, name="out")],
        name="inner",
    )
    ids = tf_keras.Input([5], dtype="int32")
    pooled = tf_keras.layers.GlobalMaxPool1D()(table(ids))
    both = tf_keras.layers.Concatenate()([inner(ids), pooled])
    made = tf_keras.Model(ids, tf_keras.layers.Dense(2, name="top/of/all")(both))
    made.compile("adam", "mse")
    made.train_on_batch(np.ones((2, 5), np.int32), np.ones((2, 2), np.float32))
    yield made


def values(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: checkpoint[name] for name in checkpoint if "optimizer_weights" not in name}


@pytest.mark.parametrize("whole", [False, True])
def test_every_variable_of_keras_has_its_name_and_value(
    whole: bool, model: Any, tmp_path: Path
) -> None:
    save = model.save if whole else model.save_weights
    save(tmp_path / "model.h5", save_format="h5")
    found = values(open_checkpoint(tmp_path / "model.h5"))
    expected = {weight.name.removesuffix(":0"): weight.numpy() for weight in model.weights}
    copies = found.keys() - expected.keys()
    assert len(copies) == 1  # the table, in its own layer and in `inner`
    assert expected.keys() <= found.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_the_newer_formats_of_keras_are_refused_with_what_to_do(model: Any, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "new.keras")
    for name in ("new.weights.h5", "new.keras"):
        with pytest.raises(CheckpointError, match=r"newer format.*save_weights"):
            open_checkpoint(tmp_path / name)
