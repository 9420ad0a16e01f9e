"""A TensorFlow that can't be imported, or never ends: what is said, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..helpers import deadline

# What `import tensorflow` does, and what is said of it.
BROKEN = {
    "import os; os.abort()": "TensorFlow was ended by SIGABRT while it was imported.",
    "import sys; sys.exit(3)": "TensorFlow ended with exit code 3 while it was imported.",
    "import os, signal; os.kill(os.getpid(), signal.SIGILL)": "was ended by SIGILL",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "may have too little memory",
    "raise ImportError('no GLIBC')": "TensorFlow can't be imported: no GLIBC.",
    "raise RuntimeError('one\\ntwo')": "TensorFlow can't be imported: RuntimeError: one two.",
    "class Odd(BaseException): ...\nraise Odd": "ended with exit code 1 while it was imported",
    "for _ in range(10**5): print('x' * 50)\nraise KeyError(1)": "imported: KeyError: 1.",
}
HANGS = "import time, sys; print('here', flush=True); time.sleep(1000)"


class Machine:
    """Runs commands where TensorFlow is a file of ours."""

    def __init__(self, folder: Path, tensorflow: str) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        (folder / "tensorflow.py").write_text(tensorflow)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self._environment = {"PYTHONPATH": path, "TMPDIR": str(self.temporary), "COLUMNS": "500"}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "bertconvert", *map(str, arguments)],
            env=os.environ | self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left(self) -> list[str]:
        """What is in the folder of temporary files, but for a folder that torch makes."""
        return [name for name in os.listdir(self.temporary) if "torchinductor" not in name]


@pytest.mark.parametrize("tensorflow", BROKEN, ids=range(len(BROKEN)))
def test_a_tensorflow_that_can_not_be_imported_is_an_error_that_says_how_to_go_on(
    tensorflow: str, fixtures: Path, tmp_path: Path
) -> None:
    machine = Machine(tmp_path, tensorflow)
    process = machine.start("record", fixtures / "encoder", tmp_path / "r.safetensors")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert BROKEN[tensorflow] in said
    assert "`bertconvert record CKPT FILE` makes a record" in said
    assert "Traceback (most recent call last):\n" not in said and "internal" not in said
    assert len(said) < 1500
    assert machine.left() == []
    assert not (tmp_path / "r.safetensors").exists()


def child_of(pid: int) -> int:
    """The process that a process started, when it is there."""
    with deadline(30):
        while True:
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if found:
                return int(found[0])
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it needs /proc")
@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
@pytest.mark.parametrize(
    "command", [["record"], pytest.param(["tf2pt", "--verify"], marks=pytest.mark.slow)], ids=str
)
def test_no_process_and_no_file_is_left_after_a_signal(
    command: list[str], stop: signal.Signals, code: int, fixtures: Path, tmp_path: Path
) -> None:
    machine = Machine(tmp_path, HANGS)
    place = tmp_path / "made"
    process = machine.start(command[0], fixtures / "encoder", place, *command[1:])
    child = child_of(process.pid)
    with deadline(30):
        while not any("here" in file.read_text() for file in machine.temporary.glob("*/printed")):
            time.sleep(0.05)
    process.send_signal(stop)
    process.communicate(timeout=30)
    assert process.returncode == code
    with deadline(30):
        while is_running(child) or machine.left():
            time.sleep(0.05)
    assert not place.exists()
    assert [path.name for path in tmp_path.iterdir() if "made" in path.name] == [] or (
        stop == signal.SIGKILL
    )


@pytest.mark.parametrize("tensorflow", ["raise ImportError('none')", "import os; os.abort()"])
def test_level_weights_needs_none(
    tensorflow: str, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    machine = Machine(tmp_path, tensorflow)
    process = machine.start(
        "verify", fixtures / "encoder", converted("encoder"), "--level", "weights"
    )
    process.communicate(timeout=60)
    assert process.returncode == 0
