import json
import os
import pydoc
import re
import rlcompleter
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bertconvert
import bertconvert.converter.convert as convert_module
from bertconvert.cli import cli
from bertconvert.converter.checkpoint.bundle_writer import write_bundle
from bertconvert.converter.checkpoint.object_graph import OBJECT_GRAPH
from bertconvert.converter.errors import BertconvertError
from bertconvert.converter.options import make_options
from bertconvert.converter.terminal import Progress, size_text

from .checkpoint.table_writer import (
    FLOAT32,
    STRING,
    entry,
    strings,
    write_index,
)
from .helpers import in_terminal

COMMANDS = [
    "tf2pt",
    "pt2tf",
    "roundtrip",
    "batch",
    "record",
    "verify",
    "audit",
    "inspect",
    "explain",
    "mappings",
]
FIXTURES = ["pretraining", "pretraining-adam", "classifier", "squad", "encoder", "keras-names"]
MAIN = "from bertconvert.cli import main; main()"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, args)], prog_name="bertconvert")


def program(*args: str | Path, code: str = MAIN, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, text=True, **{"capture_output": True} | kwargs)


def terminal(*args: str | Path, columns: int = 80, code: str = MAIN) -> tuple[int, str]:
    """The command in a terminal: its exit code, and what it shows."""
    return in_terminal(["-c", code, *args], columns)


@pytest.fixture
def pretraining(fixtures: Path) -> Path:
    return fixtures / "pretraining"


class TestThePackage:
    def test_shows_its_public_names(self) -> None:
        public = bertconvert.__all__
        assert dir(bertconvert) == sorted(public)
        completer = rlcompleter.Completer({"bertconvert": bertconvert})
        found = []
        while (name := completer.complete("bertconvert.", len(found))) is not None:
            found.append(name.removeprefix("bertconvert.").rstrip("()"))
        assert set(public) - {"__version__"} <= set(found)
        page = pydoc.plain(pydoc.render_doc(bertconvert))
        for name in set(public) - {"__version__"}:
            assert re.search(rf"\b{name}\b", page)


class TestHelp:
    @pytest.mark.parametrize("option", ["-h", "--help"])
    @pytest.mark.parametrize("command", COMMANDS)
    def test_is_there_for_every_command(self, command: str, option: str) -> None:
        result = run(command, option)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: bertconvert {command} [OPTIONS]")
        assert "--json" in result.stdout
        assert "--debug" in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80

    def test_lists_the_commands(self) -> None:
        result = run("--help")
        assert result.exit_code == 0
        listed = re.findall(r"^  (\w+)  ", result.stdout.split("Commands:")[1], re.MULTILINE)
        assert sorted(listed) == sorted(COMMANDS)

    def test_of_tf2pt_names_every_option(self) -> None:
        text = run("tf2pt", "--help").stdout
        for option in (
            "--mapping", "--config", "--vocab", "--head", "--scope", "--num-heads", "--activation",
            "--dtype", "--lower-case / --no-lower-case", "--format", "--force", "--quiet",
        ):  # fmt: skip
            assert option in text

    def test_comes_where_no_command_is_given(self) -> None:
        result = run()
        assert result.exit_code == 2
        assert "Usage: bertconvert" in result.output

    def test_version_is_that_of_the_package(self) -> None:
        assert run("--version").stdout == f"bertconvert {bertconvert.__version__}\n"


class TestAWrongCall:
    @pytest.mark.parametrize(
        "args",
        [
            ("convert",),
            ("tf2pt",),
            ("tf2pt", "a"),
            ("tf2pt", "a", "b", "c"),
            ("tf2pt", "a", "b", "--nonsense"),
            ("tf2pt", "a", "b", "--dtype", "int8"),
            ("tf2pt", "a", "b", "--format", "h5"),
            ("tf2pt", "a", "b", "--activation", "relu"),
            ("tf2pt", "a", "b", "--num-heads", "0"),
            ("tf2pt", "a", "b", "--num-heads", "two"),
            ("tf2pt", "a", "b", "--config"),
            ("inspect",),
            ("inspect", "a", "--head", "mlm"),
            ("explain",),
            ("explain", "a", "--force"),
            ("mappings", "bert", "--size", "L"),
            ("mappings", "bert", "--size", "L=0"),
            ("mappings", "bert", "--size", "L=-1"),
            ("mappings", "bert", "--size", "L=1000000"),
            ("mappings", "bert", "--size", "X=2"),
            ("mappings", "--size", "L=2"),
            ("mappings", "bert", "bert"),
        ],
    )
    def test_exits_with_2_and_says_what_is_wrong(self, args: tuple[str, ...]) -> None:
        result = run(*args)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert re.search(r"^Error: ", result.stderr, re.MULTILINE)
        assert "Traceback" not in result.stderr

    def test_names_the_symbols_of_a_mapping(self) -> None:
        assert "the symbols are V, H, L" in run("mappings", "bert", "--size", "X=2").stderr


class TestAnError:
    @pytest.fixture
    def bad_calls(self, fixtures: Path, tmp_path: Path) -> dict[str, list[str]]:
        """Calls that fail, by what their message says."""
        good, out = str(fixtures / "pretraining"), str(tmp_path / "out")
        damaged, taken = tmp_path / "damaged", tmp_path / "taken"
        shutil.copytree(good, damaged)
        data = damaged / "bert_model.ckpt.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:-1] + b"x")
        taken.mkdir()
        (taken / "file").write_text("")
        (tmp_path / "config.json").write_text('{"num_hidden_layers": 3, "hidden_size": 31}')
        (tmp_path / "bad.toml").write_text("name = 1")
        (tmp_path / "text.txt").write_text("no checkpoint")
        return {
            "the folder": ["inspect", str(tmp_path / "none" / "none")],
            "none": ["explain", str(tmp_path / "none")],
            "has no checkpoint": ["tf2pt", str(taken), out],
            "is damaged|are damaged": ["tf2pt", str(damaged), out],
            "is not empty": ["tf2pt", good, str(taken)],
            "is a file": ["tf2pt", good, str(tmp_path / "text.txt")],
            r"hidden_size = 31.*\n.*num_hidden_layers = 3": [
                "explain", good, "--config", str(tmp_path / "config.json")
            ],
            "num_attention_heads = 2, but --num-heads is 4": ["explain", good, "--num-heads", "4"],
            "sqad": ["explain", good, "--head", "sqad"],
            "student": ["explain", good, "--scope", "student"],
            r"none\.toml": ["explain", good, "--mapping", str(tmp_path / "none.toml")],
            r"bad\.toml": ["mappings", str(tmp_path / "bad.toml")],
            "nonsense": ["mappings", "nonsense"],
            r"none\.txt": ["explain", good, "--vocab", str(tmp_path / "none.txt")],
        }  # fmt: skip

    def test_is_one_message_and_exits_with_1(self, bad_calls: dict[str, list[str]]) -> None:
        for message, args in bad_calls.items():
            result = run(*args)
            assert result.exit_code == 1, args
            assert result.stdout == "", args
            assert re.search(message, result.stderr), (args, result.stderr)
            assert result.stderr.startswith("Error: ")
            assert "Traceback" not in result.stderr
            assert "did not foresee" not in result.stderr

    def test_is_the_same_with_json_or_quiet(self, bad_calls: dict[str, list[str]]) -> None:
        for args in bad_calls.values():
            plain = run(*args)
            as_json = run(*args, "--json")
            assert (as_json.exit_code, as_json.stdout, as_json.stderr) == (1, "", plain.stderr)
            if args[0] == "tf2pt":
                assert run(*args, "--quiet").stderr == plain.stderr

    def test_raises_with_debug(self, bad_calls: dict[str, list[str]]) -> None:
        for args in bad_calls.values():
            for call in ((*args, "--debug"), (args[0], "--debug", *args[1:])):
                assert isinstance(run(*call).exception, BertconvertError)

    def test_shows_its_traceback_with_debug_alone(self, tmp_path: Path) -> None:
        plain, debug = (program("inspect", tmp_path, *more) for more in ([], ["--debug"]))
        assert plain.returncode == debug.returncode == 1
        assert plain.stdout == debug.stdout == ""
        assert plain.stderr.count("\n") == 1
        assert "Traceback (most recent call last)" in debug.stderr
        assert "CheckpointError" in debug.stderr

    def test_that_nobody_foresaw_says_how_to_see_more(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def divide(*_: object, **__: object) -> None:
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(convert_module, "convert", divide)
        result = run("tf2pt", "a", tmp_path / "out")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "internal error (ZeroDivisionError: division by zero)" in result.stderr
        assert "--debug" in result.stderr
        assert isinstance(run("tf2pt", "a", "b", "--debug").exception, ZeroDivisionError)

    @pytest.mark.parametrize("command", ["inspect", "explain"])
    def test_says_nothing_of_a_reader_that_went_away(self, fixtures: Path, command: str) -> None:
        for stream in ("stdout", "stderr"):
            ours, theirs = os.pipe()
            os.close(ours)
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
            result = program(command, fixtures / "pretraining", capture_output=False, **streams)
            os.close(theirs)
            # 120 is Python's, for what it could not flush; inspect prints nothing to stderr.
            assert result.returncode in ((1, 120) if stream == "stdout" else (0, 1, 120))
            assert not result.stderr or "internal error" not in result.stderr
            assert not result.stderr or "Traceback" not in result.stderr


class TestTf2pt:
    def test_prints_the_result_to_stdout_and_notes_to_stderr(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        result = run("tf2pt", fixtures / "pretraining-adam", tmp_path / "out")
        assert result.exit_code == 0
        said = result.stdout
        assert f"{fixtures / 'pretraining-adam'} -> {tmp_path / 'out'}\n" in said
        assert "BertForPreTraining (L=2 V=128 H=32" in said
        assert "34,050 parameters in 46 tensors, 136.2 kB as float32" in said
        assert "activation: gelu_pytorch_tanh" in said
        assert "92 variables (optimizer slot)" in said
        assert "1 variable (training step)" in said
        assert "note:" not in said
        assert result.stderr.startswith("note: the tokenizer lower-cases text")

    def test_json_is_one_document_and_the_whole_result(
        self, pretraining: Path, tmp_path: Path
    ) -> None:
        result = program("tf2pt", pretraining, tmp_path / "out", "--json")
        assert (result.returncode, result.stderr) == (0, "")
        document = json.loads(result.stdout)
        assert document["out"] == str(tmp_path / "out")
        assert document["architecture"] == "BertForPreTraining"
        assert (
            document["files"]["model.safetensors"]
            == (tmp_path / "out" / "model.safetensors").stat().st_size
        )

    def test_quiet_says_nothing(self, pretraining: Path, tmp_path: Path) -> None:
        result = program("tf2pt", pretraining, tmp_path / "out", "--quiet")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        both = program("tf2pt", pretraining, tmp_path / "two", "--quiet", "--json")
        assert both.stderr == ""
        assert json.loads(both.stdout)["tensors"] == 46

    def test_options_reach_the_conversion(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        calls: list[Any] = []

        def convert(*args: object, force: bool, progress: object, prove: object, **options: Any):
            calls.append((args, force, make_options(options)))
            sys.exit(0)

        monkeypatch.setattr(convert_module, "convert", convert)
        run("tf2pt", "ckpt", "out")
        run(
            "tf2pt", "--mapping", "m.toml", "--config", "c.json", "--vocab", "v.txt",
            "--head", "token", "--scope", "s", "--num-heads", "4", "--activation", "erf",
            "--dtype", "float64", "--no-lower-case", "--format", "bin", "--format", "safetensors",
            "--force", "ckpt", "out",
        )  # fmt: skip
        run("tf2pt", "ckpt", "out", "--lower-case")
        assert calls[0] == (("ckpt", "out"), False, bertconvert.Options())
        assert calls[1] == (
            ("ckpt", "out"),
            True,
            bertconvert.Options(
                mapping="m.toml",
                config=Path("c.json"),
                vocab=Path("v.txt"),
                lower_case=False,
                formats=("bin", "safetensors"),
                scope="s",
                head="token",
                num_heads=4,
                activation="erf",
                dtype="float64",
            ),
        )
        assert calls[2][2] == bertconvert.Options(lower_case=True)

    def test_takes_every_option_of_the_api(self) -> None:
        parameters = {option.name for option in cli.commands["tf2pt"].params}
        assert set(bertconvert.Options.__struct_fields__) <= parameters

    @pytest.mark.parametrize(
        "arguments",
        [
            ["CKPT", "OUT", "--verify"],
            ["--verify", "CKPT", "OUT"],
            ["CKPT", "--verify", "OUT"],
            ["--verify", "weights", "CKPT", "OUT"],
            ["CKPT", "OUT", "--verify", "weights"],
            ["CKPT", "OUT", "--verify=weights"],
        ],
    )
    def test_verify_takes_a_level_or_none(
        self, arguments: list[str], fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bertconvert.converter.verify.highest_level", lambda *_: "weights")
        paths = {"CKPT": str(fixtures / "encoder"), "OUT": str(tmp_path / "out")}
        result = run("tf2pt", *(paths.get(argument, argument) for argument in arguments))
        assert result.exit_code == 0, result.stderr
        assert "Verified: every tensor" in result.stdout

    def test_force_is_needed_once_the_folder_is_there(
        self, pretraining: Path, tmp_path: Path
    ) -> None:
        codes = [
            run("tf2pt", pretraining, tmp_path / "out", *more).exit_code
            for more in ([], [], ["--force"])
        ]
        assert codes == [0, 1, 0]

    def test_a_name_that_begins_with_a_dash_follows_two_of_them(
        self, pretraining: Path, tmp_path: Path
    ) -> None:
        assert program("tf2pt", "--", pretraining, "-out", cwd=tmp_path).returncode == 0
        assert (tmp_path / "-out" / "config.json").exists()


class TestInspect:
    @pytest.mark.parametrize("name", FIXTURES)
    def test_json_lists_every_variable(self, fixtures: Path, name: str) -> None:
        result = run("inspect", fixtures / name, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        document = json.loads(result.stdout)
        checkpoint = bertconvert.open_checkpoint(fixtures / name)
        assert document["variable"].keys() == set(checkpoint)
        assert document["variables"] == len(checkpoint)
        assert document["elements"] == sum(v.size for v in checkpoint.variables.values())
        assert document["nbytes"] == sum(v.nbytes for v in checkpoint.variables.values())
        kernel = document["variable"]["bert/encoder/layer_0/attention/self/query/kernel"]
        assert kernel == {"dtype": "float32", "shape": [32, 32], "nbytes": 4096}

    def test_folds_layers_and_counts_what_there_is(self, pretraining: Path) -> None:
        result = run("inspect", pretraining)
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        (query,) = [line for line in lines if "self/query/kernel" in line]
        assert query.split(maxsplit=2) == [
            "bert/encoder/layer_{0..1}/attention/self/query/kernel",
            "float32",
            "[32, 32]   2 x 4,096",
        ]
        assert lines[-1] == "46 variables, 34,050 elements, 136.2 kB"
        assert "TensorFlow V2 (TensorBundle), data files: 1" in lines[-2]

    def test_shows_the_full_names_of_tf2_and_json_the_keys(self, fixtures: Path) -> None:
        result = run("inspect", fixtures / "tf2-hub")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        (query,) = [line for line in lines if "self_attention/query/kernel" in line]
        assert query.split(maxsplit=2)[0] == "transformer/layer_{0..1}/self_attention/query/kernel"
        assert "VARIABLE_VALUE" not in result.stdout
        assert max(map(len, lines[:-2])) <= 100
        assert "full names" in result.stderr
        variables = json.loads(run("inspect", fixtures / "tf2-hub", "--json").stdout)["variable"]
        assert variables["variables/0/.ATTRIBUTES/VARIABLE_VALUE"] == {
            "dtype": "float32",
            "shape": [128, 16],
            "nbytes": 8192,
            "full_name": "word_embeddings/embeddings",
        }

    def test_shows_the_keys_of_variables_with_one_full_name(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        keys = [f"{name}/v:0/.ATTRIBUTES/VARIABLE_VALUE" for name in "ab"]
        content = strings([b""])
        write_index(
            tmp_path / "m",
            {OBJECT_GRAPH: entry(STRING, (), len(content.data), crc=content.crc)}
            | {key: entry(FLOAT32, (1,), 4) for key in keys},
        )
        shown = run("inspect", tmp_path / "m").stdout
        assert all(key in shown for key in keys)

    @pytest.mark.parametrize(
        ("name", "mapping"),
        [("squad", "bert"), ("tf2-hub", "bert_tf2"), ("mobilebert", "mobilebert")],
    )
    def test_says_which_mapping_converts_it(self, fixtures: Path, name: str, mapping: str) -> None:
        assert f"mapping: {mapping}, " in run("inspect", fixtures / name).stdout
        document = json.loads(run("inspect", fixtures / name, "--json").stdout)
        assert document["mapping"] == mapping
        assert "reason" not in document

    @pytest.mark.parametrize(
        ("variables", "reason"),
        [
            (["bert/embeddings/word_embeddings"], "without position embeddings"),
            (["h0/attn/c_attn/w"], "GPT-2"),
            (["counter"], "no mapping fits"),
        ],
    )
    def test_says_why_no_mapping_converts_it(
        self, tmp_path: Path, variables: list[str], reason: str
    ) -> None:
        write_bundle(tmp_path / "m", dict.fromkeys(variables, np.zeros(1, np.float32)))
        result = run("inspect", tmp_path / "m")
        assert "mapping: none" in result.stdout
        assert reason in result.stderr
        document = json.loads(run("inspect", tmp_path / "m", "--json").stdout)
        assert document["mapping"] is None
        assert reason in document["reason"]

    def test_takes_checkpoints_that_are_no_bert(self, real: Path) -> None:
        folder = real / "tensorflow-serving-testdata"
        for name in ("saved_model_counter", "tf_text_regression"):
            result = run("inspect", folder / name / "variables")
            assert result.exit_code == 0, result.stderr

    def test_needs_no_data_file(self, real: Path) -> None:
        result = run("inspect", real / "google-uncased_L-12_H-768_A-12-index")
        assert result.exit_code == 0
        assert "206 variables" in result.stdout


class TestExplain:
    def test_json_is_the_plan(self, fixtures: Path) -> None:
        result = run("explain", fixtures / "pretraining-adam", "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        document = json.loads(result.stdout)
        plan = document["plan"]
        assert len(plan["entries"]) == 46
        assert len(plan["dropped"]) == 93
        assert plan["architecture"]["class"] == "BertForPreTraining"
        assert [source["role"] for source in document["sources"]] == [
            "index",
            "config",
            "vocabulary",
        ]

    def test_shows_what_becomes_of_each_variable_and_writes_nothing(
        self, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = run("explain", fixtures / "pretraining-adam")
        assert result.exit_code == 0
        said = result.stdout
        assert "bert/encoder/layer_{0..1}/attention/self/query/kernel" in said
        assert "-> bert.encoder.layer.{0..1}.attention.self.query.weight" in said
        assert "transposed" in said
        assert "optimizer slot" in said
        assert "cls.predictions.decoder.weight is tied to" in said
        assert os.listdir(tmp_path) == []

    def test_takes_the_options_of_a_conversion(self, fixtures: Path) -> None:
        result = run("explain", fixtures / "classifier", "--head", "token", "--json")
        architecture = json.loads(result.stdout)["plan"]["architecture"]
        assert architecture["class"] == "BertForTokenClassification"

    def test_needs_no_data_file(self, real: Path) -> None:
        result = run("explain", real / "finetuned-classifier-adam-base-index", "--json")
        assert result.exit_code == 0
        plan = json.loads(result.stdout)["plan"]
        assert plan["architecture"]["class"] == "BertForSequenceClassification"


class TestMappings:
    def test_are_listed(self) -> None:
        result = run("mappings")
        assert (result.exit_code, result.stderr) == (0, "")
        assert re.search(r"^bert +BERT of google-research/bert", result.stdout, re.MULTILINE)
        folder = Path(bertconvert.__file__).parent / "mappings"
        files = {path.stem for path in folder.glob("*.toml")}
        assert json.loads(run("mappings", "--json").stdout).keys() == files

    def test_one_is_shown_expanded_for_the_sizes_that_are_given(self) -> None:
        plain = run("mappings", "bert")
        assert "layer_{0..1}/" in plain.stdout
        assert "L=2" in plain.stderr and "--size" in plain.stderr
        result = run("mappings", "bert", "--size", "L=12", "--size", "H=768")
        sized = result.stdout
        assert "layer_{0..11}/" in sized
        assert "[768, 768]" in sized
        assert result.stderr == ""
        assert "--head token: BertForTokenClassification" in sized

    def test_json_has_a_pair_for_every_variable(self) -> None:
        for layers in (2, 12):
            result = run("mappings", "bert", "--json", "--size", f"L={layers}")
            assert result.stderr == ""
            pairs = json.loads(result.stdout)["pairs"]
            assert len([p for p in pairs if p["group"] == "encoder"]) == 5 + 16 * layers

    def test_one_may_be_a_file(self, tmp_path: Path) -> None:
        from bertconvert.converter.mapping import FOLDER

        path = tmp_path / "mine.toml"
        path.write_text((FOLDER / "bert.toml").read_text().replace('"bert"', '"mine"', 1))
        document = json.loads(run("mappings", path, "--json").stdout)
        assert document["name"] == "mine"


class TestATerminal:
    @pytest.mark.parametrize(
        "args",
        [
            ("inspect", "pretraining"),
            ("inspect", "pretraining-adam"),
            ("explain", "pretraining-adam"),
            ("explain", "classifier"),
            ("explain", "encoder"),
            ("mappings",),
            ("mappings", "bert"),
        ],
    )
    def test_of_80_columns_has_room_for_every_table(
        self, fixtures: Path, args: tuple[str, ...]
    ) -> None:
        call = [fixtures / arg if (fixtures / arg).is_dir() else arg for arg in args]
        code, shown = terminal(*call)
        assert code == 0
        lines = shown.replace(str(fixtures), "").splitlines()
        sentences = re.compile("note: | by the mapping ")
        assert [line for line in lines if len(line) > 80 and not sentences.search(line)] == []

    def test_that_is_narrow_still_shows_every_name(self, pretraining: Path) -> None:
        for columns in (0, 1, 20, 40):
            code, shown = terminal("inspect", pretraining, columns=columns)
            assert code == 0
            assert "bert/encoder/layer_{0..1}/attention/output/LayerNorm/gamma" in shown

    def test_that_is_a_pipe_gets_each_row_on_one_line(self, real: Path) -> None:
        folder = real / "finetuned-classifier-adam-base-index"
        environment = os.environ | {"COLUMNS": "40"}
        said = program("inspect", folder, env=environment).stdout
        rows = [line for line in said.splitlines() if line.startswith("bert/encoder")]
        assert rows
        assert all(re.fullmatch(r"\S+ +float32 +\[[\d, ]+\] +12 x [\d,]+", row) for row in rows)
        assert "\x1b" not in said

    def test_shows_a_bar_while_a_conversion_lasts_and_takes_it_away(
        self, pretraining: Path, tmp_path: Path
    ) -> None:
        code, shown = terminal("tf2pt", pretraining, tmp_path / "out", code=SLOW)
        assert code == 0
        assert "converting" in shown
        assert shown.rstrip().splitlines()[-1].startswith("note: the tokenizer")
        code, shown = terminal("tf2pt", pretraining, tmp_path / "two", "--quiet", code=SLOW)
        assert (code, shown) == (0, "")


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [0.0]
        monkeypatch.setattr("bertconvert.converter.terminal.time.monotonic", lambda: now[0])
        return now

    def test_in_a_pipe_is_a_line_every_five_seconds(
        self, clock: list[float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Progress(quiet=False) as progress:
            for second in range(13):
                clock[0] = second
                progress("converting", second * 1_000_000, 12_000_000)
            clock[0] = 20
            progress("unpacking x.zip", 999, 0)
        assert capsys.readouterr().err.splitlines() == [
            "converting: 5.0 MB of 12.0 MB",
            "converting: 10.0 MB of 12.0 MB",
            "unpacking x.zip: 999 bytes",
        ]

    def test_is_not_shown_where_it_is_quiet_or_quick(
        self, clock: list[float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for quiet, seconds in ((True, 100.0), (False, 0.9)):
            clock[0] = 0.0
            with Progress(quiet) as progress:
                clock[0] = seconds
                progress("converting", 1, 2)
        assert capsys.readouterr().err == ""


HEAVY = ["numpy", "rich", "torch", "tensorflow", "transformers", "safetensors", "msgspec"]


class TestWhatIsImported:
    def loaded(self, code: str, *args: str | Path) -> set[str]:
        report = f"import sys; print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
        wrapped = f"try:\n {code}\nfinally:\n {report}"
        result = program(*args, code=wrapped)
        assert result.returncode == 0, result.stderr
        return set(json.loads(result.stdout.rpartition("LOADED ")[2].replace("'", '"')))

    def test_by_the_package_itself_is_nothing_heavy(self) -> None:
        assert self.loaded("import bertconvert") == set()
        assert self.loaded("import bertconvert; bertconvert.BertconvertError") == set()

    @pytest.mark.parametrize("args", [["--help"], ["--version"], ["tf2pt", "--help"]])
    def test_for_help_is_nothing_heavy(self, args: list[str]) -> None:
        assert self.loaded(MAIN, *args) == set()

    def test_for_a_conversion_is_numpy_alone(self, pretraining: Path, tmp_path: Path) -> None:
        assert self.loaded(MAIN, "tf2pt", pretraining, tmp_path / "out") == {"numpy", "msgspec"}

    @pytest.mark.parametrize("command", ["inspect", "explain"])
    def test_for_a_look_at_a_checkpoint_is_not_even_numpy(
        self, pretraining: Path, command: str
    ) -> None:
        assert self.loaded(MAIN, command, pretraining) == {"msgspec"}


# The command, with a tenth of a second for every variable; a line on stdout where it begins.
SLOW = """
import os, sys, time
from bertconvert.cli import main
from bertconvert.converter import tensor_copy

pieces = tensor_copy._pieces

def slowly(*args):
    if not sys.stdout.isatty():
        os.write(1, b"begun\\n")
    time.sleep(0.1)
    return pieces(*args)

tensor_copy._pieces = slowly
main()
"""

Start = Callable[..., "subprocess.Popen[str]"]


class TestAStop:
    @pytest.fixture
    def start(self, fixtures: Path) -> Iterator[Start]:
        """Starts a slow conversion, and waits until it writes."""
        processes = []

        def start(out: Path, *options: str, code: str = SLOW) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", code, "tf2pt", fixtures / "pretraining", out, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            return process

        yield start
        for process in processes:
            process.kill()
            process.communicate()

    @pytest.mark.parametrize(
        ("number", "code"),
        [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
    )
    def test_by_a_signal_leaves_everything_as_it_was(
        self, start: Start, tmp_path: Path, fixtures: Path, number: int, code: int
    ) -> None:
        run("tf2pt", fixtures / "squad", tmp_path / "old")
        before = {f.name: f.read_bytes() for f in (tmp_path / "old").iterdir()}
        for out, options in ((tmp_path / "old", ["--force"]), (tmp_path / "a" / "b", [])):
            process = start(out, *options)
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
            assert process.returncode == code
            assert said.strip() == ("Aborted!" if number == signal.SIGINT else "")
        assert {f.name: f.read_bytes() for f in (tmp_path / "old").iterdir()} == before
        assert os.listdir(tmp_path) == ["old"]

    def test_that_nohup_forbids_does_not_stop_it(self, start: Start, tmp_path: Path) -> None:
        nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
        process = start(tmp_path / "out", code=nohup + SLOW)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert (tmp_path / "out" / "config.json").exists()

    def test_by_kill_is_followed_by_a_run_that_leaves_nothing(
        self, start: Start, tmp_path: Path, pretraining: Path
    ) -> None:
        process = start(tmp_path / "out")
        process.kill()
        process.wait()
        assert os.listdir(tmp_path) == [".out.bertconvert"]
        assert run("tf2pt", pretraining, tmp_path / "out").exit_code == 0
        assert os.listdir(tmp_path) == ["out"]

    def test_is_not_possible_by_a_second_run_which_is_refused(
        self, start: Start, tmp_path: Path, pretraining: Path
    ) -> None:
        process = start(tmp_path / "out")
        second = run("tf2pt", pretraining, tmp_path / "out")
        assert second.exit_code == 1
        assert "another process is writing" in second.stderr
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_950, "1.0 MB"),
        (1_340_000_000_000, "1,340.0 GB"),
    ],
)
def test_bytes_are_shown_in_units_of_a_thousand(count: int, shown: str) -> None:
    assert size_text(count) == shown
