"""transformers renames the same tensors when it loads a folder."""

import pytest
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import rename_source_key

from bertconvert.converter.tensor_names import canonical_name


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.LayerNorm.gamma",
        "bert.embeddings.LayerNorm.beta",
        "bert.embeddings.LayerNorm.weight",
        "encoder.layer.0.output.LayerNorm.gamma",
        "LayerNorm.beta",
        "x.layer_norm.gamma",
        "x.full_layer_layer_norm.beta",
        "x.LayerNorm.gamma_2",
        "gamma",
    ],
)
def test_transformers_gives_a_tensor_the_same_name(name: str) -> None:
    rules = get_checkpoint_conversion_mapping("legacy")
    assert canonical_name(name) == rename_source_key(name, rules, [])[0]
