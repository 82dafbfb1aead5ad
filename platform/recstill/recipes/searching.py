"""What a search tries: its space, and the next point as a function of the trials that there are."""

from __future__ import annotations

import logging
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from recstill.api.errors import ConfigError
from recstill.recipes.checking import check_strategy
from recstill.recipes.config import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.recipes.platform import Platform
    from recstill.registry.models import TrialRow

Space = dict[str, tuple[float, float]]
_WEIGHT_FACTOR, _TEMPERATURES = 10.0, (0.5, 8.0)
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def default_space(platform: Platform, recipe: Recipe) -> Space:
    """Weights from a tenth of the recipe's to ten times it, and temperatures from 0.5 to 8, for strategies that have one."""
    space: Space = {}
    for place, part in enumerate(recipe.distil.strategies):
        weight = part.weight if isinstance(part.weight, float) else part.weight.stop
        space[f"{place}.weight"] = (weight / _WEIGHT_FACTOR, weight * _WEIGHT_FACTOR)
        strategy = platform.catalog("strategies")[part.name]
        names = {field.name for field in fields(strategy)}
        if "temperature" in names:
            space[f"{place}.temperature"] = _TEMPERATURES
    return space


def check_search(platform: Platform, recipe: Recipe, space: Space) -> None:
    """Raise ConfigError with all that is wrong with a search, before its teacher trains: places, options, ends, epochs."""
    problems = [problem for key, ends in space.items() for problem in _check_key(platform, recipe, key, *ends)]
    fine_tune = recipe.distil.fine_tune
    if not recipe.student.training.epochs and not (fine_tune and fine_tune.epochs):
        problems.append("student.training.epochs is 0, so that no trial would have a validation score to be compared by")
    if problems:
        raise ConfigError("Search space", problems)


def _check_key(platform: Platform, recipe: Recipe, key: str, low: float, high: float) -> list[str]:
    place, _, option = key.partition(".")
    last = len(recipe.distil.strategies) - 1
    if not place.isascii() or not place.isdigit() or int(place) > last or not option:
        return [f"space {key!r}: write PLACE.weight or PLACE.OPTION, place 0 to {last}"]
    if not 0 < low < high or not math.isfinite(high):
        return [f"space {key!r}: the ends must rise and be above 0, not {low:g} and {high:g}"]
    if option == "weight":
        return []
    part = recipe.distil.strategies[int(place)]
    strategy, task = platform.catalog("strategies")[part.name], platform.task(recipe.task).spec
    for end in (low, high):  # what the constructor refuses at an end would fail every trial near it
        item = {"name": part.name, "options": {**part.options, option: end}}
        if problems := check_strategy(strategy, item, f"space {key!r}: {part.name}", task):
            return problems
    return []


def next_trial(recipe: Recipe, space: Space, rows: Sequence[TrialRow]) -> optuna.Trial:
    """Return the trial that comes after those of a study: one that was cut short, what a person would try first, or a point
    drawn by TPE (Bergstra et al., 2011).

    It depends on these trials and their number alone, so that a search in two calls tries what one call would.
    """
    distributions: dict[str, BaseDistribution] = {
        key: FloatDistribution(low, high, log=True) for key, (low, high) in space.items()
    }
    ended = [row for row in rows if row.state in _STATES]
    study = _study_of(ended, distributions)
    first = _first_trials(recipe, space)
    cut_short = next((row.params for row in rows if row.state not in _STATES), None)
    if cut_short is not None or len(ended) < len(first):
        study.enqueue_trial(cut_short if cut_short is not None else first[len(ended)])
    return study.ask(distributions)


def _study_of(rows: Sequence[TrialRow], distributions: dict[str, BaseDistribution]) -> optuna.Study:
    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=len(rows)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )  # fmt: skip
    for row in rows:
        looks = {look: score for look, score in enumerate(row.scores) if score is not None}
        value = best_of(row.scores) if row.state == "complete" else None
        study.add_trial(create_trial(
            params=row.params, distributions=distributions, value=value, state=_STATES[row.state], intermediate_values=looks,
        ))  # fmt: skip
    return study


def best_of(scores: Sequence[float | None]) -> float | None:
    """Return the highest validation score that is a number."""
    return max((score for score in scores if score is not None and math.isfinite(score)), default=None)


def with_params(recipe: Recipe, params: Mapping[str, float]) -> Recipe:
    """Return the recipe with these weights and options."""
    parts = [part.model_dump() for part in recipe.distil.strategies]
    for key, value in params.items():
        place, _, option = key.partition(".")
        if option == "weight":
            parts[int(place)]["weight"] = value
        else:
            parts[int(place)]["options"] = {**parts[int(place)]["options"], option: value}
    distil = recipe.distil.model_dump() | {"strategies": parts}
    return Recipe.model_validate(recipe.model_dump() | {"distil": distil})


def _first_trials(recipe: Recipe, space: Space) -> list[dict[str, float]]:
    """The recipe's own numbers, then each of them alone at about three times and a third: what a person would try first."""
    own = _present(recipe, space)
    trials = [own]
    for key, value in own.items():
        low, high = space[key]
        trials += [{**own, key: min(max(value * factor, low), high)} for factor in (10**0.5, 10**-0.5)]
    return [trial for place, trial in enumerate(trials) if trial not in trials[:place]]


def _present(recipe: Recipe, space: Space) -> dict[str, float]:
    found: dict[str, Any] = {}
    for key, (low, high) in space.items():
        place, _, option = key.partition(".")
        part = recipe.distil.strategies[int(place)]
        value = part.weight if option == "weight" else part.options.get(option, 1.0)
        if isinstance(value, (int, float)):
            found[key] = min(max(float(value), low), high)
    return found
