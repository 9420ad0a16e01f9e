"""Mistakes that converters make, each made on purpose in a converted folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray[Any, Any]]

LAYERS = (0, 1)  # of the fixtures


@dataclass(frozen=True)
class Sabotage:
    """A mistake, and what has to be said of it."""

    name: str
    make: Callable[[Tensors, dict[str, Any]], None]  # changes tensors, config, or both
    kind: str  # the cause that is named
    tensor: str = ""  # that is named with it; of a config, the first output that differs
    output: str = ""  # the first that differs; "" where no output can show it


def layer(number: int, name: str) -> str:
    return f"bert.encoder.layer.{number}.{name}"


def swapped(one: str, other: str) -> Callable[[Tensors, dict[str, Any]], None]:
    def make(tensors: Tensors, _: dict[str, Any]) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]

    return make


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Tensors, dict[str, Any]], None]:
    def make(tensors: Tensors, _: dict[str, Any]) -> None:
        tensors[name] = np.ascontiguousarray(change(tensors[name].copy())).astype(np.float32)

    return make


def configured(**values: Any) -> Callable[[Tensors, dict[str, Any]], None]:
    return lambda _, config: config.update(values)


def without(name: str) -> Callable[[Tensors, dict[str, Any]], None]:
    def make(tensors: Tensors, _: dict[str, Any]) -> None:
        del tensors[name]

    return make


def layers_exchanged(tensors: Tensors, _: dict[str, Any]) -> None:
    for name in [name for name in tensors if ".layer.0." in name]:
        other = name.replace(".layer.0.", ".layer.1.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def next_ulp(array: Any) -> Any:
    array.flat[7] = np.nextafter(array.flat[7], np.float32(np.inf))
    return array


def with_nan(array: Any) -> Any:
    array.flat[3] = np.nan
    return array


def heads_exchanged(array: Any) -> Any:
    return np.roll(array, len(array) // 2, axis=0)


def of_layer(n: int) -> list[Sabotage]:
    """What can go wrong in one layer; `n` is where the difference shows first."""
    here = f"layer_{n}"

    def own(name: str) -> str:
        return layer(n, name)

    query, key, value = (f"attention.self.{part}" for part in ("query", "key", "value"))
    norm, inner = "attention.output.LayerNorm", "intermediate.dense"
    return [
        Sabotage(
            "a square kernel not transposed",
            changed(own("attention.output.dense.weight"), np.transpose),
            "not transposed",
            own("attention.output.dense.weight"),
            here,
        ),
        Sabotage(
            "query and key swapped",
            lambda t, c: [swapped(own(f"{query}.{p}"), own(f"{key}.{p}"))(t, c) for p in PARTS],
            "query, key or value swapped",
            own(f"{query}.weight"),
            here,
        ),
        Sabotage(
            "value's kernel for key's",
            swapped(own(f"{key}.weight"), own(f"{value}.weight")),
            "query, key or value swapped",
            own(f"{key}.weight"),
            here,
        ),
        Sabotage(
            "gamma and beta swapped",
            swapped(own(f"{norm}.weight"), own(f"{norm}.bias")),
            "gamma and beta swapped",
            own(f"{norm}.weight"),
            here,
        ),
        Sabotage(
            "a bias zeroed",
            changed(own(f"{inner}.bias"), np.zeros_like),
            "zeroed",
            own(f"{inner}.bias"),
            here,
        ),
        Sabotage(
            "a key's bias zeroed, which no output can show",
            changed(own(f"{key}.bias"), np.zeros_like),
            "zeroed",
            own(f"{key}.bias"),
        ),
        Sabotage(
            "a bias missing",
            without(own("output.dense.bias")),
            "missing",
            own("output.dense.bias"),
            here,
        ),
        Sabotage(
            "one number one ULP away",
            changed(own("output.dense.weight"), next_ulp),
            "few numbers",
            own("output.dense.weight"),
            here,
        ),
        Sabotage(
            "rounded to float16",
            changed(own("output.dense.weight"), lambda a: a.astype(np.float16)),
            "rounded",
            own("output.dense.weight"),
            here,
        ),
        Sabotage(
            "a query scaled beforehand",
            changed(own(f"{query}.weight"), lambda a: a * np.float32(0.25)),
            "scaled",
            own(f"{query}.weight"),
            here,
        ),
        Sabotage(
            "heads in another order",
            changed(own(f"{value}.weight"), heads_exchanged),
            "columns in another order",
            own(f"{value}.weight"),
            here,
        ),
        Sabotage(
            "a NaN",
            changed(own(f"{value}.weight"), with_nan),
            "NaN or infinity",
            own(f"{value}.weight"),
            here,
        ),
        Sabotage(
            "gammas as they are made",
            changed(own("output.LayerNorm.weight"), np.ones_like),
            "constant",
            own("output.LayerNorm.weight"),
            here,
        ),
    ]


PARTS = ("weight", "bias")
EMBEDDINGS = "bert.embeddings"

TENSORS = [
    Sabotage(
        "layers in another order",
        layers_exchanged,
        "layer order",
        layer(0, "attention.self.query.weight"),
        "layer_0",
    ),
    Sabotage(
        "positions off by one",
        changed(f"{EMBEDDINGS}.position_embeddings.weight", lambda a: np.roll(a, 1, axis=0)),
        "rows shifted",
        f"{EMBEDDINGS}.position_embeddings.weight",
        "embeddings",
    ),
    Sabotage(
        "positions reversed",
        changed(f"{EMBEDDINGS}.position_embeddings.weight", lambda a: a[::-1]),
        "rows in another order",
        f"{EMBEDDINGS}.position_embeddings.weight",
        "embeddings",
    ),
    Sabotage(
        "segments exchanged",
        changed(f"{EMBEDDINGS}.token_type_embeddings.weight", lambda a: a[::-1]),
        "rows in another order",
        f"{EMBEDDINGS}.token_type_embeddings.weight",
        "embeddings",
    ),
    Sabotage(
        "segments left out",
        changed(f"{EMBEDDINGS}.token_type_embeddings.weight", np.zeros_like),
        "zeroed",
        f"{EMBEDDINGS}.token_type_embeddings.weight",
        "embeddings",
    ),
    Sabotage(
        "the word table in another order",
        changed(f"{EMBEDDINGS}.word_embeddings.weight", lambda a: np.roll(a, 60, axis=0)),
        "rows in another order",
        f"{EMBEDDINGS}.word_embeddings.weight",
        "embeddings",
    ),
    Sabotage(
        "the pooler not transposed",
        changed("bert.pooler.dense.weight", np.transpose),
        "not transposed",
        "bert.pooler.dense.weight",
        "pooled",
    ),
    Sabotage(
        "the MLM bias zeroed",
        changed("cls.predictions.bias", np.zeros_like),
        "zeroed",
        "cls.predictions.bias",
        "mlm_logits",
    ),
    Sabotage(
        "the transform's kernel not transposed",
        changed("cls.predictions.transform.dense.weight", np.transpose),
        "not transposed",
        "cls.predictions.transform.dense.weight",
        "mlm_logits",
    ),
    Sabotage(
        "NSP's two classes exchanged",
        changed("cls.seq_relationship.weight", lambda a: a[::-1]),
        "rows in another order",
        "cls.seq_relationship.weight",
        "nsp_logits",
    ),
]

CONFIGS = [
    Sabotage("erf for tanh", configured(hidden_act="gelu"), "activation", "layer_0", "layer_0"),
    Sabotage("relu", configured(hidden_act="relu"), "activation", "layer_0", "layer_0"),
    Sabotage("epsilon", configured(layer_norm_eps=1e-5), "epsilon", "embeddings", "embeddings"),
    Sabotage("twice the heads", configured(num_attention_heads=4), "heads", "layer_0", "layer_0"),
    Sabotage("a decoder", configured(is_decoder=True), "mask", "layer_0", "layer_0"),
    Sabotage("a layer less", configured(num_hidden_layers=1), "layers", "layer_1", "layer_1"),
    Sabotage(
        "epsilon and activation",
        configured(layer_norm_eps=1e-6, hidden_act="gelu"),
        "activation and epsilon",
        "embeddings",
        "embeddings",
    ),
]


def sabotaged(folder: Path, into: Path, sabotage: Sabotage) -> Path:
    """A copy of a folder with the mistake in it."""
    shutil.copytree(folder, into)
    tensors = load_file(into / "model.safetensors")
    config = json.loads((into / "config.json").read_text())
    sabotage.make(tensors, config)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    (into / "config.json").write_text(json.dumps(config))
    return into
