"""Partitioned variables: the keys under which slices are stored, and how slices fit together.

Formats: tensorflow/core/lib/strings/ordered_code.cc, tensorflow/core/framework/tensor_slice.proto,
and EncodeTensorNameSlice in tensorflow/core/util/saved_tensor_slice_util.cc.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .protos import LENGTH, VARINT, Malformed, fields, signed
from .variable import Variable

Box = tuple[tuple[int, int], ...]
"""A slice of a tensor: (start, length) for every dimension."""


class Part(Protocol):
    """A variable, or a slice of it, that can be read."""

    @property
    def variable(self) -> Variable: ...

    @property
    def box(self) -> Box: ...

    @property
    def position(self) -> tuple[int, int]: ...

    @property
    def checksum(self) -> int | None: ...

    def stream(self, buffer: memoryview) -> Iterator[memoryview]: ...

    def strings(self) -> list[bytes]: ...


if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FULL = -1  # the length of an extent that spans its whole dimension

_PRIME = (1 << 127) - 1

_ESCAPES = {b"\x00": b"\x00\xff", b"\xff": b"\xff\x00"}
_STRING_END = b"\x00\x01"


def decode_slice(data: bytes) -> Box:
    """Decode a TensorSliceProto; an extent without a length has `FULL`."""
    box = []
    for tag, _, payload in fields(data):
        if tag == 1 << 3 | LENGTH:
            start, length = 0, FULL
            for subtag, number, _ in fields(payload):
                if subtag == 1 << 3 | VARINT:
                    start = signed(number)
                elif subtag == 2 << 3 | VARINT:
                    length = signed(number)
            box.append((start, length))
    return tuple(box)


def slice_key(name: bytes, box: Box) -> bytes:
    """The key of a slice: 0, the variable's name, the rank, then every start and length.

    Args:
        name: as the checkpoint has it.
        box: as the checkpoint has it, `FULL` where it says so.
    """
    escaped = re.sub(rb"[\x00\xff]", lambda found: _ESCAPES[found[0]], name)
    rank = len(box).to_bytes((len(box).bit_length() + 7) // 8, "big")
    numbers = b"".join(_signed_number(number) for extent in box for number in extent)
    return b"\x00" + escaped + _STRING_END + bytes([len(rank)]) + rank + numbers


def _signed_number(value: int) -> bytes:
    """OrderedCode's signed integer: as many leading ones, after the sign, as it has bytes."""
    bits = (value if value >= 0 else ~value).bit_length()
    size = bits // 7 + 1
    header = ((1 << size) - 1) << (8 * size - size)  # `size` ones at the top
    return ((value & ((1 << 8 * size) - 1)) ^ header).to_bytes(size, "big")


def resolve(box: Box, shape: Sequence[int]) -> Box:
    """A slice with real lengths in place of `FULL`.

    Raises:
        Malformed: it does not lie in a tensor of that shape.
    """
    if len(box) != len(shape):
        raise Malformed(f"a slice of {len(box)} dimensions, of {len(shape)}")
    resolved = []
    for (start, length), size in zip(box, shape, strict=True):
        length = size - start if length == FULL else length
        if start < 0 or length < 0 or start + length > size:
            raise Malformed(f"a slice from {start} of length {length} in a dimension of {size}")
        resolved.append((start, length))
    return tuple(resolved)


def check_tiling(boxes: Iterable[Box], shape: Sequence[int]) -> None:
    """Make sure that slices cover a tensor, each element once.

    Every coordinate of every dimension gets a random weight, and a box the product of the
    differences between its ends': a measure that adds up over any tiling. As polynomials in the
    weights, the sum over the boxes and the measure of the whole are the same only if each element
    is covered once (their mixed differences say how often); drawn anew modulo a large prime, they
    agree by chance once in 2^100 times (Schwartz-Zippel). This takes linear time for any boxes,
    those that no straight cut separates too.

    Raises:
        Malformed: there is a hole or an overlap.
    """
    weights: list[dict[int, int]] = [_Weights() for _ in shape]

    def measure(box: Box) -> int:
        product = 1
        for weight, (start, length) in zip(weights, box, strict=True):
            product = product * (weight[start + length] - weight[start]) % _PRIME
        return product

    if sum(map(measure, boxes)) % _PRIME != measure(whole(shape)):
        raise Malformed("its slices overlap, or do not cover it")


class _Weights(dict[int, int]):
    def __missing__(self, coordinate: int) -> int:
        self[coordinate] = weight = int.from_bytes(os.urandom(16))
        return weight


def whole(shape: Sequence[int]) -> Box:
    """The slice that is all of a tensor."""
    return tuple((0, size) for size in shape)


def in_order(boxes: Sequence[Box], shape: Sequence[int]) -> bool:
    """Whether slices, one after another, are the bytes of the tensor: cut along rows alone."""
    return all(
        start == 0 and length == size
        for box in boxes
        for (start, length), size in zip(box[1:], shape[1:], strict=True)
    )


def fill(array: "Array", part: Part, scratch: memoryview) -> None:
    """Read a slice to its place in an array of numbers.

    Args:
        array: of the variable's whole shape.
        part: the slice.
        scratch: writable bytes, for a slice whose place is not one piece of memory.
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
    """Put the elements of a slice of a string tensor to their place in an array of objects."""
    import numpy as np

    place = _place(array, box)
    objects = np.empty(len(strings), object)
    objects[:] = strings
    place[...] = objects.reshape(place.shape)


def _place(array: "Array", box: Box) -> "Array":
    extents: list[Any] = [slice(start, start + length) for start, length in box]
    place: Array = array[(*extents, ...)]  # the ellipsis makes it a view of a scalar, too
    return place
