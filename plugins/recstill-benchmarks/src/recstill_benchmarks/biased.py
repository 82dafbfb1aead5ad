"""Synthetic clicks with a known truth: for laws that real data can only suggest, in seconds. Not for claims of quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_DENSE, _USERS, _ITEMS, _FACTORS = 8, 400, 600, 4


@dataclass(frozen=True)
class SyntheticClicks:
    """Clicks of a latent factor model, made on the spot from a seed."""

    name: str = "synthetic-clicks"
    package: str = ""
    version: str = "2"
    sha256: str = ""
    members: Mapping[str, str] = field(default_factory=lambda: {"clicks.parquet": "clicks.parquet"})
    licence: str = "Apache-2.0; generated"
    description: str = "400,000 impressions of a latent factor model with a 6 % click rate"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Every feature comes with the request."""

    def generate(self, folder: Path) -> None:
        """Write the raw file."""
        random = np.random.default_rng(11)
        size = 400_000
        user, item = random.integers(0, _USERS, size), random.integers(0, _ITEMS, size)
        users, items = random.normal(size=(_USERS, _FACTORS)), random.normal(size=(_ITEMS, _FACTORS))
        dense = random.normal(size=(size, _DENSE))
        weights = random.normal(size=_DENSE) * 0.35
        crossed = 0.6 * dense[:, 0] * dense[:, 1] - 0.5 * np.abs(dense[:, 2])
        logit = -3.6 + 0.8 * (users[user] * items[item]).sum(1) / np.sqrt(_FACTORS) * 1.5 + dense @ weights + crossed
        click = random.random(size) < 1 / (1 + np.exp(-logit))
        columns = {f"x{i}": dense[:, i].astype(np.float32) for i in range(_DENSE)}
        group = (dense[:, 3] > 0.5).astype(np.float32)
        table = pa.table({"user": user, "item": item, **columns, "click": click.astype(np.float32), "group": group})
        pq.write_table(table, folder / "clicks.parquet")


class ClicksOptions(BaseModel):
    """How many rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: int = Field(100_000, ge=1000, le=150_000)
    unlabelled: int = Field(0, ge=0, le=50_000, description="training rows whose labels are taken away")


class ClicksTask:
    """A row is an impression; some rows can be given without labels, for teachers to speak about."""

    options = ClicksOptions
    spec = TaskSpec(
        name="clicks",
        dataset="synthetic-clicks",
        description="clicks of a latent factor model: the truth is known, so laws can be tested",
        labels=(LabelSpec(name="click", primary=True),),
        features=(
            *(FeatureSpec(name=f"x{i}", view="row") for i in range(_DENSE)),
            *(FeatureSpec(name=name, view="row", kind="categorical", oov_buckets=2) for name in ("user", "item")),
        ),
        groups=("request",),
        attributes=("group",),
        endpoint=EndpointSpec(path="/v1/clicks/score", query_key="request", item_key="row", items_field="rows"),
        default_recipe="biased",
        auction=True,
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """The first rows train, the next may be unlabelled, the last 200,000 validate and test."""
        assert isinstance(options, ClicksOptions)
        table = pq.read_table(raw / "clicks.parquet")
        kept = np.r_[0 : options.train + options.unlabelled, len(table) - 200_000 : len(table)]
        sizes = (options.train, options.unlabelled, 20_000, 180_000)
        split = np.repeat(("train", "unlabelled", "valid", "test"), sizes)
        table = table.take(pa.array(kept))
        click = np.where(split == "unlabelled", np.nan, table["click"].to_numpy()).astype(np.float32)
        table = table.set_column(table.column_names.index("click"), "click", pa.array(click))
        row = np.arange(len(table))
        for name, values in {
            "row": row, "request": row // 50, "split": split, "sampling_rate": np.ones(len(row), np.float32),
        }.items():  # fmt: skip
            table = table.append_column(name, pa.array(values))
        return table

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""
