"""TensorFlow, imported when it is first needed and without the lines that it prints."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import VerificationError


def tensorflow() -> Any:
    """The module `tensorflow`.

    Raises:
        VerificationError: it can't be imported.
    """
    # oneDNN picks its kernels by the processor; TensorFlow's own kernels agree across machines.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a GPU rounds float64 differently
    if "tensorflow" not in sys.modules:
        with _muted():
            try:
                import tensorflow
            except Exception as error:  # a damaged installation may raise anything
                kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
                text = " ".join(str(error).split())
                raise VerificationError(f"TensorFlow can't be imported: {kind}{text}") from error
    import tensorflow

    return tensorflow


def in_float64(array: Any) -> Any:
    """A numpy array of floats as a tensor of float64.

    TensorFlow casts it: an array that numpy cast would be in memory twice.
    """
    tf = tensorflow()
    return tf.cast(tf.constant(array), tf.float64)


@contextmanager
def _muted() -> Iterator[None]:
    """Close standard error for a while: C++ code prints before its logging can be silenced."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
