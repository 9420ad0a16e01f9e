"""The command as a process: its streams, its signals, its exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bertconvert.converter.interrupts import held

from .helpers import in_terminal

MODULE = ["-m", "bertconvert"]
SCRIPT = ["-c", "from bertconvert.cli import run; run()"]

# The command, in which a library writes to standard error while tensors are written.
LOUD = """
import os
from bertconvert.cli import run
from bertconvert.converter import tensor_copy

pieces = tensor_copy._pieces

def loudly(*args):
    os.write(2, b"noise")
    return pieces(*args)

tensor_copy._pieces = loudly
run()
"""


def shell(
    redirect: str, *args: str | Path, python: Sequence[str] = MODULE, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it with a redirection."""
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *python, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


@pytest.fixture
def pretraining(fixtures: Path) -> Path:
    return fixtures / "pretraining"


class TestAClosedStream:
    @pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-"])
    def test_is_as_good_as_dev_null(self, pretraining: Path, tmp_path: Path, redirect: str) -> None:
        out, many = tmp_path / "out", tmp_path / "many"
        for call in (
            ("tf2pt", pretraining, out),
            ("inspect", pretraining),
            ("verify", pretraining, out, "--level", "weights"),
            ("batch", pretraining, many, "--json"),
            ("--version",),
        ):
            done = shell(redirect, *call)
            assert done.returncode == 0, (call, done.stderr)
            assert "Traceback" not in done.stderr
            assert "rror" not in done.stderr
        assert (out / "config.json").exists()
        assert (many / "pretraining" / "config.json").exists()
        assert shell(redirect, "inspect", tmp_path / "none").returncode == 1
        assert shell(redirect, "inspect").returncode == 2

    def test_does_not_give_its_number_to_the_model(self, pretraining: Path, tmp_path: Path) -> None:
        for name, redirect in (("a", ""), ("b", "<&- >&- 2>&-")):
            done = shell(redirect, "tf2pt", pretraining, tmp_path / name, python=["-c", LOUD])
            assert done.returncode == 0
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
        assert weights[0] == weights[1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
class TestAFullDisk:
    @pytest.mark.parametrize("python", [MODULE, SCRIPT])
    @pytest.mark.parametrize(
        "call",
        [["--version"], ["--help"], ["tf2pt", "--help"], ["inspect", "CKPT"],
         ["explain", "CKPT", "--json"], ["mappings"], ["mappings", "bert", "--json"]],
        ids=" ".join,
    )  # fmt: skip
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_under_standard_output_is_one_message(
        self, pretraining: Path, call: list[str], python: list[str], unbuffered: str
    ) -> None:
        args = [str(pretraining) if word == "CKPT" else word for word in call]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = shell(">/dev/full", *args, python=python, env=environment)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_under_standard_output_does_not_hide_what_was_done(
        self, pretraining: Path, tmp_path: Path, options: list[str]
    ) -> None:
        out, many = tmp_path / "out", tmp_path / "many"
        done = shell(">/dev/full", "tf2pt", pretraining, out, *options)
        assert done.returncode == 1
        assert f"written to {out}" in done.stderr
        assert (out / "config.json").exists()
        done = shell(">/dev/full", "verify", pretraining, out, "--level", "weights", *options)
        assert done.returncode == 1
        assert "PASS" in done.stderr
        done = shell(">/dev/full", "batch", pretraining, many, *options)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert ("Finished models stay" if options else "1 converted") in done.stderr
        assert "Traceback" not in done.stderr and "internal" not in done.stderr

    def test_under_standard_error_is_no_failure(self, pretraining: Path, tmp_path: Path) -> None:
        done = shell("2>/dev/full", "tf2pt", pretraining, tmp_path / "out")
        assert done.returncode == 0
        assert "BertForPreTraining" in done.stdout
        done = shell("2>/dev/full", "batch", pretraining, tmp_path / "many")
        assert done.returncode == 0
        assert shell("2>/dev/full", "inspect", tmp_path / "none").returncode == 1
        assert shell("2>/dev/full", "inspect").returncode == 2


class TestAPathThatIsNoText:
    NAME = os.fsdecode(b"caf\xe9")

    @pytest.fixture
    def odd(self, pretraining: Path, tmp_path: Path) -> Path:
        """A checkpoint in a folder whose name is not UTF-8."""
        folder = tmp_path / self.NAME
        try:
            folder.mkdir()
        except OSError:
            pytest.skip("the file system takes only names that are text")
        for file in pretraining.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    def test_is_escaped_in_json(self, odd: Path, tmp_path: Path) -> None:
        out, many = tmp_path / f"{self.NAME}-out", tmp_path / f"{self.NAME}-many"
        reports = [tmp_path / f"{self.NAME}.xml"]
        for call in (
            ("tf2pt", odd, out),
            ("inspect", odd),
            ("explain", odd),
            ("verify", odd, out, "--level", "weights", "--junit", reports[0]),
            ("batch", odd, many),
        ):
            done = shell("", *call, "--json")
            assert done.returncode == 0, (call, done.stderr)
            assert "caf\\xe9" in done.stdout.replace("\\\\", "\\") or call[0] == "explain"
            for document in done.stdout.splitlines() if call[0] == "batch" else [done.stdout]:
                json.loads(document)
        assert reports[0].exists()
        assert "caf\\\\xe9" in (many / "family.json").read_text()

    def test_is_escaped_for_people(self, odd: Path, tmp_path: Path) -> None:
        for call in (("inspect", odd), ("tf2pt", odd, tmp_path / f"{self.NAME}-out")):
            assert "caf\\xe9" in shell("", *call).stdout
        for command in ("inspect", "explain"):
            done = shell("", command, tmp_path / f"no-{self.NAME}", "--json")
            assert (done.returncode, done.stdout) == (1, "")
            assert "no-caf\\xe9" in done.stderr

    def test_of_a_failure_is_escaped_in_the_table(self, odd: Path, tmp_path: Path) -> None:
        (odd / "bert_config.json").write_text("{}x")
        done = shell("", "batch", odd, tmp_path / "out", "--json")
        assert done.returncode == 1
        failed, end = map(json.loads, done.stdout.splitlines()[-2:])
        assert "caf\\xe9" in failed["error"]
        assert end["failed"] == 1

    def test_is_printed_where_few_characters_are_known(
        self, pretraining: Path, tmp_path: Path
    ) -> None:
        environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
        done = shell("", "tf2pt", pretraining, tmp_path / "模", env=environment)
        assert done.returncode == 0, done.stderr
        assert "\\u6a21" in done.stdout


class TestAnInterrupt:
    @pytest.mark.parametrize("python", [MODULE, SCRIPT], ids=["module", "script"])
    @pytest.mark.parametrize("stage", ["click", "numpy"])
    def test_while_libraries_are_imported_is_silent(
        self, pretraining: Path, tmp_path: Path, python: list[str], stage: str
    ) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / f"{stage}.py").write_text(
            "import os, time\nos.write(1, b'begun\\n')\ntime.sleep(30)\n"
        )
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, *python, "tf2pt", pretraining, tmp_path / "out"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert said.strip() in ("", "Aborted!")
        assert os.listdir(tmp_path) == ["site"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("milliseconds", range(60, 460, 80))
    def test_of_a_batch_and_its_workers_at_any_time_ends_them_without_a_word(
        self, fixtures: Path, tmp_path: Path, number: int, milliseconds: int
    ) -> None:
        process = subprocess.Popen(
            [sys.executable, *MODULE, "batch", fixtures, tmp_path / "out", "--jobs", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        time.sleep(milliseconds / 1000)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=30)
        assert "leaked" not in said
        assert "multiprocessing" not in said
        assert not list((tmp_path / "out").glob(".*"))

    def test_that_is_ignored_stays_ignored(self, pretraining: Path, tmp_path: Path) -> None:
        code = (
            "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "from bertconvert.cli import run\n"
            "from bertconvert.converter import convert\n"
            "write = convert.write_safetensors\n"
            "def interrupted(*args):\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    write(*args)\n"
            "convert.write_safetensors = interrupted\n"
            "run()"
        )
        done = shell("", "tf2pt", pretraining, tmp_path / "out", python=["-c", code])
        assert done.returncode == 0, done.stderr


class TestHeldSignals:
    def test_come_when_the_block_is_done(self) -> None:
        steps = []
        with pytest.raises(KeyboardInterrupt), held():
            signal.raise_signal(signal.SIGINT)
            steps.append("done")
        assert steps == ["done"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_come_after_an_error_too(self) -> None:
        with pytest.raises(KeyboardInterrupt) as caught, held():
            signal.raise_signal(signal.SIGINT)
            raise ValueError
        assert isinstance(caught.value.__context__, ValueError)

    def test_that_are_ignored_stay_ignored(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with held():
                signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_are_no_matter_of_other_threads(self) -> None:
        came: list[bool] = []

        def work() -> None:
            with held():
                came.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert came == [True]


class TestColours:
    @pytest.mark.parametrize(
        ("environment", "coloured"),
        [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False),
         ({"TERM": "dumb"}, False)],
        ids=str,
    )  # fmt: skip
    def test_are_for_terminals_that_want_them(
        self, pretraining: Path, tmp_path: Path, environment: dict[str, str], coloured: bool
    ) -> None:
        out, many = tmp_path / "out", tmp_path / "many"
        assert shell("", "tf2pt", pretraining, out).returncode == 0
        for call in (
            ["verify", pretraining, out, "--level", "weights"],
            ["batch", pretraining, many],
        ):
            code, shown = in_terminal([*MODULE, *call], env=os.environ, extra=environment)
            assert code == 0
            assert bool(re.search(r"\x1b\[[\d;]*3\d", shown)) == coloured, shown
