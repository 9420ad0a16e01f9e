import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertconvert.converter.expressions import evaluate, is_expression, symbols_of

SIZES = {"H": 32, "E": 8, "A": 4}


@pytest.mark.parametrize(
    ("text", "value", "symbols"),
    [
        ("H", 32, ["H"]),
        ("2", 2, []),
        ("3*E", 24, ["E"]),
        ("E*3", 24, ["E"]),
        ("H-E", 24, ["H", "E"]),
        ("H/A", 8, ["H", "A"]),
        ("H-H", 0, ["H", "H"]),
        ("E-H", -24, ["E", "H"]),
        ("A-1", 3, ["A"]),
        ("H/3", None, ["H"]),
        ("Q", None, ["Q"]),
        ("H-Q", None, ["H", "Q"]),
        ("3*E-H", -8, ["E", "H"]),
        ("H-3*E", 8, ["H", "E"]),
        ("H-E-A", 20, ["H", "E", "A"]),
        ("A*H/A", 32, ["A", "H", "A"]),
        ("H/A/2", 4, ["H", "A"]),
        ("H/3*3", None, ["H"]),
    ],
)
def test_an_expression_has_a_value_if_its_symbols_have_sizes(
    text: str, value: int | None, symbols: list[str]
) -> None:
    assert evaluate(text, SIZES) == value
    assert symbols_of(text) == symbols
    assert is_expression(text) == (len(text) > 1)


def test_nothing_is_divided_by_zero() -> None:
    assert evaluate("H/E", {"H": 4, "E": 0}) is None


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_quotient_is_whole_or_none(one: int, other: int) -> None:
    value = evaluate("X/Y", {"X": one, "Y": other})
    assert (value is None) == bool(one % other)
    assert value is None or value * other == one
