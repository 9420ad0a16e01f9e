"""Proves that a model folder is the checkpoint that it was made from."""

from .run import highest_level, level_of, missing_extras, prover, verify, verify_prepared
from .verdict import Verdict

__all__ = [
    "Verdict",
    "highest_level",
    "level_of",
    "missing_extras",
    "prover",
    "verify",
    "verify_prepared",
]
