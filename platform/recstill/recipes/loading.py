"""Read a recipe and report everything that is wrong with it at once, before anything trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recstill.api.errors import ConfigError, PluginError, UnknownNameError
from recstill.recipes.checking import check_model, check_strategy
from recstill.recipes.columns import check_column_options, reads_columns
from recstill.recipes.config import Recipe
from recstill.recipes.gating import check_bounds
from recstill.recipes.mistakes import validated
from recstill.recipes.strict_yaml import load, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.recipes.platform import Platform


def load_recipe(platform: Platform, reference: str, overrides: Sequence[str] = ()) -> tuple[str, Recipe]:
    """Return (name, recipe) for a catalog name or a path, with `key=value` overrides. Raise ConfigError with all mistakes."""
    path = Path(reference)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"Recipe {reference}", ["there is no such file"])
        name = _name_of(path)
    else:
        path, name = platform.catalog("recipes")[reference], reference
    data = read_yaml(path, f"Recipe {path}")
    if not isinstance(data, dict):
        raise ConfigError(f"Recipe {path}", ["it must be a mapping of keys to values"])
    problems = [problem for text in overrides for problem in _override(data, text)]
    recipe, mistakes = validated(Recipe, data)
    problems += [*mistakes, *_check_names(platform, data)]
    if problems or recipe is None:
        raise ConfigError(f"Recipe {name!r}", list(dict.fromkeys(problems)))
    return name, recipe


def _name_of(path: Path) -> str:
    """Runs and folders are named after the file of a recipe: its name in letters that fit everywhere."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower())[:60].strip("-.")
    return name or "recipe"


def parse_setting(text: str) -> tuple[str, Any]:
    """Return (key, value) of a `key=value` of the command line. Raise ConfigError, which names the key, if it is none."""
    key, found, value = text.partition("=")
    if not found or not all(key.split(".")):
        raise ConfigError("--set", [f"--set {text!r}: write key=value"])
    try:
        return key, load(value, key)
    except ConfigError as error:
        raise ConfigError("--set", [f"--set {text!r}: {problem}" for problem in error.problems]) from error


def _override(data: dict[str, Any], text: str) -> list[str]:
    try:
        key, value = parse_setting(text)
    except ConfigError as error:
        return error.problems
    place = data
    *parents, last = key.split(".")
    for parent in parents:
        nested = place.setdefault(parent, {})
        if not isinstance(nested, dict):
            return [f"--set {text!r}: {parent!r} is not a mapping"]
        place = nested
    place[last] = value
    return []


def _mapping(value: Any) -> dict[str, Any]:
    """A part of the recipe if it is a mapping; that it must be one is said elsewhere."""
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_names(platform: Platform, data: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    task = _look_up(platform, ("tasks",), data.get("task"), "task", problems)
    if task is not None:
        problems += validated(task.options, data.get("data", {}), "data")[1]
    parts = {"teacher": data.get("teacher"), "student": data.get("student")}
    parts |= {f"teachers.{n}": part for n, part in enumerate(_list(data.get("teachers")))}
    for place, part in parts.items():
        problems += _check_part(platform, task, place, _mapping(part))
    for index, item in enumerate(_list(_mapping(data.get("distil")).get("strategies"))):
        place = f"distil.strategies.{index}"
        if isinstance(item, dict):
            strategy = _look_up(platform, ("strategies",), item.get("name"), f"{place}.name", problems)
            problems += check_strategy(strategy, item, place, task.spec if task else None) if strategy else []
    baselines = _list(data.get("baselines"))
    if baselines and task is not None and task.spec.retrieval is not None:
        problems.append("baselines: a retrieval task has none; its models are compared with the student alone")
    for place, bounds in (("gates", data.get("gates")), (f"task {data.get('task')}: gates", task and dict(task.spec.gates))):
        problems += check_bounds(platform, bounds, place)
    for name in baselines:
        _look_up(platform, ("baselines",), name, "baselines", problems)
    return problems


def _check_part(platform: Platform, task: Any, place: str, part: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a teacher or the student: its name, or options that its class refuses."""
    problems: list[str] = []
    kinds = ("students",) if place == "student" else ("teachers", "students")
    model = _look_up(platform, kinds, part.get("name"), f"{place}.name", problems)
    if model is None or task is None:
        return problems
    options = part.get("options", {})
    if reads_columns(model):
        return problems + check_column_options(model, options, f"{place}.options", task.spec.features, task.spec.labels)
    tables = _mapping(part.get("training")).get("table_optimizer", "rowwise-adagrad")
    return problems + check_model(model, options, f"{place}.options", task.spec, tables)


def _look_up(platform: Platform, kinds: Sequence[str], name: object, place: str, problems: list[str]) -> Any:
    if not isinstance(name, str):
        return None  # the schema check says so already
    for kind in kinds:
        if name in platform.catalog(kind):
            return platform.catalog(kind)[name]
    try:
        return platform.catalog(kinds[0])[name]
    except (UnknownNameError, PluginError) as error:
        problems.append(f"{place}: {error}")
        return None
