"""Golden records on a server and in a bucket: they prove a folder; trouble has a clear error."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bertconvert import BertconvertError, record, verify

from .conftest import Bucket
from .server import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    record(ROOT / "fixtures/encoder", path, level="weights")
    return path


def test_a_record_on_a_server_proves_a_folder(
    file: Path, web_of: Server, converted: Callable[[str], Path]
) -> None:
    for url in (f"{web_of.url}/tiny.safetensors", f"{web_of.url}/tiny.safetensors?download=true"):
        verdict = verify(url, converted("encoder"))
        assert verdict.passed and verdict.level == "weights"
        assert verdict.record is not None and "tiny.safetensors" in verdict.record.file


def test_a_record_in_a_bucket_proves_a_folder_in_it(
    file: Path, bucket: Bucket, converted: Callable[[str], Path]
) -> None:
    bucket.put(file.parent, "records")
    bucket.put(converted("encoder"), "model")
    verdict = verify(f"{bucket.url}/records/tiny.safetensors", f"{bucket.url}/model")
    assert verdict.passed and verdict.out == f"{bucket.url}/model"


def test_a_record_that_is_not_there_or_not_whole_is_an_error(
    file: Path, web_of: Server, bucket: Bucket, converted: Callable[[str], Path]
) -> None:
    file.with_name("cut.safetensors").write_bytes(file.read_bytes()[:-100])
    file.with_name("empty.safetensors").write_bytes(b"")
    (file.parent / "page.safetensors").write_text("<html>Sign in</html>")
    urls = [f"{web_of.url}/{name}.safetensors" for name in ("cut", "empty", "page", "none")]
    for url in (*urls, f"{bucket.url}/none.safetensors", "s3://nobodys/r.safetensors"):
        with pytest.raises(BertconvertError) as error:
            verify(url, converted("encoder"), level="weights")
        assert "safetensors" in str(error.value) or "nobodys" in str(error.value)
    web_of.failures = [503] * 50
    with pytest.raises(BertconvertError, match="503"):
        verify(f"{web_of.url}/tiny.safetensors", converted("encoder"), level="weights")
