"""Load plugins from entry points, one by one, and keep what each of them breaks to itself."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy

from recstill.api import hookspecs
from recstill.api.errors import PluginError, UnknownNameError
from recstill.api.names import NAME_RULE, is_name
from recstill.plugins.catalog import Catalog
from recstill.plugins.shield import LOG, shielded
from recstill.plugins.validation import hook_problems, implementations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

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


def normalised(name: str) -> str:
    """Return a distribution's name as package indexes compare it: `My_Plugin` and `my-plugin` are one (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin that takes part: its distribution, entry point and hooks."""

    name: str
    version: str
    entry_point: str
    implementations: Mapping[str, Callable[..., Any]] = field(repr=False, compare=False)

    @property
    def hooks(self) -> tuple[str, ...]:
        """The names of the hooks that it implements."""
        return tuple(sorted(self.implementations))

    @cached_property
    def code(self) -> Path:
        """Where its code lies: the folder of its outermost package, or the file of its module."""
        module = self.entry_point.split(":")[0].strip()
        for name in (module.partition(".")[0], module):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None:
                origin = Path(spec.origin)
                return origin.parent if origin.name == "__init__.py" else origin
        raise PluginError(f"Plugin {self.name!r} has no file that its code could be recognised by.")

    @cached_property
    def digest(self) -> str:
        """The sha256 over the Python, YAML and JSON files of the plugin's package."""
        return digest_of(_code_of(self.entry_point))


def _code_of(entry_point: str) -> Path:
    """Return the folder of the package, or the module, that an entry point names. Raise PluginError if it has no file."""
    name = entry_point.split(":")[0].strip()
    try:
        module = importlib.util.find_spec(name)
    except ValueError:  # it put something else into its own place in sys.modules
        parent = name.rpartition(".")[0]
        module = PathFinder.find_spec(name, sys.modules[parent].__path__ if parent else None)
    if module is None or module.origin is None:
        raise PluginError(f"{name!r} has no file that its code could be recognised by")
    origin = Path(module.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def digest_of(code: Path) -> str:
    """Return the sha256 over the Python, YAML and JSON files of a package's folder, or of one module."""
    digest = hashlib.sha256()
    for path in sorted(code.rglob("*")) if code.is_dir() else [code]:
        if path.is_file() and path.suffix in {".py", ".yaml", ".yml", ".json"}:
            name = str(path.relative_to(code)) if code.is_dir() else path.name
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, wholly or in one of its hooks, and why."""

    name: str
    entry_point: str
    problems: tuple[str, ...]


class Plugins:
    """The plugins of this process. Catalogs are filled on first use, since offering things may import torch.

    left_out: distributions that are installed and do not take part, with why and what to do.
    """

    def __init__(
        self, loaded: Iterable[LoadedPlugin], broken: Iterable[BrokenPlugin], left_out: Mapping[str, str] | None = None
    ) -> None:
        self.loaded, self.broken = list(loaded), list(broken)
        self.left_out = dict(left_out or {})
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for plugin in self.loaded:
            # Only the checked functions: pluggy would ask the plugin's own object for every attribute that it has.
            self._manager.register(SimpleNamespace(**plugin.implementations), name=plugin.name)
        self._manager.check_pending()
        self._catalogs: dict[str, Catalog[Any]] = {}

    def tell(self, event: str, **facts: Any) -> None:
        """Call the listeners of an event, such as `after_epoch`. One that fails is named in the log; the work goes on."""
        for plugin, answer in self._ask(event, facts):
            try:
                answer()
            except PluginError as error:
                LOG.warning("%s. The work goes on; to be rid of it: `recstill plugins disable %s`.", error, plugin)

    def feature_definitions(self) -> list[Any]:
        """Return the Feast objects that plugins offer."""
        offered: list[Any] = []
        for _, answer in self._ask("register_feature_definitions", {}, read=lambda answer: list(answer or ())):
            offered += answer()
        return offered

    def catalog(self, kind: str) -> Catalog[Any]:
        """Return everything of one kind (`tasks`, `students` …). A plugin whose hook fails offers nothing of that kind."""
        if kind not in self._catalogs:
            catalog: Catalog[Any] = Catalog(KINDS[kind], partial(self._who_else, kind))
            for plugin, answer in self._ask(f"register_{kind}", {}, read=_as_plain):
                try:
                    offers = _checked_offers(plugin, kind, answer())
                except PluginError as error:
                    self._break(plugin, str(error))
                    continue
                for name, thing in offers.items():
                    catalog.add(name, thing, plugin)
            self._catalogs[kind] = catalog
        return self._catalogs[kind]

    def get(self, name: str) -> LoadedPlugin:
        """Return a loaded plugin by its distribution's name, in any spelling."""
        wanted = normalised(name)
        for broken in self.broken:
            if broken.name == wanted:
                raise PluginError(f"Plugin {wanted!r} is broken: {'; '.join(broken.problems)}.")
        for plugin in self.loaded:
            if plugin.name == wanted:
                return plugin
        raise UnknownNameError("plugin", name, [plugin.name for plugin in self.loaded])

    def _ask(
        self, hook: str, facts: Mapping[str, Any], read: Callable[[Any], Any] = lambda answer: answer
    ) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield (plugin, a call of its hook), in the order in which pluggy would call them.

        read: makes something plain of the answer, whose methods are the plugin's code as much as the hook is.
        """
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            arguments = [facts[name] for name in implementation.argnames]
            plugin, ask = str(implementation.plugin_name), partial(implementation.function, *arguments)
            yield plugin, partial(shielded, plugin, hook, partial(_answer, ask, read))

    def _break(self, plugin: str, problem: str) -> None:
        entry_point = next(loaded.entry_point for loaded in self.loaded if loaded.name == plugin)
        self.broken.append(BrokenPlugin(plugin, entry_point, (problem,)))
        LOG.warning("%s. Mend it, or `recstill plugins disable %s`.", problem, plugin)

    def _who_else(self, kind: str, name: str) -> str:
        """Say of an unknown name which plugin offers it without taking part, or may have offered it and is broken."""
        for plugin, why in self.left_out.items():
            if name in load_plugins(only={plugin}).catalog(kind):
                return f"Plugin {plugin!r} offers it, but {why}."
        return " ".join(f"Plugin {plugin.name!r} is broken: `recstill plugins list`." for plugin in self.broken)


def load_plugins(
    only: Collection[str] | None = None, found: Iterable[tuple[EntryPoint, Distribution]] | None = None
) -> Plugins:
    """Load the installed plugins; `only` limits it to these distributions, `found` replaces the search."""
    wanted = None if only is None else {normalised(name) for name in only}
    loaded: list[LoadedPlugin] = []
    broken: list[BrokenPlugin] = []
    for entry_point, distribution in found if found is not None else installed():
        name = name_of(entry_point, distribution)
        if wanted is not None and name not in wanted:
            continue
        try:
            plugin = _load(name, distribution.version, entry_point)
        except PluginError as error:
            broken.append(BrokenPlugin(name, entry_point.value, (str(error),)))
            continue
        if any(other.name == name for other in loaded):
            broken.append(BrokenPlugin(name, entry_point.value, ("a second entry point of one plugin; keep one",)))
        else:
            loaded.append(plugin)
    return Plugins(loaded, broken)


def installed() -> Iterator[tuple[EntryPoint, Distribution]]:
    """Find the entry points of all installed plugins, without loading one."""
    seen = set()
    for distribution in distributions():
        for entry_point in _entry_points(distribution):
            if entry_point.group == hookspecs.PROJECT and (distribution.name, entry_point.value) not in seen:
                seen.add((distribution.name, entry_point.value))
                yield entry_point, distribution


def name_of(entry_point: EntryPoint, distribution: Distribution) -> str:
    """Return a plugin's name: its distribution's, or the entry point's where an installation that broke off has none."""
    return normalised(distribution.name or entry_point.name)


def _entry_points(distribution: Distribution) -> Iterable[EntryPoint]:
    try:
        return distribution.entry_points
    except (ValueError, OSError) as error:  # of any package that is installed, not only of plugins
        LOG.warning("The entry points of %s cannot be read: %s. Install it again.", distribution.name, error)
        return ()


def _load(name: str, version: str | None, entry_point: EntryPoint) -> LoadedPlugin:
    """Import one plugin and check its hooks. Raise PluginError with everything that is wrong with it."""
    if not version:
        raise PluginError(f"Plugin {name!r} is installed in part: its METADATA names no version. Install it again")
    plugin = shielded(name, "its import", entry_point.load)
    if problems := shielded(name, "the check of its hooks", lambda: hook_problems(plugin)):
        raise PluginError("; ".join(problems))
    shielded(name, "the search for its code", lambda: _code_of(entry_point.value))
    return LoadedPlugin(name, version, entry_point.value, implementations(plugin))


def _answer(ask: Callable[[], Any], read: Callable[[Any], Any]) -> Any:
    return read(ask())


def _as_plain(answer: Any) -> Any:
    return dict(answer) if isinstance(answer, Mapping) else answer


def _checked_offers(plugin: str, kind: str, offers: Any) -> Mapping[str, Any]:
    """Return what a plugin offers. Names are typed by people and end up in recipes, paths and tables: they have one rule."""
    if not isinstance(offers, Mapping):
        raise PluginError(
            f"Plugin {plugin!r} failed in register_{kind}: it returned {type(offers).__name__}, not a mapping of names"
        )
    if strange := [name for name in offers if not isinstance(name, str) or not is_name(name)]:
        raise PluginError(f"Plugin {plugin!r} failed in register_{kind}: {strange[0]!a} is no name: {NAME_RULE}")
    return offers
