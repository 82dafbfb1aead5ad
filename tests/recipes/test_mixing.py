"""Rows made of other rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recstill.api import ConfigError, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec
from recstill.recipes.config import MixedConfig
from recstill.recipes.mixing import with_mixed

SPEC = TaskSpec(
    name="t",
    dataset="d",
    description="",
    default_recipe="",
    labels=(LabelSpec(name="y", primary=True),),
    features=(
        FeatureSpec(name="card", view="key", kind="categorical"),
        FeatureSpec(name="amount", view="row"),
        FeatureSpec(name="shop", view="row", kind="categorical"),
    ),
    groups=("day",),
    endpoint=EndpointSpec(path="/t", query_key="card", item_key="id", items_field="ids"),
)
NUM = 1_000


def table(last: str = "test") -> pa.Table:
    number = np.arange(NUM)
    return pa.table({
        "card": number, "id": number, "day": number // 10, "amount": pa.array(number, pa.float32()),
        "shop": pa.array([None if n % 5 == 0 else f"s{n}" for n in number]), "y": pa.array(number % 2, pa.float32()),
        "split": np.where(number < 800, "train", np.where(number < 900, "valid", last)).astype(object),
    })  # fmt: skip


def test_a_mixed_row_is_a_training_row_with_some_values_of_others() -> None:
    before = table()
    after = with_mixed(before, SPEC, MixedConfig(copies=1.5, share=0.3))
    assert after.slice(0, NUM).equals(before)
    assert after.schema == before.schema
    made = after.slice(NUM).to_pydict()
    assert len(made["y"]) == 1_200
    assert set(made["split"]) == {"mixed"}
    assert set(made["y"]) == {None}
    card, amount = np.array(made["card"]), np.array(made["amount"])
    assert card.max() < 800
    assert amount.max() < 800
    assert np.array_equal(np.array(made["day"]), card // 10), "keys, groups and moments stay together"
    assert 0.25 < np.mean(amount != card) < 0.35
    shop = [int(name[1:]) if name else -1 for name in made["shop"]]
    changed = np.array([s != c for s, c in zip(shop, card, strict=True) if c % 5])
    assert 0.25 < changed.mean() < 0.35
    assert -1 in shop


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int64(), pa.decimal128(38, 2), pa.string()])
def test_mixed_rows_have_no_labels_whatever_their_type(kind: pa.DataType) -> None:
    rows = table()
    rows = rows.set_column(rows.column_names.index("y"), "y", rows["y"].cast(pa.int64()).cast(kind, safe=False))
    after = with_mixed(rows, SPEC, MixedConfig(copies=0.5))
    assert after.schema.field("y").type == kind
    assert after["y"].slice(NUM).null_count == 400


def test_mixing_is_a_function_of_its_seed() -> None:
    one, same, other = (with_mixed(table(), SPEC, MixedConfig(seed=seed)) for seed in (0, 0, 1))
    assert one.drop(["y"]).equals(same.drop(["y"]))
    assert not one.drop(["y"]).equals(other.drop(["y"]))


def test_a_task_that_makes_such_rows_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="makes rows of split 'mixed' itself"):
        with_mixed(table(last="mixed"), SPEC, MixedConfig())
