"""Households of complete-journey."""

from datetime import timedelta

from entities import department, household
from feast import FeatureView, Field
from feast.types import Float32, String
from sources import source_of

_TAGS = {"task": "ads", "availability": "request"}
_OWNER = "commerce@recstill.dev"

household_history = FeatureView(
    name="household_history",
    entities=[household],
    ttl=timedelta(0),
    schema=[
        Field(name="hh_weeks_since", dtype=Float32, description="weeks since the last visit"),
        Field(name="hh_baskets_4w", dtype=Float32, description="baskets of the last 4 weeks"),
        Field(name="hh_baskets_12w", dtype=Float32, description="baskets of the last 12 weeks"),
        Field(name="hh_spend_4w", dtype=Float32, description="dollars of the last 4 weeks"),
        Field(name="hh_spend_12w", dtype=Float32, description="dollars of the last 12 weeks"),
        Field(name="hh_items_12w", dtype=Float32, description="basket lines of the last 12 weeks"),
        Field(name="hh_discount_share", dtype=Float32, description="share of lines bought at a discount, 12 weeks"),
        Field(name="hh_item_price", dtype=Float32, description="dollars per line, 12 weeks"),
    ],
    source=source_of("complete-journey", "household_history"),
    tags={**_TAGS, "freshness": "weekly"},
    owner=_OWNER,
    description="Recency, frequency, spend and discount share, as of the start of each week.",
)

household_favourites = FeatureView(
    name="household_favourites",
    entities=[household],
    ttl=timedelta(0),
    schema=[Field(name=f"favourite_{place}", dtype=String, description="department by lines, 26 weeks") for place in (1, 2, 3)],
    source=source_of("complete-journey", "household_favourites"),
    tags={**_TAGS, "freshness": "weekly"},
    owner=_OWNER,
    description="The departments that a household buys most in.",
)

household_demographics = FeatureView(
    name="household_demographics",
    entities=[household],
    ttl=timedelta(0),
    schema=[
        Field(name=name, dtype=String, description="'missing' where the household gave none")
        for name in (
            "age",
            "income",
            "home_ownership",
            "marital_status",
            "household_size",
            "household_comp",
            "kids_count",
        )
    ],
    source=source_of("complete-journey", "household_demographics"),
    tags={**_TAGS, "freshness": "static"},
    owner=_OWNER,
    description="Demographics of the 801 households that gave them.",
)

household_department = FeatureView(
    name="household_department",
    entities=[household, department],
    ttl=timedelta(0),
    schema=[
        Field(name="hd_weeks_since", dtype=Float32, description="weeks since the last purchase in the department"),
        Field(name="hd_items_4w", dtype=Float32, description="lines of the last 4 weeks"),
        Field(name="hd_items_12w", dtype=Float32, description="lines of the last 12 weeks"),
        Field(name="hd_items_all", dtype=Float32, description="lines since the data begins"),
        Field(name="hd_spend_12w", dtype=Float32, description="dollars of the last 12 weeks"),
        Field(name="hd_discount_share", dtype=Float32, description="share of lines bought at a discount"),
    ],
    source=source_of("complete-journey", "household_department"),
    tags={**_TAGS, "freshness": "weekly"},
    owner=_OWNER,
    description="What a household buys in the department of the product.",
)
