"""The packages that a proof needs, and those that it ran with."""

import platform
import sys
from collections.abc import Iterable
from importlib.util import find_spec

from ..choices import LEVELS
from ..text import pip_install

# The last Python that TensorFlow has packages for; pyproject.toml has it, too.
_LAST_PYTHON = (3, 13)
_EXTRAS = ("tensorflow", "torch", "transformers")  # the first is what a record replaces
_HTML = {"jinja2", "matplotlib"}


def missing_extras(level: str, html: bool = False, record: bool = False) -> list[str]:
    """The packages of `bertconvert[verify]` that a level, or the HTML page, needs and lacks.

    Imports nothing.

    Args:
        level: that is to be proved.
        html: whether there is to be an HTML page.
        record: whether a golden record takes the place of the checkpoint.
    """
    needed = [] if level == "weights" else [*_EXTRAS[record:]]
    return _missing([*needed, *(sorted(_HTML) if html else ())])


def missing_for_record() -> list[str]:
    """The packages that a golden record needs, and that are missing, if it has outputs."""
    return _missing(_EXTRAS[:1])


def _missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if find_spec(name) is None]


def how_to_install(packages: Iterable[str]) -> str:
    """What to do about packages that are missing.

    TensorFlow has none for every machine. A record that was made elsewhere takes its place.
    """
    missing = [*packages]
    here = _machine_without_tensorflow() if "tensorflow" in missing else ""
    if here:
        missing.remove("tensorflow")
    extra = "verify" if "tensorflow" in missing else "html" if {*missing} <= _HTML else "parity"
    install = pip_install(extra, *(_on_this_machine(package) for package in missing))
    if not here:
        return install
    return (
        f"TensorFlow has no package for {here}. Run `bertconvert record CKPT FILE` where it has one"
        f" (Python 3.11 to {_LAST_PYTHON[0]}.{_LAST_PYTHON[1]} on Linux with glibc, or on macOS"
        " arm64), and `bertconvert verify FILE OUT` here"
        + (f", after {install}" if missing else "")
    )


def _machine_without_tensorflow() -> str:
    """What of this machine TensorFlow has no package for; "" if it has one."""
    system, version = f"{platform.system()} {platform.machine()}", sys.version_info[:2]
    if system not in ("Linux x86_64", "Linux aarch64", "Darwin arm64"):
        return system
    if platform.system() == "Linux" and platform.libc_ver()[0] != "glibc":
        return f"{system} without glibc"
    return f"Python {version[0]}.{version[1]}" if version > _LAST_PYTHON else ""


def _on_this_machine(package: str) -> str:
    """A package as pip takes it."""
    if package == "tensorflow" and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return "tensorflow-cpu"  # which is smaller
    return "'transformers>=5'" if package == "transformers" else package


def highest_level(record: bool = False) -> str:
    """The highest level that the installed packages allow.

    Args:
        record: whether a golden record takes the place of the checkpoint.
    """
    return "weights" if missing_extras(LEVELS[-1], record=record) else LEVELS[-1]


def versions(tensorflow: str = "", torch: bool = False) -> dict[str, str]:
    """The versions of Python and of the packages that computed.

    Args:
        tensorflow: the version that computed, in whatever process; "" if none did.
        torch: whether torch and transformers computed, too.
    """
    packages = ("numpy", *(("torch", "transformers") if torch else ()))
    found = {name: str(sys.modules[name].__version__) for name in packages if name in sys.modules}
    ran = {"tensorflow": tensorflow} if tensorflow else {}
    return {"python": platform.python_version(), **found, **ran}
