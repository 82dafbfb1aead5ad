"""Search the weights and temperatures of a recipe's strategies on the validation split."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import optuna
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from recstill.api.errors import ConfigError
from recstill.recipes.config import Recipe
from recstill.recipes.loading import load_recipe
from recstill.recipes.planning import check_plan
from recstill.recipes.run import begin_run, prepare_run
from recstill.recipes.stages import taught_versions
from recstill.recipes.teaching import open_teachers
from recstill.recipes.training import train
from recstill.registry.runs import finish_run, list_runs
from recstill.registry.trials import begin_trial, end_trial, list_trials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress
    from recstill.recipes.run import Run

Space = dict[str, tuple[float, float]]
_WEIGHT_FACTOR, _TEMPERATURES = 10.0, (0.5, 8.0)


@dataclass(frozen=True)
class Tuned:
    """What a search found: every trial, the best parameters, and the `--set` that uses them."""

    study: str
    trials: list[dict[str, Any]]
    best: dict[str, float]
    best_score: float
    overrides: str


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


def tune(
    platform: Platform,
    reference: str,
    overrides: Sequence[str],
    num_trials: int,
    space: Space | None,
    progress: Progress,
) -> Tuned:
    """Run trials until the study has `num_trials`; those of an earlier call count. Each trains the recipe's student with the
    first seed; one that lies below the median of the others at the same look is pruned. All are rows of the registry."""
    name, recipe = load_recipe(platform, reference, overrides)
    space = space or default_space(platform, recipe)
    _check_space(space, recipe)
    facts = json.dumps([name, recipe.model_dump(mode="json"), sorted(space.items())], sort_keys=True)
    study_name = f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
    run = _run_of(platform, name, recipe, study_name, progress)
    torch.set_num_threads(recipe.threads)
    _, versions = taught_versions(run)
    source = open_teachers(run, versions)
    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )  # fmt: skip
    distributions: dict[str, Any] = {key: FloatDistribution(low, high, log=True) for key, (low, high) in space.items()}
    _recall(platform, study, study_name, distributions)
    for params in _first_trials(recipe, space):
        study.enqueue_trial(params, skip_if_exists=True)
    while (done := len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))) < num_trials:
        trial = study.ask(distributions)
        progress.say(f"trial {done + 1} of {num_trials}: " + ", ".join(f"{k} {v:.4g}" for k, v in trial.params.items()))
        state, scores = _try(run, study_name, trial, source)
        if state == "complete":
            study.tell(trial, max(scores))
        else:
            study.tell(trial, state=TrialState.PRUNED)
    with platform.registry.transaction() as session:
        rows = list_trials(session, study_name)
        finish_run(session, run.id, "finished", verdict=f"best {study.best_value:.4f}")
    trials = [
        {"trial": row.number, "state": row.state, **{k: f"{v:.4g}" for k, v in row.params.items()},
         "score": f"{best:.4f}" if (best := _best(row.scores)) is not None else ""} for row in rows
    ]  # fmt: skip
    chosen = _with(recipe, study.best_params).distil.strategies
    text = json.dumps([part.model_dump(mode="json") for part in chosen])
    return Tuned(study_name, trials, study.best_params, study.best_value, f"--set 'distil.strategies={text}'")


def _run_of(platform: Platform, name: str, recipe: Recipe, study: str, progress: Progress) -> Run:
    with platform.registry.read() as session:
        earlier = next((row.id for row in list_runs(session, recipe.task) if row.recipe == f"tune {study}"), None)
    run = prepare_run(platform, name, recipe, progress)
    if earlier is not None:
        return replace(run, id=earlier)
    begin_run(run, f"tune {study}")
    return run


def _recall(platform: Platform, study: optuna.Study, name: str, distributions: dict[str, Any]) -> None:
    """Put earlier trials into the study; one that was cut short is asked for again."""
    with platform.registry.read() as session:
        rows = list_trials(session, name)
    for row in rows:
        if row.state == "running":
            study.enqueue_trial(row.params)
            continue
        looks = {look: score for look, score in enumerate(row.scores) if score is not None}
        best = _best(row.scores)
        state, value = (TrialState.COMPLETE, best) if row.state == "complete" else (TrialState.PRUNED, None)
        study.add_trial(create_trial(
            params=row.params, distributions=distributions, value=value, state=state, intermediate_values=looks,
        ))  # fmt: skip


def _best(scores: Sequence[float | None]) -> float | None:
    """The highest validation score that is a number."""
    return max((score for score in scores if score is not None), default=None)


def _try(run: Run, study: str, trial: optuna.Trial, source: Any) -> tuple[str, list[float]]:
    registry, scores = run.platform.registry, []
    with registry.transaction() as session:
        number = begin_trial(session, study, run.id, trial.params).number

    def watch(_epoch: int, score: float) -> None:
        scores.append(score)
        trial.report(score, len(scores) - 1)
        if trial.should_prune():
            raise optuna.TrialPruned

    chosen = replace(run, recipe=_with(run.recipe, trial.params), watch=watch)
    chosen.__dict__["rows"] = run.rows  # the same encoded rows for all trials
    check_plan(chosen)
    state = "complete"
    try:
        train(chosen, f"trial-{number}", "student", run.recipe.seeds[0], source)
    except optuna.TrialPruned:
        state = "pruned"
    with registry.transaction() as session:
        end_trial(session, study, number, state, scores)
    run.weights(f"trial-{number}").unlink(missing_ok=True)
    (run.folder / "checkpoints" / f"trial-{number}.safetensors").unlink(missing_ok=True)
    return state, scores


def _check_space(space: Space, recipe: Recipe) -> None:
    problems = []
    for key, (low, high) in space.items():
        place, _, option = key.partition(".")
        if not place.isdigit() or int(place) >= len(recipe.distil.strategies) or not option:
            problems.append(
                f"space {key!r}: write PLACE.weight or PLACE.OPTION, place 0 to {len(recipe.distil.strategies) - 1}"
            )
        if not 0 < low < high:
            problems.append(f"space {key!r}: the ends must rise and be above 0, not {low:g} and {high:g}")
    if problems:
        raise ConfigError("Search space", problems)


def _first_trials(recipe: Recipe, space: Mapping[str, tuple[float, float]]) -> list[dict[str, float]]:
    """The recipe's own numbers, then each of them alone at about three times and a third: what a person would try first."""
    own = _present(recipe, space)
    trials = [own]
    for key, value in own.items():
        low, high = space[key]
        trials += [{**own, key: min(max(value * factor, low), high)} for factor in (10**0.5, 10**-0.5)]
    return trials


def _present(recipe: Recipe, space: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    found = {}
    for key, (low, high) in space.items():
        place, _, option = key.partition(".")
        part = recipe.distil.strategies[int(place)]
        value = part.weight if option == "weight" else part.options.get(option, 1.0)
        if isinstance(value, (int, float)):
            found[key] = min(max(float(value), low), high)
    return found


def _with(recipe: Recipe, params: Mapping[str, float]) -> Recipe:
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
