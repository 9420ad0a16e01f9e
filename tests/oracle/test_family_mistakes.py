"""What is wrong with a folder of a further family is named, by trying it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertconvert import convert
from bertconvert.converter import mapping
from bertconvert.converter.verify import verify

from ..verify.sabotage import PARTS, Sabotage, changed, configured, sabotaged, swapped, without

Array = np.ndarray[Any, Any]
BERT, MOBILE = "bert.encoder.layer.0", "mobilebert.encoder.layer.1"
H, A, D = 16, 2, 8  # of the fixtures of TensorFlow 2: hidden size, heads, size of a head
MERGED = "dimensions in another order"
SWAPPED = "query, key or value swapped"


def exchanged(one: str, other: str) -> Callable[[Any, Any], None]:
    """Exchange the weights and the biases of two layers."""

    def make(tensors: Any, config: Any) -> None:
        for part in PARTS:
            swapped(f"{one}.{part}", f"{other}.{part}")(tensors, config)

    return make


def merged(name: str, shape: tuple[int, ...], order: tuple[int, ...]) -> Sabotage:
    """A kernel of TensorFlow's shape whose dimensions are exchanged before they are merged."""
    text = f"{name}: {shape} as {order}"

    def kernel(weight: Array) -> Array:
        stored = weight.T.reshape(shape).transpose(order)
        return stored.reshape(weight.T.shape).T

    return Sabotage(text, changed(name, kernel), MERGED, name, "layer_0")


IN, OUT = (H, A, D), (A, D, H)
VALUE, PROJECTION = f"{BERT}.attention.self.value", f"{BERT}.attention.output.dense"
OF_TF2 = [
    Sabotage("erf for tanh", configured(hidden_act="gelu"), "activation", "layer_0", "layer_0"),
    Sabotage("epsilon", configured(layer_norm_eps=1e-6), "epsilon", "embeddings", "embeddings"),
    Sabotage("other heads", configured(num_attention_heads=4), "heads", "layer_0", "layer_0"),
    Sabotage("a layer less", configured(num_hidden_layers=1), "layers", "layer_1", "layer_1"),
    Sabotage(
        "query and key swapped",
        exchanged(f"{BERT}.attention.self.query", f"{BERT}.attention.self.key"),
        SWAPPED,
        f"{BERT}.attention.self.query.weight",
        "layer_0",
    ),
    merged(f"{VALUE}.weight", IN, (0, 2, 1)),
    merged(f"{VALUE}.weight", IN, (2, 1, 0)),
    merged(f"{PROJECTION}.weight", OUT, (1, 0, 2)),
    merged(f"{PROJECTION}.weight", OUT, (0, 2, 1)),
    Sabotage(
        "the heads of a bias not merged in order",
        changed(f"{VALUE}.bias", lambda bias: bias.reshape(A, D).T.ravel()),
        MERGED,
        f"{VALUE}.bias",
        "layer_0",
    ),
    Sabotage(
        "a merged kernel not transposed",
        changed(f"{PROJECTION}.weight", np.transpose),
        "not transposed",
        f"{PROJECTION}.weight",
        "layer_0",
    ),
    Sabotage(
        "the two classes of the next sentence exchanged",
        changed("cls.seq_relationship.weight", lambda weight: weight[::-1]),
        "columns in another order",
        "cls.seq_relationship.weight",
        "nsp_logits",
    ),
]
OF_MOBILEBERT = [
    Sabotage("erf for relu", configured(hidden_act="gelu"), "activation", "layer_0", "layer_0"),
    Sabotage("epsilon", configured(layer_norm_eps=1e-5), "epsilon", "mlm_logits", "mlm_logits"),
    Sabotage("other heads", configured(num_attention_heads=4), "heads", "layer_0", "layer_0"),
    Sabotage("a layer less", configured(num_hidden_layers=1), "layers", "layer_1", "layer_1"),
    *(
        Sabotage(
            f"{number} networks in a layer",
            configured(num_feedforward_networks=number),
            "feed_forwards",
            "layer_0",
            "layer_0",
        )
        for number in (1, 2)
    ),
    Sabotage(
        "no dense layer in the pooler",
        configured(classifier_activation=False),
        "pooler",
        "pooled",
        "pooled",
    ),
    Sabotage(
        "fewer networks, and another activation",
        configured(num_feedforward_networks=2, hidden_act="gelu"),
        "activation and feed_forwards",
        "layer_0",
        "layer_0",
    ),
    Sabotage(
        "query and key swapped",
        exchanged(f"{MOBILE}.attention.self.query", f"{MOBILE}.attention.self.key"),
        SWAPPED,
        f"{MOBILE}.attention.self.query.weight",
        "layer_1",
    ),
    Sabotage(
        "networks in another order",
        exchanged(f"{MOBILE}.ffn.0.intermediate.dense", f"{MOBILE}.ffn.1.intermediate.dense"),
        "layer order",
        f"{MOBILE}.ffn.0.intermediate.dense.weight",
        "layer_1",
    ),
    Sabotage(
        "a square kernel not transposed",
        changed(f"{MOBILE}.attention.self.query.weight", np.transpose),
        "not transposed",
        f"{MOBILE}.attention.self.query.weight",
        "layer_1",
    ),
    Sabotage(
        "the rest of the output weights zeroed",
        changed("cls.predictions.dense.weight", np.zeros_like),
        "zeroed",
        "cls.predictions.dense.weight",
        "mlm_logits",
    ),
]
CASES = [
    *(("tf2-pretraining", sabotage) for sabotage in OF_TF2),
    *(("mobilebert-pooler", sabotage) for sabotage in OF_MOBILEBERT),
]


@pytest.mark.parametrize(
    ("name", "sabotage"), CASES, ids=[f"{name}: {sabotage.name}" for name, sabotage in CASES]
)
def test_a_mistake_is_named(
    name: str,
    sabotage: Sabotage,
    fixtures: Path,
    converted: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    out = sabotaged(converted(name), tmp_path / "out", sabotage)
    verdict = verify(fixtures / name, out, level="outputs")
    assert not verdict.passed
    assert verdict.first_output == sabotage.output
    causes = {cause.kind: cause.tensors[0] for cause in verdict.causes}
    assert causes.get(sabotage.kind) == sabotage.tensor


@pytest.mark.parametrize(
    "values",
    [
        {"key_query_shared_bottleneck": False},
        {"use_bottleneck_attention": True},
        {"trigram_input": False},
        {"use_bottleneck": False},
    ],
    ids=str,
)
def test_a_config_of_another_layout_fails_without_an_internal_error(
    values: dict[str, bool], fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    sabotage = Sabotage("layout", configured(**values), "")
    out = sabotaged(converted("mobilebert"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "mobilebert", out, level="outputs")
    failed = {check.name: check.detail for check in verdict.checks if not check.passed}
    assert failed.keys() >= {"config.json", "running"}
    assert all(key in failed["config.json"] for key in values)


def test_an_empty_tensor_that_is_missing_is_named(
    fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    sabotage = Sabotage("missing", without("cls.predictions.dense.weight"), "missing")
    out = sabotaged(converted("mobilebert-wide"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "mobilebert-wide", out, level="weights")
    assert not verdict.passed
    assert [(c.kind, c.tensors) for c in verdict.causes] == [
        ("missing", ("cls.predictions.dense.weight",))
    ]


@pytest.mark.parametrize(
    ("fixture", "built_in", "scope"),
    [
        ("tf2-encoder", "bert_tf2.toml", "self_attention/"),
        ("mobilebert", "mobilebert.toml", "attention/self/"),
    ],
)
def test_a_mapping_that_swaps_query_and_key_is_named_at_level_outputs(
    fixture: str, built_in: str, scope: str, fixtures: Path, tmp_path: Path
) -> None:
    crooked = tmp_path / "crooked.toml"
    text = (mapping.FOLDER / built_in).read_text()
    lines = []
    for line in text.split("\n"):
        words = re.search(r'p = \[("query", "key"[^\]]*)\]', line)
        if words is None or f"{scope}{{p}}" not in line:
            lines.append(line)
            continue
        for target in words[1].replace('"', "").split(", "):
            source = {"query": "key", "key": "query"}.get(target, target)
            crossed = line.replace("{p}", source, 1).replace("{p}", target, 1)
            lines.append(crossed.replace(f", {words[0]}", ""))
    crooked.write_text("\n".join(lines))
    source, out = fixtures / fixture, tmp_path / "out"
    convert(source, out, mapping=str(crooked))
    assert verify(source, out, level="weights", mapping=str(crooked)).passed
    verdict = verify(source, out, level="outputs", mapping=str(crooked))
    assert [cause.text for cause in verdict.causes] == ["the mapping swaps query and key"]
