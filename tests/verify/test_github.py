"""What `verify --format github` tells GitHub Actions, read as its runner and its pages read it."""

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from markdown_it import MarkdownIt
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from bertconvert import VerificationError
from bertconvert.cli import cli
from bertconvert.converter.verify import Failure, Verdict, github, verify
from bertconvert.converter.verify.verdict import (
    Activation,
    Cause,
    Check,
    Fact,
    Faulty,
    Gradient,
    Output,
    Recording,
)

Converted = Callable[[str], Path]
Command = tuple[str, dict[str, str], str]

# Commands, and what Markdown or GitHub takes for markup.
HOSTILE = (
    "::error::x|y`z`<b>*i* _u_ [l](u) &amp; $m$ @me #1 \\| :tada: %0A::error::d%25,file=a"
    "\n::add-mask::b\r##[error]c"
)
KINDS = {"error", "warning", "notice", "add-mask", "set-output"}


def heard(output: str) -> list[Command]:
    """The commands that GitHub's runner finds in what a step prints (its ActionCommand.cs)."""
    found: list[Command] = []
    stopped = ""
    for line in re.split(r"\r\n|\r|\n", output):
        newer = re.fullmatch(r"\s*::([^ :]+)(?: (.*?))?::(.*)", line)
        older = re.search(r"##\[([^ \]]+)[^]]*\](.*)", line)
        name, properties, text = "", "", ""
        if newer:
            name, properties, text = newer[1], newer[2] or "", newer[3]
        elif older:
            name, text = older[1], older[2]
        if stopped:
            stopped = "" if name == stopped else stopped
        elif name == "stop-commands":
            stopped = text
        elif name in KINDS:
            pairs = (pair.split("=", 1) for pair in properties.split(",") if pair)
            found.append((name, {key: decoded(value) for key, value in pairs}, decoded(text)))
    assert not stopped
    return found


def decoded(text: str) -> str:
    return re.sub("%(25|0D|0A|3A|2C)", lambda code: chr(int(code[1], 16)), text)


def tables(markdown: str) -> list[list[list[str]]]:
    """The text of each cell of each table, as a page shows it; it holds no other markup."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    found: list[list[list[str]]] = []
    for opening, token in pairwise(tokens):
        if opening.type == "table_open":
            found.append([])
        elif opening.type == "tr_open":
            found[-1].append([])
        if opening.type in ("th_open", "td_open"):
            found[-1][-1].append(shown(token.children or []))
    return found


def shown(parts: list) -> str:  # type: ignore[type-arg]
    text = ""
    for part in parts:
        if part.type in ("text", "text_special"):
            text += part.content
        elif part.type == "html_inline" and part.content == "<br>":
            text += "\n"
        else:
            assert part.content in ("<code>", "</code>") or part.type.startswith("strong"), part
    return text


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the summary, which an earlier command of the step wrote to."""
    path = tmp_path / "summary.md"
    path.write_text("<p>earlier")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


@pytest.fixture
def out(converted: Converted, tmp_path: Path) -> Path:
    """A folder that may be changed."""
    return shutil.copytree(converted("pretraining"), tmp_path / "out")


@pytest.fixture(scope="module")
def verdict(converted: Converted) -> Verdict:
    root = Path(__file__).parent.parent.parent
    return verify(root / "fixtures" / "encoder", converted("encoder"), level="weights")


def run(checkpoint: Path, out: Path, *args: str) -> Result:
    command = ["verify", str(checkpoint), str(out), "--level", "weights", *args]
    return CliRunner().invoke(cli, command, prog_name="bertconvert")


def told(checkpoint: Path, out: Path, *args: str) -> tuple[Result, list[Command]]:
    result = run(checkpoint, out, "--format", "github", *args)
    heard(result.stderr)
    return result, heard(result.stdout)


def test_a_pass_has_no_annotation_and_the_summary_says_what_was_proved(
    fixtures: Path, out: Path, job: Path
) -> None:
    result, commands = told(fixtures / "pretraining", out)
    assert result.exit_code == 0
    assert commands == []
    assert result.stdout.count("\n") == run(fixtures / "pretraining", out).stdout.count("\n") + 2
    text = job.read_text()
    assert text.startswith("<p>earlier\n\n## PASS: <code>")
    levels, facts, compared = tables(text.partition("\n\n")[2])
    assert [row[:2] for row in levels[1:]] == [
        ["weights", "same"],
        ["outputs", "not run"],
        ["gradients", "not run"],
    ]
    assert ["model", "BertForPreTraining, 46 tensors"] in compared
    assert ["heads", "2", "2", "same"] in facts


def test_each_command_adds_to_the_summary(fixtures: Path, out: Path, job: Path) -> None:
    for _ in range(2):
        told(fixtures / "pretraining", out)
    assert job.read_text().count("## PASS: ") == 2


def test_a_difference_is_an_error_that_names_tensor_and_cause(
    fixtures: Path, out: Path, job: Path
) -> None:
    tensors = load_file(out / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name] * 0
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    result, ((kind, properties, message),) = told(fixtures / "pretraining", out)
    assert result.exit_code == 1
    assert kind == "error"
    assert properties["title"].startswith("bertconvert: ")
    assert "differs from" in properties["title"]
    assert f"The first tensor that differs: {name}" in message
    assert f"zeroed: {name}" in message
    assert "## FAIL: " in job.read_text()
    levels, checks, causes, *_ = tables(job.read_text().partition("\n\n")[2])
    assert levels[1] == ["weights", "DIFFERENT", "1 of 7 checks failed"]
    assert ["the first tensor", name] in checks
    assert causes[1][:2] == ["zeroed", name]


def test_what_is_not_proved_is_a_warning(fixtures: Path, job: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(fixtures / "pretraining", tmp_path / "bare")
    (bare / "bert_config.json").unlink()
    made = CliRunner().invoke(cli, ["tf2pt", str(bare), str(tmp_path / "model")])
    assert made.exit_code == 0, made.output
    result, commands = told(bare, tmp_path / "model")
    assert result.exit_code == 0
    assert {kind for kind, _, _ in commands} == {"warning"}
    assert any("num_attention_heads = 1 is assumed" in text for _, _, text in commands)
    assert "### Not proved" in job.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [((), 1, "nowhere"), (("--text", __file__), 2, "--text needs --level outputs")],
)
def test_an_error_is_annotated_and_in_the_summary_too(
    arguments: tuple[str, ...], code: int, reason: str, fixtures: Path, tmp_path: Path, job: Path
) -> None:
    result, ((kind, _, message),) = told(fixtures / "pretraining", tmp_path / "nowhere", *arguments)
    assert result.exit_code == code
    assert kind == "error" and reason in message and reason in result.stdout
    (facts,) = tables(job.read_text().partition("\n\n")[2])
    assert reason in facts[-1][1]


def test_debug_shows_the_traceback_of_an_error(fixtures: Path, tmp_path: Path) -> None:
    result = run(fixtures / "pretraining", tmp_path / "nowhere", "--format", "github", "--debug")
    assert isinstance(result.exception, VerificationError)


def test_names_of_a_model_are_no_commands_and_no_markup(
    fixtures: Path, out: Path, job: Path
) -> None:
    tensors = load_file(out / "model.safetensors")
    names = ["::add-mask::a", "b|c`d`<i>", "##[error]e", "::error::f"]
    save_file(
        tensors | {name: tensors["cls.predictions.bias"] for name in names},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    result, ((_, _, message),) = told(fixtures / "pretraining", out)
    assert result.exit_code == 1
    rows = [cell for table in tables(job.read_text()) for row in table for cell in row]
    for name in names:
        assert name in message
        assert any(name in cell for cell in rows)


def test_variables_named_in_an_error_are_no_commands(
    monkeypatch: pytest.MonkeyPatch, fixtures: Path, out: Path
) -> None:
    def fail(*args: object, **options: object) -> Verdict:
        raise VerificationError("unknown variables:\n  ::error::x\n  ::stop-commands::y")

    monkeypatch.setattr("bertconvert.converter.verify.verify", fail)
    result, ((_, _, message),) = told(fixtures / "pretraining", out)
    assert "::error::x" in message
    assert "::error::" not in result.stderr


def everything(verdict: Verdict, text: str) -> Verdict:
    """A verdict that has all there is, with a text in every place."""
    return replace(
        verdict,
        checkpoint=text,
        out=text,
        level="gradients",
        architecture=text,
        samples=8,
        positions=32,
        checks=[Check(level, text, False, text) for level in ("weights", "outputs", "gradients")],
        outputs=[Output(text, 1.0, 0.5, 1e-7, 2e-7, 4e-7, 0, False, True)],
        gradients=[Gradient(text, text, text, 2.0, 1e-5, False, False)],
        activation=Activation(text, text, 0.1, text),
        causes=[Cause(text, (text,), text)],
        first_tensor=text,
        first_output=text,
        notes=[text],
        unproved=[text],
        record=Recording(text, text, text, text, text),
        versions={text: text},
        faulty=[Faulty(text, 0.25)],
        facts=[Fact(text, text, text, False), Fact(text, "", text, None)],
    )


@pytest.mark.parametrize("found", ["verdict", "failure"])
def test_no_text_of_a_verdict_leaves_its_cell_or_its_command(found: str, verdict: Verdict) -> None:
    some: Verdict | Failure = everything(verdict, HOSTILE)
    if found == "failure":
        some = Failure(HOSTILE, HOSTILE, HOSTILE)
    for table in tables(github.summary(some)):
        assert len({len(row) for row in table}) == 1
    text = github.summary(some).replace("\n## ", "\n").removeprefix("## ")
    kinds = {token.type for token in MarkdownIt("commonmark").enable("table").parse(text)}
    assert not kinds & {"fence", "code_block", "html_block", "hr", "bullet_list_open"}
    line = HOSTILE.replace("\n", "\\n").replace("\r", "\\r")
    cells = [cell for table in tables(github.summary(some)) for row in table for cell in row]
    assert sum(line in cell or HOSTILE.split("\n")[0] in cell for cell in cells) >= 2
    commands = heard("\n".join(github.commands(some)))
    assert [kind for kind, _, _ in commands] == ["error", "warning"][: 1 + (found == "verdict")]
    for _, properties, message in commands:
        assert properties.keys() == {"title"}
        assert HOSTILE.replace("\r", "\\r") in message
    assert line in commands[0][1]["title"]


def test_the_summary_has_figures_faulty_parts_and_the_record(verdict: Verdict) -> None:
    cells = tables(github.summary(everything(verdict, "Text")))
    rows = [row for table in cells for row in table]
    assert ["Text", "5.0e-01", "0.8", "1.7", "3.4", "NO"] in rows
    assert ["Text", "2.5e-01"] in rows
    assert ["Text", "Text", "Text", "DIFFERENT"] in rows
    assert ["Text", "", "Text", "not proved"] in rows
    ((_, _, message), _) = heard("\n".join(github.commands(everything(verdict, "Text"))))
    assert "this part differs even if fed the original's input: Text" in message
    facts = dict(row for row in cells[-1])
    assert facts["reference"] == ("the golden record Text, made Text by Text with TensorFlow Text")
    assert facts["sequences"] == "8 seeded sequences (seed 0), at up to 32 positions of each"
    assert "the largest relative difference is 5.0e-06, and may be 1e-09" in facts["gradients"]


@pytest.mark.parametrize("text", [HOSTILE * 50, "|" * 5000, "\x1b" * 5000, "::\n" * 5000])
def test_whatever_is_found_github_takes_the_summary_and_the_annotations(
    text: str, verdict: Verdict
) -> None:
    most = everything(verdict, text)
    lists = ("checks", "outputs", "causes", "unproved", "faulty", "facts")
    most = replace(most, **{name: getattr(most, name) * 1000 for name in lists})
    for found in (most, Failure(text, text, "\n".join([text] * 1000))):
        assert len(github.summary(found).encode()) < 1 << 20
        commands = heard("\n".join(github.commands(found)))
        assert sum(kind == "warning" for kind, _, _ in commands) <= 10
        assert all(len(message) <= 4096 for _, _, message in commands)


def test_a_summary_that_cannot_be_written_fails_behind_the_verdict(
    fixtures: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    result, _ = told(fixtures / "pretraining", out)
    assert result.exit_code == 1
    assert "PASS: all" in result.stdout
    assert "GITHUB_STEP_SUMMARY" in result.stderr and "Is a directory" in result.stderr


def test_there_need_be_no_summary(
    fixtures: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert told(fixtures / "pretraining", out)[0].exit_code == 0


def test_json_is_a_format_and_no_other_goes_with_it(fixtures: Path, out: Path, job: Path) -> None:
    source = fixtures / "pretraining"
    found = run(source, out, "--format", "json")
    assert json.loads(found.stdout)["passed"] is True
    assert found.stdout == run(source, out, "--json").stdout
    assert found.stdout == run(source, out, "--json", "--format", "json").stdout
    refused = run(source, out, "--json", "--format", "github")
    assert refused.exit_code == 2
    assert "--json and --format github can't be combined" in refused.stderr
    assert job.read_text() == "<p>earlier"
