"""Many checkpoints -> a folder of model folders, with a table of them."""

from .jobs import Job
from .run import Event, Summary, batch, find_jobs
from .table import Model

__all__ = ["Event", "Job", "Model", "Summary", "batch", "find_jobs"]
