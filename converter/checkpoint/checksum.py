"""crc32c, the checksum of TensorFlow's files: in hardware, for any buffer, without the GIL."""

from typing import TYPE_CHECKING

__all__ = ["crc32c", "mask", "unmask"]

if TYPE_CHECKING:
    from crc32c import crc32c
else:
    # `import crc32c` reads its version from the metadata of the installed packages, which takes a
    # sixth of the time of a small conversion. Loading its extension alone takes almost none.
    try:
        from importlib.machinery import PathFinder
        from importlib.util import find_spec, module_from_spec

        _package = find_spec("crc32c")
        _spec = PathFinder.find_spec("crc32c._crc32c", _package.submodule_search_locations)
        _extension = module_from_spec(_spec)
        _spec.loader.exec_module(_extension)
        crc32c = _extension.crc32c
    except (AttributeError, ImportError):  # a version with another layout
        from crc32c import crc32c


def mask(checksum: int) -> int:
    """A crc32c as TensorFlow stores it, "masked" (tensorflow/core/lib/hash/crc32c.h)."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """The crc32c behind a stored, masked one."""
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
