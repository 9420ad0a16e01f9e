"""The layers that the models share, op by op as google-research/bert has them.

A layer takes its variables from a dict by their original names, below a scope such as
`bert/pooler/dense`. It runs in any float dtype, and TensorFlow can differentiate it. A tensor's
dimensions are B (batch), T (positions), H (hidden size), N (heads), C (whatever a kernel makes).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .backend import tensorflow

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Variables = Mapping[str, Any]

IGNORED = -100
"""A label that does not count, as torch.nn.CrossEntropyLoss has it."""

MASKED = -10000.0
"""What modeling.py adds to the score of a position that attention must not see."""


def dense(variables: Variables, scope: str, x: Any) -> Any:
    """dense_layer_2d and tf.layers.dense: x [..., H] times the kernel [H, C], plus the bias."""
    return multiply(x, variables[f"{scope}/kernel"], variables[f"{scope}/bias"])


def multiply(x: Any, kernel: Any, bias: Any) -> Any:
    """x [..., H] times a kernel [H, C], plus a bias [C]: [..., C].

    A kernel may have more dimensions, such as [H, N, D] or [N, D, C]. They are merged.
    """
    tf = tensorflow()
    kernel = tf.reshape(kernel, [x.shape[-1], -1])
    flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel) + tf.reshape(bias, [-1])
    return tf.reshape(flat, [*x.shape[:-1], kernel.shape[1]])


def layer_norm(variables: Variables, scope: str, x: Any, epsilon: float) -> Any:
    """tf.contrib.layers.layer_norm of TensorFlow 1.15, over the last dimension."""
    tf = tensorflow()
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(
        x,
        mean,
        variance,
        offset=variables[f"{scope}/beta"],
        scale=variables[f"{scope}/gamma"],
        variance_epsilon=tf.constant(epsilon, x.dtype),
    )


def project(x: Any, weights: Any, bias: Any) -> Any:
    """x [..., H] times weights [C, H] transposed, plus a bias: [..., C]."""
    tf = tensorflow()
    flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), weights, transpose_b=True)
    flat = tf.nn.bias_add(flat, bias)
    return tf.reshape(flat, [*x.shape[:-1], weights.shape[0]])


def gathered(x: Any, places: "Array") -> Any:
    """gather_indexes of run_pretraining.py: places [M] of the flattened x [B, T, H]: [M, H]."""
    tf = tensorflow()
    return tf.gather(tf.reshape(x, [-1, x.shape[-1]]), places)


def one_hot_lookup(table: Any, ids: Any) -> Any:
    """Rows of a small table [C, H] by ids [B, T], as modeling.py looks up segments: [B, T, H]."""
    tf = tensorflow()
    flat = tf.reshape(ids, [-1])
    rows = tf.matmul(tf.one_hot(flat, depth=table.shape[0], dtype=table.dtype), table)
    return tf.reshape(rows, [*ids.shape, table.shape[1]])


def attention_adder(input_mask: Any, dtype: Any, kind: str = "padding") -> Any:
    """create_attention_mask_from_input_mask, and what attention_layer makes of it: [B, 1, T, T].

    Args:
        input_mask: int32 [B, T], 1 for a token.
        dtype: of the scores.
        kind: `padding`; `none` and `causal` are mistakes that a diagnosis tries.
    """
    tf = tensorflow()
    length = input_mask.shape[1]
    mask = tf.cast(input_mask[:, tf.newaxis, tf.newaxis, :], dtype)
    if kind == "none":
        mask = tf.ones_like(mask)
    elif kind == "causal":
        mask *= tf.linalg.band_part(tf.ones([length, length], dtype), -1, 0)
    return (1.0 - mask) * MASKED


def self_attention(
    variables: Variables, scope: str, heads: int, x: Any, adder: Any, values: Any = None
) -> Any:
    """attention_layer of modeling.py, without the dense layer after it: [B, T, H] to [B, T, H].

    The values are made of `values`, [B, T, C], if it is given, and not of `x`.
    """
    tf = tensorflow()
    batch, length, hidden = x.shape
    size = hidden // heads
    sources = {"query": x, "key": x, "value": x if values is None else values}
    query, key, value = (
        tf.reshape(dense(variables, f"{scope}/{part}", source), [batch, length, heads, size])
        for part, source in sources.items()
    )
    scores = tf.einsum("BTNH,BFNH->BNFT", key, query)
    scores = tf.multiply(scores, 1.0 / math.sqrt(float(size))) + adder
    context = tf.einsum("BNFT,BTNH->BFNH", tf.nn.softmax(scores), value)
    return tf.reshape(context, [batch, length, hidden])


def activation(name: str, x: Any) -> Any:
    """get_activation; `erf` is what its gelu was before commit bee6030 of 2019-02-07."""
    tf = tensorflow()
    if name == "tanh":
        # What TensorFlow's graphs make of modeling.py's tf.pow(x, 3), which takes 15 times as long.
        cubic = x + 0.044715 * (x * tf.square(x))
        # modeling.py has numpy's scalar, which is float64; a float32 tensor would round it.
        return x * (0.5 * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * cubic)))
    if name == "erf":
        return x * (0.5 * (1.0 + tf.math.erf(x / math.sqrt(2.0))))
    functions = {
        "relu": tf.nn.relu,
        "relu6": tf.nn.relu6,
        "pure tanh": tf.tanh,
        "linear": tf.identity,
    }
    return functions[name](x)


def cross_entropy(logits: Any, labels: "Array") -> Any:
    """The mean of -log_softmax(logits)[label] over the labels that are not `IGNORED`."""
    import numpy as np

    tf = tensorflow()
    places = np.argwhere(labels != IGNORED)
    log_probs = tf.nn.log_softmax(tf.gather_nd(logits, places), axis=-1)
    one_hot = tf.one_hot(labels[labels != IGNORED], logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_mean(-tf.reduce_sum(log_probs * one_hot, axis=-1))


def binary_cross_entropy(logits: Any, labels: "Array") -> Any:
    """torch.nn.BCEWithLogitsLoss: the mean over all labels, each 0 or 1."""
    tf = tensorflow()
    wanted = tf.constant(labels, logits.dtype)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=logits))


def mean_squared_error(outputs: Any, labels: "Array") -> Any:
    """torch.nn.MSELoss: the mean over all numbers."""
    tf = tensorflow()
    return tf.reduce_mean(tf.square(outputs - tf.constant(labels, outputs.dtype)))
