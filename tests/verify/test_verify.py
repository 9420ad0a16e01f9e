"""`bertconvert verify` as a user meets it, where neither torch nor TensorFlow is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

import bertconvert.converter.convert as convert_module
import bertconvert.converter.verify.packages as packages
import bertconvert.converter.verify.run as run_module
from bertconvert import Options, VerificationError, convert
from bertconvert.cli import cli
from bertconvert.converter import mapping
from bertconvert.converter.checkpoint import open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.choices import DType
from bertconvert.converter.convert import Proof
from bertconvert.converter.prepare import Prepared
from bertconvert.converter.storage import archives
from bertconvert.converter.verify import verify
from bertconvert.converter.verify.report import lines

FIXTURES = ["pretraining", "pretraining-adam", "classifier", "squad", "encoder", "keras-names"]
Converted = Callable[[str], Path]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, args)], prog_name="bertconvert")


def weights(fixtures: Path, out: Path, name: str = "pretraining", *args: str | Path) -> Result:
    return run(fixtures / name, out, "--level", "weights", *args)


@pytest.fixture
def out(converted: Converted, tmp_path: Path) -> Path:
    """A folder that may be changed."""
    return shutil.copytree(converted("pretraining"), tmp_path / "out")


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", FIXTURES)
def test_a_faithful_folder_passes(name: str, fixtures: Path, converted: Converted) -> None:
    result = weights(fixtures, converted(name), name)
    assert result.exit_code == 0
    assert "PASS: all" in result.stdout and "level weights" in result.stdout


def test_the_report_fits_80_columns_and_has_no_colour_when_it_is_piped(
    fixtures: Path, out: Path
) -> None:
    edited(out / "config.json", num_attention_heads=4, hidden_act="relu", vocab_size=99)
    result = weights(fixtures, out)
    assert result.exit_code == 1
    # The paths of the first line are the user's own.
    assert all(len(line) <= 80 for line in result.output.splitlines()[2:])
    assert "\x1b" not in result.output


def test_a_json_document_holds_the_ledger_and_the_bounds(
    fixtures: Path, out: Path, tmp_path: Path
) -> None:
    result = weights(fixtures, out, "pretraining", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["passed"] is True
    assert document["bounds"]["float64_relative"] == 1e-11
    assert len(document["matches"]) == 46
    assert document["matches"][0]["variable"] == "bert/embeddings/word_embeddings"


def test_junit_counts_failures_that_ci_can_read(fixtures: Path, out: Path, tmp_path: Path) -> None:
    tensors = load_file(out / "model.safetensors")
    tensors["bert.pooler.dense.bias"] += 1
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    assert weights(fixtures, out, "pretraining", "--junit", tmp_path / "v.xml").exit_code == 1
    (suite,) = ElementTree.parse(tmp_path / "v.xml").getroot()
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert suite.get("failures") == str(len(failed))
    assert set(failed) == {"model.safetensors", "bert.pooler.dense.bias"}


def test_the_page_needs_nothing_else_and_escapes_names(
    fixtures: Path, out: Path, tmp_path: Path
) -> None:
    odd = out.rename(tmp_path / "<script>alert(1)<")
    assert weights(fixtures, odd, "pretraining", "--html", tmp_path / "v.html").exit_code == 0
    page = (tmp_path / "v.html").read_text()
    assert "<script>alert" not in page
    assert "src=" not in page and "href=" not in page
    assert page.count("bert/encoder/layer_1/") == 16


def test_a_folder_of_another_checkpoint_fails_and_is_called_one(
    fixtures: Path, converted: Converted, tmp_path: Path
) -> None:
    out = shutil.copytree(converted("pretraining-adam"), tmp_path / "out")
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "OUT was made from another checkpoint" in " ".join(result.output.split())
    assert "another checkpoint: bert.embeddings.word_embeddings.weight" in result.output


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_what_it_must_have_is_no_model(
    name: str, fixtures: Path, out: Path
) -> None:
    (out / name).unlink()
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert name in result.output and "README.md" in result.output


def test_a_missing_provenance_is_said_and_no_failure(fixtures: Path, out: Path) -> None:
    (out / "conversion.json").unlink()
    result = weights(fixtures, out)
    assert result.exit_code == 0
    assert "note: conversion.json is missing" in result.output


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_a_missing_tokenizer_file_fails(name: str, fixtures: Path, out: Path) -> None:
    (out / name).unlink()
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert f"NO  tokenizer: {name} missing" in result.output


def test_a_folder_of_another_tool_may_have_a_vocabulary_alone(fixtures: Path, out: Path) -> None:
    for name in ("conversion.json", "tokenizer.json", "tokenizer_config.json"):
        (out / name).unlink()
    assert weights(fixtures, out).exit_code == 0
    (out / "vocab.txt").write_text("[PAD]\n")
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "1, but vocab_size is 128" in " ".join(result.output.split())


def test_heads_that_no_config_tells_must_be_said(fixtures: Path, out: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(fixtures / "pretraining", tmp_path / "bare")
    (bare / "bert_config.json").unlink()
    (out / "conversion.json").unlink()
    result = run(bare, out, "--level", "weights")
    assert result.exit_code == 1
    assert "num_attention_heads is 2, but 1 is assumed (H/64)" in " ".join(result.output.split())
    assert run(bare, out, "--level", "weights", "--num-heads", "2").exit_code == 0


def test_the_older_gelu_is_accepted_where_it_is_asked_for(fixtures: Path, out: Path) -> None:
    (out / "conversion.json").unlink()
    edited(out / "config.json", hidden_act="gelu")
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "--activation erf" in " ".join(result.output.split())
    assert weights(fixtures, out, "pretraining", "--activation", "erf").exit_code == 0


@pytest.mark.parametrize("other", ["gelu_new", "gelu_python_tanh", "gelu_accurate"])
def test_another_name_of_the_same_activation_is_no_difference(
    other: str, fixtures: Path, out: Path
) -> None:
    edited(out / "config.json", hidden_act=other)
    assert weights(fixtures, out).exit_code == 0


def test_the_name_that_older_programs_know_is_accepted_either_way(
    fixtures: Path, out: Path, tmp_path: Path
) -> None:
    option = ("--activation", "gelu_new")
    source = fixtures / "pretraining"
    made = CliRunner().invoke(cli, ["tf2pt", str(source), str(tmp_path / "new"), *option])
    assert made.exit_code == 0, made.output
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["hidden_act"] == "gelu_new"
    assert weights(fixtures, tmp_path / "new").exit_code == 0
    assert weights(fixtures, out, "pretraining", *option).exit_code == 0


@pytest.mark.parametrize("option", ["--junit", "--html"])
def test_a_report_that_cannot_be_written_is_said_before_any_work(
    option: str, fixtures: Path, out: Path, tmp_path: Path
) -> None:
    result = weights(fixtures, out, "pretraining", option, tmp_path / "none" / "v")
    assert result.exit_code == 2
    assert "PASS" not in result.stdout
    assert "none/v" in result.stderr and "No such file or directory" in result.stderr


def test_a_report_that_can_no_longer_be_written_is_said_behind_the_verdict(
    fixtures: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()

    def prove(*args: Any, **kwargs: Any) -> Any:
        shutil.rmtree(tmp_path / "gone")
        return verify(*args, **kwargs)

    monkeypatch.setattr("bertconvert.converter.verify.verify", prove)
    page = tmp_path / "v.html"
    result = weights(
        fixtures, out, "pretraining", "--junit", tmp_path / "gone" / "v.xml", "--html", page
    )
    assert result.exit_code == 1
    assert "PASS: all" in result.stdout and "<title>PASS" in page.read_text()
    assert "v.xml" in result.stderr and "No such file or directory" in result.stderr


class TestWithoutAVerdict:
    def reports(self, tmp_path: Path, *args: str | Path) -> tuple[Result, dict[str, Any], str, str]:
        junit, page = tmp_path / "v.xml", tmp_path / "v.html"
        junit.write_text("old")
        page.write_text("old")
        result = run(*args, "--json", "--junit", junit, "--html", page)
        (case,) = ElementTree.parse(junit).getroot().iter("testcase")
        found = case.find("error")
        assert found is not None
        return result, json.loads(result.stdout), str(found.get("message")), page.read_text()

    @pytest.mark.parametrize("damage", ["checkpoint", "folder", "mapping", "text", "level"])
    def test_every_report_has_the_error(
        self, damage: str, fixtures: Path, out: Path, tmp_path: Path
    ) -> None:
        arguments: list[str | Path] = [fixtures / "pretraining", out, "--level", "weights"]
        reason, code = "nowhere", 1
        if damage == "checkpoint":
            arguments[0] = tmp_path / "nowhere"
        elif damage == "folder":
            arguments[1] = tmp_path / "nowhere"
        elif damage == "mapping":
            edited(out / "conversion.json", mapping={"name": "nowhere", "sha256": ""})
            code = 2
        elif damage == "text":
            arguments += ["--text", fixtures / "README.md"]
            reason, code = "--text", 2
        else:
            arguments += ["--mapping", "nowhere"]
        result, document, message, page = self.reports(tmp_path, *arguments)
        assert result.exit_code == code
        assert document["passed"] is False
        for text in (document["error"], message, page, result.stderr):
            assert reason in text

    def test_an_interrupt_leaves_no_old_report(
        self, fixtures: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr("bertconvert.converter.verify.verify", stop)
        junit = tmp_path / "v.xml"
        junit.write_text("old")
        assert weights(fixtures, out, "pretraining", "--junit", junit).exit_code == 130
        assert "did not finish" in junit.read_text()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "version", "reason"),
    [
        ("Linux", "x86_64", "glibc", (3, 14), "Python 3.14"),
        ("Linux", "x86_64", "", (3, 12), "without glibc"),
        ("Darwin", "x86_64", "", (3, 12), "Darwin x86_64"),
        ("Linux", "ppc64le", "glibc", (3, 13), "Linux ppc64le"),
        ("Linux", "x86_64", "glibc", (3, 13), ""),
        ("Linux", "aarch64", "glibc", (3, 11), ""),
        ("Darwin", "arm64", "", (3, 13), ""),
    ],
)
def test_what_is_missing_says_how_to_go_on_without_tensorflow(
    system: str,
    machine: str,
    libc: str,
    version: tuple[int, int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    monkeypatch.setattr(sys, "version_info", version)
    told = packages.how_to_install(["tensorflow", "torch"])
    alone = packages.how_to_install(["tensorflow"])
    if reason:
        assert told.startswith("TensorFlow has no package for ") and reason in told
        assert "`bertconvert record CKPT FILE` where it has one" in told
        assert told.endswith("here, after pip install 'bertconvert[parity]', or pip install torch")
        assert alone.endswith("`bertconvert verify FILE OUT` here")
    else:
        package = "tensorflow-cpu" if machine == "x86_64" else "tensorflow"
        assert told == f"pip install 'bertconvert[verify]', or pip install {package} torch"
    assert packages.how_to_install(["torch"]).startswith("pip install 'bertconvert[parity]', or")
    html = packages.how_to_install(["jinja2"])
    assert html == "pip install 'bertconvert[html]', or pip install jinja2"


def test_no_folder_at_all_is_said(fixtures: Path, tmp_path: Path) -> None:
    result = weights(fixtures, tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.output


def test_no_checkpoint_at_all_is_said(out: Path, tmp_path: Path) -> None:
    result = weights(tmp_path, out, "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.output


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_act": "gelu"},
        {"layer_norm_eps": 1e-5},
        {"num_attention_heads": 4},
        {"num_hidden_layers": 1},
        {"vocab_size": 127},
        {"pad_token_id": 1},
        {"is_decoder": True},
        {"hidden_dropout_prob": 0.0},
        {"model_type": "roberta"},
    ],
    ids=str,
)
def test_a_config_edited_by_hand_fails_and_the_key_is_named(
    values: dict[str, object], fixtures: Path, out: Path
) -> None:
    edited(out / "config.json", **values)
    result = weights(fixtures, out)
    assert result.exit_code == 1
    (line,) = [text for text in result.output.splitlines() if "NO  config.json" in text]
    assert f"config.json: {next(iter(values))} is" in line


def test_a_class_that_the_mapping_does_not_know_is_said(fixtures: Path, out: Path) -> None:
    edited(out / "config.json", architectures=["BertForMultipleChoice"])
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "BertForMultipleChoice" in result.output and "pretraining" in result.output


@pytest.mark.parametrize(
    "damage", [b"", b"\x08\0\0\0\0\0\0\0notjson!", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"], ids=repr
)
def test_a_damaged_weights_file_is_no_traceback(damage: bytes, fixtures: Path, out: Path) -> None:
    (out / "model.safetensors").write_bytes(damage)
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "Traceback" not in result.output and "did not foresee" not in result.output


@pytest.mark.parametrize("name", ["config.json", "conversion.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 3}'], ids=repr)
def test_a_damaged_json_file_is_no_traceback(
    name: str, damage: bytes, fixtures: Path, out: Path
) -> None:
    (out / name).write_bytes(damage)
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "did not foresee" not in result.output


def test_an_extra_tensor_is_explained_by_nothing(fixtures: Path, out: Path) -> None:
    tensors = load_file(out / "model.safetensors")
    tensors["bert.encoder.layer.2.output.dense.bias"] = np.zeros(32, np.float32)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "bert.encoder.layer.2.output.dense.bias" in result.output


def test_a_copy_of_a_tied_tensor_must_be_the_same(fixtures: Path, out: Path) -> None:
    tensors = load_file(out / "model.safetensors")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    assert weights(fixtures, out).exit_code == 0
    tensors["cls.predictions.decoder.weight"] = words + 1
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "NO  ties of model.safetensors: cls.predictions.decoder.weight" in result.output


def test_two_tokens_exchanged_in_the_vocabulary_are_found(fixtures: Path, out: Path) -> None:
    tokens = (out / "vocab.txt").read_text().split("\n")
    tokens[20], tokens[21] = tokens[21], tokens[20]
    (out / "vocab.txt").write_text("\n".join(tokens))
    result = weights(fixtures, out)
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "tokenizer.json and vocab.txt have different tokens" in said
    assert "first at 20" in said


def test_a_tokenizer_that_keeps_the_case_of_an_uncased_model_is_found(
    fixtures: Path, out: Path
) -> None:
    path = out / "tokenizer.json"
    path.write_text(path.read_text().replace('"Lowercase"', '"NFC"'))
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "does not lower-case" in result.output


def test_refuses_unknown_variable_like_a_conversion(fixtures: Path, tmp_path: Path) -> None:
    # This mapping has no rule for the optimizer's slots.
    text = mapping.builtin_mappings()["bert"].read_text()
    strict = tmp_path / "strict.toml"
    strict.write_text(text.replace('include    = ["training"]', ""))
    convert(fixtures / "pretraining-adam", tmp_path / "out")
    result = weights(fixtures, tmp_path / "out", "pretraining-adam", "--mapping", strict)
    assert result.exit_code == 1
    assert "adam_m" in result.output and "PASS" not in result.output


def test_skips_variables_that_an_alias_would_match_but_a_rule_drops(
    fixtures: Path, tmp_path: Path
) -> None:
    """Aliases are resolved after the drops, in the plan and so in the proof."""
    checkpoint = open_checkpoint(fixtures / "keras-names")
    arrays = {name: checkpoint[name] for name in checkpoint}
    kernel = next(name for name in arrays if re.search(r"layer_0/output/dense_\d+/kernel$", name))
    copy = re.sub(r"dense_\d+/kernel$", "dense_ema/kernel", kernel)
    (tmp_path / "ckpt").mkdir()
    write_bundle(tmp_path / "ckpt" / "bert_model.ckpt", arrays | {copy: arrays[kernel]})
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(fixtures / "keras-names" / name, tmp_path / "ckpt")
    text = mapping.builtin_mappings()["bert"].read_text()
    rules = tmp_path / "ema.toml"
    rules.write_text(f'{text}\n[[drop]]\ntf = "**/dense_ema/kernel"\nreason = "average"\n')
    convert(tmp_path / "ckpt", tmp_path / "out", mapping=str(rules))
    verdict = verify(tmp_path / "ckpt", tmp_path / "out", level="weights", mapping=str(rules))
    assert verdict.passed, list(lines(verdict))
    assert copy in {drop.variable for drop in verdict.dropped}


def test_takes_an_encoder_with_and_without_the_prefix_of_a_class_with_a_head(
    fixtures: Path, converted: Converted, tmp_path: Path
) -> None:
    out = shutil.copytree(converted("encoder"), tmp_path / "out")
    assert verify(fixtures / "encoder", out, level="weights").passed
    tensors = load_file(out / "model.safetensors")
    assert not any(name.startswith("bert.") for name in tensors)
    prefixed = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    save_file(prefixed, out / "model.safetensors", metadata={"format": "pt"})
    (out / "conversion.json").unlink()  # as another converter writes it
    verdict = verify(fixtures / "encoder", out, level="weights")
    assert verdict.passed
    assert verdict.matches[0].tensor.startswith("bert.")


MEMO = re.search(
    r"```toml\n(# memo.toml\n.*?)```",
    (Path(__file__).parents[2] / "docs" / "mapping-files.md").read_text(),
    re.DOTALL,
)


@pytest.fixture
def memo(tmp_path: Path) -> Path:
    """The mapping that docs/mapping-files.md shows, and a checkpoint of its model."""
    assert MEMO is not None
    folder = tmp_path / "memo"
    folder.mkdir()
    (tmp_path / "memo.toml").write_text(MEMO[1])
    sizes = {"V": 50, "H": 8, "I": 16, "L": 2, "C": 3, "A": 2}
    rules = mapping.load_mapping(tmp_path / "memo.toml")
    rng = np.random.default_rng(0)
    write_bundle(
        folder / "model.ckpt",
        {
            pair.names[0]: rng.standard_normal(
                [sizes[s] if isinstance(s, str) else s for s in pair.shape]
            ).astype(np.float32)
            for pair in rules.expand(sizes, [group.name for group in rules.group])
        },
    )
    return folder


@pytest.mark.parametrize("level", ["weights", "outputs", "gradients"])
def test_caps_the_level_of_a_mapping_without_reference(
    level: str, memo: Path, tmp_path: Path
) -> None:
    rules = str(tmp_path / "memo.toml")
    convert(memo, tmp_path / "out", mapping=rules, num_heads=2, prove=run_module.prover(level))
    result = run(memo, tmp_path / "out", "--level", level, "--mapping", rules, "--num-heads", "2")
    assert result.exit_code == 0, result.output
    assert ("names no reference" in " ".join(result.output.split())) is (level != "weights")
    verdict = verify(memo, tmp_path / "out", level=level, mapping=rules, num_heads=2)
    assert verdict.passed and verdict.level == "weights"
    saved = json.loads((tmp_path / "out" / "verification.json").read_bytes())
    assert saved["levels"] == {"weights": True}
    assert any("names no reference" in note for note in saved["notes"]) is (level != "weights")


def test_unpacks_each_member_of_a_zip_once_to_convert_and_prove(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "bert.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in (fixtures / "pretraining").iterdir():
            file.write(path, path.name)
    unpacked: list[str] = []
    original = archives._spool

    def counted(source: Any, name: str, *rest: Any) -> Any:
        unpacked.append(Path(name).name)
        return original(source, name, *rest)

    monkeypatch.setattr(archives, "_spool", counted)
    convert(packed, tmp_path / "out", prove=run_module.prover("weights"))
    assert "bert_model.ckpt.data-00000-of-00001" in unpacked
    assert len(unpacked) == len(set(unpacked))


def test_the_highest_level_is_said_and_so_is_what_is_missing(
    fixtures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        packages, "find_spec", lambda name: None if name in ("torch", "tensorflow") else object()
    )
    result = run(fixtures / "pretraining", out)
    assert result.exit_code == 0
    assert result.output.startswith("level weights, the highest that is installed\n")
    assert "need tensorflow, torch, which are not installed" in result.output
    assert "pip install" in result.output


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("torch", ["--level", "outputs"]), ("jinja2", ["--level", "weights", "--html", "x.html"])],
)
def test_what_is_asked_for_and_not_installed_is_a_wrong_call(
    missing: str,
    arguments: list[str],
    fixtures: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.chdir(out.parent)  # for x.html, which gets the error
    result = run(fixtures / "pretraining", out, *arguments)
    assert result.exit_code == 2
    assert f"{missing}, which is not installed: pip install" in result.output


@pytest.mark.parametrize(
    "arguments", [["--level", "all"], ["--samples", "0"], ["--text", "no.txt"]]
)
def test_a_wrong_call_is_no_failed_proof(arguments: list[str], fixtures: Path, out: Path) -> None:
    assert run(fixtures / "pretraining", out, *arguments).exit_code == 2


def test_level_weights_imports_neither_torch_nor_tensorflow(fixtures: Path, out: Path) -> None:
    code = (
        "import sys; from bertconvert.converter.verify import verify;"
        " v = verify(sys.argv[1], sys.argv[2], level='weights'); assert v.passed;"
        " heavy = {'torch', 'tensorflow', 'transformers', 'matplotlib', 'jinja2'};"
        " assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(fixtures / "pretraining"), str(out)]
    subprocess.run(command, check=True, env=os.environ)


def test_a_folder_that_fails_is_not_published(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "highest_level", lambda *_: "weights")
    seen: list[Path] = []

    def spoiled(prepared: Prepared, folder: Path) -> Proof | None:
        seen.append(folder)
        edited(folder / "config.json", layer_norm_eps=1e-5)
        return run_module.prover()(prepared, folder)

    with pytest.raises(VerificationError, match="Nothing was published"):
        convert(fixtures / "pretraining", tmp_path / "out", prove=spoiled)
    assert seen and not seen[0].exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", get_args(DType))
def test_every_dtype_is_proved_by_a_process_of_its_own(
    dtype: str, fixtures: Path, tmp_path: Path
) -> None:
    for command in (["tf2pt", "--dtype", dtype], ["verify", "--level", "weights"]):
        result = subprocess.run(
            [sys.executable, "-m", "bertconvert", *command, fixtures / "encoder", tmp_path / "out"],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    assert "PASS: all 37 tensors" in result.stdout


def test_only_bfloat16_needs_ml_dtypes(fixtures: Path, tmp_path: Path) -> None:
    def run_without(*args: str | Path) -> "subprocess.CompletedProcess[str]":
        code = (
            "import sys; sys.modules['ml_dtypes'] = None; from bertconvert.cli import main; main()"
        )
        command = [sys.executable, "-c", code, *args]
        return subprocess.run(command, capture_output=True, text=True)

    source, out = fixtures / "encoder", tmp_path / "out"
    assert run_without("tf2pt", source, out, "--dtype", "float16").returncode == 0
    assert run_without("verify", source, out, "--level", "weights").returncode == 0
    cast = run_without("tf2pt", source, tmp_path / "cast", "--dtype", "bfloat16")
    assert cast.returncode == 1
    assert "bfloat16 needs ml-dtypes" in cast.stderr and "pip install" in cast.stderr
    assert not (tmp_path / "cast").exists()
    convert(source, tmp_path / "cast", dtype="bfloat16")
    proved = run_without("verify", source, tmp_path / "cast", "--level", "weights")
    assert proved.returncode == 1
    assert "bfloat16 needs ml-dtypes" in proved.stderr


def test_a_text_at_level_weights_is_a_wrong_call(fixtures: Path, out: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words")
    result = weights(fixtures, out, "pretraining", "--text", text)
    assert result.exit_code == 2
    assert "--text needs --level outputs" in result.stderr
    with pytest.raises(ValueError, match="level weights"):
        verify(fixtures / "pretraining", out, level="weights", text=text)


def test_a_folder_without_a_tokenizer_fails_if_the_checkpoint_has_a_vocabulary(
    fixtures: Path, out: Path
) -> None:
    for name in ("conversion.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (out / name).unlink()
    result = weights(fixtures, out)
    assert result.exit_code == 1
    assert "NO tokenizer: vocab.txt and tokenizer.json missing" in " ".join(result.output.split())


def test_the_proof_holds_for_a_cast_and_for_an_unscoped_head(
    fixtures: Path, tmp_path: Path
) -> None:

    cast = Options(dtype="bfloat16", head="none")
    convert(fixtures / "classifier", tmp_path / "out", cast)
    verdict = verify(fixtures / "classifier", tmp_path / "out", level="weights")
    assert verdict.passed
    assert {left.reason for left in verdict.dropped} == {"classifier: not part of BertModel"}


def test_the_command_that_does_not_publish_ends_with_1_and_says_why(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    right = convert_module._config
    monkeypatch.setattr(
        convert_module, "_config", lambda prepared: right(prepared) | {"layer_norm_eps": 1e-5}
    )
    monkeypatch.setattr("bertconvert.converter.verify.highest_level", lambda *_: "weights")
    arguments = ["tf2pt", str(fixtures / "pretraining"), str(tmp_path / "out"), "--verify"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "layer_norm_eps is 1e-05" in result.output
    assert result.output.endswith("Nothing was published.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("numbers", [{"samples": 0}, {"samples": -1}, {"seed": -1}])
def test_numbers_that_are_too_small_are_refused(
    fixtures: Path, converted: Callable[[str], Path], numbers: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="at least"):
        verify(fixtures / "encoder", converted("encoder"), level="weights", **numbers)
