"""One opened installation: settings, registry, artifacts, the plugins that take part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from recstill.api.errors import PluginError
from recstill.plugins.manager import Plugins, load_plugins
from recstill.registry.artifacts import Artifacts
from recstill.registry.engine import Registry, open_registry
from recstill.registry.plugins import enabled_plugins, list_plugins, register_plugin
from recstill.settings import Settings

if TYPE_CHECKING:
    from recstill.api.task import Dataset, Task
    from recstill.plugins.catalog import Catalog


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
        with registry.transaction() as session:
            if not list_plugins(session):
                for plugin in load_plugins().loaded:
                    register_plugin(registry, session, plugin)
            enabled = enabled_plugins(session)
        return cls(settings, registry, load_plugins(only=enabled))

    @cached_property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.settings)

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
