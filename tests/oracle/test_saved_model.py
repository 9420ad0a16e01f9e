"""SavedModels that TensorFlow writes are the checkpoints that they hold."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from bertconvert import convert, open_checkpoint, prepare

WEIGHTS = "model.safetensors"


def save_tf1(checkpoint: Path, scope: str, folder: Path, assets: Path) -> None:
    """A checkpoint's variables in a scope, saved as TensorFlow 1 saved a model for serving."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        with open_checkpoint(checkpoint) as opened:
            for name in opened:
                v1.get_variable(scope + name, initializer=tf.constant(opened[name]))
        path = v1.placeholder_with_default(os.fspath(assets), [], name="vocabulary")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, tf.constant(os.fspath(assets)))
        signature = v1.saved_model.predict_signature_def({"x": path}, {"y": tf.identity(path)})
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(os.fspath(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        )
        builder.save()


@pytest.mark.parametrize("scope", ["", "module/"])
def test_one_of_tensorflow_1_converts_as_its_checkpoint(
    fixtures: Path, tmp_path: Path, scope: str
) -> None:
    source = fixtures / "classifier"
    save_tf1(source, scope, tmp_path / "saved", source / "vocab.txt")
    made = convert(tmp_path / "saved", tmp_path / "out")
    expected = convert(source, tmp_path / "expected")
    assert made.architecture == expected.architecture == "BertForSequenceClassification"
    ours, theirs = (tmp_path / folder / WEIGHTS for folder in ("out", "expected"))
    assert ours.read_bytes() == theirs.read_bytes()
    for name in ("vocab.txt", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def keras_layer(folder: Path) -> Any:
    """A layer around a SavedModel, as keras_layer.py of tensorflow_hub 0.16 makes one."""
    import tf_keras

    class KerasLayer(tf_keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(trainable=True)
            self._func = tf.saved_model.load(os.fspath(folder))
            for variable in self._func.variables:
                self.add_weight(
                    name=variable.name,
                    shape=variable.shape,
                    dtype=variable.dtype,
                    trainable=variable.trainable,
                    experimental_autocast=False,
                    getter=lambda *_, of=variable, **__: of,
                )

        def call(self, inputs: Any) -> Any:
            return self._func(inputs, training=False)

    return KerasLayer()


def test_a_classifier_around_a_hub_module_computes_what_keras_computes(
    families: Path, tmp_path: Path
) -> None:
    import tf_keras
    import torch
    from transformers import AutoModelForSequenceClassification

    names = ("input_word_ids", "input_mask", "input_type_ids")
    inputs = {name: tf_keras.Input((None,), dtype=tf.int32, name=name) for name in names}
    pooled = keras_layer(families / "checkpoints" / "tf2-hub")(inputs)["pooled_output"]
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(3, name="mine")(pooled))
    model.compile("adam", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    ids, mask, types = [[2, 7, 9, 3]], [[1, 1, 1, 1]], [[0, 0, 1, 1]]
    given = {n: np.array(v, np.int32) for n, v in zip(names, (ids, mask, types), strict=True)}
    expected = model(given, training=False).numpy()

    model.save(tmp_path / "saved", save_format="tf")
    model.save_weights(tmp_path / "weights" / "m", save_format="tf")
    tf.train.Checkpoint(model=model, step=tf.Variable(1)).save(tmp_path / "checkpoint" / "m")
    for folder in ("saved", "weights", "checkpoint"):
        out = tmp_path / f"{folder}-out"
        made = convert(tmp_path / folder, out, head="classifier")
        assert made.architecture == "BertForSequenceClassification"
        assert made.dropped["optimizer state"] > 80
        assert made.dropped["mlm: not part of BertForSequenceClassification"] == 5
        ours = AutoModelForSequenceClassification.from_pretrained(out).eval()
        with torch.no_grad():
            logits = ours(
                torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                token_type_ids=torch.tensor(types),
            ).logits
        np.testing.assert_allclose(logits.numpy(), expected, atol=2e-6)


def test_a_hub_module_says_its_casing(families: Path, tmp_path: Path) -> None:
    module = families / "checkpoints" / "tf2-hub"
    said = bool(tf.saved_model.load(os.fspath(module)).do_lower_case)
    for folder in (module, tmp_path / "wrapped"):
        if folder != module:
            layer = keras_layer(module)
            tf.train.Checkpoint(model=layer).save(folder / "model.ckpt")
        prepared = prepare(folder, head="none", vocab=module / "assets" / "vocab.txt")
        assert prepared.do_lower_case is said
        assert any("says so" in note for note in prepared.notes)
