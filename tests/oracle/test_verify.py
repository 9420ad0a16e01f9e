"""The proof with both models running: it needs TensorFlow for one side and torch for the other."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertconvert import Options, VerificationError, convert
from bertconvert.converter import mapping
from bertconvert.converter.checkpoint import open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.models import bert
from bertconvert.converter.prepare import prepare
from bertconvert.converter.tokenizers import wordpiece_reference
from bertconvert.converter.verify import verify
from bertconvert.converter.verify.report import findings
from bertconvert.converter.verify.samples import seeded_samples

from ..arrays import as_tensors, everywhere
from ..helpers import changed_copy, read_variables
from ..verify.sabotage import CONFIGS, LAYERS, TENSORS, Sabotage, configured, of_layer, sabotaged

FIXTURES = ["pretraining", "pretraining-adam", "classifier", "squad", "encoder", "keras-names"]
GROUPS = {
    "classifier": ("pooler", "classifier"),
    "squad": ("pooler", "squad"),
    "encoder": (),
}

Converted = Callable[[str], Path]


@pytest.mark.parametrize("name", FIXTURES)
def test_the_reference_computes_what_google_recorded(name: str, fixtures: Path) -> None:
    recorded = load_file(fixtures / name / "google_outputs.safetensors")
    model = bert.Settings(layers=2, heads=2, groups=GROUPS.get(name, ("pooler", "mlm", "nsp")))
    prepared = prepare(fixtures / name)
    variables = read_variables(
        prepared.checkpoint, {entry.name: entry.variable for entry in prepared.plan.entries}
    )
    inputs = [recorded.pop(key) for key in ("input_ids", "input_mask", "segment_ids")]
    for dtype in ("float32", "float64"):
        outputs = bert.forward(as_tensors(variables, dtype), model, everywhere(*inputs))
        assert outputs.keys() == recorded.keys()
        for key, output in outputs.items():
            assert output.numpy().dtype == dtype
            expected = recorded[key].reshape(output.shape)  # of logits at all positions
            np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("head", "weights"),
    [
        ("nsp", "cls/seq_relationship/output_weights"),
        ("classifier", "output_weights"),
        ("token", "output_weights"),
        ("dense", "dense/kernel"),
        ("token dense", "dense/kernel"),
        ("squad", "cls/squad/output_weights"),
    ],
)
def test_the_reference_says_which_outputs_are_one_product(head: str, weights: str) -> None:
    rng = np.random.default_rng(0)
    model = bert.Settings(layers=1, heads=2, groups=("pooler", head))
    hidden, classes = 8, 2

    def shape(name: str) -> tuple[int, ...]:
        if name == weights:
            return (hidden, classes) if name.endswith("kernel") else (classes, hidden)
        if name == weights.replace("output_weights", "output_bias").replace("kernel", "bias"):
            return (classes,)
        if name.endswith("embeddings"):
            return (2 if "token_type" in name else 9, hidden)
        wide = 4 * hidden if "intermediate" in name else hidden
        if name.endswith("kernel"):
            return (4 * hidden, hidden) if "_0/output" in name else (hidden, wide)
        return (wide,)

    variables = {name: rng.normal(size=shape(name)) for name in bert.names(model)}
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    samples = everywhere(ids, np.ones_like(ids), ids % 2)
    outputs = bert.forward(as_tensors(variables, "float64"), model, samples)
    products = bert.products(variables, model)
    assert set(products) == set(outputs) - {"embeddings", "layer_0"}
    for number, (name, product) in enumerate(products.items()):
        x = outputs[product.source].numpy()
        computed = (x[:, 0] if product.first else x) @ product.matrix + product.bias
        computed = np.tanh(computed) if name == "pooled" else computed
        if head == "squad" and name != "pooled":
            computed = computed[..., number - 1]
        np.testing.assert_allclose(outputs[name].numpy(), computed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", ["classifier", "token"])
@pytest.mark.parametrize(
    "more",
    [
        {"loss/dense_3/kernel": (32, 5), "loss/dense_3/bias": (5,)},
        {"task/output_weights": (5, 32), "task/output_bias": (5,)},
    ],
    ids=["dense", "scoped"],
)
def test_a_head_that_only_the_caller_knows_passes_at_every_level(
    more: dict[str, tuple[int, ...]], head: str, fixtures: Path, tmp_path: Path
) -> None:
    source = changed_copy(tmp_path / "in", fixtures / "classifier", more, without="output_")
    convert(source, tmp_path / "out", head=head)
    verdict = verify(source, tmp_path / "out", level="gradients")
    assert [check for check in verdict.checks if not check.passed] == []
    assert verdict.outputs[-1].tensor == "logits"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", FIXTURES)
def test_a_faithful_folder_passes_at_every_level(
    name: str,
    seed: int,
    fixtures: Path,
    converted: Converted,
) -> None:
    verdict = verify(fixtures / name, converted(name), level="gradients", seed=seed)
    assert [check for check in verdict.checks if not check.passed] == []
    assert verdict.causes == []
    assert verdict.activation is not None and verdict.activation.matches == "GELU by tanh"
    assert verdict.activation.cost > 1e-4


@pytest.mark.parametrize(
    "sabotage",
    [*TENSORS, *(mistake for number in LAYERS for mistake in of_layer(number))],
    ids=lambda mistake: f"{mistake.name}: {mistake.tensor}",
)
def test_a_mistake_in_the_tensors_shows_in_the_first_output_behind_it(
    sabotage: Sabotage,
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="outputs")
    assert not verdict.passed
    assert verdict.first_output == sabotage.output
    assert sabotage.kind in {cause.kind for cause in verdict.causes}


@pytest.mark.parametrize("sabotage", CONFIGS, ids=lambda mistake: mistake.name)
def test_a_mistake_in_the_config_is_named_by_trying_it(
    sabotage: Sabotage,
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="outputs")
    assert verdict.first_output == sabotage.output
    assert [(c.kind, c.tensors) for c in verdict.causes] == [(sabotage.kind, (sabotage.tensor,))]


def test_an_ignored_padding_mask_is_named(
    fixtures: Path,
    converted: Converted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import BertModel

    original = BertModel.forward

    def without_mask(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **(kwargs | {"attention_mask": None}))

    monkeypatch.setattr(BertModel, "forward", without_mask)
    verdict = verify(fixtures / "pretraining", converted("pretraining"), level="outputs")
    assert [check.name for check in verdict.checks if not check.passed] == ["float64", "float32"]
    assert [cause.text for cause in verdict.causes] == ["OUT ignores the padding mask"]
    assert verdict.first_output == "layer_0"


def test_segments_that_are_left_out_are_named(
    fixtures: Path,
    converted: Converted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import BertModel

    original = BertModel.forward

    def without_segments(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **(kwargs | {"token_type_ids": None}))

    monkeypatch.setattr(BertModel, "forward", without_segments)
    verdict = verify(fixtures / "pretraining", converted("pretraining"), level="outputs")
    assert verdict.first_output == "embeddings"
    assert [cause.kind for cause in verdict.causes] == ["segments"]


@pytest.mark.parametrize("pair", [("query", "key"), ("key", "value"), ("gamma", "beta")])
def test_a_mapping_that_swaps_variables_passes_level_weights_and_is_named_at_level_outputs(
    pair: tuple[str, str], fixtures: Path, tmp_path: Path
) -> None:
    text = (mapping.FOLDER / "bert.toml").read_text()
    one, other = pair
    if one == "gamma":
        swapped = {"gamma": "beta", "beta": "gamma"}
        text = re.sub(
            r'(tf = "[^"]*/)(gamma|beta)"', lambda found: f'{found[1]}{swapped[found[2]]}"', text
        )
    else:
        # A loop fills both names with the same word; three rules can cross them.
        crossed = {"query": "query", "key": "key", "value": "value", one: other, other: one}
        text = "\n".join(
            crossed_line
            for line in text.split("\n")
            for crossed_line in (
                [
                    line.replace("{p}", source, 1)
                    .replace("{p}", target, 1)
                    .replace(', p = ["query", "key", "value"]', "")
                    for target, source in crossed.items()
                ]
                if "self/{p}/" in line
                else [line]
            )
        )
    crooked = tmp_path / "crooked.toml"
    crooked.write_text(text)
    options = Options(mapping=str(crooked))
    convert(fixtures / "pretraining", tmp_path / "out", options)
    assert verify(
        fixtures / "pretraining", tmp_path / "out", level="weights", options=options
    ).passed
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="outputs", options=options)
    assert [cause.text for cause in verdict.causes] == [f"the mapping swaps {one} and {other}"]


def test_what_only_the_caller_knew_is_what_both_models_compute_with(
    fixtures: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(fixtures / "pretraining", tmp_path / "in")
    (source / "bert_config.json").unlink()
    convert(source, tmp_path / "out", num_heads=4, activation="erf")
    verdict = verify(source, tmp_path / "out", level="gradients")
    assert [check for check in verdict.checks if not check.passed] == []
    assert verdict.activation is not None and verdict.activation.matches == "GELU by erf"
    assert not verify(source, tmp_path / "out", level="outputs", num_heads=2).passed


def test_a_cast_is_proved_at_level_outputs_by_processes_of_its_own(
    fixtures: Path, tmp_path: Path
) -> None:
    for command in (["tf2pt", "--dtype", "bfloat16"], ["verify", "--level", "outputs"]):
        places = [fixtures / "pretraining", tmp_path / "out"]
        result = subprocess.run(
            [sys.executable, "-m", "bertconvert", *command, *places],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    assert "all 46 tensors equal their variables cast to bfloat16" in result.stdout
    assert "outputs: same" in result.stdout


def test_a_wrong_padding_token_shows_in_the_gradients(
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    # [CLS] of the fixtures' vocabulary: its embedding would never be trained.
    sabotage = Sabotage("padding", configured(pad_token_id=6), "padding row")
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="gradients")
    wrong = [gradient.tensor for gradient in verdict.gradients if not gradient.passed]
    assert wrong == ["bert.embeddings.word_embeddings.weight"]
    assert [cause.kind for cause in verdict.causes] == ["padding row"]
    assert all(check.passed for check in verdict.at("outputs"))


def test_an_untied_head_is_caught_though_its_outputs_are_right(
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    def untie(tensors: Any, config: Any) -> None:
        config["tie_word_embeddings"] = False
        tensors["cls.predictions.decoder.weight"] = tensors[
            "bert.embeddings.word_embeddings.weight"
        ]
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]

    out = sabotaged(converted("pretraining"), tmp_path / "out", Sabotage("untied", untie, "untied"))
    verdict = verify(fixtures / "pretraining", out, level="gradients")
    assert all(check.passed for check in verdict.at("outputs"))
    assert not all(check.passed for check in verdict.at("gradients"))
    assert [cause.kind for cause in verdict.causes] == ["untied"]


def test_a_layer_too_many_is_an_output_that_differs(
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    sabotage = Sabotage("a layer more", configured(num_hidden_layers=3), "random")
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="gradients")
    assert verdict.first_output == "layer_2"
    assert "random" in {cause.kind for cause in verdict.causes}


def test_a_tensor_that_transformers_makes_up_is_named(
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    sabotage = Sabotage("untied", configured(tie_word_embeddings=False), "random")
    out = sabotaged(converted("pretraining"), tmp_path / "out", sabotage)
    verdict = verify(fixtures / "pretraining", out, level="outputs")
    assert ("random", "cls.predictions.decoder.weight") in {
        (cause.kind, tensor) for cause in verdict.causes for tensor in cause.tensors
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_folder_is_held_against_the_cast_of_its_variables(
    dtype: str, fixtures: Path, tmp_path: Path
) -> None:
    convert(fixtures / "pretraining", tmp_path / "out", Options(dtype=dtype))
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="gradients")
    assert [check for check in verdict.checks if not check.passed] == []
    assert verdict.matches[0].cast
    assert f"cast to {dtype}" in verdict.checks[0].detail


def test_the_older_gelu_is_another_function_unless_it_is_asked_for(
    fixtures: Path, tmp_path: Path
) -> None:
    erf = Options(activation="erf")
    convert(fixtures / "pretraining", tmp_path / "out", erf)
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="outputs")
    assert verdict.passed  # conversion.json tells which form the caller chose
    assert any("erf" in fact for fact in verdict.unproved), verdict.unproved
    (tmp_path / "out" / "conversion.json").unlink()
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="outputs")
    assert [cause.kind for cause in verdict.causes] == ["activation"]
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="outputs", options=erf)
    assert verdict.passed
    assert verdict.activation is not None and verdict.activation.matches == "GELU by erf"


@pytest.mark.parametrize(
    ("stated", "choice", "matches"),
    [
        ("gelu", "auto", "GELU by erf"),
        ("gelu_new", "auto", "GELU by tanh"),
        ("gelu", "gelu_new", "GELU by tanh"),
    ],
)
def test_the_activation_of_transformers_own_config_is_what_the_reference_computes(
    stated: str, choice: str, matches: str, fixtures: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(fixtures / "pretraining", tmp_path / "source")
    config = json.loads((source / "bert_config.json").read_text())
    config |= {"hidden_act": stated, "model_type": "bert"}
    (source / "bert_config.json").write_text(json.dumps(config))
    options = Options(activation=choice)
    convert(source, tmp_path / "out", options)
    verdict = verify(source, tmp_path / "out", level="outputs", options=options)
    assert verdict.passed
    assert verdict.activation is not None and verdict.activation.matches == matches


def test_a_nan_in_the_checkpoint_must_be_in_the_folder_and_is_said(
    fixtures: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(fixtures / "pretraining")
    variables = {name: checkpoint[name].copy() for name in checkpoint}
    variables["cls/predictions/output_bias"][[3, 5]] = np.nan, np.inf
    shutil.copytree(fixtures / "pretraining", tmp_path / "ckpt")
    write_bundle(tmp_path / "ckpt" / "bert_model.ckpt", variables)
    convert(tmp_path / "ckpt", tmp_path / "out")
    verdict = verify(tmp_path / "ckpt", tmp_path / "out", level="outputs")
    said = {check.name: check.detail for check in verdict.checks if check.name.startswith("NaN")}
    assert [check for check in verdict.checks if not check.passed] == []
    assert "at the same places on both sides" in said["NaN or infinity"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors["cls.predictions.bias"][3] = 0
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    verdict = verify(tmp_path / "ckpt", tmp_path / "out", level="outputs")
    failed = {(check.level, check.name) for check in verdict.checks if not check.passed}
    assert {("weights", "NaN or infinity"), ("outputs", "NaN or infinity")} <= failed
    assert verdict.first_output == "mlm_logits"


def test_a_token_classifier_is_compared_token_by_token(fixtures: Path, tmp_path: Path) -> None:
    options = Options(head="token")
    convert(fixtures / "classifier", tmp_path / "out", options)
    verdict = verify(fixtures / "classifier", tmp_path / "out", level="gradients")
    assert [check for check in verdict.checks if not check.passed] == []
    assert "logits" in {output.tensor for output in verdict.outputs}


@pytest.mark.parametrize("head", ["mlm", "nsp", "none"])
def test_a_folder_with_fewer_heads_than_the_checkpoint_passes(
    head: str, fixtures: Path, tmp_path: Path
) -> None:
    convert(fixtures / "pretraining", tmp_path / "out", Options(head=head))
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="gradients")
    assert [check for check in verdict.checks if not check.passed] == []
    assert verdict.dropped and all(drop.reason for drop in verdict.dropped)


def test_a_text_goes_through_both_tokenizers(
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the of And in\n\nTo was he, is! 3 as ö\nunknown漢字 words\n", encoding="utf-8")
    out = shutil.copytree(converted("pretraining"), tmp_path / "out")
    verdict = verify(fixtures / "pretraining", out, level="outputs", text=text)
    assert [check for check in verdict.checks if not check.passed] == []
    assert "tokenizers" in {check.name for check in verdict.checks}
    assert verdict.text is not None
    assert (verdict.text.name, verdict.text.lines, verdict.samples) == ("text.txt", 3, 3)
    assert verdict.text.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    said = findings(verdict)
    assert "seeded" not in said and "3 lines of text.txt" in said
    tokenizer = (out / "tokenizer.json").read_text()
    (out / "tokenizer.json").write_text(
        tokenizer.replace("Lowercase", "Strip").replace(
            '"type": "Strip"', '"type": "Strip", "strip_left": true, "strip_right": true'
        )
    )
    verdict = verify(fixtures / "pretraining", out, level="outputs", text=text)
    (failed,) = [check for check in verdict.at("outputs") if not check.passed]
    assert failed.name == "tokenizers" and "line 1" in failed.detail


def test_a_zip_is_read_by_tensorflow_too(
    fixtures: Path,
    converted: Converted,
    tmp_path: Path,
) -> None:
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", fixtures / "pretraining")
    assert verify(archive, converted("pretraining"), level="outputs").passed


def test_a_model_in_a_scope_is_found_by_tensorflow_too(fixtures: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(fixtures / "pretraining")
    variables = {f"teacher/{name}": checkpoint[name] for name in checkpoint}
    (tmp_path / "ckpt").mkdir()
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(fixtures / "pretraining" / name, tmp_path / "ckpt")
    write_bundle(tmp_path / "ckpt" / "bert_model.ckpt", variables)
    convert(tmp_path / "ckpt", tmp_path / "out")
    assert verify(tmp_path / "ckpt", tmp_path / "out", level="gradients").passed


def test_a_torch_file_is_loaded_without_unpickling_anything_but_tensors(
    fixtures: Path, tmp_path: Path
) -> None:
    import torch

    convert(fixtures / "pretraining", tmp_path / "out", Options(formats=("bin",)))
    assert verify(fixtures / "pretraining", tmp_path / "out", level="outputs").passed

    class Harm:
        def __reduce__(self) -> Any:
            return (print, ("unpickled",))

    torch.save({"bert.pooler.dense.bias": Harm()}, tmp_path / "out" / "pytorch_model.bin")
    with pytest.raises(VerificationError, match="was not loaded"):
        verify(fixtures / "pretraining", tmp_path / "out", level="weights")


def test_a_torch_file_beside_the_other_is_compared_too(fixtures: Path, tmp_path: Path) -> None:
    import torch

    both = Options(formats=("safetensors", "bin"))
    convert(fixtures / "pretraining", tmp_path / "out", both)
    path = tmp_path / "out" / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    state["bert.pooler.dense.bias"][0] += 1
    torch.save(state, path)
    verdict = verify(fixtures / "pretraining", tmp_path / "out", level="weights")
    assert [check.name for check in verdict.checks if not check.passed] == ["pytorch_model.bin"]


@pytest.mark.parametrize("lower_case", [True, False])
def test_googles_rules_written_anew_give_googles_ids(lower_case: bool, fixtures: Path) -> None:
    from absl import flags
    from bert import tokenization as google

    flags.FLAGS.mark_as_parsed()  # tokenization.py reads a flag of its own
    vocabulary = tuple((fixtures / "pretraining" / "vocab.txt").read_text().split("\n")[:-1])
    tokenizer = google.FullTokenizer(
        str(fixtures / "pretraining" / "vocab.txt"), do_lower_case=lower_case
    )
    texts = [
        "The of, and in! TÖ was\u3000he 漢字is [MASK] \x00\x07a\u200db",
        "é" * 201,
        "a" * 200,
        "",
    ]
    texts += [chr(code) + "a" + chr(code) for code in range(0x3000)]
    for text in texts:
        expected = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        assert wordpiece_reference.encode(text, vocabulary, lower_case) == expected, repr(text)


def compact(layers: int, hidden: int, seed: int, folder: Path, vocabulary: int = 1024) -> Path:
    """A checkpoint of the compact family with small random weights, and few tokens."""
    import json

    rng = np.random.default_rng(seed)
    heads = hidden // 64
    model = bert.Settings(layers=layers, heads=heads, groups=("pooler", "mlm", "nsp"))
    outer = {
        "intermediate/dense/kernel": (hidden, 4 * hidden),
        "intermediate/dense/bias": (4 * hidden,),
    }
    shapes = {
        "word_embeddings": (vocabulary, hidden),
        "position_embeddings": (512, hidden),
        "token_type_embeddings": (2, hidden),
        "predictions/output_bias": (vocabulary,),
        "seq_relationship/output_weights": (2, hidden),
        "seq_relationship/output_bias": (2,),
        **outer,
    }

    def shape(name: str) -> tuple[int, ...]:
        for ending, known in shapes.items():
            if name.endswith(ending):
                return known
        if re.search(r"layer_\d+/output/dense/kernel", name):
            return (4 * hidden, hidden)
        return (hidden, hidden) if name.endswith("kernel") else (hidden,)

    variables = {
        name: (rng.standard_normal(shape(name)) * 0.02 + name.endswith("gamma")).astype(np.float32)
        for name in bert.names(model)
    }
    folder.mkdir()
    config = {"num_attention_heads": heads, "hidden_act": "gelu", "num_hidden_layers": layers}
    (folder / "bert_config.json").write_text(json.dumps(config))
    write_bundle(folder / "bert_model.ckpt", variables)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("hidden", [128, 256, 512, 768])
@pytest.mark.parametrize("layers", [2, 4, 6, 8, 10, 12])
def test_no_size_of_the_compact_family_gives_a_false_alarm(
    layers: int, hidden: int, seed: int, tmp_path: Path
) -> None:
    checkpoint = compact(layers, hidden, seed, tmp_path / "ckpt")
    convert(checkpoint, tmp_path / "out")
    verdict = verify(checkpoint, tmp_path / "out", level="gradients", seed=seed)
    shutil.rmtree(tmp_path)
    assert [check for check in verdict.checks if not check.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "mini", "small", "medium"])
def test_googles_modeling_agrees_with_the_reference_at_full_size(
    size: str, fixtures: Path, tmp_path: Path
) -> None:
    make = load_module(fixtures.parent / "benchmarks" / "make_checkpoints.py")
    google = load_module(fixtures / "google_bert.py")
    chosen = make.SIZES[size]
    folder = tmp_path / chosen.folder
    make.make(chosen, folder)
    config = make.bert_config(chosen)
    (batch,) = seeded_samples(
        4,
        0,
        vocab_size=make.VOCABULARY,
        max_length=make.POSITIONS,
        segments=2,
        special={"cls_token": 101, "sep_token": 102, "unk_token": 100, "mask_token": 103},
        pad_id=0,
        positions=32,
    )[1:]
    recorded = google.run(
        folder / make.PREFIX,
        config,
        "pretraining",
        batch.input_ids,
        batch.input_mask,
        batch.segment_ids,
    )
    model = bert.Settings(layers=chosen.layers, heads=chosen.heads, groups=("pooler", "mlm", "nsp"))
    checkpoint = open_checkpoint(folder)
    variables = read_variables(checkpoint, {name: name for name in bert.names(model)})
    single = bert.forward(as_tensors(variables, "float32"), model, batch)
    double = bert.forward(as_tensors(variables, "float64"), model, batch)
    shutil.rmtree(folder)
    assert single.keys() == recorded.keys()
    recorded["mlm_logits"] = recorded["mlm_logits"].reshape(-1, make.VOCABULARY)[batch.masked]
    for name, output in recorded.items():
        ulp = np.spacing(np.abs(output).max())
        # The rounding that modeling.py has itself, and not more, is between the two.
        own = np.abs(output - double[name].numpy()).max()
        assert own <= 32 * ulp
        assert np.abs(output - single[name].numpy()).max() <= 2 * max(own, 4 * ulp)


def load_module(path: Path) -> Any:
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_other_names_than_googles_leave_level_weights_open(fixtures: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(fixtures / "encoder")
    variables = {name.replace("bert/", "trunk/"): checkpoint[name] for name in checkpoint}
    (tmp_path / "ckpt").mkdir()
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(fixtures / "encoder" / name, tmp_path / "ckpt")
    write_bundle(tmp_path / "ckpt" / "model.ckpt", variables)
    text = (mapping.FOLDER / "bert.toml").read_text().replace('"bert/', '"trunk/')
    (tmp_path / "trunk.toml").write_text(text)
    options = Options(mapping=str(tmp_path / "trunk.toml"))
    convert(tmp_path / "ckpt", tmp_path / "out", options)
    verdict = verify(tmp_path / "ckpt", tmp_path / "out", level="outputs", options=options)
    assert all(check.passed for check in verdict.at("weights"))
    (check,) = verdict.at("outputs")
    assert not check.passed and "level weights" in check.detail


@pytest.mark.parametrize("partitioned", [False, True])
def test_tensorflow_reads_the_older_format_too(
    partitioned: bool, fixtures: Path, tmp_path: Path
) -> None:
    import tensorflow.compat.v1 as tf

    checkpoint = open_checkpoint(fixtures / "encoder")
    (tmp_path / "ckpt").mkdir()
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(fixtures / "encoder" / name, tmp_path / "ckpt")
    with tf.Graph().as_default(), tf.Session() as session:
        words = "bert/embeddings/word_embeddings"
        parts = None
        for name in checkpoint:
            if partitioned and name == words:
                parts = tf.get_variable(
                    name,
                    shape=checkpoint[name].shape,
                    initializer=tf.zeros_initializer(),
                    partitioner=tf.fixed_size_partitioner(2),
                )
            else:
                tf.get_variable(name, initializer=checkpoint[name])
        session.run(tf.global_variables_initializer())
        for part, rows in zip(parts or (), np.split(checkpoint[words], 2), strict=False):
            part.load(rows, session)
        saver = tf.train.Saver(write_version=tf.train.SaverDef.V1)
        saver.save(session, str(tmp_path / "ckpt" / "model.ckpt"), write_meta_graph=False)
    convert(tmp_path / "ckpt", tmp_path / "out")
    verdict = verify(tmp_path / "ckpt", tmp_path / "out", level="outputs")
    assert [check for check in verdict.checks if not check.passed] == []
