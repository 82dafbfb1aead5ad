"""Which plugins take part: rows that an admin writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import Session, select

from recstill.api.errors import UnknownNameError
from recstill.plugins.manager import normalised
from recstill.registry.models import PluginRow, now

if TYPE_CHECKING:
    from recstill.plugins.manager import LoadedPlugin
    from recstill.registry.engine import Registry


def list_plugins(session: Session) -> list[PluginRow]:
    """Return every registered plugin."""
    return list(session.exec(select(PluginRow).order_by(PluginRow.distribution)))


def find_plugin(session: Session, name: str) -> PluginRow | None:
    """Return the row of a distribution, however its name is spelt: older rows keep the spelling of the package."""
    rows = [row for row in list_plugins(session) if normalised(row.distribution) == normalised(name)]
    return rows[0] if rows else None


def register_plugin(registry: Registry, session: Session, plugin: LoadedPlugin) -> PluginRow:
    """Write or refresh the row of an installed plugin, and enable it."""
    row = find_plugin(session, plugin.name)
    if row is None:
        row = PluginRow(distribution=plugin.name, version="", digest="", entry_point=plugin.entry_point)
    row.version, row.digest, row.entry_point = plugin.version, plugin.digest, plugin.entry_point
    row.hooks, row.enabled, row.registered_at = list(plugin.hooks), True, now()
    session.add(row)
    registry.audit(session, "plugin.register", plugin.name, version=plugin.version, digest=plugin.digest)
    return row


def set_enabled(registry: Registry, session: Session, name: str, enabled: bool) -> None:
    """Let a registered plugin take part, or not."""
    rows = [row for row in list_plugins(session) if normalised(row.distribution) == normalised(name)]
    if not rows:
        known = [plugin.distribution for plugin in list_plugins(session)]
        raise UnknownNameError("registered plugin", name, known, f"Register it: `recstill plugins register {name}`.")
    for row in rows:  # older registries may hold a plugin in two spellings
        row.enabled = enabled
        session.add(row)
    registry.audit(session, "plugin.enable" if enabled else "plugin.disable", name)
