"""Load plugins from entry points, one by one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from recstill.api import hookspecs
from recstill.api.errors import PluginError
from recstill.plugins.catalog import Catalog
from recstill.plugins.validation import hook_names, hook_problems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

KINDS = {
    "datasets": "data set",
    "tasks": "task",
    "teachers": "teacher",
    "students": "student",
    "strategies": "strategy",
    "baselines": "baseline",
    "gates": "gate",
    "recipes": "recipe",
}


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin that takes part: its distribution, entry point and hooks."""

    name: str
    version: str
    entry_point: str
    hooks: tuple[str, ...]
    module: Any = field(repr=False, compare=False)

    @cached_property
    def digest(self) -> str:
        """The sha256 over the Python and YAML files of the plugin's package."""
        origin = Path(getattr(self.module, "__file__", "") or "")
        return digest_of(origin.parent if origin.name == "__init__.py" else origin)


def digest_of(code: Path) -> str:
    """Return the sha256 over the Python, YAML and JSON files of a package's folder, or of one module."""
    digest = hashlib.sha256()
    for path in sorted(code.rglob("*")) if code.is_dir() else [code]:
        if path.is_file() and path.suffix in {".py", ".yaml", ".yml", ".json"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, and why."""

    name: str
    entry_point: str
    problems: tuple[str, ...]


class Plugins:
    """The plugins of this process. Catalogs are filled on first use, since offering things may import torch."""

    def __init__(self, loaded: Iterable[LoadedPlugin], broken: Iterable[BrokenPlugin]) -> None:
        self.loaded, self.broken = list(loaded), list(broken)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for plugin in self.loaded:
            self._manager.register(plugin.module, name=plugin.name)
        self._manager.check_pending()
        self._catalogs: dict[str, Catalog[Any]] = {}

    @property
    def hook(self) -> pluggy.HookRelay:
        """Call listeners with `plugins.hook.after_epoch(...)`."""
        return self._manager.hook

    def catalog(self, kind: str) -> Catalog[Any]:
        """Return everything of one kind (`tasks`, `students` …). A hook that raises is a PluginError with its name."""
        if kind not in self._catalogs:
            catalog: Catalog[Any] = Catalog(KINDS[kind])
            for implementation in getattr(self._manager.hook, f"register_{kind}").get_hookimpls():
                for name, thing in self._offers(implementation, kind).items():
                    catalog.add(name, thing, implementation.plugin_name)
            self._catalogs[kind] = catalog
        return self._catalogs[kind]

    def _offers(self, implementation: Any, kind: str) -> dict[str, Any]:
        try:
            return dict(implementation.function())
        except Exception as error:
            raise PluginError(
                f"Plugin {implementation.plugin_name!r} failed in register_{kind}: {type(error).__name__}: {error}. "
                f"Mend it, or `recstill plugins disable {implementation.plugin_name}`."
            ) from error

    def get(self, name: str) -> LoadedPlugin:
        """Return a loaded plugin by its distribution's name."""
        from recstill.api.errors import UnknownNameError

        for broken in self.broken:
            if broken.name == name:
                raise PluginError(f"Plugin {name!r} is broken: {'; '.join(broken.problems)}.")
        for plugin in self.loaded:
            if plugin.name == name:
                return plugin
        raise UnknownNameError("plugin", name, [plugin.name for plugin in self.loaded])


def load_plugins(
    only: Collection[str] | None = None, found: Iterable[tuple[EntryPoint, Distribution]] | None = None
) -> Plugins:
    """Load the installed plugins; `only` limits it to these distributions, `found` replaces the search."""
    loaded: list[LoadedPlugin] = []
    broken: list[BrokenPlugin] = []
    for entry_point, distribution in found if found is not None else _installed():
        name, version = distribution.name, distribution.version
        if only is not None and name not in only:
            continue
        try:
            module = entry_point.load()
        except Exception as error:  # whatever a plugin raises on import is what this report is for
            broken.append(BrokenPlugin(name, entry_point.value, (f"{type(error).__name__}: {error}",)))
            continue
        if problems := hook_problems(module):
            broken.append(BrokenPlugin(name, entry_point.value, tuple(problems)))
        elif any(other.name == name or other.module is module for other in loaded):
            broken.append(BrokenPlugin(name, entry_point.value, ("a second entry point of one plugin; keep one",)))
        else:
            loaded.append(LoadedPlugin(name, version, entry_point.value, tuple(hook_names(module)), module))
    return Plugins(loaded, broken)


def _installed() -> Iterable[tuple[EntryPoint, Distribution]]:
    seen = set()
    for distribution in distributions():
        for entry_point in distribution.entry_points:
            if entry_point.group == hookspecs.PROJECT and (distribution.name, entry_point.value) not in seen:
                seen.add((distribution.name, entry_point.value))
                yield entry_point, distribution
