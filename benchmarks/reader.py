"""Prints what opening large checkpoints costs: seconds of a whole process, and its peak memory.

    python benchmarks/reader.py

- an index of 100,000 variables, listed by `open_checkpoint` and by `bertconvert inspect --json`;
- a checkpoint of 64 GB, which is one hole but for a small tensor at its end, opened and that tensor
  read without checksums (the file takes no room on a file system that knows holes);
- TensorFlow's own reader on the same index, where it is installed.

Medians of --runs, in the page cache, after one run that warms up. Memory in 10^6 bytes. Linux only.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

VARIABLES = 100_000
SHARD_BYTES = 64 * 10**9

LIST = """
from bertconvert import open_checkpoint
assert len(open_checkpoint({path!r}).variables) == {count}
"""
READ_ONE = """
from bertconvert import open_checkpoint
with open_checkpoint({path!r}, verify_checksums=False) as checkpoint:
    assert checkpoint["z/small"].tobytes() == bytes(range(16))
"""
TENSORFLOW = """
import tensorflow as tf
assert len(tf.train.load_checkpoint({path!r}).get_variable_to_shape_map()) == {count}
"""
# Both are made by a process of its own: Linux gives a child its parent's peak memory as a floor.
MAKE = """
from pathlib import Path
from bertconvert.converter.checkpoint.bundle_writer import index_file, layout
from bertconvert.converter.checkpoint.variable import Variable

def write_index(prefix, *variables):
    prefix.parent.mkdir()
    checksums = {{v.name: n * 2654435761 & 0xFFFFFFFF for n, v in enumerate(variables)}}
    Path(f"{{prefix}}.index").write_bytes(index_file(layout(variables), checksums))

many, hole = (Path({folder!r}, name, "model.ckpt") for name in ("many", "hole"))
write_index(many, *(
    Variable(
        f"bert/encoder/layer_{{n // 50}}/attention/self/query_{{n % 50}}/kernel/adam_m",
        "float32", (768, 768), 4 * 768 * 768,
    )
    for n in range({count})
))
large = {size} - 16
write_index(
    hole,
    Variable("a/large", "int8", (large,), large),
    Variable("z/small", "int8", (16,), 16),
)
with open(f"{{hole}}.data-00000-of-00001", "wb") as shard:
    shard.truncate(large)
    shard.seek(large)
    shard.write(bytes(range(16)))
"""


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in 10^6 bytes; exits if the command fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        python = [sys.executable, "-c"]
        made = MAKE.format(folder=folder, count=VARIABLES, size=SHARD_BYTES)
        run([*python, made])
        many, hole = f"{folder}/many/model.ckpt", f"{folder}/hole/model.ckpt"
        commands = {
            "list 100,000 variables": [*python, LIST.format(path=many, count=VARIABLES)],
            "inspect --json of them": [
                sys.executable,
                "-m",
                "bertconvert",
                "inspect",
                "--json",
                many,
            ],
            "one tensor of 64 GB": [*python, READ_ONE.format(path=hole)],
        }
        if importlib.util.find_spec("tensorflow"):
            theirs = TENSORFLOW.format(path=many, count=VARIABLES)
            commands["list, TensorFlow"] = [*python, theirs]
        print(f"{'':<26}{'s':>8}{'MB':>8}")
        for name, command in commands.items():
            costs = [run(command) for _ in range(1 + runs)][1:]
            seconds = median(cost for cost, _ in costs)
            print(f"{name:<26}{seconds:>8.2f}{max(peak for _, peak in costs):>8.0f}", flush=True)


if __name__ == "__main__":
    main()
