"""HDF5 files as Keras saves weights, and every other kind, written by h5py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Arrays = Mapping[str, np.ndarray[Any, Any]]


def write_layers(group: Any, layers: Mapping[str, Arrays]) -> None:
    """Save layers in a group as Keras does: tf_keras/src/saving/legacy/hdf5_format.py."""
    group.attrs["layer_names"] = list(layers)
    group.attrs["backend"] = "tensorflow"
    for layer, arrays in layers.items():
        its = group.require_group(layer)
        its.attrs["weight_names"] = list(arrays)
        for name, array in arrays.items():
            its.create_dataset(name, array.shape, array.dtype)[...] = array


def write_h5(path: Path, layers: Mapping[str, Arrays]) -> Path:
    """Write a file of weights, with names such as `bert/embeddings/weight:0` in each layer."""
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
    return path


def written(arrays: Arrays, scope: str = "") -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Variables by their names in a checkpoint, as Keras would group them into layers."""
    layers: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for name, array in arrays.items():
        layers.setdefault(name.partition("/")[0], {})[f"{scope}{name}:0"] = array
    return layers
