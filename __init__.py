"""TensorFlow checkpoints of the BERT family to PyTorch and back, faithfully and fast."""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers know it by its name; importing typing takes longer than this

if TYPE_CHECKING:
    from .converter.batch import Event as Event
    from .converter.batch import Job as Job
    from .converter.batch import ModelRow as ModelRow
    from .converter.batch import Summary as Summary
    from .converter.batch import batch as batch
    from .converter.batch import find_jobs as find_jobs
    from .converter.checkpoint import Checkpoint as Checkpoint
    from .converter.checkpoint import Variable as Variable
    from .converter.convert import Conversion as Conversion
    from .converter.convert import convert as convert
    from .converter.convert_back import BackConversion as BackConversion
    from .converter.convert_back import convert_back as convert_back
    from .converter.errors import BatchError as BatchError
    from .converter.errors import BertconvertError as BertconvertError
    from .converter.errors import CheckpointError as CheckpointError
    from .converter.errors import MappingError as MappingError
    from .converter.errors import ModelError as ModelError
    from .converter.errors import OriginalError as OriginalError
    from .converter.errors import OutputError as OutputError
    from .converter.errors import PlanError as PlanError
    from .converter.errors import VerificationError as VerificationError
    from .converter.opening import open_checkpoint as open_checkpoint
    from .converter.options import Options as Options
    from .converter.plan import Plan as Plan
    from .converter.prepare import prepare as prepare
    from .converter.roundtrip import RoundTrip as RoundTrip
    from .converter.roundtrip import roundtrip as roundtrip
    from .converter.verify import Record as Record
    from .converter.verify import Verdict as Verdict
    from .converter.verify import record as record
    from .converter.verify import verify as verify

# The module of each public name. A name is imported when it is first used, because importing numpy
# alone takes longer than all of `bertconvert --help`.
_HOMES = {
    "BackConversion": "convert_back",
    "BatchError": "errors",
    "BertconvertError": "errors",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "Conversion": "convert",
    "Event": "batch",
    "Job": "batch",
    "MappingError": "errors",
    "ModelError": "errors",
    "ModelRow": "batch",
    "Options": "options",
    "OriginalError": "errors",
    "OutputError": "errors",
    "VerificationError": "errors",
    "Plan": "plan",
    "PlanError": "errors",
    "Record": "verify",
    "RoundTrip": "roundtrip",
    "Summary": "batch",
    "Variable": "checkpoint",
    "Verdict": "verify",
    "batch": "batch",
    "convert": "convert",
    "convert_back": "convert_back",
    "find_jobs": "batch",
    "open_checkpoint": "opening",
    "prepare": "prepare",
    "record": "verify",
    "roundtrip": "roundtrip",
    "verify": "verify",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f".converter.{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
