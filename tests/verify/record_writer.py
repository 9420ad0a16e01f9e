"""Writes golden records that no `bertconvert record` writes, with a sha256 that fits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bertconvert.converter.verify.golden_record import _seal

Arrays = dict[str, Any]
DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8"}


def parts(file: Path) -> tuple[dict[str, Any], dict[str, Any], Arrays]:
    """The facts, what is computed, and the arrays of a record."""
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
        arrays = {name: opened.get_tensor(name) for name in [*opened.keys()]}
    computed = json.loads(metadata["computed"]) if metadata["computed"] else {}
    return json.loads(metadata["facts"]), computed, arrays


def sealed(facts: Any, computed: Any, arrays: Arrays) -> bytes:
    """A record's file."""
    texts = {"facts": json.dumps(facts), "computed": json.dumps(computed) if computed else ""}
    metadata = {"format": "bertconvert golden record", "version": "1", **texts}
    return written(metadata | {"sha256": _seal(metadata, arrays)}, arrays)


def written(metadata: Mapping[str, Any], arrays: Arrays) -> bytes:
    """A safetensors file with any metadata."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    content = b"".join(array.tobytes() for array in arrays.values())
    return len(text).to_bytes(8, "little") + text + content
