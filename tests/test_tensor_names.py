"""The names that tensors had in older versions of transformers."""

import pytest

from bertconvert.converter.tensor_names import canonical_name, canonical_names, is_buffer


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        ("embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.weight"),
        ("layer.layer_norm.gamma", "layer.layer_norm.gamma"),
        ("gamma", "gamma"),
    ],
)
def test_gamma_and_beta_of_a_layer_norm_are_its_weight_and_bias(old: str, new: str) -> None:
    assert canonical_name(old) == new


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        ("bert.embeddings.position_ids", True),
        ("position_ids", True),
        ("bert.embeddings.position_embeddings.weight", False),
        ("bert.embeddings.other_position_ids", False),
    ],
)
def test_position_ids_are_no_tensor_of_the_model(name: str, buffer: bool) -> None:
    assert is_buffer(name) is buffer


def test_buffers_are_left_out_and_each_canonical_name_leads_to_the_name_in_the_file() -> None:
    assert canonical_names(["a.LayerNorm.gamma", "a.position_ids", "b.weight"]) == {
        "a.LayerNorm.weight": "a.LayerNorm.gamma",
        "b.weight": "b.weight",
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_both_names_of_a_tensor_stay_two_tensors(reverse: bool) -> None:
    names = sorted(["a.LayerNorm.gamma", "a.LayerNorm.weight"], reverse=reverse)
    assert canonical_names(names) == {name: name for name in names}
