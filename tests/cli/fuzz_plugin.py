"""A plugin whose task makes the rows that a test hands it: `TABLES` maps the option `case` to a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from recstill.api import EndpointSpec, FeatureSpec, LabelSpec, TaskSpec, hookimpl

TABLES: dict[str, pa.Table] = {}


def good_table(n: int = 240) -> pa.Table:
    """Rows that can train, with a feature of every kind."""
    place, random = np.arange(n), np.random.default_rng(0)
    return pa.table({
        "user": place % 17, "item": place % 11, "x": random.normal(size=n), "colour": [f"c{k % 5}" for k in place],
        "seen": [[int(k) % 11, int(k) % 7] for k in place], "words": [f"word{k % 9} of item" for k in place],
        "y": (random.random(n) < 0.4).astype(np.float32), "spent": random.poisson(2.0, n).astype(np.float64),
        "grp": place // 8, "split": [("train", "train", "valid", "test")[k % 4] for k in place], "sampling_rate": np.ones(n),
    })  # fmt: skip


class Options(BaseModel):
    """The case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str = ""
    share: float = 0.5


@dataclass(frozen=True)
class FuzzData:
    """Made by itself."""

    name: str = "fuzz-data"
    package: str = ""
    version: str = "1"
    sha256: str = ""
    members: dict[str, str] = field(default_factory=lambda: {"empty.txt": "empty.txt"})
    licence: str = "made up"
    description: str = "made up"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """It has none."""

    def generate(self, folder: Path) -> None:
        """Write one empty file."""
        (folder / "empty.txt").write_text("")


class FuzzTask:
    """Rows as a test wants them."""

    options = Options
    spec = TaskSpec(
        name="fuzz", dataset="fuzz-data", description="made up",
        labels=(LabelSpec(name="y", primary=True), LabelSpec(name="spent", kind="count")), groups=("grp",),
        features=(
            FeatureSpec(name="x", view="row"),
            FeatureSpec(name="colour", view="row", kind="categorical", min_count=1),
            FeatureSpec(name="item", view="key", kind="categorical", min_count=1),
            FeatureSpec(name="seen", view="row", kind="sequence", length=4, min_count=1),
            FeatureSpec(name="words", view="row", kind="text", length=8, buckets=32),
        ),
        endpoint=EndpointSpec(path="/v1/fuzz/score", query_key="user", item_key="item", items_field="items"),
        default_recipe="fuzz",
    )  # fmt: skip

    def rows(self, raw: Path, options: BaseModel) -> Any:
        """Return the table of the case."""
        assert isinstance(options, Options)
        return TABLES[options.case] if options.case else good_table()

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """It has none."""


@hookimpl
def register_datasets() -> dict[str, Any]:
    return {"fuzz-data": FuzzData()}


@hookimpl
def register_tasks() -> dict[str, Any]:
    return {"fuzz": FuzzTask()}
