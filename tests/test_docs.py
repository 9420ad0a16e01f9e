"""What the pages show: bytes that TensorFlow reads, and we do; the families of the mappings."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from bertconvert import open_checkpoint
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.dtypes import DTYPES
from bertconvert.converter.checkpoint.slices import FULL, slice_key
from bertconvert.converter.mapping import builtin_mappings, load_mapping

from .checkpoint import table_writer as write

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "checkpoint-format.md").read_text()
LINE = re.compile(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)", re.MULTILINE)


def dumps() -> list[bytes]:
    """The page's hexdumps, in order; of each, every line has the right offset."""
    found = []
    for block in re.findall(r"```hexdump\n(.*?)```", PAGE, re.DOTALL):
        data = b""
        for offset, content in LINE.findall(block):
            assert int(offset, 16) == len(data), block
            data += bytes.fromhex(content)
        found.append(data)
    return found


INDEX, SHARD, STRINGS, KEY = dumps()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    prefix = tmp_path / "P"
    Path(f"{prefix}.index").write_bytes(INDEX)
    write.shard_path(prefix).write_bytes(SHARD)
    return prefix


def test_the_example_is_read_as_the_page_says(example: Path) -> None:
    read = {name: array.tolist() for name, array in open_checkpoint(example).items()}
    assert read == {"a": [1, 2], "ab": 7}


def test_the_example_is_what_is_written(tmp_path: Path) -> None:
    write_bundle(tmp_path / "P", {"ab": np.array(7, np.int32), "a": np.float32([1, 2])})
    assert (tmp_path / "P.index").read_bytes() == INDEX
    assert write.shard_path(tmp_path / "P").read_bytes() == SHARD


def test_the_example_is_read_by_tensorflow(example: Path) -> None:
    """Whose format it is."""
    tf = pytest.importorskip("tensorflow")
    reader = tf.train.load_checkpoint(os.fspath(example))
    assert reader.get_variable_to_shape_map() == {"a": [2], "ab": []}
    assert reader.get_tensor("a").tolist() == [1, 2]
    assert reader.get_tensor("ab") == 7


def test_the_strings_are_stored_as_the_page_says(tmp_path: Path) -> None:
    checksum = re.search(r"whose entry has `35 ((?:[0-9a-f]{2} ?){4})`", PAGE)
    assert checksum is not None
    crc = int.from_bytes(bytes.fromhex(checksum[1]), "little")
    prefix = tmp_path / "P"
    write.write_index(prefix, {"s": write.entry(write.STRING, (2,), len(STRINGS), crc=crc)})
    write.shard_path(prefix).write_bytes(STRINGS)
    assert open_checkpoint(prefix)["s"].tolist() == [b"", b"abc"]


def test_the_key_of_a_slice_is_what_the_page_says() -> None:
    assert slice_key(b"table", ((0, 2), (0, FULL))) == KEY


def test_numbers_are_coded_as_the_page_says() -> None:
    rows = re.findall(r"^\| (-?\d+) \| `([0-9a-f ]+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for number, content in rows:
        assert (
            slice_key(b"", ((int(number), 0),))
            .removesuffix(b"\x80")
            .endswith(bytes.fromhex(content))
        )


def test_the_page_names_every_dtype() -> None:
    listed = re.findall(r"(?<![\w-])(\d+) ([a-z]+\d*(?:_\w+)?)\b", PAGE.split("### An example")[0])
    assert {(int(number), name) for number, name in listed} >= {
        (number, name) for number, (name, _) in DTYPES.items()
    }


@pytest.mark.parametrize("name", builtin_mappings())
def test_the_families_page_has_each_class_head_and_file_of_a_mapping(name: str) -> None:
    mapping = load_mapping(builtin_mappings()[name])
    page = (ROOT / "docs" / "families.md").read_text()
    title = re.search(rf"^\| \[([^]]+)\]\(.*`{name}`", page, re.MULTILINE)
    assert title is not None
    section = page.partition(f"\n## {title[1]}\n")[2].partition("\n## ")[0]
    heads = page.partition("\n**Heads.**")[2].partition("\n**")[0]
    for architecture in mapping.architecture:
        assert f"`{architecture.name}`" in section
        assert f"| `{architecture.head}` |" in heads
    files = {rule.name for rule in (mapping.files.config, *mapping.vocabularies) if rule}
    for file in files | {*mapping.files.prefixes}:
        assert file in section
