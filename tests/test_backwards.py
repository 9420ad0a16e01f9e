"""Plans of the way back: models that others made, and those that TensorFlow can't express."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bertconvert import Options, PlanError
from bertconvert.converter.backwards import plan_back, read_backwards
from bertconvert.converter.checkpoint import Variable
from bertconvert.converter.mapping import MappingFile, builtin_mappings, load_mapping
from bertconvert.converter.plan import Plan
from bertconvert.converter.state_dict import open_state_dict
from bertconvert.converter.storage.location import parse_location

WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
MAPPINGS = {name: load_mapping(path) for name, path in builtin_mappings().items()}

Tensors = dict[str, Variable]


class Model:
    """A model's tensors and config, without their files."""

    def __init__(self, folder: Path) -> None:
        self.tensors: Tensors = dict(open_state_dict(parse_location(folder).folder()).variables)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())

    def rename(self, change: Callable[[str], str]) -> "Model":
        """Give every tensor another name."""
        names = {change(name): tensor for name, tensor in self.tensors.items()}
        self.tensors = {name: replace(tensor, name=name) for name, tensor in names.items()}
        return self

    def add(self, name: str, *shape: int, dtype: str = "float32") -> "Model":
        size = 4
        for length in shape:
            size *= length
        self.tensors[name] = Variable(name, dtype, shape, size)
        return self

    def remove(self, part: str) -> "Model":
        """Remove the tensors with this part in their names."""
        self.tensors = {name: t for name, t in self.tensors.items() if part not in name}
        return self

    def without(self, *keys: str) -> "Model":
        """Remove keys of the config."""
        self.config = {key: value for key, value in self.config.items() if key not in keys}
        return self

    def plan(self, mapping: str = "bert", options: Options | None = None, **config: Any) -> Plan:
        given = self.config | config
        return plan_back(self.tensors, MAPPINGS[mapping], given, options or Options())

    def reasons(self, mapping: str = "bert", **config: Any) -> str:
        with pytest.raises(PlanError) as caught:
            self.plan(mapping, **config)
        return str(caught.value)


@pytest.fixture
def model(converted: Callable[[str], Path]) -> Callable[[str], Model]:
    """A fixture's name -> the model that it becomes, which may be changed."""
    return lambda name="pretraining": Model(converted(name))


def variables(plan: Plan) -> dict[str, tuple[int, ...]]:
    return {entry.tensor: entry.shape for entry in plan.entries}


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=lambda mapping: mapping.name)
def test_a_mapping_read_backwards_twice_has_the_first_names_and_the_ops(
    mapping: MappingFile,
) -> None:
    sizes = dict.fromkeys(mapping.sizes, 2)
    groups = [group.name for group in mapping.group if not group.instead]
    forwards = mapping.expand(sizes, groups)
    back = read_backwards(mapping).expand(sizes, groups)
    twice = read_backwards(read_backwards(mapping)).expand(sizes, groups)
    pairs = [(pair.names[0], pair.tensor, pair.op) for pair in forwards]
    assert [(pair.tensor, pair.names[0], pair.op) for pair in back] == pairs
    assert [(pair.names[0], pair.tensor, pair.op) for pair in twice] == pairs


class TestModelsThatOthersMade:
    def test_with_old_names_and_buffers_are_the_same(self, model: Callable[..., Model]) -> None:
        old = model().rename(
            lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
        )
        plan = old.add("bert.embeddings.position_ids", 1, 64, dtype="int64").plan()
        assert variables(plan) == variables(model().plan())
        assert [drop.variable for drop in plan.dropped] == ["bert.embeddings.position_ids"]

    def test_without_a_prefix_are_the_same(self, model: Callable[..., Model]) -> None:
        bare = model("encoder").rename(lambda name: name.removeprefix("bert."))
        prefixed = bare.rename(lambda name: f"bert.{name}")
        assert variables(prefixed.plan()) == variables(model("encoder").plan())

    def test_without_type_and_class_are_told_by_their_tensors(
        self, model: Callable[..., Model]
    ) -> None:
        for name, head in (("pretraining", "pretraining"), ("squad", "squad"), ("encoder", "none")):
            plan = model(name).without("architectures", "model_type", "transformers_version").plan()
            assert plan.architecture.head == head

    def test_with_more_than_their_class_are_written_whole(
        self, model: Callable[..., Model]
    ) -> None:
        plan = model().plan(architectures=["BertForMaskedLM"])
        assert plan.architecture.name == "BertForPreTraining"
        assert "cls/seq_relationship/output_weights" in variables(plan)
        assert any("config.json says BertForMaskedLM" in note for note in plan.notes)

    def test_with_less_than_their_class_are_refused(self, model: Callable[..., Model]) -> None:
        reasons = model().remove("seq_relationship").reasons()
        assert "BertForPreTraining needs the nsp, and the model has neither of its 2" in reasons

    def test_with_a_head_that_the_caller_leaves_out(self, model: Callable[..., Model]) -> None:
        custom = model("encoder").rename(lambda name: f"bert.{name}").add("my_head.weight", 2, 32)
        assert "MyBert" in custom.reasons(architectures=["MyBert"])
        plan = custom.plan(options=Options(head="none"), architectures=["MyBert"])
        assert variables(plan) == variables(model("encoder").plan())
        assert [drop.variable for drop in plan.dropped] == ["my_head.weight"]

    def test_with_an_unknown_tensor_inside_are_refused_with_every_head(
        self, model: Callable[..., Model]
    ) -> None:
        odd = model().add("bert.adapter.weight", 4, 4)
        assert "bert.adapter.weight (float32 [4, 4]) is unknown" in odd.reasons()
        with pytest.raises(PlanError, match=r"bert\.adapter\.weight"):
            odd.plan(options=Options(head="none"))


class TestAnOutputLayer:
    def test_that_is_written_out_must_equal_the_embeddings(
        self, model: Callable[..., Model]
    ) -> None:
        plan = model().add(DECODER, 128, 32).plan()
        assert [(tie.pt, tie.to) for tie in plan.ties] == [(DECODER, WORDS)]
        assert variables(plan) == variables(model().plan())

    def test_of_another_shape_is_refused(self, model: Callable[..., Model]) -> None:
        assert f"{DECODER} [64, 32] has another shape" in model().add(DECODER, 64, 32).reasons()

    def test_that_is_not_tied_and_not_there_is_refused(self, model: Callable[..., Model]) -> None:
        reasons = model().reasons(tie_word_embeddings=False)
        assert f"sets tie_word_embeddings to false, and the weights lack {DECODER}" in reasons

    def test_stands_for_the_embeddings_if_only_it_is_there(
        self, model: Callable[..., Model]
    ) -> None:
        plan = model().remove(WORDS).add(DECODER, 128, 32).plan()
        assert variables(plan) == variables(model().plan())
        assert plan.ties == []

    def test_is_no_part_of_a_model_without_its_head(self, model: Callable[..., Model]) -> None:
        with_decoder = model().add(DECODER, 64, 32)
        plan = with_decoder.plan(options=Options(head="none"), tie_word_embeddings=False)
        assert plan.ties == []
        assert DECODER in [drop.variable for drop in plan.dropped]


class TestAConfig:
    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"layer_norm_eps": 1e-5}, "layer_norm_eps = 1e-05, but the original code computes"),
            ({"position_embedding_type": "relative_key"}, "'relative_key', but the original code"),
            ({"is_decoder": True}, "is_decoder = True, but the original code computes with False"),
            ({"add_cross_attention": True}, "add_cross_attention = True"),
            ({"pruned_heads": {"0": [1]}}, "the original code can't leave out heads"),
            ({"quantization_config": {"bits": 8}}, "the weights are quantized"),
            ({"hidden_act": "silu"}, "no name for hidden_act = 'silu'"),
            ({"hidden_size": 64}, "says hidden_size = 64, but the model has 32"),
            ({"num_hidden_layers": 3}, "says num_hidden_layers = 3, but the model has 2"),
            ({"num_attention_heads": 5}, "num_attention_heads = 5 does not divide hidden_size"),
            ({"num_attention_heads": "two"}, "num_attention_heads is 'two'"),
            ({"model_type": "roberta"}, "model_type is 'roberta', not 'bert'"),
            ({"architectures": ["BertLMHeadModel"]}, "'BertLMHeadModel', which the mapping bert"),
            ({"vocab_size": 127}, "says vocab_size = 127, but the model has 128"),
        ],
    )
    def test_that_the_original_code_has_no_words_for_is_refused(
        self, config: Mapping[str, Any], reason: str, model: Callable[..., Model]
    ) -> None:
        assert reason in model().reasons(**config)

    def test_need_not_have_what_the_mapping_implies(self, model: Callable[..., Model]) -> None:
        plain = replace(MAPPINGS["bert"], implied={})
        squad = model("squad")
        plan = plan_back(squad.tensors, plain, squad.config, Options())
        assert variables(plan) == variables(model("squad").plan())

    def test_must_tell_the_heads(self, model: Callable[..., Model]) -> None:
        reasons = model().without("num_attention_heads").reasons()
        assert reasons == (
            "neither the tensors nor a config tell num_attention_heads. Add it to config.json"
        )

    @pytest.mark.parametrize(
        ("stated", "written", "is_noted"),
        [
            ("gelu", "gelu", True), ("gelu_new", "gelu", False), ("relu", "relu", False),
            ("gelu_pytorch_tanh", "gelu", False), ("gelu_python", "gelu", True),
            ("tanh", "tanh", False), ("linear", "linear", False), (None, "gelu", True),
        ],
    )  # fmt: skip
    def test_has_the_name_of_the_activation_in_the_original_code(
        self, stated: str | None, written: str, is_noted: bool, model: Callable[..., Model]
    ) -> None:
        plan = model().plan(hidden_act=stated)
        assert plan.config["hidden_act"] == written
        assert is_noted == any("which is the erf form" in note for note in plan.notes)

    def test_has_the_keys_that_the_original_code_reads(self, model: Callable[..., Model]) -> None:
        assert sorted(model().plan().config) == [
            "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size",
            "initializer_range", "intermediate_size", "max_position_embeddings",
            "num_attention_heads", "num_hidden_layers", "type_vocab_size", "vocab_size",
        ]  # fmt: skip
        mobile = model("mobilebert").plan("mobilebert").config
        assert mobile["normalization_type"] == "no_norm"
        assert mobile["classifier_activation"] is False


class TestATensor:
    def test_of_another_shape_is_refused(self, model: Callable[..., Model]) -> None:
        reasons = model().add("bert.pooler.dense.weight", 3, 4).reasons()
        assert "bert.pooler.dense.weight has the shape [3, 4] but should have [H, H]" in reasons

    @pytest.mark.parametrize("dtype", ["int8", "F8_E8M0", "bool", "complex64"])
    def test_that_is_no_floating_point_number_is_refused(
        self, dtype: str, model: Callable[..., Model]
    ) -> None:
        reasons = model().add("bert.pooler.dense.bias", 32, dtype=dtype).reasons()
        assert f"bert.pooler.dense.bias is {dtype}; weights are float64" in reasons

    def test_that_is_missing_is_named(self, model: Callable[..., Model]) -> None:
        lost = "bert.encoder.layer.1.output.dense.weight"
        assert f"1 of its 37 tensors is missing:\n  {lost}" in model().remove(lost).reasons()

    def test_is_split_where_the_variable_has_more_dimensions(
        self, model: Callable[..., Model]
    ) -> None:
        shapes = variables(model("tf2-pretraining").plan("bert_tf2"))
        heads = model("tf2-pretraining").config["num_attention_heads"]
        hidden = model("tf2-pretraining").config["hidden_size"]
        query = "transformer/layer_0/self_attention/query"
        assert shapes[f"{query}/kernel"] == (hidden, heads, hidden // heads)
        assert shapes[f"{query}/bias"] == (heads, hidden // heads)
