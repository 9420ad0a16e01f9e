"""Fixtures of all tests: checkpoints of this project and of others."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert import convert

ROOT = Path(__file__).parent.parent
PLAIN = ["classifier", "encoder", "keras-names", "pretraining", "pretraining-adam", "squad"]


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The checkpoints that the scripts of fixtures/ make."""
    return ROOT / "fixtures"


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of those that make_fixtures.py makes, which convert without any option."""
    folder = tmp_path_factory.mktemp("plain")
    for name in PLAIN:
        shutil.copytree(ROOT / "fixtures" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """Checkpoints and vocabularies from the wild; skips without them."""
    return _shared("real", "BERTCONVERT_REAL_DATA")


@pytest.fixture(scope="session")
def families() -> Path:
    """Checkpoints that the original code of other model families wrote; skips without them."""
    return _shared("families", "BERTCONVERT_FAMILIES_DATA")


def _shared(name: str, variable: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; {variable} can name another folder")
    return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that a fixture becomes; it must not be changed."""
    # Not of `fixtures`, which some folders replace: this one lives as long as the session.
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp("converted") / name
            convert(ROOT / "fixtures" / name, out)
            made[name] = out
        return made[name]

    return folder
