"""What search reads: the text of a product, and where it stands in the shop."""

from datetime import timedelta

from commerce_households import household_favourites, household_history
from entities import product
from feast import FeatureService, FeatureView, Field
from feast.types import String
from sources import source_of

product_text = FeatureView(
    name="product_text",
    entities=[product],
    ttl=timedelta(0),
    schema=[
        Field(name="title", dtype=String, description="product type, package size, and whether it is a store brand"),
        Field(name="shelf_department", dtype=String, description="for filters"),
        Field(name="shelf_category", dtype=String, description="for filters"),
        Field(name="shelf_brand", dtype=String, description="National or Private, for filters"),
    ],
    source=source_of("complete-journey", "product_text"),
    tags={"task": "search", "availability": "request", "freshness": "static"},
    owner="search@recstill.dev",
    description="The words that a shopper would see.",
)

search_v1 = FeatureService(name="search_v1", features=[product_text[["title"]]], description="What a search model may see.")
search_personal_v1 = FeatureService(
    name="search_personal_v1",
    features=[product_text[["title"]], household_history, household_favourites],
    description="The same, and the household that asks.",
)
