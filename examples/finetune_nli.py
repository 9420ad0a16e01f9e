"""Fine-tunes a converted BERT on a small task of inference: does one sentence follow from another?

    bertconvert tf2pt uncased_L-2_H-128_A-2.zip bert-tiny/
    python examples/finetune_nli.py bert-tiny/

Plain torch, no network. The sentences tell children's ages, and numbers, antonyms and negation
decide between entailment, neutral and contradiction:

    carol is 6 or 7       carol is over 5       entailment
    carol is not over 5   carol is over 3       neutral
    carol is 2            carol is not under 4  contradiction

A statement stands for the ages that it leaves open, and the label follows from two such sets. In
both splits every hypothesis has each label equally often, so by itself it says nothing. Two
statements that meet in a held-out pair, in that order, do not meet in training, under any name.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported
# Threads that wait by spinning take the processor from each other where something else runs too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

LABELS = ("entailment", "neutral", "contradiction")
NAMES = ("carol", "david", "colin", "dinah")
DIGITS = range(10)
WORDS = ("is", "not", "over", "under", "or", *map(str, DIGITS), *NAMES)
AGES = frozenset(range(100))

HELD_OUT = 0.2  # of the premises that a hypothesis has under its rarest label
BATCH = 48
LEARNING_RATE = 5e-4
WARM_UP = 0.1  # of the steps

Batch = tuple[dict[str, Tensor], Tensor]  # the model's inputs, the labels


@dataclass(frozen=True)
class Pair:
    """A premise, a hypothesis, and what the one says of the other, as an index in LABELS."""

    premise: str
    hypothesis: str
    label: int


def statements() -> dict[str, frozenset[int]]:
    """What may be said of somebody's age -> the ages that it leaves open."""
    ages = {f"{age}": frozenset([age]) for age in DIGITS}
    ages |= {f"{a} or {b}": frozenset([a, b]) for a, b in combinations(DIGITS, 2)}
    for number in DIGITS:
        over = frozenset(age for age in AGES if age > number)
        under = frozenset(age for age in AGES if age < number)
        ages |= {f"over {number}": over, f"not over {number}": AGES - over}
        ages |= {f"under {number}": under, f"not under {number}": AGES - under}
    # Nobody is under 0, and everybody is not.
    return {statement: left for statement, left in ages.items() if left and left != AGES}


def relation(premise: frozenset[int], hypothesis: frozenset[int]) -> int:
    """The label of two statements, as an index in LABELS."""
    if premise <= hypothesis:
        return 0
    return 1 if premise & hypothesis else 2


def make_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, in which those of rarer labels are repeated, and the held-out ones."""
    draw = random.Random(seed)
    training: list[Pair] = []
    held_out: list[Pair] = []
    ages = statements()
    for hypothesis, left in ages.items():
        # With "not over" too, as many hypotheses would set a lower bound as an upper one. Nothing
        # could be learned of numbers before words then, and training would stand still for long.
        if not hypothesis.startswith(("over", "not under", "under")):
            continue
        premises: list[list[str]] = [[] for _ in LABELS]
        for premise, possible in ages.items():
            premises[relation(possible, left)].append(premise)
        rarest, commonest = min(map(len, premises)), max(map(len, premises))
        if rarest < 3:  # such as "under 1", which hardly anything but itself entails
            continue
        aside = max(1, round(HELD_OUT * rarest))
        for label, group in enumerate(premises):
            draw.shuffle(group)
            rest = group[aside:]
            rest += draw.choices(rest, k=commonest - len(group))
            for split, chosen in ((held_out, group[:aside]), (training, rest)):
                split += (
                    Pair(f"{name} is {premise}", f"{name} is {hypothesis}", label)
                    for premise in chosen
                    for name in NAMES
                )
    return training, held_out


def guess(training: list[Pair], held_out: list[Pair], part: Callable[[Pair], str]) -> float:
    """The accuracy of guessing by a part of a pair alone: its most frequent label in training."""
    labels: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for pair in training:
        labels[part(pair)][pair.label] += 1
    best = {value: counts.most_common(1)[0][0] for value, counts in labels.items()}
    return fmean(best.get(part(pair)) == pair.label for pair in held_out)


def check_words(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Says how the task's words are written. Exits where they can't be told from each other."""
    pieces = {word: tuple(tokenizer.tokenize(word)) for word in WORDS}
    if unknown := [word for word in WORDS if tokenizer.unk_token in pieces[word]]:
        count = f"{len(unknown)} of the task's {len(WORDS)} words"
        sys.exit(f"{folder}: its vocabulary has nothing for {count}: {', '.join(unknown)}")
    if len(set(pieces.values())) < len(WORDS):
        sys.exit(f"{folder}: its tokenizer can't tell all of the task's words from each other")
    whole = sum(len(word) == 1 for word in pieces.values())
    print(f"words: {whole} in the vocabulary, {len(WORDS) - whole} in pieces")


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The folder, with a classifier of three labels on top. Exits where it is none."""
    if not (folder / "config.json").exists():
        sys.exit(f"{folder}: not a folder that bertconvert tf2pt made: it has no config.json")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
            # With dropout, weights that start at random learn much more slowly.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            ignore_mismatched_sizes=True,  # a classifier of other labels is replaced
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"{folder}: {str(error).strip().splitlines()[0]}")
    new = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    print(f"{folder}: {model.num_parameters():,} parameters; new: {', '.join(new) or 'none'}")

    return model, tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> Batch:
    """Each of the model's inputs, int64 [pairs, longest], and the labels, int64 [pairs]."""
    sentences = [pair.premise for pair in pairs], [pair.hypothesis for pair in pairs]
    inputs = tokenizer(*sentences, padding=True, return_tensors="pt")
    return dict(inputs), torch.tensor([pair.label for pair in pairs])


def take(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of it."""
    inputs, labels = batch
    return {name: tensor[rows] for name, tensor in inputs.items()}, labels[rows]


@torch.inference_mode()
def accuracy(model: PreTrainedModel, batch: Batch) -> float:
    """The share of pairs whose label the model finds."""
    model.eval()
    right = 0
    for rows in torch.arange(len(batch[1])).split(128):
        inputs, labels = take(batch, rows)
        right += int((model(**inputs).logits.argmax(-1) == labels).sum())
    return right / len(batch[1])


def fine_tune(model: PreTrainedModel, training: Batch, steps: int) -> None:
    """AdamW, whose learning rate rises and falls linearly."""
    # Fused: else updating 30,522 embeddings takes about as long as the rest of a step.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    rising = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rising, (steps - step) / (steps - rising + 1))
    )
    model.train()
    losses: list[float] = []
    right: list[float] = []
    for step in range(1, steps + 1):
        inputs, labels = take(training, torch.randint(len(training[1]), (BATCH,)))
        logits = model(**inputs).logits
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        right.append((logits.argmax(-1) == labels).float().mean().item())
        if step % 50 == 0 or step == steps:
            means = f"loss {fmean(losses):.3f}  accuracy {fmean(right):6.1%}"
            print(f"step {step:>{len(str(steps))}}/{steps}  {means}", flush=True)
            losses, right = [], []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what bertconvert tf2pt made")
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--save", type=Path, metavar="OUT", help="a new folder for the result")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be 1 or more")
    if arguments.save and arguments.save.exists():
        parser.error(f"--save: {arguments.save} is there already")

    torch.manual_seed(arguments.seed)
    model, tokenizer = load(arguments.folder)
    check_words(tokenizer, arguments.folder)
    pairs, unseen = make_pairs(arguments.seed)
    training, held_out = encode(tokenizer, pairs), encode(tokenizer, unseen)
    longest, positions = training[0]["input_ids"].shape[1], model.config.max_position_embeddings
    if longest > positions:
        sys.exit(f"{arguments.folder}: has {positions} positions, and the pairs {longest} tokens")
    print(f"pairs: {len(set(pairs)):,} to train on, {len(unseen):,} held out")
    by_hypothesis = guess(pairs, unseen, lambda pair: pair.hypothesis)
    by_premise = guess(pairs, unseen, lambda pair: pair.premise)
    print(f"guessed by the hypothesis alone {by_hypothesis:.1%}, by the premise {by_premise:.1%}")

    before = accuracy(model, held_out)
    start = time.perf_counter()
    fine_tune(model, training, arguments.steps)
    seconds = time.perf_counter() - start
    after = accuracy(model, held_out)
    print(f"accuracy on held-out pairs, before {before:.1%}, after {after:.1%}")
    print(f"{seconds:.0f} s of training on {torch.get_num_threads()} threads")
    if arguments.save:
        model.save_pretrained(arguments.save)
        tokenizer.save_pretrained(arguments.save)
        print(f"saved as {arguments.save}")


if __name__ == "__main__":
    main()
