"""BERT, from the variables of transformers' TensorFlow classes.

They compute what google-research/bert does, from variables of other names
(models/bert/modeling_tf_bert.py of transformers 4). The interface is that of `Reference`.
"""

from collections.abc import Mapping
from typing import ClassVar

from msgspec.structs import replace

from . import bert, encoder, heads
from .encoder import Embeddings, settings_of
from .heads import (
    Choice,
    Head,
    MaskedLM,
    Pair,
    Pooler,
    Sequence,
    Span,
    Tokens,
)
from .reference import Architecture

_EMBEDDINGS = Embeddings(
    words="bert/embeddings/word_embeddings/weight",
    segments="bert/embeddings/token_type_embeddings/embeddings",
    positions="bert/embeddings/position_embeddings/embeddings",
    norm="bert/embeddings/LayerNorm",
)
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
MASKED_LM, LAYER = bert.MASKED_LM, bert.LAYER
CHOICES = ("BertForMultipleChoice",)


class Settings(bert.Settings, frozen=True):
    """What the forward pass needs besides the variables."""

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS
    EMBEDDINGS: ClassVar[Embeddings] = _EMBEDDINGS
    LAYERS: ClassVar[str] = "bert/encoder/layer_._"
    GELU: ClassVar[str] = "erf"


names, forward, mistakes = bert.names, bert.forward, bert.mistakes
labels, loss, products = heads.labels, heads.loss, heads.products
by_position = heads.by_position
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
