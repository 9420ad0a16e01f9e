"""Every mistake that a checkpoint catches by running models, a golden record of it catches, too."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertconvert import convert, record, verify
from bertconvert.converter.models.backend import tensorflow

from ..verify.sabotage import (
    CONFIGS,
    LAYERS,
    TENSORS,
    Sabotage,
    changed,
    configured,
    of_layer,
    sabotaged,
)
from ..verify.test_golden_record_sabotage import assert_alike
from .test_families_sabotage import ALBERT, ELECTRA
from .test_family_mistakes import CASES

BERT = [*TENSORS, *CONFIGS, *(mistake for n in LAYERS for mistake in of_layer(n))]
EVERYWHERE = [
    *(("pretraining", sabotage) for sabotage in BERT),
    *(("albert", sabotage) for sabotage in ALBERT),
    *(("electra", sabotage) for sabotage in ELECTRA),
    *CASES,
]
# A mistake of each kind, which the ordinary suite tries.
FEW = [
    next(s for s in TENSORS if s.name == "positions off by one"),
    next(s for s in CONFIGS if s.kind == "activation"),
    next(s for s in CONFIGS if s.kind == "layers"),
    next(s for s in of_layer(1) if s.kind == "rounded"),
]

Recorded = Callable[[str], Path]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The record of a fixture."""
    tensorflow()  # from now on in this process, which saves a start for each proof
    fixtures = Path(__file__).parents[2] / "fixtures"
    folder = tmp_path_factory.mktemp("records")

    def file(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            record(fixtures / name, path)
        return path

    return file


def check(name: str, level: str, out: Path, fixtures: Path, recorded: Recorded) -> None:
    by_record, by_checkpoint = (
        verify(source, out, level=level) for source in (recorded(name), fixtures / name)
    )
    assert_alike(by_record, by_checkpoint)
    assert by_record.level == by_checkpoint.level == level


@pytest.mark.parametrize("sabotage", FEW, ids=lambda mistake: mistake.name)
def test_a_mistake(
    sabotage: Sabotage,
    fixtures: Path,
    converted: Callable[[str], Path],
    recorded: Recorded,
    tmp_path: Path,
) -> None:
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    check("pretraining", "gradients", out, fixtures, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["outputs", "gradients"])
@pytest.mark.parametrize(
    ("name", "sabotage"),
    [pytest.param(name, s, id=f"{name}: {s.name}: {s.tensor}") for name, s in EVERYWHERE],
)
def test_every_mistake(
    name: str,
    sabotage: Sabotage,
    level: str,
    fixtures: Path,
    converted: Callable[[str], Path],
    recorded: Recorded,
    tmp_path: Path,
) -> None:
    out = sabotaged(converted(name), tmp_path / "out", sabotage)
    check(name, level, out, fixtures, recorded)


def with_untied(folder: Path, into: Path) -> Path:
    """A folder whose output layer has embeddings of its own, with the same numbers."""
    mistake = Sabotage("untied", configured(tie_word_embeddings=False), "untied")
    out = sabotaged(folder, into, mistake)
    tensors = load_file(out / "model.safetensors")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words.copy()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_of_gradients_that_outputs_do_not_show(
    fixtures: Path, converted: Callable[[str], Path], recorded: Recorded, tmp_path: Path
) -> None:
    padding = Sabotage("padding", configured(pad_token_id=5), "padding row")
    row = sabotaged(converted("squad"), tmp_path / "row", padding)
    for name, out in (
        ("squad", row),
        ("pretraining", with_untied(converted("pretraining"), tmp_path / "untied")),
    ):
        check(name, "gradients", out, fixtures, recorded)
        assert verify(recorded(name), out, level="outputs").outputs == (
            verify(fixtures / name, out, level="outputs").outputs
        )


def test_names_each_faulty_part(
    fixtures: Path, converted: Callable[[str], Path], recorded: Recorded, tmp_path: Path
) -> None:
    def twice(tensors: Any, config: Any) -> None:
        for name in (
            "bert.encoder.layer.1.output.dense.bias",
            "cls.predictions.transform.dense.bias",
        ):
            changed(name, np.zeros_like)(tensors, config)

    out = sabotaged(converted("pretraining"), tmp_path / "out", Sabotage("two", twice, "zeroed"))
    check("pretraining", "outputs", out, fixtures, recorded)
    verdict = verify(recorded("pretraining"), out, level="outputs")
    assert [part.tensor for part in verdict.faulty] == ["layer_1", "mlm_logits"]


@pytest.mark.parametrize("module", ["raise ImportError('none')", "import os; os.abort()"])
def test_needs_no_tensorflow_for_the_verdict_on_a_faulty_folder(
    module: str, converted: Callable[[str], Path], recorded: Recorded, tmp_path: Path
) -> None:
    relu = next(sabotage for sabotage in CONFIGS if sabotage.name == "relu")
    out = sabotaged(converted("pretraining"), tmp_path / "out", relu)
    (tmp_path / "tensorflow.py").write_text(module)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "bertconvert", "verify", recorded("pretraining"), out, "--json"]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--level", "gradients"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    verdict = json.loads(done.stdout)
    assert not verdict["passed"] and verdict["first_output"] == "layer_0"
    failed = {check["name"] for check in verdict["checks"] if not check["passed"]}
    assert failed >= {"config.json", "float64", "float32", "loss", "parameters"}
    (cause,) = verdict["causes"]
    assert cause["kind"] == "unknown"
    assert "known mistakes were not tried, because that needs TensorFlow" in cause["text"]


@pytest.mark.slow
def test_of_a_cast_catches_a_mistake_in_it(fixtures: Path, tmp_path: Path) -> None:
    source, out, file = fixtures / "pretraining", tmp_path / "out", tmp_path / "r.safetensors"
    convert(source, out, dtype="float16")
    record(source, file, dtype="float16")
    assert verify(file, out).passed
    tensors = load_file(out / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.bias"
    tensors[name][0] = np.nextafter(tensors[name][0], np.float16(np.inf))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    assert_alike(verify(file, out), verify(source, out, dtype="float16"))
