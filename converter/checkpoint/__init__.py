"""TensorFlow's checkpoint formats, read as named arrays; no model is known here."""

from .reader import Checkpoint, open_checkpoint
from .variable import Variable

__all__ = ["Checkpoint", "Variable", "open_checkpoint"]
