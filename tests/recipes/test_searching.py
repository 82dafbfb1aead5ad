"""The points that a search tries, whatever the trials before it came to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api import ConfigError
from recstill.recipes.config import Recipe
from recstill.recipes.platform import Platform
from recstill.recipes.searching import best_of, check_search, next_trial, with_params
from recstill.registry.models import TrialRow

RECIPE = Recipe.model_validate({
    "task": "ads",
    "teacher": {"name": "dcnv2", "features": "none", "register_as": "t"},
    "student": {"name": "small-mlp", "features": "none", "register_as": "s"},
    "distil": {"strategies": [{"name": "soft-target", "weight": 1.0}]},
})  # fmt: skip
SPACE = {"0.weight": (0.1, 10.0), "0.temperature": (0.5, 8.0)}
OUTCOMES = st.sampled_from(
    [("complete", [0.5, 0.6]), ("complete", [0.7]), ("pruned", [0.4]), ("failed", []), ("failed", [None])]
)
Outcome = tuple[str, list[float | None]]


def draw(outcomes: list[Outcome], rows: list[TrialRow]) -> list[TrialRow]:
    """Go on with a study: what each trial comes to is given."""
    rows = list(rows)
    for state, scores in outcomes[len(rows) :]:
        trial = next_trial(RECIPE, SPACE, rows)
        rows.append(TrialRow(study="s", number=len(rows), run_id="r", state=state, params=trial.params, scores=list(scores)))
    return rows


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(OUTCOMES, min_size=6, max_size=16), st.integers(0, 16))
def test_a_search_in_two_calls_tries_what_one_call_would(outcomes: list[Outcome], first: int) -> None:
    once = [row.params for row in draw(outcomes, [])]
    twice = [row.params for row in draw(outcomes, draw(outcomes[:first], []))]
    assert once == twice
    assert len({tuple(sorted(params.items())) for params in once}) == len(once), "a point was tried twice"
    for params in once:
        assert all(low <= params[key] <= high for key, (low, high) in SPACE.items())


def test_a_trial_that_was_cut_short_is_tried_again_first() -> None:
    rows = draw([("complete", [0.5])] * 4, [])
    running = TrialRow(study="s", number=4, run_id="r", state="running", params={"0.weight": 3.0, "0.temperature": 2.0})
    assert next_trial(RECIPE, SPACE, [*rows, running]).params == running.params


def test_only_numbers_are_best() -> None:
    assert best_of([None, math.nan, 0.3, math.inf, 0.2]) == 0.3
    assert best_of([None]) is None
    assert best_of([]) is None


@pytest.mark.parametrize(("key", "ends", "words"), [
    ("5.weight", (1, 2), "write PLACE.weight or PLACE.OPTION"),
    ("-1.weight", (1, 2), "write PLACE.weight"),
    ("0.", (1, 2), "write PLACE.weight"),
    ("0.weight", (2, 1), "the ends must rise"),
    ("0.weight", (0, 1), "be above 0"),
    ("0.weight", (1, math.inf), "be above 0"),
    ("0.weight", (math.nan, 1), "be above 0"),
    ("0.nothing", (1, 2), "unknown option"),
    ("0.temprature", (1, 2), "did you mean 'temperature'"),
])  # fmt: skip
def test_a_space_is_checked_before_its_teacher_trains(
    platform: Platform, key: str, ends: tuple[float, float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_search(platform, RECIPE, {key: ends})


def test_a_search_without_epochs_is_a_sentence(platform: Platform) -> None:
    training = RECIPE.student.training.model_copy(update={"epochs": 0})
    recipe = RECIPE.model_copy(update={"student": RECIPE.student.model_copy(update={"training": training})})
    with pytest.raises(ConfigError, match="student.training.epochs is 0"):
        check_search(platform, recipe, SPACE)
    check_search(platform, RECIPE, SPACE)


def test_parameters_become_weights_and_options() -> None:
    part = with_params(RECIPE, {"0.weight": 2.0, "0.temperature": 4.0}).distil.strategies[0]
    assert (part.weight, part.options) == (2.0, {"temperature": 4.0})
