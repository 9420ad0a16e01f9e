"""The proof of folders that transformers wrote, in the forms that its versions gave them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertconvert import verify
from bertconvert.converter.verify.verdict import Verdict

Converted = Callable[[str], Path]
State = dict[str, torch.Tensor]


def loaded(folder: Path, name: str = "") -> Any:
    name = name or json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(folder)


def rewritten(folder: Path, out: Path, change: Callable[[State], State | None], form: str) -> Path:
    """The folder as another program wrote it: other names, another form, no conversion.json."""
    shutil.copytree(folder, out)
    (out / "conversion.json").unlink()
    state = load_file(out / "model.safetensors")
    (out / "model.safetensors").unlink()
    state = change(state) or state
    if form == "safetensors":
        save_file(state, out / "model.safetensors", {"format": "pt"})
        return out
    if form == "bin":
        torch.save(state, out / "pytorch_model.bin")
        return out
    names = sorted(state)
    kind = form.removesuffix(" in shards")
    shards = {"one": names[::2], "two": names[1::2]}
    start = "model" if kind == "safetensors" else "pytorch_model"
    files = {shard: f"{start}-{shard}.{kind}" for shard in shards}
    for shard, inside in shards.items():
        part = {name: state[name] for name in inside}
        if kind == "safetensors":
            save_file(part, out / files[shard], {"format": "pt"})
        else:
            torch.save(part, out / files[shard])
    places = {name: files[shard] for shard, inside in shards.items() for name in inside}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (out / f"{start}.{kind}.index.json").write_text(json.dumps(index))
    return out


def old_names(state: State) -> State:
    """As transformers 2 wrote them."""
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in state.items():
        end = next((end for end in ends if name.endswith(end)), "")
        renamed[name.removesuffix(end) + ends[end] if end else name] = tensor
    assert renamed != state
    return renamed


def with_buffer(state: State) -> None:
    """As transformers 3 to 4.30 saved it."""
    state["bert.embeddings.position_ids"] = torch.arange(64)[None]


def with_decoder(state: State) -> None:
    """The tensors that are tied, written out."""
    words = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.weight"] = words.clone()
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"].clone()


def decoder_alone(state: State) -> None:
    words = state.pop("bert.embeddings.word_embeddings.weight")
    state["cls.predictions.decoder.weight"] = words


def as_is(state: State) -> None:
    pass


def without_prefix(state: State) -> State:
    return {name.removeprefix("bert."): tensor for name, tensor in state.items()}


def proved(checkpoint: Path, out: Path, **options: Any) -> Verdict:
    verdict = verify(checkpoint, out, level="gradients", samples=2, **options)
    assert verdict.passed, [check for check in verdict.checks if not check.passed]
    assert verdict.gradients
    return verdict


@pytest.mark.parametrize("form", ["bin", "safetensors in shards", "bin in shards"])
def test_weights_in_every_form_are_proved(
    fixtures: Path, converted: Converted, tmp_path: Path, form: str
) -> None:
    out = rewritten(converted("pretraining"), tmp_path / "out", as_is, form)
    proved(fixtures / "pretraining", out)


@pytest.mark.parametrize("change", [old_names, with_buffer, with_decoder, decoder_alone])
def test_tensors_under_other_names_are_proved(
    fixtures: Path, converted: Converted, tmp_path: Path, change: Callable[[State], State | None]
) -> None:
    out = rewritten(converted("pretraining"), tmp_path / "out", change, "safetensors")
    assert not loaded(out).training
    proved(fixtures / "pretraining", out)


@pytest.mark.parametrize("name", ["squad", "classifier"])
def test_a_model_with_a_head_and_without_a_prefix_is_proved(
    fixtures: Path, converted: Converted, tmp_path: Path, name: str
) -> None:
    out = rewritten(converted(name), tmp_path / "out", without_prefix, "safetensors")
    proved(fixtures / name, out)


@pytest.mark.parametrize(
    ("name", "shard_size"),
    [
        ("pretraining", "10GB"),
        ("classifier", "20KB"),
        ("albert", "20KB"),
        ("electra", "20KB"),
        ("mobilebert", "20KB"),
    ],
)
def test_what_transformers_saves_again_is_proved(
    fixtures: Path, converted: Converted, tmp_path: Path, name: str, shard_size: str
) -> None:
    source, out = converted(name), tmp_path / "out"
    loaded(source).save_pretrained(out, max_shard_size=shard_size)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(out)
    assert (out / "model.safetensors").exists() == (shard_size == "10GB")
    proved(fixtures / name, out)


def test_another_shard_is_named(fixtures: Path, converted: Converted, tmp_path: Path) -> None:
    out = rewritten(converted("squad"), tmp_path / "out", as_is, "safetensors in shards")
    file = out / "model-two.safetensors"
    state = load_file(file)
    (name, tensor), *_ = state.items()
    save_file(state | {name: tensor + 1}, file, {"format": "pt"})
    verdict = verify(fixtures / "squad", out, level="weights")
    assert verdict.first_tensor == name


def test_the_class_is_that_of_the_weights_where_the_config_names_a_smaller_one(
    fixtures: Path, converted: Converted, tmp_path: Path
) -> None:
    out = rewritten(converted("pretraining"), tmp_path / "out", as_is, "safetensors")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    verdict = proved(fixtures / "pretraining", out)
    assert verdict.architecture == "BertForPreTraining"
    assert "config.json says BertForMaskedLM, and the weights are those of BertForPreTraining" in (
        verdict.notes
    )
    chosen = proved(fixtures / "pretraining", out, head="BertForMaskedLM")
    assert any("cls.seq_relationship.weight" in note for note in chosen.notes)


def test_the_class_is_that_of_the_weights_where_the_config_names_none(
    fixtures: Path, converted: Converted, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    loaded(converted("pretraining"), "BertForMaskedLM").save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    del config["architectures"]
    (out / "config.json").write_text(json.dumps(config))
    verdict = verify(fixtures / "pretraining", out, level="weights", head=None)
    assert verdict.architecture == "BertForMaskedLM"


def test_a_head_that_the_checkpoint_lacks_is_left_out_where_the_caller_says_so(
    fixtures: Path, converted: Converted, tmp_path: Path
) -> None:
    def with_head(state: State) -> None:
        state["my_head.weight"] = torch.ones(3)

    out = rewritten(converted("pretraining"), tmp_path / "out", with_head, "safetensors")
    assert not verify(fixtures / "pretraining", out, level="weights").passed
    assert verify(fixtures / "pretraining", out, level="outputs", head="BertModel").passed


def test_an_untied_decoder_fails(fixtures: Path, converted: Converted, tmp_path: Path) -> None:
    def untied(state: State) -> None:
        with_decoder(state)
        state["cls.predictions.decoder.weight"] += 1

    out = rewritten(converted("pretraining"), tmp_path / "out", untied, "safetensors")
    verdict = verify(fixtures / "pretraining", out, level="weights")
    (check,) = [check for check in verdict.checks if not check.passed]
    assert "cls.predictions.decoder.weight" in check.detail


@pytest.mark.parametrize("name", ["pretraining", "albert", "electra", "mobilebert"])
def test_transformers_lower_cases_if_no_file_says_whether_to(
    converted: Converted, tmp_path: Path, name: str
) -> None:
    """By which a vocabulary with upper case is read by another tokenizer than it was made for."""
    kept = ("config.json", "vocab.txt", "spiece.model")
    out = shutil.copytree(converted(name), tmp_path / "out")
    for file in out.iterdir():
        if file.name not in kept:
            file.unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.backend_tokenizer.normalizer.normalize_str("A") == "a"
