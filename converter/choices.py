"""The words that options take. It imports nothing heavy, because `--help` needs it."""

from typing import Literal, get_args

Activation = Literal["auto", "tanh", "erf", "gelu_new"]
DType = Literal["keep", "float64", "float32", "float16", "bfloat16"]
Format = Literal["safetensors", "bin"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Level = Literal["weights", "outputs", "gradients"]
Step = int | Literal["latest"]

LEVELS: tuple[str, ...] = get_args(Level)
"""The levels of a proof, each on top of those before it."""
