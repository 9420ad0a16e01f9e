from pathlib import Path

import pytest

from bertconvert import Options, Plan, Variable, open_checkpoint
from bertconvert.converter.mapping import MappingFile, builtin_mappings, load_mapping
from bertconvert.converter.plan import make_plan
from bertconvert.converter.releases import recognise

BERT = load_mapping(builtin_mappings()["bert"])
PRETRAINING = ("encoder", "pooler", "mlm", "nsp")


def plan(
    *groups: str,
    layers: int = 2,
    hidden: int = 128,
    vocabulary: int = 30522,
    positions: int = 512,
    heads: int | None = None,
    scope: str = "",
    extra: tuple[str, ...] = (),
    mapping: MappingFile = BERT,
) -> Plan:
    """The plan of a checkpoint of these sizes."""
    sizes = {"L": layers, "H": hidden, "I": 4 * hidden, "V": vocabulary, "P": positions}
    sizes |= {"T": 2, "C": 2}
    shapes = {
        pair.names[0]: tuple(sizes.get(str(size), size) for size in pair.shape)
        for pair in mapping.expand(sizes, groups or PRETRAINING)
    } | dict.fromkeys(extra, ())
    variables = {scope + n: Variable(scope + n, "float32", s, 0) for n, s in shapes.items()}
    return make_plan(variables, mapping, options=Options(num_heads=heads))


@pytest.mark.parametrize(
    ("layers", "hidden", "name", "score"),
    [
        (2, 128, "BERT-Tiny", "64.2"),
        (4, 256, "BERT-Mini", "65.8"),
        (4, 512, "BERT-Small", "71.2"),
        (8, 512, "BERT-Medium", "73.5"),
    ],
)
def test_the_models_of_the_compact_family_that_have_names_and_scores_are_known_by_them(
    layers: int, hidden: int, name: str, score: str
) -> None:
    release = recognise(plan(layers=layers, hidden=hidden), True)
    assert release is not None
    assert release.name == name
    assert release.scores["score"] == score
    assert len(release.scores) == 12


@pytest.mark.parametrize("layers", [2, 4, 6, 8, 10, 12])
@pytest.mark.parametrize("hidden", [128, 256, 512, 768])
def test_all_24_compact_models_are_known_with_the_address_they_were_published_at(
    layers: int, hidden: int
) -> None:
    release = recognise(plan(layers=layers, hidden=hidden), True)
    assert release is not None
    if (layers, hidden) == (12, 768):
        pytest.skip("a size that many models have; see the next test")
    size = f"uncased_L-{layers}_H-{hidden}_A-{hidden // 64}"
    assert release.url == f"https://storage.googleapis.com/bert_models/2020_02_20/{size}.zip"
    assert release.hub == f"google/bert_{size}"
    assert "{" not in release.name


@pytest.mark.parametrize(
    ("layers", "hidden", "vocabulary", "lower", "name"),
    [
        (24, 1024, 30522, True, "BERT-Large, Uncased"),
        (12, 768, 28996, False, "BERT-Base, Cased"),
        (24, 1024, 28996, False, "BERT-Large, Cased"),
        (12, 768, 21128, True, "BERT-Base, Chinese"),
        (12, 768, 119547, False, "BERT-Base, Multilingual Cased"),
    ],
)
def test_the_releases_of_2018_are_known(
    layers: int, hidden: int, vocabulary: int, lower: bool, name: str
) -> None:
    release = recognise(plan(layers=layers, hidden=hidden, vocabulary=vocabulary), lower)
    assert release is not None
    assert release.name == name


def test_from_sizes_that_many_models_have_follows_no_license_and_no_address() -> None:
    release = recognise(plan(layers=12, hidden=768), True)
    assert release is not None
    assert (release.name, release.license, release.url, release.hub) == ("BERT-Base", "", "", "")


def test_without_a_vocabulary_sizes_alone_tell() -> None:
    release = recognise(plan(), None)
    assert release is not None
    assert release.name == "BERT-Tiny"


def test_a_cased_vocabulary_is_no_uncased_release() -> None:
    assert recognise(plan(), False) is None


@pytest.mark.parametrize(
    "other",
    [{"layers": 3}, {"hidden": 192}, {"vocabulary": 30523}, {"positions": 1024}, {"heads": 128}],
    ids=str,
)
def test_other_sizes_are_no_release(other: dict[str, int]) -> None:
    assert recognise(plan(**other), True) is None


def test_a_model_that_was_trained_further_is_no_release() -> None:
    assert recognise(plan(extra=("global_step",)), True) is None


@pytest.mark.parametrize(
    "groups", [("encoder",), ("encoder", "pooler", "classifier"), ("encoder", "mlm")], ids="+".join
)
def test_a_model_without_the_pretraining_heads_is_no_release(groups: tuple[str, ...]) -> None:
    assert recognise(plan(*groups), True) is None


def test_a_model_in_a_scope_is_no_release() -> None:
    assert recognise(plan(scope="teacher/"), True) is None


def test_a_mapping_that_no_release_is_known_for_has_none(tmp_path: Path) -> None:
    assert recognise(plan(mapping=_edited(tmp_path, '"bert"', '"beta"')), True) is None


def test_a_copy_of_the_mapping_without_a_symbol_that_an_address_names_has_none(
    tmp_path: Path,
) -> None:
    line = 'A = { config = "num_attention_heads", assume = "H/64", divides = "H" }\n'
    text = builtin_mappings()["bert"].read_text()
    (tmp_path / "mine.toml").write_text(text.replace(line, "").replace('heads      = "A"\n', ""))
    assert recognise(plan(mapping=load_mapping(tmp_path / "mine.toml")), True) is None


def _edited(tmp_path: Path, old: str, new: str) -> MappingFile:
    text = builtin_mappings()["bert"].read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    return load_mapping(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("folder", "lower", "name"),
    [
        ("google-uncased_L-12_H-768_A-12-index", True, "BERT-Base"),
        ("google-chinese_L-12_H-768_A-12-index", True, "BERT-Base, Chinese"),
        ("finetuned-classifier-adam-base-index", False, None),
        ("keras-bert-tiny-pretrain", True, None),
    ],
)
def test_checkpoints_from_the_wild_are_taken_for_what_they_are(
    real: Path, folder: str, lower: bool, name: str | None
) -> None:
    release = recognise(make_plan(open_checkpoint(real / folder).variables, BERT), lower)
    assert (release and release.name) == name


@pytest.mark.parametrize(
    ("name", "sizes", "score"),
    [
        ("ELECTRA-Small", {"L": 12, "H": 256, "E": 128}, "77.4"),
        ("ELECTRA-Base", {"L": 12, "H": 768, "E": 768}, "82.7"),
        ("ELECTRA-Large", {"L": 24, "H": 1024, "E": 1024}, "85.2"),
    ],
)
def test_a_release_of_two_halves_is_known_though_one_is_skipped(
    name: str, sizes: dict[str, int], score: str
) -> None:
    mapping = load_mapping(builtin_mappings()["electra"])
    sizes = sizes | {"I": 4 * sizes["H"], "V": 30522, "P": 512, "T": 2, "C": 2}
    groups = ["encoder", "discriminator", *(["project"] if sizes["E"] != sizes["H"] else [])]
    shapes: dict[str, tuple[int, ...]] = {
        pair.names[0]: tuple(sizes.get(str(size), size) for size in pair.shape)
        for pair in mapping.expand(sizes, groups)
    }
    half = {"generator_predictions/output_bias": (30522,)}

    def known(more: dict[str, tuple[int, ...]]) -> str | None:
        variables = {n: Variable(n, "float32", shape, 0) for n, shape in (shapes | more).items()}
        release = recognise(make_plan(variables, mapping), True)
        return release and f"{release.name} {release.scores['score']}"

    assert known(half) == f"{name} {score}"
    assert known(half | {"global_step": ()}) is None  # it was trained further
