"""What docs/remote.md shows can be done."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Bucket
from .server import GoogleStore, Hub, Server, running

PAGE = (Path(__file__).parent.parent.parent / "docs" / "remote.md").read_text()
COMMANDS = re.findall(r"^    bertconvert (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def places(
    web_of: Server, bucket: Bucket, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What the page's URLs name; gives a folder to work in."""
    shutil.copytree(fixtures / "pretraining", tmp_path / "bert")
    shutil.make_archive(str(tmp_path / "uncased_L-2_H-128_A-2"), "zip", fixtures / "pretraining")
    bucket.put(fixtures / "pretraining", "bert")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_every_command_of_the_page_works(
    web_of: Server, bucket: Bucket, fixtures: Path, places: Path
) -> None:
    assert len(COMMANDS) == 7
    with running(GoogleStore()) as google, running(Hub(fixtures / "pretraining")) as hub:
        google.put(fixtures / "pretraining", "bert")
        environment = {
            **os.environ,
            "STORAGE_EMULATOR_HOST": google.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "FSSPEC_GS": '{"token": "anon"}',
            "HF_ENDPOINT": hub.url,
        }
        for command in COMMANDS:
            line = command.replace("https://host", web_of.url)
            line = line.replace("s3://bucket", bucket.url).replace("gs://bucket", "gs://models")
            done = subprocess.run(
                [sys.executable, "-m", "bertconvert", *line.split()],
                capture_output=True,
                text=True,
                env=environment,
            )
            assert done.returncode == 0, (line, done.stderr)
    assert {path.name for path in places.iterdir()} == {"bert", "bert-tf", "bert-tiny"}
    assert "models/bert/conversion.json" in bucket.objects()


def test_any_header_can_be_given(web_of: Server, places: Path) -> None:
    (variable,) = re.findall(r"FSSPEC_HTTPS='(.*?)'", PAGE)
    web_of.login = "Bearer ..."
    command = [sys.executable, "-m", "bertconvert", "inspect", f"{web_of.url}/bert/", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "login" in done.stderr
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "FSSPEC_HTTP": variable}
    )
    assert done.returncode == 0, done.stderr
