"""BERT of TensorFlow Model Garden, from its variables under their full names.

It computes what `bert.py` does. Only the names differ, and the shapes: attention's kernels are
[H, N, D] and [N, D, H], and every head's is [H, C]. Follows official/nlp/modeling of
tf-models-official 2.20: networks/bert_encoder.py, layers/transformer_encoder_block.py,
layers/masked_lm.py and layers/cls_head.py. The interface is that of `Reference`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from . import bert, encoder, heads
from .encoder import Embeddings, Layer, run_layers, settings_of
from .heads import Head, MaskedLM, Pair, Pooler, Sequence, Span, Tokens, head_names, with_heads
from .mistakes import usual_mistakes
from .reference import Architecture, Mistake, Samples

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
POOLING = bert.POOLING
SWAPS = encoder.SWAPS


class Settings(encoder.Settings, frozen=True):
    """What the forward pass needs besides the variables."""

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS


labels, loss, products = heads.labels, heads.loss, heads.products
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training = encoder.without_training
class_arguments = bert.class_arguments


def settings(architecture: Architecture) -> Settings:
    return settings_of(Settings, architecture)


def names(settings: Settings) -> list[str]:
    layers = [name for scope in _scopes(settings) for name in _LAYER.names(scope)]
    return [*_EMBEDDINGS.names, *layers, *head_names(settings)]


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """Model Garden's outputs, in evaluation mode, by the names of `bert.forward`."""
    hidden = _EMBEDDINGS.forward(variables, settings, samples)
    outputs = run_layers(variables, _LAYER, _scopes(settings), settings, hidden, samples)
    return with_heads(variables, settings, outputs)


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    hidden = variables[_EMBEDDINGS.words].shape[1]
    return usual_mistakes(variables, settings, config, hidden=hidden, names=names)


def _scopes(settings: Settings) -> list[str]:
    return [f"transformer/layer_{number}" for number in range(settings.layers)]
