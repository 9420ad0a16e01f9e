"""TensorFlow's checkpoint formats -> named arrays. Knows no model."""

from .reader import Checkpoint, open_checkpoint
from .variable import Variable

__all__ = ["Checkpoint", "Variable", "open_checkpoint"]
