"""The action of action.yml: its steps are run in a shell, as GitHub's runner runs them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parent.parent
SHELLS = {"bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"]}
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())

# A python3 whose `-m venv FOLDER` takes no time: pip writes its arguments to a file, and
# bertconvert is the one of this environment.
PYTHON = f"""#!/bin/sh
test "$1 $2" = "-m venv" || exit 9
mkdir -p "$3/bin"
printf '#!/bin/sh\\nfor word; do echo "$word"; done >> "$RUNNER_TEMP/pip"\\n' > "$3/bin/pip"
printf '#!/bin/sh\\nexec "{sys.executable}" -m bertconvert "$@"\\n' > "$3/bin/bertconvert"
chmod +x "$3/bin/pip" "$3/bin/bertconvert"
"""


class Job:
    """A job that uses the action: its workspace, and what came of the steps."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self.temporary = folder / "temporary"
        self.path = folder / "bin"
        self.action = ROOT
        self.used: dict[str, dict[str, str]] = {}  # actions with their inputs
        self.log = ""
        for made in (self.workspace, self.temporary, self.path):
            made.mkdir()
        self.summary = folder / "summary"
        self.context: dict[str, str] = {}

    def use(self, **given: str) -> str:
        """Run the action with these inputs, - in a name as _; the outcome."""
        inputs = {name.replace("_", "-"): value for name, value in given.items()}
        assert inputs.keys() <= ACTION["inputs"].keys()
        for name, about in ACTION["inputs"].items():
            self.context[f"inputs.{name}"] = inputs.get(name, about.get("default", ""))
        outcome = "success"
        for step in ACTION["runs"]["steps"]:
            condition = step.get("if", "success()")
            if "always()" not in condition and outcome == "failure":
                continue
            if self.holds(condition) and not self.run(step):
                outcome = "failure"
        return outcome

    def run(self, step: Mapping[str, Any]) -> bool:
        if "uses" in step:
            found = {name: self.evaluated(value) for name, value in step.get("with", {}).items()}
            self.used[step["uses"].partition("@")[0]] = found
            return True
        script, output = self.temporary / "step.sh", self.temporary / "output"
        script.write_text(self.evaluated(step["run"]))
        output.write_text("")
        inputs = {name: self.evaluated(value) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            [*SHELLS[step["shell"]], script],
            cwd=self.workspace,
            env=os.environ
            | inputs
            | {
                "PATH": f"{self.path}:{os.environ['PATH']}",
                "GITHUB_ACTION_PATH": str(self.action),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "RUNNER_TEMP": str(self.temporary),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log += done.stdout
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            self.context[f"steps.{step.get('id', '')}.outputs.{name}"] = value
        return done.returncode == 0

    def evaluated(self, text: str) -> str:
        return re.sub(
            r"\$\{\{ ([\w.-]+) \}\}", lambda found: self.context.get(found[1], ""), str(text)
        )

    def holds(self, condition: str) -> bool:
        """Whether an `if` of names, strings, != and && holds."""
        terms = [term.strip() for term in condition.split("&&")]
        for term in terms:
            if term in ("always()", "success()"):
                continue
            name, operator, value = term.split()
            assert operator == "!="
            if self.context.get(name, "") == value.strip("'"):
                return False
        return True

    @property
    def passed(self) -> str:
        return self.evaluated(ACTION["outputs"]["passed"]["value"])

    @property
    def installed(self) -> list[str]:
        """What pip was called with."""
        return (self.temporary / "pip").read_text().splitlines()

    @property
    def reports(self) -> set[str]:
        """The files that were uploaded."""
        found = self.used.get("actions/upload-artifact")
        return {path.name for path in Path(found["path"]).iterdir()} if found else set()


@pytest.fixture
def job(tmp_path: Path, converted: Callable[[str], Path], fixtures: Path) -> Job:
    job = Job(tmp_path)
    (job.path / "python3").write_text(PYTHON)
    (job.path / "python3").chmod(0o755)
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
    job.use(**{name.replace("-", "_"): value for name, value in inputs.items()})
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
