"""Every family: its folder, as transformers loads it, against what the original code computed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from bertconvert import PlanError, convert
from bertconvert.converter.models import load_reference
from bertconvert.converter.models.reference import Samples
from bertconvert.converter.prepare import prepare
from bertconvert.converter.verify import verify
from bertconvert.converter.verify.model_folder import open_folder
from bertconvert.converter.verify.original import architecture_of
from bertconvert.converter.verify.torch_model import forward

from ..arrays import as_tensors, everywhere
from ..helpers import changed_copy

# float32 outputs of the original code are off by up to 4e-6 themselves; a wrong GELU by 1e-3.
TOLERANCE = 1e-5
TOYS_TOLERANCE = 2e-5  # their numbers are larger


class Case(NamedTuple):
    """A checkpoint, and what it becomes."""

    folder: str
    architecture: str
    auto: str
    head: str | None = None
    # What the folder has beyond its class: the pooler, which AutoModel loads.
    unexpected: frozenset[str] = frozenset()
    mapping: str | None = None
    num_heads: int | None = None  # for a checkpoint without a config

    @property
    def options(self) -> dict[str, Any]:
        return {"head": self.head, "mapping": self.mapping, "num_heads": self.num_heads}

    def __str__(self) -> str:
        return " ".join(filter(None, [self.folder, self.mapping, self.head]))


def pooler(prefix: str) -> frozenset[str]:
    return frozenset(f"{prefix}.pooler.dense.{part}" for part in ("weight", "bias"))


BERT, MOBILE = pooler("bert"), pooler("mobilebert")
ALBERT = frozenset({"albert.pooler.weight", "albert.pooler.bias"})
GENERATOR = "electra_generator"
FIXTURES = [
    Case("tf2-encoder", "BertModel", "AutoModel"),
    Case("tf2-encoder-v2", "BertModel", "AutoModel"),
    Case("tf2-pretraining", "BertForPreTraining", "AutoModelForPreTraining"),
    Case("tf2-pretraining", "BertForMaskedLM", "AutoModelForMaskedLM", "mlm", BERT),
    Case(
        "tf2-pretraining",
        "BertForNextSentencePrediction",
        "AutoModelForNextSentencePrediction",
        "nsp",
    ),
    Case("tf2-pretraining", "BertModel", "AutoModel", "none"),
    Case("tf2-classifier", "BertForSequenceClassification", "AutoModelForSequenceClassification"),
    Case(
        "tf2-classifier-pooler",
        "BertForSequenceClassification",
        "AutoModelForSequenceClassification",
    ),
    Case("tf2-span", "BertForQuestionAnswering", "AutoModelForQuestionAnswering", "squad", BERT),
    Case(
        "tf2-token",
        "BertForTokenClassification",
        "AutoModelForTokenClassification",
        "token",
        BERT,
    ),
    Case("tf2-hub", "BertForMaskedLM", "AutoModelForMaskedLM", unexpected=BERT),
    Case("mobilebert", "MobileBertForPreTraining", "AutoModelForPreTraining"),
    Case("mobilebert", "MobileBertForMaskedLM", "AutoModelForMaskedLM", "mlm"),
    Case(
        "mobilebert",
        "MobileBertForNextSentencePrediction",
        "AutoModelForNextSentencePrediction",
        "nsp",
    ),
    Case("mobilebert", "MobileBertModel", "AutoModel", "none"),
    Case("mobilebert-pooler", "MobileBertForPreTraining", "AutoModelForPreTraining"),
    Case("mobilebert-pooler", "MobileBertForMaskedLM", "AutoModelForMaskedLM", "mlm", MOBILE),
    Case("mobilebert-pooler", "MobileBertModel", "AutoModel", "none"),
    Case("mobilebert-wide", "MobileBertForPreTraining", "AutoModelForPreTraining"),
    Case("mobilebert-wide", "MobileBertForMaskedLM", "AutoModelForMaskedLM", "mlm"),
    Case("albert", "AlbertForPreTraining", "AutoModelForPreTraining"),
    Case("albert", "AlbertForMaskedLM", "AutoModelForMaskedLM", "mlm", ALBERT),
    Case("albert", "AlbertModel", "AutoModel", "none"),
    Case("albert-relu", "AlbertForPreTraining", "AutoModelForPreTraining"),
    Case(
        "albert-classifier",
        "AlbertForSequenceClassification",
        "AutoModelForSequenceClassification",
    ),
    Case(
        "albert-squad", "AlbertForQuestionAnswering", "AutoModelForQuestionAnswering", None, ALBERT
    ),
    Case("electra", "ElectraForPreTraining", "AutoModelForPreTraining"),
    Case("electra", "ElectraModel", "AutoModel", "none"),
    Case("electra", "ElectraForMaskedLM", "AutoModelForMaskedLM", mapping=GENERATOR),
    Case("electra", "ElectraModel", "AutoModel", "none", mapping=GENERATOR),
    Case("electra-wide", "ElectraForPreTraining", "AutoModelForPreTraining"),
    Case("electra-wide", "ElectraForMaskedLM", "AutoModelForMaskedLM", mapping=GENERATOR),
    Case(
        "electra-tagging",
        "ElectraForTokenClassification",
        "AutoModelForTokenClassification",
        num_heads=2,
    ),
]
TOYS = [
    Case("mobilebert-opt", "MobileBertForPreTraining", "AutoModelForPreTraining"),
    Case("tf2-encoder", "BertModel", "AutoModel"),
    Case("tf2-pre", "BertForMaskedLM", "AutoModelForMaskedLM", unexpected=BERT),
    Case("tf2-cls", "BertForSequenceClassification", "AutoModelForSequenceClassification"),
    Case("tf2-span", "BertForQuestionAnswering", "AutoModelForQuestionAnswering", "squad", BERT),
    Case("tf2-hub", "BertForMaskedLM", "AutoModelForMaskedLM", unexpected=BERT),
    Case("albert-1", "AlbertForPreTraining", "AutoModelForPreTraining"),
    Case("albert-1", "AlbertForMaskedLM", "AutoModelForMaskedLM", "mlm", ALBERT),
    Case("albert-1", "AlbertModel", "AutoModel", "none"),
    Case("albert-relu", "AlbertForPreTraining", "AutoModelForPreTraining"),
    Case("electra-small", "ElectraForPreTraining", "AutoModelForPreTraining"),
    Case("electra-small", "ElectraForMaskedLM", "AutoModelForMaskedLM", mapping=GENERATOR),
    Case("electra-uniform", "ElectraForPreTraining", "AutoModelForPreTraining"),
]
RECORDED = {case.folder for case in TOYS} - {"tf2-encoder", "tf2-cls", "tf2-span", "tf2-hub"}
MASK = 4  # of ELECTRA's toys

Arrays = dict[str, np.ndarray[Any, Any]]
Make = Callable[[Path, Case], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The model folder of a case, below the folder of its checkpoint."""
    folders: dict[tuple[Path, Case], Path] = {}

    def make(checkpoints: Path, case: Case) -> Path:
        if (checkpoints, case) not in folders:
            out = tmp_path_factory.mktemp("family") / "out"
            convert(checkpoints / case.folder, out, **case.options)
            folders[checkpoints, case] = out
        return folders[checkpoints, case]

    return make


def computed(case: Case, folder: Path, checkpoint: Path, samples: Samples) -> Arrays:
    """What transformers computes in float32, by the reference's names."""
    model = getattr(transformers, case.auto).from_pretrained(folder).eval()
    reference = load_reference(prepare(checkpoint, **case.options).mapping.reference)
    with torch.no_grad():
        outputs, _ = forward(model, reference, samples)
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def recording(case: Case, fixtures: Path) -> tuple[Samples, Arrays]:
    """What the original code was given, and what it computed."""
    recorded = load_file(fixtures / case.folder / "google_outputs.safetensors")
    inputs = [recorded.pop(key) for key in ("input_ids", "input_mask", "segment_ids")]
    if case.mapping == GENERATOR:
        recorded = {
            name.removeprefix("generator/"): array
            for name, array in recorded.items()
            if name.startswith("generator/")
        }
    if "mlm_logits" in recorded:
        recorded["mlm_logits"] = recorded["mlm_logits"].reshape(inputs[0].size, -1)
    return everywhere(*inputs), recorded


def assert_close(
    outputs: Mapping[str, Any], recorded: Mapping[str, Any], least: int, atol: float = TOLERANCE
) -> None:
    """That at least so many outputs are recorded, and all of these are the same."""
    both = outputs.keys() & recorded.keys()
    assert len(both) >= least
    for name in both:
        np.testing.assert_allclose(outputs[name], recorded[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", FIXTURES, ids=str)
class TestAFixture:
    def test_is_computed_by_the_reference_as_the_original_code_did(
        self, case: Case, fixtures: Path, made: Make
    ) -> None:
        samples, recorded = recording(case, fixtures)
        prepared = prepare(fixtures / case.folder, **case.options)
        reference = load_reference(prepared.mapping.reference)
        folder = open_folder(made(fixtures, case))
        settings = reference.settings(architecture_of(prepared, folder.config))
        checkpoint = prepared.checkpoint
        arrays = {entry.name: checkpoint[entry.variable] for entry in prepared.plan.entries}
        for dtype in ("float32", "float64"):
            outputs = reference.forward(as_tensors(arrays, dtype), settings, samples)
            found = {name: tensor.numpy() for name, tensor in outputs.items()}
            assert {array.dtype.name for array in found.values()} == {dtype}
            assert found.keys() <= recorded.keys()
            assert_close(found, recorded, least=3)

    def test_is_loaded_whole_and_computes_the_same(
        self, case: Case, fixtures: Path, made: Make
    ) -> None:
        folder = made(fixtures, case)
        model, info = getattr(transformers, case.auto).from_pretrained(
            folder, output_loading_info=True
        )
        assert type(model).__name__ == case.architecture
        assert set(info.pop("unexpected_keys")) == case.unexpected
        assert not any(info.values()), info
        samples, recorded = recording(case, fixtures)
        outputs = computed(case, folder, fixtures / case.folder, samples)
        assert_close(outputs, recorded, least=3)

    def test_passes_at_every_level(self, case: Case, fixtures: Path, made: Make) -> None:
        verdict = verify(
            fixtures / case.folder, made(fixtures, case), level="gradients", **case.options
        )
        assert [check for check in verdict.checks if not check.passed] == []
        assert verdict.architecture == case.architecture
        assert max(output.relative for output in verdict.outputs) <= 1e-11
        assert max(gradient.relative for gradient in verdict.gradients) <= 1e-9


@pytest.mark.parametrize("case", TOYS, ids=str)
class TestAToy:
    def test_passes_at_every_level(self, case: Case, families: Path, made: Make) -> None:
        checkpoints = families / "checkpoints"
        folder = made(checkpoints, case)
        _, info = getattr(transformers, case.auto).from_pretrained(folder, output_loading_info=True)
        assert set(info.pop("unexpected_keys")) == case.unexpected
        assert not any(info.values()), info
        verdict = verify(checkpoints / case.folder, folder, level="gradients", **case.options)
        assert [check for check in verdict.checks if not check.passed] == []
        assert verdict.architecture == case.architecture


@pytest.mark.parametrize(
    "case", [case for case in TOYS if case.folder in RECORDED and not case.head], ids=str
)
def test_a_toy_computes_what_was_recorded(case: Case, families: Path, made: Make) -> None:
    checkpoint = families / "checkpoints" / case.folder
    with np.load(checkpoint / "io.npz") as recorded:
        given = {name: recorded[name] for name in recorded}
    # ELECTRA's halves were given different tokens: the generator those with masks, if there is one.
    ids, seq = "ids", "seq"
    if "ids" not in given:
        half = "1" if "ids1" in given and case.mapping is None else "0"
        ids, seq = f"ids{half}", f"seq{half}"
    samples = everywhere(*(given[name] for name in (ids, "mask", "seg")))
    outputs = computed(case, made(families / "checkpoints", case), checkpoint, samples)
    *_, last = (name for name in outputs if name.startswith("layer_"))
    names = {seq: last, "pool": "pooled", "mlm": "mlm_logits", "nsp": "nsp_logits"}
    names |= {"sop": "sop_logits", "disc": "logits"}
    found = {
        theirs: outputs[ours]
        for theirs, ours in names.items()
        if theirs in given and ours in outputs
    }
    if case.mapping == GENERATOR:  # whose logits are those of the masks
        found["mlm"] = found["mlm"][given[ids].ravel() == MASK]
    found = {name: array.reshape(given[name].shape) for name, array in found.items()}
    assert_close(found, given, least=2, atol=TOYS_TOLERANCE)


def test_a_classifier_on_the_first_token_is_one_of_tokens(fixtures: Path, tmp_path: Path) -> None:
    source, options = fixtures / "electra-classifier", {"head": "token", "num_heads": 2}
    convert(source, tmp_path / "out", **options)
    verdict = verify(source, tmp_path / "out", level="gradients")
    assert [check for check in verdict.checks if not check.passed] == []
    case = Case("electra-classifier", "", "AutoModelForTokenClassification", **options)
    samples, recorded = recording(case, fixtures)
    outputs = computed(case, tmp_path / "out", source, samples)
    first = {**outputs, "logits": outputs["logits"][:, 0]}
    assert_close(first, recorded, least=4)


@pytest.mark.parametrize("samples", [1, 2, 8])
def test_the_sequences_of_a_batch_are_choices_where_a_class_has_choices(
    samples: int, fixtures: Path, tmp_path: Path
) -> None:
    scores = {"output_weights": (1, 20), "output_bias": (1,)}
    source = changed_copy(
        tmp_path / "in", fixtures / "albert-classifier", scores, without="output_"
    )
    convert(source, tmp_path / "out", head="choice")
    verdict = verify(source, tmp_path / "out", level="gradients", samples=samples)
    assert [check for check in verdict.checks if not check.passed] == []
    assert verdict.architecture == "AlbertForMultipleChoice"
    assert verdict.outputs[-1].tensor == "logits"
    model = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(torch.tensor([[[3, 4, 5], [6, 7, 8]]])).logits
    assert logits.shape == (1, 2)


def test_a_class_with_one_score_refuses_a_head_of_several(fixtures: Path) -> None:
    with pytest.raises(PlanError) as raised:
        prepare(fixtures / "albert-classifier", head="choice")
    assert "AlbertForMultipleChoice needs num_labels = 1" in str(raised.value)
    assert "has 3 (output_bias" in str(raised.value) or "has 3 (output_weights" in str(raised.value)
