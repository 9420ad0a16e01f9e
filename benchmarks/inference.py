"""Times what follows a conversion: loading the folder with transformers, and a forward pass.

    python benchmarks/make_checkpoints.py FOLDER tiny mini small medium
    python benchmarks/inference.py FOLDER

Each checkpoint is converted into a temporary folder first. Converting and loading are timed in this
process, after the imports, with the files in the page cache; the imports are timed in processes of
their own. A forward pass is that of `AutoModel`, in evaluation mode, under `torch.inference_mode`,
on random tokens without padding, in float32. Medians, and the 10th and 90th percentile, after a
warm-up.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported

import torch
import transformers
from make_checkpoints import POSITIONS, PREFIX, SIZES, VOCABULARY
from transformers import AutoModel

import bertconvert

COMPACT = ("tiny", "mini", "small", "medium")
IMPORTS = "import torch; from transformers import AutoModel, AutoTokenizer"

CONVERSIONS = 5  # timed, of each size
WARM_UP = 3
STARTS = 3  # of a process that imports torch and transformers
FEWEST = 5  # timed runs of what takes long

GETTING = ("size", "parameters", "convert s", "load s")
RUNNING = ("size", "batch", "ms", "10 %", "90 %", "sequences/s", "runs")


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def repeated(action: Callable[[], object], runs: int, seconds: float) -> list[float]:
    """The times of `runs` runs, or of as many as fit in `seconds`, after a warm-up."""
    for _ in range(WARM_UP):
        action()
    times: list[float] = []
    while len(times) < FEWEST or (len(times) < runs and sum(times) < seconds):
        times.append(timed(action))
    return times


def cpu() -> str:
    """The processor's name, where /proc/cpuinfo has one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def convert(checkpoint: Path, out: Path) -> float:
    """The seconds of a conversion into a new `out`: replacing one would wait for the disk."""
    if out.exists():
        shutil.rmtree(out)
    return timed(partial(bertconvert.convert, checkpoint, out))


def row(name: str, batch: int, times: list[float]) -> list[str]:
    """The cells under RUNNING."""
    deciles = quantiles(times, n=10, method="inclusive")
    milliseconds = (f"{1000 * value:.1f}" for value in (median(times), deciles[0], deciles[-1]))
    return [name, str(batch), *milliseconds, f"{batch / median(times):.1f}", str(len(times))]


def show(title: str, columns: Sequence[str], rows: list[list[str]], markdown: bool) -> None:
    print(f"\n{title}\n")
    if markdown:
        print(f"| {' | '.join(columns)} |")
        print(f"|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        return
    for row in [list(columns), *rows]:
        print(f"{row[0]:<8}" + "".join(f"{cell:>12}" for cell in row[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what make_checkpoints.py made")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=COMPACT)
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", default=[1, 32])
    parser.add_argument("--length", type=int, metavar="N", default=128, help="tokens; default: 128")
    parser.add_argument("--threads", type=int, metavar="N", help="default: what torch takes")
    parser.add_argument("--runs", type=int, default=50, help="of each pass; default: 50")
    parser.add_argument(
        "--seconds", type=float, default=15, help="at most, for one line; default: 15"
    )
    parser.add_argument("--markdown", action="store_true", help="prints tables for a page")
    arguments = parser.parse_args()
    for name in arguments.sizes:
        if not (arguments.folder / SIZES[name].folder / f"{PREFIX}.index").exists():
            parser.error(
                f"{arguments.folder} has no {SIZES[name].folder}; make_checkpoints.py makes it"
            )
    if min(*arguments.batches, arguments.length, arguments.runs) < 1:
        parser.error("--batches, --length and --runs must be 1 or more")
    if arguments.length > POSITIONS:
        parser.error(f"--length: the checkpoints have {POSITIONS} positions")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error("--threads must be 1 or more")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    starting = partial(subprocess.run, [sys.executable, "-c", IMPORTS], check=True)
    importing = [timed(starting) for _ in range(1 + STARTS)][1:]
    print(f"{os.cpu_count()} CPUs, {cpu()}; Python {platform.python_version()}")
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{torch.get_num_threads()} threads, float32, {arguments.length} tokens"
    )
    print(f"a process that imports torch and transformers: {median(importing):.1f} s")

    torch.manual_seed(0)
    getting: list[list[str]] = []
    running: list[list[str]] = []
    # On the file system of the checkpoints: the usual place for temporary files may be memory.
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="inference-") as scratch:
        for name in arguments.sizes:
            checkpoint = arguments.folder / SIZES[name].folder
            converting = [convert(checkpoint, Path(scratch, name)) for _ in range(1 + CONVERSIONS)]
            load = partial(AutoModel.from_pretrained, Path(scratch, name))
            loading = repeated(load, arguments.runs, arguments.seconds)
            model = load().eval()
            parameters = sum(map(torch.Tensor.numel, model.parameters()))
            getting.append(
                [name, f"{parameters:,}", f"{median(converting[1:]):.3f}", f"{median(loading):.3f}"]
            )
            for batch in arguments.batches:
                tokens = torch.randint(VOCABULARY, (batch, arguments.length))
                with torch.inference_mode():
                    times = repeated(partial(model, tokens), arguments.runs, arguments.seconds)
                running.append(row(name, batch, times))
    show("Converting, and loading with AutoModel:", GETTING, getting, arguments.markdown)
    show("A forward pass:", RUNNING, running, arguments.markdown)


if __name__ == "__main__":
    main()
