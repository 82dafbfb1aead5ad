"""A Feast repository as a team writes it, with data small enough to read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MOMENT = datetime(2026, 1, 11, tzinfo=UTC)

YAML = """
project: team
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: duckdb}
entity_key_serialization_version: 3
"""

DRIVERS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.labeling import LabelView
from feast.permissions.action import AuthzedAction
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy
from feast.types import Float32, Int64, String

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
stats = FeatureView(
    name="driver_stats", entities=[driver], ttl=timedelta(days=5), tags={"availability": "request"},
    schema=[Field(name="conv_rate", dtype=Float32), Field(name="trips", dtype=Int64), Field(name="city", dtype=String)],
    source=FileSource(name="driver_source", path="data/drivers.parquet", timestamp_field="event_timestamp"),
)
drivers_v1 = FeatureService(name="drivers_v1", features=[stats])
labels = LabelView(
    name="quality", entities=[driver], schema=[Field(name="good", dtype=Int64), Field(name="labeler", dtype=String)],
    labeler_field="labeler",
    source=PushSource(name="quality_push", batch_source=FileSource(
        name="quality_source", path="data/drivers.parquet", timestamp_field="event_timestamp")),
)
readers = Permission(
    name="readers", types=[FeatureView], policy=RoleBasedPolicy(roles=["reader"]), actions=[AuthzedAction.READ_OFFLINE],
)
"""

RIDERS = """
from feast import FeatureView, Field, FileSource
from feast.types import Float32
from drivers import driver

riders = FeatureView(
    name="rider_stats", entities=[driver], schema=[Field(name="rides", dtype=Float32)], tags={"availability": "request"},
    source=FileSource(name="rider_source", path="data/riders.parquet", timestamp_field="event_timestamp"),
)
"""


def write_source(path: Path, columns: dict[str, Any], times: Any = None, ids: Any = (1, 2, 3)) -> None:
    """Write a source of drivers; all rows are of MOMENT unless `times` says otherwise."""
    when = times if isinstance(times, pa.Array) else pa.array(times or [MOMENT] * len(ids), pa.timestamp("us", "UTC"))
    keys = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.int64())
    pq.write_table(pa.table({"driver_id": keys, "event_timestamp": when, **columns}), path)


def write_drivers(repo: Path, ids: tuple[int, ...] = (1, 2, 3), rates: tuple[float, ...] = (0.25, 0.5, 0.75)) -> None:
    """Write the drivers' source; the last driver's row is ten days older than the others'."""
    times = [MOMENT] * (len(ids) - 1) + [MOMENT - timedelta(days=10)]
    columns = {"conv_rate": pa.array(rates, pa.float32()), "trips": pa.array([2**53 + 1, None, 5][: len(ids)])}
    write_source(repo / "data" / "drivers.parquet", {**columns, "city": pa.array(["Köln", None, ""][: len(ids)])}, times, ids)
