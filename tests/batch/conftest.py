"""What the tests of a batch need made: runs that nothing disturbed, to compare with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .runs import Files, run, slowed, tree


@pytest.fixture(scope="session")
def fixtures(plain: Path) -> Path:
    return plain


@pytest.fixture(scope="session")
def whole(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a batch makes of all the fixtures; it must not be changed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = run(fixtures, out, "--jobs", "2")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def whole_files(whole: Path) -> Files:
    return tree(whole)


@pytest.fixture
def slow(tmp_path: Path) -> Callable[[float], dict[str, str]]:
    """Gives an environment in which a conversion takes long; see `slowed`."""
    return lambda pause: slowed(tmp_path / "site", pause)
