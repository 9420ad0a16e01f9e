"""The heads that families share: what they compute, their labels, and their losses.

A family lists its heads in `Settings.HEADS`. A head takes the outputs before it: `pooled` [B, H],
or that of the last layer [B, T, H].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .backend import tensorflow
from .encoder import DENSE, LAYER_NORM, Settings
from .layers import (
    IGNORED,
    Variables,
    activation,
    binary_cross_entropy,
    cross_entropy,
    dense,
    gathered,
    layer_norm,
    mean_squared_error,
    multiply,
    project,
)
from .reference import Product, Samples

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Labels = dict[str, Array]
    Rng = np.random.Generator
    Tensors = dict[str, Any]


class Head(Struct, frozen=True):
    """What a group of the mapping computes. It may have no loss."""

    @property
    def names(self) -> list[str]:
        """The original names of its variables."""
        raise NotImplementedError

    @property
    def by_position(self) -> tuple[str, ...]:
        """Its outputs that have a value for each position: [B, T, ...]."""
        return ()

    def forward(
        self, variables: Variables, settings: Settings, outputs: Tensors, samples: Samples
    ) -> Tensors:
        """Its outputs, by those before it."""
        raise NotImplementedError

    def products(self, arrays: Variables, settings: Settings) -> dict[str, Product]:
        """Its outputs that are one product of an output before them."""
        return {}

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        """Random labels by the names of transformers' arguments."""
        return {}

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any | None:
        """Its part of the loss, as transformers computes it."""
        return None


class Pooler(Head, frozen=True):
    """tanh of a dense layer on the first token: `pooled` [B, H]."""

    scope: str

    @property
    def names(self) -> list[str]:
        return [f"{self.scope}/{variable}" for variable in DENSE]

    def forward(
        self, variables: Variables, settings: Settings, outputs: Tensors, samples: Samples
    ) -> Tensors:
        first = outputs[settings.last_layer][:, 0]
        return {"pooled": tensorflow().tanh(dense(variables, self.scope, first))}

    def products(self, arrays: Variables, settings: Settings) -> dict[str, Product]:
        kernel, bias = (arrays[name] for name in self.names)
        return {"pooled": Product(settings.last_layer, kernel, bias, first=True)}


class MaskedLM(Head, frozen=True):
    """get_masked_lm_output at the masked positions: `mlm_logits` [M, V].

    At every position there would be 15 million of them in a batch of 512 tokens.
    """

    dense: str  # a scope, as is `norm`
    norm: str
    bias: str
    words: str  # the table of embeddings

    @property
    def names(self) -> list[str]:
        return [
            *(f"{self.dense}/{variable}" for variable in DENSE),
            *(f"{self.norm}/{variable}" for variable in LAYER_NORM),
            self.bias,
        ]

    def forward(
        self, variables: Variables, settings: Settings, outputs: Tensors, samples: Samples
    ) -> Tensors:
        x = gathered(outputs[settings.last_layer], samples.masked)
        x = activation(settings.activation, dense(variables, self.dense, x))
        x = layer_norm(variables, self.norm, x, settings.epsilon)
        return {"mlm_logits": project(x, self.table(variables), variables[self.bias])}

    def table(self, variables: Variables) -> Any:
        """The weights of the output layer, [V, H]: the embeddings."""
        return variables[self.words]

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        return {"labels": rng.integers(0, arrays[self.bias].shape[0], len(samples.masked))}

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        """The mean over the masked tokens.

        `run_pretraining.py` divides their sum by their number plus 1e-5, transformers by their
        number.
        """
        return cross_entropy(outputs["mlm_logits"], labels["labels"])


class Linear(Head, frozen=True):
    """One product of the pooled output, or of the last layer's."""

    weights: str  # [H, C] if it is a `kernel`, else [C, H]
    bias: str
    gives: tuple[str, ...] = ("logits",)
    pooled: bool = True

    @property
    def names(self) -> list[str]:
        return [self.weights, self.bias]

    def forward(
        self, variables: Variables, settings: Settings, outputs: Tensors, samples: Samples
    ) -> Tensors:
        function = multiply if self._is_kernel else project
        x, weights = outputs[self._source(settings)], variables[self.weights]
        return self.split(function(x, weights, variables[self.bias]))

    def split(self, logits: Any) -> Tensors:
        """The outputs, of the product [..., C]."""
        return {self.gives[0]: logits}

    def products(self, arrays: Variables, settings: Settings) -> dict[str, Product]:
        weights = arrays[self.weights]
        matrix = weights if self._is_kernel else weights.T
        product = Product(self._source(settings), matrix, arrays[self.bias])
        return dict.fromkeys(self.gives, product)

    @property
    def _is_kernel(self) -> bool:
        return self.weights.endswith("/kernel")

    def _source(self, settings: Settings) -> str:
        return "pooled" if self.pooled else settings.last_layer


class Pair(Linear, frozen=True):
    """How two sentences follow each other: [B, 2]."""

    label: str = "labels"  # what a class that has a MaskedLM, too, calls its labels

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        return {self._label(settings): rng.integers(0, 2, len(samples.input_ids))}

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        return cross_entropy(outputs[self.gives[0]], labels[self._label(settings)])

    def _label(self, settings: Settings) -> str:
        others = (isinstance(head, MaskedLM) for head in _heads(settings))
        return self.label if any(others) else "labels"


class Sequence(Linear, frozen=True):
    """A classifier of sequences, or a regression: [B, C]."""

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        import numpy as np

        rows, classes = len(samples.input_ids), arrays[self.bias].shape[0]
        problem = _problem(settings, classes)
        if problem == "regression":
            return {"labels": rng.standard_normal((rows, classes))}
        if problem == "multi_label_classification":
            return {"labels": rng.integers(0, 2, (rows, classes)).astype(np.float64)}
        return _classes(rng, classes, np.ones(rows, bool))

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        """The loss of its `problem_type`, as transformers has it."""
        losses = {
            "regression": mean_squared_error,
            "multi_label_classification": binary_cross_entropy,
        }
        logits = outputs[self.gives[0]]
        problem = _problem(settings, logits.shape[-1])
        return losses.get(problem, cross_entropy)(logits, labels["labels"])


def _problem(settings: Settings, classes: int) -> str:
    """What transformers takes a classifier of sequences for."""
    usual = "regression" if classes == 1 else "single_label_classification"
    return settings.problem_type or usual


class Tokens(Linear, frozen=True):
    """A classifier of tokens: [B, T, C]."""

    pooled: bool = False

    @property
    def by_position(self) -> tuple[str, ...]:
        return self.gives

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        return _classes(rng, arrays[self.bias].shape[0], samples.input_mask > 0)

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        return cross_entropy(outputs[self.gives[0]], labels["labels"])


class Choice(Linear, frozen=True):
    """Scores of a question's choices, which are the sequences of a batch: [1, B]."""

    def split(self, logits: Any) -> Tensors:
        return {self.gives[0]: tensorflow().transpose(logits)}

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        import numpy as np

        return _classes(rng, len(samples.input_ids), np.ones(1, bool))

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        return cross_entropy(outputs[self.gives[0]], labels["labels"])


class Span(Linear, frozen=True):
    """Where an answer starts and where it ends: [B, T] each, the columns of one product."""

    gives: tuple[str, ...] = ("start_logits", "end_logits")
    pooled: bool = False

    @property
    def by_position(self) -> tuple[str, ...]:
        return self.gives

    def split(self, logits: Any) -> Tensors:
        return dict(zip(self.gives, tensorflow().unstack(logits, axis=-1), strict=True))

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        lengths = samples.input_mask.sum(axis=1)
        return {name: rng.integers(0, lengths) for name in ("start_positions", "end_positions")}

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        """The mean of both losses."""
        start = cross_entropy(outputs["start_logits"], labels["start_positions"])
        return (start + cross_entropy(outputs["end_logits"], labels["end_positions"])) / 2


class Replaced(Head, frozen=True):
    """Whether each token was replaced, by two dense layers: `logits` [B, T]."""

    inner: str  # scopes
    outer: str

    @property
    def names(self) -> list[str]:
        return [f"{scope}/{variable}" for scope in (self.inner, self.outer) for variable in DENSE]

    @property
    def by_position(self) -> tuple[str, ...]:
        return ("logits",)

    def forward(
        self, variables: Variables, settings: Settings, outputs: Tensors, samples: Samples
    ) -> Tensors:
        x = dense(variables, self.inner, outputs[settings.last_layer])
        x = activation(settings.activation, x)
        return {"logits": tensorflow().squeeze(dense(variables, self.outer, x), -1)}

    def labels(self, arrays: Variables, settings: Settings, samples: Samples, rng: Rng) -> Labels:
        return {"labels": _drawn(rng, 2, samples.input_mask > 0)}

    def loss(self, outputs: Tensors, settings: Settings, labels: Labels) -> Any:
        """The mean over the tokens, which Google divides by their number plus 1e-6."""
        wanted = labels["labels"]
        chosen = wanted != IGNORED
        logits = tensorflow().boolean_mask(outputs["logits"], chosen)
        return binary_cross_entropy(logits, wanted[chosen])


def _drawn(rng: Rng, classes: int, chosen: Array) -> Array:
    """Labels where `chosen` is true."""
    import numpy as np

    return np.where(chosen, rng.integers(0, classes, chosen.shape), IGNORED)


def _classes(rng: Rng, classes: int, chosen: Array) -> Labels:
    """Labels of one class among several; none for one class, because its loss is 0."""
    return {"labels": _drawn(rng, classes, chosen)} if classes > 1 else {}


def _heads(settings: Settings) -> list[Head]:
    return [settings.HEADS[group] for group in settings.groups]


def head_names(settings: Settings) -> list[str]:
    """The original names of the heads' variables."""
    return [name for head in _heads(settings) for name in head.names]


def with_heads(
    variables: Variables, settings: Settings, outputs: Tensors, samples: Samples
) -> Tensors:
    """The outputs of an encoder and, after them, those of the heads."""
    for head in _heads(settings):
        outputs = outputs | head.forward(variables, settings, outputs, samples)
    return outputs


def by_position(settings: Settings) -> list[str]:
    """As `Reference` has it."""
    return [name for head in _heads(settings) for name in head.by_position]


def products(variables: Mapping[str, Array], settings: Settings) -> dict[str, Product]:
    """As `Reference` has it."""
    found: dict[str, Product] = {}
    for head in _heads(settings):
        found |= head.products(variables, settings)
    return found


def labels(variables: Mapping[str, Any], settings: Settings, samples: Samples, rng: Rng) -> Labels:
    """As `Reference` has it."""
    found: Labels = {}
    for head in _heads(settings):
        found |= head.labels(variables, settings, samples, rng)
    return found


def loss(outputs: Tensors, settings: Settings, labels: Labels) -> Any:
    """As `Reference` has it: the sum of the heads' losses."""
    losses = (head.loss(outputs, settings, labels) for head in _heads(settings))
    return tensorflow().add_n([found for found in losses if found is not None])
