import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertconvert import PlanError, convert, find_jobs, prepare, verify
from bertconvert.converter.labels import labels_of, names_by_id, read_labels

from .helpers import with_labels

NLI = ("contradiction", "entailment", "neutral")
BY_ID = dict(enumerate(NLI))
FORMS = {
    "labels.txt": "contradiction\nentailment\nneutral\n",
    "crlf.txt": "\ufeffcontradiction\r\n entailment \r\nneutral\r\n\r\n",
    "list.json": json.dumps(NLI),
    "list.txt": json.dumps(NLI),
    "id2label.json": json.dumps({str(label): name for label, name in BY_ID.items()}),
    "shuffled.json": '{"2": "neutral", "0": "contradiction", "1": "entailment"}',
    "label_map.json": json.dumps({name: label for label, name in BY_ID.items()}),
    "text_ids.json": '{"neutral": "2", "contradiction": "0", "entailment": "1"}',
    "config.json": json.dumps({"num_labels": 3, "id2label": BY_ID}),
    "both.json": json.dumps(
        {"id2label": BY_ID, "label2id": {name: label for label, name in BY_ID.items()}}
    ),
    "data.json": json.dumps({"labels": NLI}),
}


@pytest.fixture
def source(fixtures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fixtures / "classifier", tmp_path / "in"))


def config_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "config.json").read_text())
    return found


class TestReading:
    @pytest.mark.parametrize("name", FORMS)
    def test_gives_the_names_by_id_whatever_the_form(self, name: str) -> None:
        assert read_labels(FORMS[name].encode(), name) == BY_ID

    @pytest.mark.parametrize("name", ["label2id.pkl", "labels.pickle", "labels.txt"])
    def test_refuses_a_pickle_without_reading_it(self, name: str) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return pytest.fail, ("it was unpickled",)

        with pytest.raises(PlanError, match="pickle"):
            read_labels(pickle.dumps(Bomb()), name)

    def test_names_in_brackets_are_not_json(self) -> None:
        assert read_labels(b"[PAD]\nO\nB-PER\n", "labels.txt") == {0: "[PAD]", 1: "O", 2: "B-PER"}

    @pytest.mark.parametrize(
        ("content", "fact"),
        [
            (b'{"a": 0, "a": 1}', "'a'"),
            (b'{"a": 0, "b": 0}', "a and b"),
            (b'{"0": "a", "1": "a"}', "0 and of 1"),
            (b'{"0": ["a"]}', "['a']"),
            (b'{"a": 0.5}', "0.5"),
            (b'{"a": true}', "True"),
            (b'{"a": -1}', "-1"),
            (b"[1, 2]", "1"),
            (b'["a", "a"]', "0 and of 1"),
            (b"[]", "no label"),
            (b"{}", "object"),
            (b'"a"', "object"),
            (b'{"a": 0,}', "labels.json"),
            (b'{"id2label": {"0": "a"}, "label2id": {"b": 0}}', "different"),
            (b"[" * 100_000, "labels.json"),
            (b"\xff", "UTF-8"),
            (b"", "labels.json"),
        ],
    )
    def test_refuses_json_that_names_no_labels(self, content: bytes, fact: str) -> None:
        with pytest.raises(PlanError) as caught:
            read_labels(content, "labels.json")
        assert fact in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "fact"),
        [(b"", "0"), (b"a\n\nb\n", "1"), (b"a\nb\na\n", "0 and of 2"), (b"a\n\xe9\n", "line 2")],
    )
    def test_refuses_lines_that_name_no_labels(self, content: bytes, fact: str) -> None:
        with pytest.raises(PlanError) as caught:
            read_labels(content, "labels.txt")
        assert fact in str(caught.value)

    def test_of_a_config_takes_no_names_that_transformers_made_up(self) -> None:
        assert labels_of({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "c") is None
        assert labels_of({"id2label": {}}, "c") is None
        assert labels_of({"id2label": {"0": "LABEL_0", "1": "yes"}}, "c") == {
            0: "LABEL_0",
            1: "yes",
        }

    def test_of_a_config_takes_labels_only(self) -> None:
        assert labels_of({"hidden_size": 4, "labels": 3}, "c") is None
        assert labels_of({"label_map": {"O": 0}}, "c") == {0: "O"}


class TestTheHead:
    def test_has_the_names_in_the_order_of_their_ids(self) -> None:
        assert names_by_id({1: "b", 0: "a"}, 2, "x") == ("a", "b")

    def test_may_keep_the_id_0_for_padding(self) -> None:
        assert names_by_id({1: "a", 2: "b"}, 3, "x") == ("LABEL_0", "a", "b")

    @pytest.mark.parametrize("ids", [(0,), (0, 1, 2), (0, 2), (2, 3), (1, 2)])
    def test_has_no_other_number_of_labels(self, ids: tuple[int, ...]) -> None:
        with pytest.raises(PlanError) as caught:
            names_by_id({label: f"n{label}" for label in ids}, 2, "some.txt")
        assert f"some.txt has {len(ids)} label" in str(caught.value)
        assert "the head has 2" in str(caught.value)


class TestAConversion:
    def test_writes_the_names_that_the_caller_gives(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "names.txt").write_text(FORMS["labels.txt"])
        for number, given in enumerate([",".join(NLI), NLI, [*NLI], tmp_path / "names.txt"]):
            out = tmp_path / f"out{number}"
            convert(source, out, labels=given)
            assert config_of(out)["id2label"] == {"0": NLI[0], "1": NLI[1], "2": NLI[2]}
            assert config_of(out)["label2id"] == {name: i for i, name in BY_ID.items()}
            assert json.loads((out / "conversion.json").read_text())["labels"] == [*NLI]
            assert all(f"| {name} |" in (out / "README.md").read_text() for name in NLI)
            assert verify(source, out, level="weights").passed

    @pytest.mark.parametrize("given", ["a,b", "a,b,c,d", "a,b,a", "a,,c"])
    def test_refuses_names_that_are_not_those_of_the_head(
        self, source: Path, tmp_path: Path, given: str
    ) -> None:
        with pytest.raises(PlanError, match="--labels"):
            convert(source, tmp_path / "out", labels=given)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "name",
        ["labels.txt", "label_map.json", "label2id.json", "id2label.json", "Labels.TXT",
         "label_list.txt"],
    )  # fmt: skip
    def test_finds_names_next_to_the_checkpoint_and_reports_them(
        self, source: Path, tmp_path: Path, name: str
    ) -> None:
        form = name if name in FORMS else "list.json" if name.endswith(".json") else "labels.txt"
        (source / name).write_text(FORMS[form])
        made = convert(source, tmp_path / "out")
        assert config_of(tmp_path / "out")["id2label"]["1"] == "entailment"
        (note,) = [note for note in made.notes if name in note]
        assert "entailment" in note
        record = json.loads((tmp_path / "out" / "conversion.json").read_text())
        assert (name, "labels") in [(file["name"], file["role"]) for file in record["sources"]]

    def test_finds_names_in_the_config(self, source: Path, tmp_path: Path) -> None:
        file = source / "bert_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": BY_ID}))
        convert(source, tmp_path / "out")
        assert config_of(tmp_path / "out")["label2id"]["neutral"] == 2

    def test_takes_no_file_whose_name_says_something_else(self, source: Path) -> None:
        for name in ("notes.txt", "my_labels_of_the_test_set.txt", "labels.tsv"):
            (source / name).write_text("a\nb\n")
        prepared = prepare(source)
        assert prepared.labels is None
        assert any("--labels" in note for note in prepared.notes)

    def test_refuses_a_file_that_does_not_fit_the_head(self, source: Path) -> None:
        (source / "labels.txt").write_text("a\nb\n")
        with pytest.raises(PlanError, match=r"labels\.txt has 2 labels .* the head has 3"):
            prepare(source)
        assert prepare(source, labels=NLI).labels == NLI

    def test_takes_several_files_only_if_they_name_the_same(self, source: Path) -> None:
        (source / "label2id.json").write_text(FORMS["label_map.json"])
        (source / "id2label.json").write_text(FORMS["id2label.json"])
        assert prepare(source).labels == NLI
        (source / "labels.txt").write_text("a\nb\nc\n")
        with pytest.raises(PlanError, match="different"):
            prepare(source)

    def test_reports_a_pickle_next_to_the_checkpoint_and_refuses_a_given_one(
        self, source: Path
    ) -> None:
        (source / "label2id.pkl").write_bytes(pickle.dumps({name: i for i, name in BY_ID.items()}))
        prepared = prepare(source)
        assert prepared.labels is None
        assert any("label2id.pkl" in note and "pickle" in note for note in prepared.notes)
        with pytest.raises(PlanError, match="pickle"):
            prepare(source, labels=source / "label2id.pkl")

    def test_refuses_names_for_a_head_that_has_none(self, fixtures: Path) -> None:
        with pytest.raises(PlanError, match="--labels"):
            prepare(fixtures / "pretraining", labels="a,b")

    def test_ignores_names_next_to_a_head_that_has_none(self, source: Path) -> None:
        (source / "labels.txt").write_text("a\n")
        assert prepare(source, head="none").labels is None

    def test_names_the_labels_of_tokens(self, source: Path, tmp_path: Path) -> None:
        convert(source, tmp_path / "out", head="token", labels="O,B,I")
        assert config_of(tmp_path / "out")["id2label"]["2"] == "I"

    def test_of_a_list_takes_names_and_paths_relative_to_the_list(
        self, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "names.txt").write_text(FORMS["labels.txt"])
        text = "".join(
            f'[[model]]\nsource = "in"\nname = "{name}"\nlabels = {labels}\n'
            for name, labels in {
                "file": '"names.txt"',
                "words": '"a,b,c"',
                "list": '["a", "b", "c"]',
            }.items()
        )
        (tmp_path / "list.toml").write_text(text)
        jobs = find_jobs([], tmp_path / "out", listed=tmp_path / "list.toml")
        found = {job.name: prepare(job.source, job.options).labels for job in jobs}
        assert found == {"file": NLI, "words": ("a", "b", "c"), "list": ("a", "b", "c")}


class TestTheProblemType:
    def test_of_one_label_is_regression(self, source: Path, tmp_path: Path) -> None:
        made = convert(with_labels(source, 1), tmp_path / "out")
        assert config_of(tmp_path / "out")["problem_type"] == "regression"
        assert any("regression" in note for note in made.notes)
        record = json.loads((tmp_path / "out" / "conversion.json").read_text())
        assert record["problem_type"] == "regression"
        assert "regression" in (tmp_path / "out" / "README.md").read_text()

    def test_of_one_label_may_be_another(self, source: Path, tmp_path: Path) -> None:
        with_labels(source, 1)
        convert(
            source, tmp_path / "out", problem_type="multi_label_classification", labels="toxic,"
        )
        assert config_of(tmp_path / "out")["problem_type"] == "multi_label_classification"
        assert config_of(tmp_path / "out")["id2label"] == {"0": "toxic"}
        with pytest.raises(PlanError, match="single_label_classification"):
            prepare(source, problem_type="single_label_classification")

    def test_of_several_labels_is_left_to_transformers(self, source: Path, tmp_path: Path) -> None:
        convert(source, tmp_path / "out")
        assert "problem_type" not in config_of(tmp_path / "out")

    def test_in_the_config_counts_and_may_not_be_contradicted(self, source: Path) -> None:
        file = source / "bert_config.json"
        known = json.loads(file.read_text())
        file.write_text(json.dumps(known | {"problem_type": "multi_label_classification"}))
        assert prepare(source).plan.config["problem_type"] == "multi_label_classification"
        with pytest.raises(PlanError, match="--problem-type"):
            prepare(source, problem_type="regression")
        file.write_text(json.dumps(known | {"problem_type": "guess"}))
        with pytest.raises(PlanError, match="guess"):
            prepare(source)

    @pytest.mark.parametrize("head", ["token", "none"])
    def test_is_refused_for_a_class_with_one_loss(self, source: Path, head: str) -> None:
        with pytest.raises(PlanError, match="--problem-type"):
            prepare(source, head=head, problem_type="regression")


class TestAProof:
    @pytest.fixture
    def out(self, source: Path, tmp_path: Path) -> Path:
        convert(source, tmp_path / "out", labels=NLI, problem_type="regression")
        return tmp_path / "out"

    @staticmethod
    def edit(out: Path, **values: Any) -> None:
        document = config_of(out) | values
        document = {key: value for key, value in document.items() if value is not None}
        (out / "config.json").write_text(json.dumps(document))

    def test_accepts_what_only_the_caller_knew(self, source: Path, out: Path) -> None:
        verdict = verify(source, out, level="weights")
        assert verdict.passed
        assert any("problem_type" in note for note in verdict.notes)

    @pytest.mark.parametrize(
        "names", [("a", "b"), ("a", "b", "c", "d"), (NLI[1], NLI[0], NLI[2]), ("x", "y", "z")]
    )
    def test_notices_other_labels(self, source: Path, out: Path, names: tuple[str, ...]) -> None:
        back = {name: label for label, name in enumerate(names)}
        self.edit(out, id2label={str(i): name for i, name in enumerate(names)}, label2id=back)
        verdict = verify(source, out, level="weights")
        assert [check.name for check in verdict.checks if not check.passed] == ["config.json"]

    @pytest.mark.parametrize(
        "id2label", [{"0": "a", "1": "b", "5": "c"}, {"0": [], "1": 3, "2": None}]
    )
    def test_notices_labels_that_contradict_themselves(
        self, source: Path, out: Path, id2label: dict[str, Any]
    ) -> None:
        self.edit(out, id2label=id2label)
        assert not verify(source, out, level="weights").passed

    def test_accepts_labels_without_names_and_says_so(self, source: Path, out: Path) -> None:
        names = [f"LABEL_{label}" for label in range(3)]
        back = {name: label for label, name in enumerate(names)}
        self.edit(out, id2label={str(i): name for i, name in enumerate(names)}, label2id=back)
        verdict = verify(source, out, level="weights")
        assert verdict.passed
        assert any("entailment" in note for note in verdict.notes)

    def test_holds_the_names_against_those_next_to_the_checkpoint(
        self, source: Path, out: Path
    ) -> None:
        (out / "conversion.json").unlink()
        (source / "labels.txt").write_text(FORMS["labels.txt"])
        assert verify(source, out, level="weights").passed
        (source / "labels.txt").write_text("entailment\ncontradiction\nneutral\n")
        assert not verify(source, out, level="weights").passed

    def test_holds_the_names_against_those_that_conversion_json_has(
        self, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "names.txt").write_text(FORMS["labels.txt"])
        out = tmp_path / "made"
        convert(source, out, labels=tmp_path / "names.txt")
        assert verify(source, out, level="weights").passed
        back = {"a": 0, "b": 1, "c": 2}
        self.edit(out, id2label={str(i): name for name, i in back.items()}, label2id=back)
        assert not verify(source, out, level="weights").passed

    def test_of_a_file_next_to_the_checkpoint_reads_it_again(
        self, source: Path, tmp_path: Path
    ) -> None:
        (source / "labels.txt").write_text(FORMS["labels.txt"])
        convert(source, tmp_path / "made")
        (source / "labels.txt").write_text("entailment\ncontradiction\nneutral\n")
        assert not verify(source, tmp_path / "made", level="weights").passed

    def test_notices_another_problem_type_where_something_tells_it(
        self, source: Path, out: Path
    ) -> None:
        given = "single_label_classification"
        assert not verify(source, out, level="weights", problem_type=given).passed
        self.edit(out, problem_type=None)
        assert verify(source, out, level="weights", problem_type=given).passed
        assert not verify(source, out, level="weights", problem_type="regression").passed

    def test_notices_a_folder_that_transformers_refuses(self, source: Path, tmp_path: Path) -> None:
        with_labels(source, 1)
        convert(source, tmp_path / "one")
        self.edit(tmp_path / "one", problem_type="single_label_classification")
        assert not verify(source, tmp_path / "one", level="weights").passed
        self.edit(tmp_path / "one", problem_type=None)
        assert verify(source, tmp_path / "one", level="weights").passed
