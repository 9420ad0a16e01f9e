import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from safetensors import safe_open
from safetensors.numpy import load_file

from bertconvert import (
    BertconvertError,
    Checkpoint,
    CheckpointError,
    Conversion,
    MappingError,
    Options,
    OutputError,
    PlanError,
    convert,
    open_checkpoint,
)
from bertconvert.converter import mapping
from bertconvert.converter.storage.location import DiskPath

from .helpers import small_disk

FIXTURES = ["pretraining", "pretraining-adam", "classifier", "squad", "encoder", "keras-names"]
MODEL = ["README.md", "config.json", "conversion.json", "model.safetensors"]
TOKENIZER = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
DATA = "bert_model.ckpt.data-00000-of-00001"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


Edit = Callable[[Path], None]


@pytest.fixture
def changed(fixtures: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a fixture, changed."""

    def change(edit: Edit | None = None, name: str = "pretraining") -> Path:
        copy = tmp_path / "checkpoint"
        shutil.copytree(fixtures / name, copy)
        (copy / "google_outputs.safetensors").unlink()
        if edit is not None:
            edit(copy)
        return copy

    return change


def set_config(**values: object) -> Edit:
    def edit(folder: Path) -> None:
        config = read_json(folder / "bert_config.json") | values
        (folder / "bert_config.json").write_text(json.dumps(config))

    return edit


def remove(*names: str) -> Edit:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


class TestTheFiles:
    def test_are_those_of_a_model_folder(self, fixtures: Path, tmp_path: Path) -> None:
        conversion = convert(fixtures / "pretraining", tmp_path / "out")
        assert sorted(os.listdir(tmp_path / "out")) == sorted([*MODEL, *TOKENIZER])
        assert conversion.files == {
            file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()
        }

    def test_are_no_tokenizers_where_there_is_no_vocabulary(
        self, changed: Callable[..., Path], tmp_path: Path
    ) -> None:
        conversion = convert(changed(remove("vocab.txt")), tmp_path / "out")
        assert sorted(os.listdir(tmp_path / "out")) == MODEL
        assert any("no vocab.txt" in note for note in conversion.notes)
        provenance = read_json(tmp_path / "out" / "conversion.json")
        assert provenance["do_lower_case"] is None
        assert [source["role"] for source in provenance["sources"]] == ["index", "config", "data"]

    @pytest.mark.parametrize(
        ("formats", "expected"),
        [
            (("safetensors",), ["model.safetensors"]),
            (("bin",), ["pytorch_model.bin"]),
            (("safetensors", "bin"), ["model.safetensors", "pytorch_model.bin"]),
            (("bin", "bin"), ["pytorch_model.bin"]),
        ],
    )
    def test_hold_the_tensors_in_the_formats_that_are_asked_for(
        self, fixtures: Path, tmp_path: Path, formats: tuple[str, ...], expected: list[str]
    ) -> None:
        torch = pytest.importorskip("torch")
        convert(fixtures / "squad", tmp_path / "plain")
        convert(fixtures / "squad", tmp_path / "out", Options(formats=formats))
        found = [
            name
            for name in sorted(os.listdir(tmp_path / "out"))
            if name.startswith(("model", "pytorch"))
        ]
        assert found == expected
        tensors = load_file(tmp_path / "plain" / "model.safetensors")
        if "bin" in formats:
            path = tmp_path / "out" / "pytorch_model.bin"
            loaded = torch.load(path, weights_only=True)
            assert loaded.keys() == tensors.keys()
            for name, tensor in loaded.items():
                assert tensor.numpy().tobytes() == tensors[name].tobytes()
                assert tensor.is_contiguous()

    @pytest.mark.parametrize("formats", [(), ("safetensor",), ("safetensors", "h5")])
    def test_are_never_without_tensors(
        self, fixtures: Path, tmp_path: Path, formats: tuple[str, ...]
    ) -> None:
        with pytest.raises(ValueError, match="formats"):
            convert(fixtures / "squad", tmp_path / "out", Options(formats=formats))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", FIXTURES)
    def test_hold_every_variable_that_is_not_left_behind(
        self, fixtures: Path, tmp_path: Path, name: str
    ) -> None:
        conversion = convert(fixtures / name, tmp_path / "out")
        checkpoint = open_checkpoint(fixtures / name)
        provenance = read_json(tmp_path / "out" / "conversion.json")
        tensors = load_file(tmp_path / "out" / "model.safetensors")
        assert provenance["tensors"].keys() == tensors.keys()
        for tensor, entry in provenance["tensors"].items():
            variable = checkpoint[entry["variable"]]
            expected = variable.T if entry["transform"] == "transpose" else variable
            assert np.array_equal(tensors[tensor], expected)
            assert tensors[tensor].dtype == variable.dtype
        taken = {entry["variable"] for entry in provenance["tensors"].values()}
        assert taken | provenance["dropped"].keys() == set(checkpoint)
        assert not taken & provenance["dropped"].keys()
        assert conversion.parameters == sum(tensor.size for tensor in tensors.values())
        assert conversion.tensors == len(tensors)
        assert conversion.nbytes == sum(tensor.nbytes for tensor in tensors.values())

    def test_made_of_keras_names_are_those_of_googles_names(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        for name in ("pretraining", "keras-names"):
            convert(fixtures / name, tmp_path / name)
        google, keras = contents(tmp_path / "pretraining"), contents(tmp_path / "keras-names")
        different = {name for name in google if google[name] != keras[name]}
        assert different == {"conversion.json", "README.md"}  # which tell of the names

    def test_of_a_checkpoint_from_the_wild_are_whole(self, real: Path, tmp_path: Path) -> None:
        conversion = convert(real / "keras-bert-tiny-pretrain", tmp_path / "out")
        assert conversion.architecture == "BertForPreTraining"
        assert conversion.sizes.items() >= {"V": 15, "H": 4, "L": 2, "P": 16, "A": 4}.items()
        assert conversion.tensors == 46
        assert sum(conversion.dropped.values()) == 93
        assert sorted(os.listdir(tmp_path / "out")) == sorted([*MODEL, *TOKENIZER])
        checkpoint = open_checkpoint(real / "keras-bert-tiny-pretrain")
        tensors = load_file(tmp_path / "out" / "model.safetensors")
        kernel = checkpoint["bert/encoder/layer_1/output/dense/kernel"]
        assert np.array_equal(tensors["bert.encoder.layer.1.output.dense.weight"], kernel.T)

    def test_have_a_folder_that_only_the_umask_restricts(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        before = os.umask(0o022)
        try:
            convert(fixtures / "encoder", tmp_path / "out")
        finally:
            os.umask(before)
        assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == {0o644}


class TestTheSameInput:
    @pytest.fixture
    def expected(
        self, fixtures: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, bytes]:
        out = tmp_path_factory.mktemp("model") / "out"
        convert(fixtures / "pretraining", out)
        return contents(out)

    def test_gives_the_same_bytes_again(
        self, fixtures: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        for name in ("a", "b/c"):
            convert(fixtures / "pretraining", tmp_path / name)
            assert contents(tmp_path / name) == expected

    @pytest.mark.parametrize(
        "form",
        ["folder", "prefix", "index", "data", "config", "stored.zip", "packed.zip", "x.tar.gz",
         "x.tgz", "x.tar", "inner.zip", "relative", "str"],
    )  # fmt: skip
    def test_gives_the_same_bytes_in_whatever_form_it_comes(
        self,
        changed: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        expected: dict[str, bytes],
        form: str,
    ) -> None:
        copy = changed()
        path: Path | str = {
            "folder": copy,
            "prefix": copy / "bert_model.ckpt",
            "index": copy / "bert_model.ckpt.index",
            "data": copy / DATA,
            "config": copy / "bert_config.json",
            "relative": Path("checkpoint"),
            "str": str(copy),
        }.get(form, tmp_path / form)
        if form.endswith(".zip"):
            packed = zipfile.ZIP_DEFLATED if form == "packed.zip" else zipfile.ZIP_STORED
            with zipfile.ZipFile(path, "w", packed) as archive:
                for file in sorted(copy.iterdir()):
                    folder = "uncased_L-2_H-32_A-2/" if form == "inner.zip" else ""
                    archive.write(file, folder + file.name)
        elif ".t" in form:
            with tarfile.open(path, "w" if form == "x.tar" else "w:gz") as archive:
                for file in copy.iterdir():
                    archive.add(file, f"./{file.name}")
        monkeypatch.chdir(tmp_path)
        convert(path, tmp_path / "out")
        found = contents(tmp_path / "out")
        if form == "inner.zip":
            # The casing is inferred from the name too, and the note says so.
            for name in ("README.md", "conversion.json"):
                found[name] = found[name].replace(b", and the name says uncased", b"")
        assert found == expected

    def test_gives_the_same_bytes_with_other_hashes_and_languages(
        self, fixtures: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        code = "import sys; from bertconvert import convert; convert(sys.argv[1], sys.argv[2])"
        for seed, language in (("1", "C"), ("2", "tr_TR.UTF-8")):
            environment = os.environ | {
                "PYTHONHASHSEED": seed, "LC_ALL": language, "TZ": "Asia/Tokyo"
            }  # fmt: skip
            out = tmp_path / seed
            command = [sys.executable, "-c", code, fixtures / "pretraining", out]
            subprocess.run(command, check=True, env=environment)
            assert contents(out) == expected

    def test_leaves_no_path_of_this_machine_in_the_folder(
        self, changed: Callable[..., Path], tmp_path: Path
    ) -> None:
        convert(changed(name="pretraining-adam"), tmp_path / "out")
        for name, content in contents(tmp_path / "out").items():
            assert str(tmp_path).encode() not in content, name


class TestConfig:
    def test_says_what_transformers_must_know(self, fixtures: Path, tmp_path: Path) -> None:
        convert(fixtures / "pretraining", tmp_path / "out")
        assert read_json(tmp_path / "out" / "config.json") == {
            "architectures": ["BertForPreTraining"],
            "attention_probs_dropout_prob": 0.1,
            "dtype": "float32",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 32,
            "initializer_range": 0.02,
            "intermediate_size": 128,
            "layer_norm_eps": 1e-12,
            "position_embedding_type": "absolute",
            "max_position_embeddings": 64,
            "model_type": "bert",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            "vocab_size": 128,
        }

    @pytest.mark.parametrize("head", [None, "token"])
    def test_names_the_labels_of_a_classifier(
        self, fixtures: Path, tmp_path: Path, head: str | None
    ) -> None:
        convert(fixtures / "classifier", tmp_path / "out", Options(head=head))
        config = read_json(tmp_path / "out" / "config.json")
        kind = "Token" if head else "Sequence"
        assert config["architectures"] == [f"BertFor{kind}Classification"]
        assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
        assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
        assert "num_labels" not in config

    @pytest.mark.parametrize(
        ("name", "architecture"),
        [("squad", "BertForQuestionAnswering"), ("encoder", "BertModel")],
    )
    def test_names_no_labels_where_there_are_none(
        self, fixtures: Path, tmp_path: Path, name: str, architecture: str
    ) -> None:
        convert(fixtures / name, tmp_path / "out")
        config = read_json(tmp_path / "out" / "config.json")
        assert config["architectures"] == [architecture]
        assert not {"id2label", "label2id", "num_labels"} & config.keys()

    @pytest.mark.parametrize(
        ("activation", "expected"),
        [("auto", "gelu_pytorch_tanh"), ("tanh", "gelu_pytorch_tanh"), ("erf", "gelu")],
    )
    def test_has_the_activation_that_is_chosen(
        self, fixtures: Path, tmp_path: Path, activation: str, expected: str
    ) -> None:
        options = Options(activation=activation)
        conversion = convert(fixtures / "squad", tmp_path / "out", options)
        assert read_json(tmp_path / "out" / "config.json")["hidden_act"] == expected
        provenance = read_json(tmp_path / "out" / "conversion.json")
        assert provenance["activation"] == {"tensorflow": "gelu", "transformers": expected}
        assert conversion.activation == expected

    def test_takes_the_dropouts_of_bert_config(
        self, changed: Callable[..., Path], tmp_path: Path
    ) -> None:
        edit = set_config(hidden_dropout_prob=0.0, initializer_range=1, pooler_fc_size=768)
        convert(changed(edit), tmp_path / "out")
        config = read_json(tmp_path / "out" / "config.json")
        assert config["hidden_dropout_prob"] == 0.0
        assert config["initializer_range"] == 1
        assert "pooler_fc_size" not in config

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_has_the_dtype_of_the_tensors(self, fixtures: Path, tmp_path: Path, dtype: str) -> None:
        options = Options(dtype=dtype)
        conversion = convert(fixtures / "squad", tmp_path / "out", options)
        assert read_json(tmp_path / "out" / "config.json")["dtype"] == dtype
        assert conversion.dtype == dtype
        short = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype]
        with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {short}  # noqa: SIM118


class TestProvenance:
    @pytest.fixture
    def provenance(self, fixtures: Path, tmp_path: Path) -> Any:
        convert(fixtures / "pretraining-adam", tmp_path / "out")
        return read_json(tmp_path / "out" / "conversion.json")

    def test_names_the_tool_and_the_rules(self, provenance: Any) -> None:
        rules = mapping.FOLDER / "bert.toml"
        included = mapping.FOLDER / "shared" / "training.toml"
        assert provenance["tool"].startswith("bertconvert ")
        assert provenance["mapping"] == {
            "name": "bert",
            "sha256": hashlib.sha256(rules.read_bytes() + included.read_bytes()).hexdigest(),
        }

    def test_begins_with_the_version_of_its_form(self, provenance: Any) -> None:
        assert next(iter(provenance.items())) == ("version", 1)

    def test_names_every_file_that_was_read(self, provenance: Any, fixtures: Path) -> None:
        folder = fixtures / "pretraining-adam"
        sources = {source["role"]: source for source in provenance["sources"]}
        names = {role: source["name"] for role, source in sources.items()}
        assert names == {
            "index": "bert_model.ckpt.index",
            "config": "bert_config.json",
            "vocabulary": "vocab.txt",
            "data": DATA,
        }
        for role, source in sources.items():
            content = (folder / source["name"]).read_bytes()
            assert source["size"] == len(content)
            if role != "data":
                assert source["sha256"] == hashlib.sha256(content).hexdigest()

    def test_has_the_checksum_of_every_variable_that_became_a_tensor(
        self, provenance: Any, fixtures: Path
    ) -> None:
        checkpoint = open_checkpoint(fixtures / "pretraining-adam")
        for entry in provenance["tensors"].values():
            variable = checkpoint[entry["variable"]]
            assert entry["crc32c"] == f"{crc32c(variable.tobytes()):08x}"
            shape = variable.T.shape if entry["transform"] == "transpose" else variable.shape
            assert entry["shape"] == list(shape)
            assert entry["dtype"] == "float32"

    def test_gives_a_reason_for_every_variable_that_was_left_behind(self, provenance: Any) -> None:
        dropped = provenance["dropped"]
        assert len(dropped) == 93
        assert dropped["global_step"] == "training step"
        assert dropped["bert/pooler/dense/kernel/adam_m"] == "optimizer slot"
        assert set(dropped.values()) == {"training step", "optimizer slot"}

    def test_says_which_tensors_the_model_shares(self, provenance: Any) -> None:
        assert provenance["ties"] == {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        }
        assert provenance["groups"] == ["encoder", "pooler", "mlm", "nsp"]
        assert provenance["architecture"] == "BertForPreTraining"

    def test_of_a_mapping_of_ones_own_has_its_sha256(self, fixtures: Path, tmp_path: Path) -> None:
        rules = (mapping.FOLDER / "bert.toml").read_text().replace('"bert"', '"my-bert"', 1)
        (tmp_path / "my.toml").write_text(rules)
        rules += (mapping.FOLDER / "shared" / "training.toml").read_text()
        convert(fixtures / "squad", tmp_path / "out", Options(mapping=str(tmp_path / "my.toml")))
        assert read_json(tmp_path / "out" / "conversion.json")["mapping"] == {
            "name": "my-bert",
            "sha256": hashlib.sha256(rules.encode()).hexdigest(),
        }


class TestOptions:
    def test_config_and_vocabulary_may_lie_elsewhere(
        self, changed: Callable[..., Path], fixtures: Path, tmp_path: Path
    ) -> None:
        convert(fixtures / "squad", tmp_path / "expected")
        copy = changed(remove("vocab.txt", "bert_config.json"), "squad")
        options = Options(
            config=fixtures / "squad" / "bert_config.json", vocab=fixtures / "squad" / "vocab.txt"
        )
        convert(copy, tmp_path / "out", options)
        assert contents(tmp_path / "out") == contents(tmp_path / "expected")

    def test_lower_case_is_inferred_or_decided(self, fixtures: Path, tmp_path: Path) -> None:
        for given, expected in ((None, True), (True, True), (False, False)):
            convert(fixtures / "squad", tmp_path / "out", lower_case=given, force=True)
            config = read_json(tmp_path / "out" / "tokenizer_config.json")
            assert config["do_lower_case"] is expected
            assert config["model_max_length"] == 64

    def test_without_a_config_the_sizes_are_those_of_the_variables(
        self, changed: Callable[..., Path], tmp_path: Path
    ) -> None:
        copy = changed(remove("bert_config.json"))
        conversion = convert(copy, tmp_path / "out", Options(num_heads=2))
        assert read_json(tmp_path / "out" / "config.json")["num_attention_heads"] == 2
        assert any("no bert_config.json" in note for note in conversion.notes)

    def test_force_replaces_a_model_and_nothing_else(self, fixtures: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        pytest.importorskip("torch")
        convert(fixtures / "pretraining", out, Options(formats=("bin",)))
        (out / "notes").write_text("mine")
        convert(fixtures / "squad", out, force=True)
        convert(fixtures / "squad", tmp_path / "expected")
        assert (out / "notes").read_text() == "mine"
        (out / "notes").unlink()
        assert contents(out) == contents(tmp_path / "expected")

    def test_force_into_the_checkpoints_own_folder_keeps_the_checkpoint(
        self, changed: Callable[..., Path]
    ) -> None:
        folder = changed(name="classifier")
        before = contents(folder)
        for force in (False, True):
            with pytest.raises(OutputError, match="is the checkpoint"):
                convert(folder, folder, force=force)
            assert contents(folder) == before

    def test_a_tilde_is_the_home_folder(
        self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        conversion = convert(fixtures / "encoder", "~/out")
        assert conversion.out == "~/out"
        assert (tmp_path / "out" / "config.json").exists()

    def test_progress_is_told_of_the_bytes(self, fixtures: Path, tmp_path: Path) -> None:
        calls: list[tuple[str, int, int]] = []
        conversion = convert(
            fixtures / "encoder", tmp_path / "out", progress=lambda *call: calls.append(call)
        )
        assert calls[-1] == ("converting", conversion.nbytes, conversion.nbytes)


WRONG: dict[str, tuple[Edit | None, Options, type[BertconvertError], str]] = {
    "vocabulary": (
        lambda folder: (folder / "vocab.txt").write_text("[UNK]\n" * 7) and None,
        Options(),
        PlanError,
        r"vocab\.txt has 7 tokens but .* 128 word embeddings",
    ),
    "config": (
        set_config(num_hidden_layers=4, hidden_size=64),
        Options(),
        PlanError,
        r"(?s)bert_config\.json .*hidden_size = 64,.* 32 .*num_hidden_layers = 4",
    ),
    "no config": (
        lambda folder: (folder / "bert_config.json").write_text("[1, 2]") and None,
        Options(),
        PlanError,
        r"bert_config\.json",
    ),
    "shard": (remove(DATA), Options(), CheckpointError, rf"{DATA} is missing"),
    "index": (remove("bert_model.ckpt.index"), Options(), CheckpointError, "no checkpoint"),
    "head": (None, Options(head="squad"), PlanError, "--head squad needs the squad"),
    "no head": (None, Options(head="sqad"), PlanError, "--head sqad"),
    "mapping": (None, Options(mapping="none.toml"), MappingError, r"none\.toml"),
    "activation": (set_config(hidden_act="swish"), Options(), PlanError, "hidden_act is 'swish'"),
}


class TestWhatDoesNotFit:
    @pytest.mark.parametrize("kind", WRONG)
    @pytest.mark.parametrize("out", ["new", "a/b", "old"])
    def test_is_said_before_anything_is_written(
        self,
        changed: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        out: str,
    ) -> None:
        edit, options, error, message = WRONG[kind]
        copy = changed(edit)
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "config.json").write_text("old")

        def write(*_: object) -> None:
            pytest.fail("something is written")

        monkeypatch.setattr(DiskPath, "published", write)
        with pytest.raises(error, match=message):
            convert(
                copy,
                tmp_path / out,
                options,
                force=True,
            )
        assert sorted(os.listdir(tmp_path)) == ["checkpoint", "old"]
        assert contents(tmp_path / "old") == {"config.json": b"old"}

    def test_an_output_that_is_taken_is_said_before_the_checkpoint_is_read(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("")
        with pytest.raises(OutputError, match="is not empty"):
            convert(tmp_path / "no checkpoint", tmp_path / "out")


class TestWhatGoesWrongInTheMiddle:
    @pytest.fixture
    def old(self, fixtures: Path, tmp_path: Path) -> Path:
        out = tmp_path / "out"
        convert(fixtures / "squad", out)
        (out / "mine").write_text("mine")
        return out

    def test_damage_that_only_reading_shows_leaves_the_old_model(
        self, changed: Callable[..., Path], tmp_path: Path, old: Path
    ) -> None:
        def damage(folder: Path) -> None:
            content = bytearray((folder / DATA).read_bytes())
            content[-1] ^= 1
            (folder / DATA).write_bytes(content)

        before = contents(old)
        for out in (old, tmp_path / "a" / "b"):
            with pytest.raises(CheckpointError, match="is damaged at"):
                if not (tmp_path / "checkpoint").exists():
                    changed(damage)
                convert(tmp_path / "checkpoint", out, force=True)
        assert contents(old) == before
        assert sorted(os.listdir(tmp_path)) == ["checkpoint", "out"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
    def test_an_interrupt_leaves_the_old_model(
        self, fixtures: Path, tmp_path: Path, old: Path, error: type[BaseException]
    ) -> None:
        def stop(*_: object) -> None:
            raise error

        before = contents(old)
        for out in (old, tmp_path / "a" / "b"):
            with pytest.raises(error):
                convert(fixtures / "pretraining", out, force=True, progress=stop)
        assert contents(old) == before
        assert os.listdir(tmp_path) == ["out"]

    @pytest.mark.parametrize("name", ["config.json", "README.md", "tokenizer.json"])
    def test_a_small_file_that_finds_no_room_leaves_the_old_model(
        self, fixtures: Path, tmp_path: Path, old: Path,
        monkeypatch: pytest.MonkeyPatch, name: str,
    ) -> None:  # fmt: skip
        write_bytes = Path.write_bytes

        def full(path: Path, data: bytes) -> int:
            if path.name == name:
                raise OSError(28, "No space left on device")
            return write_bytes(path, data)

        before = contents(old)
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="out can't be written: No space left on device"):
            convert(fixtures / "pretraining", old, force=True)
        assert contents(old) == before
        assert os.listdir(tmp_path) == ["out"]

    @pytest.mark.parametrize("formats", [("safetensors",), ("safetensors", "bin")])
    def test_a_disk_that_is_too_small_keeps_the_old_model_whatever_its_size(
        self, fixtures: Path, tmp_path: Path, formats: tuple[str, ...]
    ) -> None:
        outcomes = set()
        for kilobytes in range(8, 400, 48):
            with small_disk(tmp_path / "disk", kilobytes) as disk:
                (disk / "out").mkdir()
                (disk / "out" / "config.json").write_text("old")
                try:
                    convert(fixtures / "squad", disk / "out", Options(formats=formats), force=True)
                    outcomes.add("done")
                    assert len(os.listdir(disk / "out")) == 7 + len(formats)
                except OutputError as error:
                    outcomes.add("no room")
                    assert any(word in str(error) for word in ("room", "space", "written"))
                    assert contents(disk / "out") == {"config.json": b"old"}
                assert os.listdir(disk) == ["out"]
        assert outcomes == {"done", "no room"}

    def test_a_number_that_does_not_fit_leaves_nothing(
        self, tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        piece = np.full(8, 1e30, np.float32).view(np.uint8).data
        monkeypatch.setattr(Checkpoint, "stream", lambda *_: iter([piece]))
        options = Options(dtype="float16")
        with pytest.raises(OutputError, match="has numbers too large for float16, such as 1e"):
            convert(fixtures / "squad", tmp_path / "out", options)
        assert os.listdir(tmp_path) == []

    def test_a_lack_of_torch_leaves_nothing(
        self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(OutputError, match=r"pip install 'bertconvert\[torch\]'"):
            convert(fixtures / "encoder", tmp_path / "out", Options(formats=("bin",)))
        assert os.listdir(tmp_path) == []


def test_a_conversion_says_what_came_out(fixtures: Path, tmp_path: Path) -> None:
    conversion = convert(fixtures / "pretraining-adam", tmp_path / "out")
    assert isinstance(conversion, Conversion)
    assert conversion.out == str(tmp_path / "out")
    assert conversion.architecture == "BertForPreTraining"
    assert conversion.dropped == {"optimizer slot": 92, "training step": 1}
    assert (conversion.parameters, conversion.tensors, conversion.nbytes) == (34050, 46, 136200)
    assert conversion.sizes == {"L": 2, "V": 128, "H": 32, "P": 64, "T": 2, "I": 128, "A": 2}


class TestAFolderThatHoldsACheckpoint:
    """OUT is never written there, whatever the call says."""

    @pytest.fixture
    def folder(self, fixtures: Path, tmp_path: Path) -> Path:
        (tmp_path / "work").mkdir()
        shutil.copytree(fixtures / "squad", tmp_path / "work" / "mine")
        return tmp_path / "work"

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize(
        ("ckpt", "out"),
        [
            ("nothing", "mine"),  # the arguments are swapped
            ("mine", "mine"),
            ("mine", "mine/"),
            ("mine", "mine/out"),
            ("mine", "mine/deep/out"),
            ("mine", "."),
            ("mine/bert_model.ckpt", "mine"),
            ("mine/bert_model.ckpt", "mine/bert_model.ckpt"),
            ("mine/bert_model.ckpt.index", "mine/bert_model.ckpt"),
            ("mine", "link"),
            ("link", "mine"),
            ("mine.zip", "archived"),
            ("archived/mine.zip", "archived"),
            ("mine", "data-alone"),
        ],
    )
    def test_is_refused_and_left_as_it_is(
        self, folder: Path, ckpt: str, out: str, force: bool
    ) -> None:
        (folder / "link").symlink_to("mine")
        (folder / "archived").mkdir()
        shutil.make_archive(str(folder / "archived" / "mine"), "zip", folder / "mine")
        (folder / "mine.zip").symlink_to("archived/mine.zip")
        shutil.copytree(folder / "mine", folder / "data-alone")
        (folder / "data-alone" / "bert_model.ckpt.index").unlink()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(OutputError) as caught:
            convert(folder / ckpt, f"{folder}/{out}", force=force)
        assert "checkpoint" in str(caught.value)
        assert "or --force" not in str(caught.value)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    def test_of_the_first_version_is_one_too(
        self, real: Path, fixtures: Path, tmp_path: Path
    ) -> None:
        source = real / "tensorflow-serving-testdata" / "v1-bad_half_plus_two" / "export"
        (tmp_path / "v1").mkdir()
        shutil.copy(source, tmp_path / "v1" / "model.ckpt")
        with pytest.raises(OutputError, match=r"holds a checkpoint \(model\.ckpt\)"):
            convert(fixtures / "squad", tmp_path / "v1", force=True)

    def test_at_a_url_is_one_too(self, fixtures: Path) -> None:
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        memory.pipe("/mine/bert_model.ckpt.index", b"")
        for out in ("memory://mine", "memory://mine/bert_model.ckpt"):
            with pytest.raises(OutputError, match="checkpoint"):
                convert(fixtures / "squad", out, force=True)
        with pytest.raises(OutputError, match="checkpoint"):
            convert("memory://mine", "memory://mine/out", force=True)
        assert memory.find("/mine") == ["/mine/bert_model.ckpt.index"]

    def test_is_no_obstacle_to_a_folder_next_to_its_files(self, folder: Path) -> None:
        convert(folder / "mine" / "bert_model.ckpt", folder / "mine" / "out")
        assert (folder / "mine" / "out" / "config.json").exists()
