"""The examples for CI, in docs/ci.md and README.md, do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from bertconvert.cli import cli

from .github_job import ACTION, ROOT, Job
from .test_docs import PAGES, blocks, options_of
from .test_pytest_plugin import installed

pytestmark = pytest.mark.xdist_group("test_ci_page")  # one record serves all

PAGE = (ROOT / "docs" / "ci.md").read_text()
README = (ROOT / "README.md").read_text()


def jobs(page: str) -> list[dict[str, Any]]:
    """The jobs in a page, of GitHub or GitLab."""
    found = []
    for block in blocks(page):
        if re.search(r"^(jobs|parity):$", block, re.MULTILINE):
            document = yaml.safe_load(block)
            found += document.get("jobs", document).values()
    return found


WORKFLOWS = [job["steps"] for job in jobs(PAGE) if "steps" in job]
((README_WORKFLOW),) = [job["steps"] for job in jobs(README)]
(GITLAB,) = [job for job in jobs(PAGE) if "script" in job]


def commands(steps: list[dict[str, str]]) -> list[str]:
    return [step["run"] for step in steps if "run" in step]


@pytest.fixture(scope="session")
def recorded(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden record of the fixture `encoder`."""
    record = tmp_path_factory.mktemp("recorded") / "record.safetensors"
    result = CliRunner().invoke(cli, ["record", str(fixtures / "encoder"), str(record)])
    assert result.exit_code == 0, result.output
    return record


@pytest.fixture
def job(tmp_path: Path, recorded: Path, converted: Callable[[str], Path]) -> Job:
    """A job in the repository of the examples: a record and a model, and no checkpoint."""
    job = Job(tmp_path / "job")
    shutil.copy(recorded, job.workspace / "record.safetensors")
    shutil.copytree(converted("encoder"), job.workspace / "model")
    return job


def at_level_weights(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps, where the level does not matter and would take seconds."""
    text = re.sub(r"--level \w+", "--level weights", yaml.safe_dump(steps, width=10_000))
    found: list[dict[str, Any]] = yaml.safe_load(text)
    for step in found:
        if "bertconvert" in step.get("uses", ""):
            step["with"]["level"] = "weights"
    return found


def test_the_example_of_the_readme_works_as_it_is_written(job: Job) -> None:
    assert job.run_all(README_WORKFLOW) == "success", job.log
    assert "outputs: same" in job.log
    assert job.reports == {"parity.xml", "parity.html"}
    assert job.installed[1] == "bertconvert[parity]"
    assert job.summary.read_text().startswith("## PASS: ")


@pytest.mark.parametrize("steps", WORKFLOWS, ids=["the action", "the command"])
@pytest.mark.parametrize("edited", [False, True])
def test_the_examples_for_github_pass_and_fail(
    steps: list[dict[str, Any]], edited: bool, job: Job
) -> None:
    if edited:
        edit(job.workspace / "model" / "model.safetensors")
    assert job.run_all(at_level_weights(steps)) == ("failure" if edited else "success"), job.log
    assert job.reports == {"parity.xml", "parity.html"}
    assert ("\n::error " in job.log) == edited


@pytest.mark.parametrize("edited", [False, True])
def test_the_example_for_gitlab_passes_and_fails(edited: bool, job: Job) -> None:
    if edited:
        edit(job.workspace / "model" / "model.safetensors")
    steps = [{"run": "\n".join(GITLAB["script"])}]
    assert job.run_all(at_level_weights(steps)) == ("failure" if edited else "success"), job.log
    suites = ElementTree.parse(job.workspace / GITLAB["artifacts"]["reports"]["junit"]).getroot()
    assert sum(int(suite.get("failures", "")) for suite in suites) == 2 * edited
    assert all((job.workspace / path).is_file() for path in GITLAB["artifacts"]["paths"])


@pytest.mark.parametrize("edited", [False, True])
def test_the_example_for_pytest_passes_and_fails(edited: bool, job: Job, tmp_path: Path) -> None:
    if edited:
        edit(job.workspace / "model" / "model.safetensors")
    (example,) = [block for block in blocks(PAGE) if block.startswith("def test_")]
    test = example.replace('level="outputs"', 'level="weights"')
    (job.workspace / "test_parity.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=job.workspace,
        env=os.environ | {"PYTHONPATH": installed(tmp_path / "site"), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == edited, done.stdout
    assert ("the first tensor that differs" in done.stdout) == edited


def edit(weights: Path) -> None:
    tensors = load_file(weights)
    tensors["encoder.layer.0.output.dense.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})


def test_the_page_lists_each_input_of_the_action_and_its_default() -> None:
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|$", PAGE.partition("| input |")[2], re.MULTILINE)
    listed = {name: text for names, text in rows for name in re.findall(r"`([^`]+)`", names)}
    assert listed.keys() == ACTION["inputs"].keys()
    for name, about in ACTION["inputs"].items():
        if about.get("default"):
            assert f"`{about['default']}`" in listed[name]


def test_the_commands_of_a_job_have_the_options_that_they_show() -> None:
    scripts = [*GITLAB["script"], *(c for steps in WORKFLOWS for c in commands(steps))]
    calls = [shlex.split(script) for script in [*scripts, *commands(README_WORKFLOW)]]
    verified = [words for words in calls if words[0] == "bertconvert"]
    assert len(verified) == 3
    for _, name, *words in verified:
        assert {word for word in words if word.startswith("--")} <= options_of(name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_a_page_names_no_extra_that_there_is_not(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"(?:bertconvert|\.)\[([a-z0-9,]+)\]", path.read_text())
    assert {extra for names in named for extra in names.split(",")} <= {
        *project["optional-dependencies"]
    }
