"""BERT of TensorFlow Model Garden, from its variables under their full names.

It computes what `bert.py` does. Only the names differ, and the shapes: attention's kernels are
[H, N, D] and [N, D, H], and every head's is [H, C]. Follows official/nlp/modeling of
tf-models-official 2.20: networks/bert_encoder.py, layers/transformer_encoder_block.py,
layers/masked_lm.py and layers/cls_head.py. The interface is that of `Reference`.
"""

from collections.abc import Mapping
from typing import ClassVar

from . import bert, encoder, heads
from .encoder import Embeddings, Layer, settings_of
from .heads import Head, MaskedLM, Pair, Pooler, Sequence, Span, Tokens
from .reference import Architecture

_EMBEDDINGS = Embeddings(
    words="word_embeddings/embeddings",
    segments="type_embeddings/embeddings",
    positions="position_embedding/embeddings",
    norm="embeddings/layer_norm",
)
_LAYER = Layer(
    attention="self_attention",
    projection="self_attention/attention_output",
    attention_norm="self_attention_layer_norm",
    inner="intermediate",
    outer="output",
    norm="output_layer_norm",
)
_POOLER = "bert/next_sentence/pooler_dense"
_LOGITS = ("predictions/transform/logits/kernel", "predictions/transform/logits/bias")
_DENSE = ("dense/kernel", "dense/bias")
# In the order of the forward pass. Two kinds of head have the same names.
_HEADS: dict[str, Head] = {
    "pooler": Pooler(_POOLER),
    "mlm": MaskedLM(
        "bert/cls/predictions/transform/dense",
        "bert/cls/predictions/transform/LayerNorm",
        "bert/cls/predictions/output_bias/bias",
        _EMBEDDINGS.words,
    ),
    "nsp": Pair(
        "bert/next_sentence/logits/kernel",
        "bert/next_sentence/logits/bias",
        gives=("nsp_logits",),
        label="next_sentence_label",
    ),
    "classifier": Sequence("sentence_prediction/logits/kernel", "sentence_prediction/logits/bias"),
    "dense": Sequence(*_DENSE),
    "span": Span(*_LOGITS),
    "tokens": Tokens(*_LOGITS),
    "token dense": Tokens(*_DENSE),
}

OUTPUTS = bert.OUTPUTS
BASE_CLASS = bert.BASE_CLASS
CHOICES = bert.CHOICES
MASKED_LM = bert.MASKED_LM
LAYER = bert.LAYER
POOLING = bert.POOLING
SWAPS = encoder.SWAPS


class Settings(bert.Settings, frozen=True):
    """What the forward pass needs besides the variables."""

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS
    EMBEDDINGS: ClassVar[Embeddings] = _EMBEDDINGS
    LAYER: ClassVar[Layer] = _LAYER
    LAYERS: ClassVar[str] = "transformer/layer_"


names, forward, mistakes = bert.names, bert.forward, bert.mistakes
labels, loss, products = heads.labels, heads.loss, heads.products
by_position = heads.by_position
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training = encoder.without_training
class_arguments = bert.class_arguments


def settings(architecture: Architecture) -> Settings:
    return settings_of(Settings, architecture)
