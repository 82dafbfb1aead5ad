"""Every type of Feast: the source, the join of training, Feast online, the packed arrays and their keys say one value."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Bytes, Uuid
from feast.value_type import ValueType

from recstill.api import DataError, FeatureError
from recstill.data.arrow import typed_column
from recstill.data.keys import to_keys
from recstill.data.packed import PackedStore, open_store, write_view
from recstill.features.apply import apply
from recstill.features.checks import check_definitions
from recstill.features.dtypes import as_declared
from recstill.features.featureset import FeatureSet, View
from recstill.features.history import join_features
from recstill.features.online import materialize
from recstill.features.repo import all_views, definitions, open_repo
from recstill.features.verify import verify_online
from recstill.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
UNTIL = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
MOMENT = pa.timestamp("us", "UTC")
NUM_ROWS = 12
UNKNOWN = 10**6

REPO = """
from pathlib import Path
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
word = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
TYPES = {"i32": Int32, "i64": Int64, "gaps": Int64, "f32": Float32, "f64": Float64, "flag": Bool, "text": String,
         "moment": UnixTimestamp,
         "ints": Array(Int64), "floats": Array(Float32), "texts": Array(String)}
HERE = Path(__file__).parent
for name, kind in TYPES.items():
    source = FileSource(name=f"s_{name}", path=str(HERE / "numbers.parquet"), timestamp_field="event_timestamp")
    globals()[name] = FeatureView(name=f"v_{name}", entities=[number], schema=[Field(name=name, dtype=kind)], source=source,
                                  tags={"availability": "request"})
source = FileSource(name="s_words", path=str(HERE / "words.parquet"), timestamp_field="event_timestamp")
words = FeatureView(name="v_words", entities=[word, number], schema=[Field(name="both", dtype=Int64)], source=source,
                    tags={"availability": "request"})
"""


def generated() -> dict[str, pa.Array]:
    """A column per type, with nulls, extremes, empty values and others drawn at random."""
    random = np.random.default_rng(0)
    drawn = random.integers(-(2**62), 2**62, NUM_ROWS - 4).tolist()
    seconds = [T0 + dt.timedelta(seconds=int(second)) for second in random.integers(-(10**9), 10**8, NUM_ROWS - 3)]
    return {
        "i32": pa.array([2**31 - 1, -(2**31), None, *(value % 1000 for value in drawn), 0], pa.int32()),
        "i64": pa.array([2**53 + 1, 2**63 - 1, -(2**63), 0, *drawn], pa.int64()),
        "gaps": pa.array([2**53 + 1, None, -7, *(value % 10**6 for value in drawn), 0], pa.int64()),
        "f32": pa.array([0.1, None, 1e-30, -2.5, *(value / 7e15 for value in drawn)], pa.float32()),
        "f64": pa.array([0.25, 1e300, None, 1.5, *(value / 7e15 for value in drawn)], pa.float64()),
        "flag": pa.array([True, False, None, *(value % 2 == 0 for value in drawn), True], pa.bool_()),
        "text": pa.array(["héé", "日本", None, "", " x ", "\U0001f600", "a\x00b", *map(str, drawn[:5])], pa.string()),
        "moment": pa.array([None, T0, T0 + dt.timedelta(seconds=60), *seconds], MOMENT),
        "ints": pa.array([[1, 2], [], None, [2**53 + 1], *([value, 1] for value in drawn)], pa.list_(pa.int64())),
        "floats": pa.array([[0.5, 1.5], [], None, [0.1], *([value / 7e15] for value in drawn)], pa.list_(pa.float32())),
        "texts": pa.array([["a", "ü"], [], None, [""], *([str(value)] for value in drawn)], pa.list_(pa.string())),
    }


@dataclass(frozen=True)
class Repository:
    """An applied and materialized repository, what its sources hold, and its views by name."""

    store: FeatureStore
    source: dict[str, pa.Array]
    views: dict[str, View]
    packed: PackedStore
    settings: Settings


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    folder, before = tmp_path_factory.mktemp("types"), dict(os.environ)
    shutil.copy(ROOT / "feature_repo" / "feature_store.yaml", folder)
    (folder / "definitions_of_types.py").write_text(REPO)
    source, ids = generated(), list(range(NUM_ROWS))
    times = pa.array([T0] * NUM_ROWS, MOMENT)
    pq.write_table(pa.table({"number": ids, "event_timestamp": times, **source}), folder / "numbers.parquet")
    words = pa.array([f"w{place % 3}" for place in ids])
    pq.write_table(
        pa.table({"word": words, "number": ids, "event_timestamp": times, "both": source["i64"]}), folder / "words.parquet"
    )
    os.environ |= {"RECSTILL_HOME": str(folder / "home"), "RECSTILL_FEATURE_REPO": str(folder)}
    settings = Settings.from_environment()
    with contextlib.redirect_stdout(io.StringIO()):
        apply(open_repo(settings), definitions(settings))
        store = open_repo(settings)
        packed = materialize(store, settings.folder("online"), UNTIL, lambda _: None)
    yield Repository(store, source, {view.name: view for view in all_views(store)}, packed, settings)
    os.environ.clear()
    os.environ.update(before)


def plain(value: Any) -> Any:
    """A value of whatever library, as what it means."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo is None else value.astimezone(dt.UTC)).replace(tzinfo=None)
    return None if value is None or value != value else value


def entities(numbers: list[int | None]) -> pa.Table:
    return pa.table({"number": pa.array(numbers, pa.int64()), "event_timestamp": pa.array([UNTIL] * len(numbers), MOMENT)})


NAMES = ["i32", "i64", "gaps", "f32", "f64", "flag", "text", "moment", "ints", "floats", "texts"]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_is_the_same_wherever_it_is_read(repository: Repository, name: str) -> None:
    view, asked = repository.views[f"v_{name}"], [*range(NUM_ROWS), UNKNOWN]
    truth = [plain(value) for value in repository.source[name].to_pylist()]
    joined = join_features(repository.store, entities([*asked, None]), FeatureSet("s", (view,)), {})[name]
    assert joined.type == repository.source[name].type
    assert [plain(value) for value in joined.to_pylist()] == [*truth, None, None]
    packed = repository.packed.views[view.name]
    read = packed.read(name, packed.find([np.array(asked)]))
    if name in ("ints", "floats", "texts"):
        truth = [value or [] for value in truth]
    assert [plain(value) for value in read.tolist()] == [*truth, [] if "list" in read.type else None]
    online = repository.store.get_online_features(
        features=[f"{view.name}:{name}"], entity_rows=[{"number": number} for number in asked]
    ).to_dict()[name]
    missing: Any = [] if "list" in read.type else None
    served = [missing if value is None else plain(value) for value in online]
    assert served == [*truth, missing]
    if name in ("i32", "i64", "gaps", "flag", "text", "moment"):
        assert to_keys(read)[:-1].tolist() == to_keys(typed_column(repository.source[name])).tolist()
        assert to_keys(typed_column(joined)).tolist()[:-1] == to_keys(read).tolist()


def test_all_that_is_served_agrees_with_the_offline_store(repository: Repository) -> None:
    checks = verify_online(repository.store, repository.settings.folder("online"))
    found = {check.view: (check.online_differences, check.packed_differences) for check in checks}
    assert found == dict.fromkeys(repository.views, (0, 0))


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [("Bytes", "text, for example in hex"), ("Uuid", "its text, as String"), ("Array(Bytes)", "one feature per element")],
)
def test_what_cannot_be_served_is_refused_when_the_view_is_applied(repository: Repository, kind: str, way_out: str) -> None:
    contents = definitions(repository.settings)
    view = next(view for view in contents.feature_views if view.name == "v_text")
    view.features[0].dtype = {"Bytes": Bytes, "Uuid": Uuid, "Array(Bytes)": Array(Bytes)}[kind]
    with pytest.raises(FeatureError, match=re.escape(f"feature 'text': type {kind} cannot be served")) as error:
        check_definitions(contents)
    assert way_out in str(error.value)


def test_two_keys_of_two_types_find_their_rows_and_a_null_finds_none(repository: Repository) -> None:
    view = repository.views["v_words"]
    assert view.key_types == {"word": "String", "number": "Int64"}
    rows = entities([0, 1, None, 1, 2]).append_column("word", pa.array(["w0", "w1", "w2", None, "w0"]))
    joined = join_features(repository.store, rows, FeatureSet("s", (view,)), {})["both"]
    assert joined.to_pylist() == [2**53 + 1, 2**63 - 1, None, None, None]
    packed = repository.packed.views["v_words"]
    found = packed.find([typed_column(rows["word"]), typed_column(rows["number"])])
    assert (found < 0).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"number": pa.array(["1", "2"])}, "'number' is declared as Int64, and the rows hold string, such as '1'"),
        ({"number": pa.array([1.0, 2.0])}, "'number' is declared as Int64, and the rows hold double"),
        ({"event_timestamp": pa.array([1700000000, 1700000001])}, "'event_timestamp' holds int64, such as 1700000000"),
        ({"event_timestamp": pa.array(["yesterday", "today"])}, "holds 'yesterday' in row 0, which is no moment"),
        ({"event_timestamp": pa.array([UNTIL, None], MOMENT)}, "is null in 1 rows, the first is row 1"),
    ],
)
def test_keys_and_moments_of_another_type_are_refused_by_name(
    repository: Repository, change: dict[str, pa.Array], words: str
) -> None:
    rows = entities([1, 2])
    for name, column in change.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    with pytest.raises(DataError, match=words):
        join_features(repository.store, rows, FeatureSet("s", (repository.views["v_i64"],)), {})


def test_moments_of_every_unit_and_zone_are_the_same_moments(repository: Repository) -> None:
    view = FeatureSet("s", (repository.views["v_i64"],))
    early, late = T0 - dt.timedelta(seconds=1), T0
    for kind in (pa.timestamp("s", "UTC"), pa.timestamp("ns", "America/New_York"), pa.timestamp("ms")):
        moments = pa.array([moment if kind.tz else moment.replace(tzinfo=None) for moment in (early, late)], kind)
        rows = pa.table({"number": [0, 0], "event_timestamp": moments})
        assert join_features(repository.store, rows, view, {})["i64"].to_pylist() == [None, 2**53 + 1]


def test_a_source_that_holds_another_type_than_its_view_declares_is_refused_by_name() -> None:
    for column, dtype in ((pa.array([0.5]), "Int64"), (pa.array(["1"]), "Int64"), (pa.array([2**40]), "Int32")):
        with pytest.raises(FeatureError, match=f"Feature v:x is declared as {dtype}, and its source holds"):
            as_declared(pa.table({"x": column}), "v", {"x": dtype})
    same = as_declared(pa.table({"x": pa.array([1.0, None])}), "v", {"x": "Int64"})["x"]
    assert (same.type, same.to_pylist()) == (pa.int64(), [1, None])


def test_a_moment_is_of_whole_seconds_as_feast_keeps_it() -> None:
    moments = [T0 + dt.timedelta(seconds=0.5), dt.datetime(1969, 12, 31, 23, 59, 57, 500_000, dt.UTC)]
    protos = python_values_to_proto_values(moments, ValueType.UNIX_TIMESTAMP)
    kept = [dt.datetime.fromtimestamp(proto.unix_timestamp_val, dt.UTC) for proto in protos]
    for unit in ("us", "ns"):
        column = as_declared(pa.table({"x": pa.array(moments, pa.timestamp(unit, "UTC"))}), "v", {"x": "UnixTimestamp"})["x"]
        assert [plain(value) for value in column.to_pylist()] == [plain(value) for value in kept]
        lists = pa.table({"x": pa.array([moments], pa.list_(pa.timestamp(unit, "UTC")))})
        column = as_declared(lists, "v", {"x": "Array(UnixTimestamp)"})["x"]
        assert plain(column.to_pylist()[0]) == plain(kept)


def test_rows_without_a_key_are_counted_and_left_out(repository: Repository, tmp_path: Path) -> None:
    view = replace(repository.views["v_f64"], name="gaps")
    columns = {"number": typed_column(pa.array([1, None, 2**53 + 1])), "f64": np.array([0.25, 0.5, 0.75])}
    card = write_view(tmp_path, view.name, view.join_keys, columns)
    assert (card["num_rows"], card["null_keys"]) == (2, 1)
    assert not (tmp_path / "online.json").exists()
    with pytest.raises(FeatureError, match="holds no online features"):
        open_store(tmp_path)
