"""bert_config.json as people write it: what is read, and the line of what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertconvert import PlanError
from bertconvert.converter.config_file import ConfigFile, may_be_config, parse_config
from bertconvert.converter.mapping import FOLDER, load_mapping

BERT = load_mapping(FOLDER / "bert.toml")
SIZES = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


def parse(text: str | bytes) -> ConfigFile:
    data = text.encode() if isinstance(text, str) else text
    return parse_config(data, "a/bert_config.json", BERT)


def refusal(text: str | bytes) -> str:
    with pytest.raises(PlanError) as caught:
        parse(text)
    assert str(caught.value).startswith("a/bert_config.json ")
    return str(caught.value)


class TestAFault:
    @pytest.mark.parametrize(
        ("text", "facts"),
        [
            ('{\n "hidden_size": 8, // wide\n "vocab_size": 9\n}', ("line 2", "comment")),
            ('{\n "hidden_size": 8 # wide\n}', ("line 2", "comment")),
            ('// mine\n{"hidden_size": 8}', ("line 1", "comment")),
            ('{"hidden_size": 8}\n\n/* mine */', ("line 3", "comment")),
            ('{\n "hidden_size":\n /* wide */ 8}', ("line 3", "comment")),
            ('{\n "hidden_size": 8,\n\n}', ("line 2", "comma after the last value")),
            ('{"a": [1,\n 2,]}', ("line 2", "comma after the last value")),
            ("{\n 'hidden_size': 8\n}", ("line 2", "double quotes")),
            ('{\n "hidden_size": 8\n "vocab_size": 9}', ("line 3",)),
            ('{\n "is_decoder": True}', ("line 2", "column 16")),
            ('{\n "hidden_size": 8,', ("ends in line 2",)),
            ('{\n "hidden_size', ("line 2",)),
            ("", ("empty",)),
            ("\n \n", ("empty",)),
            ("[]", ("a list",)),
            ("3", ("a number",)),
            ('"x"', ("a string",)),
            (b"\xff\xfe{", ("no text",)),
            (b'{"\xe4": 1}', ("no text",)),
            ("[" * 100_000, ("not a model's config",)),
            ('{"hidden_size": ' + "9" * 5000 + "}", ("not a model's config",)),
        ],
    )
    def test_is_named_with_its_line(self, text: str | bytes, facts: tuple[str, ...]) -> None:
        found = refusal(text)
        assert [fact for fact in facts if fact not in found] == []
        assert len(found) < 300

    @pytest.mark.parametrize(
        ("text", "key", "lines"),
        [
            (
                '{\n"hidden_size": 8,\n"vocab_size": 9,\n"hidden_size": 8\n}',
                "hidden_size",
                "2 and 4",
            ),
            ('{"hidden_size": 8, "hidden_size": 9}', "hidden_size", "1 and 1"),
            ('{"hidden_size": 8,\n"\\u0068idden_size": 9}', "hidden_size", "1 and 2"),
            ('{"x": {"a}": 1,\n "b": "\\"",\n "a}": 2}, "hidden_size": 8}', "a}", "1 and 3"),
        ],
    )
    def test_of_a_key_that_is_there_twice_is_named_with_both_lines(
        self, text: str, key: str, lines: str
    ) -> None:
        found = refusal(text)
        assert f"key {key} " in found
        assert lines in found

    def test_of_many_keys_that_are_there_twice_takes_no_time(self) -> None:
        keys = ",".join(f'"{n % 50_000}": 1' for n in range(100_000))
        assert "twice" in refusal(f"{{{keys}}}")


class TestAConfig:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
    def test_may_have_any_of_jsons_encodings_and_a_mark_of_it(self, encoding: str) -> None:
        text = json.dumps({**SIZES, "_name": "ä"}, ensure_ascii=False)
        assert parse(text.encode(encoding)).values == {**SIZES, "_name": "ä"}

    def test_may_have_nan_in_what_nobody_reads(self) -> None:
        assert parse('{"hidden_size": 8, "best_loss": NaN}').values["hidden_size"] == 8

    def test_that_is_silent_about_the_sizes_has_other_keys(self) -> None:
        assert parse('{"hidden_dropout_prob": 0}').values == {"hidden_dropout_prob": 0}
        assert parse('{"num_attention_heads": 4}').values == {"num_attention_heads": 4}

    @pytest.mark.parametrize("text", ["{}", '{"do_lower_case": true}', '{"x": {"y": 1}}'])
    def test_has_at_least_one_of_its_keys(self, text: str) -> None:
        assert "vocab_size" in refusal(text)

    def test_tells_the_line_of_each_key(self) -> None:
        text = '{\n "a": {"vocab_size": 1,\n "z": ["vocab_size", "{"]},\n\n "vocab_size": 2}'
        found = parse(text)
        assert (found.line("a"), found.line("vocab_size"), found.line("z")) == (2, 5, None)


class TestAnInnerConfig:
    @pytest.mark.parametrize(
        "around", [{}, {"learning_rate": 0.1, "other": {"layers": 2}}, {"num_labels": 3}]
    )
    def test_is_found(self, around: dict[str, Any]) -> None:
        document = {**around, "bert_config": SIZES}
        found = parse(json.dumps(document, indent=1))
        assert (found.values, found.inside) == (SIZES, "bert_config")
        lines = json.dumps(document, indent=1).splitlines()
        assert '"hidden_size"' in lines[(found.line("hidden_size") or 0) - 1]

    def test_is_found_by_any_key_if_nothing_else_is_a_config(self) -> None:
        found = parse('{"seed": 1, "model": {"num_attention_heads": 4}}')
        assert (found.values, found.inside) == ({"num_attention_heads": 4}, "model")

    def test_is_not_taken_if_the_file_is_a_config(self) -> None:
        assert parse(json.dumps({**SIZES, "text_config": SIZES})).inside == ""

    def test_is_not_chosen_among_several(self) -> None:
        found = refusal(json.dumps({"teacher": SIZES, "student": SIZES}))
        assert "teacher and student" in found
        assert "--config" in found


class TestAFileAmongOthers:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (json.dumps(SIZES), True),
            (json.dumps({"bert_config": SIZES}), True),
            (json.dumps({"do_lower_case": True, "model_max_length": 512}), False),
            (json.dumps({"vocab_size": 9, "num_labels": 2, "learning_rate": 0.1}), False),
            ("{ broken", False),
            ('{"hidden_size": 8, // broken\n}', True),
            ("[]", False),
            ("", False),
        ],
    )
    def test_is_a_config_by_its_keys(self, text: str, expected: bool) -> None:
        assert may_be_config(text.encode(), BERT) is expected


@pytest.mark.parametrize("folder", ["dna-5mc-promoter-index", "protein-3kmer-index", "bleurt-tiny"])
def test_configs_from_the_wild_are_read(folder: str, real: Path) -> None:
    for path in sorted((real / folder).glob("bert_config*.json")):
        found = parse_config(path.read_bytes(), str(path), BERT)
        assert found.values == json.loads(path.read_text())
        lines = path.read_text().splitlines()
        assert all(f'"{key}"' in lines[(found.line(key) or 0) - 1] for key in found.values)
