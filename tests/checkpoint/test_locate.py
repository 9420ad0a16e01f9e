import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertconvert import CheckpointError, open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle

from . import table_writer as write

SET = ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001")


def save(folder: Path, name: str = "bert_model.ckpt", number: float = 1) -> Path:
    """A checkpoint whose variable `a` is [number]; gives its prefix."""
    write_bundle(folder / name, {"a": np.float32([number])})
    return folder / name


def number(path: object) -> float:
    """By which a checkpoint that `save` wrote is known again."""
    return open_checkpoint(path)["a"].tolist()[0]  # type: ignore[arg-type]


def refusal(path: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        number(path)
    return str(caught.value)


def copied(prefix: Path, copy: str, number: float, *, data: bool = True) -> None:
    """A second checkpoint next to `prefix`, whose files are named as a browser or a person would.

    `copy` is the name with `*` for the ending.
    """
    other = save(prefix.parent / "elsewhere", prefix.name, number)
    for ending in (".index", ".data-00000-of-00001"):
        if data or ending == ".index":
            Path(f"{other}{ending}").rename(prefix.parent / copy.replace("*", ending))
        Path(f"{other}{ending}").unlink(missing_ok=True)
    other.parent.rmdir()


COPIES = [
    "bert_model.ckpt (1)*",
    "bert_model.ckpt(2)*",
    "bert_model.ckpt - Copy*",
    "bert_model.ckpt - Copy (3)*",
    "bert_model.ckpt copy*",
    "bert_model.ckpt copy 2*",
    "bert_model (1).ckpt*",
    "bert_model.ckpt* (1)",
    "bert_model.ckpt* copy",
]


class TestWhatMeansACheckpoint:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        prefix = save(tmp_path / "uncased_L-2_H-128_A-2")
        for name in ("bert_model.ckpt.meta", "bert_config.json", "vocab.txt"):
            (prefix.parent / name).write_text("{}")
        return prefix.parent

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "bert_model.ckpt",
            *SET,
            "bert_model.ckpt.meta",
            "bert_config.json",
            "vocab.txt",
        ],
    )
    def test_is_the_folder_the_prefix_and_every_file_of_it(self, folder: Path, name: str) -> None:
        path = folder / name
        assert number(path) == number(str(path)) == number(os.fsencode(path)) == 1
        assert open_checkpoint(path).name == str(folder / "bert_model.ckpt")

    def test_is_the_meta_file_that_is_not_there(self, folder: Path) -> None:
        (folder / "bert_model.ckpt.meta").unlink()
        assert number(folder / "bert_model.ckpt.meta") == 1

    def test_is_an_entry_of_a_listing(self, folder: Path) -> None:
        with os.scandir(folder) as found:
            assert {number(entry) for entry in found} == {1}
        with os.scandir(folder.parent) as found:
            assert number(next(found)) == 1

    @pytest.mark.parametrize("name", ["", ".", "./", "bert_model.ckpt", "./bert_model.ckpt.index"])
    def test_is_relative_to_where_one_is(
        self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        assert number(name or ".") == 1

    def test_is_relative_to_the_home(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(folder.parent))
        assert number("~/uncased_L-2_H-128_A-2") == 1
        assert number("~/uncased_L-2_H-128_A-2/bert_model.ckpt") == 1
        assert number(Path("~/uncased_L-2_H-128_A-2/bert_model.ckpt.index")) == 1

    def test_is_the_folder_around_the_checkpoints_folder(self, folder: Path) -> None:
        assert number(folder.parent) == 1
        assert open_checkpoint(folder.parent).name == str(folder / "bert_model.ckpt")

    def test_is_a_link_to_it(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        assert number(tmp_path / "link") == number(tmp_path / "link" / "bert_model.ckpt") == 1

    def test_is_a_folder_of_links(self, folder: Path, tmp_path: Path) -> None:
        """As the cache of the Hugging Face Hub is laid out."""
        (tmp_path / "snapshot").mkdir()
        for name in SET:
            (tmp_path / "snapshot" / name).symlink_to(folder / name)
        assert number(tmp_path / "snapshot") == 1

    def test_is_a_saved_models_variables(self, tmp_path: Path) -> None:
        save(tmp_path / "saved" / "variables", "variables")
        (tmp_path / "saved" / "saved_model.pb").touch()
        assert number(tmp_path / "saved") == 1
        assert number(tmp_path / "saved" / "variables") == 1
        assert number(tmp_path / "saved" / "variables" / "variables") == 1
        assert number(tmp_path / "saved" / "saved_model.pb") == 1
        shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path, "saved")
        assert number(tmp_path / "in.zip" / "saved" / "saved_model.pb") == 1

    def test_is_the_folder_around_a_saved_model(self, tmp_path: Path) -> None:
        """As tf.estimator exports it, to a folder that is called after the time."""
        for count in (1, 2):
            save(tmp_path / f"export/169000000{count}/variables", "variables")
            (tmp_path / f"export/169000000{count}/saved_model.pb").touch()
            if count == 1:
                assert number(tmp_path / "export") == 1
        text = refusal(tmp_path / "export")
        assert "2 checkpoints" in text
        assert "1690000001/variables/variables.index" in text

    @pytest.mark.parametrize(
        "name",
        ["größe", "模型.ckpt", "model.ckpt-1000", "with space", "-x"],
    )
    def test_may_have_any_name(self, tmp_path: Path, name: str) -> None:
        prefix = save(tmp_path, name)
        assert number(tmp_path) == number(prefix) == number(f"{prefix}.index") == 1

    def test_may_lie_beside_what_macos_leaves(self, tmp_path: Path) -> None:
        save(tmp_path)
        (tmp_path / "._bert_model.ckpt.index").write_bytes(b"\0\5\x16\7")
        (tmp_path / "__MACOSX").mkdir()
        (tmp_path / "__MACOSX" / "._bert_model.ckpt.index").write_bytes(b"\0\5\x16\7")
        assert number(tmp_path) == 1

    def test_may_lie_beside_a_link_that_leads_nowhere(self, tmp_path: Path) -> None:
        save(tmp_path)
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "gone").symlink_to("nothing")
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "loop").symlink_to("loop")
        assert number(tmp_path) == 1

    def test_may_lie_beside_folders_that_can_not_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path)
        (tmp_path / "lost+found").mkdir()
        monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("lost+found"))
        assert number(tmp_path) == 1


class TestSeveralCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for step in (0, 500, 1000):
            save(tmp_path, f"model.ckpt-{step}", step)
        return tmp_path

    def test_are_listed_where_nothing_says_which(self, folder: Path) -> None:
        message = refusal(folder)
        assert "3 checkpoints" in message
        for step in (0, 500, 1000):
            assert f"\n  {folder}/model.ckpt-{step}.index" in message

    def test_are_listed_by_paths_that_can_be_given(self, folder: Path) -> None:
        listed = refusal(folder).splitlines()[1:]
        assert [number(line.strip()) for line in listed] == [0, 500, 1000]

    def test_are_not_all_listed_where_there_are_hundreds(self, tmp_path: Path) -> None:
        for step in range(100):
            save(tmp_path, f"model.ckpt-{step}")
        message = refusal(tmp_path)
        assert "100 checkpoints" in message
        assert len(message.splitlines()) < 20
        assert "88 more" in message
        assert "model.ckpt-99.index" in message.splitlines()[-1]  # the newest

    @pytest.mark.parametrize("step", [0, 500, 1000])
    def test_are_told_apart_by_prefix_and_file(self, folder: Path, step: int) -> None:
        assert number(folder / f"model.ckpt-{step}") == step
        assert number(folder / f"model.ckpt-{step}.index") == step
        assert number(folder / f"model.ckpt-{step}.data-00000-of-00001") == step

    def test_of_which_none_has_the_name_are_shown(self, folder: Path) -> None:
        message = refusal(folder / "model")
        assert message.startswith(f"{folder}/model ")
        assert "model.index" in message
        assert "model.ckpt-0.index" in message

    @pytest.mark.parametrize(
        "path",
        [
            "model.ckpt-500",
            "./model.ckpt-500",
            "runs/7/model.ckpt-500",
            "/home/somebody/bert/output/model.ckpt-500",
            "gs://bucket/model.ckpt-500",
            r"C:\\Users\\somebody\\output\\model.ckpt-500",
            r"output\\model.ckpt-500",
            r"C:\Users\somebody\output\model.ckpt-500",  # by hand, and not escaped
        ],
    )
    def test_are_chosen_from_by_the_file_checkpoint(self, folder: Path, path: str) -> None:
        (folder / "checkpoint").write_text(
            f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "model.ckpt-0"\n'
        )
        assert number(folder) == number(folder / "checkpoint") == 500
        assert open_checkpoint(folder).note == ""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\n" * 400_000,  # which must not take forever
            " " * 400_000,
            'all_model_checkpoint_paths: "model.ckpt-500"\n',
            'model_checkpoint_path: "model.ckpt-7"\n',
            'model_checkpoint_path: "model.ckpt-500\n',
            'model_checkpoint_path: ""\n',
            'model_checkpoint_path: "/"\n',
            "model_checkpoint_path: model.ckpt-500\n",
            'model_checkpoint_path: "\0"\n',
            'model_checkpoint_path: "' + "\\" * 400_000,
            'model_checkpoint_path:"\\\n' * 40_000,
        ],
    )
    def test_are_not_chosen_from_by_any_other_text(self, folder: Path, text: str) -> None:
        (folder / "checkpoint").write_text(text)
        assert "3 checkpoints" in refusal(folder)

    def test_are_not_chosen_from_by_bytes_that_are_no_text(self, folder: Path) -> None:
        (folder / "checkpoint").write_bytes(bytes(range(256)) * 100)
        assert "3 checkpoints" in refusal(folder)

    @pytest.mark.parametrize("name", ["größe", "模型.ckpt", 'a "quoted" one', "it's"])
    def test_are_chosen_from_by_a_name_that_is_escaped(self, folder: Path, name: str) -> None:
        """As text protos write all but ASCII."""
        save(folder, name, 7)
        escaped = "".join(
            f"\\{byte:03o}" if byte > 126 or byte in b"\"'\\" else chr(byte)
            for byte in f"/data/{name}".encode()
        )
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{escaped}"\n')
        assert number(folder) == 7
        (folder / "checkpoint").write_text(
            'model_checkpoint_path: "{}"\n'.format(name.replace('"', '\\"').replace("'", "\\'"))
        )
        assert number(folder) == 7

    def test_in_folders_beside_each_other_are_not_chosen_from(self, tmp_path: Path) -> None:
        """The file `checkpoint` of one says nothing of the other."""
        for run in "ab":
            save(tmp_path / run, "model.ckpt")
            (tmp_path / run / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
        message = refusal(tmp_path)
        assert "2 checkpoints" in message
        assert "a/model.ckpt.index" in message

    def test_in_a_folder_come_before_those_in_the_folders_in_it(self, tmp_path: Path) -> None:
        save(tmp_path, "model.ckpt", 1)
        save(tmp_path / "older", "model.ckpt", 2)
        assert number(tmp_path) == 1

    def test_of_a_nested_folder_are_chosen_from_by_the_file_there(self, tmp_path: Path) -> None:
        save(tmp_path / "run", "model.ckpt-1", 1)
        save(tmp_path / "run", "model.ckpt-2", 2)
        (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
        assert number(tmp_path) == 1


class TestTheFileCheckpoint:
    def test_that_names_another_is_noted_where_only_one_is_there(self, tmp_path: Path) -> None:
        save(tmp_path)
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt-9"\n')
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint["a"].tolist() == [1]
        assert "model.ckpt-9" in checkpoint.note

    @pytest.mark.parametrize("absolute", [True, False])
    def test_leads_to_a_checkpoint_elsewhere(self, tmp_path: Path, absolute: bool) -> None:
        prefix = save(tmp_path / "data", "model.ckpt-3", 3)
        (tmp_path / "run").mkdir()
        path = prefix if absolute else "../data/model.ckpt-3"
        (tmp_path / "run" / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
        assert number(tmp_path / "run") == number(tmp_path / "run" / "checkpoint") == 3

    def test_that_leads_nowhere_is_shown_with_what_lies_there(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt"\n')
        assert refusal(tmp_path).startswith(f"{tmp_path} has no checkpoint")

    def test_that_leads_round_in_a_circle_is_no_trap(self, tmp_path: Path) -> None:
        folder = tmp_path / "model.index"
        folder.mkdir()
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{tmp_path}/model"\n')
        assert "no checkpoint" in refusal(folder)

    def test_without_a_path_does_not_lead_to_where_one_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "there").mkdir()
        write.write_index(tmp_path / "here" / "x", {}).rename(tmp_path / "here" / ".index")
        monkeypatch.chdir(tmp_path / "here")
        assert "empty" in refusal(tmp_path / "there")

    def test_that_can_not_be_read_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path)
        (tmp_path / "checkpoint").touch()
        unreadable(monkeypatch, "checkpoint")
        assert f"{tmp_path}/checkpoint can't be opened: Permission denied" in refusal(tmp_path)


class TestATrainingStep:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "run"
        for step in (0, 500, 1000):
            save(folder, f"model.ckpt-{step}", step)
        (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-500"\n')
        return folder

    @pytest.mark.parametrize(("step", "expected"), [(0, 0), (1000, 1000), ("latest", 1000)])
    @pytest.mark.parametrize("path", ["", "model.ckpt"])
    def test_goes_over_the_file_checkpoint(
        self, folder: Path, path: str, step: Any, expected: int
    ) -> None:
        assert open_checkpoint(folder / path, step=step)["a"].tolist() == [expected]

    def test_is_chosen_in_an_archive(self, folder: Path) -> None:
        packed = shutil.make_archive(str(folder), "zip", folder.parent, "run")
        assert open_checkpoint(packed, step=0)["a"].tolist() == [0]
        assert open_checkpoint(f"{packed}/run/model.ckpt", step="latest")["a"].tolist() == [1000]

    def test_is_chosen_by_number_and_not_by_spelling(self, tmp_path: Path) -> None:
        for step in (9, 10):
            save(tmp_path, f"ckpt-{step}", step)
        assert open_checkpoint(tmp_path, step="latest")["a"].tolist() == [10]

    def test_that_is_not_there_is_answered_with_those_that_are(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match=r"--step 7: .*0, 500, 1000"):
            open_checkpoint(folder, step=7)
        with pytest.raises(CheckpointError, match=r"--step 7: .*500"):
            open_checkpoint(folder / "model.ckpt-500", step=7)

    def test_is_not_found_where_no_name_has_one(self, tmp_path: Path) -> None:
        save(tmp_path)
        with pytest.raises(CheckpointError, match="no step"):
            open_checkpoint(tmp_path, step="latest")

    def test_is_offered_where_there_are_several(self, folder: Path) -> None:
        (folder / "checkpoint").unlink()
        assert "--step" in refusal(folder)
        assert "--step" in refusal(folder / "model.ckpt")

    def test_is_taken_with_a_note_where_there_is_one(self, tmp_path: Path) -> None:
        save(tmp_path, "model.ckpt-343", 343)
        found = open_checkpoint(tmp_path / "model.ckpt")
        assert found["a"].tolist() == [343]
        assert "model.ckpt-343" in found.note

    def test_survives_pickling(self, folder: Path) -> None:
        found = open_checkpoint(folder, step=1000)
        assert pickle.loads(pickle.dumps(found))["a"].tolist() == [1000]


class TestNamesThatMeanSeveralThings:
    def test_a_prefix_comes_before_a_folder_unless_a_slash_ends_it(self, tmp_path: Path) -> None:
        save(tmp_path, "m", 1)
        save(tmp_path / "m", "x", 2)
        assert number(tmp_path / "m") == 1
        assert number(f"{tmp_path}/m/") == 2

    def test_a_slash_after_a_prefix_changes_nothing(self, tmp_path: Path) -> None:
        save(tmp_path, "model.ckpt-343", 343)
        packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path)
        assert number(f"{tmp_path}/model.ckpt-343/") == 343
        assert number(f"{packed}/model.ckpt-343/") == 343

    def test_pairs_of_copies_stay_apart(self, tmp_path: Path) -> None:
        for mark in (2, 3):
            save(tmp_path, f"m(1)({mark})", mark)
        for mark in (2, 3):
            for ending in ("", ".index", ".data-00000-of-00001"):
                assert number(tmp_path / f"m(1)({mark}){ending}") == mark
        assert "2 checkpoints" in refusal(tmp_path)

    def test_two_formats_in_a_folder_are_not_chosen_from(self, tmp_path: Path) -> None:
        save(tmp_path, "new", 2)
        old = write.write_v1_mixture(tmp_path)
        message = refusal(tmp_path)
        assert "2 checkpoints" in message
        assert str(old) in message
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{old.name}"')
        assert open_checkpoint(tmp_path).format.startswith("TensorFlow V1")

    def test_a_data_file_called_like_the_prefix_is_suggested(self, tmp_path: Path) -> None:
        prefix = save(tmp_path)
        write.shard_path(prefix).rename(prefix)
        assert re.search(
            rf"{prefix}\.data-\S+ is missing.*If {prefix} is this file", refusal(prefix)
        )


class TestTheFileCheckpointOfAMovedFolder:
    """It names a path, and another checkpoint of the same name is next to it."""

    def test_the_named_one_is_taken_with_a_note_if_both_exist(self, tmp_path: Path) -> None:
        save(tmp_path, "two", 1)
        save(tmp_path / "sub", "two", 2)
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "sub/two"')
        found = open_checkpoint(tmp_path)
        assert found["a"].tolist() == [2]
        assert f"{tmp_path}/two" in found.note

    def test_the_one_next_to_it_is_taken_if_the_named_one_is_gone(self, tmp_path: Path) -> None:
        save(tmp_path, "two", 1)
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "sub/two"')
        found = open_checkpoint(tmp_path)
        assert (found["a"].tolist(), found.note) == ([1], "")

    def test_in_an_archive_a_path_never_leads_out_of_it(self, tmp_path: Path) -> None:
        outside = save(tmp_path / "outside", "m", 1)
        save(tmp_path / "in", "m", 2)
        for path in (str(outside), "../outside/m"):
            (tmp_path / "in" / "checkpoint").write_text(f'model_checkpoint_path: "{path}"')
            assert number(shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")) == 2


class TestRenamedCopies:
    @pytest.mark.parametrize("copy", COPIES)
    def test_are_found_by_folder_prefix_and_file(self, tmp_path: Path, copy: str) -> None:
        copied(tmp_path / "bert_model.ckpt", copy, 2)
        assert number(tmp_path) == 2
        assert number(tmp_path / "bert_model.ckpt") == 2
        for ending in (".index", ".data-00000-of-00001"):
            assert number(tmp_path / copy.replace("*", ending)) == 2

    @pytest.mark.parametrize("copy", COPIES)
    def test_go_with_the_data_file_that_has_the_same_mark(self, tmp_path: Path, copy: str) -> None:
        prefix = save(tmp_path)
        copied(prefix, copy, 2)
        assert number(tmp_path / copy.replace("*", ".index")) == 2
        assert number(tmp_path / copy.replace("*", ".data-00000-of-00001")) == 2
        assert number(prefix) == number(f"{prefix}.index") == 1

    @pytest.mark.parametrize("copy", COPIES)
    def test_of_the_index_alone_go_with_the_unmarked_data_file(
        self, tmp_path: Path, copy: str
    ) -> None:
        prefix = save(tmp_path)
        Path(f"{prefix}.index").rename(tmp_path / copy.replace("*", ".index"))
        assert number(tmp_path) == number(prefix) == 1
        assert number(tmp_path / copy.replace("*", ".index")) == 1
        assert number(f"{prefix}.data-00000-of-00001") == 1

    def test_of_the_data_file_alone_go_with_the_unmarked_index(self, tmp_path: Path) -> None:
        prefix = save(tmp_path)
        write.shard_path(prefix).rename(tmp_path / "bert_model.ckpt (1).data-00000-of-00001")
        assert number(tmp_path) == number(prefix) == 1

    def test_beside_the_originals_are_not_chosen_from(self, tmp_path: Path) -> None:
        copied(save(tmp_path), "bert_model.ckpt (1)*", 2)
        message = refusal(tmp_path)
        assert "2 checkpoints" in message
        assert [number(line.strip()) for line in message.splitlines()[1:]] == [2, 1]

    def test_beside_the_originals_leave_them_to_the_file_checkpoint(self, tmp_path: Path) -> None:
        copied(save(tmp_path), "bert_model.ckpt (1)*", 2)
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "bert_model.ckpt"\n')
        assert number(tmp_path) == 1

    def test_of_which_none_is_the_index_are_not_guessed(self, tmp_path: Path) -> None:
        prefix = save(tmp_path)
        data = write.shard_path(prefix)
        for mark in (1, 2):
            copy = tmp_path / f"bert_model.ckpt ({mark}).data-00000-of-00001"
            copy.write_bytes(data.read_bytes())
        data.unlink()
        message = refusal(tmp_path)
        assert str(data) in message
        assert "bert_model.ckpt (1).data-00000-of-00001, bert_model.ckpt (2)" in message

    def test_are_what_a_prefix_may_look_like_from_the_start(self, tmp_path: Path) -> None:
        save(tmp_path, "model (2).ckpt", 2)
        save(tmp_path, "model (3).ckpt", 3)
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model (3).ckpt"\n')
        assert number(tmp_path / "model (2).ckpt") == 2
        assert number(tmp_path / "model (3).ckpt") == 3
        assert number(tmp_path) == 3

    def test_of_a_folder_keep_their_companions(self, tmp_path: Path) -> None:
        save(tmp_path / "uncased_L-2 (1)")
        (tmp_path / "uncased_L-2 (1)" / "vocab.txt").write_text("[PAD]")
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint["a"].tolist() == [1]
        vocabulary = checkpoint.companion("vocab.txt", r".*vocab.*\.txt")
        assert vocabulary is not None
        assert vocabulary.name == str(tmp_path / "uncased_L-2 (1)" / "vocab.txt")
        assert checkpoint.name == str(tmp_path / "uncased_L-2 (1)" / "bert_model.ckpt")

    def test_of_a_folder_are_not_mixed_with_the_original(self, tmp_path: Path) -> None:
        save(tmp_path / "uncased", number=1)
        save(tmp_path / "uncased (1)", number=2)
        assert "2 checkpoints" in refusal(tmp_path)
        assert number(tmp_path / "uncased (1)") == 2


class TestCompanions:
    def test_are_found_beside_the_checkpoint(self, tmp_path: Path) -> None:
        save(tmp_path)
        for name, text in (("vocab.txt", "a"), ("old_vocab.txt", "b"), ("bert_config.json", "{}")):
            (tmp_path / name).write_text(text)
        checkpoint = open_checkpoint(tmp_path)
        found = checkpoint.companion("vocab.txt", r".*vocab.*\.txt")
        assert found is not None
        assert (found.name, found.read(0, found.size)) == (f"{tmp_path}/vocab.txt", b"a")

    def test_of_another_name_are_found_where_there_is_one(self, tmp_path: Path) -> None:
        save(tmp_path)
        (tmp_path / "bert_config (1).json").write_text("{}")
        found = open_checkpoint(tmp_path).companion("bert_config.json", r".*config.*\.json")
        assert found is not None
        assert found.name == str(tmp_path / "bert_config (1).json")

    def test_are_none_where_there_is_none(self, tmp_path: Path) -> None:
        prefix = save(tmp_path / "inner")
        (tmp_path / "vocab.txt").touch()
        assert open_checkpoint(prefix).companion("vocab.txt", r".*vocab.*\.txt") is None
        assert open_checkpoint(tmp_path).companion("vocab.txt", r".*vocab.*\.txt") is None

    def test_are_not_guessed_where_there_are_several(self, tmp_path: Path) -> None:
        save(tmp_path)
        (tmp_path / "a_vocab.txt").touch()
        (tmp_path / "b_vocab.txt").touch()
        with pytest.raises(CheckpointError, match=r"vocab\.txt: a_vocab\.txt, b_vocab\.txt"):
            open_checkpoint(tmp_path).companion("vocab.txt", r".*vocab.*\.txt")


def unreadable(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Let files of this ending be somebody else's; chmod would not stop the superuser."""
    really = os.open

    def refuse(path: str, *more: int, **options: int) -> int:
        if str(path).endswith(ending):
            raise PermissionError(13, "Permission denied", path)
        return really(path, *more, **options)

    monkeypatch.setattr(os, "open", refuse)


class TestWhatIsNoCheckpoint:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert re.search(r"no checkpoint.*\*\.index.*empty", refusal(tmp_path))

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        message = refusal(tmp_path / "no" / "model.ckpt")
        assert message.startswith(f"{tmp_path}/no/model.ckpt")
        assert f"the folder {tmp_path}/no " in message
        assert "not a checkpoint" in refusal(tmp_path / "no")

    def test_a_name_that_nothing_has(self, tmp_path: Path) -> None:
        save(tmp_path)
        for name in ("nothing", "nothing.index", "nothing.data-00000-of-00001", "nothing.zip"):
            message = refusal(tmp_path / name)
            assert message.startswith(f"{tmp_path}/{name} ")
            assert "bert_model.ckpt.data-00000-of-00001, bert_model.ckpt.index" in message

    @pytest.mark.parametrize("path", ["", "\0", "a\0b/c", "x" * 5000, "\ud800", "~nobody-here/x"])
    def test_a_path_that_nothing_can_have(
        self, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert "no" in refusal(path)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("pytorch_model.bin", "is a PyTorch file"),
            ("model.safetensors", "is a PyTorch file"),
            ("model.pt", "is a PyTorch file"),
            ("tf_model.h5", "is not an HDF5 file"),
            ("model.keras", "is of Keras' newer format"),
            ("tf_model-00001-of-00002.h5", "is a piece of a model"),
            ("frozen_graph.pb", "is a graph"),
        ],
    )
    def test_a_file_of_another_format(self, tmp_path: Path, name: str, hint: str) -> None:
        (tmp_path / name).write_bytes(b"PK\3\4" + bytes(100))
        assert refusal(tmp_path / name).startswith(f"{tmp_path}/{name} {hint}")
        assert f"{name} {hint}" in refusal(tmp_path)

    @pytest.mark.parametrize("path", ["", "saved_model.pb", "../in.zip", "../in.tar.gz"])
    @pytest.mark.parametrize("present", [[], ["variables/variables.data-00000-of-00001"]])
    def test_a_saved_model_without_its_variables(
        self, tmp_path: Path, present: list[str], path: str
    ) -> None:
        saved = tmp_path / "saved"
        for name in ["saved_model.pb", "assets/vocab.txt", *present]:
            (saved / name).parent.mkdir(parents=True, exist_ok=True)
            (saved / name).write_text("x")
        shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path, "saved")
        shutil.make_archive(str(tmp_path / "in"), "gztar", tmp_path, "saved")
        text = refusal(saved / path)
        assert "SavedModel without its variables" in text
        assert "variables/variables.index does not exist" in text

    def test_a_saved_model_whose_variables_have_no_data(self, tmp_path: Path) -> None:
        prefix = save(tmp_path / "saved" / "variables", "variables")
        (tmp_path / "saved" / "saved_model.pb").touch()
        Path(f"{prefix}.data-00000-of-00001").unlink()
        assert "variables.data-00000-of-00001 is missing" in refusal(tmp_path / "saved")

    def test_a_keras_file_under_any_name(self, tmp_path: Path) -> None:
        (tmp_path / "weights.ckpt").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        text = refusal(tmp_path / "weights.ckpt")
        assert text.startswith(f"{tmp_path}/weights.ckpt is an HDF5 file")
        assert "Keras" in text

    @pytest.mark.parametrize(
        "name",
        [
            "bert_model.ckpt.index.crdownload",
            "uncased.zip.part",
            "Unconfirmed 4711.crdownload",
            "uncased.zip.download",
        ],
    )
    def test_a_download_that_is_not_finished(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"PK\3\4")
        assert f"{name} looks like an unfinished download" in refusal(tmp_path)
        assert f"{name} looks like an unfinished download" in refusal(tmp_path / name)

    @pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt", "checkpoint"])
    def test_a_file_that_belongs_to_one_which_is_not_there(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("{}")
        message = refusal(tmp_path / name)
        assert message.startswith(f"{tmp_path} has no checkpoint")
        assert f": {name}." in message

    @pytest.mark.parametrize("content", [b"x", b"PK", b"notes\n" * 1000])
    def test_any_other_file(self, tmp_path: Path, content: bytes) -> None:
        save(tmp_path)
        (tmp_path / "notes").write_bytes(content)
        assert refusal(tmp_path / "notes").startswith(f"{tmp_path}/notes is not a checkpoint")

    def test_a_pipe_that_nobody_writes_to(self, tmp_path: Path) -> None:
        for name in ("pipe", "bert_model.ckpt.index", "model.zip", "checkpoint"):
            os.mkfifo(tmp_path / name)
        for name in ("pipe", "model.zip", "checkpoint"):
            assert f"{tmp_path}/{name} is not a regular file" in refusal(tmp_path / name)
        assert "not a checkpoint" in refusal(tmp_path / "bert_model.ckpt.index")
        assert "no checkpoint" in refusal(tmp_path)

    def test_a_pipe_in_the_place_of_the_data(self, tmp_path: Path) -> None:
        prefix = save(tmp_path)
        write.shard_path(prefix).unlink()
        os.mkfifo(write.shard_path(prefix))
        assert f"{write.shard_path(prefix)} is missing" in refusal(prefix)

    def test_a_device(self) -> None:
        assert "/dev/zero is not a regular file" in refusal("/dev/zero")

    @pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
    def test_a_file_that_may_not_be_read(
        self, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefix = save(tmp_path)
        unreadable(monkeypatch, ending)
        assert refusal(prefix) == f"{prefix}{ending} can't be opened: Permission denied"

    def test_a_folder_that_may_not_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: str) -> Iterator[os.DirEntry[str]]:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert refusal(tmp_path) == f"{tmp_path} can't be listed: Permission denied"

    def test_a_folder_in_the_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.ckpt.index").mkdir()
        assert "empty" in refusal(tmp_path / "model.ckpt.index")
        assert "not a checkpoint" in refusal(tmp_path / "model.ckpt")

    @given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20))
    def test_any_name_at_all(self, name: str) -> None:
        assert refusal(f"/nowhere/at/all/{name}")


class TestInsideAnArchive:
    """`all.zip/tiny.zip/bert_model.ckpt`: a path goes on where an archive is in the way."""

    @staticmethod
    def outer(tmp_path: Path, fixtures: Path, form: str) -> str:
        inner = shutil.make_archive(str(tmp_path / "tiny"), "zip", fixtures / "pretraining")
        path = tmp_path / f"all{form}"
        if form == ".zip":
            with zipfile.ZipFile(path, "w") as stored:
                stored.write(inner, "models/tiny.zip")
        elif form == "-deflated.zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
                deflated.write(inner, "models/tiny.zip")
        else:
            with tarfile.open(path, "w:gz" if form == ".tar.gz" else "w") as tar:
                tar.add(inner, "models/tiny.zip")
        return str(path)

    @pytest.mark.parametrize("form", [".zip", "-deflated.zip", ".tar", ".tar.gz"])
    @pytest.mark.parametrize("rest", ["", "/", "/bert_model.ckpt", "/bert_model.ckpt.index"])
    def test_an_archive_in_an_archive(
        self, tmp_path: Path, fixtures: Path, form: str, rest: str
    ) -> None:
        outer = self.outer(tmp_path, fixtures, form)
        found = open_checkpoint(f"{outer}/models/tiny.zip{rest}")
        expected = open_checkpoint(fixtures / "pretraining")
        assert found.name == f"{outer}/models/tiny.zip/bert_model.ckpt"
        assert found.variables == expected.variables
        for name in expected:
            assert np.array_equal(found[name], expected[name])

    def test_a_folder_in_an_archive(self, tmp_path: Path, fixtures: Path) -> None:
        for name in ("classifier", "squad"):
            shutil.copytree(fixtures / name, tmp_path / "in" / name)
        outer = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in")
        with pytest.raises(CheckpointError, match="2 checkpoints"):
            open_checkpoint(outer)
        found = open_checkpoint(f"{outer}/squad")
        assert found.variables == open_checkpoint(fixtures / "squad").variables
        assert found.companion("vocab.txt", "") is not None

    @pytest.mark.parametrize("rest", ["nope", "models/nope", "models/tiny.zip/nope", "nope/nope"])
    def test_says_what_lies_there_instead(self, tmp_path: Path, fixtures: Path, rest: str) -> None:
        outer = self.outer(tmp_path, fixtures, ".zip")
        with pytest.raises(CheckpointError, match=rf"all\.zip/{rest} is not a checkpoint"):
            open_checkpoint(f"{outer}/{rest}")

    def test_an_archive_of_archives_alone_says_how_to_look_into_it(
        self, tmp_path: Path, fixtures: Path
    ) -> None:
        outer = self.outer(tmp_path, fixtures, ".zip")
        with pytest.raises(CheckpointError, match=r"give .*all\.zip/models/tiny\.zip\.$"):
            open_checkpoint(outer)

    def test_a_path_below_a_file_that_is_no_archive(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no archive")
        with pytest.raises(CheckpointError, match=r"folder .*notes\.txt "):
            open_checkpoint(tmp_path / "notes.txt" / "bert_model.ckpt")
