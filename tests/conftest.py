"""What the tests share: where the fixtures lie, and files that other people's TensorFlow wrote."""

import os
from pathlib import Path

import pytest

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
