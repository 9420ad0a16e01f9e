"""Every family: its folder, as transformers loads it, against what the original code computed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from bertconvert import convert
from bertconvert.converter.models import load_reference
from bertconvert.converter.models.reference import Samples
from bertconvert.converter.prepare import prepare
from bertconvert.converter.verify import verify
from bertconvert.converter.verify.model_folder import open_folder
from bertconvert.converter.verify.outputs import as_tensors, open_sides
from bertconvert.converter.verify.torch_model import forward

# float32 outputs of the original code are off by up to 4e-6 themselves; a wrong GELU by 1e-3.
TOLERANCE = 1e-5


class Case(NamedTuple):
    """A checkpoint, and what it becomes."""

    folder: str
    architecture: str
    auto: str
    head: str | None = None
    # What the folder has beyond its class: the pooler, which AutoModel loads.
    unexpected: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.folder} {self.head or ''}".strip()


def pooler(prefix: str) -> frozenset[str]:
    return frozenset(f"{prefix}.pooler.dense.{part}" for part in ("weight", "bias"))


BERT, MOBILE = pooler("bert"), pooler("mobilebert")
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
]
TOYS = [
    Case("mobilebert-opt", "MobileBertForPreTraining", "AutoModelForPreTraining"),
    Case("tf2-encoder", "BertModel", "AutoModel"),
    Case("tf2-pre", "BertForMaskedLM", "AutoModelForMaskedLM", unexpected=BERT),
    Case("tf2-cls", "BertForSequenceClassification", "AutoModelForSequenceClassification"),
    Case("tf2-span", "BertForQuestionAnswering", "AutoModelForQuestionAnswering", "squad", BERT),
    Case("tf2-hub", "BertForMaskedLM", "AutoModelForMaskedLM", unexpected=BERT),
]

Arrays = dict[str, np.ndarray[Any, Any]]
Make = Callable[[Path, Case], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The model folder of a case, below the folder of its checkpoint."""
    folders: dict[tuple[Path, Case], Path] = {}

    def make(checkpoints: Path, case: Case) -> Path:
        if (checkpoints, case) not in folders:
            out = tmp_path_factory.mktemp("family") / "out"
            convert(checkpoints / case.folder, out, head=case.head)
            folders[checkpoints, case] = out
        return folders[checkpoints, case]

    return make


def computed(case: Case, folder: Path, checkpoint: Path, samples: Samples) -> Arrays:
    """What transformers computes in float32, by the reference's names."""
    model = getattr(transformers, case.auto).from_pretrained(folder).eval()
    reference = load_reference(prepare(checkpoint, head=case.head).mapping.reference)
    with torch.no_grad():
        outputs, _ = forward(model, reference, samples)
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def assert_close(outputs: Mapping[str, Any], recorded: Mapping[str, Any], least: int) -> None:
    """That at least so many outputs are recorded, and all of these are the same."""
    both = outputs.keys() & recorded.keys()
    assert len(both) >= least
    for name in both:
        np.testing.assert_allclose(
            outputs[name], recorded[name], rtol=0, atol=TOLERANCE, err_msg=name
        )


@pytest.mark.parametrize("case", FIXTURES, ids=str)
class TestAFixture:
    def test_is_computed_by_the_reference_as_the_original_code_did(
        self, case: Case, fixtures: Path, made: Make
    ) -> None:
        recorded = load_file(fixtures / case.folder / "google_outputs.safetensors")
        inputs = [recorded.pop(key) for key in ("input_ids", "input_mask", "segment_ids")]
        prepared = prepare(fixtures / case.folder, head=case.head)
        reference = load_reference(prepared.mapping.reference)
        folder = open_folder(made(fixtures, case))
        sides = open_sides(prepared, folder, reference, [], [Samples(*inputs)])
        for dtype in ("float32", "float64"):
            variables = as_tensors(sides.variables, dtype)
            outputs = reference.forward(variables, sides.settings, sides.samples[0])
            arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
            assert {array.dtype.name for array in arrays.values()} == {dtype}
            assert arrays.keys() <= recorded.keys()
            assert_close(arrays, recorded, least=3)

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
        recorded = load_file(fixtures / case.folder / "google_outputs.safetensors")
        inputs = [recorded.pop(key) for key in ("input_ids", "input_mask", "segment_ids")]
        outputs = computed(case, folder, fixtures / case.folder, Samples(*inputs))
        assert_close(outputs, recorded, least=3)

    def test_passes_at_every_level(self, case: Case, fixtures: Path, made: Make) -> None:
        verdict = verify(
            fixtures / case.folder, made(fixtures, case), level="gradients", head=case.head
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
        verdict = verify(checkpoints / case.folder, folder, level="gradients", head=case.head)
        assert [check for check in verdict.checks if not check.passed] == []
        assert verdict.architecture == case.architecture


@pytest.mark.parametrize("case", [TOYS[0], TOYS[2]], ids=str)
def test_a_toy_computes_what_was_recorded(case: Case, families: Path, made: Make) -> None:
    checkpoint = families / "checkpoints" / case.folder
    with np.load(checkpoint / "io.npz") as recorded:
        given = {name: recorded[name] for name in recorded}
    samples = Samples(*(given[name] for name in ("ids", "mask", "seg")))
    outputs = computed(case, made(families / "checkpoints", case), checkpoint, samples)
    *_, last = (name for name in outputs if name.startswith("layer_"))
    names = {"seq": last, "pool": "pooled", "mlm": "mlm_logits", "nsp": "nsp_logits"}
    theirs = {ours: given[name] for name, ours in names.items() if name in given}
    theirs = {n: a.reshape(outputs[n].shape) for n, a in theirs.items() if n in outputs}
    assert_close(outputs, theirs, least=2)
