"""What only training may see: it is known after the request."""

from datetime import timedelta

from entities import household, product
from feast import FeatureView, Field
from feast.types import Float32
from sources import source_of

household_later = FeatureView(
    name="household_later",
    entities=[household, product],
    ttl=timedelta(days=1),
    online=False,
    schema=[
        Field(name="later_items", dtype=Float32, description="other products bought in the same week"),
        Field(name="later_spend", dtype=Float32, description="dollars spent on other products"),
        Field(name="later_department_items", dtype=Float32, description="others in the product's department"),
        Field(name="later_category_items", dtype=Float32, description="others in the product's category"),
    ],
    source=source_of("complete-journey", "household_later"),
    tags={"task": "ads", "availability": "training", "freshness": "never online"},
    owner="commerce@recstill.dev",
    description="What the household did later in the same week, without the product itself.",
)
