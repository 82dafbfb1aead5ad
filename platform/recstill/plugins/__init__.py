"""Find plugins, check their hooks, look things up by name."""

from recstill.plugins.catalog import Catalog
from recstill.plugins.manager import BrokenPlugin, LoadedPlugin, Plugins, load_plugins

__all__ = ["BrokenPlugin", "Catalog", "LoadedPlugin", "Plugins", "load_plugins"]
