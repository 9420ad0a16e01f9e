"""The rule forms that few families need, each with a mapping that has nothing else."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertconvert import MappingError, Options, Plan, PlanError, Variable
from bertconvert.converter.mapping import builtin_mappings, load_mapping, read_header
from bertconvert.converter.plan import make_plan
from bertconvert.converter.prepare import prepare
from bertconvert.converter.scope import fits
from bertconvert.converter.transforms import TRANSFORMS, merge, to_tensorflow

TOP = """\
name       = "forms"
detect     = "m/words"
model_type = "bert"
{top}
[sizes]
V = "vocab_size"
E = "embedding_size"
H = "hidden_size"
A = "num_attention_heads"
F = "num_feedforward_networks"
L = "num_hidden_layers"
{sizes}
[roles]
vocabulary = "V"
layers     = "{layers}"
{tables}
[[group]]
name     = "body"
required = true
variable = [
  {{ tf = "m/words", pt = "words.weight", shape = ["V", "E"] }},
{body}
]
{groups}
[[architecture]]
class    = "Model"
head     = "none"
groups   = [{needs}]
optional = [{optional}]
"""

Shapes = Mapping[str, tuple[int, ...]]


def forms(tmp_path: Path, **parts: str) -> Any:
    names = ("top", "sizes", "tables", "body", "groups", "optional")
    parts = {**dict.fromkeys(names, ""), "layers": "L", "needs": '"body"', **parts}
    path = tmp_path / "forms.toml"
    path.write_text(TOP.format(**parts))
    return load_mapping(path)


def plan(mapping: Any, shapes: Shapes, config: dict[str, object] | None = None, **kw: Any) -> Plan:
    variables = {n: Variable(n, "float32", s, 4 * math.prod(s)) for n, s in shapes.items()}
    return make_plan(variables, mapping, config, **kw)


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(PlanError) as caught:
        plan(*args, **kwargs)
    return str(caught.value)


class TestMergedDimensions:
    BODY = """
    { tf = "m/in", pt = "in.weight", shape = ["H", ["A", "H/A"]], op = "transpose" },
    { tf = "m/out", pt = "out.weight", shape = [["A", "H/A"], "H"], op = "transpose" },
    { tf = "m/bias", pt = "bias", shape = [["A", "H/A"]] },
    """

    def test_become_one(self, tmp_path: Path) -> None:
        shapes = {"m/words": (9, 5), "m/in": (6, 2, 3), "m/out": (2, 3, 6), "m/bias": (2, 3)}
        made = plan(forms(tmp_path, body=self.BODY), shapes)
        assert {entry.tensor: entry.shape for entry in made.entries} == {
            "words.weight": (9, 5),
            "in.weight": (6, 6),
            "out.weight": (6, 6),
            "bias": (6,),
        }
        assert made.config["num_attention_heads"] == 2

    @pytest.mark.parametrize(
        ("name", "shape", "facts"),
        [
            ("m/in", (6, 2, 4), ["m/in has the shape [6, 2, 4]", "[H, A, H/A] = [6, 2, 3]"]),
            ("m/in", (6, 6), ["m/in has the shape [6, 6]", "[H, A, H/A]"]),
            ("m/bias", (3, 2), ["m/bias has the shape [3, 2]", "[A, H/A]"]),
            ("m/bias", (6,), ["m/bias has the shape [6]"]),
        ],
    )
    def test_must_fit(
        self, tmp_path: Path, name: str, shape: tuple[int, ...], facts: list[str]
    ) -> None:
        shapes = {"m/words": (9, 5), "m/in": (6, 2, 3), "m/out": (2, 3, 6), "m/bias": (2, 3)}
        text = refusal(forms(tmp_path, body=self.BODY), {**shapes, name: shape})
        assert [fact for fact in facts if fact not in text] == []

    @given(
        shape=st.lists(st.integers(1, 5), min_size=3, max_size=3),
        counts=st.sampled_from([(1, 2), (2, 1), (3,), (1, 1, 1)]),
    )
    @settings(deadline=None)
    def test_are_undone_by_the_inverse(self, shape: list[int], counts: tuple[int, ...]) -> None:
        array = np.arange(math.prod(shape)).reshape(shape)
        op = "transpose" if len(counts) == 2 else "identity"
        tensor = TRANSFORMS[op].apply(array.reshape(merge(shape, counts)))
        assert np.array_equal(to_tensorflow(tensor, op).reshape(shape), array)


class TestAnExpression:
    BODY = """
    { tf = "m/project", pt = "project.weight", shape = ["3*E", "H"] },
    { tf = "m/rest", pt = "rest.weight", shape = ["V", "H-E"], op = "transpose" },
    """

    def test_is_compared_when_the_sizes_are_known(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, body=self.BODY)
        good = {"m/words": (9, 5), "m/project": (15, 7), "m/rest": (9, 2)}
        assert plan(mapping, good).empty == {}
        text = refusal(mapping, {**good, "m/project": (10, 7)})
        assert "m/project has the shape [10, 7] but should have [3*E, H] = [15, 7]" in text
        assert "E by m/words [9, 5]" in text

    def test_of_zero_makes_an_empty_tensor(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, body=self.BODY)
        made = plan(mapping, {"m/words": (9, 5), "m/project": (15, 5)})
        assert made.empty == {"rest.weight": (0, 9)}
        assert [entry.tensor for entry in made.entries] == ["words.weight", "project.weight"]

    def test_that_is_not_zero_needs_its_variable(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, body=self.BODY)
        assert "m/rest" in refusal(mapping, {"m/words": (9, 5), "m/project": (15, 7)})


class TestALoopThatIsShorterThanItsSize:
    BODY = """
    { tf = "m/layer_{l}/ffn_{f}", pt = "l.{l}.ffn.{f}", shape = ["H"], for = { l = "0..L", f = "0..F-1" } },
    { tf = "m/layer_{l}/last", pt = "l.{l}.last", shape = ["H"], for = { l = "0..L" } },
    """  # noqa: E501

    @pytest.mark.parametrize("networks", [1, 2, 4])
    def test_tells_the_size(self, tmp_path: Path, networks: int) -> None:
        shapes: dict[str, tuple[int, ...]] = {"m/words": (9, 5)}
        for layer in range(2):
            shapes[f"m/layer_{layer}/last"] = (7,)
            shapes |= {f"m/layer_{layer}/ffn_{f}": (7,) for f in range(networks - 1)}
        mapping = forms(tmp_path, body=self.BODY)
        assert plan(mapping, shapes).config["num_feedforward_networks"] == networks
        said = {"num_feedforward_networks": networks + 1}
        text = refusal(mapping, shapes, said)
        assert (
            f"num_feedforward_networks = {networks + 1}, but the checkpoint has {networks}" in text
        )

    def test_that_lacks_a_number_is_refused(self, tmp_path: Path) -> None:
        shapes: dict[str, tuple[int, ...]] = {"m/words": (9, 5), "m/layer_0/ffn_1": (7,)}
        shapes["m/layer_0/last"] = (7,)
        text = refusal(forms(tmp_path, body=self.BODY), shapes)
        assert "can't tell num_feedforward_networks" in text or "m/layer_0/ffn_0" in text


class TestASizeThatOnlyAConfigTells:
    SIZES = 'S = { config = "shared_layers" }'
    SHAPES: Shapes = {"m/words": (9, 5)}  # noqa: RUF012

    def test_is_taken_from_it_or_from_the_caller(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, sizes=self.SIZES, layers="S")
        assert plan(mapping, self.SHAPES, {"shared_layers": 12}).sizes["S"] == 12
        by_option = {"num_layers": 24}
        assert plan(mapping, self.SHAPES, options=Options(**by_option)).sizes["S"] == 24
        text = refusal(mapping, self.SHAPES, {"shared_layers": 12}, options=Options(**by_option))
        assert "says shared_layers = 12, but --num-layers is 24" in text

    def test_is_asked_for_if_nobody_tells_it(self, tmp_path: Path) -> None:
        text = refusal(forms(tmp_path, sizes=self.SIZES, layers="S"), self.SHAPES)
        assert "shared_layers" in text
        assert "--config" in text and "--num-layers" in text

    def test_is_no_option_where_a_variable_tells_it(self, tmp_path: Path) -> None:
        text = refusal(forms(tmp_path), self.SHAPES, options=Options(num_layers=3))
        assert "--num-layers: the mapping forms does not need it" in text


class TestAGroupThatIsThereUnlessTwoSizesAreEqual:
    GROUPS = """
    [[group]]
    name     = "layers"
    required = true
    variable = [{ tf = "m/layer", pt = "layer.weight", shape = ["H"] }]

    [[group]]
    name     = "project"
    unless   = "E = H"
    variable = [
      { tf = "m/project/kernel", pt = "project.weight", shape = ["E", "H"] },
      { tf = "m/project/bias", pt = "project.bias", shape = ["H"] },
    ]
    """
    NEEDS = '"body", "layers", "project"'
    PROJECT: Shapes = {"m/project/kernel": (5, 7), "m/project/bias": (7,)}  # noqa: RUF012

    def test_is_needed_if_they_differ(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, groups=self.GROUPS, needs=self.NEEDS)
        body = {"m/words": (9, 5), "m/layer": (7,)}
        assert plan(mapping, {**body, **self.PROJECT}).groups == ["body", "layers", "project"]
        assert "m/project/kernel" in refusal(mapping, body)
        text = refusal(mapping, {**body, "m/project/bias": (7,)})
        assert "project is incomplete" in text

    def test_is_unknown_if_they_are_equal(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, groups=self.GROUPS, needs=self.NEEDS)
        body = {"m/words": (9, 7), "m/layer": (7,)}
        assert plan(mapping, body).groups == ["body", "layers"]
        text = refusal(mapping, {**body, "m/project/kernel": (7, 7), "m/project/bias": (7,)})
        assert "m/project/kernel (float32 [7, 7]) is unknown" in text


class TestAFlag:
    GROUPS = """
    [[group]]
    name     = "pooler"
    variable = [{ tf = "m/pooler", pt = "pooler.weight", shape = ["H"] }]
    """
    FLAGS = '[flags]\nactivate = "pooler"\n'

    @pytest.mark.parametrize("there", [True, False])
    def test_is_true_exactly_if_its_group_is_there(self, tmp_path: Path, there: bool) -> None:
        mapping = forms(tmp_path, groups=self.GROUPS, tables=self.FLAGS, optional='"pooler"')
        shapes = {"m/words": (9, 5)} | ({"m/pooler": (7,)} if there else {})
        assert plan(mapping, shapes).config["activate"] is there
        assert plan(mapping, shapes, {"activate": there}).config["activate"] is there
        text = refusal(mapping, shapes, {"activate": not there})
        assert f"activate = {not there}, but the checkpoint {'has' if there else 'lacks'}" in text


class TestAPreferredName:
    GROUPS = """
    [[group]]
    name     = "pooler"
    variable = [
      { tf = ["m/new/kernel", "m/old/kernel"], prefer = "the old one", pt = "pooler.weight", shape = ["E"] },
      { tf = ["m/new/bias", "m/old/bias"], prefer = "the old one", pt = "pooler.bias", shape = ["E"] },
    ]
    """  # noqa: E501
    WORDS: Shapes = {"m/words": (9, 5)}  # noqa: RUF012
    NEW: Shapes = {"m/new/kernel": (5,), "m/new/bias": (5,)}  # noqa: RUF012
    OLD: Shapes = {"m/old/kernel": (5,), "m/old/bias": (5,)}  # noqa: RUF012

    def test_is_taken_and_the_others_are_skipped(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, groups=self.GROUPS, optional='"pooler"')
        made = plan(mapping, {**self.WORDS, **self.OLD, **self.NEW})
        assert {e.variable for e in made.entries} == {"m/words", "m/new/kernel", "m/new/bias"}
        assert [(d.variable, d.reason) for d in made.dropped] == [
            ("m/old/bias", "the old one"),
            ("m/old/kernel", "the old one"),
        ]

    def test_that_is_missing_leaves_the_next(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, groups=self.GROUPS, optional='"pooler"')
        made = plan(mapping, {**self.WORDS, **self.OLD})
        assert {e.variable for e in made.entries} == {"m/words", "m/old/kernel", "m/old/bias"}
        assert made.dropped == []

    def test_is_that_of_the_whole_group(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, groups=self.GROUPS, optional='"pooler"')
        text = refusal(mapping, {**self.WORDS, **self.OLD, "m/new/kernel": (5,)})
        assert "m/new/kernel" in text and "m/old/bias" in text


class TestFullNames:
    def test_find_the_variables(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, top='names = "full"')
        key = "model/layer-1/embeddings/.ATTRIBUTES/VARIABLE_VALUE"
        variable = Variable(key, "float32", (9, 5), 180, "scope/m/words")
        made = make_plan({key: variable}, mapping)
        assert [(e.variable, e.name) for e in made.entries] == [(key, "m/words")]
        assert made.scope == "scope/"

    def test_that_two_variables_have_are_refused_with_both_keys(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, top='names = "full"')
        variables = {k: Variable(k, "float32", (9, 5), 180, "m/words") for k in ("a/k", "b/k")}
        with pytest.raises(PlanError, match="a/k and b/k are both called m/words"):
            make_plan(variables, mapping)

    def test_are_dropped_by_either_name(self, tmp_path: Path) -> None:
        tables = '[[drop]]\ntf = ["**/SLOT/*", "m/counter"]\nreason = "no weight"\n'
        mapping = forms(tmp_path, top='names = "full"', tables=tables)
        names = {"a": "m/words", "a/SLOT/m": "m/words", "x": "m/counter"}
        variables = {k: Variable(k, "float32", (9, 5), 180, n) for k, n in names.items()}
        made = make_plan(variables, mapping)
        assert [d.variable for d in made.dropped] == ["a/SLOT/m", "x"]


class TestARefusal:
    TABLES = '[[refuse]]\ntf = ["beam/**/*", "m/relative"]\nreason = "no class holds it"\n'

    @pytest.mark.parametrize("name", ["beam/a/kernel", "beam/kernel", "m/relative"])
    def test_names_the_variables_and_the_reason(self, tmp_path: Path, name: str) -> None:
        mapping = forms(tmp_path, tables=self.TABLES)
        text = refusal(mapping, {"m/words": (9, 5), name: (3,)})
        assert text.splitlines()[0] == f"{name}: no class holds it"

    def test_of_a_head_does_not_stop_a_model_without_it(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, tables=self.TABLES)
        shapes = {"m/words": (9, 5), "beam/kernel": (3,)}
        assert len(plan(mapping, shapes, options=Options(head="none")).dropped) == 1
        text = refusal(mapping, {**shapes, "m/relative": (3,)}, options=Options(head="none"))
        assert "m/relative: no class holds it" in text


class TestAKeyThatEveryConfigHas:
    TABLES = '[files]\nconfig = { name = "c.json", has = ["embedding_size", "x"] }\n'

    def test_tells_a_config_from_that_of_another_model(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, tables=self.TABLES)
        shapes = {"m/words": (9, 5)}
        assert plan(mapping, shapes).sizes["E"] == 5
        assert plan(mapping, shapes, {"embedding_size": 5, "x": 1}).sizes["E"] == 5
        text = refusal(mapping, shapes, {"vocab_size": 9, "x": None})
        assert "lacks embedding_size and x, which every config of forms has" in text


class TestLacks:
    def test_keeps_a_mapping_from_being_chosen(self, tmp_path: Path) -> None:
        mapping = forms(tmp_path, top='lacks = ["x/better", "y"]')
        words = Variable("a/m/words", "float32", (9, 5), 180)
        assert fits([words], mapping)
        assert not fits([words, Variable("a/x/better", "float32", (), 4)], mapping)
        assert not fits([words, Variable("y", "float32", (), 4)], mapping)
        assert fits([words, Variable("yy", "float32", (), 4)], mapping)


@pytest.mark.parametrize(
    ("parts", "facts"),
    [
        ({"body": '{ tf = "m/a", pt = "a", shape = ["H-"] },'}, ["shape", "'H-'"]),
        ({"body": '{ tf = "m/a", pt = "a", shape = ["Q-1"] },'}, ["shape", "'Q-1'"]),
        ({"body": '{ tf = "m/a", pt = "a", shape = ["3*2"] },'}, ["shape", "'3*2'"]),
        ({"body": '{ tf = "m/a", pt = "a", shape = ["H", []] },'}, ["merges no dimensions"]),
        (
            {"body": '{ tf = "m/a", pt = "a", shape = ["H", ["A"], 2], op = "transpose" },'},
            ["does not take 3 dimensions"],
        ),
        (
            {"body": '{ tf = "m/a{l}", pt = "a{l}", shape = [2], for = { l = "0..Q-1" } },'},
            ["for.l", "Q is not a symbol"],
        ),
        (
            {"body": '{ tf = "m/a{l}", pt = "a{l}", shape = [2], for = { l = "0..L*2" } },'},
            ["for.l", "neither a list nor a range"],
        ),
        ({"body": '{ tf = "m/a", pt = "a", shape = [2], prefer = "x" },'}, ["prefer: "]),
        ({"tables": '[flags]\nx = "body"'}, ["flags.x"]),
        ({"tables": '[flags]\nhidden_size = "none"'}, ["flags.hidden_size", "set twice"]),
        ({"tables": '[[refuse]]\ntf = "a**"\nreason = "x"'}, ["refuse[0]", "'a**'"]),
        (
            {"groups": '[[group]]\nname = "g"\nunless = "E == H"\nvariable = []'},
            ["group[1] (g)", "unless"],
        ),
        (
            {"groups": '[[group]]\nname = "g"\nunless = "E = Q"\nvariable = []'},
            ["group[1] (g)", "unless"],
        ),
        (
            {"sizes": 'S = { config = "s" }', "body": '{ tf = "m/a", pt = "a", shape = ["S"] },'},
            ["S"],
        ),
        ({"sizes": 'S = { config = "s", assume = "" , divides = "Q" }'}, ["sizes.S", "divides"]),
        ({"top": 'names = "short"'}, ["names", "short"]),
    ],
)
def test_a_form_that_means_nothing_is_refused_when_it_is_loaded(
    tmp_path: Path, parts: dict[str, str], facts: list[str]
) -> None:
    with pytest.raises(MappingError) as caught:
        forms(tmp_path, **parts)
    assert [fact for fact in facts if fact not in str(caught.value)] == []


def test_the_keys_that_choose_a_mapping_stand_before_its_tables() -> None:
    for path in builtin_mappings().values():
        mapping, header = load_mapping(path), read_header(path)
        fields = header.__struct_fields__
        assert {f: getattr(header, f) for f in fields} == {f: getattr(mapping, f) for f in fields}


def test_sizes_are_always_in_the_same_order(fixtures: Path) -> None:
    orders = {json.dumps(prepare(fixtures / "mobilebert").plan.sizes) for _ in range(3)}
    assert len(orders) == 1
    sizes = prepare(fixtures / "mobilebert").plan.sizes
    assert [*sizes][:2] == ["F", "L"]
