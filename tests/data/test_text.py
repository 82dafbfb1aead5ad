"""Texts, matches and sequences become the same numbers wherever they are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from recstill.api import FeatureSpec
from recstill.data.keys import to_keys
from recstill.data.text import Matcher, crossed, grams_of, words_of
from recstill.data.transform import Transform


def texts(*values: object) -> np.ndarray:
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angle-Bracket 4x4 3/4in", ["angle", "bracket", "4", "x", "4", "3/4", "in"]),
        ("ＦＵＬＬ　width", ["full", "width"]),
        ("牛乳 1L", ["牛", "乳", "1", "l"]),
        ("חלב טרי", ["חלב", "טרי"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("   ", []),
        (None, []),
        (float("nan"), []),
        ("🙂 \u202e", []),
    ],
)
def test_words_of_any_script(text: object, words: list[str]) -> None:
    assert words_of(text) == words


def test_only_the_first_two_thousand_characters_are_read() -> None:
    assert len(words_of("word " * 2_500)) == 400


def test_grams() -> None:
    assert grams_of(["red", "ox"], "char3") == ["<re", "red", "ed>", "<ox", "ox>"]
    assert grams_of(["a", "b", "c"], "word2") == ["a b", "b c"]
    assert grams_of(["a"], "char5") == ["<a>"]


def test_a_match_is_a_share_of_the_query_weighted_by_rarity() -> None:
    titles = texts("red wall paint", "blue wall paint", "paint brush", "red hammer")
    matcher = Matcher.fit(titles)
    rarity = {word: np.log1p(4 / n) for word, n in (("red", 2), ("wall", 2), ("paint", 3), ("hammer", 1))}
    found = matcher.dense(
        texts("red paint", "red paint", "", "sand"), texts("red wall paint", "paint brush", "red", "red hammer")
    )
    assert found[0, 0] == 1.0
    assert found[1, 0] == 0.5
    assert found[1, 1] == pytest.approx(rarity["paint"] / (rarity["paint"] + rarity["red"]), abs=1e-6)
    assert (found[2, :9] == 0).all()
    assert not found[3, :6].any()
    assert found.shape == (4, matcher.num_columns)


def test_a_match_of_many_rows_is_that_of_each() -> None:
    queries, titles = texts(*[f"q{i % 7} paint" for i in range(5000)]), texts(*[f"paint q{i % 5}" for i in range(5000)])
    matcher = Matcher.fit(titles)
    whole = matcher.dense(queries, titles)
    for place in (0, 2047, 2048, 4999):
        assert (whole[place] == matcher.dense(queries[place : place + 1], titles[place : place + 1])[0]).all()


def test_pairs_of_words_tell_which_word_asked() -> None:
    first, other = crossed(texts("red"), texts("paint"), 16), crossed(texts("paint"), texts("red"), 16)
    assert (first != 0).sum() == 1
    assert set(first[first != 0]) != set(other[other != 0])


FEATURES = (
    FeatureSpec(name="query", view="context", kind="text", buckets=50, length=12),
    FeatureSpec(name="title", view="v", kind="text", buckets=50, length=20),
    FeatureSpec(name="query_title", view="match", kind="match", of=("query", "title"), buckets=64, length=32),
    FeatureSpec(name="film", view="key", kind="categorical", min_count=1, oov_buckets=2),
    FeatureSpec(name="seen", view="context", kind="sequence", table="film", min_count=1, oov_buckets=2, length=3),
)
COLUMNS = {
    "query": texts("red paint", "牛乳", ""),
    "title": texts("red wall paint", "milk", None),
    "film": np.array([1, 2, 3]),
    "seen": np.array([[1, 2, 3, 1], [], None], dtype=object),
}


def test_sequences_keep_the_newest_in_order_and_share_the_table() -> None:
    transform = Transform.fit(FEATURES, COLUMNS)
    ids = transform.encode(COLUMNS, ["seen"]).ids
    own = transform.tables["film"].rows(to_keys(np.array([2, 3, 1])))
    assert ids.tolist() == [own.tolist(), [0, 0, 0], [0, 0, 0]]
    assert [slot.width for slot in transform.slots] == [1, 3, 12, 32, 20]


def test_parts_make_the_whole_and_a_stored_transform_says_the_same(tmp_path: Path) -> None:
    transform = Transform.fit(FEATURES, COLUMNS)
    transform.save(tmp_path)
    whole, again = transform.encode(COLUMNS), Transform.load(tmp_path).encode(COLUMNS)
    assert (whole.ids == again.ids).all()
    assert (whole.dense == again.dense).all()
    for names in (["query"], ["title", "seen"], ["query_title"]):
        part = transform.encode(COLUMNS, names)
        assert (whole.ids[:, transform.id_index(names)] == part.ids).all()
        assert (whole.dense[:, transform.dense_index(names)] == part.dense).all()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "sequence"}, "a sequence needs `length`"),
        ({"kind": "text", "length": 8}, "a text needs `buckets`"),
        ({"kind": "match", "length": 8, "buckets": 9}, "names two features `of`"),
        ({"of": ("a", "b")}, "names two features `of`"),
    ],
)
def test_a_feature_that_lacks_something_is_refused(spec: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FeatureSpec(name="x", view="v", **spec)
