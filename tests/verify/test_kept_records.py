"""Golden records that a conversion leaves on the way: when they appear, and when they do not.

The mapping here has no reference, so that no model is run. tests/oracle/ has those that are.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import bertconvert.converter.convert as convert_module
from bertconvert import OutputError, convert, verify
from bertconvert.cli import cli
from bertconvert.converter.verify import find_record, kept, prover, read_record, recorder

MAPPINGS = Path(__file__).parents[2] / "mappings"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """BERT's mapping without a reference."""
    text = (MAPPINGS / "bert.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("reference ")]
    path = tmp_path / "rules.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def source(fixtures: Path) -> Path:
    return fixtures / "encoder"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "encoder.safetensors"


def run(command: str, *args: str | Path) -> Result:
    return CliRunner().invoke(cli, [command, *map(str, args)], prog_name="bertconvert")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestTf2pt:
    @pytest.mark.parametrize("proof", [[], ["--verify", "weights"]])
    def test_writes_a_record_that_proves_the_model(
        self, proof: list[str], source: Path, rules: Path, file: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        result = run("tf2pt", source, out, "--mapping", rules, "--record", file, *proof)
        assert result.exit_code == 0, result.stderr
        assert f"the record was written to {file}" in result.stderr
        assert verify(file, out, level="weights").passed
        assert (out / "verification.json").exists() is bool(proof)
        assert names(tmp_path) == ["encoder.safetensors", "out", "rules.toml"]

    def test_replaces_a_record_only_with_force(
        self, source: Path, rules: Path, file: Path, tmp_path: Path
    ) -> None:
        arguments = [source, tmp_path / "out", "--mapping", rules, "--record", file]
        assert run("tf2pt", *arguments).exit_code == 0
        before = file.read_bytes()
        refused = run("tf2pt", source, tmp_path / "two", *arguments[2:])
        assert refused.exit_code == 1
        assert f"{file} exists. Use --force" in refused.stderr
        assert not (tmp_path / "two").exists()
        assert file.read_bytes() == before
        assert run("tf2pt", *arguments, "--force", "--dtype", "float16").exit_code == 0
        assert file.read_bytes() != before
        assert verify(file, tmp_path / "out", level="weights").passed

    def test_never_replaces_what_is_no_record(
        self, source: Path, rules: Path, file: Path, tmp_path: Path
    ) -> None:
        file.write_bytes(b"mine")
        options = ["--mapping", rules, "--record", file, "--force"]
        result = run("tf2pt", source, tmp_path / "out", *options)
        assert result.exit_code == 1
        assert "is no record" in result.stderr
        assert file.read_bytes() == b"mine"
        assert not (tmp_path / "out").exists()

    def test_keeps_records_out_of_the_model_folder(self, source: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        result = run("tf2pt", source, out, "--record", out / "model.safetensors")
        assert result.exit_code == 2
        assert "--record needs a FILE that is not in OUT" in result.stderr
        assert names(out) == []

    def test_needs_tensorflow(
        self, source: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bertconvert.converter.verify.packages.find_spec", lambda _: None)
        for command in ("tf2pt", "batch"):
            result = run(command, source, tmp_path / "out", "--record", file)
            assert result.exit_code == 2
            assert "--record needs tensorflow, which is not installed: pip install" in result.stderr
        assert names(tmp_path) == []


class TestAfterAnError:
    def test_of_the_proof_there_is_neither_a_model_nor_a_record(
        self,
        source: Path,
        rules: Path,
        file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        right = convert_module._config
        monkeypatch.setattr(
            convert_module, "_config", lambda prepared: right(prepared) | {"layer_norm_eps": 1e-5}
        )
        options = ["--mapping", rules, "--record", file, "--verify", "weights"]
        result = run("tf2pt", source, tmp_path / "out", *options)
        assert result.exit_code == 1
        assert "Nothing was published" in result.stderr
        assert names(tmp_path) == ["rules.toml"]

    def test_of_the_disk_there_is_no_model_without_its_record(
        self, source: Path, rules: Path, file: Path, tmp_path: Path, full: None
    ) -> None:
        message = r"encoder\.safetensors can't be written: No space left"
        with pytest.raises(OutputError, match=message), kept(file, False) as keep:
            convert(source, tmp_path / "out", mapping=str(rules), prove=recorder(keep))
        assert names(tmp_path) == ["rules.toml"]

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)

    def test_of_the_publication_there_is_no_record(
        self, source: Path, rules: Path, file: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(OutputError, match="not empty"), kept(file, False) as keep:
            prove = recorder(keep)

            def disturbed(*arguments: object) -> None:
                prove(*arguments)  # type: ignore[arg-type]
                out.mkdir()
                (out / "mine").touch()

            convert(source, out, mapping=str(rules), prove=disturbed)
        assert names(tmp_path) == ["out", "rules.toml"]

    def test_of_the_last_step_the_message_says_that_the_model_is_there(
        self, source: Path, rules: Path, file: Path, tmp_path: Path
    ) -> None:
        message = r"everything else is done, but .*encoder\.safetensors can't be written"
        with pytest.raises(OutputError, match=message), kept(file, False) as keep:
            convert(source, tmp_path / "out", mapping=str(rules), prove=recorder(keep))
            file.mkdir()
        assert names(tmp_path) == ["encoder.safetensors", "out", "rules.toml"]
        assert verify(source, tmp_path / "out", level="weights", mapping=str(rules)).passed


class TestABatch:
    @pytest.fixture
    def arguments(self, fixtures: Path, rules: Path, tmp_path: Path) -> Iterator[list[str | Path]]:
        sources = [fixtures / "encoder", fixtures / "squad"]
        yield [*sources, tmp_path / "out", "--mapping", rules, "--record", tmp_path / "new" / "r"]

    def test_leaves_a_record_of_each_model(
        self, arguments: list[str | Path], tmp_path: Path
    ) -> None:
        result = run("batch", *arguments)
        assert result.exit_code == 0, result.stderr
        records = tmp_path / "new" / "r"
        assert names(records) == ["encoder.safetensors", "squad.safetensors"]
        for name in ("encoder", "squad"):
            made = find_record(records / f"{name}.safetensors")
            assert made is not None and read_record(made).level == "weights"
            assert verify(made.name, tmp_path / "out" / name, level="weights").passed

    @pytest.mark.parametrize("proof", [[], ["--verify", "weights"]])
    def test_makes_those_that_are_missing_of_models_that_are_unchanged(
        self, proof: list[str], arguments: list[str | Path], tmp_path: Path
    ) -> None:
        assert run("batch", *arguments[:-2]).exit_code == 0
        result = run("batch", *arguments, *proof)
        assert result.exit_code == 0, result.stderr
        assert "2 unchanged" in result.stdout
        records = tmp_path / "new" / "r"
        stamps = {path: path.stat().st_mtime_ns for path in records.iterdir()}
        assert len(stamps) == 2
        (records / "squad.safetensors").unlink()
        assert run("batch", *arguments, *proof).exit_code == 0
        assert {path.name for path in stamps if path.stat().st_mtime_ns != stamps[path]} == {
            "squad.safetensors"
        }

    def test_leaves_those_of_the_same_checkpoint_elsewhere(
        self, arguments: list[str | Path], tmp_path: Path
    ) -> None:
        assert run("batch", *arguments).exit_code == 0
        records = tmp_path / "new" / "r"
        before = {path.name: path.read_bytes() for path in records.iterdir()}
        sources = [shutil.copytree(path, tmp_path / Path(path).name) for path in arguments[:2]]
        result = run("batch", *sources, *arguments[2:], "--lower-case")  # which was inferred before
        assert result.exit_code == 0, result.stderr
        assert {path.name: path.read_bytes() for path in records.iterdir()} == before

    def test_fails_for_a_model_whose_record_is_of_another(
        self, arguments: list[str | Path], tmp_path: Path
    ) -> None:
        assert run("batch", *arguments).exit_code == 0
        records = tmp_path / "new" / "r"
        os.replace(records / "squad.safetensors", records / "encoder.safetensors")
        result = run("batch", *arguments)
        assert result.exit_code == 1
        assert "1 unchanged, 1 failed" in result.stdout
        assert "encoder.safetensors exists and is a record of another checkpoint" in result.stderr
        assert run("batch", *arguments, "--force").exit_code == 0
        assert run("batch", *arguments).exit_code == 0

    @pytest.mark.parametrize("place", ["out/squad", "out/squad/records", "s3://models/records"])
    def test_refuses_a_folder_that_can_not_keep_them(
        self, place: str, arguments: list[str | Path], tmp_path: Path
    ) -> None:
        folder = place if "://" in place else tmp_path / place
        result = run("batch", *arguments[:-1], folder)
        assert result.exit_code == 2
        assert "--record" in result.stderr
        assert not (tmp_path / "out").exists()


def test_a_proof_and_its_record_are_made_of_one_run(
    source: Path, rules: Path, file: Path, tmp_path: Path
) -> None:
    with kept(file, False) as keep:
        made = convert(
            source, tmp_path / "out", mapping=str(rules), prove=prover("weights", None, keep)
        )
        assert not file.exists()
    assert made.proof.startswith("Verified: ")
    assert verify(file, tmp_path / "out", level="weights").passed
