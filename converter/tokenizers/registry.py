"""The one way to a kind of tokenizer: a mapping names its module here by `tokenizer`."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Literal, Protocol, cast

from msgspec import Struct

Role = Literal[
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
]
"""What a special token is for, in transformers' words."""


class SpecialToken(Struct, frozen=True):
    """A token with a role, and its row in a vocabulary; None if the vocabulary lacks it."""

    text: str
    row: int | None


class Casing(Protocol):
    """Whether text is lower-cased, and the sentence that says why."""

    @property
    def do_lower_case(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class Tokenizer(Protocol):
    """A module of this folder. Next to it, `NAME_reference` has the original tokenizer.

    A vocabulary is the tokens by index. If a kind needs more of the file, its `read_vocabulary`
    gives a tuple that has it.
    """

    VOCABULARY: str
    """The vocabulary's name in a model folder."""

    MODEL: str
    """The type of its model in a tokenizer.json."""

    @staticmethod
    def read_vocabulary(data: bytes, source: str) -> tuple[str, ...]:
        """The tokens of a vocabulary file by index. `source` names the file in a PlanError."""

    @staticmethod
    def infer_casing(tokens: Sequence[str], name: str) -> Casing:
        """Whether a model with this vocabulary lower-cases text; `name` is the model's path."""

    @staticmethod
    def special_tokens(tokens: Sequence[str]) -> Mapping[Role, SpecialToken]:
        """The tokens that this kind of tokenizer has a role for, found by name."""

    @staticmethod
    def vocabulary_notes(tokens: Sequence[str]) -> list[str]:
        """What is odd about a vocabulary, with the lines; [] for most."""

    @staticmethod
    def pad_vocabulary(tokens: Sequence[str], rows: int) -> tuple[str, ...]:
        """The vocabulary with as many rows as the model, which it may lack: no text spells them."""

    @staticmethod
    def append_tokens(tokens: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
        """The vocabulary with more tokens, which no text reaches in the original code."""

    @staticmethod
    def vocabulary_file(tokens: Sequence[str]) -> bytes:
        """The file that `read_vocabulary` reads; a PlanError if there is none for the tokens."""

    @staticmethod
    def tokenizer_files(
        tokens: Sequence[str], *, do_lower_case: bool, model_max_length: int
    ) -> dict[str, bytes]:
        """The tokenizer's files in a model folder: name -> content."""


def load_tokenizer(name: str) -> Tokenizer:
    """The module of a mapping's `tokenizer`, which `load_mapping` has checked."""
    return cast(Tokenizer, import_module(f".{name}", __package__))
