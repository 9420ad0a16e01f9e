"""The errors that bertconvert raises. Each says what happened, where, and what to do."""


class BertconvertError(Exception):
    """Base of all errors that a user can fix. The command line shows their text as it is."""


class CheckpointError(BertconvertError):
    """A checkpoint can't be found, or its bytes are not what TensorFlow writes."""


class MappingError(BertconvertError):
    """A mapping file is wrong; the text names the file and the key."""


class PlanError(BertconvertError):
    """Checkpoint, mapping, config and vocabulary do not fit together.

    `reasons` has every reason; the error's text has one after the other.
    """

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        super().__init__("\n".join(reasons))


class OutputError(BertconvertError):
    """The model folder can't be written."""


class BusyError(OutputError):
    """Another process is writing the model folder."""


class ModelError(BertconvertError):
    """A model folder can't be found, or a file in it is missing or damaged."""


class VerificationError(BertconvertError):
    """The model folder is not the checkpoint."""


class OriginalError(BertconvertError):
    """The original model can't be run, so that there is nothing to compare with."""


class MissingOptionError(VerificationError):
    """A proof can't begin without an option that the conversion had; the text names it."""


class BatchError(BertconvertError):
    """A batch can't begin, because of how it was called."""
