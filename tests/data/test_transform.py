"""The transform: same numbers in training and serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recstill.api import BundleError, FeatureError, FeatureSpec
from recstill.data.columns import column_of
from recstill.data.files import write_json
from recstill.data.keys import to_keys
from recstill.data.packed import combine_keys, open_store, write_view
from recstill.data.transform import Transform

FEATURES = (
    FeatureSpec(name="id", view="key", kind="categorical", min_count=2, oov_buckets=4),
    FeatureSpec(name="shop", view="v", kind="categorical", table="place", min_count=1),
    FeatureSpec(name="home", view="v", kind="categorical", table="place", min_count=1),
    FeatureSpec(name="price", view="v"),
    FeatureSpec(name="age", view="v", buckets=4),
)
COLUMNS = {
    "id": np.array([1, 1, 2, 2, 3]),
    "shop": np.array(["a", "b", "a", "b", "a"], dtype=object),
    "home": np.array(["c", "a", "c", "", None], dtype=object),
    "price": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
    "age": np.array([10.0, np.nan, 30.0, 40.0, 50.0]),
}


@pytest.fixture
def transform() -> Transform:
    return Transform.fit(FEATURES, COLUMNS)


def test_frequent_ids_have_rows_and_rare_or_new_ones_share_hashed_buckets(transform: Transform) -> None:
    rows = transform.tables["id"].rows(to_keys(np.array([1, 2, 3, 999])))
    assert rows[0] != rows[1]
    assert set(rows[:2]) == {1, 2}
    assert all(3 <= row < transform.tables["id"].num_rows for row in rows[2:])
    assert transform.knows("id", np.array([1, 3])).tolist() == [True, False]
    assert (rows == transform.tables["id"].rows(to_keys(np.array([1, 2, 3, 999])))).all()


def test_missing_is_a_value_of_its_own(transform: Transform) -> None:
    assert transform.tables["place"].rows(to_keys(np.array(["", None], dtype=object))).tolist() == [0, 0]
    assert transform.numeric["age"].bucket(np.array([np.nan, 10.0])).tolist() == [0, 1]
    assert transform.numeric["age"].dense(np.array([np.nan]))[0].tolist() == [0.0, 0.0, 1.0]


def test_features_that_share_a_table_share_ids(transform: Transform) -> None:
    shop = transform.encode({**COLUMNS}, ["shop"]).ids[:, 0]
    home = transform.encode({**COLUMNS}, ["home"]).ids[:, 0]
    assert shop[0] == home[1]


def test_ids_are_the_same_with_and_without_gaps() -> None:
    assert to_keys(np.array([7, 2**53 + 1])).tolist() == to_keys(column_of("int", [7, 2**53 + 1, None])).tolist()[:2]
    assert to_keys(column_of("int", [None]))[0] == 0


def test_parts_put_in_their_places_make_the_whole(transform: Transform) -> None:
    whole = transform.encode(COLUMNS)
    for names in (["id", "price"], ["shop", "home", "age"]):
        part = transform.encode(COLUMNS, names)
        assert (whole.dense[:, transform.dense_index(names)] == part.dense).all()
        assert (whole.ids[:, transform.id_index(names)] == part.ids).all()


def test_a_restricted_transform_encodes_as_the_whole_does(transform: Transform) -> None:
    some = transform.restrict([FEATURES[0], FEATURES[4]])
    assert (some.encode(COLUMNS).dense == transform.encode(COLUMNS, ["id", "age"]).dense).all()
    assert [slot.name for slot in some.slots] == ["age#", "id"]


def test_a_stored_transform_gives_the_same_numbers(transform: Transform, tmp_path: Path) -> None:
    transform.save(tmp_path)
    again = Transform.load(tmp_path).encode(COLUMNS)
    assert (again.dense == transform.encode(COLUMNS).dense).all()
    assert (again.ids == transform.encode(COLUMNS).ids).all()
    (tmp_path / "transform.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot be read"):
        Transform.load(tmp_path)


def test_a_column_that_the_snapshot_lacks_is_named() -> None:
    with pytest.raises(FeatureError, match="lacks age"):
        Transform.fit(FEATURES, {name: values for name, values in COLUMNS.items() if name != "age"})


def test_packed_views_give_back_what_was_written(tmp_path: Path) -> None:
    columns = {
        "user": np.array([5, 3, 9]), "team": np.array(["x", "y", "x"], dtype=object),
        "score": np.array([0.5, np.nan, 1.5], np.float32), "city": np.array(["b", None, "a"], dtype=object),
        "code": column_of("int", [2**53 + 1, None, 3]),
    }  # fmt: skip
    card = write_view(tmp_path, "v", ["user", "team"], columns)
    write_json(tmp_path / "online.json", {"version": "1", "as_of": "", "views": {"v": {**card, "features": {}}}})
    view = open_store(tmp_path).views["v"]
    rows = view.find([np.array([9, 5, 3, 3]), np.array(["x", "x", "y", "x"], dtype=object)])
    assert rows[3] == -1
    assert view.read("city", rows).tolist() == ["a", "b", None, None]
    assert view.read("score", rows).tolist() == [1.5, 0.5, None, None]
    assert view.read("code", rows).tolist() == [3, 2**53 + 1, None, None]
    assert len(set(combine_keys([columns["user"], columns["team"]]).tolist())) == 3
    with pytest.raises(FeatureError, match="no feature 'colour' online"):
        view.read("colour", rows)
