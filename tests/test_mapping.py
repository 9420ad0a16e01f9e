import hashlib
import re
import string
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from bertconvert import MappingError, PlanError, Variable
from bertconvert.converter.mapping import (
    FOLDER,
    MappingFile,
    builtin_mappings,
    dropper,
    load_mapping,
    pattern_problems,
    read_mapping,
    wildcard,
)
from bertconvert.converter.plan import make_plan
from bertconvert.converter.transforms import TRANSFORMS

PAGE = Path(__file__).parent.parent / "docs" / "mapping-files.md"
BUILTIN = {name: load_mapping(path) for name, path in builtin_mappings().items()}
BERT = BUILTIN["bert"]
WHY_DROPPED = dropper(BERT.drop)

# As small as a mapping may be, with one of each thing that can be wrong.
SMALL = """\
name       = "small"
detect     = "model/words"
model_type = "bert"

[sizes]
V = "vocab_size"
H = "hidden_size"
L = "num_hidden_layers"
A = { config = "num_attention_heads", assume = "H/64", divides = "H" }

[config]
pad_token_id = 0

[defaults]
hidden_dropout_prob = 0.1

[activation]
config  = "hidden_act"
default = "gelu"
names   = { gelu = { tanh = "gelu_pytorch_tanh", erf = "gelu" }, relu = "relu" }

[[group]]
name     = "body"
required = true

  [[group.variable]]
  tf    = "model/words"
  pt    = "model.words.weight"
  shape = ["V", "H"]

  [[group.variable]]
  tf    = ["model/layer_{l}/{p}/kernel", "model/layer_{l}/{p}_*/kernel"]
  pt    = "model.layer.{l}.{p}.weight"
  shape = ["H", "H"]
  op    = "transpose"
  for   = { l = "0..L", p = ["in", "out"] }

[[group]]
name = "head"

  [[group.variable]]
  tf    = "head/kernel"
  pt    = "head.weight"
  shape = ["H", 2]
  op    = "transpose"

[[architecture]]
class  = "WithHead"
head   = "head"
groups = ["body", "head"]

[[architecture]]
class  = "Bare"
head   = "none"
groups = ["body"]

[[tie]]
pt = "decoder.weight"
to = "model.words.weight"

[[drop]]
tf     = ["**/Adam", "**/global_step"]
reason = "optimizer"
"""


def load(tmp_path: Path, text: str | bytes) -> MappingFile:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_mapping(path)


def complaint(tmp_path: Path, text: str | bytes) -> str:
    """What is said of a wrong mapping file, without the file's name; each line must start so."""
    with pytest.raises(MappingError) as caught:
        load(tmp_path, text)
    lines = str(caught.value).splitlines()
    start = f"{tmp_path / 'mine.toml'}: "
    assert all(line.startswith(start) for line in lines), lines
    return "\n".join(line.removeprefix(start) for line in lines)


def edited(old: str, new: str) -> str:
    assert old in SMALL, old
    return SMALL.replace(old, new, 1)


class TestTheBuiltInMappings:
    @pytest.mark.parametrize("name", BUILTIN)
    @given(numbers=st.lists(st.integers(1, 12), min_size=12, max_size=12))
    @settings(deadline=None, max_examples=40)
    def test_expand_to_a_bijection_of_names_for_every_architecture(
        self, name: str, numbers: list[int]
    ) -> None:
        mapping = BUILTIN[name]
        sizes = dict(zip(mapping.sizes, numbers, strict=False))
        for architecture in mapping.architecture:
            pairs = mapping.expand(sizes, [*architecture.groups, *architecture.optional])
            assert len({pair.names[0] for pair in pairs}) == len(pairs)
            assert len({pair.tensor for pair in pairs}) == len(pairs)

    @pytest.mark.parametrize("name", BUILTIN)
    @given(layers=st.integers(1, 40))
    @settings(deadline=None, max_examples=40)
    def test_make_a_variable_for_every_number_and_word_of_a_loop(
        self, name: str, layers: int
    ) -> None:
        mapping = BUILTIN[name]
        for group in mapping.group:
            for rule in group.variable:
                alone = MappingFile(
                    name="x",
                    detect="x",
                    model_type="x",
                    sizes=mapping.sizes,
                    group=[type(group)(name="x", variable=[rule])],
                    architecture=[],
                )
                pairs = alone.expand(dict.fromkeys(mapping.sizes, layers), ["x"])
                expected = [""]
                for loop in rule.loops.values():
                    end = layers - (isinstance(loop, str) and loop.endswith("-1"))
                    words = loop if isinstance(loop, list) else list(map(str, range(end)))
                    expected = [f"{before} {word}".strip() for before in expected for word in words]
                template = re.escape(rule.pt).replace(r"\{", "{").replace(r"\}", "}")
                pattern = re.compile(re.sub(r"\{.*?\}", "([^.]+)", template))
                made = [pattern.fullmatch(pair.tensor) for pair in pairs]
                assert [" ".join(found.groups()) for found in made if found] == expected

    @pytest.mark.parametrize("name", BUILTIN)
    def test_have_no_alias_that_finds_another_rules_variable(self, name: str) -> None:
        mapping = BUILTIN[name]
        sizes = dict.fromkeys(mapping.sizes, 12)
        for architecture in mapping.architecture:  # those of others may have the same names
            pairs = mapping.expand(sizes, [*architecture.groups, *architecture.optional])
            for pair in pairs:
                for alias in pair.names[1:]:
                    others = [p.names[0] for p in pairs if p is not pair]
                    taken = [name for name in others if wildcard(alias).fullmatch(name)]
                    assert taken == []

    @pytest.mark.parametrize("name", BUILTIN)
    @given(layers=st.integers(1, 30), scope=st.sampled_from(["", "teacher/", "a/b/", "Adam/"]))
    @settings(deadline=None, max_examples=40)
    def test_drop_no_variable_that_a_rule_maps(self, name: str, layers: int, scope: str) -> None:
        mapping = BUILTIN[name]
        why_dropped = dropper(mapping.drop)
        sizes = dict.fromkeys(mapping.sizes, layers)
        for pair in mapping.expand(sizes, [group.name for group in mapping.group]):
            for alias in pair.names:
                assert why_dropped(scope + alias.replace("*", "_7")) is None

    def test_bert_has_the_199_variables_of_base_and_the_heads_of_its_scripts(self) -> None:
        def count(*groups: str) -> int:
            return len(BERT.expand({"L": 12}, groups))

        assert count("encoder", "pooler") == 199
        assert count("encoder", "pooler", "mlm", "nsp") == 206
        assert count("encoder", "pooler", "classifier") == 201
        assert count("encoder", "squad") == 199


SLOTS = [
    "adam_m",
    "adam_v",
    "Adam",
    "Adam_1",
    "Adam_2",
    "AdamWeightDecayOptimizer",
    "AdamWeightDecayOptimizer_1",
    "AdamW",
    "AdamW_1",
    "LazyAdam",
    "LazyAdam_1",
    "BERTAdam",
    "BERTAdam_1",
    "LAMB",
    "LAMB_1",
    "LAMBOptimizer",
    "LAMBOptimizer_1",
    "LambOptimizer",
    "lamb_m",
    "lamb_v",
    "Momentum",
    "RMSProp",
    "RMSProp_1",
    "Adagrad",
    "Adadelta",
    "Adadelta_1",
    "ExponentialMovingAverage",
]
STATE = [
    "beta1_power",
    "beta2_power",
    "beta1_power_1",
    "beta2_power_1",
    "global_step",
    "local_step",
    "bad_steps",
    "good_steps",
    "loss_scale",
    "current_loss_scale",
    "loss_scale/good_steps",
    "cond_1/beta1_power",
]


class TestDrops:
    @pytest.mark.parametrize("scope", ["", "teacher/", "tower_0/replica/"])
    @pytest.mark.parametrize("slot", SLOTS)
    def test_every_optimizers_slot_of_every_variable_is_left_behind(
        self, slot: str, scope: str
    ) -> None:
        for pair in BERT.expand({"L": 2}, [group.name for group in BERT.group]):
            for name in pair.names:
                assert WHY_DROPPED(f"{scope}{name.replace('*', '_7')}/{slot}")

    @pytest.mark.parametrize("scope", ["", "teacher/", "training/", "a/b/"])
    @pytest.mark.parametrize("name", STATE)
    def test_the_state_of_training_is_left_behind_in_every_scope(
        self, name: str, scope: str
    ) -> None:
        assert WHY_DROPPED(scope + name)

    @pytest.mark.parametrize(
        "name",
        [
            "bert/pooler/dense/kernel",
            "Adam/bert/pooler/dense/kernel",
            "my_adam_m",
            "adam_model/kernel",
            "global_step/kernel",
            "global_stepper",
            "ADAM",
            "bert/encoder/layer_0/attention/self/query/kernel_m",
            "",
            "/",
        ],
    )
    def test_nothing_else_is(self, name: str) -> None:
        assert WHY_DROPPED(name) is None

    def test_the_reason_is_that_of_the_first_pattern_that_fits(self) -> None:
        assert WHY_DROPPED("bert/pooler/dense/kernel/adam_m") == "optimizer slot"
        assert WHY_DROPPED("a/beta1_power_1") == "optimizer state"
        assert WHY_DROPPED("global_step") == "training step"
        assert WHY_DROPPED("loss_scale") == "state of loss scaling"
        assert WHY_DROPPED("x/ExponentialMovingAverage") == "moving average of a variable"

    @pytest.mark.parametrize("name", ["loss_scale" * 20_000 + "//", "a/" * 100_000, "*" * 100_000])
    def test_a_name_without_end_is_not_searched_for_minutes(self, name: str) -> None:
        assert WHY_DROPPED(name) is None

    def test_a_mapping_without_drops_drops_nothing(self, tmp_path: Path) -> None:
        mapping = load(tmp_path, SMALL[: SMALL.index("[[drop]]")])
        assert dropper(mapping.drop)("x/Adam") is None
        assert dropper(mapping.drop)("") is None


class TestWildcard:
    @pytest.mark.parametrize(
        ("pattern", "name", "fits"),
        [
            ("a/b", "a/b", True),
            ("a/b", "a/b/c", False),
            ("a/dense_*", "a/dense_12", True),
            ("a/dense_*", "a/dense_", True),
            ("a/dense_*", "a/dense_1/kernel", False),
            ("**/x", "x", True),
            ("**/x", "a/x", True),
            ("**/x", "a/b/c/x", True),
            ("**/x", "ax", False),
            ("a/**/x", "a/x", True),
            ("a/**/x", "a/b/c/x", True),
            ("a/**/x", "ab/x", False),
            ("a.b", "axb", False),
            ("a+(b|c)[d]", "a+(b|c)[d]", True),
        ],
    )
    def test_a_star_is_letters_and_two_with_a_slash_are_folders(
        self, pattern: str, name: str, fits: bool
    ) -> None:
        assert bool(wildcard(pattern).fullmatch(name)) is fits


class TestExpand:
    def test_layers_are_expanded_together_where_the_first_of_their_rules_is(
        self, tmp_path: Path
    ) -> None:
        bias = '[[group.variable]]\ntf = "model/layer_{l}/bias"\npt = "model.layer.{l}.bias"\n'
        bias += 'shape = ["H"]\nfor = { l = "0..L" }\n\n[[group]]\nname = "head"'
        mapping = load(tmp_path, edited('[[group]]\nname = "head"', bias))
        assert [pair.tensor for pair in mapping.expand({"L": 2}, ["head", "body"])] == [
            "model.words.weight",
            "model.layer.0.in.weight",
            "model.layer.0.out.weight",
            "model.layer.0.bias",
            "model.layer.1.in.weight",
            "model.layer.1.out.weight",
            "model.layer.1.bias",
            "head.weight",
        ]

    def test_the_last_loop_runs_fastest_and_groups_keep_the_files_order(
        self, tmp_path: Path
    ) -> None:
        mapping = load(tmp_path, SMALL)
        assert [pair.tensor for pair in mapping.expand({"L": 2}, ["head", "body"])] == [
            "model.words.weight",
            "model.layer.0.in.weight",
            "model.layer.0.out.weight",
            "model.layer.1.in.weight",
            "model.layer.1.out.weight",
            "head.weight",
        ]

    def test_aliases_are_expanded_with_the_first_name(self, tmp_path: Path) -> None:
        pair = load(tmp_path, SMALL).expand({"L": 1}, ["body"])[1]
        assert pair.names == ("model/layer_0/in/kernel", "model/layer_0/in_*/kernel")
        assert pair.shape == ("H", "H")
        assert pair.op == "transpose"
        assert pair.group == "body"

    def test_a_range_may_start_and_end_with_numbers(self, tmp_path: Path) -> None:
        mapping = load(tmp_path, edited('l = "0..L"', 'l = "3..5"'))
        tensors = [pair.tensor for pair in mapping.expand({}, ["body"])]
        assert tensors[1::2] == ["model.layer.3.in.weight", "model.layer.4.in.weight"]
        assert mapping.loop_sizes() == set()

    def test_a_size_without_end_is_refused_at_once(self) -> None:
        with pytest.raises(MappingError, match=r"bert .* 16,000,000,005 variables"):
            BERT.expand({"L": 10**9}, ["encoder"])

    def test_what_stands_before_a_loops_number_is_told(self, tmp_path: Path) -> None:
        assert BERT.loop_prefixes("L") == {"bert/encoder/layer_"}
        mapping = load(tmp_path, SMALL.replace("layer_{l}/{p}", "{p}/layer_{l}"))
        assert mapping.loop_prefixes("L") == {"model/*/layer_"}


SKETCH = """\
name   = "bert"
about  = "google-research/bert modeling.py, TF1 variable names"
detect = "bert/embeddings/word_embeddings"
model_type = "bert"

[sizes]
V = "vocab_size"
H = "hidden_size"
L = "num_hidden_layers"

[[group]]
name = "encoder"
required = true

  [[group.variable]]
  tf    = "bert/embeddings/word_embeddings"
  pt    = "bert.embeddings.word_embeddings.weight"
  shape = ["V", "H"]

  [[group.variable]]
  tf    = "bert/encoder/layer_{l}/attention/self/{p}/kernel"
  pt    = "bert.encoder.layer.{l}.attention.self.{p}.weight"
  shape = ["H", "H"]
  op    = "transpose"
  for   = { l = "0..L", p = ["query", "key", "value"] }

  [[group.variable]]
  tf    = ["bert/encoder/layer_{l}/output/LayerNorm/gamma", \
"bert/encoder/layer_{l}/output/layer_normalization*/gamma"]
  pt    = "bert.encoder.layer.{l}.output.LayerNorm.weight"
  shape = ["H"]
  for   = { l = "0..L" }

[[architecture]]
class  = "BertModel"
groups = ["encoder"]

[[drop]]
tf     = "**/adam_m"
reason = "optimizer slot"

[[tie]]
pt = "cls.predictions.decoder.weight"
to = "bert.embeddings.word_embeddings.weight"
"""


class TestARightFile:
    def test_needs_no_more_than_groups_and_an_architecture(self, tmp_path: Path) -> None:
        mapping = load(
            tmp_path,
            'name = "m"\ndetect = "w"\nmodel_type = "m"\n'
            '[[group]]\nname = "g"\nrequired = true\n'
            '[[group.variable]]\ntf = "w"\npt = "w.weight"\nshape = [3]\n'
            '[[architecture]]\nclass = "M"\ngroups = ["g"]\n',
        )
        plan = make_plan({"w": Variable("w", "float32", (3,), 12)}, mapping)
        assert [entry.tensor for entry in plan.entries] == ["w.weight"]
        assert plan.activation == ("", "")
        assert plan.config == {}

    def test_may_have_the_form_that_a_first_mapping_has(self, tmp_path: Path) -> None:
        mapping = load(tmp_path, SKETCH)
        assert len(mapping.expand({"L": 3}, ["encoder"])) == 1 + 3 * 3 + 3
        assert dropper(mapping.drop)("bert/x/adam_m") == "optimizer slot"
        assert mapping.tie[0].group == ""

    def test_the_small_one_of_these_tests_loads(self, tmp_path: Path) -> None:
        mapping = load(tmp_path, SMALL)
        assert mapping.loop_sizes() == {"L"}
        assert mapping.size_key("A") == "num_attention_heads"
        assert mapping.sizes["A"].assumed({"H": 128}) == 2
        assert mapping.sizes["A"].assumed({"H": 32}) == 1

    def test_two_groups_may_share_names_if_no_class_has_both(self, tmp_path: Path) -> None:
        other = '[[group]]\nname = "other"\n[[group.variable]]\ntf = "head/kernel"\n'
        other += 'pt = "other.weight"\nshape = ["H", 2]\n'
        assert load(tmp_path, SMALL + other).group[2].name == "other"

    def test_line_ends_do_not_matter(self, tmp_path: Path) -> None:
        assert load(tmp_path, SMALL.replace("\n", "\r\n")) == load(tmp_path, SMALL)

    def test_includes_shared_drops_after_its_own(self, tmp_path: Path) -> None:
        mapping = load(tmp_path, edited("[sizes]", 'include = ["training"]\n\n[sizes]'))
        assert dropper(mapping.drop)("x/Adam") == "optimizer"
        assert dropper(mapping.drop)("x/adam_m") == "optimizer slot"

    def test_sha256_covers_what_is_included(self, tmp_path: Path) -> None:
        shared = (FOLDER / "shared" / "training.toml").read_bytes()
        for text, more in [
            (SMALL, b""),
            (edited("[sizes]", 'include = ["training"]\n\n[sizes]'), shared),
        ]:
            (tmp_path / "mine.toml").write_text(text)
            _, digest = read_mapping(tmp_path / "mine.toml")
            assert digest == hashlib.sha256(text.encode() + more).hexdigest()

    def test_spells_a_part_of_a_name_in_another_way(self, tmp_path: Path) -> None:
        mapping = load(tmp_path, edited("[config]", '[spelling]\nkernel = "k_*"\n\n[config]'))
        words, layer, *_ = mapping.expand({"L": 1}, ["body"])
        assert words.names == ("model/words",)
        assert layer.names == (
            "model/layer_0/in/kernel",
            "model/layer_0/in_*/kernel",
            "model/layer_0/in/k_*",
        )


class TestTheDocumentation:
    SIZES: ClassVar = {"V": 50, "H": 128, "I": 256, "L": 3, "C": 4}

    @pytest.fixture
    def example(self) -> str:
        (block,) = re.findall(r"^```toml\n(# memo\.toml.*?)^```", PAGE.read_text(), re.M | re.S)
        return block

    def variables(self, mapping: MappingFile, *groups: str) -> dict[str, Variable]:
        shapes = {
            pair.names[0]: tuple(self.SIZES.get(str(size), size) for size in pair.shape)
            for pair in mapping.expand(self.SIZES, groups)
        }
        return {name: Variable(name, "float32", shape, 0) for name, shape in shapes.items()}

    def test_has_an_example_that_loads_and_plans(self, tmp_path: Path, example: str) -> None:
        mapping = load(tmp_path, example)
        variables = self.variables(mapping, "encoder", "pooler", "classifier")
        variables["global_step"] = Variable("global_step", "int64", (), 8)
        plan = make_plan(variables, mapping)
        assert plan.architecture.name == "MemoForSequenceClassification"
        assert plan.sizes == {**self.SIZES, "A": 2}
        assert len(plan.entries) == len(variables) - 1
        assert [drop.variable for drop in plan.dropped] == ["global_step"]

    @pytest.mark.parametrize(
        "edits",
        [
            {"hidden_dropout_prob = 0.1": "hidden_dropout_prob = ,"},
            {'shape = ["V", "H"]': 'shape = "V"'},
            {'op    = "transpose"': 'opp = "transpose"'},
            {
                'shape = ["V", "H"]': 'shape = ["Q", "H"]',
                'op    = "transpose"': 'op = "rotate"',
                'groups   = ["encoder"]': 'groups = ["encodr"]',
            },
        ],
        ids=["a line", "a type", "a key", "rules"],
    )
    def test_shows_the_errors_of_a_file_as_they_are(
        self, tmp_path: Path, example: str, edits: dict[str, str]
    ) -> None:
        for old, new in edits.items():
            assert old in example
            example = example.replace(old, new, 1)
        said = complaint(tmp_path, example)
        assert "".join(f"    memo.toml: {line}\n" for line in said.splitlines()) in PAGE.read_text()

    def test_shows_the_errors_of_a_plan_as_they_are(self, tmp_path: Path, example: str) -> None:
        mapping = load(tmp_path, example)
        variables = self.variables(mapping, "encoder", "pooler")
        del variables["memo/layer_2/dense/kernel"]
        odd = "memo/layer_2/dens/kernel"
        variables[odd] = Variable(odd, "float32", (128, 256), 0)
        with pytest.raises(PlanError) as caught:
            make_plan(variables, mapping, {"hidden_size": 768}, config_name="memo_config.json")
        said = str(caught.value).splitlines()
        assert "".join(f"    {line}\n" for line in said) in PAGE.read_text()

    def test_names_every_key_that_a_mapping_file_may_have(self) -> None:
        text = PAGE.read_text()
        keys = {key for table in _tables(BERT) for key in table.__struct_encode_fields__}
        assert {"for", "class", "divides", "explicit", "reason", "absent"} <= keys
        assert [key for key in sorted(keys) if f"`{key}`" not in text] == []

    def test_names_every_op(self) -> None:
        assert [op for op in TRANSFORMS if f'`"{op}"`' not in PAGE.read_text()] == []


def _tables(mapping: MappingFile) -> list[Struct]:
    """One of each table of a mapping."""
    return [
        mapping,
        mapping.group[0],
        mapping.group[0].variable[0],
        mapping.architecture[0],
        mapping.drop[0],
        mapping.tie[0],
        mapping.activation,
        mapping.sizes["A"],
        mapping.files,
        mapping.files.config,
        mapping.roles,
        mapping.card,
        mapping.card.papers[0],
    ]


WRONG = [
    # what is wrong, what is replaced by what, facts that the message must have
    ("unknown key", 'op    = "transpose"', 'opp = "transpose"', "`opp`"),
    ("its place", 'op    = "transpose"', 'opp = "x"', "$.group[0].variable[1]"),
    ("unknown table", "[config]", "[configs]", "`configs`"),
    ("unknown key of a drop", "reason = ", "because = ", "`because`", "$.drop[0]"),
    ("missing key", 'pt    = "model.words.weight"\n', "", "`pt`"),
    ("missing name", 'name       = "small"\n', "", "`name`"),
    ("missing detect", 'detect     = "model/words"\n', "", "`detect`"),
    ("missing reason", 'reason = "optimizer"', "", "`reason`"),
    ("number for a name", 'tf    = "model/words"', "tf = 5", "`int`", "$.group[0].variable"),
    ("text for a shape", 'shape = ["V", "H"]', 'shape = "V"', "`array`", "`str`"),
    ("a fraction in a shape", '["V", "H"]', '["V", 1.5]', "`float`"),
    ("a truth in a shape", '["V", "H"]', '["V", true]', "`bool`"),
    ("text for a truth", "required = true", 'required = "yes"', "`str`", "$.group[0].req"),
    ("a table for a list", "[[tie]]", "[tie]", "`object`", "$.tie"),
    ("a date in the config", "pad_token_id = 0", "pad_token_id = 2020-01-01", "$.config[...]"),
    ("unknown op", '"transpose"', '"rotate"', "'rotate'", "identity, transpose"),
    ("its place", '"transpose"', '"rotate"', "group[0] (body) variable[1]: "),
    ("op of another rank", '["H", "H"]', '["H"]', "'transpose'", "1 dimension"),
    ("unknown symbol", '["V", "H"]', '["V", "Q"]', "shape: 'Q'", "[sizes]"),
    ("assumed symbol in a shape", '["V", "H"]', '["V", "A"]', "shape: 'A'", "[sizes]"),
    ("shape of nothing", '["H", 2]', '["H", 0]', "group[1] (head) variable[0]: shape: 0 "),
    ("negative shape", '["H", 2]', '["H", -2]', "shape: -2 "),
    ("placeholder not in for", 'l = "0..L", ', "", "{l}", "`for`"),
    ("placeholder in tf alone", "layer.{l}.{p}", "layer.{l}", "{p}", "`for`"),
    ("loop that is not used", "p = [", "q = [1], p = [", "`int`"),
    ("loop that is not used", "p = [", 'q = ["x"], p = [', "{q}", "`for`"),
    ("no range", '"0..L"', '"L"', "for.l = 'L'", "0..L"),
    ("range without a start", '"0..L"', '"..L"', "for.l = ", "0..L"),
    ("negative range", '"0..L"', '"-1..L"', "for.l = ", "0..L"),
    ("range of three", '"0..L"', '"0..L..2"', "for.l = ", "0..L"),
    ("range of strange digits", '"0..L"', '"0..²"', "for.l = ", "0..L"),
    ("range of letters", '"0..L"', '"a..L"', "for.l = ", "0..L"),
    ("empty range", '"0..L"', '"4..4"', "for.l = '4..4'"),
    ("range of an unknown size", '"0..L"', '"0..N"', "for.l = '0..N'", "[sizes]"),
    ("range of an assumed size", '"0..L"', '"0..A"', "for.l = '0..A'", "[sizes]"),
    ("range without end", '"0..L"', '"0..999999999"', "2,000,000,000 variables", "200,000"),
    ("empty list", '["in", "out"]', "[]", "for.p = []"),
    ("a value twice", '["in", "out"]', '["in", "in"]', "for.p = ['in', 'in']"),
    ("a star for a value", '["in", "out"]', '["in", "*"]', "for.p = ", "* { }"),
    ("a placeholder for a value", '["in", "out"]', '["{l}"]', "for.p = ", "* { }"),
    ("star in the first name", '"model/words"\n  pt', '"model/w*"\n  pt', "`*`", "second name"),
    ("star in the tensor", '"model.words.weight"\n  sh', '"*"\n  sh', "`*`", "second name"),
    ("two stars", "{p}_*/kernel", "{p}**/kernel", "{p}**/kernel", "`**/`"),
    ("no name at all", 'tf    = "model/words"', "tf = []", "tf or pt: "),
    ("an empty name", 'tf    = "head/kernel"', 'tf = ""', "tf or pt: "),
    ("an empty tensor", 'pt    = "head.weight"', 'pt = ""', "tf or pt: "),
    ("group twice", 'name = "head"', 'name = "body"', "group: ", "body", "twice"),
    (
        "group without variables",
        "[[group]]",
        '[[group]]\nname="e"\nvariable=[]\n[[group]]',
        "(e): ",
    ),
    ("no required group", "required = true", "required = false", "group: ", "`required = true`"),
    ("unknown group", '["body", "head"]', '["body", "haed"]', "'haed'"),
    ("its place", '["body", "head"]', '["body", "haed"]', "architecture[0] (WithHead): "),
    (
        "required group left out",
        '["body", "head"]',
        '["head"]',
        "(WithHead): ",
        "required",
        "'body'",
    ),
    (
        "a size that the class needs",
        '["body"]',
        '["body"]\nneeds = { Q = 1 }',
        "needs.Q",
        "[sizes]",
    ),
    ("unknown optional group", '["body"]', '["body"]\noptional = ["x"]', "(Bare): ", "'x'"),
    ("head twice", 'head   = "none"', 'head = "head"', "'head'", "twice"),
    (
        "two variables, one tensor",
        '"head.weight"',
        '"model.words.weight"',
        "two variables",
        "pt = 'model.words.weight'",
    ),
    (
        "two tensors, one variable",
        '"head/kernel"',
        '"model/words"',
        "two variables",
        "tf = 'model/words'",
    ),
    ("tie to nowhere", 'to = "model.words.weight"', 'to = "x"', "tie[0]: ", "`to`"),
    ("tie of a mapped tensor", '"decoder.weight"', '"head.weight"', "tie[0]: ", "`pt`"),
    ("tie of an unknown group", "[[tie]]", '[[tie]]\ngroup = "x"', "tie[0]: ", "'x'"),
    ("detect that is no variable", '"model/words"', '"model/word"', "detect = 'model/word' "),
    (
        "detect that is an alias",
        '"model/words"',
        '"model/layer_0/in_*/kernel"',
        "detect = 'model/layer_0/in_*/kernel' ",
    ),
    (
        "drop of a variable",
        '"**/Adam"',
        '"**/kernel"',
        "drop[0] (optimizer): ",
        "model/layer_0/in/kernel",
    ),
    ("drop of all below", '"**/Adam"', '"adam/**"', "drop[0]: 'adam/**'"),
    ("assumption of nothing", '"H/64"', '"H/0"', "sizes.A: ", "'H/0'", "H/64"),
    ("assumption without divisor", '"H/64"', '"H"', "sizes.A: ", "'H'"),
    ("assumption of the unknown", '"H/64"', '"Q/64"', "sizes.A: ", "'Q/64'"),
    ("assumption of itself", '"H/64"', '"A/64"', "sizes.A: ", "'A/64'"),
    ("divides the unknown", 'divides = "H"', 'divides = "Q"', "sizes.A: ", "'Q'"),
    ("config key twice", "pad_token_id = 0", "hidden_size = 5", "hidden_size: ", "twice"),
    ("default key twice", "hidden_dropout_prob", "pad_token_id", "pad_token_id: ", "twice"),
    ("activation key twice", '"hidden_act"', '"pad_token_id"', "pad_token_id: ", "twice"),
    ("unknown default activation", '"gelu"\nnames', '"silu"\nnames', "activation: ", "'silu'"),
    ("capital activation", 'relu = "relu"', 'ReLU = "relu"', "activation.names.ReLU: "),
    ("activation of nothing", 'relu = "relu"', "relu = {}", "activation.names.relu: "),
    ("name that is a path", 'name       = "small"', 'name = "../bert"', "name = '../bert': "),
    (
        "name without end",
        '"small"',
        '"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"',
        "name = 'xxx",
    ),
    (
        "unknown role",
        "[config]",
        '[roles]\nheads = "B"\n\n[config]',
        "roles.heads = 'B'",
        "[sizes]",
    ),
    ("role that nobody knows", "[config]", '[roles]\nhaeds = "A"\n\n[config]', "`haeds`"),
    (
        "unknown tokenizer",
        'model_type = "bert"',
        'model_type = "bert"\ntokenizer = "wordpieces"',
        "tokenizer = 'wordpieces'",
    ),
    (
        "unknown tokenizer of a file",
        'model_type = "bert"',
        'model_type = "bert"\n[files]\nvocabulary = { name = "a", tokenizer = "wordpieces" }',
        "files.vocabulary: tokenizer = 'wordpieces'",
    ),
    (
        "tokenizer that is a path",
        'model_type = "bert"',
        'model_type = "bert"\ntokenizer = "../models/bert"',
        "tokenizer = ",
    ),
    (
        "unknown reference",
        'model_type = "bert"',
        'model_type = "bert"\nreference = "beard"',
        "reference = 'beard'",
    ),
    (
        "unknown list",
        'model_type = "bert"',
        'model_type = "bert"\ninclude = ["slots"]',
        "'slots'",
        "training",
    ),
    (
        "list that is a path",
        'model_type = "bert"',
        'model_type = "bert"\ninclude = ["../bert"]',
        "'../bert'",
    ),
    (
        "pattern of a file",
        "[config]",
        '[files]\nconfig = { name = "c.json", pattern = "(" }\n\n[config]',
        "files.config",
        "'('",
    ),
    (
        "spelling of two parts",
        "[config]",
        '[spelling]\n"in/kernel" = "x"\n\n[config]',
        "spelling.in/kernel",
    ),
    ("detect of nothing", 'detect     = "model/words"', "detect = []", "detect"),
    (
        "detect of two, one unknown",
        'detect     = "model/words"',
        'detect = ["model/words", "model/none"]',
        "'model/none'",
    ),
    (
        "strip of another start",
        'groups = ["body", "head"]',
        'groups = ["body", "head"]\nstrip = "model."',
        "WithHead",
        "'model.'",
        "head.weight",
    ),
    (
        "neutral key twice",
        "[config]",
        "[neutral]\nhidden_size = 3\n\n[config]",
        "hidden_size: ",
        "twice",
    ),
    (
        "unknown optional of without",
        'groups = ["body"]',
        'groups = ["body"]\nwithout = { x = "y" }',
        "(Bare): ",
        "'x'",
    ),
]


class TestAWrongFile:
    @pytest.mark.parametrize(
        ("old", "new", "facts"),
        [(old, new, facts) for _, old, new, *facts in WRONG],
        ids=[row[0] for row in WRONG],
    )
    def test_is_answered_with_the_key_and_what_is_wrong(
        self, tmp_path: Path, old: str, new: str, facts: list[str]
    ) -> None:
        text = complaint(tmp_path, edited(old, new))
        assert [fact for fact in facts if fact not in text] == []

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a = 1\nb == 2\n", "line 2, column 4"),
            ('name = "x\n', "line 1"),
            ("name = x\n", "line 1"),
            ("[[group]\n", "line 1"),
            ("a = [\n", "end of document"),
            ('name = "x"\nname = "y"\n', "Cannot overwrite a value"),
            ("a = \x00", "line 1"),
            ("a = 1970-99-99", "line 1|end of document|Invalid date"),
            ("", "missing required field `name`"),
            ("# nothing\n", "missing required field `name`"),
            ("a = " + "9" * 5000, "4300 digits"),
            ("a = " + "[" * 100_000, "recursion"),
        ],
        ids=lambda text: text[:20],
    )
    def test_that_is_no_toml_is_answered_with_the_line(
        self, tmp_path: Path, text: str, said: str
    ) -> None:
        assert re.search(said, complaint(tmp_path, text))

    @pytest.mark.parametrize("data", [b"\xff\xfen\0a\0", bytes(range(128, 256)), b"\x80"])
    def test_that_is_no_text_is_said_to_be_none(self, tmp_path: Path, data: bytes) -> None:
        assert "not UTF-8" in complaint(tmp_path, data)

    def test_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(MappingError, match=r"none\.toml: no such file"):
            load_mapping(tmp_path / "none.toml")

    @pytest.mark.parametrize("name", ["x\0y", "x" * 5000])
    def test_whose_name_no_file_can_have_is_not_there(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(MappingError):
            load_mapping(tmp_path / name)

    def test_that_is_a_folder_is_said_to_be_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(MappingError, match="not a file"):
            load_mapping(tmp_path)

    def test_is_answered_with_all_that_is_wrong_at_once(self, tmp_path: Path) -> None:
        text = edited('"transpose"', '"rotate"').replace('["V", "H"]', '["Q", "H"]')
        text = text.replace('["body", "head"]', '["body", "haed"]').replace('"H/64"', '"H"')
        text = text.replace('"gelu"\nnames', '"silu"\nnames')
        assert len(complaint(tmp_path, text).splitlines()) == 5

    @pytest.mark.parametrize("loops", [6, 12, 26])
    def test_that_stands_for_more_than_a_machine_can_hold_is_refused_at_once(
        self, tmp_path: Path, loops: int
    ) -> None:
        letters = string.ascii_lowercase[:loops]
        names = "".join(f"{{{letter}}}" for letter in letters)
        each = ", ".join(f'{letter} = "0..99"' for letter in letters)
        text = edited('for   = { l = "0..L", p = ["in", "out"] }', f"for = {{ {each} }}")
        text = text.replace("layer_{l}/{p}", names).replace("layer.{l}.{p}", names)
        assert "200,000" in complaint(tmp_path, text)

    @given(
        line=st.integers(0, SMALL.count("\n") - 1),
        garbage=st.text(st.characters(codec="utf-8"), max_size=12),
        at=st.integers(0, 60),
    )
    @settings(deadline=None, max_examples=300)
    def test_however_it_is_wrong_raises_no_other_error(
        self, line: int, garbage: str, at: int
    ) -> None:
        lines = SMALL.split("\n")
        lines[line] = lines[line][:at] + garbage + lines[line][at + len(garbage) :]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mine.toml"
            path.write_bytes("\n".join(lines).encode())
            try:
                mapping = load_mapping(path)
            except MappingError as error:
                assert str(error).startswith(str(path))
            else:
                groups = [group.name for group in mapping.group]
                assert mapping.expand(dict.fromkeys(mapping.sizes, 3), groups)


@given(st.text("ab*/", max_size=9), st.text("ab/", max_size=9))
def test_a_pattern_fits_what_it_fits_when_every_place_is_tried(pattern: str, name: str) -> None:
    parts = re.split(r"(\*\*/|\*)", pattern)
    naive = "".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    assert bool(wildcard(pattern).fullmatch(name)) == bool(re.fullmatch(naive, name))


def test_a_pattern_of_many_stars_takes_no_power_of_the_names_length() -> None:
    pattern = wildcard("*a" * 20 + "*b")
    assert not pattern.fullmatch("a" * 1000)
    assert pattern.fullmatch("a" * 999 + "b")
    folders = "/".join("a" * 500)
    assert not wildcard("**/a/**/*b").fullmatch(folders)
    assert list(pattern_problems("**/a/**/b")) == []
    assert list(pattern_problems("**/a/**/b/**/c/**/d")) != []
