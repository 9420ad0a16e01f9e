"""Golden records at level weights, which needs neither torch nor TensorFlow."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bertconvert import OutputError, VerificationError, convert, open_checkpoint, record, verify
from bertconvert.cli import cli
from bertconvert.converter.verify import find_record, read_record
from bertconvert.converter.verify.golden_record import Record, to_bytes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def facts(file: Path) -> dict[str, Any]:
    with safe_open(file, "np") as opened:
        found: dict[str, Any] = json.loads(opened.metadata()["facts"])
        return found


def read(file: Path) -> Record:
    found = find_record(file)
    assert found is not None
    return read_record(found)


@pytest.fixture(scope="module")
def file(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of the fixture `pretraining-adam`, which has optimizer slots."""
    path = tmp_path_factory.mktemp("record") / "adam.safetensors"
    record(fixtures / "pretraining-adam", path, level="weights")
    return path


def test_pins_each_variable_by_the_checksums_of_its_bytes(file: Path, fixtures: Path) -> None:
    pins = facts(file)["pins"]
    checkpoint = open_checkpoint(fixtures / "pretraining-adam")
    assert list(pins) == list(checkpoint)
    hashed = {name: pin for name, pin in pins.items() if "sha256" in pin}
    assert len(hashed) == 46
    for name, pin in hashed.items():
        array = np.ascontiguousarray(checkpoint[name])
        assert pin["sha256"] == hashlib.sha256(array.tobytes()).hexdigest()
        assert pin["crc32c"] == checkpoint.checksum(name)
        assert pin["variable"]["shape"] == list(array.shape)
    slots = pins.keys() - hashed.keys()
    assert slots and all("adam" in name or name == "global_step" for name in slots)


def test_reads_no_optimizer_slot(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertconvert.converter.checkpoint import Checkpoint

    read: list[str] = []
    get = Checkpoint.__getitem__

    def watched(self: Checkpoint, name: str) -> Any:
        read.append(name)
        return get(self, name)

    monkeypatch.setattr(Checkpoint, "__getitem__", watched)
    record(fixtures / "pretraining-adam", tmp_path / "r.safetensors", level="weights")
    assert len(read) == 46 and not any("adam" in name for name in read)


def test_takes_the_place_of_a_checkpoint_that_is_gone(
    file: Path, fixtures: Path, tmp_path: Path
) -> None:
    shutil.copytree(fixtures / "pretraining-adam", tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "out")
    by_checkpoint = verify(tmp_path / "checkpoint", tmp_path / "out", level="weights")
    shutil.rmtree(tmp_path / "checkpoint")
    by_record = verify(file, tmp_path / "out", level="weights")
    assert by_record.passed
    assert by_record.checks == by_checkpoint.checks
    assert by_record.matches == by_checkpoint.matches
    assert by_record.facts == by_checkpoint.facts
    assert by_record.record is not None and by_record.record.file == str(file)


def test_names_no_place_of_the_machine_that_made_it(file: Path, fixtures: Path) -> None:
    content = file.read_bytes()
    assert str(fixtures).encode() not in content
    assert facts(file)["checkpoint"] == "bert_model.ckpt"


def test_has_the_same_bytes_every_time_but_for_the_time(
    file: Path, fixtures: Path, tmp_path: Path
) -> None:
    made = record(fixtures / "pretraining-adam", tmp_path / "again.safetensors", level="weights")
    assert to_bytes(replace(made, made=read(file).made)) == file.read_bytes()


def test_is_what_was_written(file: Path, fixtures: Path, tmp_path: Path) -> None:
    made = record(fixtures / "pretraining-adam", tmp_path / "again.safetensors", level="weights")
    assert read(tmp_path / "again.safetensors") == made


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_of_a_cast_proves_the_cast(dtype: Any, fixtures: Path, tmp_path: Path) -> None:
    convert(fixtures / "encoder", tmp_path / "out", dtype=dtype)
    record(fixtures / "encoder", tmp_path / "cast.safetensors", level="weights", dtype=dtype)
    record(fixtures / "encoder", tmp_path / "kept.safetensors", level="weights")
    assert verify(tmp_path / "cast.safetensors", tmp_path / "out", level="weights").passed
    with pytest.raises(VerificationError, match=f"bertconvert record CKPT FILE --dtype {dtype}"):
        verify(tmp_path / "kept.safetensors", tmp_path / "out", level="weights")


def test_of_another_checkpoint_of_the_same_sizes_fails(
    file: Path, converted: Callable[[str], Path]
) -> None:
    verdict = verify(file, converted("pretraining"), level="weights")
    assert not verdict.passed
    assert [cause.kind for cause in verdict.causes] == ["another checkpoint"]


def test_of_another_class_is_no_reference(file: Path, converted: Callable[[str], Path]) -> None:
    for other in ("classifier", "squad", "encoder"):
        with pytest.raises(VerificationError, match="the record is of a BertForPreTraining"):
            verify(file, converted(other), level="weights")


def test_proves_a_folder_that_others_wrote(
    file: Path, converted: Callable[[str], Path], fixtures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(fixtures / "pretraining-adam", out)
    (out / "conversion.json").unlink()
    tensors = load_file(out / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = np.arange(64)[None]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    verdict = verify(file, out, level="weights")
    assert verdict.passed
    note = "config.json says BertForMaskedLM, and the weights are those of BertForPreTraining"
    assert note in verdict.notes


def test_proves_no_more_than_it_was_made_for(file: Path, converted: Callable[[str], Path]) -> None:
    with pytest.raises(VerificationError, match=r"was made at level weights\. For level outputs"):
        verify(file, converted("pretraining"), level="outputs")
    assert verify(file, converted("pretraining-adam")).level == "weights"


@pytest.mark.parametrize(
    "change", [{"head": "none"}, {"seed": 1}, {"samples": 3}, {"positions": 5}]
)
def test_has_its_own_options_and_sequences(
    change: dict[str, Any], file: Path, converted: Callable[[str], Path]
) -> None:
    with pytest.raises(ValueError, match="is a record, which has its own options and sequences"):
        verify(file, converted("pretraining-adam"), level="weights", **change)


class TestTheCommand:
    def test_writes_a_record_and_says_what_it_proves(self, fixtures: Path, tmp_path: Path) -> None:
        file = tmp_path / "r.safetensors"
        result = run("record", fixtures / "encoder", file, "--level", "weights")
        assert result.exit_code == 0
        assert "the checksums of 37 variables" in result.stdout
        assert "it proves level weights" in result.stdout
        found = run("record", fixtures / "encoder", file, "--level", "weights", "--force", "--json")
        document = json.loads(found.stdout)
        assert document["file"] == str(file) and document["nbytes"] == file.stat().st_size
        assert document["level"] == "weights" and document["variables"] == 37

    def test_replaces_a_record_only_with_force_and_nothing_else_ever(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        file, other = tmp_path / "r.safetensors", tmp_path / "notes.txt"
        other.write_text("mine")
        command = ("record", fixtures / "encoder")
        assert run(*command, file, "--level", "weights").exit_code == 0
        before = file.read_bytes()
        result = run(*command, file, "--level", "weights")
        assert result.exit_code == 1 and "exists. Use --force to replace it" in result.stderr
        assert file.read_bytes() == before
        assert run(*command, file, "--level", "weights", "--force").exit_code == 0
        for arguments in ((), ("--force",)):
            assert run(*command, other, "--level", "weights", *arguments).exit_code == 1
            assert other.read_text() == "mine"
        assert sorted(os.listdir(tmp_path)) == ["notes.txt", "r.safetensors"]

    def test_refuses_a_place_before_any_work(self, fixtures: Path, tmp_path: Path) -> None:
        for place in (tmp_path, tmp_path / "no" / "r.safetensors"):
            with pytest.raises(OutputError):
                record("no checkpoint", place, level="weights")

    def test_says_in_the_verdict_that_the_reference_is_a_record(
        self, file: Path, converted: Callable[[str], Path]
    ) -> None:
        out = converted("pretraining-adam")
        text = " ".join(run("verify", file, out, "--level", "weights").stdout.split())
        assert f"the reference is the golden record {file}, made 2" in text
        document = json.loads(run("verify", file, out, "--level", "weights", "--json").stdout)
        assert document["record"]["file"] == str(file)
        assert document["record"]["tool"].startswith("bertconvert ")


def test_verify_by_a_record_imports_neither_torch_nor_tensorflow_nor_transformers(
    file: Path, converted: Callable[[str], Path]
) -> None:
    code = (
        "import sys; from bertconvert import verify;"
        " v = verify(sys.argv[1], sys.argv[2], level='weights'); assert v.passed;"
        " heavy = {'torch', 'tensorflow', 'transformers', 'ml_dtypes', 'jinja2'};"
        " assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(file), str(converted("pretraining-adam"))]
    subprocess.run(command, check=True)
