"""The variables of a Keras HDF5 file, read by h5py alone.

Nothing is shared with `checkpoint.keras_h5`: that reads bytes at the places that HDF5 tells, and
this has HDF5 read the datasets. It finds them by their ends, as a layer's variables are called.
"""

from collections.abc import Mapping
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import VerificationError


def read_h5(checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Any]:
    """The variables as numpy arrays.

    Args:
        checkpoint: where they are; opening it showed that the file is sound, and has no links.
        names: what to call a variable -> its name in the checkpoint.

    Raises:
        VerificationError: h5py can't read one, or finds it with different values.
    """
    import h5py
    import numpy as np

    datasets: dict[str, list[Any]] = {}

    def add(path: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        at = item.parent
        while at.name != "/" and not {"weight_names", "weight_names0"} & {*at.attrs}:
            at = at.parent
        name = item.name.removeprefix(at.name).strip("/").removesuffix(":0")
        datasets.setdefault(name, []).append(item)

    with checkpoint.index.stream() as stream:
        try:
            with h5py.File(stream, "r") as file:
                file.visititems(add)
                found = {}
                for name, variable in names.items():
                    first, *copies = (item[()] for item in datasets[variable])
                    if not all(np.array_equal(first, c, equal_nan=True) for c in copies):
                        raise VerificationError(
                            f"the layers of {checkpoint.name} have different values of {variable}"
                        )
                    found[name] = first
                return found
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise VerificationError(f"h5py can't read {checkpoint.name}: {error}") from error
