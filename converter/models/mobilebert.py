"""MobileBERT, from a checkpoint's variables under Google's names.

Follows google-research/google-research, mobilebert/, op by op: `modeling.py` in the layout of the
published model, with trigrams, bottlenecks and `no_norm`; `run_pretraining.py` and
`run_classifier.py` for the heads. The code is that of 2020, which trained the model. That of 2021
lets attention see padding, with a score of -6. The interface is that of `Reference`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from msgspec.structs import replace

from . import encoder, heads
from .backend import tensorflow
from .encoder import DENSE, LAYER_NORM, Embeddings, Layer, run_layers, settings_of
from .heads import Head, MaskedLM, Pair, Pooler, Sequence, Span, Tokens, head_names, with_heads
from .layers import Variables, activation, dense, self_attention
from .mistakes import usual_mistakes
from .reference import Architecture, Mistake, Samples

_TRANSFORMATION = "bert/embeddings/embedding_transformation"
_NORM = "FakeLayerNorm"
_FEED_FORWARDS = "num_feedforward_networks"


class _Embeddings(Embeddings, frozen=True):
    """The embeddings of a token and its two neighbors, made as wide as the layers' outputs."""

    @property
    def names(self) -> list[str]:
        return [*super().names, *_below(_TRANSFORMATION, DENSE)]

    def forward(self, variables: Variables, settings: encoder.Settings, samples: Samples) -> Any:
        tf = tensorflow()
        words = self.look_up(variables, settings, samples)
        after = tf.pad(words[:, 1:], [[0, 0], [0, 1], [0, 0]])
        before = tf.pad(words[:, :-1], [[0, 0], [1, 0], [0, 0]])
        wide = dense(variables, _TRANSFORMATION, tf.concat([after, words, before], axis=2))
        placed = self.place(variables, settings, samples, wide)
        return _no_norm(variables, self.norm, placed)


class _Layer(Layer, frozen=True):
    """A layer whose attention and feed-forward networks are between bottlenecks."""

    attention_norm: str = f"attention/output/{_NORM}"
    norm: str = f"output/{_NORM}"
    feed_forwards: int = 1

    def names(self, scope: str) -> list[str]:
        parts = [f"bottleneck/{part}" for part in ("input", "attention")]
        for number in range(self.feed_forwards - 1):
            parts += [f"ffn_layer_{number}/{part}" for part in ("intermediate", "output")]
        parts.append("output/bottleneck")
        found = super().names(scope)
        for part in parts:
            found += _below(f"{scope}/{part}/dense", DENSE)
            if not part.endswith("/intermediate"):
                found += _below(f"{scope}/{part}/{_NORM}", LAYER_NORM)
        return found

    def forward(
        self, variables: Variables, scope: str, settings: encoder.Settings, x: Any, adder: Any
    ) -> Any:
        """One turn of the loop in transformer_model: [B, T, H] to [B, T, H]."""
        narrow = _block(variables, f"{scope}/bottleneck/input", x)
        shared = _block(variables, f"{scope}/bottleneck/attention", x)  # of query and key
        attention = self_attention(
            variables, f"{scope}/{self.attention}", settings.heads, shared, adder, values=x
        )
        output = _block(variables, f"{scope}/attention/output", attention, narrow)
        networks = [f"{scope}/ffn_layer_{number}" for number in range(self.feed_forwards - 1)]
        for network in (*networks, scope):
            inner = dense(variables, f"{network}/intermediate/dense", output)
            inner = activation(settings.activation, inner)
            output = _block(variables, f"{network}/output", inner, output)
        return _block(variables, f"{scope}/output/bottleneck", output, x)


def _block(variables: Variables, scope: str, x: Any, residual: Any = 0.0) -> Any:
    """A dense layer, and no_norm of what it gives plus a residual."""
    return _no_norm(variables, f"{scope}/{_NORM}", dense(variables, f"{scope}/dense", x) + residual)


def _no_norm(variables: Variables, scope: str, x: Any) -> Any:
    """layer_norm with normalization `no_norm`, which has no statistics."""
    return x * variables[f"{scope}/gamma"] + variables[f"{scope}/beta"]


def _below(scope: str, variables: tuple[str, ...]) -> list[str]:
    return [f"{scope}/{variable}" for variable in variables]


class _First(Head, frozen=True):
    """The first token of the last layer, where there is no dense layer: `pooled` [B, H]."""

    @property
    def names(self) -> list[str]:
        return []

    def forward(
        self,
        variables: Variables,
        settings: encoder.Settings,
        outputs: dict[str, Any],
        samples: Samples,
    ) -> dict[str, Any]:
        return {"pooled": outputs[settings.last_layer][:, 0]}


class _MaskedLM(MaskedLM, frozen=True):
    """A masked language model whose table of embeddings is narrower than the layers' outputs."""

    extra: str = "cls/predictions/extra_output_weights"  # the rest of the table

    @property
    def names(self) -> list[str]:
        return [*super().names, self.extra]

    def table(self, variables: Variables) -> Any:
        return tensorflow().concat([variables[self.words], variables[self.extra]], axis=1)


_EMBEDDINGS = _Embeddings.below("bert/embeddings", norm=_NORM)
_MLM = (
    "cls/predictions/transform/dense",
    "cls/predictions/transform/LayerNorm",
    "cls/predictions/output_bias",
    _EMBEDDINGS.words,
)
# In the order of the forward pass.
_HEADS: dict[str, Head] = {
    "pooler": Pooler("bert/pooler/dense"),
    "first": _First(),
    "mlm": _MaskedLM(*_MLM),
    "wide mlm": MaskedLM(*_MLM),
    "nsp": Pair(
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
        gives=("nsp_logits",),
        label="next_sentence_label",
    ),
    "classifier": Sequence("output_weights", "output_bias"),
    "token": Tokens("output_weights", "output_bias"),
    "squad": Span("cls/squad/output_weights", "cls/squad/output_bias"),
}
_ON_POOLED = {"nsp", "classifier"}

OUTPUTS = {
    "MobileBertForPreTraining": {
        "prediction_logits": "mlm_logits",
        "seq_relationship_logits": "nsp_logits",
    },
    "MobileBertForMaskedLM": {"logits": "mlm_logits"},
    "MobileBertForNextSentencePrediction": {"logits": "nsp_logits"},
    "MobileBertForSequenceClassification": {"logits": "logits"},
    "MobileBertForTokenClassification": {"logits": "logits"},
    "MobileBertForQuestionAnswering": {
        "start_logits": "start_logits",
        "end_logits": "end_logits",
    },
    "MobileBertModel": {},
}
BASE_CLASS = "MobileBertModel"
CHOICES = ()
MASKED_LM = "cls.predictions"
LAYER = "MobileBertLayer"
POOLING = ("pooler",)
SWAPS = encoder.SWAPS


class Settings(encoder.Settings, frozen=True):
    """What MobileBERT's forward pass needs besides the variables."""

    HEADS: ClassVar[Mapping[str, Head]] = _HEADS

    feed_forwards: int = 1  # in a layer


labels, loss, products = heads.labels, heads.loss, heads.products
by_position = heads.by_position
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training = encoder.without_training


def settings(architecture: Architecture) -> Settings:
    groups, sizes = set(architecture.groups), architecture.sizes
    if "pooler" not in groups and (groups & _ON_POOLED or architecture.head == "none"):
        groups.add("first")
    if architecture.head == "token":
        groups = {{"classifier": "token"}.get(group, group) for group in groups}
    if sizes["embedding_size"] == sizes["hidden_size"]:
        groups = {{"mlm": "wide mlm"}.get(group, group) for group in groups}
    return settings_of(Settings, architecture, groups, feed_forwards=sizes[_FEED_FORWARDS])


def names(settings: Settings) -> list[str]:
    layer = _layer(settings)
    layers = [name for scope in _scopes(settings) for name in layer.names(scope)]
    return [*_EMBEDDINGS.names, *layers, *head_names(settings)]


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """Google's outputs, in evaluation mode, by the names of `bert.forward`."""
    hidden = _EMBEDDINGS.forward(variables, settings, samples)
    outputs = run_layers(variables, _layer(settings), _scopes(settings), settings, hidden, samples)
    return with_heads(variables, settings, outputs, samples)


def class_arguments(name: str, groups: Collection[str]) -> dict[str, Any]:
    return {}


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    hidden = variables[f"{_scopes(settings)[0]}/bottleneck/input/dense/kernel"].shape[1]
    counts = {_FEED_FORWARDS: ("feed_forwards", "feed-forward networks in a layer")}
    yield from usual_mistakes(
        variables, settings, config, hidden=hidden, names=names, counts=counts
    )
    if "pooler" in settings.groups:
        groups = tuple({"pooler": "first"}.get(group, group) for group in settings.groups)
        text = "OUT leaves out the pooler's dense layer"
        yield Mistake("pooler", text, replace(settings, groups=groups), variables)


def _layer(settings: Settings) -> _Layer:
    return _Layer(feed_forwards=settings.feed_forwards)


def _scopes(settings: Settings) -> list[str]:
    return [f"bert/encoder/layer_{number}" for number in range(settings.layers)]
