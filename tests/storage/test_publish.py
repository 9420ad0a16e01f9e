import ctypes
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from bertconvert.converter.errors import OutputError
from bertconvert.converter.layout import MODEL_FILES
from bertconvert.converter.storage import publish
from bertconvert.converter.storage.publish import check_output, published

from .. import helpers

Tree = dict[str, object]

MODEL = {"config.json": b"new config", "model.safetensors": b"new tensors" * 1000}


def tree(folder: Path) -> Tree:
    """Everything under a folder by name: a file's bytes, a link's target, a folder's mode."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = path.stat().st_mode
        else:
            found[name] = path.read_bytes()
    return found


def write(folder: Path, files: dict[str, bytes] = MODEL) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def publish_model(out: Path, force: bool = False) -> None:
    with published(out, force) as stage:
        write(stage)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with an older model, and with what is the user's own."""
    out = tmp_path / "out"
    write(
        out,
        {
            "config.json": b"old config",
            "model.safetensors": b"old tensors",
            "pytorch_model.bin": b"old, too",
            "notes.txt": b"my notes",
            "runs/1/log": b"my log",
            ".git/objects/aa": b"my object",
        },
    )
    (out / ".git/objects/aa").chmod(0o444)
    (out / "latest").symlink_to("runs/1")
    (out / "dangling").symlink_to("nowhere")
    (out / "runs/back").symlink_to("../notes.txt")
    (out / "runs/first").symlink_to("1")
    return out


USERS_OWN = {
    "notes.txt": b"my notes",
    "runs/1/log": b"my log",
    ".git/objects/aa": b"my object",
    "latest": "runs/1",
    "dangling": "nowhere",
    "runs/back": "../notes.txt",
    "runs/first": "1",
}


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Act as somebody who owns `folder`, and whom permissions bind, as they don't bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody reaches; those above `tmp_path` are its user's own."""
    folder = Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


class TestWhereNothingLies:
    def test_the_folder_appears_with_what_was_written(self, tmp_path: Path) -> None:
        with published(tmp_path / "out", force=False) as stage:
            write(stage)
            assert not (tmp_path / "out").exists()
        assert tree(tmp_path / "out") == MODEL
        assert os.listdir(tmp_path) == ["out"]

    def test_the_folders_that_it_lies_in_are_made(self, tmp_path: Path) -> None:
        publish_model(tmp_path / "a" / "b" / "out")
        assert tree(tmp_path / "a" / "b" / "out") == MODEL
        assert os.listdir(tmp_path / "a" / "b") == ["out"]

    def test_an_empty_folder_is_filled_and_keeps_its_mode(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir(mode=0o700)
        publish_model(out)
        assert tree(out) == MODEL
        assert stat.S_IMODE(out.stat().st_mode) == 0o700
        assert os.listdir(tmp_path) == ["out"]

    def test_a_new_folder_has_the_mode_that_the_umask_gives(self, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            publish_model(tmp_path / "out")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750

    def test_a_relative_path_is_of_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        publish_model(Path("a/../out"))
        assert tree(tmp_path / "out") == MODEL

    def test_a_link_to_an_empty_folder_stays_and_the_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").symlink_to("elsewhere")
        publish_model(tmp_path / "out")
        assert os.readlink(tmp_path / "out") == "elsewhere"
        assert tree(tmp_path / "elsewhere") == MODEL

    def test_a_link_to_nothing_stays_and_its_target_is_made(self, tmp_path: Path) -> None:
        (tmp_path / "out").symlink_to("elsewhere/deep")
        publish_model(tmp_path / "out")
        assert os.readlink(tmp_path / "out") == "elsewhere/deep"
        assert tree(tmp_path / "elsewhere/deep") == MODEL

    def test_a_name_may_be_of_any_letters(self, tmp_path: Path) -> None:
        for name in ("ü ö", "-rf", "*", "a\nb", ".hidden", "…"):
            publish_model(tmp_path / name)
            assert tree(tmp_path / name) == MODEL


class TestWhereSomethingLies:
    def test_a_folder_that_holds_something_is_refused_before_any_work(self, old: Path) -> None:
        before = tree(old.parent)
        with (
            pytest.raises(OutputError, match=r"out is not empty \(\.git, config\.json.*--force"),
            published(old, force=False),
        ):
            pytest.fail("the work began")
        assert tree(old.parent) == before

    def test_force_replaces_the_model_and_keeps_what_is_the_users(self, old: Path) -> None:
        publish_model(old, force=True)
        found = {name: value for name, value in tree(old).items() if not isinstance(value, int)}
        assert found == MODEL | USERS_OWN
        assert os.listdir(old.parent) == ["out"]

    def test_force_keeps_the_files_themselves_not_copies_of_them(self, old: Path) -> None:
        before = {name: os.lstat(old / name) for name in ("notes.txt", ".git/objects/aa")}
        publish_model(old, force=True)
        for name, status in before.items():
            after = os.lstat(old / name)
            assert os.path.samestat(status, after)
            assert (after.st_mode, after.st_nlink) == (status.st_mode, 1)

    def test_force_takes_every_old_model_file_away(self, tmp_path: Path) -> None:
        write(tmp_path / "out", dict.fromkeys(MODEL_FILES, b"old"))
        publish_model(tmp_path / "out", force=True)
        assert tree(tmp_path / "out") == MODEL

    def test_force_keeps_the_modes_of_the_folder_and_of_those_in_it(self, old: Path) -> None:
        old.chmod(0o750)
        (old / "runs").chmod(0o700)
        publish_model(old, force=True)
        assert stat.S_IMODE(old.stat().st_mode) == 0o750
        assert stat.S_IMODE((old / "runs").stat().st_mode) == 0o700

    def test_force_keeps_a_pipe_and_does_not_wait_for_it(self, old: Path) -> None:
        os.mkfifo(old / "pipe")
        publish_model(old, force=True)
        assert stat.S_ISFIFO(os.lstat(old / "pipe").st_mode)
        assert (old / "config.json").read_bytes() == MODEL["config.json"]

    def test_force_keeps_read_only_folders_and_leaves_nothing_beside(
        self, open_folder: Path
    ) -> None:
        with as_nobody(open_folder):
            out = open_folder / "out"
            write(out, {"config.json": b"old", "data/deep/file": b"mine"})
            (out / "data/deep").chmod(0o555)
            (out / "data").chmod(0o555)
            publish_model(out, force=True)
            assert (out / "data/deep/file").read_bytes() == b"mine"
            assert stat.S_IMODE((out / "data").stat().st_mode) == 0o555
            assert (out / "config.json").read_bytes() == MODEL["config.json"]
            assert os.listdir(open_folder) == ["out"]

    def test_force_makes_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        publish_model(tmp_path / "out", force=True)
        assert tree(tmp_path / "out") == MODEL

    def test_force_through_a_link_replaces_what_it_leads_to(self, old: Path) -> None:
        link = old.parent / "link"
        link.symlink_to(old)
        publish_model(link, force=True)
        assert link.is_symlink()
        assert (old / "config.json").read_bytes() == MODEL["config.json"]
        assert (old / "notes.txt").read_bytes() == b"my notes"


class TestWhatIsRefused:
    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("name", ["file", "file/out", "link"])
    def test_a_file(self, tmp_path: Path, name: str, force: bool) -> None:
        (tmp_path / "file").write_bytes(b"precious")
        (tmp_path / "link").symlink_to("file")
        with pytest.raises(OutputError, match="is a file or is in a file"):
            publish_model(tmp_path / name, force)
        assert (tmp_path / "file").read_bytes() == b"precious"

    @pytest.mark.parametrize("name", [".", "..", "../.."])
    def test_the_current_folder_and_those_that_hold_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / "a/b/c").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "a/b/c")
        for out in (Path(name), Path(os.path.realpath(name))):
            with pytest.raises(OutputError, match="current folder"):
                publish_model(out, force=True)
        assert list(tree(tmp_path)) == ["a", "a/b", "a/b/c"]

    def test_nothing_is_refused_because_the_current_folder_was_deleted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        (tmp_path / "out").mkdir()
        publish_model(tmp_path / "out")
        assert tree(tmp_path / "out") == MODEL

    def test_the_root_of_all_folders(self) -> None:
        with pytest.raises(OutputError, match="can't be replaced"):
            check_output(Path("/"), force=True)

    def test_a_mount_point(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "out")
        with pytest.raises(OutputError, match=r"out is a mount point"):
            publish_model(tmp_path / "out")

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "out").symlink_to("out")
        with pytest.raises(OutputError, match="out can't be opened: Too many levels"):
            publish_model(tmp_path / "out")

    @pytest.mark.parametrize("name", ["out", "a/b/out"])
    def test_a_folder_in_one_that_can_not_be_written(self, open_folder: Path, name: str) -> None:
        with as_nobody(open_folder):
            open_folder.chmod(0o555)
            with pytest.raises(OutputError, match="Permission denied"):
                publish_model(open_folder / name)
            assert os.listdir(open_folder) == []

    def test_a_folder_that_can_not_be_read(self, open_folder: Path) -> None:
        with as_nobody(open_folder):
            (open_folder / "out").mkdir(mode=0)
            with pytest.raises(OutputError, match="out can't be opened: Permission denied"):
                publish_model(open_folder / "out")

    def test_parents_that_can_not_all_be_made_leave_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mkdir = Path.mkdir

        def mkdir_two(path: Path) -> None:
            if path.name == "c":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            mkdir(path)

        monkeypatch.setattr(Path, "mkdir", mkdir_two)
        with pytest.raises(OutputError, match=r"a/b/c .*No space left"):
            publish_model(tmp_path / "a/b/c/out")
        assert os.listdir(tmp_path) == []

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="File name too long"):
            publish_model(tmp_path / ("x" * 250))
        assert os.listdir(tmp_path) == []


STOPS = [
    RuntimeError("bad"),
    OutputError("bad"),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    KeyboardInterrupt(),
    SystemExit(143),
    MemoryError(),
]


class TestWhatGoesWrong:
    @pytest.mark.parametrize("error", STOPS, ids=lambda e: type(e).__name__)
    @pytest.mark.parametrize("out", ["new", "a/b/new", "empty", "out", "link"])
    def test_an_error_leaves_everything_as_it_was(
        self, old: Path, out: str, error: BaseException
    ) -> None:
        (old.parent / "empty").mkdir()
        (old.parent / "link").symlink_to("out")
        before = tree(old.parent)
        expected = OutputError if isinstance(error, OSError) else type(error)
        with (
            pytest.raises(expected) as caught,
            published(old.parent / out, force=True) as stage,
        ):
            write(stage, MODEL | {"folder/file": b""})
            raise error
        assert caught.value is error or caught.value.__cause__ is error
        assert tree(old.parent) == before

    def test_an_error_of_the_system_names_the_folder(self, tmp_path: Path) -> None:
        with (
            pytest.raises(OutputError, match="out can't be written: No space left on device"),
            published(tmp_path / "out", force=False),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @pytest.mark.parametrize("step", ["link", "fsync", "exchange", "rename"])
    @pytest.mark.parametrize("error", STOPS, ids=lambda e: type(e).__name__)
    def test_an_error_while_it_is_published_leaves_everything_as_it_was(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
    ) -> None:
        before = tree(old.parent)

        def fail(*_: object, **__: object) -> None:
            raise error

        out = old.parent / "new" if step == "rename" else old
        with pytest.raises(BaseException) as caught, published(out, force=True) as stage:
            write(stage)
            if step == "exchange":
                monkeypatch.setattr(publish, "_exchange", fail)
            else:
                monkeypatch.setattr(os, step, fail)
        monkeypatch.undo()
        assert caught.value is error or caught.value.__cause__ is error
        assert tree(old.parent) == before

    def test_what_others_put_into_new_parents_stays(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), published(tmp_path / "a/b/out", force=False):
            (tmp_path / "a" / "theirs").write_bytes(b"")
            raise KeyboardInterrupt
        assert list(tree(tmp_path)) == ["a", "a/theirs"]

    def test_what_appears_in_the_folder_meanwhile_is_not_overwritten(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with (
            pytest.raises(OutputError, match="out is not empty"),
            published(out, force=False) as stage,
        ):
            write(stage)
            write(out, {"config.json": b"somebody else's"})
        assert tree(out) == {"config.json": b"somebody else's"}
        assert os.listdir(tmp_path) == ["out"]

    def test_a_folder_in_which_the_user_now_stands_is_not_replaced(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = tree(old)
        with (
            pytest.raises(OutputError, match="current folder"),
            published(old, force=True) as stage,
        ):
            write(stage)
            monkeypatch.chdir(old / "runs")
        assert tree(old) == before


class TestWhatAKilledProcessLeft:
    def test_is_cleared_by_the_next_one(self, tmp_path: Path) -> None:
        stage = tmp_path / ".out.bertconvert"
        write(stage, {"config.json": b"half", "runs/1/log": b"linked", "vocab.txt": b""})
        (tmp_path / "precious").mkdir()
        write(tmp_path / "precious", {"file": b"precious"})
        (stage / "folder").symlink_to("../precious")
        (stage / "file").symlink_to("../precious/file")
        with published(tmp_path / "out", force=False) as empty:
            assert os.listdir(empty) == []
            write(empty)
        assert tree(tmp_path / "out") == MODEL
        assert sorted(os.listdir(tmp_path)) == ["out", "precious"]
        assert tree(tmp_path / "precious") == {"file": b"precious"}

    def test_is_cleared_though_folders_in_it_are_read_only(self, open_folder: Path) -> None:
        with as_nobody(open_folder):
            deep = open_folder / ".out.bertconvert" / "data" / "deep"
            write(deep, {"file": b"linked"})
            deep.chmod(0o555)
            deep.parent.chmod(0o555)
            publish_model(open_folder / "out")
            assert tree(open_folder / "out") == MODEL
            assert os.listdir(open_folder) == ["out"]

    @pytest.mark.parametrize("target", ["precious", "nowhere"])
    def test_is_not_followed_to_somebody_elses_folder(self, tmp_path: Path, target: str) -> None:
        write(tmp_path / "precious", {"file": b"precious"})
        (tmp_path / ".out.bertconvert").symlink_to(target)
        before = tree(tmp_path)
        with pytest.raises(OutputError, match=r"\.out\.bertconvert can't be used"):
            publish_model(tmp_path / "out")
        assert tree(tmp_path) == before

    def test_may_be_a_file_which_is_then_named(self, tmp_path: Path) -> None:
        write(tmp_path, {".out.bertconvert": b"precious"})
        with pytest.raises(OutputError, match=r"\.out\.bertconvert can't be used: Not a directory"):
            publish_model(tmp_path / "out")
        assert tree(tmp_path) == {".out.bertconvert": b"precious"}

    def test_in_the_middle_of_an_exchange_is_put_back(self, old: Path) -> None:
        before = tree(old)
        old.rename(old.parent / ".out.bertconvert.old")
        write(old.parent / ".out.bertconvert")
        with pytest.raises(OutputError, match="out is not empty"):
            publish_model(old)
        assert tree(old) == before
        assert os.listdir(old.parent) == ["out"]

    def test_at_the_end_of_an_exchange_is_not_deleted_unseen(self, old: Path) -> None:
        shutil.copytree(old, old.parent / ".out.bertconvert.old", symlinks=True)
        before = tree(old.parent)
        with pytest.raises(OutputError, match=r"\.out\.bertconvert\.old .*killed process"):
            publish_model(old, force=True)
        assert tree(old.parent) == before


class TestTwoProcesses:
    def test_the_second_is_refused_while_the_first_works(self, old: Path) -> None:
        with published(old, force=True) as stage:
            write(stage)
            with (
                pytest.raises(OutputError, match="another process is writing"),
                published(old, force=True),
            ):
                pytest.fail("both work in the same folder")
            assert tree(stage) == MODEL
        assert (old / "config.json").read_bytes() == MODEL["config.json"]
        publish_model(old, force=True)

    def test_another_program_is_refused_too(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path\n"
            "from bertconvert.converter.storage.publish import published\n"
            f"with published(Path({str(tmp_path / 'out')!r}), False): pass"
        )
        with published(tmp_path / "out", force=False) as stage:
            write(stage)
            second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert "BusyError: another process is writing" in second.stderr
        assert tree(tmp_path / "out") == MODEL

    @pytest.mark.parametrize("overtaken", ["published", "exchanged"])
    def test_a_lock_on_what_was_meanwhile_published_is_no_lock(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, overtaken: str
    ) -> None:
        stage = old.parent / ".out.bertconvert"
        stage.mkdir()
        flock = publish.fcntl.flock

        def first_finishes(fd: int, how: int) -> None:
            stage.rename(old.parent / "published")
            if overtaken == "exchanged":
                stage.mkdir()
                write(stage, {"config.json": b"of the first"})
            flock(fd, how)

        monkeypatch.setattr(publish.fcntl, "flock", first_finishes)
        before = tree(old)
        with pytest.raises(OutputError, match="another process is writing"):
            publish_model(old, force=True)
        assert tree(old) == before
        assert stage.exists() == (overtaken == "exchanged")

    def test_the_old_folder_is_locked_before_it_takes_the_place_of_the_new(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remove = publish._remove

        def second_comes(folder: Path) -> None:
            with pytest.raises(OutputError, match="another process is writing"):
                publish._claim(folder)
            remove(folder)

        monkeypatch.setattr(publish, "_remove", second_comes)
        publish_model(old, force=True)
        assert os.listdir(old.parent) == ["out"]


def without_exchange(code: int) -> Callable[..., object]:
    """A C library whose renameat2 says that the system has none."""

    def renameat2(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    return lambda *_, **__: SimpleNamespace(renameat2=renameat2)


class TestWithoutASystemThatExchangesFolders:
    @pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, None])
    def test_force_still_replaces_the_model_and_keeps_the_rest(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
    ) -> None:
        nothing = SimpleNamespace()
        library = without_exchange(code) if code else lambda *_, **__: nothing
        monkeypatch.setattr(ctypes, "CDLL", library)
        publish_model(old, force=True)
        found = {name: value for name, value in tree(old).items() if not isinstance(value, int)}
        assert found == MODEL | USERS_OWN
        assert os.listdir(old.parent) == ["out"]

    @pytest.mark.parametrize("code", [errno.EXDEV, errno.EBUSY, errno.EPERM])
    def test_another_error_is_an_error(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        monkeypatch.setattr(ctypes, "CDLL", without_exchange(code))
        before = tree(old.parent)
        with pytest.raises(OutputError, match=f"out can't be written: {os.strerror(code)}"):
            publish_model(old, force=True)
        assert tree(old.parent) == before

    @pytest.mark.parametrize("error", STOPS, ids=lambda e: type(e).__name__)
    def test_an_error_in_the_middle_puts_the_old_folder_back(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        before = tree(old.parent)
        monkeypatch.setattr(ctypes, "CDLL", without_exchange(errno.ENOSYS))
        rename = os.rename

        def fail_once(source: Path, target: Path) -> None:
            if source.name == ".out.bertconvert":
                raise error
            rename(source, target)

        monkeypatch.setattr(os, "rename", fail_once)
        with pytest.raises(BaseException) as caught:
            publish_model(old, force=True)
        assert caught.value is error or caught.value.__cause__ is error
        assert tree(old.parent) == before

    def test_macos_exchanges_by_its_own_name(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []

        def renamex_np(source: bytes, target: bytes, flags: int) -> int:
            calls.append((os.path.basename(source), os.path.basename(target), flags))
            os.rename(target, target + b".x")
            os.rename(source, target)
            os.rename(target + b".x", source)
            return 0

        library = SimpleNamespace(renamex_np=renamex_np)
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
        publish_model(old, force=True)
        assert calls == [(b".out.bertconvert", b"out", 2)]  # RENAME_SWAP of sys/stdio.h
        assert (old / "config.json").read_bytes() == MODEL["config.json"]
        assert os.listdir(old.parent) == ["out"]


# Publishes into the folder argv[1], and kills itself at the step argv[2].
KILLED = """
import ctypes, errno, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from bertconvert.converter.storage import publish

out, step = Path(sys.argv[1]), sys.argv[2]

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def unsupported(*_):
    ctypes.set_errno(errno.ENOSYS)
    return -1

if step == "between two renames":
    rename = os.rename
    ctypes.CDLL = lambda *_, **__: SimpleNamespace(renameat2=unsupported)
    os.rename = lambda a, b: kill() if a.name == ".out.bertconvert" else rename(a, b)
with publish.published(out, force=True) as stage:
    (stage / "config.json").write_bytes(b"half")
    if step == "written":
        kill()
    elif step == "linked":
        publish._exchange = kill
    elif step == "exchanged":
        publish._remove = kill
"""


class TestAProcessThatIsKilled:
    @pytest.mark.parametrize("step", ["written", "linked", "between two renames"])
    def test_leaves_the_old_folder_or_lets_the_next_run_put_it_back(
        self, old: Path, step: str
    ) -> None:
        before = tree(old)
        killed = subprocess.run([sys.executable, "-c", KILLED, old, step])
        assert killed.returncode == -signal.SIGKILL
        assert old.exists() == (step != "between two renames")
        with pytest.raises(KeyboardInterrupt), published(old, force=True):
            raise KeyboardInterrupt
        assert tree(old) == before
        assert os.listdir(old.parent) == ["out"]

    @pytest.mark.parametrize("step", ["written", "linked", "exchanged", "between two renames"])
    def test_is_followed_by_one_that_succeeds_and_leaves_nothing(
        self, old: Path, step: str
    ) -> None:
        killed = subprocess.run([sys.executable, "-c", KILLED, old, step])
        assert killed.returncode == -signal.SIGKILL
        publish_model(old, force=True)
        found = {name: value for name, value in tree(old).items() if not isinstance(value, int)}
        assert found == MODEL | USERS_OWN
        assert os.listdir(old.parent) == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    with helpers.small_disk(tmp_path / "disk", 256) as folder:
        yield folder


class TestASmallDisk:
    def test_that_is_full_keeps_what_it_held(self, small_disk: Path) -> None:
        out = small_disk / "out"
        write(out, {"config.json": b"old", "notes.txt": b"mine"})
        before = tree(small_disk)
        with (
            pytest.raises(OutputError, match="out can't be written: No space left on device"),
            published(out, force=True) as stage,
        ):
            write(stage, {"model.safetensors": bytes(1 << 20)})
        assert tree(small_disk) == before

    def test_that_is_mounted_is_not_replaced_but_holds_a_model(self, small_disk: Path) -> None:
        with pytest.raises(OutputError, match="is a mount point"):
            publish_model(small_disk)
        publish_model(small_disk / "model")
        assert tree(small_disk / "model") == MODEL

    def test_that_is_mounted_in_the_folder_makes_an_error_and_no_loss(
        self, small_disk: Path
    ) -> None:
        write(small_disk, {"precious": b"precious"})
        before = tree(small_disk.parent)
        with pytest.raises(OutputError, match="cross-device"):
            publish_model(small_disk.parent, force=True)
        assert tree(small_disk.parent) == before
