"""Which plugins take part: rows that an admin writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import Session, select

from recstill.api.errors import UnknownNameError
from recstill.registry.models import PluginRow, now

if TYPE_CHECKING:
    from recstill.plugins.manager import LoadedPlugin
    from recstill.registry.engine import Registry


def list_plugins(session: Session) -> list[PluginRow]:
    """Return every registered plugin."""
    return list(session.exec(select(PluginRow).order_by(PluginRow.distribution)))


def enabled_plugins(session: Session) -> set[str]:
    """Return the distributions that take part in training and serving."""
    return set(session.exec(select(PluginRow.distribution).where(PluginRow.enabled)))


def register_plugin(registry: Registry, session: Session, plugin: LoadedPlugin) -> PluginRow:
    """Write or refresh the row of an installed plugin, and enable it."""
    row = session.get(PluginRow, plugin.name) or PluginRow(
        distribution=plugin.name, version="", digest="", entry_point=plugin.entry_point
    )
    row.version, row.digest, row.entry_point = plugin.version, plugin.digest, plugin.entry_point
    row.hooks, row.enabled, row.registered_at = list(plugin.hooks), True, now()
    session.add(row)
    registry.audit(session, "plugin.register", plugin.name, version=plugin.version, digest=plugin.digest)
    return row


def set_enabled(registry: Registry, session: Session, name: str, enabled: bool) -> None:
    """Let a registered plugin take part, or not."""
    row = session.get(PluginRow, name)
    if row is None:
        known = [plugin.distribution for plugin in list_plugins(session)]
        raise UnknownNameError("registered plugin", name, known, f"Register it: `recstill plugins register {name}`.")
    row.enabled = enabled
    session.add(row)
    registry.audit(session, "plugin.enable" if enabled else "plugin.disable", name)
