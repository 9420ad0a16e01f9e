import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bertconvert import Options, Variable
from bertconvert.converter.batch import Job, find_jobs
from bertconvert.converter.batch.jobs import families
from bertconvert.converter.errors import BatchError, CheckpointError
from bertconvert.converter.mapping import FOLDER, builtin_mappings, load_mapping
from bertconvert.converter.plan import make_plan
from bertconvert.converter.prepare import prepare

from .runs import copies, family, listed, models, run, save_bert, table, tree, zipped

List = Callable[..., list[Job]]


def names(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]


def refusal(*sources: str | Path, out: str | Path = "/out", **kwargs: Any) -> str:
    with pytest.raises(BatchError) as caught:
        find_jobs([str(source) for source in sources], str(out), **kwargs)
    return str(caught.value)


class TestAList:
    @pytest.fixture
    def jobs(self, tmp_path: Path) -> List:
        """The jobs of a list of models, or of a text."""

        def jobs(*models: Mapping[str, object], text: bytes = b"", **kwargs: Any) -> list[Job]:
            path = listed(tmp_path / "list.toml", *models)
            if text:
                path.write_bytes(text)
            return find_jobs([], "/out", listed=path, **kwargs)

        return jobs

    def test_gives_a_job_for_each_of_its_models(self, jobs: List, fixtures: Path) -> None:
        found = jobs(
            {"source": str(fixtures / "squad")},
            {"source": str(fixtures / "encoder"), "name": "mine"},
        )
        assert [(job.name, job.source) for job in found] == [
            ("squad", str(fixtures / "squad")),
            ("mine", str(fixtures / "encoder")),
        ]
        assert {job.options for job in found} == {Options()}

    def test_says_every_option_of_a_conversion(
        self, jobs: List, fixtures: Path, tmp_path: Path
    ) -> None:
        (job,) = jobs(
            {
                "source": str(fixtures / "squad"),
                "name": "x",
                "mapping": "m.toml",
                "config": "c.json",
                "vocab": "/v.txt",
                "scope": "bert",
                "head": "none",
                "num_heads": 4,
                "activation": "erf",
                "dtype": "float16",
                "lower_case": False,
                "formats": ["bin", "safetensors"],
            }
        )
        assert job.options == Options(
            mapping=str(tmp_path / "m.toml"),
            config=tmp_path / "c.json",
            vocab=Path("/v.txt"),
            lower_case=False,
            formats=("bin", "safetensors"),
            scope="bert",
            head="none",
            num_heads=4,
            activation="erf",
            dtype="float16",
        )

    def test_leaves_open_what_the_command_line_says(self, jobs: List, fixtures: Path) -> None:
        options = Options(config=Path("c.json"), lower_case=True, head="none", dtype="bfloat16")
        source = str(fixtures / "squad")
        plain, own = jobs(
            {"source": source}, {"source": source, "name": "own", "dtype": "keep"}, options=options
        )
        assert plain.options == options
        assert own.options == Options(
            config=Path("c.json"), lower_case=True, head="none", dtype="keep"
        )

    def test_has_paths_relative_to_itself(
        self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copies(fixtures, tmp_path / "lists" / "models", ["a", "b"])
        copies(fixtures, tmp_path / "home", ["c"])
        path = listed(
            tmp_path / "lists" / "list.toml",
            {"source": "models/*", "vocab": "models/a/vocab.txt"},
            {"source": "~/c", "config": "~/c/bert_config.json"},
        )
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for place in (tmp_path, tmp_path / "lists"):
            monkeypatch.chdir(place)
            result = run("--list", os.path.relpath(path), tmp_path / "out", "--force")
            assert result.exit_code == 0, result.stderr
            assert models(tmp_path / "out") == ["a", "b", "c"]

    def test_may_name_a_folder_of_many_and_a_name_for_a_folder_of_one(
        self, jobs: List, fixtures: Path, tmp_path: Path
    ) -> None:
        copies(fixtures, tmp_path / "many", ["a", "b"])
        copies(fixtures, tmp_path / "one", ["c"])
        found = jobs({"source": "many"}, {"source": "one", "name": "x"})
        assert names(found) == ["a", "b", "x"]

    def test_stands_beside_sources_and_a_family(self, fixtures: Path, tmp_path: Path) -> None:
        path = listed(tmp_path / "list.toml", {"source": str(fixtures / "squad"), "name": "x"})
        found = find_jobs([str(fixtures / "encoder")], "/out", listed=path, family="compact")
        assert names(found)[:2] == ["encoder", "x"]
        assert len(found) == 26

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"sourc": "x"}, "unknown option sourc"),
            ({"verify": "weights"}, "unknown option verify"),
            ({"num_heads": "4"}, "Expected `int | null`, got `str`"),
            ({"lower_case": "yes"}, "Expected `bool | null`, got `str`"),
            ({"dtype": "int8"}, "Invalid enum value 'int8'"),
            ({"activation": "relu"}, "Invalid enum value 'relu'"),
            ({"formats": ["h5"]}, "Invalid enum value 'h5'"),
            ({"name": 3}, "Expected `str | null`, got `int`"),
        ],
    )
    def test_that_says_what_a_list_can_not_say_is_refused(
        self, jobs: List, fixtures: Path, tmp_path: Path, more: dict[str, object], said: str
    ) -> None:
        with pytest.raises(BatchError) as caught:
            jobs({"source": str(fixtures / "squad")}, {"source": str(fixtures / "squad")} | more)
        text = str(caught.value)
        assert text.startswith(f"{tmp_path}/list.toml is wrong: ")
        assert said in text
        assert "model[1]" in text

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"# nothing\n", "`model`"),
            (b"[[models]]\nsource = 'x'\n", "`models`"),
            (b"[[model]]\nname = 'x'\n", "`source`"),
            (b"model = 'x'\n", "Expected `array`"),
            (b"[[model]\n", "line 1"),
            (b"[[model]]\nsource = '\xff'\n", "utf-8"),
            (b"PK\x03\x04 a zip\0", "line 1"),
        ],
    )
    def test_that_is_none_is_refused(
        self, jobs: List, tmp_path: Path, text: bytes, said: str
    ) -> None:
        with pytest.raises(BatchError) as caught:
            jobs(text=text)
        assert str(caught.value).startswith(f"{tmp_path}/list.toml is wrong: ")
        assert said in str(caught.value)

    def test_that_is_empty_is_nothing_to_convert(self, jobs: List) -> None:
        with pytest.raises(BatchError, match="nothing to convert"):
            jobs(text=b"model = []\n")

    @pytest.mark.parametrize("name", ["a/b", "/a", "..", ".", ".hidden", "../a", "a\0b", "a/"])
    def test_that_gives_a_name_which_no_folder_has_is_refused(
        self, jobs: List, fixtures: Path, name: str
    ) -> None:
        with pytest.raises(BatchError) as caught:
            jobs({"source": str(fixtures / "squad"), "name": name})
        assert f"{name!r} can't be the name of a folder in /out" in str(caught.value)

    @pytest.mark.parametrize("name", ["README.md", "family.json", "readme.md"])
    def test_that_gives_the_name_of_what_a_batch_writes_is_refused(
        self, jobs: List, fixtures: Path, name: str
    ) -> None:
        with pytest.raises(BatchError, match=name):
            jobs({"source": str(fixtures / "squad"), "name": name})

    def test_that_gives_one_name_to_several_is_refused_and_told_which(
        self, jobs: List, fixtures: Path, tmp_path: Path
    ) -> None:
        copies(fixtures, tmp_path / "many", ["a", "b"])
        with pytest.raises(BatchError) as caught:
            jobs({"source": "many", "name": "x"})
        assert "holds 2 checkpoints, which can't all be called x" in str(caught.value)
        assert f"{tmp_path}/many/a, {tmp_path}/many/b" in str(caught.value)

    def test_asks_for_at_least_one_format(self, fixtures: Path, tmp_path: Path) -> None:
        source = str(fixtures / "squad")
        path = listed(tmp_path / "list.toml", {"source": source, "formats": []})
        result = run("--list", path, tmp_path / "out")
        assert result.exit_code != 0
        assert "format" in result.output
        assert "did not foresee" not in result.output

    def test_whose_source_is_missing_is_a_job_that_fails_by_the_name_given(
        self, jobs: List, fixtures: Path
    ) -> None:
        found = jobs({"source": "none", "name": "x"}, {"source": str(fixtures / "squad")})
        assert names(found) == ["x", "squad"]
        assert "none is not a checkpoint" in found[0].error


class TestSources:
    def test_that_are_missing_are_jobs_that_fail_beside_good_ones(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        found = find_jobs(
            [f"{tmp_path}/none", str(fixtures / "squad"), f"{tmp_path}/*.zip"], "/out"
        )
        assert names(found) == ["none", "squad", "*.zip"]
        assert "is not a checkpoint" in found[0].error
        assert found[1].error == ""
        assert found[2].error == f"{tmp_path}/*.zip matches no file"

    def test_that_are_all_missing_are_all_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError) as caught:
            find_jobs([f"{tmp_path}/none", f"{tmp_path}/a*"], "/out")
        none, pattern = str(caught.value).splitlines()
        assert none.startswith(f"{tmp_path}/none is not a checkpoint")
        assert pattern == f"{tmp_path}/a* matches no file"

    def test_of_one_name_are_refused_and_both_are_named(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        for one, other in (("same", "same"), ("bert", "BERT")):
            a, b = (copies(fixtures, tmp_path / side / one, [name]) / name
                    for side, name in (("a", one), ("b", other)))  # fmt: skip
            said = refusal(a, b)
            assert str(a) in said and str(b) in said
            assert "--list" in said

    def test_that_are_one_checkpoint_are_one_job(self, fixtures: Path, tmp_path: Path) -> None:
        folder = copies(fixtures, tmp_path / "models", ["a", "b"])
        files = sorted((folder / "a").glob("bert_*"))  # what a shell makes of models/a/bert_*
        (tmp_path / "link").symlink_to("models")
        for sources in (
            [folder, folder],
            [folder, folder / "a", f"{folder}/b/"],
            [folder / "b", *files],
            [folder / "*", folder],
            [folder, tmp_path / "link" / "a"],
        ):
            found = find_jobs(list(map(str, sources)), "/out")
            assert sorted(names(found)) == ["a", "b"], sources

    def test_may_not_hold_the_folder_of_the_models(self, fixtures: Path, tmp_path: Path) -> None:
        folder = copies(fixtures, tmp_path / "models", ["a"])
        (tmp_path / "link").symlink_to("models")
        for source in (folder, folder / "a", tmp_path, tmp_path / "link", folder / "*"):
            for out in (folder / "a" / "out", tmp_path / "link" / "a" / "x" / ".." / "out"):
                said = refusal(source, out=out)
                assert f"{out} is in the source " in said, source

    def test_may_lie_beside_a_folder_whose_name_begins_like_theirs(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        folder = copies(fixtures, tmp_path / "models", ["a"])
        assert names(find_jobs([str(folder)], str(tmp_path / "models-pt"))) == ["a"]

    def test_that_are_none_are_a_wrong_call(self) -> None:
        assert "nothing to convert" in refusal()

    def test_keep_the_options_of_the_call(self, fixtures: Path) -> None:
        options = Options(dtype="float16")
        found = find_jobs([str(fixtures)], "/out", options=options)
        assert len(found) == 6
        assert {job.options for job in found} == {options}


BERT = load_mapping(builtin_mappings()["bert"])
GROUPS = ("encoder", "pooler", "mlm", "nsp")


class TestFurtherFamilies:
    @pytest.mark.parametrize(("name", "count"), [("albert", 12), ("electra", 3)])
    def test_have_the_bytes_that_their_mappings_make_of_the_sizes(
        self, name: str, count: int
    ) -> None:
        mapping = load_mapping(builtin_mappings()[name])
        pretraining = next(a for a in mapping.architecture if a.head == "pretraining")
        jobs = find_jobs([], "/out", family=name)
        assert len(jobs) == count
        for job in jobs:
            sizes = {"V": 30522, "E": 128, "P": 512, "T": 2, "G": 1, "N": 1, "C": 2, "L": 12}
            sizes |= {"I": 4 * job.sizes["H"]} | job.sizes
            groups = {group.name: group.unless for group in mapping.group}
            equal = sizes["E"] == sizes["H"]
            there = [n for n in pretraining.groups if not (groups[n] and equal)]
            shapes = (pair.shape for pair in mapping.expand(sizes, there))
            numbers = sum(math.prod(sizes.get(str(n), n) for n in shape) for shape in shapes)
            assert job.nbytes == 4 * numbers, job.name
            assert job.source.startswith("https://storage.googleapis.com/")


class TestTheCompactFamily:
    @pytest.fixture
    def jobs(self) -> list[Job]:
        return find_jobs([], "/out", family="compact")

    def test_is_one_of_those_that_google_published(self) -> None:
        assert list(families()) == ["albert", "compact", "electra"]

    def test_has_24_models_of_six_depths_and_four_widths(self, jobs: list[Job]) -> None:
        assert [(job.sizes["L"], job.sizes["H"], job.sizes["A"]) for job in jobs] == [
            (layers, hidden, hidden // 64)
            for layers in (2, 4, 6, 8, 10, 12)
            for hidden in (128, 256, 512, 768)
        ]
        assert names(jobs) == [
            "uncased_L-{L}_H-{H}_A-{A}".format_map(job.sizes) for job in jobs
        ]  # fmt: skip

    def test_lies_where_the_releases_say_that_it_was_published(self, jobs: list[Job]) -> None:
        releases = msgspec.toml.decode((FOLDER / "releases" / "bert.toml").read_bytes())
        (release,) = [one for one in releases["release"] if "compact" in one["name"]]
        assert [job.source for job in jobs] == [
            release["url"].format_map(job.sizes) for job in jobs
        ]
        assert all(set(release["sizes"][key]) >= {job.sizes[key]} for job in jobs for key in "LHA")

    def test_has_the_bytes_that_the_mapping_makes_of_the_sizes(self, jobs: list[Job]) -> None:
        for job in jobs:
            sizes = {"I": 4 * job.sizes["H"], "V": 30522, "P": 512, "T": 2, "C": 2} | job.sizes
            variables = {
                pair.names[0]: Variable(
                    pair.names[0], "float32", tuple(sizes.get(str(n), n) for n in pair.shape), 0
                )
                for pair in BERT.expand(sizes, GROUPS)
            }
            plan = make_plan(variables, BERT)
            assert plan.sizes.items() >= job.sizes.items()
            assert job.nbytes == 4 * plan.parameters, job.name

    def test_agrees_with_a_checkpoint_of_those_sizes(self, jobs: list[Job], tmp_path: Path) -> None:
        plan = prepare(save_bert(tmp_path / "tiny", 2, 128)).plan
        (job,) = [job for job in jobs if job.sizes["L"] == 2 and job.sizes["H"] == 128]
        assert job.nbytes == 4 * plan.parameters == sum(entry.nbytes for entry in plan.entries)
        assert plan.sizes.items() >= job.sizes.items()

    def test_is_taken_from_a_folder_where_it_lies_packed_or_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny, deep = "uncased_L-2_H-128_A-2", "uncased_L-4_H-128_A-2"
        mirror = tmp_path / "mirror"
        zipped(save_bert(tmp_path / "x", 2, 128), mirror / f"{tiny}.zip", zipfile.ZIP_STORED)
        save_bert(mirror / deep, 4, 128)
        monkeypatch.setenv("HOME", str(tmp_path))
        for base in (f"{mirror}/", "~/mirror"):
            result = run("--family", "compact", "--base-url", base, tmp_path / "out", "--json")
            assert result.exit_code == 1
            end = json.loads(result.stdout.splitlines()[-1])
            assert end["converted"] + end["unchanged"] == 2
            assert end["failed"] == 22
            assert models(tmp_path / "out") == [tiny, deep]
        found = family(tmp_path / "out")
        assert found[tiny]["source"] == f"{mirror}/{tiny}.zip"
        assert found[deep]["source"] == f"{mirror}/{deep}"
        assert "BERT-Tiny" in (tmp_path / "out" / tiny / "README.md").read_text()
        assert table(tmp_path / "out")[deep]["L"] == "4"

    def test_is_not_a_checkpoint_of_other_sizes(self, fixtures: Path, tmp_path: Path) -> None:
        mirror, name = tmp_path / "mirror", "uncased_L-2_H-128_A-2"
        zipped(fixtures / "pretraining", mirror / f"{name}.zip")
        result = run("--family", "compact", "--base-url", mirror, tmp_path / "out")
        assert result.exit_code == 1
        said = f"{mirror}/{name}.zip is not {name}: H=32 instead of 128"
        assert said in result.output
        assert said in family(tmp_path / "out")[name]["error"]
        assert models(tmp_path / "out") == []
        zipped(save_bert(tmp_path / "x", 2, 128), mirror / "uncased_L-4_H-128_A-2.zip")
        result = run("--family", "compact", "--base-url", mirror, tmp_path / "out")
        assert "is not uncased_L-4_H-128_A-2: L=2 instead of 4" in result.output
        assert not any(name.endswith("safetensors") for name in tree(tmp_path / "out"))

    def test_is_known_by_name_alone(self) -> None:
        assert (
            refusal(family="compakt")
            == "there is no family 'compakt'; the families are albert, compact, electra"
        )
        assert "--family" in refusal(base_url="/mirror")
        assert "--family" in refusal("x", base_url="/mirror")
