"""No name of a task stands for two things, and none is a word that recstill uses itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recstill.api import ContextSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec
from recstill.api.task import RESERVED


def spec(**changes: Any) -> TaskSpec:
    facts: dict[str, Any] = {
        "name": "t", "dataset": "d", "description": "", "labels": (LabelSpec(name="y", primary=True),),
        "features": (FeatureSpec(name="x", view="row"),), "groups": ("g",),
        "endpoint": EndpointSpec(path="/v1/t/score", query_key="user", item_key="item", items_field="items"),
    }  # fmt: skip
    return TaskSpec(**{**facts, **changes})


def labels(*names: str) -> tuple[LabelSpec, ...]:
    return tuple(LabelSpec(name=name, primary=place == 0) for place, name in enumerate(names))


def test_a_plain_task_is_fine() -> None:
    assert (
        spec(features=(FeatureSpec(name="price in EUR", view="row"), FeatureSpec(name="ü:1", view="row"))).primary.name == "y"
    )


@pytest.mark.parametrize(("changes", "words"), [
    ({"labels": labels("y", "y")}, "names labels twice: ['y']"),
    ({"labels": labels("y", "x")}, "['x'] are labels and what models read"),
    ({"labels": labels("item")}, "['item'] are labels and what models read"),
    ({"features": (FeatureSpec(name="x", view="row"),) * 2}, "names features twice: ['x']"),
    ({"groups": ("g", "g")}, "names groups twice"),
    ({"attributes": ("a", "a")}, "names attributes twice"),
    ({"name": "Ads:1"}, "a task cannot be called 'Ads:1'"),
    ({"endpoint": EndpointSpec(path="/", query_key="item", item_key="item", items_field="i")}, "have one key"),
    ({"endpoint": EndpointSpec(path="/", item_key="i", items_field="i", context=(ContextSpec(name="c"),) * 2)}, "context"),
])  # fmt: skip
def test_names_that_two_things_share_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", [*RESERVED, "bundle", "a b", "y\n", "", "ÿ", "a/b", "a:b"])
def test_labels_have_names(name: str) -> None:
    with pytest.raises(ValidationError, match="a label cannot be called"):
        LabelSpec(name=name)


@pytest.mark.parametrize("name", [*RESERVED, "", " ", "a#b", "a\nb", "a\x00"])
def test_features_are_printable(name: str) -> None:
    with pytest.raises(ValidationError, match="a feature cannot be called"):
        FeatureSpec(name=name, view="row")


@pytest.mark.parametrize("changes", [{"weight": float("nan")}, {"weight": float("inf")}, {"weight": -1.0}, {"num_classes": 1}])
def test_numbers_of_labels_are_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LabelSpec(name="y", **changes)
