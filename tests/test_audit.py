"""`bertconvert audit`: many model folders, each compared with its checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bertconvert.cli import cli
from bertconvert.converter.audit import Event, PairRow, audit, find_pairs
from bertconvert.converter.errors import BatchError, OutputError
from bertconvert.converter.verify import record

Converted = Callable[[str], Path]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, args)], prog_name="bertconvert")


def write_list(path: Path, *pairs: dict[str, Any]) -> Path:
    """A list; JSON's strings, numbers and arrays are TOML's, too."""
    tables = (
        "[[pair]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in pair.items())
        for pair in pairs
    )
    path.write_text("\n".join(tables))
    return path


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def work(fixtures: Path, converted: Converted, tmp_path: Path) -> Path:
    """A folder with a checkpoint, a true model, one with another activation, and a list."""
    shutil.copytree(fixtures / "pretraining", tmp_path / "checkpoint")
    for name in ("true", "port"):
        shutil.copytree(converted("pretraining"), tmp_path / "models" / name)
    (tmp_path / "models/port/conversion.json").unlink()
    edit(tmp_path / "models/port/config.json", hidden_act="gelu")
    write_list(
        tmp_path / "list.toml",
        {"reference": "checkpoint", "model": "models/true"},
        {"reference": "checkpoint", "model": "models/port"},
        {"reference": "checkpoint", "model": "models/gone", "name": "none"},
    )
    return tmp_path


def proved(work: Path, *names: str, **settings: Any) -> tuple[dict[str, PairRow], list[str]]:
    """The rows of an audit at level weights, and which pairs were not proved again."""
    unchanged = []

    def watch(event: Event) -> None:
        if event.is_unchanged:
            unchanged.append(event.name)

    pairs = [p for p in find_pairs(work / "list.toml") if not names or p.name in names]
    result = audit(pairs, work / "out", level="weights", watch=watch, **settings)
    return {row.name: row for row in result.pairs}, unchanged


def verdicts(rows: dict[str, PairRow]) -> dict[str, str]:
    return {name: row.verdict for name, row in rows.items()}


class Page(HTMLParser):
    """The text of a page, and what it links to and loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


class TestAList:
    def test_has_paths_relative_to_it_and_options_over_those_of_the_call(
        self, tmp_path: Path
    ) -> None:
        listed = write_list(
            tmp_path / "list.toml",
            {"reference": "a/model.ckpt", "model": "../b/"},
            {"reference": "/c.zip", "model": "https://x.org/d", "name": "e", "num_heads": 2},
            {"reference": "a", "model": "f", "vocab": "v.txt", "head": "token"},
        )
        one, other, third = find_pairs(listed, head="mlm", num_heads=4)
        assert (one.name, one.reference) == ("b", f"{tmp_path}/a/model.ckpt")
        assert one.model == f"{tmp_path}/../b"
        assert (other.name, other.reference, other.model) == ("e", "/c.zip", "https://x.org/d")
        assert (other.options.num_heads, other.options.head) == (2, "mlm")
        assert third.options.vocab == tmp_path / "v.txt"
        assert (third.options.head, third.options.num_heads) == ("token", 4)

    @pytest.mark.parametrize(
        ("pair", "said"),
        [
            ({"reference": "a"}, "missing required field `model`"),
            ({"model": "a"}, "missing required field `reference`"),
            ({"reference": "a", "model": 5}, "Expected `str`, got `int`"),
            ({"reference": "", "model": "b"}, "reference = '' can't be a path"),
            ({"reference": "a", "model": "b\0"}, "model = 'b\\x00' can't be a path"),
            ({"reference": "a", "model": "b", "head": 5}, "the option head can't be 5"),
            ({"reference": "a", "model": "b", "hed": "x"}, "unknown key hed; a pair has reference"),
            ({"reference": "a", "model": "b", "dtype": "float16"}, "unknown key dtype"),
            ({"reference": "a", "model": "https://"}, "names no server"),
            *(
                ({"reference": "a", "model": "b", "name": name}, "can't be the name of a report")
                for name in (
                    "",
                    ".",
                    "..",
                    "../x",
                    "a/b",
                    ".x",
                    "audit",
                    "Index",
                    "a\nb",
                    "x" * 201,
                )
            ),
            ({"reference": "a", "model": "/"}, "can't be the name of a report"),
        ],
    )
    def test_that_is_wrong_is_refused_before_any_work(
        self, tmp_path: Path, pair: dict[str, Any], said: str
    ) -> None:
        listed = write_list(tmp_path / "list.toml", {"reference": "a", "model": "x"}, pair)
        result = run(listed, tmp_path / "out", "--level", "weights")
        assert result.exit_code == 2
        assert f"{listed} is wrong: pair[1]" in result.stderr.replace("\n", " ") and said in (
            result.stderr
        )
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("text", ["", "pair = []", "[[pair]", "pair = 5", "model = []", "\xff"])
    def test_without_pairs_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "list.toml").write_bytes(text.encode("latin-1"))
        with pytest.raises(BatchError, match=r"list\.toml"):
            find_pairs(tmp_path / "list.toml")

    def test_has_no_two_pairs_of_a_name_whatever_its_case(self, tmp_path: Path) -> None:
        pairs = ({"reference": "a", "model": model} for model in ("x/Bert", "y/bert"))
        with pytest.raises(BatchError, match=r"two pairs are called bert: .*x/Bert and .*y/bert"):
            find_pairs(write_list(tmp_path / "list.toml", *pairs))


def test_each_pair_has_a_verdict_and_each_column_its_own_finding(work: Path) -> None:
    rows, _ = proved(work)
    assert verdicts(rows) == {"true": "PASS", "port": "FAIL", "none": "ERROR"}
    same = {
        name: {fact.name: fact.same for fact in row.facts if fact.same is not True}
        for name, row in rows.items()
    }
    assert same == {"true": {}, "port": {"activation": False}, "none": {}}
    assert "hidden_act is 'gelu'" in rows["port"].reason
    assert rows["none"].reason == f"{work}/models/gone does not exist"
    assert rows["true"].level == "weights" and rows["none"].level == ""


def test_the_folder_has_a_table_and_the_reports_of_each_pair(work: Path) -> None:
    result = run(work / "list.toml", work / "out", "--level", "weights", "--json")
    assert result.exit_code == 1
    names = {f"{name}.{ending}" for name in ("true", "port", "none") for ending in ("html", "json")}
    assert {path.name for path in (work / "out").iterdir()} == names | {"index.html", "audit.json"}
    document = json.loads(result.stdout)
    assert document == json.loads((work / "out/audit.json").read_text())
    assert document["version"] == 1
    assert [pair["verdict"] for pair in document["pairs"]] == ["PASS", "FAIL", "ERROR"]
    for name, passed in (("true", True), ("port", False), ("none", False)):
        assert json.loads((work / f"out/{name}.json").read_text())["passed"] is passed
    assert "does not exist" in (work / "out/none.html").read_text()


def test_the_table_on_the_terminal_fits_80_columns(work: Path) -> None:
    result = run(work / "list.toml", work / "out", "--level", "weights")
    lines = result.stdout.splitlines()
    assert max(map(len, lines[:5])) <= 80
    assert lines[2].split() == ["true", *["ok"] * 6, "weights", "PASS"]
    assert lines[3].split() == ["port", "ok", "ok", "NO", "ok", "ok", "ok", "weights", "FAIL"]
    assert lines[4].split() == ["none", *["-"] * 7, "ERROR"]
    assert "3 models: 1 PASS, 1 FAIL, 1 ERROR" in lines[5]
    assert "FAIL" in result.stderr and "hidden_act" in result.stderr


def test_the_exit_code_is_0_if_all_pass(work: Path) -> None:
    listed = write_list(work / "one.toml", {"reference": "checkpoint", "model": "models/true"})
    result = run(listed, work / "out", "--level", "weights", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_the_page_needs_no_other_file_but_the_reports(work: Path) -> None:
    proved(work)
    page = Page(work / "out/index.html")
    assert page.links == ["audit.json", "true.html", "port.html", "none.html"]
    assert not page.tags & {"link", "img", "iframe", "object"}
    for text in ("1 PASS, 1 FAIL, 1 ERROR", "gelu, not gelu_pytorch_tanh", "does not exist"):
        assert text in page.text


def test_names_and_errors_are_text_on_the_page(work: Path) -> None:
    name = '<script>"&x\u2028'.replace("\u2028", "") + "?#%"
    model = "models/<b>gone</b>"
    write_list(work / "list.toml", {"reference": "checkpoint", "model": model, "name": name})
    proved(work)
    page = Page(work / "out/index.html")
    assert page.tags.isdisjoint({"b"})
    assert name in page.text and model in page.text
    assert "%3Cscript%3E%22%26x%3F%23%25.html" in page.links
    assert (work / f"out/{name}.html").exists()


class TestAVerdict:
    def test_is_not_proved_again_if_nothing_changed(self, work: Path) -> None:
        before, _ = proved(work)
        files = {file.name: file.read_bytes() for file in (work / "out").iterdir()}
        after, unchanged = proved(work)
        assert unchanged == ["true", "port"]  # an error is tried again
        assert after == before
        assert {file.name: file.read_bytes() for file in (work / "out").iterdir()} == files

    def test_is_proved_again_with_force(self, work: Path) -> None:
        before, _ = proved(work)
        after, unchanged = proved(work, force=True)
        assert unchanged == [] and after == before

    @pytest.mark.parametrize(
        "name", ["models/true/model.safetensors", "checkpoint/bert_model.ckpt.data-00000-of-00001"]
    )
    def test_does_not_outlive_a_byte_that_changed_under_the_same_size_and_time(
        self, work: Path, name: str
    ) -> None:
        proved(work)
        file = work / name
        stamp, data = file.stat(), bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        rows, unchanged = proved(work)
        assert rows["true"].verdict in ("FAIL", "ERROR") and "true" not in unchanged
        assert f"<title>{rows['true'].verdict}" in (work / "out/true.html").read_text()

    def test_does_not_outlive_another_config_of_the_model(self, work: Path) -> None:
        proved(work)
        edit(work / "models/true/config.json", num_attention_heads=4)
        assert proved(work)[0]["true"].verdict == "FAIL"

    def test_does_not_outlive_a_file_that_comes_to_the_checkpoint(self, work: Path) -> None:
        (work / "checkpoint/bert_config.json").rename(work / "config")
        rows, _ = proved(work, "port")
        assert not heads(rows["port"])  # by assumption
        (work / "config").rename(work / "checkpoint/bert_config.json")
        rows, unchanged = proved(work, "port")
        assert unchanged == [] and heads(rows["port"])

    def test_does_not_outlive_other_options_or_another_seed(self, work: Path) -> None:
        proved(work, "port")
        write_list(
            work / "list.toml",
            {"reference": "checkpoint", "model": "models/port", "activation": "erf"},
        )
        rows, unchanged = proved(work)
        assert (verdicts(rows), unchanged) == ({"port": "PASS"}, [])
        assert proved(work, seed=1)[1] == []

    def test_does_not_outlive_its_report(self, work: Path) -> None:
        proved(work, "true")
        (work / "out/true.html").unlink()
        assert proved(work, "true")[1] == []
        assert (work / "out/true.html").exists()

    def test_of_another_version_is_not_taken(self, work: Path) -> None:
        proved(work, "true")
        file = work / "out/audit.json"
        file.write_text(file.read_text().replace('"tool": "bertconvert ', '"tool": "bertconvert 0'))
        assert proved(work, "true")[1] == []

    def test_of_another_list_is_kept_for_later(self, work: Path) -> None:
        proved(work, "true", "port")
        proved(work, "port")
        assert [row["name"] for row in table(work)["earlier"]] == ["true"]
        assert proved(work, "true", "port")[1] == ["true", "port"]


def heads(row: PairRow) -> bool | None:
    return next(fact.same for fact in row.facts if fact.name == "heads")


class TestAGoldenRecord:
    @pytest.fixture(autouse=True)
    def _in_place_of_the_checkpoint(self, work: Path) -> None:
        record(work / "checkpoint", work / "golden.safetensors", level="weights")
        write_list(
            work / "list.toml",
            *(
                {"reference": "golden.safetensors", "model": f"models/{n}"}
                for n in ("true", "port")
            ),
        )
        shutil.rmtree(work / "checkpoint")

    def test_takes_the_place_of_a_checkpoint(self, work: Path) -> None:
        result = run(work / "list.toml", work / "out")
        assert "Traceback" not in result.output and result.exit_code == 1
        true, port = table(work)["pairs"]
        assert [true["verdict"], port["verdict"]] == ["PASS", "FAIL"]
        assert [true["level"], true["record"]["file"]] == ["weights", f"{work}/golden.safetensors"]
        assert all(fact["same"] for fact in true["facts"]) and len(true["facts"]) == 6
        assert "a record, made 2" in Page(work / "out/index.html").text
        assert proved(work)[1] == [] and proved(work)[1] == ["true", "port"]  # another level

    def test_that_changed_is_read_again(self, work: Path) -> None:
        proved(work)
        file = work / "golden.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        rows, _ = proved(work)
        assert verdicts(rows) == {"true": "ERROR", "port": "ERROR"}

    def test_takes_no_options(self, work: Path) -> None:
        pair = {"reference": "golden.safetensors", "model": "models/true", "activation": "erf"}
        write_list(work / "list.toml", pair)
        rows, _ = proved(work)
        assert rows["true"].verdict == "ERROR"
        assert "golden.safetensors is a record, which has its own options" in rows["true"].reason


def table(work: Path) -> Any:
    return json.loads((work / "out/audit.json").read_text())


class Stop(BaseException):
    """What Ctrl-C raises, so to say."""


class TestAnAuditThatIsStopped:
    def test_goes_on_where_it_was(self, work: Path) -> None:
        def stop(event: Event) -> None:
            if event.row is not None:
                raise Stop

        pairs = find_pairs(work / "list.toml")
        with pytest.raises(Stop):
            audit(pairs, work / "out", level="weights", watch=stop)
        assert [row["verdict"] for row in table(work)["pairs"]] == ["PASS", "NOT RUN", "NOT RUN"]
        rows, unchanged = proved(work)
        assert unchanged == ["true"]
        assert verdicts(rows) == {"true": "PASS", "port": "FAIL", "none": "ERROR"}

    def test_never_shows_an_earlier_verdict_of_files_that_it_did_not_look_at(
        self, work: Path
    ) -> None:
        def stop(event: Event) -> None:
            if event.row is not None:
                raise Stop

        write_list(
            work / "list.toml",
            {"reference": "checkpoint", "model": "models/port"},
            {"reference": "checkpoint", "model": "models/true"},
        )
        proved(work)
        edit(work / "models/true/config.json", num_attention_heads=4)
        with pytest.raises(Stop):
            audit(find_pairs(work / "list.toml"), work / "out", level="weights", watch=stop)
        assert [row["verdict"] for row in table(work)["pairs"]] == ["FAIL", "NOT RUN"]
        assert "PASS" not in Page(work / "out/index.html").text
        rows, unchanged = proved(work)
        assert (verdicts(rows), unchanged) == ({"port": "FAIL", "true": "FAIL"}, ["port"])


# Imported by every Python that finds it, so the worker does what it says, too.
SITE = """
import os, pathlib, signal, time

is_dir = pathlib.Path.is_dir

def slow(path):
    if path.name == "doomed":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "slow":
        time.sleep(60)
    return is_dir(path)

pathlib.Path.is_dir = slow
"""


@pytest.fixture
def started(work: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the command; a folder `doomed` kills the worker, and one called `slow` takes long."""
    site = work / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    begun = []

    def start(*args: str | Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "bertconvert", "audit", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_process_that_dies_is_the_error_of_its_pair_only(
    work: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    names = ("true", "doomed", "port")
    shutil.copytree(work / "models/true", work / "models/doomed")
    pairs = ({"reference": "checkpoint", "model": f"models/{name}"} for name in names)
    listed = write_list(work / "list.toml", *pairs)
    process = started(listed, work / "out", "--level", "weights")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert [row["verdict"] for row in table(work)["pairs"]] == ["PASS", "ERROR", "FAIL"]
    assert "its process was killed" in table(work)["pairs"][1]["reason"]
    assert "its process was killed" in (work / "out/doomed.html").read_text()
    assert "1 PASS, 1 FAIL, 1 ERROR" in output


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_the_verdicts_that_there_are(
    work: Path, started: Callable[..., "subprocess.Popen[str]"], stop: signal.Signals
) -> None:
    shutil.copytree(work / "models/true", work / "models/slow")
    pairs = ({"reference": "checkpoint", "model": f"models/{name}"} for name in ("true", "slow"))
    listed = write_list(work / "list.toml", *pairs)
    process = started(listed, work / "out", "--level", "weights")
    end = time.monotonic() + 30
    while not (work / "out/audit.json").exists() or table(work)["pairs"][0]["verdict"] != "PASS":
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(stop)
    process.wait(timeout=20)
    assert process.returncode == (-stop if stop == signal.SIGKILL else 128 + stop)
    assert [row["verdict"] for row in table(work)["pairs"]] == ["PASS", "NOT RUN"]
    shutil.rmtree(work / "models/slow")
    assert proved(work)[1] == ["true"]


@pytest.mark.parametrize("name", ["audit.json", "index.html", "true.json", "true.html"])
def test_a_file_that_no_audit_wrote_is_never_replaced(work: Path, name: str) -> None:
    (work / "out").mkdir()
    (work / "out" / name).write_text("{}")
    with pytest.raises(OutputError, match=f"{name} exists and was not written by"):
        proved(work, force=True)
    assert [path.name for path in (work / "out").iterdir()] == [name]
    assert (work / "out" / name).read_text() == "{}"


@pytest.mark.parametrize("out", ["models/true", "models/true/audit", "checkpoint"])
def test_nothing_is_written_into_a_folder_that_is_compared(work: Path, out: str) -> None:
    before = sorted(work.rglob("*"))
    result = run(work / "list.toml", work / out, "--level", "weights")
    assert result.exit_code == 2 and "which is compared" in result.stderr
    assert sorted(work.rglob("*")) == before


def test_a_pipe_in_a_model_folder_does_not_stop_the_others(work: Path) -> None:
    (work / "models/true/config.json").unlink()
    os.mkfifo(work / "models/true/config.json")
    rows, _ = proved(work, "true", "port")
    assert verdicts(rows) == {"true": "ERROR", "port": "FAIL"}
    assert "is not a regular file" in rows["true"].reason


def test_an_error_that_nobody_foresaw_is_that_of_its_pair(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "models/true/config.json").write_text(
        '{"architectures": ["BertForPreTraining"], "id2label": ' + '{"a":' * 10**5 + "1"
    )
    rows, _ = proved(work, "true", "port")
    assert verdicts(rows) == {"true": "ERROR", "port": "FAIL"}


def test_several_checkpoints_of_several_families_are_compared_at_once(
    fixtures: Path, converted: Converted, tmp_path: Path
) -> None:
    names = ["classifier", "albert", "electra", "mobilebert", "h5-pretraining", "tf2-pretraining"]
    pairs = ({"reference": str(fixtures / n), "model": str(converted(n))} for n in names)
    write_list(tmp_path / "list.toml", *pairs)
    rows, _ = proved(tmp_path)
    assert {name: row.reason for name, row in rows.items() if row.verdict != "PASS"} == {}
    assert proved(tmp_path)[1] == names


def test_level_outputs_says_which_activation_the_model_computes(work: Path) -> None:
    result = run(work / "list.toml", work / "out", "--level", "outputs", "--samples", "2")
    assert result.exit_code == 1
    true, port, none = table(work)["pairs"]
    assert (true["verdict"], true["level"]) == ("PASS", "outputs")
    assert true["activation"].startswith("GELU by tanh matches; GELU by erf would move")
    assert port["reason"].startswith("activation: ") and none["verdict"] == "ERROR"
    assert "torch" in true["inputs"]["versions"]
    assert "GELU by tanh matches" in Page(work / "out/index.html").text
