"""Servers on this machine, short pauses between retries, and a time limit."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertconvert.converter.storage import filesystems

from ..helpers import deadline
from .server import Server, serving

SECONDS = 30


@pytest.fixture(autouse=True)
def _ends_in_time() -> Iterator[None]:
    with deadline(SECONDS):
        yield


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def fixtures(plain: Path) -> Path:
    return plain


@pytest.fixture
def web(fixtures: Path) -> Iterator[Server]:
    """A web server that serves the fixtures."""
    with serving(fixtures) as server:
        yield server


@pytest.fixture
def web_of(tmp_path: Path) -> Iterator[Server]:
    """A web server that serves `tmp_path`."""
    with serving(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def _store() -> Iterator[str]:
    """An S3 store on this machine; gives its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["Bucket"]:
    """An empty bucket in it, called `models`."""
    for name, value in {
        "AWS_ENDPOINT_URL": _store,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    made = Bucket(_store)
    made.client.create_bucket(Bucket=made.name)
    yield made
    made.empty()
    made.client.delete_bucket(Bucket=made.name)


class Bucket:
    """A bucket, with its owner's rights."""

    name = "models"
    url = "s3://models"

    def __init__(self, endpoint: str) -> None:
        import boto3

        self.client = boto3.client("s3", endpoint_url=endpoint)

    def put(self, folder: Path, under: str) -> None:
        for file in folder.iterdir():
            self.client.put_object(
                Bucket=self.name, Key=f"{under}/{file.name}", Body=file.read_bytes()
            )

    def publish(self) -> None:
        """Make it readable for everyone."""
        self.client.put_bucket_acl(Bucket=self.name, ACL="public-read")
        for key in self.objects():
            self.client.put_object_acl(Bucket=self.name, Key=key, ACL="public-read")

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {one["Key"]: self.get(one["Key"]) for one in listed}

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def empty(self) -> None:
        for key in self.objects():
            self.client.delete_object(Bucket=self.name, Key=key)
