"""Claims of an experiment that could never be met, or never be false, are refused before anything trains."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recstill.api import EndpointSpec, FeatureSpec, LabelSpec, TaskSpec
from recstill.recipes.claims import Claim, claim_problems
from recstill.recipes.config import Recipe

TASK = TaskSpec(
    name="t", dataset="d", description="", groups=("user",), features=(FeatureSpec(name="x", view="row"),),
    labels=(LabelSpec(name="y", primary=True), LabelSpec(name="kind", kind="multiclass", num_classes=3)),
    endpoint=EndpointSpec(path="/v1/t/score", query_key="user", item_key="item", items_field="items"),
)  # fmt: skip
MODEL = {"name": "small-mlp", "features": "none", "training": {"epochs": 1}}
RECIPE = Recipe.model_validate({
    "task": "t", "teacher": {**MODEL, "register_as": "a"}, "student": {**MODEL, "register_as": "b"},
    "distil": {"strategies": [{"name": "soft-target", "weight": 1.0}]}, "baselines": ["popularity"],
})  # fmt: skip


def claim(**facts: Any) -> Claim:
    return Claim.model_validate({"text": "c", "variant": "v", "metric": "y.auc", **facts})


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"equals": "gain"},
        {"metric": "verdict"},
        {"metric": "verdict", "at_least": 1.0},
        {"metric": "verdict", "equals": "gain", "at_most": 1.0},
        {"at_least": 0.9, "at_most": 0.8},
        {"at_least": float("nan")},
        {"at_most": float("inf")},
    ],
)
def test_a_claim_says_what_would_make_it_false(facts: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        claim(**facts)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"metric": "y.acu"}, "no metric 'y.acu'; did you mean 'y.auc'?"),
        ({"metric": "kind.auc"}, "no metric 'kind.auc'"),
        ({"metric": "efficiency"}, "no metric 'efficiency'"),
        ({"subject": "transfer", "metric": "y.auc"}, "known: efficiency, gain"),
        ({"subject": "student pruned"}, "no subject 'student pruned'"),
        ({"relative_to": "techer"}, "no subject 'techer'; did you mean 'teacher'?"),
        ({"subject": "popularity"}, ""),
        ({"metric": "kind.accuracy", "relative_to": "teacher"}, ""),
        ({"subject": "transfer", "metric": "efficiency"}, ""),
        ({"metric": "fairness.sex.auc_gap"}, ""),
    ],
)
def test_what_no_run_will_have_is_named_beforehand(facts: dict[str, Any], words: str) -> None:
    problems = claim_problems([claim(at_least=0.5, **facts)], ["y.auc", "training.parameters"], {"v": (TASK, RECIPE)})
    assert len(problems) == bool(words)
    assert words in "".join(problems)


def test_a_column_that_no_run_will_have_is_named_beforehand() -> None:
    [problem] = claim_problems([], ["y.auc", "y.guac"], {"v": (TASK, RECIPE)})
    assert "did you mean 'y.gauc'?" in problem
