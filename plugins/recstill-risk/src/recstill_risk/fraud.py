"""ieee-cis-fraud: is this card payment fraud. The user brings the file; the split is by time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import DecisionSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_START = "2017-12-01 00:00:00"  # TransactionDT counts seconds from a day that was never published; this is the common guess
_CATEGORIES = ("ProductCD", "card1", "card2", "card3", "card5", "addr1", "addr2", "R_emaildomain", "DeviceInfo")
_COUNTS = tuple(f"C{n}" for n in range(1, 15))
_VESTA = (
    13, 14, 15, 16, 17, 18, 19, 27, 28, 32, 95, 96, 97, 98, 99, 100, 101, 102, 116, 117, 118, 119, 120, 126, 127, 145, 153, 154,
    157, 158, 166, 235, 279, 280, 284, 285, 286, 287, 290, 291, 292, 293, 294, 295, 297, 298, 299, 300, 301, 302, 303, 304, 305,
    306, 307, 308, 309, 310, 311, 312, 313, 316, 317, 318, 319, 320, 321, 322, 323, 324, 325, 326, 327, 328, 329, 330, 331, 332,
    333, 334, 335, 336, 337, 338, 339,
)  # fmt: skip
_IDENTITY = tuple(f"id_{n}" for n in ("08", "13", "16", "17", "19", "20", "21", "26", "27"))
_TEXT_IDENTITY = ("id_16", "id_27")
CARD = {
    "card_count_1d": "payments with the card, last day", "card_count_7d": "payments with the card, last 7 days",
    "card_count_30d": "payments with the card, last 30 days", "card_amount_1d": "amount with the card, last day",
    "card_amount_30d": "mean amount with the card, last 30 days", "card_hours_since": "hours since the card's last payment",
}  # fmt: skip
EMAIL = {
    "email_count_1d": "payments to the e-mail domain, last day", "email_amount_7d": "mean amount to the domain, last 7 days",
}  # fmt: skip
_CARD_KEY = "concat_ws('|', card1, card2, card3, card5, addr1)"
_EMAIL_KEY = "coalesce(R_emaildomain, 'none')"


@dataclass(frozen=True)
class IeeeCis:
    """The competition's training table, in the form that the user brings."""

    name: str = "ieee-cis-fraud"
    package: str = ""
    version: str = "2019"
    sha256: str = "none"
    members: Mapping[str, str] = field(default_factory=lambda: {"train.parquet": "train.parquet"})
    licence: str = "Kaggle IEEE-CIS competition terms: local evaluation only"
    description: str = "590,540 card payments of half a year, 3.5 % of them fraud"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Write, for each card and e-mail domain and each day on which it paid, what the days before had shown.

        By day and not by payment: the join pairs each payment with every row of its domain, and one domain has 450,000.
        """
        file = str(raw / "train.parquet").replace("'", "''")
        base = f"""select {_CARD_KEY} card_id, {_EMAIL_KEY} email_domain, TransactionAmt::double amount,
            TransactionDT // 86400 as day, TransactionDT as moment from read_parquet('{file}')"""
        queries = {
            "card_history": ("card_id", """
                coalesce(sum(c) over d1, 0) card_count_1d, coalesce(sum(c) over d7, 0) card_count_7d,
                coalesce(sum(c) over d30, 0) card_count_30d, coalesce(sum(a) over d1, 0) card_amount_1d,
                sum(a) over d30 / sum(c) over d30 card_amount_30d,
                (day * 86400 - max(latest) over d30) / 3600.0 card_hours_since"""),
            "email_history": ("email_domain", """
                coalesce(sum(c) over d1, 0) email_count_1d, sum(a) over d7 / sum(c) over d7 email_amount_7d"""),
        }  # fmt: skip
        for view, (key, columns) in queries.items():
            windows = ", ".join(
                f"d{days} as (partition by {key} order by day range between {days} preceding and 1 preceding)"
                for days in (1, 7, 30)
            )
            floats = ", ".join(f"{name}::float {name}" for name in (CARD if view == "card_history" else EMAIL))
            target = str(sources / f"{view}.parquet").replace("'", "''")
            moment = f"timestamptz '{_START}+00' + to_seconds(day * 86400)"
            duckdb.execute(f"""copy (select {key}, {moment} event_timestamp, event_timestamp created, {floats}
                from (select {key}, day, {columns}
                    from (select {key}, day, count(*) c, sum(amount) a, max(moment) latest from ({base}) group by all)
                    window {windows}) order by all)
                to '{target}' (format parquet, compression zstd)""")  # fmt: skip


class FraudOptions(BaseModel):
    """Which part of the half year trains, by time; `share` keeps the last part of the training time only. Fraud changes from
    month to month, so that few days choose the epoch and the newest ones train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_share: float = Field(0.78, gt=0, lt=1)
    valid_share: float = Field(0.02, gt=0, lt=1)
    share: float = Field(1.0, gt=0, le=1)


class FraudTask:
    """A row is a payment, in the order of time: the last fifth tests."""

    options = FraudOptions
    spec = TaskSpec(
        name="fraud",
        dataset="ieee-cis-fraud",
        description="fraud score of a card payment, with what its card and e-mail domain did before",
        labels=(LabelSpec(name="fraud", primary=True, description="reported as fraud"),),
        features=(
            # As buckets too: trees cut numbers anywhere, and a small network that sees their rank alone cannot follow.
            FeatureSpec(name="TransactionAmt", view="row", title="amount", buckets=32),
            *(FeatureSpec(name=name, view="row", buckets=32) for name in (*_COUNTS, *(f"V{n}" for n in _VESTA))),
            *(FeatureSpec(name=name, view="row", buckets=32) for name in _IDENTITY if name not in _TEXT_IDENTITY),
            *(
                FeatureSpec(name=name, view="row", kind="categorical", min_count=20, oov_buckets=8)
                for name in (*_CATEGORIES, *_TEXT_IDENTITY)
            ),
            *(FeatureSpec(name=name, view="card_history", title=title, buckets=32) for name, title in CARD.items()),
            *(FeatureSpec(name=name, view="email_history", title=title, buckets=32) for name, title in EMAIL.items()),
        ),
        groups=("day",),
        decision=DecisionSpec(
            act="block", cost_false_alarm=1.0, cost_miss=9.0, review_margin=0.03, bands=(0.01, 0.03, 0.1, 0.3)
        ),
        endpoint=EndpointSpec(
            path="/v1/fraud/score", query_key="card_id", item_key="payment_id", items_field="payments", max_items=1_000
        ),
        default_recipe="fraud",
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """All payments, oldest first."""
        assert isinstance(options, FraudOptions)
        file = str(raw / "train.parquet").replace("'", "''")
        names = [*_CATEGORIES, *_COUNTS, *(f"V{n}" for n in _VESTA), *_IDENTITY]
        numbers = ", ".join(
            f"cast({name} as varchar) {name}" if name in (*_CATEGORIES, *_TEXT_IDENTITY) else f"{name}::float {name}"
            for name in names
        )
        table = duckdb.execute(f"""select TransactionID::bigint payment_id, {_CARD_KEY} card_id, {_EMAIL_KEY} email_domain,
            isFraud::float fraud, TransactionAmt::float TransactionAmt, {numbers},
            (TransactionDT // 86400)::bigint as day, timestamptz '{_START}+00' + to_seconds(TransactionDT) event_timestamp
            from read_parquet('{file}') order by TransactionDT, TransactionID""").to_arrow_table()  # fmt: skip
        rows = len(table)
        place = np.arange(rows) / rows
        valid_from, test_from = options.train_share, options.train_share + options.valid_share
        split = np.where(place < valid_from, "train", np.where(place < test_from, "valid", "test"))
        table = table.append_column("split", pa.array(split.astype(object)))
        table = table.append_column("sampling_rate", pa.array(np.ones(rows, np.float32)))
        return table.slice(int(rows * options.train_share * (1 - options.share)))

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""
