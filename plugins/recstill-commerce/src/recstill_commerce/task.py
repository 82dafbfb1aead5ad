"""The ads task: rows, labels and the request it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recstill.api import ContextSpec, DataError, EndpointSpec, LabelSpec, TaskSpec
from recstill_commerce import history
from recstill_commerce.dataset import LATER_SCHEMA
from recstill_commerce.features import FEATURES

if TYPE_CHECKING:
    from pathlib import Path


class AdsOptions(BaseModel):
    """Which weeks, which negatives, how many households."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_from: int = Field(40, description="first training week")
    valid_from: int = Field(49, description="weeks valid_from .. test_from - 1 choose the epoch")
    test_from: int = 50
    test_to: int = 52
    negatives: float = Field(2.0, gt=0, le=50, description="sampled negatives per purchase")
    power: float = Field(0.75, ge=0, lt=1, description="negatives by (sales of the week) ** power; 1 would erase popularity")
    unlabelled: float = Field(0.0, ge=0, le=50, description="pairs per purchase of the training weeks that nobody labelled")
    unlabelled_from: int | None = Field(None, description="rows of the weeks unlabelled_from .. train_from - 1, without labels")
    replay: float = Field(0.0, ge=0, le=1, description="share of those older rows that keep their labels, as split `replay`")
    household_share: float = Field(1.0, gt=0, le=1, description="take this share of the households")
    seed: int = 7

    @model_validator(mode="after")
    def _weeks_in_order(self) -> AdsOptions:
        first, last = history.FIRST_WEEK, history.LAST_WEEK - 1
        if not (first <= self.train_from < self.valid_from < self.test_from <= self.test_to <= last):
            raise ValueError(f"weeks must rise: {first} <= train_from < valid_from < test_from <= test_to <= {last}")
        if not first <= self.first_week <= self.train_from:
            raise ValueError(
                f"unlabelled_from must be from {first} to train_from {self.train_from}, not {self.unlabelled_from}"
            )
        return self

    @property
    def first_week(self) -> int:
        """The first week of which there are rows."""
        return self.train_from if self.unlabelled_from is None else self.unlabelled_from


class AdsTask:
    """A row is (household, product, week): a request at the start of the week, in the store the household visits."""

    options = AdsOptions
    spec = TaskSpec(
        name="ads",
        dataset="complete-journey",
        description="personalised ads: purchase, purchase at a discount, and spend of a household on a product in a week",
        labels=(
            LabelSpec(name="purchase", primary=True, description="bought in the week"),
            LabelSpec(name="promo_purchase", description="bought at a discount in the week: the conversion"),
            LabelSpec(name="spend", kind="count", weight=0.1, description="dollars spent on it in the week"),
        ),
        features=FEATURES,
        groups=("household_id", "week"),
        endpoint=EndpointSpec(
            path="/v1/ads/score",
            query_key="household_id",
            item_key="product_id",
            items_field="product_ids",
            context=(ContextSpec(name="store_id", description="the store that the household visits"),),
        ),
        derived_keys={"department_id": "product_attributes:department"},
        default_recipe="ads",
        auction=True,
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """Purchases of the weeks as positives, products sold in the same week as negatives, by popularity."""
        assert isinstance(options, AdsOptions)
        positives = _purchases(raw, options)
        if not len(positives["week"]):
            raise DataError(f"No purchase in weeks {options.train_from} to {options.test_to}.")
        negatives = _sample_negatives(positives, options.negatives + options.unlabelled, options)
        rows = {name: np.concatenate([positives[name], negatives[name]]) for name in positives}
        rows, labelled = _take_labels_away(rows, len(positives["week"]), [label.name for label in self.spec.labels], options)
        order = np.lexsort((rows["product_id"], rows["household_id"], rows["week"]))
        rows, labelled = {name: values[order] for name, values in rows.items()}, labelled[order]
        week = rows["week"]
        starts = np.array([history.week_start(w).timestamp() * 1e6 for w in range(int(week.max()) + 1)], dtype=np.int64)
        split = np.where(week >= options.test_from, "test", np.where(week >= options.valid_from, "valid", "train"))
        split = np.where(labelled, np.where(week < options.train_from, "replay", split), "unlabelled")
        stamps = pa.array(starts[week]).cast(pa.timestamp("us", "UTC"))
        return pa.table({**rows, "event_timestamp": stamps, "split": split})

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """Write what each household bought in the same week beside the product, for exactly these rows.

        A purchase is left out of its own row. For a negative one random purchase of the week is left out instead, or the
        count alone would tell which rows are purchases.
        """
        connection = duckdb.connect()
        connection.execute("set timezone = 'UTC'")
        connection.register("rows_in", rows.select(["household_id", "product_id", "week", "event_timestamp"]))
        query = _LATER.format(transactions=raw / "transactions.parquet", products=raw / "products.parquet")
        later = connection.sql(query).to_arrow_table()
        pq.write_table(later.cast(LATER_SCHEMA), sources / "household_later.parquet")


def _purchases(raw: Path, options: AdsOptions) -> dict[str, np.ndarray]:
    query = """
        with visits as (select household_id, week, arg_min(store_id, transaction_timestamp) store_id
            from read_parquet($file) group by all)
        select household_id, product_id, week, any_value(store_id) store_id, 1.0::float purchase,
            max(discounted)::float promo_purchase, sum(sales_value)::float spend, 1.0::float sampling_rate
        from (select household_id, product_id, week, sales_value, (retail_disc > 0 or coupon_disc > 0)::int discounted
              from read_parquet($file)) join visits using (household_id, week)
        where week between $first and $last and hash(household_id) % 1000 < $share * 1000
        group by household_id, product_id, week order by week, household_id, product_id"""
    values = {
        "file": str(raw / "transactions.parquet"),
        "first": options.first_week,
        "last": options.test_to,
        "share": options.household_share,
    }
    return dict(duckdb.connect().execute(query, values).fetchnumpy())


def _take_labels_away(
    rows: dict[str, np.ndarray], num_positives: int, labels: list[str], options: AdsOptions
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the rows, and which keep their labels: of those before the training weeks the share to replay, and not the
    negatives of the training weeks that `unlabelled` asked for beyond the others; those of later weeks are dropped."""
    week = rows["week"]
    beyond = np.random.default_rng(options.seed + 1).random(len(week))
    beyond = beyond < options.unlabelled / (options.negatives + options.unlabelled)
    beyond[:num_positives] = False
    keep = ~(beyond & (week >= options.valid_from))
    replayed = np.random.default_rng(options.seed + 2).random(len(week)) < options.replay
    labelled = (~beyond & ((week >= options.train_from) | replayed))[keep]
    rows = {name: values[keep] for name, values in rows.items()}
    for name in labels:
        rows[name] = np.where(labelled, rows[name], np.nan).astype(np.float32)
    return rows, labelled


def _sample_negatives(positives: dict[str, np.ndarray], per_purchase: float, options: AdsOptions) -> dict[str, np.ndarray]:
    random = np.random.default_rng(options.seed)
    parts = []
    for week in np.unique(positives["week"]):
        here = positives["week"] == week
        products, sold = np.unique(positives["product_id"][here], return_counts=True)
        chance = sold**options.power / np.sum(sold**options.power)
        # Every visit draws in proportion to what it bought, so that all groups keep the same share of purchases.
        picked = np.flatnonzero(here)[random.integers(0, here.sum(), int(here.sum() * per_purchase))]
        place = random.choice(len(products), len(picked), p=chance)
        household, store = positives["household_id"][picked], positives["store_id"][picked]
        pairs = np.stack([household, products[place]], 1)
        bought = np.stack([positives["household_id"][here], positives["product_id"][here]], 1)
        _, first = np.unique(np.concatenate([bought, pairs]), axis=0, return_index=True)
        new = first[first >= len(bought)] - len(bought)
        draws = np.bincount(np.searchsorted(np.unique(household), household))[np.searchsorted(np.unique(household), household)]
        rate = 1 - (1 - chance[place]) ** draws
        zeros = np.zeros(len(new), np.float32)
        parts.append({
            "household_id": household[new], "product_id": products[place][new], "week": np.full(len(new), week),
            "store_id": store[new], "purchase": zeros, "promo_purchase": zeros, "spend": zeros,
            "sampling_rate": rate[new].astype(np.float32),
        })  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in positives}


_LATER = """
    with items as (
        select household_id, week, product_id, any_value(coalesce(p.department, '')) department,
            any_value(coalesce(p.product_category, '')) category, sum(sales_value) spend
        from read_parquet('{transactions}') left join read_parquet('{products}') p using (product_id) group by all),
    weeks as (select household_id, week, count(*) items, sum(spend) spend,
        list(struct_pack(product_id := product_id, department := department, category := category, spend := spend)
            order by product_id) basket from items group by all),
    departments as (select household_id, week, department, count(*) items from items group by all),
    categories as (select household_id, week, category, count(*) items from items group by all),
    marked as (
        select r.*, coalesce(p.department, '') department, coalesce(p.product_category, '') category,
            i.product_id is not null bought,
            basket[1 + (hash(r.household_id, r.product_id, r.week) % items)::int] random_item,
            coalesce(w.items, 0) items, coalesce(w.spend, 0) spend, coalesce(i.spend, 0) own
        from rows_in r left join read_parquet('{products}') p on p.product_id = r.product_id
            left join weeks w using (household_id, week)
            left join items i on i.household_id = r.household_id and i.week = r.week and i.product_id = r.product_id)
    select m.household_id, m.product_id, m.event_timestamp, m.event_timestamp as created,
        greatest(m.items - 1, 0)::float later_items,
        (m.spend - case when bought then own else coalesce(random_item.spend, 0) end)::float later_spend,
        (coalesce(d.items, 0) - (bought or coalesce(random_item.department = m.department, false))::int)::float
            later_department_items,
        (coalesce(c.items, 0) - (bought or coalesce(random_item.category = m.category, false))::int)::float
            later_category_items
    from marked m left join departments d using (household_id, week, department)
        left join categories c using (household_id, week, category)
    order by m.event_timestamp, m.household_id, m.product_id"""
