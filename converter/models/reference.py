"""What the proof needs of a model family: the interface of each module here."""

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from msgspec import Struct

from ..errors import VerificationError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


LABELS = {
    "labels",
    "next_sentence_label",
    "sentence_order_label",
    "start_positions",
    "end_positions",
}
"""The arguments of transformers' classes that labels are given to."""


class Samples(Struct, frozen=True):
    """Sequences, padded to the longest: int32 [B, T] each, as modeling.py takes them.

    Positions are those of the flattened [B * T], in ascending order, and never padding.
    """

    input_ids: "Array"
    input_mask: "Array"  # 1 for a token, 0 for padding
    segment_ids: "Array"
    rows: "Array"  # int64 [R]: where outputs are compared. The first token of each is among them
    masked: "Array"  # int64 [M], of `rows`: where a masked language model computes its logits


class Architecture(Struct, frozen=True):
    """What a family's settings are made from."""

    # By the mapping's roles (vocabulary, positions, layers, heads, ...), and by config.json's keys.
    sizes: Mapping[str, int]
    groups: Collection[str]  # the mapping's groups that are in the model
    head: str  # what --head calls the class
    activation: str  # its name in the original config
    form: str  # of the activation: tanh or erf; auto if it has one
    problem_type: str = ""  # config.json's, which may choose a classifier's loss
    config: Mapping[str, Any] = {}  # config.json, as the plan has it


class Product(Struct, frozen=True):
    """An output that is x K + b, or a function of it with a slope of at most 1, such as tanh."""

    source: str  # the output before it that x is: [..., H]
    matrix: "Array"  # K, [H, C]
    bias: "Array"  # b, [C]
    first: bool = False  # whether x is the first token's only


class Mistake(Struct, frozen=True):
    """A known mistake, made on purpose: the model that computes what a wrong port does."""

    kind: str
    text: str
    settings: Any
    variables: Mapping[str, Any]


class Reference(Protocol):
    """A module of this folder.

    `settings` is a frozen struct of the module's own: what the forward pass needs besides the
    variables. `variables` maps the original names (the first of each rule) to TensorFlow tensors of
    one float dtype.
    """

    # A class of transformers -> its output -> the name of the same output in `forward`.
    OUTPUTS: Mapping[str, Mapping[str, str]]
    # The class without a head. It may load tensors that a class with a head leaves out.
    BASE_CLASS: str
    # Classes whose inputs are [B, choices, T]: a batch's sequences are the choices of one question.
    CHOICES: Collection[str]
    # The module of transformers' classes that is the head of a masked language model, or its first
    # part: what it is given is [B, T, H]. "" if the family has none.
    MASKED_LM: str
    # The class of transformers' layers, each of which gives one of `layer_0`, `layer_1`, ...
    LAYER: str
    # The layers of transformers' base model that pool. The first is called as the mapping's group
    # of its variables, and the last gives `pooled`. () if the family has none.
    POOLING: tuple[str, ...]
    # For the diagnosis of a tensor: a kind of mistake -> the words of names that it swaps.
    SWAPS: Mapping[str, tuple[str, ...]]

    @staticmethod
    def settings(architecture: Architecture) -> Any:
        """The settings of a model; every mistake that `mistakes` tries is a change to them."""

    @staticmethod
    def names(settings: Any) -> list[str]:
        """The original names of the variables that `forward` needs."""

    @staticmethod
    def without_training(settings: Any, token_id: int) -> Any:
        """The settings with a token whose embedding gets no gradient by looking it up."""

    @staticmethod
    def forward(variables: Mapping[str, Any], settings: Any, samples: Samples) -> dict[str, Any]:
        """The outputs in evaluation mode, in the order of the forward pass.

        `embeddings` and `layer_0`, `layer_1`, ... [B, T, H], then those of the heads. Of a masked
        language model they are [M, V], at `samples.masked`.
        """

    @staticmethod
    def by_position(settings: Any) -> Collection[str]:
        """The outputs of heads that have a value for each position: [B, T, ...].

        Embeddings and layers have one in any case.
        """

    @staticmethod
    def products(variables: Mapping[str, "Array"], settings: Any) -> dict[str, Product]:
        """The outputs that are one product of an output before them, in that order.

        They may have few numbers, or few that rounding shows in. So they are judged by what it may
        do to the product, and not by TensorFlow's error, which may be small by luck.
        """

    @staticmethod
    def labels(
        variables: Mapping[str, Any], settings: Any, samples: Samples, rng: "np.random.Generator"
    ) -> dict[str, "Array"]:
        """Random labels by the names of transformers' arguments; {} for a model without a head."""

    @staticmethod
    def loss(outputs: Mapping[str, Any], settings: Any, labels: Mapping[str, "Array"]) -> Any:
        """The loss of the heads, as transformers computes it: a scalar."""

    @staticmethod
    def class_arguments(name: str, groups: Collection[str]) -> dict[str, Any]:
        """Arguments that `from_pretrained` of a class needs for a model with these groups."""

    @staticmethod
    def activation_words(settings: Any) -> str:
        """What the activation is, in words."""

    @staticmethod
    def other_activation(settings: Any) -> Any | None:
        """The settings with the activation that ports often confuse with it; None if none is."""

    @staticmethod
    def mistakes(
        variables: Mapping[str, Any], settings: Any, config: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Mistakes to try, the likeliest first.

        `config` is the folder's config.json.
        """


def load_reference(name: str) -> Reference:
    """The module that a mapping's `reference` names.

    Raises:
        VerificationError: there is none.
    """
    if not name.isidentifier():
        raise VerificationError(f"reference = {name!r} is not the name of a module")
    try:
        module = import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        raise VerificationError(
            f"the mapping's reference {name!r} does not exist: there is no module"
            f" converter/models/{name}.py"
        ) from error
    if not hasattr(module, "BASE_CLASS"):  # such as layers.py, which families share
        raise VerificationError(
            f"the mapping's reference {name!r} is no model: converter/models/{name}.py is a part"
            " that models share"
        )
    return cast(Reference, module)
