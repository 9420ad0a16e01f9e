"""Mistakes that ports of further families make, each made on purpose and named by verify."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from bertconvert import convert
from bertconvert.converter import mapping
from bertconvert.converter.models import albert
from bertconvert.converter.verify import verify

from ..verify.sabotage import Sabotage, Tensors, changed, configured, sabotaged

GROUPS = "albert.encoder.albert_layer_groups"


def exchanged(one: str, other: str) -> Callable[[Tensors, dict[str, Any]], None]:
    """Exchange all tensors whose names have one part with those that have another."""

    def make(tensors: Tensors, _: dict[str, Any]) -> None:
        for name in [name for name in tensors if one in name]:
            partner = name.replace(one, other)
            tensors[name], tensors[partner] = tensors[partner], tensors[name]

    return make


LAYER = f"{GROUPS}.0.albert_layers.0"
ALBERT = [
    Sabotage("erf", configured(hidden_act="gelu"), "activation", output="layer_0"),
    Sabotage("epsilon", configured(layer_norm_eps=1e-5), "epsilon", output="embeddings"),
    Sabotage("heads", configured(num_attention_heads=4), "heads", output="layer_0"),
    Sabotage("a layer less", configured(num_hidden_layers=4), "layers"),
    Sabotage("a layer more", configured(num_hidden_layers=6), "layers"),
    Sabotage("groups", exchanged(f"{GROUPS}.0.", f"{GROUPS}.1."), "layer order", output="layer_0"),
    Sabotage("inner", exchanged("layers.0.", "layers.1."), "layer order", output="layer_0"),
    Sabotage(
        "norms",
        exchanged(f"{LAYER}.attention.LayerNorm", f"{LAYER}.full_layer_layer_norm"),
        "norms swapped",
        output="layer_0",
    ),
    Sabotage(
        "query and key",
        exchanged(f"{LAYER}.attention.query", f"{LAYER}.attention.key"),
        "query, key or value swapped",
        output="layer_0",
    ),
    Sabotage(
        "the projection's bias zeroed",
        changed("albert.encoder.embedding_hidden_mapping_in.bias", np.zeros_like),
        "zeroed",
        output="embeddings",
    ),
]
ELECTRA = [
    Sabotage("tanh", configured(hidden_act="gelu_new"), "activation", output="layer_0"),
    Sabotage("epsilon", configured(layer_norm_eps=1e-6), "epsilon", output="embeddings"),
    Sabotage("heads", configured(num_attention_heads=2), "heads", output="layer_0"),
    Sabotage("a layer less", configured(num_hidden_layers=1), "layers", output="layer_1"),
    Sabotage(
        "query and key",
        exchanged("layer.0.attention.self.query", "layer.0.attention.self.key"),
        "query, key or value swapped",
        output="layer_0",
    ),
]


@pytest.mark.parametrize("sabotage", ALBERT, ids=lambda mistake: mistake.name)
def test_a_mistake_in_an_albert_is_named(
    sabotage: Sabotage, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    out = sabotaged(converted("albert"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "albert", out, level="outputs")
    assert not verdict.passed
    assert verdict.first_output == sabotage.output or not sabotage.output
    assert sabotage.kind in {cause.kind for cause in verdict.causes}


@pytest.mark.parametrize("sabotage", ELECTRA, ids=lambda mistake: mistake.name)
def test_a_mistake_in_an_electra_is_named(
    sabotage: Sabotage, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    out = sabotaged(converted("electra"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "electra", out, level="outputs")
    assert not verdict.passed
    assert verdict.first_output == sabotage.output
    assert sabotage.kind in {cause.kind for cause in verdict.causes}


@pytest.mark.parametrize("level", ["weights", "outputs"])
def test_the_other_half_of_an_electra_is_named(level: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "electra"
    half = {"mapping": "electra_generator", "head": "none"}
    convert(source, tmp_path / "generator", **half)
    convert(source, tmp_path / "out", head="none")
    tensors = load_file(tmp_path / "generator" / "model.safetensors")
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "generator" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    verdict = verify(source, tmp_path / "out", level=level, head="none")
    assert not verdict.passed
    (cause,) = [cause for cause in verdict.causes if cause.kind == "skipped variables"]
    assert "generator" in cause.text and "--mapping electra_generator" in cause.text
    assert "electra.encoder.layer.0.attention.self.query.weight".removeprefix("electra.") in (
        name.removeprefix("electra.") for name in cause.tensors
    )


def test_a_mapping_that_swaps_the_groups_is_named_at_level_outputs(
    fixtures: Path, tmp_path: Path
) -> None:
    text = (mapping.FOLDER / "albert.toml").read_text()
    crooked = tmp_path / "crooked.toml"
    lines = []
    for line in text.split("\n"):
        if "inner_group_{n}" in line and "group_{g}" in line:
            for group, other in ((0, 1), (1, 0)):
                crossed = re.sub(r"/group_\{g\}/", f"/group_{other}/", line)
                crossed = crossed.replace("groups.{g}.", f"groups.{group}.")
                lines.append(crossed.replace('g = "0..G", ', ""))
        else:
            lines.append(line)
    # Without its loop no name tells the number of groups.
    crooked.write_text(
        "\n".join(lines).replace('G = "num_hidden_groups"', 'G = { config = "num_hidden_groups" }')
    )
    options = {"mapping": str(crooked)}
    convert(fixtures / "albert", tmp_path / "out", **options)
    assert verify(fixtures / "albert", tmp_path / "out", level="weights", **options).passed
    verdict = verify(fixtures / "albert", tmp_path / "out", level="outputs", **options)
    assert [cause.text for cause in verdict.causes] == ["the mapping swaps group_0 and group_1"]


def test_where_transformers_divides_the_layers_in_another_way_the_layer_is_named() -> None:
    settings = albert.Settings(layers=18, heads=1, groups=(), shared=14)
    other = replace(settings, division="transformers")
    assert settings.group_of_layer != other.group_of_layer
    hidden = np.zeros(4)
    variables = {name: hidden for name in albert.names(settings)}
    found = [m for m in albert.mistakes(variables, settings, {}) if m.kind == "groups"]
    assert len(found) == 1
    assert "layer 9" in found[0].text
    assert found[0].settings == other
    even = albert.Settings(layers=12, heads=1, groups=(), shared=3)
    assert [m for m in albert.mistakes(variables, even, {}) if m.kind == "groups"] == []
