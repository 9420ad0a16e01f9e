"""What the tests of a batch share: checkpoints to convert, runs of the command, what they leave."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

import bertconvert
from bertconvert.cli import cli
from bertconvert.converter.checkpoint.bundle_writer import write_bundle

FIXTURES = ["classifier", "encoder", "keras-names", "pretraining", "pretraining-adam", "squad"]
DATA = "bert_model.ckpt.data-00000-of-00001"

Files = dict[str, bytes]

# Imported by every Python that finds it, so the worker processes do what it says, too.
SITE = """
import os, signal, time

write, pause = os.pwrite, float(os.environ["PAUSE"])

def pwrite(fd, data, place):
    if "/.doomed.bertconvert/" in os.readlink(f"/proc/self/fd/{fd}"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(pause)
    return write(fd, data, place)

os.pwrite = pwrite
"""


def run(*args: str | Path) -> Result:
    """The command in this process; its workers are processes all the same."""
    return CliRunner().invoke(cli, ["batch", *map(str, args)], prog_name="bertconvert")


def start(
    *args: str | Path, env: Mapping[str, str] = os.environ, **kwargs: Any
) -> "subprocess.Popen[str]":
    """The command in a process of its own, which leads a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bertconvert", "batch", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
        **kwargs,
    )


@contextmanager
def started(*args: str | Path, **kwargs: Any) -> Iterator["subprocess.Popen[str]"]:
    """The same, of which nothing is left at the end."""
    process = start(*args, **kwargs)
    try:
        yield process
    finally:
        kill_group(process)
        process.communicate()


def kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def slowed(folder: Path, pause: float) -> dict[str, str]:
    """An environment in which every write to a model takes so many seconds longer.

    A worker that writes the model `doomed` kills itself.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PAUSE": str(pause)}


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that has to come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """All processes below one that still run."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                waiting += map(int, tasks.read_text().split())
        found += [parent] if parent != pid else []
    return [child for child in found if is_alive(child)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def workers(pid: int) -> list[int]:
    """The worker processes of a batch: what its server of forks forked."""
    return [grandchild for child in children(pid) for grandchild in children(child)]


def copies(fixtures: Path, folder: Path, names: Iterable[str], of: str = "squad") -> Path:
    """A folder of checkpoints that are one fixture, under many names."""
    for name in names:
        shutil.copytree(fixtures / of, folder / name)
    return folder


def benchmark_checkpoints() -> Any:
    """The script that knows the shapes of Google's checkpoints."""
    path = Path(__file__).parents[2] / "benchmarks" / "make_checkpoints.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def save_bert(folder: Path, layers: int, hidden: int, seed: int = 0) -> Path:
    """A checkpoint of the shapes that Google published, without a vocabulary."""
    script = benchmark_checkpoints()
    size = script.Size(layers, hidden)
    numbers = np.random.default_rng(seed)
    write_bundle(
        folder / script.PREFIX,
        {
            name: numbers.standard_normal(shape, np.float32)
            for name, shape in script.parameters(size).items()
        },
    )
    (folder / "bert_config.json").write_text(json.dumps(script.bert_config(size)))
    return folder


def damage(checkpoint: Path) -> Path:
    """Change a byte of a tensor that every mapping takes."""
    data = bytearray((checkpoint / DATA).read_bytes())
    data[50_000] ^= 1
    (checkpoint / DATA).write_bytes(data)
    return checkpoint


def zipped(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED, base: str = "") -> Path:
    """A zip of all that lies in a folder, under `base`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for one in sorted(folder.rglob("*")):
            file.write(one, os.path.join(base, one.relative_to(folder)))
    return path


def listed(path: Path, *models: Mapping[str, object]) -> Path:
    """A file for --list; JSON's strings, numbers and arrays are TOML's, too."""
    tables = (
        "[[model]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in model.items())
        for model in models
    )
    path.write_text("\n".join(tables))
    return path


def tree(folder: Path) -> Files:
    """All files below a folder, hidden ones too, by their paths in it; empty folders as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[f"{name}/"] = b""
    return found


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """By which a file is known that was written anew, even with the same bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def models(out: Path) -> list[str]:
    """The model folders that are there for all to see."""
    return sorted(path.name for path in out.glob("[!.]*/"))


def check_whole(out: Path, wanted: Files) -> None:
    """See that what is published has all its files, and that they are right."""
    for name in models(out):
        prefix = f"{name}/"
        there = {f"{prefix}{path}": data for path, data in tree(out / name).items()}
        assert there == {path: data for path, data in wanted.items() if path.startswith(prefix)}


def family(out: Path) -> dict[str, dict[str, Any]]:
    """What family.json says of each model."""
    found = json.loads((out / "family.json").read_bytes())
    assert found["tool"] == f"bertconvert {bertconvert.__version__}"
    assert [model["name"] for model in found["models"]] == sorted(
        model["name"] for model in found["models"]
    )
    return {model["name"]: model for model in found["models"]}


def table(out: Path) -> dict[str, dict[str, str]]:
    """The table of README.md: the cells of each model's row by their columns."""
    head, rule, *rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in (out / "README.md").read_text().splitlines()
        if line.startswith("|")
    ]
    assert all(re.fullmatch(r"-+:?", cell) for cell in rule)
    by_column = [dict(zip(head, row, strict=True)) for row in rows]
    return {re.sub(r"^\[(.*)\]\(.*\)$", r"\1", row["model"]): row for row in by_column}


def lines(text: str) -> list[dict[str, Any]]:
    """The events that --json prints, a line each."""
    return [json.loads(line) for line in text.splitlines()]
