"""How the columns of the ads views become model input. What they mean stands in feature_repo/."""

from __future__ import annotations

from recstill.api import FeatureSpec


def _numeric(view: str, *names: str, buckets: int = 0) -> list[FeatureSpec]:
    return [FeatureSpec(name=name, view=view, buckets=buckets) for name in names]


def _categorical(view: str, *names: str, table: str = "", min_count: int = 2, oov_buckets: int = 4) -> list[FeatureSpec]:
    return [
        FeatureSpec(name=name, view=view, kind="categorical", table=table or name, min_count=min_count, oov_buckets=oov_buckets)
        for name in names
    ]


FEATURES = (
    *_categorical("key", "household_id", min_count=5, oov_buckets=16),
    *_categorical("key", "product_id", min_count=12, oov_buckets=256),
    *_categorical("context", "store_id", min_count=20, oov_buckets=4),
    *_numeric(
        "household_history", "hh_weeks_since", "hh_baskets_4w", "hh_baskets_12w", "hh_spend_4w", "hh_spend_12w",
        "hh_items_12w", "hh_discount_share", "hh_item_price",
    ),
    *_categorical("household_favourites", "favourite_1", "favourite_2", "favourite_3", table="department"),
    *_categorical(
        "household_demographics", "age", "income", "home_ownership", "marital_status", "household_size",
        "household_comp", "kids_count",
    ),
    *_categorical("product_attributes", "manufacturer_id", "product_type", "package_size", min_count=5, oov_buckets=64),
    *_categorical("product_attributes", "department", "brand", "category"),
    *_numeric(
        "product_history", "p_weeks_since", "p_buyers_1w", "p_buyers_4w", "p_buyers_12w", "p_buyers_all",
        "p_buyers_per_week", "p_price", "p_last_price",
    ),
    # What decides between full price and discount has thresholds; as buckets a network finds them in one epoch.
    *_numeric(
        "product_history", "p_discount_share_4w", "p_discount_share", "p_price_ratio", "p_display_share", "p_mailer_share",
        buckets=16,
    ),
    *_numeric(
        "household_department", "hd_weeks_since", "hd_items_4w", "hd_items_12w", "hd_items_all", "hd_spend_12w",
        "hd_discount_share",
    ),
    *_numeric("household_later", "later_items", "later_spend", "later_department_items", "later_category_items"),
)  # fmt: skip
