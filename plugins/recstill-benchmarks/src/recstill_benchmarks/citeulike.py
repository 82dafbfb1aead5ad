"""citeulike: which papers a researcher puts into the library; the table of the topology distillation papers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from recstill.api import DataError, EndpointSpec, FeatureSpec, LabelSpec, RetrievalSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class CiteULike:
    """Three Parquet files with integer columns `user` and `item`, that the user brings."""

    name: str = "citeulike"
    package: str = ""
    version: str = "loo-0"
    sha256: str = ""
    members: Mapping[str, str] = field(default_factory=lambda: {f"{name}.parquet": f"{name}.parquet" for name in _SPLITS})
    licence: str = "research use; bring your own copy"
    description: str = "115,142 papers in the libraries of 5,219 users, 25,182 papers, leave-one-out"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """There are no features beside the ids."""


class CitationsOptions(BaseModel):
    """The split is the published one; there is nothing to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CitationsTask:
    """A row is a (user, paper) pair; negatives are drawn while training, evaluation ranks the whole catalogue."""

    options = CitationsOptions
    spec = TaskSpec(
        name="citations",
        dataset="citeulike",
        description="papers that a researcher would add to the library, out of all papers",
        labels=(LabelSpec(name="cited", kind="ranking", primary=True, description="in the user's library"),),
        features=tuple(
            FeatureSpec(name=name, view="key", kind="categorical", min_count=1, oov_buckets=1) for name in ("user", "item")
        ),
        groups=("user",),
        attributes=("popularity",),
        endpoint=EndpointSpec(path="/v1/citations/score", query_key="user", item_key="item", items_field="items"),
        retrieval=RetrievalSpec(k=50, negatives=1),
        default_recipe="citeulike",
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """The published pairs; `popularity` is the number of users who have the paper in the training split."""
        tables = [pq.read_table(raw / f"{name}.parquet") for name in _SPLITS]
        for name, table in zip(_SPLITS, tables, strict=True):
            if missing := {"user", "item"} - set(table.column_names):
                raise DataError(f"{name}.parquet lacks the columns {', '.join(sorted(missing))}.")
        user, item = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("user", "item"))
        counts = np.bincount(tables[0]["item"].to_numpy(), minlength=int(item.max()) + 1)
        split = np.repeat(_SPLITS, [len(table) for table in tables])
        ones = np.ones(len(user), np.float32)
        return pa.table({
            "user": user, "item": item, "cited": ones, "popularity": counts[item].astype(np.float32), "split": split,
            "sampling_rate": ones,
        })  # fmt: skip

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""
