import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bertconvert.converter.transforms import TRANSFORMS

DTYPES = st.sampled_from(["float64", "float32", "float16", "int32", "uint8"])


@st.composite
def ops_and_arrays(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    op = draw(st.sampled_from(sorted(TRANSFORMS)))
    rank = draw(st.sampled_from([rank for rank in TRANSFORMS[op].ranks if rank <= 5]))
    shape = draw(st.tuples(*[st.integers(1, 5)] * rank))
    return op, draw(arrays.arrays(draw(DTYPES), shape))


@given(ops_and_arrays())
@settings(deadline=None)
def test_the_inverse_undoes_every_transform_bit_by_bit(case: tuple[str, np.ndarray]) -> None:
    op, array = case
    there = TRANSFORMS[op].apply(array)
    back = TRANSFORMS[TRANSFORMS[op].inverse].apply(there)
    assert back.shape == array.shape
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@given(ops_and_arrays())
@settings(deadline=None)
def test_the_shape_that_is_foretold_is_the_shape_that_comes(case: tuple[str, np.ndarray]) -> None:
    op, array = case
    assert TRANSFORMS[op].shape(array.shape) == TRANSFORMS[op].apply(array).shape


@given(ops_and_arrays())
@settings(deadline=None)
def test_a_transform_moves_no_data(case: tuple[str, np.ndarray]) -> None:
    op, array = case
    assert np.shares_memory(TRANSFORMS[op].apply(array), array)


@pytest.mark.parametrize("op", TRANSFORMS)
def test_every_transform_has_an_inverse_that_undoes_it_and_takes_what_it_gives(op: str) -> None:
    inverse = TRANSFORMS[op].inverse
    assert TRANSFORMS[inverse].inverse == op
    for rank in TRANSFORMS[op].ranks:
        assert len(TRANSFORMS[op].shape((1,) * rank)) in TRANSFORMS[inverse].ranks


def test_transpose_turns_in_out_into_out_in() -> None:
    kernel = np.arange(6, dtype="float32").reshape(2, 3)
    assert TRANSFORMS["transpose"].apply(kernel).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert TRANSFORMS["transpose"].shape((768, 3072)) == (3072, 768)
