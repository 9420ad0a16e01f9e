"""Golden records of what a model computes: TensorFlow makes them, and torch is proved by them."""

import json
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open

from bertconvert import convert, record, verify
from bertconvert.converter.models import bert
from bertconvert.converter.models.reference import Samples
from bertconvert.converter.prepare import prepare
from bertconvert.converter.verify.original import architecture_of

from ..arrays import as_tensors

FAMILIES = [
    ("pretraining", {}),
    ("encoder", {}),
    ("squad", {}),
    ("classifier", {"head": "token"}),
    ("albert", {}),
    ("electra", {}),
    ("mobilebert", {}),
]


def arrays_of(file: Path) -> dict[str, Any]:
    with safe_open(file, "np") as opened:
        return {name: opened.get_tensor(name) for name in [*opened.keys()]}


@pytest.fixture(scope="module")
def file(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "pretraining.safetensors"
    record(fixtures / "pretraining", path)
    return path


def test_holds_what_tensorflow_computes(file: Path, fixtures: Path) -> None:
    arrays, prepared = arrays_of(file), prepare(fixtures / "pretraining")
    settings = bert.settings(architecture_of(prepared, prepared.plan.config))
    variables = {e.name: prepared.checkpoint[e.variable] for e in prepared.plan.entries}
    errors: dict[str, float] = {}
    for number in ("0", "1"):
        samples = Samples(*(arrays[f"{number}/{field}"] for field in Samples.__struct_fields__))
        double, single = (
            bert.forward(as_tensors(variables, dtype), settings, samples)
            for dtype in ("float64", "float32")
        )
        for name, output in double.items():
            exact, found = output.numpy(), single[name].numpy()
            if name == "embeddings" or name.startswith("layer_"):
                exact, found = (a.reshape(-1, a.shape[-1])[samples.rows] for a in (exact, found))
            np.testing.assert_array_equal(arrays[f"{number}/outputs/{name}"], exact)
            errors[name] = max(errors.get(name, 0), float(abs(exact - found).max()))
    assert {name: arrays[f"float32_errors/{name}"][0] for name in errors} == errors


def test_keeps_of_a_gradient_what_the_page_says(file: Path, fixtures: Path) -> None:
    arrays, prepared = arrays_of(file), prepare(fixtures / "pretraining")
    settings = bert.settings(architecture_of(prepared, prepared.plan.config))
    settings = bert.without_training(settings, 0)
    values = {e.name: prepared.checkpoint[e.variable] for e in prepared.plan.entries}
    variables = as_tensors(values, "float64")
    samples = Samples(*(arrays[f"1/{field}"] for field in Samples.__struct_fields__))
    labels = {
        name.removeprefix("1/labels/"): array
        for name, array in arrays.items()
        if name.startswith("1/labels/")
    }
    with tf.GradientTape() as tape:
        tape.watch(variables)
        loss = bert.loss(bert.forward(variables, settings, samples), settings, labels)
    assert arrays["1/loss"][0] == pytest.approx(float(loss), rel=1e-12)
    gradients = tape.gradient(loss, variables)
    for name in (
        bert.names(settings)[0],
        "bert/pooler/dense/kernel",
        "cls/predictions/output_bias",
    ):
        flat = tf.convert_to_tensor(gradients[name]).numpy().reshape(-1)
        rows = len(flat) // 1024 + 1
        filled = np.zeros(rows * 1024)
        filled[: len(flat)] = flat
        bits = np.random.PCG64(zlib.crc32(name.encode()))
        right, left = (
            np.array([(bits.random_raw() >> 11) * 2.0**-52 - 1 for _ in range(n * 8)]).reshape(n, 8)
            for n in (1024, rows)
        )
        products = np.einsum("rk,rw,wk->k", left, filled.reshape(rows, 1024), right)
        norm, *kept, places = arrays[f"1/gradients/{name}"]
        assert norm == pytest.approx(np.linalg.norm(flat), rel=1e-12)
        np.testing.assert_allclose(kept, products, rtol=0, atol=1e-10 * norm)
        assert places == 0


@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_proves_all_levels_as_the_checkpoint_does(
    name: str, options: dict[str, Any], fixtures: Path, tmp_path: Path
) -> None:
    source, out, file = fixtures / name, tmp_path / "out", tmp_path / "r.safetensors"
    convert(source, out, **options)
    record(source, file, **options)
    by_record = verify(file, out, level="gradients")
    by_checkpoint = verify(source, out, level="gradients")
    assert by_record.passed and by_checkpoint.passed
    assert by_record.outputs == by_checkpoint.outputs
    assert by_record.activation == by_checkpoint.activation
    assert [g.tensor for g in by_record.gradients] == [g.tensor for g in by_checkpoint.gradients]
    assert (by_record.samples, by_record.positions) == (8, 32)


def test_needs_no_tensorflow(file: Path, converted: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('there is none')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "bertconvert", "verify", file, converted("pretraining"), "--json"]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--level", "gradients"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    verdict = json.loads(done.stdout)
    assert verdict["passed"] and verdict["level"] == "gradients"
    assert verdict["record"]["tensorflow"] == tf.__version__
    assert all(math.isfinite(output["relative"]) for output in verdict["outputs"])


def test_of_a_published_size_is_small(fixtures: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(fixtures.parent / "benchmarks"))
    try:
        import false_alarms
    finally:
        sys.path.pop(0)
    tiny = false_alarms.Size(2, 128)
    false_alarms.make(tiny, "pretraining", "random", 512, 30522, tmp_path / "tiny")
    record(tmp_path / "tiny", tmp_path / "tiny.safetensors")
    assert (tmp_path / "tiny.safetensors").stat().st_size < 2_000_000
