"""Times bertconvert beside the conversion that came before it, and `cp` of the data file.

    python benchmarks/make_checkpoints.py FOLDER [--family]
    python benchmarks/convert.py FOLDER --peer-python PATH [--family] [--json FILE]

Whole processes, from start to exit, with the checkpoint in the page cache: one run that warms up,
then the commands in turn, so that what else the machine does falls on all of them. Seconds are
medians, with the fastest and the slowest run. The figures that mean something on another machine
are the ratios. Linux only.

With --family, the 24 compact models too: `bertconvert batch`, the peer in one process that imports
once, and `cp -r` of the 24 folders.

Memory, in 10^6 bytes, is the peak resident set of any run (ru_maxrss). That knows one process only,
so for the family it is the peak sum of the proportional set sizes (PSS: what several processes
share is counted once) of the process and its descendants, looked up every 20 ms. The run that warms
up is the one that is watched, so that watching costs no time that counts.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

# Linux gives a child its parent's peak memory as a floor, so nothing large is imported here.
from make_checkpoints import DATA_FILE, FAMILY, PREFIX, SIZES

OURS = Path(sys.executable).with_name("bertconvert")
OUR_PACKAGES = ("bertconvert", "numpy", "safetensors")
PEER = Path(__file__).with_name("peer.py")
PEER_PACKAGES = ("transformers", "torch", "tensorflow", "tensorflow-cpu", "numpy")

SAMPLING_SECONDS = 0.02

COLUMNS = ("", "ours s", "peer s", "cp s", "peer/ours", "ours/cp", "ours MB", "peer MB")
WIDTHS = (13, 23, 23, 23, 10, 9, 9, 9)

VERSIONS = """
import platform, sys
from importlib.metadata import PackageNotFoundError, version
print("Python", platform.python_version())
for package in sys.argv[1:]:
    try:
        print(package, version(package))
    except PackageNotFoundError:
        pass
"""


@dataclass
class Cost:
    """What a command took: wall-clock seconds of each run, and peak memory in 10^6 bytes."""

    seconds: list[float] = field(default_factory=list)
    megabytes: float = 0

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass
class Conversion:
    """One checkpoint, or several in one process: what it takes ours, the peer and cp."""

    name: str
    checkpoints: int
    megabytes: float  # of the data files
    costs: dict[str, Cost]


def run(command: list[str], log: Path, watched: bool = False) -> tuple[float, float]:
    """Seconds and peak memory in 10^6 bytes of `command`, whose output goes to `log`.

    Of `watched`, the memory is that of all its processes. Exits with the output of what fails.
    """
    with log.open("w") as output:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            sys.exit(f"cannot run {shlex.join(command)}: {error}")
        proportional = watch(process.pid) if watched else 0
        # Popen.wait would give no resource usage, getrusage that of the largest child so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        text = log.read_text(errors="replace").strip()
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}:\n{text}")
    return seconds, (proportional if watched else usage.ru_maxrss * 1024) / 1e6


def watch(pid: int) -> int:
    """Peak bytes of a child process and its descendants together, until it has ended."""
    peak = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = max(peak, sum(map(proportional_set_size, descendants(pid))))
        time.sleep(SAMPLING_SECONDS)
    return peak


def descendants(root: int) -> list[int]:
    """The process `root` and all that it started, directly or not."""
    children = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read_proc(f"{name}/stat")):
            # "pid (command) state parent ...", where the command may hold anything.
            children[int(stat.rpartition(")")[2].split()[1])].append(int(name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def proportional_set_size(pid: int) -> int:
    """Bytes; 0 of a process that has ended."""
    found = re.search(r"^Pss:\s+(\d+) kB$", read_proc(f"{pid}/smaps_rollup"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def read_proc(name: str) -> str:
    try:
        return Path("/proc", name).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""


def measure(
    title: str,
    commands: dict[str, list[str]],
    rounds: dict[str, range],
    out: Path,
    log: Path,
    watched: bool = False,
) -> dict[str, Cost]:
    """What each command takes in its rounds, of which 0 warms up. Each makes `out` anew.

    If `watched`, round 0 gives the memory of all processes.
    """
    costs = {name: Cost() for name in commands}
    for number in range(max(max(numbers) for numbers in rounds.values()) + 1):
        for name, command in commands.items():
            if number not in rounds[name]:
                continue
            # No command pays for writing back what the one before it left.
            os.sync()
            seconds, megabytes = run(command, log, watched and number == 0)
            if not out.exists():
                sys.exit(f"{shlex.join(command)} left nothing at its output path")
            remove(out)
            said = f"{seconds:.2f} s" if number else f"{seconds:.2f} s, to warm up"
            print(f"{title}: {name} {said}", file=sys.stderr, flush=True)
            if number:
                costs[name].seconds.append(seconds)
            if watched == (number == 0):
                costs[name].megabytes = max(costs[name].megabytes, megabytes)
    return costs


def remove(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()


def machine(folder: Path) -> dict[str, str]:
    """What the figures depend on, without what would tell whose machine it is."""
    processor = re.search(r"^model name\s*:\s*(.*)$", read_proc("cpuinfo"), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "CPU": processor[1] if processor else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": ask(["df", "--output=fstype", os.fspath(folder)]).split()[-1],
    }


def versions(python: str | Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Of an interpreter, and of those of `packages` that it has."""
    said = ask([os.fspath(python), "-c", VERSIONS, *packages])
    return dict(line.split() for line in said.splitlines())


def ask(command: list[str]) -> str:
    """What a short command prints."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{command[0]} ended with {error.returncode}: {error.stderr.strip()}")


def this_command() -> str:
    """The command line, with absolute paths cut to their last part."""
    parts = (re.sub(r"^/.*/", ".../", part) for part in sys.argv[1:])
    return shlex.join(["python", "benchmarks/convert.py", *parts])


def row(conversion: Conversion) -> list[str]:
    """The cells under COLUMNS, `-` where there is no peer."""
    ours, cp = conversion.costs["ours"], conversion.costs["cp"]
    peer = conversion.costs.get("peer")
    return [
        conversion.name,
        spread(ours),
        spread(peer) if peer else "-",
        spread(cp),
        f"{peer.median / ours.median:.1f}" if peer else "-",
        f"{ours.median / cp.median:.2f}",
        f"{ours.megabytes:,.0f}",
        f"{peer.megabytes:,.0f}" if peer else "-",
    ]


def spread(cost: Cost) -> str:
    """The median, the fastest and the slowest run, e.g. `0.152 (0.149..0.171)`."""
    low, high = min(cost.seconds), max(cost.seconds)
    digits = 3 if cost.median < 1 else 2
    return f"{cost.median:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def show(cells: list[str] | tuple[str, ...]) -> None:
    texts = zip(cells[1:], WIDTHS[1:], strict=True)
    print(f"{cells[0]:<{WIDTHS[0]}}" + "".join(f"{cell:>{width}}" for cell, width in texts))


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """What report.py tells beside the figures."""
    peer = arguments.peer_python
    return {
        "command": this_command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(arguments.folder),
        "versions": {
            "ours": versions(arguments.bertconvert.with_name("python"), OUR_PACKAGES),
            "peer": versions(peer, PEER_PACKAGES) if peer else {},
        },
    }


def commands_for(
    arguments: argparse.Namespace, sources: list[Path], out: Path
) -> dict[str, list[str]]:
    """The commands that convert or copy `sources` to `out`, which is not there yet."""
    several = len(sources) > 1
    paths = [str(source) for source in sources]
    ours = [str(arguments.bertconvert), "batch" if several else "tf2pt", "--quiet"]
    commands = {"ours": [*ours, *paths, str(out)]}
    if arguments.peer_python:
        commands["peer"] = [arguments.peer_python, str(PEER), *paths, str(out)]
    # Where the file system copies by reference (btrfs, XFS), cp moves no bytes. Several things it
    # copies only into a folder that is there.
    commands["cp"] = (
        ["sh", "-c", 'mkdir "$0" && exec cp -r "$@" "$0"', str(out), *paths]
        if several
        else ["cp", str(sources[0] / DATA_FILE), str(out)]
    )
    return commands


def adam_ratios(conversions: list[Conversion]) -> dict[str, float]:
    """How many times as long each takes for base with Adam slots; empty where one is missing."""
    costs = {conversion.name: conversion.costs for conversion in conversions}
    if not {"base", "base-adam"} <= set(costs):
        return {}
    return {
        name: adam.median / costs["base"][name].median for name, adam in costs["base-adam"].items()
    }


class Parser(argparse.ArgumentParser):
    """One whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what make_checkpoints.py made")
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="a Python with transformers 4.57.6 and TensorFlow; the peer is skipped without it",
    )
    parser.add_argument(
        "--bertconvert",
        type=Path,
        metavar="PATH",
        default=OURS,
        help="the command, in its environment (default: the one beside this Python)",
    )
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--peer-runs", type=int, help="default: 3, or --runs if that is less")
    parser.add_argument(
        "--sizes", nargs="*", choices=SIZES, default=list(SIZES), help="default: all of them"
    )
    parser.add_argument("--family", action="store_true", help="the 24 compact models too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, for report.py")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be 1 or more")
    if arguments.peer_runs is None:
        arguments.peer_runs = min(3, arguments.runs)
    if not 1 <= arguments.peer_runs <= arguments.runs:
        parser.error("--peer-runs must be 1 or more, and no more than --runs")
    if not (arguments.sizes or arguments.family):
        parser.error("nothing to measure: name --sizes, or --family")
    wanted = [SIZES[name] for name in arguments.sizes] + (FAMILY if arguments.family else [])
    for size in wanted:
        if not (arguments.folder / size.folder / f"{PREFIX}.index").exists():
            parser.error(f"{arguments.folder} has no {size.folder}; make_checkpoints.py makes it")
    for program in filter(None, (arguments.bertconvert, arguments.peer_python)):
        if not shutil.which(program):
            parser.error(f"{program} is no program")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"{arguments.json.parent} is no folder")
    return arguments


def main() -> None:
    arguments = parse()
    jobs = {name: [arguments.folder / SIZES[name].folder] for name in arguments.sizes}
    if arguments.family:
        jobs[f"family of {len(FAMILY)}"] = [arguments.folder / size.folder for size in FAMILY]
    told = circumstances(arguments) if arguments.json else {}
    conversions: list[Conversion] = []
    # On the file system of the checkpoints: the usual place for temporary files may be memory.
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="convert-") as scratch:
        out, log = Path(scratch, "out"), Path(scratch, "log")
        for name, sources in jobs.items():
            commands = commands_for(arguments, sources, out)
            rounds = dict.fromkeys(commands, range(arguments.runs + 1))
            watched = len(sources) > 1
            # What takes the peer long to read the first time is its own libraries, so it warms up
            # once; and for the family, whose memory that round gives.
            first = 0 if watched or not conversions else 1
            rounds["peer"] = range(first, arguments.peer_runs + 1)
            costs = measure(name, commands, rounds, out, log, watched)
            size = sum((source / DATA_FILE).stat().st_size for source in sources) / 1e6
            conversions.append(Conversion(name, len(sources), size, costs))
            if arguments.json:  # each time, so that an interrupt loses only what it interrupts
                figures = {**told, "conversions": [asdict(each) for each in conversions]}
                arguments.json.write_text(f"{json.dumps(figures, indent=1)}\n")

    print(f"medians (fastest..slowest) of {arguments.runs} interleaved runs,", end=" ")
    print(f"of the peer {arguments.peer_runs}; {os.cpu_count()} CPUs")
    show(COLUMNS)
    for conversion in conversions:
        show(row(conversion))
    if ratios := adam_ratios(conversions):
        print("base-adam/base:", ", ".join(f"{name} {x:.2f}" for name, x in ratios.items()))


if __name__ == "__main__":
    main()
