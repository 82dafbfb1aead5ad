"""Which rows count when features are materialized, and which versions stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast_repos import MOMENT, write_source

from recstill.api import FeatureError
from recstill.data.packed import PackedStore, current_version, write_view
from recstill.data.versions import hold, next_name, prune, standing, versions
from recstill.features.apply import apply
from recstill.features.history import join_features
from recstill.features.online import latest_event, materialize
from recstill.features.repo import definitions, feature_set, open_repo
from recstill.settings import Settings

US = pa.timestamp("us", "UTC")


@pytest.fixture
def applied(settings: Settings, team: Path) -> Settings:
    apply(open_repo(settings), definitions(settings))
    return settings


def rides(path: Path, values: list[float | None], times: Any = None, ids: Any = (1, 2, 3)) -> None:
    write_source(path / "data" / "riders.parquet", {"rides": pa.array(values, pa.float32())}, times, ids)


def bring(settings: Settings, said: list[str], until: datetime | None = None, names: Any = ("rider_stats",)) -> PackedStore:
    store = open_repo(settings, only_read=True)
    return materialize(store, settings.folder("online"), until or latest_event(store, names), said.append, names)


def served(packed: PackedStore, feature: str = "rides", view: str = "rider_stats") -> list[Any]:
    """The packed values of drivers 1, 2 and 3; None where there is none."""
    found = packed.views[view]
    values = found.read(feature, found.find([np.array([1, 2, 3])])).tolist()
    return [None if value != value else value for value in values]


@pytest.mark.parametrize(
    ("kind", "zone"), [("ns", "UTC"), ("ns", None), ("us", "UTC"), ("us", None), ("ms", "UTC"), ("us", "America/New_York")]
)
def test_timestamps_of_every_unit_are_read_alike_in_training_and_serving(
    applied: Settings, team: Path, kind: str, zone: str | None
) -> None:
    """Driver 3's value comes after the row, and driver 2 has a newer one."""
    times = [MOMENT, MOMENT, MOMENT - timedelta(days=1), MOMENT + timedelta(days=1)]
    when = pa.array(times, US).cast(pa.timestamp(kind, zone) if zone else pa.timestamp(kind))
    rides(team, [1.0, 2.0, 9.0, 3.0], when, (1, 2, 2, 3))
    assert served(bring(applied, [], until=MOMENT)) == [1.0, 2.0, None]
    store = open_repo(applied)
    rows = pa.table({"driver_id": [1, 2, 3], "event_timestamp": pa.array([MOMENT] * 3, US)})
    from recstill.features.featureset import FeatureSet
    from recstill.features.repo import all_views

    views = tuple(view for view in all_views(store) if view.name == "rider_stats")
    assert join_features(store, rows, FeatureSet("riders", views), {})["rides"].to_pylist() == [1.0, 2.0, None]


def test_a_row_older_than_the_ttl_is_missing_in_training_and_serving(applied: Settings, team: Path) -> None:
    packed = bring(applied, [], names=("driver_stats",))
    assert served(packed, "conv_rate", "driver_stats") == [0.25, 0.5, None]
    store = open_repo(applied)
    rows = pa.table({"driver_id": [1, 2, 3], "event_timestamp": pa.array([MOMENT] * 3, US)})
    joined = join_features(store, rows, feature_set(store, "drivers_v1"), {})
    assert joined["conv_rate"].to_pylist() == [0.25, 0.5, None]


@pytest.mark.parametrize(
    ("times", "ids", "words"),
    [
        ([MOMENT, datetime(9999, 12, 31, tzinfo=UTC), MOMENT], (1, 2, 3), "1 rows lie in the future"),
        ([MOMENT, datetime(1960, 1, 1, tzinfo=UTC), MOMENT], (1, 2, 3), "1 rows are older than 1970-01-02"),
        ([MOMENT, None, MOMENT], (1, 2, 3), "1 rows have no timestamp"),
        ([MOMENT, MOMENT, MOMENT], pa.array([1, None, 3], pa.int64()), "1 rows have no driver_id"),
    ],
)
def test_rows_that_cannot_count_are_left_out_with_a_word(
    applied: Settings, team: Path, times: Any, ids: Any, words: str
) -> None:
    rides(team, [1.0, 2.0, 3.0], times, ids)
    said: list[str] = []
    packed = bring(applied, said)
    assert served(packed) == [1.0, None, 3.0]
    assert packed.meta["as_of"] == MOMENT.isoformat()
    assert f"rider_stats: {words}" in "\n".join(said)


@pytest.mark.parametrize("values", [[1.0, 6.0, 3.0], [6.0, 3.0, 1.0], [3.0, 1.0, 6.0]])
def test_two_rows_of_one_moment_give_one_value_whatever_their_order(
    applied: Settings, team: Path, values: list[float | None]
) -> None:
    rides(team, values, ids=(1, 1, 1))
    said: list[str] = []
    assert served(bring(applied, said)) == [6.0, None, None]
    assert "created_timestamp_column" in "\n".join(said)
    store = open_repo(applied)
    from recstill.features.featureset import FeatureSet
    from recstill.features.repo import all_views

    views = tuple(view for view in all_views(store) if view.name == "rider_stats")
    rows = pa.table({"driver_id": [1], "event_timestamp": pa.array([MOMENT], US)})
    assert join_features(store, rows, FeatureSet("riders", views), {})["rides"].to_pylist() == [6.0]


def test_a_view_that_fails_is_named_and_keeps_its_values(applied: Settings, team: Path) -> None:
    assert served(bring(applied, [], names=None)) == [1.0, 2.0, 3.0]
    rides(team, [7.0, 8.0, 9.0], pa.array(["2026-01-01"] * 3))
    said: list[str] = []
    packed = bring(applied, said, until=MOMENT, names=None)
    assert list(packed.meta["failed"]) == ["rider_stats"]
    for word in ("'event_timestamp'", "string", "rider_source"):
        assert word in packed.meta["failed"]["rider_stats"]
    assert served(packed) == [1.0, 2.0, 3.0]
    assert served(packed, "conv_rate", "driver_stats") == [0.25, 0.5, None]
    with pytest.raises(FeatureError, match="No view could be materialized:\n  - rider_stats"):
        bring(applied, [], until=MOMENT)


def test_only_the_named_views_are_brought_and_the_others_stay_as_they_were(applied: Settings, team: Path) -> None:
    first = bring(applied, [], names=None)
    (team / "data" / "drivers.parquet").unlink()
    rides(team, [4.0, 5.0, 6.0], [MOMENT + timedelta(days=1)] * 3)
    packed = bring(applied, [], names=("rider_stats",))
    assert served(packed) == [4.0, 5.0, 6.0]
    assert served(packed, "conv_rate", "driver_stats") == [0.25, 0.5, None]
    assert packed.meta["views"]["driver_stats"]["as_of"] == first.meta["as_of"] != packed.meta["as_of"]


def test_values_that_are_damaged_or_of_an_older_format_are_not_kept(applied: Settings, team: Path) -> None:
    from recstill.data.files import read_card, write_card

    first = bring(applied, [], names=None)
    meta = read_card(first.folder / "online.json")
    del meta["views"]["driver_stats"]["types"]  # as it was once packed
    write_card(first.folder / "online.json", meta)
    said: list[str] = []
    second = bring(applied, said)
    assert set(second.views) == {"rider_stats"}
    assert "driver_stats: its values of before cannot be kept" in "\n".join(said)
    keys = second.folder / "rider_stats" / "#keys.npy"
    keys.write_bytes(keys.read_bytes()[:-1] + b"x")
    third = bring(applied, said, names=("driver_stats",))
    assert set(third.views) == {"driver_stats"}
    assert "rider_stats: its values of before cannot be kept" in "\n".join(said)


def test_moments_that_nobody_can_know_are_refused(applied: Settings, team: Path) -> None:
    with pytest.raises(FeatureError, match="1960-01-01 is before 1970-01-02"):
        bring(applied, [], until=datetime(1960, 1, 1, tzinfo=UTC))
    with pytest.raises(FeatureError, match="lies in the future"):
        bring(applied, [], until=datetime.now(UTC) + timedelta(days=1))
    rides(team, [], pa.array([], US), ())
    with pytest.raises(FeatureError, match="No source of an online view has a row"):
        bring(applied, [])


def a_version(root: Path) -> Path:
    """Write a version of one view, as materializing does."""
    import json

    folder = root / next_name(root)
    card = write_view(folder, "v", ["k"], {"k": np.array([1]), "f": np.array([1.0], np.float32)})
    (folder / "online.json").write_text(json.dumps({"version": folder.name, "as_of": "", "views": {"v": card}}))
    (root / "current.json").write_text(json.dumps({"version": folder.name}))
    return folder


def test_versions_are_ordered_by_number_and_the_newest_stay(tmp_path: Path) -> None:
    (tmp_path / "20991231T000000-aaaaaaaa").mkdir()  # as they were named once, by a clock that was ahead
    (tmp_path / "20991231T000000-aaaaaaaa" / "online.json").write_text("{}")
    (tmp_path / ".v00000001-left.abc").mkdir()
    made = []
    for _ in range(12):
        made.append(a_version(tmp_path))
        prune(tmp_path, made[-1])
        assert current_version(tmp_path) == made[-1]
        assert versions(tmp_path)[-1] == made[-1]
    assert versions(tmp_path) == made[-3:]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["current.json", *(path.name for path in made[-3:])])


def test_a_version_that_a_process_holds_stays_until_it_is_killed(tmp_path: Path) -> None:
    held = a_version(tmp_path)
    code = (
        f"import pathlib, time\nfrom recstill.data.versions import hold\nf = hold(pathlib.Path({str(held)!r}))\n"
        "print(1, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(5):
            prune(tmp_path, a_version(tmp_path))
        assert held.is_dir()
        assert len(versions(tmp_path)) == 4
        os.kill(process.pid, signal.SIGKILL)
    prune(tmp_path, a_version(tmp_path))
    assert not held.is_dir()
    with pytest.raises(FeatureError, match="holds no online features"):
        hold(held)
    assert standing(held, tmp_path / "own")[0] == current_version(tmp_path)
