"""The original models, in TensorFlow's ops: what a mapping file cannot say as data.

A mapping names its module here by `reference`. `reference.py` says what the module must have.
"""

from .reference import Reference, load_reference

__all__ = ["Reference", "load_reference"]
