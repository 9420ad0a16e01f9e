"""Proves that a model folder is the checkpoint that it was made from."""

from .run import (
    checked_level,
    highest_level,
    level_of,
    missing_extras,
    prover,
    verify,
    verify_prepared,
)
from .verdict import Verdict

__all__ = [
    "Verdict",
    "checked_level",
    "highest_level",
    "level_of",
    "missing_extras",
    "prover",
    "verify",
    "verify_prepared",
]
