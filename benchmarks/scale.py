"""Prints what a checkpoint costs where there are thousands; docs/ten-thousand.md has the figures.

    python benchmarks/scale.py FOLDER [--count N]

FOLDER is what make_checkpoints.py made; its `base` stands for large checkpoints, and a fixture of
136 kB, linked N times, for what each costs whatever its size. Whole processes of `bertconvert
batch`, with the checkpoints in the page cache: one and two processes, and two workers of a Dask
scheduler on this machine. The time of one checkpoint is what the second half of them adds, so that
what a run costs once is not in it. CPU is that of the process that hands out the work. Made, then
found made by a second run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from make_checkpoints import SIZES

SMALL = Path(__file__).parent.parent / "fixtures" / "pretraining"
LARGE_COUNT = 8
BATCH = [sys.executable, "-m", "bertconvert", "batch", "--quiet"]


def run(sources: Path, out: Path, *options: str) -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of the process itself, of one batch."""
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen([*BATCH, os.fspath(sources), os.fspath(out), *options])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"batch ended with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime


def link(source: Path, folder: Path, count: int) -> Path:
    """A folder with `count` links to a checkpoint, each in a folder of its own."""
    for number in range(count):
        target = folder / f"model-{number:05d}"
        target.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, target / file.name)
    return folder


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[str]:
    """A scheduler and workers, each a process of its own; gives the address."""
    contact = folder / "scheduler.json"

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        shared = ["--scheduler-file", os.fspath(contact), "--no-dashboard"]
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, *shared],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    started = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    try:
        while not contact.exists():
            time.sleep(0.1)
        started += [start("worker", "--nthreads", "1", "--no-nanny") for _ in range(workers)]
        yield json.loads(contact.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def cost(name: str, half: Path, whole: Path, scratch: Path, *options: str) -> None:
    """Print what a checkpoint adds, made and found made."""
    count = sum(1 for _ in whole.iterdir()) - sum(1 for _ in half.iterdir())
    outs = scratch / "half", scratch / "whole"
    made = [run(sources, out, *options) for sources, out in zip((half, whole), outs, strict=True)]
    again = [run(sources, out, *options) for sources, out in zip((half, whole), outs, strict=True)]
    for out in outs:
        shutil.rmtree(out)
    cells = [
        f"{1000 * (after[kind] - before[kind]) / count:>12.1f}"
        for before, after in (made, again)
        for kind in (0, 1)
    ]
    print(f"{name:<28}{''.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=1000, help="default: %(default)s")
    arguments = parser.parse_args()
    base = arguments.folder / SIZES["base"].folder
    if not base.is_dir():
        parser.error(f"{arguments.folder} has no {base.name}; make_checkpoints.py makes it")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="scale-") as scratch:
        folder = Path(scratch)
        small = folder / "seed"
        shutil.copytree(SMALL, small)  # hard links do not cross file systems
        pairs = [
            (f"{number} {what}", link(source, folder / f"{what}1", number), whole)
            for what, source, number in (
                ("small", small, arguments.count // 2),
                ("base", base, LARGE_COUNT // 2),
            )
            for whole in [link(source, folder / f"{what}2", 2 * number)]
        ]
        print("milliseconds a checkpoint adds")
        print(f"{'':<28}{'made':>12}{'CPU':>12}{'there':>12}{'CPU':>12}")
        for name, half, whole in pairs:
            for jobs in ("1", "2"):
                cost(f"{name}, --jobs {jobs}", half, whole, folder, "--jobs", jobs)
            with dask(folder, 2) as address:
                cost(f"{name}, 2 Dask workers", half, whole, folder, "--scheduler", address)
            (folder / "scheduler.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
