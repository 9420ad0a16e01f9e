"""Checkpoints on web servers: what is found, and which bytes are fetched."""

import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertconvert import CheckpointError, VerificationError, convert, open_checkpoint, verify
from bertconvert.converter.checkpoint.names import may_be_index
from bertconvert.converter.checkpoint.v1 import SavedTensorSlices
from bertconvert.converter.prepare import prepare
from bertconvert.converter.storage import remote_file
from bertconvert.converter.storage.remote_folder import expand, find
from bertconvert.converter.verify import prover

from ..helpers import read_variables, split_weights
from .server import Served, Server

NAME = "pretraining-adam"
DATA = "bert_model.ckpt.data-00000-of-00001"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def slots(fixtures: Path) -> dict[str, tuple[int, int]]:
    """The bytes of the data file that an optimizer wrote, by variable."""
    checkpoint = open_checkpoint(fixtures / NAME)
    names = [n for n in checkpoint if n.endswith(("/adam_m", "/adam_v")) or n == "global_step"]
    assert len(names) > 50
    return {name: span for name in names for ((span,),) in [checkpoint.spans([name]).values()]}


def test_no_byte_of_a_slot_is_fetched(web: Server, fixtures: Path, tmp_path: Path) -> None:
    convert(f"{web.url}/{NAME}/", tmp_path / "out")
    fetched = {at for one in web.of(DATA) for at in range(one.start, one.end)}
    for name, (start, end) in slots(fixtures).items():
        assert fetched.isdisjoint(range(start, end)), name
    # And every other byte once.
    plan = prepare(fixtures / NAME).plan
    assert web.sent(DATA) == len(fetched) == sum(entry.nbytes for entry in plan.entries)


def test_no_byte_of_a_slot_is_fetched_of_an_archive_that_is_not_packed(
    web_of: Server, fixtures: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for file in sorted((fixtures / NAME).iterdir()):
            packed.write(file, f"model/{file.name}")
    convert(f"{web_of.url}/x.zip", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "x.zip") as packed:
        info = packed.getinfo(f"model/{DATA}")
    begin = info.header_offset + 30 + len(info.filename)
    assert (tmp_path / "x.zip").read_bytes()[begin:][:512] == (
        (fixtures / NAME / DATA).read_bytes()[:512]
    )
    fetched = {at for one in web_of.served for at in range(one.start, one.end)}
    for start, end in slots(fixtures).values():
        assert fetched.isdisjoint(range(begin + start, begin + end))


@pytest.mark.parametrize("lists", [False, True], ids=["names nothing", "lists"])
@pytest.mark.parametrize(
    "path",
    [
        NAME,
        f"{NAME}/",
        f"{NAME}/bert_model.ckpt",
        f"{NAME}/bert_model.ckpt.index",
        f"{NAME}/{DATA}",
        f"{NAME}/checkpoint",
        f"{NAME}/vocab.txt",
        f"{NAME}/bert_config.json",
    ],
)
def test_a_url_means_what_the_path_on_a_disk_means(
    web: Server, fixtures: Path, lists: bool, path: str
) -> None:
    web.lists = lists
    remote, here = prepare(f"{web.url}/{path}"), prepare(fixtures / path)
    assert remote.plan == here.plan
    assert remote.vocabulary == here.vocabulary
    assert [(s.role, s.name, s.sha256) for s in remote.sources] == [
        (s.role, s.name, s.sha256) for s in here.sources
    ]


def test_the_model_is_the_same_as_from_the_disk(
    web: Server, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    convert(f"{web.url}/{NAME}/", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(converted(NAME))


def test_ranges_are_fetched_at_the_same_time(web: Server) -> None:
    web.delay = 0.05
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
    web.forget()
    checkpoint.fetch(name for name in checkpoint if "adam" not in name)
    assert web.at_once > 4


def test_a_large_range_is_fetched_in_pieces_and_small_ones_that_touch_in_one(
    web: Server, monkeypatch: pytest.MonkeyPatch, fixtures: Path
) -> None:
    monkeypatch.setattr(remote_file, "WEB_PIECE_BYTES", 50_000)
    monkeypatch.setattr(remote_file, "FIRST_PIECE_BYTES", 10_000)
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
    web.forget()
    checkpoint.fetch(checkpoint)
    size = (fixtures / NAME / DATA).stat().st_size
    sizes = sorted(one.sent for one in web.of(DATA))
    assert sum(sizes) == size
    assert len(sizes) == -(-(size - 10_000) // 50_000) + 1
    assert max(sizes) == 50_000


def test_only_the_index_is_fetched_to_see_what_is_there(web: Server, fixtures: Path) -> None:
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/bert_model.ckpt")
    assert len(checkpoint) == 139
    index = "bert_model.ckpt.index"
    assert web.sent() == web.sent(index) == (fixtures / NAME / index).stat().st_size
    assert len(web.of(index)) == 1


def test_a_variable_is_fetched_when_it_is_read(web: Server, fixtures: Path) -> None:
    checkpoint = open_checkpoint(f"{web.url}/squad")
    name = "bert/pooler/dense/kernel"
    array = checkpoint[name]
    assert np.array_equal(array, open_checkpoint(fixtures / "squad")[name])
    assert web.sent(DATA) == array.nbytes
    assert np.array_equal(checkpoint[name], array)
    assert web.sent(DATA) == array.nbytes


def test_what_is_damaged_is_found_by_its_checksum(
    web_of: Server, fixtures: Path, tmp_path: Path
) -> None:
    shutil.copytree(fixtures / "squad", tmp_path / "squad")
    data = bytearray((tmp_path / "squad" / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "squad" / DATA).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"http://.* is damaged at"):
        convert(f"{web_of.url}/squad", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_verified_is_not_fetched_twice(
    web: Server, fixtures: Path, tmp_path: Path
) -> None:
    url = f"{web.url}/{NAME}/"
    convert(url, tmp_path / "out", prove=prover("weights"))
    plan = prepare(fixtures / NAME).plan
    assert web.sent(DATA) == sum(entry.nbytes for entry in plan.entries)


def test_no_slot_is_fetched_to_verify(
    web: Server, fixtures: Path, converted: Callable[[str], Path]
) -> None:
    assert verify(f"{web.url}/{NAME}/", converted(NAME), level="weights").passed
    plan = prepare(fixtures / NAME).plan
    assert web.sent(DATA) == sum(entry.nbytes for entry in plan.entries)


def test_tensorflow_reads_what_is_afar_from_a_copy_with_holes(web: Server, fixtures: Path) -> None:
    pytest.importorskip("tensorflow")
    plan = prepare(fixtures / NAME).plan
    names = {entry.variable: entry.variable for entry in plan.entries}
    read = read_variables(open_checkpoint(f"{web.url}/{NAME}/"), names)
    here = open_checkpoint(fixtures / NAME)
    for name in names:
        assert np.array_equal(read[name], here[name])
    assert web.sent(DATA) == sum(entry.nbytes for entry in plan.entries)


def test_a_model_afar_is_verified(
    web_of: Server, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(converted("squad"), tmp_path / "model")
    verdict = verify(fixtures / "squad", f"{web_of.url}/model/?key=secret", level="weights")
    assert verdict.passed
    assert verdict.out == f"{web_of.url}/model/"


@pytest.mark.parametrize("lists", [True, False])
def test_the_shards_of_a_model_afar_are_fetched_too(
    web_of: Server,
    fixtures: Path,
    converted: Callable[[str], Path],
    tmp_path: Path,
    lists: bool,
) -> None:
    web_of.lists = lists
    places = split_weights(shutil.copytree(converted("squad"), tmp_path / "model"))
    verdict = verify(fixtures / "squad", f"{web_of.url}/model/", level="weights")
    assert verdict.passed
    assert len(verdict.matches) == len(places)
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(VerificationError, match=f"{web_of.url}/model/.*index.json is damaged"):
        verify(fixtures / "squad", f"{web_of.url}/model/", level="weights")


def test_a_checkpoint_in_several_shards_is_read(
    web_of: Server, fixtures: Path, tmp_path: Path
) -> None:
    """The index says how many there are, where no list does."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path / "sharded"
    prefixes = []
    checkpoint = open_checkpoint(fixtures / "squad")
    for shard, name in enumerate(list(checkpoint)[:3]):
        prefixes.append(str(tmp_path / "parts" / str(shard)))
        tf.raw_ops.SaveV2(
            prefix=prefixes[-1],
            tensor_names=[name],
            shape_and_slices=[""],
            tensors=[checkpoint[name]],
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=prefixes, destination_prefix=str(folder / "model.ckpt")
    )
    assert len(list(folder.glob("*.data-*"))) == 3
    remote = open_checkpoint(f"{web_of.url}/sharded/model.ckpt")
    for name in remote:
        assert np.array_equal(remote[name], checkpoint[name])


def test_a_missing_shard_is_named(web_of: Server, fixtures: Path, tmp_path: Path) -> None:
    shutil.copytree(fixtures / "squad", tmp_path / "squad")
    (tmp_path / "squad" / DATA).unlink()
    checkpoint = open_checkpoint(f"{web_of.url}/squad/")
    with pytest.raises(CheckpointError, match=rf"/squad/{DATA} can't be opened.*404"):
        checkpoint.data_files()
    web_of.lists = True
    checkpoint = open_checkpoint(f"{web_of.url}/squad/")
    with pytest.raises(CheckpointError, match=rf"{DATA} is missing.*: bert_config"):
        checkpoint.data_files()


def test_the_file_checkpoint_says_what_to_ask_for(
    web_of: Server, fixtures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(fixtures / "squad", folder)
    for file in folder.glob("bert_model.ckpt.*"):
        file.rename(folder / file.name.replace("bert_model.ckpt", "model.ckpt-1000"))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/me/model.ckpt-1000"\n')
    assert open_checkpoint(f"{web_of.url}/run/").name == f"{web_of.url}/run/model.ckpt-1000"


class TestV1:
    @pytest.fixture
    def folder(self, tmp_path: Path, fixtures: Path) -> Path:
        """A V1 checkpoint that TensorFlow wrote, in two files, with slots."""
        tf = pytest.importorskip("tensorflow")
        folder = tmp_path / "v1"
        folder.mkdir()
        checkpoint = open_checkpoint(fixtures / NAME)
        names = list(checkpoint)
        for shard, some in enumerate((names[::2], names[1::2])):
            tf.raw_ops.Save(
                filename=str(folder / f"model.ckpt-{shard:05d}-of-00002"),
                tensor_names=some,
                data=[checkpoint[name] for name in some],
            )
        for name in ("bert_config.json", "vocab.txt"):
            shutil.copy(fixtures / NAME / name, folder)
        return folder

    @pytest.mark.parametrize("lists", [False, True])
    def test_is_read(self, web_of: Server, folder: Path, fixtures: Path, lists: bool) -> None:
        web_of.lists = lists
        remote = open_checkpoint(f"{web_of.url}/v1/model.ckpt-00000-of-00002")
        assert isinstance(remote._storage, SavedTensorSlices)
        here = open_checkpoint(fixtures / NAME)
        assert set(remote) == set(here)
        for name in here:
            assert np.array_equal(remote[name], here[name])

    def test_gives_the_blocks_that_are_wanted(self, web_of: Server, folder: Path) -> None:
        remote = open_checkpoint(f"{web_of.url}/v1/model.ckpt-00000-of-00002")
        web_of.forget()
        wanted = [name for name in remote if "adam" not in name]
        remote.fetch(wanted)
        asked = len(web_of.asked)
        assert 0 < web_of.sent() < 0.7 * sum(file.stat().st_size for file in folder.glob("model*"))
        for name in wanted:
            remote[name]
        assert len(web_of.asked) == asked


class TestArchives:
    @pytest.fixture
    def pack(self, fixtures: Path, tmp_path: Path) -> Callable[[str], str]:
        def packed(name: str) -> str:
            target = tmp_path / name
            files = sorted((fixtures / NAME).iterdir())
            if name.endswith(".zip"):
                how = zipfile.ZIP_DEFLATED if name == "packed.zip" else zipfile.ZIP_STORED
                with zipfile.ZipFile(target, "w", how) as made:
                    for file in files:
                        made.write(file, f"model/{file.name}")
            else:
                with tarfile.open(target, "w:gz" if name.endswith("gz") else "w") as made:
                    for file in files:
                        made.add(file, f"model/{file.name}")
            return name

        return packed

    @pytest.mark.parametrize("name", ["stored.zip", "packed.zip", "x.tar", "x.tar.gz", "x.tgz"])
    def test_become_the_same_model(
        self,
        web_of: Server,
        pack: Callable[[str], str],
        name: str,
        converted: Callable[[str], Path],
        tmp_path: Path,
    ) -> None:
        convert(f"{web_of.url}/{pack(name)}", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(converted(NAME))

    def test_of_what_is_packed_only_what_is_needed_is_fetched(
        self, web_of: Server, pack: Callable[[str], str], tmp_path: Path
    ) -> None:
        convert(f"{web_of.url}/{pack('packed.zip')}", tmp_path / "out")
        with zipfile.ZipFile(tmp_path / "packed.zip") as packed:
            unused = packed.getinfo("model/google_outputs.safetensors")
            begin, size = unused.header_offset + 30 + len(unused.filename), unused.compress_size
        fetched = [at for one in web_of.served for at in range(one.start, one.end)]
        assert set(fetched).isdisjoint(range(begin, begin + size))
        assert len(fetched) == len(set(fetched))

    @pytest.mark.parametrize("name", ["stored.zip", "x.tar", "x.tar.gz"])
    def test_are_gone_on_into(
        self, web_of: Server, pack: Callable[[str], str], name: str, tmp_path: Path
    ) -> None:
        pack(name)
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as outer:
            outer.write(tmp_path / name, f"models/{name}")
        base = f"{web_of.url}/all.zip/models/{name}"
        for path in (base, f"{base}/model", f"{base}/model/bert_model.ckpt"):
            checkpoint = open_checkpoint(path)
            assert checkpoint.name == f"{base}/model/bert_model.ckpt"
        with pytest.raises(CheckpointError, match=r"all.zip/models/other.zip is not a checkpoint"):
            open_checkpoint(f"{web_of.url}/all.zip/models/other.zip")

    def test_are_told_by_their_bytes(
        self, web_of: Server, pack: Callable[[str], str], tmp_path: Path
    ) -> None:
        (tmp_path / pack("stored.zip")).rename(tmp_path / "download")
        assert len(open_checkpoint(f"{web_of.url}/download?id=5")) == 139

    def test_that_are_damaged_are_named(self, web_of: Server, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + bytes(1000))
        with pytest.raises(CheckpointError, match=rf"^{web_of.url}/x.zip is a damaged zip"):
            open_checkpoint(f"{web_of.url}/x.zip")


class TestWhereAServerKnowsNoRanges:
    @pytest.fixture(autouse=True)
    def _without(self, web: Server) -> None:
        web.ranges = False

    def test_a_file_is_fetched_once(
        self, web: Server, fixtures: Path, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        convert(f"{web.url}/{NAME}/", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(converted(NAME))
        assert len(web.of(DATA)) == 1
        assert web.sent(DATA) == (fixtures / NAME / DATA).stat().st_size

    def test_nothing_is_fetched_of_what_is_not_needed(self, web: Server) -> None:
        open_checkpoint(f"{web.url}/{NAME}/bert_model.ckpt").data_files()
        assert {one.name for one in web.served} == {f"{NAME}/bert_model.ckpt.index"}

    @pytest.mark.parametrize("head", [200, 405])
    def test_sizes_need_not_be_told(
        self,
        web: Server,
        converted: Callable[[str], Path],
        tmp_path: Path,
        head: int,
    ) -> None:
        web.length, web.head = False, head
        convert(f"{web.url}/{NAME}/", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(converted(NAME))


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_a_server_may_refuse_to_tell_sizes_alone(web: Server, status: int) -> None:
    web.head = status
    assert len(open_checkpoint(f"{web.url}/{NAME}/")) == 139


def test_a_server_may_send_one_on(
    web: Server, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    web.redirect = "/elsewhere"
    convert(f"{web.url}/{NAME}/", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(converted(NAME))


def test_a_query_goes_along_and_is_not_shown(web: Server, tmp_path: Path) -> None:
    web.query = "X-Amz-Signature=a%2Fb%2Bc%3D&download=true"
    conversion = convert(f"{web.url}/squad/bert_model.ckpt.index?{web.query}", tmp_path / "out")
    said = str(conversion) + "".join(
        file.read_text() for file in (tmp_path / "out").iterdir() if file.suffix != ".safetensors"
    )
    assert "Signature" not in said
    checkpoint = open_checkpoint(f"{web.url}/squad/?{web.query}")
    assert checkpoint.name == f"{web.url}/squad/bert_model.ckpt"
    assert len(pickle.loads(pickle.dumps(checkpoint))) == len(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(f"{web.url}/nothing/?{web.query}")
    assert "Signature" not in str(caught.value)


def test_a_user_and_a_password_are_given_and_not_shown(web: Server, tmp_path: Path) -> None:
    web.login = "Basic bWU6c2VjcmV0"  # me:secret
    url = f"{web.url}/squad/".replace("//", "//me:secret@")
    convert(url, tmp_path / "out")
    assert open_checkpoint(url).name == f"{web.url}/squad/bert_model.ckpt"
    assert "me:secret" not in (tmp_path / "out" / "conversion.json").read_text()
    with pytest.raises(CheckpointError, match=r"401.*login") as caught:
        open_checkpoint(url.replace("secret", "another"))
    assert "another" not in str(caught.value)


def test_no_server_is_asked_to_compress(web: Server) -> None:
    open_checkpoint(f"{web.url}/squad/").fetch(["bert/pooler/dense/kernel"])
    assert {headers["Accept-Encoding"] for headers in web.headers} == {"identity"}


def test_names_are_escaped(web_of: Server, fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my models #1"
    shutil.copytree(fixtures / "squad", folder)
    for file in folder.glob("bert_model*"):
        file.rename(folder / file.name.replace(".ckpt", ".ckpt (1)"))
    web_of.lists = True
    for path in ("my%20models%20%231/", "my%20models%20%231/bert_model.ckpt%20(1).index"):
        checkpoint = open_checkpoint(f"{web_of.url}/{path}")
        assert len(checkpoint["bert/pooler/dense/bias"]) == 32
    assert len(open_checkpoint(f"{web_of.url}/my models %231/")) == len(checkpoint)


def test_progress_is_told_in_bytes(web: Server, fixtures: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    convert(f"{web.url}/{NAME}/", tmp_path / "out", progress=lambda *all: told.append(all))
    fetching = [one for one in told if one[0] == f"fetching {web.url}/{NAME}/{DATA}"]
    nbytes = sum(entry.nbytes for entry in prepare(fixtures / NAME).plan.entries)
    assert fetching[-1][1:] == (nbytes, nbytes)
    assert [done for _, done, _ in fetching] == sorted(done for _, done, _ in fetching)


def test_the_temporary_file_has_holes_where_nothing_was_fetched(
    web: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
    checkpoint.fetch(["bert/pooler/dense/kernel"])
    (file,) = checkpoint.data_files()
    medium = file._medium
    assert isinstance(medium, remote_file.RemoteFile)
    import os

    status = os.fstat(medium._fd)
    assert status.st_size == file.size
    assert status.st_blocks * 512 < file.size / 4
    assert not list(tmp_path.iterdir())


def test_find_gives_every_file_below(web: Server, fixtures: Path) -> None:
    web.lists = True
    found = find(f"{web.url}/", may_be_index)
    assert found == sorted(
        f"{web.url}/{file.relative_to(fixtures)}" for file in fixtures.rglob("*") if file.is_file()
    )
    web.lists = False
    assert find(f"{web.url}/", may_be_index) is None


def test_expand_gives_what_a_pattern_matches(web: Server) -> None:
    web.lists = True
    assert expand(f"{web.url}/squad/*.index", may_be_index) == [
        f"{web.url}/squad/bert_model.ckpt.index"
    ]
    assert expand(f"{web.url}/squad/x?y=*", may_be_index) == [f"{web.url}/squad/x?y=*"]
    web.lists = False
    with pytest.raises(CheckpointError, match="does not list"):
        expand(f"{web.url}/squad/*.index", may_be_index)


def test_a_served_range_is_told_as_it_is() -> None:
    assert str(Served("x", 1, 2)) == "x[1:2] (0 sent)"


def test_a_disk_fetches_nothing(fixtures: Path) -> None:
    checkpoint = open_checkpoint(fixtures / "squad")
    checkpoint.fetch(checkpoint, progress=lambda *_: pytest.fail("there is nothing to fetch"))
