"""Search the weights and temperatures of a recipe's strategies on the validation split."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
import torch
from filelock import FileLock, Timeout

from recstill.api.errors import ConfigError, RegistryError
from recstill.pipeline.inputs import Inputs
from recstill.recipes.loading import load_recipe
from recstill.recipes.planning import check_plan
from recstill.recipes.run import begin_run, prepare_run
from recstill.recipes.searching import Space, best_of, check_search, default_space, next_trial, with_params
from recstill.recipes.stage_inputs import run_inputs
from recstill.recipes.stages import taught_versions
from recstill.recipes.teaching import open_teachers
from recstill.recipes.training import train
from recstill.recipes.working import working
from recstill.registry.runs import finish_run, list_runs
from recstill.registry.trials import begin_trial, end_trial, list_trials

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recstill.recipes.config import Recipe
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress
    from recstill.recipes.run import Run
    from recstill.registry.models import TrialRow

# What is wrong with the machine ends a search; all else is wrong with a trial.
_OF_THE_MACHINE = (OSError, MemoryError)


@dataclass(frozen=True)
class Tuned:
    """What a search found: every trial, the best parameters, and the `--set` that uses them."""

    study: str
    trials: list[dict[str, Any]]
    best: dict[str, float]
    best_score: float
    overrides: str


def tune(
    platform: Platform,
    reference: str,
    overrides: Sequence[str],
    num_trials: int,
    space: Space | None,
    progress: Progress,
) -> Tuned:
    """Run trials until the study has `num_trials`; those of an earlier call count, and so do those that failed. Each trains the
    recipe's student with the first seed; one that lies below the median of the others at the same look is pruned. All are rows
    of the registry. Raise ConfigError for a space that the strategies do not have, and if every trial failed; RegistryError if
    another process works on the study."""
    name, recipe = load_recipe(platform, reference, overrides)
    space = space or default_space(platform, recipe)
    check_search(platform, recipe, space)
    run = prepare_run(platform, name, recipe, progress)
    study = name_of(run, space)
    with _alone(platform, study):
        return _search(run, space, study, num_trials)


@contextmanager
def _alone(platform: Platform, study: str) -> Iterator[None]:
    """Hold a study: what it tries next depends on its trials, so two processes would try the same."""
    lock = FileLock(platform.settings.folder("locks") / f"tune-{study}.lock", timeout=1.0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RegistryError(f"Study {study} is being worked on by another process.") from error
    try:
        yield
    finally:
        lock.release()


def _search(prepared: Run, space: Space, study: str, num_trials: int) -> Tuned:
    platform, recipe, progress = prepared.platform, prepared.recipe, prepared.progress
    run, is_new = _run_of(prepared, study)
    with working(run, "call `recstill tune` again; it goes on with the trials that there are"):
        if is_new:
            begin_run(run, f"tune {study}")
        torch.set_num_threads(recipe.threads)
        _, versions = taught_versions(run)
        source = open_teachers(run, versions)
        while len(ended := _ended(rows := _trials(platform, study))) < num_trials:
            trial = next_trial(recipe, space, rows)
            said = ", ".join(f"{key} {value:.4g}" for key, value in trial.params.items())
            progress.say(f"trial {len(ended) + 1} of {num_trials}: {said}")
            _try(run, study, trial, source)
        found = _found(study, recipe, rows)
        with platform.registry.transaction() as session:
            finish_run(session, run.id, "finished", verdict=f"best {found.best_score:.4f}")
    return found


def name_of(run: Run, space: Space) -> str:
    """The study of a run and a space: trials of other numbers, rows or code are not comparable, and are another study."""
    facts = Inputs({"run": run_inputs(run).key, "space": {key: list(ends) for key, ends in space.items()}})
    return f"{run.name}-{facts.key[:8]}"


def _run_of(run: Run, study: str) -> tuple[Run, bool]:
    """Return the run of a study, and whether it is new."""
    with run.platform.registry.read() as session:
        earlier = next((row.id for row in list_runs(session, run.recipe.task) if row.recipe == f"tune {study}"), None)
    return (run, True) if earlier is None else (replace(run, id=earlier), False)


def _trials(platform: Platform, study: str) -> list[TrialRow]:
    with platform.registry.read() as session:
        return list_trials(session, study)


def _ended(rows: Sequence[TrialRow]) -> list[TrialRow]:
    return [row for row in rows if row.state != "running"]


def _found(study: str, recipe: Recipe, rows: Sequence[TrialRow]) -> Tuned:
    complete = {row.number: score for row in rows if row.state == "complete" and (score := best_of(row.scores)) is not None}
    if not complete:
        failures = [f"trial {row.number}: {row.error or row.state}" for row in rows]
        raise ConfigError(f"Search {study}", ["no trial came to its end", *failures[:3]])
    trials = [
        {"trial": row.number, "state": row.state, **row.params, "score": best_of(row.scores), "error": row.error}
        for row in rows
    ]
    number = max(complete, key=lambda place: complete[place])
    best = next(row.params for row in rows if row.number == number)
    text = json.dumps([part.model_dump(mode="json") for part in with_params(recipe, best).distil.strategies])
    return Tuned(study, trials, best, complete[number], f"--set 'distil.strategies={text}'")


def _try(run: Run, study: str, trial: optuna.Trial, source: Any) -> None:
    """Train the student of one trial and record how it ended: complete, pruned, or failed with its error."""
    registry, scores = run.platform.registry, []
    with registry.transaction() as session:
        number = begin_trial(session, study, run.id, trial.params).number

    def watch(_epoch: int, score: float) -> None:
        scores.append(score)
        if math.isfinite(score):
            trial.report(score, len(scores) - 1)
        if trial.should_prune():
            raise optuna.TrialPruned

    chosen = replace(run, recipe=with_params(run.recipe, trial.params), watch=watch)
    chosen.__dict__["rows"] = run.rows  # the same encoded rows for all trials
    state, error = _outcome(chosen, f"trial-{number}", source, scores)
    if state == "failed":
        run.progress.say(f"trial {number} failed: {error}")
    with registry.transaction() as session:
        end_trial(session, study, number, state, scores, error)
    run.weights(f"trial-{number}").unlink(missing_ok=True)
    (run.folder / "checkpoints" / f"trial-{number}.safetensors").unlink(missing_ok=True)


def _outcome(run: Run, name: str, source: Any, scores: Sequence[float]) -> tuple[str, str]:
    try:
        check_plan(run)
        train(run, name, "student", run.recipe.seeds[0], source)
    except optuna.TrialPruned:
        return "pruned", ""
    except _OF_THE_MACHINE:
        raise
    except Exception as error:  # a strategy is a plugin: whatever it raises at these numbers is about them
        return "failed", f"{type(error).__name__}: {error}"
    if best_of(scores) is None:
        return "failed", "its validation score was never a number"
    return "complete", ""
