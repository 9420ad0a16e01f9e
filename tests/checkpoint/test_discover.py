import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.discover import find_checkpoints

from . import table_writer as write


def save(folder: Path, name: str = "bert_model.ckpt", number: float = 1) -> Path:
    """A checkpoint whose variable `a` is [number]; gives its folder."""
    write_bundle(folder / name, {"a": np.float32([number])})
    return folder


def content(folder: Path, base: str = "") -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {os.path.join(base, path.relative_to(folder)): path.read_bytes() for path in files}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, part in files.items():
            archive.writestr(name, part)
    return data.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, part in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return data.getvalue()


def search(source: object) -> dict[str, str]:
    """The paths that are found, by the names given to them, which are all different."""
    found = find_checkpoints(str(source))
    assert len({one.name for one in found}) == len(found), found
    return {one.name: one.path for one in found}


def numbers(source: object) -> dict[str, float]:
    """What is found, opened: the number that `save` wrote, by name."""
    found = search(source)
    return {name: open_checkpoint(path)["a"].tolist()[0] for name, path in found.items()}


def refusal(source: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints(str(source))
    return str(caught.value)


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, bytes]:
    """The files of one checkpoint, in no folder."""
    return content(save(tmp_path / "elsewhere" / "tiny", number=7))


class TestAFolder:
    def test_that_is_a_checkpoint_is_itself_and_gives_the_name(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "uncased")
        (found,) = find_checkpoints(str(folder))
        assert (found.path, found.name) == (str(folder), "uncased")
        assert found.nbytes == sum(len(data) for data in content(folder).values())

    def test_is_searched_with_all_folders_below_it(self, tmp_path: Path) -> None:
        for number, place in enumerate(["a", "b/c/d/e/deep", "b/beside"]):
            save(tmp_path / place, number=number)
        assert numbers(tmp_path) == {"a": 0, "deep": 1, "beside": 2}

    def test_of_saved_models_gives_each_by_its_folder(self, tmp_path: Path) -> None:
        for number, place in enumerate(["a", "b"]):
            folder = save(tmp_path / place / "variables", "variables", number)
            (folder.parent / "saved_model.pb").touch()
        assert numbers(tmp_path) == {"a": 0, "b": 1}
        for path in ("a", "a/variables", "a/variables/variables", "[a]/variables/*.index"):
            assert numbers(tmp_path / path) == {"a": 0}
        (tmp_path / "all.zip").write_bytes(zipped(content(tmp_path)))
        assert numbers(tmp_path / "all.zip") == {"a": 0, "b": 1}

    def test_gives_what_is_in_it_in_the_order_of_the_paths(self, tmp_path: Path) -> None:
        for place in ("c", "a/z", "b", "a/a", "d"):
            save(tmp_path / place)
        (tmp_path / "cc.zip").write_bytes(zipped(content(tmp_path / "c")))
        paths = [one.path for one in find_checkpoints(str(tmp_path))]
        assert paths == sorted(paths)
        assert len(paths) == 6

    def test_that_holds_a_checkpoint_and_others_below_gives_all(self, tmp_path: Path) -> None:
        save(tmp_path / "top", number=1)
        save(tmp_path / "top" / "below", number=2)
        assert numbers(tmp_path / "top") == {"top": 1, "below": 2}
        assert numbers(tmp_path) == {"top": 1, "below": 2}

    def test_that_is_hidden_is_passed_over(self, tmp_path: Path) -> None:
        save(tmp_path / "seen")
        save(tmp_path / ".cache" / "unseen")
        save(tmp_path / ".hidden")
        (tmp_path / ".download.zip").write_bytes(zipped(content(tmp_path / "seen")))
        assert search(tmp_path) == {"seen": str(tmp_path / "seen")}

    def test_that_is_hidden_is_searched_where_it_is_what_was_named(self, tmp_path: Path) -> None:
        save(tmp_path / ".cache" / "model", number=3)
        assert numbers(tmp_path / ".cache") == {"model": 3}

    def test_of_several_checkpoints_gives_each_by_its_own_name(self, tmp_path: Path) -> None:
        for step in (1, 10, 100):
            save(tmp_path / "run", f"model.ckpt-{step}", step)
        wanted = {f"run-model.ckpt-{step}": step for step in (1, 10, 100)}
        assert numbers(tmp_path / "run") == numbers(tmp_path) == wanted

    def test_of_several_gives_the_one_that_the_file_checkpoint_names(self, tmp_path: Path) -> None:
        for step in (1, 10, 100):
            save(tmp_path / "run", f"model.ckpt-{step}", step)
        (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-10"\n')
        assert numbers(tmp_path / "run") == numbers(tmp_path) == {"run": 10}

    def test_whose_file_checkpoint_names_another_gives_all(self, tmp_path: Path) -> None:
        for step in (1, 10):
            save(tmp_path / "run", f"model.ckpt-{step}", step)
        (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "/gone/x.ckpt"\n')
        assert numbers(tmp_path) == {"run-model.ckpt-1": 1, "run-model.ckpt-10": 10}

    def test_counts_the_bytes_of_each_checkpoint_alone(self, tmp_path: Path) -> None:
        for step, size in ((1, 10), (10, 1000)):
            prefix = tmp_path / f"m-{step}"
            write_bundle(prefix, {"a": np.zeros(size, np.float32)})
        sizes = {one.name: one.nbytes for one in find_checkpoints(str(tmp_path))}
        for step in (1, 10):
            files = [tmp_path / f"m-{step}{end}" for end in (".index", ".data-00000-of-00001")]
            assert sizes[f"{tmp_path.name}-m-{step}"] == sum(f.stat().st_size for f in files)

    def test_of_the_first_format_is_found_without_an_index(self, tmp_path: Path) -> None:
        write.write_v1_mixture(tmp_path / "one")
        write.write_v1_mixture(tmp_path / "three", num_shards=3)
        found = search(tmp_path)
        assert found.keys() == {"one", "three"}
        for path in found.values():
            assert open_checkpoint(path)["a/kernel"].tolist() == [[1, 2], [3, 4]]

    def test_reached_by_a_link_to_a_folder_is_found_once(self, tmp_path: Path) -> None:
        save(tmp_path / "models" / "real")
        (tmp_path / "models" / "link").symlink_to("real")
        assert search(tmp_path / "models") == {"real": str(tmp_path / "models" / "real")}
        assert search(tmp_path / "models" / "link").keys() == {"link"}

    def test_of_links_to_files_is_found(self, tmp_path: Path) -> None:
        blobs = save(tmp_path / ".blobs", number=5)
        (tmp_path / "snapshot").mkdir()
        for path in blobs.iterdir():
            (tmp_path / "snapshot" / path.name).symlink_to(path)
        assert numbers(tmp_path) == {"snapshot": 5}

    def test_with_links_that_go_round_in_circles_is_searched_once(self, tmp_path: Path) -> None:
        save(tmp_path / "a" / "b")
        (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
        (tmp_path / "self").symlink_to("self")
        (tmp_path / "self.zip").symlink_to("self.zip")
        (tmp_path / "nowhere.zip").symlink_to("nowhere")
        found = search(tmp_path)
        assert found.pop("b") == str(tmp_path / "a" / "b")
        assert found.keys() <= {"self", "nowhere"}

    @pytest.mark.parametrize(
        "name", ["two words", "x;y", "one\nline\nmore", "Бер\u0442", "a'b\"c", "[1]", "*", "$HOME"]
    )
    def test_may_have_any_name(self, tmp_path: Path, name: str) -> None:
        save(tmp_path / "models" / name, number=4)
        assert numbers(tmp_path / "models") == numbers(tmp_path / "models" / name) == {name: 4}

    def test_whose_name_is_no_text_is_found(self, tmp_path: Path) -> None:
        save(tmp_path / os.fsdecode(b"m\xff"), number=4)
        (path,) = search(tmp_path).values()
        assert open_checkpoint(path)["a"].tolist() == [4]

    def test_that_is_empty_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        assert refusal(tmp_path).startswith(f"{tmp_path} has no checkpoint")

    def test_of_models_that_are_converted_already_holds_no_checkpoint(
        self, tmp_path: Path, converted: Callable[[str], Path]
    ) -> None:
        for name in ("squad", "encoder"):
            shutil.copytree(converted(name), tmp_path / name)
        (tmp_path / "notes.txt").write_text("x")
        assert "no checkpoint" in refusal(tmp_path)

    def test_can_be_named_in_every_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "models" / "m", number=6)
        monkeypatch.chdir(tmp_path / "models")
        monkeypatch.setenv("HOME", str(tmp_path))
        for source in (
            ".", "./", "m", "./m/", "m/.", "../models", tmp_path, f"{tmp_path}//models/",
            "~/models", "~/models/m", "m/bert_model.ckpt", "m/bert_model.ckpt.index",
        ):  # fmt: skip
            assert numbers(source) == {"m": 6}, source
        monkeypatch.chdir("m")
        assert numbers(".") == numbers("bert_model.ckpt") == {"m": 6}

    def test_that_may_not_be_listed_is_named(self, open_folder: Path) -> None:
        save(open_folder / "good")
        save(open_folder / "locked").chmod(0)
        said = as_nobody(lambda: refusal(open_folder))
        assert f"{open_folder / 'locked'} can't be listed: Permission denied" in said

    @pytest.fixture
    def open_folder(self) -> Iterator[Path]:
        """A folder that everybody reaches; those above `tmp_path` are its user's own."""
        folder = Path(tempfile.mkdtemp()).resolve()
        folder.chmod(0o755)
        yield folder
        for path in folder.iterdir():
            path.chmod(0o700)
        shutil.rmtree(folder)


def as_nobody(ask: Callable[[], str]) -> str:
    """What somebody hears whom permissions bind, as they don't bind root."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            os.write(theirs, ask().encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    ".zip": zipped,
    ".tar": tarred,
    ".tar.gz": lambda files: tarred(files, "w:gz"),
    ".tgz": lambda files: tarred(files, "w:gz"),
}


@pytest.mark.parametrize("ending", ARCHIVES)
class TestAnArchive:
    def test_of_one_checkpoint_gives_its_name(
        self, tmp_path: Path, tiny: dict[str, bytes], ending: str
    ) -> None:
        for name, base in (("flat", ""), ("as-published", "uncased_L-2"), ("deep", "a/b/c")):
            files = {os.path.join(base, file): data for file, data in tiny.items()}
            path = tmp_path / "models" / f"{name}{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(ARCHIVES[ending](files))
            assert numbers(path) == {name: 7}
        assert numbers(tmp_path / "models") == {"flat": 7, "as-published": 7, "deep": 7}

    def test_of_many_gives_each_by_its_folder(self, tmp_path: Path, ending: str) -> None:
        files = {}
        for number, name in enumerate(["tiny", "mini", "two words"]):
            files |= content(save(tmp_path / "x" / name, number=number), f"family/{name}")
        path = tmp_path / f"family{ending}"
        path.write_bytes(ARCHIVES[ending](files))
        assert numbers(path) == {"tiny": 0, "mini": 1, "two words": 2}

    def test_of_several_side_by_side_gives_those_that_are_meant(
        self, tmp_path: Path, ending: str
    ) -> None:
        for step in (1, 10):
            save(tmp_path / "run", f"model.ckpt-{step}", step)
        path = tmp_path / f"x{ending}"
        path.write_bytes(ARCHIVES[ending](content(tmp_path / "run", "run")))
        assert numbers(path) == {"run-model.ckpt-1": 1, "run-model.ckpt-10": 10}
        (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
        path.write_bytes(ARCHIVES[ending](content(tmp_path / "run", "run")))
        assert numbers(path) == {"x": 1}

    def test_of_archives_gives_what_is_in_each(
        self, tmp_path: Path, tiny: dict[str, bytes], ending: str
    ) -> None:
        inner = {f"folder/of{kind}{kind}": make(tiny) for kind, make in ARCHIVES.items()}
        path = tmp_path / f"family{ending}"
        path.write_bytes(ARCHIVES[ending](inner))
        wanted = {f"of{kind}": 7.0 for kind in ARCHIVES}
        assert numbers(path) == wanted
        assert numbers(tmp_path) == wanted | {"tiny": 7}

    def test_that_is_damaged_is_an_error_where_it_was_named(
        self, tmp_path: Path, tiny: dict[str, bytes], ending: str
    ) -> None:
        path = tmp_path / f"x{ending}"
        path.write_bytes(ARCHIVES[ending](tiny)[:100])
        assert str(path) in refusal(path)

    def test_that_is_damaged_is_found_all_the_same_among_others(
        self, tmp_path: Path, tiny: dict[str, bytes], ending: str
    ) -> None:
        (tmp_path / "models").mkdir()
        bad = tmp_path / "models" / f"bad{ending}"
        bad.write_bytes(ARCHIVES[ending](tiny)[:100])
        (tmp_path / "models" / f"good{ending}").write_bytes(ARCHIVES[ending](tiny))
        for source in (tmp_path / "models", tmp_path / "models" / "*", f"{tmp_path}/**/*{ending}"):
            found = search(source)
            assert found.keys() == {"bad", "good"}, source
            assert found["bad"] == str(bad)

    def test_that_is_damaged_within_an_archive_is_found_among_others(
        self, tmp_path: Path, tiny: dict[str, bytes], ending: str
    ) -> None:
        inner = {"bad.zip": zipped(tiny)[:100], "good.zip": zipped(tiny), "ok.tar": tarred(tiny)}
        path = tmp_path / f"family{ending}"
        path.write_bytes(ARCHIVES[ending](inner))
        found = search(path)
        assert found.keys() == {"bad", "good", "ok"}
        assert found["bad"] == f"{path}/bad.zip"

    def test_without_a_checkpoint_is_passed_over_among_others(
        self, tmp_path: Path, tiny: dict[str, bytes], ending: str
    ) -> None:
        (tmp_path / f"data{ending}").write_bytes(ARCHIVES[ending]({"readme.txt": b"x" * 1000}))
        (tmp_path / f"good{ending}").write_bytes(ARCHIVES[ending](tiny))
        shutil.rmtree(tmp_path / "elsewhere")
        assert numbers(tmp_path) == {"good": 7}


class TestAnArchiveOfArchives:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_is_searched_whether_they_are_stored_or_packed(
        self, tmp_path: Path, tiny: dict[str, bytes], method: int
    ) -> None:
        inner = {f"{name}.zip": zipped(tiny, method) for name in ("tiny", "mini")}
        path = tmp_path / "family.zip"
        path.write_bytes(zipped(inner, method))
        assert numbers(path) == {"tiny": 7, "mini": 7}

    def test_may_be_one_of_archives_of_archives(
        self, tmp_path: Path, tiny: dict[str, bytes]
    ) -> None:
        half = {"a.tar": tarred(tiny), "b.tgz": tarred(tiny, "w:gz")}
        path = tmp_path / "all.zip"
        whole = {"half.zip": zipped(half, zipfile.ZIP_STORED), "c.zip": zipped(tiny)}
        path.write_bytes(zipped(whole, zipfile.ZIP_STORED))
        assert numbers(path) == {"a": 7, "b": 7, "c": 7}

    def test_of_one_is_called_by_its_own_name(self, tmp_path: Path, tiny: dict[str, bytes]) -> None:
        path = tmp_path / "mine.zip"
        path.write_bytes(zipped({"bert.zip": zipped(tiny)}, zipfile.ZIP_STORED))
        assert numbers(path) == {"mine": 7}

    def test_may_hold_checkpoints_beside_them(self, tmp_path: Path, tiny: dict[str, bytes]) -> None:
        path = tmp_path / "family.zip"
        beside = {f"unpacked/{name}": data for name, data in tiny.items()}
        path.write_bytes(zipped({"a.zip": zipped(tiny), **beside}))
        assert numbers(path) == {"a": 7, "unpacked": 7}


class TestAPattern:
    def test_takes_what_it_matches_in_order(self, tmp_path: Path, tiny: dict[str, bytes]) -> None:
        for name in ("b-1", "a-1", "a-2"):
            (tmp_path / f"{name}.zip").write_bytes(zipped(tiny))
        assert list(numbers(tmp_path / "*.zip")) == ["a-1", "a-2", "b-1"]
        assert list(numbers(tmp_path / "a-?.zip")) == ["a-1", "a-2"]
        assert list(numbers(tmp_path / "[!a]*.zip")) == ["b-1"]

    def test_with_two_stars_goes_through_any_number_of_folders(self, tmp_path: Path) -> None:
        for number, place in enumerate(["a", "x/b", "x/y/z/c"]):
            save(tmp_path / place, number=number)
        for pattern in ("**/*.index", "**/bert_model.ckpt.*", "**", "**/bert_model.ckpt.index"):
            assert numbers(tmp_path / pattern) == {"a": 0, "b": 1, "c": 2}, pattern

    def test_that_matches_all_files_of_a_checkpoint_gives_it_once(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "m", number=8)
        (folder / "bert_model.ckpt.meta").write_bytes(b"graph")
        (folder / "vocab.txt").write_text("[PAD]\n")
        (folder / "bert_config.json").write_text("{}")
        for pattern in ("m/*", "m/bert_model.ckpt*", "m/*.index", "*", "*/*", "m/b*.ckpt.*"):
            assert numbers(tmp_path / pattern) == {"m": 8}, pattern

    def test_that_matches_some_of_several_side_by_side_gives_those(self, tmp_path: Path) -> None:
        for step in (1, 10, 11):
            save(tmp_path / "run", f"model.ckpt-{step}", step)
        (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
        found = numbers(tmp_path / "run" / "model.ckpt-1?.*")
        assert sorted(found.values()) == [10, 11]

    def test_passes_over_what_it_matches_that_is_none(self, tmp_path: Path) -> None:
        save(tmp_path / "m")
        (tmp_path / "notes.md").write_text("x")
        (tmp_path / "empty").mkdir()
        assert search(tmp_path / "*").keys() == {"m"}

    def test_that_matches_nothing_or_no_checkpoint_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "notes.md").write_text("x")
        assert f"{tmp_path}/*.zip matches no file" in refusal(tmp_path / "*.zip")
        assert f"{tmp_path}/* matches no checkpoint" in refusal(tmp_path / "*")

    def test_is_a_name_where_there_is_such_a_file(
        self, tmp_path: Path, tiny: dict[str, bytes]
    ) -> None:
        (tmp_path / "m [1].zip").write_bytes(zipped(tiny))
        (tmp_path / "m 1.zip").write_bytes(zipped(tiny)[:50])
        assert numbers(tmp_path / "m [1].zip") == {"m [1]": 7}

    def test_may_begin_at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(tmp_path / "m", number=2)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert numbers("~/*") == {"m": 2}


class TestASingleFile:
    @pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001", ""])
    def test_of_a_set_is_named_after_its_folder(self, tmp_path: Path, ending: str) -> None:
        save(tmp_path / "m", number=9)
        assert numbers(f"{tmp_path}/m/bert_model.ckpt{ending}") == {"m": 9}

    def test_of_several_sets_is_named_after_its_own(self, tmp_path: Path) -> None:
        for step in (1, 10):
            save(tmp_path / "run", f"model.ckpt-{step}", step)
        assert numbers(tmp_path / "run" / "model.ckpt-1") == {"run-model.ckpt-1": 1}
        assert numbers(tmp_path / "run" / "model.ckpt-10.index") == {"run-model.ckpt-10": 10}

    def test_within_an_archive_is_named_after_what_it_lies_in(
        self, tmp_path: Path, tiny: dict[str, bytes]
    ) -> None:
        files = {f"{base}/{name}": data for base in "ab" for name, data in tiny.items()}
        (tmp_path / "x.zip").write_bytes(zipped(files))
        assert numbers(tmp_path / "x.zip" / "a") == {"a": 7}
        (tmp_path / "y.zip").write_bytes(zipped({"in.zip": zipped(tiny)}))
        assert numbers(tmp_path / "y.zip" / "in.zip") == {"in": 7}

    def test_that_is_missing_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        assert str(tmp_path / "none") in refusal(tmp_path / "none")
        assert refusal("")


def test_of_several_steps_one_is_found_in_each_folder(tmp_path: Path) -> None:
    for run, steps in (("a", (1, 2)), ("b", (2, 10)), ("c", (1,))):
        for step in steps:
            save(tmp_path / run, f"model.ckpt-{step}", step)
    latest = find_checkpoints(str(tmp_path), step="latest")
    assert [one.name for one in latest] == ["a", "b", "c"]
    assert [open_checkpoint(one.path, step="latest")["a"][0] for one in latest] == [2, 10, 1]
    second = {one.name: one.path for one in find_checkpoints(str(tmp_path), step=2)}
    assert open_checkpoint(second["b"], step=2)["a"] == [2]
    with pytest.raises(CheckpointError, match="--step 2"):  # opening it says that it has none
        open_checkpoint(second["c"], step=2)
