"""What the tests share: where the fixtures lie, and files that other people's TensorFlow wrote."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert import convert

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The checkpoints that fixtures/make_fixtures.py makes."""
    return ROOT / "fixtures"


@pytest.fixture(scope="session")
def real() -> Path:
    """Checkpoints and vocabularies from the wild; skips where they are not at hand."""
    folder = Path(os.environ.get("BERTCONVERT_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no files from the wild at {folder}; BERTCONVERT_REAL_DATA names a folder")
    return folder


@pytest.fixture(scope="session")
def families() -> Path:
    """Checkpoints of further model families; skips the test if they are missing."""
    folder = Path(os.environ.get("BERTCONVERT_FAMILIES_DATA", ROOT.parent / "shared" / "families"))
    if not folder.is_dir():
        pytest.skip(f"no checkpoints at {folder}; BERTCONVERT_FAMILIES_DATA names a folder")
    return folder


@pytest.fixture(scope="session")
def converted(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that a fixture becomes; it must not be changed."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("converted") / name
            convert(fixtures / name, made[name])
        return made[name]

    return folder
