"""Proves that a model folder is the checkpoint that it was made from."""

from .run import (
    back_prover,
    checked_level,
    highest_level,
    how_to_install,
    level_of,
    missing_extras,
    prover,
    verify,
    verify_prepared,
)
from .verdict import Failure, Verdict
from .verification import proof_of, save_proof

__all__ = [
    "Failure",
    "Verdict",
    "back_prover",
    "checked_level",
    "highest_level",
    "how_to_install",
    "level_of",
    "missing_extras",
    "proof_of",
    "prover",
    "save_proof",
    "verify",
    "verify_prepared",
]
