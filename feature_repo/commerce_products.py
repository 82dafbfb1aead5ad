"""Products of complete-journey."""

from datetime import timedelta

from entities import product
from feast import FeatureView, Field
from feast.types import Float32, Int64, String
from sources import source_of

_TAGS = {"task": "ads", "availability": "request"}
_OWNER = "commerce@recstill.dev"

product_attributes = FeatureView(
    name="product_attributes",
    entities=[product],
    ttl=timedelta(0),
    schema=[
        Field(name="manufacturer_id", dtype=Int64),
        Field(name="department", dtype=String, description="top of the product hierarchy"),
        Field(name="brand", dtype=String, description="National or Private"),
        Field(name="category", dtype=String, description="middle of the product hierarchy"),
        Field(name="product_type", dtype=String, description="bottom of the product hierarchy"),
        Field(name="package_size", dtype=String),
    ],
    source=source_of("complete-journey", "product_attributes"),
    tags={**_TAGS, "freshness": "static"},
    owner=_OWNER,
    description="Product hierarchy and attributes.",
)

product_history = FeatureView(
    name="product_history",
    entities=[product],
    ttl=timedelta(0),
    schema=[
        Field(name="p_weeks_since", dtype=Float32, description="weeks since it was last sold"),
        Field(name="p_buyers_1w", dtype=Float32, description="buying households, last week"),
        Field(name="p_buyers_4w", dtype=Float32, description="buying households, summed over 4 weeks"),
        Field(name="p_buyers_12w", dtype=Float32, description="buying households, summed over 12 weeks"),
        Field(name="p_buyers_all", dtype=Float32, description="buying households, summed over all weeks"),
        Field(name="p_buyers_per_week", dtype=Float32, description="buying households a week since first sold"),
        Field(name="p_discount_share_4w", dtype=Float32, description="share of lines at a discount, 4 weeks"),
        Field(name="p_discount_share", dtype=Float32, description="share of lines at a discount"),
        Field(name="p_price", dtype=Float32, description="mean dollars per unit"),
        Field(name="p_last_price", dtype=Float32, description="dollars per unit in the last week it was sold"),
        Field(name="p_price_ratio", dtype=Float32, description="last price over mean price"),
        Field(name="p_display_share", dtype=Float32, description="share of stores that display it this week, as planned"),
        Field(
            name="p_mailer_share",
            dtype=Float32,
            description="share of stores whose mailer has it this week, as planned",
        ),
    ],
    source=source_of("complete-journey", "product_history"),
    tags={**_TAGS, "freshness": "weekly"},
    owner=_OWNER,
    description="Popularity, price history and this week's planned placements, as of the start of each week.",
)
