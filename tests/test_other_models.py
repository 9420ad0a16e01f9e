import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bertconvert import MappingError, PlanError, Variable, convert, prepare
from bertconvert.converter import mapping as mapping_module
from bertconvert.converter.mapping import builtin_mappings, load_mapping, pattern_problems
from bertconvert.converter.other_models import other_model

from .helpers import changed_copy

OTHERS = tomllib.loads((mapping_module.FOLDER / "unsupported" / "models.toml").read_text())["model"]
MAPPINGS = [load_mapping(path) for path in builtin_mappings().values()]
LAYER = "bert/encoder/layer_0"
WORDS = "bert/embeddings/word_embeddings"


def variables(*names: str) -> dict[str, Variable]:
    return {name: Variable(name, "float32", (1,), 4) for name in names}


def saved(folder: Path, source: Path, *more: str, **changes: Any) -> Path:
    """A checkpoint with variables added, removed and renamed."""
    return changed_copy(folder, source, dict.fromkeys(more, (2, 3)), **changes)


# The models that are recognized by what they have, not by what they lack.
EVIDENT = re.compile(r"^is (?!.*(without position|as wide as its layers|factorized|TFBert))")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "model"),
        [
            ("bert/encoder/transformer/group_0/inner_group_0/LayerNorm_1/beta", "ALBERT whose"),
            (
                "bert/encoder/transformer/group_0_2/layer_2/inner_group_0/layer_normalization_5/gamma",
                "ALBERT with Keras layers",
            ),
            ("bert/encoder/embedding_hidden_mapping_in/kernel", "factorized embeddings"),
            ("bert/embeddings/word_embeddings_2", "ALBERT in the layout of albert_zh"),
            ("bert/encoder/layer_shared/output/dense/bias", "ALBERT in the layout of albert_zh"),
            ("electra/encoder/layer_0/attention/self/conv_attn_key/kernel", "ConvBERT"),
            ("bert/embeddings/token_type_embeddings_3", "TAPAS"),
            (f"{LAYER}/output/adapters/weights1", "adapters"),
            (f"{LAYER}/attention/output/adapters/biases2", "adapters"),
            ("bert/embeddings/task_type_embeddings", "ERNIE"),
            (f"{LAYER}/attention/self/relative_position_bias", "relative positions"),
            ("bert/encoder/relative_attention_bias", "relative positions"),
            (WORDS, "NEZHA or RoFormer"),
            ("model/transformer/layer_0/rel_attn/q/kernel", "XLNet"),
            ("model/transformer/r_w_bias", "XLNet"),
            ("model/encoder/block_0/layer_0/rel_attn/q/kernel", "Funnel"),
            ("model/h0/attn/c_attn/w", "GPT-2"),
            ("newslm/layer00/key_layer/kernel", "GPT-2"),
            ("encoder/block_000/layer_000/SelfAttention/q", "T5"),
            ("encoder/block_000/layer_000/SelfAttention/relative_attention_bias", "T5"),
            ("decoder/block_000/layer_002/DenseReluDense/wi/kernel", "T5"),
            ("decoder/layer_0/memory_attention/q_proj/kernel", "PEGASUS"),
            ("transformer/body/encoder/layer_0/ffn/conv1/kernel", "tensor2tensor"),
            ("bilm/RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/B", "ELMo"),
            ("tf_distil_bert_model/distilbert/transformer/layer_._0/ffn/lin1/kernel", "DistilBERT"),
            ("tf_electra_model/electra/encoder/layer_._0/output/dense/kernel", "transformers'"),
            ("tf_roberta_for_masked_lm/lm_head/dense/kernel", "transformers'"),
            ("tfgp_t2lm_head_model/transformer/h_._0/mlp/c_fc/weight", "transformers'"),
            ("roberta/encoder/layer_0/output/dense/kernel", "RoBERTa"),
            ("bert_model/embedding_postprocessor/type_embeddings", "TensorFlow 2 as of 2019"),
            ("transformer/self_attention/query/kernel", "ALBERT of TensorFlow Model Garden"),
            ("mobile_bert_embedding/embedding_norm/beta", "MobileBERT of TensorFlow Model Garden"),
            ("Encoder-1-MultiHeadSelfAttention/Wq", "keras-bert"),
            ("bert/encoder/layer_0/intermediate/kernel", "bert-for-tf2"),
            ("_CHECKPOINTABLE_OBJECT_GRAPH", "an object graph"),
            ("model/w/.ATTRIBUTES/VARIABLE_VALUE", "an object graph"),
        ],
    )
    def test_tell_the_model(self, name: str, model: str) -> None:
        found = other_model(variables("x", name, "y"))
        assert found.startswith("is ")
        assert model in found.partition(":")[0]
        assert name in found or not EVIDENT.search(found)

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [
            ("model/transformer/r_w_bias", "convert_xlnet_original_tf_checkpoint_to_pytorch.py"),
            ("model/h0/attn/c_attn/w", "transformers 4.47"),
            ("bert/embeddings/word_embeddings_2", "albert_*_zh_google.zip"),
            ("bilm/RNN_0/RNN/B", "`bertconvert mappings`"),
        ],
    )
    def test_tell_what_to_do(self, name: str, remedy: str) -> None:
        assert remedy in other_model(variables(name)).partition(": ")[2]

    def test_that_a_program_gave_count(self) -> None:
        name = "bert_model/embedding_postprocessor/type_embeddings"
        key = "variables/5/.ATTRIBUTES/VARIABLE_VALUE"
        found = other_model({key: Variable(key, "float32", (1,), 4, name)})
        assert "TensorFlow 2" in found
        assert key in found

    @pytest.mark.parametrize("name", ["w", "dense/kernel", "", "a/" * 50_000, "x" * 1_000_000])
    def test_of_nothing_known_tell_nothing(self, name: str) -> None:
        assert other_model(variables(name)) == ""
        assert other_model({}) == ""

    @pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.name)
    @pytest.mark.parametrize("scope", ["", "module/", "teacher/net/"])
    def test_of_every_mapping_tell_nothing(
        self, mapping: mapping_module.MappingFile, scope: str
    ) -> None:
        sizes = dict.fromkeys(mapping.sizes, 3)
        pairs = mapping.expand(sizes, [group.name for group in mapping.group])
        names = [scope + name.replace("*", "_7") for pair in pairs for name in pair.names]
        assert other_model(variables(*names)) == ""

    @pytest.mark.parametrize("other", OTHERS, ids=lambda other: other["name"])
    def test_are_patterns_that_mean_something(self, other: dict[str, list[str]]) -> None:
        for pattern in (*other["has"], *other.get("lacks", ())):
            assert list(pattern_problems(pattern)) == []


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("folder", "model"),
        [
            ("checkpoints/albert-1", "albert"),
            ("index/google-albert_base_v2", "albert"),
            ("checkpoints/electra-small", "electra"),
            ("checkpoints/mobilebert-opt", "mobilebert"),
            ("checkpoints/tf2-encoder", "bert_tf2"),
        ],
    )
    def test_of_another_mapping_name_it_in_one_sentence(
        self, families: Path, folder: str, model: str
    ) -> None:
        with pytest.raises(PlanError) as caught:
            prepare(families / folder, mapping="bert")
        text = str(caught.value)
        assert f"fits the mapping {model}, not bert" in text
        assert len(text.splitlines()) == 1

    def test_of_others_are_named(self, real: Path) -> None:
        with pytest.raises(MappingError, match="an object graph"):
            prepare(real / "tensorflow-java-objects")

    def test_that_lack_position_embeddings_are_not_bert(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        saved(tmp_path / "in", fixtures / "encoder", without="position_embeddings")
        with pytest.raises(PlanError, match="NEZHA or RoFormer"):
            prepare(tmp_path / "in")

    def test_are_converted_if_what_is_odd_is_skipped(self, fixtures: Path, tmp_path: Path) -> None:
        name = f"{LAYER}/output/adapters/weights1"
        source = saved(tmp_path / "in", fixtures / "classifier", name)
        with pytest.raises(PlanError, match=name):
            prepare(source, head="none")
        made = convert(source, tmp_path / "out", drop="**/adapters/*")
        assert made.dropped == {"by the caller": 1}

    def test_are_not_named_for_what_is_skipped(self, fixtures: Path, tmp_path: Path) -> None:
        name = f"{LAYER}/output/adapters/weights1"
        source = saved(tmp_path / "in", fixtures / "classifier", name)
        with pytest.raises(PlanError, match="needs the mlm"):
            prepare(source, head="mlm", drop="**/adapters/*")

    def test_are_not_named_for_another_scope(self, fixtures: Path, tmp_path: Path) -> None:
        other = "teacher/bert/encoder/embedding_hidden_mapping_in/kernel"
        source = saved(
            tmp_path / "in", fixtures / "encoder", other, rename=("bert/", "student/bert/")
        )
        with pytest.raises(PlanError, match="needs the mlm"):
            prepare(source, scope="student", head="mlm")

    @pytest.mark.parametrize("scope", ["roberta", "distilbert", "tf_bert_model", "a/newslm"])
    def test_are_not_named_after_their_scope(
        self, fixtures: Path, tmp_path: Path, scope: str
    ) -> None:
        source = saved(tmp_path / "in", fixtures / "encoder", rename=("bert/", f"{scope}/bert/"))
        assert prepare(source).plan.scope == f"{scope}/"
        with pytest.raises(PlanError, match="needs the mlm"):
            prepare(source, head="mlm")

    def test_are_not_named_after_their_heads(self, fixtures: Path, tmp_path: Path) -> None:
        head = "decoder/layer_0/memory_attention/q_proj/kernel"
        source = saved(tmp_path / "in", fixtures / "encoder", head)
        with pytest.raises(PlanError, match="a head of its own"):
            prepare(source)
        assert prepare(source, head="none").plan.dropped[0].variable == head

    def test_with_two_models_are_asked_for_the_scope(self, fixtures: Path, tmp_path: Path) -> None:
        names = [f"teacher/{WORDS}", "teacher/bert/encoder/embedding_hidden_mapping_in/kernel"]
        with pytest.raises(PlanError, match="2 models"):
            prepare(saved(tmp_path / "in", fixtures / "encoder", *names))

    def test_keep_the_reasons_of_a_mapping_of_ones_own(
        self, fixtures: Path, tmp_path: Path
    ) -> None:
        source = saved(tmp_path / "in", fixtures / "encoder", "bert/encoder/layer_shared/x")
        shutil.copy(mapping_module.FOLDER / "bert.toml", tmp_path / "mine.toml")
        with pytest.raises(PlanError, match=r"layer_shared/x .* is unknown to the mapping bert"):
            prepare(source, mapping=tmp_path / "mine.toml")
