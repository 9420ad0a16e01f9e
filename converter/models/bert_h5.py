"""BERT, from the variables of transformers' TensorFlow classes.

They compute what google-research/bert does, from variables of other names
(models/bert/modeling_tf_bert.py of transformers 4). The interface is that of `Reference`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from msgspec.structs import replace

from . import bert, encoder, heads
from .encoder import Embeddings, Layer, run_layers, settings_of
from .heads import (
    Choice,
    Head,
    MaskedLM,
    Pair,
    Pooler,
    Sequence,
    Span,
    Tokens,
    head_names,
    with_heads,
)
from .mistakes import usual_mistakes
from .reference import Architecture, Mistake, Samples

_EMBEDDINGS = Embeddings(
    words="bert/embeddings/word_embeddings/weight",
    segments="bert/embeddings/token_type_embeddings/embeddings",
    positions="bert/embeddings/position_embeddings/embeddings",
    norm="bert/embeddings/LayerNorm",
)
_LAYER = Layer()
# In the order of the forward pass.
_HEADS: dict[str, Head] = {
    "pooler": Pooler("bert/pooler/dense"),
    "mlm": MaskedLM(
        "mlm___cls/predictions/transform/dense",
        "mlm___cls/predictions/transform/LayerNorm",
        "mlm___cls/predictions/bias",
        _EMBEDDINGS.words,
    ),
    "nsp": Pair(
        "nsp___cls/seq_relationship/kernel",
        "nsp___cls/seq_relationship/bias",
        gives=("nsp_logits",),
        label="next_sentence_label",
    ),
    "classifier": Sequence("classifier/kernel", "classifier/bias"),
    "token": Tokens("classifier/kernel", "classifier/bias"),
    "choice": Choice("classifier/kernel", "classifier/bias"),
    "squad": Span("qa_outputs/kernel", "qa_outputs/bias"),
}

OUTPUTS = {**bert.OUTPUTS, "BertForMultipleChoice": {"logits": "logits"}}
BASE_CLASS, POOLING, SWAPS = bert.BASE_CLASS, bert.POOLING, bert.SWAPS
CHOICES = ("BertForMultipleChoice",)


class Settings(encoder.Settings, frozen=True):
    """What the forward pass needs besides the variables."""

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS
    GELU: ClassVar[str] = "erf"


labels, loss, products = heads.labels, heads.loss, heads.products
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training, class_arguments = encoder.without_training, bert.class_arguments


def settings(architecture: Architecture) -> Settings:
    if architecture.activation == "gelu_new":  # a name of its own there, and here a form of gelu
        architecture = replace(architecture, activation="gelu", form="tanh")
    groups = set(architecture.groups)
    if architecture.head in ("token", "choice"):  # other heads of the same variables
        groups = groups - {"classifier"} | {architecture.head}
    return settings_of(
        Settings, architecture, groups, epsilon=architecture.config["layer_norm_eps"]
    )


def names(settings: Settings) -> list[str]:
    layers = [name for scope in _scopes(settings) for name in _LAYER.names(scope)]
    return [*_EMBEDDINGS.names, *layers, *head_names(settings)]


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """The outputs in evaluation mode, those of `bert.forward`."""
    hidden = _EMBEDDINGS.forward(variables, settings, samples)
    outputs = run_layers(variables, _LAYER, _scopes(settings), settings, hidden, samples)
    return with_heads(variables, settings, outputs)


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    hidden = variables[_EMBEDDINGS.words].shape[1]
    return usual_mistakes(variables, settings, config, hidden=hidden, names=names)


def _scopes(settings: Settings) -> list[str]:
    return [f"bert/encoder/layer_._{number}" for number in range(settings.layers)]
