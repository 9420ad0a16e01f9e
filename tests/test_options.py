from pathlib import Path
from typing import get_args

import pytest

from bertconvert import Options
from bertconvert.converter.checks import FLOATS
from bertconvert.converter.choices import DType
from bertconvert.converter.options import DEFAULTS, make_options


def test_replaces_single_options_and_keeps_the_others() -> None:
    base = Options(head="token", dtype="float16")
    assert make_options({"dtype": "float32"}, base) == Options(head="token", dtype="float32")
    assert make_options({"dtype": None}, base) == base
    assert make_options({}) == DEFAULTS


def test_takes_paths_in_any_form() -> None:
    options = make_options(
        {"config": "a/b.json", "vocab": Path("v.txt"), "mapping": Path("m.toml")}
    )
    assert options == Options(config=Path("a/b.json"), vocab=Path("v.txt"), mapping="m.toml")


def test_takes_one_format_or_several() -> None:
    assert make_options({"formats": "bin"}).formats == ("bin",)
    assert make_options({"formats": ["safetensors", "bin"]}).formats == ("safetensors", "bin")


@pytest.mark.parametrize("name", ["heads", "Head", "force", ""])
def test_refuses_unknown_option_with_the_known_ones(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_options({name: 1})
    assert name in str(caught.value)
    assert all(option in str(caught.value) for option in Options.__struct_fields__)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "int8"},
        {"activation": "quick"},
        {"formats": "onnx"},
        {"formats": []},
        {"num_heads": "4"},
        {"num_heads": True},
        {"lower_case": "yes"},
        {"head": 3},
        {"config": 3},
    ],
    ids=str,
)
def test_refuses_wrong_value_with_the_option(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:
        make_options(wrong)
    assert next(iter(wrong)) in str(caught.value)


def test_offers_every_dtype_that_a_weight_may_have() -> None:
    assert set(get_args(DType)) == {"keep", *FLOATS}


def test_takes_an_options_object_as_it_takes_keywords() -> None:
    given = {"mapping": Path("m.toml"), "config": "c.json", "formats": "bin"}
    assert make_options({}, Options(**given)) == make_options(given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lower_case"):
        make_options({}, Options(lower_case="no"))  # type: ignore[arg-type]
    for wrong in ({"head": "none"}, None, "none"):
        with pytest.raises(TypeError, match="Options"):
            make_options({}, wrong)  # type: ignore[arg-type]


def test_names_the_words_that_an_option_takes() -> None:
    with pytest.raises(ValueError, match=r"'quick'.*auto or tanh or erf"):
        make_options({"activation": "quick"})
    with pytest.raises(ValueError, match=r"'onnx'.*safetensors or bin"):
        make_options({"formats": ["onnx"]})
