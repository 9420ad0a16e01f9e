import contextlib
import json
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertconvert import MappingError, Options, Plan, PlanError, Variable, open_checkpoint
from bertconvert.converter.mapping import MappingFile, builtin_mappings, load_mapping
from bertconvert.converter.plan import make_plan
from bertconvert.converter.scope import fits
from bertconvert.converter.tokenizers.registry import Role, SpecialToken

BERT = load_mapping(builtin_mappings()["bert"])
SIZES = {"L": 2, "H": 128, "I": 512, "V": 100, "P": 64, "T": 2, "C": 3}
CONFIG = {
    "vocab_size": 100,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
}
PRETRAINING = ("encoder", "pooler", "mlm", "nsp")
WORDS = "bert/embeddings/word_embeddings"

Variables = dict[str, Variable]


def checkpoint(
    *groups: str,
    sizes: Mapping[str, int] = SIZES,
    scope: str = "",
    dtype: str = "float32",
    mapping: MappingFile = BERT,
) -> Variables:
    """The variables of some groups, as a checkpoint of these sizes has them."""
    made = [
        variable(
            scope + pair.names[0],
            [sizes[s] if isinstance(s, str) else s for s in pair.shape],
            dtype,
        )
        for pair in mapping.expand(sizes, groups or PRETRAINING)
    ]
    return {v.name: v for v in made}


def variable(name: str, shape: Iterable[int] = (), dtype: str = "float32") -> Variable:
    return Variable(name, dtype, tuple(shape), 4 * math.prod(shape))


def extra(*names: str, shape: Iterable[int] = (), dtype: str = "float32") -> Variables:
    return {name: variable(name, shape, dtype) for name in names}


def renamed(variables: Variables, old: str, new: str) -> Variables:
    """The same with one part of all names changed."""
    names = {name: name.replace(old, new) for name in variables}
    assert set(names) != set(names.values()), old
    return {names[v.name]: variable(names[v.name], v.shape, v.tf_dtype) for v in variables.values()}


def keras_style(variables: Variables) -> Variables:
    """The names that a modeling.py with tf.keras layers has: numbered through the whole graph."""
    made, numbers = {}, {"LayerNorm": 0, "dense": 0}
    keras = {"LayerNorm": "layer_normalization", "dense": "dense"}
    folders: dict[str, str] = {}
    for name, old in variables.items():
        folder, _, weight = name.rpartition("/")
        layer = folder.rpartition("/")[2]
        if layer in keras and folder not in folders:
            number = numbers[layer]
            numbers[layer] += 1
            folders[folder] = folder.removesuffix(layer) + keras[layer]
            folders[folder] += f"_{number}" if number else ""
        new = f"{folders.get(folder, folder)}/{weight}".lstrip("/")
        made[new] = variable(new, old.shape, old.tf_dtype)
    return made


def kind(value: object) -> str:
    """The id of a test: Python writes no number of more than 4,300 digits."""
    return (
        f"{type(value).__name__} of {value.bit_length()} bits"
        if type(value) is int
        else repr(value)[:12]
    )


def refusal(variables: Variables, *args: object, **kwargs: object) -> str:
    with pytest.raises(PlanError) as caught:
        make_plan(variables, BERT, *args, **kwargs)
    assert caught.value.reasons
    assert str(caught.value) == "\n".join(caught.value.reasons)
    return str(caught.value)


def accounted(plan: Plan, variables: Variables) -> bool:
    """Whether every variable becomes one tensor or is left behind, and every tensor is new."""
    used = [entry.variable for entry in plan.entries] + [drop.variable for drop in plan.dropped]
    tensors = [entry.tensor for entry in plan.entries]
    return sorted(used) == sorted(variables) and len(set(tensors)) == len(tensors)


class TestTheArchitecture:
    @pytest.mark.parametrize(
        ("groups", "name", "count"),
        [
            (["encoder"], "BertModel", 37),
            (["encoder", "pooler"], "BertModel", 39),
            (PRETRAINING, "BertForPreTraining", 46),
            (["encoder", "mlm"], "BertForMaskedLM", 42),
            (["encoder", "pooler", "mlm"], "BertForMaskedLM", 44),
            (["encoder", "pooler", "nsp"], "BertForNextSentencePrediction", 41),
            (["encoder", "pooler", "classifier"], "BertForSequenceClassification", 41),
            (["encoder", "squad"], "BertForQuestionAnswering", 39),
            (["encoder", "pooler", "squad"], "BertForQuestionAnswering", 41),
        ],
        ids=lambda value: "+".join(value) if isinstance(value, list) else None,
    )
    def test_is_the_class_that_the_groups_fill(
        self, groups: list[str], name: str, count: int
    ) -> None:
        variables = checkpoint(*groups)
        plan = make_plan(variables, BERT, CONFIG)
        assert plan.architecture.name == name
        assert plan.groups == list(groups)
        assert len(plan.entries) == count
        assert accounted(plan, variables)
        assert plan.dropped == []

    @pytest.mark.parametrize("labels", [1, 2, 3, 1000])
    def test_has_as_many_labels_as_the_classifier_has_rows(self, labels: int) -> None:
        plan = make_plan(
            checkpoint("encoder", "pooler", "classifier", sizes={**SIZES, "C": labels}), BERT
        )
        assert plan.config["num_labels"] == labels

    def test_says_nothing_of_labels_where_there_is_no_classifier(self) -> None:
        for groups in (PRETRAINING, ["encoder", "squad"], ["encoder"]):
            assert "num_labels" not in make_plan(checkpoint(*groups), BERT).config

    @pytest.mark.parametrize("head", ["token", "BertForTokenClassification"])
    def test_of_a_token_classifier_is_chosen_by_the_caller_alone(self, head: str) -> None:
        variables = checkpoint("encoder", "pooler", "classifier")
        plan = make_plan(variables, BERT, options=Options(head=head))
        assert plan.architecture.name == "BertForTokenClassification"
        assert plan.groups == ["encoder", "pooler", "classifier"]
        assert accounted(plan, variables)

    def test_of_a_classifier_without_a_pooler_can_only_be_a_token_classifier_and_that_is_asked(
        self,
    ) -> None:
        text = refusal(checkpoint("encoder", "classifier"))
        assert text.endswith("--head: token (BertForTokenClassification), none (BertModel)")
        plan = make_plan(checkpoint("encoder", "classifier"), BERT, options=Options(head="token"))
        assert plan.groups == ["encoder", "classifier"]

    @pytest.mark.parametrize(
        ("head", "dropped"),
        [("none", 7), ("mlm", 2), ("nsp", 5), ("pretraining", 0)],
    )
    def test_may_be_less_than_there_is_and_the_rest_is_left_behind(
        self, head: str, dropped: int
    ) -> None:
        variables = checkpoint()
        plan = make_plan(variables, BERT, options=Options(head=head))
        assert plan.architecture.head == head
        assert len(plan.dropped) == dropped
        assert accounted(plan, variables)
        assert all(plan.architecture.name in drop.reason for drop in plan.dropped)

    def test_that_lacks_a_group_is_refused(self) -> None:
        text = refusal(checkpoint("encoder", "pooler", "mlm"), options=Options(head="pretraining"))
        assert "--head pretraining needs the nsp" in text
        assert "neither of its 2 variables" in text
        assert "cls/seq_relationship/output_weights" in text

    def test_that_nobody_knows_is_refused_with_those_there_are(self) -> None:
        text = refusal(checkpoint(), options=Options(head="clasifier"))
        assert "clasifier" in text
        assert "pretraining, mlm, nsp, classifier, token, squad, none" in text

    @pytest.mark.parametrize(
        ("groups", "offered"),
        [
            (
                [*PRETRAINING, "classifier"],
                [
                    "pretraining (BertForPreTraining)",
                    "classifier (BertForSequenceClassification)",
                    "token (BertForTokenClassification)",
                ],
            ),
            (
                ["encoder", "pooler", "classifier", "squad"],
                [
                    "classifier (BertForSequenceClassification)",
                    "squad (BertForQuestionAnswering)",
                ],
            ),
        ],
    )
    def test_is_asked_where_heads_are_there_that_no_class_holds_together(
        self, groups: list[str], offered: list[str]
    ) -> None:
        variables = checkpoint(*groups)
        text = refusal(variables)
        assert text.endswith("--head: " + ", ".join(offered))
        for offer in offered:
            plan = make_plan(variables, BERT, options=Options(head=offer.split()[0]))
            assert accounted(plan, variables)

    def test_without_a_pooler_says_what_that_means(self) -> None:
        plan = make_plan(checkpoint("encoder"), BERT, CONFIG)
        assert any("add_pooling_layer=False" in note for note in plan.notes)
        assert make_plan(checkpoint("encoder", "pooler"), BERT, CONFIG).notes == []

    @pytest.mark.parametrize(
        ("groups", "ties"), [(PRETRAINING, 2), (["encoder", "mlm"], 2), (["encoder", "squad"], 0)]
    )
    def test_ties_the_decoder_where_it_has_one(self, groups: list[str], ties: int) -> None:
        assert len(make_plan(checkpoint(*groups), BERT).ties) == ties


class TestTheEntries:
    def test_have_the_shape_that_pytorch_holds(self) -> None:
        shapes = {e.tensor: (e.shape, e.op) for e in make_plan(checkpoint(), BERT).entries}
        assert shapes["bert.embeddings.word_embeddings.weight"] == ((100, 128), "identity")
        assert shapes["bert.encoder.layer.1.intermediate.dense.weight"] == ((512, 128), "transpose")
        assert shapes["bert.encoder.layer.1.output.dense.weight"] == ((128, 512), "transpose")
        assert shapes["cls.seq_relationship.weight"] == ((2, 128), "identity")

    def test_count_parameters_and_bytes(self) -> None:
        plan = make_plan(checkpoint(), BERT)
        total = sum(math.prod(v.shape) for v in checkpoint().values())
        assert plan.parameters == total
        assert sum(entry.nbytes for entry in plan.entries) == 4 * total

    def test_are_in_the_order_of_the_forward_pass_whatever_the_checkpoints_is(self) -> None:
        variables = list(checkpoint().items())
        expected = make_plan(dict(variables), BERT)
        random.Random(0).shuffle(variables)
        assert make_plan(dict(variables), BERT) == expected
        assert expected.entries[0].tensor == "bert.embeddings.word_embeddings.weight"
        assert expected.entries[-1].tensor == "cls.seq_relationship.bias"

    def test_go_layer_by_layer(self) -> None:
        layers = [
            int(e.name.split("layer_")[1].split("/")[0])
            for e in make_plan(checkpoint(sizes={**SIZES, "L": 3}), BERT).entries
            if "/layer_" in e.name
        ]
        assert layers == sorted(layers) and set(layers) == {0, 1, 2}

    def test_have_the_original_name_whatever_the_scope_and_the_spelling(self) -> None:
        variables = renamed(keras_style(checkpoint()), "bert/", "teacher/bert/")
        variables = renamed(variables, "cls/", "teacher/cls/")
        assert {entry.name for entry in make_plan(variables, BERT).entries} == set(checkpoint())

    @pytest.mark.parametrize(("head", "strip"), [("none", "bert."), ("mlm", "")])
    def test_lose_the_prefix_that_the_class_does_not_have(self, head: str, strip: str) -> None:
        plan = make_plan(checkpoint(), BERT, options=Options(head=head))
        assert plan.entries[0].tensor == "bert.embeddings.word_embeddings.weight"[len(strip) :]

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
    def test_keep_the_dtype_unless_another_is_chosen(self, dtype: str) -> None:
        assert make_plan(checkpoint(dtype=dtype), BERT).dtype == dtype
        for choice in ("float32", "float16", "bfloat16"):
            plan = make_plan(checkpoint(dtype=dtype), BERT, options=Options(dtype=choice))
            assert {entry.dtype for entry in plan.entries} == {choice}
            assert plan.dtype == choice

    def test_of_several_dtypes_are_loaded_as_the_widest(self) -> None:
        variables = checkpoint(dtype="float16")
        variables |= extra(WORDS, shape=(100, 128), dtype="float32")
        assert make_plan(variables, BERT).dtype == "float32"

    @pytest.mark.parametrize("dtype", ["int32", "uint8", "string", "complex64", "bool"])
    def test_are_floating_point_numbers(self, dtype: str) -> None:
        variables = checkpoint() | extra(WORDS, shape=(100, 128), dtype=dtype)
        text = refusal(variables)
        assert text.startswith(f"{WORDS} is {dtype};")
        assert "float64, float32, bfloat16 and float16" in text


class TestKerasStyleNames:
    def test_become_the_same_tensors(self) -> None:
        variables = keras_style(checkpoint())
        assert "bert/embeddings/layer_normalization/gamma" in variables
        assert "bert/encoder/layer_1/attention/output/layer_normalization_3/gamma" in variables
        assert "bert/encoder/layer_0/intermediate/dense_1/kernel" in variables
        assert "bert/pooler/dense_6/kernel" in variables
        plan, google = make_plan(variables, BERT), make_plan(checkpoint(), BERT)
        assert accounted(plan, variables)
        assert [(e.tensor, e.shape, e.op) for e in plan.entries] == [
            (e.tensor, e.shape, e.op) for e in google.entries
        ]

    def test_may_be_in_a_scope_and_have_slots(self) -> None:
        variables = renamed(keras_style(checkpoint()), "bert/", "teacher/bert/")
        variables = renamed(variables, "cls/", "teacher/cls/")
        variables |= {n: v for name in list(variables) for n, v in extra(f"{name}/Adam_1").items()}
        plan = make_plan(variables, BERT)
        assert len(plan.entries) == len(plan.dropped) == 46
        assert accounted(plan, variables)

    def test_that_mean_the_same_tensor_as_googles_are_refused(self) -> None:
        name = "bert/embeddings/layer_normalization/gamma"
        text = refusal(checkpoint() | extra(name, shape=(128,)))
        assert f"{name} (float32 [128]) and bert/embeddings/LayerNorm/gamma" in text
        assert "bert.embeddings.LayerNorm.weight" in text

    def test_of_which_two_could_be_meant_are_both_named(self) -> None:
        variables = renamed(checkpoint(), "bert/pooler/dense/", "bert/pooler/dense_1/")
        text = refusal(variables | extra("bert/pooler/dense_2/kernel", shape=(128, 128)))
        assert "pooler is incomplete: 1 of its 2 variables" in text
        assert "bert/pooler/dense_1/kernel and bert/pooler/dense_2/kernel" in text


class TestWhatIsLeftBehind:
    @pytest.mark.parametrize(
        "slots",
        [
            ("adam_m", "adam_v"),
            ("Adam", "Adam_1"),
            ("AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1"),
            ("BERTAdam", "BERTAdam_1"),
            ("LAMB", "LAMB_1"),
            ("lamb_m", "lamb_v"),
            ("LAMBOptimizer", "LAMBOptimizer_1"),
            ("Momentum",),
            ("ExponentialMovingAverage",),
        ],
        ids="+".join,
    )
    @pytest.mark.parametrize("scope", ["", "teacher/"])
    def test_are_the_slots_of_every_optimizer(self, slots: tuple[str, ...], scope: str) -> None:
        weights = checkpoint(scope=scope)
        variables = dict(weights)
        for name, weight in weights.items():
            variables |= extra(*(f"{name}/{slot}" for slot in slots), shape=weight.shape)
        plan = make_plan(variables, BERT)
        assert {entry.variable for entry in plan.entries} == set(weights)
        assert len(plan.dropped) == len(slots) * len(weights)
        assert accounted(plan, variables)

    def test_is_the_state_of_training_with_its_reason(self) -> None:
        state = ["global_step", "beta1_power", "bert/beta2_power", "loss_scale", "good_steps"]
        plan = make_plan(checkpoint() | extra(*state, dtype="int64"), BERT)
        assert [drop.variable for drop in plan.dropped] == sorted(state)
        assert all(drop.reason for drop in plan.dropped)
        assert {drop.variable: drop.reason for drop in plan.dropped}["global_step"] == (
            "training step"
        )

    def test_is_all_there_is_of_a_checkpoint_without_a_model(self) -> None:
        text = refusal(extra("global_step", f"{WORDS}/adam_m"))
        assert f"no {WORDS}" in text


class TestScopes:
    def test_a_model_in_a_scope_is_found_and_said(self) -> None:
        variables = checkpoint(scope="teacher/net/")
        plan = make_plan(variables, BERT, CONFIG)
        assert plan.scope == "teacher/net/"
        (note,) = plan.notes
        assert "teacher/net/" in note
        assert accounted(plan, variables)
        assert plan.entries[0].tensor == "bert.embeddings.word_embeddings.weight"

    def test_its_head_may_lie_outside(self) -> None:
        variables = checkpoint("encoder", "pooler", scope="module/")
        variables |= {
            v.name: v
            for v in checkpoint("encoder", "pooler", "classifier").values()
            if not v.name.startswith("bert/")
        }
        plan = make_plan(variables, BERT)
        assert plan.architecture.name == "BertForSequenceClassification"
        assert accounted(plan, variables)

    def test_a_variable_both_inside_and_outside_is_not_lost_but_refused(self) -> None:
        variables = checkpoint("encoder", "pooler", "classifier", scope="module/")
        variables |= extra("output_bias", shape=(3,))
        text = refusal(variables)
        assert "scope module/" in text
        assert "output_bias both inside and outside" in text
        assert "--scope module" in text
        plan = make_plan(variables, BERT, options=Options(scope="module"))
        assert accounted(plan, variables)
        assert plan.dropped[0].reason == "outside the scope module/"

    def test_two_models_are_refused_with_the_names_of_both(self) -> None:
        text = refusal(checkpoint() | checkpoint(scope="teacher/"))
        assert "2 models, in the scopes / (the root), teacher/." in text
        assert "--scope / or --scope teacher" in text

    def test_the_scopes_that_are_offered_are_there(self) -> None:
        text = refusal(checkpoint(scope="a/") | checkpoint(scope="b/c/"))
        assert "--scope a or --scope b/c" in text

    def test_a_hundred_models_are_not_all_listed(self) -> None:
        text = refusal(extra(*(f"model_{number}/{WORDS}" for number in range(100))))
        assert "100 models" in text
        assert "... and 88 more" in text

    @pytest.mark.parametrize(
        ("choice", "scope"),
        [
            ("/", ""),
            ("", ""),
            (".", ""),
            ("teacher", "teacher/"),
            ("teacher/", "teacher/"),
            ("/teacher/", "teacher/"),
        ],
    )
    def test_the_caller_chooses_one_and_the_other_is_left_behind(
        self, choice: str, scope: str
    ) -> None:
        variables = checkpoint() | checkpoint("encoder", "pooler", scope="teacher/")
        plan = make_plan(variables, BERT, options=Options(scope=choice))
        assert plan.scope == scope
        assert accounted(plan, variables)
        assert all(entry.variable.startswith("teacher/") == bool(scope) for entry in plan.entries)
        assert {drop.reason for drop in plan.dropped} == {
            "outside the scope teacher/" if scope else "in the scope teacher/"
        }

    def test_a_scope_within_a_scope_is_another_model(self) -> None:
        variables = checkpoint(scope="a/") | checkpoint(scope="a/b/")
        outer = make_plan(variables, BERT, options=Options(scope="a"))
        inner = make_plan(variables, BERT, options=Options(scope="a/b"))
        assert accounted(outer, variables)
        assert accounted(inner, variables)
        assert {drop.reason for drop in outer.dropped} == {"in the scope a/b/"}

    @pytest.mark.parametrize("choice", ["student", "teach", "teacher/bert", "/", ".."])
    def test_a_scope_without_a_model_is_refused_with_those_that_have_one(self, choice: str) -> None:
        text = refusal(checkpoint(scope="teacher/"), options=Options(scope=choice))
        assert f"--scope {choice!r}" in text
        assert text.endswith("teacher/")

    @pytest.fixture
    def hub(self) -> Variables:
        """An encoder in the scope module/, whose head is at the root."""
        variables = checkpoint("encoder", "pooler", "mlm", scope="module/")
        return (
            variables | extra("output_weights", shape=(3, 128)) | extra("output_bias", shape=(3,))
        )

    @pytest.mark.parametrize("scope", [None, "module"])
    def test_a_head_outside_of_the_scope_is_taken_if_the_caller_asks_for_it(
        self, hub: Variables, scope: str | None
    ) -> None:
        plan = make_plan(hub, BERT, options=Options(scope=scope, head="classifier"))
        assert plan.architecture.name == "BertForSequenceClassification"
        assert {e.variable for e in plan.entries} >= {"output_weights", "output_bias"}
        assert accounted(plan, hub)
        (note,) = [note for note in plan.notes if "scope module/" in note]
        assert "output_weights" in note

    def test_what_is_outside_of_a_chosen_scope_is_skipped_without_a_head_that_needs_it(
        self, hub: Variables
    ) -> None:
        plan = make_plan(hub | extra("junk"), BERT, options=Options(scope="module"))
        assert plan.architecture.name == "BertForMaskedLM"
        outside = {d.variable for d in plan.dropped if d.reason == "outside the scope module/"}
        assert outside == {"output_weights", "output_bias", "junk"}
        for head in ("classifier", "none"):
            options = Options(scope="module", head=head)
            plan = make_plan(hub | extra("junk"), BERT, options=options)
            assert {d.variable: d.reason for d in plan.dropped}["junk"].startswith("outside")
            assert accounted(plan, hub | extra("junk"))

    def test_a_head_outside_of_two_scopes_belongs_to_the_one_that_is_chosen_with_it(
        self, hub: Variables
    ) -> None:
        hub |= checkpoint(scope="other/")
        plan = make_plan(hub, BERT, options=Options(scope="other", head="classifier"))
        assert plan.entries[-1].variable == "output_bias"
        assert accounted(plan, hub)
        hub |= extra("bert/pooler/dense/bias", "bert/pooler/dense/kernel")
        options = Options(scope="other", head="none")
        assert {
            e.variable.split("/")[0] for e in make_plan(hub, BERT, options=options).entries
        } == {"other"}

    def test_a_head_of_another_model_is_not_taken_and_the_error_says_where_it_is(self) -> None:
        variables = checkpoint("encoder", "pooler", "classifier")
        variables |= checkpoint("encoder", "pooler", scope="teacher/")
        text = refusal(variables, options=Options(scope="teacher", head="classifier"))
        assert "output_weights" in text
        assert "outside the scope teacher/" in text


CRF = {"crf_loss/transitions": (9, 9), "project/logits/W": (128, 9), "project/logits/b": (9,)}
ADAPTERS = [f"bert/encoder/layer_{n}/output/adapters/weights1" for n in range(2)]


class TestAHeadOfItsOwn:
    """One that no class of the mapping holds."""

    @pytest.fixture
    def crf(self) -> Variables:
        made = checkpoint("encoder", "pooler")
        for name, shape in CRF.items():
            made |= extra(name, shape=shape)
        return made

    def test_is_named_as_one_with_what_can_be_done(self, crf: Variables) -> None:
        lines = refusal(crf).splitlines()
        assert "3 variables outside of bert/" in lines[0]
        assert all(name in line for name, line in zip(CRF, lines[1:4], strict=True))
        assert "--head none" in lines[-1]
        assert "--drop 'crf_loss/**/*' --drop 'project/**/*'" in lines[-1]

    def test_is_offered_patterns_that_skip_it_in_a_scope(self, crf: Variables) -> None:
        scoped = {f"a/b/{n}": variable(f"a/b/{n}", v.shape) for n, v in crf.items()}
        assert "--drop 'a/b/crf_loss/**/*'" in refusal(scoped)
        drop = ("a/b/crf_loss/**/*", "a/b/project/**/*")
        assert accounted(make_plan(scoped, BERT, options=Options(drop=drop)), scoped)

    @pytest.mark.parametrize("head", ["none", "BertModel"])
    def test_is_left_behind_and_listed_by_the_class_without_a_head(
        self, crf: Variables, head: str
    ) -> None:
        crf |= checkpoint("mlm") | extra("crf_loss/transitions/adam_m")
        plan = make_plan(crf, BERT, options=Options(head=head))
        assert plan.groups == ["encoder", "pooler"]
        assert accounted(plan, crf)
        reasons = {d.variable: d.reason for d in plan.dropped}
        assert {reasons[name] for name in CRF} == {
            "a head of its own, outside of bert/: not part of BertModel"
        }
        assert reasons["crf_loss/transitions/adam_m"] == "optimizer slot"
        assert any(all(name in note for name in CRF) for note in plan.notes)
        assert plan.doubts == []

    @pytest.mark.parametrize("head", ["mlm", "pretraining", "nsp"])
    def test_is_not_left_behind_by_another_class(self, crf: Variables, head: str) -> None:
        text = refusal(crf | checkpoint("mlm", "nsp"), options=Options(head=head))
        assert "3 variables outside of bert/" in text

    @pytest.mark.parametrize(
        "name",
        [
            "bert/embeddings/entity_embeddings",
            "bert/encoder/layer_0/attention/self/query/kernel_1",
            "bert/encoder/layer_0/moe/kernel",
            "bert/pooler/dense_7/kernel",
            "bert/x",
            ADAPTERS[0],
        ],
    )
    def test_is_not_what_is_inside_of_the_encoder(self, crf: Variables, name: str) -> None:
        text = refusal(crf | extra(name), options=Options(head="none"))
        assert f"{name} (float32 []) " in text
        assert "crf_loss" not in text

    def test_is_not_half_a_layer_either(self, crf: Variables) -> None:
        crf |= extra("bert/encoder/layer_2/output/dense/bias", shape=(128,))
        text = refusal(crf, options=Options(head="none"))
        assert "encoder is incomplete" in text

    def test_of_a_mapping_of_ones_own_is_outside_of_its_own_folders(self, tmp_path: Path) -> None:
        (tmp_path / "m.toml").write_text(
            'name = "m"\ndetect = "net/w"\nmodel_type = "x"\nsizes = { L = "layers" }\n'
            '[[group]]\nname = "g"\nrequired = true\n'
            '[[group.variable]]\ntf = "net/w"\npt = "w"\nshape = [1]\n'
            '[[group.variable]]\ntf = "block_{l}/w"\npt = "b.{l}"\nshape = [1]\n'
            'for = { l = "0..L" }\n'
            '[[architecture]]\nclass = "M"\nhead = "none"\ngroups = ["g"]\n'
        )
        mapping = load_mapping(tmp_path / "m.toml")
        assert mapping.folders == ["block_", "net/"]
        variables = extra("net/w", "block_0/w", "head/w", shape=(1,))
        plan = make_plan(variables, mapping, options=Options(head="none"))
        assert [d.variable for d in plan.dropped] == ["head/w"]
        for name in ("net/x", "block_0/x"):
            with pytest.raises(PlanError, match=name):
                make_plan(variables | extra(name), mapping, options=Options(head="none"))


class TestADenseHead:
    """One dense layer of Keras, whose name says nothing."""

    @pytest.fixture(params=["dense", "dense_37", "loss/dense_3", "a/b/logits"])
    def place(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def dense(self, place: str, labels: int = 13, width: int = 128) -> Variables:
        kernel = extra(f"{place}/kernel", shape=(width, labels))
        return kernel | extra(f"{place}/bias", shape=(labels,))

    @pytest.mark.parametrize(
        ("head", "name"),
        [
            ("classifier", "BertForSequenceClassification"),
            ("BertForSequenceClassification", "BertForSequenceClassification"),
            ("token", "BertForTokenClassification"),
        ],
    )
    def test_is_the_classifier_if_the_caller_says_so(
        self, place: str, head: str, name: str
    ) -> None:
        variables = checkpoint("encoder", "pooler") | self.dense(place)
        plan = make_plan(variables, BERT, options=Options(head=head))
        assert plan.architecture.name == name
        assert accounted(plan, variables)
        kernel, bias = plan.entries[-2:]
        assert (kernel.variable, kernel.tensor) == (f"{place}/kernel", "classifier.weight")
        assert (kernel.shape, kernel.op) == ((13, 128), "transpose")
        assert (bias.variable, bias.tensor) == (f"{place}/bias", "classifier.bias")
        assert plan.config["num_labels"] == 13
        assert any(f"{place}/kernel" in note and "--head" in note for note in plan.notes)

    def test_is_offered(self, place: str) -> None:
        text = refusal(checkpoint("encoder", "pooler") | self.dense(place))
        assert "--head classifier or --head token" in text
        assert "--head none" in text

    def test_may_be_googles_in_a_scope_of_its_own(self) -> None:
        variables = checkpoint("encoder", "pooler")
        variables |= extra("task/output_weights", shape=(5, 128))
        variables |= extra("task/output_bias", shape=(5,))
        assert "--head classifier" in refusal(variables)
        plan = make_plan(variables, BERT, options=Options(head="classifier"))
        assert plan.entries[-2].variable == "task/output_weights"
        assert (plan.entries[-2].shape, plan.entries[-2].op) == ((5, 128), "identity")
        variables |= self.dense("dense")
        text = refusal(variables, options=Options(head="classifier"))
        assert "2 parts of the checkpoint fit" in text

    def test_is_a_head_of_its_own_without_a_word_of_the_caller(self, place: str) -> None:
        assert "2 variables outside" in refusal(checkpoint() | self.dense(place))

    @pytest.mark.parametrize("scope", [None, "module"])
    def test_may_be_at_the_root_while_the_encoder_is_not(
        self, place: str, scope: str | None
    ) -> None:
        variables = checkpoint("encoder", "pooler", scope="module/") | self.dense(place)
        plan = make_plan(variables, BERT, options=Options(scope=scope, head="classifier"))
        assert plan.entries[-1].variable == f"{place}/bias"
        assert accounted(plan, variables)

    def test_is_one_only(self) -> None:
        variables = checkpoint("encoder", "pooler") | self.dense("dense") | self.dense("dense_1")
        assert "--head classifier" not in refusal(variables)
        text = refusal(variables, options=Options(head="classifier"))
        assert "2 parts of the checkpoint fit as the classifier" in text
        assert "takes it" not in text
        assert "dense/kernel and dense/bias; dense_1/kernel and dense_1/bias" in text
        plan = make_plan(variables, BERT, options=Options(head="classifier", drop=("dense_1/*",)))
        assert plan.entries[-1].variable == "dense/bias"

    @pytest.mark.parametrize(
        "other",
        [
            {"dense/kernel": (64, 13), "dense/bias": (13,)},
            {"dense/kernel": (128, 13), "dense/bias": (12,)},
            {"dense/kernel": (128, 13), "dense_1/bias": (13,)},
            {"dense/kernel": (128, 13)},
            {"dense/kernel": (3, 128, 13), "dense/bias": (13,)},
            {"bert/dense/kernel": (128, 13), "bert/dense/bias": (13,)},
        ],
        ids=str,
    )
    def test_has_a_kernel_and_a_bias_that_fit(self, other: dict[str, tuple[int, ...]]) -> None:
        variables = checkpoint("encoder", "pooler")
        for name, shape in other.items():
            variables |= extra(name, shape=shape)
        assert "--head classifier" not in refusal(variables)
        text = refusal(variables, options=Options(head="classifier"))
        assert "--head classifier needs the classifier" in text

    def test_of_two_layers_is_not_taken(self) -> None:
        variables = checkpoint("encoder", "pooler") | self.dense("dense", 64)
        variables |= self.dense("dense_1", 13, 64)
        text = refusal(variables, options=Options(head="classifier"))
        assert "dense_1/kernel (float32 [64, 13]) is unknown" in text

    def test_does_not_stand_for_a_classifier_that_exists(self) -> None:
        variables = checkpoint("encoder", "pooler", "classifier") | self.dense("dense")
        assert "2 variables outside" in refusal(variables, options=Options(head="classifier"))


class TestDropsOfTheCaller:
    def test_are_skipped_with_that_reason(self) -> None:
        variables = checkpoint() | extra("a/x", "a/b/x", "c")
        options = Options(drop=("a/**/*", "c"))
        plan = make_plan(variables, BERT, options=options)
        assert {d.variable: d.reason for d in plan.dropped} == dict.fromkeys(
            ["a/x", "a/b/x", "c"], "by the caller"
        )
        assert plan.notes == make_plan(checkpoint(), BERT).notes

    def test_leave_the_reason_of_the_mapping(self) -> None:
        plan = make_plan(
            checkpoint() | extra("global_step"), BERT, options=Options(drop=("**/global_step",))
        )
        assert plan.dropped[0].reason == "training step"

    @pytest.mark.parametrize(
        ("pattern", "lost"),
        [
            ("bert/encoder/layer_1/output/dense/bias", "bert/encoder/layer_1/output/dense/bias"),
            ("**/layer_0/**/*", "bert/encoder/layer_0/intermediate/dense/kernel"),
            ("bert/pooler/dense/kernel", "bert/pooler/dense/kernel"),
            ("cls/seq_relationship/output_bias", "cls/seq_relationship/output_bias"),
        ],
    )
    def test_never_take_what_a_tensor_needs(self, pattern: str, lost: str) -> None:
        text = refusal(checkpoint(), options=Options(drop=(pattern,)))
        assert "incomplete" in text
        assert "by the caller" in text
        assert lost.rpartition("/")[0].rpartition("/")[0] in text

    def test_never_take_what_the_mapping_is_detected_by(self) -> None:
        text = refusal(checkpoint(), options=Options(drop=("**/*",)))
        assert WORDS in text
        assert "--drop skips it" in text

    def test_may_take_a_head_or_the_pooler_whole(self) -> None:
        options = Options(drop=("cls/**/*", "bert/pooler/**/*"))
        plan = make_plan(checkpoint(), BERT, CONFIG, options=options)
        assert plan.groups == ["encoder"]
        assert plan.doubts == []
        assert "add_pooling_layer=False" in plan.notes[-1]

    @pytest.mark.parametrize("scope", ["", "teacher/"])
    def test_of_unknown_variables_inside_of_the_encoder_leave_a_doubt(self, scope: str) -> None:
        variables = checkpoint(scope=scope) | extra(*(scope + name for name in ADAPTERS))
        plan = make_plan(variables, BERT, options=Options(drop=("**/adapters/*",)))
        (doubt,) = plan.doubts
        assert doubt in plan.notes
        assert "2 variables inside of bert/" in doubt
        assert "layer_{0..1}/output/adapters/weights1" in doubt
        assert "something else" in doubt

    def test_that_fit_nothing_are_noted(self) -> None:
        plan = make_plan(checkpoint(), BERT, CONFIG, options=Options(drop=("a/*", "b")))
        assert plan.notes == ["--drop a/* fits no variable", "--drop b fits no variable"]

    @pytest.mark.parametrize("pattern", ["a**", "**", "a/**", "***/x"])
    def test_that_are_no_patterns_are_refused(self, pattern: str) -> None:
        text = refusal(checkpoint(), options=Options(drop=(pattern,)))
        assert f"--drop {pattern!r}" in text

    def test_by_a_hundred_thousand_names_take_no_longer_than_by_one(self) -> None:
        names = [f"x_{number}" for number in range(100_000)]
        options = Options(drop=tuple(names))
        assert (
            len(make_plan(checkpoint() | extra(*names), BERT, options=options).dropped) == 100_000
        )

    def test_are_offered_for_the_slots_of_an_unknown_optimizer(self) -> None:
        variables = checkpoint()
        variables |= extra(*(f"{name}/foo_m" for name in checkpoint()))
        assert "--drop '**/foo_m'" in refusal(variables)
        assert accounted(make_plan(variables, BERT, options=Options(drop=("**/foo_m",))), variables)


class TestFactorizedEmbeddings:
    def test_are_named_instead_of_all_shapes(self) -> None:
        variables = checkpoint(sizes={**SIZES, "L": 12}) | extra(WORDS, shape=(100, 32))
        text = refusal(variables, {**CONFIG, "num_hidden_layers": 12})
        assert text.splitlines()[0].startswith(f"{WORDS} [100, 32] is 32 wide")
        assert "the layers are 128 wide" in text
        assert "factorized" in text
        assert "should have" not in text

    def test_of_one_width_are_not(self) -> None:
        variables = checkpoint() | extra("bert/pooler/dense/bias", shape=(64,))
        assert "factorized" not in refusal(variables)


class TestTheConfig:
    def test_becomes_transformers_config(self) -> None:
        plan = make_plan(checkpoint(), BERT, CONFIG | {"hidden_dropout_prob": 0})
        assert plan.config == {
            **CONFIG,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-12,
            "position_embedding_type": "absolute",
            "pad_token_id": 0,
            "attention_probs_dropout_prob": 0.1,
            "hidden_dropout_prob": 0,
            "initializer_range": 0.02,
        }
        assert plan.sizes == {"L": 2, "V": 100, "H": 128, "I": 512, "P": 64, "T": 2, "A": 4}
        assert plan.notes == []

    def test_may_have_keys_that_nobody_knows(self) -> None:
        config = {**CONFIG, "directionality": "bidi", "pooler_fc_size": 768, "_x": [None]}
        assert (
            make_plan(checkpoint(), BERT, config).config.keys()
            == make_plan(checkpoint(), BERT, CONFIG).config.keys()
        )

    @pytest.mark.parametrize(
        ("key", "have"),
        [
            ("vocab_size", 100),
            ("hidden_size", 128),
            ("num_hidden_layers", 2),
            ("intermediate_size", 512),
            ("max_position_embeddings", 64),
            ("type_vocab_size", 2),
            ("num_labels", 3),
        ],
    )
    @pytest.mark.parametrize("change", [-1, 1, 1000])
    def test_that_says_another_size_is_refused_with_both_numbers_and_the_evidence(
        self, key: str, have: int, change: int
    ) -> None:
        variables = checkpoint("encoder", "pooler", "classifier")
        text = refusal(variables, {**CONFIG, key: have + change})
        assert f"{key} = {have + change}, but the checkpoint has {have} (" in text
        assert len(text.splitlines()) == 1
        assert any(name.split("/layer_")[0] in text for name in variables)

    @pytest.mark.parametrize(
        "value",
        [
            "128",
            True,
            False,
            128.0,
            0,
            -128,
            [128],
            {"a": 1},
            1 << 31,
            10**400,
            10**5000,
            "x" * 999,
        ],
        ids=kind,
    )
    @pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_labels"])
    def test_whose_size_is_no_size_is_refused_on_one_short_line(
        self, key: str, value: object
    ) -> None:
        text = refusal(checkpoint(), {**CONFIG, key: value})
        assert text.startswith(f"the config: {key} is ")
        assert text.endswith("not a size")
        assert len(text) < 300

    @pytest.mark.parametrize("key", list(CONFIG))
    def test_that_is_silent_or_null_is_completed_by_the_variables(self, key: str) -> None:
        silent = {k: v for k, v in CONFIG.items() if k != key}
        plan = make_plan(checkpoint(), BERT, silent)
        if key == "num_attention_heads":
            assert plan.config[key] == 2
        else:
            assert plan.config == make_plan(checkpoint(), BERT, CONFIG).config
        if key != "hidden_act":
            assert make_plan(checkpoint(), BERT, {**CONFIG, key: None}).config == plan.config

    @pytest.mark.parametrize(
        "value", ["0.1", True, None, [0.1], 10**400, 1e300, math.inf, math.nan], ids=kind
    )
    def test_whose_dropout_is_no_number_is_refused(self, value: object) -> None:
        text = refusal(checkpoint(), {**CONFIG, "hidden_dropout_prob": value})
        assert text.startswith("the config: hidden_dropout_prob is ")
        assert text.endswith("like 0.1")

    @pytest.mark.parametrize("key", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
    @pytest.mark.parametrize("value", [-0.1, -1, 1.0000001, 2, 100])
    def test_whose_dropout_is_no_probability_is_refused(self, key: str, value: float) -> None:
        text = refusal(checkpoint(), {**CONFIG, key: value})
        assert text == f"the config: {key} is {value!r}, but must be between 0 and 1"

    def test_whose_initializer_range_is_negative_is_refused(self) -> None:
        text = refusal(checkpoint(), {**CONFIG, "initializer_range": -0.02})
        assert text == "the config: initializer_range is -0.02, but must be at least 0"

    @pytest.mark.parametrize(
        ("key", "value"), [("hidden_dropout_prob", 1), ("initializer_range", 0)]
    )
    def test_whose_value_is_a_whole_number_has_it_as_a_float(self, key: str, value: int) -> None:
        found = make_plan(checkpoint(), BERT, {**CONFIG, key: value}).config[key]
        assert (found, type(found)) == (value, float)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("layer_norm_eps", 1e-5),
            ("layer_norm_eps", "1e-12"),
            ("position_embedding_type", "relative_key"),
            ("is_decoder", True),
            ("add_cross_attention", True),
        ],
    )
    def test_that_contradicts_the_original_code_is_refused(self, key: str, value: object) -> None:
        text = refusal(checkpoint(), {**CONFIG, key: value})
        assert text.startswith(f"the config says {key} = {value!r}")
        assert "--config" in text

    @pytest.mark.parametrize(
        ("key", "value", "model"),
        [
            ("embedding_size", 64, "ALBERT, ELECTRA and MobileBERT"),
            ("num_hidden_groups", 1, "ALBERT"),
            ("use_relative_position", True, "NEZHA"),
            ("model_type", "albert", "model_type is 'albert', not 'bert'"),
        ],
    )
    def test_of_another_model_is_refused_by_the_key(
        self, key: str, value: object, model: str
    ) -> None:
        text = refusal(checkpoint(), {**CONFIG, key: value})
        assert key in text and model in text and "another model" in text

    @pytest.mark.parametrize(
        "harmless",
        [
            {"layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "is_decoder": False},
            {"layer_norm_eps": None, "is_decoder": None, "num_hidden_groups": None},
            {"embedding_size": 128, "use_relative_position": False},
            {"model_type": "bert", "hidden_act": "gelu_new"},
        ],
    )
    def test_that_agrees_with_the_rules_changes_nothing(self, harmless: dict[str, object]) -> None:
        assert make_plan(checkpoint(), BERT, CONFIG | harmless) == make_plan(
            checkpoint(), BERT, CONFIG
        )

    def test_has_the_lines_of_its_keys_in_the_messages(self) -> None:
        lines = {"hidden_size": 3, "vocab_size": 4, "hidden_dropout_prob": 5}
        config = {**CONFIG, "hidden_size": 64, "vocab_size": "100", "hidden_dropout_prob": 7}
        text = refusal(checkpoint(), config, config_name="c.json", config_line=lines.get)
        first, second, third = sorted(text.splitlines())
        assert first.startswith("c.json (line 3) says hidden_size = 64")
        assert second.startswith("c.json (line 4): vocab_size is '100', a string")
        assert third.startswith("c.json (line 5): hidden_dropout_prob is 7")

    def test_that_is_missing_is_said_and_the_heads_are_assumed(self) -> None:
        plan = make_plan(checkpoint(), BERT)
        assert plan.config["num_attention_heads"] == 2
        assert "bert_config.json" in plan.notes[0]
        assert "num_attention_heads = 2 is assumed (H/64)" in plan.notes[1]
        assert "--num-heads" in plan.notes[1]

    def test_that_is_silent_about_the_heads_has_them_assumed(self) -> None:
        (note,) = make_plan(checkpoint(), BERT, {"num_attention_heads": None}).notes
        assert "num_attention_heads = 2 is assumed" in note

    @pytest.mark.parametrize("hidden", [1, 4, 32, 63, 64])
    def test_there_is_at_least_one_head(self, hidden: int) -> None:
        plan = make_plan(checkpoint(sizes={**SIZES, "H": hidden}), BERT)
        assert plan.config["num_attention_heads"] == 1

    def test_the_heads_that_the_caller_says_are_no_assumption(self) -> None:
        plan = make_plan(checkpoint(), BERT, options=Options(num_heads=16))
        assert plan.config["num_attention_heads"] == plan.sizes["A"] == 16
        assert len(plan.notes) == 1
        assert make_plan(checkpoint(), BERT, CONFIG, options=Options(num_heads=4)).notes == []

    def test_the_heads_of_caller_and_config_must_agree(self) -> None:
        text = refusal(checkpoint(), CONFIG, options=Options(num_heads=8))
        assert "num_attention_heads = 4" in text
        assert "--num-heads is 8" in text

    @pytest.mark.parametrize("heads", [0, -2, 10**30, True])
    def test_the_heads_that_the_caller_says_must_be_a_number_of_heads(self, heads: int) -> None:
        text = refusal(checkpoint(), options=Options(num_heads=heads))
        assert text == f"--num-heads {heads} is not a number of heads"

    @pytest.mark.parametrize("heads", [3, 5, 129, 1000])
    def test_heads_that_do_not_divide_the_hidden_size_are_refused(self, heads: int) -> None:
        expected = f"num_attention_heads = {heads} does not divide hidden_size = 128"
        assert refusal(checkpoint(), options=Options(num_heads=heads)) == expected
        assert refusal(checkpoint(), {**CONFIG, "num_attention_heads": heads}) == expected

    def test_an_assumption_that_does_not_divide_is_said_to_be_one(self) -> None:
        text = refusal(checkpoint(sizes={**SIZES, "H": 200}))
        assert text == (
            "num_attention_heads = 3 (assumed: H/64; --num-heads sets another) does not divide"
            " hidden_size = 200"
        )
        assert make_plan(checkpoint(sizes={**SIZES, "H": 200}), BERT, options=Options(num_heads=4))


class TestTheVocabulary:
    def test_of_the_embeddings_length_is_right(self) -> None:
        assert make_plan(checkpoint(), BERT, CONFIG, vocabulary_size=100)

    @pytest.mark.parametrize("size", [0, 1, 99, 101, 30522])
    def test_of_another_length_is_refused_with_both_numbers(self, size: int) -> None:
        text = refusal(checkpoint(), CONFIG, vocabulary_size=size)
        assert f"{size:,} tokens" in text
        assert f"100 word embeddings ({WORDS} [100, 128])" in text

    def test_message_names_the_file(self) -> None:
        text = refusal(checkpoint(), vocabulary_size=126, vocabulary_name="vocab.txt")
        assert text.startswith("vocab.txt has 126 tokens but the model has 100 word embeddings")
        assert text.endswith("this vocab.txt belongs to another model")

    @pytest.mark.parametrize("tokens", [99, 93, 1])
    def test_of_a_few_tokens_less_is_taken_where_the_caller_allows_it(self, tokens: int) -> None:
        assert "--pad-vocab" in refusal(checkpoint(), CONFIG, tokens)
        config = {**CONFIG, "vocab_size": tokens}  # as programs have it that round up in code
        assert "--pad-vocab" in refusal(checkpoint(), config)
        plan = make_plan(checkpoint(), BERT, config, tokens, Options(pad_vocab=True))
        assert plan.config["vocab_size"] == 100
        assert any(f"{100 - tokens}" in note for note in plan.notes)

    @pytest.mark.parametrize(("rows", "tokens"), [(2000, 976), (100, 101), (100, 30522)])
    def test_of_many_tokens_less_or_of_more_is_never_taken(self, rows: int, tokens: int) -> None:
        sizes = {**SIZES, "V": rows}
        for pad in (False, True):
            options = Options(pad_vocab=pad)
            text = refusal(checkpoint(sizes=sizes), None, tokens, options)
            assert "--pad-vocab" not in text
            assert f"{tokens:,}" in text

    def test_1023_rows_may_be_without_a_token(self) -> None:
        variables = checkpoint(sizes={**SIZES, "V": 2000})
        assert make_plan(variables, BERT, None, 977, Options(pad_vocab=True)).sizes["V"] == 2000


class TestTheIdsOfTokens:
    def test_are_rows_of_the_vocabulary_and_reported_where_they_are_unusual(self) -> None:
        for row, notes in ((0, []), (7, ["7"]), (None, ["null"])):
            special: dict[Role, SpecialToken] = {"pad_token": SpecialToken("[PAD]", row)}
            plan = make_plan(checkpoint(), BERT, CONFIG, special_tokens=special)
            assert plan.config["pad_token_id"] == row
            words = " ".join(plan.notes).replace(",", "").split()  # "pad_token_id is 7 ..."
            assert words[2:3] == notes

    def test_of_a_config_that_contradicts_the_vocabulary_are_overruled_and_reported(self) -> None:
        special: dict[Role, SpecialToken] = {"pad_token": SpecialToken("[PAD]", 0)}
        config = {**CONFIG, "pad_token_id": 3}
        plan = make_plan(checkpoint(), BERT, config, special_tokens=special)
        assert plan.config["pad_token_id"] == 0
        assert any("pad_token_id" in note and "3" in note for note in plan.notes)

    @pytest.mark.parametrize("stated", [3, None])
    def test_without_a_vocabulary_are_those_of_the_config(self, stated: int | None) -> None:
        plan = make_plan(checkpoint(), BERT, {**CONFIG, "pad_token_id": stated})
        assert plan.config["pad_token_id"] == stated

    @pytest.mark.parametrize("stated", [-1, 100, "0", True, 1.0])
    def test_that_are_no_rows_are_refused(self, stated: object) -> None:
        assert "pad_token_id" in refusal(checkpoint(), {**CONFIG, "pad_token_id": stated})

    def test_are_those_that_transformers_assumes_where_nothing_tells(self) -> None:
        assert make_plan(checkpoint(), BERT, CONFIG).config["pad_token_id"] == 0


class TestTheActivation:
    @pytest.mark.parametrize(
        ("stated", "choice", "expected"),
        [
            ("gelu", "auto", ("gelu", "gelu_pytorch_tanh")),
            ("gelu", "tanh", ("gelu", "gelu_pytorch_tanh")),
            ("gelu", "erf", ("gelu", "gelu")),
            ("GELU", "erf", ("gelu", "gelu")),
            ("relu", "auto", ("relu", "relu")),
            ("Relu", "auto", ("relu", "relu")),
            ("tanh", "auto", ("tanh", "tanh")),
            ("linear", "auto", ("linear", "linear")),
            ("", "auto", ("", "linear")),
            (None, "auto", ("", "linear")),
        ],
    )
    def test_is_the_function_that_modeling_py_computes(
        self, stated: object, choice: str, expected: tuple[str, str]
    ) -> None:
        config = {**CONFIG, "hidden_act": stated}
        plan = make_plan(checkpoint(), BERT, config, options=Options(activation=choice))
        assert plan.activation == expected
        assert plan.config["hidden_act"] == expected[1]

    @pytest.mark.parametrize("config", [None, {}])
    def test_is_gelu_where_nothing_says_another(self, config: dict[str, object] | None) -> None:
        assert make_plan(checkpoint(), BERT, config).activation == ("gelu", "gelu_pytorch_tanh")

    @pytest.mark.parametrize(
        "stated", ["silu", "gelu_new", " gelu", False, 0, [], ["gelu"], {}, 1.5]
    )
    def test_that_nobody_knows_is_refused_with_those_there_are(self, stated: object) -> None:
        text = refusal(checkpoint(), {**CONFIG, "hidden_act": stated})
        assert f"hidden_act is {stated!r}" in text
        assert text.endswith("gelu, relu, tanh, linear")

    @pytest.mark.parametrize("choice", ["tanh", "erf"])
    def test_of_which_there_is_one_kind_leaves_no_choice(self, choice: str) -> None:
        text = refusal(
            checkpoint(), {**CONFIG, "hidden_act": "relu"}, options=Options(activation=choice)
        )
        assert text.startswith(f"--activation {choice}: hidden_act is relu")

    @pytest.mark.parametrize(
        ("stated", "choice", "expected"),
        [
            ("gelu", "auto", ("gelu", "gelu")),
            ("gelu_python", "auto", ("gelu", "gelu")),
            ("gelu_new", "auto", ("gelu", "gelu_pytorch_tanh")),
            ("gelu_pytorch_tanh", "auto", ("gelu", "gelu_pytorch_tanh")),
            ("gelu", "tanh", ("gelu", "gelu_pytorch_tanh")),
            ("gelu_pytorch_tanh", "gelu_new", ("gelu", "gelu_new")),
            ("relu", "auto", ("relu", "relu")),
            (None, "auto", ("", "linear")),
        ],
    )
    @pytest.mark.parametrize("mark", ["model_type", "transformers_version"])
    def test_of_transformers_config_is_in_transformers_words(
        self, stated: object, choice: str, expected: tuple[str, str], mark: str
    ) -> None:
        config = {**CONFIG, "hidden_act": stated, mark: "bert"}
        plan = make_plan(checkpoint(), BERT, config, options=Options(activation=choice))
        assert plan.activation == expected
        told = [note for note in plan.notes if "--activation tanh" in note]
        assert bool(told) is (expected[1] == "gelu")

    def test_that_transformers_config_lacks_is_transformers_own(self) -> None:
        config = {key: value for key, value in CONFIG.items() if key != "hidden_act"}
        plan = make_plan(checkpoint(), BERT, {**config, "model_type": "bert"})
        assert plan.activation == ("gelu", "gelu")

    @pytest.mark.parametrize("stated", ["silu", "gelu_10", "quick_gelu", 1, []])
    def test_of_transformers_config_that_nobody_knows_is_refused(self, stated: object) -> None:
        text = refusal(checkpoint(), {**CONFIG, "hidden_act": stated, "model_type": "bert"})
        assert f"hidden_act is {stated!r}" in text

    def test_may_have_the_name_that_older_programs_know(self) -> None:
        plan = make_plan(checkpoint(), BERT, CONFIG, options=Options(activation="gelu_new"))
        assert plan.config["hidden_act"] == "gelu_new"

    def test_may_not_be_chosen_by_an_unknown_word(self) -> None:
        text = refusal(checkpoint(), options=Options(activation="quick"))
        assert text.startswith("--activation quick: hidden_act is gelu")
        assert text.endswith("tanh, erf and gelu_new")


class TestWhatDoesNotFit:
    def test_half_a_head_is_refused_with_the_half_that_is_missing(self) -> None:
        variables = checkpoint()
        del variables["cls/seq_relationship/output_bias"]
        text = refusal(variables)
        first, missing = text.splitlines()
        assert "nsp is incomplete: 1 of its 2 variables" in first
        assert missing.strip() == "cls/seq_relationship/output_bias"

    def test_half_a_layer_is_refused_with_each_variable_that_is_missing(self) -> None:
        variables = checkpoint()
        lost = [n for n in variables if "layer_1/output/" in n]
        for name in lost:
            del variables[name]
        lines = refusal(variables).splitlines()
        assert "encoder is incomplete: 4 of its 37 variables" in lines[0]
        assert [line.strip() for line in lines[1:]] == lost

    def test_a_layer_that_is_missing_in_the_middle_is_refused(self) -> None:
        variables = checkpoint(sizes={**SIZES, "L": 5})
        variables = {n: v for n, v in variables.items() if "/layer_2/" not in n}
        lines = refusal(variables).splitlines()
        assert "encoder is incomplete: 16 of its 85 variables" in lines[0]
        assert lines[1].startswith("  bert/encoder/layer_2/attention/self/query/kernel")
        assert lines[-1].endswith("and 4 more")

    def test_no_layer_at_all_is_refused(self) -> None:
        variables = {n: v for n, v in checkpoint().items() if "/layer_" not in n}
        assert "encoder is incomplete: 16 of its 21 variables" in refusal(variables)

    def test_a_misspelt_variable_is_named_twice_each_time_with_the_nearest(self) -> None:
        variables = renamed(checkpoint(), "word_embeddings", "word_embedding")
        text = refusal(variables)
        assert f"no {WORDS}" in text
        assert "(nearest: bert/embeddings/word_embedding)" in text
        variables = renamed(checkpoint(), "token_type_embeddings", "token_typ_embeddings")
        text = refusal(variables)
        right, wrong = (
            "bert/embeddings/token_type_embeddings",
            "bert/embeddings/token_typ_embeddings",
        )
        assert f"  {right} (nearest: {wrong})" in text
        assert (
            f"{wrong} (float32 [2, 128]) is unknown to the mapping bert (nearest: {right})" in text
        )

    def test_an_unknown_variable_is_refused_with_what_to_do(self) -> None:
        text = refusal(checkpoint() | extra("crf_loss/transition", shape=(9, 9)))
        assert "crf_loss/transition (float32 [9, 9]) is unknown to the mapping bert" in text
        assert "[[drop]]" in text

    def test_checkpoints_of_another_kind_are_refused(self) -> None:
        text = refusal(extra("_CHECKPOINTABLE_OBJECT_GRAPH", "w/.ATTRIBUTES/VARIABLE_VALUE"))
        assert "mapping bert" in text
        assert f"no {WORDS}" in refusal({})

    @pytest.mark.parametrize(
        ("name", "shape", "said"),
        [
            ("bert/pooler/dense/kernel", (128, 64), "should have [H, H] = [128, 128]"),
            ("bert/pooler/dense/bias", (64,), "should have [H] = [128]"),
            ("bert/pooler/dense/bias", (), "should have [H] = [128]"),
            ("bert/pooler/dense/bias", (128, 1), "should have [H] = [128]"),
            ("bert/pooler/dense/kernel", (128,), "should have [H, H] = [128, 128]"),
            ("bert/pooler/dense/kernel", (128, 128, 1), "should have [H, H] = [128, 128]"),
            ("cls/seq_relationship/output_bias", (3,), "should have [2]"),
            ("cls/predictions/output_bias", (101,), "should have [V] = [100]"),
            ("bert/encoder/layer_1/intermediate/dense/kernel", (512, 128), "[H, I] = [128, 512]"),
        ],
    )
    def test_a_shape_is_refused_with_what_it_should_be_and_who_says_so(
        self, name: str, shape: tuple[int, ...], said: str
    ) -> None:
        text = refusal(checkpoint() | extra(name, shape=shape))
        assert f"{name} has the shape {list(shape)}" in text
        assert said in text
        assert len(text.splitlines()) == 1
        if "H" in said:
            assert f"H by {WORDS} [100, 128]" in text

    def test_a_symbol_that_is_there_twice_in_a_shape_is_one_number(self, tmp_path: Path) -> None:
        (tmp_path / "square.toml").write_text(
            'name = "square"\ndetect = "w"\nmodel_type = "x"\nsizes = { H = "hidden_size" }\n'
            '[[group]]\nname = "g"\nrequired = true\n'
            '[[group.variable]]\ntf = "w"\npt = "w"\nshape = ["H", "H"]\n'
            '[[architecture]]\nclass = "X"\ngroups = ["g"]\n'
        )
        mapping = load_mapping(tmp_path / "square.toml")
        with pytest.raises(PlanError, match=r"w has the shape \[3, 4\].*\[H, H\]$"):
            make_plan(extra("w", shape=(3, 4)), mapping)
        assert make_plan(extra("w", shape=(3, 3)), mapping).sizes == {"H": 3}

    @pytest.mark.parametrize("symbol", ["V", "H", "I", "P", "T"])
    def test_a_shape_that_holds_nothing_is_refused(self, symbol: str) -> None:
        assert "empty" in refusal(checkpoint(sizes={**SIZES, symbol: 0}))

    def test_all_that_is_wrong_is_said_together(self) -> None:
        variables = checkpoint() | extra("junk", "more_junk", shape=(7,))
        variables |= extra("bert/pooler/dense/bias", shape=(64,))
        variables |= extra("bert/pooler/dense/kernel", shape=(128, 128), dtype="int32")
        for name in [n for n in variables if "layer_0/output/" in n]:
            del variables[name]
        config = {**CONFIG, "vocab_size": 99, "num_attention_heads": 3, "hidden_act": "silu"}
        text = refusal(variables, config, vocabulary_size=98, options=Options(num_heads=5))
        for part in [
            "encoder is incomplete: 4 of its 37",
            "bert/pooler/dense/bias has the shape [64]",
            "vocab_size = 99, but the checkpoint has 100",
            "num_attention_heads = 3, but --num-heads is 5",
            "5 does not divide hidden_size = 128",
            "the vocabulary has 98 tokens",
            "hidden_act is 'silu'",
            "bert/pooler/dense/kernel is int32",
            "junk (float32 [7]) is unknown",
            "more_junk (float32 [7]) is unknown",
        ]:
            assert part in text

    def test_a_flood_of_one_kind_hides_no_other(self) -> None:
        variables = {
            name: variable(name, (*old.shape, 1) if "/layer_" in name else old.shape)
            for name, old in checkpoint(sizes={**SIZES, "L": 12}).items()
        }
        variables |= extra(*(f"junk_{number}" for number in range(1000)))
        text = refusal(variables, {**CONFIG, "vocab_size": 99})
        assert "... and 180 more" in text
        assert "and 988 more unknown" in text
        assert "vocab_size = 99" in text
        assert len(text.splitlines()) < 40


class TestHostileNames:
    """Names that a checkpoint may have although nobody trained such a model."""

    @pytest.mark.parametrize("number", ["999999999999", "9" * 18, "9" * 5000, "00000000999999"])
    def test_a_layer_of_a_giant_number_is_not_expanded(self, number: str) -> None:
        name = f"bert/encoder/layer_{number}/output/dense/bias"
        text = refusal(checkpoint() | extra(name, shape=(128,)))
        assert "bert/encoder/layer_" in text
        assert "num_hidden_layers" in text
        assert len(text) < 400

    @pytest.mark.parametrize("number", ["", "²", "٣", "-1", "+5", "1e9", "x", "0x10", " 7"])
    def test_a_layer_of_no_number_is_unknown(self, number: str) -> None:
        name = f"bert/encoder/layer_{number}/output/dense/bias"
        text = refusal(checkpoint() | extra(name, shape=(128,)))
        assert f"{name} (float32 [128]) is unknown" in text

    def test_a_layer_with_zeros_before_its_number_is_no_layer(self) -> None:
        name = "bert/encoder/layer_01/output/dense/bias"
        assert f"{name} (float32 [128]) is unknown" in refusal(
            checkpoint() | extra(name, shape=(128,))
        )

    @pytest.mark.parametrize("count", [500, 2000])
    def test_many_layers_that_hold_junk_are_refused(self, count: int) -> None:
        names = [f"bert/encoder/layer_{number}/junk" for number in range(count)]
        text = refusal(checkpoint() | extra(*names))
        assert "encoder is incomplete" in text
        assert f"and {count - 12:,} more unknown" in text

    def test_more_layers_than_a_machine_can_hold_are_refused(self) -> None:
        names = [f"bert/encoder/layer_{number}/junk" for number in range(20_000)]
        with pytest.raises(MappingError, match=r"mapping bert .* 320,0"):
            make_plan(checkpoint() | extra(*names), BERT)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/",
            "//",
            "*",
            "**/",
            "{l}",
            "[",
            "(?=",
            "\\",
            "\n",
            "\0",
            "bert",
            "bert/",
            "/bert/embeddings/word",
            "../../etc/passwd",
            "bert/encoder/layer_*/output/dense/bias",
            "🤗/ünï/cödé",
            "a/" * 50_000,
            "x" * 1_000_000,
            "loss_scale" * 20_000 + "//",
        ],
        ids=lambda name: ascii(name[:20]),
    )
    def test_a_strange_name_is_an_unknown_variable(self, name: str) -> None:
        text = refusal(checkpoint() | extra(name))
        assert " () is unknown" in text or " (float32 []) is unknown to the mapping bert" in text
        assert len(text) < 600

    def test_the_slots_of_an_unknown_optimizer_of_a_large_model_are_refused(self) -> None:
        variables = checkpoint(sizes={**SIZES, "L": 24})
        slots = [f"{name}/{slot}" for name in variables for slot in ("foo_m", "foo_v")]
        text = refusal(variables | extra(*slots))
        assert (
            f"{WORDS}/foo_m (float32 []) is unknown to the mapping bert (nearest: {WORDS})" in text
        )

    def test_twenty_thousand_unknown_variables_are_refused(self) -> None:
        names = [f"bert/encoder/x/layer_normalization_{number}" for number in range(20_000)]
        assert "and 19,988 more unknown" in refusal(checkpoint() | extra(*names))

    def test_ten_thousand_candidates_for_an_alias_are_not_all_named(self) -> None:
        variables = checkpoint()
        del variables["bert/pooler/dense/bias"]
        names = [f"bert/pooler/dense_{number}/bias" for number in range(10_000)]
        text = refusal(variables | extra(*names, shape=(128,)))
        assert "fit equally well" in text
        assert len(text) < 3000

    @given(names=st.lists(st.text(max_size=30), max_size=6), known=st.booleans())
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_names_make_another_error(self, names: list[str], known: bool) -> None:
        variables = (checkpoint() if known else {}) | extra(*names)
        with contextlib.suppress(PlanError):
            assert accounted(make_plan(variables, BERT), variables)


class TestNestedLoops:
    MAPPING = """
        name = "grid"
        detect = "in"
        model_type = "grid"
        sizes = { R = "rows", K = "columns" }
        [[group]]
        name = "all"
        required = true
        [[group.variable]]
        tf = "in"
        pt = "in"
        shape = [1]
        [[group.variable]]
        tf = "{s}/row_{r}/col_{k}"
        pt = "{s}.{r}.{k}"
        shape = [1]
        for = { s = ["left", "right"], r = "0..R", k = "0..K" }
        [[architecture]]
        class = "Grid"
        groups = ["all"]
    """

    @pytest.fixture
    def grid(self, tmp_path: Path) -> MappingFile:
        (tmp_path / "grid.toml").write_text(self.MAPPING)
        return load_mapping(tmp_path / "grid.toml")

    @given(rows=st.integers(1, 12), columns=st.integers(1, 12))
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_each_tell_their_own_size(self, grid: MappingFile, rows: int, columns: int) -> None:
        variables = checkpoint("all", sizes={"R": rows, "K": columns}, mapping=grid)
        plan = make_plan(variables, grid)
        assert plan.config == {"rows": rows, "columns": columns}
        assert accounted(plan, variables)

    def test_that_make_one_name_twice_are_refused(self, tmp_path: Path) -> None:
        text = self.MAPPING.replace("{s}.{r}.{k}", "{s}.{r}{k}")
        (tmp_path / "grid.toml").write_text(text)
        grid = load_mapping(tmp_path / "grid.toml")
        variables = checkpoint("all", sizes={"R": 12, "K": 12}, mapping=grid)
        with pytest.raises(PlanError, match=r"left\.111 .* several variables"):
            make_plan(variables, grid)


class TestPlansOfManySizes:
    @given(data=st.data())
    @settings(deadline=None, max_examples=150)
    def test_account_for_every_variable_once(self, data: st.DataObject) -> None:
        sizes = {symbol: data.draw(st.integers(1, 9), symbol) for symbol in SIZES}
        groups = data.draw(
            st.sampled_from(
                [
                    ["encoder"],
                    ["encoder", "pooler"],
                    PRETRAINING,
                    ["encoder", "mlm"],
                    ["encoder", "pooler", "nsp"],
                    ["encoder", "pooler", "classifier"],
                    ["encoder", "squad"],
                ]
            )
        )
        dtype = data.draw(st.sampled_from(["float32", "float64", "bfloat16"]))
        weights = checkpoint(*groups, sizes=sizes, dtype=dtype)
        if data.draw(st.booleans(), "keras"):
            weights = keras_style(weights)
        scope = data.draw(st.sampled_from(["", "teacher/", "a/b/"]))
        weights = {scope + n: variable(scope + n, v.shape, dtype) for n, v in weights.items()}
        slots = data.draw(st.lists(st.sampled_from(["adam_m", "Adam_1", "LAMB"]), unique=True))
        state = data.draw(st.lists(st.sampled_from(["global_step", "beta1_power"]), unique=True))
        variables = list((weights | extra(*state, dtype="int64")).values())
        variables += [
            variable(f"{w.name}/{s}", w.shape, dtype) for w in weights.values() for s in slots
        ]
        data.draw(st.randoms(use_true_random=False)).shuffle(variables)
        checkpoint_ = {v.name: v for v in variables}

        plan = make_plan(checkpoint_, BERT)
        assert accounted(plan, checkpoint_)
        assert {entry.variable for entry in plan.entries} == set(weights)
        assert plan.scope == scope
        assert plan.sizes.items() >= {(s, sizes[s]) for s in "VHLIPT"}
        assert plan.parameters == sum(math.prod(v.shape) for v in weights.values())

    @given(data=st.data())
    @settings(deadline=None, max_examples=100)
    def test_never_hold_what_one_variable_less_would_make_random(self, data: st.DataObject) -> None:
        variables = checkpoint(sizes={**SIZES, "L": data.draw(st.integers(1, 4))})
        lost = data.draw(st.sampled_from(sorted(variables)))
        del variables[lost]
        with pytest.raises(PlanError, match=lost):
            make_plan(variables, BERT)


def named(*names: str) -> list[Variable]:
    return [Variable(name, "float32", (2, 2), 16) for name in names]


class TestFits:
    @pytest.mark.parametrize("name", [WORDS, f"teacher/{WORDS}", f"a/b/{WORDS}"])
    def test_a_checkpoint_that_holds_the_detecting_variable_in_any_scope(self, name: str) -> None:
        assert fits(named("x", name), BERT)

    @pytest.mark.parametrize("name", ["", f"{WORDS}/adam_m", f"x{WORDS}", "word_embeddings"])
    def test_no_other_checkpoint(self, name: str) -> None:
        assert not fits(named("x", name), BERT)


class TestCheckpointsThatTensorFlowWrote:
    @pytest.mark.parametrize(
        ("folder", "architecture", "entries", "dropped"),
        [
            ("pretraining", "BertForPreTraining", 46, 0),
            ("pretraining-adam", "BertForPreTraining", 46, 93),
            ("keras-names", "BertForPreTraining", 46, 0),
            ("encoder", "BertModel", 37, 0),
            ("classifier", "BertForSequenceClassification", 41, 0),
            ("squad", "BertForQuestionAnswering", 41, 0),
        ],
    )
    def test_plan_whole(
        self, fixtures: Path, folder: str, architecture: str, entries: int, dropped: int
    ) -> None:
        config = json.loads((fixtures / folder / "bert_config.json").read_text())
        variables = open_checkpoint(fixtures / folder).variables
        plan = make_plan(variables, BERT, config, vocabulary_size=128)
        assert plan.architecture.name == architecture
        assert (len(plan.entries), len(plan.dropped)) == (entries, dropped)
        assert accounted(plan, dict(variables))

    @pytest.mark.parametrize(
        ("folder", "architecture", "entries", "dropped", "sizes"),
        [
            (
                "google-uncased_L-12_H-768_A-12-index",
                "BertForPreTraining",
                206,
                0,
                {"L": 12, "H": 768, "V": 30522, "A": 12},
            ),
            (
                "google-chinese_L-12_H-768_A-12-index",
                "BertForPreTraining",
                206,
                0,
                {"L": 12, "H": 768, "V": 21128, "A": 12},
            ),
            (
                "finetuned-classifier-adam-base-index",
                "BertForSequenceClassification",
                201,
                403,
                {"L": 12, "H": 768, "V": 28996, "C": 2},
            ),
            (
                "keras-bert-tiny-pretrain",
                "BertForPreTraining",
                46,
                93,
                {"L": 2, "H": 4, "V": 15, "A": 4},
            ),
        ],
    )
    def test_from_the_wild_plan_whole(
        self,
        real: Path,
        folder: str,
        architecture: str,
        entries: int,
        dropped: int,
        sizes: dict[str, int],
    ) -> None:
        path = real / folder / "bert_config.json"
        config = json.loads(path.read_text()) if path.exists() else None
        variables = open_checkpoint(real / folder).variables
        plan = make_plan(variables, BERT, config)
        assert plan.architecture.name == architecture
        assert (len(plan.entries), len(plan.dropped)) == (entries, dropped)
        assert plan.sizes.items() >= sizes.items()
        assert accounted(plan, dict(variables))
