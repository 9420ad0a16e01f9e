import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertconvert.converter.storage.remote_file import Spans
from bertconvert.converter.storage.urls import ends_as_folder, host, join, scrubbed, shown, split


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("https://h/a/x.zip?X-Amz-Signature=1#part", "https://h/a/x.zip"),
        ("https://somebody:secret@h:80/a", "https://h:80/a"),
        ("http://h", "http://h"),
        ("s3://b/what?", "s3://b/what?"),
        ("sftp://somebody:secret@h/a", "sftp://h/a"),
        ("https://h/a@b", "https://h/a@b"),
    ],
)
def test_a_url_is_shown_without_what_is_secret(url: str, what: str) -> None:
    assert shown(url) == what


@pytest.mark.parametrize(
    ("url", "folder", "name"),
    [
        ("https://h/a/x.zip", "https://h/a", "x.zip"),
        ("https://h/a/x.zip?key=1/2", "https://h/a?key=1/2", "x.zip"),
        ("https://h/a%20b/x%20(1).zip", "https://h/a%20b", "x (1).zip"),
        ("https://h/a/", "https://h", "a"),
        ("https://h/", "https://h", ""),
        ("https://h", "https://h", ""),
        ("https://h?a=b", "https://h?a=b", ""),
        ("s3://b/a%20/x?y", "s3://b/a%20", "x?y"),
        ("s3://b", "s3://b", ""),
        ("memory://b/x", "memory://b", "x"),
    ],
)
def test_a_url_is_a_folder_and_a_name_in_it(url: str, folder: str, name: str) -> None:
    assert split(url) == (folder, name)
    if name and not url.endswith("/"):
        assert join(folder, name) == url.replace("(", "%28").replace(")", "%29")


def test_the_query_of_a_folder_goes_along_to_its_files() -> None:
    assert join("https://h/a?token=1", "b/c d") == "https://h/a/b/c%20d?token=1"
    assert join("s3://b/a/", "c d") == "s3://b/a/c d"
    assert join("https://h/a", "") == "https://h/a/"


def test_a_folder_is_told_by_its_slash() -> None:
    assert [ends_as_folder(u) for u in ("https://h", "https://h/a/?b", "https://h/a")] == [1, 1, 0]


def test_the_host_has_neither_user_nor_query() -> None:
    assert host("https://somebody:secret@h:80/a?b") == "h:80"
    assert host("https://h?b") == "h"


def test_what_a_driver_says_is_shown_without_secrets_and_on_one_line() -> None:
    said = "403, message='No',\n url='https://somebody:secret@h/a?key=secret'"
    assert scrubbed(said) == "403, message='No', url='https://h/a'"


RANGE = st.tuples(st.integers(0, 60), st.integers(0, 60))


class TestSpans:
    @given(st.lists(RANGE), RANGE)
    def test_know_what_is_missing(
        self, ranges: list[tuple[int, int]], asked: tuple[int, int]
    ) -> None:
        spans = Spans(ranges)
        there = {at for start, end in ranges for at in range(start, end)}
        missing = spans.missing(*asked)
        assert {at for start, end in missing for at in range(start, end)} == set(
            range(*asked)
        ) - there
        assert all(start < end for start, end in missing)

    @given(st.lists(RANGE))
    def test_are_few_and_sorted(self, ranges: list[tuple[int, int]]) -> None:
        found = list(Spans(ranges))
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(found))
        random.shuffle(ranges)
        assert list(Spans(ranges)) == found
