from hypothesis import given
from hypothesis import strategies as st

from bertconvert.converter.fold import fold


def names(*rows: str) -> list[tuple[str, int]]:
    """Rows of one name each, folded: the name and how many it stands for."""
    return [(name, count) for (name,), _, count in fold(((row,), None) for row in rows)]


def test_rows_that_differ_in_a_number_alone_become_one() -> None:
    assert names("layer_0/kernel", "layer_1/kernel", "layer_2/kernel") == [
        ("layer_{0..2}/kernel", 3)
    ]


def test_the_number_need_not_begin_with_0_nor_the_rows_be_in_order() -> None:
    assert names("a.10.b", "a.9.b", "a.11.b") == [("a.{9..11}.b", 3)]


def test_a_row_stands_where_the_first_of_its_rows_stood() -> None:
    rows = ("x_0/a", "x_0/b", "y", "x_1/a", "x_1/b")
    assert names(*rows) == [("x_{0..1}/a", 2), ("x_{0..1}/b", 2), ("y", 1)]


def test_rows_with_a_gap_between_their_numbers_stay_as_they_are() -> None:
    assert names("x_0", "x_1", "x_3") == [("x_0", 1), ("x_1", 1), ("x_3", 1)]


def test_a_row_alone_stays_as_it_is() -> None:
    assert names("layer_5/kernel", "other") == [("layer_5/kernel", 1), ("other", 1)]


def test_rows_that_are_there_twice_stay_as_they_are() -> None:
    assert names("x_0", "x_0", "x_1") == [("x_0", 1), ("x_0", 1), ("x_1", 1)]


def test_only_the_first_number_is_folded() -> None:
    assert names("x_0/y_0", "x_1/y_0") == [("x_{0..1}/y_0", 2)]
    assert names("x_0/y_0", "x_0/y_1") == [("x_0/y_0", 1), ("x_0/y_1", 1)]
    assert names("x_0/y_0", "x_1/y_1") == [("x_0/y_0", 1), ("x_1/y_1", 1)]


def test_a_number_within_a_word_is_none() -> None:
    assert names("beta1", "beta2", "2d", "3d") == [("beta1", 1), ("beta2", 1), ("2d", 1), ("3d", 1)]


def test_names_that_belong_together_are_folded_together() -> None:
    rows = [((f"tf/layer_{n}/w", f"pt.{n}.w"), "H") for n in range(3)]
    assert fold(rows) == [(("tf/layer_{0..2}/w", "pt.{0..2}.w"), "H", 3)]


def test_names_with_different_first_numbers_are_not_folded() -> None:
    rows = [((f"tf/{n}", f"pt/{n + 1}"), "") for n in range(3)]
    assert fold(rows) == [(names, "", 1) for names, _ in rows]


def test_rows_that_differ_in_the_rest_are_not_folded_together() -> None:
    rows = [(("x_0",), "a"), (("x_1",), "a"), (("x_2",), "b"), (("x_3",), "b")]
    assert fold(rows) == [(("x_{0..1}",), "a", 2), (("x_{2..3}",), "b", 2)]


def test_braces_in_a_name_stay_where_they_are() -> None:
    assert names("{}/x_0", "{}/x_1") == [("{}/x_{0..1}", 2)]
    assert names("x_{}", "x_1") == [("x_{}", 1), ("x_1", 1)]
    assert names("{0}/x_0", "{0}/x_1") == [("{0}/x_0", 1), ("{0}/x_1", 1)]


def test_numbers_that_are_written_differently_are_not_folded() -> None:
    assert names("x_01", "x_02") == [("x_01", 1), ("x_02", 1)]
    assert names("x_0", "x_01") == [("x_0", 1), ("x_01", 1)]
    assert names("x_0", "x_\u0661") == [("x_0", 1), ("x_\u0661", 1)]


def test_numbers_of_any_size_cost_nothing() -> None:
    far = ("x_0", "x_999999999", "x_" + "9" * 10_000)
    assert names(*far) == [(name, 1) for name in far]


def test_nothing_folds_to_nothing() -> None:
    assert fold([]) == []


@given(st.lists(st.text("ab_/.{}019", max_size=8), max_size=12))
def test_no_row_is_ever_lost(rows: list[str]) -> None:
    folded = fold(((row,), None) for row in rows)
    assert sum(count for _, _, count in folded) == len(rows)
    alone = [name for (name,), _, count in folded if count == 1]
    assert set(alone) <= set(rows)
