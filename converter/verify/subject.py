"""What a proof is about."""

from msgspec import Struct

from ..prepare import Planned
from .model_folder import ModelFolder
from .variables import Variables
from .verdict import Match


class Subject(Struct, frozen=True):
    """A model folder, and what it is compared with."""

    planned: Planned  # the conversion that made it
    variables: Variables  # those of the checkpoint
    folder: ModelFolder
    matches: list[Match]  # its tensors
