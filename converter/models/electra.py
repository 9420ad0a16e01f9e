"""ELECTRA's discriminator, from a checkpoint's variables under Google's names.

Follows google-research/electra op by op: `model/modeling.py` for the model, `run_pretraining.py`
and `finetune/` for the heads. The interface is that of `Reference`. The generator is the same
model in another scope: `electra_generator.py`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from . import encoder, heads
from .encoder import DENSE, Embeddings, Layer, run_layers, settings_of
from .heads import Head, Replaced, Tokens, head_names, with_heads
from .layers import dense
from .mistakes import usual_mistakes
from .reference import Architecture, Mistake, Samples

_LAYER = Layer()

OUTPUTS = {
    "ElectraForPreTraining": {"logits": "logits"},
    "ElectraForMaskedLM": {"logits": "mlm_logits"},
    "ElectraForTokenClassification": {"logits": "logits"},
    "ElectraModel": {},
}
BASE_CLASS = "ElectraModel"
CHOICES = ()
MASKED_LM = "generator_predictions"
LAYER = "ElectraLayer"
POOLING = ()
SWAPS = encoder.SWAPS


class Settings(encoder.Settings, frozen=True):
    """What ELECTRA's forward pass needs besides the variables."""

    SCOPE: ClassVar[str] = "electra"
    HEADS: ClassVar[Mapping[str, Head]] = {
        "discriminator": Replaced(
            "discriminator_predictions/dense", "discriminator_predictions/dense_1"
        ),
        "classifier": Tokens("task_specific/chunk/dense/kernel", "task_specific/chunk/dense/bias"),
        "task": Tokens("task_specific/task/dense/kernel", "task_specific/task/dense/bias"),
    }
    GELU: ClassVar[str] = "erf"

    projected: bool = False  # whether the embeddings are made as wide as the layers' outputs

    @property
    def embeddings(self) -> Embeddings:
        return Embeddings.below(f"{self.SCOPE}/embeddings")

    @property
    def projection(self) -> str:
        return f"{self.SCOPE}/embeddings_project"

    @property
    def scopes(self) -> list[str]:
        return [f"{self.SCOPE}/encoder/layer_{number}" for number in range(self.layers)]


labels, loss, products = heads.labels, heads.loss, heads.products
by_position = heads.by_position
activation_words, other_activation = encoder.activation_words, encoder.other_activation
without_training = encoder.without_training


def settings(architecture: Architecture) -> Settings:
    return settings_of(Settings, architecture, projected="project" in architecture.groups)


def names(settings: Settings) -> list[str]:
    projection = [f"{settings.projection}/{v}" for v in DENSE if settings.projected]
    layers = [name for scope in settings.scopes for name in _LAYER.names(scope)]
    return [*settings.embeddings.names, *projection, *layers, *head_names(settings)]


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """Google's outputs, in evaluation mode, by the names of `bert.forward`.

    `embeddings` is what the first layer takes, [B, T, H]. The discriminator's `logits` are [B, T].
    """
    hidden = settings.embeddings.forward(variables, settings, samples)
    if settings.projected:
        hidden = dense(variables, settings.projection, hidden)
    outputs = run_layers(variables, _LAYER, settings.scopes, settings, hidden, samples)
    return with_heads(variables, settings, outputs, samples)


def class_arguments(name: str, groups: Collection[str]) -> dict[str, Any]:
    return {}


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    hidden = variables[f"{settings.scopes[0]}/output/dense/bias"].shape[0]
    return usual_mistakes(variables, settings, config, hidden=hidden, names=names)
