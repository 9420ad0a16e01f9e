"""ELECTRA's generator: the model of `electra.py` in another scope, with a masked LM."""

from collections.abc import Mapping
from typing import ClassVar

from . import electra
from .encoder import settings_of
from .heads import Head, MaskedLM
from .reference import Architecture

OUTPUTS, BASE_CLASS = electra.OUTPUTS, electra.BASE_CLASS
CHOICES, POOLING, SWAPS = electra.CHOICES, electra.POOLING, electra.SWAPS
MASKED_LM, LAYER = electra.MASKED_LM, electra.LAYER


class Settings(electra.Settings, frozen=True):
    """What the generator's forward pass needs besides the variables."""

    SCOPE: ClassVar[str] = "generator"
    HEADS: ClassVar[Mapping[str, Head]] = {
        "mlm": MaskedLM(
            "generator_predictions/dense",
            "generator_predictions/LayerNorm",
            "generator_predictions/output_bias",
            "generator/embeddings/word_embeddings",
        )
    }


names, forward, mistakes = electra.names, electra.forward, electra.mistakes
labels, loss, products = electra.labels, electra.loss, electra.products
by_position = electra.by_position
activation_words, other_activation = electra.activation_words, electra.other_activation
without_training, class_arguments = electra.without_training, electra.class_arguments


def settings(architecture: Architecture) -> Settings:
    return settings_of(Settings, architecture, projected="project" in architecture.groups)
