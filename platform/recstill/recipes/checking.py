"""What can be said of a recipe's models and strategies before there is any data."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import sys
import types
import typing
from typing import TYPE_CHECKING, Any, cast

from pydantic import PydanticUserError

from recstill.api.strategy import Schedule
from recstill.recipes.config import ScheduleConfig
from recstill.recipes.mistakes import validated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.task import TaskSpec
    from recstill.recipes.config import StrategyConfig
    from recstill.recipes.platform import Platform


def option_problems(factory: Any, options: object, place: str, skip: int) -> list[str]:
    """Return a problem for each option that the factory does not take, and for each value of another type than it declares.

    skip: how many of its parameters are no options.
    """
    if not isinstance(options, dict):
        return []  # the schema check says so already
    parameters = dict(list(inspect.signature(factory).parameters.items())[skip:])
    problems = []
    for name, value in options.items():
        if name in parameters:
            kind = _declared_type(factory, name, parameters[name].annotation)
            problems += _type_problems(kind, value, f"{place}.{name}")
            continue
        close = difflib.get_close_matches(str(name), parameters, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {list(parameters)}"
        problems.append(f"{place}.{name}: unknown option{hint}")
    return sorted(problems)


def _declared_type(factory: Any, name: str, annotation: Any) -> Any:
    """The type of an option as its class declares it; `Any` where that cannot be told without importing more."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = type("Holder", (), {"__annotations__": {name: annotation}})
    # Plugins import the names of their annotations for the type checker only: these are the ones they use.
    usual = {**vars(typing), **{n: getattr(collections.abc, n) for n in collections.abc.__all__}, "Schedule": Schedule}
    module = sys.modules.get(getattr(factory, "__module__", ""))
    try:
        return typing.get_type_hints(holder, {**usual, **(vars(module) if module else {})})[name]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return Any


def _type_problems(kind: Any, value: Any, place: str) -> list[str]:
    """Return nothing if the value is of the type, or of one of a union's, and else what the nearest of them says."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    members = [ScheduleConfig if one is Schedule else one for one in (typing.get_args(kind) if is_union else (kind,))]
    if isinstance(value, dict) and ScheduleConfig in members:
        members = [ScheduleConfig]
    found = []
    for member in members:
        try:
            problems = validated(member, value, place)[1]
        except PydanticUserError:
            problems = validated(Any, value, place)[1]  # a type of the plugin's own: its constructor judges
        if not problems:
            return []
        found.append(problems)
    return found[0]


def check_model(factory: Any, options: object, place: str, task: TaskSpec, table_optimizer: Any) -> list[str]:
    """Build the model once on tables of a few rows: what its constructor refuses is a mistake of the recipe."""
    from recstill.api.models import Slot
    from recstill.embeddings.tables import TableOptimizer, training_inputs

    if (problems := option_problems(factory, options, place, skip=1)) or not isinstance(options, dict):
        return problems
    slots = [Slot(name, name, 3) for name in ("a", "b", "c")]
    numbers = [feature.name for feature in task.features if feature.kind == "numeric"] or ["number"]
    names = tuple(name for name in numbers for _ in range(3))
    tables = TableOptimizer(kind=table_optimizer)
    try:
        inputs = training_inputs(len(names), slots, task.labels, tables, query=((0, 1), (0,)), dense_names=names)
        factory(inputs, **options)
    except Exception as error:  # whatever a plugin's constructor raises is about these options
        return [f"{place}: {error}"]
    return []


def check_strategy(strategy: Any, item: Mapping[str, Any], place: str, task: TaskSpec | None) -> list[str]:
    """Return what is wrong with a strategy of a recipe, as far as its declarations tell."""
    options = item.get("options", {})
    problems = option_problems(strategy, options, f"{place}.options", skip=0)
    if not problems and isinstance(options, dict):
        try:
            strategy(**options_of(options))
        except Exception as error:  # whatever a plugin's constructor raises is about these options
            problems.append(f"{place}.options: {error}")
    if task is None:
        return problems
    for signal in strategy.signals:
        kind, _, column = signal.partition(":")
        if kind != "attributes":
            continue
        column = column or (options if isinstance(options, dict) else {}).get("attribute") or getattr(strategy, "attribute", "")
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
