"""What the gates say of a version: asked with the bounds of its task and recipe, and never ended by a gate that raises."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import PluginError, RecstillError, RegistryError, UnknownNameError
from recstill.api.gates import GateResult
from recstill.data.bundle import served_size
from recstill.plugins.manager import normalised
from recstill.plugins.shield import shielded
from recstill.recipes.checking import option_problems
from recstill.registry.audit import list_audit
from recstill.registry.plugins import list_plugins
from recstill.registry.versions import aliases_of, find_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.gates import Bounds, Candidate
    from recstill.api.task import TaskSpec
    from recstill.recipes.config import Recipe
    from recstill.recipes.platform import Platform
    from recstill.registry.models import LineageRow

_GATED_ALIASES = ("champion", "previous")


def bounds_of(task: TaskSpec, recipe: Recipe) -> Bounds:
    """Return the options that each gate is asked with: the task's, then the recipe's. They are kept with the version."""
    names = dict.fromkeys((*task.gates, *recipe.gates))
    return {name: {**task.gates.get(name, {}), **recipe.gates.get(name, {})} for name in names}


def check_bounds(platform: Platform, bounds: object, place: str) -> list[str]:
    """Return what is wrong with gates' options: an unknown gate or option, or a bound of another type."""
    problems: list[str] = []
    for name, options in bounds.items() if isinstance(bounds, dict) else ():
        try:
            gate = platform.catalog("gates")[name]
        except RecstillError as error:
            problems.append(f"{place}: {error}")
            continue
        problems += option_problems(gate, options, f"{place}.{name}", skip=1)
    return problems


def ask_gates(platform: Platform, candidate: Candidate, bounds: Bounds) -> dict[str, GateResult]:
    """Return what every gate says. One that raises, answers something else or is not there to be asked has failed. Each sees a
    candidate of its own, so that none can change what the next one judges."""
    catalog = platform.catalog("gates")
    found = {name: _ask(catalog.owner(name), name, catalog[name], candidate, bounds.get(name, {})) for name in catalog}
    found |= {name: GateResult(False, catalog.clash_words(name)) for name in catalog.clashes}
    for name in set(bounds) - set(found):
        found[name] = GateResult(False, "the version was made with bounds for this gate, which no enabled plugin offers")
    return found | _unloaded(platform)


def _ask(plugin: str, name: str, gate: Any, candidate: Candidate, options: Mapping[str, float]) -> GateResult:
    try:
        result = shielded(plugin, f"gate {name}", lambda: gate(copy.deepcopy(candidate), **options))
    except PluginError as error:
        return GateResult(False, str(error))
    if not isinstance(result, GateResult):
        return GateResult(False, f"plugin {plugin!r} answered {type(result).__name__}, not a GateResult")
    if not isinstance(result.passed, (bool, np.bool_)):  # a text such as "no" would count as true
        kind = type(result.passed).__name__
        return GateResult(False, f"plugin {plugin!r} answered `passed` of type {kind}, which is neither True nor False")
    return GateResult(bool(result.passed), result.reason if isinstance(result.reason, str) else "it gave no reason")


def _unloaded(platform: Platform) -> dict[str, GateResult]:
    """A plugin that has gates and cannot be loaded must not open them."""
    with platform.registry.read() as session:
        gated = {normalised(row.distribution) for row in list_plugins(session) if "register_gates" in row.hooks}
    loaded = {normalised(plugin.name) for plugin in platform.plugins.loaded}
    found = {}
    for broken in platform.plugins.broken:
        name, problems = normalised(broken.name), "; ".join(broken.problems)
        if name in gated and (name not in loaded or "register_gates" in problems):
            found[f"gates of {broken.name}"] = GateResult(False, f"they cannot be asked: {problems}")
    return found


def teacher_size(platform: Platform, teacher: LineageRow | None) -> int | None:
    """The bytes of a teacher that a server would load; what was recorded of it where its files are gone."""
    if teacher is None:
        return None
    with platform.registry.read() as session:
        artifact = find_version(session, teacher.value).artifact
    if not platform.artifacts.has(artifact):
        return int(teacher.details["bytes"])
    return served_size(platform.artifacts.get(artifact))


def was_promoted(platform: Platform, reference: str) -> bool:
    """Say whether a version went through its gates: it is or was a champion."""
    with platform.registry.read() as session:
        version = find_version(session, reference)
        aliases = aliases_of(session, version.model_name)
        if version.number in [aliases.get(alias) for alias in _GATED_ALIASES]:
            return True
        rows = list_audit(session, f"{version.model_name}@champion", limit=100_000)
    return any(row.action == "alias.set" and row.details.get("number") == version.number for row in rows)


def ungated(platform: Platform, references: Sequence[str]) -> list[str]:
    """Return a sentence for each version that is packaged or served without having passed its gates."""
    from recstill.recipes.release import judge

    said = []
    for reference in references:
        try:
            if was_promoted(platform, reference):
                continue
        except (RegistryError, UnknownNameError):  # of a bento that was made elsewhere
            said.append(f"{reference} is not in this registry, which cannot say whether it passed its gates.")
            continue
        version, results = judge(platform, reference)[:2]
        name = f"{version.model_name}:{version.number}"
        failed = [f"{gate}: {result.reason}" for gate, result in results.items() if not result.passed]
        if failed:
            said.append(f"{name} has not passed its gates: {'; '.join(failed)}.")
        else:
            said.append(f"{name} was never promoted; its gates would let it pass: `recstill models promote {name}`.")
    return said
