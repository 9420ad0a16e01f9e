"""The fixture bertconvert_parity, in the pytest of another project."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.xdist_group("test_pytest_plugin")  # one run of pytest serves all

# Of the project: its tests, and a conftest.py as if torch were not installed.
TESTS = """
import sys

import pytest


def test_loads_nothing_of_the_converter():
    assert "bertconvert.pytest_plugin" in sys.modules
    assert not [name for name in sys.modules if name.startswith("bertconvert.converter")]


def test_passes(bertconvert_parity):
    verdict = bertconvert_parity("encoder", "model", level="weights")
    assert verdict.passed and verdict.level == "weights"


def test_takes_the_keywords_of_verify(bertconvert_parity):
    bertconvert_parity("encoder", "model", head="none", level="weights", seed=1)


def test_differs(bertconvert_parity):
    bertconvert_parity("encoder", "other", level="weights")


def test_has_no_verdict(bertconvert_parity):
    bertconvert_parity("encoder", "nowhere", level="weights")


def test_lacks_a_package(bertconvert_parity):
    bertconvert_parity("encoder", "model", level="outputs")


def test_is_called_wrongly(bertconvert_parity):
    with pytest.raises(ValueError, match="no level 'output'"):
        bertconvert_parity("encoder", "model", level="output")
"""
WITHOUT_TORCH = """
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "torch" else find_spec(name, *args)
"""


@pytest.fixture(scope="module")
def failures(
    converted: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the tests of the project failed with; "" of those that passed."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "fixtures" / "encoder", project / "encoder")
    shutil.copytree(converted("encoder"), project / "model")
    shutil.copytree(project / "model", project / "other")
    weights = project / "other" / "model.safetensors"
    tensors = load_file(weights)
    tensors["encoder.layer.0.output.dense.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    (project / "test_parity.py").write_text(TESTS)
    (project / "conftest.py").write_text(WITHOUT_TORCH)
    report = project / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": installed(project / "site"), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        assert case.find("error") is None and case.find("skipped") is None, done.stdout
        failure = case.find("failure")
        found[str(case.get("name"))] = "" if failure is None else str(failure.text)
    return found


def installed(site: Path) -> str:
    """A path on which pytest finds the plugin, whatever is installed here; for PYTHONPATH."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = site / "bertconvert-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bertconvert\nVersion: 0\n")
    points = "".join(
        f"{name} = {home}\n" for name, home in project["entry-points"]["pytest11"].items()
    )
    (about / "entry_points.txt").write_text(f"[pytest11]\n{points}")
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_costs_a_run_that_does_not_use_it_nothing(failures: dict[str, str]) -> None:
    assert failures["test_loads_nothing_of_the_converter"] == ""


def test_passes_a_model_that_is_its_checkpoint(failures: dict[str, str]) -> None:
    assert failures["test_passes"] == ""
    assert failures["test_takes_the_keywords_of_verify"] == ""


def test_fails_with_the_report_and_no_traceback(failures: dict[str, str]) -> None:
    report = failures["test_differs"]
    assert report.splitlines()[0].endswith("bert_model.ckpt -> other")
    assert "the first tensor that differs: encoder.layer.0.output.dense.bias" in report
    assert "pytest_plugin.py" not in report and "Traceback" not in report


def test_fails_without_a_verdict(failures: dict[str, str]) -> None:
    assert failures["test_has_no_verdict"] == "no verdict on nowhere: nowhere does not exist"


def test_fails_where_a_package_is_missing_and_says_how_to_install_it(
    failures: dict[str, str],
) -> None:
    reason = "no verdict on model: level outputs needs torch: pip install "
    assert failures["test_lacks_a_package"].startswith(reason)


def test_a_wrong_call_is_the_tests_own_error(failures: dict[str, str]) -> None:
    assert failures["test_is_called_wrongly"] == ""
