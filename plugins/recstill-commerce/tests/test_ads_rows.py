"""Rows of the ads task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest
from pydantic import ValidationError

from recstill_commerce.task import AdsOptions, AdsTask

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks of training, one of validation, one of test; 30 households buying by a rule."""
    folder = tmp_path_factory.mktemp("raw")
    duckdb.execute(f"""copy (
        select (i % 30)::bigint as household_id, (i % 7)::bigint as store_id,
            i::bigint as basket_id, ((i * 17) % 90)::bigint as product_id,
            1::bigint as quantity,
            2.5::double as sales_value, (i % 3)::double as retail_disc, 0.0::double as coupon_disc,
            (40 + i % 4)::bigint as week,
            timestamp '2017-09-25 12:00:00' + interval 7 day * (i % 4) as transaction_timestamp
        from range(4000) as t(i)) to '{folder}/transactions.parquet'""")
    return folder


OPTIONS = AdsOptions(train_from=40, valid_from=42, test_from=43, test_to=43, negatives=2.0)


def test_positives_are_the_purchases_and_negatives_were_not_bought(raw: Path) -> None:
    rows = AdsTask().rows(raw, OPTIONS).to_pandas()
    bought = duckdb.sql(f"select distinct household_id, product_id, week from '{raw}/transactions.parquet'").df()
    positive = rows[rows.purchase == 1]
    assert len(positive) == len(bought)
    both = rows[rows.purchase == 0].merge(bought, on=["household_id", "product_id", "week"])
    assert both.empty
    assert not rows.duplicated(["household_id", "product_id", "week"]).any()
    assert (rows[rows.purchase == 0][["promo_purchase", "spend"]] == 0).all().all()


def test_splits_follow_the_weeks_and_rates_are_recorded(raw: Path) -> None:
    rows = AdsTask().rows(raw, OPTIONS).to_pandas()
    assert rows.groupby("split").week.agg(["min", "max"]).to_dict("index") == {
        "train": {"min": 40, "max": 41}, "valid": {"min": 42, "max": 42}, "test": {"min": 43, "max": 43},
    }  # fmt: skip
    assert (rows[rows.purchase == 1].sampling_rate == 1).all()
    assert rows[rows.purchase == 0].sampling_rate.between(0, 1, inclusive="neither").all()
    assert rows.groupby(["household_id", "week"]).store_id.nunique().max() == 1


def test_the_same_options_give_the_same_rows_and_another_seed_others(raw: Path) -> None:
    first, again = (AdsTask().rows(raw, OPTIONS) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(AdsTask().rows(raw, OPTIONS.model_copy(update={"seed": 8})))


def test_the_recorded_rate_is_the_chance_of_a_pair_to_be_drawn(raw: Path) -> None:
    """Weighted by one over its rate, the sample stands for every pair that was not bought (Horvitz and Thompson, 1952)."""
    totals = []
    for seed in range(40):
        rows = AdsTask().rows(raw, OPTIONS.model_copy(update={"seed": seed})).to_pandas()
        week = rows[rows.week == 40]
        totals.append((1 / week[week.purchase == 0].sampling_rate).sum())
    bought = week[week.purchase == 1]
    expected = bought.household_id.nunique() * bought.product_id.nunique() - len(bought)
    assert np.mean(totals) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "wrong", [{"train_from": 10}, {"valid_from": 40}, {"test_to": 99}, {"negatives": 0}, {"power": 1.0}, {"weeks": 3}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdsOptions(**wrong)


def test_rows_without_labels_are_older_weeks_and_extra_pairs_of_the_training_weeks(raw: Path) -> None:
    older = AdsOptions(unlabelled_from=40, train_from=41, valid_from=42, test_from=43, test_to=43, negatives=2.0)
    rows = AdsTask().rows(raw, older).to_pandas()
    assert set(rows[rows.split == "unlabelled"].week) == {40}
    assert set(rows[rows.split == "train"].week) == {41}
    extra = AdsTask().rows(raw, OPTIONS.model_copy(update={"unlabelled": 2.0})).to_pandas()
    without = extra[extra.split == "unlabelled"]
    assert set(without.week) == {40, 41}
    assert len(without) == pytest.approx(((extra.purchase == 0) & (extra.split == "train")).sum(), rel=0.1)
    for found in (rows, extra):
        blank = found.split == "unlabelled"
        assert found[blank][["purchase", "promo_purchase", "spend"]].isna().all().all()
        assert found[~blank][["purchase", "promo_purchase", "spend"]].notna().all().all()
    with pytest.raises(ValidationError, match="unlabelled_from must be from"):
        AdsOptions(unlabelled_from=41, train_from=40)


def test_a_share_of_the_older_rows_is_replayed_with_its_labels(raw: Path) -> None:
    options = AdsOptions(train_from=41, valid_from=42, test_from=43, test_to=43, unlabelled_from=40, replay=0.3)
    rows = AdsTask().rows(raw, options).to_pandas()
    old = rows[rows.week == 40]
    assert set(old.split) == {"replay", "unlabelled"}
    assert 0.2 < (old.split == "replay").mean() < 0.4
    assert old[old.split == "replay"].purchase.notna().all()
    assert old[old.split == "unlabelled"].purchase.isna().all()
    assert not (rows[rows.week > 40].split == "replay").any()
