"""What the pages show: bytes, commands, options, files and links, held against the code."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import bertconvert
from bertconvert import convert_back, open_checkpoint
from bertconvert.cli import cli
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.dtypes import DTYPES
from bertconvert.converter.checkpoint.slices import FULL, slice_key
from bertconvert.converter.mapping import builtin_mappings, load_mapping

from .checkpoint import table_writer as write

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BACK = (ROOT / "docs" / "pt2tf.md").read_text()
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


def blocks(page: str) -> list[str]:
    """The indented blocks of a page, without their indent."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in found]


def shown_commands(page: str) -> list[list[str]]:
    """The words of every call of bertconvert in a page."""
    block = [line for text in blocks(page) for line in text.replace("\\\n", " ").splitlines()]
    calls = [line.split("  #")[0] for line in block] + re.findall(r"`([^`]+)`", page)
    return [call.split()[1:] for call in calls if re.match(r"bertconvert +[a-z\d]", call)]


def options_of(command: str) -> set[str]:
    group = cli.commands[command]
    options = [p for p in group.params if isinstance(p, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_every_command_that_a_page_shows_has_the_options_that_it_shows(path: Path) -> None:
    for name, *words in shown_commands(path.read_text()):
        assert name in cli.commands
        given = {
            word.strip("[]").split("=")[0] for word in words if word.strip("[").startswith("--")
        }
        assert given <= options_of(name), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert other.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in anchors, target


def test_the_page_of_pt2tf_explains_each_of_its_options_and_no_other() -> None:
    table = BACK.partition("\n## ")[0]
    explained = {*re.findall(r"--[a-z][a-z-]+", table)}
    assert explained == options_of("pt2tf") - {"-h", "--help"}


@pytest.fixture
def places(
    converted: Callable[[str], Path],
    fixtures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder, with the model and the checkpoint of the page of pt2tf."""
    shutil.copytree(converted("classifier"), tmp_path / "my-model")
    shutil.make_archive(str(tmp_path / "uncased_L-2_H-128_A-2"), "zip", fixtures / "pretraining")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("places")
def test_the_commands_of_the_page_of_pt2tf_do_what_it_says() -> None:
    calls = [line for text in blocks(BACK) for line in text.splitlines()]
    calls = [line for line in calls if line.startswith("bertconvert ")]
    assert len(calls) == 5
    for call in calls:
        result = CliRunner().invoke(cli, call.split()[1:], prog_name="bertconvert")
        assert result.exit_code == 0, (call, result.output)


def test_the_page_of_pt2tf_explains_the_lines_of_roundtrip(fixtures: Path) -> None:
    printed = ""
    for name in ("pretraining", "pretraining-adam", "tf2-pretraining"):
        printed += CliRunner().invoke(cli, ["roundtrip", str(fixtures / name)]).stdout
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    table = BACK.partition("\n### roundtrip\n")[2].partition("\n## ")[0]
    rows = [row.removesuffix("...") for row in re.findall(r"^\| `([^`]*)` \|", table, re.MULTILINE)]
    unseen = [row for row in rows if not any(line.startswith(row) for line in lines)]
    assert len(rows) == 7
    assert unseen == ["the original is stored in another way: ", "DIFFERENT: "]


@pytest.mark.usefixtures("places")
def test_the_python_of_the_page_of_pt2tf_gives_what_it_says() -> None:
    (block,) = [text for text in blocks(BACK) if "bertconvert.convert_back(" in text]
    names = {"bertconvert": bertconvert}
    checked = 0
    for line in filter(None, block.splitlines()):
        code, _, comment = line.partition("  #")
        if not comment:
            exec(code, names)
        else:
            assert comment.strip().startswith(repr(eval(code, names)))
            checked += 1
    assert checked == 2


@pytest.mark.parametrize("name", ["classifier", "albert", "electra", "mobilebert"])
def test_the_page_of_output_files_lists_every_file_of_a_checkpoint(
    name: str, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "output-files.md").read_text()
    section = page.partition("\n## A checkpoint\n")[2].partition("\n## ")[0]
    result = convert_back(converted(name), tmp_path / "out")
    stem = Path(result.prefix).name
    assert f"`{stem}`" in section or f"`{stem}.index`" in section
    for file in result.files:
        assert f"`{file.replace(stem, 'bert_model.ckpt')}`" in section
