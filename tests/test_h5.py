"""Conversions of what transformers' TensorFlow classes, and Keras around them, saved as HDF5."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from bertconvert import (
    BertconvertError,
    CheckpointError,
    Options,
    PlanError,
    convert,
    open_checkpoint,
)
from bertconvert.converter.checkpoint.discover import find_checkpoints
from bertconvert.converter.prepare import prepare
from bertconvert.converter.verify import verify

from .checkpoint.h5_writer import write_h5

Arrays = dict[str, np.ndarray[Any, Any]]
Layers = dict[str, Arrays]
Make = Callable[..., Path]


def layers_of(path: Path) -> Layers:
    """What a file of Keras holds, by layers and by the names of weights."""
    with h5py.File(path) as file:
        return {
            layer: {name: file[layer][name][()] for name in file[layer].attrs["weight_names"]}
            for layer in file.attrs["layer_names"]
        }


@pytest.fixture
def make(fixtures: Path, tmp_path: Path) -> Make:
    """Copy a fixture with other layers and another config; the folder."""

    def made(
        name: str, change: Callable[[Layers], Layers | None] = lambda layers: None, **config: Any
    ) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(fixtures / name, folder)
        layers = layers_of(folder / "tf_model.h5")
        write_h5(folder / "tf_model.h5", change(layers) or layers)
        stated = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(stated))
        return folder

    return made


def renamed(old: str, new: str) -> Callable[[Layers], Layers]:
    def change(layers: Layers) -> Layers:
        return {
            layer: {name.replace(old, new): array for name, array in arrays.items()}
            for layer, arrays in layers.items()
        }

    return change


class TestAPretrainedModel:
    def test_has_the_values_that_h5py_reads(self, fixtures: Path, tmp_path: Path) -> None:
        result = convert(fixtures / "h5-pretraining", tmp_path / "out")
        assert result.architecture == "BertForPreTraining"
        tensors = load_file(tmp_path / "out" / "model.safetensors")
        layers = layers_of(fixtures / "h5-pretraining" / "tf_model.h5")
        scope = "tf_bert_for_pre_training"
        for tensor, layer, name in [
            ("bert.embeddings.word_embeddings.weight", "bert",
             "bert/embeddings/word_embeddings/weight:0"),
            ("bert.encoder.layer.1.intermediate.dense.weight", "bert",
             "bert/encoder/layer_._1/intermediate/dense/kernel:0"),
            ("bert.encoder.layer.0.output.LayerNorm.bias", "bert",
             "bert/encoder/layer_._0/output/LayerNorm/beta:0"),
            ("cls.predictions.bias", "mlm___cls", "mlm___cls/predictions/bias:0"),
            ("cls.seq_relationship.weight", "nsp___cls", "nsp___cls/seq_relationship/kernel:0"),
        ]:  # fmt: skip
            array = layers[layer][f"{scope}/{name}"]
            expected = array.T if "kernel" in name else array
            assert np.array_equal(tensors[tensor], expected)
        assert len(tensors) == 46

    def test_skips_the_copy_of_the_embeddings_with_a_reason(self, fixtures: Path) -> None:
        plan = prepare(fixtures / "h5-pretraining").plan
        assert len(plan.dropped) == 5
        assert all(drop.variable.startswith("mlm___cls/") for drop in plan.dropped)
        assert all("copy" in drop.reason for drop in plan.dropped)

    @pytest.mark.parametrize("head", [None, "mlm", "nsp", "none"])
    def test_whose_copies_differ_is_refused_with_the_place(
        self, make: Make, tmp_path: Path, head: str | None
    ) -> None:
        def change(layers: Layers) -> None:
            name = "tf_bert_for_pre_training/bert/embeddings/word_embeddings/weight:0"
            layers["mlm___cls"][name][100, 7] += 1

        folder = make("h5-pretraining", change)
        prepare(folder)  # which reads no data
        with pytest.raises(CheckpointError, match=r"word_embeddings/weight.*\[100, 7\]"):
            convert(folder, tmp_path / "out", Options(head=head))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("head", "name", "tensors"),
        [
            ("mlm", "BertForMaskedLM", 44),
            ("nsp", "BertForNextSentencePrediction", 41),
            ("none", "BertModel", 39),
        ],
    )
    def test_becomes_the_class_of_a_head(
        self, fixtures: Path, tmp_path: Path, head: str, name: str, tensors: int
    ) -> None:
        result = convert(fixtures / "h5-pretraining", tmp_path / "out", Options(head=head))
        assert result.architecture == name
        assert len(load_file(tmp_path / "out" / "model.safetensors")) == tensors

    @pytest.mark.parametrize("scope", ["", "tf_bert_for_pre_training_1/", "my_model/tf_bert/"])
    def test_in_any_scope_gives_the_same(
        self, fixtures: Path, make: Make, tmp_path: Path, scope: str
    ) -> None:
        convert(fixtures / "h5-pretraining", tmp_path / "one")
        folder = make("h5-pretraining", renamed("tf_bert_for_pre_training/", scope))
        convert(folder, tmp_path / "other")
        one, other = (tmp_path / name / "model.safetensors" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()

    def test_that_its_config_calls_by_another_class_keeps_all_heads(self, make: Make) -> None:
        plan = prepare(make("h5-pretraining", architectures=["BertForMaskedLM"])).plan
        assert plan.architecture.name == "BertForPreTraining"

    def test_that_lacks_a_variable_is_refused_by_name(self, make: Make) -> None:
        def change(layers: Layers) -> None:
            del layers["bert"]["tf_bert_for_pre_training/bert/pooler/dense/bias:0"]

        with pytest.raises(PlanError, match="bert/pooler/dense/bias"):
            prepare(make("h5-pretraining", change))

    def test_with_a_decoders_config_is_refused(self, make: Make) -> None:
        with pytest.raises(PlanError, match="is_decoder"):
            prepare(make("h5-pretraining", is_decoder=True))


class TestAClassifier:
    def test_has_what_its_config_says(self, fixtures: Path, tmp_path: Path) -> None:
        result = convert(fixtures / "h5-classifier", tmp_path / "out")
        assert result.architecture == "BertForSequenceClassification"
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["hidden_act"] == "gelu_new"
        assert config["layer_norm_eps"] == 1e-5
        assert config["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}

    @pytest.mark.parametrize("value", [0.3, 0, 1])
    def test_keeps_a_dropout_of_its_own(self, make: Make, tmp_path: Path, value: float) -> None:
        folder = make("h5-classifier", classifier_dropout=value)
        convert(folder, tmp_path / "out")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["classifier_dropout"] == value
        assert verify(folder, tmp_path / "out", level="weights").passed
        config["classifier_dropout"] = 0.5
        (tmp_path / "out" / "config.json").write_text(json.dumps(config))
        assert not verify(folder, tmp_path / "out", level="weights").passed

    def test_has_no_dropout_of_its_own_if_the_config_has_none(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        convert(fixtures / "h5-classifier", tmp_path / "out")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert "classifier_dropout" not in config
        assert verify(fixtures / "h5-classifier", tmp_path / "out", level="weights").passed
        config["classifier_dropout"] = 0.5
        (tmp_path / "out" / "config.json").write_text(json.dumps(config))
        assert not verify(fixtures / "h5-classifier", tmp_path / "out", level="weights").passed

    @pytest.mark.parametrize("value", ["0.1", True, [0.1], 2, -1, float("nan")])
    def test_with_a_dropout_that_is_none_is_refused(self, make: Make, value: object) -> None:
        with pytest.raises(PlanError, match="classifier_dropout"):
            prepare(make("h5-classifier", classifier_dropout=value))

    def test_of_tokens_is_told_by_the_config(self, make: Make) -> None:
        folder = make("h5-classifier", architectures=["BertForTokenClassification"])
        assert prepare(folder).plan.architecture.name == "BertForTokenClassification"
        shutil.rmtree(folder)
        folder = make("h5-classifier", architectures=None)
        assert prepare(folder).plan.architecture.name == "BertForSequenceClassification"

    def test_of_choices_is_told_by_the_config(self, make: Make) -> None:
        def change(layers: Layers) -> None:
            head = layers["classifier"]
            layers["classifier"] = {name: array[..., :1] for name, array in head.items()}

        labels = {"id2label": {"0": "x"}, "label2id": {"x": 0}}
        named = {"architectures": ["BertForMultipleChoice"]}
        folder = make("h5-classifier", change, **named, **labels)
        assert prepare(folder).plan.architecture.name == "BertForMultipleChoice"
        shutil.rmtree(folder)
        folder = make("h5-classifier", change, **labels)
        assert prepare(folder).plan.architecture.name == "BertForSequenceClassification"
        shutil.rmtree(folder)
        with pytest.raises(PlanError, match="num_labels = 1"):
            prepare(make("h5-classifier", **named))

    def test_of_tokens_is_told_by_the_missing_pooler(self, make: Make) -> None:
        def change(layers: Layers) -> None:
            for name in [name for name in layers["bert"] if "/pooler/" in name]:
                del layers["bert"][name]

        folder = make("h5-classifier", change, architectures=None)
        assert prepare(folder).plan.architecture.name == "BertForTokenClassification"

    def test_that_its_config_calls_by_a_class_that_does_not_fit_is_what_fits(
        self, make: Make
    ) -> None:
        folder = make("h5-classifier", architectures=["BertForQuestionAnswering", 3, None])
        assert prepare(folder).plan.architecture.name == "BertForSequenceClassification"

    def test_of_questions_and_answers(self, make: Make) -> None:
        def change(layers: Layers) -> Layers:
            layers = {k.replace("classifier", "qa_outputs"): v for k, v in layers.items()}
            layers = renamed("classifier/", "qa_outputs/")(layers)
            head = layers["qa_outputs"]
            layers["qa_outputs"] = {name: array[..., :2] for name, array in head.items()}
            return layers

        plan = prepare(make("h5-classifier", change)).plan
        assert plan.architecture.name == "BertForQuestionAnswering"
        assert "pooler" in plan.groups

    def test_of_keras_around_the_model_is_left_behind_by_head_none(
        self, make: Make, tmp_path: Path
    ) -> None:
        def change(layers: Layers) -> None:
            layers["dense"] = {
                f"dense/{n.rpartition('/')[2]}": v for n, v in layers.pop("classifier").items()
            }

        folder = make("h5-classifier", change)
        with pytest.raises(PlanError, match="--head none"):
            prepare(folder)
        assert prepare(folder, head="none").plan.architecture.name == "BertModel"


class TestTheActivation:
    @pytest.mark.parametrize(
        ("stated", "choice", "written"),
        [
            ("gelu", "auto", "gelu"),
            ("gelu", "tanh", "gelu_pytorch_tanh"),
            ("gelu", "erf", "gelu"),
            ("gelu_new", "auto", "gelu_new"),
            ("relu", "auto", "relu"),
            ("tanh", "auto", "tanh"),
        ],
    )
    def test_is_that_of_the_config(
        self, make: Make, stated: str, choice: Any, written: str
    ) -> None:
        folder = make("h5-pretraining", hidden_act=stated)
        prepared = prepare(folder, activation=choice)
        assert prepared.plan.config["hidden_act"] == written
        assert not any("original code" in note for note in prepared.notes)

    def test_is_erf_without_a_config(self, make: Make) -> None:
        folder = make("h5-pretraining")
        (folder / "config.json").unlink()
        plan = prepare(folder, num_heads=2).plan
        assert plan.config["hidden_act"] == "gelu"
        assert plan.config["layer_norm_eps"] == 1e-12
        for key in ("hidden_act", "layer_norm_eps"):
            assert any(key in fact for fact in plan.untold)
        assert not any("dropout" in fact for fact in plan.untold)

    def test_that_no_one_knows_is_refused(self, make: Make) -> None:
        with pytest.raises(PlanError, match="swish"):
            prepare(make("h5-pretraining", hidden_act="swish"))


class TestOtherModelsOfKeras:
    @pytest.mark.parametrize(
        ("layers", "name"),
        [
            ({"Embedding-Token": ["Embedding-Token/embeddings:0"],
              "Encoder-1-MultiHeadSelfAttention": [
                  "Encoder-1-MultiHeadSelfAttention/Encoder-1-MultiHeadSelfAttention_Wq:0"]},
             "keras-bert"),
            ({"Embedding-Token": ["Embedding-Token/embeddings:0"],
              "Transformer-0-MultiHeadSelfAttention": [
                  "Transformer-0-MultiHeadSelfAttention/dense/kernel:0"]},
             "bert4keras"),
            ({"bert": ["bert/embeddings/word_embeddings/embeddings:0",
                       "bert/encoder/layer_0/intermediate/kernel:0"]},
             "bert-for-tf2"),
            ({"electra": ["tf_electra_model/electra/embeddings/word_embeddings/weight:0",
                          "tf_electra_model/electra/encoder/layer_._0/output/dense/kernel:0"]},
             "TensorFlow classes"),
            ({"dense": ["dense/kernel:0"]}, "no mapping fits"),
        ],
    )  # fmt: skip
    def test_are_refused_by_name(
        self, tmp_path: Path, layers: dict[str, list[str]], name: str
    ) -> None:
        array = np.zeros((2, 2), np.float32)
        path = write_h5(
            tmp_path / "model.h5", {k: dict.fromkeys(v, array) for k, v in layers.items()}
        )
        with pytest.raises(BertconvertError, match=name):
            prepare(path)

    @pytest.mark.parametrize("name", ["tf2-encoder", "tf2-pretraining"])
    def test_of_model_garden_are_those_of_its_checkpoints(
        self, fixtures: Path, tmp_path: Path, name: str
    ) -> None:
        checkpoint = open_checkpoint(fixtures / name)
        layers: Layers = {}
        for key, variable in checkpoint.variables.items():
            if variable.tf_dtype == "float32":
                layer, weight = garden_layer(variable.full_name), f"{variable.full_name}:0"
                layers.setdefault(layer, {})[weight] = np.array(checkpoint[key])
        if name == "tf2-pretraining":  # one layer is the encoder, and a head has its table, too
            heads = {layer: layers.pop(layer) for layer in ("bert", "cls/predictions")}
            layers = {"my_encoder": {k: v for some in layers.values() for k, v in some.items()}}
            words = "word_embeddings/embeddings:0"
            heads["cls/predictions"][words] = layers["my_encoder"][words]
            layers |= heads
        write_h5(tmp_path / "model.h5", layers)
        convert(fixtures / name, tmp_path / "one")
        convert(tmp_path / "model.h5", tmp_path / "other")
        one, other = (tmp_path / n / "model.safetensors" for n in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def garden_layer(name: str) -> str:
    """The layer of Model Garden's that has a variable; its name may be a path."""
    layers = ("transformer/layer_0", "transformer/layer_1", "embeddings/layer_norm")
    if name.startswith("bert/cls/"):
        return "cls/predictions"
    return next((layer for layer in layers if name.startswith(layer)), name.partition("/")[0])


def test_are_found_among_other_checkpoints(fixtures: Path, tmp_path: Path) -> None:
    for name in ("h5-pretraining", "h5-classifier", "encoder"):
        shutil.copytree(fixtures / name, tmp_path / name)
    found = find_checkpoints(str(tmp_path))
    assert [one.name for one in found] == ["encoder", "h5-classifier", "h5-pretraining"]
    assert found[2].nbytes == (tmp_path / "h5-pretraining" / "tf_model.h5").stat().st_size


def test_a_folder_with_one_is_never_replaced(fixtures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(fixtures / "h5-classifier", out)
    with pytest.raises(BertconvertError, match="holds a checkpoint"):
        convert(fixtures / "encoder", out, force=True)
    assert (out / "tf_model.h5").exists()


def test_a_models_weights_are_proved_without_tensorflow(fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "h5-pretraining", tmp_path / "out")
    assert verify(fixtures / "h5-pretraining", tmp_path / "out", level="weights").passed
