"""What features are about."""

from feast import Entity, ValueType

household = Entity(name="household", join_keys=["household_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.INT64)
department = Entity(name="department", join_keys=["department_id"], value_type=ValueType.STRING)
