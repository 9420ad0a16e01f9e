"""The model folder, as transformers loads it, against what Google's own model code computed."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.numpy import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertModel,
)
from transformers import logging as transformers_logging

from bertconvert import Options, PlanError, convert

# Google's float32 outputs are off by some 2e-6 themselves; a wrong GELU is off by 1e-3.
TOLERANCE = 5e-6
FIXTURES = ["pretraining", "pretraining-adam", "classifier", "squad", "encoder", "keras-names"]
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
CLASSIFIER = {"classifier.weight", "classifier.bias"}
QA = {"qa_outputs.weight", "qa_outputs.bias"}
NSP = {"cls.seq_relationship.weight", "cls.seq_relationship.bias"}
MLM = {
    "cls.predictions.bias",
    *(
        f"cls.predictions.transform.{layer}.{kind}"
        for layer in ("dense", "LayerNorm")
        for kind in ("weight", "bias")
    ),
}
TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}

# Each class with the tensors that it has besides the encoder's.
CLASSES: dict[Any, set[str]] = {
    AutoModel: POOLER,
    AutoModelForPreTraining: POOLER | MLM | NSP,
    AutoModelForMaskedLM: MLM,
    AutoModelForNextSentencePrediction: POOLER | NSP,
    AutoModelForSequenceClassification: POOLER | CLASSIFIER,
    AutoModelForTokenClassification: CLASSIFIER,
    AutoModelForQuestionAnswering: QA,
}
ITS_CLASS: dict[str, Any] = {
    "pretraining": AutoModelForPreTraining,
    "pretraining-adam": AutoModelForPreTraining,
    "keras-names": AutoModelForPreTraining,
    "classifier": AutoModelForSequenceClassification,
    "squad": AutoModelForQuestionAnswering,
}

Convert = Callable[..., Path]
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def converted(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """A fixture's name and the caller's choices -> its model folder."""
    folders: dict[object, Path] = {}

    def make(name: str, **choices: Any) -> Path:
        key = (name, *choices.items())
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("model") / name
            convert(fixtures / name, folders[key], Options(**choices))
        return folders[key]

    return make


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers says while it loads."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    transformers_logging.disable_propagation()
    transformers_logging.set_verbosity(verbosity)


def load(auto: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    model, info = auto.from_pretrained(folder, output_loading_info=True, **kwargs)
    return model.eval(), info


def with_prefix(model: Any) -> dict[str, torch.Tensor]:
    """The state dict, its names as they are in a model with a head."""
    state: dict[str, torch.Tensor] = model.state_dict()
    if any(name.startswith("bert.") for name in state):
        return state
    return {f"bert.{name}": tensor for name, tensor in state.items()}


def google(fixtures: Path, name: str) -> Arrays:
    outputs: Arrays = load_file(fixtures / name / "google_outputs.safetensors")
    return outputs


def compute(model: Any, inputs: Arrays) -> Arrays:
    """All outputs of a model by the fixtures' names."""
    with torch.no_grad():
        result = model(
            input_ids=torch.from_numpy(inputs["input_ids"]).long(),
            attention_mask=torch.from_numpy(inputs["input_mask"]).long(),
            token_type_ids=torch.from_numpy(inputs["segment_ids"]).long(),
            output_hidden_states=True,
        )
    hidden = result.hidden_states
    outputs = {
        "embeddings": hidden[0],
        **{f"layer_{number}": layer for number, layer in enumerate(hidden[1:])},
    }
    names = {
        "pooler_output": "pooled",
        "prediction_logits": "mlm_logits",
        "seq_relationship_logits": "nsp_logits",
        "start_logits": "start_logits",
        "end_logits": "end_logits",
        "logits": {
            "BertForMaskedLM": "mlm_logits",
            "BertForNextSentencePrediction": "nsp_logits",
        }.get(type(model).__name__, "logits"),
    }
    outputs |= {ours: result[theirs] for theirs, ours in names.items() if theirs in result}
    if "pooled" not in outputs and getattr(model, "bert", None) and model.bert.pooler is not None:
        with torch.no_grad():
            outputs["pooled"] = model.bert.pooler(hidden[-1])
    return {name: tensor.numpy() for name, tensor in outputs.items() if tensor is not None}


def farthest(found: Arrays, expected: Arrays) -> dict[str, float]:
    """The largest difference in each output that both have."""
    return {
        name: float(np.abs(found[name].astype(np.float64) - expected[name]).max())
        for name in found
        if name in expected
    }


class TestLoading:
    @pytest.mark.parametrize("name", FIXTURES)
    @pytest.mark.parametrize("auto", CLASSES, ids=lambda auto: auto.__name__)
    def test_any_class_finds_all_that_the_checkpoint_has_of_it(
        self, converted: Convert, name: str, auto: Any
    ) -> None:
        folder = converted(name)
        written = load_file(folder / "model.safetensors").keys()
        model, info = load(auto, folder)
        missing = {
            n if n.startswith(("bert.", "cls.", "classifier.", "qa_outputs.")) else f"bert.{n}"
            for n in info["missing_keys"]
        }
        assert missing - TIED == CLASSES[auto] - written
        assert not info["mismatched_keys"]
        assert not info["error_msgs"]
        state = with_prefix(model)
        for tensor_name, tensor in load_file(folder / "model.safetensors").items():
            if tensor_name in state:
                assert torch.equal(state[tensor_name], torch.from_numpy(tensor)), tensor_name

    @pytest.mark.parametrize("name", [name for name in ITS_CLASS if name != "squad"])
    def test_the_folders_own_class_says_nothing(
        self, converted: Convert, said: pytest.LogCaptureFixture, name: str
    ) -> None:
        _, info = load(ITS_CLASS[name], converted(name))
        assert {key: list(value) for key, value in info.items()} == {
            "missing_keys": [],
            "unexpected_keys": [],
            "mismatched_keys": [],
            "error_msgs": [],
        }
        assert said.messages == []

    @pytest.mark.parametrize(
        ("name", "head", "auto"),
        [
            ("squad", None, AutoModelForQuestionAnswering),
            ("pretraining", "mlm", AutoModelForMaskedLM),
            ("classifier", "token", AutoModelForTokenClassification),
        ],
    )
    def test_a_class_without_a_pooler_leaves_it_to_auto_model(
        self,
        converted: Convert,
        said: pytest.LogCaptureFixture,
        name: str,
        head: str | None,
        auto: Any,
    ) -> None:
        _, info = load(auto, converted(name, head=head))
        assert set(info.pop("unexpected_keys")) == POOLER
        assert not any(info.values())
        assert "MISSING" not in said.text
        assert "MISMATCH" not in said.text
        model, info = load(AutoModel, converted(name, head=head))
        assert not info["missing_keys"]
        assert model.pooler is not None

    @pytest.mark.parametrize("name", ITS_CLASS)
    def test_auto_model_says_no_more_than_which_heads_it_leaves(
        self, converted: Convert, said: pytest.LogCaptureFixture, name: str
    ) -> None:
        _, info = load(AutoModel, converted(name))
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        assert "MISSING" not in said.text
        assert "MISMATCH" not in said.text
        assert "corrupt" not in said.text

    def test_an_encoder_alone_loads_whole_without_a_pooler(
        self, converted: Convert, said: pytest.LogCaptureFixture
    ) -> None:
        model, info = load(AutoModel, converted("encoder"), add_pooling_layer=False)
        assert not any(info.values())
        assert said.messages == []
        assert model.pooler is None

    @pytest.mark.parametrize("name", FIXTURES)
    def test_the_class_has_the_tensors_that_were_written_and_their_ties(
        self, converted: Convert, name: str
    ) -> None:
        folder = converted(name)
        kwargs = {"add_pooling_layer": False} if name == "encoder" else {}
        model, _ = load(ITS_CLASS.get(name, AutoModel), folder, **kwargs)
        ties = json.loads((folder / "conversion.json").read_bytes())["ties"]
        written = load_file(folder / "model.safetensors")
        if name == "squad":  # whose pooler is AutoModel's
            written = {n: tensor for n, tensor in written.items() if n not in POOLER}
        state = model.state_dict()
        assert state.keys() == written.keys() | ties.keys()
        for tied, to in ties.items():
            assert state[tied].data_ptr() == state[to].data_ptr()
        config = json.loads((folder / "config.json").read_bytes())
        assert config["architectures"] == [type(model).__name__]
        assert sum(p.numel() for p in model.parameters()) == sum(
            tensor.size for tensor in written.values()
        )

    @pytest.mark.parametrize("name", FIXTURES)
    def test_the_tokenizer_knows_the_whole_vocabulary(
        self, converted: Convert, said: pytest.LogCaptureFixture, fixtures: Path, name: str
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(converted(name))
        vocabulary = (fixtures / name / "vocab.txt").read_text().split("\n")[:-1]
        assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == vocabulary
        assert tokenizer.model_max_length == 64
        encoded = tokenizer("He was here, and the", "they are not")
        tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        assert tokens[:3] == ["[CLS]", "he", "was"]
        assert tokens.count("[SEP]") == 2
        assert encoded["token_type_ids"] == [0] * tokens.index("[SEP]") + [0] + [1] * 4
        assert said.messages == []

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_a_cast_model_loads_as_it_was_cast(self, converted: Convert, dtype: str) -> None:
        model, info = load(AutoModelForPreTraining, converted("pretraining", dtype=dtype))
        assert not any(info.values())
        assert model.dtype == getattr(torch, dtype)

    def test_a_torch_file_loads_as_the_safetensors_do(
        self, fixtures: Path, converted: Convert, tmp_path: Path
    ) -> None:
        convert(fixtures / "pretraining", tmp_path / "bin", Options(formats=("bin",)))
        ours, info = load(AutoModelForPreTraining, tmp_path / "bin")
        assert not any(info.values())
        expected = load(AutoModelForPreTraining, converted("pretraining"))[0].state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(t, expected[name]) for name, t in ours.state_dict().items())

    @pytest.mark.parametrize("name", ["pretraining", "classifier", "encoder"])
    def test_a_bare_model_has_the_names_that_bert_model_saves(
        self, converted: Convert, tmp_path: Path, name: str
    ) -> None:
        folder = converted(name, head="none")
        written = load_file(folder / "model.safetensors")
        pooler = {"add_pooling_layer": name != "encoder"}
        model = BertModel(AutoConfig.from_pretrained(folder), **pooler)
        model.load_state_dict({n: torch.from_numpy(t) for n, t in written.items()}, strict=True)
        model.save_pretrained(tmp_path / "saved")
        assert load_file(tmp_path / "saved" / "model.safetensors").keys() == written.keys()
        for auto in (AutoModel, BertModel):
            found, info = auto.from_pretrained(folder, output_loading_info=True, **pooler)
            assert not any(info.values())
            state = found.state_dict()
            assert all(np.array_equal(state[n].numpy(), written[n]) for n in written)

    def test_the_labels_of_a_classifier_are_counted(self, converted: Convert) -> None:
        for head, auto in (
            ("classifier", AutoModelForSequenceClassification),
            ("token", AutoModelForTokenClassification),
        ):
            model, info = load(auto, converted("classifier", head=head))
            assert not info["missing_keys"]
            assert model.config.num_labels == 3
            assert model.classifier.out_features == 3


class TestTheConfig:
    @pytest.mark.parametrize(
        "key", ["hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"]
    )
    @pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, -1, 1.5, 2, True, "0.1", [0.1]])
    def test_is_refused_where_transformers_can_not_train_with_it(
        self, fixtures: Path, tmp_path: Path, key: str, value: object
    ) -> None:
        source = shutil.copytree(fixtures / "encoder", tmp_path / "in")
        config = json.loads((source / "bert_config.json").read_text()) | {key: value}
        (source / "bert_config.json").write_text(json.dumps(config))
        try:
            convert(source, tmp_path / "out")
        except PlanError as error:
            assert key in str(error)
            convert(fixtures / "encoder", tmp_path / "out")
            written = json.loads((tmp_path / "out" / "config.json").read_text()) | {key: value}
            (tmp_path / "out" / "config.json").write_text(json.dumps(written))
            with pytest.raises((ValueError, TypeError, RuntimeError)):
                trained(tmp_path / "out")
        else:
            trained(tmp_path / "out")


def trained(folder: Path) -> None:
    """Let transformers add a new head to a model, and compute as in training."""
    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    except StrictDataclassError as error:
        raise ValueError(str(error)) from error
    model.train()(torch.ones(1, 4, dtype=torch.long))


class TestOutputs:
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("name", FIXTURES)
    def test_are_googles(
        self, fixtures: Path, converted: Convert, name: str, attention: str
    ) -> None:
        kwargs = {"add_pooling_layer": False} if name == "encoder" else {}
        auto = ITS_CLASS.get(name, AutoModel)
        model, _ = load(auto, converted(name), attn_implementation=attention, **kwargs)
        assert model.config._attn_implementation == attention
        expected = google(fixtures, name)
        found = compute(model, expected)
        inputs = {"input_ids", "input_mask", "segment_ids"}
        compared = expected.keys() - inputs
        # A model for question answering has no pooler; the one that was converted is AutoModel's.
        assert compared - found.keys() <= ({"pooled"} if name == "squad" else set())
        differences = farthest(found, expected)
        assert max(differences.values()) < TOLERANCE, differences

    @pytest.mark.parametrize("name", [n for n in FIXTURES if n != "encoder"])
    def test_of_the_encoder_and_the_pooler_are_googles(
        self, fixtures: Path, converted: Convert, name: str
    ) -> None:
        model, _ = load(AutoModel, converted(name))
        differences = farthest(compute(model, google(fixtures, name)), google(fixtures, name))
        assert differences.keys() == {"embeddings", "layer_0", "layer_1", "pooled"}
        assert max(differences.values()) < TOLERANCE, differences

    @pytest.mark.parametrize(
        ("head", "auto", "output"),
        [
            ("mlm", AutoModelForMaskedLM, "mlm_logits"),
            ("nsp", AutoModelForNextSentencePrediction, "nsp_logits"),
        ],
    )
    def test_of_one_head_alone_are_googles(
        self, fixtures: Path, converted: Convert, head: str, auto: Any, output: str
    ) -> None:
        model, info = load(auto, converted("pretraining", head=head))
        assert not info["missing_keys"]
        expected = google(fixtures, "pretraining")
        differences = farthest(compute(model, expected), expected)
        assert differences.keys() > {output}
        assert max(differences.values()) < TOLERANCE, differences

    def test_of_a_token_classifier_are_its_weights_on_every_token(
        self, fixtures: Path, converted: Convert
    ) -> None:
        model, _ = load(AutoModelForTokenClassification, converted("classifier", head="token"))
        expected = google(fixtures, "classifier")
        tensors = load_file(converted("classifier") / "model.safetensors")
        logits = expected["layer_1"] @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        found = compute(model, expected)
        assert found["logits"].shape == (4, 40, 3)
        assert np.abs(found["logits"] - logits).max() < TOLERANCE

    @pytest.mark.parametrize("name", [n for n in FIXTURES if n != "encoder"])
    def test_with_the_erf_activation_are_not_googles(
        self, fixtures: Path, converted: Convert, name: str
    ) -> None:
        model, _ = load(ITS_CLASS[name], converted(name, activation="erf"))
        expected = google(fixtures, name)
        differences = farthest(compute(model, expected), expected)
        assert differences["embeddings"] < TOLERANCE
        heads = {"mlm_logits", "logits", "start_logits"} & differences.keys()
        assert heads
        for output in ("layer_0", "layer_1", *heads):
            assert differences[output] > 1e-5, differences

    def test_are_the_same_after_transformers_has_saved_the_model(
        self, fixtures: Path, converted: Convert, tmp_path: Path
    ) -> None:
        for name, auto in ITS_CLASS.items():
            model, _ = load(auto, converted(name))
            model.save_pretrained(tmp_path / name)
            written = load_file(converted(name) / "model.safetensors")
            saved = load_file(tmp_path / name / "model.safetensors")
            # Of squad, transformers saves no pooler, as its class has none.
            assert written.keys() - saved.keys() == (POOLER if name == "squad" else set())
            assert saved.keys() <= written.keys()
            assert all(np.array_equal(saved[n], written[n]) for n in saved)
            again, info = load(auto, tmp_path / name)
            assert not any(info.values())
            inputs = google(fixtures, name)
            before, after = compute(model, inputs), compute(again, inputs)
            assert all(np.array_equal(before[output], after[output]) for output in before)

    def test_of_a_trained_checkpoint_from_the_wild_are_finite_and_whole(
        self, real: Path, tmp_path: Path, said: pytest.LogCaptureFixture
    ) -> None:
        convert(real / "keras-bert-tiny-pretrain", tmp_path / "out")
        model, info = load(AutoModelForPreTraining, tmp_path / "out")
        assert not any(info.values())
        assert said.messages == []
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
        with torch.no_grad():
            outputs = model(**tokenizer("all", return_tensors="pt"))
        assert torch.isfinite(outputs.prediction_logits).all()


class TestTheCard:
    @pytest.mark.parametrize("name", FIXTURES)
    def test_shows_code_that_runs(
        self,
        converted: Convert,
        said: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        folder = converted(name)
        card = (folder / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        monkeypatch.chdir(folder)
        names: dict[str, Any] = {}
        exec(code, names)
        architecture = json.loads((folder / "config.json").read_bytes())["architectures"][0]
        assert type(names["model"]).__name__ == architecture
        assert torch.isfinite(names["outputs"][0]).all()
        assert "MISSING" not in said.text
        assert "MISMATCH" not in said.text
