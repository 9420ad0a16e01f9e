"""Partitioned variables: the keys of their slices, and how the slices fit together.

Formats: tensorflow/core/lib/strings/ordered_code.cc, and EncodeTensorNameSlice in
tensorflow/core/util/saved_tensor_slice_util.cc.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .protos import FULL, Box, Malformed

if TYPE_CHECKING:
    import numpy as np

    from .protocols import Part

    Array = np.ndarray[Any, Any]

_PRIME = (1 << 127) - 1

_ESCAPES = {b"\x00": b"\x00\xff", b"\xff": b"\xff\x00"}
_STRING_END = b"\x00\x01"


def slice_key(name: bytes, box: Box) -> bytes:
    """The key of a slice: 0, the variable's name, the rank, then each start and length.

    Args:
        name: the variable, as the checkpoint spells it.
        box: the slice, with `FULL` as the checkpoint has it.
    """
    escaped = re.sub(rb"[\x00\xff]", lambda found: _ESCAPES[found[0]], name)
    rank = len(box).to_bytes((len(box).bit_length() + 7) // 8, "big")
    numbers = b"".join(_signed_number(number) for extent in box for number in extent)
    return b"\x00" + escaped + _STRING_END + bytes([len(rank)]) + rank + numbers


def _signed_number(value: int) -> bytes:
    """OrderedCode's signed integer: the sign is followed by one 1 for each byte."""
    bits = (value if value >= 0 else ~value).bit_length()
    size = bits // 7 + 1
    header = ((1 << size) - 1) << (8 * size - size)  # `size` ones at the top
    return ((value & ((1 << 8 * size) - 1)) ^ header).to_bytes(size, "big")


def resolve(box: Box, shape: Sequence[int]) -> Box:
    """A slice with actual lengths in place of `FULL`.

    Raises:
        Malformed: it is not inside a tensor of that shape.
    """
    if len(box) != len(shape):
        raise Malformed(f"a slice has {len(box)} dimensions in place of {len(shape)}")
    resolved = []
    for (start, length), size in zip(box, shape, strict=True):
        length = size - start if length == FULL else length
        if start < 0 or length < 0 or start + length > size:
            raise Malformed(f"a slice has {length} from {start} of a dimension of {size}")
        resolved.append((start, length))
    return tuple(resolved)


def check_tiling(boxes: Iterable[Box], shape: Sequence[int]) -> None:
    """Check that slices cover a tensor, each element once.

    Each coordinate of each dimension gets a random weight. The measure of a box is the product,
    over the dimensions, of the difference between the weights of its ends, so that measures add up
    over a tiling. As polynomials in the weights, the sum over the boxes equals the measure of the
    tensor only if each element is covered once. With random weights modulo a large prime, they are
    equal by chance once in 2^100 times (Schwartz-Zippel). The time is linear in the number of
    boxes, even if no straight cut separates them.

    Raises:
        Malformed: there is a gap or an overlap.
    """
    weights: list[dict[int, int]] = [_Weights() for _ in shape]

    def measure(box: Box) -> int:
        product = 1
        for weight, (start, length) in zip(weights, box, strict=True):
            product = product * (weight[start + length] - weight[start]) % _PRIME
        return product

    if sum(map(measure, boxes)) % _PRIME != measure(whole(shape)):
        raise Malformed("its slices overlap or do not cover it")


class _Weights(dict[int, int]):
    def __missing__(self, coordinate: int) -> int:
        self[coordinate] = weight = int.from_bytes(os.urandom(16))
        return weight


def whole(shape: Sequence[int]) -> Box:
    """The slice that is all of a tensor."""
    return tuple((0, size) for size in shape)


def in_order(boxes: Sequence[Box], shape: Sequence[int]) -> bool:
    """Whether the slices' bytes, one after another, are the tensor's: it is cut along rows only."""
    return all(
        start == 0 and length == size
        for box in boxes
        for (start, length), size in zip(box[1:], shape[1:], strict=True)
    )


def fill(array: "Array", part: "Part", scratch: memoryview) -> None:
    """Read a slice into its place in an array of numbers.

    Args:
        array: an array of the whole variable's shape.
        part: the slice.
        scratch: writable bytes, for a slice whose place is not contiguous.
    """
    import numpy as np

    place = _place(array, part.box)
    if not place.size:
        return
    if place.flags.c_contiguous:
        for _ in part.stream(place.reshape(-1).view(np.uint8).data):
            pass
        return
    row_bytes = place[0].nbytes
    if row_bytes > len(scratch):
        scratch = np.empty(row_bytes, np.uint8).data
    row = 0
    for piece in part.stream(scratch[: len(scratch) // row_bytes * row_bytes]):
        rows = np.frombuffer(piece, array.dtype).reshape(-1, *place.shape[1:])
        place[row : row + len(rows)] = rows
        row += len(rows)


def place_strings(array: "Array", box: Box, strings: list[bytes]) -> None:
    """Put the elements of a slice of a string tensor into their place in an array of objects."""
    import numpy as np

    place = _place(array, box)
    objects = np.empty(len(strings), object)
    objects[:] = strings
    place[...] = objects.reshape(place.shape)


def _place(array: "Array", box: Box) -> "Array":
    extents: list[Any] = [slice(start, start + length) for start, length in box]
    place: Array = array[(*extents, ...)]  # the ellipsis makes a view of a scalar, too
    return place
