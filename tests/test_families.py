"""What the mappings of further families convert, and what they refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bertconvert import MappingError, PlanError, convert, open_checkpoint, prepare
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.model_card import model_card
from bertconvert.converter.verify import verify

from .batch.runs import family, run

Change = Callable[[str], str]
LAYER = "bert/encoder/layer_0"
EXTRA = "cls/predictions/extra_output_weights"


def renamed(folder: Path, source: Path, change: Change, **more: tuple[int, ...]) -> Path:
    """A copy of a fixture whose variables have other names; one that gets "" is left out.

    Args:
        folder: the folder to make.
        source: the fixture. A variable of TensorFlow 2 is known by its full name.
        change: a variable's name -> the name in the copy.
        more: variables to add, with their shapes; all numbers are 0.5.
    """
    ignored = shutil.ignore_patterns("*.ckpt*", "ckpt*", "checkpoint", "electra_small*")
    shutil.copytree(source, folder, ignore=ignored)
    with open_checkpoint(source) as checkpoint:
        arrays = {
            change(variable.full_name or name): checkpoint[name]
            for name, variable in checkpoint.variables.items()
            if variable.dtype == "float32"
        }
    arrays.pop("", None)
    arrays |= {n: np.full(shape, 0.5, np.float32) for n, shape in more.items()}
    write_bundle(folder / "bert_model.ckpt", arrays)
    return folder


def configured(folder: Path, **values: Any) -> Path:
    """Change the config of a copy."""
    path = folder / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def refusal(source: Path, **options: Any) -> str:
    """Why a checkpoint is not converted; nothing is written."""
    with pytest.raises((MappingError, PlanError)) as caught:
        convert(source, source.parent / "out", **options)
    assert not (source.parent / "out").exists()
    return str(caught.value)


def same(name: str) -> str:
    return name


class TestMobileBERT:
    def test_has_every_key_of_its_config_written(self, fixtures: Path, tmp_path: Path) -> None:
        convert(fixtures / "mobilebert", tmp_path / "out")
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        layout = {
            "model_type": "mobilebert",
            "use_bottleneck": True,
            "trigram_input": True,
            "key_query_shared_bottleneck": True,
            "use_bottleneck_attention": False,
            "normalization_type": "no_norm",
            "num_feedforward_networks": 3,
            "intra_bottleneck_size": 12,
            "embedding_size": 6,
            "classifier_activation": False,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-12,
        }
        assert layout.items() <= config.items()

    def test_with_a_pooler_says_so_in_its_config(self, fixtures: Path, tmp_path: Path) -> None:
        convert(fixtures / "mobilebert-pooler", tmp_path / "out")
        assert json.loads((tmp_path / "out" / "config.json").read_text())["classifier_activation"]

    def test_of_wide_embeddings_gets_the_empty_tensor_that_its_class_has(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        convert(fixtures / "mobilebert-wide", tmp_path / "out")
        tensor = load_file(tmp_path / "out" / "model.safetensors")["cls.predictions.dense.weight"]
        assert tensor.shape == (0, 128)
        assert verify(fixtures / "mobilebert-wide", tmp_path / "out", level="weights").passed

    def test_needs_its_extra_weights_if_its_embeddings_are_narrow(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(
            tmp_path / "in", fixtures / "mobilebert", lambda n: "" if n == EXTRA else n
        )
        assert EXTRA in refusal(source)

    def test_without_a_config_asks_for_the_heads(self, fixtures: Path, tmp_path: Path) -> None:
        source = renamed(tmp_path / "in", fixtures / "mobilebert", same)
        (source / "bert_config.json").unlink()
        text = refusal(source)
        assert "num_attention_heads" in text
        assert "--num-heads" in text
        assert prepare(source, num_heads=2).plan.sizes["A"] == 2

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("normalization_type", "layer_norm"),
            ("use_bottleneck", False),
            ("trigram_input", False),
            ("key_query_shared_bottleneck", False),
            ("use_bottleneck_attention", True),
            ("classifier_activation", True),
            ("num_feedforward_networks", 4),
            ("embedding_size", 20),
            ("intra_bottleneck_size", 24),
            ("num_attention_heads", 5),
            ("hidden_act", "swish"),
        ],
    )
    def test_must_fit_its_config(
        self, key: str, value: object, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(tmp_path / "in", fixtures / "mobilebert", same)
        text = refusal(configured(source, **{key: value}))
        assert key in text
        assert str(value) in text

    @pytest.mark.parametrize(
        ("change", "model"),
        [
            (lambda n: n.replace("FakeLayerNorm", "LayerNorm"), "IB-BERT"),
            (lambda n: "" if "/bottleneck/attention/" in n else n, "share no bottleneck"),
            (lambda n: "" if "/bottleneck/" in n else n, "without bottlenecks"),
            (lambda n: "" if "embedding_transformation" in n else n, "without trigrams"),
        ],
    )
    def test_in_a_layout_that_is_not_converted_is_called_so(
        self, change: Change, model: str, fixtures: Path, tmp_path: Path
    ) -> None:
        text = refusal(renamed(tmp_path / "in", fixtures / "mobilebert", change))
        assert "MobileBERT" in text
        assert model in text
        assert len(text.splitlines()) == 1

    def test_beside_its_teacher_asks_which_is_meant(self, fixtures: Path, tmp_path: Path) -> None:
        teacher = {
            "teacher/bert/embeddings/word_embeddings": (128, 20),
            "teacher/bert/embeddings/embedding_transformation/kernel": (60, 20),
        }
        source = renamed(tmp_path / "in", fixtures / "mobilebert", same, **teacher)
        text = refusal(source)
        assert "teacher/" in text
        assert "--scope" in text
        plan = prepare(source, scope="").plan
        assert {drop.variable for drop in plan.dropped} == teacher.keys()

    def test_trained_for_quantization_is_converted_without_its_ranges(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        ranges = [
            f"{LAYER}/attention/self/query/MobileBertActFakeQuantWithMinMaxVars/min",
            f"{LAYER}/attention/self/query/MobileBertWeightFakeQuantWithMinMaxVars_1/max",
            f"{LAYER}/output/MobileBertActFakeQuantWithMinMaxVars/{LAYER}/output/min/biased",
        ]
        source = renamed(
            tmp_path / "in", fixtures / "mobilebert", same, **dict.fromkeys(ranges, ())
        )
        plan = prepare(configured(source, hidden_act="relu6")).plan
        assert {drop.variable for drop in plan.dropped} == set(ranges)
        assert all("quantization" in drop.reason for drop in plan.dropped)
        assert plan.config["hidden_act"] == "relu6"

    def test_with_one_network_in_a_layer_has_no_list_of_them(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(
            tmp_path / "in", fixtures / "mobilebert", lambda n: "" if "/ffn_layer_" in n else n
        )
        plan = prepare(configured(source, num_feedforward_networks=1)).plan
        assert plan.config["num_feedforward_networks"] == 1
        assert not [entry for entry in plan.entries if ".ffn." in entry.tensor]

    @pytest.mark.parametrize(
        ("head", "variables", "architecture"),
        [
            ("classifier", {"output_weights": (3, 20), "output_bias": (3,)}, "Sequence"),
            ("token", {"output_weights": (3, 20), "output_bias": (3,)}, "Token"),
            (
                "squad",
                {"cls/squad/output_weights": (2, 20), "cls/squad/output_bias": (2,)},
                "Question",
            ),
        ],
    )
    def test_has_the_heads_of_fine_tuning(
        self,
        head: str,
        variables: dict[str, tuple[int, ...]],
        architecture: str,
        fixtures: Path,
        tmp_path: Path,
    ) -> None:
        source = renamed(
            tmp_path / "in",
            fixtures / "mobilebert",
            lambda n: "" if n.startswith("cls/") else n,
            **variables,
        )
        chosen = {"token": "token"}.get(head)
        plan = prepare(source, head=chosen).plan
        assert plan.architecture.name.startswith(f"MobileBertFor{architecture}")
        assert plan.dropped == []


class TestBertOfTensorFlow2:
    def test_has_the_trained_pooler_of_two(self, fixtures: Path) -> None:
        prepared = prepare(fixtures / "tf2-pretraining")
        taken = {e.tensor: e.variable for e in prepared.plan.entries}["bert.pooler.dense.weight"]
        full_names = {n: v.full_name for n, v in prepared.checkpoint.variables.items()}
        assert full_names[taken] == "bert/next_sentence/pooler_dense/kernel"
        skipped = {full_names[drop.variable]: drop.reason for drop in prepared.plan.dropped}
        assert "not trained" in skipped["pooler_transform/kernel"]

    def test_has_the_pooler_that_its_classifier_brought(self, fixtures: Path) -> None:
        prepared = prepare(fixtures / "tf2-classifier-pooler")
        taken = {e.tensor: e.variable for e in prepared.plan.entries}["bert.pooler.dense.weight"]
        full_name = prepared.checkpoint.variables[taken].full_name
        assert full_name == "sentence_prediction/pooler_dense/kernel"

    def test_tells_its_heads_by_its_shapes(self, fixtures: Path, tmp_path: Path) -> None:
        source = renamed(tmp_path / "in", fixtures / "tf2-encoder", same)
        assert "num_attention_heads" in refusal(configured(source, num_attention_heads=4))
        (source / "bert_config.json").unlink()
        assert prepare(source).plan.config["num_attention_heads"] == 2

    def test_of_a_training_run_is_converted_without_its_slots(self, fixtures: Path) -> None:
        reasons = {drop.reason for drop in prepare(fixtures / "tf2-classifier").plan.dropped}
        assert "optimizer slot" in reasons

    def test_under_its_names_of_2020_is_the_same(self, fixtures: Path, tmp_path: Path) -> None:
        def of_2020(name: str) -> str:
            return name.replace("self_attention/attention_output", "self_attention_output")

        source = renamed(tmp_path / "in", fixtures / "tf2-encoder", of_2020)
        convert(source, tmp_path / "old")
        convert(fixtures / "tf2-encoder", tmp_path / "new")
        old, new = (load_file(tmp_path / n / "model.safetensors") for n in ("old", "new"))
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[name], new[name]) for name in old)

    @pytest.mark.parametrize("folder", ["tf2-span", "tf2-token"])
    def test_with_a_head_that_three_classes_have_asks_which_it_is(
        self, folder: str, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(tmp_path / "in", fixtures / folder, same)
        text = refusal(source)
        assert "--head" in text
        assert all(head in text for head in ("nsp", "token", "squad"))

    def test_with_the_head_of_the_first_pretrainer_is_told_by_the_caller(
        self, fixtures: Path
    ) -> None:
        plan = prepare(fixtures / "tf2-span", head="nsp").plan
        assert plan.architecture.name == "BertForNextSentencePrediction"
        shapes = {entry.tensor: entry.shape for entry in plan.entries}
        assert shapes["cls.seq_relationship.weight"] == (2, 16)

    def test_with_a_keras_layer_on_top_is_told_what_it_is(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        layer = {"top/kernel": (16, 3), "top/bias": (3,)}
        source = renamed(tmp_path / "in", fixtures / "tf2-encoder", same, **layer)
        text = refusal(source)
        assert all(f"--head {head}" in text for head in ("none", "classifier", "token"))
        for head, architecture in (
            ("classifier", "BertForSequenceClassification"),
            ("token", "BertForTokenClassification"),
            ("none", "BertModel"),
        ):
            plan = prepare(source, head=head).plan
            assert plan.architecture.name == architecture
            assert ({drop.variable for drop in plan.dropped} == layer.keys()) is (head == "none")

    def test_in_a_scope_with_its_heads_outside_is_verified(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        def of_encoder_v2(name: str) -> str:
            return name if name.startswith("bert/") else f"bert_encoder_v2/{name}"

        source = renamed(tmp_path / "in", fixtures / "tf2-pretraining", of_encoder_v2)
        made = convert(source, tmp_path / "out")
        assert made.architecture == "BertForPreTraining"
        assert verify(source, tmp_path / "out", level="weights").passed

    def test_is_converted_without_heads_that_no_rule_knows(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        scope = "bert/sentence_order/logits"
        head = {f"{scope}/kernel": (16, 2), f"{scope}/bias": (2,)}
        source = renamed(tmp_path / "in", fixtures / "tf2-encoder", same, **head)
        assert f"{scope}/kernel" in refusal(source)
        assert {drop.variable for drop in prepare(source, head="none").plan.dropped} == head.keys()

    @pytest.mark.parametrize("head", [None, "none"])
    def test_whose_embeddings_are_projected_is_refused(
        self, head: str | None, fixtures: Path, tmp_path: Path
    ) -> None:
        narrow = {
            "word_embeddings/embeddings": (128, 8),
            "position_embedding/embeddings": (64, 8),
            "type_embeddings/embeddings": (2, 8),
            "embeddings/layer_norm/gamma": (8,),
            "embeddings/layer_norm/beta": (8,),
            "embedding_projection/kernel": (8, 16),
            "embedding_projection/bias": (16,),
        }
        source = renamed(tmp_path / "in", fixtures / "tf2-encoder", same, **narrow)
        text = refusal(source, head=head)
        assert "word_embeddings/embeddings [128, 8]" in text
        assert "16" in text
        assert len(text.splitlines()) == 1

    def test_has_a_card_that_says_where_it_is_from(self, fixtures: Path) -> None:
        card = model_card(prepare(fixtures / "tf2-encoder"))
        assert "a TensorFlow 2 checkpoint" in card
        assert "tensorflow-2-checkpoint" in card
        assert "TensorFlow 1" not in card


class TestElectra:
    def test_without_a_discriminator_is_a_masked_lm_on_its_encoder(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(
            tmp_path / "in",
            fixtures / "electra",
            lambda n: "" if n.startswith(("generator/", "discriminator_")) else n,
        )
        plan = prepare(source).plan
        assert plan.architecture.name == "ElectraForMaskedLM"
        assert plan.dropped == []
        taken = {entry.tensor: entry.variable for entry in plan.entries}
        query = "encoder/layer_0/attention/self/query/kernel"
        assert taken["electra.encoder.layer.0.attention.self.query.weight"] == f"electra/{query}"

    def test_of_tied_halves_has_both_on_one_encoder(self, fixtures: Path, tmp_path: Path) -> None:
        source = renamed(
            tmp_path / "in",
            fixtures / "electra",
            lambda n: "" if n.startswith("generator/") else n,
        )
        assert prepare(source).plan.architecture.name == "ElectraForPreTraining"
        other = prepare(source, mapping="electra_generator").plan
        assert other.architecture.name == "ElectraForMaskedLM"
        assert verify_weights(source, tmp_path / "out", mapping="electra_generator")

    def test_of_half_a_generator_converts_the_other_half_only(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        lacking = "generator/encoder/layer_1/output/dense/kernel"
        source = renamed(tmp_path / "in", fixtures / "electra", lambda n: "" if n == lacking else n)
        assert prepare(source).plan.architecture.name == "ElectraForPreTraining"
        assert "encoder is incomplete" in refusal(source, mapping="electra_generator")

    def test_says_how_to_get_the_half_that_is_skipped(self, fixtures: Path) -> None:
        reasons = {drop.reason for drop in prepare(fixtures / "electra").plan.dropped}
        assert len(reasons) == 1
        assert "--mapping electra_generator" in reasons.pop()

    def test_with_a_head_for_questions_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        head = {
            "task_specific/squad/qa_hidden/kernel": (40, 16),
            "task_specific/squad/qa_hidden/bias": (16,),
            "task_specific/squad/dense_1/kernel": (16, 1),
            "task_specific/squad/dense_1/bias": (1,),
        }
        source = renamed(
            tmp_path / "in",
            fixtures / "electra-tagging",
            lambda n: n.replace("/chunk/", "/squad/"),
            **head,
        )
        text = refusal(source, num_heads=2)
        assert "ElectraForQuestionAnswering" in text
        assert "--head none" in text
        plan = prepare(source, num_heads=2, head="none").plan
        assert plan.architecture.name == "ElectraModel"

    def test_of_chinese_electra_has_the_config_of_its_half(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(tmp_path / "in", fixtures / "electra", same)
        for half, dropout in (("discriminator", 0.2), ("generator", 0.3)):
            config = {
                "model_type": "electra",
                "vocab_size": 128,
                "embedding_size": 12,
                "hidden_size": 20,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 32,
                "type_vocab_size": 2,
                "hidden_dropout_prob": dropout,
            }
            (source / f"{half}.json").write_text(json.dumps(config))
        assert prepare(source).plan.config["hidden_dropout_prob"] == 0.2
        other = prepare(source, mapping="electra_generator").plan
        assert other.config["hidden_dropout_prob"] == 0.3


class TestAlbert:
    def test_without_a_config_asks_for_layers_and_heads(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = renamed(tmp_path / "in", fixtures / "albert", same)
        (source / "albert_config.json").unlink()
        text = refusal(source)
        assert "--num-layers" in text and "--num-heads" in text
        sizes = prepare(source, num_layers=5, num_heads=2).plan.sizes
        assert (sizes["L"], sizes["A"], sizes["G"], sizes["N"]) == (5, 2, 2, 2)

    def test_with_the_beam_head_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        head = {
            "start_logits/dense/kernel": (20, 1),
            "end_logits/dense_0/kernel": (40, 20),
            "answer_class/dense_1/kernel": (20, 1),
        }
        source = renamed(
            tmp_path / "in",
            fixtures / "albert-squad",
            lambda n: "" if "squad" in n else n,
            **head,
        )
        assert "run_squad_v2.py" in refusal(source)
        plan = prepare(source, head="none").plan
        assert plan.architecture.name == "AlbertModel"
        assert {drop.variable for drop in plan.dropped} == head.keys()

    def test_without_the_projection_is_called_so(self, fixtures: Path, tmp_path: Path) -> None:
        source = renamed(
            tmp_path / "in", fixtures / "albert", lambda n: "" if "mapping_in" in n else n
        )
        assert "as wide as its layers" in refusal(source)

    def test_keeps_the_relu_of_the_chinese_models(self, fixtures: Path) -> None:
        plan = prepare(fixtures / "albert-relu").plan
        assert plan.config["hidden_act"] == "relu"


def verify_weights(source: Path, out: Path, **options: Any) -> bool:
    convert(source, out, **options)
    return verify(source, out, level="weights", **options).passed


class TestABatch:
    def test_takes_all_families_mixed(self, fixtures: Path, tmp_path: Path) -> None:
        result = run(fixtures, tmp_path / "out", "--jobs", "2")
        models = family(tmp_path / "out")
        failed = {name: model["error"] for name, model in models.items() if "error" in model}
        assert {"tf2-span", "tf2-token"} <= failed.keys()  # which three classes could hold
        assert all("--head" in error for error in failed.values())
        assert result.exit_code == 1
        classes = {model["architecture"] for name, model in models.items() if name not in failed}
        assert {
            "BertForPreTraining",
            "BertForSequenceClassification",
            "MobileBertForPreTraining",
        } <= classes

    def test_gives_each_the_head_that_its_list_names(self, fixtures: Path, tmp_path: Path) -> None:
        heads = {"tf2-span": "squad", "tf2-token": "token", "mobilebert": "none", "tf2-hub": ""}
        lines = []
        for name, head in heads.items():
            lines += ["[[model]]", f'source = "{fixtures / name}"', f'name = "{name}"']
            lines += [f'head = "{head}"'] if head else []
        (tmp_path / "list.toml").write_text("\n".join(lines))
        result = run("--list", tmp_path / "list.toml", tmp_path / "out")
        assert result.exit_code == 0, result.output
        classes = {name: m["architecture"] for name, m in family(tmp_path / "out").items()}
        assert classes == {
            "tf2-span": "BertForQuestionAnswering",
            "tf2-token": "BertForTokenClassification",
            "mobilebert": "MobileBertModel",
            "tf2-hub": "BertForMaskedLM",
        }

    def test_takes_the_toys_of_all_families(self, families: Path, tmp_path: Path) -> None:
        checkpoints = families / "checkpoints"
        run(checkpoints, tmp_path / "out", "--jobs", "2")
        models = family(tmp_path / "out")
        assert len(models) == len([path for path in checkpoints.iterdir() if path.is_dir()])
        assert [name for name, model in models.items() if "error" in model] == ["tf2-span"]
        assert "--head" in models["tf2-span"]["error"]
