"""Proves that a model folder is the checkpoint that it was made from."""

from .golden_record import Record, check_place, find_record, kept, read_record
from .packages import highest_level, how_to_install, missing_extras, missing_for_record
from .recording import is_record_of, record, record_prepared
from .run import back_prover, checked_level, level_of, prover, recorder, verify, verify_prepared
from .verdict import Failure, Verdict
from .verification import proof_of, save_proof

__all__ = [
    "Failure",
    "Record",
    "Verdict",
    "back_prover",
    "check_place",
    "checked_level",
    "find_record",
    "highest_level",
    "how_to_install",
    "is_record_of",
    "kept",
    "level_of",
    "missing_extras",
    "missing_for_record",
    "proof_of",
    "prover",
    "read_record",
    "record",
    "record_prepared",
    "recorder",
    "save_proof",
    "verify",
    "verify_prepared",
]
