"""What counts as the same, and the sequences that it is tried on."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import astuple, replace

from bertconvert.converter.models.reference import Product, Samples
from bertconvert.converter.tokenizers.registry import Role
from bertconvert.converter.verify import report, verify
from bertconvert.converter.verify.distance import distance, largest, sketch
from bertconvert.converter.verify.gradients import _gradient
from bertconvert.converter.verify.outputs import Errors, judged, product_bound
from bertconvert.converter.verify.samples import at_rows, first_tokens, seeded_samples
from bertconvert.converter.verify.verdict import Gradient, Match, Output, relative, ulp

MATCH = Match("t", "v", "v", "encoder", "identity", (2,), (2,), "float32", False, True, 0)
SPECIAL: dict[Role, int] = {"unk_token": 1, "cls_token": 2, "sep_token": 3, "mask_token": 4}


def batches(samples: int, seed: int = 0, positions: int = 32) -> list[Samples]:
    return seeded_samples(
        samples,
        seed,
        vocab_size=1000,
        max_length=512,
        segments=2,
        special=SPECIAL,
        pad_id=0,
        positions=positions,
    )


def few(samples: int = 8, **changes: Any) -> list[Samples]:
    """Sequences of a vocabulary without special tokens."""
    usual = {"segments": 1, "special": {}, "pad_id": 0, "positions": 32}
    return seeded_samples(samples, 0, **(usual | changes))


class Tensor:
    """What tensors of both libraries have."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.array


def output(errors: Errors) -> Output:
    return judged({"layer_0": errors}, {})[0]


@pytest.mark.parametrize("scale", [1e-30, 0.1, 0.5, 1.0, 1.5, 2.0, 3e8])
def test_an_ulp_is_the_distance_to_the_next_float32(scale: float) -> None:
    assert ulp(scale) == np.spacing(np.float32(scale))


def test_a_difference_where_nothing_was_expected_is_infinitely_large() -> None:
    assert relative(0, 0) == 0
    assert relative(1e-300, 0) == math.inf


@pytest.mark.parametrize(
    ("difference", "same"), [(1e-11, True), (1.1e-11, False), (math.inf, False)]
)
def test_float64_decides_whether_it_is_the_same_function(difference: float, same: bool) -> None:
    errors = Errors(scale=1.0, float64=difference, tensorflow=1e-7, pytorch=1e-7)
    assert output(errors).same_function is same


@pytest.mark.parametrize(
    ("tensorflow", "pytorch", "accurate"),
    [(1e-6, 4e-6, True), (1e-6, 4.1e-6, False), (0, 4 * 2**-23, True), (0, 4.1 * 2**-23, False)],
)
def test_float32_is_judged_by_tensorflows_own_error(
    tensorflow: float, pytorch: float, accurate: bool
) -> None:
    errors = Errors(scale=1.0, tensorflow=tensorflow, pytorch=pytorch)
    assert output(errors).as_accurate is accurate


def test_float64_shows_where_a_model_enlarges_rounding() -> None:
    rounding = Errors(scale=1.0, float64=1e-13, tensorflow=1e-7, pytorch=1e-4)
    assert output(rounding).as_accurate  # 4 * 1e-13 * 2^29 / sqrt(2) is 1.5e-4
    assert not output(replace(rounding, pytorch=1.6e-4)).as_accurate
    another = replace(rounding, float64=2e-11)
    assert not output(another).same_function and not output(another).as_accurate


def test_what_each_layer_may_add_grows_with_the_root_of_their_number() -> None:
    def layers(*ulps: float) -> list[bool]:
        tables = {str(n): Errors(scale=1.0, pytorch=count * 2**-23) for n, count in enumerate(ulps)}
        return [found.as_accurate for found in judged(tables, {"1": 1.0})]

    assert layers(4, 99, 4 * 2**0.5, 4 * 3**0.5) == [True] * 4
    assert layers(4.1, 99, 5.7, 7.0) == [False, True, False, False]


def test_an_error_of_tensorflows_excuses_nothing_after_it() -> None:
    coarse = Errors(scale=1.0, tensorflow=1e-7, pytorch=1e-3)
    for error in (1e-2, math.inf):
        large = Errors(scale=1.0, tensorflow=error, pytorch=error)
        found = judged({"a": large, "b": coarse}, {})
        assert [one.as_accurate for one in found] == [True, False]


def test_a_product_has_a_bound_of_its_own_whatever_tensorflows_error() -> None:
    errors = Errors(scale=1.0, tensorflow=1e-9, pytorch=2e-6)
    assert judged({"logits": errors}, {"logits": 2e-6})[0].as_accurate
    assert not judged({"logits": errors}, {"logits": 1.9e-6})[0].as_accurate


@pytest.mark.parametrize("terms", [1, 32, 128, 768, 3072])
@pytest.mark.parametrize("signs", ["both", "one"])
def test_rounding_stays_below_the_bound_of_a_product_in_any_order(terms: int, signs: str) -> None:
    rng = np.random.default_rng(terms)
    x, kernel = rng.normal(size=(200, terms)), rng.normal(size=(terms, 2))
    if signs == "one":
        x, kernel = np.abs(x), np.abs(kernel)
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    exact = x.astype(np.float64) @ kernel.astype(np.float64)
    one_by_one = np.stack([np.cumsum(x * column, axis=1)[:, -1] for column in kernel.T], axis=1)
    assert one_by_one.dtype == np.float32
    product = Product("pooled", kernel, np.zeros(2, np.float32))
    for row, *sums in zip(x, exact, one_by_one, x @ kernel, strict=True):
        bound = product_bound(product, row[np.newaxis].astype(np.float64), row[np.newaxis])
        assert largest(sums[0], sums[1]) <= bound and largest(sums[0], sums[2]) <= bound


@pytest.mark.parametrize("terms", [128, 768])
def test_factors_of_fewer_bits_are_over_the_bound_of_a_product(terms: int) -> None:
    rng = np.random.default_rng(terms)
    x, kernel = rng.normal(size=(100, terms)), rng.normal(size=(terms, 2))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    product = Product("pooled", kernel, np.zeros(2, np.float32))
    over = 0
    for row in x[:, np.newaxis]:
        exact = row.astype(np.float64) @ kernel
        half = row.astype(np.float16).astype(np.float64) @ kernel.astype(np.float16)
        over += largest(exact, half) > product_bound(product, row.astype(np.float64), row)
    assert over >= 95  # an error of few bits may be small by luck, too


def test_the_bound_of_a_product_has_the_error_that_came_with_its_input() -> None:
    exact = np.array([[1.0, -1.0], [1e6, 1e6]])
    single = (exact + 0.5).astype(np.float32)
    product = Product("layer_1", np.array([[1.0], [1.0]]), np.zeros(1))
    first = product_bound(product, exact[:1], single[:1])
    assert 1.0 <= first <= 1.0 + 1e-6
    assert product_bound(product, exact, single) > 1.1
    broken = single.copy()
    broken[1] = np.nan
    assert product_bound(product, exact, broken) == first


def test_nan_and_infinity_are_the_same_only_at_the_same_places() -> None:
    one = np.array([1.0, np.nan, np.inf, -np.inf])
    assert largest(one, one.astype(np.float32)) == 0
    assert largest(one, np.array([1.5, np.nan, np.inf, -np.inf])) == 0.5
    for place, value in ((0, np.nan), (1, 0.0), (2, -np.inf), (3, np.nan)):
        other = one.copy()
        other[place] = value
        assert largest(one, other) == math.inf


def gradient(one: Any, other: Any, largest_of_all: float = 1.0) -> Gradient:
    """What comes of a gradient on both sides, in a model with a larger one."""
    theirs = {MATCH.name: sketch(MATCH.name, one)} if one is not None else {}
    ours = {MATCH.name: sketch(MATCH.name, other)} if other is not None else {}
    most = {"another": sketch("another", np.array([largest_of_all]))}
    return _gradient(MATCH, theirs | most, ours | most)


def test_a_gradient_is_zero_only_where_both_sides_are() -> None:
    rounding, real = np.array([1e-17, 0.0]), np.array([1e-3, 0.0])
    both = gradient(rounding, -rounding)
    assert both.zero_by_mathematics and both.passed
    assert not gradient(rounding, real).passed
    assert not gradient(real, rounding).passed
    assert not gradient(real, None).passed
    assert not gradient(None, real).passed
    assert not gradient(real, real * (1 + 5e-9)).passed
    assert gradient(real, real * (1 + 2e-10)).passed


def test_a_gradient_that_is_nearly_zero_has_the_rounding_of_the_others() -> None:
    tiny = np.array([7.2e-10, 0.0])
    assert gradient(tiny, tiny + 1.9e-15).passed
    assert gradient(tiny, tiny + 0.2e-12).passed
    assert not gradient(tiny, tiny + 5e-12).passed
    assert not gradient(tiny, tiny + 5e-15, 1e-3).passed
    assert not gradient(tiny, -tiny).passed


@pytest.mark.parametrize("shape", [(1,), (700,), (1024,), (30, 1000), (3, 4, 500)])
def test_a_sketch_tells_how_far_two_gradients_are_apart(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal(shape)
    for kind in ("all", "one number", "one row"):
        change = rng.standard_normal(shape) * 1e-6
        if kind != "all":
            kept = np.zeros(shape, bool)
            kept[tuple(size // 2 for size in shape[: None if kind == "one number" else 1])] = True
            change *= kept
        found = distance(sketch("x", one), sketch("x", one + change))
        assert 0.1 < found / np.linalg.norm(change) < 10
    assert distance(sketch("x", one), sketch("x", one.copy())) == 0


def test_a_sketch_is_of_the_numbers_whatever_their_dimensions() -> None:
    array = np.random.default_rng(0).standard_normal((6, 20, 50))
    assert sketch("x", array) == sketch("x", array.reshape(120, 50))
    assert sketch("x", array) == sketch("x", np.asfortranarray(array))
    assert sketch("x", array).products != sketch("y", array).products


def test_a_nan_in_a_gradient_must_be_at_the_same_place() -> None:
    one = np.random.default_rng(0).standard_normal(3000)
    other = one.copy()
    one[5] = other[6] = np.nan
    assert distance(sketch("x", one), sketch("x", one.copy())) == 0
    assert distance(sketch("x", one), sketch("x", other)) == math.inf


def test_the_sequences_reach_every_part_of_the_model() -> None:
    long, ragged = batches(8)
    assert long.input_ids.shape == (1, 512) and long.input_mask.all()
    lengths = ragged.input_mask.sum(axis=1)
    assert len(lengths) == 7 and 1 in lengths and len(set(lengths)) > 4
    for batch in (long, ragged):
        assert set(batch.segment_ids.ravel()) == {0, 1}
        tokens = batch.input_ids[batch.input_mask > 0]
        assert 0 not in tokens and tokens.max() < 1000
        assert {1, 2, 3, 4} <= set(tokens)
        assert (batch.input_ids[batch.input_mask == 0] == 0).all()
        assert (np.diff(batch.input_mask, axis=1) <= 0).all()


@pytest.mark.parametrize("samples", [1, 2, 8, 9, 20])
def test_as_many_sequences_as_were_asked_for(samples: int) -> None:
    assert sum(len(batch.input_ids) for batch in batches(samples)) == samples


def test_a_seed_decides_the_sequences_and_the_positions() -> None:
    for one, other in zip(batches(8), batches(8), strict=True):
        assert all(map(np.array_equal, astuple(one), astuple(other)))
    for one, other in zip(batches(8), batches(8, seed=1), strict=True):
        assert not np.array_equal(one.input_ids, other.input_ids)
    assert not np.array_equal(batches(8)[0].rows, batches(8, seed=1)[0].rows)


def test_the_sequences_of_a_seed_never_change() -> None:
    long, ragged = batches(8)
    assert long.input_ids[0, :6].tolist() == [2, 694, 4, 1, 643, 809]
    assert long.rows[:6].tolist() == [0, 18, 28, 41, 68, 74]
    assert ragged.input_mask.sum(axis=1).tolist() == [1, 16, 4, 22, 30, 28, 8]
    assert ragged.masked[:6].tolist() == [0, 30, 31, 33, 34, 35]


def test_how_many_positions_are_compared_changes_no_sequence() -> None:
    for one, other in zip(batches(8), batches(8, positions=1), strict=True):
        assert all(map(np.array_equal, astuple(one)[:3], astuple(other)[:3]))


@pytest.mark.parametrize("positions", [1, 4, 32, 512, 1000])
def test_each_sequence_is_compared_at_its_first_token_and_others(positions: int) -> None:
    for batch in batches(20, positions=positions):
        count, width = batch.input_ids.shape
        assert batch.rows.dtype == np.int64 and (np.diff(batch.rows) > 0).all()
        assert batch.input_mask.ravel()[batch.rows].all()
        lengths = batch.input_mask.sum(axis=1)
        found = np.bincount(batch.rows // width, minlength=count)
        assert found.tolist() == np.minimum(lengths, positions).tolist()
        first = batch.rows[first_tokens(batch)]
        assert first.tolist() == (width * np.arange(count)).tolist()


@pytest.mark.parametrize(("vocab_size", "most"), [(9, 7281), (1000, 65), (30522, 2), (99999, 1)])
def test_logits_of_a_vocabulary_are_computed_at_few_positions(vocab_size: int, most: int) -> None:
    for batch in few(20, vocab_size=vocab_size, max_length=64):
        assert batch.masked.dtype == np.int64 and (np.diff(batch.masked) > 0).all()
        assert len(batch.masked) == min(most, len(batch.rows))
        assert set(batch.masked) <= set(batch.rows)
        sequences = set(batch.masked // batch.input_ids.shape[1])
        assert len(sequences) == min(most, len(batch.input_ids))


def test_an_output_is_taken_at_the_positions_if_it_has_a_value_for_each() -> None:
    batch = Samples(*3 * [np.ones((2, 3), np.int32)], np.array([0, 2, 3]), np.array([2]))
    states = np.arange(6).reshape(2, 3, 1)
    square, scores = np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)
    outputs = {"embeddings": states, "layer_11": states, "pooled": square, "logits": scores}
    found = at_rows({n: Tensor(array) for n, array in outputs.items()}, ["logits"], batch)
    assert found["embeddings"].tolist() == found["layer_11"].tolist() == [[0], [2], [3]]
    assert found["pooled"].tolist() == square.tolist()
    assert found["logits"].tolist() == [0, 2, 3]


def test_a_vocabulary_may_lack_special_tokens() -> None:
    found = few(vocab_size=9, max_length=4)
    assert all(batch.input_ids.max() < 9 and not batch.segment_ids.any() for batch in found)


@pytest.mark.parametrize("pad_id", [0, 7, None])
def test_the_padding_token_is_never_among_tokens(pad_id: int | None) -> None:
    found = few(64, vocab_size=9, max_length=16, pad_id=pad_id)
    tokens = {int(i) for batch in found for i in batch.input_ids[batch.input_mask > 0]}
    assert tokens == set(range(9)) - {pad_id}
    padding = {int(i) for batch in found for i in batch.input_ids[batch.input_mask == 0]}
    assert padding == {pad_id or 0}


def test_a_vocabulary_may_have_nothing_but_padding() -> None:
    assert few(vocab_size=1, max_length=4)


def test_names_that_xml_does_not_allow_are_escaped(
    fixtures: Path, converted: Callable[[str], Path]
) -> None:
    verdict = verify(fixtures / "encoder", converted("encoder"), level="weights")
    odd = replace(verdict.matches[0], tensor='a"<&\x00\x1b\ud800', same=False)
    text = report.to_junit(replace(verdict, matches=[odd]))
    (suite,) = ElementTree.fromstring(text)
    assert 'a"<&\\x00\\x1b\\ud800' in [case.get("name") for case in suite]
