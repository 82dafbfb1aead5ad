"""Check a plugin's hooks before pluggy sees them, so that one bad plugin is reported and the rest keep working."""

from __future__ import annotations

import difflib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

from recstill.api import hookspecs
from recstill.api.hookspecs import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MARK = f"{PROJECT}_impl"

SPECS = {
    name: list(inspect.signature(function).parameters)
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(function, f"{PROJECT}_spec")
}


def implementations(plugin: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions that a plugin marked as hooks, by the name of the hook.

    Attributes are looked at without being asked for: a property of the plugin's object runs no code here.
    """
    attributes = vars(plugin) if isinstance(plugin, ModuleType) else _attributes(plugin)
    hooks = {}
    for name, attribute in attributes.items():
        mark = _mark_of(attribute)
        if mark is not None:
            hooks[str(mark.get("specname") or name)] = getattr(plugin, name)
    return hooks


def hook_problems(plugin: Any) -> list[str]:
    """Return everything that is wrong with the hooks of a plugin, in words for its author."""
    if inspect.isclass(plugin):
        return [f"its entry point names the class {plugin.__name__!r}; name an instance or a module"]
    hooks = implementations(plugin)
    if not hooks:
        return ["it has no function marked @hookimpl"]
    problems = []
    for name, function in hooks.items():
        problems += _unknown(name) if name not in SPECS else _misfits(name, function)
    return problems


def _attributes(plugin: object) -> dict[str, Any]:
    names = [name for name in dir(plugin) if not name.startswith("__")]
    return {name: inspect.getattr_static(plugin, name, None) for name in names}


def _mark_of(attribute: Any) -> Mapping[str, Any] | None:
    """Return pluggy's mark of a hook. Objects that answer every attribute, such as mocks, have no mark that is a dict."""
    if isinstance(attribute, (staticmethod, classmethod)):
        attribute = attribute.__func__
    if not inspect.isroutine(attribute):
        return None
    mark = getattr(attribute, _MARK, None)
    return mark if isinstance(mark, dict) else None


def _unknown(name: str) -> list[str]:
    close = difflib.get_close_matches(name, SPECS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return [f"hook {name!r} does not exist{hint}"]


def _misfits(name: str, function: Callable[..., Any]) -> list[str]:
    """Return why pluggy could not call this function as the hook, or would call it with less than it asks for."""
    mark = getattr(function, _MARK)
    if mark.get("wrapper") or mark.get("hookwrapper"):
        return [f"hook {name!r} is a wrapper: recstill asks every plugin for itself, write a plain function"]
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return [f"hook {name!r} is async: write a plain function"]
    if inspect.isgeneratorfunction(function):
        return [f"hook {name!r} is a generator: return a value instead of yielding"]
    problems = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            problems.append(f"hook {name!r} gives argument {parameter.name!r} a default: pluggy would never pass it")
        elif parameter.name not in SPECS[name]:
            problems.append(f"hook {name!r} has no argument {parameter.name!r}; it has {SPECS[name] or 'none'}")
    return problems
