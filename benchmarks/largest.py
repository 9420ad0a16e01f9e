"""Compares the conversion of the largest published model, ALBERT-xxlarge, with `cp`.

    python benchmarks/largest.py FOLDER [--runs N]

It makes a checkpoint of that size in FOLDER, with random numbers, unless one is there. The two
commands run in turn; the ratio is that of their medians.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from convert import measure

# albert_config.json of ALBERT-xxlarge, version 2.
CONFIG = {
    "attention_probs_dropout_prob": 0,
    "embedding_size": 128,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "inner_group_num": 1,
    "intermediate_size": 16384,
    "max_position_embeddings": 512,
    "num_attention_heads": 64,
    "num_hidden_groups": 1,
    "num_hidden_layers": 12,
    "type_vocab_size": 2,
    "vocab_size": 30000,
}
PREFIX = "model.ckpt-best"


def make(folder: Path) -> None:
    """Write the checkpoint: normal(0, 0.02), float32."""
    import numpy as np

    from bertconvert.converter.checkpoint.bundle_writer import write_bundle
    from bertconvert.converter.expressions import evaluate
    from bertconvert.converter.mapping import builtin_mappings, load_mapping

    mapping = load_mapping(builtin_mappings()["albert"])
    sizes = {s: int(CONFIG.get(mapping.size_key(s), 2)) for s in mapping.sizes}
    pairs = mapping.expand(sizes, ["encoder", "pooler", "mlm", "sop"])
    rng = np.random.default_rng(0)
    tensors = {
        pair.names[0]: 0.02
        * rng.standard_normal([evaluate(str(d), sizes) or 0 for d in pair.shape], np.float32)
        for pair in pairs
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "albert_config.json").write_text(json.dumps(CONFIG) + "\n")
    write_bundle(folder / PREFIX, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    source = arguments.folder / "albert_xxlarge"
    if not (source / f"{PREFIX}.index").exists():  # which is written last
        # In a process of its own: Linux gives a child its parent's peak memory as a floor.
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(source,))
        maker.start()
        maker.join()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        out = Path(scratch, "out")
        commands = {
            "tf2pt": [sys.executable, "-m", "bertconvert", "tf2pt", str(source), str(out)],
            "cp": ["cp", str(source / f"{PREFIX}.data-00000-of-00001"), str(out)],
        }
        rounds = dict.fromkeys(commands, range(arguments.runs + 1))
        costs = measure("xxlarge", commands, rounds, out, Path(scratch, "log"))
    ours, copy = costs["tf2pt"], costs["cp"]
    print(f"tf2pt {ours.median:.2f} s, {ours.megabytes:.0f} MB; cp {copy.median:.2f} s")
    print(f"tf2pt takes {ours.median / copy.median:.2f} times cp")


if __name__ == "__main__":
    main()
