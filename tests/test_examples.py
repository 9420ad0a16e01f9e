"""The example does what its page says: on the converted folder, without network, above chance."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bertconvert import convert

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "finetune_nli.py"


def module(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of this repository, imported. The environment that it sets is put back."""
    for name in ("HF_HUB_OFFLINE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, loaded)  # dataclasses look themselves up there
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def nli(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module(SCRIPT, monkeypatch)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    # One thread: these models are small, and another test may be running.
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def accuracies(output: str) -> tuple[float, float]:
    """Before and after, as the script prints them."""
    found = re.search(
        r"^accuracy on held-out pairs, before ([\d.]+)%, after ([\d.]+)%$", output, re.M
    )
    assert found, output
    return float(found[1]) / 100, float(found[2]) / 100


def test_labels_follow_from_the_ages_that_are_left_open(nli: ModuleType) -> None:
    ages = nli.statements()

    def label(premise: str, hypothesis: str) -> str:
        return nli.LABELS[nli.relation(ages[premise], ages[hypothesis])]

    assert label("6 or 7", "over 5") == "entailment"
    assert label("not over 5", "over 3") == "neutral"
    assert label("2", "not under 4") == "contradiction"
    assert label("over 3", "not under 4") == "entailment"
    assert label("4 or 5", "over 4") == "neutral"
    assert label("under 3", "over 2") == "contradiction"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_hypothesis_alone_says_nothing(nli: ModuleType, seed: int) -> None:
    training, held_out = nli.make_pairs(seed)
    for split in (training, held_out):
        labels: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for pair in split:
            labels[pair.hypothesis][pair.label] += 1
        assert all(len(counts) == 3 for counts in labels.values())
        assert all(len(set(counts.values())) == 1 for counts in labels.values())
    assert nli.guess(training, held_out, lambda pair: pair.hypothesis) == pytest.approx(1 / 3)


def test_statements_that_meet_in_a_held_out_pair_do_not_meet_in_training(nli: ModuleType) -> None:
    def met(pairs: list) -> set[tuple[str, str]]:
        return {
            (pair.premise.partition(" ")[2], pair.hypothesis.partition(" ")[2]) for pair in pairs
        }

    training, held_out = map(met, nli.make_pairs(0))
    assert held_out and not held_out & training


def test_the_same_seed_gives_the_same_pairs(nli: ModuleType) -> None:
    assert nli.make_pairs(0) == nli.make_pairs(0)
    assert nli.make_pairs(0) != nli.make_pairs(1)


def test_every_word_is_checked_that_the_sentences_have(nli: ModuleType) -> None:
    training, held_out = nli.make_pairs(0)
    sentences = {s for pair in training + held_out for s in (pair.premise, pair.hypothesis)}
    assert {word for sentence in sentences for word in sentence.split()} == set(nli.WORDS)


def test_a_converted_folder_trains_and_is_saved(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run(converted("pretraining"), "--steps", "5", "--save", tmp_path / "saved")
    assert done.returncode == 0, done.stderr
    assert "new: classifier.bias, classifier.weight\n" in done.stdout
    assert "guessed by the hypothesis alone 33.3%" in done.stdout
    assert all(0 <= accuracy <= 1 for accuracy in accuracies(done.stdout))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "saved").iterdir()
    }


@pytest.mark.parametrize("what", ["missing", "checkpoint"])
def test_what_is_no_model_folder_is_said_in_one_line(
    nli: ModuleType,
    what: str,
    fixtures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = fixtures / "pretraining" if what == "checkpoint" else tmp_path / "missing"
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, str(folder)])
    with pytest.raises(SystemExit) as caught:
        nli.main()
    # Python prints a text to standard error, and exits with 1.
    assert caught.value.code == (
        f"{folder}: not a folder that bertconvert tf2pt made: it has no config.json"
    )
    assert capsys.readouterr() == ("", "")


def test_words_that_the_vocabulary_lacks_are_named(
    nli: ModuleType, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import BertTokenizerFast

    text = (converted("pretraining") / "vocab.txt").read_text()
    (tmp_path / "vocab.txt").write_text(
        text.replace("\n8\n", "\n[8]\n").replace("\n9\n", "\n[9]\n")
    )
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    with pytest.raises(SystemExit) as caught:
        nli.check_words(tokenizer, Path("folder"))
    assert caught.value.code == (
        "folder: its vocabulary has nothing for 2 of the task's 19 words: 8, 9"
    )


@pytest.mark.slow
def test_bert_tiny_learns_the_task_from_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = module(ROOT / "benchmarks" / "make_checkpoints.py", monkeypatch)
    checkpoints.make(checkpoints.SIZES["tiny"], tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "out")
    done = run(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    before, after = accuracies(done.stdout)
    assert before < 0.45
    assert after > 0.6
