"""A job of GitHub Actions, whose steps are run in a shell as its runner runs them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
SHELLS = {"bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"], "": ["bash", "-e"]}

# A python3 whose `-m venv FOLDER` takes no time: its pip writes its arguments to a file, and its
# bertconvert is that of this environment.
PIP = """#!/bin/sh
for word; do echo "$word"; done >> "$RUNNER_TEMP/pip"
"""
BERTCONVERT = f"""#!/bin/sh
exec "{sys.executable}" -m bertconvert "$@"
"""
PYTHON = """#!/bin/sh
test "$1 $2" = "-m venv" || exit 9
mkdir -p "$3/bin"
cp "${0%/*}/pip" "${0%/*}/bertconvert" "$3/bin"
"""


class Job:
    """A job that uses the action: its workspace, and what came of the steps."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.workspace = folder / "workspace"
        self.temporary = folder / "temporary"
        self.path = folder / "bin"
        self.action = ROOT
        self.used: dict[str, dict[str, str]] = {}  # actions with their inputs
        self.log = ""
        for made in (self.workspace, self.temporary, self.path):
            made.mkdir()
        for name, script in {"python3": PYTHON, "pip": PIP, "bertconvert": BERTCONVERT}.items():
            (self.path / name).write_text(script)
            (self.path / name).chmod(0o755)
        self.summary = folder / "summary"
        self.context: dict[str, str] = {}

    def use(self, **given: str) -> str:
        """Run the action with these inputs, - in a name as _; the outcome."""
        return self.use_action({name.replace("_", "-"): value for name, value in given.items()})

    def use_action(self, inputs: Mapping[str, str]) -> str:
        assert inputs.keys() <= ACTION["inputs"].keys()
        for name, about in ACTION["inputs"].items():
            self.context[f"inputs.{name}"] = inputs.get(name, about.get("default", ""))
        return self.run_all(ACTION["runs"]["steps"])

    def run_all(self, steps: Iterable[Mapping[str, Any]]) -> str:
        """Run the steps of an action or of a workflow; the outcome."""
        outcome = "success"
        for step in steps:
            condition = step.get("if", "success()")
            if "always()" not in condition and outcome == "failure":
                continue
            if self.holds(condition) and not self.run(step):
                outcome = "failure"
        return outcome

    def run(self, step: Mapping[str, Any]) -> bool:
        if "uses" in step:
            found = {name: self.evaluated(value) for name, value in step.get("with", {}).items()}
            action = step["uses"].partition("@")[0]
            self.used[action] = found
            if action.endswith("/bertconvert"):
                return self.use_action(found) == "success"
            return True
        script, output = self.temporary / "step.sh", self.temporary / "output"
        script.write_text(self.evaluated(step["run"]))
        output.write_text("")
        inputs = {name: self.evaluated(value) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            [*SHELLS[step.get("shell", "")], script],
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
        if not found:
            return set()
        place = self.workspace / found["path"]
        files = place.iterdir() if place.is_dir() else place.parent.glob(place.name)
        return {path.name for path in files}
