"""The action of action.yml."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from .github_job import ACTION, ROOT, SHELLS, Job


@pytest.fixture
def job(tmp_path: Path, converted: Callable[[str], Path], fixtures: Path) -> Job:
    job = Job(tmp_path)
    shutil.copytree(fixtures / "encoder", job.workspace / "checkpoint")
    shutil.copytree(converted("encoder"), job.workspace / "model")
    return job


def test_a_model_that_matches_passes(job: Job) -> None:
    outcome = job.use(checkpoint="checkpoint", model="model/", level="weights")
    assert outcome == "success", job.log
    assert job.passed == "true"
    assert "PASS: all" in job.log
    assert job.summary.read_text().startswith("## PASS: ")
    assert job.reports == {"parity.xml", "parity.html"}
    assert job.used["actions/upload-artifact"]["name"] == "parity"


def test_a_model_that_differs_fails_the_job_and_keeps_the_reports(job: Job) -> None:
    weights = job.workspace / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["encoder.layer.0.output.dense.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    assert job.use(checkpoint="checkpoint", model="model", level="weights") == "failure"
    assert job.passed == "false"
    assert "\n::error title=bertconvert%3A model differs from " in job.log
    assert job.summary.read_text().startswith("## FAIL: ")
    assert job.reports == {"parity.xml", "parity.html"}


def test_a_model_that_is_not_there_fails_the_job(job: Job) -> None:
    assert job.use(checkpoint="checkpoint", model="gone", level="weights") == "failure"
    assert job.passed == "false"
    assert job.summary.read_text().startswith("## ERROR: ")
    assert job.reports == {"parity.xml", "parity.html"}


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"model": "model"}, "give one of the inputs checkpoint and record"),
        (
            {"model": "model", "checkpoint": "checkpoint", "record": "record.safetensors"},
            "give one of the inputs checkpoint and record",
        ),
        ({"checkpoint": "checkpoint"}, "the input model is missing"),
    ],
)
def test_a_wrong_call_fails_before_anything_is_installed(
    inputs: dict[str, str], reason: str, job: Job
) -> None:
    assert job.use(**inputs) == "failure"
    assert job.log == f"::error title=bertconvert::{reason}\n"
    assert job.passed == ""
    assert not (job.temporary / "pip").exists()


@pytest.mark.parametrize(
    ("inputs", "extra"),
    [
        ({"checkpoint": "nowhere", "level": "outputs"}, "verify"),
        ({"record": "nowhere", "level": "gradients"}, "parity"),
        ({"record": "nowhere"}, "parity"),
        ({"record": "nowhere", "level": "weights"}, "html"),
    ],
)
def test_what_is_installed_is_this_code_and_what_the_level_needs(
    inputs: dict[str, str], extra: str, job: Job
) -> None:
    job.action = Path("/home/runner/work/_actions/some one/bertconvert/v1")
    job.use(model="model", **inputs)
    assert job.installed[0] == "install"
    assert job.installed[-1] == f"{job.action}[{extra}]"
    assert "https://download.pytorch.org/whl/cpu" in job.installed


def test_python_is_set_up_and_reports_are_kept_only_if_they_are_asked_for(job: Job) -> None:
    job.use(checkpoint="checkpoint", model="model", level="weights", artifact="")
    assert job.used == {}
    job.use(checkpoint="checkpoint", model="model", level="weights", python_version="3.13")
    assert job.used["actions/setup-python"] == {"python-version": "3.13"}


@pytest.mark.parametrize("name", ["samples", "positions"])
def test_numbers_are_those_of_verify(name: str, job: Job) -> None:
    assert job.use(checkpoint="checkpoint", model="model", **{name: "none"}) == "failure"
    assert f"Invalid value for '--{name}'" in job.log


def test_two_uses_in_a_job_keep_their_own_reports(job: Job) -> None:
    folders = set()
    for _ in range(2):
        assert job.use(checkpoint="checkpoint", model="model", level="weights") == "success"
        folders.add(job.used["actions/upload-artifact"]["path"])
    assert len(folders) == 2
    assert job.summary.read_text().count("## PASS: ") == 2


@pytest.mark.parametrize("reference", ["checkpoint", "record"])
@pytest.mark.parametrize(
    "value",
    ['"; touch pwned; "', "$(touch pwned)", "`touch pwned`", "a\ntouch pwned", "'; touch pwned #"],
)
def test_no_input_is_run(reference: str, value: str, job: Job) -> None:
    other = {"checkpoint": "record", "record": "checkpoint"}[reference]
    inputs = dict.fromkeys(ACTION["inputs"], value) | {other: ""}
    job.use_action(inputs)
    assert job.passed == "false", job.log
    assert not list(job.workspace.rglob("pwned*"))
    assert not list(job.temporary.rglob("pwned*"))


def test_a_model_may_have_any_name(job: Job) -> None:
    odd = '--help "; touch pwned $(x)'
    (job.workspace / "model").rename(job.workspace / odd)
    outcome = job.use(checkpoint="checkpoint", model=odd, level="weights")
    assert outcome == "success", job.log


def test_scripts_have_no_expressions_and_each_input_is_used() -> None:
    steps = ACTION["runs"]["steps"]
    assert not [step["name"] for step in steps if "${{" in step.get("run", "")]
    text = str([{key: value for key, value in step.items() if key != "run"} for step in steps])
    assert {*re.findall(r"inputs\.([\w-]+)", text)} == ACTION["inputs"].keys()
    assert all(step["shell"] in SHELLS for step in steps if "run" in step)


@pytest.mark.slow
def test_it_installs_itself_and_what_it_needs(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real Python and pip, which fetch what is not in their cache."""
    monkeypatch.setenv("PIP_RETRIES", "0")  # the index of torch, which is not needed here
    (job.path / "python3").unlink()
    (job.path / "python3").symlink_to(sys.executable)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "demo", "bench", "*.egg-info")
    job.action = Path(shutil.copytree(ROOT, tmp_path / "action", ignore=ignored))
    outcome = job.use(checkpoint="checkpoint", model="model", level="weights")
    assert outcome == "success", job.log
    assert job.reports == {"parity.xml", "parity.html"}
    package = next((job.temporary / "bertconvert").rglob("bertconvert/cli.py"))
    assert package.read_text() == (ROOT / "cli.py").read_text()
