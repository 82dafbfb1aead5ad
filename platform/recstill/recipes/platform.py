"""One opened installation: settings, registry, artifacts, the plugins that take part."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recstill.api.errors import PluginError
from recstill.plugins.manager import Plugins, installed, load_plugins, name_of, normalised
from recstill.plugins.shield import LOG
from recstill.registry.address import shown
from recstill.registry.engine import Registry, open_registry
from recstill.registry.plugins import list_plugins, register_plugin
from recstill.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlmodel import Session

    from recstill.api.task import Dataset, Task
    from recstill.plugins.catalog import Catalog
    from recstill.registry.artifacts import Artifacts


@dataclass
class Platform:
    """Hand it to every use case; nothing is global."""

    settings: Settings
    registry: Registry
    plugins: Plugins

    @classmethod
    def open(cls, settings: Settings | None = None) -> Platform:
        """Open the registry and load the registered, enabled plugins. The first opening registers all that are installed."""
        settings = settings or Settings.from_environment()
        registry = open_registry(settings)
        if registry.is_new:
            print(f"made a new registry: {shown(registry.engine.url)}", file=sys.stderr)
        with registry.read() as session:
            states = _states(session)
        if not states:
            states = _register_installed(registry)
        plugins = load_plugins(only={name for name, enabled in states.items() if enabled})
        plugins.left_out = _left_out(states)
        for broken in plugins.broken:
            # Said at every command, since what the plugin offers is missing from all of them.
            LOG.warning("%s is left out: %s", broken.name, "; ".join(broken.problems))
        return cls(settings, registry, plugins)

    @property
    def artifacts(self) -> Artifacts:
        return self.registry.artifacts

    def catalog(self, kind: str) -> Catalog[Any]:
        """Return everything of one kind that the enabled plugins offer."""
        return self.plugins.catalog(kind)

    def task(self, name: str) -> Task:
        """Return a task by name."""
        task: Task = self.catalog("tasks")[name]
        return task

    def dataset_of(self, task: Task) -> Dataset:
        """Return the data set of a task."""
        name = task.spec.dataset
        if name not in self.catalog("datasets"):
            raise PluginError(f"Task {task.spec.name!r} needs data set {name!r}, which no enabled plugin offers.")
        dataset: Dataset = self.catalog("datasets")[name]
        return dataset

    def plugin_of(self, kind: str, name: str) -> tuple[str, str, str]:
        """Return distribution, version and content hash of the plugin that offers a thing; a model version pins them."""
        plugin = self.plugins.get(self.catalog(kind).owner(name))
        return plugin.name, plugin.version, plugin.digest


def _states(session: Session) -> dict[str, bool]:
    """Return whether each registered plugin is enabled."""
    return {normalised(plugin.distribution): plugin.enabled for plugin in list_plugins(session)}


def _register_installed(registry: Registry) -> dict[str, bool]:
    """Register every plugin that is installed, unless another process has done so meanwhile."""
    with registry.transaction() as session:
        if not list_plugins(session):
            for plugin in load_plugins().loaded:
                register_plugin(registry, session, plugin)
            session.flush()
        return _states(session)


def _left_out(states: Mapping[str, bool]) -> dict[str, str]:
    """Return the installed plugins that take no part, with why; no plugin is loaded for it."""
    words = {}
    for entry_point, distribution in installed():
        name = name_of(entry_point, distribution)
        if name not in states:
            words[name] = f"it is installed and not registered: `recstill plugins register {name}`"
        elif not states[name]:
            words[name] = f"it is disabled: `recstill plugins enable {name}`"
    return words
