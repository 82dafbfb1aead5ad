"""Where the data set plugins write the feature sources: one Parquet file per view."""

import os
from pathlib import Path

from feast import FileSource

_FOLDER = Path(os.environ.get("RECSTILL_HOME", ".recstill")).resolve() / "sources"


def source_of(dataset: str, view: str) -> FileSource:
    """Return the source of a view; `created` breaks ties, and late backfills stay out of older rows."""
    return FileSource(
        name=f"{view}_source",
        path=str(_FOLDER / dataset / f"{view}.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
