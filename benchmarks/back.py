"""Compares the way back, `pt2tf`, with `tf2pt` on the same checkpoints.

    python benchmarks/back.py FOLDER [SIZE...] [--runs N]

It needs what make_checkpoints.py made in FOLDER. The two commands run in turn; the ratio is that of
their medians. It also looks whether the checkpoint that comes back has the same bytes.
"""

import argparse
import sys
import tempfile
from filecmp import cmp
from pathlib import Path

from convert import measure, remove, run
from make_checkpoints import DATA_FILE, PREFIX, SIZES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    print("| checkpoint | tf2pt | pt2tf | pt2tf / tf2pt | memory of pt2tf | same bytes |")
    print("|---|--:|--:|--:|--:|---|")
    for name in arguments.sizes or ["tiny", "base", "large"]:
        source = arguments.folder / SIZES[name].folder
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            model, out, log = (Path(scratch, part) for part in ("model", "out", "log"))
            program = [sys.executable, "-m", "bertconvert"]
            back = [*program, "pt2tf", str(model), str(out)]
            run([*program, "tf2pt", str(source), str(model)], log)
            run(back, log)
            same = all(
                cmp(source / file, out / file, shallow=False)
                for file in (f"{PREFIX}.index", DATA_FILE)
            )
            remove(out)
            commands = {"tf2pt": [*program, "tf2pt", str(source), str(out)], "pt2tf": back}
            rounds = dict.fromkeys(commands, range(arguments.runs + 1))
            costs = measure(name, commands, rounds, out, log)
        forth, back_cost = costs["tf2pt"], costs["pt2tf"]
        print(
            f"| {name} | {forth.median:.3f} s | {back_cost.median:.3f} s |"
            f" {back_cost.median / forth.median:.2f}x | {back_cost.megabytes:.0f} MB |"
            f" {'yes' if same else 'no'} |"
        )


if __name__ == "__main__":
    main()
