"""ALBERT, from a checkpoint's variables under Google's names.

Follows google-research/albert op by op: `modeling.py` for the model, `run_pretraining.py`,
`classifier_utils.py`, `race_utils.py` and `squad_utils.py` for the heads. The interface is that of
`Reference`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from msgspec.structs import replace

from . import encoder, heads
from .encoder import DENSE, Embeddings, Layer, run_layers, settings_of
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
from .layers import dense
from .mistakes import exchanged, usual_mistakes
from .reference import Architecture, Mistake, Samples

_EMBEDDINGS = Embeddings.below("bert/embeddings")
_PROJECTION = "bert/encoder/embedding_hidden_mapping_in"
_LAYER = Layer(
    attention="attention_1/self",
    projection="attention_1/output/dense",
    attention_norm="LayerNorm",
    inner="ffn_1/intermediate/dense",
    outer="ffn_1/intermediate/output/dense",
    norm="LayerNorm_1",
)
# In the order of the forward pass.
_HEADS: dict[str, Head] = {
    "pooler": Pooler("bert/pooler/dense"),
    "mlm": MaskedLM(
        "cls/predictions/transform/dense",
        "cls/predictions/transform/LayerNorm",
        "cls/predictions/output_bias",
        _EMBEDDINGS.words,
    ),
    "sop": Pair(
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
        gives=("sop_logits",),
        label="sentence_order_label",
    ),
    "classifier": Sequence("output_weights", "output_bias"),
    "token": Tokens("output_weights", "output_bias"),
    "choice": Choice("output_weights", "output_bias"),
    "squad": Span("cls/squad/output_weights", "cls/squad/output_bias"),
}
_ON_CLASSIFIER = {"token", "choice"}  # heads that --head makes of the classifier's variables
_COUNTS = {
    "num_hidden_groups": ("shared", "groups of layers"),
    "inner_group_num": ("inner", "layers in a group"),
}

OUTPUTS = {
    "AlbertForPreTraining": {"prediction_logits": "mlm_logits", "sop_logits": "sop_logits"},
    "AlbertForMaskedLM": {"logits": "mlm_logits"},
    "AlbertForSequenceClassification": {"logits": "logits"},
    "AlbertForTokenClassification": {"logits": "logits"},
    "AlbertForMultipleChoice": {"logits": "logits"},
    "AlbertForQuestionAnswering": {"start_logits": "start_logits", "end_logits": "end_logits"},
    "AlbertModel": {},
}
BASE_CLASS = "AlbertModel"
CHOICES = ("AlbertForMultipleChoice",)
MASKED_LM = "predictions"
LAYER = "AlbertLayer"
POOLING = ("pooler", "pooler_activation")
SWAPS = encoder.SWAPS | {
    "norms swapped": ("LayerNorm", "LayerNorm_1"),
}


class Settings(encoder.Settings, frozen=True):
    """What ALBERT's forward pass needs besides the variables."""

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS

    shared: int = 1  # num_hidden_groups: the layers are divided among so many
    inner: int = 1  # inner_group_num: what each of them is made of
    division: str = "modeling.py"  # or "transformers", which rounds in another order

    @property
    def last_layer(self) -> str:
        return f"layer_{self.layers * self.inner - 1}"

    @property
    def group_of_layer(self) -> list[int]:
        """By layer, the group whose variables it has."""
        layers, shared = self.layers, self.shared
        if self.division == "modeling.py":
            return [int(layer / layers * shared) for layer in range(layers)]
        return [int(layer / (layers / shared)) for layer in range(layers)]


labels, loss, products = heads.labels, heads.loss, heads.products
by_position = heads.by_position
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training = encoder.without_training


def settings(architecture: Architecture) -> Settings:
    groups = set(architecture.groups)
    if architecture.head in _ON_CLASSIFIER and "classifier" in groups:
        groups = groups - {"classifier"} | {architecture.head}
    return settings_of(
        Settings,
        architecture,
        groups,
        shared=architecture.sizes["num_hidden_groups"],
        inner=architecture.sizes["inner_group_num"],
    )


def names(settings: Settings) -> list[str]:
    scopes = [_scope(group, n) for group in range(settings.shared) for n in range(settings.inner)]
    layers = [name for scope in scopes for name in _LAYER.names(scope)]
    projection = [f"{_PROJECTION}/{variable}" for variable in DENSE]
    return [*_EMBEDDINGS.names, *projection, *layers, *head_names(settings)]


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """Google's outputs, in evaluation mode, by the names of `bert.forward`.

    `embeddings` is what the first layer takes, [B, T, H]. Each layer gives `inner` outputs. The
    head of pretraining is called `sop_logits` [B, 2], and `logits` of multiple choice are [1, B].
    """
    hidden = dense(variables, _PROJECTION, _EMBEDDINGS.forward(variables, settings, samples))
    scopes = [_scope(group, n) for group in settings.group_of_layer for n in range(settings.inner)]
    outputs = run_layers(variables, _LAYER, scopes, settings, hidden, samples)
    return with_heads(variables, settings, outputs, samples)


def class_arguments(name: str, groups: Collection[str]) -> dict[str, Any]:
    return {"add_pooling_layer": False} if name == BASE_CLASS and "pooler" not in groups else {}


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    hidden = variables[f"{_PROJECTION}/bias"].shape[0]
    yield from usual_mistakes(
        variables, settings, config, hidden=hidden, names=names, counts=_COUNTS
    )
    swaps = [("LayerNorm", "LayerNorm_1")]
    for kind, count in (("group", settings.shared), ("inner_group", settings.inner)):
        swaps += [(f"{kind}_{one}", f"{kind}_{two}") for two in range(count) for one in range(two)]
    for one, other in swaps:
        text = f"the mapping swaps {one} and {other}"
        yield Mistake("mapping", text, settings, exchanged(variables, one, other))
    divided = replace(settings, division="transformers")
    if divided.group_of_layer != settings.group_of_layer:
        yield Mistake("groups", _division(settings, divided), divided, variables)


def _division(settings: Settings, divided: Settings) -> str:
    """What differs, at the first layer that has another group."""
    groups = zip(settings.group_of_layer, divided.group_of_layer, strict=True)
    layer, (ours, theirs) = next((n, pair) for n, pair in enumerate(groups) if len({*pair}) > 1)
    return (
        f"transformers gives layer {layer} to group {theirs} of {settings.shared}, and modeling.py"
        f" to group {ours}, because they round in another order. No config.json changes that"
    )


def _scope(group: int, inner: int) -> str:
    return f"bert/encoder/transformer/group_{group}/inner_group_{inner}"
