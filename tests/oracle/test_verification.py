"""The figures of both models that stay in a model folder."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bertconvert import convert
from bertconvert.converter.verify import kept, prover, verify
from bertconvert.converter.verify.tensorflow_process import computing


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "pretraining.safetensors"


def test_a_record_needs_neither_tensorflow_nor_ml_dtypes(proved: Path, record: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['ml_dtypes'] = None;"
        " from bertconvert.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "verify", str(record), str(proved)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout and "(level gradients)" in done.stdout


@pytest.fixture(scope="module")
def proved(fixtures: Path, record: Path) -> Path:
    """A model folder that was proved, with a record made on the way."""
    out, runs = record.parent / "out", 0

    def counted(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        return computing(*arguments)

    with pytest.MonkeyPatch.context() as patch, kept(record, False) as keep:
        patch.setattr("bertconvert.converter.verify.tensorflow_process.computing", counted)
        convert(fixtures / "pretraining", out, prove=prover("gradients", None, keep))
    assert runs == 1  # for the proof and the record
    return out


def test_the_record_proves_the_same_without_the_checkpoint(proved: Path, record: Path) -> None:
    there = json.loads((proved / "verification.json").read_bytes())
    verdict = verify(record, proved, level="gradients")
    assert verdict.passed
    assert [output.tensor for output in verdict.outputs] == [o["tensor"] for o in there["outputs"]]
    for output, known in zip(verdict.outputs, there["outputs"], strict=True):
        assert output.tensorflow_error == known["tensorflow_error"]


def test_the_file_has_each_output_and_the_largest_gradient(proved: Path) -> None:
    found = json.loads((proved / "verification.json").read_bytes())
    assert found["levels"] == {"weights": True, "outputs": True, "gradients": True}
    assert (found["samples"], found["seed"], found["text"]) == (8, 0, None)
    assert [*found["versions"]] == ["python", "numpy", "torch", "transformers", "tensorflow"]
    assert found["record"] is None
    names = [output["tensor"] for output in found["outputs"]]
    assert names == ["embeddings", "layer_0", "layer_1", "pooled", "mlm_logits", "nsp_logits"]
    for output in found["outputs"]:
        assert 0 < output["relative"] < found["bounds"]["float64_relative"]
        assert 0 < output["pytorch_error"] <= output["float32_bound"]
    assert found["gradients"]["parameters"] == 46
    assert 0 < found["gradients"]["largest_relative"] < found["bounds"]["gradient_relative"]
    assert found["activation"]["matches"] == "GELU by tanh"


def test_the_card_quotes_the_largest_figures(proved: Path) -> None:
    found = json.loads((proved / "verification.json").read_bytes())
    card = (proved / "README.md").read_text()
    assert f"Verified at level gradients on {found['made'][:10]}, with python 3." in card
    assert f" and tensorflow {found['versions']['tensorflow']}: every tensor" in card
    row = r"^\| (outputs|the same|gradients).*\| (\S+) \| `(\S+)` \|"
    rows = re.findall(row, card, re.MULTILINE)
    exact = max(found["outputs"], key=lambda output: output["relative"])
    near = max(found["outputs"], key=lambda output: output["share"])
    gradients = found["gradients"]
    assert rows == [
        ("outputs", f"{exact['relative']:.1e}", exact["tensor"]),
        ("the same", f"{near['share']:.2f}", near["tensor"]),
        ("gradients", f"{gradients['largest_relative']:.1e}", gradients["tensor"]),
    ]
