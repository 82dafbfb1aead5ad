"""One feature service per model generation; a model version stores its service's name and fingerprint."""

from commerce_households import household_demographics, household_department, household_favourites, household_history
from commerce_privileged import household_later
from commerce_products import product_attributes, product_history
from feast import FeatureService

_REQUEST = [
    household_history,
    household_favourites,
    household_demographics,
    product_attributes,
    product_history,
    household_department,
]

ads_v1 = FeatureService(name="ads_v1", features=_REQUEST, description="What an ads student may see at request time.")
ads_teacher_v2 = FeatureService(
    name="ads_teacher_v2",
    features=[*_REQUEST, household_later[["later_items", "later_spend"]]],
    description="The request's features, and how much the household bought in the week, but not what.",
)
ads_teacher_v1 = FeatureService(
    name="ads_teacher_v1",
    features=[*_REQUEST, household_later],
    description="What an ads teacher may see: the same, and what the household did later.",
)
