"""The variables of a Keras HDF5 file, read by h5py alone.

Nothing is shared with `checkpoint.keras_h5`: that reads bytes at the places that HDF5 tells, and
this has HDF5 read the datasets. It finds them by their ends, as a layer's variables are called.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import VerificationError


def read_at(path: str, checkpoint: str, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Read variables one after the other: what to call each, and a numpy array.

    Args:
        path: the file. Opening the checkpoint showed that it is sound, and has no links.
        checkpoint: what to call it in an error.
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

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
            for name, variable in names.items():
                first, *copies = (item[()] for item in datasets[variable])
                if not all(np.array_equal(first, copy, equal_nan=True) for copy in copies):
                    raise VerificationError(
                        f"the layers of {checkpoint} have different values of {variable}"
                    )
                yield name, first
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise VerificationError(f"h5py can't read {checkpoint}: {error}") from error
