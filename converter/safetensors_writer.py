"""A Plan -> the tensors of a model, as a safetensors file or a torch file.

`tensor_copy.py` writes the tensors; this module knows what surrounds them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from .checks import FLOATS
from .errors import OutputError
from .plan import Plan
from .storage.files import Progress
from .tensor_copy import Copy, Source, write_file
from .text import pip_install

# safetensors' names of dtypes, as in safetensors/tensor.rs
_SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
}


def write_safetensors(
    checkpoint: Source,
    plan: Plan,
    path: Path,
    progress: Progress | None = None,
) -> None:
    """Write the tensors of a plan, as https://huggingface.co/docs/safetensors describes the file.

    Args:
        checkpoint: has the variables.
        plan: says which variable becomes which tensor.
        path: the file, which must not exist.
        progress: told of the bytes that are written, and of their total.

    Raises:
        CheckpointError: a variable can't be read, or is damaged.
        OutputError: a number does not fit the dtype, or the file can't be written.
    """
    header, places = _layout(plan)
    copies = [
        Copy(e.variable, e.tensor, e.op, e.shape, e.dtype, len(header) + places[e.tensor])
        for e in plan.entries
    ]
    write_file(path, checkpoint, copies, {0: header}, progress)


def safetensors_size(plan: Plan) -> int:
    """The bytes of the file that `write_safetensors` writes."""
    return len(_layout(plan)[0]) + sum(entry.nbytes for entry in plan.entries)


def _layout(plan: Plan) -> tuple[bytes, dict[str, int]]:
    """What the file begins with, and the offset of each tensor after it."""
    # Wide dtypes come first, which aligns every tensor to its elements, as the format requires.
    entries = sorted(plan.entries, key=lambda e: (-FLOATS[e.dtype], e.tensor))
    tensors = [(e.tensor, e.dtype, e.shape, e.nbytes) for e in entries]
    tensors += [(tensor, plan.dtype, shape, 0) for tensor, shape in plan.empty.items()]
    return safetensors_header({"format": "pt"}, tensors)


def safetensors_header(
    metadata: Mapping[str, str], tensors: Iterable[tuple[str, str, tuple[int, ...], int]]
) -> tuple[bytes, dict[str, int]]:
    """What a safetensors file begins with, and the offset of each tensor after it.

    Args:
        metadata: strings by name.
        tensors: the name, dtype, shape and bytes of each, in the order of the data. Wide dtypes
            must come first.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    places: dict[str, int] = {}
    end = 0
    for name, dtype, shape, nbytes in tensors:
        start, end = end, end + nbytes
        places[name] = start
        header[name] = {
            "dtype": _SAFETENSORS[dtype],
            "shape": shape,
            "data_offsets": (start, end),
        }
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def write_torch(safetensors: Path, path: Path) -> None:
    """Write the tensors of a safetensors file as torch.save does.

    Raises:
        OutputError: torch is not installed, or the file can't be written.
    """
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError as error:
        raise OutputError(
            f"--format bin needs torch, which can't be imported ({error});"
            f" install it: {pip_install('torch', 'torch')}"
        ) from error
    try:
        torch.save(load_file(safetensors), path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        raise OutputError(f"{path} can't be written: {error}") from error
