"""What can be said of a recipe's models and strategies before there is any data."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, cast

from recstill.api.strategy import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.task import TaskSpec
    from recstill.recipes.config import StrategyConfig
    from recstill.recipes.platform import Platform


def unknown_options(factory: Any, options: object, place: str, skip: int) -> list[str]:
    """Return a problem for each option that the factory does not take."""
    if not isinstance(options, dict):
        return []
    known = list(inspect.signature(factory).parameters)[skip:]
    problems = []
    for name in set(options) - set(known):
        close = difflib.get_close_matches(str(name), known, n=1)
        problems.append(f"{place}.{name}: unknown option" + (f"; did you mean {close[0]!r}?" if close else f"; known: {known}"))
    return sorted(problems)


def check_model(factory: Any, options: object, place: str, task: TaskSpec, table_optimizer: Any) -> list[str]:
    """Build the model once on tables of a few rows: what its constructor refuses is a mistake of the recipe."""
    from recstill.api.models import Slot
    from recstill.embeddings.tables import TableOptimizer, training_inputs

    if problems := unknown_options(factory, options, place, skip=1):
        return problems
    slots = [Slot(name, name, 3) for name in ("a", "b", "c")]
    numbers = [feature.name for feature in task.features if feature.kind == "numeric"] or ["number"]
    names = tuple(name for name in numbers for _ in range(3))
    tables = TableOptimizer(kind=table_optimizer)
    try:
        inputs = training_inputs(len(names), slots, task.labels, tables, query=((0, 1), (0,)), dense_names=names)
        factory(inputs, **cast("dict[str, Any]", options))
    except Exception as error:  # whatever a plugin's constructor raises is about these options
        return [f"{place}: {error}"]
    return []


def check_strategy(strategy: Any, item: Mapping[str, Any], place: str, task: TaskSpec | None) -> list[str]:
    """Return what is wrong with a strategy of a recipe, as far as its declarations tell."""
    problems = unknown_options(strategy, item.get("options"), f"{place}.options", skip=0)
    if not problems:
        try:
            strategy(**options_of(item.get("options") or {}))
        except (TypeError, ValueError) as error:
            problems.append(f"{place}.options: {error}")
    if task is None:
        return problems
    for signal in strategy.signals:
        kind, _, column = signal.partition(":")
        if kind != "attributes":
            continue
        column = column or (item.get("options") or {}).get("attribute") or getattr(strategy, "attribute", "")
        if column not in (*task.attributes, "rule"):
            problems.append(
                f"{place}.name: {item['name']!r} needs the attribute {column!r} of the rows; task {task.name!r} offers "
                f"{', '.join(task.attributes) or 'none'}"
            )
    if task.auction and strategy.calibration == "unsafe":
        problems.append(
            f"{place}.name: {item['name']!r} would spoil the calibration of the served head, which this task needs; "
            "use auxiliary-head or decoupled-towers"
        )
    return problems


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a strategy takes them: a mapping with `start` and `stop` is a schedule."""
    return {
        name: Schedule(**value) if isinstance(value, dict) and {"start", "stop"} <= set(value) else value
        for name, value in options.items()
    }


def build_strategy(platform: Platform, config: StrategyConfig) -> Any:
    """Return the strategy object that a checked recipe names."""
    return cast("Any", platform.catalog("strategies")[config.name])(**options_of(config.options))
