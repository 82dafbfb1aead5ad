"""What a task and a data set must hold, without their files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from recstill.api.task import TaskSpec
from recstill.testing.results import Check, check

if TYPE_CHECKING:
    from collections.abc import Collection

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_TEXTS = ("name", "package", "version", "sha256", "licence", "description", "sources_version")


def check_task(task: Any, *, name: str, datasets: Collection[str], recipes: Collection[str]) -> list[Check]:
    """Check a task: its description, its options, the names that it refers to, the methods that a run calls.

    name: the name that it is offered under. datasets, recipes: the names that there are.
    """
    subject = f"task {name}"
    described = check(subject, "has a description", lambda: _described(task, name))
    if not described.passed:
        return [described]
    return [
        described,
        check(subject, "has options with defaults", lambda: _options(task)),
        check(subject, "names a data set and a recipe that are offered", lambda: _names(task.spec, datasets, recipes)),
        check(subject, "has rows(raw, options)", lambda: _takes(task, "rows", 2)),
        check(
            subject,
            "has write_training_sources(raw, rows, sources)",
            lambda: _takes(task, "write_training_sources", 3),
        ),
    ]


def check_dataset(dataset: Any, *, name: str) -> list[Check]:
    """Check a data set: its card, where its files come from, the method that a run calls."""
    subject = f"data set {name}"
    card = check(subject, "has a card", lambda: _card(dataset, name))
    if not card.passed:
        return [card]
    return [
        card,
        check(subject, "says where its files come from", lambda: _origin(dataset)),
        check(subject, "has build_sources(raw, sources)", lambda: _takes(dataset, "build_sources", 2)),
    ]


def _described(task: Any, name: str) -> str | None:
    spec = getattr(task, "spec", None)
    if not isinstance(spec, TaskSpec):
        return f"its attribute `spec` must be a TaskSpec, not {type(spec).__name__}"
    if spec.name != name:
        return f"it is offered as {name!r}, and its spec is named {spec.name!r}"
    return None if spec.description else "its spec has no description"


def _options(task: Any) -> str | None:
    options = getattr(task, "options", None)
    if not (inspect.isclass(options) and issubclass(options, BaseModel)):
        return "its attribute `options` must be a pydantic model, a class"
    try:
        options()
    except ValidationError as error:
        return f"every option needs a default that is valid: {error.errors()[0]['msg']}"
    if options.model_config.get("extra") != "forbid":
        return 'a misspelt option would be ignored: set model_config = ConfigDict(extra="forbid")'
    return None


def _names(spec: TaskSpec, datasets: Collection[str], recipes: Collection[str]) -> str | None:
    if spec.dataset not in datasets:
        return f"no enabled plugin offers its data set {spec.dataset!r}"
    if spec.default_recipe and spec.default_recipe not in recipes:
        return f"no enabled plugin offers its default recipe {spec.default_recipe!r}"
    return None


def _takes(thing: Any, method: str, count: int) -> str | None:
    """Say why a method cannot be called with so many arguments."""
    function = getattr(thing, method, None)
    if not callable(function):
        return f"it has no method {method!r}"
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        return f"{method} must take {count} arguments: {error}"
    return None


def _card(dataset: Any, name: str) -> str | None:
    missing = [text for text in _TEXTS if not isinstance(getattr(dataset, text, None), str)]
    if missing:
        return f"it lacks the texts {', '.join(missing)}"
    if not isinstance(getattr(dataset, "members", None), Mapping) or not dataset.members:
        return "its `members` must map the name of each raw file to its place in the archive"
    if dataset.name != name:
        return f"it is offered as {name!r}, and is named {dataset.name!r}"
    return None if dataset.licence else "it says nothing of its licence"


def _origin(dataset: Any) -> str | None:
    generate = getattr(dataset, "generate", None)
    if generate is not None:
        return _takes(dataset, "generate", 1)
    if dataset.package and not _SHA256.match(dataset.sha256):
        return f"sha256 of {dataset.package} must be 64 hexadecimal digits"
    if dataset.package and not dataset.version:
        return f"it names the package {dataset.package} without its version"
    return None
