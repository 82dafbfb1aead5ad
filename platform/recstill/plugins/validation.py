"""Check a plugin's hooks before pluggy sees them, so that one bad plugin is reported and the rest keep working."""

from __future__ import annotations

import difflib
import inspect
from types import ModuleType
from typing import Any

from recstill.api import hookspecs
from recstill.api.hookspecs import PROJECT

SPECS = {
    name: list(inspect.signature(function).parameters)
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(function, f"{PROJECT}_spec")
}


def hook_problems(plugin: Any) -> list[str]:
    """Return everything that is wrong with the hooks of a plugin, in words for its author."""
    if inspect.isclass(plugin):
        return [f"its entry point names the class {plugin.__name__!r}; name an instance or a module"]
    problems = []
    for name, function in _implementations(plugin).items():
        if name not in SPECS:
            close = difflib.get_close_matches(name, SPECS, n=1)
            problems.append(f"hook {name!r} does not exist" + (f"; did you mean {close[0]!r}?" if close else ""))
            continue
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not inspect.Parameter.empty:
                problems.append(f"hook {name!r} gives argument {parameter.name!r} a default: pluggy would never pass it")
            elif parameter.name not in SPECS[name]:
                problems.append(f"hook {name!r} has no argument {parameter.name!r}; it has {SPECS[name] or 'none'}")
    if not problems and not _implementations(plugin):
        problems.append("it has no function marked @hookimpl")
    return problems


def hook_names(plugin: Any) -> list[str]:
    """Return the hooks that a plugin implements."""
    return sorted(_implementations(plugin))


def _implementations(plugin: Any) -> dict[str, Any]:
    names = vars(plugin) if isinstance(plugin, ModuleType) else dir(plugin)
    found = {name: getattr(plugin, name, None) for name in names if not name.startswith("__")}
    return {name: thing for name, thing in found.items() if callable(thing) and hasattr(thing, f"{PROJECT}_impl")}
