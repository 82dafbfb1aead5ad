"""The feature store: point-in-time correct, served as stored, listed with its users."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from recstill.api import FeatureError, UnknownNameError
from recstill.data.files import read_json
from recstill.data.snapshot import Snapshot, open_snapshot
from recstill.recipes.features import list_features, open_store, plan_features, verify_features
from recstill.recipes.platform import Platform
from recstill.settings import Settings


@pytest.fixture
def snapshot(platform: Platform) -> Snapshot:
    root = platform.settings.folder("snapshots")
    return open_snapshot(next(path.name for path in root.glob("ads-*")), root)


def test_history_counts_only_purchases_before_the_row(platform: Platform, snapshot: Snapshot) -> None:
    dataset = platform.catalog("datasets")["complete-journey"]
    from recstill.data.fetch import open_raw

    raw = open_raw(dataset, platform.settings.cache)
    names = [
        "household_id",
        "product_id",
        "week",
        "hh_spend_12w",
        "p_buyers_4w",
        "hd_items_all",
        "department",
        "event_timestamp",
    ]
    picked = np.random.default_rng(0).integers(0, snapshot.meta["num_rows"], 40)
    columns = snapshot.columns(names, picked)
    bought = f"read_parquet('{raw}/transactions.parquet') left join read_parquet('{raw}/products.parquet') p using (product_id)"
    for place in range(len(picked)):
        household, product, week = (int(columns[name][place]) for name in names[:3])
        mine = f"household_id = {household} and week < {week}"
        spend = _one(f"select sum(sales_value) from {bought} where {mine} and week >= {week - 12}")
        assert columns["hh_spend_12w"][place] == pytest.approx(spend or 0.0, rel=1e-5)
        recent = f"product_id = {product} and week between {week - 4} and {week - 1}"
        buyers = _one(f"select count(distinct (household_id, week)) from {bought} where {recent}")
        assert np.nan_to_num(columns["p_buyers_4w"][place]) == buyers
        department = columns["department"][place]
        if department is None:  # a product that the catalogue does not know has no department to count in
            continue
        lines = _one(f"select count(*) from {bought} where {mine} and p.department = '{department}'")
        assert np.nan_to_num(columns["hd_items_all"][place]) == lines


def test_no_purchase_counted_is_later_than_the_features_timestamp(platform: Platform) -> None:
    from recstill.data.fetch import open_raw
    from recstill_commerce.history import week_start

    raw = open_raw(platform.catalog("datasets")["complete-journey"], platform.settings.cache)
    latest = dict(
        duckdb.execute(
            f"select week, max(transaction_timestamp) from read_parquet('{raw}/transactions.parquet') group by 1"
        ).fetchall()
    )
    assert all(last <= week_start(week + 1).replace(tzinfo=None) for week, last in latest.items())


def test_the_join_keeps_every_row(platform: Platform, snapshot: Snapshot) -> None:
    table = snapshot.table(["household_id", "product_id", "week"])
    assert len(table) == snapshot.meta["num_rows"]
    assert len({tuple(row.values()) for row in table.to_pylist()}) == len(table)


def test_privileged_counts_do_not_give_the_label_away(snapshot: Snapshot) -> None:
    columns = snapshot.columns(["household_id", "week", "purchase", "later_items"])
    group = columns["household_id"] * 100 + columns["week"]
    for household_week in np.unique(group)[:200]:
        assert len(np.unique(columns["later_items"][group == household_week])) == 1


def test_what_is_served_equals_the_offline_truth(platform: Platform) -> None:
    checks = verify_features(platform, 1000)
    assert {check.view for check in checks} >= {"household_history", "product_history", "household_department"}
    assert all(check.online_differences == check.packed_differences == 0 for check in checks)
    assert "household_later" not in {check.view for check in checks}


def test_the_feature_registry_lists_type_owner_availability_and_users(platform: Platform) -> None:
    rows = {row.feature: row for row in list_features(platform)}
    assert rows["p_price"].type == "Float32"
    assert rows["p_price"].used_by.split(", ") == ["ads-teacher:1", "ads:1"]
    assert rows["later_items"].availability == "training"
    assert rows["later_items"].used_by == "ads-teacher:1"
    assert "as of 2018" in rows["p_price"].freshness
    assert rows["age"].owner
    with pytest.raises(UnknownNameError, match="Did you mean 'p_price'"):
        list_features(platform, "p_prize")


def test_a_second_plan_finds_nothing_to_change(platform: Platform) -> None:
    assert plan_features(platform) == []


def test_demographics_are_missing_not_guessed(snapshot: Snapshot) -> None:
    ages = snapshot.columns(["age"])["age"]
    assert "missing" in set(ages.tolist())
    assert None not in set(ages.tolist())


def test_definitions_with_problems_are_refused_together(platform: Platform, tmp_path: Path) -> None:
    from feast import Entity, FeatureView, Field, FileSource
    from feast.repo_contents import RepoContents
    from feast.types import Float32

    from recstill.features.apply import apply

    entity = Entity(name="thing", join_keys=["thing_id"])
    source = FileSource(path=str(tmp_path / "x.parquet"), timestamp_field="event_timestamp")
    field = [Field(name="same", dtype=Float32)]
    views = [FeatureView(name=name, entities=[entity], schema=field, source=source) for name in ("one", "two")]
    views[1].tags = {"availability": "training"}
    contents = RepoContents(**{**{kind: [] for kind in RepoContents._fields}, "feature_views": views, "entities": [entity]})
    with pytest.raises(FeatureError) as caught:
        apply(open_store(platform), contents)
    for words in ("view 'one' needs the tag", "set online=False", "feature 'same' is in both"):
        assert words in str(caught.value)


def test_the_packed_version_names_its_moment(platform: Platform) -> None:
    root = platform.settings.folder("online")
    meta = read_json(root / read_json(root / "current.json")["version"] / "online.json")
    assert datetime.fromisoformat(meta["as_of"]).year == 2018


def _one(query: str) -> float | None:
    found = duckdb.execute(query).fetchone()
    return found[0] if found else None


def test_applying_in_a_copied_home_leaves_the_original_online_store_alone(home_copy: Settings, home: Path) -> None:
    import sqlite3

    from recstill.recipes.features import apply_features

    def tables(folder: Path) -> set[str]:
        with sqlite3.connect(folder / "feast" / "online.db") as connection:
            return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}

    before = tables(home)
    apply_features(Platform.open(home_copy), lambda _: None)
    assert tables(home) == before == tables(home_copy.home)
    assert "recstill_product_history" in before


def test_a_task_or_a_model_names_what_is_worked_on(home_copy: Settings) -> None:
    from click.testing import CliRunner

    from recstill.cli import cli
    from recstill.recipes.feature_scope import scope_of

    platform = Platform.open(home_copy)
    of_model = scope_of(platform, models=["ads:1"]).views
    assert of_model == {view["name"] for view in _content_of(platform, "ads:1")["views"]}
    assert scope_of(platform, tasks=["credit"]).views == {"account_history"}
    assert scope_of(platform, tasks=["credit"]).datasets == {"taiwan-credit"}
    done = CliRunner().invoke(cli, ["features", "apply", "--task", "ads"])
    assert done.exit_code == 0, done.output
    brought = CliRunner().invoke(cli, ["features", "materialize", "household_favourites"])
    assert brought.exit_code == 0, brought.output
    root = home_copy.folder("online")
    cards = read_json(root / read_json(root / "current.json")["version"] / "online.json")["views"]
    assert set(cards) >= {"product_history", "household_favourites"}
    unknown = CliRunner().invoke(cli, ["features", "materialize", "household_favorites"])
    assert "Did you mean 'household_favourites'" in unknown.output


def _content_of(platform: Platform, reference: str) -> dict[str, Any]:
    from recstill.registry.versions import feature_set_of, find_version

    with platform.registry.transaction() as session:
        content: dict[str, Any] = feature_set_of(session, find_version(session, reference)).content
    return content
