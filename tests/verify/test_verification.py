"""What stays of a proof in the model folder: verification.json, and its place in the card."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bertconvert import OutputError, convert, convert_back, verify
from bertconvert.cli import cli
from bertconvert.converter.model_card import with_proof
from bertconvert.converter.verify import prover

from ..helpers import split_weights

CARD, FILE = "README.md", "verification.json"


@pytest.fixture
def source(fixtures: Path) -> Path:
    return fixtures / "pretraining"


@pytest.fixture
def out(converted: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder that was converted without a proof, and may be changed."""
    return shutil.copytree(converted("pretraining"), tmp_path / "out")


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, args)], prog_name="bertconvert")


def save(source: Path, out: Path, *args: str | Path) -> Result:
    return run("verify", source, out, "--level", "weights", "--save", *args)


def saved(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / FILE).read_bytes())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestAConversionThatIsProved:
    @pytest.fixture
    def proved(self, source: Path, tmp_path: Path) -> Path:
        result = run("tf2pt", source, tmp_path / "proved", "--verify", "weights")
        assert result.exit_code == 0, result.stderr
        assert "Verified: every tensor equals its variable, bit for bit" in result.stdout
        return tmp_path / "proved"

    def test_says_what_was_proved_and_of_what(self, proved: Path) -> None:
        found = saved(proved)
        assert next(iter(found.items())) == ("version", 1)
        assert found["passed"] is True
        assert found["levels"] == {"weights": True}
        assert {check["level"] for check in found["checks"]} == {"weights"}
        assert found["outputs"] == [] and found["gradients"] is None
        assert [*found["versions"]] == ["python", "numpy"]
        provenance = json.loads((proved / "conversion.json").read_bytes())
        read = [one for one in provenance["sources"] if one["role"] != "data"]
        assert found["sources"] == read

    def test_has_the_fields_that_the_page_describes_and_no_others(self, proved: Path) -> None:
        page = (Path(__file__).parents[2] / "docs" / "output-files.md").read_text()
        section = page.partition("\n## verification.json\n")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
        assert re.findall(r"`(\w+)`", " ".join(cells)) == [*saved(proved)]

    def test_pins_each_file_but_the_card_so_that_sha256sum_checks_them(self, proved: Path) -> None:
        files = saved(proved)["files"]
        assert files.keys() == {*os.listdir(proved)} - {CARD, FILE}
        lines = "".join(f"{digest}  {name}\n" for name, digest in files.items())
        command = ["sha256sum", "--check", "--strict", "--status"]
        subprocess.run(command, input=lines, text=True, cwd=proved, check=True)

    def test_changes_no_other_file_than_the_card(self, proved: Path, out: Path) -> None:
        with_it, without = contents(proved), contents(out)
        assert {name for name in without if without[name] != with_it[name]} == {CARD}
        card = (proved / CARD).read_text()
        assert "\nVerified at level weights on 20" in card
        assert with_proof(card, "") == (out / CARD).read_text()

    def test_leaves_no_proof_where_it_is_replaced_by_one_that_is_not(
        self, source: Path, proved: Path
    ) -> None:
        convert(source, proved, force=True, dtype="float16")
        assert not (proved / FILE).exists()
        assert "Verified" not in (proved / CARD).read_text()

    def test_is_converted_back_as_one_that_is_not(
        self, proved: Path, out: Path, tmp_path: Path
    ) -> None:
        convert_back(proved, tmp_path / "one")
        convert_back(out, tmp_path / "other")
        assert contents(tmp_path / "one") == contents(tmp_path / "other")

    def test_has_both_weights_files_pinned(self, source: Path, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        both = {"formats": ("safetensors", "bin")}
        convert(source, tmp_path / "both", prove=prover("weights"), **both)  # type: ignore[arg-type]
        assert {"model.safetensors", "pytorch_model.bin"} <= saved(tmp_path / "both")[
            "files"
        ].keys()


class TestAVerdictThatIsSaved:
    def test_is_what_a_conversion_would_have_left(
        self, source: Path, out: Path, tmp_path: Path
    ) -> None:
        result = save(source, out)
        assert result.exit_code == 0
        assert f"{FILE} was written into {out}" in result.stderr
        convert(source, tmp_path / "proved", prove=prover("weights"))
        there, here = saved(tmp_path / "proved"), saved(out)
        assert {**there, "made": ""} == {**here, "made": ""}
        assert (
            there["made"][:10] != here["made"][:10]
            or contents(out)[CARD] == contents(tmp_path / "proved")[CARD]
        )

    def test_names_the_record_that_was_the_reference(
        self, source: Path, out: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "golden.safetensors"
        assert run("record", source, file, "--level", "weights").exit_code == 0
        result = run("verify", file, out, "--save")
        assert result.exit_code == 0, result.stderr
        found = saved(out)
        assert found["record"]["file"] == file.name
        assert found["record"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert found["record"]["tensorflow"] == ""
        assert (
            "The reference is a record of the checkpoint, `golden.safetensors`, which"
            in (out / CARD).read_text()
        )
        assert verify(source, out, level="weights", save=True).passed
        assert saved(out)["sources"] == found["sources"]

    def test_is_written_only_if_that_is_asked_for(self, source: Path, out: Path) -> None:
        before = contents(out)
        assert verify(source, out, level="weights").passed
        assert contents(out) == before

    def test_is_not_written_if_it_fails(self, source: Path, out: Path) -> None:
        config = out / "config.json"
        config.write_text(config.read_text().replace("gelu_pytorch_tanh", "gelu"))
        before = contents(out)
        result = save(source, out)
        assert result.exit_code == 1
        assert "nothing was saved" in result.stderr
        assert contents(out) == before

    def test_replaces_an_earlier_one_and_keeps_what_was_added_to_the_card(
        self, source: Path, out: Path
    ) -> None:
        card = out / CARD
        card.write_text(f"{card.read_text()}\n## Mine\n\nKept, é.\n")
        assert save(source, out).exit_code == 0
        once = card.read_text()
        assert save(source, out).exit_code == 0
        assert card.read_text() == once
        assert once.count("Verified at level weights") == 1
        assert once.endswith("\n## Mine\n\nKept, é.\n")

    @pytest.mark.parametrize("content", [b"# My model\n", b"\xff\xfe", None])
    def test_leaves_a_card_that_has_no_place_for_it(
        self, content: bytes | None, source: Path, out: Path
    ) -> None:
        card = out / CARD
        card.unlink() if content is None else card.write_bytes(content)
        result = save(source, out)
        assert result.exit_code == 0
        assert saved(out)["passed"]
        assert ("was left as it is" in result.stdout) is (content is not None)
        assert (card.read_bytes() if card.exists() else None) == content

    @pytest.mark.parametrize("content", [b"{}", b"mine", b'{"tool": "other", "files": {}}'])
    def test_never_replaces_a_file_of_others(self, content: bytes, source: Path, out: Path) -> None:
        (out / FILE).write_bytes(content)
        before = contents(out)
        result = save(source, out)
        assert result.exit_code == 1
        assert "bertconvert did not write it" in result.stderr
        assert "PASS" not in result.stdout  # it is refused before any work
        assert contents(out) == before

    def test_goes_to_a_disk_only(self, source: Path) -> None:
        result = run("verify", source, "s3://models/tiny", "--save", "--level", "weights")
        assert result.exit_code == 2
        assert "--save needs" in result.stderr
        with pytest.raises(ValueError, match="a folder on a disk"):
            verify(source, "s3://models/tiny", level="weights", save=True)

    def test_is_of_the_shards_where_the_weights_are_split(self, source: Path, out: Path) -> None:
        shards = {*split_weights(out).values()}
        assert save(source, out).exit_code == 0
        files = saved(out)["files"]
        assert {*shards, "model.safetensors.index.json"} <= files.keys()

    def test_is_whole_if_it_cannot_be_written(
        self, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert save(source, out).exit_code == 0
        before = contents(out)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"verification\.json can't be written: No space"):
            verify(source, out, level="weights", save=True)
        assert contents(out) == before


class TestAProofOfAnotherState:
    @pytest.fixture
    def proved(self, source: Path, out: Path) -> Path:
        assert save(source, out).exit_code == 0
        return out

    def test_is_noted(self, source: Path, proved: Path) -> None:
        assert verify(source, proved, level="weights").notes == []
        config = json.loads((proved / "config.json").read_bytes())
        (proved / "config.json").write_text(json.dumps(config | {"use_cache": True}))
        verdict = verify(source, proved, level="weights")
        assert verdict.passed
        (note,) = verdict.notes
        assert note.startswith(FILE) and note.endswith(" config.json changed")
        assert verify(source, proved, level="weights", save=True).notes == []
        assert verify(source, proved, level="weights").notes == []

    def test_names_a_file_that_is_gone(self, source: Path, proved: Path) -> None:
        (proved / "special_tokens_map.json").unlink()
        (note,) = verify(source, proved, level="weights").notes
        assert note.endswith(" special_tokens_map.json changed")

    @pytest.mark.parametrize(
        "name", ["../out/config.json", "/etc/passwd", "/dev/zero", "..", "", "a\0b", "x" * 300]
    )
    def test_reads_nothing_outside_of_the_folder(
        self, name: str, source: Path, proved: Path
    ) -> None:
        document = saved(proved) | {"files": {name: "0" * 64}}
        (proved / FILE).write_text(json.dumps(document))
        (note,) = verify(source, proved, level="weights").notes
        assert note.startswith(FILE) and len(note) < 500

    def test_does_not_wait_for_a_pipe(self, source: Path, proved: Path) -> None:
        (proved / "config.json").rename(proved / "kept")
        os.mkfifo(proved / "pipe")
        (proved / "kept").rename(proved / "config.json")
        document = saved(proved) | {"files": {"pipe": "0" * 64}}
        (proved / FILE).write_text(json.dumps(document))
        (note,) = verify(source, proved, level="weights").notes
        assert note.endswith(" pipe changed")

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[" * 100_000, b"\xff", b'{"tool": "bertconvert 9", "files": [1]}']
    )
    def test_that_is_damaged_is_noted(self, content: bytes, source: Path, proved: Path) -> None:
        (proved / FILE).write_bytes(content)
        verdict = verify(source, proved, level="weights")
        assert verdict.passed
        assert verdict.notes == [f"{FILE} is damaged, or bertconvert did not write it"]

    def test_of_a_newer_form_is_noted(self, source: Path, proved: Path) -> None:
        (proved / FILE).write_text(json.dumps(saved(proved) | {"version": 2}))
        (note,) = verify(source, proved, level="weights").notes
        assert "version 2 of its form" in note


def test_a_card_cannot_be_made_to_end_its_proof_early() -> None:
    card = with_proof(with_proof(CARD_TEXT, "one <!-- end of the proof --> two") or "", "three")
    assert card == with_proof(CARD_TEXT, "three")


CARD_TEXT = "a\n<!-- bertconvert: what was proved -->\n<!-- end of the proof -->\nb\n"
