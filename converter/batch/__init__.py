"""Many checkpoints -> a folder of model folders, with a table of them."""

from .jobs import Job
from .run import Event, Summary, batch, find_jobs
from .table import ModelRow

__all__ = ["Event", "Job", "ModelRow", "Summary", "batch", "find_jobs"]
