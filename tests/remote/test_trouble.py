"""What goes wrong between here and a server: it is borne, or said in one line."""

import errno
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bertconvert import CheckpointError, convert, open_checkpoint, prepare
from bertconvert.converter.storage import filesystems, remote_file

from .server import Server

NAME = "pretraining-adam"
DATA = "bert_model.ckpt.data-00000-of-00001"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refusal(path: str) -> str:
    """What is said of a URL that can't be read: one line."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).fetch(["bert/pooler/dense/kernel"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestAConnectionThatIsDropped:
    @pytest.fixture
    def large(self, tmp_path: Path) -> bytes:
        """A file of which pieces are fetched."""
        data = os.urandom(3 << 20)
        (tmp_path / "large").write_bytes(data)
        return data

    @pytest.fixture(autouse=True)
    def _small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote_file, "WEB_PIECE_BYTES", 400_000)
        monkeypatch.setattr(remote_file, "FIRST_PIECE_BYTES", 65_536)

    @pytest.mark.parametrize("after", [0, 1, 100_000, 399_999])
    @pytest.mark.parametrize("every", [2, 3])
    def test_goes_on_from_where_it_was(
        self, web_of: Server, large: bytes, after: int, every: int
    ) -> None:
        web_of.drop_after, web_of.drop_every = after, every
        file = remote_file.open_url(f"{web_of.url}/large")
        file.fetch([(0, file.size)])
        assert file.read(0, file.size) == large
        drops = sum(one.sent < one.end - one.start for one in web_of.served)
        assert drops > 0
        # What had come is not fetched again; some is lost on its way, within the kernel.
        assert web_of.sent() <= len(large) + drops * 400_000

    def test_may_be_dropped_each_time_if_it_brings_something(
        self, web_of: Server, large: bytes
    ) -> None:
        web_of.drop_after = 100_000
        file = remote_file.open_url(f"{web_of.url}/large")
        file.fetch([(0, file.size)])
        assert file.read(0, file.size) == large

    def test_that_brings_nothing_is_given_up(self, web_of: Server, large: bytes) -> None:
        web_of.drop_after = 0
        file = remote_file.open_url(f"{web_of.url}/large")
        with pytest.raises(CheckpointError) as caught:
            file.fetch([(0, file.size)])
        assert str(caught.value).startswith(f"{web_of.url}/large can't be read: ")
        assert "5 times" in str(caught.value)
        assert f"0 of {len(large):,} bytes" in str(caught.value)
        assert len(web_of.served) == filesystems.TRIES
        web_of.drop_after = -1  # and later, it can be had
        assert file.read(0, file.size) == large

    def test_of_a_server_without_ranges_begins_anew(self, web_of: Server, large: bytes) -> None:
        web_of.ranges, web_of.drop_after, web_of.drop_every = False, 1_000_000, 2
        web_of.served.append(remote_answer := _Nothing())
        file = remote_file.open_url(f"{web_of.url}/large")
        file.fetch([(5, 10)])
        assert file.read(0, file.size) == large
        web_of.served.remove(remote_answer)
        assert [one.sent == len(large) for one in web_of.served] == [False, True]

    def test_of_a_server_that_tells_no_size_is_no_end(self, web_of: Server, large: bytes) -> None:
        web_of.ranges, web_of.length = False, False
        web_of.drop_after, web_of.drop_every = 1_000_000, 2
        web_of.served.append(_Nothing())
        file = remote_file.open_url(f"{web_of.url}/large")
        assert file.size == len(large)
        assert file.read(0, file.size) == large

    def test_changes_nothing_in_the_model(
        self, web: Server, converted: Callable[[str], Path], tmp_path: Path
    ) -> None:
        web.drop_after, web.drop_every = 1000, 5
        convert(f"{web.url}/{NAME}/", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(converted(NAME))


class _Nothing:
    """An answer that was sent before."""

    name, start, end, sent = "", 0, 0, 0


def test_a_server_that_sends_nothing_more_is_given_up(
    web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(filesystems, "_opened", {})
    web.stall_after = 100
    said = refusal(f"{web.url}/{NAME}/")
    assert re.search(r"127.0.0.1:\d+ does not answer, 5 times in a row; \d+ of 4,790 bytes", said)


def test_tries_end_when_patience_does(web: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "PATIENCE_SECONDS", 0.0)
    web.drop_after = 0
    assert refusal(f"{web.url}/{NAME}/").endswith("can't be read: the connection was dropped")
    assert len(web.served) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_answer_that_is_not_meant_to_last_is_borne(web: Server, status: int) -> None:
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
    web.failures = [status] * 4
    assert len(checkpoint["bert/pooler/dense/bias"]) == 32
    web.failures = [status] * 100
    with pytest.raises(CheckpointError, match=f"the server answers {status}, 5 times in a row"):
        _ = checkpoint["bert/pooler/dense/kernel"]


@pytest.mark.parametrize(("status", "said"), [(403, "403.*login"), (404, "404")])
def test_an_answer_that_is_meant_is_taken(web: Server, status: int, said: str) -> None:
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
    web.forget()
    web.failures = [status] * 100
    with pytest.raises(CheckpointError, match=said):
        _ = checkpoint["bert/pooler/dense/kernel"]
    assert len(web.asked) == 1


def test_a_server_that_begins_to_ignore_ranges_is_not_believed(web: Server, fixtures: Path) -> None:
    checkpoint = open_checkpoint(f"{web.url}/squad")
    name = "bert/pooler/dense/kernel"
    assert checkpoint["bert/pooler/dense/bias"].shape == (32,)
    web.ranges = False
    with pytest.raises(CheckpointError, match="whole file for a part, 5 times"):
        _ = checkpoint[name]
    web.ranges = True
    assert (checkpoint[name] == open_checkpoint(fixtures / "squad")[name]).all()


def test_a_file_that_changes_is_not_mixed_with_what_it_was(
    web_of: Server, fixtures: Path, tmp_path: Path
) -> None:
    shutil.copytree(fixtures / "squad", tmp_path / "squad")
    checkpoint = open_checkpoint(f"{web_of.url}/squad/")
    checkpoint.data_files()
    with (tmp_path / "squad" / DATA).open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match=r"size changed from [\d,]+ to [\d,]+ bytes"):
        _ = checkpoint["bert/pooler/dense/kernel"]


@pytest.mark.parametrize("versions", [True, False])
def test_a_file_that_is_another_now_is_fetched_anew(
    web_of: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: bool
) -> None:
    """Where nothing tells that it is another, its size may."""
    monkeypatch.setattr(remote_file, "STAT_SECONDS", 0)
    web_of.versions = versions
    for content in (b"one", b"another"):
        (tmp_path / "x").write_bytes(content)
        file = remote_file.open_url(f"{web_of.url}/x")
        again = remote_file.open_url(f"{web_of.url}/x")
        assert again._medium is file._medium
        assert file.read(0, file.size) == content


class TestWhatIsNotThere:
    def test_is_said(self, web: Server) -> None:
        message = refusal(f"{web.url}/x.zip")
        assert message.startswith(f"{web.url}/x.zip is not a checkpoint")
        assert "does not list" in message
        assert "no checkpoint" in refusal(f"{web.url}/nothing/")
        assert "other.index" in refusal(f"{web.url}/squad/other.index")

    def test_is_said_with_what_is_there(self, web: Server) -> None:
        web.lists = True
        assert refusal(f"{web.url}/squad/other.ckpt").endswith(
            ": bert_config.json, bert_model.ckpt.data-00000-of-00001, bert_model.ckpt.index,"
            " google_outputs.safetensors, vocab.txt."
        )

    def test_is_no_empty_model(self, web_of: Server, tmp_path: Path) -> None:
        (tmp_path / "x.zip").touch()
        assert "x.zip is empty" in refusal(f"{web_of.url}/x.zip")


@pytest.mark.parametrize("path", ["squad/", "squad", "x.zip", "squad/bert_model.ckpt.index"])
def test_a_web_page_is_no_checkpoint(web: Server, path: str) -> None:
    web.page = '<html><title>Sign in</title><a href="about">About</a><a href="/x/">X</a></html>'
    assert "answers with a web page (text/html)" in refusal(f"{web.url}/{path}")


@pytest.mark.parametrize("status", [401, 403])
def test_what_asks_for_a_login_is_said(web: Server, status: int) -> None:
    for name in ("squad", "squad/", "squad/bert_model.ckpt.index"):
        web.fail = {f"/{name}": status}
        web.fail |= {f"/squad/{file}": status for file in ("bert_model.ckpt.index", "checkpoint")}
        said = refusal(f"{web.url}/{name}")
        assert re.search(rf"{status}.*login \(https://USER:PASSWORD", said)


def test_a_page_in_place_of_the_data_is_said(web: Server) -> None:
    checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
    web.page = "<html>Sign in</html>"
    with pytest.raises(CheckpointError, match=r"answers with a web page \(text/html\)"):
        checkpoint.fetch(["bert/pooler/dense/kernel"])


def test_what_is_compressed_on_its_way_is_refused(web: Server) -> None:
    web.headers_sent = {"Content-Encoding": "gzip"}
    assert "compresses it (gzip)" in refusal(f"{web.url}/{NAME}/")


class TestAHost:
    def test_that_is_not_there(self) -> None:
        said = refusal("https://nowhere.invalid/x.zip?key=secret")
        assert said.startswith(
            "https://nowhere.invalid/x.zip can't be read: nowhere.invalid can't be"
        )

    def test_that_refuses(self) -> None:
        assert refusal("http://127.0.0.1:1/x.zip").endswith("127.0.0.1:1 refuses the connection")

    def test_that_can_not_be_trusted(self, web: Server, tmp_path: Path) -> None:
        key = tmp_path / "key.pem"
        make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
        made = [*make.split(), "-keyout", str(key), "-out", str(key)]
        subprocess.run(made, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(key)
        web.socket = context.wrap_socket(web.socket, server_side=True)
        said = refusal(f"{web.url.replace('http', 'https')}/squad/")
        assert re.search(r"127.0.0.1:\d+ .*\(self.*SSL_CERT_FILE", said)

    def test_that_speaks_no_http(self, tmp_path: Path) -> None:
        import socket
        import threading

        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    connection.sendall(b"220 hello\r\n")
                    connection.close()

            threading.Thread(target=answer, daemon=True).start()
            said = refusal(f"http://127.0.0.1:{server.getsockname()[1]}/x.zip")
            assert said.startswith("http://127.0.0.1:")
            server.shutdown(socket.SHUT_RDWR)


class TestADriver:
    def test_that_nobody_has(self) -> None:
        assert re.search(r"^xyz://a/b can't be read: .*xyz://", refusal("xyz://a/b"))

    @pytest.mark.parametrize(
        ("url", "package"),
        [
            ("s3://b/k", "s3fs"),
            ("gs://b/k", "gcsfs"),
            ("hf://a/b", "huggingface_hub"),
            ("https://h/x.zip", "aiohttp"),
            ("s3://b/k", "fsspec"),
            ("memory://b", "fsspec"),
        ],
    )
    def test_that_is_not_installed(self, url: str, package: str) -> None:
        script = (
            f"import sys; sys.modules[{package!r}] = None; from bertconvert.cli import run; run()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "inspect", url], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: {url} can't be read: {url.partition(':')[0]}:// needs {package}, which is not"
            f" installed: pip install 'bertconvert[remote]', or pip install {package}\n",
        )

    def test_that_the_extra_does_not_bring(self) -> None:
        assert refusal("az://a/b").endswith(
            "az:// needs adlfs, which is not installed: pip install adlfs"
        )

    @pytest.mark.parametrize("raised", [ValueError("no"), RuntimeError("a\nb"), OSError(5, "no")])
    def test_that_fails_as_nobody_foresaw(
        self, raised: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise raised

        memory = fsspec.filesystem("memory")
        monkeypatch.setattr(type(memory), "info", fail)
        said = refusal("memory://a/b")
        assert said.startswith(f"memory://a/b can't be read: {type(raised).__name__}: ")

    def test_that_gives_too_much_is_not_believed(
        self, fixtures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = fsspec.filesystem("memory")
        for file in (fixtures / "squad").iterdir():
            memory.pipe_file(f"/trouble/{file.name}", file.read_bytes())
        cat = type(memory).cat_file
        monkeypatch.setattr(type(memory), "cat_file", lambda self, path, **_: cat(self, path))
        checkpoint = open_checkpoint("memory://trouble")
        with pytest.raises(CheckpointError, match=r"131,208 bytes .* 128"):
            _ = checkpoint["bert/pooler/dense/bias"]

    def test_that_gives_less_is_asked_for_the_rest(
        self, fixtures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = fsspec.filesystem("memory")
        for file in (fixtures / "squad").iterdir():
            memory.pipe_file(f"/trouble/{file.name}", file.read_bytes())
        cat = type(memory).cat_file

        def some(self: Any, path: str, start: int, end: int, **_: Any) -> Any:
            return cat(self, path, start=start, end=min(end, start + 1000))

        monkeypatch.setattr(type(memory), "cat_file", some)
        checkpoint = open_checkpoint("memory://trouble")
        here = open_checkpoint(fixtures / "squad")
        name = "bert/pooler/dense/kernel"
        assert (checkpoint[name] == here[name]).all()


class TestAFullDisk:
    def test_is_said_before_anything_is_fetched(
        self, web: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = open_checkpoint(f"{web.url}/{NAME}/")
        full = os.statvfs_result((4096, 4096, 100, 1, 1, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "fstatvfs", lambda _: full)
        web.forget()
        with pytest.raises(CheckpointError, match=rf"no space to download {web.url}/.*TMPDIR"):
            checkpoint.fetch(name for name in checkpoint if "adam" not in name)
        assert web.asked == []

    def test_is_said_when_it_shows_itself_later(
        self, web: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = open_checkpoint(f"{web.url}/{NAME}/")

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", full)
        web.forget()
        with pytest.raises(CheckpointError, match=r"No space left on device.*TMPDIR"):
            checkpoint.fetch(["bert/pooler/dense/kernel"])
        assert len(web.asked) == 1  # it does not help to try again


class TestTheCommand:
    def run(self, arguments: Sequence[str], **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "bertconvert", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def test_ends_at_once_when_it_is_interrupted(self, web: Server, tmp_path: Path) -> None:
        (tmp_path / "tmp").mkdir()
        web.stall_after = 100
        command = self.run(
            ["tf2pt", f"{web.url}/{NAME}/", str(tmp_path / "out")], TMPDIR=str(tmp_path / "tmp")
        )
        while not web.served:
            time.sleep(0.05)
        time.sleep(0.2)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=20)
        assert command.returncode == 130
        assert said.strip() == "Aborted!"
        assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
        assert not list((tmp_path / "tmp").iterdir())

    @pytest.mark.parametrize("works", [True, False])
    def test_says_nothing_but_what_it_has_to_say(
        self, web: Server, tmp_path: Path, works: bool
    ) -> None:
        """Whatever sessions are open at its end."""
        if not works:
            web.fail = {f"/{NAME}/{DATA}": 403}
        command = self.run(["tf2pt", f"{web.url}/{NAME}/", str(tmp_path / "out"), "--quiet"])
        out, said = command.communicate(timeout=20)
        assert out == ""
        if works:
            assert (command.returncode, said) == (0, "")
        else:
            assert (command.returncode, said.count("\n")) == (1, 1)
            assert said.startswith(f"Error: {web.url}/{NAME}/{DATA} can't be opened")

    def test_from_python_says_nothing_at_the_end(self, web: Server) -> None:
        script = f"import bertconvert; c = bertconvert.open_checkpoint('{web.url}/squad/')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_shows_what_is_afar(self, web: Server) -> None:
        for name in ("inspect", "explain"):
            command = self.run([name, f"{web.url}/squad/", "--json"])
            out, said = command.communicate(timeout=20)
            assert (command.returncode, said) == (0, "")
            assert "bert/pooler/dense/kernel" in out

    def test_imports_no_driver_for_what_is_here(self, fixtures: Path, tmp_path: Path) -> None:
        script = (
            "import sys; from bertconvert.cli import main\n"
            "try: main()\n"
            "except SystemExit as end:\n"
            "    names = {name.partition('.')[0] for name in sys.modules}\n"
            "    print(sorted(names & {'fsspec', 'aiohttp', 'asyncio', 'concurrent'}), end.code)"
        )
        for arguments in (["--help"], ["tf2pt", str(fixtures / "squad"), str(tmp_path / "out")]):
            done = subprocess.run(
                [sys.executable, "-c", script, *arguments], capture_output=True, text=True
            )
            assert done.stdout.endswith("[] 0\n"), done


def test_a_fork_reads_what_its_parent_opened(web: Server) -> None:
    checkpoint = open_checkpoint(f"{web.url}/squad/")
    expected = checkpoint["bert/pooler/dense/bias"].tobytes()
    script = (
        "import os, sys, bertconvert\n"
        f"c = bertconvert.open_checkpoint('{web.url}/squad/')\n"
        "if not (child := os.fork()):\n"
        "    sys.stdout.write(c['bert/pooler/dense/bias'].tobytes().hex())\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (0, expected.hex()), done.stderr


def test_prepare_takes_what_lies_afar(web: Server) -> None:
    assert prepare(f"{web.url}/squad/").plan.architecture.name == "BertForQuestionAnswering"
