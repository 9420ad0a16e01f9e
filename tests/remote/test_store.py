"""Stores of objects, and folders of any driver: as a source, and as what is written."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from msgspec.structs import replace

from bertconvert import (
    CheckpointError,
    OutputError,
    VerificationError,
    convert,
    open_checkpoint,
    prepare,
)
from bertconvert import verify as prove
from bertconvert.converter.batch import Job
from bertconvert.converter.batch.task import Task, do
from bertconvert.converter.checkpoint.names import may_be_index
from bertconvert.converter.storage import upload
from bertconvert.converter.storage.location import parse_location
from bertconvert.converter.storage.remote_folder import expand, find

from .conftest import Bucket
from .server import GoogleStore, Hub, running

NAME = "pretraining-adam"
MODEL = {"config.json": b"{}", "conversion.json": b"{} ", "model.safetensors": b"x" * 1000}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty."""
    file_system = fsspec.filesystem("memory")
    file_system.store.clear()
    file_system.pseudo_dirs[:] = [""]
    yield file_system
    file_system.store.clear()
    file_system.pseudo_dirs[:] = [""]


def publish_model(url: str, force: bool = False, files: dict[str, bytes] = MODEL) -> None:
    with parse_location(url).published(force) as stage:
        for name, content in files.items():
            (stage / name).write_bytes(content)


class TestS3:
    @pytest.mark.parametrize(
        "path",
        ["", "/", "/bert_model.ckpt", "/bert_model.ckpt.index", "/vocab.txt", "/checkpoint"],
    )
    def test_is_read(self, bucket: Bucket, fixtures: Path, path: str) -> None:
        bucket.put(fixtures / NAME, NAME)
        checkpoint = open_checkpoint(f"{bucket.url}/{NAME}{path}")
        assert open_checkpoint(bucket.url).name == checkpoint.name
        assert checkpoint.name == f"{bucket.url}/{NAME}/bert_model.ckpt"
        here = open_checkpoint(fixtures / NAME)
        name = "bert/pooler/dense/kernel"
        assert (checkpoint[name] == here[name]).all()

    def test_is_read_and_written(
        self, bucket: Bucket, fixtures: Path, converted: Callable[[str], Path]
    ) -> None:
        bucket.put(fixtures / NAME, NAME)
        conversion = convert(f"{bucket.url}/{NAME}", f"{bucket.url}/out/tiny")
        assert conversion.out == f"{bucket.url}/out/tiny"
        written = {
            key.removeprefix("out/tiny/"): content
            for key, content in bucket.objects().items()
            if key.startswith("out/")
        }
        assert written == contents(converted(NAME))
        assert prove(fixtures / NAME, f"{bucket.url}/out/tiny", level="weights").passed

    def test_has_the_proof_of_a_model_that_is_proved_later(
        self, bucket: Bucket, fixtures: Path
    ) -> None:
        task = Task(
            0, Job(NAME, str(fixtures / NAME)), str(fixtures / NAME), bucket.url, False, None
        )
        made = do(task, lambda *_: None)
        before = bucket.objects()
        proved = do(replace(task, level="weights", known=made.model), lambda *_: None)
        assert (made.status, proved.status) == ("converted", "unchanged")
        after = bucket.objects()
        changed = {key for key in after if before.get(key) != after[key]}
        assert changed == {f"{NAME}/verification.json", f"{NAME}/README.md"}
        assert b'"passed": true' in after[f"{NAME}/verification.json"]
        assert b"Verified at level weights" in after[f"{NAME}/README.md"]
        convert(fixtures / NAME, f"{bucket.url}/{NAME}", force=True)
        assert bucket.objects() == before

    def test_holds_archives(self, bucket: Bucket, fixtures: Path, tmp_path: Path) -> None:
        import shutil

        shutil.make_archive(str(tmp_path / "zips" / "x"), "zip", fixtures, "squad")
        bucket.put(tmp_path / "zips", "zips")
        assert len(open_checkpoint(f"{bucket.url}/zips/x.zip")) == 41
        assert len(open_checkpoint(f"{bucket.url}/zips/x.zip/squad/bert_model.ckpt")) == 41

    def test_is_written_in_parts_where_a_file_is_large(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
        large = os.urandom((12 << 20) + 5)
        publish_model(f"{bucket.url}/x", files={**MODEL, "model.safetensors": large})
        assert bucket.get("x/model.safetensors") == large

    def test_keeps_no_parts_of_what_was_interrupted(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
        monkeypatch.setattr(upload, "PARTS_AT_ONCE", 1)

        def interrupt(what: str, done: int, size: int) -> None:
            if what.endswith("model.safetensors") and done > 0:
                raise KeyboardInterrupt

        with (
            pytest.raises(KeyboardInterrupt),
            parse_location(f"{bucket.url}/x").published(False, interrupt) as at,
        ):
            for name, content in MODEL.items():
                (at / name).write_bytes(content * (100_000 if "tensors" in name else 1))
        assert bucket.objects() == {}
        assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)

    def test_says_what_is_not_there(self, bucket: Bucket) -> None:
        for url, said in {
            f"{bucket.url}/nothing": "s3://models/nothing is not",
            "s3://nobodys/x": "s3://nobodys can't be read",
        }.items():
            with pytest.raises(CheckpointError, match=said):
                open_checkpoint(url)

    def test_makes_no_bucket(self, bucket: Bucket, fixtures: Path) -> None:
        with pytest.raises(OutputError, match=r"^s3://nobodys/x can't be written: s3://nobodys "):
            convert(fixtures / "squad", "s3://nobodys/x")
        names = [one["Name"] for one in bucket.client.list_buckets()["Buckets"]]
        assert names == ["models"]

    def test_asks_for_credentials(self, bucket: Bucket, fixtures: Path) -> None:
        gone = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        gone |= {
            "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        command = [sys.executable, "-m", "bertconvert", "inspect", f"{bucket.url}/x"]
        done = subprocess.run(command, capture_output=True, text=True, env=gone)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "login (AWS_PROFILE, or AWS_ACCESS_KEY_ID" in done.stderr
        bucket.put(fixtures / "squad", "squad")
        bucket.publish()
        gone["FSSPEC_S3"] = '{"anon": true}'
        command[-1] = f"{bucket.url}/squad"
        done = subprocess.run(command, capture_output=True, text=True, env=gone)
        assert (done.returncode, done.stdout.count("41 variables")) == (0, 1), done.stderr

    def test_is_found_in(self, bucket: Bucket, fixtures: Path) -> None:
        bucket.put(fixtures / "squad", "a/squad")
        bucket.put(fixtures / "encoder", "a/b/encoder")
        found = find(f"{bucket.url}/a", may_be_index) or []
        assert len(found) == 10
        assert found[0] == f"{bucket.url}/a/b/encoder/bert_config.json"
        assert expand(f"{bucket.url}/a/*/*.index", may_be_index) == [
            f"{bucket.url}/a/squad/bert_model.ckpt.index"
        ]
        assert expand(f"{bucket.url}/a/**/*.index", may_be_index) == [
            f"{bucket.url}/a/b/encoder/bert_model.ckpt.index",
            f"{bucket.url}/a/squad/bert_model.ckpt.index",
        ]


class TestAModelAfar:
    def test_is_whole_when_conversion_json_is_there(
        self, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        put = type(memory).put_file

        def noted(self: Any, here: str, there: str, **options: Any) -> None:
            order.append(there)
            put(self, here, there, **options)

        monkeypatch.setattr(type(memory), "put_file", noted)
        publish_model("memory://out/x")
        assert [name.rpartition("/")[2] for name in order] == [
            "config.json",
            "model.safetensors",
            "conversion.json",
        ]

    @pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt(), ValueError("no")])
    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("failing", sorted(MODEL))
    def test_is_removed_again_if_anything_fails(
        self,
        memory: Any,
        monkeypatch: pytest.MonkeyPatch,
        failing: str,
        force: bool,
        error: BaseException,
    ) -> None:
        if force:
            for name in ("conversion.json", "pytorch_model.bin", "notes.txt", "config.json"):
                memory.pipe_file(f"/out/x/{name}", b"old")
        put = type(memory).put_file

        def fail(self: Any, here: str, there: str, **options: Any) -> None:
            if there.endswith(failing):
                put(self, os.devnull, there)
                raise error
            put(self, here, there, **options)

        if isinstance(error, KeyboardInterrupt):  # comes in the thread that waits
            monkeypatch.setattr(upload, "_put", _interrupted_at(failing, upload._put))
        else:
            monkeypatch.setattr(type(memory), "put_file", fail)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            publish_model("memory://out/x", force)
        left = {name.rpartition("/")[2] for name in memory.find("/out")}
        assert left.isdisjoint({"conversion.json", "model.safetensors"})
        assert left <= {"notes.txt", "pytorch_model.bin", "config.json"}
        assert ("notes.txt" in left) == force

    def test_is_not_begun_if_the_conversion_fails(self, memory: Any) -> None:
        out = parse_location("memory://out/x")
        with pytest.raises(VerificationError), out.published(False) as stage:
            (stage / "config.json").write_bytes(b"{}")
            raise VerificationError("no")
        assert memory.find("/") == []

    def test_is_tried_again(self, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        put, tries = type(memory).put_file, []

        def fail(self: Any, here: str, there: str, **options: Any) -> None:
            tries.append(there)
            if len(tries) % 3:
                raise ConnectionResetError
            put(self, here, there, **options)

        monkeypatch.setattr(type(memory), "put_file", fail)
        publish_model("memory://out/x")
        assert len(memory.find("/out/x")) == 3
        assert len(tries) == 9

    def test_is_not_overwritten(self, memory: Any, fixtures: Path) -> None:
        publish_model("memory://out/x")
        with pytest.raises(OutputError) as caught:
            convert(fixtures / "squad", "memory://out/x")
        names = "config.json, conversion.json, model.safetensors"
        assert f"memory://out/x is not empty ({names})" in str(caught.value)
        assert "--force" in str(caught.value)

    def test_is_not_overwritten_when_somebody_else_was_faster(self, memory: Any) -> None:
        with (
            pytest.raises(OutputError, match="not empty"),
            parse_location("memory://out/x").published(False) as stage,
        ):
            (stage / "config.json").write_bytes(b"{}")
            memory.pipe_file("/out/x/config.json", b"another's")
        assert memory.cat("/out/x/config.json") == b"another's"

    def test_is_replaced_by_force_and_other_files_stay(self, memory: Any, fixtures: Path) -> None:
        for name in ("pytorch_model.bin", "notes.txt", "runs/1.log", "conversion.json"):
            memory.pipe_file(f"/out/x/{name}", b"old")
        convert(fixtures / "squad", "memory://out/x", force=True)
        names = {name.removeprefix("/out/x/") for name in memory.find("/out/x")}
        assert names >= {"notes.txt", "runs/1.log", "conversion.json", "model.safetensors"}
        assert "pytorch_model.bin" not in names
        assert memory.cat("/out/x/conversion.json") != b"old"

    def test_that_a_killed_process_left_unfinished_is_made_anew(
        self, memory: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as killed:
            killed.setattr(upload, "_call", _killed_at("model.safetensors", upload._call))
            with pytest.raises(OutputError):
                publish_model("memory://out/x", files={**MODEL, "pytorch_model.bin": b"old"})
        left = {name.rpartition("/")[2] for name in memory.find("/out/x")}
        assert left == {upload.UNFINISHED, "config.json", "model.safetensors"}
        memory.pipe_file("/out/x/notes.txt", b"my own")
        with pytest.raises(OutputError, match=r"is not empty \(notes.txt\)"):
            publish_model("memory://out/x")
        memory.rm_file("/out/x/notes.txt")
        publish_model("memory://out/x")
        assert {name.rpartition("/")[2] for name in memory.find("/out/x")} == set(MODEL)
        with pytest.raises(OutputError, match="is not empty"):
            publish_model("memory://out/x")

    def test_can_not_be_a_file(self, memory: Any) -> None:
        memory.pipe_file("/out/x", b"file")
        with pytest.raises(OutputError, match="memory://out/x is a file"):
            parse_location("memory://out/x").check_output(force=True)

    @pytest.mark.parametrize("url", ["http://h/x", "https://me:secret@h/x?key=secret"])
    def test_can_not_be_written_to_the_web(self, url: str) -> None:
        with pytest.raises(OutputError, match=r"h/x can't be written: https?:// can only be read"):
            convert("nowhere", url)
        with pytest.raises(OutputError) as caught:
            parse_location(url).write_bytes(b"")
        assert "secret" not in str(caught.value)

    def test_is_told_of_in_bytes(self, memory: Any, fixtures: Path) -> None:
        told: list[tuple[str, int, int]] = []
        convert(fixtures / "squad", "memory://out/x", progress=lambda *all: told.append(all))
        ends = {what: (done, of) for what, done, of in told if what.startswith("uploading")}
        size = memory.size("/out/x/model.safetensors")
        assert ends["uploading memory://out/x/model.safetensors"] == (size, size)

    def test_leaves_nothing_here(
        self, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        publish_model("memory://out/x")
        assert os.listdir(tmp_path) == []
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(OutputError, match=r"temporary folder .*nowhere.*TMPDIR"):
            publish_model("memory://out/y")

    def test_of_a_driver_with_folders_makes_them(self, tmp_path: Path) -> None:
        url = f"file://{tmp_path}/a/b"
        publish_model(url)
        assert contents(tmp_path / "a" / "b") == MODEL
        parse_location(f"file://{tmp_path}/c/family.json").write_bytes(b"{}")
        assert (tmp_path / "c" / "family.json").read_bytes() == b"{}"

    def test_that_is_not_there_is_not_verified(self, memory: Any, fixtures: Path) -> None:
        with pytest.raises(VerificationError, match=r"^memory://out/x/config.json is missing"):
            prove(fixtures / "squad", "memory://out/x", level="weights")
        memory.pipe_file("/out/x/model.safetensors", b"x")
        with pytest.raises(VerificationError, match=r"^memory://out/x/config.json is missing"):
            prove(fixtures / "squad", "memory://out/x", level="weights")


def _interrupted_at(failing: str, put: Callable[..., None]) -> Callable[..., None]:
    def interrupted(file: Path, url: str, progress: Any) -> None:
        put(file, url, progress)
        if url.endswith(failing):
            raise KeyboardInterrupt

    return interrupted


def _killed_at(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing more is done after a file came, as if by a process that is gone."""
    gone = []

    async def killed(method: str, url: str, *before: str, **options: Any) -> Any:
        if gone:
            raise ValueError("gone")
        await call(method, url, *before, **options)
        if method == "put_file" and url.endswith(name):
            gone.append(url)
            raise ValueError("gone")

    return killed


class TestASmallFile:
    def test_is_written_and_read(self, memory: Any, bucket: Bucket) -> None:
        for folder in ("memory://out", bucket.url):
            url = f"{folder}/family.json"
            assert parse_location(url).read_bytes() is None
            assert parse_location(url).size() is None
            parse_location(url).write_bytes(b"{}")
            parse_location(url).write_bytes(b"[1]")
            assert parse_location(url).read_bytes() == b"[1]"
            assert parse_location(url).size() == 3
        assert parse_location(bucket.url).size() is None

    def test_that_can_not_be_read_is_said(self) -> None:
        with pytest.raises(OutputError, match="xyz://a/b can't be read"):
            parse_location("xyz://a/b").read_bytes()


def test_the_command_writes_to_a_store(bucket: Bucket, fixtures: Path) -> None:
    arguments = ["tf2pt", str(fixtures / "squad"), f"{bucket.url}/squad", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "bertconvert", *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "squad/conversion.json" in bucket.objects()
    done = subprocess.run(
        [sys.executable, "-m", "bertconvert", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: s3://models/squad is not empty (README.md, config.json")


class TestGoogle:
    """In a process of its own, as the driver looks for the store when it is imported."""

    @pytest.fixture
    def store(self) -> Iterator[GoogleStore]:
        with running(GoogleStore()) as server:
            yield server

    def run(self, store: GoogleStore, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "STORAGE_EMULATOR_HOST": store.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks by another protocol
            "FSSPEC_GS": '{"token": "anon"}',
        }
        return subprocess.run(
            [sys.executable, "-m", "bertconvert", *arguments],
            capture_output=True,
            text=True,
            env=environment,
        )

    def test_is_read_and_written(
        self,
        store: GoogleStore,
        fixtures: Path,
        converted: Callable[[str], Path],
    ) -> None:
        store.put(fixtures / NAME, f"2018/{NAME}")
        done = self.run(store, "tf2pt", f"gs://models/2018/{NAME}", "gs://models/out", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        out = {
            name.removeprefix("out/"): content
            for name, content in store.objects.items()
            if name.startswith("out/")
        }
        assert out == contents(converted(NAME))
        fetched = sum(one.end - one.start for one in store.served if ".data-" in one.name)
        plan = prepare(fixtures / NAME).plan
        assert fetched == sum(entry.nbytes for entry in plan.entries)

    def test_says_what_is_not_there(self, store: GoogleStore) -> None:
        for url, said in {
            "gs://models/nothing": "gs://models/nothing is not a checkpoint",
            "gs://nobodys/x": "gs://nobodys can't be read",
        }.items():
            done = self.run(store, "inspect", url)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert said in done.stderr


class TestTheHub:
    """In a process of its own, as the driver looks for the Hub when it is imported."""

    def run(self, hub: Hub, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "bertconvert", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"},
        )

    def test_is_read(
        self, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        with running(Hub(fixtures / NAME)) as hub:
            done = self.run(hub, "tf2pt", "hf://me/bert", str(tmp_path / "out"), "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert contents(tmp_path / "out") == contents(converted(NAME))
        plan = prepare(fixtures / NAME).plan
        assert sum(one.end - one.start for one in hub.served if ".data-" in one.name) == sum(
            entry.nbytes for entry in plan.entries
        )

    def test_does_not_tell_what_is_another_s(self, fixtures: Path) -> None:
        with running(Hub(fixtures / NAME)) as hub:
            done = self.run(hub, "inspect", "hf://me/secret")
        assert done.stderr.startswith("Error: hf://me/secret can't be read: the server answers 401")
        assert "HF_TOKEN" in done.stderr
