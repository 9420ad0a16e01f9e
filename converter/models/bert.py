"""Google's BERT in TensorFlow, from a checkpoint's own variables under their own names.

Follows google-research/bert op by op: `modeling.py` for the model, `run_pretraining.py`,
`run_classifier.py` and `run_squad.py` for the heads; each function below is named after the one it
follows. It runs in any float dtype, and TensorFlow can differentiate it. Nothing here knows of the
mapping files or of PyTorch.

A tensor's dimensions are B (batch), T (positions), H (hidden size), N (heads), V (vocabulary).
"""

import math
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..checkpoint import Checkpoint
from ..errors import ParityError
from ..verify.samples import Batch

Tensors = dict[str, Any]


class Model(Struct, frozen=True):
    """What a forward pass needs beside the variables; the defaults are Google's.

    What Google has no choice in is here so that a mistake can be tried out.
    """

    layers: int
    heads: int
    groups: tuple[str, ...]  # pooler, mlm, nsp, classifier, token, squad
    activation: str = "tanh"  # of GELU, or the name of another function
    epsilon: float = 1e-12  # tf.contrib.layers.layer_norm's own
    mask: str = "padding"  # or "none", or "causal"
    segments: str = "given"  # or "first" for every token, or "none"
    first_position: int = 0
    untrained_id: int | None = None  # a token whose embedding gets no gradient by looking it up


_COPY_BYTES = 1 << 24
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
    "squad": ["cls/squad/output_weights", "cls/squad/output_bias"],
}
GROUPS = tuple(_HEADS)
"""What may stand on the encoder."""


def count_layers(names: Iterable[str], scope: str) -> int:
    """How many of Google's `bert/encoder/layer_0`, `layer_1`, ... there are."""
    layer = re.compile(re.escape(f"{scope}bert/encoder/layer_") + r"(\d+)/")
    return len({found[1] for name in names if (found := layer.match(name))})


def variable_names(model: Model) -> list[str]:
    """The names that Google's code gives to the variables of a model."""
    names = [
        f"bert/embeddings/{table}_embeddings" for table in ("word", "token_type", "position")
    ] + [f"bert/embeddings/LayerNorm/{v}" for v in _LAYER_NORM]
    for layer in range(model.layers):
        scope = f"bert/encoder/layer_{layer}"
        dense = [f"attention/self/{part}" for part in ("query", "key", "value")]
        dense += ["attention/output/dense", "intermediate/dense", "output/dense"]
        names += [f"{scope}/{part}/{v}" for part in dense for v in _DENSE]
        norms = ("attention/output", "output")
        names += [f"{scope}/{part}/LayerNorm/{v}" for part in norms for v in _LAYER_NORM]
    return names + [name for group in model.groups for name in _HEADS[group]]


def find_variables(names: Iterable[str], there: Iterable[str], scope: str) -> dict[str, str]:
    """Google's names -> those in a checkpoint.

    They are the same but for the scope, and for models ported to Keras layers, which have
    `dense_5` and `layer_normalization_3` for `dense` and `LayerNorm`.

    Raises:
        ParityError: one is not there.
    """
    have = sorted(there)
    known = set(have)
    found = {}
    for name in names:
        if scope + name in known:
            found[name] = scope + name
            continue
        pattern = re.escape(scope + name)
        pattern = pattern.replace("/LayerNorm/", r"/layer_normalization(_\d+)?/")
        pattern = re.sub(r"(?<!intermediate)/dense/(?=\w+$)", r"/dense(_\\d+)?/", pattern)
        pattern = pattern.replace("intermediate/dense/", r"intermediate/dense(_\d+)?/")
        ported = [other for other in have if re.fullmatch(pattern, other)]
        if len(ported) == 1:
            found[name] = ported[0]
        elif not scope.strip("/") or name not in known:
            raise ParityError(
                f"TensorFlow's forward pass needs {scope}{name}, which the checkpoint lacks; only"
                " --level weights can be proved of a checkpoint with other names than Google's"
            )
        else:
            found[name] = name  # a head that was put on outside of the model's scope
    return found


def read_variables(checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Any]:
    """The variables as numpy arrays by Google's names, read by TensorFlow itself.

    Args:
        checkpoint: where it is.
        names: Google's names -> those in the checkpoint.

    Raises:
        ParityError: TensorFlow can't read it.
    """
    tf = tensorflow()
    with _on_disk(checkpoint, names.values()) as prefix:
        try:
            reader = tf.train.load_checkpoint(prefix)
            dtypes = reader.get_variable_to_dtype_map()

            def read(own: str) -> Any:
                try:
                    return reader.get_tensor(own)
                except tf.errors.UnimplementedError:  # a partitioned variable in V1
                    restored = tf.raw_ops.Restore(
                        file_pattern=prefix, tensor_name=own, dt=dtypes[own]
                    )
                    return restored.numpy()

            return {name: read(own) for name, own in names.items()}
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise ParityError(f"TensorFlow can't read {checkpoint.name}: {error}") from error


def tensorflow() -> Any:
    """The module `tensorflow`, imported without the lines it prints when it is.

    Raises:
        ParityError: it can't be imported.
    """
    # oneDNN picks its kernels by the processor, and TensorFlow's own agree across machines.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a GPU has float64 results of its own
    if "tensorflow" not in sys.modules:
        with _muted():
            try:
                import tensorflow
            except ImportError as error:
                raise ParityError(f"TensorFlow can't be imported: {error}") from error
    import tensorflow

    return tensorflow


@contextmanager
def _muted() -> Iterator[None]:
    """Nothing reaches the standard error stream: C++ prints before its logging can be silenced."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _on_disk(checkpoint: Checkpoint, names: Collection[str]) -> Iterator[str]:
    """A prefix that TensorFlow can open to read these variables, and perhaps no others.

    What lies in an archive or afar, or was renamed by a browser, is copied under the names that
    TensorFlow wants; anything else is opened where it is.
    """
    files = {file.name: file for file in [checkpoint.index, *checkpoint.data_files()]}
    shards = checkpoint.num_shards
    opened = ""  # what TensorFlow is given, after the prefix
    is_v2 = len(files) > shards
    if is_v2:
        endings = [".index", *(f".data-{n:05d}-of-{shards:05d}" for n in range(shards))]
    elif list(files) == [checkpoint.name]:  # V1, whose tables hold both names and data
        endings = [""]
    else:
        endings = [f"-{n:05d}-of-{shards:05d}" for n in range(shards)]
        opened = f"-?????-of-{shards:05d}"
    there = [name for name in files if os.path.isfile(name)]
    if there == [checkpoint.name + ending for ending in endings]:
        yield checkpoint.name + opened
        return
    spans = {checkpoint.index: [(0, checkpoint.index.size)], **checkpoint.spans(names)}
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy.ckpt")
        for file, ending in zip(files.values(), endings, strict=True):
            ranges = spans.get(file, []) if is_v2 else [(0, file.size)]
            file.fetch(ranges)
            with Path(copy + ending).open("wb") as target:
                target.truncate(file.size)  # of what is not copied, there are zeros
                for start, end in ranges:
                    target.seek(start)
                    for at in range(start, end, _COPY_BYTES):
                        target.write(file.read(at, min(_COPY_BYTES, end - at)))
        yield copy + opened


def forward(variables: Mapping[str, Any], model: Model, batch: Batch) -> Tensors:
    """Google's outputs, in evaluation mode.

    Args:
        variables: by Google's names, all of one float dtype, in which everything is computed.
        model: its sizes.
        batch: int32 [B, T] each.

    Returns:
        In the order of the forward pass: `embeddings`, `layer_0`, ... [B, T, H], and for the
        groups that are there `pooled` [B, H], `mlm_logits` [B, T, V], `nsp_logits` [B, 2],
        `logits` [B, C] or (a token classifier) [B, T, C], `start_logits` and `end_logits` [B, T].
    """
    outputs: Tensors = {"embeddings": _embeddings(variables, model, batch)}
    mask = _attention_adder(model, batch, outputs["embeddings"].dtype)
    hidden = outputs["embeddings"]
    for layer in range(model.layers):
        hidden = _layer(variables, f"bert/encoder/layer_{layer}", model, hidden, mask)
        outputs[f"layer_{layer}"] = hidden
    return outputs | _heads(variables, model, hidden)


def _heads(variables: Mapping[str, Any], model: Model, hidden: Any) -> Tensors:
    tf = tensorflow()
    outputs: Tensors = {}
    if "pooler" in model.groups:
        pooled = tf.tanh(_dense(variables, "bert/pooler/dense", hidden[:, 0]))
        outputs["pooled"] = pooled
    if "mlm" in model.groups:  # run_pretraining.get_masked_lm_output, at every position
        scope = "cls/predictions/transform"
        x = _activation(model, _dense(variables, f"{scope}/dense", hidden))
        x = _layer_norm(variables, scope, x, model.epsilon)
        table = variables["bert/embeddings/word_embeddings"]
        bias = variables["cls/predictions/output_bias"]
        outputs["mlm_logits"] = _output(x, table, bias)
    if "nsp" in model.groups:  # run_pretraining.get_next_sentence_output
        outputs["nsp_logits"] = _classify(variables, "cls/seq_relationship/", outputs["pooled"])
    if "classifier" in model.groups:  # run_classifier.create_model
        outputs["logits"] = _classify(variables, "", outputs["pooled"])
    if "token" in model.groups:  # as many projects have it, after run_classifier.py's own comment
        outputs["logits"] = _classify(variables, "", hidden)
    if "squad" in model.groups:  # run_squad.create_model
        logits = _classify(variables, "cls/squad/", hidden)
        outputs["start_logits"], outputs["end_logits"] = tf.unstack(logits, axis=-1)
    return outputs


def _classify(variables: Mapping[str, Any], scope: str, x: Any) -> Any:
    return _output(x, variables[f"{scope}output_weights"], variables[f"{scope}output_bias"])


def _output(x: Any, weights: Any, bias: Any) -> Any:
    """x [..., H] times weights [C, H] transposed, plus a bias: [..., C]."""
    tf = tensorflow()
    flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), weights, transpose_b=True)
    flat = tf.nn.bias_add(flat, bias)
    return tf.reshape(flat, [*x.shape[:-1], weights.shape[0]])


def _embeddings(variables: Mapping[str, Any], model: Model, batch: Batch) -> Any:
    """embedding_lookup and embedding_postprocessor: [B, T, H]."""
    tf = tensorflow()
    words, types, positions = (
        variables[f"bert/embeddings/{table}_embeddings"]
        for table in ("word", "token_type", "position")
    )
    output = tf.nn.embedding_lookup(words, batch.input_ids)
    if model.untrained_id is not None:
        trained = (batch.input_ids != model.untrained_id)[..., tf.newaxis]
        output = tf.where(trained, output, tf.stop_gradient(output))
    if model.segments != "none":
        flat = tf.reshape(batch.segment_ids * (model.segments == "given"), [-1])
        one_hot = tf.one_hot(flat, depth=types.shape[0], dtype=types.dtype)
        output += tf.reshape(tf.matmul(one_hot, types), output.shape)
    length = output.shape[1]
    output += tf.roll(positions, -model.first_position, axis=0)[:length][tf.newaxis]
    return _layer_norm(variables, "bert/embeddings", output, model.epsilon)


def _attention_adder(model: Model, batch: Batch, dtype: Any) -> Any:
    """create_attention_mask_from_input_mask, and what attention_layer makes of it: [B, 1, T, T]."""
    tf = tensorflow()
    length = batch.input_mask.shape[1]
    mask = tf.cast(batch.input_mask[:, tf.newaxis, tf.newaxis, :], dtype)
    if model.mask == "none":
        mask = tf.ones_like(mask)
    elif model.mask == "causal":
        mask *= tf.linalg.band_part(tf.ones([length, length], dtype), -1, 0)
    return (1.0 - mask) * -10000.0


def _layer(variables: Mapping[str, Any], scope: str, model: Model, x: Any, adder: Any) -> Any:
    """One turn of the loop in transformer_model: [B, T, H] to [B, T, H]."""
    attention = _attention_layer(variables, f"{scope}/attention/self", model, x, adder)
    attention = _dense(variables, f"{scope}/attention/output/dense", attention)
    attention = _layer_norm(variables, f"{scope}/attention/output", attention + x, model.epsilon)
    inner = _activation(model, _dense(variables, f"{scope}/intermediate/dense", attention))
    output = _dense(variables, f"{scope}/output/dense", inner)
    return _layer_norm(variables, f"{scope}/output", output + attention, model.epsilon)


def _attention_layer(
    variables: Mapping[str, Any], scope: str, model: Model, x: Any, adder: Any
) -> Any:
    tf = tensorflow()
    batch, length, hidden = x.shape
    size = hidden // model.heads
    query, key, value = (
        tf.reshape(_dense(variables, f"{scope}/{part}", x), [batch, length, model.heads, size])
        for part in ("query", "key", "value")
    )
    scores = tf.einsum("BTNH,BFNH->BNFT", key, query)
    scores = tf.multiply(scores, 1.0 / math.sqrt(float(size))) + adder
    context = tf.einsum("BNFT,BTNH->BFNH", tf.nn.softmax(scores), value)
    return tf.reshape(context, [batch, length, hidden])


def _dense(variables: Mapping[str, Any], scope: str, x: Any) -> Any:
    """dense_layer_2d, and tf.layers.dense: x [..., H] times kernel [H, C], plus the bias."""
    tf = tensorflow()
    kernel = variables[f"{scope}/kernel"]
    flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel) + variables[f"{scope}/bias"]
    return tf.reshape(flat, [*x.shape[:-1], kernel.shape[1]])


def _layer_norm(variables: Mapping[str, Any], scope: str, x: Any, epsilon: float) -> Any:
    """tf.contrib.layers.layer_norm of TensorFlow 1.15, over the last dimension."""
    tf = tensorflow()
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(
        x,
        mean,
        variance,
        offset=variables[f"{scope}/LayerNorm/beta"],
        scale=variables[f"{scope}/LayerNorm/gamma"],
        variance_epsilon=tf.constant(epsilon, x.dtype),
    )


def _activation(model: Model, x: Any) -> Any:
    """get_activation; `erf` is what its gelu was before commit bee6030 of 2019-02-07."""
    tf = tensorflow()
    if model.activation == "tanh":
        cubic = x + 0.044715 * tf.pow(x, 3)
        # In float64, as numpy's scalar makes it in modeling.py too; a float32 tensor rounds it.
        return x * (0.5 * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * cubic)))
    if model.activation == "erf":
        return x * (0.5 * (1.0 + tf.math.erf(x / math.sqrt(2.0))))
    functions = {"relu": tf.nn.relu, "pure tanh": tf.tanh, "linear": tf.identity}
    return functions[model.activation](x)
