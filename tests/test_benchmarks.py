"""The benchmarks' scripts: what they refuse, and what becomes of the figures. Never the figures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bertconvert import open_checkpoint

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def script(name: str, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARKS / name, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


def conversion(name: str, ours: float, peer: float, cp: float, checkpoints: int = 1) -> Any:
    """Three runs of each, whose median is the figure that is named."""

    def cost(seconds: float, megabytes: float) -> dict[str, Any]:
        return {"seconds": [4 * seconds, 0.5 * seconds, seconds], "megabytes": megabytes}

    costs = {"ours": cost(ours, 50), "peer": cost(peer, 1600), "cp": cost(cp, 2)}
    return {"name": name, "checkpoints": checkpoints, "megabytes": 18, "costs": costs}


FIGURES = {
    "command": "python benchmarks/convert.py bench",
    "date": "2020-02-02",
    "machine": {
        "CPU": "Abacus <II> & Co",
        "cores": "2",
        "memory": "8 GB",
        "kernel": "Linux 6.1",
        "file system": "ext4",
    },
    "versions": {"ours": {"bertconvert": "0.1.0"}, "peer": {"transformers": "4.57.6"}},
    "conversions": [
        conversion("base", ours=0.25, peer=10, cp=0.125),
        conversion("base-adam", ours=0.5, peer=15, cp=0.625),
        conversion("family of 24", ours=5, peer=60, cp=2, checkpoints=24),
    ],
}


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(FIGURES))
    return path


def report(figures: Path, out: Path, **env: str) -> Path:
    out.mkdir()
    ended = script("report.py", figures, "--out", out, **env)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert sorted(path.name for path in out.iterdir()) == ["results.md", "results.svg"]
    return out


def cells(page: str, first: str) -> list[list[str]]:
    """The rows of all tables that begin with `first`."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] == first]


def test_the_page_has_medians_and_ratios_computed_from_the_runs(
    figures: Path, tmp_path: Path
) -> None:
    page = (report(figures, tmp_path / "out") / "results.md").read_text()
    seconds, memory = cells(page, "base")
    assert seconds == [
        "base",
        "18",
        "0.250 (0.125..1.000)",
        "10.00 (5.00..40.00)",
        "0.125 (0.062..0.500)",
        "40x",
        "2.0x",
    ]
    assert memory == ["base", "50", "1,600", "32x"]
    assert cells(page, "base-adam")[0][-2:] == ["30x", "0.80x"]
    text = " ".join(page.split())
    assert "bertconvert 2.00x as long as base, the peer 1.50x, cp 5.00x" in text
    assert "Medians of 3 runs (of the peer, 3)" in text
    assert "proportional set sizes" in text
    for told in ("Abacus <II> & Co", "transformers 4.57.6", "2020-02-02", FIGURES["command"]):
        assert told in text


def test_the_chart_is_small_xml_with_its_text_as_text_on_white(
    figures: Path, tmp_path: Path
) -> None:
    svg = report(figures, tmp_path / "out") / "results.svg"
    assert svg.stat().st_size < 60_000
    root = ElementTree.parse(svg).getroot()
    assert root.get("width") == "600pt"
    names = {"s": "http://www.w3.org/2000/svg"}
    background = root.find(".//s:g[@id='patch_1']/s:path", names)
    assert background is not None
    assert "fill: #ffffff" in background.attrib["style"]
    texts = [text for element in root.iterfind(".//s:text", names) for text in element.itertext()]
    for shown in ("base-adam", "40x", "32x", "12x", "60.0", "seconds, log scale"):
        assert shown in texts
    assert any("Abacus <II> & Co, 2 cores" in text for text in texts)


def test_the_same_figures_give_the_same_bytes(figures: Path, tmp_path: Path) -> None:
    one = report(figures, tmp_path / "one", PYTHONHASHSEED="1")
    two = report(figures, tmp_path / "two", PYTHONHASHSEED="2", SOURCE_DATE_EPOCH="0")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        ("{", "is not what convert.py --json writes"),
        ("[]", "is not what convert.py --json writes"),
        ('{"conversions": [{"name": "tiny"}]}', "is not what convert.py --json writes"),
        ('{"conversions": []}', "has nothing of the peer"),
    ],
)
def test_what_is_not_figures_is_an_error_of_one_line(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    ended = script("report.py", path, "--out", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert not (tmp_path / "results.md").exists()


def test_figures_without_the_peer_are_no_report(figures: Path, tmp_path: Path) -> None:
    alone = json.loads(figures.read_text())
    del alone["conversions"][0]["costs"]["peer"]
    figures.write_text(json.dumps(alone))
    ended = script("report.py", figures, "--out", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.endswith("has nothing of the peer: give convert.py its --peer-python\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "FOLDER"),
        (["{folder}", "--runs", "0"], "--runs must be 1 or more"),
        (["{folder}", "--runs", "many"], "invalid int value: 'many'"),
        (["{folder}", "--runs", "2", "--peer-runs", "3"], "no more than --runs"),
        (["{folder}", "--sizes", "huge"], "invalid choice: 'huge'"),
        (["{folder}", "--sizes"], "nothing to measure"),
        (["{folder}", "--sizes", "tiny"], "has no uncased_L-2_H-128_A-2; make_checkpoints.py"),
        (["{folder}", "--sizes", "--family"], "make_checkpoints.py makes it"),
    ],
)
def test_a_wrong_call_of_convert_is_an_error_of_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    ended = script("convert.py", *(part.format(folder=tmp_path) for part in arguments))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("convert.py: ")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr


def test_a_command_that_is_not_there_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    checkpoint = tmp_path / "uncased_L-2_H-128_A-2"
    checkpoint.mkdir()
    (checkpoint / "bert_model.ckpt.index").touch()
    ended = script("convert.py", tmp_path, "--sizes", "tiny", "--bertconvert", "no/such")
    assert ended.stderr == "convert.py: no/such is no program\n"


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_watched_memory_is_that_of_all_processes_of_a_command(tmp_path: Path) -> None:
    child = "import time; block = b'x' * 60_000_000; time.sleep(0.6)"
    parent = f"import subprocess, sys; c = [sys.executable, '-c', {child!r}]\n"
    parent += "for process in [subprocess.Popen(c), subprocess.Popen(c)]: process.wait()"
    watch = "import sys; from pathlib import Path; from convert import run\n"
    watch += "print(run([sys.executable, '-c', sys.argv[2]], Path(sys.argv[1]), watched=True)[1])"
    ended = subprocess.run(
        [sys.executable, "-c", watch, tmp_path / "log", parent],
        cwd=BENCHMARKS,
        check=True,
        capture_output=True,
        text=True,
    )
    assert 120 < float(ended.stdout) < 220


def test_checkpoints_are_made_without_tensorflow_and_only_once(tmp_path: Path) -> None:
    program = "import runpy, sys; sys.modules['tensorflow'] = None; sys.argv = sys.argv[1:]\n"
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", program, BENCHMARKS / "make_checkpoints.py", tmp_path, "tiny"]
    folder = tmp_path / "uncased_L-2_H-128_A-2"
    for told in ("18 MB", "there already"):
        ended = subprocess.run(command, capture_output=True, text=True)
        assert (ended.stdout, ended.stderr) == (f"{folder}: {told}\n", "")
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint) == 46
    assert all(np.isfinite(array).all() for array in checkpoint.values())
