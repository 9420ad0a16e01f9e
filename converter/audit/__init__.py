"""Many model folders, each compared with the checkpoint that it should be -> one table."""

from .pairs import Pair, find_pairs, has_records
from .run import Event, audit
from .table import PAGE, Audit, PairRow, table_rows

__all__ = [
    "PAGE",
    "Audit",
    "Event",
    "Pair",
    "PairRow",
    "audit",
    "find_pairs",
    "has_records",
    "table_rows",
]
