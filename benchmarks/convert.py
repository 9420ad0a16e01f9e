"""Times bertconvert beside the conversion that came before it, and `cp` of the data file.

    python benchmarks/make_checkpoints.py FOLDER
    python benchmarks/convert.py FOLDER --peer-python PATH

Whole processes, from start to exit, with the checkpoint in the page cache: one warm-up each, then
the commands in turn, so that what else the machine does falls on all of them. Seconds are medians,
memory is the peak resident set of any run, in 10^6 bytes. The figures that mean something on
another machine are the ratios. Linux only.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Linux gives a child its parent's peak memory as a floor, so nothing large is imported here.
from make_checkpoints import DATA_FILE, PREFIX, SIZES

OURS = f"{shlex.quote(str(Path(sys.executable).with_name('bertconvert')))} tf2pt --force --quiet"
PEER = Path(__file__).with_name("peer.py")

COLUMNS = ("size", "ours s", "peer s", "cp s", "peer/ours", "ours/cp", "ours MB", "peer MB")


@dataclass(frozen=True)
class Cost:
    """What a command took: wall-clock seconds and peak resident memory in 10^6 bytes."""

    seconds: float
    megabytes: float


def run(command: list[str], log: Path) -> Cost:
    """Runs `command` with its output in `log`. Exits with that output if the command fails."""
    with log.open("w") as output:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            sys.exit(f"cannot run {shlex.join(command)}: {error}")
        # Popen.wait would give no resource usage, getrusage that of the largest child so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        text = log.read_text(errors="replace").strip()
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}:\n{text}")
    return Cost(seconds, usage.ru_maxrss * 1024 / 1e6)


def measure(commands: dict[str, list[str]], runs: int, out: Path, log: Path) -> dict[str, Cost]:
    """Median seconds and peak memory of each command over `runs` rounds. Each makes `out` anew."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(1 + runs):
        for name, command in commands.items():
            # No command pays for writing back what the one before it left.
            os.sync()
            costs[name].append(run(command, log))
            if not out.exists():
                sys.exit(f"{shlex.join(command)} left nothing at its output path")
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()
    return {
        # The first round warms up.
        name: Cost(median(c.seconds for c in measured[1:]), max(c.megabytes for c in measured[1:]))
        for name, measured in costs.items()
    }


def row(name: str, costs: dict[str, Cost]) -> list[str]:
    """The cells under COLUMNS, `-` where there is no peer."""
    ours, peer, cp = costs["ours"], costs.get("peer"), costs["cp"]
    return [
        name,
        f"{ours.seconds:.3f}",
        f"{peer.seconds:.3f}" if peer else "-",
        f"{cp.seconds:.3f}",
        f"{peer.seconds / ours.seconds:.1f}" if peer else "-",
        f"{ours.seconds / cp.seconds:.3f}",
        f"{ours.megabytes:,.0f}",
        f"{peer.megabytes:,.0f}" if peer else "-",
    ]


def show(cells: list[str] | tuple[str, ...]) -> None:
    print(f"{cells[0]:<10}" + "".join(f"{cell:>11}" for cell in cells[1:]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what make_checkpoints.py made")
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="a Python with transformers 4.57.6 and TensorFlow; the peer is skipped without it",
    )
    parser.add_argument(
        "--ours",
        metavar="COMMAND",
        default=f"{OURS} {{checkpoint}} {{out}}",
        help="with {checkpoint} and {out} for the two paths; default: %(default)s",
    )
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be 1 or more")
    for name in arguments.sizes:
        if not (arguments.folder / SIZES[name].folder / f"{PREFIX}.index").exists():
            parser.error(
                f"{arguments.folder} has no {SIZES[name].folder}; make_checkpoints.py makes it"
            )

    print(f"medians of {arguments.runs} interleaved runs, {os.cpu_count()} CPUs")
    show(COLUMNS)
    results: dict[str, dict[str, Cost]] = {}
    # On the file system of the checkpoints: the usual place for temporary files may be memory.
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="convert-") as scratch:
        out, log = Path(scratch, "out"), Path(scratch, "log")
        for name in arguments.sizes:
            checkpoint = arguments.folder / SIZES[name].folder
            places = {"{checkpoint}": str(checkpoint), "{out}": str(out)}
            commands = {"ours": [places.get(part, part) for part in shlex.split(arguments.ours)]}
            if arguments.peer_python:
                commands["peer"] = [arguments.peer_python, str(PEER), str(checkpoint), str(out)]
            # Where the file system copies by reference (btrfs, XFS), cp moves no bytes.
            commands["cp"] = ["cp", str(checkpoint / DATA_FILE), str(out)]
            results[name] = measure(commands, arguments.runs, out, log)
            show(row(name, results[name]))

    if "base" in results and "base-adam" in results:
        base, adam = results["base"], results["base-adam"]
        ratios = (f"{name} {adam[name].seconds / base[name].seconds:.3f}" for name in base)
        print(f"base-adam/base: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
