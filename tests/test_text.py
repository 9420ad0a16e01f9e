import pytest

from bertconvert.converter.text import cut, joined, listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)
def test_joins_names_into_a_sentence(names: list[str], text: str) -> None:
    assert joined(names, 3) == text


def test_lists_the_first_lines_and_counts_the_rest() -> None:
    assert listed(["a", "b"], 2) == ["a", "b"]
    assert listed(["a", "b", "c", "d"], 2) == ["a", "b", "... and 2 more"]


def test_cuts_long_text() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "abc..."
