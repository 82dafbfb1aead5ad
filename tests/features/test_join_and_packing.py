"""What a view packs is what training joins, whatever its columns are called, its ttl is, and whichever rows compete."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recstill.api import FeatureError
from recstill.data.arrow import typed_column
from recstill.features.apply import apply
from recstill.features.dtypes import as_declared
from recstill.features.featureset import FeatureSet
from recstill.features.history import join_features
from recstill.features.online import materialize
from recstill.features.repo import all_views, definitions, open_repo
from recstill.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
T0, UNTIL = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
MOMENT = pa.timestamp("us", "UTC")
HEAD = """
from pathlib import Path
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Int64, UnixTimestamp
HERE, TAGS = Path(__file__).parent, {"availability": "request"}
number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
other = Entity(name="other", join_keys=["other"], value_type=ValueType.INT64)
word = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
"""
VIEW = """
source = FileSource(name="s", path=str(HERE / "t.parquet"), timestamp_field="event_timestamp"{source})
schema = [Field(name="{feature}", dtype={dtype})]
view = FeatureView(name="v", entities=[{entity}], schema=schema, source=source, tags=TAGS{view})
"""


@dataclass(frozen=True)
class Read:
    """The values of a feature as training joins them, as packed arrays hold them, and as Feast serves them."""

    joined: list[Any]
    packed: list[Any]
    online: list[Any]
    said: list[str]


class Home:
    """A home whose repository is written anew for each table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def read(self, table: pa.Table, views: str, wanted: dict[str, tuple[str, str]]) -> dict[str, Read]:
        """Apply and materialize views of one table. wanted: {view: (its key, its feature)}."""
        self.count += 1
        repo = self.folder / str(self.count)
        repo.mkdir()
        shutil.copy(ROOT / "feature_repo" / "feature_store.yaml", repo)
        (repo / f"views_{self.count}.py").write_text(HEAD + views)
        pq.write_table(table, repo / "t.parquet")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RECSTILL_HOME", str(repo / "home"))
            patch.setenv("RECSTILL_FEATURE_REPO", str(repo))
            own = Settings.from_environment()
            store, said = open_repo(own), []
            apply(store, definitions(own))
            packed = materialize(store, own.folder("online"), UNTIL, said.append)
            known = {view.name: view for view in all_views(store)}
            asked = {key: table[key] for key, _ in wanted.values()}
            moments = pa.array([UNTIL] * len(table), MOMENT)
            rows = pa.table({**asked, "event_timestamp": moments})
            joined = join_features(store, rows, FeatureSet("s", tuple(known[name] for name in wanted)), {})
            found = {}
            for name, (key, feature) in wanted.items():
                view, entities = packed.views[name], [{key: value} for value in table[key].to_pylist()]
                online = store.get_online_features(features=[f"{name}:{feature}"], entity_rows=entities).to_dict()[feature]
                read = view.read(feature, view.find([typed_column(table[key])])).tolist()
                found[name] = Read(joined[feature].to_pylist(), read, online, said)
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("joins"))


def one(home: Home, table: pa.Table, feature: str, entity: str = "number", dtype: str = "Int64", **more: str) -> Read:
    """Read one view of one feature."""
    words = {"source": "", "view": "", **more}
    views = VIEW.format(entity=entity, feature=feature, dtype=dtype, **words)
    return home.read(table, views, {"v": (entity, feature)})["v"]


def table_of(**columns: Any) -> pa.Table:
    size = len(next(iter(columns.values())))
    return pa.table({"event_timestamp": pa.array([T0] * size, MOMENT), **columns})


@pytest.mark.parametrize("name", ["keys", "created", "ids"])
def test_a_feature_may_have_any_name(home: Home, name: str) -> None:
    table = table_of(number=[1, 2, 3], ingested=pa.array([T0] * 3, MOMENT), **{name: [10, None, 30]})
    read = one(home, table, name, source=', created_timestamp_column="ingested"')
    assert read.joined == read.packed == read.online == [10, None, 30]


@pytest.mark.parametrize("name", ["price_y", "a/b", "a#b", "a\\x07"])
def test_a_name_that_would_be_lost_is_refused(home: Home, name: str) -> None:
    with pytest.raises(FeatureError, match="give it another name|leave out '#', '/' and control characters"):
        one(home, table_of(number=[1], x=[1]), name)


@pytest.mark.parametrize("with_created", [False, True])
def test_of_competing_rows_training_and_serving_choose_the_same(home: Home, with_created: bool) -> None:
    random = np.random.default_rng(0)
    number, other, first, second, third = random.integers(0, 4, (5, 60))
    created = pa.array([T0 + dt.timedelta(int(day)) for day in random.integers(0, 2, 60)], MOMENT)
    table = table_of(number=number, other=other, first=first, second=second, third=third, made=created)
    source = ', created_timestamp_column="made"' if with_created else ""
    views = VIEW.format(entity="number", feature="second", dtype="Int64", source=source, view="")
    views += (
        VIEW.replace('"v"', '"w"')
        .replace("view =", "second_view =")
        .format(entity="other", feature="third", dtype="Int64", source=source, view="")
    )
    for read in home.read(table, views, {"v": ("number", "second"), "w": ("other", "third")}).values():
        assert read.joined == read.packed == read.online


def test_an_empty_string_names_no_entity_anywhere(home: Home) -> None:
    read = one(home, table_of(word=["", "a"], x=[1, 2]), "x", entity="word")
    assert read.joined == read.packed == read.online == [None, 2]
    assert "v: 1 rows have no word and are left out" in read.said


@pytest.mark.parametrize(("hours", "counts"), [(24 * 31 - 1, False), (24 * 31 + 1, True)])
def test_a_ttl_of_days_and_hours_means_the_same_in_training_and_serving(home: Home, hours: int, counts: bool) -> None:
    read = one(home, table_of(number=[1], x=[5]), "x", view=f", ttl=timedelta(hours={hours})")
    assert read.joined == read.packed == read.online == [5 if counts else None]


def test_a_row_that_was_never_created_is_none_in_training_and_serving(home: Home) -> None:
    times = pa.array([T0, T0 + dt.timedelta(1)], MOMENT)
    table = pa.table({"number": [1, 1], "event_timestamp": times, "made": pa.array([T0, None], MOMENT), "x": [1, 9]})
    read = one(home, table, "x", source=', created_timestamp_column="made"')
    assert read.joined == read.packed == read.online == [1, 1]
    assert "v: 1 rows have no made and are left out" in read.said


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([["007"]], "Array(Int64)"), ([[7]], "Array(String)"), ([[True]], "Array(Int64)"), ([[1.5]], "Array(Int64)")],
)
def test_lists_are_of_the_declared_type_too(values: list[Any], dtype: str) -> None:
    with pytest.raises(FeatureError, match="is declared as"):
        as_declared(pa.table({"x": pa.array(values)}), "v", {"x": dtype})
