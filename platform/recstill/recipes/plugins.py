"""Plugins as an admin sees them: installed, registered, enabled, broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recstill.api.errors import PluginError
from recstill.plugins.manager import KINDS, LoadedPlugin, Plugins, load_plugins, normalised
from recstill.recipes.platform import Platform
from recstill.registry.engine import open_registry
from recstill.registry.plugins import find_plugin, list_plugins, register_plugin, set_enabled

if TYPE_CHECKING:
    from recstill.registry.models import PluginRow
    from recstill.settings import Settings
    from recstill.testing.results import Check


@dataclass(frozen=True)
class PluginState:
    """One line of `recstill plugins list`."""

    name: str
    version: str
    state: str
    hooks: str


def list_all(settings: Settings) -> list[PluginState]:
    """Return installed and registered plugins; broken ones with their problems."""
    platform = Platform.open(settings)
    with platform.registry.read() as session:
        rows = {normalised(row.distribution): row for row in list_plugins(session)}
    installed = load_plugins()
    states = [
        PluginState(plugin.name, plugin.version, _state(plugin, rows.pop(plugin.name, None)), ", ".join(plugin.hooks))
        for plugin in installed.loaded
    ]
    for broken in installed.broken:
        rows.pop(broken.name, None)
        states.append(PluginState(broken.name, "", "broken: " + "; ".join(broken.problems), broken.entry_point))
    for row in rows.values():
        states.append(PluginState(row.distribution, row.version, "registered, not installed", ", ".join(row.hooks)))
    return sorted(states, key=lambda state: state.name)


def describe(settings: Settings, name: str) -> dict[str, Any]:
    """Return what one installed plugin offers."""
    plugin = load_plugins().get(name)
    alone = load_plugins(only={name})
    platform = Platform.open(settings)
    with platform.registry.read() as session:
        row = find_plugin(session, name)
    offers = {kind: ", ".join(alone.catalog(kind)) for kind in KINDS if len(alone.catalog(kind))}
    return {
        "name": plugin.name,
        "version": plugin.version,
        "entry point": plugin.entry_point,
        "state": _state(plugin, row),
        "digest": plugin.digest,
        "hooks": list(plugin.hooks),
        **offers,
    }


def check_plugin(name: str) -> list[Check]:
    """Run the conformance kit on everything that an installed plugin offers."""
    return _checks(load_plugins(), name, quick=False)


def register_installed(settings: Settings, name: str, *, force: bool = False) -> PluginRow:
    """Register an installed plugin.

    Raise PluginError if the quick part of the conformance kit fails (unless `force`), or if something that it offers is
    taken by another enabled plugin.
    """
    Platform.open(settings)  # the first opening registers what is installed
    everything = load_plugins()
    plugin = everything.get(name)
    if not force:
        _refuse_failures(plugin.name, _checks(everything, name, quick=True))
    registry = open_registry(settings)
    with registry.transaction() as session:
        row = register_plugin(registry, session, plugin)
        session.flush()
        together = load_plugins(only={other.distribution for other in list_plugins(session) if other.enabled})
        for kind in KINDS:
            catalog = together.catalog(kind)
            for taken, owners in catalog.clashes.items():
                if plugin.name in owners:  # the row is rolled back
                    raise PluginError(catalog.clash_words(taken))
    return row


def switch(settings: Settings, name: str, enabled: bool) -> None:
    """Enable or disable a registered plugin. No plugin is loaded: this is the way out when one cannot be."""
    registry = open_registry(settings)
    with registry.transaction() as session:
        is_first = not list_plugins(session)
    if is_first:  # nothing was registered yet, and the first opening registers what is installed
        Platform.open(settings)
    with registry.transaction() as session:
        set_enabled(registry, session, name, enabled)


def _checks(everything: Plugins, name: str, *, quick: bool) -> list[Check]:
    """Check what one plugin offers. everything: all installed plugins, whose names a task may refer to."""
    plugin = everything.get(name)
    alone = load_plugins(only={plugin.name})
    checks: list[Check] = []
    for kind in KINDS:
        for thing_name, thing in alone.catalog(kind).items():
            checks += _check_thing(everything, kind, thing_name, thing, quick)
    if alone.broken:  # a hook that fails shows when it is asked
        raise PluginError("; ".join(alone.broken[0].problems) + ".")
    return checks


def _check_thing(everything: Plugins, kind: str, name: str, thing: Any, quick: bool) -> list[Check]:
    from recstill import testing
    from recstill.testing.quick import check_quickly

    if kind == "tasks":
        known = {"datasets": everything.catalog("datasets"), "recipes": everything.catalog("recipes")}
        return testing.check_task(thing, name=name, **known)
    if kind == "datasets":
        return testing.check_dataset(thing, name=name)
    if kind == "gates":
        return testing.check_gate(thing, name=name)
    subject = f"{KINDS[kind]} {name}"
    if kind == "recipes":
        return [testing.Check(subject, "is a file", Path(thing).is_file(), _absence(Path(thing)))]
    if kind == "baselines":
        return [] if quick else testing.check_baseline(thing, name=name)
    if quick:
        return check_quickly(kind, thing, name=subject)
    return _check_model(kind, thing, subject)


def _absence(path: Path) -> str:
    return "" if path.is_file() else f"there is no {path}"


def _check_model(kind: str, factory: Any, subject: str) -> list[Check]:
    from recstill import testing
    from recstill.recipes.columns import reads_columns

    if reads_columns(factory):
        return testing.check_column_teacher(factory, name=subject)
    kits = {"teachers": testing.check_teacher, "students": testing.check_student, "strategies": testing.check_strategy}
    return kits[kind](factory, name=subject)


def _refuse_failures(name: str, checks: list[Check]) -> None:
    failed = [f"{check.subject}: {check.rule}: {check.found}" for check in checks if not check.passed]
    if failed:
        lines = "\n".join(f"  - {line}" for line in failed)
        raise PluginError(
            f"Plugin {name!r} breaks its contract:\n{lines}\n"
            f"Mend it (`recstill plugins check {name}` says more), or register it all the same with --force."
        )


def _state(plugin: LoadedPlugin, row: PluginRow | None) -> str:
    if row is None:
        return "not registered"
    if not row.enabled:
        return "disabled"
    return "enabled" if row.digest == plugin.digest else "enabled, changed since it was registered"
