"""Plugins as an admin sees them: installed, registered, enabled, broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recstill.api.errors import PluginError
from recstill.plugins.manager import KINDS, LoadedPlugin, load_plugins
from recstill.recipes.platform import Platform
from recstill.registry.engine import open_registry
from recstill.registry.plugins import list_plugins, register_plugin, set_enabled

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
    with platform.registry.transaction() as session:
        rows = {row.distribution: row for row in list_plugins(session)}
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
    with platform.registry.transaction() as session:
        row = next((row for row in list_plugins(session) if row.distribution == name), None)
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
    from recstill.recipes.columns import reads_columns
    from recstill.testing import check_column_teacher, check_strategy, check_student, check_teacher

    load_plugins().get(name)
    alone = load_plugins(only={name})
    checks: list[Check] = []
    for kind, check in (("teachers", check_teacher), ("students", check_student), ("strategies", check_strategy)):
        for thing, factory in alone.catalog(kind).items():
            fitting = check_column_teacher if reads_columns(factory) else check
            checks += fitting(factory, name=f"{KINDS[kind]} {thing}")
    if not checks:
        raise PluginError(f"Plugin {name!r} offers no teacher, student or strategy; there is nothing to check.")
    return checks


def register_installed(settings: Settings, name: str) -> PluginRow:
    """Register an installed plugin. Raise PluginError if something it offers is taken by another enabled plugin."""
    Platform.open(settings)  # the first opening registers what is installed
    plugin = load_plugins().get(name)
    registry = open_registry(settings)
    with registry.transaction() as session:
        row = register_plugin(registry, session, plugin)
        session.flush()
        enabled = {other.distribution for other in list_plugins(session) if other.enabled}
        together = load_plugins(only=enabled)
        for kind in KINDS:
            together.catalog(kind)  # raises for a name that two distributions offer; the row is then rolled back
    return row


def switch(settings: Settings, name: str, enabled: bool) -> None:
    """Enable or disable a registered plugin."""
    platform = Platform.open(settings)
    with platform.registry.transaction() as session:
        set_enabled(platform.registry, session, name, enabled)


def _state(plugin: LoadedPlugin, row: PluginRow | None) -> str:
    if row is None:
        return "not registered"
    if not row.enabled:
        return "disabled"
    return "enabled" if row.digest == plugin.digest else "enabled, changed since it was registered"
