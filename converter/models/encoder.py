"""What the families' encoders share: settings, embeddings and layers, under each family's names."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from .backend import tensorflow
from .layers import (
    Variables,
    activation,
    attention_adder,
    dense,
    layer_norm,
    one_hot_lookup,
    self_attention,
)
from .reference import Architecture, Samples

if TYPE_CHECKING:
    from .heads import Head

DENSE = ("kernel", "bias")
LAYER_NORM = ("beta", "gamma")
SWAPS = {
    "query, key or value swapped": ("query", "key", "value"),
    "gamma and beta swapped": ("gamma", "beta"),
}
"""As `Reference` has it."""

# The activation's name in the original config -> in `Settings`; gelu has two forms.
_BY_GOOGLE = {"tanh": "pure tanh", "": "linear"}
_ACTIVATION_WORDS = {"tanh": "GELU by tanh", "erf": "GELU by erf", "pure tanh": "tanh"}


class Settings(Struct, frozen=True):
    """What a forward pass needs besides the variables; the defaults are Google's.

    Some of it is fixed in Google's code. It is here so that a mistake can be tried. A family adds
    what only it has.
    """

    HEADS: ClassVar[Mapping[str, "Head"]] = {}  # by group, in the order of the forward pass
    GELU: ClassVar[str] = "tanh"  # the form that the family's code computes

    layers: int
    heads: int
    groups: tuple[str, ...]  # keys of HEADS
    activation: str = "tanh"  # of GELU, or the name of another function
    epsilon: float = 1e-12  # tf.contrib.layers.layer_norm's own
    mask: str = "padding"  # or "none", or "causal"
    segments: str = "given"  # or "first" for every token, or "none"
    first_position: int = 0
    untrained_id: int | None = None  # a token whose embedding gets no gradient by looking it up
    problem_type: str = ""  # of a sequence classifier, as in config.json

    @property
    def last_layer(self) -> str:
        """The output that the heads take."""
        return f"layer_{self.layers - 1}"


S = TypeVar("S", bound=Settings)


def settings_of(
    kind: type[S], architecture: Architecture, groups: Iterable[str] = (), **more: Any
) -> S:
    """The settings of a model.

    Args:
        kind: the family's.
        architecture: the model.
        groups: keys of HEADS, if they are not the architecture's own.
        more: what only this family has.
    """
    wanted = set(groups or architecture.groups)
    form = architecture.form if architecture.form in ("tanh", "erf") else kind.GELU
    names = {"gelu": form, **_BY_GOOGLE}
    return kind(
        layers=architecture.sizes["layers"],
        heads=architecture.sizes["heads"],
        groups=tuple(group for group in kind.HEADS if group in wanted),
        activation=names.get(architecture.activation, architecture.activation),
        problem_type=architecture.problem_type,
        **more,
    )


def without_training(settings: S, token_id: int) -> S:
    """As `Reference` has it."""
    return replace(settings, untrained_id=token_id)


def activation_words(settings: Settings) -> str:
    """As `Reference` has it."""
    return _ACTIVATION_WORDS.get(settings.activation, settings.activation)


def other_activation(settings: S) -> S | None:
    """As `Reference` has it: the other form of GELU."""
    other = {"tanh": "erf", "erf": "tanh"}.get(settings.activation)
    return replace(settings, activation=other) if other else None


class Embeddings(Struct, frozen=True):
    """The names of the embeddings' variables."""

    words: str
    segments: str
    positions: str
    norm: str  # a scope

    @classmethod
    def below(cls, scope: str, norm: str = "LayerNorm") -> Self:
        """Those that modeling.py makes in a scope."""
        return cls(
            words=f"{scope}/word_embeddings",
            segments=f"{scope}/token_type_embeddings",
            positions=f"{scope}/position_embeddings",
            norm=f"{scope}/{norm}",
        )

    @property
    def names(self) -> list[str]:
        return [self.words, self.segments, self.positions, *_below(self.norm, LAYER_NORM)]

    def forward(self, variables: Variables, settings: Settings, samples: Samples) -> Any:
        """embedding_lookup and embedding_postprocessor: [B, T, E]."""
        words = self.look_up(variables, settings, samples)
        placed = self.place(variables, settings, samples, words)
        return layer_norm(variables, self.norm, placed, settings.epsilon)

    def look_up(self, variables: Variables, settings: Settings, samples: Samples) -> Any:
        """embedding_lookup: the tokens' rows, [B, T, E]."""
        tf = tensorflow()
        output = tf.nn.embedding_lookup(variables[self.words], samples.input_ids)
        if settings.untrained_id is None:
            return output
        trained = (samples.input_ids != settings.untrained_id)[..., tf.newaxis]
        return tf.where(trained, output, tf.stop_gradient(output))

    def place(self, variables: Variables, settings: Settings, samples: Samples, output: Any) -> Any:
        """Add the rows of segments and positions to [B, T, H]."""
        tf = tensorflow()
        if settings.segments != "none":
            ids = samples.segment_ids * (settings.segments == "given")
            output += one_hot_lookup(variables[self.segments], ids)
        shifted = tf.roll(variables[self.positions], -settings.first_position, axis=0)
        return output + shifted[: output.shape[1]][tf.newaxis]


class Layer(Struct, frozen=True):
    """The names of a layer's scopes, below the layer's own."""

    attention: str = "attention/self"  # query, key and value
    projection: str = "attention/output/dense"
    attention_norm: str = "attention/output/LayerNorm"
    inner: str = "intermediate/dense"
    outer: str = "output/dense"
    norm: str = "output/LayerNorm"

    def names(self, scope: str) -> list[str]:
        """The variables of the layer in a scope."""
        parts = [f"{self.attention}/{part}" for part in ("query", "key", "value")]
        parts += [self.projection, self.inner, self.outer]
        norms = (self.attention_norm, self.norm)
        found = [name for part in parts for name in _below(f"{scope}/{part}", DENSE)]
        return found + [name for norm in norms for name in _below(f"{scope}/{norm}", LAYER_NORM)]

    def forward(
        self, variables: Variables, scope: str, settings: Settings, x: Any, adder: Any
    ) -> Any:
        """One turn of the loop in transformer_model: [B, T, H] to [B, T, H]."""
        epsilon = settings.epsilon
        attention = self_attention(variables, f"{scope}/{self.attention}", settings.heads, x, adder)
        attention = dense(variables, f"{scope}/{self.projection}", attention)
        attention = layer_norm(variables, f"{scope}/{self.attention_norm}", attention + x, epsilon)
        inner = dense(variables, f"{scope}/{self.inner}", attention)
        inner = activation(settings.activation, inner)
        output = dense(variables, f"{scope}/{self.outer}", inner)
        return layer_norm(variables, f"{scope}/{self.norm}", output + attention, epsilon)


def run_layers(
    variables: Variables,
    layer: Layer,
    scopes: Iterable[str],
    settings: Settings,
    hidden: Any,
    samples: Samples,
) -> dict[str, Any]:
    """The layers one after another: `embeddings` and `layer_0`, `layer_1`, ... [B, T, H].

    For a gradient, a layer is computed again: what is inside of all 12 layers of BERT-Base would
    take 2.3 GB in float64, for 512 tokens.

    Args:
        variables: by the original names.
        layer: the names in each scope.
        scopes: one for each turn; a scope may occur again.
        settings: of the model.
        hidden: what goes into the first layer, [B, T, H].
        samples: whose padding attention must not see.
    """
    outputs = {"embeddings": hidden}
    adder = attention_adder(samples.input_mask, hidden.dtype, settings.mask)
    for number, scope in enumerate(scopes):
        hidden = _run(variables, layer, scope, settings, hidden, adder)
        outputs[f"layer_{number}"] = hidden
    return outputs


def _run(
    variables: Variables, layer: Layer, scope: str, settings: Settings, hidden: Any, adder: Any
) -> Any:
    names = layer.names(scope)

    def run(x: Any, *arrays: Any) -> Any:
        return layer.forward(dict(zip(names, arrays, strict=True)), scope, settings, x, adder)

    arrays = (variables[name] for name in names)
    return tensorflow().recompute_grad(run)(hidden, *arrays)


def _below(scope: str, variables: Iterable[str]) -> list[str]:
    return [f"{scope}/{variable}" for variable in variables]
