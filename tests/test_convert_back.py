"""pt2tf and roundtrip: a model folder becomes a checkpoint, and a checkpoint comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bertconvert import (
    OutputError,
    PlanError,
    convert,
    convert_back,
    open_checkpoint,
    roundtrip,
)
from bertconvert.converter.mapping import builtin_mappings
from bertconvert.converter.verify import back_prover

from .helpers import small_disk

Process = subprocess.Popen[str]

IN_ONE_PIECE = [
    "albert", "albert-classifier", "albert-relu", "albert-squad", "classifier", "encoder",
    "mobilebert", "mobilebert-pooler", "mobilebert-wide", "pretraining", "squad",
]  # fmt: skip
WITH_OTHERS = {
    "electra": {}, "electra-tagging": {}, "electra-wide": {}, "h5-classifier": {},
    "h5-pretraining": {}, "keras-names": {}, "pretraining-adam": {}, "tf2-classifier": {},
    "tf2-classifier-pooler": {}, "tf2-encoder": {}, "tf2-encoder-v2": {}, "tf2-hub": {},
    "tf2-pretraining": {}, "tf2-span": {"head": "squad"}, "tf2-token": {"head": "token"},
}  # fmt: skip


class TestARoundTrip:
    @pytest.mark.parametrize("name", IN_ONE_PIECE)
    def test_gives_the_files_of_the_checkpoint(self, name: str, fixtures: Path) -> None:
        result = roundtrip(fixtures / name)
        assert (result.same, result.identical) == (True, True)
        assert result.differences == []
        assert result.variables == len(open_checkpoint(fixtures / name))

    @pytest.mark.parametrize("name", WITH_OTHERS)
    def test_gives_back_every_variable_that_is_mapped(self, name: str, fixtures: Path) -> None:
        result = roundtrip(fixtures / name, **WITH_OTHERS[name])
        assert (result.same, result.identical) == (True, False)
        assert result.dropped or result.renamed
        left = sum(result.dropped.values())
        assert result.variables + left == len(open_checkpoint(fixtures / name))


SLOW = """
import os, time
from bertconvert.cli import run
from bertconvert.converter import tensor_copy
pieces = tensor_copy._pieces
def slowly(*args):
    os.write(1, b"begun\\n")
    time.sleep(0.1)
    return pieces(*args)
tensor_copy._pieces = slowly
run()
"""


class TestAStop:
    @pytest.fixture
    def start(self, converted: Callable[[str], Path]) -> Iterator[Callable[..., Process]]:
        """Starts a slow conversion, and waits until it writes."""
        processes = []

        def start(out: Path, *options: str) -> Process:
            process = subprocess.Popen(
                [sys.executable, "-c", SLOW, "pt2tf", converted("encoder"), out, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            return process

        yield start
        for process in processes:
            process.kill()
            process.communicate()

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_by_a_signal_leaves_everything_as_it_was(
        self,
        start: Callable[..., Process],
        converted: Callable[[str], Path],
        tmp_path: Path,
        number: int,
        code: int,
    ) -> None:
        convert_back(converted("squad"), tmp_path / "old")
        before = {f.name: f.read_bytes() for f in (tmp_path / "old").iterdir()}
        for out, options in ((tmp_path / "old", ["--force"]), (tmp_path / "a" / "b", [])):
            process = start(out, *options)
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
            assert process.returncode == code
            assert said.strip() == ("Aborted!" if number == signal.SIGINT else "")
        assert {f.name: f.read_bytes() for f in (tmp_path / "old").iterdir()} == before
        assert os.listdir(tmp_path) == ["old"]

    def test_by_kill_is_followed_by_a_run_that_leaves_nothing(
        self, start: Callable[..., Process], converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        process = start(tmp_path / "out")
        process.kill()
        process.wait()
        assert os.listdir(tmp_path) == [".out.bertconvert"]
        convert_back(converted("encoder"), tmp_path / "out")
        assert os.listdir(tmp_path) == ["out"]

    def test_by_another_that_writes_the_same_folder_is_one_message(
        self, start: Callable[..., Process], converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        process = start(tmp_path / "out")
        with pytest.raises(OutputError, match="another process is writing"):
            convert_back(converted("encoder"), tmp_path / "out")
        process.communicate(timeout=30)
        assert process.returncode == 0

    def test_by_a_full_disk_leaves_nothing(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        with small_disk(tmp_path / "disk", 64) as disk:
            with pytest.raises(OutputError, match="bytes of free space"):
                convert_back(converted("pretraining"), disk / "out")
            assert os.listdir(disk) == []

    def test_of_a_round_trip_leaves_no_temporary_folder(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, "roundtrip", fixtures / "encoder"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert os.listdir(tmp_path) == []


class TestForce:
    def test_replaces_a_checkpoint_and_keeps_other_files(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        convert_back(converted("squad"), out)
        (out / "notes.md").write_text("mine")
        (out / "labels.txt").write_text("of another model")
        with pytest.raises(OutputError, match="is not empty"):
            convert_back(converted("encoder"), out)
        assert "cls/squad/output_weights" in open_checkpoint(out)
        convert_back(converted("encoder"), out, force=True)
        assert "cls/squad/output_weights" not in open_checkpoint(out)
        assert (out / "notes.md").read_text() == "mine"
        assert not (out / "labels.txt").exists()


class TestTheFolder:
    def test_has_what_programs_of_google_look_for(
        self, converted: Callable[[str], Path], fixtures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        convert_back(converted("pretraining"), out)
        files = ["bert_config.json", "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"]
        assert sorted(file.name for file in out.iterdir()) == [*files, "checkpoint", "vocab.txt"]
        for name in (*files[1:], "vocab.txt"):
            assert (out / name).read_bytes() == (fixtures / "pretraining" / name).read_bytes()

    @pytest.mark.parametrize("name", ["electra", "keras-names", "pretraining"])
    def test_is_proved_though_the_model_was_made_from_another_checkpoint(
        self, name: str, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        model, out = converted(name), tmp_path / "out"
        assert (model / "conversion.json").exists()
        result = convert_back(model, out, global_step=1, prove=back_prover(model, "weights"))
        assert result.proof
        assert (out / "checkpoint").exists()

    def test_is_not_the_model_s(self, converted: Callable[[str], Path], tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="is the model folder"):
            convert_back(converted("encoder"), converted("encoder"), force=True)

    def test_has_the_names_of_labels_which_come_back(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        model = tmp_path / "model"
        shutil.copytree(converted("classifier"), model)
        config = json.loads((model / "config.json").read_text())
        for names, file in (
            (["no", "yes", "may be"], "labels.txt"),
            (["no", " yes", "may\nbe"], "labels.json"),
        ):
            config["id2label"] = {str(label): name for label, name in enumerate(names)}
            config["label2id"] = {name: label for label, name in enumerate(names)}
            (model / "config.json").write_text(json.dumps(config))
            convert_back(model, tmp_path / "out", force=True)
            assert (tmp_path / "out" / file).exists()
            convert(tmp_path / "out", tmp_path / "again", force=True)
            again = json.loads((tmp_path / "again" / "config.json").read_text())
            assert again["id2label"] == config["id2label"]

    def test_has_a_global_step_and_a_name_of_the_caller_s(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        done = convert_back(
            converted("encoder"), tmp_path / "out", prefix="model.ckpt-7", global_step=7
        )
        assert done.prefix == str(tmp_path / "out" / "model.ckpt-7")
        checkpoint = open_checkpoint(tmp_path / "out")
        assert checkpoint.name.endswith("model.ckpt-7")
        assert checkpoint["global_step"].dtype == np.int64
        assert checkpoint["global_step"] == 7

    @pytest.mark.parametrize("prefix", ["", ".hidden", "a/b", "checkpoint", "a b", "\u00fc", "."])
    def test_refuses_names_that_tensorflow_would_mistake(
        self, prefix: str, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match="the prefix can't be"):
            convert_back(converted("encoder"), tmp_path / "out", prefix=prefix)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("step", [-1, 1 << 63])
    def test_refuses_a_step_of_more_than_64_bits(
        self, step: int, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match="the global step can't be"):
            convert_back(converted("encoder"), tmp_path / "out", global_step=step)

    def test_may_have_unused_tokens_for_rows_without_one(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        model = tmp_path / "model"
        shutil.copytree(converted("encoder"), model)
        (model / "tokenizer.json").unlink()
        tokens = (model / "vocab.txt").read_text().splitlines()
        (model / "vocab.txt").write_text("\n".join(tokens[:-3]) + "\n")
        with pytest.raises(PlanError, match="--pad-vocab keeps them"):
            convert_back(model, tmp_path / "out")
        convert_back(model, tmp_path / "out", pad_vocab=True)
        written = (tmp_path / "out" / "vocab.txt").read_text().splitlines()
        assert written == [*tokens[:-3], *(f"[unused_{row}]" for row in range(125, 128))]

    def test_has_variables_of_another_dtype_if_they_fit(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        convert_back(converted("encoder"), tmp_path / "out", dtype="float16")
        checkpoint = open_checkpoint(tmp_path / "out")
        assert {variable.tf_dtype for variable in checkpoint.variables.values()} == {"float16"}

    def test_has_a_vocabulary_by_its_usual_name_where_the_mapping_names_no_file(
        self, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        text = builtin_mappings()["bert"].read_text()
        lines = [line for line in text.splitlines() if not line.startswith("vocabulary = {")]
        (tmp_path / "own.toml").write_text("\n".join(lines))
        convert_back(converted("encoder"), tmp_path / "out", mapping=str(tmp_path / "own.toml"))
        assert (tmp_path / "out" / "vocab.txt").exists()
