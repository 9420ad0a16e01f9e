"""Makes full-size checkpoints in the form Google published, filled with seeded random values.

    python benchmarks/make_checkpoints.py FOLDER [SIZE...] [--family]

It needs bertconvert, which writes them as TensorFlow does. What is there already stays.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

# NumPy and bertconvert are imported where they are used: convert.py takes SIZES from here and must
# stay small itself.

VOCABULARY = 30_522
POSITIONS = 512
TOKEN_TYPES = 2

PREFIX = "bert_model.ckpt"
DATA_FILE = f"{PREFIX}.data-00000-of-00001"


@dataclass(frozen=True)
class Size:
    """One checkpoint: `layers` and `hidden` as in its name, `adam` if it has optimizer slots."""

    layers: int
    hidden: int
    adam: bool = False

    @property
    def heads(self) -> int:
        return self.hidden // 64

    @property
    def intermediate(self) -> int:
        return 4 * self.hidden

    @property
    def folder(self) -> str:
        """Google's name; Google published no checkpoint with slots, so `_adam` is made up."""
        name = f"uncased_L-{self.layers}_H-{self.hidden}_A-{self.heads}"
        return f"{name}_adam" if self.adam else name


SIZES = {
    "tiny": Size(2, 128),
    "mini": Size(4, 256),
    "small": Size(4, 512),
    "medium": Size(8, 512),
    "base": Size(12, 768),
    "large": Size(24, 1024),
    "base-adam": Size(12, 768, adam=True),
}

# The 24 compact models of "Well-Read Students Learn Better" (arXiv 1908.08962).
FAMILY = [Size(layers, hidden) for layers in range(2, 13, 2) for hidden in (128, 256, 512, 768)]


def dense(scope: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """The variables of `tf.layers.dense`: a kernel [inputs, outputs] and a bias [outputs]."""
    return {f"{scope}/kernel": (inputs, outputs), f"{scope}/bias": (outputs,)}


def layer_norm(scope: str, width: int) -> dict[str, tuple[int, ...]]:
    """The variables of `tf.contrib.layers.layer_norm`: beta and gamma, each [width]."""
    return {f"{scope}/LayerNorm/beta": (width,), f"{scope}/LayerNorm/gamma": (width,)}


def parameters(size: Size) -> dict[str, tuple[int, ...]]:
    """Name and shape of each parameter, as modeling.py and run_pretraining.py create them.

    Both are in google-research/bert.
    """
    hidden = size.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (VOCABULARY, hidden),
        "bert/embeddings/token_type_embeddings": (TOKEN_TYPES, hidden),
        "bert/embeddings/position_embeddings": (POSITIONS, hidden),
        **layer_norm("bert/embeddings", hidden),
    }
    for index in range(size.layers):
        layer = f"bert/encoder/layer_{index}"
        for projection in ("query", "key", "value"):
            shapes |= dense(f"{layer}/attention/self/{projection}", hidden, hidden)
        shapes |= dense(f"{layer}/attention/output/dense", hidden, hidden)
        shapes |= layer_norm(f"{layer}/attention/output", hidden)
        shapes |= dense(f"{layer}/intermediate/dense", hidden, size.intermediate)
        shapes |= dense(f"{layer}/output/dense", size.intermediate, hidden)
        shapes |= layer_norm(f"{layer}/output", hidden)
    return {
        **shapes,
        **dense("bert/pooler/dense", hidden, hidden),
        **dense("cls/predictions/transform/dense", hidden, hidden),
        **layer_norm("cls/predictions/transform", hidden),
        "cls/predictions/output_bias": (VOCABULARY,),
        "cls/seq_relationship/output_weights": (2, hidden),
        "cls/seq_relationship/output_bias": (2,),
    }


def vocabulary() -> Iterator[str]:
    """30,522 tokens: the special ones where Google has them, characters, made-up words."""
    unused = (f"[unused{number}]" for number in range(994))
    yield "[PAD]"
    yield from islice(unused, 99)
    yield from ("[UNK]", "[CLS]", "[SEP]", "[MASK]")
    yield from unused
    characters = punctuation + digits + ascii_lowercase
    yield from characters
    yield from (f"##{character}" for character in characters)
    consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiou"
    stems = map("".join, product(consonants, vowels, consonants, vowels, consonants))
    remaining = VOCABULARY - 1 - 994 - 4 - 2 * len(characters)
    # As in Google's vocabulary, about a fifth continues a word.
    for position, stem in enumerate(islice(stems, remaining)):
        yield f"##{stem}" if position % 5 == 4 else stem


def bert_config(size: Size) -> dict[str, object]:
    """bert_config.json, with the keys of the compact family."""
    return {
        "hidden_size": size.hidden,
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "vocab_size": VOCABULARY,
        "hidden_dropout_prob": 0.1,
        "num_attention_heads": size.heads,
        "type_vocab_size": TOKEN_TYPES,
        "max_position_embeddings": POSITIONS,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.intermediate,
        "attention_probs_dropout_prob": 0.1,
    }


def make(size: Size, folder: Path, seed: int = 0) -> None:
    """Writes `bert_config.json`, `vocab.txt` and the checkpoint, all float32, into `folder`.

    Parameters are normal(0, 0.02), around 1 for a gamma. They are drawn before the slots, so
    `base` and `base-adam` have the same. The slots are float32, `global_step` is an int64 scalar.
    """
    import numpy as np

    from bertconvert.converter.checkpoint.bundle_writer import write_bundle

    rng = np.random.default_rng(seed)

    def normal(mean: float, shape: tuple[int, ...]) -> np.typing.NDArray[np.float32]:
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(0.02)
        values += np.float32(mean)
        return values

    shapes = parameters(size)
    variables: dict[str, np.typing.NDArray[np.float32 | np.int64]] = {
        name: normal(1 if name.endswith("/gamma") else 0, shape) for name, shape in shapes.items()
    }
    if size.adam:
        for name, shape in shapes.items():
            variables[f"{name}/adam_m"] = normal(0, shape)
            variables[f"{name}/adam_v"] = np.square(normal(0, shape))
        variables["global_step"] = np.array(1_000_000, dtype=np.int64)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bert_config.json").write_text(json.dumps(bert_config(size)) + "\n")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()))
    write_bundle(folder / PREFIX, variables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "sizes", nargs="*", metavar="SIZE", help=f"of {', '.join(SIZES)} (default: all of them)"
    )
    parser.add_argument(
        "--family", action="store_true", help="the 24 compact models, besides any SIZE"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sizes if name not in SIZES]:
        parser.error(f"no such size: {', '.join(unknown)}; there are {', '.join(SIZES)}")

    names = arguments.sizes or ([] if arguments.family else SIZES)
    wanted = [SIZES[name] for name in names] + (FAMILY if arguments.family else [])
    for size in dict.fromkeys(wanted):
        folder = arguments.folder / size.folder
        # The index is written last: where it is, the rest is whole.
        if (folder / f"{PREFIX}.index").exists():
            print(f"{folder}: there already")
            continue
        make(size, folder)
        print(f"{folder}: {(folder / DATA_FILE).stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
