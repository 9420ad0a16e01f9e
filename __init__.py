"""Google's BERT checkpoints out of TensorFlow 1, faithfully and fast."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .converter.batch import Job, Model, Summary, batch, find_jobs
    from .converter.checkpoint import Checkpoint, Variable, open_checkpoint
    from .converter.errors import (
        BatchError,
        BertconvertError,
        CheckpointError,
        MappingError,
        OutputError,
        ParityError,
        PlanError,
    )
    from .converter.model_folder import Conversion, convert
    from .converter.parity import Verdict, verify
    from .converter.plan import Choices, Plan
    from .converter.prepare import Options, prepare

# Where each public name lives. It is imported when it is first used: numpy alone takes longer than
# all that `bertconvert --help` does.
_HOMES = {
    "BatchError": "errors",
    "BertconvertError": "errors",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "Choices": "plan",
    "Conversion": "model_folder",
    "Job": "batch",
    "MappingError": "errors",
    "Model": "batch",
    "Options": "prepare",
    "OutputError": "errors",
    "ParityError": "errors",
    "Plan": "plan",
    "PlanError": "errors",
    "Summary": "batch",
    "Variable": "checkpoint",
    "Verdict": "parity",
    "batch": "batch",
    "convert": "model_folder",
    "find_jobs": "batch",
    "open_checkpoint": "checkpoint",
    "prepare": "prepare",
    "verify": "parity",
}

__all__ = [
    "BatchError",
    "BertconvertError",
    "Checkpoint",
    "CheckpointError",
    "Choices",
    "Conversion",
    "Job",
    "MappingError",
    "Model",
    "Options",
    "OutputError",
    "ParityError",
    "Plan",
    "PlanError",
    "Summary",
    "Variable",
    "Verdict",
    "__version__",
    "batch",
    "convert",
    "find_jobs",
    "open_checkpoint",
    "prepare",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f".converter.{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
