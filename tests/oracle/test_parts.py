"""Which parts of a model are faulty: both models run, and need TensorFlow and torch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertconvert import convert
from bertconvert.converter.models import bert
from bertconvert.converter.models.backend import tensorflow
from bertconvert.converter.models.reference import Samples
from bertconvert.converter.verify import Verdict, report, verify
from bertconvert.converter.verify.batches import Batch
from bertconvert.converter.verify.parts import faulty_parts
from bertconvert.converter.verify.samples import seeded_samples
from bertconvert.converter.verify.torch_model import load_model

BERT = "bert.encoder.layer.{}.output.dense.bias"
ALBERT = "albert.encoder.albert_layer_groups.{}.albert_layers.{}.ffn_output.bias"
ELECTRA = "electra.encoder.layer.{}.attention.output.dense.bias"
MOBILE = "mobilebert.encoder.layer.{}.ffn.1.output.dense.bias"


@pytest.fixture(scope="module", autouse=True)
def tensorflow_starts_once() -> None:
    """Import it here, so that no proof starts a process for it."""
    tensorflow()


def faulty(
    source: Path,
    out: Path,
    tensors: Sequence[str] = (),
    config: dict[str, Any] | None = None,
    at: int = 0,
    samples: int = 8,
    **options: Any,
) -> Verdict:
    """The verdict on a converted folder in some of whose tensors a number is wrong.

    Args:
        source: the checkpoint.
        out: the folder to make.
        tensors: whose number is wrong.
        config: what else to write to config.json.
        at: the number's place.
        samples: for `verify`.
        options: of the conversion.
    """
    convert(source, out, **options)
    arrays = load_file(out / "model.safetensors")
    for name in tensors:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[at] += 0.1
    save_file(arrays, out / "model.safetensors", {"format": "pt"})
    path = out / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    return verify(source, out, level="outputs", samples=samples, **options)


def named(verdict: Verdict) -> list[str]:
    return [part.tensor for part in verdict.faulty]


@pytest.mark.parametrize(
    ("fixture", "tensors", "parts"),
    [
        ("pretraining", [BERT.format(1)], ["layer_1"]),
        ("pretraining", [BERT.format(0), BERT.format(1)], ["layer_0", "layer_1"]),
        (
            "pretraining",
            ["bert.embeddings.LayerNorm.bias", BERT.format(1), "cls.seq_relationship.bias"],
            ["embeddings", "layer_1", "nsp_logits"],
        ),
        ("squad", [BERT.format(0), "qa_outputs.bias"], ["layer_0", "start_logits"]),
        ("classifier", ["bert.pooler.dense.bias", "classifier.bias"], ["pooled", "logits"]),
        # A group of ALBERT's is used by several layers, and each of its inner layers is one.
        (
            "albert",
            [ALBERT.format(1, 0), "sop_classifier.classifier.bias"],
            ["layer_6", "layer_8", "sop_logits"],
        ),
        (
            "albert",
            [ALBERT.format(0, 1), "albert.pooler.bias"],
            ["layer_1", "layer_3", "layer_5", "pooled"],
        ),
        (
            "electra",
            [ELECTRA.format(0), "discriminator_predictions.dense.bias"],
            ["layer_0", "logits"],
        ),
        (
            "mobilebert-pooler",
            [MOBILE.format(1), "mobilebert.pooler.dense.bias"],
            ["layer_1", "pooled"],
        ),
        ("mobilebert", [MOBILE.format(0), "cls.predictions.bias"], ["layer_0", "mlm_logits"]),
    ],
)
def test_every_faulty_part_is_named_and_no_other(
    fixture: str, tensors: list[str], parts: list[str], fixtures: Path, tmp_path: Path
) -> None:
    verdict = faulty(fixtures / fixture, tmp_path / "out", tensors)
    assert named(verdict) == parts
    assert all(1e-6 < part.relative < 1 for part in verdict.faulty)
    assert verdict.first_output == parts[0]
    differ = [output.tensor for output in verdict.outputs if not output.same_function]
    assert set(parts) <= set(differ)


def test_the_parts_of_a_half_are_named(fixtures: Path, tmp_path: Path) -> None:
    tensors = [ELECTRA.format(1), "generator_predictions.LayerNorm.bias"]
    verdict = faulty(fixtures / "electra", tmp_path / "out", tensors, mapping="electra_generator")
    assert named(verdict) == ["layer_1", "mlm_logits"]


@pytest.mark.parametrize(
    ("fixture", "layers", "parts"),
    [
        ("pretraining", 1, ["layer_1"]),
        ("pretraining", 3, ["layer_2"]),
        ("electra", 1, ["layer_1"]),
        # Of 4 layers in 2 groups, the third is in the second group. Of 5 it is in the first.
        ("albert", 4, ["layer_4", "layer_5", "layer_8", "layer_9"]),
        ("albert", 6, ["layer_10", "layer_11"]),
    ],
)
def test_a_layer_that_one_side_lacks_is_named_and_the_heads_are_not(
    fixture: str, layers: int, parts: list[str], fixtures: Path, tmp_path: Path
) -> None:
    verdict = faulty(fixtures / fixture, tmp_path / "out", config={"num_hidden_layers": layers})
    assert named(verdict) == parts


def test_a_setting_of_all_layers_makes_each_faulty(fixtures: Path, tmp_path: Path) -> None:
    verdict = faulty(fixtures / "pretraining", tmp_path / "out", config={"hidden_act": "gelu"})
    assert named(verdict) == ["layer_0", "layer_1", "mlm_logits"]
    text = " ".join("\n".join(report.lines(verdict)).split())
    sentence = "these parts differ even if fed the original's input: layer_{0..1} and mlm_logits"
    assert sentence in text
    assert f"T{sentence[1:]}" in report.to_html(verdict).decode().replace("&#39;", "'")
    assert report.to_junit(verdict).count(b"even if fed") == 3
    document = json.loads(report.to_json(verdict))
    assert [part["tensor"] for part in document["faulty"]] == named(verdict)


def test_an_embedding_of_a_position_that_only_long_sequences_have_is_named(
    fixtures: Path, tmp_path: Path
) -> None:
    place = 61  # the last position that seed 0 compares of the long sequence
    (long,) = seeded_samples(
        1, 0, vocab_size=9, max_length=64, segments=2, special={}, pad_id=0, positions=32
    )
    assert long.rows[-1] == place
    tensors = ["bert.embeddings.position_embeddings.weight"]
    verdict = faulty(fixtures / "pretraining", tmp_path / "out", tensors, at=place * 32)
    assert named(verdict) == ["embeddings"]


def test_without_a_sequence_that_is_known_whole_layers_are_not_judged(
    fixtures: Path, tmp_path: Path
) -> None:
    tensors = [BERT.format(0), "bert.pooler.dense.bias", "cls.predictions.bias"]
    verdict = faulty(fixtures / "pretraining", tmp_path / "out", tensors, samples=1)
    assert verdict.first_output == "layer_0"
    assert named(verdict) == ["pooled", "mlm_logits"]


def test_a_model_without_layers_fails_and_is_no_internal_error(
    fixtures: Path, tmp_path: Path
) -> None:
    verdict = faulty(fixtures / "pretraining", tmp_path / "out", config={"num_hidden_layers": 0})
    (check,) = (check for check in verdict.checks if check.name == "running")
    assert check.detail == "the BertForPreTraining has no layers: config.json asks for none"


def test_a_config_that_asks_for_tuples_changes_nothing(fixtures: Path, tmp_path: Path) -> None:
    verdict = faulty(fixtures / "pretraining", tmp_path / "out", config={"return_dict": False})
    assert all(output.same_function and output.as_accurate for output in verdict.outputs)
    assert len(verdict.outputs) == 6


def test_of_a_model_of_another_width_no_part_is_named(fixtures: Path, tmp_path: Path) -> None:
    verdict = faulty(fixtures / "pretraining", tmp_path / "out", config={"hidden_size": 64})
    assert named(verdict) == []
    (check,) = (check for check in verdict.checks if check.name == "running")
    assert check.detail.endswith("the tensors do not have the sizes that config.json gives")


@pytest.mark.parametrize(
    ("shapes", "parts"),
    [
        ({}, []),
        ({"embeddings": (5,)}, []),
        ({"embeddings": (5, 7)}, []),
        ({"embeddings": (5, 32), "layer_0": (5, 2, 16)}, ["layer_0", "layer_1"]),
        ({"embeddings": (5, 32), "pooled": (5, 32)}, ["pooled"]),
        ({"embeddings": (5, 32), "pooled": (5, 7)}, []),
    ],
)
def test_what_no_original_computes_is_no_internal_error(
    shapes: dict[str, tuple[int, ...]],
    parts: list[str],
    converted: Callable[[str], Path],
) -> None:
    groups = ["pooler", "mlm", "nsp"]
    model, _ = load_model(converted("pretraining"), "BertForPreTraining", bert, groups, "float64")
    ids = np.arange(5, dtype=np.int32)[np.newaxis]
    samples = Samples(ids, np.ones_like(ids), np.zeros_like(ids), np.arange(5), np.arange(1))
    outputs = {name: np.ones(shape) for name, shape in shapes.items()}
    settings = bert.Settings(layers=2, heads=2, groups=tuple(groups))
    found = faulty_parts(model, bert, settings, [Batch(samples, outputs)])
    assert set(parts) <= {part.tensor for part in found}
