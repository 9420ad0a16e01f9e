"""BERT, from a checkpoint's variables under Google's names.

Follows google-research/bert op by op: `modeling.py` for the model, `run_pretraining.py`,
`run_classifier.py` and `run_squad.py` for the heads. The interface is that of `Reference`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from .backend import tensorflow
from .layers import (
    IGNORED,
    activation,
    attention_adder,
    binary_cross_entropy,
    cross_entropy,
    dense,
    layer_norm,
    mean_squared_error,
    one_hot_lookup,
    project,
    self_attention,
)
from .reference import Architecture, Mistake, Product, Samples

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_DENSE = ("kernel", "bias")
_LAYER_NORM = ("beta", "gamma")
# In the order of the forward pass.
_HEADS = {
    "pooler": [f"bert/pooler/dense/{v}" for v in _DENSE],
    "mlm": [
        *(f"cls/predictions/transform/dense/{v}" for v in _DENSE),
        *(f"cls/predictions/transform/LayerNorm/{v}" for v in _LAYER_NORM),
        "cls/predictions/output_bias",
    ],
    "nsp": ["cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias"],
    "classifier": ["output_weights", "output_bias"],
    "token": ["output_weights", "output_bias"],
    "dense": [f"dense/{v}" for v in _DENSE],
    "token dense": [f"dense/{v}" for v in _DENSE],
    "squad": ["cls/squad/output_weights", "cls/squad/output_bias"],
}
_ON_TOKENS = {"classifier": "token", "dense": "token dense"}
_SCOPED = {"scoped": "classifier"}  # the same head, wherever it is in the checkpoint
_SEQUENCES = {"classifier", "dense"}  # groups whose classes the user chose, a set for a sequence
_LABELS = _SEQUENCES | {"token", "token dense"}
_ON_POOLED = _SEQUENCES | {"nsp"}
# A group that gives other outputs than `logits`. Start and end are the columns of one product.
_PRODUCTS = {
    "pooler": ("pooled",),
    "nsp": ("nsp_logits",),
    "squad": ("start_logits", "end_logits"),
}
_WORDS = "bert/embeddings/word_embeddings"
_MASKED_SHARE = 0.15  # of the tokens, as create_pretraining_data.py has it

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
POOLING = "pooler"
SWAPS = {
    "query, key or value swapped": ("query", "key", "value"),
    "gamma and beta swapped": ("gamma", "beta"),
}

# The activation's name in bert_config.json -> in `Settings`; gelu has two forms.
_BY_GOOGLE = {"tanh": "pure tanh", "": "linear"}
# transformers' names -> those of `Settings`.
_BY_TRANSFORMERS = {
    "gelu": "erf",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "relu": "relu",
    "tanh": "pure tanh",
    "linear": "linear",
}
_ACTIVATION_WORDS = {"tanh": "GELU by tanh", "erf": "GELU by erf", "pure tanh": "tanh"}
_OTHER_EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-3)  # of other models and libraries
_MOST_HEADS = 64


class Settings(Struct, frozen=True):
    """What a forward pass needs besides the variables; the defaults are Google's.

    Some of it is fixed in Google's code. It is here so that a mistake can be tried.
    """

    layers: int
    heads: int
    groups: tuple[str, ...]  # keys of _HEADS
    activation: str = "tanh"  # of GELU, or the name of another function
    epsilon: float = 1e-12  # tf.contrib.layers.layer_norm's own
    mask: str = "padding"  # or "none", or "causal"
    segments: str = "given"  # or "first" for every token, or "none"
    first_position: int = 0
    untrained_id: int | None = None  # a token whose embedding gets no gradient by looking it up
    problem_type: str = ""  # of a sequence classifier, as in config.json


def settings(architecture: Architecture) -> Settings:
    groups = {_SCOPED.get(group, group) for group in architecture.groups}
    if architecture.head == "token":
        groups = {_ON_TOKENS.get(group, group) for group in groups}
    form = "erf" if architecture.form == "erf" else "tanh"
    names = {"gelu": form, **_BY_GOOGLE}
    return Settings(
        layers=architecture.sizes["layers"],
        heads=architecture.sizes["heads"],
        groups=tuple(group for group in _HEADS if group in groups),
        activation=names.get(architecture.activation, architecture.activation),
        problem_type=architecture.problem_type,
    )


def names(settings: Settings) -> list[str]:
    found = [f"bert/embeddings/{table}_embeddings" for table in ("word", "token_type", "position")]
    found += [f"bert/embeddings/LayerNorm/{v}" for v in _LAYER_NORM]
    for layer in range(settings.layers):
        scope = f"bert/encoder/layer_{layer}"
        parts = [f"attention/self/{part}" for part in ("query", "key", "value")]
        parts += ["attention/output/dense", "intermediate/dense", "output/dense"]
        found += [f"{scope}/{part}/{v}" for part in parts for v in _DENSE]
        norms = ("attention/output", "output")
        found += [f"{scope}/{part}/LayerNorm/{v}" for part in norms for v in _LAYER_NORM]
    return found + [name for group in settings.groups for name in _HEADS[group]]


def without_training(settings: Settings, token_id: int) -> Settings:
    return replace(settings, untrained_id=token_id)


def forward(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> dict[str, Any]:
    """Google's outputs, in evaluation mode.

    Returns:
        In the order of the forward pass: `embeddings`, `layer_0`, ... [B, T, H], and for the groups
        of the settings `pooled` [B, H], `mlm_logits` [B, T, V], `nsp_logits` [B, 2], `logits`
        [B, C] or (a token classifier) [B, T, C], `start_logits` and `end_logits` [B, T].
    """
    hidden = _embeddings(variables, settings, samples)
    outputs = {"embeddings": hidden}
    adder = attention_adder(samples.input_mask, hidden.dtype, settings.mask)
    for layer in range(settings.layers):
        hidden = _layer(variables, f"bert/encoder/layer_{layer}", settings, hidden, adder)
        outputs[f"layer_{layer}"] = hidden
    return outputs | _heads(variables, settings, hidden)


def _embeddings(variables: Mapping[str, Any], settings: Settings, samples: Samples) -> Any:
    """embedding_lookup and embedding_postprocessor: [B, T, H]."""
    tf = tensorflow()
    output = tf.nn.embedding_lookup(variables[_WORDS], samples.input_ids)
    if settings.untrained_id is not None:
        trained = (samples.input_ids != settings.untrained_id)[..., tf.newaxis]
        output = tf.where(trained, output, tf.stop_gradient(output))
    if settings.segments != "none":
        ids = samples.segment_ids * (settings.segments == "given")
        output += one_hot_lookup(variables["bert/embeddings/token_type_embeddings"], ids)
    positions = variables["bert/embeddings/position_embeddings"]
    shifted = tf.roll(positions, -settings.first_position, axis=0)
    output += shifted[: output.shape[1]][tf.newaxis]
    return layer_norm(variables, "bert/embeddings", output, settings.epsilon)


def _layer(variables: Mapping[str, Any], scope: str, settings: Settings, x: Any, adder: Any) -> Any:
    """One turn of the loop in transformer_model: [B, T, H] to [B, T, H]."""
    epsilon = settings.epsilon
    attention = self_attention(variables, f"{scope}/attention/self", settings.heads, x, adder)
    attention = dense(variables, f"{scope}/attention/output/dense", attention)
    attention = layer_norm(variables, f"{scope}/attention/output", attention + x, epsilon)
    inner = dense(variables, f"{scope}/intermediate/dense", attention)
    inner = activation(settings.activation, inner)
    output = dense(variables, f"{scope}/output/dense", inner)
    return layer_norm(variables, f"{scope}/output", output + attention, epsilon)


def _heads(variables: Mapping[str, Any], settings: Settings, hidden: Any) -> dict[str, Any]:
    tf = tensorflow()
    outputs: dict[str, Any] = {}
    if "pooler" in settings.groups:
        outputs["pooled"] = tf.tanh(dense(variables, "bert/pooler/dense", hidden[:, 0]))
    if "mlm" in settings.groups:  # run_pretraining.get_masked_lm_output, at every position
        scope = "cls/predictions/transform"
        x = activation(settings.activation, dense(variables, f"{scope}/dense", hidden))
        x = layer_norm(variables, scope, x, settings.epsilon)
        bias = variables["cls/predictions/output_bias"]
        outputs["mlm_logits"] = project(x, variables[_WORDS], bias)
    if "nsp" in settings.groups:  # run_pretraining.get_next_sentence_output
        outputs["nsp_logits"] = _classify(variables, "cls/seq_relationship/", outputs["pooled"])
    if "classifier" in settings.groups:  # run_classifier.create_model
        outputs["logits"] = _classify(variables, "", outputs["pooled"])
    if "token" in settings.groups:  # as many projects have it, after run_classifier.py's comment
        outputs["logits"] = _classify(variables, "", hidden)
    if "dense" in settings.groups:  # tf.layers.dense on the pooled output, as BLEURT has it
        outputs["logits"] = dense(variables, "dense", outputs["pooled"])
    if "token dense" in settings.groups:
        outputs["logits"] = dense(variables, "dense", hidden)
    if "squad" in settings.groups:  # run_squad.create_model
        logits = _classify(variables, "cls/squad/", hidden)
        outputs["start_logits"], outputs["end_logits"] = tf.unstack(logits, axis=-1)
    return outputs


def _classify(variables: Mapping[str, Any], scope: str, x: Any) -> Any:
    return project(x, variables[f"{scope}output_weights"], variables[f"{scope}output_bias"])


def products(variables: Mapping[str, "Array"], settings: Settings) -> dict[str, Product]:
    last = f"layer_{settings.layers - 1}"
    found: dict[str, Product] = {}
    for group in settings.groups:
        if group == "mlm":  # has layers of its own before the product, and many numbers after it
            continue
        name, bias = _HEADS[group]
        kernel = variables[name] if name.endswith("/kernel") else variables[name].T
        source = "pooled" if group in _ON_POOLED else last
        product = Product(source, kernel, variables[bias], first=group == "pooler")
        found |= dict.fromkeys(_PRODUCTS.get(group, ("logits",)), product)
    return found


def labels(
    variables: Mapping[str, Any],
    settings: Settings,
    samples: Samples,
    rng: "np.random.Generator",
) -> dict[str, "Array"]:
    import numpy as np

    groups = set(settings.groups)
    rows, tokens = len(samples.input_ids), samples.input_mask > 0

    def drawn(classes: int, chosen: "Array") -> "Array":
        return np.where(chosen, rng.integers(0, classes, chosen.shape), IGNORED)

    found: dict[str, Array] = {}
    if "mlm" in groups:
        masked = tokens & (rng.random(tokens.shape) < _MASKED_SHARE)
        masked[:, 0] = True  # so that every batch has a label
        found["labels"] = drawn(variables[_WORDS].shape[0], masked)
    if "nsp" in groups:
        # BertForNextSentencePrediction calls them `labels`.
        found["next_sentence_label" if "mlm" in groups else "labels"] = rng.integers(0, 2, rows)
    if "squad" in groups:
        lengths = samples.input_mask.sum(axis=1)
        found["start_positions"] = rng.integers(0, lengths)
        found["end_positions"] = rng.integers(0, lengths)
    for group in groups & _LABELS:
        classes = variables[_HEADS[group][-1]].shape[0]
        problem = _problem(settings, classes)
        if problem == "regression":
            found["labels"] = rng.standard_normal((rows, classes))
        elif problem == "multi_label_classification":
            found["labels"] = rng.integers(0, 2, (rows, classes)).astype(np.float64)
        elif classes > 1:  # the loss of one class is 0
            found["labels"] = drawn(classes, tokens if "token" in group else np.ones(rows, bool))
    return found


def _problem(settings: Settings, classes: int) -> str:
    """What transformers takes a sequence classifier for; "" for every other head."""
    if not _SEQUENCES.intersection(settings.groups):
        return ""
    usual = "regression" if classes == 1 else "single_label_classification"
    return settings.problem_type or usual


def loss(outputs: Mapping[str, Any], settings: Settings, labels: Mapping[str, "Array"]) -> Any:
    """The sum of the heads' losses; for question answering, the mean of start and end.

    A sequence classifier's loss is that of its `problem_type`, as transformers has it.

    `run_pretraining.py` divides the masked tokens' loss by their number plus 1e-5, transformers by
    their number. The latter is computed here.
    """
    if "start_positions" in labels:
        start = cross_entropy(outputs["start_logits"], labels["start_positions"])
        return (start + cross_entropy(outputs["end_logits"], labels["end_positions"])) / 2
    if "logits" in outputs:
        problem = _problem(settings, outputs["logits"].shape[-1])
        if problem == "regression":
            return mean_squared_error(outputs["logits"], labels["labels"])
        if problem == "multi_label_classification":
            return binary_cross_entropy(outputs["logits"], labels["labels"])
    logits = [outputs[name] for name in outputs if name.endswith("logits")]
    pairs = zip(logits, labels.values(), strict=True)
    return tensorflow().add_n([cross_entropy(head, wanted) for head, wanted in pairs])


def class_arguments(name: str, groups: Collection[str]) -> dict[str, Any]:
    return {"add_pooling_layer": False} if name == BASE_CLASS and "pooler" not in groups else {}


def activation_words(settings: Settings) -> str:
    return _ACTIVATION_WORDS.get(settings.activation, settings.activation)


def other_activation(settings: Settings) -> Settings | None:
    other = {"tanh": "erf", "erf": "tanh"}.get(settings.activation)
    return (other and replace(settings, activation=other)) or None


def mistakes(
    variables: Mapping[str, Any], settings: Settings, config: Mapping[str, Any]
) -> Iterator[Mistake]:
    stated: dict[str, Any] = {
        "activation": _BY_TRANSFORMERS.get(str(config.get("hidden_act", "gelu"))),
        "epsilon": config.get("layer_norm_eps"),
        "heads": config.get("num_attention_heads"),
    }
    heads = [n for n in range(1, _MOST_HEADS + 1) if _divides(n, variables)]
    odd = {key: value for key, value in stated.items() if value not in (None, _of(settings, key))}
    if not _divides(odd.get("heads", 1), variables):
        odd.pop("heads")
    for key, value in odd.items():
        yield _mistake(variables, settings, key, value)
    if len(odd) > 1:
        text = "; ".join(_sentence(key, value, settings) for key, value in odd.items())
        yield Mistake(" and ".join(odd), text, replace(settings, **odd), variables)
    for key, values in {
        "activation": dict.fromkeys(_BY_TRANSFORMERS.values()),
        "epsilon": _OTHER_EPSILONS,
        "heads": heads,
        "mask": ("none", "causal"),
        "segments": ("first", "none"),
        "first_position": (1, 2, -1),
    }.items():
        for value in values:
            if value != _of(settings, key):
                yield _mistake(variables, settings, key, value)
    # What a mapping may get wrong, which then calls every tensor equal to "its" variable.
    for one, other in (("query", "key"), ("key", "value"), ("query", "value"), ("gamma", "beta")):
        text = f"the mapping swaps {one} and {other}"
        yield Mistake("mapping", text, settings, _exchanged(variables, one, other))
    text = "the mapping does not transpose square kernels"
    yield Mistake("mapping", text, settings, _transposed(variables))


def _mistake(variables: Mapping[str, Any], settings: Settings, key: str, value: Any) -> Mistake:
    text = _sentence(key, value, settings)
    return Mistake(key, text, replace(settings, **{key: value}), variables)


def _of(settings: Settings, key: str) -> object:
    value: object = getattr(settings, key)
    return value


def _divides(heads: object, variables: Mapping[str, Any]) -> bool:
    hidden = variables[_WORDS].shape[1]
    return isinstance(heads, int) and 0 < heads <= hidden and hidden % heads == 0


def _sentence(key: str, value: Any, settings: Settings) -> str:
    if key == "activation":
        theirs = activation_words(replace(settings, activation=value))
        return f"OUT computes {theirs}, and modeling.py computes {activation_words(settings)}"
    return {
        "epsilon": f"the LayerNorm epsilon of OUT is {value}; modeling.py has {settings.epsilon}",
        "heads": f"OUT has {value} attention heads; the checkpoint has {settings.heads}",
        "mask": "OUT ignores the padding mask"
        if value == "none"
        else "OUT is a decoder: a token does not see the tokens after it",
        "segments": "OUT treats every token as part of the first segment"
        if value == "first"
        else "OUT leaves out the segment (token type) embeddings",
        "first_position": f"OUT counts positions from {value}",
    }[key]


def _exchanged(variables: Mapping[str, Any], one: str, other: str) -> dict[str, Any]:
    swap = {one: other, other: one}
    return {
        name: variables["/".join(swap.get(part, part) for part in name.split("/"))]
        for name in variables
    }


def _transposed(variables: Mapping[str, Any]) -> dict[str, Any]:
    tf = tensorflow()
    return {
        name: tf.transpose(array)
        if name.endswith("/kernel") and array.shape[0] == array.shape[1]
        else array
        for name, array in variables.items()
    }
