"""One value, one meaning: for every type, in every place where it is kept, read or hashed."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api import FeatureError, FeatureSpec, RequestError
from recstill.data.arrow import typed_column
from recstill.data.columns import Column, codes_of
from recstill.data.files import write_json
from recstill.data.keys import to_keys
from recstill.data.packed import open_store, unserved_reason, write_view
from recstill.data.snapshot import open_snapshot, write_snapshot
from recstill.data.transform import Transform
from recstill.evaluation.metrics import group_ids
from recstill.serving.values import read_column

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
UTC = dt.UTC
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
MOMENTS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high) | st.sampled_from([low, high, high - 1, 0, 1])


KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    **{f"int{bits}": (getattr(pa, f"int{bits}")(), integers(bits, signed=True)) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (getattr(pa, f"uint{bits}")(), integers(bits, signed=False)) for bits in (8, 16, 32, 64)},
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), TEXTS),
    "large_string": (pa.large_string(), TEXTS),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    "int_dictionary": (pa.dictionary(pa.int8(), pa.int64()), integers(64, signed=True)),
    "decimal": (pa.decimal128(38, 9), st.decimals(-(10**28), 10**28, places=9)),
    "date": (pa.date32(), st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))),
    "timestamp_s": (pa.timestamp("s"), MOMENTS.map(lambda moment: moment.replace(microsecond=0))),
    "timestamp_us": (pa.timestamp("us", "UTC"), MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC))),
    "timestamp_ns": (pa.timestamp("ns", "Europe/Berlin"), MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC))),
    "null": (pa.null(), st.none()),
}


@st.composite
def arrays(draw: st.DrawFn) -> pa.Array:
    """A column of any type that can be a category, with nulls, extremes and repeated values."""
    kind, values = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    drawn = draw(st.lists(st.none() | values, min_size=1, max_size=12))
    if pa.types.is_dictionary(kind):
        return pa.array(drawn + drawn[:3], kind.value_type).dictionary_encode()
    return pa.array(drawn + drawn[:3], kind)


def through_parquet(array: pa.Array) -> Column:
    with tempfile.TemporaryDirectory() as folder:
        rows = pa.table({"c": array, "split": ["train"] * len(array)})
        snapshot = write_snapshot(rows, {"task": "t"}, Path(folder))
        column = open_snapshot(snapshot.id, Path(folder)).typed(["c"])["c"]
    assert isinstance(column, Column)
    return column


def meaning(value: Any) -> Any:
    """What two values share exactly if they are one category: none for what is missing."""
    if isinstance(value, dt.datetime):
        return ("moment", value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None))
    if isinstance(value, dt.date):
        return value.isoformat()
    return None if value is None or value == "" else value


@QUICK
@given(arrays())
def test_a_snapshot_gives_back_every_value_of_its_source(array: pa.Array) -> None:
    stored = through_parquet(array)
    assert [meaning(value) for value in stored.tolist()] == [meaning(value) for value in array.to_pylist()]
    assert stored.is_missing.tolist() == [value is None for value in array.to_pylist()]


@QUICK
@given(arrays(), st.randoms(use_true_random=False))
def test_two_values_have_one_key_exactly_if_they_are_one_value(array: pa.Array, random: Any) -> None:
    keys = to_keys(typed_column(array)).tolist()
    values = [meaning(value) for value in array.to_pylist()]
    assert len(set(keys)) == len(set(values))
    assert dict(zip(values, keys, strict=True)).get(None, 0) == 0
    assert all(key != 0 for key, value in zip(keys, values, strict=True) if value is not None)
    places = list(range(len(array)))
    random.shuffle(places)
    alone = [int(to_keys(typed_column(array.slice(place, 1)))[0]) for place in places]
    assert alone == [keys[place] for place in places]
    assert to_keys(through_parquet(array)).tolist() == keys


@QUICK
@given(integers(64, signed=True))
def test_an_integer_has_one_key_in_every_width_and_as_a_whole_decimal(value: int) -> None:
    found = {
        int(to_keys(typed_column(pa.array([value], kind)))[0])
        for bits in (8, 16, 32, 64)
        for kind, low, high in (
            (getattr(pa, f"int{bits}")(), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
            (getattr(pa, f"uint{bits}")(), 0, 2**bits - 1),
        )
        if low <= value <= high
    }
    found.add(int(to_keys(typed_column(pa.array([decimal.Decimal(value)], pa.decimal128(38, 4))))[0]))
    assert len(found) == 1


def test_what_was_hashed_before_changes_no_key() -> None:
    one = {"int": [1], "bool": [True], "string": ["1", "True"]}
    columns = {name: pa.array(values) for name, values in one.items()}
    first = {name: to_keys(typed_column(array)).tolist() for name, array in columns.items()}
    again = {name: to_keys(typed_column(columns[name])).tolist() for name in reversed(columns)}
    assert first == again
    assert first["string"][0] != first["int"][0]
    big = to_keys(typed_column(pa.array([2**63 + 5], pa.uint64())))
    assert big != to_keys(np.array([-(2**63) + 5]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pa.array([0.25, 0.5]), "type float: cast it to an integer or a string"),
        (pa.array([b"abc"]), "type bytes: write it as text"),
        (pa.array([{"a": 1}]), "type struct: make a feature of each"),
        (pa.array([[1]]), "type list<int>"),
        (pa.array([dt.timedelta(days=1)]), "type duration"),
    ],
)
def test_what_cannot_be_a_category_is_refused_with_the_way_out(values: pa.Array, words: str) -> None:
    feature = FeatureSpec(name="shop", view="row", kind="categorical")
    with pytest.raises(FeatureError, match=words) as error:
        Transform.fit([feature], {"shop": typed_column(values)})
    assert "'shop'" in str(error.value)


@QUICK
@given(arrays())
def test_parts_encode_as_the_whole_and_packed_values_as_their_source(array: pa.Array) -> None:
    features = [FeatureSpec(name="c", view="v", kind="categorical", min_count=2, oov_buckets=3)]
    source = typed_column(array)
    transform = Transform.fit(features, {"c": source})
    whole = transform.encode({"c": source}).ids
    parts = [transform.encode({"c": source[place : place + 1]}).ids for place in range(len(array))]
    assert (np.concatenate(parts) == whole).all()
    if unserved_reason(source.type):
        return
    with tempfile.TemporaryDirectory() as folder:
        view = packed(Path(folder), {"id": np.arange(len(array)), "c": source})
        read = view.read("c", view.find([np.arange(len(array) + 1)]))
    assert read.type == source.type
    assert read.tolist() == [*source.tolist(), None]
    assert (transform.encode({"c": read}).ids[:-1] == whole).all()


def packed(folder: Path, columns: Any) -> Any:
    card = write_view(folder, "v", ["id"], columns)
    write_json(folder / "online.json", {"version": "1", "as_of": "", "views": {"v": {**card, "features": {}}}})
    return open_store(folder).views["v"]


def as_json(value: Any) -> Any:
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value


@QUICK
@given(arrays())
def test_a_request_reads_every_value_as_training_did(array: pa.Array) -> None:
    source = typed_column(array)
    sent = json.loads(json.dumps([as_json(value) for value in array.to_pylist()]))
    read = read_column(sent, source.type, lambda place: f"items[{place}]", 512)
    assert to_keys(read).tolist() == to_keys(source).tolist()
    if source.type == "int":  # JSON clients that cannot hold 64 bits send digits
        texts = [None if value is None else str(value) for value in sent]
        assert to_keys(read_column(texts, "int", str, 512)).tolist() == to_keys(source).tolist()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", "x"), ("int", 1.5), ("int", True), ("int", ""), ("int", "1.0"), ("int", "１"), ("int", 2**64), ("int", [1]),
        ("int", {}), ("bool", "true"), ("bool", 2), ("bool", 1.0), ("string", 1.5), ("string", True), ("string", "x" * 600),
        ("decimal", "1e999999"), ("decimal", "nan"), ("decimal", "x"), ("date", "2026-13-01"), ("date", 20260101),
        ("timestamp", "yesterday"), ("timestamp", 1700000000), ("float", "1.5"), ("float", True), ("float", 1e300),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_of_the_type_is_refused_by_name(kind: str, value: Any) -> None:
    with pytest.raises(RequestError, match=r"items\[1\]") as error:
        read_column([None, value], kind, lambda place: f"items[{place}]", 512)
    assert error.value.status == 422


@QUICK
@given(st.lists(st.lists(integers(64, signed=True), max_size=4), max_size=6), st.integers(2, 4))
def test_histories_keep_their_items_and_their_order(lists: list[list[int]], length: int) -> None:
    column = typed_column(pa.array([*lists, None, [7]], pa.list_(pa.int64())))
    assert column.tolist() == [*lists, [], [7]]
    features = [FeatureSpec(name="h", view="v", kind="sequence", length=length, min_count=1)]
    transform = Transform.fit(features, {"h": column})
    ids = transform.encode({"h": column}).ids
    items = transform.tables["h"].rows(to_keys(np.array([item for one in lists for item in one[-length:]], np.int64)))
    assert ids[ids != 0].tolist() == [*items.tolist(), *transform.tables["h"].rows(to_keys(np.array([7])))]
    with tempfile.TemporaryDirectory() as folder:
        view = packed(Path(folder), {"id": np.arange(len(column)), "h": column})
        read = view.read("h", np.append(-1, view.find([np.arange(len(column))])))
    assert read.tolist() == [[], *column.tolist()]
    assert (transform.encode({"h": read}).ids[1:] == ids).all()


def test_a_null_in_a_history_and_text_for_a_history_are_refused_by_name() -> None:
    feature = FeatureSpec(name="h", view="context", kind="sequence", length=4)
    with pytest.raises(FeatureError, match=r"'h' has 1 nulls inside of its lists, the first in row 1: \[3, None\]"):
        Transform.fit([feature], {"h": typed_column(pa.array([[1], [3, None]]))})
    with pytest.raises(FeatureError, match="'h' is a sequence and its values are of type string, not lists"):
        Transform.fit([feature], {"h": typed_column(pa.array(["12,5,40"]))})


def test_a_null_key_is_no_entity(tmp_path: Path) -> None:
    view = packed(tmp_path, {"id": typed_column(pa.array([1, None, 2**53 + 1])), "x": np.array([0.5, 0.25, 1.5])})
    assert view.find([typed_column(pa.array([None, 2**53 + 1, 2**53, 1]))]).tolist()[0] == -1
    assert view.read("x", view.find([np.array([2**53 + 1, 2**53, 1])])).tolist() == [1.5, None, 0.5]


def test_a_value_that_training_never_saw_is_of_no_untrained_row() -> None:
    feature = FeatureSpec(name="shop", view="context", kind="categorical", min_count=2, oov_buckets=16)
    transform = Transform.fit([feature], {"shop": np.array([1, 1, 2, 2, 3])})
    rows = transform.encode({"shop": np.arange(-500, 500)}).ids[:, 0]
    assert set(np.unique(rows)) == {0, 1, 2, int(transform.encode({"shop": np.array([3])}).ids[0, 0])}


@QUICK
@given(st.lists(st.tuples(st.none() | st.integers(-3, 3), st.none() | st.sampled_from("abc")), min_size=1, max_size=30))
def test_groups_are_numbered_as_many_as_there_are(rows: list[tuple[int | None, str | None]]) -> None:
    numbers, texts = zip(*rows, strict=True)
    groups = group_ids([typed_column(pa.array(numbers, pa.int64())), typed_column(pa.array(texts, pa.string()))])
    assert len(set(groups.tolist())) == len(set(rows)) == groups.max() + 1
    assert len(set(zip(rows, groups.tolist(), strict=True))) == len(set(rows))
    assert codes_of(groups).tolist() == groups.tolist()


def test_a_dictionary_column_with_nulls_is_stored_as_its_values(tmp_path: Path) -> None:
    rows = pa.table({"c": pa.array(["a", None, "b"]).dictionary_encode(), "split": ["train"] * 3})
    snapshot = write_snapshot(rows, {"task": "t"}, tmp_path)
    assert pq.read_table(snapshot.folder / "rows.parquet")["c"].to_pylist() == ["a", None, "b"]
    assert snapshot.columns(["c"])["c"].tolist() == ["a", None, "b"]


def test_no_column_asked_for_is_none_read(tmp_path: Path) -> None:
    """An empty list of names once meant all of them: a task without slices was sliced by every column that it had."""
    splits = pa.array(["train", "valid", "test"])
    table = pa.table({"split": splits, "x": pa.array([1, 2, 3])})
    snapshot = write_snapshot(table, {"task": "t"}, tmp_path)
    assert snapshot.typed([]) == {}
    assert snapshot.columns(()) == {}
    assert set(snapshot.typed(["x"])) == {"x"}
