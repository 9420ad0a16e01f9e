"""SavedModels that TensorFlow writes are the checkpoints that they hold."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf

from bertconvert import convert, open_checkpoint

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
