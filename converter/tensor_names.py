"""The names that tensors had in older versions of transformers, and what is saved besides tensors.

transformers 5 renames and skips the same ones when it loads a folder: `legacy` in its
conversion_mapping.py, and `_adjust_missing_and_unexpected_keys` in its modeling_utils.py.
"""

from collections.abc import Iterable

# Those of TensorFlow, which pytorch-pretrained-bert and transformers 1 to 3 have in their files.
_OLD_ENDS = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
}


def canonical_name(tensor: str) -> str:
    """The name that a tensor has in transformers 5; most have it already."""
    for old, new in _OLD_ENDS.items():
        if tensor.endswith(old):
            return tensor.removesuffix(old) + new
    return tensor


def is_buffer(tensor: str) -> bool:
    """Whether it holds the numbers 0, 1, 2, ..., which transformers saved until version 4.31."""
    return tensor == "position_ids" or tensor.endswith(".position_ids")


def canonical_names(tensors: Iterable[str]) -> dict[str, str]:
    """The tensors of a state dict without its buffers: canonical name -> the name that it has.

    If a state dict has both names of a tensor, each stands for itself, so that the old one is a
    tensor that no model has.
    """
    names = [tensor for tensor in tensors if not is_buffer(tensor)]
    taken = {*names}
    renamed = {}
    for name in names:
        canonical = canonical_name(name)
        renamed[name if canonical in taken else canonical] = name
    return renamed
