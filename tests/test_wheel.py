import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import bertconvert

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project as it is published: building leaves files in the folder."""
    copy = tmp_path_factory.mktemp("source") / "any-name"
    ignored = shutil.ignore_patterns(
        ".*cache", ".git", ".venv*", ".typecheck", ".hypothesis", "__pycache__", "*.egg-info",
        "build", "dist", "demo",
    )  # fmt: skip
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("pip") is None:
        pytest.skip("pip, which builds the wheel, is not installed")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", out, source]
    try:
        recent = int(metadata.version("setuptools").partition(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        recent = False
    if recent:  # as pyproject.toml asks for; else pip fetches it
        command.insert(4, "--no-build-isolation")
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out)
    if done.returncode and not recent and "No matching distribution" in done.stderr:
        pytest.skip("setuptools is too old here, and a newer one can't be fetched")
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def about(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def project(source: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return project


def test_it_is_for_any_system_and_named_after_the_version(wheel: Path) -> None:
    assert wheel.name == f"bertconvert-{bertconvert.__version__}-py3-none-any.whl"


def test_it_holds_the_package_its_mappings_and_nothing_else(names: list[str], source: Path) -> None:
    package = [
        *source.glob("*.py"),
        *(source / "converter").rglob("*.py"),
        *(source / "converter").rglob("*.j2"),
        *(source / "mappings").rglob("*.toml"),
        source / "py.typed",
    ]
    expected = {f"bertconvert/{path.relative_to(source)}" for path in package}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "bertconvert/mappings/bert.toml" in expected
    assert "bertconvert/mappings/releases/bert.toml" in expected
    assert "bertconvert/converter/checkpoint/__init__.py" in expected


def test_its_metadata_are_the_projects(about: Message, project: dict[str, object]) -> None:
    assert about["Name"] == "bertconvert"
    assert about["Version"] == bertconvert.__version__
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "Apache-2.0"
    assert about["License-File"] == "LICENSE"
    assert about["Summary"] == project["description"]


def test_it_brings_the_license(names: list[str], wheel: Path, source: Path) -> None:
    (name,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(name) == (source / "LICENSE").read_bytes()


def test_it_requires_neither_torch_nor_tensorflow(about: Message) -> None:
    requirements = about.get_all("Requires-Dist") or []
    core = {re.split(r"[^\w-]", r)[0] for r in requirements if "extra ==" not in r}
    assert {"numpy", "safetensors"} <= core
    assert not core & {"torch", "tensorflow", "tensorflow-cpu", "transformers", "matplotlib"}


def test_it_installs_the_command_and_the_pytest_plugin(wheel: Path, names: list[str]) -> None:
    (name,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(name).decode()
    assert text.split("\n\n") == [
        "[console_scripts]\nbertconvert = bertconvert.cli:run",
        "[pytest11]\nbertconvert = bertconvert.pytest_plugin\n",
    ]


def test_it_converts_where_nothing_else_of_the_project_is(
    wheel: Path, fixtures: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import bertconvert, sys; from bertconvert.cli import main\n"
        "assert bertconvert.__file__.startswith(sys.argv.pop(1)), bertconvert.__file__\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "site", "tf2pt", fixtures / "squad", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr
    assert len(os.listdir(tmp_path / "out")) == 8


@pytest.mark.parametrize(
    ("system", "machine", "version", "package"),
    [
        ("linux", "x86_64", "3.11", "tensorflow-cpu"),
        ("linux", "x86_64", "3.13", "tensorflow-cpu"),
        ("linux", "aarch64", "3.12", "tensorflow"),
        ("darwin", "arm64", "3.13", "tensorflow"),
        ("darwin", "x86_64", "3.12", None),
        ("linux", "x86_64", "3.14", None),
        ("darwin", "arm64", "3.14", None),
    ],
)
def test_the_extra_verify_asks_for_tensorflow_only_where_it_has_packages(
    system: str, machine: str, version: str, package: str | None
) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert "bertconvert[parity]" in extras["verify"]
    found = map(requirements.Requirement, [*extras["verify"], *extras["parity"]])
    where = {"sys_platform": system, "platform_machine": machine, "python_version": version}
    names = [one.name for one in found if one.marker is None or one.marker.evaluate(where)]
    assert [name for name in names if name.startswith("tensorflow")] == [package][: bool(package)]
    assert "torch" in names
