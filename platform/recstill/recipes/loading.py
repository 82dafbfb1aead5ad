"""Read a recipe and report everything that is wrong with it at once, before anything trains."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from recstill.api.errors import ConfigError, PluginError, UnknownNameError
from recstill.recipes.checking import check_model, check_strategy
from recstill.recipes.columns import check_column_options, reads_columns
from recstill.recipes.config import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.recipes.platform import Platform


def load_recipe(platform: Platform, reference: str, overrides: Sequence[str] = ()) -> tuple[str, Recipe]:
    """Return (name, recipe) for a catalog name or a path, with `key=value` overrides. Raise ConfigError with all mistakes."""
    path = Path(reference)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"Recipe {reference}", ["there is no such file"])
        name = path.stem
    else:
        path, name = platform.catalog("recipes")[reference], reference
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"Recipe {path}", [f"not YAML: {error}"]) from error
    if not isinstance(data, dict):
        raise ConfigError(f"Recipe {path}", ["it must be a mapping of keys to values"])
    problems = [problem for text in overrides if (problem := _override(data, text))]
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += _explain(error, Recipe)
    problems += _check_names(platform, data)
    if problems or recipe is None:
        raise ConfigError(f"Recipe {name!r}", problems)
    return name, recipe


def _override(data: dict[str, Any], text: str) -> str | None:
    key, found, value = text.partition("=")
    if not found:
        return f"--set {text!r}: write key=value"
    place = data
    *parents, last = key.split(".")
    for parent in parents:
        nested = place.setdefault(parent, {})
        if not isinstance(nested, dict):
            return f"--set {text!r}: {parent!r} is not a mapping"
        place = nested
    place[last] = yaml.safe_load(value)
    return None


def _explain(error: ValidationError, model: type[BaseModel], root: str = "") -> list[str]:
    problems = []
    for detail in error.errors():
        place = ".".join(str(part) for part in (root, *detail["loc"]) if part != "")
        if detail["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(detail["loc"][-1]), _keys_at(model, detail["loc"][:-1]), n=1)
            problems.append(f"{place}: unknown key" + (f"; did you mean {close[0]!r}?" if close else ""))
        elif detail["type"] == "missing":
            problems.append(f"{place}: this key is needed")
        else:
            said = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{place}: {said[:1].lower()}{said[1:]}, not {detail['input']!r}" if place else said)
    return problems


def _keys_at(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next((kind for kind in inner if inspect.isclass(kind) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _check_names(platform: Platform, data: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    task = _look_up(platform, ("tasks",), data.get("task"), "task", problems)
    if task is not None:
        try:
            task.options.model_validate(data.get("data") or {})
        except ValidationError as error:
            problems += _explain(error, task.options, "data")
    parts = {"teacher": data.get("teacher"), "student": data.get("student")}
    parts |= {f"teachers.{n}": part for n, part in enumerate(data.get("teachers") or [])}
    for place, part in parts.items():
        if isinstance(part, dict):
            kinds = ("students",) if place == "student" else ("teachers", "students")
            model = _look_up(platform, kinds, part.get("name"), f"{place}.name", problems)
            if model and task and reads_columns(model):
                problems += check_column_options(
                    model, part.get("options") or {}, f"{place}.options", task.spec.features, task.spec.labels
                )
                continue
            tables = (part.get("training") or {}).get("table_optimizer", "rowwise-adagrad")
            if model and task:
                problems += check_model(model, part.get("options") or {}, f"{place}.options", task.spec, tables)
    distil = data.get("distil")
    for index, item in enumerate((distil.get("strategies") or []) if isinstance(distil, dict) else []):
        place = f"distil.strategies.{index}"
        if isinstance(item, dict):
            strategy = _look_up(platform, ("strategies",), item.get("name"), f"{place}.name", problems)
            problems += check_strategy(strategy, item, place, task.spec if task else None) if strategy else []
    if data.get("baselines") and task is not None and task.spec.retrieval is not None:
        problems.append("baselines: a retrieval task has none; its models are compared with the student alone")
    for name in data.get("baselines") or []:
        _look_up(platform, ("baselines",), name, "baselines", problems)
    return problems


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
