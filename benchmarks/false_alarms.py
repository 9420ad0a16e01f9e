"""Counts the false alarms of `verify --level outputs` in float32, and the faults that it misses.

    python benchmarks/false_alarms.py SIZE... [--family] [--samples 1,2,8] [--seeds 20] [OPTION...]

A SIZE is one of make_checkpoints.py, or LxH such as 2x128. Each is made with seeded values,
converted and loaded once, and then proved with each number of samples and each seed, on the
sequences that `verify --samples N --seed N` has. The folder is right, so each tensor over its bound
is a false alarm. `bound before` is the first that verify had: 4 times TensorFlow's error in the
same tensor, or 4 ULP. A run is `over` if a tensor is; `least` and `most` are of the runs' largest
errors, in units of their bounds.

`--weights trained` gives the values what trained models have: sharp attention, a saturated pooler,
and a few dimensions that are many times larger than the others. `--positions` and `--words` make
two tables smaller. The sequences are then shorter: that leaves fewer numbers to judge by, and takes
less time.

`--faults` puts each of FAULTS into PyTorch's float32 model, and counts the runs that catch it.

Needs `bertconvert[verify]`.
"""

import argparse
import copy
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from make_checkpoints import (
    FAMILY,
    POSITIONS,
    PREFIX,
    SIZES,
    VOCABULARY,
    Size,
    bert_config,
    parameters,
    vocabulary,
)

from bertconvert.converter.checkpoint.bundle_writer import write_bundle

Array = np.ndarray[Any, Any]

# A head -> the option that converts it, and its scope and number of classes.
HEADS: dict[str, tuple[str | None, dict[str, int]]] = {
    "pretraining": (None, {}),
    "regression": ("classifier", {"": 1}),
    "classifier": ("classifier", {"": 3}),
    "token": ("token", {"": 1}),
    "squad": (None, {"cls/squad/": 2}),
}


def make(
    size: Size, head: str, weights: str, positions: int, words: int, folder: Path, seed: int = 0
) -> None:
    """Write a checkpoint with a head, its config and its vocabulary into a folder."""
    shapes = parameters(size)
    shapes["bert/embeddings/word_embeddings"] = (words, size.hidden)
    shapes["bert/embeddings/position_embeddings"] = (positions, size.hidden)
    shapes["cls/predictions/output_bias"] = (words,)
    if head != "pretraining":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("cls/")}
    for scope, classes in HEADS[head][1].items():
        shapes[f"{scope}output_weights"] = (classes, size.hidden)
        shapes[f"{scope}output_bias"] = (classes,)
    rng = np.random.default_rng(seed)
    variables = {}
    for name, shape in shapes.items():
        values = 0.02 * rng.standard_normal(shape) + name.endswith("/gamma")
        variables[name] = values.astype(np.float32)
    if weights == "trained":
        as_trained(variables, rng)

    folder.mkdir(parents=True)
    config = {**bert_config(size), "vocab_size": words, "max_position_embeddings": positions}
    (folder / "bert_config.json").write_text(json.dumps(config))
    tokens = list(vocabulary())[:words]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    write_bundle(folder / PREFIX, variables)


def as_trained(variables: dict[str, Array], rng: np.random.Generator) -> None:
    """Change random values so that the model behaves like a trained one.

    Attention is sharp, most of the pooled output is near 1 or -1, and in every layer a few
    dimensions are many times larger than the others (arXiv 2105.06990).
    """
    hidden = len(variables["bert/pooler/dense/bias"])
    outliers = rng.choice(hidden, 3, replace=False)
    for name, values in variables.items():
        if name.endswith(("query/kernel", "key/kernel")):
            values *= 4
        elif name.endswith("kernel"):
            values *= 2
        elif name.endswith("/bias") or name.endswith("/beta"):
            values *= 5
        elif name.endswith("/gamma"):
            values *= np.exp(0.3 * rng.standard_normal(hidden)).astype(np.float32)
            if "/encoder/" in name and name.endswith("/output/LayerNorm/gamma"):
                values[outliers[:2]] *= 6
        if name.endswith("/output/LayerNorm/beta"):
            values[outliers[1:]] += np.float32([4, -8])
    variables["bert/pooler/dense/kernel"] *= 3


def rounded(kind: str) -> Callable[[Any], Any]:
    """What stores float32 numbers in fewer bits: `float16`, `bfloat16`, or `tf32` (10 bits)."""
    import torch

    def to_ten_bits(x: Any) -> Any:
        if x.dtype != torch.float32:
            return x
        bits = x.detach().contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)

    return to_ten_bits if kind == "tf32" else lambda x: x.to(getattr(torch, kind)).to(x.dtype)


def linear_in(kind: str) -> Callable[[Any], None]:
    """A fault: a layer multiplies numbers of fewer bits, as mixed precision does."""

    def fault(layer: Any) -> None:
        import torch

        short = rounded(kind)
        layer.forward = lambda x: torch.nn.functional.linear(
            short(x), short(layer.weight), layer.bias
        )

    return fault


def result_in(kind: str) -> Callable[[Any], None]:
    """A fault: what a layer gives has fewer bits."""

    def fault(layer: Any) -> None:
        layer.register_forward_hook(lambda *arguments: rounded(kind)(arguments[-1]))

    return fault


def softmax_in(kind: str) -> Callable[[Any], None]:
    """A fault: the softmax of attention is computed in fewer bits."""

    def fault(layer: Any) -> None:
        import torch

        dtype = getattr(torch, kind)

        def forward(x: Any, attention_mask: Any = None, **_: Any) -> tuple[Any, None]:
            shape = (*x.shape[:-1], layer.num_attention_heads, -1)
            parts = (layer.query, layer.key, layer.value)
            query, key, value = (part(x).view(shape).transpose(1, 2) for part in parts)
            scores = query @ key.transpose(2, 3) * layer.scaling
            if attention_mask is not None and attention_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attention_mask, -10000.0)
            elif attention_mask is not None:
                scores = scores + attention_mask.clamp(min=-10000.0)
            weights = torch.softmax(scores.to(dtype), dim=-1).to(x.dtype)
            return (weights @ value).transpose(1, 2).reshape(x.shape), None

        layer.forward = forward

    return fault


def epsilon(layer: Any) -> None:
    """A fault: the epsilon of another library."""
    layer.eps = 1e-5


def erf(layer: Any) -> None:
    """A fault: the other form of GELU."""
    import torch

    layer.forward = torch.nn.functional.gelu


def layers(name: str) -> Callable[[Any], list[Any]]:
    """All layers of a model whose name ends so."""
    return lambda model: [layer for path, layer in model.named_modules() if path.endswith(name)]


def last(name: str) -> Callable[[Any], list[Any]]:
    """The last of them."""
    return lambda model: layers(name)(model)[-1:]


def last_product(model: Any) -> list[Any]:
    """The head's own product."""
    import torch

    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1:]


FAULTS: dict[str, tuple[Callable[[Any], list[Any]], Callable[[Any], None]]] = {
    "the last layer's output in a TF32 product": (last("output.dense"), linear_in("tf32")),
    "the last layer's output in a float16 product": (last("output.dense"), linear_in("float16")),
    "the last layer's output in a bfloat16 product": (last("output.dense"), linear_in("bfloat16")),
    "the last layer's query in a bfloat16 product": (last("self.query"), linear_in("bfloat16")),
    "the last layer's value in a TF32 product": (last("self.value"), linear_in("tf32")),
    "the last layer's activation in float16": (last("intermediate_act_fn"), result_in("float16")),
    "the last layer's softmax in float16": (last("attention.self"), softmax_in("float16")),
    "the last layer's softmax in bfloat16": (last("attention.self"), softmax_in("bfloat16")),
    "the embeddings' LayerNorm in float16": (layers("embeddings.LayerNorm"), result_in("float16")),
    "the last LayerNorm in bfloat16": (last("output.LayerNorm"), result_in("bfloat16")),
    "the last LayerNorm's epsilon, in float32 alone": (last("output.LayerNorm"), epsilon),
    "erf in the last layer, in float32 alone": (last("intermediate_act_fn"), erf),
    "the pooler in a TF32 product": (layers("pooler.dense"), linear_in("tf32")),
    "the pooler in float16": (layers("pooler"), result_in("float16")),
    "the head in a TF32 product": (last_product, linear_in("tf32")),
    "the head in a float16 product": (last_product, linear_in("float16")),
    "the head in a bfloat16 product": (last_product, linear_in("bfloat16")),
    "the head's logits in float16": (last_product, result_in("float16")),
}
"""What may go wrong in PyTorch's float32 model: which layers, and what happens to each."""


class Prover:
    """A checkpoint and its folder, for many proofs of level outputs."""

    def __init__(self, source: Path, out: Path, head: str | None) -> None:
        from bertconvert import convert
        from bertconvert.converter.models import load_reference
        from bertconvert.converter.models.backend import tensorflow
        from bertconvert.converter.prepare import prepare
        from bertconvert.converter.verify.model_folder import open_folder
        from bertconvert.converter.verify.original import architecture_of
        from bertconvert.converter.verify.outputs import FolderVariables
        from bertconvert.converter.verify.torch_model import load_model
        from bertconvert.converter.verify.variables import CheckpointVariables
        from bertconvert.converter.verify.weights import prove_weights

        tensorflow()  # in this process, so that it starts once
        convert(source, out, head=head)
        self.prepared = prepared = prepare(source, head=head)
        self.folder = folder = open_folder(out)
        self.reference = load_reference(prepared.mapping.reference)
        self.settings = self.reference.settings(architecture_of(prepared, folder.config))
        _, matches = prove_weights(prepared, CheckpointVariables(prepared), folder)
        self.products = self.reference.products(FolderVariables(folder, matches), self.settings)
        name, groups = prepared.plan.architecture.name, prepared.plan.groups
        self.model, _ = load_model(folder.path, name, self.reference, groups, "float64")
        self.known: tuple[Any, Any] = (None, None)  # the last sequences, and what came of them

    def outputs(self, samples: int, seed: int, fault: str | None = None) -> list[Any]:
        """What `verify` finds of each tensor, with one of FAULTS in the float32 model."""
        from bertconvert.converter.verify import outputs

        if (samples, seed) != self.known[0]:
            self.known = (samples, seed), self._in_float64(samples, seed)
        original, tables = self.known[1]
        single = copy.deepcopy(self.model).float()
        if fault is not None:
            where, put = FAULTS[fault]
            chosen = where(single)
            if not chosen:
                raise ValueError(f"the model has no place for {fault!r}")
            for layer in chosen:
                put(layer)
        port = outputs.Port(single, [], self.reference, self.settings)
        found = [port.outputs(batch.samples) for batch in original.batches]
        return outputs.judge_float32(original, found, tables, self.products)

    def _in_float64(self, samples: int, seed: int) -> tuple[Any, Any]:
        from bertconvert.converter.verify.outputs import Port, run_in_float64
        from bertconvert.converter.verify.sides import Wanted, compute, sequences

        wanted = Wanted("outputs", samples, seed)
        made = sequences(self.prepared, wanted, self.folder, None).samples
        with compute(self.prepared, self.folder.config, {}, made, wanted, None) as finish:
            original = finish()
        port = Port(self.model, [], self.reference, self.settings)
        return original, run_in_float64(port, original, None)[0]


def shares(outputs: list[Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Each tensor's error in PyTorch in units of its bound: before, and now."""
    before = {
        output.tensor: output.pytorch_error / max(4 * output.tensorflow_error, 4 * output.ulp)
        for output in outputs
    }
    return before, {output.tensor: output.share for output in outputs}


def report(title: str, runs: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    """Print a line on some runs: how many had a tensor over its bound, and which, and the most."""
    cells, names = [], []
    for which in zip(*runs, strict=True):
        over = Counter(name for run in which for name, share in run.items() if not share <= 1)
        alarms = sum(any(not share <= 1 for share in run.values()) for run in which)
        most = [max(run.values()) for run in which]
        cells.append(f"{alarms:>5} {min(most):>8.2f} {max(most):>8.2f}")
        names.append(", ".join(f"{name} {count}" for name, count in over.items()) or "none")
    words = f"{names[0]} | {names[1]}" if names[0] != names[1] else names[0]
    print(f"{title:<50} {len(runs):>4} | {cells[0]} | {cells[1]} | {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"{', '.join(SIZES)}, or LxH")
    parser.add_argument("--family", action="store_true", help="the 24 compact models, too")
    parser.add_argument("--head", choices=HEADS, default="pretraining")
    parser.add_argument("--weights", choices=("random", "trained"), default="random")
    parser.add_argument("--samples", default="1,2,8", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--positions", type=int, default=POSITIONS, help="default: %(default)s")
    parser.add_argument("--words", type=int, default=VOCABULARY, help="default: %(default)s")
    parser.add_argument("--faults", action="store_true", help="put faults in, and count the caught")
    arguments = parser.parse_args()
    sizes = []
    for name in arguments.sizes:
        pair = re.fullmatch(r"(\d+)x(\d+)", name)
        if pair is None and name not in SIZES:
            parser.error(f"no such size: {name}; there are {', '.join(SIZES)}, and LxH")
        sizes.append(Size(*map(int, pair.groups())) if pair else SIZES[name])
    sizes += FAMILY if arguments.family else []
    counts = [int(count) for count in arguments.samples.split(",")]
    tries = list(product(counts, range(arguments.seeds)))

    columns = f"{'over':>5} {'least':>8} {'most':>8}"
    print(f"{'':<55} | {'bound before':<23} | {'bound now':<23} |")
    print(f"{'':<50} {'runs':>4} | {columns} | {columns} | over before | now")
    for size in dict.fromkeys(sizes):
        title = f"{size.layers}x{size.hidden} {arguments.head}, {arguments.weights} weights"
        with tempfile.TemporaryDirectory() as name:
            source, out = Path(name, "source"), Path(name, "out")
            tables = arguments.positions, arguments.words
            make(size, arguments.head, arguments.weights, *tables, source)
            prover = Prover(source, out, HEADS[arguments.head][0])
            if not arguments.faults:
                for count in counts:
                    runs = [shares(prover.outputs(count, n)) for n in range(arguments.seeds)]
                    report(f"{title}, {count} samples", runs)
                continue
            print(title)
            for fault in FAULTS:
                report(f"  {fault}", [shares(prover.outputs(*one, fault)) for one in tries])


if __name__ == "__main__":
    main()
