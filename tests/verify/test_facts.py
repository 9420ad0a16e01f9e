"""What level weights finds, fact by fact."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertconvert import convert, verify
from bertconvert.converter.verify.report import to_json
from bertconvert.converter.verify.verdict import Fact

Converted = Callable[[str], Path]


@pytest.fixture
def out(converted: Converted, tmp_path: Path) -> Path:
    """A folder as another program wrote it, which may be changed."""
    folder = shutil.copytree(converted("pretraining"), tmp_path / "out")
    (folder / "conversion.json").unlink()
    return folder


def facts(checkpoint: Path, out: Path, **options: Any) -> dict[str, Fact]:
    verdict = verify(checkpoint, out, level="weights", **options)
    found = {fact.name: fact for fact in verdict.facts}
    assert len(found) == len(verdict.facts)
    has_provenance = (out / "conversion.json").exists()
    assert has_provenance or verdict.passed == all(f.same is not False for f in verdict.facts)
    return found


def differing(checkpoint: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Expected and found, of the facts that differ."""
    every = facts(checkpoint, out).values()
    return {fact.name: (fact.expected, fact.found) for fact in every if fact.same is False}


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_every_fact_of_a_faithful_folder_is_the_checkpoints(fixtures: Path, out: Path) -> None:
    found = facts(fixtures / "pretraining", out)
    assert {fact.name: fact.found for fact in found.values()} == {
        "bits": "equal",
        "heads": "2",
        "activation": "gelu_pytorch_tanh",
        "config": "equal",
        "tokenizer": "128 tokens",
        "casing": "lower-cases",
    }
    assert all(fact.same for fact in found.values())
    assert all(fact.expected == fact.found for fact in found.values())


def test_a_cast_is_equal_bits_and_says_the_dtype(fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "pretraining", tmp_path / "half", dtype="float16")
    bits = facts(fixtures / "pretraining", tmp_path / "half")["bits"]
    assert (bits.found, bits.same) == ("equal, cast to float16", True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"num_attention_heads": 4}, {"heads": ("2", "4")}),
        ({"hidden_act": "gelu"}, {"activation": ("gelu_pytorch_tanh", "gelu")}),
        (
            {"layer_norm_eps": 1e-5},
            {"config": ("equal", "layer_norm_eps is 1e-05, but must be 1e-12")},
        ),
    ],
    ids=["heads", "activation", "epsilon"],
)
def test_a_wrong_value_is_its_own_fact(
    fixtures: Path, out: Path, values: dict[str, Any], expected: dict[str, tuple[str, str]]
) -> None:
    edit(out / "config.json", **values)
    assert differing(fixtures / "pretraining", out) == expected


def test_other_casing_is_not_another_vocabulary(fixtures: Path, out: Path) -> None:
    (out / "tokenizer.json").unlink()
    edit(out / "tokenizer_config.json", do_lower_case=False)
    (fault,) = differing(fixtures / "pretraining", out).items()
    assert fault[0] == "casing" and fault[1][0] == "lower-cases"
    assert "does not lower-case text, but the vocabulary is uncased" in fault[1][1]


def test_without_a_file_that_says_it_transformers_lower_cases(fixtures: Path, out: Path) -> None:
    """As the tokenizer of a folder does that has vocab.txt alone."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (out / name).unlink(missing_ok=True)
    casing = facts(fixtures / "pretraining", out)["casing"]
    assert casing == Fact("casing", "lower-cases", "lower-cases, by default", True)
    casing = facts(fixtures / "pretraining", out, lower_case=False)["casing"]
    assert (casing.expected, casing.same) == ("keeps case", False)
    assert "so transformers lower-cases it, but the vocabulary is cased" in casing.found


def test_another_token_is_not_another_casing(fixtures: Path, out: Path) -> None:
    (out / "tokenizer.json").unlink()
    tokens = (out / "vocab.txt").read_text().splitlines()
    tokens[100] = "other"
    (out / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    found = "1 tokens differ from the checkpoint's vocabulary, the first at 100"
    assert differing(fixtures / "pretraining", out) == {"tokenizer": ("128 tokens", found)}


def test_a_missing_tokenizer_differs_from_a_checkpoint_with_a_vocabulary(
    fixtures: Path, out: Path
) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (out / name).unlink()
    assert [*differing(fixtures / "pretraining", out)] == ["tokenizer"]


@pytest.mark.parametrize("change", ["differ", "missing"])
def test_bits_are_wrong_if_a_tensor_differs_or_is_missing(
    fixtures: Path, out: Path, change: str
) -> None:
    name = "bert.pooler.dense.bias"
    tensors = load_file(out / "model.safetensors")
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = np.nextafter(tensors[name], 1)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    ((_, found),) = differing(fixtures / "pretraining", out).values()
    assert change in found and name in found


def test_what_nothing_tells_is_neither_the_same_nor_different(
    fixtures: Path, out: Path, tmp_path: Path
) -> None:
    plain = shutil.copytree(fixtures / "pretraining", tmp_path / "plain")
    for name in ("bert_config.json", "vocab.txt"):
        (plain / name).unlink()
    edit(out / "config.json", num_attention_heads=1)  # as assumed
    found = facts(plain, out)
    untold = {name for name, fact in found.items() if fact.same is None}
    assert untold == {"heads", "activation", "tokenizer", "casing"}
    assert found["tokenizer"].expected == found["casing"].expected == ""


def test_what_only_conversion_json_tells_is_not_the_same(fixtures: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(fixtures / "pretraining", tmp_path / "plain")
    (plain / "bert_config.json").unlink()
    convert(plain, tmp_path / "out", num_heads=2, activation="erf", lower_case=False)
    found = facts(plain, tmp_path / "out")
    untold = {name for name, fact in found.items() if fact.same is None}
    assert untold == {"heads", "activation", "casing"}
    assert [found[name].found for name in ("heads", "activation", "casing")] == [
        "2",
        "gelu",
        "keeps case",
    ]


def test_the_json_has_the_facts(fixtures: Path, out: Path) -> None:
    edit(out / "config.json", num_attention_heads=4)
    document = json.loads(to_json(verify(fixtures / "pretraining", out, level="weights")))
    heads = {"name": "heads", "expected": "2", "found": "4", "same": False}
    assert heads in document["facts"]
