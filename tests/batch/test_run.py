import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

import bertconvert.converter.batch.task as task_module
from bertconvert import convert
from bertconvert.converter import batch as package
from bertconvert.converter.batch import Event, Job, ModelRow, Summary, batch, find_jobs
from bertconvert.converter.batch.table import write_family
from bertconvert.converter.batch.task import Outcome, Task
from bertconvert.converter.batch.workers import Step
from bertconvert.converter.options import Options
from bertconvert.converter.terminal import Board

from ..helpers import in_terminal, small_disk
from .runs import (
    DATA,
    FIXTURES,
    Files,
    copies,
    damage,
    family,
    lines,
    listed,
    models,
    run,
    stamps,
    start,
    table,
    tree,
    zipped,
)

Converted = Callable[[str], Path]
Slow = Callable[[float], dict[str, str]]


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    """A batch that is done, and may be changed."""
    return shutil.copytree(whole, tmp_path / "out")


@pytest.fixture
def mixed(fixtures: Path, tmp_path: Path) -> Path:
    """Checkpoints of which `bad` is damaged, and the largest."""
    folder = copies(fixtures, tmp_path / "mixed", ["a", "b", "c"])
    copies(fixtures, folder, ["bad"], of="pretraining")
    damage(folder / "bad")
    return folder


class TestABatch:
    def test_makes_of_each_checkpoint_what_a_conversion_makes(
        self, whole: Path, converted: Converted
    ) -> None:
        assert models(whole) == sorted(FIXTURES)
        for name in FIXTURES:
            assert tree(whole / name) == tree(converted(name))
        assert sorted(os.listdir(whole)) == sorted([*FIXTURES, "README.md", "family.json"])

    def test_makes_the_same_of_archives(self, fixtures: Path, tmp_path: Path, whole: Path) -> None:
        for name in ("squad", "encoder"):
            zipped(fixtures / name, tmp_path / "x" / f"{name}.zip", base=f"folder of {name}")
        zipped(tmp_path / "x", tmp_path / "all.zip", zipfile.ZIP_STORED)
        shutil.rmtree(tmp_path / "x")
        zipped(fixtures / "classifier", tmp_path / "classifier.zip")
        result = run(tmp_path / "all.zip", tmp_path / "c*.zip", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        assert models(tmp_path / "out") == ["classifier", "encoder", "squad"]
        for name in ("classifier", "encoder", "squad"):
            assert tree(tmp_path / "out" / name) == tree(whole / name)

    @pytest.mark.parametrize("jobs", ["1", "4"])
    def test_writes_the_same_bytes_however_many_work(
        self, fixtures: Path, tmp_path: Path, whole_files: Files, jobs: str
    ) -> None:
        assert run(fixtures, tmp_path / "out", "--jobs", jobs).exit_code == 0
        assert tree(tmp_path / "out") == whole_files

    def test_takes_the_options_of_a_conversion(self, fixtures: Path, tmp_path: Path) -> None:
        options = ("--dtype", "float16", "--head", "none", "--activation", "erf")
        result = run(fixtures / "squad", fixtures / "classifier", tmp_path / "out", *options)
        assert result.exit_code == 0
        for model in family(tmp_path / "out").values():
            assert model["dtype"] == "float16"
            assert model["architecture"] == "BertModel"
            assert model["activation"] == "gelu"
        assert {row["activation"] for row in table(tmp_path / "out").values()} == {"`gelu`"}

    def test_takes_options_for_each_from_a_list(self, fixtures: Path, tmp_path: Path) -> None:
        source = str(fixtures / "squad")
        models = ({"source": source}, {"source": source, "name": "half", "dtype": "float16"})
        result = run("--list", listed(tmp_path / "list.toml", *models), tmp_path / "out")
        assert result.exit_code == 0
        dtypes = {name: model["dtype"] for name, model in family(tmp_path / "out").items()}
        assert dtypes == {"squad": "float32", "half": "float16"}

    def test_needs_no_folder_that_is_there(self, fixtures: Path, tmp_path: Path) -> None:
        assert run(fixtures / "squad", tmp_path / "a" / "b" / "c").exit_code == 0
        assert models(tmp_path / "a" / "b" / "c") == ["squad"]

    def test_goes_into_a_folder_named_in_any_way(
        self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for out in ("one", "./two/", "~/three", tmp_path / "x" / ".." / "four"):
            assert run(fixtures / "squad", out).exit_code == 0
        assert sorted(os.listdir(tmp_path)) == ["four", "one", "three", "two"]
        assert all(models(tmp_path / out) == ["squad"] for out in os.listdir(tmp_path))

    def test_takes_the_largest_first(self, mixed: Path, tmp_path: Path) -> None:
        begun: list[str] = []
        jobs = find_jobs([str(mixed)], str(tmp_path / "out"))
        batch(
            jobs,
            tmp_path / "out",
            processes=1,
            watch=lambda event: begun.append(event.job.name) if event.kind == "start" else None,
        )
        assert begun == ["bad", "a", "b", "c"]


class TestTheTable:
    def test_has_a_row_for_each_model(self, whole: Path) -> None:
        rows, entries = table(whole), family(whole)
        assert list(rows) == list(entries) == sorted(FIXTURES)
        for name, row in rows.items():
            entry, weights = entries[name], whole / name / "model.safetensors"
            digest = f"{crc32c(weights.read_bytes()):08x}"
            assert row == {
                "model": f"[{name}]({name})",
                "L": "2",
                "H": "32",
                "parameters": f"{entry['parameters']:,}",
                "bytes": f"{weights.stat().st_size:,}",
                "CRC32C": f"`{digest}`",
                "activation": "`gelu_pytorch_tanh`",
                "verdict": "converted, not verified",
            }
            assert entry["crc32c"] == digest
            assert entry["nbytes"] == weights.stat().st_size
            assert entry["sizes"] == json.loads(
                (whole / name / "conversion.json").read_bytes()
            )["sizes"]  # fmt: skip
        assert entries["pretraining"]["parameters"] == 34_050

    def test_says_how_many_there_are(self, whole: Path, fixtures: Path, tmp_path: Path) -> None:
        text = (whole / "README.md").read_text()
        assert "# 6 models, converted from TensorFlow checkpoints\n" in text
        total = sum(model["parameters"] for model in family(whole).values())
        assert f"{total:,} parameters in all." in text
        run(fixtures / "squad", tmp_path / "out")
        assert "# 1 model, converted from" in (tmp_path / "out" / "README.md").read_text()

    def test_holds_names_of_any_kind(self, fixtures: Path, tmp_path: Path) -> None:
        names = ["two words", "x;y", "p|q", "Бер\u0442", "a(b)", "[x]", "`tick`", "*s*", "<b>"]
        names += ["one\nline more", "back\\slash"]
        source = copies(fixtures, tmp_path / "models", names)
        result = run(source, tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        assert models(tmp_path / "out") == sorted(names)
        assert list(family(tmp_path / "out")) == sorted(names)
        text = (tmp_path / "out" / "README.md").read_text()
        rows = [line for line in text.splitlines() if line.startswith("| [")]
        assert len(rows) == len(names)
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
        assert "[two words](two%20words)" in text or "[two words](<two words>)" in text

    def test_has_a_name_that_is_no_text_as_well_as_may_be(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = copies(fixtures, tmp_path / "models", ["good", os.fsdecode(b"m\xff")])
        for options in ([], ["--json"], ["--force"]):
            result = run(source, tmp_path / "out", *options)
            assert result.exit_code == 0, result.stderr
            assert "foresee" not in result.output
        assert len(models(tmp_path / "out")) == len(family(tmp_path / "out")) == 2
        assert len(table(tmp_path / "out")) == 2

    def test_comes_to_hold_what_several_batches_made(
        self, fixtures: Path, tmp_path: Path, whole_files: Files
    ) -> None:
        out = tmp_path / "out"
        for sources in (["squad"], ["encoder", "classifier"], [], ["keras-names"]):
            chosen = [fixtures / name for name in sources] or [fixtures / "pretraining*"]
            assert run(*chosen, out).exit_code == 0
        assert tree(out) == whole_files

    def test_no_longer_has_what_failed_and_was_not_tried_again(
        self, mixed: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        assert run(mixed, out).exit_code == 1
        assert list(table(out)) == ["a", "b", "bad", "c"]
        assert run(mixed / "a", out).exit_code == 0
        assert list(table(out)) == list(family(out)) == ["a", "b", "c"]


class TestASecondRun:
    def test_rewrites_no_model(
        self, fixtures: Path, done: Path, whole_files: Files, converted: Converted
    ) -> None:
        before = {name: stamps(done / name) for name in FIXTURES}
        result = run(fixtures, done, "--json")
        assert result.exit_code == 0
        assert lines(result.stdout)[-1] == {
            "event": "end", "out": str(done),
            "converted": 0, "unchanged": 6, "failed": 0, "not_started": 0
        }  # fmt: skip
        assert {name: stamps(done / name) for name in FIXTURES} == before
        assert tree(done) == whole_files

    def test_makes_only_what_is_missing(
        self, fixtures: Path, done: Path, whole_files: Files
    ) -> None:
        shutil.rmtree(done / "squad")
        result = run(fixtures, done)
        assert "6 models: 1 converted, 5 unchanged" in result.output
        assert tree(done) == whole_files

    @pytest.mark.parametrize("lost", ["family.json", "README.md", "both", "emptied"])
    def test_makes_the_table_again(
        self, fixtures: Path, done: Path, whole_files: Files, lost: str
    ) -> None:
        before = {name: stamps(done / name) for name in FIXTURES}
        for name in ("family.json", "README.md"):
            if lost in (name, "both"):
                (done / name).unlink()
            elif lost == "emptied":
                (done / name).write_bytes(b"")
        assert run(fixtures, done).exit_code == 0
        assert tree(done) == whole_files
        assert {name: stamps(done / name) for name in FIXTURES} == before

    def test_takes_away_what_one_left_that_was_killed(
        self, fixtures: Path, done: Path, whole_files: Files
    ) -> None:
        for name in ("squad", "encoder"):  # the old model, which the new one had just replaced
            shutil.copytree(done / name, done / f".{name}.bertconvert")
        (done / ".family.json.bertconvert").write_bytes(b"{")
        shutil.rmtree(done / "encoder")
        assert run(fixtures, done).exit_code == 0
        assert tree(done) == whole_files

    def test_with_force_makes_every_model_again(
        self, fixtures: Path, done: Path, whole_files: Files
    ) -> None:
        before = stamps(done / "squad")
        (done / "squad" / "notes.txt").write_text("mine")
        result = run(fixtures, done, "--force")
        assert "6 models: 6 converted" in result.output
        assert (done / "squad" / "notes.txt").read_text() == "mine"
        (done / "squad" / "notes.txt").unlink()
        assert tree(done) == whole_files
        after = stamps(done / "squad")
        assert all(after[name] != before[name] for name in before)

    def test_from_where_the_checkpoint_lies_now_leaves_it(
        self, fixtures: Path, done: Path, tmp_path: Path
    ) -> None:
        zipped(fixtures / "squad", tmp_path / "moved" / "squad.zip")
        result = run(tmp_path / "moved" / "squad.zip", done)
        assert "1 unchanged" in result.output
        assert family(done)["squad"]["source"] == str(tmp_path / "moved" / "squad.zip")

    def test_with_other_options_fails_and_says_how_to_replace(
        self, fixtures: Path, done: Path, whole: Path
    ) -> None:
        result = run(fixtures / "squad", fixtures / "encoder", done, "--dtype", "float16")
        assert result.exit_code == 1
        assert (
            result.stderr.count(
                f"{done}/squad exists and was converted differently (its config.json"
            )
            == 1
        )
        assert "--force" in result.output
        assert tree(done / "squad") == tree(whole / "squad")
        assert run(fixtures / "squad", done, "--dtype", "float16", "--force").exit_code == 0
        assert family(done)["squad"]["dtype"] == "float16"

    def test_with_another_checkpoint_fails(
        self, fixtures: Path, done: Path, tmp_path: Path, whole: Path
    ) -> None:
        other = copies(fixtures, tmp_path / "other", ["squad"], of="encoder")
        result = run(other, done)
        assert result.exit_code == 1
        assert f"{done}/squad exists and was converted differently" in result.output
        assert tree(done / "squad") == tree(whole / "squad")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("truncated", "its model.safetensors has 1,000 bytes instead of 135,544"),
            ("longer", "its model.safetensors has 135,545 bytes"),
            ("gone", "its model.safetensors is missing"),
            ("no config", "its config.json is missing"),
            ("config", "its config.json differs"),
            ("no vocabulary", "its vocab.txt is missing"),
            ("tokenizer", "its tokenizer.json differs"),
        ],
    )
    def test_sees_that_a_model_is_not_as_it_was(
        self, fixtures: Path, done: Path, whole: Path, change: str, said: str
    ) -> None:
        weights = done / "squad" / "model.safetensors"
        if change == "truncated":
            os.truncate(weights, 1000)
        elif change == "longer":
            os.truncate(weights, weights.stat().st_size + 1)
        elif change == "gone":
            weights.unlink()
        elif change == "no config":
            (done / "squad" / "config.json").unlink()
        elif change == "no vocabulary":
            (done / "squad" / "vocab.txt").unlink()
        else:
            (done / "squad" / f"{change}.json").write_text("{}")
        result = run(fixtures / "squad", done)
        assert result.exit_code == 1
        assert f"{done}/squad exists and was converted differently ({said}" in result.output
        assert "--force" in result.output
        assert run(fixtures / "squad", done, "--force").exit_code == 0
        assert tree(done / "squad") == tree(whole / "squad")

    def test_of_another_form_of_the_weights_fails(self, fixtures: Path, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        out = tmp_path / "out"
        for status in ("converted", "unchanged"):
            result = run(fixtures / "squad", out, "--format", "bin")
            assert f"1 {status}" in result.output
            assert family(out)["squad"]["file"] == "pytorch_model.bin"
        result = run(fixtures / "squad", out, "--format", "safetensors", "--format", "bin")
        assert (
            f"{out}/squad exists and was converted differently (its model.safetensors"
            in result.output
        )


class TestAFailure:
    def test_leaves_the_others_alone_and_is_told_everywhere(
        self, mixed: Path, tmp_path: Path, whole: Path
    ) -> None:
        out = tmp_path / "out"
        result = run(mixed, out, "--jobs", "2")
        assert result.exit_code == 1
        assert models(out) == ["a", "b", "c"]
        for name in ("a", "b", "c"):
            assert tree(out / name) == tree(whole / "squad")
        (said,) = [line for line in result.output.splitlines() if line.startswith("bad ")]
        assert re.search(r"FAILED .*is damaged at bert/\S+", said)
        assert "4 models: 3 converted, 1 failed" in result.output
        entry = family(out)["bad"]
        assert entry.keys() == {"name", "source", "error"}
        assert entry["source"] == str(mixed / "bad")
        assert entry["error"] in said
        assert table(out)["bad"]["verdict"] == f"failed: {entry['error']}"
        assert table(out)["bad"]["model"] == "bad"
        assert "# 3 models" in (out / "README.md").read_text()
        assert "1 of the checkpoints could not be converted." in (out / "README.md").read_text()
        assert sorted(os.listdir(out)) == ["README.md", "a", "b", "c", "family.json"]

    def test_that_is_mended_is_all_that_is_left_to_do(
        self, mixed: Path, tmp_path: Path, fixtures: Path
    ) -> None:
        out = tmp_path / "out"
        run(mixed, out)
        shutil.copy(fixtures / "pretraining" / DATA, mixed / "bad" / DATA)
        result = run(mixed, out)
        assert result.exit_code == 0
        assert "1 converted, 3 unchanged" in result.output
        assert run(mixed, tmp_path / "new").exit_code == 0
        assert tree(out) == tree(tmp_path / "new")

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_is_the_end_with_fail_fast(
        self, mixed: Path, tmp_path: Path, slow: Slow, jobs: int
    ) -> None:
        out = tmp_path / "out"
        copies(mixed, mixed, [f"more{number}" for number in range(8)], of="a")
        options = ("--fail-fast", "--jobs", str(jobs), "--json")
        process = start(mixed, out, *options, env=slow(0.01))
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        *events, end = lines(said)
        assert end["failed"] == 1
        assert end["converted"] + end["not_started"] == 11
        failure = [event["event"] for event in events].index("failed")
        assert [event for event in events[failure:] if event["event"] == "start"] == []
        assert end["converted"] == jobs - 1  # what had begun beside it may end
        assert len(models(out)) == end["converted"]
        assert f"{end['not_started']} converted" in run(mixed, out).output

    def test_of_many_reasons_is_one_cell(self, fixtures: Path, tmp_path: Path) -> None:
        source = copies(fixtures, tmp_path / "models", ["m"])
        config = json.loads((source / "m" / "bert_config.json").read_text())
        config |= {"hidden_size": 31, "num_hidden_layers": 7, "vocab_size": 1}
        (source / "m" / "bert_config.json").write_text(json.dumps(config))
        result = run(source, tmp_path / "out")
        assert "hidden_size = 31" in result.output and "num_hidden_layers = 7" in result.output
        row = table(tmp_path / "out")["m"]
        assert "hidden_size = 31" in row["verdict"] and "num_hidden_layers = 7" in row["verdict"]

    def test_to_find_a_source_is_a_failure_like_others(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        result = run(tmp_path / "none", fixtures / "squad", out)
        assert result.exit_code == 1
        assert f"{tmp_path}/none is not a checkpoint" in result.output
        assert models(out) == ["squad"]
        assert "is not a checkpoint" in table(out)["none"]["verdict"]

    def test_to_find_any_source_does_nothing(self, tmp_path: Path) -> None:
        result = run(tmp_path / "none", tmp_path / "*.zip", tmp_path / "out")
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {tmp_path}/none is not a checkpoint")
        assert f"{tmp_path}/*.zip matches no file" in result.output
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["bad.zip", "bad.tar.gz"])
    def test_to_open_an_archive_is_a_failure_like_others(
        self, fixtures: Path, tmp_path: Path, name: str
    ) -> None:
        source = copies(fixtures, tmp_path / "models", ["good"])
        (source / name).write_bytes(b"PK\x03\x04" + bytes(100))
        given = ([source], [source / "*"], [source / "good", source / name])
        for number, sources in enumerate(given):
            out = tmp_path / f"out{number}"
            assert run(*sources, out).exit_code == 1
            assert models(out) == ["good"]
            (failure,) = [row for row in table(out).values() if "failed" in row["verdict"]]
            assert name in failure["verdict"]

    def test_keeps_what_an_earlier_run_made(self, fixtures: Path, done: Path) -> None:
        before = tree(done)
        source = copies(fixtures, done.parent / "x", ["squad"])
        damage(source / "squad")
        result = run(source, done, "--force")
        assert result.exit_code == 1
        assert {k: v for k, v in tree(done).items() if k.startswith("squad/")} == {
            k: v for k, v in before.items() if k.startswith("squad/")
        }


class TestAnOutThatIsNotOurs:
    def refused(self, fixtures: Path, out: Path, *options: str) -> str:
        """What is said; nothing may have changed."""
        before = stamps(out.parent)
        result = run(fixtures / "squad", out, *options)
        assert result.exit_code == 1
        assert stamps(out.parent) == before
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert "foresee" not in result.output
        return result.stderr

    def test_as_it_is_a_file_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        assert f"{tmp_path}/out" in self.refused(fixtures, tmp_path / "out")
        assert f"{tmp_path}/out/x can't be created" in self.refused(
            fixtures, tmp_path / "out" / "x"
        )

    @pytest.mark.parametrize("force", [[], ["--force"]])
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("README.md", "# My models\n"),
            ("family.json", '{"members": ["Ann", "Bob"]}'),
            ("family.json", "[]"),
            ("family.json", "no JSON"),
            ("family.json", '{"tool": "x", "models": [{"nam": 1}]}'),
        ],
    )
    def test_as_somebody_elses_table_lies_there_is_refused(
        self, fixtures: Path, tmp_path: Path, name: str, content: str, force: list[str]
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / name).write_text(content)
        said = self.refused(fixtures, out, *force)
        assert f"{out}/{name} exists and was not written by bertconvert batch" in said

    def test_as_a_table_is_no_text_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "family.json").write_bytes(b'{"tool": "\xff"}')
        assert "family.json exists" in self.refused(fixtures, out)

    def test_as_a_table_is_a_folder_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        (tmp_path / "out" / "family.json").mkdir(parents=True)
        assert "family.json can't be read: Is a directory" in self.refused(
            fixtures, tmp_path / "out"
        )

    def test_keeps_what_else_lies_in_it(self, fixtures: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        (out / "mine").mkdir(parents=True)
        (out / "mine" / "notes").write_text("x")
        (out / ".git").mkdir()
        assert run(fixtures / "squad", out).exit_code == 0
        assert (out / "mine" / "notes").read_text() == "x"
        assert list(table(out)) == ["squad"]

    def test_holds_a_folder_of_a_models_name_which_stays(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        (out / "squad").mkdir(parents=True)
        (out / "squad" / "notes").write_text("mine")
        (out / "encoder").write_text("a file")
        before = stamps(out)
        result = run(fixtures, out)
        assert result.exit_code == 1
        assert f"{out}/squad is not empty (notes)" in result.output
        assert f"{out}/encoder is a file" in result.output
        assert "4 converted, 2 failed" in result.output
        after = stamps(out)
        for name in ("squad/notes", "encoder"):
            assert after[name] == before[name]

    def test_may_hold_an_empty_folder_of_a_models_name(
        self, fixtures: Path, tmp_path: Path, whole: Path
    ) -> None:
        (tmp_path / "out" / "squad").mkdir(parents=True)
        assert run(fixtures / "squad", tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out" / "squad") == tree(whole / "squad")

    def test_lies_in_a_source_and_is_refused(self, fixtures: Path, tmp_path: Path) -> None:
        source = copies(fixtures, tmp_path / "models", ["a"])
        result = run(source, source / "out")
        assert result.exit_code == 2
        assert f"{source}/out is in the source {source}" in result.output
        assert not (source / "out").exists()


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many kilobytes."""
    with small_disk(tmp_path / "disk", request.param) as folder:
        yield folder


class TestADisk:
    @pytest.mark.parametrize("disk", [480], indirect=True)
    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_that_fills_up_keeps_what_is_finished(
        self, disk: Path, fixtures: Path, tmp_path: Path, whole: Path, jobs: str
    ) -> None:
        source = copies(fixtures, tmp_path / "models", "abcdef")
        result = run(source, disk / "out", "--jobs", jobs)
        assert result.exit_code == 1
        made = models(disk / "out")
        assert 1 <= len(made) <= 3
        for name in made:
            assert tree(disk / "out" / name) == tree(whole / "squad")
        assert re.search(r"[\d,]+ bytes of free space|No space left on device", result.stderr)
        assert "foresee" not in result.output
        assert f"{len(made)} converted, {6 - len(made)} failed" in result.output
        assert [n for n, row in table(disk / "out").items() if "fail" not in row["verdict"]] == made
        assert sorted(os.listdir(disk / "out")) == ["README.md", *made, "family.json"]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert run(source, disk / "out").exit_code == 0
        assert run(source, tmp_path / "out").exit_code == 0
        assert tree(disk / "out") == tree(tmp_path / "out")

    @pytest.mark.parametrize("disk", [480], indirect=True)
    def test_that_has_no_room_for_the_table_is_told(
        self, disk: Path, fixtures: Path, tmp_path: Path, whole: Path
    ) -> None:
        out = disk / "out"
        assert run(fixtures / "squad", out).exit_code == 0
        with open(disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        table_before = tree(out)["family.json"], tree(out)["README.md"]
        result = run(copies(fixtures, tmp_path / "models", "ab"), out)
        assert result.exit_code == 1
        assert re.search(
            r"^Error: \S+/out/(family.json|README.md) can't be written: No space left on device$",
            result.stderr,
            re.MULTILINE,
        )
        assert "foresee" not in result.output
        assert models(out) == ["squad"]
        assert tree(out / "squad") == tree(whole / "squad")
        assert (tree(out)["family.json"], tree(out)["README.md"]) == table_before
        assert [name for name in os.listdir(out) if name.startswith(".")] == []
        (disk / "filler").unlink()
        assert run(fixtures / "squad", out).exit_code == 0


def proof(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verification.json").read_bytes())
    return found


class TestVerifying:
    def test_is_told_in_the_table_and_on_the_card(self, fixtures: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        result = run(fixtures / "squad", fixtures / "encoder", out, "--verify", "weights")
        assert result.exit_code == 0
        assert result.stderr.count("verified: weights") == 2
        for name, row in table(out).items():
            assert row["verdict"] == "verified: weights"
            assert family(out)[name]["verified"] == "weights"
            assert "Verified at level weights" in (out / name / "README.md").read_text()
            assert proof(out / name)["levels"] == {"weights": True}

    def test_changes_nothing_but_the_card_and_adds_the_proof(
        self, fixtures: Path, tmp_path: Path, whole: Path
    ) -> None:
        assert run(fixtures / "squad", tmp_path / "out", "--verify", "weights").exit_code == 0
        verified, plain = tree(tmp_path / "out" / "squad"), tree(whole / "squad")
        assert [name for name in plain if verified[name] != plain[name]] == ["README.md"]
        assert verified.keys() - plain.keys() == {"verification.json"}

    def test_afterwards_looks_at_what_is_there_and_says_so(
        self, fixtures: Path, done: Path
    ) -> None:
        before = {name: stamps(done / name) for name in FIXTURES}
        result = run(fixtures, done, "--verify", "weights")
        assert result.exit_code == 0
        assert "6 unchanged" in result.output
        assert result.stderr.count("verified: weights") == 6
        assert {row["verdict"] for row in table(done).values()} == {"verified: weights"}
        for name in FIXTURES:
            after = stamps(done / name)
            changed = {file for file in after if before[name].get(file) != after[file]}
            assert changed == {"README.md", "verification.json"}
            assert proof(done / name)["levels"] == {"weights": True}

    def test_afterwards_gives_what_a_conversion_that_is_proved_gives(
        self, fixtures: Path, done: Path, tmp_path: Path
    ) -> None:
        assert run(fixtures / "squad", done, "--verify", "weights").exit_code == 0
        assert run(fixtures / "squad", tmp_path / "new", "--verify", "weights").exit_code == 0
        later, at_once = done / "squad", tmp_path / "new" / "squad"
        assert {**proof(later), "made": ""} == {**proof(at_once), "made": ""}
        assert tree(later)["README.md"] == tree(at_once)["README.md"]

    def test_is_done_again_where_the_proof_is_gone(self, fixtures: Path, done: Path) -> None:
        run(fixtures / "squad", done, "--verify", "weights")
        assert convert(fixtures / "squad", done / "squad", force=True)
        assert not (done / "squad" / "verification.json").exists()
        assert run(fixtures / "squad", done).exit_code == 0
        assert "verified" not in family(done)["squad"]
        assert run(fixtures / "squad", done, "--verify", "weights").exit_code == 0
        assert proof(done / "squad")["passed"]

    def test_is_remembered_by_later_runs(self, fixtures: Path, done: Path) -> None:
        run(fixtures / "squad", done, "--verify", "weights")
        before = tree(done)
        assert run(fixtures / "squad", done).exit_code == 0
        assert run(fixtures, done).exit_code == 0
        assert tree(done) == before
        assert family(done)["squad"]["verified"] == "weights"
        assert "verified" not in family(done)["encoder"]

    def test_is_forgotten_with_the_model_that_was_verified(
        self, fixtures: Path, done: Path
    ) -> None:
        run(fixtures / "squad", done, "--verify", "weights")
        assert run(fixtures / "squad", done, "--force", "--dtype", "float16").exit_code == 0
        assert "verified" not in family(done)["squad"]
        assert run(fixtures / "squad", done, "--force").exit_code == 0
        assert "verified" not in family(done)["squad"]

    def test_afterwards_finds_what_was_damaged_there(self, fixtures: Path, done: Path) -> None:
        weights = done / "squad" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1000] ^= 1
        weights.write_bytes(data)
        before = stamps(done / "squad")
        result = run(fixtures / "squad", fixtures / "encoder", done, "--verify", "weights")
        assert result.exit_code == 1
        assert "1 unchanged, 1 failed" in result.output
        assert "numbers differ" in family(done)["squad"]["error"]
        assert "exists, and fails" in table(done)["squad"]["verdict"]
        assert "Nothing was published" not in result.output  # it was, by another run
        assert stamps(done / "squad") == before
        assert run(fixtures / "squad", done, "--verify", "weights", "--force").exit_code == 0
        assert table(done)["squad"]["verdict"] == "verified: weights"

    def test_of_what_never_was_published_leaves_nothing(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = copies(fixtures, tmp_path / "models", ["m"])
        damage(source / "m")
        assert run(source, tmp_path / "out", "--verify", "weights").exit_code == 1
        assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "family.json"]

    @pytest.mark.parametrize("level", ["outputs", "gradients"])
    def test_on_a_level_whose_packages_are_missing_is_a_wrong_call(
        self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
    ) -> None:
        monkeypatch.setattr("bertconvert.converter.verify.packages._EXTRAS", ("no_such_package",))
        result = run(fixtures / "squad", tmp_path / "out", "--verify", level)
        assert result.exit_code == 2
        assert f"--verify {level} needs" in result.output
        assert not (tmp_path / "out").exists()


class TestJsonLines:
    def test_tell_every_event_and_the_end(self, mixed: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        result = run(mixed, out, "--json", "--jobs", "2")
        assert (result.exit_code, result.stderr) == (1, "")
        events = lines(result.stdout)
        assert all(isinstance(event, dict) for event in events)
        kinds = {}
        for event in events[:-1]:
            kinds.setdefault(event["name"], []).append(event["event"])
        assert kinds.keys() == {"a", "b", "c", "bad"}
        for name, told in kinds.items():
            assert told[0] == "start"
            assert told[-1] == ("failed" if name == "bad" else "converted")
            assert set(told[1:-1]) <= {"step"}
        assert events[-1] == {
            "event": "end", "out": str(out),
            "converted": 3, "unchanged": 0, "failed": 1, "not_started": 0
        }  # fmt: skip
        last = {event["name"]: event for event in events[:-1]}
        for name, model in family(out).items():
            assert {key: last[name][key] for key in model} == model

    def test_tell_what_was_there(self, fixtures: Path, done: Path) -> None:
        events = lines(run(fixtures, done, "--json").stdout)
        assert sorted(e["name"] for e in events if e["event"] == "unchanged") == sorted(FIXTURES)
        assert not [event for event in events if event["event"] == "converted"]

    def test_tell_how_far_each_is(self, fixtures: Path, tmp_path: Path, slow: Slow) -> None:
        process = start(fixtures / "squad", tmp_path / "out", "--json", env=slow(0.025))
        said, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")
        steps = [event for event in lines(said) if event["event"] == "step"]
        assert "converting" in {step["what"] for step in steps}
        assert all(step.keys() == {"event", "name", "what", "done", "total"} for step in steps)
        assert all(0 <= step["done"] <= step["total"] for step in steps)

    def test_are_nothing_for_a_wrong_call(self, fixtures: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        for args in (["none"], [fixtures / "squad"]):
            result = run(*args, tmp_path / "out", "--json")
            assert result.stdout == ""
            assert result.stderr.startswith("Error: ")


class TestWhatPeopleSee:
    def test_is_a_line_for_each_and_one_for_all(self, fixtures: Path, tmp_path: Path) -> None:
        result = run(fixtures, tmp_path / "out")
        assert result.exit_code == 0
        *each, all_of_them, where = result.output.splitlines()
        assert sorted(line.split()[0] for line in each) == sorted(FIXTURES)
        assert all(" converted  2 x 32  " in line for line in each)
        assert re.fullmatch(r"6 models: 6 converted, in \d+\.\d s", all_of_them)
        assert where.startswith(f"table: {tmp_path}/out/README.md")
        assert "\x1b" not in result.output

    def test_is_nothing_but_failures_where_it_is_quiet(
        self, fixtures: Path, mixed: Path, tmp_path: Path
    ) -> None:
        good = run(fixtures, tmp_path / "good", "--quiet")
        assert (good.exit_code, good.output) == (0, "")
        bad = run(mixed, tmp_path / "bad", "--quiet")
        assert (bad.exit_code, bad.stdout) == (1, "")
        assert bad.stderr.startswith("bad  FAILED  ")
        assert bad.stderr.count("\n") == 1

    def test_names_each_on_one_line_whatever_its_name(self, fixtures: Path, tmp_path: Path) -> None:
        source = copies(fixtures, tmp_path / "models", ["a\nb", "c\x1b[31md", "e\u202ef"])
        result = run(source, tmp_path / "out")
        assert len(result.output.splitlines()) == 5
        assert "\x1b" not in result.output and "\u202e" not in result.output

    def test_of_a_long_run_in_a_pipe_is_a_line_every_five_seconds(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        now = [0.0]
        monkeypatch.setattr("bertconvert.converter.terminal.time.monotonic", lambda: now[0])
        one, two = Job("one", "/one"), Job("two", "/two")
        with Board({"one": 10**7, "two": 10**7}, quiet=False) as board:
            for second in range(12):
                now[0] = second
                board(Event("step", one, Step("converting", second * 10**6, 10**7)))
                board(Event("step", two, Step("unpacking", second * 1000, 0)))
            board(Event("failed", two, model=ModelRow("two", "/two", error="no room")))
            now[0] = 15
            board(Event("step", one, Step("hashing", 9 * 10**6, 10**7)))
        assert capsys.readouterr().err.splitlines() == [
            "0 of 2 done; one: converting 5.0 MB of 10.0 MB; two: unpacking 4.0 kB",
            "0 of 2 done; one: converting 10.0 MB of 10.0 MB; two: unpacking 9.0 kB",
            "two  FAILED  no room",
            "1 of 2 done; one: hashing 9.0 MB of 10.0 MB",
        ]

    def test_in_a_terminal_fits_it(self, fixtures: Path, tmp_path: Path, slow: Slow) -> None:
        names = ["uncased_L-12_H-768_A-12", "uncased_L-2_H-128_A-2"]
        source = copies(fixtures, tmp_path / "models", names)
        (source / "none.zip").write_bytes(b"")
        code, shown = terminal(source, tmp_path / "out", env=slow(0.03))
        assert code == 1
        assert "Traceback" not in shown
        assert all(name in shown for name in names)
        assert "converting" in shown  # the bars
        printed = [line for line in shown.splitlines() if "FAILED" not in line]
        own = [line for line in printed if str(tmp_path) not in line]
        assert [line for line in own if width(line) > 80] == []
        assert any("━" in line for line in own)

    @pytest.mark.parametrize("verified", ["", "weights", "outputs", "gradients"])
    def test_of_the_largest_model_of_the_family_fits_a_terminal(
        self, capsys: pytest.CaptureFixture[str], verified: str
    ) -> None:
        name = "uncased_L-12_H-768_A-12"
        model = ModelRow(
            name,
            f"/models/{name}.zip",
            layers=12,
            hidden=768,
            parameters=110_106_428,
            nbytes=440_443_952,
            verified=verified,
        )
        with Board({name: 440_425_712}, quiet=False) as board:
            board(Event("converted", Job(name, model.source), model=model))
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name}  converted  12 x 768  " in line
        assert "440.4 MB" in line
        assert f"verified: {verified}" in line or not verified
        assert width(line) <= 80


def terminal(*args: str | Path, env: dict[str, str]) -> tuple[int, str]:
    """The command in 80 columns: its exit code, and what it shows, without colours."""
    code, shown = in_terminal(["-m", "bertconvert", "batch", *args], env=env)
    return code, re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown).replace("\r", "\n")


def width(line: str) -> int:
    """How many columns a line takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


class TestAWrongCall:
    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "Missing argument"),
            (["out"], "there is nothing to convert"),
            (["x", "out", "--jobs", "0"], "--jobs"),
            (["x", "out", "--jobs", "two"], "--jobs"),
            (["x", "out", "--list", "none.toml"], "none.toml"),
            (["--list", ".", "out"], "directory"),
            (["x", "out", "--verify=all"], "--verify"),
            (["x", "out", "--family", "big"], "there is no family 'big'"),
            (["x", "out", "--base-url", "/x"], "--family"),
            (["x", "out", "--nonsense"], "--nonsense"),
            (["x", "out", "--dtype", "int8"], "--dtype"),
            (["x", "out", "--format", "h5"], "--format"),
        ],
    )
    def test_is_one_message_and_exits_with_2(
        self, args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for more in ([], ["--json"], ["--quiet"]):
            result = run(*args, *more)
            assert (result.exit_code, result.stdout) == (2, "")
            assert len(re.findall("^Error: ", result.stderr, re.M)) == 1
            assert said in result.output
        assert os.listdir(tmp_path) == []

    def test_is_one_with_two_sources_of_one_name(self, fixtures: Path, tmp_path: Path) -> None:
        for one, other in (("m", "m"), ("bert", "BERT")):
            a = copies(fixtures, tmp_path / f"a{one}", [one])
            b = copies(fixtures, tmp_path / f"b{one}", [other])
            result = run(a, b, tmp_path / "out")
            assert result.exit_code == 2
            assert str(a / one) in result.output and str(b / other) in result.output
            assert "--list" in result.output
        assert not (tmp_path / "out").exists()

    def test_is_one_message_of_a_list_that_is_wrong(self, tmp_path: Path) -> None:
        (tmp_path / "list.toml").write_text("[[model]]\nsorce = 'x'\n")
        result = run("--list", tmp_path / "list.toml", tmp_path / "out")
        assert result.exit_code == 2
        assert f"Error: {tmp_path}/list.toml is wrong: " in result.output

    def test_does_not_kill_what_reads_it(self, fixtures: Path, tmp_path: Path) -> None:
        ours, theirs = os.pipe()
        os.close(ours)
        process = subprocess.run(
            [sys.executable, "-m", "bertconvert", "batch", fixtures / "squad", tmp_path / "out",
             "--json"],
            stdout=theirs, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.close(theirs)
        assert process.returncode in (1, 120)
        assert "Traceback" not in process.stderr
        assert "foresee" not in process.stderr
        assert [name for name in os.listdir(tmp_path / "out") if name.startswith(".")] == []


class TestAnUnforeseenError:
    @pytest.fixture
    def outcome(self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
        def fail(*_: object, **__: object) -> None:
            raise KeyError("x")

        monkeypatch.setattr(task_module, "prepare", fail)
        source = str(fixtures / "squad")
        task = Task(0, Job("squad", source), source, str(tmp_path), False, None)
        outcome = task_module.do(task, lambda *_: None)
        return pickle.loads(pickle.dumps(outcome))  # as a process or a cluster sends it

    def test_keeps_its_traceback_in_the_table(self, outcome: Outcome, tmp_path: Path) -> None:
        assert outcome.status == "failed"
        assert "internal error (KeyError: 'x')" in outcome.model.error
        write_family(str(tmp_path), {"squad": outcome.model})
        (row,) = json.loads((tmp_path / "family.json").read_text())["models"]
        assert "in fail" in row["traceback"]

    def test_is_printed_with_debug(
        self, outcome: Outcome, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        summary = Summary(str(tmp_path), [outcome.model], 0, 0, 1, 0)
        monkeypatch.setattr(package, "batch", lambda *_, **__: summary)
        plain = run(fixtures / "squad", tmp_path / "out")
        debug = run(fixtures / "squad", tmp_path / "out", "--debug")
        assert plain.exit_code == debug.exit_code == 1
        assert "in fail" not in plain.stderr
        assert "in fail" in debug.stderr


def test_refuses_wrong_calls(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sources"):
        find_jobs("models/", tmp_path / "out")
    with pytest.raises(TypeError, match="heads"):
        find_jobs([fixtures / "squad"], tmp_path / "out", heads=2)
    jobs = find_jobs([fixtures / "squad"], tmp_path / "out")
    with pytest.raises(ValueError, match="foo"):
        batch(jobs, tmp_path / "out", level="foo")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="processes"):
        batch(jobs, tmp_path / "out", processes=0)
    for wrong in (str(fixtures / "squad"), [fixtures / "squad"], jobs[0]):
        with pytest.raises(TypeError, match="Job"):
            batch(wrong, tmp_path / "out")  # type: ignore[arg-type]
    wrong_options = Options(lower_case="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lower_case"):
        batch([Job("x", "y", wrong_options)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_takes_paths_in_any_form(fixtures: Path, tmp_path: Path) -> None:
    path = listed(tmp_path / "list.toml", {"source": str(fixtures / "encoder")})
    jobs = find_jobs([fixtures / "squad"], tmp_path / "out", listed=str(path))
    assert [job.name for job in jobs] == ["squad", "encoder"]
    family = find_jobs([], tmp_path / "out", family="compact", base_url=tmp_path)
    assert family[0].source.startswith(str(tmp_path))


def test_that_can_not_begin_leaves_no_folder(fixtures: Path, tmp_path: Path) -> None:
    result = run(fixtures / "squad", tmp_path / "out", "--scheduler", "tcp://127.0.0.1:1x")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


class TestAFolderThatHoldsACheckpoint:
    @pytest.mark.parametrize("options", [[], ["--force"]])
    def test_is_never_written(self, fixtures: Path, tmp_path: Path, options: list[str]) -> None:
        copies(fixtures, tmp_path, ["mine", "other/squad"])
        before = tree(tmp_path)
        for out in ("mine", "mine/out"):
            result = run(tmp_path / "mine", tmp_path / out, *options)
            assert result.exit_code == 2
            result = run(tmp_path / "other", tmp_path / "mine", *options)
            assert result.exit_code == 2
            assert "holds a checkpoint" in result.stderr
        assert tree(tmp_path) == before

    @pytest.mark.parametrize("options", [[], ["--force"]])
    def test_and_is_where_a_model_would_be_fails_that_model(
        self, fixtures: Path, tmp_path: Path, options: list[str]
    ) -> None:
        copies(fixtures, tmp_path / "out", ["squad"])
        before = tree(tmp_path / "out" / "squad")
        result = run(fixtures / "squad", fixtures / "encoder", tmp_path / "out", *options)
        assert result.exit_code == 1
        assert "holds a checkpoint" in family(tmp_path / "out")["squad"]["error"]
        assert "or --force" not in result.stderr
        assert tree(tmp_path / "out" / "squad") == before
        assert (tmp_path / "out" / "encoder" / "config.json").exists()


def test_a_name_for_several_checkpoints_fails_alone(fixtures: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    shutil.copytree(fixtures / "squad", steps)
    for path in steps.glob("bert_model.ckpt.*"):
        shutil.copy(path, steps / path.name.replace("bert_model.ckpt", "model.ckpt-7"))
    path = listed(
        tmp_path / "list.toml",
        {"source": "steps", "name": "many"},
        {"source": str(fixtures / "encoder"), "name": "one"},
    )
    result = run("--list", path, tmp_path / "out")
    assert result.exit_code == 1
    rows = family(tmp_path / "out")
    assert "2 checkpoints" in rows["many"]["error"]
    assert "model.ckpt-7" in rows["many"]["error"]
    assert rows["one"]["architecture"] == "BertModel"
    assert models(tmp_path / "out") == ["one"]


class TestNotes:
    """What tf2pt says of a model, batch says, too, wherever it speaks of the model."""

    @pytest.fixture
    def sources(self, fixtures: Path, tmp_path: Path) -> Path:
        copies(fixtures, tmp_path / "models", ["headless", "wordless", "plain"])
        (tmp_path / "models" / "headless" / "bert_config.json").unlink()
        (tmp_path / "models" / "wordless" / "vocab.txt").unlink()
        return tmp_path / "models"

    def test_are_those_of_a_single_conversion(self, sources: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        first = run(sources, out)
        assert first.exit_code == 0
        events = run(sources, out, "--json")
        told = {e["name"]: e for e in lines(events.stdout) if e["event"] == "unchanged"}
        below = (out / "README.md").read_text().partition("## Notes")[2]
        assert family(out).keys() == told.keys() == {"headless", "wordless", "plain"}
        for name, row in family(out).items():
            notes = convert(sources / name, tmp_path / name).notes
            assert notes
            assert row["notes"] == told[name]["notes"] == notes
            for note in notes:
                assert f"note: {note}" in first.stderr
                (line,) = [line for line in below.splitlines() if note in line]
                assert name in line
        assert any("num_attention_heads = 1 is assumed" in n for n in told["headless"]["notes"])
        assert any("no tokenizer" in note for note in told["wordless"]["notes"])

    def test_are_not_printed_if_it_is_quiet(self, sources: Path, tmp_path: Path) -> None:
        assert run(sources, tmp_path / "out", "--quiet").output == ""
