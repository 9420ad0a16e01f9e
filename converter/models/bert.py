"""BERT, from a checkpoint's variables under Google's names.

Follows google-research/bert op by op: `modeling.py` for the model, `run_pretraining.py`,
`run_classifier.py` and `run_squad.py` for the heads. The interface is that of `Reference`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from . import encoder, heads
from .encoder import Embeddings, Layer, run_layers, settings_of
from .heads import Head, MaskedLM, Pair, Pooler, Sequence, Span, Tokens, head_names, with_heads
from .mistakes import usual_mistakes
from .reference import Architecture, Mistake, Samples

_EMBEDDINGS = Embeddings.below("bert/embeddings")
# In the order of the forward pass.
_HEADS: dict[str, Head] = {
    "pooler": Pooler("bert/pooler/dense"),
    "mlm": MaskedLM(
        "cls/predictions/transform/dense",
        "cls/predictions/transform/LayerNorm",
        "cls/predictions/output_bias",
        _EMBEDDINGS.words,
    ),
    "nsp": Pair(
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
        gives=("nsp_logits",),
        label="next_sentence_label",
    ),
    "classifier": Sequence("output_weights", "output_bias"),
    "token": Tokens("output_weights", "output_bias"),
    "dense": Sequence("dense/kernel", "dense/bias"),
    "token dense": Tokens("dense/kernel", "dense/bias"),
    "squad": Span("cls/squad/output_weights", "cls/squad/output_bias"),
}
_ON_TOKENS = {"classifier": "token", "dense": "token dense"}
_SCOPED = {"scoped": "classifier"}  # the same head, wherever it is in the checkpoint

OUTPUTS = {
    "BertForPreTraining": {
        "prediction_logits": "mlm_logits",
        "seq_relationship_logits": "nsp_logits",
    },
    "BertForMaskedLM": {"logits": "mlm_logits"},
    "BertForNextSentencePrediction": {"logits": "nsp_logits"},
    "BertForSequenceClassification": {"logits": "logits"},
    "BertForTokenClassification": {"logits": "logits"},
    "BertForQuestionAnswering": {"start_logits": "start_logits", "end_logits": "end_logits"},
    "BertModel": {},
}
BASE_CLASS = "BertModel"
CHOICES = ()
MASKED_LM = "cls.predictions"
LAYER = "BertLayer"
POOLING = ("pooler",)
SWAPS = encoder.SWAPS


class Settings(encoder.Settings, frozen=True):
    """What BERT's forward pass needs besides the variables.

    BERT under other names is this with other names; `names`, `forward` and `mistakes` serve it.
    """

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS
    EMBEDDINGS: ClassVar[Embeddings] = _EMBEDDINGS
    LAYER: ClassVar[Layer] = Layer()
    LAYERS: ClassVar[str] = "bert/encoder/layer_"  # what a layer's number follows

    @property
    def scopes(self) -> list[str]:
        return [f"{self.LAYERS}{number}" for number in range(self.layers)]


labels, loss, products = heads.labels, heads.loss, heads.products
by_position = heads.by_position
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training = encoder.without_training


def settings(architecture: Architecture) -> Settings:
    groups = {_SCOPED.get(group, group) for group in architecture.groups}
    if architecture.head == "token":
        groups = {_ON_TOKENS.get(group, group) for group in groups}
    return settings_of(Settings, architecture, groups)


def names(settings: Settings) -> list[str]:
    layers = [name for scope in settings.scopes for name in settings.LAYER.names(scope)]
    return [*settings.EMBEDDINGS.names, *layers, *head_names(settings)]


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """The original code's outputs, in evaluation mode.

    Returns:
        In the order of the forward pass: `embeddings`, `layer_0`, ... [B, T, H], and for the groups
        of the settings `pooled` [B, H], `mlm_logits` [M, V], `nsp_logits` [B, 2], `logits`
        [B, C] or (a token classifier) [B, T, C], `start_logits` and `end_logits` [B, T].
    """
    hidden = settings.EMBEDDINGS.forward(variables, settings, samples)
    outputs = run_layers(variables, settings.LAYER, settings.scopes, settings, hidden, samples)
    return with_heads(variables, settings, outputs, samples)


def class_arguments(name: str, groups: Collection[str]) -> dict[str, Any]:
    return {"add_pooling_layer": False} if name == BASE_CLASS and "pooler" not in groups else {}


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    hidden = variables[settings.EMBEDDINGS.words].shape[1]
    return usual_mistakes(variables, settings, config, hidden=hidden, names=names)
